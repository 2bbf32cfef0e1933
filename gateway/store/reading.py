"""Reading runs, callbacks and events back, one or a page at a time, newest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.callbacks import Callback
from gateway.credits import Allowance, Balance, read_balance
from gateway.errors import NotFound
from gateway.events import Head
from gateway.flow import Flow
from gateway.rules import Rules, SecretUse
from gateway.runs import TERMINAL, Run, State, conversation_of, first_turn
from gateway.store.accepting import read_places
from gateway.store.batches import Batches
from gateway.store.connection import Redis
from gateway.store.keys import Keys
from gateway.store.records import read_callback, read_run
from gateway.store.secret_uses import read_secret_uses
from gateway.store.standings import Standings
from gateway.store.uses import USED

CHUNK = 100
LISTED = ("head", "runs", "received_at", "repeats", "repeated_at")
"""The fields of an event that are always small."""
LOOKED_THROUGH = 2000


class ListedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A verified delivery without its bytes. `received_at` is milliseconds of the store's clock."""

    id: str
    head: Head
    run_ids: list[int]
    received_at: int
    repeats: int = 0
    """How often it came again, and when last."""
    repeated_at: int | None = None


class StoredEvent(ListedEvent, frozen=True, kw_only=True):
    """A verified delivery as the store holds it."""

    body: bytes


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs are wanted. Times are milliseconds; `metadata` holds names and the texts their values must have.

    `states` are several of which any will do, for those who count states another way than we.
    """

    workflow_id: int | None = None
    state: str | None = None
    states: tuple[str, ...] = ()
    app_id: int | None = None
    since: int | None = None
    until: int | None = None
    metadata: dict[str, str] = {}

    def fits(self, run: Run) -> bool:
        request, metadata = run.request, run.request.metadata or {}
        return (
            self.workflow_id in (None, request.workflow_id)
            and self.state in (None, str(run.state))
            and (not self.states or str(run.state) in self.states)
            and self.app_id in (None, request.app_id)
            and (self.since is None or run.created_at >= self.since)
            and (self.until is None or run.created_at <= self.until)
            and all(_text_of(metadata.get(name)) == value for name, value in self.metadata.items())
        )


class Page(msgspec.Struct, frozen=True):
    """Some runs, and the cursor below which the next page begins; none when this was the last.

    `skip` is what is left of the offset for the next page.
    """

    runs: list[Run]
    next: int | None
    skip: int = 0


class Reader:
    """What the shard holds, for people and programs that look."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._standings = Standings(redis, keys)
        # Many requests that wait wake in the same moment: they look together, over one connection.
        self._runs: Batches[str, dict[bytes, bytes]] = Batches(self._hashes, limit=CHUNK)

    async def run(self, run_id: int) -> Run:
        """One run. Raises NotFound."""
        fields = await self._runs.submit(self._keys.run(run_id))
        if not fields:
            message = f"there is no run {run_id}"
            raise NotFound(message)
        return read_run(run_id, fields)

    async def states(self, run_ids: Sequence[int]) -> dict[int, State | None]:
        """The state of each of these runs; None for those that are gone."""
        if not run_ids:
            return {}
        async with self._redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.hget(self._keys.run(run_id), "state")
            found = await pipe.execute()
        return {
            run_id: None if state is None else State(state.decode())
            for run_id, state in zip(run_ids, found, strict=True)
        }

    async def ended(self, run_ids: Sequence[int]) -> set[int]:
        """Those of these runs that are over, or gone."""
        states = await self.states(run_ids)
        return {run_id for run_id, state in states.items() if state is None or state in TERMINAL}

    async def locate(self, run: Run) -> Run:
        """A run that has not begun, with how many go before it; any other as it is."""
        held = run.held
        if held is None or held.reason not in ("queue", "concurrency"):
            return run
        behind = await self._count_before(run.id, held.reason)
        return msgspec.structs.replace(run, held=msgspec.structs.replace(held, behind=behind))

    async def _count_before(self, run_id: int, reason: str) -> int | None:
        if reason == "queue":
            rank: int | None = await self._redis.zrank(self._keys.queue("run"), self._keys.job("run", run_id))
            return rank
        text = await self._redis.hget(self._keys.run(run_id), "flow")
        rule = None if text is None else msgspec.json.decode(text, type=Flow).concurrency
        if rule is None:
            return None
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zcard(self._keys.gate(rule.name, "active"))
            pipe.zrank(self._keys.gate(rule.name, "waiting"), f"{run_id:016d}")
            active, rank = await pipe.execute()
        return None if rank is None else int(active + rank)

    async def page(
        self,
        wanted: RunFilter,
        limit: int,
        before: int | None = None,
        offset: int = 0,
        allowed: Callable[[Run], bool] | None = None,
    ) -> Page:
        """The newest runs that fit and are `allowed`, with ids below `before`, `offset` of them passed over.

        Goes through the smallest index there is for the filter, at most LOOKED_THROUGH runs at a time; a page may
        therefore be short, or empty, and still have a next one.
        """
        found: list[Run] = []
        skip, cursor = offset, before
        for _ in range(LOOKED_THROUGH // CHUNK):
            ids = await self._ids(wanted, cursor)
            hashes = await self._hashes([self._keys.run(run_id) for run_id in ids])
            for run_id, fields in zip(ids, hashes, strict=True):
                cursor = run_id
                run = read_run(run_id, fields) if fields else None
                if run is None or not wanted.fits(run) or not (allowed is None or allowed(run)):
                    continue
                if skip:
                    skip -= 1
                    continue
                found.append(run)
                if len(found) == limit:
                    return Page(found, cursor)
            if len(ids) < CHUNK:
                return Page(found, None)
            if not any(hashes):
                cursor = await self._above_next(ids[-1])
            if cursor is None:
                return Page(found, None)
        return Page(found, cursor, skip)

    async def conversation(self, conversation_id: str) -> list[Run]:
        """The runs of one conversation, oldest first. Raises NotFound."""
        ids = [int(raw) for raw in await self._redis.lrange(self._keys.conversation(conversation_id), 0, -1)]
        first = first_turn(conversation_id)
        ids = ids if first is None else [first, *ids]
        found = await self._hashes([self._keys.run(run_id) for run_id in ids])
        known = (read_run(run_id, fields) for run_id, fields in zip(ids, found, strict=True) if fields)
        runs = [run for run in known if conversation_of(run) == conversation_id]
        if not runs:
            message = f"there is no conversation {conversation_id[:80]!r}"
            raise NotFound(message)
        return runs

    async def balances(self, payers: Mapping[str, Allowance]) -> dict[str, Balance]:
        """What each of these tokens and apps has left in this period, and when it gets more."""
        names = list(payers)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for name in names:
                pipe.hmget(self._keys.balance(name), "left", "since")
            (seconds, micros), *kept = await pipe.execute()
        now = seconds * 1000 + micros // 1000
        return {
            name: read_balance(payers[name], left, since, now) for name, (left, since) in zip(names, kept, strict=True)
        }

    async def last_uses(self) -> dict[str, int]:
        """When each token was last used, in unix seconds, true to the minute. Without those that never were."""
        rows = await self._redis.zrange(self._keys.named(USED), 0, -1, withscores=True)
        return {token_id.decode(): int(score) for token_id, score in rows}

    async def callback(self, callback_id: str) -> Callback:
        """One callback with its attempts. Raises NotFound."""
        fields = await self._redis.hgetall(self._keys.callback(callback_id))
        if not fields:
            message = f"there is no callback {callback_id!r}"
            raise NotFound(message)
        (found,) = await self._standings.explain([read_callback(callback_id, fields)])
        return found

    async def callbacks_of(self, run_id: int) -> list[Callback]:
        """The callbacks of one run; their ids are kept with the run."""
        raw = await self._redis.hget(self._keys.run(run_id), "callbacks")
        ids = raw.decode().split(",") if raw else []
        found = await self._hashes([self._keys.callback(each) for each in ids])
        read = [read_callback(each, fields) for each, fields in zip(ids, found, strict=True) if fields]
        return await self._standings.explain(read)

    async def event(self, event_id: str) -> StoredEvent:
        """One event with its bytes as received. Raises NotFound."""
        fields = await self._redis.hgetall(self._keys.event(event_id))
        if b"head" not in fields:
            message = f"there is no event {event_id!r}"
            raise NotFound(message)
        return read_event(event_id, fields)

    async def events_seen(self, keys: Sequence[str]) -> list[str]:
        """The ids of the events that are remembered under these keys and are still there, each once."""
        names = [f"{self._keys.prefix}seen:{key}" for key in keys]
        found = await self._redis.mget(names) if names else []
        ids = list(dict.fromkeys(seen.split(b" ", 1)[0].decode() for seen in found if seen))
        async with self._redis.pipeline(transaction=False) as pipe:
            for event_id in ids:
                pipe.hexists(self._keys.event(event_id), "head")
            there = await pipe.execute() if ids else []
        return [event_id for event_id, is_there in zip(ids, there, strict=True) if is_there]

    async def rules(self, digest: str) -> Rules | None:
        """The rules of an app that have this digest."""
        kept = await self._redis.hget(self._keys.named("rules"), digest)
        return None if kept is None else msgspec.json.decode(kept, type=Rules)

    async def secret_uses(self, names: Sequence[str]) -> dict[str, SecretUse]:
        """What is known of the uses of these secrets, each by its `use_name`."""
        return await read_secret_uses(self._redis, self._keys, names)

    async def _ids(self, wanted: RunFilter, before: int | None) -> list[int]:
        if wanted.states:
            found = [await self._ids_in(self._keys.state("run", state), CHUNK, before) for state in wanted.states]
            return sorted({run_id for ids in found for run_id in ids}, reverse=True)[:CHUNK]
        if wanted.state is not None:
            return await self._ids_in(self._keys.state("run", wanted.state), CHUNK, before)
        if wanted.workflow_id is not None:
            return await self._ids_in(self._keys.runs_of(wanted.workflow_id), CHUNK, before)
        return await self._last_ids(CHUNK, before)

    async def _last_ids(self, limit: int, before: int | None) -> list[int]:
        # Run ids are given without gaps, so that the newest need no index of their own.
        last = int(await self._redis.get(self._keys.named("runs:last")) or 0)
        top = last if before is None else min(last, before - 1)
        return list(range(top, max(top - limit, 0), -1))

    async def _above_next(self, below: int) -> int | None:
        """A cursor right above the next run there is: there may be millions of ids whose runs' time is over."""
        found = [await self._ids_in(self._keys.state("run", state), 1, below) for state in State]
        nearest = max((ids[0] for ids in found if ids), default=None)
        return None if nearest is None else nearest + 1

    async def _ids_in(self, key: str, limit: int, before: int | None) -> list[int]:
        high = "+inf" if before is None else f"({before}"
        return [
            int(raw)
            for raw in await self._redis.zrange(key, high, "-inf", desc=True, byscore=True, offset=0, num=limit)
        ]

    async def _hashes(self, names: Sequence[str]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(name)
            return list(await pipe.execute()) if names else []


def read_event(event_id: str, fields: Mapping[bytes, bytes]) -> StoredEvent:
    """An event from the fields of its hash."""
    listed = list_event(event_id, *(fields.get(name.encode()) for name in LISTED))
    return StoredEvent(**msgspec.structs.asdict(listed), body=fields[b"body"])


def list_event(
    event_id: str,
    head: bytes | None,
    runs: bytes | None,
    received_at: bytes | None,
    repeats: bytes | None,
    repeated_at: bytes | None,
) -> ListedEvent:
    """An event from those fields of its hash that are always small: LISTED."""
    assert head is not None
    started, skipped = read_places([each for each in (runs or b"").split(b",") if each])
    kept = msgspec.json.decode(head, type=Head)
    if skipped:
        outcome = kept.decision.outcome if started else "skipped"
        rivals = [run_id for _, run_id, _ in skipped]
        kept = msgspec.structs.replace(
            kept, decision=msgspec.structs.replace(kept.decision, outcome=outcome, skipped=rivals)
        )
    return ListedEvent(
        id=event_id,
        head=kept,
        # A joined run is named once for each of an event's requests that joined it.
        run_ids=list(dict.fromkeys(started)),
        received_at=int(received_at or 0),
        repeats=int(repeats or 0),
        repeated_at=None if repeated_at is None else int(repeated_at),
    )


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
