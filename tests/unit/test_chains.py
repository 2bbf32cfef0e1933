"""Chains: what listens to the end of a run, what that starts, and what is refused or parked, and said so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.advice import warn_of_loops
from gateway.chains import find_loop, listened_by
from gateway.configuration import read_configuration
from gateway.errors import ConfigError
from gateway.events import Acceptable
from gateway.places import Mistakes
from gateway.runs import Problem, Run, RunRequest, State
from gateway.schedules import Schedule, compile_schedules
from gateway.starts import start_chained, start_tick
from gateway.workflows import Published, Workflow, prepare

SCHEMA = {"type": "object", "required": ["commit"], "properties": {"commit": {"type": "string"}}}


def deploy(*listeners: dict[str, Any], **more: Any) -> Workflow:
    return prepare({"name": "deploy", "on": [{"workflow": "build"} | each for each in listeners]} | more)


def published(workflow: Workflow) -> Published:
    return Published(id=2, name="deploy", version=1, digest=workflow.digest)


def ended(state: State = State.COMPLETED, **request: Any) -> Run:
    asked = {"workflow_id": 1, "workflow": "build", "digest": "d", "session_id": "ses_1", "input": {"ref": "main"}}
    problem = Problem(type="Timeout", message="too slow") if state == State.FAILED else None
    return Run(
        id=7,
        state=state,
        request=RunRequest(**(asked | request)),
        created_at=1,
        ended_at=1_750_000_000_000,
        output={"commit": "0d1a"},
        error=problem,
    )


def start(workflow: Workflow, run: Run, deepest: int = 16) -> Acceptable | None:
    (listener,) = workflow.listeners
    return start_chained(run, published(workflow), workflow, listener, deepest)


def test_an_end_starts_a_run_with_its_input_made_from_it() -> None:
    """The event is the ended run's document; the run knows its event, what started it, and its place in the chain."""
    given = {"commit": "${event.body.output.commit}", "ref": "${run.input.ref}", "was": "${run.status} ${event.type}"}
    event = start(deploy({"input": given}, input=SCHEMA), ended())
    assert event is not None
    (request,) = event.requests
    assert request.input == {"commit": "0d1a", "ref": "main", "was": "completed run.completed"}
    assert (request.workflow_id, request.trigger, request.event_id) == (2, "on build", event.id)
    assert (request.root, request.depth) == ("ses_1", 1)
    assert (request.app_id, request.token_id, request.conversation_id) == (None, None, None)
    told = msgspec.json.decode(event.body)
    assert (told["run_id"], told["status"], told["output"], "steps" in told) == (
        7,
        "completed",
        {"commit": "0d1a"},
        False,
    )
    assert (event.head.type, event.head.decision.outcome, event.head.decision.scheme) == (
        "run.completed", "accepted", "chain",
    )  # fmt: skip


def test_a_chain_remembers_where_it_began() -> None:
    """A run far down has the root of the first and one more in depth than the one before it."""
    event = start(deploy({}), ended(root="ses_first", depth=4, session_id="ses_5"))
    assert event is not None
    assert (event.requests[0].root, event.requests[0].depth) == ("ses_first", 5)


@pytest.mark.parametrize(
    ("listener", "state", "hears"),
    [
        ({}, "completed", True),
        ({}, "failed", False),
        ({"status": ["failed", "cancelled"]}, "cancelled", True),
        ({"status": ["failed", "cancelled"]}, "completed", False),
        ({"workflow": 1}, "completed", True),
        ({"workflow": "1"}, "completed", True),
        ({"workflow": "other"}, "completed", False),
    ],
)
def test_a_listener_hears_a_workflow_in_its_states(listener: dict[str, Any], state: str, hears: bool) -> None:
    """By name or id; completed unless it says otherwise."""
    (compiled,) = deploy(listener).listeners
    assert compiled.hears(ended().request, state) is hears


@pytest.mark.parametrize(
    "when", ["event.body.output.commit == 'x'", "event.body.output.missing == 1", "1", "run.error == 1"]
)
def test_a_condition_that_does_not_hold_starts_nothing(when: str) -> None:
    """One that is false, gives no truth value, or can't be judged."""
    assert start(deploy({"when": when}), ended()) is None


def test_a_condition_may_read_why_a_run_failed() -> None:
    """A failed run's error is in reach under both names."""
    when = "run.error.type == 'Timeout' && event.body.error.message == 'too slow'"
    assert start(deploy({"when": when, "status": ["failed"]}), ended(State.FAILED)) is not None


@pytest.mark.parametrize(
    ("listener", "reason"),
    [
        ({"input": {"commit": "${run.id}"}}, "the workflow refuses the input: input.commit"),
        ({"input": {"commit": "${event.body.output.nothing}"}}, "the input can't be made"),
    ],
)
def test_an_input_that_can_not_be_used_is_explained(listener: dict[str, Any], reason: str) -> None:
    """No run, and an event whose decision says why."""
    event = start(deploy(listener, input=SCHEMA), ended())
    assert event is not None
    assert (event.requests, event.head.decision.outcome) == ([], "refused")
    assert reason in (event.head.decision.reason or "")


