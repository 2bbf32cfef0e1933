"""The engine on a real store: waits, signals, approvals, items, other runs, what is unknown, and what people do to a run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gateway.control import Control, Order
from gateway.errors import Conflict, NotFound, Unprocessable
from gateway.runs import Run
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.store.reading import Reader
from gateway.store.records import Records, Write
from gateway.store.registry import Registry
from gateway.store.waiting import Waiters
from tests.tools import KEYS, acceptor, begin, connected, ended, publish, settings_for, tell, until, working

HERE = "test_engine"


class Stage:
    """What the steps of one test share with it."""

    calls: ClassVar[list[Any]] = []
    gates: ClassVar[dict[str, asyncio.Event]] = {}
    at_once: ClassVar[int] = 0
    most: ClassVar[int] = 0


@pytest.fixture(autouse=True)
def stage() -> None:
    Stage.calls.clear()
    Stage.gates.clear()
    Stage.at_once = Stage.most = 0


def note(argument: Any) -> Any:
    Stage.calls.append(argument)
    return argument


def fail_once(argument: Any) -> Any:
    Stage.calls.append(argument)
    if Stage.calls.count(argument) == 1:
        message = "not yet"
        raise ValueError(message)
    return argument


async def pass_gate(name: str) -> str:
    """Come through when the gate is open; say when it was broken off."""
    Stage.calls.append(f"{name} begun")
    try:
        await Stage.gates.setdefault(name, asyncio.Event()).wait()
    except asyncio.CancelledError:
        Stage.calls.append(f"{name} stopped")
        raise
    return name


async def count(argument: Any) -> Any:
    Stage.at_once += 1
    Stage.most = max(Stage.most, Stage.at_once)
    await asyncio.sleep(0.01)
    Stage.at_once -= 1
    return argument


def python(step_id: str, function: str, *needs: str, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "needs": list(needs), "python": f"{HERE}:{function}", "with": step_id} | fields


def flow(*steps: dict[str, Any], name: str = "w", **fields: Any) -> dict[str, Any]:
    return {"name": name, "steps": list(steps)} | fields


class Room:
    """A store with published workflows, and the control that the API's doors have."""

    def __init__(self, redis: Redis, control: Control) -> None:
        self.redis = redis
        self.control = control
        self.steering = control.steering

    async def begin(self, name: str = "w", **fields: Any) -> int:
        return await begin(self.redis, name, **fields)

    async def run(self, run_id: int) -> Run:
        return await Reader(self.redis, KEYS).run(run_id)

    async def until_state(self, run_id: int, state: str) -> Run:
        async def look() -> Run | None:
            run = await self.run(run_id)
            return run if run.state == state else None

        found: Run = await until(look)
        return found

    async def ended(self, run_id: int) -> Run:
        return await ended(self.redis, run_id)

    async def lose(self, token: str, **marks: dict[str, Any]) -> None:
        """Claim as a worker that writes down what it begins, and is never heard of again."""
        runs = Records(self.redis, KEYS, "run")
        (claimed,) = await until(lambda: _claimed(runs, token))
        fields: dict[str, Any] = {f"step:{name}": json.dumps(mark) for name, mark in marks.items()}
        assert await runs.write(Write(id=claimed.id, fence=claimed.fence, fields=fields)) == "ok"


async def _claimed(runs: Records, token: str) -> Any:
    return (await runs.claim(token, 20, 1)).items


@asynccontextmanager
async def room(store: str, *flows: dict[str, Any]) -> AsyncIterator[Room]:
    async with connected(store) as redis:
        await publish(redis, json.dumps({"workflows": list(flows)}))
        catalog = Catalog(redis, KEYS)
        registry = Registry(redis, catalog, KEYS.named("changed"), ())
        await registry.load()
        runs, waiters = Records(redis, KEYS, "run"), Waiters(redis, KEYS, limit=100)
        yield Room(redis, Control(registry, acceptor(redis), Reader(redis, KEYS), runs, waiters, catalog))
        await waiters.close()


def play(store: str, folder: Path, story: Callable[[Room], Any], *flows: dict[str, Any], **settings: Any) -> None:
    """Tell a story in a room with a worker."""

    async def told() -> None:
        async with room(store, *flows) as made, working(settings_for(store, folder, **settings)):
            await story(made)

    tell(told())


# ---- waiting


