"""The life of a run, of its steps and of its callbacks, as tables; and what a run's record holds.

Everything else reads these tables: the Lua scripts are handed the states a move may start from,
the dialects translate the words, the command line colours them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import msgspec

LARGEST_ID = 2**53 - 1
"""Of apps, workflows and runs: what every JSON parser holds exactly (RFC 8259, section 6)."""


class State(StrEnum):
    """Where a run is. `waiting` holds no worker: it is due later, or waits for somebody."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepState(StrEnum):
    """Where a step is: a run's states, and two that only a step can have."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"


class CallbackState(StrEnum):
    """Where a callback is: in the outbox, on its way, arrived, or given up."""

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Move(msgspec.Struct, frozen=True):
    """One change of state that exists: it may start from `sources` and ends in `target`."""

    sources: tuple[str, ...]
    target: str


# A claim may start from `running`: the worker that held the run is gone, its lease has ended.
MOVES: dict[str, Move] = {
    "claim": Move((State.PENDING, State.WAITING, State.RUNNING), State.RUNNING),
    "park": Move((State.RUNNING,), State.WAITING),
    "complete": Move((State.RUNNING,), State.COMPLETED),
    "fail": Move((State.RUNNING,), State.FAILED),
    "cancel": Move((State.PENDING, State.WAITING, State.RUNNING), State.CANCELLED),
    "retry": Move((State.FAILED, State.CANCELLED), State.PENDING),
}

CALLBACK_MOVES: dict[str, Move] = {
    "claim": Move((CallbackState.PENDING, CallbackState.SENDING), CallbackState.SENDING),
    "retry": Move((CallbackState.SENDING,), CallbackState.PENDING),
    "deliver": Move((CallbackState.SENDING,), CallbackState.DELIVERED),
    "fail": Move((CallbackState.SENDING,), CallbackState.FAILED),
    # A person's: what waits for its next attempt goes now, what has ended goes once more.
    "redeliver": Move((CallbackState.PENDING, CallbackState.DELIVERED, CallbackState.FAILED), CallbackState.PENDING),
}

OPEN: tuple[State, ...] = (State.PENDING, State.RUNNING, State.WAITING)
TERMINAL: frozenset[str] = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
OWN_CONVERSATION = "run_"
LONGEST_ID = 15
NO_KINDS: Mapping[str, str] = MappingProxyType({})
SETTLED: frozenset[str] = frozenset({StepState.COMPLETED, StepState.FAILED, StepState.CANCELLED, StepState.SKIPPED})


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a step or a run failed, in words for the person who will read it."""

    type: str
    message: str
    step: str | None = None
    attempt: int | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What an approval asks, worked out when its waiting began, and whom."""

    message: str = ""
    who: list[str] = []


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one step of one run. Times are milliseconds of the store's clock."""

    state: StepState
    attempt: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    due_at: int | None = None
    output: Any = None
    error: Problem | None = None
    credits: int = 0
    """What its attempts have cost."""
    waits_for: str | None = None
    """What a waiting step waits for: `time`, `signal NAME`, `approval`, `run ID`."""
    items: int | None = None
    """How many items a `foreach` step has; each has a record of its own, `ID[0]`, `ID[1]`, .."""
    child: int | None = None
    """The run that a `workflow` step started."""
    asks: Asked | None = None
    """What an approval asks; it stays there when it is decided."""
    failed_child: int | None = None
    """The run that an earlier attempt had started, and that failed: the next attempt starts another."""
    answered: int | None = None
    """The number of the signal that ended its waiting."""
    unknown: int = 0
    """How often its worker was lost between its beginning and its record."""


class Parent(msgspec.Struct, frozen=True):
    """The step of another run that started a run and waits for it."""

    run_id: int
    step: str


