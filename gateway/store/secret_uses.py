"""How often, and when last, each secret of an app proved a sender: gathered in memory, written now and then."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from gateway.rules import SecretUse
from gateway.store.connection import MISTAKES, Redis
from gateway.store.keys import Keys
from gateway.tasks import end_tasks

PAUSE = 2.0
COUNTS = "secrets:used"


class SecretUses:
    """Counts the uses that this process sees. A process that is killed loses those of the last seconds."""

    def __init__(self, redis: Redis, keys: Keys, pause: float = PAUSE) -> None:
        self._redis = redis
        self._key = keys.named(COUNTS)
        self._pause = pause
        self._waiting: dict[str, list[int]] = {}
        self._writer: asyncio.Task[None] | None = None

    def note(self, name: str, now: float) -> None:
        """Count one use of the secret of this name at this time (unix seconds)."""
        waiting = self._waiting.get(name)
        if waiting is None:
            self._waiting[name] = [1, int(now), int(now)]
        else:
            waiting[0] += 1
            waiting[2] = int(now)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def close(self) -> None:
        """Write what waits."""
        await end_tasks(self._writer)
        self._writer = None
        with contextlib.suppress(*MISTAKES):
            await self._flush()

    async def _write(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(self._pause)
                with contextlib.suppress(*MISTAKES):
                    await self._flush()
        finally:
            self._writer = None

    async def _flush(self) -> None:
        # What could not be written clearly is not written again: twice would be a lie as well.
        batch, self._waiting = self._waiting, {}
        async with self._redis.pipeline(transaction=True) as pipe:
            for name, (count, first, last) in batch.items():
                pipe.hincrby(self._key, name, count)
                pipe.hsetnx(self._key, f"{name}:since", str(first))
                pipe.hset(self._key, f"{name}:last", str(last))
            if batch:
                await pipe.execute()


async def read_secret_uses(redis: Redis, keys: Keys, names: Sequence[str]) -> dict[str, SecretUse]:
    """What is known of the uses of these secrets."""
    fields = [field for name in names for field in (name, f"{name}:since", f"{name}:last")]
    values = await redis.hmget(keys.named(COUNTS), fields) if fields else []
    numbers = [None if value is None else int(value) for value in values]
    rows = zip(names, numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    return {name: SecretUse(count or 0, since, last) for name, count, since, last in rows}
