"""What a clock must do: see that everything open has its job and its places, and that what is past its time goes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable

import structlog
from redis.exceptions import ResponseError

from gateway.runs import OPEN
from gateway.store.connection import MISTAKES, Redis
from gateway.store.keys import Keys
from gateway.store.records import Records
from gateway.store.retention import SENDING, Limits, Mended, Retention
from workers.retiring import Retiring

PAGES = 20
PAGE = 500
NEWEST = 10
"""Pages of the newest runs that every sweep looks through: most that is open is there."""
WALKED = 40
"""Pages of all runs, and parts of the keyspace, that one sweep looks through; where much is lost, MOST of them."""
MOST = 400
RUNS = 100
KEYSPACE = 1000
FORGET_MS = 3_600_000
log = structlog.get_logger()


class Sweep:
    """One worker sweeps at a time. A large backlog is gone through a few thousand records at each sweep."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        runs: Records,
        callbacks: Records,
        *,
        interval: float,
        retention: Retention | None = None,
        retiring: Retiring | None = None,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._interval = interval
        self._retention = retention or Retention(redis, keys, Limits())
        self._retiring = retiring
        self._places = {
            (records, str(state)): 0
            # What has begun first, so that it has its place in its gate before anybody is let in.
            for records, states in ((runs, OPEN[::-1]), (callbacks, SENDING))
            for state in states
        }

    async def go(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                if await self._is_ours():
                    await self.sweep()
            except MISTAKES as error:
                log.warning("sweep put off", reason=str(error) or type(error).__name__)
            except Exception:
                log.exception("sweep put off")

    async def sweep(self) -> int:
        """Mend the indexes, then look through the next pages of every open state, then remove what is past its time.

        The answer: how many jobs were put back.
        """
        notes = await self._retention.notes()
        await _unless_refused("indexes can't be mended", self._mend(notes))
        mended = 0
        for records, state in self._places:
            mended += await self._sweep_state(records, state)
        clock = await self._redis.time()
        await self._redis.zremrangebyscore(self._keys.named("workers"), "-inf", clock[0] * 1000 - FORGET_MS)
        if mended:
            log.warning("jobs were missing and are back", count=mended)
        if self._retiring is not None:
            await _unless_refused("nothing is removed", self._retiring.go(notes))
        await self._retention.note(notes)
        return mended

    async def _sweep_state(self, records: Records, state: str) -> int:
        mended, place = 0, self._places[records, state]
        for _ in range(PAGES):
            seen, put_back = await records.repair(state, place, PAGE)
            mended += put_back
            place = place + PAGE if seen == PAGE else 0
            if seen < PAGE:
                break
        self._places[records, state] = place
        return mended

    async def _mend(self, notes: dict[str, int]) -> None:
        """Put runs, callbacks and events back into the indexes that lost them: the newest first, then all in turn."""
        total: Counter[str] = Counter()
        newest = await self._mend_runs(None, NEWEST, total)
        notes["runs"] = newest and await self._mend_runs(notes.get("runs") or newest, WALKED, total)
        notes["events"] = await self._mend_events(notes.get("events", 0), total)
        if total:
            log.warning("indexes were incomplete and are mended", put_back=dict(total))

    async def _mend_runs(self, place: int | None, pages: int, total: Counter[str]) -> int:
        """Where to go on; 0 when the first run of all was looked at."""
        left, most = pages, MOST
        while left > 0 and most > 0:
            mended: Mended = await self._retention.mend(place, RUNS)
            total.update(mended.counts)
            place, most = mended.place, most - 1
            # Nobody should wait for hours where much is lost.
            left -= 0 if mended.counts else 1
            if place == 0:
                break
        return place or 0

    async def _mend_events(self, cursor: int, total: Counter[str]) -> int:
        for _ in range(WALKED):
            cursor, found = await self._retention.mend_events(cursor, KEYSPACE)
            total.update({"event": found} if found else {})
            if cursor == 0:
                break
        return cursor

    async def _is_ours(self) -> bool:
        ours = await self._redis.set(self._keys.named("sweep"), "1", nx=True, px=int(self._interval * 900))
        return bool(ours)


async def _unless_refused(trouble: str, part: Awaitable[object]) -> None:
    """A key that holds something else than it should must not keep open runs from their jobs."""
    try:
        await part
    except ResponseError as error:
        log.error(trouble, reason=str(error))
