"""When each token was last used, to the minute: gathered in memory, written now and then, never on a request's way."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.store.connection import MISTAKES, Redis
from gateway.store.keys import Keys
from gateway.tasks import end_tasks

MINUTE = 60
PAUSE = 2.0
USED = "tokens:used"


class Uses:
    """Gathers the uses that this process sees. A process that is killed loses those of the last seconds."""

    def __init__(self, redis: Redis, keys: Keys, pause: float = PAUSE) -> None:
        self._redis = redis
        self._key = keys.named(USED)
        self._pause = pause
        self._known: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._writer: asyncio.Task[None] | None = None

    def note(self, token_id: str, now: float) -> None:
        """Remember that a token was used at this time (unix seconds)."""
        minute = int(now) // MINUTE * MINUTE
        if self._known.get(token_id, 0) >= minute:
            return
        self._known[token_id] = self._waiting[token_id] = minute
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def close(self) -> None:
        """Write what waits."""
        await end_tasks(self._writer)
        self._writer = None  # one that had not begun did not say so itself
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
        batch, self._waiting = self._waiting, {}
        try:
            if batch:
                # The later of two receivers' minutes stays.
                await self._redis.zadd(self._key, batch, gt=True)
        except BaseException:
            self._waiting = batch | self._waiting
            raise
