"""Every state and every move, on the real store: what moves is in its place everywhere, and a refusal changes nothing.

States are reached by the moves that lead there, not written in, so that each has the job, lease and places it would have.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.callbacks import Outgoing
from gateway.errors import Conflict
from gateway.runs import CALLBACK_MOVES, MOVES, OPEN, CallbackState, Move, RunRequest, Signal, State
from gateway.store.connection import Redis
from gateway.store.records import Kind, Records, Write
from tests.integration.test_engine import Room, flow, room
from tests.tools import KEYS, acceptor, connected, event_of, lose_lease, tell

REQUEST = RunRequest(workflow_id=1, workflow="w", digest="d", session_id="ses")
MESSAGE = Outgoing(id="msg_1_a", run_id=1, app_id=1, type="run.completed", url="https://x.example", body=b"{}")
LEASE = 60_000
RUN_WAYS = {
    "pending": (),
    "running": ("claim",),
    "waiting": ("claim", "park"),
    "completed": ("claim", "complete"),
    "failed": ("claim", "fail"),
    "cancelled": ("claim", "cancel"),
}
CALLBACK_WAYS = {
    "pending": (),
    "sending": ("claim",),
    "delivered": ("claim", "deliver"),
    "failed": ("claim", "fail"),
}
DELAYED = {"park": 0, "retry": 0, "redeliver": 0}
ITEM = {"run": "1", "callback": MESSAGE.id}
MOVES_OF: dict[str, dict[str, Move]] = {"run": MOVES, "callback": CALLBACK_MOVES}
OPEN_STATES = {"run": set(OPEN), "callback": {"pending", "sending"}}
BUSY = {"run": "running", "callback": "sending"}
CASES = [
    *(("run", state, name) for state, name in itertools.product(State, MOVES)),
    *(("callback", state, name) for state, name in itertools.product(CallbackState, CALLBACK_MOVES)),
]


class Place:
    """A store in which one record has come into a state."""

    def __init__(self, redis: Redis, kind: Kind) -> None:
        self.redis = redis
        self.kind = kind
        self.records = Records(redis, KEYS, kind)
        self.fence: int | None = None

    async def come_into(self, state: str) -> None:
        await acceptor(self.redis).store(event_of("evt_1", REQUEST))
        if self.kind == "callback":
            runs = Records(self.redis, KEYS, "run")
            (run,) = (await runs.claim("worker", LEASE, 1)).items
            end = Write(id="1", fence=run.fence, move=MOVES["complete"], callbacks=(MESSAGE,))
            assert await runs.write(end) == "ok"
        for name in (RUN_WAYS if self.kind == "run" else CALLBACK_WAYS)[state]:
            assert await self.move(name) == "ok"

    async def move(self, name: str, *, by_person: bool = False) -> str:
        if name == "claim":
            items = (await self.records.claim("worker", LEASE, 1)).items
            self.fence = items[0].fence if items else self.fence
            return "ok" if items else "nothing"
        fence = None if by_person else self.fence
        move = MOVES_OF[self.kind][name]
        write = Write(
            id=ITEM[self.kind],
            fence=fence,
            move=move,
            delay_ms=DELAYED.get(name),
            fields={"mark": name},
            counts=("counted",),
            pokes=(1,),
        )
        return await self.records.write(write)

    async def snapshot(self) -> dict[bytes, Any]:
        """Everything, but for who was seen alive and who was woken to look."""
        quiet = {name.encode() for name in (KEYS.named("workers"), KEYS.wake("run"), KEYS.wake("callback"))}
        return {key: await self.redis.dump(key) for key in sorted(await self.redis.keys("*")) if key not in quiet}

    async def state(self) -> str:
        key = KEYS.run(1) if self.kind == "run" else KEYS.callback(MESSAGE.id)
        return str((await self.redis.hget(key, "state")).decode())

    async def insist_on_places(self) -> None:
        """It is in the set of its state and no other; it has a job while it is open, and a lease while it is held."""
        state, job = await self.state(), KEYS.job(self.kind, ITEM[self.kind])
        sets = {each for each in _states(self.kind) if await self._is_in(each)}
        assert sets == {state}
        queued = await self.redis.zscore(KEYS.queue(self.kind), job) is not None
        assert queued == (state in OPEN_STATES[self.kind])
        assert await self.redis.exists(f"arq:job:{job}") == queued
        assert bool(await self.redis.exists(f"arq:in-progress:{job}")) == (state == BUSY[self.kind])
        if self.kind == "callback":
            lane = await self.redis.zscore(KEYS.lane("app-1"), MESSAGE.id)
            busy = await self.redis.zscore(KEYS.busy("app-1"), MESSAGE.id)
            assert ((lane is not None), (busy is not None)) == (state in OPEN_STATES["callback"], state == "sending")
            assert not queued or lane == await self.redis.zscore(KEYS.queue("callback"), job)

    async def _is_in(self, state: str) -> bool:
        return await self.redis.zscore(KEYS.state(self.kind, state), ITEM[self.kind]) is not None


def _states(kind: str) -> list[str]:
    return [str(each) for each in (State if kind == "run" else CallbackState)]


def play(store: str, kind: Any, state: str, story: Callable[[Place], Awaitable[None]]) -> None:
    async def told() -> None:
        async with connected(store) as redis:
            place = Place(redis, kind)
            await place.come_into(state)
            assert await place.state() == state
            await place.insist_on_places()
            await story(place)
            await place.insist_on_places()

    tell(told())


@pytest.mark.parametrize("by_person", [False, True])
@pytest.mark.parametrize(("kind", "state", "name"), [case for case in CASES if case[2] != "claim"])
def test_a_move_is_made_whole_or_not_at_all(store: str, kind: str, state: str, name: str, by_person: bool) -> None:
    """By a worker under its fence or by a person: what the table allows is done everywhere, all else changes nothing."""
    move = MOVES_OF[kind][name]

    async def story(place: Place) -> None:
        before = await place.snapshot()
        answer = await place.move(name, by_person=by_person)
        if state in move.sources:
            assert (answer, await place.state()) == ("ok", move.target)
        else:
            # Where it is already: the same call, come again.
            assert answer == ("ok" if state == move.target else state)
            assert await place.snapshot() == before

    play(store, kind, state, story)


@pytest.mark.parametrize(("kind", "state", "name"), [case for case in CASES if case[2] != "claim"])
def test_an_old_fence_moves_nothing(store: str, kind: str, state: str, name: str) -> None:
    """Whatever state it is in: what an older claim writes is refused and changes nothing."""

    async def story(place: Place) -> None:
        place.fence = (place.fence or 0) - 1
        before = await place.snapshot()
        assert await place.move(name) == "fenced"
        assert await place.snapshot() == before

    play(store, kind, state, story)


@pytest.mark.parametrize(("kind", "state"), [case[:2] for case in CASES if case[2] == "claim"])
def test_a_claim_takes_what_is_open_and_due(store: str, kind: str, state: str) -> None:
    """What is open is claimed under a new fence once nobody holds it; what has ended is not, even if it is queued."""

    async def story(place: Place) -> None:
        job, queue = KEYS.job(place.kind, ITEM[kind]), KEYS.queue(place.kind)
        if state == BUSY[kind]:
            assert await place.move("claim") == "nothing"  # it is held
            await place.redis.delete(f"arq:in-progress:{job}")
            await place.redis.zadd(queue, {job: 1})
            if kind == "callback":
                await lose_lease(place.redis, MESSAGE.id)
        ended, before, fence = state not in OPEN_STATES[kind], await place.snapshot(), place.fence or 0
        if ended:
            await place.redis.zadd(queue, {job: 1})  # as a stock tool might put it there
        assert await place.move("claim") == ("nothing" if ended else "ok")
        if ended:
            assert await place.snapshot() == before
        else:
            assert (await place.state(), place.fence) == (BUSY[kind], fence + 1)

    play(store, kind, state, story)


@pytest.mark.parametrize("state", State)
def test_a_word_is_for_open_runs(store: str, state: State) -> None:
    """An open run takes a signal and is poked, its state unmoved; one that has ended refuses it and stays as it is."""

    async def story(place: Place) -> None:
        before, pokes = await place.snapshot(), int(await place.redis.hget(KEYS.run(1), "pokes") or 0)
        answer, refused = await place.records.signal(1, Signal(name="go", body=7, once="a question"))
        if state in OPEN:
            assert answer == "ok"
            assert await place.redis.hmget(KEYS.run(1), "words", "pokes") == [b"1", b"%d" % (pokes + 1)]
            before = await place.snapshot()
            assert (await place.records.signal(1, Signal(name="go", once="a question")))[0] == "taken"
        else:
            assert (answer, refused) == ("refused", state)
        assert await place.snapshot() == before
        assert await place.state() == state

    play(store, "run", state, story)


ACTS: dict[str, tuple[set[str], Callable[[Room], Awaitable[Any]]]] = {
    "cancel": ({"pending", "running", "waiting"}, lambda made: made.control.cancel(1, "enough")),
    "retry": ({"failed", "cancelled"}, lambda made: made.steering.retry(1)),
    "signal": ({"pending", "running", "waiting"}, lambda made: made.steering.signal(1, "go", None, "Ada")),
    "approve": (set(), lambda made: made.steering.decide(1, "a", "approve", None, "Ada")),
    "resume": (set(), lambda made: made.steering.resume(1, None, "retry", None, "Ada")),
}


@pytest.mark.parametrize(("state", "act"), list(itertools.product(State, ACTS)))
def test_what_a_person_asks_is_done_or_refused_whole(store: str, state: State, act: str) -> None:
    """Cancel, retry, signal, approve, resume, in every state: done, or refused with a conflict that changes nothing."""
    allowed, ask = ACTS[act]

    async def story(place: Place) -> None:
        async with room(store, flow({"id": "a", "transform": 1})) as made:
            before = await place.snapshot()
            if state in allowed:
                await ask(made)
                assert await place.state() == (MOVES[act].target if act in MOVES else state)
            else:
                with pytest.raises(Conflict):
                    await ask(made)
                assert await place.snapshot() == before

    play(store, "run", state, story)
