"""Two things at once: what a person does to a run while a worker, the sweep, a child or another person does something else.

Every run ends, and no step is done again of which nobody said so.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from gateway.errors import Conflict, Unavailable
from gateway.runs import Run
from gateway.steering import Steering
from gateway.store.auditing import Audit
from gateway.store.reading import Reader
from gateway.store.records import MOST_SIGNALS, Records
from tests.integration.test_engine import Room, flow, play, room
from tests.tools import KEYS, settings_for, tell, until, working
from tests.tools_flow import sweeper
from workers.family import Family

HERE = "test_races"
RUNNING = {"state": "running", "attempt": 1, "started_at": 1}


class Stage:
    """What the steps of one test share with it."""

    calls: ClassVar[list[Any]] = []
    gate: ClassVar[asyncio.Event] = asyncio.Event()


@pytest.fixture(autouse=True)
def stage() -> None:
    Stage.calls.clear()
    Stage.gate = asyncio.Event()


def note(argument: Any) -> Any:
    Stage.calls.append(argument)
    return argument


def fail_twice(argument: Any) -> Any:
    Stage.calls.append(argument)
    if Stage.calls.count(argument) <= 2:
        message = "not yet"
        raise ValueError(message)
    return argument


async def pass_gate(argument: Any) -> Any:
    Stage.calls.append(argument)
    await Stage.gate.wait()
    return argument


def python(step_id: str, function: str, *needs: str, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "needs": list(needs), "python": f"{HERE}:{function}", "with": step_id} | fields


async def until_waits_for(made: Room, run_id: int, what: str) -> Run:
    """Until one of the run's steps waits for this."""

    async def look() -> Run | None:
        run = await made.run(run_id)
        waits = [each.waits_for for each in run.steps.values()]
        return run if run.state == "waiting" and what in waits else None

    found: Run = await until(look)
    return found


# ---- words that are old


def test_a_rerun_hears_its_own_words(store: str, tmp_path: Path) -> None:
    """Words that the repeated run had used up are no words of the repetition: its first approval counts."""

    async def story(made: Room) -> None:
        first = await made.begin()
        await made.steering.signal(first, "go", None, "Ada")
        await until_waits_for(made, first, "approval")
        await made.steering.decide(first, "allowed", "reject", None, "Ada")
        run = await made.ended(first)
        again = (await made.control.rerun(run, "allowed", None)).run_id
        await until_waits_for(made, again, "approval")
        await made.steering.decide(again, "allowed", "approve", None, "Ada")
        assert (await made.ended(again)).state == "completed"

    word = {"id": "word", "wait": {"signal": "go"}}
    play(store, tmp_path, story, flow(word, {"id": "allowed", "needs": ["word"], "approval": {}}))


def test_a_retry_asks_anew(store: str, tmp_path: Path) -> None:
    """A rejection ends one attempt of a run; the next attempt asks again and takes the other word."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await until_waits_for(made, run_id, "approval")
        await made.steering.decide(run_id, "allowed", "reject", None, "Ada")
        assert (await made.ended(run_id)).state == "failed"
        await made.steering.retry(run_id)
        await until_waits_for(made, run_id, "approval")
        await made.steering.decide(run_id, "allowed", "approve", None, "Bob")
        run = await made.ended(run_id)
        assert (run.state, run.output["by"]) == ("completed", "Bob")

    play(store, tmp_path, story, flow({"id": "allowed", "approval": {}}))


def test_a_word_about_an_unknown_step_counts_once(store: str, tmp_path: Path) -> None:
    """A step that was resumed with `retry`, and is unknown once more, asks once more: it is not done on the old word."""

    async def story() -> None:
        async with room(store, flow(python("a", "note", on_unknown="ask"))) as made:
            run_id = await made.begin()
            await made.lose("gone", a=RUNNING)
            async with working(settings_for(store, tmp_path)):
                await until_waits_for(made, run_id, "resume")
            await made.steering.resume(run_id, "a", "retry", None, "Ada")
            await made.lose("gone too", a=RUNNING | {"unknown": 1})
            async with working(settings_for(store, tmp_path)):
                run = await until_waits_for(made, run_id, "resume")
                assert (run.steps["a"].unknown, Stage.calls) == (2, [])
                await made.steering.resume(run_id, "a", "retry", None, "Ada")
                assert (await made.ended(run_id)).state == "completed"
            assert Stage.calls == ["a"]

    tell(story())


def test_a_failed_unknown_step_asks_anew_after_a_retry(store: str, tmp_path: Path) -> None:
    """`fail` said of an unknown step ends that attempt of the run; in the next one it may be unknown and resumed again."""

    async def story() -> None:
        async with room(store, flow(python("a", "note", on_unknown="ask"))) as made:
            run_id = await made.begin()
            for verdict in ("fail", "retry"):
                await made.lose("gone", a=RUNNING)
                async with working(settings_for(store, tmp_path)):
                    await until_waits_for(made, run_id, "resume")
                    await made.steering.resume(run_id, "a", verdict, None, "Ada")  # type: ignore[arg-type]
                    run = await made.ended(run_id)
                if verdict == "fail":
                    await made.steering.retry(run_id)
            assert (run.state, Stage.calls) == ("completed", ["a"])

    tell(story())


def test_a_flood_of_signals_keeps_no_decision_out(store: str, tmp_path: Path) -> None:
    """A run that was sent as many signals as it takes refuses more of them, and can still be approved."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await until_waits_for(made, run_id, "approval")
        await made.redis.hset(KEYS.run(run_id), "words", MOST_SIGNALS)
        with pytest.raises(Conflict, match="too many"):
            await made.steering.signal(run_id, "go", None, "Ada")
        await made.steering.decide(run_id, "allowed", "approve", None, "Ada")
        assert (await made.ended(run_id)).state == "completed"

    play(store, tmp_path, story, flow({"id": "allowed", "approval": {}}))


