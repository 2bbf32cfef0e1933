"""Our API's events, to look at and to have explained; with them the deliveries that were refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.captures import write_capture
from gateway.deliveries import Explanation
from gateway.errors import Conflict, Forbidden, NotFound
from gateway.event_documents import (
    EventDocument,
    WholeEvent,
    describe_event,
    describe_refusal,
    describe_whole_event,
    describe_whole_refusal,
)
from gateway.inquiries import OURS, app_id_of, unknown
from gateway.masks import Mask
from gateway.refused import Kept, Refusal
from gateway.runs import RunRequest
from gateway.store.listing import EventFilter
from gateway.store.reading import ListedEvent, StoredEvent
from gateway.tokens import Subject
from gateway.web.api_runs import Limit, Time, read_time
from gateway.web.callers import app_names, run_subject
from gateway.web.endpoints import Answer, Call, Endpoint

READ = "runs:read"
UNSTORED = ("refused", "handshake")
App = Annotated[int, Meta(ge=0, description="An app's id.")]
Outcome = Literal["accepted", "ignored", "parked", "skipped", "duplicate", "refused", "handshake", "ping"]
PATH = "/api/v1/events/{event_id}"


class EventQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events: whose, of which type, what became of them, and received from `since` until `until`.

    `outcome=duplicate` are those that came again; `refused` and `handshake` are deliveries that left no event.
    """

    limit: Limit = 50
    cursor: (
        Annotated[str, Meta(pattern="^(evt|rfs)_[0-9a-f]{1,64}$", description="`next_cursor` of the page before.")]
        | None
    ) = None
    app: App | None = None
    type: Annotated[str, Meta(max_length=255)] | None = None
    outcome: Outcome | None = None
    since: Time | None = None
    until: Time | None = None


class DeliveryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose delivery it is, where several senders may call one so."""

    app: App | None = None


class EventPage(msgspec.Struct, frozen=True):
    """Some events, the newest first. A page may be short and still have a next one."""

    data: list[EventDocument]
    next_cursor: str | None


async def list_events(call: Call) -> Answer:
    """The newest events that fit and that the caller may see."""
    query: EventQuery = call.query
    since = None if query.since is None else read_time("since", query.since)
    until = None if query.until is None else read_time("until", query.until)
    if query.outcome in UNSTORED:
        return await _list_refusals(call, since, until)
    wanted = EventFilter(app_id=query.app, type=query.type, outcome=query.outcome, since=since, until=until)
    page = await call.listing.events(wanted, query.limit, query.cursor)
    seen = [event for event in page.events if await _sees_event(call, event)]
    documents = [
        describe_event(each.id, each.head, each.received_at, each.run_ids, each.repeats, each.repeated_at)
        for each in seen
    ]
    return 200, EventPage(documents, page.next)


async def _list_refusals(call: Call, since: int | None, until: int | None) -> Answer:
    query: EventQuery = call.query

    def fits(refusal: Refusal) -> bool:
        return (
            refusal.decision.outcome == query.outcome
            and query.app in (None, refusal.app_id)
            and query.type in (None, refusal.type)
            and call.who.sees(READ, _subject_of_app(call, refusal.app_id))
        )

    found, following = await call.inquiry.refused.page(query.limit, query.cursor, since=since, until=until, fits=fits)
    return 200, EventPage([describe_refusal(each) for each in found], following)


async def show_event(call: Call) -> Answer:
    """One event, or refused delivery, with its bytes as received."""
    found = await _find(call)
    if isinstance(found, Kept):
        return 200, describe_whole_refusal(found)
    return 200, describe_whole_event(
        found.id, found.head, found.received_at, found.run_ids, found.body, found.repeats, found.repeated_at
    )


async def explain_event(call: Call) -> Answer:
    """What happened to one delivery."""
    apps = {app.id: app for app in call.control.apps()}
    return 200, await call.inquiry.explain(await _find(call), apps, Mask(known_secrets(call)))


async def capture_event(call: Call) -> Answer:
    """One delivery as the document that `gateway verify` reads."""
    apps = {app.id: app for app in call.control.apps()}
    return 200, write_capture(await call.inquiry.capture(await _find(call), apps))


def known_secrets(call: Call) -> list[str]:
    """All secrets at hand: none of them is shown, whoever's event it stands in."""
    return [secret for live in call.control.live_apps.values() for secret in live.known_secrets]


