"""Runs carried through by a real worker: order, retries, failures of every kind, and what is recorded of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gateway.runs import Run
from gateway.steering import Steering
from gateway.store.auditing import Audit
from gateway.store.connection import Redis
from gateway.store.reading import Reader
from gateway.store.records import Records, Write
from tests.tools import KEYS, Peer, Reply, begin, connected, ended, publish, settings_for, tell, until, working
from workers import attempts

HERE = "test_execute"


class Stage:
    """What the steps of one test share with it."""

    calls: ClassVar[list[Any]] = []
    flags: ClassVar[dict[str, asyncio.Event]] = {}
    meeting: ClassVar[asyncio.Barrier | None] = None
    threads: ClassVar[threading.Barrier | None] = None
    hold: ClassVar[threading.Event] = threading.Event()


@pytest.fixture(autouse=True)
def stage() -> Iterator[None]:
    Stage.calls.clear()
    Stage.flags.clear()
    Stage.meeting, Stage.threads = asyncio.Barrier(2), threading.Barrier(2)
    Stage.hold.clear()
    yield
    Stage.hold.set()


# ---- steps


def note(argument: Any) -> Any:
    """Say that it was called, and give back what it got."""
    Stage.calls.append(argument)
    return argument


async def meet(argument: Any) -> Any:
    """Return only once two of these run at the same time."""
    assert Stage.meeting is not None
    await Stage.meeting.wait()
    return argument


def meet_in_threads(argument: Any) -> Any:
    """The same for threads."""
    assert Stage.threads is not None
    Stage.threads.wait(10)
    return argument


def flag(name: str) -> asyncio.Event:
    return Stage.flags.setdefault(name, asyncio.Event())


async def wait_for(name: str) -> str:
    await flag(name).wait()
    return name


async def fail_then_raise_flag(name: str) -> str:
    """Fail at first, and at the second call raise a flag."""
    Stage.calls.append(name)
    if Stage.calls.count(name) == 1:
        message = "not yet"
        raise ConnectionError(message)
    flag(name).set()
    return name


def fail(times: int) -> str:
    """Fail this many times, then succeed."""
    Stage.calls.append(times)
    if len(Stage.calls) <= times:
        message = f"failure {len(Stage.calls)}"
        raise ConnectionError(message)
    return "at last"


async def two_turns(_: Any) -> str:
    """End in the very turn of the loop after the one in which it is shown as running."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return "done"


async def sleep_for_ever(_: Any) -> None:
    await asyncio.Event().wait()


def block_for_long(_: Any) -> None:
    Stage.hold.wait(30)


class Mute(Exception):
    """An error that can't say what it is."""

    def __str__(self) -> str:
        raise ValueError


def _raiser(error: Callable[[], BaseException]) -> tuple[Callable[[Any], None], Callable[[Any], Any]]:
    def at_once(_: Any) -> None:
        raise error()

    async def later(_: Any) -> None:
        await asyncio.sleep(0)
        raise error()

    return at_once, later


raise_error, raise_error_later = _raiser(lambda: ValueError("it broke\nin two lines"))
raise_nothing, raise_nothing_later = _raiser(ValueError)
raise_exit, raise_exit_later = _raiser(lambda: SystemExit(3))
raise_interrupt, raise_interrupt_later = _raiser(KeyboardInterrupt)
raise_timeout, raise_timeout_later = _raiser(lambda: TimeoutError("of its own"))
raise_cancelled, raise_cancelled_later = _raiser(asyncio.CancelledError)
raise_stop, _ = _raiser(lambda: StopIteration("no more"))
raise_group, raise_group_later = _raiser(lambda: ExceptionGroup("several", [ValueError("one")]))
raise_surrogate, raise_surrogate_later = _raiser(lambda: ValueError("\ud800"))
raise_mute, raise_mute_later = _raiser(Mute)
raise_cancelled_future, _ = _raiser(concurrent.futures.CancelledError)
raise_long, _ = _raiser(lambda: ValueError("x" * 100_000))


