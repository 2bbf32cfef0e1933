"""Our API's moves with a run that is there: signal, approve, resume, retry, rerun."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.approvals import HOURS, MOST_HOURS, LinkDocument
from gateway.documents import WholeRun
from gateway.steering import Choice, Verdict
from gateway.waits import LONGEST_NAME, SIGNAL_NAME
from gateway.web.api_runs import RunPath, show_whole
from gateway.web.endpoints import Answer, Call, Endpoint

START = "runs:start"
UnitId = Annotated[str, Meta(min_length=1, max_length=120, description="A step's id, or `ID[3]` for one of its items.")]


class SignalPath(RunPath, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME, pattern=SIGNAL_NAME)]


class ApprovalPath(RunPath, frozen=True):
    step: UnitId


class ApprovalBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decision about a step that asks for approval."""

    decision: Choice
    comment: Annotated[str, Meta(max_length=2000)] | None = None


class LinkBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how many hours the link is good."""

    hours: Annotated[float, Meta(gt=0, le=MOST_HOURS)] = HOURS


class ResumeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of a step of which nobody knows: do it again, or it is complete with this output, skipped or failed."""

    decision: Verdict = "retry"
    step: UnitId | None = None
    output: Any = None


class RerunBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From which step on to repeat; without, the whole run."""

    from_: Annotated[str, Meta(min_length=1, max_length=64, description="A step's id.")] | None = msgspec.field(
        name="from", default=None
    )


async def send_signal(call: Call) -> Answer:
    """Give a run a signal with any JSON as its body."""
    run = await call.run(int(call.path["run_id"]), START)
    after = await call.control.steering.signal(run.id, call.path["name"], call.body, _name(call))
    return 200, await show_whole(call, after)


async def decide(call: Call) -> Answer:
    """Approve or reject what a step asks for. The first decision counts."""
    run = await call.run(int(call.path["run_id"]), START)
    wanted: ApprovalBody = call.body
    steering = call.control.steering
    after = await steering.decide(run.id, call.path["step"], wanted.decision, wanted.comment, _name(call))
    return 200, await show_whole(call, after)


async def make_link(call: Call) -> Answer:
    """Make a link by which whoever has it approves or rejects this step, once, without a token."""
    run = await call.run(int(call.path["run_id"]), START)
    wanted: LinkBody = call.body or LinkBody()
    return 201, await call.control.make_link(run.id, call.path["step"], wanted.hours)


async def resume_run(call: Call) -> Answer:
    """Decide about a step of which nobody knows whether it happened."""
    run = await call.run(int(call.path["run_id"]), START)
    wanted: ResumeBody = call.body
    steering = call.control.steering
    after = await steering.resume(run.id, wanted.step, wanted.decision, wanted.output, _name(call))
    return 200, await show_whole(call, after)


async def retry_run(call: Call) -> Answer:
    """Do the failed steps of an ended run again, in the same run."""
    run = await call.run(int(call.path["run_id"]), START)
    return 200, await show_whole(call, await call.control.steering.retry(run.id))


async def rerun_run(call: Call) -> Answer:
    """Repeat a run as a new one; from a step on, with what came before it taken over."""
    run = await call.run(int(call.path["run_id"]), START)
    wanted: RerunBody = call.body or RerunBody()
    started = await call.control.rerun(run, wanted.from_, call.who.token, call.key)
    return 201, await show_whole(call, await call.control.run(started.run_id))


def _name(call: Call) -> str:
    return call.who.token.name


STEERING = (
    Endpoint(
        method="POST",
        path="/api/v1/runs/{run_id}/signals/{name}",
        handler=send_signal,
        scope=START,
        summary="Send a run a signal",
        where=SignalPath,
        body=Any,
        optional_body=True,
        answer=WholeRun,
        refuses=(409,),
        example={"build": 7},
    ),
    Endpoint(
        method="POST",
        path="/api/v1/runs/{run_id}/approvals/{step}",
        handler=decide,
        scope=START,
        summary="Approve or reject a step",
        where=ApprovalPath,
        body=ApprovalBody,
        answer=WholeRun,
        refuses=(409,),
        example={"decision": "approve", "comment": "looks good"},
    ),
    Endpoint(
        method="POST",
        path="/api/v1/runs/{run_id}/approvals/{step}/link",
        handler=make_link,
        scope=START,
        summary="Make a link that approves or rejects a step",
        where=ApprovalPath,
        body=LinkBody,
        optional_body=True,
        answer=LinkDocument,
        status=201,
        refuses=(409, 422),
        example={"hours": 48},
    ),
    Endpoint(
        method="POST",
        path="/api/v1/runs/{run_id}/resume",
        handler=resume_run,
        scope=START,
        summary="Decide about a step that may have happened",
        where=RunPath,
        body=ResumeBody,
        answer=WholeRun,
        refuses=(409, 422),
        example={"decision": "complete", "output": {"charged": True}},
    ),
    Endpoint(
        method="POST",
        path="/api/v1/runs/{run_id}/retry",
        handler=retry_run,
        scope=START,
        summary="Try the failed steps of a run again",
        where=RunPath,
        answer=WholeRun,
        refuses=(409,),
    ),
    Endpoint(
        method="POST",
        path="/api/v1/runs/{run_id}/rerun",
        handler=rerun_run,
        scope=START,
        summary="Repeat a run, wholly or from a step on",
        where=RunPath,
        body=RerunBody,
        optional_body=True,
        answer=WholeRun,
        status=201,
        refuses=(409, 422),
        example={"from": "judge"},
    ),
)
