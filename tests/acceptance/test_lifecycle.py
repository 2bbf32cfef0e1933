"""Starting, stopping and starting again: `gateway up` as its operator meets it, and the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import Listener, Machine, is_alive, order, until

PROGRAM = str(Path(sys.executable).with_name("gateway"))


def test_the_demo_shows_two_verified_callbacks(tmp_path: Path) -> None:
    """`gateway demo` exits with 0 within a minute, having shown two completed runs and two verified callbacks."""
    done = subprocess.run([PROGRAM, "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("signature verified") == 2
    assert "two verified callbacks" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_clean_and_a_restart_goes_on(
    up: MakeMachine, listener: Listener, tmp_path: Path, number: int
) -> None:
    """A signal ends all children with status 0; after a restart data is there and the open run completes."""
    machine = up(workers=2, grace=0)
    gate = tmp_path / "gate"
    ended = machine.start_run(order("ended"), key="ended")
    machine.wait_run(ended)
    open_run = machine.start_run(order("open", gates={"b": [str(gate)]}))
    until(lambda: machine.effects(what="start", step="b", key="open"), "step b to begin")
    children = machine.children()

    assert machine.stop(number) == 0
    assert sorted(children) == ["receiver-1", "valkey", "worker-1", "worker-2"]
    assert not [name for name, pid in children.items() if is_alive(pid)]

    gate.touch()
    machine.start().wait_ready()
    assert machine.wait_run(open_run).state == "completed"
    assert machine.start_run(order("ended"), key="ended") == ended
    assert machine.wait_run(ended).state == "completed"
    assert len(machine.effects(what="start", step="a", key="open")) == 1
    until(lambda: listener.about("ended") and listener.about("open"), "both callbacks")


def test_children_end_with_a_killed_supervisor_and_a_restart_goes_on(up: MakeMachine, tmp_path: Path) -> None:
    """kill -9 of `gateway up` leaves no process behind, and the next start takes the runs up again."""
    machine = up(grace=0)
    gate = tmp_path / "gate"
    run_id = machine.start_run(order("k", gates={"b": [str(gate)]}))
    until(lambda: machine.effects(what="start", step="b"), "step b to begin")
    children = machine.children().values()

    assert machine.stop(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not any(map(is_alive, children)), "the children to end")
    gate.touch()
    machine.start().wait_ready()

    assert machine.wait_run(run_id).state == "completed"
    assert len(machine.effects(what="start", step="a")) == 1


def test_killed_children_come_back(calm: Machine) -> None:
    """Each child that is killed is started again, and the gateway is ready as before."""
    for name in ("receiver-1", "worker-1", "valkey"):
        calm.wait_reborn(name, calm.signal(name))

    calm.wait_ready()
    assert calm.wait_run(calm.start_run(order("k"))).state == "completed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_lone_worker_stops_cleanly(calm: Machine, number: int) -> None:
    """`gateway worker` beside `gateway up` works, and ends with 0 on a signal."""
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "worker"], env=calm.environ, stderr=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stderr is not None
        assert "worker is ready" in worker.stderr.readline()
        os.kill(worker.pid, number)
        rest = worker.stderr.read()
        assert worker.wait(20) == 0
    assert "Traceback" not in rest