def give(kind: str) -> Any:
    """Return what can't be recorded as it is."""
    ring: list[Any] = []
    ring.append(ring)
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    values: dict[str, Any] = {
        "set": {1, 2},
        "nan": float("nan"),
        "infinity": [float("inf")],
        "object": object(),
        "surrogate": "\ud800",
        "surrogate key": {"\udfff": 1},
        "bytes": b"raw",
        "tuple key": {(1, 2): 3},
        "ring": ring,
        "deep": deep,
        "class": Stage,
        "generator": (number for number in range(3)),
        "large": "x" * 2_000_000,
        "big number": 10**30,
        "tuple": (1, (2, 3)),
        "number keys": {1: "a", None: "b"},
        "nul": "a\0b",
    }
    return values[kind]


not_callable = {"a": 1}


# ---- telling stories


def flow(*steps: dict[str, Any], name: str = "w", **fields: Any) -> str:
    return json.dumps({"workflows": [{"name": name, "steps": list(steps)} | fields]})


def python(step_id: str, function: str, *needs: str, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "python": f"{HERE}:{function}", "needs": list(needs)} | fields


def http(step_id: str, url: str, retry: Any = None, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "http": {"url": url} | fields} | ({} if retry is None else {"retry": retry})


def carry(store: str, folder: Path, text: str, fields: dict[str, Any] | None = None, **settings: Any) -> Run:
    """Publish a workflow, run it to its end by a worker, and give the run as the store has it."""
    found: list[Run] = []

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, text)
            async with working(settings_for(store, folder, **({"lease": 5} | settings))):
                found.append(await ended(redis, await begin(redis, "w", **(fields or {}))))
                Stage.hold.set()

    tell(story())
    return found[0]


def states(run: Run) -> dict[str, str]:
    return {name: str(record.state) for name, record in run.steps.items()}


async def look(redis: Redis, run_id: int) -> Run:
    return await Reader(redis, KEYS).run(run_id)


# ---- order


def test_a_run_completes_with_its_output(store: str, tmp_path: Path) -> None:
    """Steps see the input and what came before; the run's output is what `output` makes of them."""
    text = flow(
        {"id": "a", "transform": {"name": "${input.name}", "run": "${run.id}"}},
        python("b", "note", "a", **{"with": "${steps.a.output.name}!"}),
        output={"said": "${steps.b.output}", "n": "${steps.a.output.run}"},
    )
    run = carry(store, tmp_path, text, {"input": {"name": "world"}})
    assert (str(run.state), run.output, run.error) == ("completed", {"said": "world!", "n": 1}, None)
    assert states(run) == {"a": "completed", "b": "completed"}
    assert run.started_at is not None
    assert run.ended_at is not None
    assert run.started_at <= run.ended_at


def test_a_run_without_steps_completes(store: str, tmp_path: Path) -> None:
    """A workflow that has nothing to do is done."""
    run = carry(store, tmp_path, flow())
    assert (str(run.state), run.output, run.steps) == ("completed", None, {})


@pytest.mark.parametrize("function", ["meet", "meet_in_threads"])
def test_steps_that_need_nothing_run_side_by_side(store: str, tmp_path: Path, function: str) -> None:
    """Two steps that each wait for the other come to their end, coroutines as well as threads."""
    run = carry(store, tmp_path, flow(python("a", function, timeout=10), python("b", function, timeout=10)))
    assert states(run) == {"a": "completed", "b": "completed"}


def test_a_diamond_runs_in_order(store: str, tmp_path: Path) -> None:
    """What needs others begins after all of them, once."""
    steps = [
        python(name, "note", *needs, **{"with": name})
        for name, needs in (("d", "bc"), ("b", "a"), ("c", "a"), ("a", ""))
    ]
    run = carry(store, tmp_path, flow(*steps))
    assert (Stage.calls[0], sorted(Stage.calls[1:3]), Stage.calls[3:]) == ("a", ["b", "c"], ["d"])
    assert run.output == "d"