def test_a_chain_that_is_too_deep_is_parked() -> None:
    """The deepest run that may be is started; the one behind it is not, and the decision says why and where it began."""
    workflow = deploy({})
    deepest = start(workflow, ended(depth=15, root="ses_first"))
    parked = start(workflow, ended(depth=16, root="ses_first"))
    assert deepest is not None
    assert parked is not None
    assert (len(deepest.requests), parked.requests, parked.head.decision.outcome) == (1, [], "parked")
    assert parked.head.decision.reason == (
        "this run would be 17 deep in a chain, and GATEWAY_MAX_DEPTH allows 16; it began with ses_first"
    )


def test_ids_follow_from_what_is_started() -> None:
    """The same end heard by the same listener is the same event; another end of the run, or listener, is another."""
    one, two = deploy({}).listeners[0], deploy({}, {"when": "true"}).listeners[1]
    workflow, again = deploy({}), msgspec.structs.replace(ended(), ended_at=1_750_000_000_001)
    found = [
        start_chained(run, published(workflow), workflow, listener, 16)
        for run, listener in ((ended(), one), (ended(), one), (ended(), two), (again, one))
    ]
    ids = [event.id for event in found if event is not None]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert all(len(each) == len("evt_") + 28 for each in ids)


def test_a_tick_is_an_event_that_says_so() -> None:
    """Type, body and the run's trigger name the schedule and the tick in its own time; the input may read them."""
    (schedule,) = compile_schedules(
        Schedule(cron="0 9 * * *", zone="Europe/Berlin", input={"commit": "${event.body.tick}"})
    )
    workflow = deploy({"input": {"commit": "${event.id}"}}, input=SCHEMA)
    tick = schedule.next(1_750_000_000_000) or 0
    event = start_tick(published(workflow), workflow, schedule, tick)
    told = {
        "schedule": "0 9 * * *",
        "zone": "Europe/Berlin",
        "tick": "2025-06-16T09:00:00+02:00",
        "workflow": "deploy",
    }
    assert (event.head.type, msgspec.json.decode(event.body)) == ("schedule", told)
    assert (event.requests[0].trigger, event.requests[0].input) == ("schedule", {"commit": "2025-06-16T09:00:00+02:00"})
    assert start_tick(published(workflow), workflow, schedule, tick).id == event.id
    assert start_tick(published(workflow), workflow, schedule, tick + 1).id != event.id


@pytest.mark.parametrize(
    ("listener", "path"),
    [
        ({"when": "steps.a.output"}, "on[0].when"),
        ({"when": "event.body."}, "on[0].when"),
        ({"input": {"x": "${item}"}}, "on[0].input.x"),
        ({"status": []}, "on[0].status"),
        ({"status": ["running"]}, "on[0].status[0]"),
        ({"state": "completed"}, "on[0]"),
    ],
)
def test_a_listener_that_can_not_be_used_is_refused(listener: dict[str, Any], path: str) -> None:
    """The refusal names the field."""
    with pytest.raises(ConfigError) as caught:
        deploy(listener)
    assert caught.value.details["path"] == path


@pytest.mark.parametrize(
    ("start", "path"),
    [
        ({"on": [{"workflow": "build"}]}, "on[0].input"),
        ({"on": [{"workflow": "build", "input": {"commit": 1}}]}, "on[0].input"),
        ({"schedule": "0 9 * * *"}, "schedule.input"),
        ({"schedule": ["0 8 * * *"]}, "schedule[0].input"),
    ],
)
def test_an_input_that_would_be_refused_each_time_is_refused_at_once(start: dict[str, Any], path: str) -> None:
    """What holds no expression is judged by the workflow's schema when it is checked, not at three in the morning."""
    with pytest.raises(ConfigError) as caught:
        prepare({"name": "deploy", "input": SCHEMA} | start)
    assert caught.value.details["path"] == path
    assert "commit" in caught.value.message


FILE = """
workflows:
  - {{id: 1, name: a, on: [{{workflow: {a}}}]}}
  - {{id: 2, name: b, on: [{{workflow: {b}}}]}}
  - {{id: 3, name: c}}
"""


def test_a_listener_to_no_workflow_of_the_file_is_a_mistake() -> None:
    """With its line, and the name that was probably meant."""
    with pytest.raises(Mistakes) as caught:
        read_configuration(FILE.format(a="c", b="aa"))
    assert "line 4" in str(caught.value)
    assert "did you mean 'a'?" in str(caught.value)


def test_workflows_in_a_circle_are_warned_of() -> None:
    """Named in the order they start each other, by whichever name they were written; a mere chain is no circle."""
    (warning,) = warn_of_loops(read_configuration(FILE.format(a="b", b="1")))
    assert "a → b → a" in warning or "b → a → b" in warning
    assert warn_of_loops(read_configuration(FILE.format(a="b", b="c"))) == []
    assert "a → a" in warn_of_loops(read_configuration(FILE.format(a="a", b="c")))[0]


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.sampled_from("abcdx"), max_size=3)))
def test_a_loop_is_found_exactly_where_there_is_one(listens: dict[str, list[str]]) -> None:
    """Against following every listener's names as far as they lead."""

    def reached(name: str) -> set[str]:
        seen: set[str] = set()
        left = list(listens.get(name, []))
        while left:
            if (each := left.pop()) not in seen:
                seen.add(each)
                left += listens.get(each, [])
        return seen

    assert (find_loop(listens) is not None) == any(name in reached(name) for name in listens)


def test_a_document_says_what_it_listens_to() -> None:
    """As text, for the store's list."""
    assert listened_by({"on": [{"workflow": "build"}, {"workflow": 15}]}) == ["build", "15"]
    assert listened_by({}) == []
