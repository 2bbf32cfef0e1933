"""How often an app's door opens: one token bucket for all receivers, and one in each before it.

The shared one makes the rate hold however many receivers there are, on Redis' clock. It costs a round trip, which
requests share, and only apps that have a `rate` ask for it. Since the receiver's own bucket is asked first, a flood
reaches the store no faster than the rate itself. Without an answer nobody is let in: the event could not be stored either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gateway.admission import Bucket, Rate
from gateway.errors import RateLimited, Unavailable
from gateway.store import scripts
from gateway.store.batches import Batches
from gateway.store.connection import MISTAKES, Redis
from gateway.store.keys import Keys


class Rates:
    """The buckets of all apps. `clock` gives seconds that never go back; nobody waits longer than `timeout` seconds."""

    def __init__(self, redis: Redis, keys: Keys, clock: Callable[[], float], timeout: float) -> None:
        self._redis = redis
        self._keys = keys
        self._clock = clock
        self._timeout = timeout
        self._buckets: dict[int, Bucket] = {}
        self._batches: Batches[tuple[int, Rate], float] = Batches(self._ask)

    async def take(self, app_id: int, rate: Rate) -> None:
        """Let one request in. Raises RateLimited with `retry_after`, or Unavailable where the store does not answer."""
        bucket = self._buckets.get(app_id)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[app_id] = Bucket(rate)
        wait = bucket.take(self._clock()) or await self._share(app_id, rate)
        if wait > 0:
            seconds = max(1, math.ceil(wait))
            message = f"this app's rate is used up; it takes the next request in {seconds} s"
            raise RateLimited(message, retry_after=seconds)

    async def _share(self, app_id: int, rate: Rate) -> float:
        try:
            return await self._batches.submit((app_id, rate), self._timeout)
        except MISTAKES:
            raise Unavailable(reason="no_rate") from None

    async def _ask(self, items: Sequence[tuple[int, Rate]]) -> list[float]:
        arguments: list[int | str] = [len(items)]
        for app_id, rate in items:
            arguments += [app_id, f"{rate.interval * 1000:.6f}", rate.burst]
        waits = await scripts.call(self._redis, "arrive", self._keys.prefix, *arguments)
        return [int(wait) / 1000 for wait in waits]
