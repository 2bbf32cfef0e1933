"""What was refused and why: a sample, written in the background, capped in number and in rate.

A flood of forged requests costs the store a few writes a second and a bounded stream, and the senders nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import msgspec

from gateway.events import Decision
from gateway.store.connection import MISTAKES, Redis
from gateway.store.keys import Keys

KEPT = 1000
WAITING = 50
PAUSE = 1.0


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One refused request: whose door, the answer's status, the decision. No header, no body."""

    app_id: int | None
    status: int
    decision: Decision


class Refusals:
    """Keeps the newest refusals. What comes faster than it writes is dropped, the oldest first."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._key = keys.named("refused")
        self._waiting: deque[Refusal] = deque(maxlen=WAITING)
        self._writer: asyncio.Task[None] | None = None

    def note(self, refusal: Refusal) -> None:
        """Remember one, soon."""
        self._waiting.append(refusal)
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
            await asyncio.sleep(PAUSE)
            await self._flush()
        finally:
            self._writer = None

    async def _flush(self) -> None:
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        with contextlib.suppress(*MISTAKES):
            async with self._redis.pipeline(transaction=False) as pipe:
                for refusal in batch:
                    pipe.xadd(self._key, {"refusal": msgspec.json.encode(refusal)}, maxlen=KEPT, approximate=True)
                if batch:
                    await pipe.execute()


async def read_refusals(redis: Redis, keys: Keys, limit: int = 20) -> list[Refusal]:
    """The newest refusals, newest first."""
    rows = await redis.xrevrange(keys.named("refused"), count=limit)
    return [msgspec.json.decode(fields[b"refusal"], type=Refusal) for _, fields in rows]