class Signal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A word from outside to one run. `seq` counts a run's signals from 1, `at` is milliseconds of the store's clock."""

    name: str
    body: Any = None
    by: str | None = None
    seq: int = 0
    at: int = 0
    once: str = ""
    """The question it answers, which takes one word; empty for what is said to whoever waits for the name."""


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What starts a run: which version of which workflow, with what, and on whose behalf. Never changes."""

    workflow_id: int
    workflow: str
    digest: str
    session_id: str
    app_id: int | None = None
    token_id: str | None = None
    event_id: str | None = None
    conversation_id: str | None = None
    trigger: str | None = None
    task: str | None = None
    input: Any = None
    metadata: dict[str, Any] | None = None
    parent: Parent | None = None
    root: str | None = None
    """Of a run that another started: the session of the run that it all began with, here or on another gateway."""
    depth: int = 0
    """How many runs led to this one, each started by the one before."""
    callback_url: str | None = None
    """Where whoever asked for it wants its end told, in place of the app's own callback."""
    traceparent: str | None = None
    """The trace that it is part of (W3C Trace Context), as its request said."""
    rerun_of: int | None = None
    inherited: dict[str, StepRecord] = {}
    """Steps that a rerun takes over from the run it repeats."""
    replay_of: str | None = None
    """The event that was replayed, as it first came, of a run that a replay started or led to."""
    effects: str | None = None
    """What its effects go by, that a replay shares; without it they are its own."""


HELD = ("queue", "concurrency", "throttle", "debounce", "batch")
"""Why a run may not have begun."""


