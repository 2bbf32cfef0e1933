"""A Valkey of the operator's own, by TCP with a password: refused when it could lose events, used when it is sound."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import Listener, Machine, Valkey, is_alive, order, until

SOUND = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One server, changed by the tests with CONFIG SET."""
    with closing(Valkey(tmp_path_factory.mktemp("valkey"), *SOUND)) as made:
        yield made


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey, listener: Listener) -> Iterator[Machine]:
    """`gateway serve` with no worker of ours."""
    folder = tmp_path_factory.mktemp("receiver")
    with closing(Machine(folder, listener, redis_url=valkey.url)) as machine:
        assert machine.run("apply").returncode == 0
        machine.start("serve")
        until(lambda: _is_live(machine), "the receiver")
        yield machine


@pytest.mark.parametrize(
    ("option", "bad", "good", "words"),
    [
        ("appendonly", "no", "yes", "no append-only file"),
        ("appendfsync", "everysec", "always", "appendfsync is everysec"),
        ("maxmemory-policy", "allkeys-lru", "noeviction", "maxmemory-policy allkeys-lru"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_server_that_could_lose_events_is_refused(
    make_machine: MakeMachine, valkey: Valkey, command: str, option: str, bad: str, good: str, words: str
) -> None:
    """Each command exits with 1 and one line that says what is wrong with the server and what to do."""
    machine = make_machine(redis_url=valkey.url)
    valkey.set(option, bad)
    try:
        done = machine.run(command)
    finally:
        valkey.set(option, good)

    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("gateway")
    assert words in said[0]
    assert Valkey.PASSWORD not in done.stderr + done.stdout


@pytest.mark.parametrize("command", ["serve", "worker", "up"])
def test_a_server_that_is_not_there_is_refused(make_machine: MakeMachine, command: str) -> None:
    """Without a server behind GATEWAY_REDIS_URL each command exits with 1 and one line."""
    done = make_machine(redis_url="redis://:hush-hush@127.0.0.1:1/0").run(command)

    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1, done.stderr
    assert "can't reach the Valkey server" in said[0]
    assert "hush-hush" not in done.stderr


def test_less_durability_must_be_asked_for_and_is_shown(make_machine: MakeMachine, valkey: Valkey) -> None:
    """With GATEWAY_DURABILITY=everysec a server that fsyncs every second is accepted, and `/readyz` says so."""
    valkey.set("appendfsync", "everysec")
    try:
        machine = make_machine(redis_url=valkey.url, durability="everysec").start().wait_ready()
        document = machine.get("/readyz").json()
        assert machine.wait_run(machine.start_run(order("k", 16))).state == "completed"
        assert machine.stop() == 0
    finally:
        valkey.set("appendfsync", "always")
    assert document["durability"] == "everysec"
    assert document["checks"]["store"]["appendfsync"] == "everysec"


def test_a_server_that_turns_unsafe_is_noticed(make_machine: MakeMachine, valkey: Valkey) -> None:
    """`/readyz` turns 503 and names the setting when the server is changed under a running gateway."""
    machine = make_machine(redis_url=valkey.url).start().wait_ready()
    valkey.set("maxmemory-policy", "allkeys-lru")
    try:
        answer = machine.get("/readyz")
    finally:
        valkey.set("maxmemory-policy", "noeviction")
    assert answer.status == 503
    assert "maxmemory-policy" in answer.json()["checks"]["store"]["reason"]
    assert machine.get("/readyz").status == 200


def test_serve_and_worker_alone_make_a_gateway(make_machine: MakeMachine, valkey: Valkey, listener: Listener) -> None:
    """`gateway apply`, `gateway serve` with two receivers and `gateway worker`, each by itself, do the whole job."""
    machine = make_machine(redis_url=valkey.url, receivers=2)
    assert machine.run("apply").returncode == 0
    machine.start("serve")
    with subprocess.Popen([sys.executable, "-m", "workers"], env=machine.environ, stderr=subprocess.DEVNULL) as worker:
        machine.wait_ready()
        run = machine.wait_run(machine.start_run(order("alone")))
        until(lambda: listener.about("alone"), "the callback")
        worker.terminate()
        assert worker.wait(20) == 0
    receivers = machine.children()
    assert machine.stop() == 0
    assert run.state == "completed"
    assert sorted(receivers) == ["receiver-1", "receiver-2"]
    assert not any(map(is_alive, receivers.values()))


def test_the_stock_arq_command_works_on_our_queue(receiver: Machine, listener: Listener) -> None:
    """`arq workers.main.WorkerSettings` carries runs to their end, callbacks included, each step once."""
    runs = [receiver.start_run(order(f"arq-{number}")) for number in range(5)]

    with _stock_worker(receiver) as worker:
        ended = [receiver.wait_run(run_id) for run_id in runs]
        until(lambda: all(listener.about(f"arq-{number}") for number in range(5)), "the callbacks")
        worker.terminate()
        worker.wait(20)

    assert {run.state for run in ended} == {"completed"}
    for number in range(5):
        assert [effect["step"] for effect in receiver.effects(what="start", key=f"arq-{number}")] == ["a", "b", "c"]


def test_a_stopped_stock_worker_hands_its_run_over(receiver: Machine, tmp_path: Path) -> None:
    """SIGTERM of a stock arq worker in mid-run leaves the run to the next one, with nothing recorded done again."""
    gate = tmp_path / "gate"
    run_id = receiver.start_run(order("handed", gates={"b": [str(gate)]}))

    with _stock_worker(receiver) as first:
        until(lambda: receiver.effects(what="start", step="b", key="handed"), "step b to begin")
        first.terminate()
        gate.touch()
        first.wait(20)
    with _stock_worker(receiver) as second:
        run = receiver.wait_run(run_id)
        second.terminate()
        second.wait(20)

    assert run.state == "completed"
    assert [effect["step"] for effect in receiver.effects(what="start", key="handed")] == ["a", "b", "b", "c"]


@contextmanager
def _stock_worker(machine: Machine) -> Iterator[subprocess.Popen[bytes]]:
    arq = str(Path(sys.executable).with_name("arq"))
    argv = [arq, "workers.main.WorkerSettings"]
    with machine.log.open("ab") as log:
        worker = subprocess.Popen(argv, cwd=machine.folder, env=machine.environ, stdout=log, stderr=log)
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def _is_live(machine: Machine) -> bool:
    try:
        return machine.get("/livez").status == 200
    except OSError:
        return False
