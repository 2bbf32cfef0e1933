"""When something was last seen: gathered in memory, written now and then, never on a request's way."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.store.connection import MISTAKES, Redis
from gateway.store.keys import Keys
from gateway.tasks import end_tasks

MINUTE = 60
PAUSE = 2.0
USED = "tokens:used"
HEARD = "heard"
"""Apps, by their last event; only those that say `expect_every`."""


class Uses:
    """Gathers what this process sees, such as uses of tokens, true to the `grain` (seconds).

    A process that is killed loses those of the last seconds.
    """

    def __init__(
        self, redis: Redis, keys: Keys, pause: float = PAUSE, *, name: str = USED, grain: int = MINUTE
    ) -> None:
        self._redis = redis
        self._key = keys.named(name)
        self._pause = pause
        self._grain = grain
        self._known: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._writer: asyncio.Task[None] | None = None

    def note(self, name: str, now: float) -> None:
        """Remember that a token was used, or an app heard, at this time (unix seconds)."""
        moment = int(now) // self._grain * self._grain
        if self._known.get(name, 0) >= moment:
            return
        self._known[name] = self._waiting[name] = moment
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
                # The later of two receivers' times stays.
                await self._redis.zadd(self._key, batch, gt=True)
        except BaseException:
            self._waiting = batch | self._waiting
            raise
