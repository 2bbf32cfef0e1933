"""Arcee Orchestra's words: workflows, their runs and steps, a diagram, an upload.

Sources: Arcee, "API Invocation" for the statuses and the token, "Workflow Execution API", "Workflow Runs API",
"Execution History API", "Workflow Execution Steps API", "Workflow Diagram API", "List Available Workflows API".
Its pages write the token's header as `Authentication`; both that and `Authorization` are read.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from gateway.control import Order
from gateway.dialects.common import few_words, inputs_of, read_number, visible_runs, visible_workflows
from gateway.dialects.graphs import Graph, draw, read_graph, show_graph
from gateway.errors import Forbidden, GatewayError, NotFound
from gateway.runs import TERMINAL, Run, State, StepRecord, StepState, elapsed, step_state
from gateway.store.reading import RunFilter
from gateway.web.callers import bearer, named_subject
from gateway.web.endpoints import Answer, Call, Dialect, Endpoint
from gateway.workflows import Published

PREFIX = "/api/v1/workflow"
WORKFLOW, RUN = 0x6777776F726B, 0x677772756E73
"""The first 48 bits of our UUIDs: "gwwork" and "gwruns" in ASCII."""
LOW = 1 << 62

# Arcee shows `completed` only; it knows no cancelling, so that whoever waits for an end must see one they know.
RUN_WORDS: dict[State, str] = {
    State.PENDING: "pending",
    State.RUNNING: "running",
    State.WAITING: "running",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}
STEP_WORDS: dict[StepState, str] = {
    StepState.PENDING: "pending",
    StepState.RUNNING: "running",
    StepState.WAITING: "running",
    StepState.COMPLETED: "completed",
    StepState.FAILED: "failed",
    StepState.CANCELLED: "failed",
    StepState.SKIPPED: "skipped",
    StepState.UNKNOWN: "failed",
}
STATUSES = (401, 402, 404, 405, 503)
"""Arcee has 200, 400, 401, 404 and 500. A token that may not is a token that is no good: 401, and it says why."""


class Paging(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a list, counted from the newest."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0


class Upload(Graph, frozen=True, kw_only=True):
    """A graph with a name: its members in `graph`, or beside the name."""

    name: str
    description: str | None = None
    graph: Graph | None = None
    nodes: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """A run was started."""

    message: str
    run_id: str


class Diagram(msgspec.Struct, frozen=True, kw_only=True):
    """Mermaid text."""

    diagram: str


class ArceeRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run. `elapsed_time` is whole seconds; `all_outputs` are the inputs and what each step gave."""

    id: str
    status: str
    start_time: str | None
    end_time: str | None
    elapsed_time: int | None
    error: str | None
    outputs: Any
    all_outputs: dict[str, Any]
    inputs: dict[str, Any]


class ArceeStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run that has begun."""

    id: str
    user_id: str | None
    organization_id: str | None
    node_id: str
    status: str
    start_time: str | None
    end_time: str | None
    elapsed_time: int | None
    error: str | None
    outputs: Any
    inputs: dict[str, Any]
    step_metadata: dict[str, Any] | None
    tokens: int


class ArceeWorkflow(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow in a list. We know no users, organizations and buckets."""

    workflow_id: str
    name: str
    description: str
    version: str
    status: str
    public: bool
    user_id: str | None
    organization_id: str | None
    created_at: str | None
    created_by: str | None
    updated_at: str | None
    updated_by: str | None
    file_metadata: dict[str, Any]
    graph: dict[str, Any]


def to_uuid(kind: int, number: int) -> str:
    """One of our numbers as a UUID: 48 bits of its kind, and the number in the last 62. Source: RFC 9562, 5.8."""
    return str(uuid.UUID(int=kind << 80 | 0x8 << 76 | 0b10 << 62 | number))


def from_uuid(kind: int, text: str) -> int | None:
    """The number in a UUID of ours; None when this is another's, or none."""
    try:
        value = uuid.UUID(text).int
    except ValueError:
        return None
    return value % LOW if to_uuid(kind, value % LOW) == text.lower() else None


async def list_workflows(call: Call) -> Answer:
    """All workflows that the token may see, as a bare array."""
    return 200, [await _workflow_words(call, each) for each in visible_workflows(call)]


async def upload(call: Call) -> Answer:
    """Publish a graph as a workflow, or as the next version of the one with its name."""
    body: Upload = call.body
    call.who.require("workflows:write", named_subject(body.name, call.control.workflows()))
    document = read_graph(body.graph or body, body.name, body.description or "")
    made = await call.control.publishing.upload(document, admin=call.who.token.may("admin"))
    return 200, await _workflow_words(call, made.published)


async def execute(call: Call) -> Answer:
    """Start a run. The body is the flat object of the workflow's inputs."""
    published = _workflow(call, "runs:start")
    started = await call.start(Order(workflow=published.name, input=call.body))
    return 200, Execution(message="Workflow execution started", run_id=to_uuid(RUN, started.run_id))


async def show_run(call: Call) -> Answer:
    """One run, in an array, as Arcee has it."""
    return 200, [_run_words(await _run(call))]


async def list_runs(call: Call) -> Answer:
    """The runs of a workflow, newest first."""
    published = _workflow(call)
    paging: Paging = call.query
    runs = await visible_runs(call, RunFilter(workflow_id=published.id), paging.limit, paging.offset)
    return 200, [_run_words(run) for run in runs]


async def list_steps(call: Call) -> Answer:
    """The steps of a run that have begun."""
    run = await _run(call)
    return 200, [_step_words(run, name, record) for name, record in run.steps.items()]


async def show_diagram(call: Call) -> Answer:
    """A workflow as Mermaid text."""
    workflow = await call.control.definition(_workflow(call, "workflows:read"))
    return 200, Diagram(diagram=draw(workflow.definition))