def test_a_wait_holds_no_worker_and_ends_in_time(store: str, tmp_path: Path) -> None:
    """With one slot, a run that waits lets another one through, and ends when its time has come."""

    async def story(made: Room) -> None:
        first = await made.begin(input={"seconds": 1.0})
        await made.until_state(first, "waiting")
        second = await made.ended(await made.begin(input={"seconds": 0}))
        assert (await made.run(first)).state == "waiting"
        run = await made.ended(first)
        assert run.state == second.state == "completed"
        assert (run.ended_at or 0) - (run.started_at or 0) >= 1000

    play(store, tmp_path, story, flow({"id": "a", "wait": {"for": "${input.seconds}"}}), concurrency=1)


def test_a_signal_wakes_a_run_that_waits_with_its_body(store: str, tmp_path: Path) -> None:
    """A run parked for a signal goes on when it comes; the body and who sent it are the step's output."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await made.until_state(run_id, "waiting")
        await made.steering.signal(run_id, "go", {"n": 7}, "Ada")
        output = (await made.ended(run_id)).output
        assert (output["body"], output["by"], output["timed_out"]) == ({"n": 7}, "Ada", False)

    play(store, tmp_path, story, flow({"id": "a", "wait": {"signal": "go"}}))


def test_a_signal_reaches_a_run_whose_worker_is_busy(store: str, tmp_path: Path) -> None:
    """While another step of the same run still runs, the one that waited for the signal goes on."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await until(lambda: "slow begun" in Stage.calls)
        await made.steering.signal(run_id, "go", None, "Ada")
        await until(lambda: "after" in Stage.calls)
        Stage.gates["slow"].set()
        assert (await made.ended(run_id)).state == "completed"

    steps = [python("slow", "pass_gate"), {"id": "a", "wait": {"signal": "go"}}, python("after", "note", "a")]
    play(store, tmp_path, story, flow(*steps), lease=30)


def test_signals_before_the_wait_are_kept_in_order(store: str, tmp_path: Path) -> None:
    """Signals that came before the run even began are used by its waits, the first first."""

    async def story() -> None:
        steps = [{"id": "a", "wait": {"signal": "go"}}, {"id": "b", "needs": ["a"], "wait": {"signal": "go"}}]
        async with room(store, flow(*steps, output=["${steps.a.output.body}", "${steps.b.output.body}"])) as made:
            run_id = await made.begin()
            for number in (1, 2):
                await made.steering.signal(run_id, "go", number, "Ada")
            async with working(settings_for(store, tmp_path)):
                assert (await made.ended(run_id)).output == [1, 2]

    tell(story())


def test_an_approval_is_decided_once(store: str, tmp_path: Path) -> None:
    """The first word counts; a second, and a word to a run that has ended, is a conflict."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await made.until_state(run_id, "waiting")
        await made.steering.decide(run_id, "a", "approve", "fine", "Ada")
        with pytest.raises(Conflict):
            await made.steering.decide(run_id, "a", "reject", None, "Bob")
        run = await made.ended(run_id)
        assert (run.output["approved"], run.output["by"], run.output["comment"]) == (True, "Ada", "fine")
        with pytest.raises(Conflict):
            await made.steering.signal(run_id, "go", None, "Ada")
        with pytest.raises(NotFound):
            await made.steering.signal(99, "go", None, "Ada")

    play(store, tmp_path, story, flow({"id": "a", "approval": {"who": ["ops"]}}))


def test_waiting_survives_the_loss_of_every_key_of_the_queue(store: str, tmp_path: Path) -> None:
    """A run that waits, whose job and place in the queue are gone, gets them back and goes on when the signal comes."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await made.until_state(run_id, "waiting")
        await made.redis.delete(KEYS.queue("run"), f"arq:job:{KEYS.job('run', run_id)}")
        await made.steering.signal(run_id, "go", None, "Ada")
        assert (await made.ended(run_id)).state == "completed"

    play(store, tmp_path, story, flow({"id": "a", "wait": {"signal": "go"}}), lease=1)


# ---- items


def test_items_run_side_by_side_up_to_the_limit(store: str, tmp_path: Path) -> None:
    """Thirty items, four at a time: never more at once, each done once, the outputs in order."""

    async def story(made: Room) -> None:
        run = await made.ended(await made.begin(input=list(range(30))))
        assert run.output == list(range(30))
        assert Stage.most == 4

    each = python("a", "count", foreach="${input}", parallel=4) | {"with": "${item}"}
    play(store, tmp_path, story, flow(each))


