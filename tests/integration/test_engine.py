"""The engine on a real store: waits, signals, approvals, items, other runs, what is unknown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.control import Order
from gateway.errors import Conflict, NotFound, Unprocessable
from tests.tools import KEYS, settings_for, tell, until, working
from tests.tools_engine import RUNNING, Room, Stage, flow, play, python, room

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


@pytest.mark.parametrize("name", ["approval:a", "", "a/b", "line\nbreak", "x" * 101])
def test_a_signal_can_not_pose_as_a_decision(store: str, tmp_path: Path, name: str) -> None:
    """What is no signal's name is refused, so that only `approve` and `reject` decide, and only once."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await made.until_state(run_id, "waiting")
        with pytest.raises(Unprocessable, match="signal's name"):
            await made.steering.signal(run_id, name, {"decision": "approve"}, "Eve")
        assert (await made.run(run_id)).signals == ()

    play(store, tmp_path, story, flow({"id": "a", "approval": {}}))


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