# ---- a retry that comes late, twice, or together with something else


def test_a_late_retry_forgets_no_result(store: str, tmp_path: Path) -> None:
    """A retry made from an old look at the run is refused: what was recorded since is not done again."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await made.ended(run_id)
        late = Steering(Late(made), Records(made.redis, KEYS, "run"), Audit(made.redis, KEYS))  # type: ignore[arg-type]
        held = asyncio.create_task(late.retry(run_id))
        await until(lambda: Late.looked.is_set())
        await made.steering.retry(run_id)
        await made.ended(run_id)
        await made.steering.retry(run_id)
        failed = await made.ended(run_id)
        assert (failed.state, failed.steps["a"].state) == ("failed", "completed")
        Late.go.set()
        with pytest.raises(Conflict):
            await held
        assert Stage.calls.count("a") == 3

    b = python("b", "fail_twice", "a")
    play(store, tmp_path, story, flow(python("a", "fail_twice"), b | {"when": "run.attempt > 0"}))


class Late(Reader):
    """Reads a run, and hands it on only when it is old."""

    looked: ClassVar[asyncio.Event]
    go: ClassVar[asyncio.Event]

    def __init__(self, made: Room) -> None:
        super().__init__(made.redis, KEYS)
        Late.looked, Late.go = asyncio.Event(), asyncio.Event()

    async def run(self, run_id: int) -> Run:
        found = await super().run(run_id)
        Late.looked.set()
        await Late.go.wait()
        return found


def test_a_cancel_and_a_retry_lose_nobody_s_hold(store: str, tmp_path: Path) -> None:
    """A run that is cancelled and retried at once, again and again, goes on in the same worker and loses none."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await until(lambda: Stage.calls)
        for _ in range(30):
            await made.control.cancel(run_id, "enough")
            await made.steering.retry(run_id)
            await made.until_state(run_id, "running")
        Stage.gate.set()
        run = await made.ended(run_id)
        assert (run.state, run.lost) == ("completed", 0)
        assert len(Stage.calls) <= 1 + run.steps["a"].unknown

    play(store, tmp_path, story, flow(python("a", "pass_gate")), lease=30)


# ---- parents and children

CHILD = flow({"id": "wait", "wait": {"signal": "go"}}, name="child")
PARENT = flow({"id": "call", "workflow": {"name": "child"}}, name="parent")


def test_a_child_that_was_not_written_down_ends_with_its_parent(store: str, tmp_path: Path) -> None:
    """A worker is lost after it started a child and before it said so; the parent is cancelled; the child ends as well."""

    async def story() -> None:
        async with room(store, PARENT, CHILD) as made:
            parent = await made.begin("parent")
            async with working(settings_for(store, tmp_path)):
                child = (await until_waits_for(made, parent, "run 2")).steps["call"].child
                assert child == 2
                await until_waits_for(made, child, "signal go")
                # As it is when the parent's worker died on the very next line.
                await made.redis.hset(KEYS.run(parent), "step:call", msgspec.json.encode(RUNNING))
                await made.control.cancel(parent, "enough")
                assert (await made.ended(child)).state == "cancelled"

    tell(story())


