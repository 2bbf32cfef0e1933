"""Our API's callbacks, to look at."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.callback_documents import CallbackDocument, WholeCallback, describe_callback, describe_whole_callback
from gateway.errors import NotFound
from gateway.runs import CallbackState, RunRequest
from gateway.store.listing import CallbackFilter, Found, Place
from gateway.tokens import Subject
from gateway.web.api_runs import Limit, Time, read_time, workflow_id
from gateway.web.callers import run_subject
from gateway.web.endpoints import Answer, Call, Endpoint

READ = "runs:read"
PLACE = r"^[0-9]{1,15}\.msg_[0-9A-Za-z_-]{1,80}$"
App = Annotated[int, Meta(ge=0, description="An app's id.")]


class CallbackQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which callbacks: in which state, of which run, app, workflow, endpoint; moved since then."""

    limit: Limit = 50
    cursor: Annotated[str, Meta(pattern=PLACE, description="`next_cursor` of the page before.")] | None = None
    status: CallbackState | None = None
    run_id: Annotated[int, Meta(ge=1, le=999_999_999_999_999)] | None = None
    app: App | None = None
    workflow: Annotated[str, Meta(description="A workflow's id or name.")] | None = None
    endpoint: Annotated[str, Meta(description="An endpoint's id.")] | None = None
    since: Time | None = None


class CallbackPage(msgspec.Struct, frozen=True):
    """Some callbacks, those that moved last first. A page may be short and still have a next one."""

    data: list[CallbackDocument]
    next_cursor: str | None


async def list_callbacks(call: Call) -> Answer:
    """The callbacks that fit and that the caller may see. One that moves meanwhile comes to the front of the list."""
    query: CallbackQuery = call.query
    wanted = CallbackFilter(
        state=query.status,
        run_id=query.run_id,
        app_id=query.app,
        workflow_id=None if query.workflow is None else workflow_id(call, query.workflow),
        endpoint=query.endpoint,
        since=None if query.since is None else read_time("since", query.since),
    )
    place = None if query.cursor is None else read_place(query.cursor)
    page = await call.listing.callbacks(wanted, query.limit, place, lambda found: sees_callback(call, found))
    next_cursor = None if page.next is None else write_place(page.next)
    operator = call.who.token.may("admin")
    return 200, CallbackPage([describe_callback(each.callback, operator=operator) for each in page.found], next_cursor)


async def show_callback(call: Call) -> Answer:
    """One callback with its message."""
    callback = await call.control.reader.callback(call.path["callback_id"])
    call.who.require(READ, await subject_of_run(call, callback.run_id))
    return 200, describe_whole_callback(callback, operator=call.who.token.may("admin"))


def read_place(cursor: str) -> Place:
    """The place that a cursor means."""
    score, _, callback_id = cursor.partition(".")
    return Place(int(score), callback_id)


def write_place(place: Place) -> str:
    """A place in a list of callbacks, as a cursor."""
    return f"{place.score}.{place.id}"


def sees_callback(call: Call, found: Found, scope: str = READ) -> bool:
    """Whether the caller's token is good for the run that a callback is about."""
    return call.who.sees(scope, _subject_of_request(call, found.request))


async def subject_of_run(call: Call, run_id: int) -> Subject:
    """What a token must be good for, to see or send what is told of a run."""
    return _subject_of_request(call, await _request_of(call, run_id))


def _subject_of_request(call: Call, request: RunRequest | None) -> Subject:
    return Subject() if request is None else run_subject(request, call.control.live_apps)


async def _request_of(call: Call, run_id: int) -> RunRequest | None:
    try:
        return (await call.control.run(run_id)).request
    except NotFound:
        return None  # the run's time is over, its callback still stands


CALLBACKS = (
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
