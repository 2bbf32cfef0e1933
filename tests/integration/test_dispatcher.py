"""The loop that claims work: slots, leases, waking, stopping, and a store that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from gateway.runs import MOVES, RunRequest
from gateway.store.connection import MISTAKES, Redis, connect
from gateway.store.records import Records, Write
from tests.tools import KEYS, Valkey, acceptor, connected, event_of, tell, until
from workers.dispatcher import Dispatcher, Ending, Hold, Perform, StoreClock

REQUEST = RunRequest(workflow_id=1, workflow="w", digest="d", session_id="ses")


class Work:
    """Work that ends its run when it is let, and notes what it was given."""

    def __init__(self, redis: Redis) -> None:
        self.records = Records(redis, KEYS, "run")
        self.begun: list[Hold] = []
        self.most = 0
        self.now = 0
        self.cancelled: list[str] = []
        self.gate = asyncio.Event()

    async def perform(self, hold: Hold) -> Ending:
        self.begun.append(hold)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(hold.claimed.id)
            raise
        finally:
            self.now -= 1
        return await self.end(hold)

    async def end(self, hold: Hold) -> Ending:
        hold.settling = True
        write = Write(id=hold.claimed.id, fence=hold.claimed.fence, move=MOVES["complete"])
        return Ending.DONE if await self.records.write(write) == "ok" else Ending.LOST


@contextlib.asynccontextmanager
async def dispatching(redis: Redis, perform: Perform, *, slots: int = 5, lease: float = 5) -> AsyncIterator[Dispatcher]:
    """A dispatcher at work, stopped at the end whatever it holds."""
    records = Records(redis, KEYS, "run")
    dispatcher = Dispatcher(redis, KEYS, records, perform, StoreClock(), slots=slots, lease=lease)
    task = asyncio.create_task(dispatcher.async_run())
    try:
        yield dispatcher
    finally:
        await dispatcher.stop(0)
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def fill(redis: Redis, count: int, first: int = 0) -> None:
    door = acceptor(redis)
    await asyncio.gather(*(door.store(event_of(f"evt_{first + number}", REQUEST)) for number in range(count)))


def all_ended(redis: Redis, count: int) -> Callable[[], Any]:
    async def look() -> bool:
        # The server may just have been started again, and this connection be one of before.
        with contextlib.suppress(*MISTAKES):
            return bool(await redis.zcard(KEYS.state("run", "completed")) == count)
        return False

    return look


def test_everything_is_done_and_never_more_at_once_than_there_are_slots(store: str) -> None:
    """Two hundred runs go through five slots, each once."""

    async def story() -> None:
        async with connected(store) as redis:
            work = Work(redis)
            await fill(redis, 200)
            async with dispatching(redis, work.perform):
                await until(lambda: work.now == 5)
                work.gate.set()
                await until(all_ended(redis, 200))
            assert sorted(int(hold.claimed.id) for hold in work.begun) == list(range(1, 201))
            assert work.most == 5
            assert await redis.zcard(KEYS.queue("run")) == 0

    tell(story())


def test_several_workers_share_the_work(store: str) -> None:
    """Three workers do every run once between them."""

    async def story() -> None:
        async with connected(store) as redis, contextlib.AsyncExitStack() as stack:
            work = Work(redis)
            work.gate.set()
            for _ in range(3):
                await stack.enter_async_context(dispatching(redis, work.perform))
            await fill(redis, 100)
            await until(all_ended(redis, 100))
            assert sorted(int(hold.claimed.id) for hold in work.begun) == list(range(1, 101))

    tell(story())


def test_what_is_let_go_before_it_began_is_forgotten(store: str) -> None:
    """A person's stop that arrives between the claim and the work's first line frees the slot and the lease."""

    async def story() -> None:
        async with connected(store) as redis:
            work = Work(redis)
            await fill(redis, 1)
            dispatcher = Dispatcher(redis, KEYS, work.records, work.perform, StoreClock(), slots=1, lease=5)
            (claimed,) = (await work.records.claim(dispatcher.token, 5000, 1)).items
            dispatcher.begin(claimed)
            dispatcher.heed("stop", claimed.id)
            await until(lambda: not dispatcher.held)
            assert work.begun == []

    tell(story())


def test_a_stop_of_an_older_claim_is_not_heeded(store: str) -> None:
    """A person's stop that is still under way when the run is retried and claimed anew takes it from nobody."""

    async def story() -> None:
        async with connected(store) as redis:
            work = Work(redis)
            await fill(redis, 1)
            dispatcher = Dispatcher(redis, KEYS, work.records, work.perform, StoreClock(), slots=1, lease=5)
            (claimed,) = (await work.records.claim(dispatcher.token, 5000, 1)).items
            dispatcher.begin(claimed)
            dispatcher.heed("stop", claimed.id, claimed.fence - 1)
            await until(lambda: work.begun)
            assert dispatcher.held == [claimed.id]
            dispatcher.heed("stop", claimed.id, claimed.fence)
            await until(lambda: not dispatcher.held)

    tell(story())


