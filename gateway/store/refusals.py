"""Deliveries that left no event: a sample, written in the background, capped in number, in bytes and in rate.

A flood of forged requests costs the store a few writes a second and so much memory and no more, and the senders
nothing; one flooded app does not hide what is refused of another. The metrics count all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gateway.errors import NotFound
from gateway.refused import Kept, Refusal, Sighting, keep
from gateway.store import scripts
from gateway.store.connection import MISTAKES, Redis
from gateway.store.keys import Keys

KEPT = 1000
KEPT_OF_ONE = 200
BODIES = 256
BODIES_OF_ONE = 20
LIFETIME_MS = 7 * 86_400_000
"""Of what was refused, with its body, whatever else is kept for how long."""
WAITING = 50
WAITING_OF_ONE = 10
BODIES_AT_ONCE = 2
"""Bodies of one app that are written in one go."""
PAUSE = 1.0
LOOKED_THROUGH = KEPT
CHUNK = 100

_decode = msgspec.json.Decoder(Refusal).decode


class Refusals:
    """Keeps the newest refusals. What comes faster than it writes is not looked at."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        clock: Callable[[], float] = time.time,
        noise: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._clock = clock
        self._noise = noise
        self._waiting: list[Kept] = []
        self._owners: Counter[str] = Counter()
        self._writer: asyncio.Task[None] | None = None

    def note(self, seen: Sighting) -> None:
        """Remember one, soon, where there is room for it now."""
        owner = seen.owner
        if len(self._waiting) >= WAITING or self._owners[owner] >= WAITING_OF_ONE:
            return
        self._owners[owner] += 1
        kept = keep(seen, self._clock(), self._noise(8))
        if self._owners[owner] > BODIES_AT_ONCE:
            kept = Kept(kept.refusal)
        self._waiting.append(kept)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def close(self) -> None:
        """Write what waits."""
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
        await self._flush()

    async def _write(self) -> None:
        try:
            # What came while the store was written to would else wait for ever, once there is no room for another.
            while self._waiting:
                await asyncio.sleep(PAUSE)
                await self._flush()
        finally:
            self._writer = None

    async def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        self._owners.clear()
        if not batch:
            return
        limits = (KEPT, KEPT_OF_ONE, BODIES, BODIES_OF_ONE, LIFETIME_MS)
        rows = [field for kept in batch for field in _row(kept)]
        with contextlib.suppress(*MISTAKES):
            await scripts.call(self._redis, "refuse", self._keys.prefix, *limits, len(batch), *rows)


class Refused:
    """Reads the refusals of one shard back."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def one(self, refusal_id: str) -> Kept:
        """One refusal, with its body where that is kept. Raises NotFound."""
        record, body = await self._redis.hmget(self._keys.refusal(refusal_id), "record", "body")
        if record is None:
            message = f"there is no refused delivery {refusal_id!r}: only the newest are kept, and of many a sample"
            raise NotFound(message)
        return Kept(_decode(record), body)

    async def page(
        self,
        limit: int,
        below: str | None = None,
        *,
        since: int | None = None,
        until: int | None = None,
        fits: Callable[[Refusal], bool] = lambda _: True,
    ) -> tuple[list[Refusal], str | None]:
        """The newest that fit, older than the refusal `below`, and the id to go on from; none when these were the last.

        Raises NotFound when `below` is not there any more.
        """
        found: list[Refusal] = []
        ids = await self._ids(since, until, below)
        for start in range(0, len(ids), CHUNK):
            for refusal in await self._read(ids[start : start + CHUNK]):
                if fits(refusal):
                    found.append(refusal)
                if len(found) == limit:
                    return found, refusal.id
        return found, None

    async def named(self, delivery_id: str) -> list[str]:
        """The ids of those that the sender itself calls so, the newest first."""
        ids = await self._ids(None, None, None)
        wanted = delivery_id.encode("utf-8", "surrogatepass")
        names = await self._fields(ids, "delivery")
        return [refusal_id for refusal_id, name in zip(ids, names, strict=True) if name == wanted]

    async def _ids(self, since: int | None, until: int | None, below: str | None) -> list[str]:
        key = self._keys.named("refused")
        top: Any = "+inf" if until is None else until
        low: Any = "-inf" if since is None else since
        raw = await self._redis.zrange(key, top, low, desc=True, byscore=True, offset=0, num=LOOKED_THROUGH)
        ids = [each.decode() for each in raw]
        if below is None:
            return ids
        if below not in ids:
            message = f"there is no refused delivery {below!r} any more"
            raise NotFound(message)
        return ids[ids.index(below) + 1 :]

    async def _read(self, ids: Sequence[str]) -> list[Refusal]:
        return [_decode(record) for record in await self._fields(ids, "record") if record]

    async def _fields(self, ids: Sequence[str], field: str) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for each in ids:
                pipe.hget(self._keys.refusal(each), field)
            return list(await pipe.execute()) if ids else []


async def read_refusals(redis: Redis, keys: Keys, limit: int = 20) -> list[Refusal]:
    """The newest refusals, newest first."""
    return (await Refused(redis, keys).page(limit))[0]


def _row(kept: Kept) -> list[Any]:
    refusal = kept.refusal
    owner = "-" if refusal.app_id is None else refusal.app_id
    delivery = (refusal.delivery_id or "").encode("utf-8", "surrogatepass")
    has_body, body = ("0", b"") if kept.body is None else ("1", kept.body)
    return [refusal.id, owner, refusal.at, msgspec.json.encode(refusal), delivery, has_body, body]
