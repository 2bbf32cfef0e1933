"""Our API's events, callbacks and apps, to look at."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.documents import (
    AppDocument,
    CallbackDocument,
    EventDocument,
    WholeCallback,
    WholeEvent,
    describe_app,
    describe_callback,
    describe_event,
    describe_whole_callback,
    describe_whole_event,
)
from gateway.errors import NotFound
from gateway.runs import CallbackState, RunRequest
from gateway.store.reading import StoredEvent
from gateway.tokens import Subject
from gateway.web.callers import app_names, run_subject
from gateway.web.endpoints import Answer, Call, Endpoint

READ = "runs:read"
Limit = Annotated[int, Meta(ge=1, le=200, description="How many, at most.")]


class EventQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limit: Limit = 50
    cursor: (
        Annotated[str, Meta(pattern="^evt_[0-9a-f]{1,64}$", description="`next_cursor` of the page before.")] | None
    ) = None


class CallbackQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limit: Limit = 50
    status: CallbackState | None = None


class EventPage(msgspec.Struct, frozen=True):
    """Some events, the newest first. A page may be short and still have a next one."""

    data: list[EventDocument]
    next_cursor: str | None


class CallbackPage(msgspec.Struct, frozen=True):
    """The callbacks that moved last. Those of one run stand in the run."""

    data: list[CallbackDocument]
    next_cursor: None = None


class AppPage(msgspec.Struct, frozen=True):
    """All registered senders, by id."""

    data: list[AppDocument]
    next_cursor: None = None


async def list_events(call: Call) -> Answer:
    """The newest events that the caller may see."""
    limit: int = call.query.limit
    found = await call.control.reader.events(limit, call.query.cursor)
    seen = [event for event in found if await _sees_event(call, event)]
    documents = [describe_event(each.id, each.head, each.received_at, each.run_ids) for each in seen]
    return 200, EventPage(documents, found[-1].id if len(found) == limit else None)


async def show_event(call: Call) -> Answer:
    """One event with its bytes as received."""
    event = await call.control.reader.event(call.path["event_id"])
    call.who.require(READ, await _subject_of_event(call, event))
    return 200, describe_whole_event(event.id, event.head, event.received_at, event.run_ids, event.body)


async def list_callbacks(call: Call) -> Answer:
    """The callbacks that moved last and that the caller may see."""
    found = await call.control.reader.callbacks(state=call.query.status, limit=call.query.limit)
    if call.who.token.is_narrowed(READ):
        found = [each for each in found if call.who.sees(READ, await _subject_of_run(call, each.run_id))]
    return 200, CallbackPage([describe_callback(each) for each in found])


async def show_callback(call: Call) -> Answer:
    """One callback with its message."""
    callback = await call.control.reader.callback(call.path["callback_id"])
    call.who.require(READ, await _subject_of_run(call, callback.run_id))
    return 200, describe_whole_callback(callback)


async def list_apps(call: Call) -> Answer:
    """All apps."""
    return 200, AppPage([describe_app(each) for each in call.control.apps()])


async def show_app(call: Call) -> Answer:
    """One app, by id or name."""
    return 200, describe_app(call.control.app(call.path["app"]))


async def _sees_event(call: Call, event: StoredEvent) -> bool:
    return not call.who.token.is_narrowed(READ) or call.who.sees(READ, await _subject_of_event(call, event))


async def _subject_of_event(call: Call, event: StoredEvent) -> Subject:
    """An event belongs to its app, and to the workflows of all runs it started."""
    requests = [request for run_id in event.run_ids if (request := await _request_of(call, run_id))]
    apps = call.control.live_apps
    workflows = [run_subject(request, apps).workflow for request in requests]
    return Subject(workflow=frozenset().union(*workflows), app=app_names(event.head.app_id, apps))


async def _subject_of_run(call: Call, run_id: int) -> Subject:
    request = await _request_of(call, run_id)
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
    Endpoint(method="GET", path="/api/v1/apps", handler=list_apps, scope="admin", summary="List apps", answer=AppPage),
    Endpoint(
        method="GET",
        path="/api/v1/apps/{app}",
        handler=show_app,
        scope="admin",
        summary="Show an app, by id or name",
        answer=AppDocument,
    ),
)
