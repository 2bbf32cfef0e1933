"""Replays: a stored event decided again, or started again as it was then. Silent: what is stored in, what to store out.

Nobody proves anything again: the event was proven when it came. What a replay does to the outside goes by the first
event and its trigger (`RunRequest.effects`), so that the same step with the same input sends the same idempotency key
as the first time, and a receiver that honours it does nothing twice. `fresh_keys` is for those who want it twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import msgspec
from msgspec import structs

from gateway.apps import LiveApp
from gateway.challenges import RECORDS
from gateway.contents import read_direct, stored_values
from gateway.errors import Unprocessable
from gateway.events import Acceptable, Decision, Head, Verdict, caller_key, session_of
from gateway.jobs import effects_of
from gateway.runs import Run, RunRequest
from gateway.triggers import DirectRequest, FindWorkflow, check_input

Config = Literal["current", "same"]
Outcome = Literal["accepted", "ignored", "parked", "skipped"]
COPIES = {"rerun": "repeats a run", "step": "was made by a step of a run"}
UNDECIDED = ("refused", *RECORDS)
"""Outcomes of events about which no trigger was asked: what was refused, and handshakes."""


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to replay. `current` decides anew by what is published now, `same` starts what was started then.

    `dry_run` says what would start, and starts nothing. `fresh_keys` gives steps idempotency keys of their own.
    """

    config: Config = "current"
    dry_run: bool = False
    fresh_keys: bool = False


class Which(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are wanted, besides when they came."""

    app_id: int | None = None
    type: str | None = None
    outcome: Outcome | None = None

    def fits(self, head: Head) -> bool:
        """Whether it is one of them, and came from outside: a copy, a tick or a chain follows from another."""
        outside = any(each is not None for each in (head.app_id, head.token_id, head.hook_id))
        return (
            outside
            and head.replay_of is None
            and head.decision.scheme not in COPIES
            and head.decision.outcome not in UNDECIDED
            and self.app_id in (None, head.app_id)
            and self.type in (None, head.type)
            and self.outcome in (None, head.decision.outcome)
        )


class StartDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A run that a replay starts, or would start: of which workflow, by which trigger, with what."""

    workflow_id: int
    workflow: str
    digest: str
    trigger: str | None
    input: Any
    task: str | None
    metadata: dict[str, Any] | None


class ReplayDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the replay of one event.

    `known`: the same key came before, and these are its runs. `ignored`: nothing matched, and nothing was stored.
    `skipped`: a run that has not ended was in the way. `refused`: `reason` says why.
    """

    event_id: str
    status: Literal["started", "would_start", "known", "ignored", "skipped", "refused"]
    replay_event_id: str | None = None
    run_ids: list[int] = []
    starts: list[StartDocument] = []
    triggers: list[Verdict] = []
    reason: str | None = None


class Recall:
    """What is known of a stored event: its app as it is now, and what expressions see."""

    def __init__(self, app: LiveApp, event_id: str, head: Head, body: bytes) -> None:
        self.app = app
        self.event_id = event_id
        self._head = head
        self._body = body

    @cached_property
    def values(self) -> dict[str, Any]:
        """What expressions see."""
        event = stored_values(self.event_id, self._head, self._body)
        return {"event": event, "app": {"id": self.app.id, "name": self.app.app.name}}

    @cached_property
    def direct(self) -> DirectRequest | None:
        """The run request of an app whose bodies are one. Raises BadRequest or Unprocessable where this is none."""
        return read_direct(self._body) if self.app.direct else None


def insist_on_replayable(event_id: str, head: Head) -> None:
    """Raise Unprocessable for what can't be replayed: it was never proven, is no event, or is a copy of another."""
    decision = head.decision
    if decision.outcome in RECORDS:
        message = f"{event_id} is a {decision.outcome} of its sender, which starts nothing, whatever it holds"
        raise Unprocessable(message)
    if decision.outcome == "refused" and head.app_id is not None:
        message = f"{event_id} was refused: nobody proved who sent it, so nothing may come of it. Have it sent again"
        raise Unprocessable(message)
    if decision.scheme in COPIES:
        message = f"{event_id} {decision.reason or COPIES[decision.scheme]}: replay the event that it all began with"
        raise Unprocessable(message)


def as_replayed(head: Head, first: str) -> Head:
    """The head of a replay of the event `first`, as expressions read it before anything is decided."""
    return structs.replace(head, replay_of=first)


def start_as_then(runs: Sequence[Run], first: str) -> list[RunRequest]:
    """The requests of the runs that the first event started. Raises Unprocessable where one was for others too."""
    for run in runs:
        if run.request.event_id != first:
            message = (
                f"it joined run {run.id}, which another event asked for; `gateway run rerun {run.id}` repeats that"
            )
            raise Unprocessable(message)
    return [run.request for run in runs]


def start_as_now(requests: Sequence[RunRequest], find: FindWorkflow) -> list[RunRequest]:
    """The same requests to the workflows as they are published now: of an event that no triggers decide about.

    Raises Unprocessable for a workflow that is gone, or that refuses the input now.
    """
    found = []
    for request in requests:
        published, workflow = find(request.workflow)
        check_input(workflow, request.input)
        found.append(structs.replace(request, workflow_id=published.id, digest=published.digest))
    return found


def mark(requests: Sequence[RunRequest], first: str, event_id: str, wish: Wish) -> list[RunRequest]:
    """Requests as those of the replay `event_id` of the event `first`."""
    return [
        structs.replace(
            request,
            event_id=event_id,
            session_id=session_of(event_id),
            parent=None,
            rerun_of=None,
            inherited={},
            replay_of=first,
            effects=None if wish.fresh_keys else request.effects or effects_of(first, request.trigger or ""),
        )
        for request in requests
    ]


def compose(
    event_id: str, first: str, head: Head, body: bytes, requests: list[RunRequest], verdicts: list[Verdict], wish: Wish
) -> Acceptable:
    """The event that replays another: with its bytes, marked as what it is."""
    reason = f"replays {first} with the {'current configuration' if wish.config == 'current' else 'same workflows'}"
    decision = Decision(outcome="accepted", scheme="replay", reason=reason, triggers=verdicts)
    return Acceptable(
        id=event_id,
        body=body,
        body_hash=hashlib.sha256(msgspec.json.encode(["replay", first, wish])).hexdigest()[:32],
        keys=[],
        head=structs.replace(head, decision=decision, replay_of=first),
        requests=requests,
    )


def key_of(owner: str, key: str, first: str) -> str:
    """Under what the replay of one event is remembered: the same command again, or its rest, starts nothing twice."""
    return caller_key(owner, f"replay {first} {key}")


def describe_start(request: RunRequest) -> StartDocument:
    return StartDocument(
        workflow_id=request.workflow_id,
        workflow=request.workflow,
        digest=request.digest,
        trigger=request.trigger,
        input=request.input,
        task=request.task,
        metadata=request.metadata,
    )
