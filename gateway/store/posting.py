"""Messages that are about no run, on their way into the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.callbacks import Outgoing
from gateway.store import scripts
from gateway.store.connection import Redis
from gateway.store.keys import Keys
from gateway.store.records import outgoing_arguments


class Once(msgspec.Struct, frozen=True):
    """What has been told: the field of a hash, with the value that it was told for."""

    name: str
    field: str
    value: str


class Posting:
    """The outbox of one shard."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def post(self, messages: Sequence[Outgoing], once: Once | None = None) -> bool:
        """Put all of them into the outbox, or none where that was done `once` already. Whether it was done now."""
        mark: tuple[Any, ...] = ("", "", "")
        if once is not None:
            mark = (self._keys.named(once.name), once.field, once.value)
        arguments = [argument for each in messages for argument in outgoing_arguments(each)]
        put = await scripts.call(self._redis, "post", self._keys.prefix, *mark, len(messages), *arguments)
        return int(put) > 0
