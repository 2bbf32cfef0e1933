"""What the sweep asks of the store: who is past their time, to remove them, and to mend the indexes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from gateway.runs import OPEN, TERMINAL, CallbackState
from gateway.store import scripts
from gateway.store.connection import Redis
from gateway.store.keys import Keys

DAY_MS = 86_400_000
SENDING = (CallbackState.PENDING, CallbackState.SENDING)
SENT = tuple(state for state in CallbackState if state not in SENDING)
ENDED = tuple(sorted(TERMINAL))
ROOM = 1_000_000
"""Bytes of requests that one page of mending goes through."""
WORDS = frozenset({"young", "stays", "gone"})
NOTES = "sweeps"
ENDED_AT = "ended_at"
FAILED = "archive_failed"
LAST_RUN = b"last_run"

Part = Literal["run", "event", "callback"]


class Limits(msgspec.Struct, frozen=True):
    """How long things are kept: for days (0 = for ever) and so many of the newest ended runs (0 = all)."""

    days: float = 0
    runs: int = 0
    window_ms: int = 0
    """For so long after an event came, what it started is remembered, whatever else is removed."""

    @property
    def any(self) -> bool:
        """Whether anything is ever removed."""
        return self.days > 0 or self.runs > 0


class Mark(msgspec.Struct, frozen=True):
    """A record past its time, as it was when it was looked at: it is removed only if it still is so."""

    id: str
    mark: str


class Looked(msgspec.Struct, frozen=True):
    """One page of an index: how many are in it, which are past their time, whether everything behind is young."""

    size: int
    old: list[Mark]
    ended: bool


class Removed(msgspec.Struct, frozen=True):
    """How many were removed."""

    runs: int = 0
    events: int = 0
    callbacks: int = 0


class Mended(msgspec.Struct, frozen=True):
    """One page of mending: where the next begins (0 = this was the end), how many runs were there, what was put back."""

    place: int
    found: int
    counts: dict[str, int]


class Retention:
    """One shard's records past their time, and its indexes. The store's clock says what is old."""

    def __init__(self, redis: Redis, keys: Keys, limits: Limits) -> None:
        self._redis = redis
        self._keys = keys
        self.limits = limits

    def walks(self) -> list[tuple[Part, str]]:
        """The indexes that hold what may be past its time, each with the kind of its records."""
        runs: list[tuple[Part, str]] = [("run", self._keys.state("run", state)) for state in ENDED]
        callbacks: list[tuple[Part, str]] = [("callback", self._keys.state("callback", state)) for state in SENT]
        return [*runs, ("event", self._keys.named("events")), *callbacks]

    async def look(self, part: Part, index: str, offset: int, size: int) -> Looked:
        """Judge one page of an index, the oldest first. Removes nothing but entries whose record is lost."""
        ids = [raw.decode() for raw in await self._redis.zrange(index, offset, offset + size - 1)]
        if not ids:
            return Looked(0, [], ended=True)
        words = [word.decode() for word in await self._call(part, index, "look", ids)]
        pairs = zip(ids, words, strict=False)
        old = [Mark(record_id, word) for record_id, word in pairs if word not in WORDS]
        size_now = len(words) - words.count("gone")
        return Looked(size_now, old, ended=len(ids) < size or words[-1] == "young")

    async def remove(self, part: Part, index: str, marks: Sequence[Mark]) -> Removed:
        """Remove those of these records that are as they were when they were looked at, all that is theirs included."""
        flat = [text for each in marks for text in (each.id, each.mark)]
        runs, events, callbacks = await self._call(part, index, "remove", flat, len(marks))
        return Removed(int(runs), int(events), int(callbacks))

    async def _call(self, part: Part, index: str, word: str, items: list[str], count: int | None = None) -> list[bytes]:
        limits = self.limits
        cutoff = "" if not limits.days else await self._now() - int(limits.days * DAY_MS)
        lists = [entry for states in (OPEN, ENDED, SENDING, SENT) for entry in scripts.counted(states)]
        head = (part, index, cutoff, limits.runs or "", limits.window_ms, *lists, word)
        answer: list[bytes] = await scripts.call(
            self._redis, "retire", self._keys.prefix, *head, len(items) if count is None else count, *items
        )
        return answer

    async def mend(self, place: int | None, size: int) -> Mended:
        """Put the runs below `place` (None: the newest) back into every index that lost them, and what is theirs."""
        arguments = ("" if place is None else place, size, ROOM)
        below, found, *flat = await scripts.call(self._redis, "mend", self._keys.prefix, *arguments)
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return Mended(int(below), int(found), {what.decode(): int(count) for what, count in pairs})

    async def mend_events(self, cursor: int, count: int) -> tuple[int, int]:
        """Put the events of a part of the keyspace back into their list. The answer: where to go on, how many."""
        prefix = self._keys.event("")
        following, names = await self._redis.scan(cursor, match=f"{prefix}*", count=count, _type="hash")
        ids = [name.decode().removeprefix(prefix) for name in names]
        missing = await self._unlisted(ids)
        async with self._redis.pipeline(transaction=False) as pipe:
            for event_id in missing:
                pipe.hmget(self._keys.event(event_id), "received_at", "head")
            rows = await pipe.execute() if missing else []
        found = {
            event_id: int(row[0]) for event_id, row in zip(missing, rows, strict=True) if row[0] and row[1] is not None
        }
        if found:
            await self._redis.zadd(self._keys.named("events"), found, nx=True)
            await self.count("mended:event", len(found))
        return int(following), len(found)

    async def _unlisted(self, event_ids: list[str]) -> list[str]:
        if not event_ids:
            return []
        scores = await self._redis.zmscore(self._keys.named("events"), event_ids)
        return [event_id for event_id, score in zip(event_ids, scores, strict=True) if score is None]

    async def count(self, name: str, number: int) -> None:
        """Raise one of the store's counts."""
        await self._redis.hincrby(self._keys.named("counts"), name, number)

    async def notes(self) -> dict[str, int]:
        """Where the walks go on, by name, whichever worker sweeps."""
        kept = await self._redis.hgetall(self._keys.named(NOTES))
        # Some of it the scripts keep themselves.
        return {name.decode(): int(value) for name, value in kept.items() if name != LAST_RUN}

    async def note(self, notes: dict[str, int]) -> None:
        """Remember where the walks go on; and that a sweep ended now."""
        await self._redis.hset(self._keys.named(NOTES), mapping={**notes, ENDED_AT: await self._now()})

    async def _now(self) -> int:
        seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000
