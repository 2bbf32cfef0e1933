"""What a crash, a freeze, a stop and a bad step leave behind: nothing lost, nothing doubled."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import Listener, Machine, frozen, order, until


def wait_for_step(machine: Machine, key: str, step: str = "b") -> int:
    """Until this step of the order has begun; the pid of the worker that does it."""
    (begun,) = until(lambda: machine.effects(what="start", step=step, key=key), f"step {step} to begin")
    pid: int = begun["pid"]
    return pid


def steps_begun(machine: Machine, key: str) -> str:
    return "".join(effect["step"] for effect in machine.effects(what="start", key=key))


def test_a_killed_workers_run_goes_on_where_it_was(shared: MakeMachine, listener: Listener, tmp_path: Path) -> None:
    """After kill -9 in the second of three steps the run completes within a lease, and the first is not done again."""
    machine = shared(workers=2, lease=1)
    gate = tmp_path / "gate"
    run_id = machine.start_run(order("killed", gates={"b": [str(gate)]}))

    os.kill(wait_for_step(machine, "killed"), signal.SIGKILL)
    killed = time.monotonic()
    gate.touch()
    run = machine.wait_run(run_id)

    assert run.state == "completed"
    assert time.monotonic() - killed < 1 + 2
    assert steps_begun(machine, "killed") == "abbc"
    assert run.output["a"] == machine.effects(what="end", step="a", key="killed")[0]["token"]
    until(lambda: listener.about("killed"), "the callback")


def test_a_frozen_worker_commits_nothing_when_it_thaws(shared: MakeMachine, tmp_path: Path) -> None:
    """A worker stopped in a step until another has taken its run over finds its late result refused."""
    machine = shared(workers=2, lease=1)
    gate = tmp_path / "gate"
    run_id = machine.start_run(order("frozen", gates={"b": [str(gate)]}))
    pid = wait_for_step(machine, "frozen")

    with frozen(pid):
        until(lambda: steps_begun(machine, "frozen") == "abb", "another worker to take over")
        gate.touch()
        run = machine.wait_run(run_id)
    until(lambda: machine.effects(what="end", step="b", key="frozen", pid=pid), "the thawed step to end")

    second = machine.effects(what="end", step="b", key="frozen")[0]
    assert second["pid"] != pid
    assert run.output["b"] == second["token"]
    assert {effect["saw"]["b"] for effect in machine.effects(step="c", key="frozen")} == {second["token"]}
    assert machine.wait_run(run_id) == run
    assert steps_begun(machine, "frozen") == "abbc"


def test_a_step_that_blocks_its_worker_has_one_result(shared: MakeMachine) -> None:
    """A step that stops the event loop for more than two leases is committed once, by whoever holds the run then."""
    machine = shared(workers=2, lease=1)

    run = machine.wait_run(machine.start_run(order("blocked", 18, seconds=2.5)))

    assert run.state == "completed"
    tokens = [effect["token"] for effect in machine.effects(what="start", key="blocked")]
    assert run.output in tokens
    assert len(tokens) == 2


def test_a_worker_that_thaws_alone_takes_its_own_run_up_once(up: MakeMachine, tmp_path: Path) -> None:
    """The only worker, frozen longer than its lease, claims its own run again and then keeps that lease alive."""
    machine = up(workers=1, lease=1)
    gates = [tmp_path / "gate-1", tmp_path / "gate-2"]
    run_id = machine.start_run(order("alone", gates={"b": list(map(str, gates))}))

    with frozen(wait_for_step(machine, "alone")):
        until(lambda: not machine.is_leased(run_id), "the lease to be over")
    until(lambda: steps_begun(machine, "alone") == "abb", "the run to be taken up again")
    gates[0].touch()
    until(lambda: machine.effects(what="end", step="b"), "the first doing to end")
    ended = time.monotonic()
    until(lambda: time.monotonic() - ended > 2.5 or not machine.is_leased(run_id), "two leases to pass")
    gates[1].touch()

    assert machine.wait_run(run_id).state == "completed"
    assert steps_begun(machine, "alone") == "abbc"


def test_a_poison_run_is_set_aside_and_the_others_complete(up: MakeMachine) -> None:
    """A step that ended GATEWAY_MAX_LOST workers is not begun again; its run waits for a person; the others complete."""
    machine = up(workers=1, lease=1, max_lost=4)

    good = [machine.start_run(order(f"good-{number}", seconds=0.02)) for number in range(5)]
    poison = machine.start_run(order("poison", 17))
    good += [machine.start_run(order(f"good-{number}", seconds=0.02)) for number in range(5, 10)]

    machine.wait_set_aside(poison)
    assert len(machine.effects(key="poison")) == 4
    assert {machine.wait_run(run_id).state for run_id in good} == {"completed"}


def test_a_stopping_worker_hands_its_run_over(shared: MakeMachine, tmp_path: Path) -> None:
    """SIGTERM in mid-run gives the run to the next worker at once, as the same attempt, with no worker counted lost."""
    machine = shared(workers=2, lease=20, grace=0)
    gate = tmp_path / "gate"
    run_id = machine.start_run(order("stopped", gates={"b": [str(gate)]}))

    stopped = wait_for_step(machine, "stopped")
    os.kill(stopped, signal.SIGTERM)
    until(lambda: steps_begun(machine, "stopped") == "abb", "another worker to take over", 10)
    gate.touch()
    run = machine.wait_run(run_id, 10)

    assert run.state == "completed"
    assert {name: step.attempt for name, step in run.steps.items()} == {"a": 1, "b": 1, "c": 1}
    assert run.lost == 0
    until(lambda: stopped not in machine.children().values(), "the stopped worker to be replaced")


def test_rolling_restarts_under_load_make_nothing_wait(shared: MakeMachine) -> None:
    """Workers stopped one after the other under load leave no run to its lease, and use up no attempt of any step."""
    machine = shared(workers=2, lease=20, grace=0)
    over, runs = threading.Event(), list[int]()

    def client() -> None:
        while not over.is_set():
            runs.append(machine.start_run(order(f"rolling-{len(runs)}", seconds=0.02)))

    thread = threading.Thread(target=client)
    thread.start()
    try:
        for name in ("worker-1", "worker-2") * 3:
            machine.wait_worker_ready(name)
            machine.wait_reborn(name, machine.signal(name, signal.SIGTERM))
    finally:
        over.set()
        thread.join()

    ended = [machine.wait_run(run_id, 10) for run_id in runs]
    assert {run.state for run in ended} == {"completed"}
    assert {step.attempt for run in ended for step in run.steps.values()} == {1}
    assert {run.lost for run in ended} == {0}
    assert max((run.ended_at or 0) - run.created_at for run in ended) < 15_000
