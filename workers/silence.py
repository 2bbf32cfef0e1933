"""Sources that fell silent: an app that says `expect_every` and sent nothing for so long is told of, once a silence.

All workers look, and the store sees to it that one of them tells. The store's clock says how long it is quiet.
"""

from __future__ import annotations

import structlog

from gateway.apps import LiveApp
from gateway.outbox import Outbox, operators_of
from gateway.runs import iso
from gateway.store.connection import Redis
from gateway.store.keys import Keys
from gateway.store.posting import Once, Posting
from gateway.store.registry import Registry
from gateway.store.uses import HEARD
from workers.loops import take_turns

KIND = "source.silent"
LOOK = 5.0
"""Seconds between two looks."""
log = structlog.get_logger()


class Silence:
    """Looks when each app was heard last. One that never was is counted from when it is first looked at."""

    def __init__(self, redis: Redis, keys: Keys, registry: Registry, outbox: Outbox) -> None:
        self._redis = redis
        self._key = keys.named(HEARD)
        self._registry = registry
        self._outbox = outbox
        self._posting = Posting(redis, keys)

    async def go(self) -> None:
        """Look for ever."""
        await take_turns("looks for silence", self.turn, LOOK)

    async def turn(self) -> float:
        """Tell of those that are silent by now. The answer: seconds until it is worth looking again."""
        expected = {app.id: app for app in self._registry.apps.values() if app.expect_every}
        watched = {app_id: app for app_id, app in expected.items() if not app.app.disabled}
        now = int((await self._redis.time())[0]) if expected else 0
        if off := expected.keys() - watched.keys():
            # Who may not send is not silent: it counts anew once it may.
            await self._redis.zadd(self._key, {str(app_id): now for app_id in off}, gt=True)
        if watched:
            await self._redis.zadd(self._key, {str(app_id): now for app_id in watched}, nx=True)
            heard = await self._redis.zmscore(self._key, [str(app_id) for app_id in watched])
            for app, last in zip(watched.values(), heard, strict=True):
                if last is not None and app.expect_every is not None and now - last > app.expect_every:
                    await self._tell(app, int(last), now)
        return LOOK

    async def _tell(self, app: LiveApp, last: int, now: int) -> None:
        data = {
            "app_id": app.id,
            "app": app.app.name,
            "expect_every": app.expect_every,
            "silent_since": iso(last * 1000),
            "silent_for": now - last,
        }
        recipients = operators_of(self._registry.endpoints, app)
        messages = self._outbox.announce(KIND, now * 1000, data, recipients)
        if await self._posting.post(messages.outgoing, Once("silent", str(app.id), str(last))):
            log.warning("a source is silent", app=app.app.name, seconds=now - last, told=len(messages.outgoing))
            for trouble in messages.troubles:
                log.warning("a message is not sent", app_id=app.id, type=KIND, reason=trouble)
