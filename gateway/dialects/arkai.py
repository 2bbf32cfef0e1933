"""Arkai's words: start a version of a workflow and wait, or don't; and read a conversation. All by POST.

Source: Arkai, "API". The shape of a conversation is not documented there; ours holds what its page says one can see.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from gateway.control import LONGEST_WAIT, Order
from gateway.dialects.common import as_object, few_words, inputs_of, may_see
from gateway.errors import BadRequest, GatewayError, NotFound
from gateway.runs import TERMINAL, Run, State, StepState, conversation_of, elapsed, first_turn, iso, step_state
from gateway.web.callers import plain
from gateway.web.endpoints import Answer, Call, Dialect, Endpoint
from gateway.workflows import Published, Workflow

STILL_RUNNING = 202
RUN_FAILED = 500
STATUSES = (401, 403, 404, 405, 503)
"""Arkai has 400, 401, 403 and 404; what else is wrong with a request is 400."""

# Who polls a conversation waits for `completed` or `failed`; a cancelled run's error says that it was.
RUN_WORDS: dict[State, str] = {
    State.PENDING: "running",
    State.RUNNING: "running",
    State.WAITING: "running",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
}
STEP_WORDS: dict[StepState, str] = {
    StepState.PENDING: "running",
    StepState.RUNNING: "running",
    StepState.WAITING: "running",
    StepState.COMPLETED: "completed",
    StepState.FAILED: "failed",
    StepState.CANCELLED: "failed",
    StepState.SKIPPED: "skipped",
    StepState.UNKNOWN: "failed",
}


class ArkaiRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is started: which version of which workflow, with a value for each of its inputs by name."""

    workflow_id: str | int
    version: int | float
    input: dict[str, Any]
    conversation_id: str | None = None


class ReadBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Which conversation of which workflow."""

    workflow_id: str | int
    conversation_id: str


class Result(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What an execution gave."""

    conversation_id: str
    output: dict[str, Any]
    credit_usage: int