async def _find(call: Call) -> StoredEvent | Kept:
    """The delivery in the path, by our id or its sender's. Raises NotFound, Forbidden, or Conflict where several fit."""
    query: DeliveryQuery = call.query
    apps = [app.id for app in call.control.apps()] if query.app is None else [query.app]
    found, hidden = [], False
    for delivery_id in await call.inquiry.find(call.path["event_id"], apps):
        delivery = await call.inquiry.read(delivery_id)
        if query.app not in (None, app_id_of(delivery)):
            continue
        seen = call.who.sees(READ, await _subject_of(call, delivery))
        hidden |= not seen
        if seen:
            found.append(delivery)
    return _pick(call, found, hidden)


def _pick(call: Call, found: Sequence[StoredEvent | Kept], hidden: bool) -> StoredEvent | Kept:
    """The event, else the newest refusal: what was refused at first may have come again."""
    name = call.path["event_id"]
    if not found and hidden and OURS.fullmatch(name):
        message = f"this token may not do that; it takes the scope {READ}"
        raise Forbidden(message)
    if not found:
        raise unknown(name)
    owners = {app_id_of(each) for each in found if not isinstance(each, Kept)}
    if len(owners) > 1:
        names = ", ".join(str(each) for each in sorted(owners, key=str))
        message = f"several apps' senders call a delivery so; say which with `app`: {names}"
        raise Conflict(message)
    return found[0]


async def _sees_event(call: Call, event: ListedEvent) -> bool:
    return not call.who.token.is_narrowed(READ) or call.who.sees(READ, await _subject_of_event(call, event))


async def _subject_of(call: Call, delivery: StoredEvent | Kept) -> Subject:
    if isinstance(delivery, Kept):
        return _subject_of_app(call, delivery.refusal.app_id)
    return await _subject_of_event(call, delivery)


def _subject_of_app(call: Call, app_id: int | None) -> Subject:
    return Subject(app=app_names(app_id, call.control.live_apps))


async def _subject_of_event(call: Call, event: ListedEvent) -> Subject:
    """An event belongs to its app, and to the workflows of all runs it started."""
    requests = [request for run_id in event.run_ids if (request := await _request_of(call, run_id))]
    apps = call.control.live_apps
    workflows = [run_subject(request, apps).workflow for request in requests]
    return Subject(workflow=frozenset().union(*workflows), app=app_names(event.head.app_id, apps))


async def _request_of(call: Call, run_id: int) -> RunRequest | None:
    try:
        return (await call.control.run(run_id)).request
    except NotFound:
        return None  # the run's time is over, its event still stands


EVENTS = (
    Endpoint(
        method="GET",
        path="/api/v1/events",
        handler=list_events,
        scope=READ,
        summary="List events, the newest first",
        query=EventQuery,
        answer=EventPage,
    ),
    Endpoint(
        method="GET",
        path=PATH,
        handler=show_event,
        scope=READ,
        summary="Show an event with its bytes, by our id or its sender's",
        query=DeliveryQuery,
        answer=WholeEvent,
        refuses=(409,),
    ),
    Endpoint(
        method="GET",
        path=PATH + "/explanation",
        handler=explain_event,
        scope=READ,
        summary="Explain what happened to a delivery, also a refused one",
        query=DeliveryQuery,
        answer=Explanation,
        refuses=(409,),
    ),
    Endpoint(
        method="GET",
        path=PATH + "/capture",
        handler=capture_event,
        scope=READ,
        summary="Show a delivery as `gateway verify` reads it, without secrets",
        query=DeliveryQuery,
        answer=dict[str, Any],
        refuses=(409,),
    ),
)
