"""The tables of states and moves, and a run in the words of the API."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.runs import (
    CALLBACK_MOVES,
    MOVES,
    OPEN,
    SETTLED,
    TERMINAL,
    CallbackState,
    Move,
    Problem,
    Run,
    RunRequest,
    State,
    StepRecord,
    StepState,
    conversation_of,
    describe,
    first_turn,
    iso,
)

# Written down once more, so that no row of the tables changes unseen.
RUN_TABLE = {
    ("claim", "pending"): "running",
    ("claim", "waiting"): "running",
    ("claim", "running"): "running",
    ("park", "running"): "waiting",
    ("complete", "running"): "completed",
    ("fail", "running"): "failed",
    ("cancel", "pending"): "cancelled",
    ("cancel", "waiting"): "cancelled",
    ("cancel", "running"): "cancelled",
    ("retry", "failed"): "pending",
    ("retry", "cancelled"): "pending",
}
CALLBACK_TABLE = {
    ("claim", "pending"): "sending",
    ("claim", "sending"): "sending",
    ("retry", "sending"): "pending",
    ("redeliver", "pending"): "pending",
    ("redeliver", "delivered"): "pending",
    ("redeliver", "failed"): "pending",
    ("deliver", "sending"): "delivered",
    ("fail", "sending"): "failed",
}
REQUEST = RunRequest(workflow_id=15, workflow="greet", digest="d", session_id="ses_1", task="world")


def allowed(moves: Mapping[str, Move], name: str, state: str) -> str | None:
    return moves[name].target if state in moves[name].sources else None


@pytest.mark.parametrize(("name", "state"), list(itertools.product(MOVES, State)))
def test_a_run_makes_exactly_the_moves_of_the_table(name: str, state: State) -> None:
    """Every move is allowed from the states the table gives it, ends where it says, and from no other state."""
    assert allowed(MOVES, name, state) == RUN_TABLE.get((name, str(state)))


@pytest.mark.parametrize(("name", "state"), list(itertools.product(CALLBACK_MOVES, CallbackState)))
def test_a_callback_makes_exactly_the_moves_of_the_table(name: str, state: CallbackState) -> None:
    """The same for callbacks: what was delivered or given up never moves again."""
    assert allowed(CALLBACK_MOVES, name, state) == CALLBACK_TABLE.get((name, str(state)))


def test_the_tables_name_no_state_or_move_that_is_not_there() -> None:
    """No row is left over: every move of the tables above exists."""
    assert {name for name, _ in RUN_TABLE} == set(MOVES)
    assert {name for name, _ in CALLBACK_TABLE} == set(CALLBACK_MOVES)


@pytest.mark.parametrize("state", list(State))
def test_a_state_is_either_open_or_terminal(state: State) -> None:
    """Every state is open or terminal and never both; from a terminal one nothing leads on but a person's retry."""
    assert (state in OPEN) != (state in TERMINAL)
    moves = {name for name, move in MOVES.items() if state in move.sources}
    assert moves - {"retry"} if state in OPEN else moves <= {"retry"}


@pytest.mark.parametrize("state", list(State))
def test_a_step_can_be_all_that_a_run_can_be(state: State) -> None:
    """A step has a run's states; those that are terminal for a run are settled for a step."""
    assert (StepState(state) in SETTLED) == (state in TERMINAL)


def test_a_new_run_is_described_without_times_it_does_not_have() -> None:
    """A pending run has no start, no end and no duration, and carries what started it."""
    seen = describe(Run(id=7, state=State.PENDING, request=REQUEST, created_at=1_700_000_000_123))
    assert seen["run_id"] == seen["workflow_run_id"] == 7
    assert (seen["status"], seen["workflow_id"], seen["workflow"], seen["task"]) == ("pending", 15, "greet", "world")
    assert seen["created_at"] == "2023-11-14T22:13:20.123Z"
    assert (seen["started_at"], seen["completed_at"], seen["duration_ms"], seen["steps"]) == (None, None, None, [])


def test_a_failed_run_is_described_with_its_steps_and_its_reason() -> None:
    """An ended run tells its duration, its error, and each step with attempt, times and error."""
    problem = Problem(type="HttpStatus", message="the answer was 503", step="call", attempt=2)
    step = StepRecord(state=StepState.FAILED, attempt=2, started_at=1_000, ended_at=1_250, error=problem, credits=3)
    run = Run(
        id=8,
        state=State.FAILED,
        request=REQUEST,
        created_at=900,
        started_at=1_000,
        ended_at=1_500,
        error=problem,
        steps={"call": step},
    )
    seen = describe(run)
    told = {"type": "HttpStatus", "message": "the answer was 503", "step": "call", "attempt": 2}
    assert (seen["status"], seen["duration_ms"], seen["error"]) == ("failed", 500, told)
    assert seen["steps"] == [
        {
            "kind": None,
            "id": "call",
            "status": "failed",
            "attempt": 2,
            "started_at": "1970-01-01T00:00:01.000Z",
            "completed_at": "1970-01-01T00:00:01.250Z",
            "due_at": None,
            "duration_ms": 250,
            "credits": 3,
            "waits_for": None,
            "child_run_id": None,
            "unknown": 0,
            "output": None,
            "error": told,
        }
    ]


def test_times_are_iso_in_utc_with_milliseconds() -> None:
    """A time of whole seconds has milliseconds too, and no time is none."""
    assert iso(0) == "1970-01-01T00:00:00.000Z"
    assert iso(None) is None


@given(some.integers(1, 10**15 - 1))
def test_a_run_without_a_conversation_has_its_own(run_id: int) -> None:
    """The id of its own conversation leads back to the run; one that it was started in stays what it is."""
    request = RunRequest(workflow_id=1, workflow="w", digest="d", session_id="s")
    run = Run(id=run_id, state=State.PENDING, request=request, created_at=1)
    assert first_turn(conversation_of(run)) == run_id
    turn = msgspec.structs.replace(run, request=msgspec.structs.replace(request, conversation_id="conv_abc"))
    assert conversation_of(turn) == "conv_abc"


@pytest.mark.parametrize(
    "name", ["", "run_", "run_0", "run_07", "run_-1", "run_1 ", "run_٣", "run_" + "9" * 16, "conv_1", "xrun_1"]
)
def test_other_ids_are_of_no_run(name: str) -> None:
    """Nothing but a run's id in plain digits names its own conversation."""
    assert first_turn(name) is None
