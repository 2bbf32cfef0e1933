"""Answers to writes that came with an `Idempotency-Key`, kept for a day, so that the same request is answered again.

A record is made before the work begins and gets the answer when the work is done. It stays without one when the process
died between the two, or the store gave no clear reply: then nobody knows whether the work was done, and it is not done
again. Whoever asks again is told so.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.errors import GatewayError
from gateway.secrets import seal, unseal
from gateway.store.connection import Redis
from gateway.store.keys import Keys

LIFETIME_MS = 86_400_000


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept under a key: the digest of the request, when it began (unix seconds), and its answer when there is
    one: status, and the document sealed under the master keys, for it may hold a secret.
    """

    digest: str
    began: float
    status: int | None = None
    sealed: str | None = None


class Answers:
    """The kept answers of one shard, by the caller's name for the request."""

    def __init__(self, redis: Redis, keys: Keys, master_keys: Sequence[bytes]) -> None:
        self._redis = redis
        self._keys = keys
        self._master_keys = master_keys

    async def begin(self, name: str, digest: str, now: float) -> Kept | None:
        """Take the name for this request: None when it was free, else what is kept under it.

        Raises ConfigError without a master key: an answer that can't be kept should not be promised.
        """
        seal(self._master_keys, name, "")
        record = msgspec.json.encode(Kept(digest, now))
        while not await self._redis.set(self._keys.answer(name), record, nx=True, px=LIFETIME_MS):
            held = await self._redis.get(self._keys.answer(name))
            if held is not None:  # else its time was over just now
                return msgspec.json.decode(held, type=Kept)
        return None

    async def keep(self, name: str, begun: Kept, status: int, document: bytes) -> None:
        """Keep the answer. The day begins anew."""
        sealed = seal(self._master_keys, name, document.decode())
        record = msgspec.structs.replace(begun, status=status, sealed=sealed)
        await self._redis.set(self._keys.answer(name), msgspec.json.encode(record), px=LIFETIME_MS)

    async def forget(self, name: str) -> None:
        """Free the name again: the request was refused and changed nothing."""
        await self._redis.delete(self._keys.answer(name))

    def read(self, name: str, kept: Kept) -> bytes | None:
        """The kept document; None when it can't be opened any more, for its master key is gone."""
        try:
            return None if kept.sealed is None else unseal(self._master_keys, name, kept.sealed).encode()
        except GatewayError:
            return None
