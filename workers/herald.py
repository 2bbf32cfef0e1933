"""Endpoints that were disabled: told to the others that want to hear of it, logged, once each.

The script that disables one writes its id down; whoever looks next tells of it. A worker that dies in between leaves the
id there, and the store sees to it that the messages are put once.
"""

from __future__ import annotations

import structlog

from gateway.endpoints import LiveEndpoint
from gateway.outbox import Outbox
from gateway.runs import iso
from gateway.standings import Standing
from gateway.store.connection import Redis
from gateway.store.keys import Keys
from gateway.store.posting import Once, Posting
from gateway.store.registry import Registry
from gateway.store.standings import Standings
from workers.loops import take_turns

KIND = "endpoint.disabled"
LOOK = 2.0
"""Seconds between two looks."""
log = structlog.get_logger()


class Herald:
    """Looks for news of endpoints. All workers look."""

    def __init__(self, redis: Redis, keys: Keys, registry: Registry, outbox: Outbox) -> None:
        self._standings = Standings(redis, keys)
        self._posting = Posting(redis, keys)
        self._registry = registry
        self._outbox = outbox

    async def go(self) -> None:
        """Look for ever."""
        await take_turns("looks for disabled endpoints", self.turn, LOOK)

    async def turn(self) -> float:
        """Tell of those that were disabled. The answer: seconds until it is worth looking again."""
        for endpoint_id in await self._standings.news():
            standing = (await self._standings.read([endpoint_id]))[endpoint_id]
            if standing.disabled is not None:
                await self._tell(endpoint_id, standing)
            await self._standings.forget_news(endpoint_id)
        return LOOK

    async def _tell(self, endpoint_id: str, standing: Standing) -> None:
        known = self._registry.endpoints.get(endpoint_id)
        name, at = known.name if known is not None else endpoint_id, standing.disabled_at or 0
        data = {
            "endpoint_id": endpoint_id,
            "endpoint": name,
            "reason": standing.disabled,
            "detail": standing.why_disabled,
            "failures": standing.failures,
            "failing_since": iso(standing.failing_since),
            "disabled_at": iso(at),
        }
        others = [each for each in self._operators() if each.id != endpoint_id]
        messages = self._outbox.announce(KIND, at, data, others)
        if await self._posting.post(messages.outgoing, Once(f"endpoint:{endpoint_id}", "told", str(at))):
            told = len(messages.outgoing)
            log.error("an endpoint is disabled", endpoint=name, reason=standing.why_disabled, told=told)
            for trouble in messages.troubles:
                log.warning("a message is not sent", type=KIND, reason=trouble)

    def _operators(self) -> list[LiveEndpoint]:
        own = (app.endpoint for app in self._registry.apps.values() if app.endpoint is not None)
        return list({each.id: each for each in (*self._registry.endpoints.values(), *own)}.values())
