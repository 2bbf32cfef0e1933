"""Our API's runs: start, list, show, follow, cancel."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.control import Order
from gateway.documents import WholeRun, describe_whole_run
from gateway.errors import BadRequest
from gateway.runs import Run, RunDocument, State, StepDocument, describe_steps, document
from gateway.store.reading import RunFilter
from gateway.web.callers import run_subject
from gateway.web.endpoints import Answer, Call, Endpoint, Patience
from gateway.web.live import StreamEvent, open_stream, read_last_id

LEAP = re.compile(r"(?<=T\d\d:\d\d):60")
SECONDS = re.compile(r"^-?[0-9]{1,12}(\.[0-9]{1,9})?$")
DIGITS = r"^[0-9]{1,15}$"
Limit = Annotated[int, Meta(ge=1, le=200, description="How many, at most.")]
Time = Annotated[
    str,
    Meta(
        description="ISO 8601, or unix seconds.",
        extra_json_schema={"anyOf": [{"format": "date-time"}, {"pattern": SECONDS.pattern}]},
    ),
]


class RunPath(msgspec.Struct, frozen=True):
    run_id: Annotated[int, Meta(ge=1, le=999_999_999_999_999)]


class RunQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which runs. `metadata.KEY=VALUE`, any number of times, asks for a value of their metadata."""

    limit: Limit = 50
    cursor: Annotated[str, Meta(pattern=DIGITS, description="`next_cursor` of the page before.")] | None = None
    workflow: Annotated[str, Meta(description="A workflow's id or name.")] | None = None
    status: State | None = None
    app: Annotated[int, Meta(ge=0, description="An app's id.")] | None = None
    since: Time | None = None
    until: Time | None = None
    metadata: Annotated[dict[str, str], Meta(description="`metadata.KEY=VALUE`, any number of times.")] = {}


class RunPage(msgspec.Struct, frozen=True):
    """Some runs, the newest first. A page may be short and still have a next one."""

    data: list[RunDocument]
    next_cursor: str | None


class StepList(msgspec.Struct, frozen=True):
    """All steps of a run, those that have not begun at the end."""

    data: list[StepDocument]
    next_cursor: None = None


class StartBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run to start: a workflow's id or name, and what it gets."""

    workflow: int | str
    input: Any = None
    task: str | None = None
    metadata: dict[str, Any] | None = None


async def list_runs(call: Call) -> Answer:
    """The newest runs that fit and that the caller may see."""
    query: RunQuery = call.query
    page = await call.control.page(_filter(call, query), query.limit, int(query.cursor) if query.cursor else None)
    apps = call.control.live_apps
    seen = [run for run in page.runs if call.who.sees("runs:read", run_subject(run.request, apps))]
    return 200, RunPage([document(run) for run in seen], None if page.next is None else str(page.next))


async def start_run(call: Call) -> Answer:
    """Store a run, and answer when it is stored; with `wait`, when it has ended."""
    wanted: StartBody = call.body
    published = call.workflow(wanted.workflow, "runs:start")
    order = Order(workflow=published.name, input=wanted.input, task=wanted.task, metadata=wanted.metadata)
    return 201, await show_whole(call, await call.start_and_wait(order, call.query.wait))


async def show_run(call: Call) -> Answer:
    """One run; with `wait`, when it has ended."""
    run = await call.run(int(call.path["run_id"]), "runs:read")
    if call.query.wait:
        run = await call.wait(run.id, call.query.wait)
    return 200, await show_whole(call, run)


async def show_steps(call: Call) -> Answer:
    """All steps of one run."""
    run = await call.run(int(call.path["run_id"]), "runs:read")
    return 200, StepList(describe_steps(run, await call.control.kinds(run)))


async def follow_run(call: Call) -> Answer:
    """A run's timeline as server-sent events."""
    after = read_last_id(call.headers)
    run = await call.run(int(call.path["run_id"]), "runs:read")
    return 200, await open_stream(call.control, run.id, after)


async def cancel_run(call: Call) -> Answer:
    """End a run now."""
    return 200, await show_whole(call, await call.cancel(int(call.path["run_id"])))


def read_time(name: str, text: str) -> int:
    """A time as milliseconds: ISO 8601, without a zone in UTC, or unix seconds. Raises BadRequest."""
    if SECONDS.fullmatch(text):
        return int(float(text) * 1000)
    # An unescaped plus arrives as a space.
    iso = LEAP.sub(":59", text.upper().replace(" ", "+") if "T" in text.upper() else text)
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        message = f"{name}: {text[:40]!r} is neither ISO 8601 nor unix seconds"
        raise BadRequest(message) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int((moment - datetime.fromtimestamp(0, UTC)).total_seconds() * 1000)


def _filter(call: Call, query: RunQuery) -> RunFilter:
    return RunFilter(
        workflow_id=None if query.workflow is None else workflow_id(call, query.workflow),
        state=query.status,
        app_id=query.app,
        since=None if query.since is None else read_time("since", query.since),
        until=None if query.until is None else read_time("until", query.until),
        metadata=query.metadata,
    )


def workflow_id(call: Call, name: str) -> int:
    """The id of a workflow given by id or name. Raises NotFound for a name that nothing has."""
    # The runs of a workflow that was removed can still be found by its id.
    return int(name) if re.fullmatch(DIGITS, name, re.ASCII) else call.control.workflow(name).id


async def show_whole(call: Call, run: Run) -> WholeRun:
    """A run's whole document."""
    callbacks = await call.control.reader.callbacks_of(run.id)
    run = await call.control.reader.locate(run)
    return describe_whole_run(run, await call.control.kinds(run), callbacks)


RUNS = (
    Endpoint(
        method="GET",
        path="/api/v1/runs",
        handler=list_runs,
        scope="runs:read",
        summary="List runs, the newest first",
        query=RunQuery,
        answer=RunPage,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/runs",
        handler=start_run,
        scope="runs:start",
        summary="Start a run",
        query=Patience,
        body=StartBody,
        answer=WholeRun,
        status=201,
        example={"workflow": "review", "input": {"commit": "6dcb09b5"}, "metadata": {"team": "web"}},
        refuses=(402, 404, 409, 422),
    ),
    Endpoint(
        method="GET",
        path="/api/v1/runs/{run_id}",
        handler=show_run,
        scope="runs:read",
        summary="Show a run, at once or when it has ended",
        where=RunPath,
        query=Patience,
        answer=WholeRun,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/runs/{run_id}/steps",
        handler=show_steps,
        scope="runs:read",
        summary="List a run's steps",
        where=RunPath,
        answer=StepList,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/runs/{run_id}/timeline",
        handler=follow_run,
        scope="runs:read",
        summary="Follow a run: server-sent events until it has ended, resumed by Last-Event-ID",
        where=RunPath,
        answer=StreamEvent,
        media="text/event-stream",
        refuses=(400,),
    ),
    Endpoint(
        method="POST",
        path="/api/v1/runs/{run_id}/cancel",
        handler=cancel_run,
        scope="runs:cancel",
        summary="Cancel a run",
        where=RunPath,
        answer=WholeRun,
        refuses=(409,),
    ),
)
