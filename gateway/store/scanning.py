"""Stored events with their bytes, the oldest first: for those who go through all of them, some at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from gateway.store.connection import Redis
from gateway.store.keys import Keys
from gateway.store.listing import Place
from gateway.store.reading import StoredEvent, read_event

FEW = 25
"""How many are read at a time, at most."""
MOST_BYTES = 4_000_000
"""So much of their bodies is read at a time, or one that is larger."""


class Span(msgspec.Struct, frozen=True):
    """From when until when events came: milliseconds of the store's clock, both included; None is without end."""

    since: int | None = None
    until: int | None = None


class Scanner:
    """Goes through the events of one shard."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def next(self, span: Span, after: Place | None, size: int = FEW) -> list[tuple[Place, StoredEvent | None]]:
        """The next events that came after this place, `size` or fewer; none where they end. None: it was just removed."""
        places = await self._fit(await self._places(span, after, size))
        async with self._redis.pipeline(transaction=False) as pipe:
            for place in places:
                pipe.hgetall(self._keys.event(place.id))
            rows = await pipe.execute() if places else []
        return [
            (place, read_event(place.id, fields) if b"head" in fields else None)
            for place, fields in zip(places, rows, strict=True)
        ]

    async def _fit(self, places: Sequence[Place]) -> Sequence[Place]:
        """The first of these, at least one, as far as their bodies go together."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for place in places:
                pipe.hstrlen(self._keys.event(place.id), "body")
            sizes = await pipe.execute() if places else []
        fitting = sum(total <= MOST_BYTES for total in itertools.accumulate(sizes))
        return places[: max(1, fitting)]

    async def count(self, span: Span) -> int:
        """How many events there are."""
        low, high = _bounds(span)
        return int(await self._redis.zcount(self._keys.named("events"), low, high))

    async def place_of(self, span: Span, number: int) -> Place | None:
        """The place of the so many-th of these events, counted from 1."""
        low, high = _bounds(span)
        key = self._keys.named("events")
        found = await self._redis.zrange(key, low, high, byscore=True, offset=number - 1, num=1, withscores=True)
        return Place(int(found[0][1]), found[0][0].decode()) if found else None

    async def _places(self, span: Span, after: Place | None, size: int) -> Sequence[Place]:
        key = self._keys.named("events")
        low, high = _bounds(span)
        if after is not None and (span.since is None or after.score >= span.since):
            low = f"({after.score}"
        async with self._redis.pipeline(transaction=True) as pipe:
            if after is not None:
                # What came in the same millisecond: few enough to take them all.
                pipe.zrange(key, after.score, after.score, byscore=True, withscores=True)
            pipe.zrange(key, low, high, byscore=True, offset=0, num=size, withscores=True)
            answers = await pipe.execute()
        places = {Place(int(score), raw.decode()) for raw, score in itertools.chain.from_iterable(answers)}
        return sorted(place for place in places if (after is None or place > after) and _within(place, span))[:size]


def read_place(cursor: str) -> Place:
    """A place from `write_place`'s text."""
    score, _, event_id = cursor.partition(".")
    return Place(int(score), event_id)


def write_place(place: Place) -> str:
    """A place as a cursor."""
    return f"{place.score}.{place.id}"


def _within(place: Place, span: Span) -> bool:
    return (span.since is None or place.score >= span.since) and (span.until is None or place.score <= span.until)


def _bounds(span: Span) -> tuple[int | str, int | str]:
    return ("-inf" if span.since is None else span.since, "+inf" if span.until is None else span.until)
