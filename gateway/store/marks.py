"""How far each app's deliveries are reconciled with its sender's list, and which of them came in."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.events import id_key
from gateway.reconciling import Mark
from gateway.store.connection import Redis
from gateway.store.keys import Keys

PAGE = 500


class Marks:
    """One mark an app. `counts` are told to the metrics."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._key = keys.named("reconciled")

    async def now(self) -> int:
        """The store's time, in milliseconds."""
        seconds, micros = await self._redis.time()
        return int(seconds * 1000 + micros // 1000)

    async def read(self, app_id: int) -> Mark | None:
        """The app's mark, or None before its first round, and where it can't be read."""
        text = await self._redis.hget(self._key, str(app_id))
        try:
            return None if text is None else msgspec.json.decode(text, type=Mark)
        except msgspec.MsgspecError:
            return None

    async def write(self, app_id: int, mark: Mark, asked: int = 0) -> None:
        """Keep the mark, and count what was asked for."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._key, str(app_id), msgspec.json.encode(mark).decode())
            if asked:
                pipe.hincrby(self._keys.named("counts"), "reconciled:asked_again", asked)
            await pipe.execute()

    async def claim(self, app_id: int, seconds: float) -> bool:
        """Whether this round is ours: one worker does it."""
        key = f"{self._key}:{app_id}"
        return bool(await self._redis.set(key, "1", nx=True, px=max(int(seconds * 1000), 1)))

    async def known(self, app_id: int, guids: Sequence[str]) -> set[str]:
        """Those of these delivery ids that came in and were stored."""
        found: set[str] = set()
        for first in range(0, len(guids), PAGE):
            page = guids[first : first + PAGE]
            values = await self._redis.mget([f"{self._keys.prefix}seen:{id_key(app_id, guid)}" for guid in page])
            found.update(guid for guid, value in zip(page, values, strict=True) if value is not None)
        return found
