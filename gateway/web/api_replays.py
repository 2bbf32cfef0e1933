"""Our API's replays: of one event, and of many, a page at a time."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.replaying import Asker
from gateway.replays import Config, Outcome, ReplayDocument, Which, Wish
from gateway.store.scanning import Span, read_place, write_place
from gateway.web.api_runs import read_time
from gateway.web.endpoints import Answer, Call, Endpoint

START = "runs:start"
MOST = 50
Moment = Annotated[str, Meta(min_length=1, max_length=60, description="ISO 8601, or unix seconds.")]
PLACE = r"^[0-9]{1,15}\.evt_[0-9a-f]{1,64}$"


class ReplayPage(msgspec.Struct, frozen=True):
    """What became of some events, the oldest first. A page may be short and still have a next one."""

    data: list[ReplayDocument]
    next_cursor: str | None


class ManyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events, of those that came from outside, and how to replay them."""

    app: Annotated[int, Meta(ge=0, description="An app's id.")] | None = None
    type: str | None = None
    outcome: Outcome | None = None
    since: Moment
    until: Moment | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST, description="How many, at most.")] = MOST
    cursor: Annotated[str, Meta(pattern=PLACE, description="`next_cursor` of the page before.")] | None = None
    config: Config = "current"
    dry_run: bool = False
    fresh_keys: bool = False


async def replay_one(call: Call) -> Answer:
    """Decide a stored event anew, or start again what it started then. 200 where nothing was to be started."""
    wish: Wish = call.body or Wish()
    found = await call.replayer.replay(call.path["event_id"], wish, Asker(call.who.token, call.key))
    return 200 if found.status in ("would_start", "ignored") else 201, found


async def replay_many(call: Call) -> Answer:
    """Replay the next page of the events that fit and that the caller may replay.

    Under the same `Idempotency-Key` no event is replayed twice: one key is for all pages, and for a page sent again.
    """
    body: ManyBody = call.body
    span = Span(read_time("since", body.since), None if body.until is None else read_time("until", body.until))
    which = Which(app_id=body.app, type=body.type, outcome=body.outcome)
    wish = Wish(config=body.config, dry_run=body.dry_run, fresh_keys=body.fresh_keys)
    after = None if body.cursor is None else read_place(body.cursor)
    page = await call.replayer.page(which, span, wish, Asker(call.who.token, call.key), body.limit, after)
    return 200, ReplayPage(page.data, None if page.next is None else write_place(page.next))


REPLAYS = (
    Endpoint(
        method="POST",
        path="/api/v1/events/replay",
        handler=replay_many,
        scope=START,
        summary="Replay events, the oldest first, a page at a time",
        body=ManyBody,
        answer=ReplayPage,
        many=True,
        refuses=(400, 422),
        example={"app": 43, "type": "push", "since": "2026-01-31T08:00:00Z", "outcome": "ignored", "dry_run": True},
    ),
    Endpoint(
        method="POST",
        path="/api/v1/events/{event_id}/replay",
        handler=replay_one,
        scope=START,
        summary="Replay an event",
        body=Wish,
        optional_body=True,
        answer=ReplayDocument,
        status=201,
        others={200: ReplayDocument},
        refuses=(402, 409, 422),
        example={"config": "same"},
    ),
)
