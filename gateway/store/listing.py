"""Events and callbacks a page at a time, the newest first, through sets that are scored by time."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence, Set
from typing import Any

import msgspec

from gateway.callbacks import Callback
from gateway.errors import NotFound
from gateway.runs import CallbackState, RunRequest
from gateway.store.connection import Redis
from gateway.store.keys import Keys
from gateway.store.reading import LISTED, ListedEvent, list_event
from gateway.store.records import read_callback
from gateway.store.standings import Standings

FEWEST, MOST = 25, 100
LOOKED_THROUGH = 2000
DUPLICATE = "duplicate"
STATES = tuple(str(state) for state in CallbackState)

_request = msgspec.json.Decoder(RunRequest)


class Place(msgspec.Struct, frozen=True, order=True):
    """Where something stands in a list: its score, and its id where several have the same."""

    score: int
    id: str


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are wanted. Times are milliseconds of the store's clock.

    `outcome` is one of a decision's, or `duplicate`: what came again.
    """

    app_id: int | None = None
    type: str | None = None
    outcome: str | None = None
    since: int | None = None
    until: int | None = None

    def fits(self, event: ListedEvent) -> bool:
        """Whether it is wanted; its time was looked at before."""
        return (
            self.app_id in (None, event.head.app_id)
            and self.type in (None, event.head.type)
            and (
                self.outcome in (None, event.head.decision.outcome) or (self.outcome == DUPLICATE and event.repeats > 0)
            )
        )


class CallbackFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which callbacks are wanted; `since`: those that moved then (ms) or later."""

    state: str | None = None
    run_id: int | None = None
    app_id: int | None = None
    workflow_id: int | None = None
    endpoint: str | None = None
    since: int | None = None

    def fits(self, callback: Callback, request: RunRequest | None) -> bool:
        """Whether it is wanted; `request` is what started its run, None when the run's time is over."""
        return (
            self.state in (None, callback.state)
            and self.run_id in (None, callback.run_id)
            and self.app_id in (None, callback.app_id)
            and self.endpoint in (None, callback.endpoint)
            and (self.workflow_id is None or (request is not None and request.workflow_id == self.workflow_id))
        )


class Found(msgspec.Struct, frozen=True):
    """A callback, and what started its run."""

    callback: Callback
    request: RunRequest | None


class EventPage(msgspec.Struct, frozen=True):
    """Some events, and the id below which the next page begins; none when this was the last."""

    events: list[ListedEvent]
    next: str | None


class CallbackPage(msgspec.Struct, frozen=True):
    """Some callbacks, and the place below which the next page begins; none when this was the last."""

    found: list[Found]
    next: Place | None