def test_conditions_skip_steps_and_what_hangs_on_them(store: str, tmp_path: Path) -> None:
    """A false `when` skips its step and the chain behind it; a step with a `when` of its own is asked."""
    text = flow(
        python("a", "note", **{"with": 1}),
        python("b", "note", "a", when="steps.a.output > 1"),
        python("c", "note", "b"),
        python("d", "note", "b", when="steps.b.status == 'skipped'", **{"with": 2}),
    )
    run = carry(store, tmp_path, text)
    assert states(run) == {"a": "completed", "b": "skipped", "c": "skipped", "d": "completed"}
    assert Stage.calls == [1, 2]


# ---- retries


def test_a_long_backoff_parks_the_run(store: str, tmp_path: Path) -> None:
    """Between two attempts the run is waiting and holds no worker; then it goes on with the next attempt."""
    retry = {"attempts": 3, "initial": "400ms", "factor": 1, "jitter": 0}
    seen: list[str] = []

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, flow(python("a", "fail", retry=retry, **{"with": 2})))
            async with working(settings_for(store, tmp_path, lease=5)):
                run_id = await begin(redis, "w")
                for failures in (1, 2):
                    waiting = await until(lambda failures=failures: _parked(redis, run_id, failures))  # type: ignore[misc]
                    seen.append(waiting.steps["a"].error.message)
                run = await ended(redis, run_id)
            assert (run.steps["a"].attempt, run.output, run.lost) == (3, "at last", 0)

    tell(story())
    assert seen == ["failure 1", "failure 2"]


async def _parked(redis: Redis, run_id: int, attempt: int) -> Run | None:
    run = await look(redis, run_id)
    locked = await redis.exists("arq:in-progress:" + KEYS.job("run", run_id))
    return run if run.state == "waiting" and run.steps["a"].attempt == attempt and not locked else None


def test_a_short_backoff_keeps_its_place(store: str, tmp_path: Path) -> None:
    """Short waits are waited out; the last failure is the run's reason, with step and attempt."""
    retry = {"attempts": 3, "initial": "10ms"}
    run = carry(store, tmp_path, flow(python("a", "fail", retry=retry, **{"with": 9})))
    assert (str(run.state), len(Stage.calls)) == ("failed", 3)
    assert run.error is not None
    assert (run.error.type, run.error.message) == ("ConnectionError", "failure 3")
    assert (run.error.step, run.error.attempt) == ("a", 3)


def test_a_retry_does_not_wait_for_the_step_beside_it(store: str, tmp_path: Path) -> None:
    """A step that is due again begins then, though another one is still running."""
    retry = {"attempts": 2, "initial": "300ms"}
    text = flow(
        python("again", "fail_then_raise_flag", retry=retry, **{"with": "go"}),
        python("long", "wait_for", timeout=10, **{"with": "go"}),
    )
    assert states(carry(store, tmp_path, text)) == {"again": "completed", "long": "completed"}


def test_a_retry_does_not_wait_for_a_step_that_began_later(store: str, tmp_path: Path) -> None:
    """Nor does it wait for one that began alone while it was waiting."""
    retry = {"attempts": 2, "initial": "300ms"}
    text = flow(
        python("again", "fail_then_raise_flag", retry=retry, **{"with": "go"}),
        python("first", "note"),
        python("long", "wait_for", "first", timeout=10, **{"with": "go"}),
    )
    assert set(states(carry(store, tmp_path, text)).values()) == {"completed"}


# ---- failures


def test_a_failure_lets_the_others_end(store: str, tmp_path: Path) -> None:
    """After one step failed, the one beside it is let come to its end and recorded, and nothing else begins."""

    async def story() -> None:
        text = flow(python("a", "raise_error"), python("b", "wait_for", **{"with": "go"}), python("c", "note", "b"))
        async with connected(store) as redis:
            await publish(redis, text)
            async with working(settings_for(store, tmp_path, lease=5)):
                run_id = await begin(redis, "w")
                await until(lambda: _step_is(redis, run_id, "a", "failed"))
                flag("go").set()
                run = await ended(redis, run_id)
        assert (str(run.state), states(run)) == ("failed", {"a": "failed", "b": "completed"})

    tell(story())
    assert Stage.calls == []


