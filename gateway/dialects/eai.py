"""EAI Orchestrate's words: workflows and their executions, in camelCase.

Sources: "Orchestrate REST API" for the routes and shapes; the platform SDK's pages for the defaults (`async` is
false, `input` is needed, a workflow goes by id or name), and its code for the body of an error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from gateway.control import LONGEST_WAIT, Order
from gateway.dialects.common import (
    definition_of,
    inputs_of,
    read_number,
    steps_of,
    visible_runs,
    visible_workflows,
)
from gateway.errors import GatewayError, NotFound
from gateway.runs import Run, State, StepRecord, StepState, elapsed, iso, step_state
from gateway.store.reading import RunFilter
from gateway.web.callers import bearer
from gateway.web.endpoints import Answer, Call, Dialect, Endpoint
from gateway.workflows import Published, Workflow

PREFIX = "/api/eai/v3/orchestrate"
MARK = "exec_"
Word = Literal["pending", "running", "completed", "failed", "cancelled"]

RUN_WORDS: dict[State, Word] = {
    State.PENDING: "pending",
    State.RUNNING: "running",
    State.WAITING: "running",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}
STEP_WORDS: dict[StepState, str] = {
    StepState.PENDING: "pending",
    StepState.RUNNING: "running",
    StepState.WAITING: "running",
    StepState.COMPLETED: "completed",
    StepState.FAILED: "failed",
    StepState.CANCELLED: "cancelled",
    StepState.SKIPPED: "skipped",
    StepState.UNKNOWN: "failed",
}


class ExecutionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is started with what. Without `async` the answer comes when the execution has ended."""

    input: dict[str, Any]
    is_async: bool = msgspec.field(name="async", default=False)
    metadata: dict[str, Any] | None = None


class ListQuery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Which executions, counted from the newest."""

    workflow_id: str | None = None
    state: Word | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0


class EaiStep(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One step of an execution; `duration` is milliseconds, null until it has ended."""

    step_id: str
    name: str
    state: str
    duration: int | None


