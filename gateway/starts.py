"""What the clock and the end of a run start, as events: their ids follow from what they are, so that each is stored once.

The event of a tick has the type `schedule` and the body `{"schedule", "zone", "tick", "workflow"}`; that of a chain has
the type `run.completed` (or failed, cancelled) and the ended run's document as its body. A run that an event should
start and doesn't is explained by the event's decision: `refused` for an input that can't be used, `parked` for a chain
that is too deep.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from gateway.chains import LiveListener
from gateway.errors import Unprocessable
from gateway.events import Acceptable, Content, Decision, Head, Verdict, event_values, hash_body, session_of
from gateway.expressions import Failure
from gateway.flow import Flow, flow_values
from gateway.jobs import effects_of
from gateway.results import tell_run
from gateway.runs import Run, RunRequest, effects_root, run_values
from gateway.schedules import LiveSchedule
from gateway.templates import Template
from gateway.triggers import check_input
from gateway.workflows import Published, Workflow

SCHEDULE = "schedule"
CHAIN = "chain"


def start_tick(published: Published, workflow: Workflow, schedule: LiveSchedule, tick: int) -> Acceptable:
    """The event of one tick: with its run, or with the reason why its input can't be used."""
    event_id = _id_of(tick, SCHEDULE, published.name, schedule.key)
    told = {
        "schedule": schedule.cron,
        "zone": schedule.zone,
        "tick": schedule.local(tick),
        "workflow": published.name,
    }
    values = {"event": event_values(event_id, SCHEDULE, None, Content(told)), "app": {"id": None, "name": None}}
    given = _render(workflow, schedule.input, values)
    if isinstance(given, str):
        return _event(event_id, SCHEDULE, told, Decision(outcome="refused", scheme=SCHEDULE, reason=given))
    request = _request(published, event_id, SCHEDULE, given.input)
    return _event(event_id, SCHEDULE, told, Decision(outcome="accepted", scheme=SCHEDULE), request, given.flow)


def start_chained(
    ended: Run, published: Published, workflow: Workflow, listener: LiveListener, deepest: int
) -> Acceptable | None:
    """The event of one listener that hears a run's end; None when its condition does not hold.

    A condition that can't be judged does not hold, as with triggers. The run started is one deeper in its chain than
    the one that ended, and is not started beyond `deepest`.
    """
    kind = f"run.{ended.state}"
    event_id = _id_of(ended.ended_at or 0, CHAIN, str(ended.id), published.name, str(listener.index))
    told = tell_run(ended)
    values = {"event": event_values(event_id, kind, None, Content(told)), "run": _ended_values(ended)}
    verdict = listener.when.evaluate(values)
    if verdict is not True:
        return None
    depth, root = ended.request.depth + 1, root_of(ended.request)
    triggers = [Verdict(f"on {listener.workflow}", True)]
    if depth > deepest:
        decision = Decision(outcome="parked", scheme=CHAIN, reason=too_deep(depth, deepest, root), triggers=triggers)
        return _event(event_id, kind, told, decision)
    given = _render(workflow, listener.input, values)
    if isinstance(given, str):
        return _event(event_id, kind, told, Decision(outcome="refused", scheme=CHAIN, reason=given, triggers=triggers))
    request = _request(published, event_id, f"on {listener.workflow}", given.input)
    heard = (effects_root(ended), kind, str(ended.attempt))
    effects = effects_of(*heard, published.name, str(listener.index))
    replayed = ended.request.replay_of
    request = msgspec.structs.replace(
        request,
        root=root,
        depth=depth,
        replay_of=replayed,
        effects=effects,
        traceparent=ended.request.traceparent,
    )
    decision = Decision(outcome="accepted", scheme=CHAIN, triggers=triggers)
    return _event(event_id, kind, told, decision, request, given.flow)


def root_of(request: RunRequest) -> str:
    """The session of the run that the chain began with, which may be this one."""
    return request.root or request.session_id


def too_deep(depth: int, deepest: int, root: str) -> str:
    """Why a chain goes no further."""
    return f"this run would be {depth} deep in a chain, and GATEWAY_MAX_DEPTH allows {deepest}; it began with {root}"


def _ended_values(run: Run) -> dict[str, Any]:
    """The `run` that a listener's expressions see: what a run sees of itself, and how it ended."""
    request = run.request
    return run_values(run) | {
        "status": str(run.state),
        "input": request.input,
        "output": run.output,
        "error": None if run.error is None else msgspec.to_builtins(run.error),
        "depth": request.depth,
    }


class _Given(msgspec.Struct, frozen=True):
    """What a run gets, and what controls its flow."""

    input: Any
    flow: Flow | None


def _render(workflow: Workflow, template: Template, values: dict[str, Any]) -> str | _Given:
    """What the run gets; or why there is nothing that the workflow takes."""
    given = template.render(values)
    if isinstance(given, Failure):
        return f"the input can't be made: `{given.expression}`: {given.message}"
    try:
        check_input(workflow, given)
        asked = flow_values(given, None, None, {"id": None, "name": None}, values["event"])
        flow = None if workflow.flow is None else workflow.flow.decide_inside(asked)
    except Unprocessable as error:
        return f"the workflow refuses the input: {error.message}"
    return _Given(given, flow)


def _request(published: Published, event_id: str, trigger: str, given: Any) -> RunRequest:
    return RunRequest(
        workflow_id=published.id,
        workflow=published.name,
        digest=published.digest,
        session_id=session_of(event_id),
        event_id=event_id,
        trigger=trigger,
        input=given,
        effects=effects_of(event_id, trigger),
    )


def _event(
    event_id: str,
    kind: str,
    told: dict[str, Any],
    decision: Decision,
    request: RunRequest | None = None,
    flow: Flow | None = None,
) -> Acceptable:
    body = msgspec.json.encode(told)
    head = Head(type=kind, decision=decision)
    requests = [] if request is None else [request]
    flows: list[Flow | None] = [] if flow is None else [flow]
    return Acceptable(
        id=event_id, body=body, body_hash=hash_body(body), keys=[], head=head, requests=requests, flows=flows
    )


def _id_of(at: int, *parts: str) -> str:
    """An id that sorts by time, as all do, and is the same whoever makes it."""
    digest = hashlib.sha256(msgspec.json.encode([at, *parts])).hexdigest()[:16]
    return f"evt_{at:012x}{digest}"
