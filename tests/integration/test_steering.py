"""What people do to a run that is there, on a real store: retry it, repeat it, and end it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.control import Order
from gateway.errors import Conflict, NotFound, Unprocessable
from tests.tools import KEYS, settings_for, tell, until, working
from tests.tools_engine import RUNNING, Room, Stage, flow, play, python, room


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
        with pytest.raises(Unprocessable):
            await made.control.rerun(first, "look", None)

    steps = [python("a", "note"), python("b", "note"), python("c", "note", "a"), python("d", "note", "c", "b")]
    steps[-1]["on_unknown"] = {"verify": "look"}
    steps.append(python("look", "note"))
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


def test_a_retried_run_waits_for_its_turn(store: str, tmp_path: Path) -> None:
    """While another run of its key is open, a retry does not begin: `concurrency` holds for it as for a new run."""

    async def story(made: Room) -> None:
        first = await started(made, fails=True)
        assert (await made.ended(first)).state == "failed"
        second = await started(made, fails=False)
        await until(lambda: "slow begun" in Stage.calls)
        await made.steering.retry(first)
        await until(lambda: held_by_gate(made, first))
        Stage.gates["slow"].set()
        assert (await made.ended(second)).state == "completed"
        assert (await made.ended(first)).state == "completed"

    async def started(made: Room, fails: bool) -> int:
        return (await made.control.start(Order(workflow="w", input={"fails": fails}), None, b"")).run_id

    async def held_by_gate(made: Room, run_id: int) -> bool:
        held = (await made.run(run_id)).held
        return held is not None and held.reason == "concurrency"

    failing = python("fails", "fail_once", when="input.fails")
    gated = flow(failing, python("slow", "pass_gate", when="!input.fails"), concurrency={"limit": 1})
    play(store, tmp_path, story, gated, lease=30)


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
