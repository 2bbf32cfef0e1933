"""Steps that hold up a worker: the watchdog names the one that blocks the event loop, and threads that outlive a step."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from tests.tools import begin, connected, ended, publish, settings_for, tell, until, working
from workers.watchdog import Watchdog, watched

HERE = "test_watchdog"
BLOCKED = "the event loop is blocked"


class Stage:
    """What holds the threads of these tests."""

    hold: ClassVar[threading.Event] = threading.Event()


@pytest.fixture(autouse=True)
def stage() -> Iterator[None]:
    Stage.hold.clear()
    yield
    Stage.hold.set()


async def block_the_loop(seconds: float) -> str:
    time.sleep(seconds)  # noqa: ASYNC251
    return "done"


def stay_in_thread(_: Any) -> None:
    Stage.hold.wait(30)


def lines(logs: list[Any], event: str) -> list[Any]:
    return [line for line in logs if line["event"] == event]


def test_a_loop_that_stands_still_is_noticed_while_it_does() -> None:
    """The step, where it is, and for how long are told before it ends, and how long it took in all afterwards."""
    seen: list[str] = []

    async def story(logs: list[Any]) -> None:
        with Watchdog(lease=0.5, alarm=0.2), watched(7, "a"):
            await asyncio.sleep(0)
            deadline = time.monotonic() + 10
            while len(lines(logs, BLOCKED)) < 3 and time.monotonic() < deadline:
                time.sleep(0.01)  # noqa: ASYNC251
            seen.append("blocked")
            await until(lambda: lines(logs, "the event loop goes on"))

    with capture_logs() as logs:
        asyncio.run(story(logs))
    blocked = lines(logs, BLOCKED)
    assert {(line["run_id"], line["step"]) for line in blocked} == {(7, "a")}
    assert f"{HERE}.py" in blocked[0]["at"]
    assert [line["lease_lost"] for line in blocked[:3]] == [False, False, True]
    assert lines(logs, "the event loop goes on")[0]["seconds"] >= blocked[2]["seconds"]


def test_a_loop_that_runs_is_not_mentioned() -> None:
    """Steps that wait do not block, however long."""

    async def story() -> None:
        with Watchdog(lease=1, alarm=0.2), watched(7, "a"):
            await asyncio.sleep(0.7)

    with capture_logs() as logs:
        asyncio.run(story())
    assert logs == []


def test_a_task_that_a_step_began_is_traced_to_the_steps_that_run() -> None:
    """Where the blocking task is not a step's own, the steps that could have begun it are named."""

    async def story() -> None:
        with Watchdog(lease=5, alarm=0.2), watched(7, "a"):
            await asyncio.gather(block_the_loop(0.6))
            await asyncio.sleep(0.2)

    with capture_logs() as logs:
        asyncio.run(story())
    assert lines(logs, BLOCKED)[0]["running"] == ["7/a"]


def carry(store: str, folder: Path, step: dict[str, Any], **settings: Any) -> tuple[Any, list[Any]]:
    """Run a workflow of one step by a worker; the run as stored, and what was logged."""
    found: list[Any] = []

    async def story(logs: list[Any]) -> None:
        async with connected(store) as redis:
            await publish(redis, json.dumps({"workflows": [{"name": "w", "steps": [{"id": "slow"} | step]}]}))
            async with working(settings_for(store, folder, **settings)):
                found.append(await ended(redis, await begin(redis, "w")))
                Stage.hold.set()
                if "timeout" in step:
                    await until(lambda: lines(logs, "the thread of a step that was over has ended"))

    with capture_logs() as logs:
        tell(story(logs))
    return found[0], logs


def test_a_step_that_blocks_its_worker_is_named_and_its_run_ends_once(store: str, tmp_path: Path) -> None:
    """Blocked beyond the lease, the worker says which step, and the run still comes to one end."""
    run, logs = carry(store, tmp_path, {"python": f"{HERE}:block_the_loop", "with": 1.6}, lease=1)
    assert (str(run.state), run.output) == ("completed", "done")
    blocked = lines(logs, BLOCKED)
    assert blocked
    assert (blocked[0]["run_id"], blocked[0]["step"]) == (run.id, "slow")


def test_a_thread_that_outlives_its_step_is_named(store: str, tmp_path: Path) -> None:
    """A function in a thread can't be stopped at its timeout: the log says so, and when it has ended after all."""
    run, logs = carry(store, tmp_path, {"python": f"{HERE}:stay_in_thread", "timeout": 0.2}, lease=5)
    assert run.error.type == "Timeout"
    (line,) = [line for line in logs if "its thread can't be stopped" in line["event"]]
    assert (line["run_id"], line["step"]) == (run.id, "slow")