async def _step_is(redis: Redis, run_id: int, step: str, state: str) -> bool:
    record = (await look(redis, run_id)).steps.get(step)
    return record is not None and record.state == state


@pytest.mark.parametrize("later", ["", "_later"])
@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        ("raise_error", "ValueError", "it broke\nin two lines"),
        ("raise_nothing", "ValueError", "no message"),
        ("raise_exit", "SystemExit", "3"),
        ("raise_interrupt", "KeyboardInterrupt", "no message"),
        ("raise_timeout", "TimeoutError", "of its own"),
        ("raise_cancelled", "CancelledError", "no message"),
        ("raise_group", "ExceptionGroup", "several (1 sub-exception)"),
        ("raise_surrogate", "ValueError", "\\ud800"),
        ("raise_mute", "Mute", "no message"),
    ],
)
def test_whatever_a_step_raises_is_a_failed_step(
    store: str, tmp_path: Path, function: str, kind: str, message: str, later: str
) -> None:
    """An exception, an exit, a cancellation of its own: each is a readable failure, alone and beside others, and the
    worker goes on working."""
    failures: list[Run] = []

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, flow(python("a", function + later)))
            async with working(settings_for(store, tmp_path, lease=5)):
                failures.append(await ended(redis, await begin(redis, "w")))
                await publish(redis, flow(python("a", function + later), python("b", "note")))
                failures.append(await ended(redis, await begin(redis, "w")))
                await publish(redis, flow(python("a", "note")))
                assert (await ended(redis, await begin(redis, "w"))).state == "completed"

    tell(story())
    for run in failures:
        assert (str(run.state), states(run)["a"]) == ("failed", "failed")
        assert run.error is not None
        assert (run.error.type, run.error.message, run.error.step) == (kind, message, "a")


@pytest.mark.parametrize(
    ("function", "kind"), [("raise_stop", "StopIteration"), ("raise_cancelled_future", "CancelledError")]
)
def test_what_a_future_can_not_carry_is_a_failed_step_too(store: str, tmp_path: Path, function: str, kind: str) -> None:
    """A thread's StopIteration, which asyncio would lose, fails the step at once and not at its timeout."""
    run = carry(store, tmp_path, flow(python("a", function, timeout=30)))
    assert run.error is not None
    assert run.error.type == kind


def test_an_endless_message_is_cut(store: str, tmp_path: Path) -> None:
    """Of an error's text so much is kept as a person reads."""
    run = carry(store, tmp_path, flow(python("a", "raise_long")))
    assert run.error is not None
    assert len(run.error.message) == attempts.LONGEST_MESSAGE


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("set", "set"),
        ("nan", "not JSON compliant"),
        ("infinity", "not JSON compliant"),
        ("object", "object"),
        ("surrogate", "surrogates not allowed"),
        ("surrogate key", "surrogates not allowed"),
        ("bytes", "bytes"),
        ("tuple key", "keys must be"),
        ("ring", "Circular"),
        ("deep", "nested too deeply"),
        ("class", "type"),
        ("generator", "generator"),
        ("large", "GATEWAY_MAX_OUTPUT"),
    ],
)
def test_a_result_that_is_no_json_is_a_failed_step(store: str, tmp_path: Path, kind: str, words: str) -> None:
    """What can't be recorded fails its step with words that say why; another attempt is not made."""
    text = flow(python("a", "give", retry={"attempts": 3, "initial": 0}, **{"with": kind}))
    run = carry(store, tmp_path, text)
    assert run.error is not None
    assert run.error.type in ("NotJson", "TooLarge")
    assert words in run.error.message
    assert run.error.attempt == 1


