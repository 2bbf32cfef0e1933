"""What the dialects share: finding a workflow or a run that the caller may touch, and the lists of what they may see."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.control import LONGEST_WAIT
from gateway.errors import GatewayError, NotFound, Unavailable
from gateway.runs import TERMINAL, Run, StepRecord, StepState
from gateway.store.reading import RunFilter
from gateway.web.callers import run_subject, workflow_subject
from gateway.web.endpoints import Call
from gateway.workflows import Published, Workflow

NUMBER = re.compile(r"[0-9]{1,18}")
NOT_YET = StepRecord(state=StepState.PENDING)
NEVER = StepRecord(state=StepState.SKIPPED)


def find_workflow(call: Call, name: str | int, scope: str) -> Published:
    """The workflow with this id or name. Raises NotFound, or Forbidden when the token is not good for it."""
    published = call.control.workflow(name)
    call.who.require(scope, workflow_subject(published))
    return published


async def find_run(call: Call, run_id: int, scope: str) -> Run:
    """One run. Raises NotFound, or Forbidden when the token is not good for it."""
    run = await call.control.run(run_id)
    call.who.require(scope, run_subject(run.request, call.control.live_apps))
    return run


def may_see(call: Call, run: Run) -> bool:
    """Whether the caller may read this run."""
    return call.who.token.may("runs:read", run_subject(run.request, call.control.live_apps))


def visible_workflows(call: Call) -> list[Published]:
    """The workflows that the caller may see, by id."""
    token = call.who.token
    return [each for each in call.control.workflows() if token.may("workflows:read", workflow_subject(each))]


async def visible_runs(call: Call, wanted: RunFilter, limit: int, offset: int) -> list[Run]:
    """The newest runs that fit and that the caller may see, `offset` of them passed over."""
    allowed = (lambda run: may_see(call, run)) if call.who.token.is_narrowed("runs:read") else None
    found: list[Run] = []
    before: int | None = None
    while True:
        page = await call.control.page(wanted, limit - len(found), before, offset, allowed)
        found += page.runs
        if len(found) == limit or page.next is None:
            return found
        before, offset = page.next, page.skip


async def ended_run(call: Call, run_id: int) -> Run:
    """The run when it has ended; as it is after the longest wait, or at once where too many wait already."""
    try:
        return await call.control.wait(run_id, LONGEST_WAIT)
    except Unavailable:
        # It was started, so a refusal would be a lie, and an invitation to start it again.
        return await call.control.run(run_id)


async def definition_of(call: Call, run: Run) -> Workflow | None:
    """What a run runs, or None when it can't be had any more."""
    try:
        return await call.control.definition_of(run)
    except GatewayError:
        return None


def steps_of(run: Run, workflow: Workflow | None) -> Mapping[str, StepRecord]:
    """Every step of the run in the order it is written; what never began is pending, or skipped once it has ended."""
    ended = run.state in TERMINAL
    names = [*workflow.steps, *(run.steps.keys() - workflow.steps.keys())] if workflow else list(run.steps)
    return {name: run.steps.get(name, NEVER if ended else NOT_YET) for name in names}


def read_number(text: str, what: str) -> int:
    """An id of ours from text. Raises NotFound, for nothing has an id that is none."""
    if not NUMBER.fullmatch(text):
        message = f"there is no {what} {text[:80]!r}"
        raise NotFound(message)
    return int(text)


def as_object(value: object, name: str) -> dict[str, object]:
    """A value as an object: itself, nothing, or under a name."""
    if isinstance(value, dict):
        return value
    return {} if value is None else {name: value}
