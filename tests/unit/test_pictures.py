"""A run as a terminal shows it: also why it does not go on, and what a person may type then."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from gateway.cli.pictures import draw_run
from gateway.documents import describe_whole_run, plain
from gateway.runs import Problem, Run, RunRequest, State, StepRecord, StepState


def drawn(run: Run) -> str:
    screen = Console(file=io.StringIO(), width=300)
    draw_run(screen, plain(describe_whole_run(run, {"a": "wait"}, ())))
    text: str = screen.file.getvalue()  # type: ignore[attr-defined]
    return text


def run_with(record: StepRecord, **fields: Any) -> Run:
    request = RunRequest(
        workflow_id=1, workflow="w", digest="d", session_id="ses_1", rerun_of=fields.pop("rerun_of", None)
    )
    fields = {"id": 7, "state": State.WAITING, "request": request, "created_at": 0, "steps": {"a": record}} | fields
    return Run(**fields)


@pytest.mark.parametrize(
    ("state", "fields", "said"),
    [
        (StepState.WAITING, {"waits_for": "time", "due_at": 1000}, "waits for time until "),
        (StepState.WAITING, {"waits_for": "signal built"}, "waits for signal built"),
        (StepState.WAITING, {"waits_for": "run 9"}, "waits for run 9"),
        (StepState.WAITING, {"waits_for": "approval"}, "gateway run approve 7 a"),
        (StepState.UNKNOWN, {"waits_for": "resume"}, "gateway run resume 7 --step a --decision"),
    ],
)
def test_a_waiting_step_says_what_for(state: StepState, fields: dict[str, Any], said: str) -> None:
    """The step's line names what it waits for, and the command where that is a person."""
    assert said in drawn(run_with(StepRecord(state=state, attempt=1, **fields)))


def test_a_poison_step_says_both_why_and_what_to_do() -> None:
    """The reason it was set aside stands before the command that lets it go on."""
    error = Problem(type="WorkerLost", message="5 workers in a row were lost")
    text = drawn(run_with(StepRecord(state=StepState.UNKNOWN, attempt=1, waits_for="resume", error=error)))
    assert text.index("WorkerLost") < text.index("gateway run resume 7")


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (Problem(type="Rejected", message="no", step="a"), "Rejected in step a: no"),
        (Problem(type="Boom", message="no", step="a", attempt=2), "Boom in step a, attempt 2: no"),
        (Problem(type="Cancelled", message="enough"), "Cancelled: enough"),
    ],
)
def test_an_error_says_where_as_far_as_that_is_known(problem: Problem, said: str) -> None:
    """Not every error has a step, and what failed while it waited has no attempt."""
    failed = StepRecord(state=StepState.FAILED, attempt=1, error=problem)
    assert said in drawn(run_with(failed, state=State.FAILED, error=problem))


def test_a_retried_run_and_a_repetition_say_so() -> None:
    """The number of a run's attempt, from the second on, and the run that it repeats."""
    done = StepRecord(state=StepState.COMPLETED, attempt=1)
    plainly = drawn(run_with(done, state=State.COMPLETED))
    assert "repeats" not in plainly
    assert "attempt    2" not in plainly
    text = drawn(run_with(done, state=State.COMPLETED, attempt=2, rerun_of=3))
    assert "attempt    2" in text
    assert "repeats    run 3" in text
