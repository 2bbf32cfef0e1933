"""What the clock keeps in the store: the last tick done of each schedule, and the ended runs that others listen to."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from gateway.store import scripts
from gateway.store.connection import Redis
from gateway.store.keys import Keys

PAGE = 100


class Ticks(msgspec.Struct, frozen=True):
    """The store's clock (ms) and the last tick done by schedule; none where the caller goes by an old revision."""

    now: int
    last: dict[str, int] | None


class Ticking:
    """The schedules and chains of one shard. A schedule's field is `WORKFLOW KEY`."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def advance(
        self, revision: int, done: Mapping[str, int], present: Collection[str], gone: Collection[str]
    ) -> Ticks:
        """Write down what is done, begin what is new at the store's now, drop what is gone, and read the rest."""
        flat = [part for pair in done.items() for part in pair]
        lists = (*scripts.counted(flat), *scripts.counted(list(present)), *scripts.counted(list(gone)))
        now, current, *rest = await scripts.call(self._redis, "clock", self._keys.prefix, revision, *lists)
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return Ticks(int(now), {field.decode(): int(tick) for field, tick in pairs} if current else None)

    async def chaining(self) -> list[int]:
        """Runs that ended and that others listen to, the oldest first, at most a page."""
        seconds, micros = await self._redis.time()
        now = seconds * 1000 + micros // 1000
        found = await self._redis.zrange(self._keys.state("run", "chaining"), 0, now, byscore=True, offset=0, num=PAGE)
        return [int(run_id) for run_id in found]

    async def chained(self, run_id: int, ended_at: int | None) -> None:
        """Nothing is left to start for this end of a run."""
        await scripts.call(self._redis, "chained", self._keys.prefix, run_id, ended_at or "", "")

    async def put_off(self, run_id: int, delay_ms: int) -> None:
        """Look at this run again later."""
        await scripts.call(self._redis, "chained", self._keys.prefix, run_id, "", delay_ms)

    async def wait(self, seconds: float) -> None:
        """Wait until a run ends that others listen to, or for so many seconds."""
        await self._redis.blpop([self._keys.wake("chain")], timeout=seconds)
