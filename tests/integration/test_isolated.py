"""`python` steps in a process of their own, and the allow-list of modules: whatever such a step does, only it fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.egress import read_policy
from gateway.web.client import Client
from gateway.workflows import prepare
from tests.tools import begin, connected, ended, publish, settings_for, tell, until, working
from workers import children
from workers.executors import python
from workers.executors.base import Context, Rules, StepFailed

STEPS = "isolated_steps"
RULES = Rules(path=os.environ["PATH"])


# ---- telling stories


def context(**changes: Any) -> Context:
    given: dict[str, Any] = {
        "run_id": 7,
        "step_id": "a",
        "attempt": 1,
        "key": "key-of-7-a",
        "seconds": 20.0,
        "cap": 1_000_000,
        "client": Client(read_policy("")),
        "rules": RULES,
    }
    return Context(**(given | changes))


async def perform(function: str, argument: Any = None, *, isolate: bool = True, **changes: Any) -> Any:
    fields = {"isolate": "process"} if isolate else {}
    step = {"id": "a", "python": function if ":" in function else f"{STEPS}:{function}"} | fields
    return await python.perform(prepare({"name": "w", "steps": [step]}).steps["a"], argument, context(**changes))


def call(function: str, argument: Any = None, **changes: Any) -> Any:
    return asyncio.run(perform(function, argument, **changes))


def refused(function: str, argument: Any = None, **changes: Any) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        call(function, argument, **changes)
    return caught.value


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file where a step writes its process's id; that process does not outlive the test."""
    file = tmp_path / "pid"
    yield file
    if file.exists() and is_alive(int(file.read_text())):
        os.kill(int(file.read_text()), signal.SIGKILL)


# ---- results


@pytest.mark.parametrize("function", ["double", "double_later"])
def test_an_argument_goes_in_and_a_result_comes_back(function: str) -> None:
    """Plain and async functions get the argument as JSON; what they print is not mixed into what they return."""
    assert call(function, [1, "ä\n\0"]) == [1, "ä\n\0", 1, "ä\n\0"]


def test_a_step_runs_in_another_process_with_the_workers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the worker's variables but not the gateway's own, knows which step it is, and has no stdin."""
    monkeypatch.setenv("GATEWAY_MASTER_KEYS", "not for steps")
    monkeypatch.setenv("MINE", "yes")
    told = call("tell_about")
    assert told.pop("pid") != os.getpid()
    ours = {"GATEWAY_RUN_ID": "7", "GATEWAY_STEP": "a", "GATEWAY_IDEMPOTENCY_KEY": "key-of-7-a"}
    assert told == {"stdin": "", "env": ours | {"MINE": "yes"}}


@pytest.mark.parametrize(
    ("function", "argument", "kind", "words", "again"),
    [
        ("raise_error", None, "LookupError", "it broke\nin two lines", True),
        ("leave", 0, "ProcessEnded", "ended with code 0 and gave no result; its last words: last words", True),
        ("leave", 3, "ProcessEnded", "ended with code 3", True),
        ("crash", None, "ProcessEnded", "ended by signal 11", True),
        ("give_set", None, "NotJson", "set is not JSON serializable", False),
        ("give_large", 50_000_000, "TooLarge", "1000000 bytes", False),
        ("no_such_function", None, "ImportError", "has no no_such_function", False),
        ("no_such_module_of_tests:run", None, "ImportError", "can't import no_such_module_of_tests", False),
    ],
)
def test_what_goes_wrong_in_the_child_is_told(function: str, argument: Any, kind: str, words: str, again: bool) -> None:
    """Exceptions come back by type and message; a process that just ends, crashes or floods fails only its step."""
    failure = refused(function, argument)
    assert (failure.kind, failure.again) == (kind, again)
    assert words in failure.message


def test_what_a_step_writes_to_stderr_may_be_any_amount() -> None:
    """Only its end is kept, and nothing waits for somebody to read it."""
    assert call("shout", 5_000_000) == "done"


def test_a_step_that_takes_all_memory_fails_alone() -> None:
    """Past GATEWAY_CHILD_MEMORY it gets a MemoryError, and the worker none."""
    rules = Rules(path=os.environ["PATH"], memory=200_000_000)
    assert refused("take_memory", 2_000_000_000, rules=rules).kind == "MemoryError"


@pytest.mark.parametrize("function", ["hold", "ignore_cancel"])
def test_a_step_that_ignores_its_end_is_killed(mark: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """A step that neither heeds SIGTERM nor a cancellation is gone when its cancellation returns."""
    monkeypatch.setattr(children, "GRACE", 0.2)

    async def story() -> None:
        task = asyncio.create_task(perform(function, str(mark)))
        pid = int(await until(lambda: mark.exists() and mark.read_text()))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not is_alive(pid)

    asyncio.run(story())


# ---- modules


@pytest.mark.parametrize("isolate", [False, True])
def test_only_allowed_modules_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolate: bool) -> None:
    """A module outside of the list is refused before any of its code runs; one within it is called."""
    monkeypatch.syspath_prepend(str(tmp_path))
    trace = tmp_path / "trace"
    (tmp_path / "forbidden_of_tests.py").write_text(f"open({str(trace)!r}, 'w')\ndef run(_): pass\n")
    failure = refused("forbidden_of_tests:run", isolate=isolate, rules=Rules(modules=("reviews", "forbidden")))
    assert (failure.kind, failure.again) == ("ImportError", False)
    assert "not among those that steps may use: reviews, forbidden (GATEWAY_PYTHON_MODULES)" in failure.message
    assert not trace.exists()
    assert call("double", 2, isolate=isolate, rules=Rules(modules=(STEPS,))) == 4


@pytest.mark.parametrize("isolate", [False, True])
def test_an_allowed_module_is_no_way_into_another(isolate: bool) -> None:
    """What an allowed module has imported can't be reached through it."""
    failure = refused(f"{STEPS}:os.getpid", isolate=isolate, rules=Rules(modules=(STEPS,)))
    assert "leads into the module 'os'" in failure.message


# ---- by a worker


def test_a_worker_ends_an_isolated_step_at_its_timeout(store: str, tmp_path: Path, mark: Path) -> None:
    """The run fails with the timeout, its neighbour goes on meanwhile, and no process is left."""
    step = {"id": "a", "python": f"{STEPS}:hold", "isolate": "process", "with": str(mark), "timeout": 1}
    other = {"id": "a", "python": f"{STEPS}:double", "isolate": "process", "with": "ab"}
    text = json.dumps({"workflows": [{"name": "w", "steps": [step]}, {"name": "other", "steps": [other]}]})

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, text)
            async with working(settings_for(store, tmp_path, lease=5)):
                run_id = await begin(redis, "w")
                assert (await ended(redis, await begin(redis, "other"))).output == "abab"
                run = await ended(redis, run_id)
        assert run.error is not None
        assert run.error.type == "Timeout"

    tell(story())
    assert not is_alive(int(mark.read_text()))
