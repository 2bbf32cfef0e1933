"""Our API's events and callbacks, to look at."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.documents import (
    CallbackDocument,
    EventDocument,
    WholeCallback,
    WholeEvent,
    describe_callback,
    describe_event,
    describe_whole_callback,
    describe_whole_event,
)
from gateway.errors import NotFound
from gateway.runs import CallbackState, RunRequest
from gateway.store.listing import CallbackFilter, EventFilter, Found, Place
from gateway.store.reading import ListedEvent
from gateway.tokens import Subject
from gateway.web.api_runs import Limit, Time, read_time, workflow_id
from gateway.web.callers import app_names, run_subject
from gateway.web.endpoints import Answer, Call, Endpoint

READ = "runs:read"
PLACE = r"^[0-9]{1,15}\.msg_[0-9A-Za-z_]{1,80}$"
App = Annotated[int, Meta(ge=0, description="An app's id.")]


class EventQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events: whose, and received from `since` until `until`."""

    limit: Limit = 50
    cursor: (
        Annotated[str, Meta(pattern="^evt_[0-9a-f]{1,64}$", description="`next_cursor` of the page before.")] | None
    ) = None
    app: App | None = None
    since: Time | None = None
    until: Time | None = None


class CallbackQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which callbacks: in which state, of which run, for which app, of which workflow's runs."""

    limit: Limit = 50
    cursor: Annotated[str, Meta(pattern=PLACE, description="`next_cursor` of the page before.")] | None = None
    status: CallbackState | None = None
    run_id: Annotated[int, Meta(ge=1, le=999_999_999_999_999)] | None = None
    app: App | None = None
    workflow: Annotated[str, Meta(description="A workflow's id or name.")] | None = None


class EventPage(msgspec.Struct, frozen=True):
    """Some events, the newest first. A page may be short and still have a next one."""

    data: list[EventDocument]
    next_cursor: str | None


class CallbackPage(msgspec.Struct, frozen=True):
    """Some callbacks, those that moved last first. A page may be short and still have a next one."""

    data: list[CallbackDocument]
    next_cursor: str | None


async def list_events(call: Call) -> Answer:
    """The newest events that fit and that the caller may see."""
    query: EventQuery = call.query
    wanted = EventFilter(
        app_id=query.app,
        since=None if query.since is None else read_time("since", query.since),
        until=None if query.until is None else read_time("until", query.until),
    )
    page = await call.listing.events(wanted, query.limit, query.cursor)
    seen = [event for event in page.events if await _sees_event(call, event)]
    documents = [describe_event(each.id, each.head, each.received_at, each.run_ids) for each in seen]
    return 200, EventPage(documents, page.next)


async def show_event(call: Call) -> Answer:
    """One event with its bytes as received."""
    event = await call.control.reader.event(call.path["event_id"])
    call.who.require(READ, await _subject_of_event(call, event))
    return 200, describe_whole_event(event.id, event.head, event.received_at, event.run_ids, event.body)


async def list_callbacks(call: Call) -> Answer:
    """The callbacks that fit and that the caller may see. One that moves meanwhile comes to the front of the list."""
    query: CallbackQuery = call.query
    wanted = CallbackFilter(
        state=query.status,
        run_id=query.run_id,
        app_id=query.app,
        workflow_id=None if query.workflow is None else workflow_id(call, query.workflow),
    )
    place = None if query.cursor is None else _read_place(query.cursor)
    page = await call.listing.callbacks(wanted, query.limit, place, lambda found: _sees_callback(call, found))
    next_cursor = None if page.next is None else f"{page.next.score}.{page.next.id}"
    return 200, CallbackPage([describe_callback(each.callback) for each in page.found], next_cursor)


async def show_callback(call: Call) -> Answer:
    """One callback with its message."""
    callback = await call.control.reader.callback(call.path["callback_id"])
    call.who.require(READ, await _subject_of_run(call, callback.run_id))
    return 200, describe_whole_callback(callback)


def _read_place(cursor: str) -> Place:
    score, _, callback_id = cursor.partition(".")
    return Place(int(score), callback_id)


def _sees_callback(call: Call, found: Found) -> bool:
    return call.who.sees(READ, _subject_of_request(call, found.request))


async def _sees_event(call: Call, event: ListedEvent) -> bool:
    return not call.who.token.is_narrowed(READ) or call.who.sees(READ, await _subject_of_event(call, event))


async def _subject_of_event(call: Call, event: ListedEvent) -> Subject:
    """An event belongs to its app, and to the workflows of all runs it started."""
    requests = [request for run_id in event.run_ids if (request := await _request_of(call, run_id))]
    apps = call.control.live_apps
    workflows = [run_subject(request, apps).workflow for request in requests]
    return Subject(workflow=frozenset().union(*workflows), app=app_names(event.head.app_id, apps))


async def _subject_of_run(call: Call, run_id: int) -> Subject:
    return _subject_of_request(call, await _request_of(call, run_id))


def _subject_of_request(call: Call, request: RunRequest | None) -> Subject:
    return Subject() if request is None else run_subject(request, call.control.live_apps)


async def _request_of(call: Call, run_id: int) -> RunRequest | None:
    try:
        return (await call.control.run(run_id)).request
    except NotFound:
        return None  # the run's time is over, its event or callback still stands


LISTS = (
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
        path="/api/v1/events/{event_id}",
        handler=show_event,
        scope=READ,
        summary="Show an event with its bytes",
        answer=WholeEvent,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/callbacks",
        handler=list_callbacks,
        scope=READ,
        summary="List the callbacks that moved last",
        query=CallbackQuery,
        answer=CallbackPage,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/callbacks/{callback_id}",
        handler=show_callback,
        scope=READ,
        summary="Show a callback with its message and attempts",
        answer=WholeCallback,
    ),
)