def refuse(error: GatewayError) -> Answer:
    """An error. Arcee documents no body, so the two most common names are both there."""
    status = 401 if isinstance(error, Forbidden) else few_words(error, STATUSES)
    return status, {"detail": error.message, "message": error.message, "code": error.code}


def _workflow(call: Call, scope: str | None = None) -> Published:
    text = call.path["workflow_id"]
    number = from_uuid(WORKFLOW, text)
    if scope is None:
        return call.control.workflow(text if number is None else number)
    return call.workflow(text if number is None else number, scope)


async def _run(call: Call) -> Run:
    published, text = _workflow(call), call.path["run_id"]
    number = from_uuid(RUN, text)
    run = await call.run(read_number(text, "run") if number is None else number, "runs:read")
    if run.request.workflow_id != published.id:
        message = f"there is no run {text[:80]!r} of this workflow"
        raise NotFound(message)
    return run


async def _workflow_words(call: Call, published: Published) -> ArceeWorkflow:
    workflow = await call.control.definition(published)
    at = _list_time(published.published_at)
    return ArceeWorkflow(
        workflow_id=to_uuid(WORKFLOW, published.id),
        name=published.name,
        description=published.description,
        version=str(published.version),
        status="active",
        public=False,
        user_id=None,
        organization_id=None,
        created_at=at,
        created_by=None,
        updated_at=at,
        updated_by=None,
        file_metadata={},
        graph=show_graph(workflow.definition),
    )


def _run_words(run: Run) -> ArceeRun:
    inputs = inputs_of(run)
    outputs = {name: record.output for name, record in run.steps.items() if record.state == StepState.COMPLETED}
    return ArceeRun(
        id=to_uuid(RUN, run.id),
        status=RUN_WORDS[run.state],
        start_time=_time(run.started_at or run.created_at),
        end_time=_time(run.ended_at),
        elapsed_time=_seconds(run.started_at or run.created_at, run.ended_at),
        error=None if run.error is None else run.error.message,
        outputs=run.output,
        all_outputs=inputs | outputs,
        inputs=inputs,
    )


def _step_words(run: Run, name: str, record: StepRecord) -> ArceeStep:
    ended_at = record.ended_at or (run.ended_at if run.state in TERMINAL else None)
    return ArceeStep(
        id=str(uuid.uuid5(uuid.UUID(to_uuid(RUN, run.id)), name)),
        user_id=None,
        organization_id=None,
        node_id=name,
        status=STEP_WORDS[step_state(run, record)],
        start_time=_time(record.started_at),
        end_time=_time(ended_at),
        elapsed_time=_seconds(record.started_at, ended_at),
        error=None if record.error is None else record.error.message,
        outputs=record.output,
        inputs={},
        step_metadata=None,
        tokens=0,
    )


def _time(milliseconds: int | None) -> str | None:
    """ISO 8601 with microseconds, as in Arcee's runs."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _list_time(milliseconds: int) -> str | None:
    """The other way of writing times, of Arcee's list of workflows."""
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(sep=" ", timespec="microseconds")


def _seconds(start: int | None, end: int | None) -> int | None:
    milliseconds = elapsed(start, end)
    return None if milliseconds is None else milliseconds // 1000


ONE = PREFIX + "/workflows/{workflow_id}"
REFUSES = (400, 401, 402, 404, 503)
API = Dialect(
    name="arcee",
    prefix=PREFIX,
    credential=bearer(b"authorization", b"authentication"),
    refuse=refuse,
    endpoints=(
        Endpoint(
            method="GET",
            path=PREFIX + "/workflows",
            handler=list_workflows,
            scope="workflows:read",
            summary="List workflows (Arcee)",
            answer=list[ArceeWorkflow],
            refuses=(401,),
        ),
        Endpoint(
            method="POST",
            path=PREFIX + "/workflows",
            handler=upload,
            scope="workflows:write",
            summary="Upload a workflow as a graph (Arcee)",
            body=Upload,
            answer=ArceeWorkflow,
            example={
                "name": "greet",
                "graph": {
                    "nodes": {"greeting": {"type": "transform", "config": "Hello ${input.query}"}},
                    "edges": [],
                    "entry_point": "greeting",
                    "finish_point": "greeting",
                    "selectedOutput": "greeting",
                    "input_data": {"query": ""},
                },
            },
            refuses=REFUSES,
        ),
        Endpoint(
            method="POST",
            path=ONE + "/execute",
            handler=execute,
            scope="runs:start",
            summary="Start a workflow (Arcee)",
            body=dict[str, Any],
            answer=Execution,
            example={"input_variable_1": "", "input_variable_2": ""},
            refuses=REFUSES,
        ),
        Endpoint(
            method="GET",
            path=ONE + "/runs",
            handler=list_runs,
            scope="runs:read",
            summary="The runs of a workflow, newest first (Arcee)",
            query=Paging,
            answer=list[ArceeRun],
            refuses=(400, 401, 404),
        ),
        Endpoint(
            method="GET",
            path=ONE + "/runs/{run_id}",
            handler=show_run,
            scope="runs:read",
            summary="One run, in an array (Arcee)",
            answer=list[ArceeRun],
            refuses=(401, 404),
        ),
        Endpoint(
            method="GET",
            path=ONE + "/runs/{run_id}/steps",
            handler=list_steps,
            scope="runs:read",
            summary="The steps of a run (Arcee)",
            answer=list[ArceeStep],
            refuses=(401, 404),
        ),
        Endpoint(
            method="GET",
            path=ONE + "/diagram",
            handler=show_diagram,
            scope="workflows:read",
            summary="A workflow as Mermaid text (Arcee)",
            answer=Diagram,
            refuses=(401, 404),
        ),
    ),
)