def test_a_retried_parent_starts_another_child(store: str, tmp_path: Path) -> None:
    """A run that was cancelled while it waited for another, and is retried, does not fail for that one's cancellation."""

    async def story(made: Room) -> None:
        parent = await made.begin("parent")
        await until_waits_for(made, parent, "run 2")
        await made.control.cancel(parent, "enough")
        assert (await made.ended(2)).state == "cancelled"
        await made.steering.retry(parent)
        await until_waits_for(made, parent, "run 3")
        await made.steering.signal(3, "go", None, "Ada")
        run = await made.ended(parent)
        assert (run.state, run.output["run_id"]) == ("completed", 3)

    play(store, tmp_path, story, PARENT, CHILD)


def test_a_parent_is_not_retried_while_an_unsure_child_goes_on(store: str, tmp_path: Path) -> None:
    """A retry would start a second child before the one nobody wrote down has ended: refused, and nothing is changed."""

    async def story() -> None:
        async with room(store, PARENT, CHILD) as made:
            parent = await made.begin("parent")
            async with working(settings_for(store, tmp_path)):
                await until_waits_for(made, parent, "run 2")
                await until_waits_for(made, 2, "signal go")
            await made.redis.hset(KEYS.run(parent), "step:call", msgspec.json.encode(RUNNING))
            await made.control.cancel(parent, "enough")
            before = await made.redis.hgetall(KEYS.run(parent))
            with pytest.raises(Conflict, match="run 2"):
                await made.steering.retry(parent)
            assert await made.redis.hgetall(KEYS.run(parent)) == before

    tell(story())


