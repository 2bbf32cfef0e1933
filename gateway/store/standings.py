"""How endpoints stand, in the store: read with the callbacks that wait for them, and set right by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.callbacks import Callback
from gateway.runs import CallbackState
from gateway.standings import Standing, find_hindrance, read_standing
from gateway.store import scripts
from gateway.store.connection import Redis
from gateway.store.keys import Keys

NEWS = "endpoints:news"


class _Switch(msgspec.Struct, frozen=True):
    disabled: bool = False


class Standings:
    """The endpoints of one shard, by id."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def read(self, endpoint_ids: Sequence[str]) -> dict[str, Standing]:
        """How each stands. One that nothing was sent to stands well."""
        if not endpoint_ids:
            return {}
        async with self._redis.pipeline(transaction=False) as pipe:
            for each in endpoint_ids:
                pipe.hgetall(self._keys.health(each))
            pipe.hmget(self._keys.named("endpoints"), list(endpoint_ids))
            *found, settings = await pipe.execute()
        return {
            each: read_standing(
                {name.decode(): value.decode() for name, value in fields.items()}, by_operator=_is_off(raw)
            )
            for each, fields, raw in zip(endpoint_ids, found, settings, strict=True)
        }

    async def explain(self, callbacks: Sequence[Callback]) -> list[Callback]:
        """The same callbacks; those that wait for something else than their time say for what."""
        waiting = [each for each in callbacks if each.state == CallbackState.PENDING]
        if not waiting:
            return list(callbacks)
        endpoints = sorted({each.endpoint for each in waiting})
        standings = await self.read(endpoints)
        now, lanes, heads = await self._look(endpoints, waiting)
        held = {
            each.id: find_hindrance(each, standings[each.endpoint], now, head, lanes[each.endpoint])
            for each, head in zip(waiting, heads, strict=True)
        }
        return [msgspec.structs.replace(each, held=held[each.id]) if held.get(each.id) else each for each in callbacks]

    async def _look(
        self, endpoints: Sequence[str], waiting: Sequence[Callback]
    ) -> tuple[int, dict[str, int | None], list[str | None]]:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.zmscore(self._keys.named("callbacks:lanes"), list(endpoints))
            for each in waiting:
                pipe.zrange(self._keys.line(each.endpoint, _hash(each.order)), 0, 0)
            (seconds, micros), lanes, *heads = await pipe.execute()
        places = {each: None if at is None else int(at) for each, at in zip(endpoints, lanes, strict=True)}
        firsts = [
            head[0].decode() if each.order is not None and head else None
            for each, head in zip(waiting, heads, strict=True)
        ]
        return int(seconds) * 1000 + int(micros) // 1000, places, firsts

    async def revive(self, endpoint_id: str) -> Standing:
        """Forget what was: it is sent to again at once, unless its operator disabled it. Gives how it stood."""
        before = (await self.read([endpoint_id]))[endpoint_id]
        await scripts.call(self._redis, "revive", self._keys.prefix, endpoint_id)
        return before

    async def news(self) -> list[str]:
        """The endpoints that were disabled and are to be told of."""
        return sorted(each.decode() for each in await self._redis.smembers(self._keys.named(NEWS)))

    async def forget_news(self, endpoint_id: str) -> None:
        """It was told."""
        await self._redis.srem(self._keys.named(NEWS), endpoint_id)


def _is_off(raw: Any) -> bool:
    return raw is not None and msgspec.json.decode(raw, type=_Switch).disabled


def _hash(order: str | None) -> str:
    return hashlib.sha1((order or "").encode(), usedforsecurity=False).hexdigest()