class Held(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a run has not begun: `concurrency`, `throttle`, `debounce`, `batch`, or `queue` when nothing else holds it.

    `behind` counts the runs that go before it, where somebody looked; `items` what a batch has gathered.
    """

    reason: str
    since: str | None
    key: str | None = None
    until: str | None = None
    behind: int | None = None
    items: int | None = None


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """What endpoints were told of a run before its end: which attempt had started, and what it last waited for."""

    started: int = 0
    waiting: str = ""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run as the store holds it. Times are milliseconds of the store's clock."""

    id: int
    state: State
    request: RunRequest
    created_at: int
    started_at: int | None = None
    ended_at: int | None = None
    output: Any = None
    error: Problem | None = None
    steps: dict[str, StepRecord] = {}
    fence: int = 0
    attempt: int = 1
    credits: int = 0
    """What its steps' attempts have cost so far."""
    lost: int = 0
    """How many workers in a row were lost while they held this run, with nothing recorded between."""
    signals: tuple[Signal, ...] = ()
    pokes: int = 0
    """How often something happened to it from outside that whoever works on it must look at."""
    cancel_wish: str | None = None
    """Why whoever works on it must end it as cancelled."""
    held: Held | None = None
    told: Told = Told()


class StepDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A step in the words of our API. Times are ISO 8601, durations milliseconds."""

    kind: str | None = None
    id: str
    status: StepState
    attempt: int = 0
    started_at: str | None = None
    completed_at: str | None = None
    due_at: str | None = None
    duration_ms: int | None = None
    credits: int = 0
    waits_for: str | None = None
    asks: Asked | msgspec.UnsetType = msgspec.UNSET
    child_run_id: int | None = None
    unknown: int = 0
    output: Any = None
    error: Problem | None = None


class RunDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A run in the words of our API and of callbacks. Times are ISO 8601, durations milliseconds."""

    run_id: int
    workflow_run_id: int
    workflow_id: int
    workflow: str
    status: State
    session_id: str
    conversation_id: str
    app_id: int | None
    event_id: str | None
    trigger: str | None
    parent_run_id: int | None = None
    rerun_of: int | None = None
    replay_of: str | None = None
    attempt: int
    task: str | None
    input: Any
    metadata: dict[str, Any] | None
    root: str | None = None
    depth: int = 0
    credits: int = 0
    output: Any
    error: Problem | None
    created_at: str
    started_at: str | None
    completed_at: str | None
    duration_ms: int | None
    held: Held | msgspec.UnsetType = msgspec.UNSET
    steps: list[StepDocument]


def conversation_of(run: Run) -> str:
    """The conversation that a run is a turn of: a run that was started without one is the first of its own."""
    return run.request.conversation_id or f"{OWN_CONVERSATION}{run.id}"


def first_turn(conversation_id: str) -> int | None:
    """The run whose own conversation this would be; None for an id that was made for a conversation.

    Such an id can be guessed, so that knowing it proves nothing.
    """
    mark, number = conversation_id[: len(OWN_CONVERSATION)], conversation_id[len(OWN_CONVERSATION) :]
    plain = mark == OWN_CONVERSATION and number.isascii() and number.isdigit() and number[0] != "0"
    return int(number) if plain and len(number) <= LONGEST_ID else None


def document(run: Run, kinds: Mapping[str, str] = NO_KINDS) -> RunDocument:
    """A run as a document; with the kinds of its workflow's steps, the steps that have not begun are there as well."""
    return RunDocument(**fields_of(run, kinds))


def describe(run: Run) -> dict[str, Any]:
    """A run's document as plain data."""
    described: dict[str, Any] = msgspec.to_builtins(document(run))
    return described


def fields_of(run: Run, kinds: Mapping[str, str] = NO_KINDS) -> dict[str, Any]:
    """The fields of a run's document."""
    request = run.request
    return {
        "run_id": run.id,
        "workflow_run_id": run.id,
        "workflow_id": request.workflow_id,
        "workflow": request.workflow,
        "status": run.state,
        "session_id": request.session_id,
        "conversation_id": conversation_of(run),
        "app_id": request.app_id,
        "event_id": request.event_id,
        "trigger": request.trigger,
        "parent_run_id": None if request.parent is None else request.parent.run_id,
        "rerun_of": request.rerun_of,
        "replay_of": request.replay_of,
        "attempt": run.attempt,
        "task": request.task,
        "input": request.input,
        "metadata": request.metadata,
        "root": request.root,
        "depth": request.depth,
        "credits": run.credits,
        "output": run.output,
        "error": run.error,
        "created_at": iso(run.created_at),
        "started_at": iso(run.started_at),
        "completed_at": iso(run.ended_at),
        "duration_ms": elapsed(run.started_at, run.ended_at),
        "held": run.held or msgspec.UNSET,
        "steps": describe_steps(run, kinds),
    }


def describe_steps(run: Run, kinds: Mapping[str, str] = NO_KINDS) -> list[StepDocument]:
    """What is recorded of each step; and those that have not begun, where the kinds of all are given."""
    begun = [_describe_step(name, record, run, kinds.get(step_of(name))) for name, record in run.steps.items()]
    waiting = [
        StepDocument(kind=kind, id=name, status=StepState.PENDING)
        for name, kind in kinds.items()
        if name not in run.steps
    ]
    return [*begun, *waiting]


def run_values(run: Run) -> dict[str, Any]:
    """The `run` that its own expressions see."""
    request = run.request
    return {
        "id": run.id,
        "workflow": request.workflow,
        "workflow_id": request.workflow_id,
        "attempt": run.attempt,
        "session_id": request.session_id,
        "event_id": request.event_id,
        "replay": request.replay_of is not None,
    }


def effects_root(run: Run) -> str:
    """What the idempotency keys of a run's steps are made of, so that a replay's are those of the first time.

    The input counts: with another one it is another effect, and a receiver would refuse the old key for it.
    """
    request = run.request
    if request.effects is None:
        return str(run.id)
    given = msgspec.json.encode([request.input, request.task, request.metadata], order="sorted")
    return hashlib.sha256(request.effects.encode() + b":" + given).hexdigest()[:40]


def step_state(run: Run, record: StepRecord) -> StepState:
    """A step's state for those who look: what was under way when its run was ended from outside is cancelled."""
    return record.state if record.state in SETTLED or run.state not in TERMINAL else StepState.CANCELLED


def step_of(unit: str) -> str:
    """The id of the step that a record is about: of its items `ID[3]`, and of a probe `ID@OTHER#1` as well."""
    return unit.partition("@")[0].partition("[")[0]


def asked_about(unit: str) -> str:
    """The id of the record that a probe's record is about: `OTHER` of `ID@OTHER#1`; empty for what is no probe's."""
    return unit.partition("@")[2].rpartition("#")[0]


def elapsed(start: int | None, end: int | None) -> int | None:
    """The milliseconds from one time to another; None while there is no end."""
    return None if start is None or end is None else end - start


def _describe_step(name: str, record: StepRecord, run: Run, kind: str | None) -> StepDocument:
    waiting = record.state in (StepState.WAITING, StepState.UNKNOWN) and run.state not in TERMINAL
    return StepDocument(
        kind=kind,
        id=name,
        status=step_state(run, record),
        attempt=record.attempt,
        started_at=iso(record.started_at),
        completed_at=iso(record.ended_at),
        due_at=iso(record.due_at),
        duration_ms=elapsed(record.started_at, record.ended_at),
        credits=record.credits,
        waits_for=record.waits_for if waiting else None,
        asks=record.asks or msgspec.UNSET,
        child_run_id=record.child,
        unknown=record.unknown,
        output=record.output,
        error=record.error,
    )


def iso(milliseconds: int | None) -> str | None:
    """A time in milliseconds as ISO 8601 in UTC."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