class Listing:
    """The lists of one shard.

    Each looks at LOOKED_THROUGH records at most: a page may be short, or empty, and still have a next one.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._standings = Standings(redis, keys)

    async def events(self, wanted: EventFilter, limit: int, below: str | None = None) -> EventPage:
        """The newest events that fit, older than the event `below`. Raises NotFound when that is not there any more."""
        key = self._keys.named("events")
        place = None if below is None else await self._place_of(key, below)

        async def look(places: Sequence[Place]) -> list[ListedEvent | None]:
            found = await self._events([each.id for each in places])
            return [each if each and wanted.fits(each) else None for each in found]

        events, last = await self._walk([key], place, limit, look, wanted.since, wanted.until)
        return EventPage(events, None if last is None else last.id)

    async def callbacks(
        self,
        wanted: CallbackFilter,
        limit: int,
        below: Place | None = None,
        allowed: Callable[[Found], bool] | None = None,
    ) -> CallbackPage:
        """The callbacks that moved last, that fit and are `allowed`. One that moves meanwhile comes to the front."""

        async def look(places: Sequence[Place]) -> list[Found | None]:
            found = await self._callbacks([each.id for each in places])
            return [
                each if each and wanted.fits(each.callback, each.request) and (not allowed or allowed(each)) else None
                for each in found
            ]

        if wanted.run_id is not None:
            return await self._of_run(wanted.run_id, limit, below, look)
        keys = [self._keys.state("callback", state) for state in ([wanted.state] if wanted.state else STATES)]
        found, last = await self._walk(keys, below, limit, look, wanted.since)
        return CallbackPage(found, last)

    async def _of_run(
        self,
        run_id: int,
        limit: int,
        below: Place | None,
        look: Callable[[Sequence[Place]], Awaitable[list[Found | None]]],
    ) -> CallbackPage:
        """A run has one callback for its app, or a few: their ids are kept with it."""
        raw = await self._redis.hget(self._keys.run(run_id), "callbacks")
        places = [Place(0, each) for each in sorted(raw.decode().split(","), reverse=True)] if raw else []
        places = [each for each in places if below is None or each < below]
        pairs = zip(places, await look(places), strict=True)
        kept = [(place, found) for place, found in pairs if found is not None]
        more = len(kept) > limit
        return CallbackPage([found for _, found in kept[:limit]], kept[limit - 1][0] if more else None)

    async def _walk(
        self,
        keys: Sequence[str],
        below: Place | None,
        limit: int,
        look: Callable[[Sequence[Place]], Awaitable[list[Any]]],
        low: int | None = None,
        high: int | None = None,
    ) -> tuple[list[Any], Place | None]:
        """Up to `limit` of what `look` does not turn into None, and the place to go on from."""
        found: list[Any] = []
        looked = 0
        while looked < LOOKED_THROUGH:
            # Not many more than can be shown: a callback carries its message, which may be large.
            size = min(MOST, max(limit - len(found), FEWEST))
            places = await self._places(keys, below, size, low, high)
            for place, each in zip(places, await look(places), strict=True):
                below = place
                if each is not None:
                    found.append(each)
                if len(found) == limit:
                    return found, below
            if len(places) < size:
                return found, None
            looked += size
        return found, below

    async def _places(
        self, keys: Sequence[str], below: Place | None, size: int, low: int | None, high: int | None
    ) -> list[Place]:
        """The next `size` places in these sets taken together; fewer where they end."""
        lowest = "-inf" if low is None else low
        highest = "+inf" if high is None else high
        async with self._redis.pipeline(transaction=True) as pipe:
            for key in keys:
                if below is not None:
                    # What moved in the same millisecond: few enough to take them all.
                    pipe.zrange(key, below.score, below.score, desc=True, byscore=True, withscores=True)
                top = highest if below is None or (high is not None and high < below.score) else f"({below.score}"
                pipe.zrange(key, top, lowest, desc=True, byscore=True, offset=0, num=size, withscores=True)
            answers = await pipe.execute()
        places = {Place(int(score), raw.decode()) for raw, score in itertools.chain.from_iterable(answers)}
        fit = [each for each in places if (below is None or each < below) and _within(each.score, low, high)]
        return sorted(fit, reverse=True)[:size]

    async def _place_of(self, key: str, event_id: str) -> Place:
        score = await self._redis.zscore(key, event_id)
        if score is None:
            message = f"there is no event {event_id!r}"
            raise NotFound(message)
        return Place(int(score), event_id)

    async def _events(self, ids: Sequence[str]) -> list[ListedEvent | None]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for each in ids:
                pipe.hmget(self._keys.event(each), *LISTED)
            rows = await pipe.execute() if ids else []
        return [list_event(each, *row) if row[0] else None for each, row in zip(ids, rows, strict=True)]

    async def _callbacks(self, ids: Sequence[str]) -> list[Found | None]:
        hashes = await self._hashes([self._keys.callback(each) for each in ids])
        known = [read_callback(each, fields) for each, fields in zip(ids, hashes, strict=True) if fields]
        by_id = {each.id: each for each in await self._standings.explain(known)}
        read = [by_id.get(each) for each in ids]
        requests = await self._requests({each.run_id for each in read if each})
        return [None if each is None else Found(each, requests.get(each.run_id)) for each in read]

    async def _requests(self, run_ids: Set[int]) -> dict[int, RunRequest]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for run_id in run_ids:
                pipe.hget(self._keys.run(run_id), "request")
            answers = await pipe.execute() if run_ids else []
        return {run_id: _request.decode(raw) for run_id, raw in zip(run_ids, answers, strict=True) if raw}

    async def _hashes(self, names: Sequence[str]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(name)
            return list(await pipe.execute()) if names else []


def _within(score: int, low: int | None, high: int | None) -> bool:
    return (low is None or score >= low) and (high is None or score <= high)
