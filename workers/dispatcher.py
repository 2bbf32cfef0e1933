"""Our arq Worker: claims many jobs in one script, holds them on leases, is woken instead of polling.

The wire format stays arq's, so that stock tools see the queue and a stock worker can run it. Everything a stock
worker does to a job while it runs is replaced: the record's own scripts begin and end it, under a fence.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.worker import Worker, func

from gateway.store.connection import MISTAKES, Redis
from gateway.store.keys import Keys
from gateway.store.records import Claimed, Records
from gateway.tasks import end_tasks

IDLE = 1.0
"""Seconds between two looks at the queue when nothing wakes the worker; also how often it is seen alive."""
CROWDED = 0.005
"""Seconds a busy worker waits for more free slots, so that one claim fills many."""
PAUSE = 0.5
CLAIM_WAIT = 2.0
"""Seconds that a worker which stops gives a claim under way, so that what it claims is not left to its lease."""
log = structlog.get_logger()


class Ending(StrEnum):
    """How working on a claimed record came to its end."""

    DONE = "done"
    PARKED = "parked"
    LOST = "lost"


class Hold:
    """A record in our hands. `settling` is set once its last write is under way: its lease may then end.

    `poked` is set when something happened to the record from outside.
    """

    __slots__ = ("claimed", "poked", "settling", "task")

    def __init__(self, claimed: Claimed) -> None:
        self.claimed = claimed
        self.poked = asyncio.Event()
        self.settling = False
        self.task: asyncio.Task[None] | None = None


Perform = Callable[[Hold], Awaitable[Ending]]


class StoreClock:
    """The store's clock, carried on by this machine's steady one between two answers."""

    def __init__(self) -> None:
        self._offset = time.time() * 1000 - time.monotonic() * 1000

    def set(self, now_ms: int) -> None:
        self._offset = now_ms - time.monotonic() * 1000

    def now(self) -> int:
        """Milliseconds."""
        return int(time.monotonic() * 1000 + self._offset)


class Dispatcher(Worker):
    """Works on the records of one kind. `perform` does one of them; what it raises is logged and its lease runs out."""

    def __init__(
        self,
        redis: ArqRedis,
        keys: Keys,
        records: Records,
        perform: Perform,
        clock: StoreClock,
        *,
        slots: int,
        lease: float,
        spare: int = 0,
    ) -> None:
        super().__init__(
            functions=[func(_run_elsewhere, name=records.kind)],
            queue_name=keys.queue(records.kind),
            redis_pool=redis,
            max_jobs=slots,
            handle_signals=False,
            keep_result=0,
        )
        self._redis: Redis = redis
        self._records = records
        self._perform = perform
        self._clock = clock
        self._wake_key = keys.wake(records.kind)
        self._stop_channel = keys.named("stop")
        self._poke_channel = keys.named("poke")
        self._lease = lease
        self._spare = spare
        self.token = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._holds: dict[str, Hold] = {}
        self._freed = asyncio.Event()
        self._stopping = False
        self._deaf = False
        self._side: list[asyncio.Task[None]] = []
        self._nap: asyncio.Task[None] | None = None

    async def main(self) -> None:
        """Claim and work until stopped. No failure of the store ends this loop."""
        self._side = [self.loop.create_task(work) for work in (self._keep_beating(), self._heed_stops())]
        while not self._stopping:
            try:
                await self._turn()
            except MISTAKES as error:
                await self._wait_for_store(error)

    async def stop(self, grace: float) -> None:
        """Claim nothing more, give what runs `grace` seconds to end, hand the rest back."""
        self._stopping = True
        await end_tasks(self._nap)
        if self.main_task is not None:
            await asyncio.wait({self.main_task}, timeout=CLAIM_WAIT)
            await end_tasks(self.main_task)
        running = [hold.task for hold in self._holds.values() if hold.task is not None]
        if running:
            await asyncio.wait(running, timeout=grace)
        left = list(self._holds)
        await end_tasks(*running, *self._side)
        with contextlib.suppress(*MISTAKES):
            await self._records.release(self.token, left)
        log.info("worker stopped", kind=self._records.kind, handed_back=len(left))

    async def _turn(self) -> None:
        free = self.max_jobs - len(self._holds)
        claims = await self._records.claim(self.token, int(self._lease * 1000), free, spare=self._spare)
        self._clock.set(claims.now)
        if self._deaf:
            self._deaf = False
            log.info("the store answers again", kind=self._records.kind)
        for claimed in claims.items:
            self.begin(claimed)
        if not self._stopping:
            await self._take_nap(claims.due, claims.next_due)

    async def _take_nap(self, due: int, next_due: int | None) -> None:
        """Rest in a task of its own, which `stop` can end without touching a claim."""
        self._nap = self.loop.create_task(self._rest(due, next_due))
        await asyncio.wait({self._nap})
        if not self._nap.cancelled():
            self._nap.result()

    def begin(self, claimed: Claimed) -> None:
        """Work on what was claimed."""
        hold = Hold(claimed)
        before = self._holds.get(claimed.id)
        if before is not None and before.task is not None:
            before.task.cancel()  # its lease ran out, and the newer one is ours as well
        self._holds[claimed.id] = hold
        hold.task = self.loop.create_task(self._work(hold))
        # Not in the work itself: what is cancelled before its first line runs none of its lines.
        hold.task.add_done_callback(lambda _: self._forget(hold))

    def _forget(self, hold: Hold) -> None:
        if self._holds.get(hold.claimed.id) is hold:
            del self._holds[hold.claimed.id]
        self._freed.set()

    async def _work(self, hold: Hold) -> None:
        try:
            ending = await self._perform(hold)
            if ending is Ending.LOST:
                log.warning("another worker took this over", kind=self._records.kind, id=hold.claimed.id)
        except MISTAKES as error:
            log.warning(
                "the store does not answer; the lease runs out and this is tried again",
                kind=self._records.kind,
                id=hold.claimed.id,
                reason=str(error) or type(error).__name__,
            )
        except Exception:
            log.exception(
                "work broke off; its lease runs out and it is tried again", kind=self._records.kind, id=hold.claimed.id
            )

    async def _rest(self, due: int, next_due: int | None) -> None:
        """Wait until a look at the queue is worth while: a slot is free and something is due, or a second is over."""
        if len(self._holds) >= self.max_jobs:
            await self._until_freed(IDLE)
        elif due and len(self._holds) * 2 > self.max_jobs:
            await self._until_freed(CROWDED)
        elif not due:
            seconds = IDLE if next_due is None else min(IDLE, max(next_due / 1000, 0.001))
            await self._redis.blpop([self._wake_key], timeout=seconds)

    async def _until_freed(self, seconds: float) -> None:
        self._freed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._freed.wait()

    async def _wait_for_store(self, error: BaseException) -> None:
        if not self._deaf:
            log.warning(
                "the store does not answer, trying again",
                kind=self._records.kind,
                reason=str(error) or type(error).__name__,
            )
        self._deaf = True
        await asyncio.sleep(PAUSE)

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            asked = {record_id: hold for record_id, hold in self._holds.items() if not hold.settling}
            if not asked:
                continue
            with contextlib.suppress(*MISTAKES):
                for record_id in await self._records.beat(self.token, int(self._lease * 1000), list(asked)):
                    # Claimed again meanwhile, it is another hold, whose lease is whole.
                    if self._holds.get(record_id) is asked[record_id]:
                        self._let_go(record_id)

    async def _heed_stops(self) -> None:
        """Let go at once of what a person cancelled, and look at what was poked; the heartbeat would notice it later."""
        while True:
            try:
                async with self._redis.pubsub() as words:
                    await words.subscribe(self._stop_channel, self._poke_channel)
                    while True:
                        self._hear(await words.get_message(ignore_subscribe_messages=True, timeout=IDLE))
            except MISTAKES:
                await asyncio.sleep(PAUSE)

    @property
    def held(self) -> list[str]:
        """What is worked on now."""
        return list(self._holds)

    def heed(self, word: str, record_id: str, fence: int | None = None) -> None:
        """Let go of a record (`stop`), or have whoever works on it look at it (`poke`).

        With a fence, only claims up to that one are meant: the word may be older than ours.
        """
        hold = self._holds.get(record_id)
        if hold is None or (fence is not None and hold.claimed.fence > fence):
            return
        if word == "stop":
            self._let_go(record_id)
        else:
            hold.poked.set()

    def _hear(self, message: dict[str, bytes] | None) -> None:
        if message is None:
            return
        kind, record_id, *fence = message["data"].decode().split(" ")
        if kind == self._records.kind:
            word = "stop" if message["channel"].decode() == self._stop_channel else "poke"
            self.heed(word, record_id, int(fence[0]) if fence else None)

    def _let_go(self, record_id: str) -> None:
        hold = self._holds.get(record_id)
        if hold is not None and not hold.settling and hold.task is not None:
            log.warning("lease lost, stopping work", kind=self._records.kind, id=record_id)
            hold.task.cancel()


async def _run_elsewhere(ctx: dict[Any, Any], record_id: int | str) -> None:
    """arq wants a function registered; a Dispatcher never calls it, for it performs what it claims itself."""
    message = f"{record_id} was handed to arq's own loop"
    raise RuntimeError(message)