def test_a_start_in_doubt_is_one_start(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child is stored and the answer is lost: the step's next attempts find that one, and start no second one."""
    start = Family.start

    async def start_and_doubt(family: Family, *arguments: Any) -> int:
        run_id = await start(family, *arguments)
        Stage.calls.append(run_id)
        if len(Stage.calls) < 3:
            raise Unavailable
        return run_id

    monkeypatch.setattr(Family, "start", start_and_doubt)

    async def story(made: Room) -> None:
        parent = await made.begin("parent")
        run = await until_waits_for(made, parent, "run 2")
        assert (run.steps["call"].attempt, Stage.calls) == (3, [2, 2, 2])
        await made.control.cancel(2, "enough")
        run = await until_waits_for(made, parent, "run 3")
        assert (run.steps["call"].attempt, Stage.calls[3:]) == (4, [3])

    play(store, tmp_path, story, RETRYING, CHILD)


RETRYING = flow(
    {"id": "call", "workflow": {"name": "child"}, "retry": {"attempts": 5, "initial": "10ms"}}, name="parent"
)


# ---- two of one kind


def test_two_approvals_at_once_are_one(store: str, tmp_path: Path) -> None:
    """Of many who decide in the same moment one is heard, the others are told so, and the run follows that one."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await until_waits_for(made, run_id, "approval")
        words = [
            made.steering.decide(run_id, "allowed", "approve" if n % 2 else "reject", None, str(n)) for n in range(20)
        ]
        answers = await asyncio.gather(*words, return_exceptions=True)
        (heard,) = [str(n) for n, answer in enumerate(answers) if isinstance(answer, Run)]
        assert sum(isinstance(answer, Conflict) for answer in answers) == 19
        assert (await made.ended(run_id)).output["by"] == heard

    play(store, tmp_path, story, flow({"id": "allowed", "approval": {"on_reject": "continue"}}))


def test_a_step_is_resumed_once(store: str, tmp_path: Path) -> None:
    """Of many who say what became of an unknown step one is heard, and the step is done at most once."""

    async def story() -> None:
        async with room(store, flow(python("a", "note", on_unknown="ask"))) as made:
            run_id = await made.begin()
            await made.lose("gone", a=RUNNING)
            async with working(settings_for(store, tmp_path)):
                await until_waits_for(made, run_id, "resume")
                words = [made.steering.resume(run_id, "a", "retry", None, str(n)) for n in range(20)]
                answers = await asyncio.gather(*words, return_exceptions=True)
                assert sum(isinstance(answer, Run) for answer in answers) == 1
                assert (await made.ended(run_id)).state == "completed"
        assert Stage.calls == ["a"]

    tell(story())


# ---- a word, an end and a cancel in the very moment of parking


def test_words_that_race_the_park_are_heard(store: str, tmp_path: Path) -> None:
    """Whenever a signal comes, before, in, or after the moment in which the run parks, it ends the wait at once."""

    async def story(made: Room) -> None:
        for number in range(60):
            run_id = await made.begin(input={"n": number})
            await asyncio.sleep(number / 6000)
            await made.steering.signal(run_id, "go", number, "Ada")
            assert (await made.ended(run_id)).output["body"] == number

    steps = flow(python("a", "note"), {"id": "word", "needs": ["a"], "wait": {"signal": "go"}})
    play(store, tmp_path, story, steps)


def test_a_word_in_the_last_moment_is_heard(store: str, tmp_path: Path) -> None:
    """A signal that comes shortly before the timeout, while the worker holds the run for it, is no timeout."""

    async def story(made: Room) -> None:
        run_id = await made.begin()
        await until(lambda: Stage.calls)
        await made.steering.signal(run_id, "go", 7, "Ada")
        run = await made.ended(run_id)
        assert (run.state, run.output["timed_out"]) == ("completed", False)

    wait = {"id": "word", "wait": {"signal": "go", "timeout": "240ms", "on_timeout": "continue"}}
    play(store, tmp_path, story, flow(wait | {"needs": ["a"]}, python("a", "note"), output="${steps.word.output}"))


def test_children_that_end_while_their_parent_parks_are_seen(store: str, tmp_path: Path) -> None:
    """Many quick children, ended before, in, or after the moment in which the parent parks: it goes on after each."""

    async def story(made: Room) -> None:
        run_ids = [await made.begin("parent", input={"list": list(range(10))}) for _ in range(5)]
        runs = [await made.ended(run_id) for run_id in run_ids]
        assert {run.state for run in runs} == {"completed"}
        assert [[each["output"] for each in run.output] for run in runs] == [list(range(10))] * 5
        assert int(await made.redis.get(KEYS.named("runs:last"))) == 55

    call = {"name": "child", "input": {"n": "${item}"}}
    parent = flow({"id": "call", "foreach": "${input.list}", "workflow": call}, name="parent")
    play(store, tmp_path, story, parent, flow({"id": "n", "transform": "${input.n}"}, name="child"), lease=30)


def test_a_cancel_that_races_the_start_of_children_ends_them_all(store: str, tmp_path: Path) -> None:
    """A parent cancelled at any moment while its children are being started leaves none behind."""

    async def story(made: Room) -> None:
        for number in range(25):
            parent = await made.begin("parent", input={"list": list(range(8))})
            await asyncio.sleep(number / 1500)
            await made.control.cancel(parent, "enough")
        last = int(await made.redis.get(KEYS.named("runs:last")))

        async def all_over() -> bool:
            return all([(await made.run(run_id)).state == "cancelled" for run_id in range(1, last + 1)])

        await until(all_over)

    call = {"id": "call", "foreach": "${input.list}", "workflow": {"name": "child"}}
    play(store, tmp_path, story, flow(call, name="parent"), CHILD, lease=30)


def test_a_retry_that_races_the_sweep_and_a_claim_is_one_retry(store: str, tmp_path: Path) -> None:
    """Retries, cancels and sweeps at once: the run keeps one job and one place, ends, and each attempt fails once."""

    async def story(made: Room) -> None:
        sweep = sweeper(made.redis)
        run_id = await made.begin()
        await made.ended(run_id)
        for _ in range(10):
            tries = [made.steering.retry(run_id) for _ in range(4)]
            await asyncio.gather(*tries, sweep.sweep(), return_exceptions=True)
            run = await made.ended(run_id)
            places = {state: await made.redis.zscore(KEYS.state("run", state), run_id) for state in KNOWN}
            assert {state for state, place in places.items() if place is not None} == {str(run.state)}
        assert len(Stage.calls) == run.attempt
        assert not await made.redis.exists(KEYS.queue("run"))

    play(store, tmp_path, story, flow(python("a", "fail_always")))


KNOWN = ("pending", "running", "waiting", "completed", "failed", "cancelled")


def fail_always(argument: Any) -> Any:
    Stage.calls.append(argument)
    message = "never"
    raise ValueError(message)