def test_an_idle_worker_is_woken_and_does_not_poll(store: str) -> None:
    """Ten runs that come one after the other are each begun long before the next look would be due."""

    async def story() -> None:
        async with connected(store) as redis:
            work = Work(redis)
            work.gate.set()
            async with dispatching(redis, work.perform):
                began = time.monotonic()
                for number in range(10):
                    await fill(redis, 1, first=number)
                    await until(all_ended(redis, number + 1))
                assert time.monotonic() - began < 5

    tell(story())


def test_what_waits_is_begun_when_it_is_due(store: str) -> None:
    """A run that parks itself ten times for 50 ms is through long before ten looks of a second each."""

    async def story() -> None:
        async with connected(store) as redis:
            work = Work(redis)

            async def park(hold: Hold) -> Ending:
                work.begun.append(hold)
                if len(work.begun) > 10:
                    return await work.end(hold)
                claimed = hold.claimed
                write = Write(id=claimed.id, fence=claimed.fence, move=MOVES["park"], delay_ms=50)
                assert await work.records.write(write) == "ok"
                return Ending.PARKED

            async with dispatching(redis, park):
                began = time.monotonic()
                await fill(redis, 1)
                await until(all_ended(redis, 1))
                assert 0.45 <= time.monotonic() - began < 5

    tell(story())


def test_a_heartbeat_holds_the_lease(store: str) -> None:
    """Work that takes several leases stays with its worker; another one gets nothing."""

    async def story() -> None:
        async with connected(store) as redis:
            work, other = Work(redis), Work(redis)
            await fill(redis, 1)
            async with dispatching(redis, work.perform, lease=1):
                await until(lambda: work.begun)
                async with dispatching(redis, other.perform, lease=1):
                    began = time.monotonic()
                    await until(lambda: time.monotonic() - began > 2)
                work.gate.set()
                await until(all_ended(redis, 1))
            assert (len(work.begun), other.begun) == (1, [])

    tell(story())


def test_work_whose_lease_was_lost_is_stopped(store: str) -> None:
    """Once another worker holds the lease, the first one stops what it is doing."""

    async def story() -> None:
        async with connected(store) as redis:
            work = Work(redis)
            await fill(redis, 2)
            async with dispatching(redis, work.perform, lease=1):
                await until(lambda: work.now == 2)
                await redis.set("arq:in-progress:{0}run:1", "somebody else", px=60_000)
                await until(lambda: work.cancelled)
                assert (work.cancelled, work.now) == (["1"], 1)

    tell(story())


