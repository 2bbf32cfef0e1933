"""What the dialects share: the lists of what the caller may see, and what a run was given and did."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from gateway.errors import GatewayError, NotFound
from gateway.runs import TERMINAL, Run, StepRecord, StepState
from gateway.store.reading import RunFilter
from gateway.web.callers import run_subject, workflow_subject
from gateway.web.endpoints import Call
from gateway.workflows import Published, Workflow

NUMBER = re.compile(r"[0-9]{1,18}")
NOT_YET = StepRecord(state=StepState.PENDING)
NEVER = StepRecord(state=StepState.SKIPPED)


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


def few_words(error: GatewayError, known: Collection[int]) -> int:
    """An error's status for a dialect that knows few: what else is wrong with a request is 400, and with us 500."""
    fallback = 400 if error.status < 500 else 500
    return error.status if error.status in known else fallback


def read_number(text: str, what: str) -> int:
    """An id of ours from text. Raises NotFound, for nothing has an id that is none."""
    if not NUMBER.fullmatch(text):
        message = f"there is no {what} {text[:80]!r}"
        raise NotFound(message)
    return int(text)


def inputs_of(run: Run) -> dict[str, object]:
    """What a run was given, as an object: its input, or the task of one that has none."""
    given = run.request.input
    return as_object(run.request.task, "task") if given is None else as_object(given, "input")


def as_object(value: object, name: str) -> dict[str, object]:
    """A value as an object: itself, nothing, or under a name."""
    if isinstance(value, dict):
        return value
    return {} if value is None else {name: value}