def test_items_are_not_done_again_after_a_crash(store: str, tmp_path: Path) -> None:
    """What is recorded of the items stays; only what was not, is done by the next worker."""

    async def story() -> None:
        each = python("a", "note", foreach=["x", "y", "z"]) | {"with": "${item}"}
        async with room(store, flow(each)) as made:
            run_id = await made.begin()
            done = {"state": "completed", "attempt": 1, "output": "before"}
            marks = {"a": {"state": "running", "attempt": 1, "items": 3}, "a[1]": done}
            await made.lose("gone", **marks)
            async with working(settings_for(store, tmp_path)):
                assert (await made.ended(run_id)).output == ["x", "before", "z"]
            assert sorted(Stage.calls) == ["x", "z"]

    tell(story())


# ---- other runs


PARENT = flow({"id": "call", "workflow": {"name": "child", "input": {"n": "${input.n}"}}}, name="parent")
CHILD = flow({"id": "c", "transform": "${input.n + 1}"}, name="child", input={"type": "object", "required": ["n"]})


def test_a_step_starts_a_run_and_gets_its_output(store: str, tmp_path: Path) -> None:
    """The step waits for the other run, without a worker, and its output tells how that ended."""

    async def story(made: Room) -> None:
        run = await made.ended(await made.begin("parent", input={"n": 1}))
        assert (run.output["status"], run.output["output"]) == ("completed", 2)
        child = await made.run(run.output["run_id"])
        assert child.request.parent is not None
        assert (child.request.parent.run_id, child.request.depth) == (run.id, 1)

    play(store, tmp_path, story, PARENT, CHILD, concurrency=1)


@pytest.mark.parametrize(
    ("on_failure", "state"),
    [("fail", "failed"), ("continue", "completed")],
)
def test_a_failed_child_fails_the_step_or_is_told(store: str, tmp_path: Path, on_failure: str, state: str) -> None:
    """By default the step fails with the child's reason; `continue` gives it as an output."""

    async def story(made: Room) -> None:
        run = await made.ended(await made.begin("parent"))
        assert run.state == state
        text = json.dumps(run.output) if run.error is None else run.error.message
        assert "not yet" in text

    parent = flow({"id": "call", "workflow": {"name": "child", "on_failure": on_failure}}, name="parent")
    play(store, tmp_path, story, parent, flow(python("a", "fail_once"), name="child"))


@pytest.mark.parametrize(("name", "data"), [("absent", {"n": 1}), ("child", {"m": 1})])
def test_what_can_not_be_started_fails_the_step(store: str, tmp_path: Path, name: str, data: dict[str, int]) -> None:
    """An unknown workflow, and an input that its schema refuses, are failures with the reason, and start nothing."""

    async def story(made: Room) -> None:
        run = await made.ended(await made.begin("parent"))
        assert run.error is not None
        assert run.error.type == "ChildNotStarted"
        assert int(await made.redis.get(KEYS.named("runs:last"))) == 1

    play(store, tmp_path, story, flow({"id": "call", "workflow": {"name": name, "input": data}}, name="parent"), CHILD)


def test_a_start_that_was_not_recorded_is_the_same_run_again(store: str, tmp_path: Path) -> None:
    """A worker lost between starting a run and writing it down: the next one finds the same run, and no second one."""

    async def story() -> None:
        async with room(store, PARENT, CHILD) as made:
            run_id = await made.begin("parent", input={"n": 1})
            async with working(settings_for(store, tmp_path)):
                first = (await made.ended(run_id)).output["run_id"]
            # As it was when the child was stored and the parent's worker died on the very next line.
            await made.redis.hset(KEYS.run(run_id), "step:call", b'{"state": "running", "attempt": 1}')
            await made.redis.hset(KEYS.run(run_id), "state", "failed")
            await made.redis.hdel(KEYS.run(run_id), "ended_at", "output")
            await made.redis.hset(KEYS.run(run_id), mapping={"attempt": 0})
            await made.steering.retry(run_id)
            async with working(settings_for(store, tmp_path)):
                run = await made.ended(run_id)
            assert (run.output["run_id"], run.steps["call"].unknown) == (first, 1)
            assert int(await made.redis.get(KEYS.named("runs:last"))) == 2

    tell(story())


def test_runs_that_start_each_other_without_end_are_stopped(store: str, tmp_path: Path) -> None:
    """A workflow that starts itself fails at the limit, and says which."""

    async def story(made: Room) -> None:
        run = await made.ended(await made.begin("loop"))
        assert run.error is not None
        assert "GATEWAY_MAX_DEPTH" in run.error.message
        assert int(await made.redis.get(KEYS.named("runs:last"))) == 17

    play(store, tmp_path, story, flow({"id": "again", "workflow": {"name": "loop"}}, name="loop"))


