"""A run's timeline: what happened to it and to its steps, in order, read from its record alone. Silent.

A record keeps a step's last attempt; of the attempts before, only those who watched have heard.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from gateway.runs import SETTLED, TERMINAL, Run, State, StepRecord, StepState, iso, step_state

MADE, BEGAN, STEP_BEGAN, STEP_MOVED, PARKED, ENDED = range(6)
"""What comes first of two things that happened in the same millisecond."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. Ids grow along the timeline, and an entry's never changes while the run goes on."""

    id: int
    event: str
    at: str
    run_id: int
    status: str
    step: str | None = None
    attempt: int | None = None
    replay_of: str | None = None
    output: Any = None
    error: Any = None


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of what a step is just saying; told to those who watch, and never stored.

    `offset` counts the characters that this attempt said before: who hears a gap has missed a piece.
    """

    run_id: int
    step: str
    attempt: int
    offset: int
    text: str


def timeline(run: Run) -> list[Entry]:
    """All that is known to have happened to a run, first to last."""
    entries = [_of_run(run, State.PENDING, run.created_at, MADE)]
    began = max(run.started_at or 0, run.created_at)
    if run.started_at is not None:
        entries.append(_of_run(run, State.RUNNING, began, BEGAN))
    for name, record in run.steps.items():
        entries += _of_step(run, name, record, began)
    last = max(_moment(entry) for entry in entries)
    if run.state == State.WAITING:
        entries.append(_of_run(run, run.state, last, PARKED))
    if run.state in TERMINAL:
        # The clocks of who ends a run and who works on it differ a little; the end comes last all the same.
        entries.append(_of_run(run, run.state, max(run.ended_at or 0, last), ENDED))
    return sorted(entries, key=lambda entry: entry.id)


def _of_run(run: Run, state: State, at: int, rank: int) -> Entry:
    ended = rank == ENDED
    return Entry(
        id=_id(at, rank, ""),
        event=f"run.{state}",
        at=iso(at) or "",
        run_id=run.id,
        status=state,
        replay_of=run.request.replay_of if rank == MADE else None,
        output=run.output if ended else None,
        error=run.error if ended else None,
    )


def _of_step(run: Run, name: str, record: StepRecord, began: int) -> list[Entry]:
    state = step_state(run, record)
    ended_at = max(record.ended_at or run.ended_at or 0, began)
    moved = (
        state in SETTLED or state == StepState.UNKNOWN or (state == StepState.WAITING and record.ended_at is not None)
    )
    entries = []
    if record.started_at is not None and state != StepState.SKIPPED:
        entries.append(
            _step_entry(run, name, record, StepState.RUNNING, record.started_at, max(record.started_at, began))
        )
    if moved:
        entries.append(_step_entry(run, name, record, state, ended_at, ended_at))
    return entries


def _step_entry(run: Run, name: str, record: StepRecord, state: StepState, at: int, order: int) -> Entry:
    began = state == StepState.RUNNING
    return Entry(
        id=_id(order, STEP_BEGAN if began else STEP_MOVED, f"{name} {record.attempt}"),
        event=f"step.{state}",
        at=iso(at) or "",
        run_id=run.id,
        status=state,
        step=name,
        attempt=record.attempt or None,
        output=None if began else record.output,
        error=None if began else record.error,
    )


def _id(moment: int, rank: int, name: str) -> int:
    return (moment << 20) | (rank << 16) | (zlib.crc32(name.encode()) & 0xFFFF)


def _moment(entry: Entry) -> int:
    return entry.id >> 20