class EaiExecution(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An execution. `output`, `error`, `completedAt` and `metadata` are there when there are any."""

    id: str
    workflow_id: str
    state: str
    input: dict[str, Any]
    steps: list[EaiStep]
    started_at: str | None
    output: Any = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET
    completed_at: str | msgspec.UnsetType | None = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class EaiRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An execution in a list."""

    id: str
    workflow_id: str
    state: str
    started_at: str | None
    completed_at: str | None


class EaiExecutions(msgspec.Struct, frozen=True):
    """A list of executions."""

    data: list[EaiRow]


class EaiWorkflowStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a workflow."""

    id: str
    name: str
    type: str


class EaiWorkflow(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow. Its `id` is its name; its version is our number, written as three."""

    id: str
    name: str
    description: str
    version: str
    steps: list[EaiWorkflowStep]


class EaiWorkflows(msgspec.Struct, frozen=True):
    """A list of workflows."""

    data: list[EaiWorkflow]


async def execute(call: Call) -> Answer:
    """Start a workflow; and wait for its end, unless asked not to."""
    wanted: ExecutionRequest = call.body
    published = call.workflow(call.path["workflow_id"], "runs:start")
    order = Order(workflow=published.name, input=wanted.input, metadata=wanted.metadata)
    run = await call.start_and_wait(order, 0 if wanted.is_async else LONGEST_WAIT)
    return 200, await _execution_words(call, run)


async def show_execution(call: Call) -> Answer:
    """One execution with its steps."""
    return 200, await _execution_words(call, await call.run(_read_id(call), "runs:read"))


async def list_workflows(call: Call) -> Answer:
    """All workflows that the token may see."""
    return 200, EaiWorkflows([await _workflow_words(call, each) for each in visible_workflows(call)])


async def list_executions(call: Call) -> Answer:
    """The executions that fit, newest first."""
    query: ListQuery = call.query
    try:
        workflow_id = None if query.workflow_id is None else call.control.workflow(query.workflow_id).id
    except NotFound:
        return 200, EaiExecutions([])
    states = tuple(state for state, word in RUN_WORDS.items() if word == query.state)
    wanted = RunFilter(workflow_id=workflow_id, states=states)
    return 200, EaiExecutions([_row(run) for run in await visible_runs(call, wanted, query.limit, query.offset)])


async def cancel(call: Call) -> Answer:
    """End an execution now. Raises Conflict when it has ended already."""
    await call.cancel(_read_id(call))
    return 204, None


def refuse(error: GatewayError) -> Answer:
    """An error, under the names that EAI's client and its proxy read."""
    document = {"code": error.code.upper(), "message": error.message, "detail": error.message, "error": error.message}
    path = error.details.get("path")
    return error.status, document if path is None else document | {"details": {"path": path}}


def _read_id(call: Call) -> int:
    text = call.path["execution_id"]
    return read_number(text.removeprefix(MARK), "execution")


async def _execution_words(call: Call, run: Run) -> EaiExecution:
    workflow = await definition_of(call, run)
    unset = msgspec.UNSET
    return EaiExecution(
        id=f"{MARK}{run.id}",
        workflow_id=run.request.workflow,
        state=RUN_WORDS[run.state],
        input=inputs_of(run),
        steps=[_step_words(run, workflow, name, record) for name, record in steps_of(run, workflow).items()],
        started_at=iso(run.started_at or run.created_at),
        output=run.output if run.state == State.COMPLETED else unset,
        error=unset if run.error is None else run.error.message,
        completed_at=unset if run.ended_at is None else iso(run.ended_at),
        metadata=unset if run.request.metadata is None else run.request.metadata,
    )


def _step_words(run: Run, workflow: Workflow | None, name: str, record: StepRecord) -> EaiStep:
    written = workflow.steps.get(name) if workflow else None
    return EaiStep(
        step_id=name,
        name=(written.step.name if written else None) or name,
        state=STEP_WORDS[step_state(run, record)],
        duration=elapsed(record.started_at, record.ended_at),
    )


def _row(run: Run) -> EaiRow:
    return EaiRow(
        id=f"{MARK}{run.id}",
        workflow_id=run.request.workflow,
        state=RUN_WORDS[run.state],
        started_at=iso(run.started_at or run.created_at),
        completed_at=iso(run.ended_at),
    )


async def _workflow_words(call: Call, published: Published) -> EaiWorkflow:
    definition = (await call.control.definition(published)).definition
    return EaiWorkflow(
        id=published.name,
        name=published.name,
        description=published.description,
        version=f"{published.version}.0.0",
        steps=[EaiWorkflowStep(id=step.id, name=step.name or step.id, type=step.kind) for step in definition.steps],
    )


API = Dialect(
    name="eai",
    prefix=PREFIX,
    credential=bearer(b"authorization"),
    refuse=refuse,
    endpoints=(
        Endpoint(
            method="POST",
            path=PREFIX + "/workflows/{workflow_id}/execute",
            handler=execute,
            scope="runs:start",
            summary="Start a workflow, and wait for it unless `async` (EAI)",
            body=ExecutionRequest,
            answer=EaiExecution,
            example={
                "input": {"projectId": "proj_123", "analysisType": "comprehensive"},
                "async": True,
                "metadata": {"requestedBy": "user_456"},
            },
            refuses=(400, 401, 402, 403, 404, 409, 413, 422, 503),
        ),
        Endpoint(
            method="GET",
            path=PREFIX + "/executions/{execution_id}",
            handler=show_execution,
            scope="runs:read",
            summary="One execution (EAI)",
            answer=EaiExecution,
            refuses=(401, 403, 404),
        ),
        Endpoint(
            method="GET",
            path=PREFIX + "/workflows",
            handler=list_workflows,
            scope="workflows:read",
            summary="List workflows (EAI)",
            answer=EaiWorkflows,
            refuses=(401, 403),
        ),
        Endpoint(
            method="GET",
            path=PREFIX + "/executions",
            handler=list_executions,
            scope="runs:read",
            summary="List executions, newest first (EAI)",
            query=ListQuery,
            answer=EaiExecutions,
            refuses=(400, 401, 403),
        ),
        Endpoint(
            method="POST",
            path=PREFIX + "/executions/{execution_id}/cancel",
            handler=cancel,
            scope="runs:cancel",
            summary="End an execution now (EAI)",
            status=204,
            refuses=(401, 403, 404, 409),
        ),
    ),
)