def test_a_cancel_stops_the_step_and_the_children(store: str, tmp_path: Path) -> None:
    """Cancelling a run that waits for another ends that one as well, and the step that runs in it really stops."""

    async def story(made: Room) -> None:
        run_id = await made.begin("parent")
        await until(lambda: "slow begun" in Stage.calls)
        child = (await made.until_state(run_id, "waiting")).steps["call"].child
        assert child is not None
        await made.control.cancel(run_id, "enough")
        assert (await made.ended(child)).state == "cancelled"
        await until(lambda: "slow stopped" in Stage.calls)

    parent = flow({"id": "call", "workflow": {"name": "child"}}, name="parent")
    play(store, tmp_path, story, parent, flow(python("slow", "pass_gate"), name="child"), lease=30)


# ---- what is unknown


RUNNING = {"state": "running", "attempt": 1, "started_at": 1}


@pytest.mark.parametrize(("policy", "calls", "state"), [("retry", ["a"], "completed"), ("fail", [], "failed")])
def test_a_step_begun_by_a_lost_worker_does_what_its_policy_says(
    store: str, tmp_path: Path, policy: str, calls: list[str], state: str
) -> None:
    """`retry` does it again as the same attempt and says so; `fail` fails with the reason."""

    async def story() -> None:
        async with room(store, flow(python("a", "note", on_unknown=policy))) as made:
            run_id = await made.begin()
            await made.lose("gone", a=RUNNING)
            async with working(settings_for(store, tmp_path)):
                run = await made.ended(run_id)
            assert (run.state, Stage.calls) == (state, calls)
            assert (run.steps["a"].attempt, run.steps["a"].unknown) == (1, 1)

    tell(story())


def test_an_unknown_step_asks_and_waits_for_the_answer(store: str, tmp_path: Path) -> None:
    """`ask` parks the run; resuming another step or twice is refused; `retry` does the step again."""

    async def story() -> None:
        async with room(store, flow(python("a", "note", on_unknown="ask"))) as made:
            run_id = await made.begin()
            with pytest.raises(Conflict):
                await made.steering.resume(run_id, None, "retry", None, "Ada")
            await made.lose("gone", a=RUNNING)
            async with working(settings_for(store, tmp_path)):
                assert (await made.until_state(run_id, "waiting")).steps["a"].waits_for == "resume"
                assert Stage.calls == []
                with pytest.raises(Conflict):
                    await made.steering.resume(run_id, "b", "retry", None, "Ada")
                await made.steering.resume(run_id, "a", "retry", None, "Ada")
                assert (await made.ended(run_id)).state == "completed"
            assert Stage.calls == ["a"]

    tell(story())


def test_two_unknown_steps_are_resumed_by_name(store: str, tmp_path: Path) -> None:
    """Where several ask, the answer must name one."""

    async def story() -> None:
        steps = [python(name, "note", on_unknown="ask") for name in "ab"]
        async with room(store, flow(*steps)) as made:
            run_id = await made.begin()
            await made.lose("gone", a=RUNNING, b=RUNNING)
            async with working(settings_for(store, tmp_path)):
                await made.until_state(run_id, "waiting")
                with pytest.raises(Unprocessable):
                    await made.steering.resume(run_id, None, "skip", None, "Ada")
                await made.steering.resume(run_id, "a", "skip", None, "Ada")
                await made.steering.resume(run_id, "b", "complete", 5, "Ada")
                run = await made.ended(run_id)
            assert {name: str(step.state) for name, step in run.steps.items()} == {"a": "skipped", "b": "completed"}
            assert Stage.calls == []

    tell(story())


@pytest.mark.parametrize(("happened", "calls"), [("true", []), ("false", ["a"])])
def test_a_probe_is_run_to_find_out(store: str, tmp_path: Path, happened: str, calls: list[str]) -> None:
    """The named step says whether the unknown one has happened: then it is complete, else it is done (again)."""

    async def story() -> None:
        probe = {"id": "look", "transform": f"${{{happened}}}"}
        async with room(store, flow(python("a", "note", on_unknown={"verify": "look"}), probe)) as made:
            run_id = await made.begin()
            await made.lose("gone", a=RUNNING)
            async with working(settings_for(store, tmp_path)):
                assert (await made.ended(run_id)).state == "completed"
            assert Stage.calls == calls

    tell(story())


