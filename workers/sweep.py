"""What a clock must do: see that everything open has its job, and forget workers that are gone."""

from __future__ import annotations

import asyncio

import structlog

from gateway.runs import OPEN, CallbackState
from gateway.store.connection import MISTAKES, Redis
from gateway.store.keys import Keys
from gateway.store.records import Records

PAGES = 20
PAGE = 500
FORGET_MS = 3_600_000
OPEN_CALLBACKS = (CallbackState.PENDING, CallbackState.SENDING)
log = structlog.get_logger()


class Sweep:
    """One worker sweeps at a time. A large backlog is gone through a few thousand records at each sweep."""

    def __init__(self, redis: Redis, keys: Keys, runs: Records, callbacks: Records, *, interval: float) -> None:
        self._redis = redis
        self._keys = keys
        self._interval = interval
        self._places = {
            (records, str(state)): 0
            # What has begun first, so that it has its place in its gate before anybody is let in.
            for records, states in ((runs, OPEN[::-1]), (callbacks, OPEN_CALLBACKS))
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

    async def sweep(self) -> int:
        """Look through the next pages of every open state. The answer: how many jobs were put back."""
        mended = 0
        for records, state in self._places:
            mended += await self._sweep_state(records, state)
        clock = await self._redis.time()
        await self._redis.zremrangebyscore(self._keys.named("workers"), "-inf", clock[0] * 1000 - FORGET_MS)
        if mended:
            log.warning("jobs were missing and are back", count=mended)
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

    async def _is_ours(self) -> bool:
        ours = await self._redis.set(self._keys.named("sweep"), "1", nx=True, px=int(self._interval * 900))
        return bool(ours)