class Unfinished(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What there is to say of an execution that goes on after the longest wait."""

    conversation_id: str
    credit_usage: int
    status: str
    output: None = None


class Receipt(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An execution was started."""

    conversation_id: str
    credit_usage: int = 0


class PathStep(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One step of an execution."""

    component: str
    status: str
    credit_usage: int
    duration_ms: int | None
    error: str | None


class ArkaiExecution(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One turn of a conversation."""

    version: int | None
    status: str
    input: dict[str, Any]
    output: dict[str, Any]
    credit_usage: int
    error: str | None
    execution_path: list[PathStep]
    created_at: str | None
    updated_at: str | None


class Conversation(ArkaiExecution, frozen=True, kw_only=True, rename="camel"):
    """A conversation: its last execution, and all of them, oldest first. `creditUsage` is of all together."""

    conversation_id: str
    workflow_id: str
    executions: list[ArkaiExecution]


async def execute(call: Call) -> Answer:
    """Start a workflow and wait for its end."""
    run = await call.start_and_wait(await _order(call), LONGEST_WAIT)
    conversation, credits = conversation_of(run), run.credits
    if run.state == State.COMPLETED:
        output = as_object(run.output, "output")
        return 200, Result(conversation_id=conversation, output=output, credit_usage=credits)
    word = RUN_WORDS[run.state]
    if run.state not in TERMINAL:
        return STILL_RUNNING, Unfinished(conversation_id=conversation, credit_usage=credits, status=word)
    reason = run.error.message if run.error else "the workflow failed"
    words = {"conversationId": conversation, "creditUsage": credits, "status": word}
    return RUN_FAILED, words | {"error": reason}


async def execute_background(call: Call) -> Answer:
    """Start a workflow, and answer at once."""
    run = await call.start_and_wait(await _order(call), 0)
    return 200, Receipt(conversation_id=conversation_of(run))


async def show_conversation(call: Call) -> Answer:
    """A conversation with all its executions."""
    wanted: ReadBody = call.body
    published = call.workflow(wanted.workflow_id, "runs:read")
    runs = await _turns(call, published, wanted.conversation_id)
    executions = [_execution(run, await call.control.version_of(run)) for run in runs]
    last = msgspec.structs.asdict(executions[-1]) | {
        "credit_usage": sum(each.credit_usage for each in executions),
        "created_at": executions[0].created_at,
    }
    return 200, Conversation(
        conversation_id=wanted.conversation_id, workflow_id=str(published.id), executions=executions, **last
    )


def refuse(error: GatewayError) -> Answer:
    """An error, in Arkai's shape."""
    return few_words(error, STATUSES), {"error": error.message}


async def _order(call: Call) -> Order:
    wanted: ArkaiRequest = call.body
    published = call.workflow(wanted.workflow_id, "runs:start")
    version, workflow = await _version(call, published, wanted.version)
    _check_names(workflow, wanted.input)
    conversation = wanted.conversation_id
    if conversation is None:
        conversation = call.control.new_conversation()
    else:
        runs = await _turns(call, published, conversation)
        if first_turn(conversation) is not None and not all(may_see(call, run) for run in runs):
            raise _no_conversation(conversation)
    return Order(workflow=published.name, version=version, input=wanted.input, conversation_id=conversation)


async def _version(call: Call, published: Published, given: float) -> tuple[int, Workflow]:
    with contextlib.suppress(NotFound):  # the same answer as for a number that can't be a version
        if given == int(given) and given >= 1:
            return int(given), await call.control.definition(published, int(given))
    message = (
        f"version: workflow {published.name!r} has no version {str(given)[:20]}; the newest is {published.version}"
    )
    raise BadRequest(message)


def _check_names(workflow: Workflow, given: dict[str, Any]) -> None:
    """Refuse an input that the workflow doesn't declare; its schema judges the values, and what is missing."""
    schema = workflow.definition.input
    declared = None if schema is None else schema.get("properties")
    if (
        schema is None
        or not isinstance(declared, dict)
        or {"additionalProperties", "patternProperties"} & schema.keys()
    ):
        return
    unknown = [name for name in given if name not in declared]
    if unknown:
        message = f"input: there is no component {unknown[0][:80]!r}; there are: {', '.join(declared) or 'none'}"
        raise BadRequest(message)


async def _turns(call: Call, published: Published, conversation: str) -> list[Run]:
    """The runs of a conversation. Raises NotFound, or BadRequest when it is another workflow's."""
    runs = await call.control.conversation(conversation)
    if all(run.request.workflow_id == published.id for run in runs):
        return runs
    if not all(may_see(call, run) for run in runs):
        raise _no_conversation(conversation)
    message = f"conversationId: {conversation[:80]!r} is a conversation with another workflow"
    raise BadRequest(message)


def _no_conversation(conversation: str) -> NotFound:
    return NotFound(f"there is no conversation {conversation[:80]!r}")


def _execution(run: Run, version: int | None) -> ArkaiExecution:
    return ArkaiExecution(
        version=version,
        status=RUN_WORDS[run.state],
        input=inputs_of(run),
        output=as_object(run.output, "output"),
        credit_usage=run.credits,
        error=None if run.error is None else run.error.message,
        execution_path=_path(run),
        created_at=iso(run.created_at),
        updated_at=iso(run.ended_at or run.started_at or run.created_at),
    )


def _path(run: Run) -> list[PathStep]:
    return [
        PathStep(
            component=name,
            status=STEP_WORDS[step_state(run, record)],
            credit_usage=record.credits,
            duration_ms=elapsed(record.started_at, record.ended_at),
            error=None if record.error is None else record.error.message,
        )
        for name, record in run.steps.items()
    ]


EXAMPLE = {"workflowId": "12345", "version": 1, "input": {"First Name": "John", "Age": 30}, "conversationId": "67890"}
REFUSES = (400, 401, 403, 404, 405, 503)
API = Dialect(
    name="arkai",
    prefix="",
    credential=plain(b"x-api-key"),
    refuse=refuse,
    endpoints=(
        Endpoint(
            method="POST",
            path="/api/executeWorkflow",
            handler=execute,
            scope="runs:start",
            summary="Start a workflow and wait for it (Arkai)",
            body=ArkaiRequest,
            answer=Result,
            others={STILL_RUNNING: Unfinished},
            example=EXAMPLE,
            refuses=(*REFUSES, RUN_FAILED),
        ),
        Endpoint(
            method="POST",
            path="/api/executeWorkflowBackground",
            handler=execute_background,
            scope="runs:start",
            summary="Start a workflow (Arkai)",
            body=ArkaiRequest,
            answer=Receipt,
            example=EXAMPLE,
            refuses=REFUSES,
        ),
        Endpoint(
            method="POST",
            path="/api/getConversationById",
            handler=show_conversation,
            scope="runs:read",
            summary="Read a conversation (Arkai)",
            body=ReadBody,
            answer=Conversation,
            example={"workflowId": "12345", "conversationId": "67890"},
            refuses=REFUSES,
        ),
    ),
)