@pytest.mark.parametrize(
    ("kind", "output"),
    [("big number", 10**30), ("tuple", [1, [2, 3]]), ("number keys", {"1": "a", "null": "b"}), ("nul", "a\0b")],
)
def test_a_result_that_json_can_hold_is_recorded_as_json(store: str, tmp_path: Path, kind: str, output: Any) -> None:
    """Large numbers, tuples and numbers as keys come out as JSON has them."""
    assert carry(store, tmp_path, flow(python("a", "give", **{"with": kind}))).output == output


@pytest.mark.parametrize("function", ["sleep_for_ever", "block_for_long"])
def test_a_step_that_takes_too_long_is_a_failed_step(store: str, tmp_path: Path, function: str) -> None:
    """After its timeout a step has failed, and is tried again as its policy says."""
    retry = {"attempts": 2, "initial": 0}
    run = carry(store, tmp_path, flow(python("a", function, timeout="100ms", retry=retry)))
    assert run.error is not None
    assert (run.error.type, run.error.attempt) == ("Timeout", 2)
    assert "0.1 seconds" in run.error.message


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"id": "a", "transform": "${input.absent}"}, "absent"),
        ({"id": "a", "http": {"url": "https://x.example/${input.absent}"}}, "absent"),
        ({"id": "a", "when": "input.absent", "transform": 1}, "when: `input.absent`"),
    ],
)
def test_an_expression_that_fails_fails_the_run(store: str, tmp_path: Path, step: dict[str, Any], words: str) -> None:
    """An expression that reads what is not there is told with its source."""
    run = carry(store, tmp_path, flow(step), {"input": {}})
    assert run.error is not None
    assert (run.error.type, run.error.step) == ("ExpressionError", "a")
    assert words in run.error.message


def test_an_output_that_can_not_be_made_fails_the_run(store: str, tmp_path: Path) -> None:
    """The steps are recorded as completed, the run has failed, and the reason names the expression."""
    run = carry(store, tmp_path, flow({"id": "a", "transform": 1}, output="${steps.a.output.x}"))
    assert (str(run.state), states(run)) == ("failed", {"a": "completed"})
    assert run.error is not None
    assert "output: `steps.a.output.x`" in run.error.message


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("no_such_module_of_tests:run", "can't import no_such_module_of_tests"),
        (f"{HERE}:no_such_function", f"the module {HERE} has no no_such_function"),
        (f"{HERE}:not_callable", "is a dict"),
        (f"{HERE}:Stage.nothing", "has no Stage.nothing"),
        ("half:run", "no_such_module_behind_it"),
    ],
)
def test_a_function_that_is_not_there_fails_with_the_reason(
    store: str, tmp_path: Path, reference: str, words: str
) -> None:
    """A module or function that can't be had is told by name, and not tried again."""
    (tmp_path / "half.py").write_text("import no_such_module_behind_it\n")
    text = flow({"id": "a", "python": reference, "retry": {"attempts": 3, "initial": 0}})
    run = carry(store, tmp_path, text)
    assert run.error is not None
    assert (run.error.type, run.error.attempt) == ("ImportError", 1)
    assert words in run.error.message


def test_a_module_that_breaks_while_it_is_read_is_told_as_such(store: str, tmp_path: Path) -> None:
    """An AttributeError within the module is that, and not a missing function."""
    (tmp_path / "broken_module_of_tests.py").write_text("import os\nos.no_such_thing\ndef run(_): pass\n")
    run = carry(store, tmp_path, flow({"id": "a", "python": "broken_module_of_tests:run"}))
    assert run.error is not None
    assert run.error.type == "AttributeError"
    assert "no_such_thing" in run.error.message


def test_a_function_beside_the_file_is_found(store: str, tmp_path: Path) -> None:
    """What lies beside gateway.yaml can be imported."""
    (tmp_path / "beside_of_tests.py").write_text("async def run(argument):\n    return argument * 2\n")
    run = carry(store, tmp_path, flow({"id": "a", "python": "beside_of_tests:run", "with": 21}))
    assert run.output == 42


# ---- versions