# ---- retry and rerun


def test_a_retry_does_the_failed_steps_again_in_the_same_run(store: str, tmp_path: Path) -> None:
    """What had completed is kept, the rest is done, as the run's second attempt; a completed run is not retried."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        assert (await made.ended(run_id)).state == "failed"
        await made.steering.retry(run_id)
        run = await made.ended(run_id)
        assert (run.state, run.attempt, run.error) == ("completed", 2, None)
        assert Stage.calls == ["good", "bad", "bad", "last"]
        with pytest.raises(Conflict):
            await made.steering.retry(run_id)

    steps = [python("good", "note"), python("bad", "fail_once", "good"), python("last", "note", "bad")]
    play(store, tmp_path, story, flow(*steps))


def test_a_cancelled_run_can_go_on(store: str, tmp_path: Path) -> None:
    """A retry of a cancelled run takes up the wait that it was in."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await made.until_state(run_id, "waiting")
        await made.control.cancel(run_id, "by mistake")
        await made.steering.retry(run_id)
        await made.steering.signal(run_id, "go", None, "Ada")
        assert (await made.ended(run_id)).state == "completed"

    play(store, tmp_path, story, flow({"id": "a", "wait": {"signal": "go"}}))


def test_a_rerun_takes_over_what_came_before_the_step(store: str, tmp_path: Path) -> None:
    """From `c` on: `a` and `b` keep their outputs and are not done; a rerun of the whole does all again."""

    async def story(made: Room) -> None:
        first = await made.ended(await made.begin(input={"n": 1}))
        Stage.calls.clear()
        part = await made.control.rerun(first, "c", None)
        run = await made.ended(part.run_id)
        assert (run.state, run.request.rerun_of, Stage.calls) == ("completed", first.id, ["c", "d"])
        assert run.output == first.output
        Stage.calls.clear()
        await made.ended((await made.control.rerun(first, None, None)).run_id)
        assert sorted(Stage.calls) == ["a", "b", "c", "d"]
        with pytest.raises(NotFound):
            await made.control.rerun(first, "z", None)

    steps = [python("a", "note"), python("b", "note"), python("c", "note", "a"), python("d", "note", "c", "b")]
    play(store, tmp_path, story, flow(*steps))


def test_a_retried_step_that_is_lost_again_asks_again(store: str, tmp_path: Path) -> None:
    """What was said of the first attempt's unknown step counts for that one only, and does not refuse the next word."""

    async def story() -> None:
        async with room(store, flow(python("a", "note", on_unknown="ask"))) as made:
            run_id = await made.begin()
            await made.lose("gone", a=RUNNING)
            async with working(settings_for(store, tmp_path)):
                await made.until_state(run_id, "waiting")
                await made.steering.resume(run_id, "a", "fail", None, "Ada")
                await made.ended(run_id)
            await made.steering.retry(run_id)
            await made.lose("gone too", a=RUNNING)
            async with working(settings_for(store, tmp_path)):
                assert (await made.until_state(run_id, "waiting")).steps["a"].waits_for == "resume"
                await made.steering.resume(run_id, "a", "complete", 5, "Ada")
                assert (await made.ended(run_id)).output == 5

    tell(story())


def test_a_retry_probes_anew(store: str, tmp_path: Path) -> None:
    """What a probe found out about an attempt that failed since says nothing about the next one."""

    async def story() -> None:
        probe = python("look", "note") | {"with": False}
        async with room(store, flow(python("a", "fail_once", on_unknown={"verify": "look"}), probe)) as made:
            run_id = await made.begin()
            await made.lose("gone", a=RUNNING)
            async with working(settings_for(store, tmp_path)):
                assert (await made.ended(run_id)).state == "failed"
            await made.steering.retry(run_id)
            await made.lose("gone too", a=RUNNING)
            async with working(settings_for(store, tmp_path)):
                assert (await made.ended(run_id)).state == "completed"
            assert Stage.calls == [False, "a", False, "a"]

    tell(story())