def test_work_that_breaks_off_is_done_again(store: str) -> None:
    """What raises loses its run to the next lease, and the worker goes on with the others."""

    async def story() -> None:
        async with connected(store) as redis:
            work = Work(redis)
            work.gate.set()

            async def break_once(hold: Hold) -> Ending:
                if hold.claimed.id == "1" and hold.claimed.fence == 1:
                    message = "unforeseen"
                    raise RuntimeError(message)
                return await work.perform(hold)

            await fill(redis, 3)
            async with dispatching(redis, break_once, lease=0.6):
                await until(all_ended(redis, 3))
            assert [hold.claimed.fence for hold in work.begun if hold.claimed.id == "1"] == [2]

    tell(story())


def test_a_worker_that_stops_hands_back_what_it_holds(store: str) -> None:
    """After its grace the rest is due at once for another worker, and nobody counts as lost."""

    async def story() -> None:
        async with connected(store) as redis:
            work, heir = Work(redis), Work(redis)
            heir.gate.set()
            await fill(redis, 3)
            async with dispatching(redis, work.perform, lease=60):
                await until(lambda: work.now == 3)
            assert sorted(work.cancelled) == ["1", "2", "3"]
            async with dispatching(redis, heir.perform, lease=60):
                await until(all_ended(redis, 3), patience=5)
            assert {hold.claimed.fields[b"lost"] for hold in heir.begun} == {b"0"}

    tell(story())


def test_a_worker_that_stops_while_it_claims_hands_that_back_too(store: str) -> None:
    """Whenever the stop comes, also with a claim on its way, nothing stays locked by a worker that is gone."""

    async def story() -> None:
        async with connected(store) as redis:
            for turns in range(40):
                work = Work(redis)
                async with dispatching(redis, work.perform, slots=100, lease=60):
                    await until(lambda: _waits(redis))
                    await fill(redis, 1, first=turns)
                    for _ in range(turns):
                        await asyncio.sleep(0)
                assert await redis.keys("arq:in-progress:*") == []

    tell(story())


async def _waits(redis: Redis) -> bool:
    return bool((await redis.info("clients"))["blocked_clients"])


def test_a_worker_that_stops_lets_its_work_end_within_the_grace(store: str) -> None:
    """What ends in time is not handed back."""

    async def story() -> None:
        async with connected(store) as redis:
            work = Work(redis)
            await fill(redis, 1)
            async with dispatching(redis, work.perform) as dispatcher:
                await until(lambda: work.begun)
                stopping = asyncio.create_task(dispatcher.stop(10))
                await asyncio.sleep(0)
                work.gate.set()
                await stopping
                assert await all_ended(redis, 1)()
            assert work.cancelled == []

    tell(story())


def test_a_worker_outlives_a_restart_of_the_store(own_valkey: Valkey) -> None:
    """While the server is gone the worker waits; work begun before is recorded after, and new work is begun."""

    async def story() -> None:
        async with connected(own_valkey.url) as redis:
            work = Work(redis)
            await fill(redis, 2)
            async with dispatching(redis, work.perform, lease=30):
                await until(lambda: work.now == 2)
                own_valkey.stop()
                work.gate.set()
                await asyncio.sleep(0)
                own_valkey.start()
                await until(all_ended(redis, 2))
                await fill(redis, 1, first=2)
                await until(all_ended(redis, 3))
            assert [hold.claimed.fence for hold in work.begun] == [1, 1, 1]

    tell(story())


def test_a_worker_outlives_a_frozen_store(own_valkey: Valkey) -> None:
    """A server that says nothing stops no loop for ever; when it speaks again, work goes on."""

    async def story() -> None:
        redis = connect(own_valkey.url, timeout=0.3)
        work = Work(redis)
        work.gate.set()
        await fill(redis, 1)
        async with dispatching(redis, work.perform):
            await until(all_ended(redis, 1))
            own_valkey.freeze()
            began = time.monotonic()
            await until(lambda: time.monotonic() - began > 1)
            own_valkey.thaw()
            await fill(redis, 1, first=1)
            await until(all_ended(redis, 2))
        await redis.aclose()

    tell(story())