def test_a_run_keeps_the_version_it_started_with(store: str, tmp_path: Path) -> None:
    """A workflow that is published anew, or removed, changes nothing for the runs that have started."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, flow({"id": "a", "transform": "one"}))
            old = await begin(redis, "w")
            await publish(redis, flow({"id": "a", "transform": "two"}))
            new = await begin(redis, "w")
            await publish(redis, "")
            async with working(settings_for(store, tmp_path, lease=5)):
                assert [(await ended(redis, run_id)).output for run_id in (old, new)] == ["one", "two"]

    tell(story())


def test_a_run_whose_definition_is_gone_fails_with_the_reason(store: str, tmp_path: Path) -> None:
    """A definition that the store lost, or that no longer compiles, fails its runs at once."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, flow({"id": "a", "transform": 1}))
            lost, broken = await begin(redis, "w"), await begin(redis, "w")
            digest = (await look(redis, lost)).request.digest
            async with working(settings_for(store, tmp_path, lease=5)):
                await ended(redis, lost)  # it was at hand when the worker began
            await publish(redis, flow({"id": "a", "transform": 2}))
            lost, broken = await begin(redis, "w"), await begin(redis, "w")
            digest = (await look(redis, lost)).request.digest
            await publish(redis, "")
            request = json.loads(await redis.hget(KEYS.run(broken), "request")) | {"digest": "broken"}
            await redis.hset(KEYS.run(broken), "request", json.dumps(request))
            await redis.set(KEYS.definition("broken"), '{"name": "w", "steps": [{"id": "a", "telex": "rm"}]}')
            await redis.delete(KEYS.definition(digest))
            async with working(settings_for(store, tmp_path, lease=5)):
                for run_id, words in ((lost, f"no definition {digest}"), (broken, "telex")):
                    run = await ended(redis, run_id)
                    assert run.error is not None
                    assert run.error.type == "BadWorkflow"
                    assert words in run.error.message

    tell(story())


# ---- workers that are lost


def test_a_recorded_step_is_not_done_again(store: str, tmp_path: Path) -> None:
    """A run whose worker was lost goes on after the last recorded step; what was only begun is begun again."""
    text = flow(*(python(name, "note", **{"with": name}) for name in ("done", "begun")), python("next", "note", "done"))

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, text)
            run_id = await begin(redis, "w")
            runs = Records(redis, KEYS, "run")
            (claimed,) = (await runs.claim("lost", 30, 1)).items
            marks: dict[str, bytes | str | int] = {
                "step:done": b'{"state": "completed", "attempt": 1, "output": "before"}',
                "step:begun": b'{"state": "running", "attempt": 1}',
            }
            await runs.write(Write(id=claimed.id, fence=claimed.fence, fields=marks))
            async with working(settings_for(store, tmp_path, lease=5)):
                run = await ended(redis, run_id)
            assert (run.steps["done"].output, set(states(run).values())) == ("before", {"completed"})

    tell(story())
    assert sorted(Stage.calls, key=str) == [None, "begun"]


