"""Rewrapping every sealed secret of the store under the newest master key, and counting which key each is under.

Safe at any time: what others write meanwhile is seen by WATCH and looked at again, and a secret that was rewrapped
is passed over the next time, so that a rewrapping that was cut short goes on where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec
from redis.exceptions import WatchError

from gateway.audit import Change
from gateway.secrets import VERIFY_FIELD, field_of, key_id_of
from gateway.store.catalog import Catalog, Contents, Pipeline
from gateway.store.changes import Changes
from gateway.store.connection import Redis
from gateway.store.keys import Keys
from gateway.wrappings import find_needed, rewrap_record

BATCH = 200
"""Records of one transaction."""
ANSWERS = "answers"
Record = tuple[str, str, str, dict[str, Any]]
"""Its kind, which is its hash's name too; its field there; its owner; and the record as plain data."""


class KeyUse(msgspec.Struct, frozen=True):
    """A master key by its id: whether it was given (`newest`, `older`) or is `missing`, and the records that need it."""

    id: str
    state: str
    records: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.records.values())


class Rewrapping:
    """Looks at all that one shard keeps sealed."""

    def __init__(self, redis: Redis, keys: Keys, catalog: Catalog, master_keys: Sequence[bytes]) -> None:
        self._redis = redis
        self._keys = keys
        self._catalog = catalog
        self._master_keys = master_keys

    async def rewrap(self) -> Counter[str]:
        """Bring everything under the newest key, a batch at a time. How many records were changed, by kind."""
        done: Counter[str] = Counter()
        while batch := await self._rewrap_batch():
            done += batch
        async for name in self._answers():
            done[ANSWERS] += await self._rewrap_answer(name)
        return +done

    async def uses(self) -> list[KeyUse]:
        """Every key that was given, in order, and those that are missing, with how many records need each."""
        needed: dict[str, Counter[str]] = {key_id_of(key): Counter() for key in self._master_keys}
        for kind, _, _, record in read_records(await self._catalog.read()):
            _count(needed, kind, record)
        async for name in self._answers():
            raw = await self._redis.get(name)
            if raw is not None:
                _count(needed, ANSWERS, msgspec.json.decode(raw))
        states = ["newest", *["older"] * len(self._master_keys)][: len(self._master_keys)]
        states += ["missing"] * (len(needed) - len(states))
        return [KeyUse(key, state, dict(needed[key])) for key, state in zip(needed, states, strict=True)]

    async def _rewrap_batch(self) -> Counter[str]:
        done: Counter[str] = Counter()

        async def write(pipe: Pipeline, now: Contents) -> Changes:
            done.clear()
            for kind, field, owner, record in read_records(now):
                fresh = rewrap_record(self._master_keys, owner, record)
                if fresh != record and done.total() < BATCH:
                    pipe.hset(self._keys.named(kind), field, msgspec.json.encode(fresh))
                    done[kind] += 1
            subject = f"key {key_id_of(self._master_keys[0])}" if self._master_keys else ""
            entry = Change(action="secret.rewrap", subject=subject, detail=dict(done))
            return Changes([], [], [], entries=[entry] if done else [])

        await self._catalog.change(write)
        return done

    async def _rewrap_answer(self, name: str) -> int:
        async with self._redis.pipeline(transaction=True) as pipe:
            while True:
                await pipe.watch(name)
                raw = await pipe.get(name)
                record = {} if raw is None else msgspec.json.decode(raw)
                fresh = rewrap_record(self._master_keys, name.removeprefix(self._keys.answer("")), record)
                if fresh == record:
                    await pipe.reset()
                    return 0
                pipe.multi()
                pipe.set(name, msgspec.json.encode(fresh), xx=True, keepttl=True)
                try:
                    await pipe.execute()
                except WatchError:
                    continue
                return 1

    async def _answers(self) -> AsyncIterator[str]:
        async for name in self._redis.scan_iter(match=self._keys.answer("*").replace("[", r"\["), count=1000):
            yield name.decode()


def read_records(now: Contents) -> Iterator[Record]:
    """All published records that may hold sealed secrets."""
    for app in now.apps.values():
        yield "apps", str(app.id), f"app:{app.name}", msgspec.to_builtins(app)
    for number, pair in now.pairs.items():
        if number in now.apps:
            owner = field_of(f"app:{now.apps[number].name}", VERIFY_FIELD)
            yield "pairs", str(number), owner, msgspec.to_builtins(pair)
    for endpoint in now.endpoints.values():
        yield "endpoints", endpoint.id, endpoint.owner, msgspec.to_builtins(endpoint)
    for name, stored in now.secrets.items():
        yield "secrets", name, f"secret:{name}", msgspec.to_builtins(stored)


def _count(needed: dict[str, Counter[str]], kind: str, record: Any) -> None:
    for key in set(find_needed(record)):
        needed.setdefault(key, Counter())[kind] += 1