def test_a_wish_to_cancel_ends_a_run_that_works(store: str, tmp_path: Path) -> None:
    """Who may not wait for a person writes a wish and pokes: the worker ends the run as cancelled, with the reason."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await until(lambda: "slow begun" in Stage.calls)
        await made.redis.hset(KEYS.run(run_id), "cancel_wish", "superseded by run 9")
        await made.redis.publish(KEYS.named("poke"), f"run {run_id}")
        run = await made.ended(run_id)
        assert (run.state, run.error and run.error.message) == ("cancelled", "superseded by run 9")
        await until(lambda: "slow stopped" in Stage.calls)

    play(store, tmp_path, story, flow(python("slow", "pass_gate")), lease=30)


# ---- flow control of what runs start themselves


def test_a_newer_run_takes_the_place_of_one_that_works(store: str, tmp_path: Path) -> None:
    """`cancel_running`: the run at work ends as cancelled, its step stops, and the newer one begins after that."""

    async def story(made: Room) -> None:
        order = Order(workflow="w", input={"key": "k"})
        first = await made.control.start(order, None, b"1")
        await until(lambda: "slow begun" in Stage.calls)
        second = await made.control.start(order, None, b"2")
        run = await made.ended(first.run_id)
        assert (run.state, run.error and run.error.type) == ("cancelled", "Cancelled")
        await until(lambda: Stage.calls == ["slow begun", "slow stopped", "slow begun"])
        Stage.gates["slow"].set()
        assert (await made.ended(second.run_id)).state == "completed"

    gate = {"key": "input.key", "limit": 1, "on_conflict": "cancel_running"}
    play(store, tmp_path, story, flow(python("slow", "pass_gate"), concurrency=gate), lease=30)


def test_runs_that_steps_start_keep_to_the_limit(store: str, tmp_path: Path) -> None:
    """Ten items start ten runs of a workflow that allows two at once: never more, and all end."""

    async def story(made: Room) -> None:
        run = await made.ended(await made.begin("parent"))
        assert [each["status"] for each in run.output] == ["completed"] * 10
        assert Stage.most == 2

    each = {"id": "call", "foreach": list(range(10)), "workflow": {"name": "child", "input": {"n": "${item}"}}}
    child = flow(python("a", "count"), name="child", concurrency={"limit": 2})
    play(store, tmp_path, story, flow(each, name="parent"), child)


def test_a_rejected_approval_is_asked_again_by_a_retry(store: str, tmp_path: Path) -> None:
    """The word that rejected the first attempt is not taken for an answer to the second; a rerun asks anew as well."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await made.until_state(run_id, "waiting")
        await made.steering.decide(run_id, "a", "reject", None, "Ada")
        assert (await made.ended(run_id)).state == "failed"
        await made.steering.retry(run_id)
        await made.until_state(run_id, "waiting")
        await made.steering.decide(run_id, "a", "approve", None, "Ada")
        run = await made.ended(run_id)
        assert (run.state, run.output["approved"]) == ("completed", True)

    play(store, tmp_path, story, flow({"id": "a", "approval": {}}))


def test_a_rerun_hears_its_own_signals(store: str, tmp_path: Path) -> None:
    """What a rerun takes over was ended by another run's words: its own first word is not one of them."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        for _ in range(2):
            await made.steering.signal(run_id, "go", None, "Ada")
        first = await made.ended(run_id)
        again = (await made.control.rerun(first, "b", None)).run_id
        await made.until_state(again, "waiting")
        await made.steering.signal(again, "go", 7, "Ada")
        assert (await made.ended(again)).output["body"] == 7

    steps = [{"id": "a", "wait": {"signal": "go"}}, {"id": "b", "needs": ["a"], "wait": {"signal": "go"}}]
    play(store, tmp_path, story, flow(*steps))


def test_a_retry_starts_the_runs_anew_that_ended_with_it(store: str, tmp_path: Path) -> None:
    """A step that waited for a run when its own run failed starts another one when that is retried."""

    async def story(made: Room) -> None:
        run_id = await made.begin("parent")
        first = await until(lambda: _child_of(made, run_id))
        Stage.gates.setdefault("fails", asyncio.Event()).set()
        assert (await made.ended(run_id)).state == "failed"
        assert (await made.ended(first)).state == "cancelled"
        Stage.gates.setdefault("slow", asyncio.Event()).set()
        await made.steering.retry(run_id)
        assert (await made.ended(run_id)).state == "completed"

    call = {"id": "call", "workflow": {"name": "child"}}
    steps = [call, python("gate", "pass_gate") | {"with": "fails"}, python("once", "fail_once", "gate")]
    play(store, tmp_path, story, flow(*steps, name="parent"), flow(python("slow", "pass_gate"), name="child"))


async def _child_of(made: Room, run_id: int) -> int | None:
    step = (await made.run(run_id)).steps.get("call")
    return None if step is None else step.child