def test_a_step_that_loses_worker_after_worker_is_set_aside(store: str, tmp_path: Path) -> None:
    """After so many workers were lost on it in a row, a run waits, says why, does no more harm; a person's word ends that."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, flow(python("a", "note"), python("b", "note", "a")))
            run_id = await begin(redis, "w")
            for number in range(3):
                await until(lambda number=number: _lose(redis, number), 40)  # type: ignore[misc]
            async with working(settings_for(store, tmp_path, lease=5, max_lost=3)):
                await until(lambda: _step_is(redis, run_id, "a", "unknown"), 40)
                step = (await look(redis, run_id)).steps["a"]
                assert (step.state, step.waits_for, step.unknown) == ("unknown", "resume", 1)
                assert step.error is not None
                assert "3 workers in a row" in step.error.message
                assert Stage.calls == []
                steering = Steering(Reader(redis, KEYS), Records(redis, KEYS, "run"), Audit(redis, KEYS))
                await steering.resume(run_id, None, "complete", "by hand", "Ada")
                run = await ended(redis, run_id)
            assert (str(run.state), run.steps["a"].output, run.lost) == ("completed", "by hand", 0)

    tell(story())


async def _lose(redis: Redis, number: int) -> bool:
    """Claim as a worker that shows what it has begun, and is never heard of again."""
    runs = Records(redis, KEYS, "run")
    items = (await runs.claim(f"lost-{number}", 20, 1)).items
    for claimed in items:
        mark = Write(id=claimed.id, fence=claimed.fence, fields={"step:a": b'{"state": "running"}'})
        assert await runs.write(mark) == "ok"
    return bool(items)


def test_a_recorded_step_forgives_the_workers_lost_before(store: str, tmp_path: Path) -> None:
    """Progress begins the count anew, and handing back on a stop adds nothing to it."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, flow(python("a", "note"), python("b", "wait_for", "a", **{"with": "go"})))
            run_id = await begin(redis, "w")
            await _lose(redis, 1)
            async with working(settings_for(store, tmp_path, lease=5, grace=0)):
                await until(lambda: _step_is(redis, run_id, "b", "running"))
                assert (await look(redis, run_id)).lost == 0
            flag("go").set()
            async with working(settings_for(store, tmp_path, lease=5)):
                assert (await ended(redis, run_id)).lost == 0

    tell(story())
    assert Stage.calls == [None]


# ---- what is shown


def test_a_step_that_takes_a_while_is_shown_as_running(store: str, tmp_path: Path) -> None:
    """Who looks sees which step runs, which attempt it is and since when."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, flow(python("a", "wait_for", **{"with": "go"})))
            async with working(settings_for(store, tmp_path, lease=5)):
                run_id = await begin(redis, "w")
                await until(lambda: _step_is(redis, run_id, "a", "running"))
                record = (await look(redis, run_id)).steps["a"]
                assert record.attempt == 1
                assert record.started_at is not None
                flag("go").set()
                assert states(await ended(redis, run_id)) == {"a": "completed"}

    tell(story())


# ---- stock arq


def test_a_stock_arq_worker_runs_our_queue(store: str, tmp_path: Path) -> None:
    """arq's own command, with `workers.main.WorkerSettings`, carries a run through, its retry and its callback too."""
    peer = Peer(Reply(204))
    (tmp_path / "sometimes_of_tests.py").write_text(
        "calls = []\n\ndef run(argument):\n    calls.append(1)\n    assert len(calls) > 1\n    return argument\n"
    )
    steps = [
        {"id": "a", "transform": "hello"},
        {
            "id": "b",
            "needs": ["a"],
            "python": "sometimes_of_tests:run",
            "with": "${steps.a.output}",
            "retry": {"attempts": 2, "initial": "400ms"},
        },
    ]
    callback = {"url": "", "secret": {"env": "A_CALLBACK_SECRET"}}

    async def story() -> None:
        async with connected(store) as redis, peer.listening():
            app = {"id": 1, "name": "a", "verify": "none", "callback": callback | {"url": peer.url}}
            await publish(redis, json.dumps({"apps": [app], "workflows": [{"name": "w", "steps": steps}]}))
            run_id = await begin(redis, "w")
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "arq",
                "workers.main.WorkerSettings",
                env=os.environ | _environment(store, tmp_path),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                run = await ended(redis, run_id)
                await until(lambda: peer.calls)
            finally:
                process.terminate()
                code = await process.wait()
            assert (str(run.state), run.output, run.steps["b"].attempt, code) == ("completed", "hello", 2, 0)
            assert await redis.exists(KEYS.queue("run"), "arq:in-progress:{0}run:1", "arq:job:{0}run:1") == 0

    tell(story())


def _environment(store: str, folder: Path) -> dict[str, str]:
    return {
        "GATEWAY_REDIS_URL": store,
        "GATEWAY_DATA_DIR": str(folder),
        "GATEWAY_CONFIG": str(folder / "gateway.yaml"),
        "GATEWAY_EGRESS_ALLOW": "127.0.0.0/8",
        "GATEWAY_GRACE": "1",
        "A_CALLBACK_SECRET": "whsec_aaaaaaaaaaaaaaaa",
    }
