"""Rehearsals: a workflow runs by the same plans, with stubs for what acts, in made-up time."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import ConfigError
from gateway.rehearsals import Failing, Given, NoStub, Rehearsal, compare, describe_played, stubs_of
from gateway.runs import State
from gateway.workflows import Workflow, prepare

NOW = 1_800_000_000_000
URL = {"url": "https://x.example"}
HOUR_MS = 3_600_000


def flow(*steps: dict[str, Any], **fields: Any) -> Workflow:
    return prepare({"name": "w", "steps": list(steps)} | fields)


def play(workflow: Workflow, stubs: dict[str, Any] | None = None, given: Any = None, **how: Any) -> dict[str, Any]:
    played = Rehearsal(workflow, Given(input=given), stubs or {}, NOW, **how).play()
    return describe_played(played, workflow)


def steps(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["id"]: each for each in document["steps"]}


def http(step_id: str, *needs: str, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "needs": list(needs), "http": URL} | fields


def test_a_stub_is_the_output_and_transforms_are_real() -> None:
    """What acts gives its stub, what is evaluated is evaluated, and the output is the run's."""
    workflow = flow(http("get"), {"id": "sum", "needs": ["get"], "transform": "${steps.get.output.n + input.m}"})
    found = play(workflow, {"get": {"n": 40}}, {"m": 2})
    assert (found["status"], found["output"], found["duration_ms"]) == ("completed", 42, 0)
    assert [each["kind"] for each in found["steps"]] == ["http", "transform"]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"http": URL}, "or let it run with --allow http:\n\n  s: {status: 200"),
        ({"python": "a:b"}, "(python) has no stub"),
        ({"shell": ["ls"]}, "s: {code: 0, stdout"),
        ({"model": {"model": "m", "prompt": "p"}}, "s: {text: "),
        ({"workflow": {"name": "x"}}, "s: {run_id: 1, status: completed"),
        ({"approval": {}}, "s: approve"),
        ({"wait": {"signal": "go"}}, "the signal's body; or {times_out: true}"),
    ],
)
def test_a_step_without_stub_is_named_with_what_to_write(step: dict[str, Any], words: str) -> None:
    """Nothing is made up: the step and a line that would do are told."""
    with pytest.raises(NoStub) as caught:
        play(flow({"id": "s"} | step))
    assert "step 's'" in caught.value.message
    assert words in caught.value.message


def test_a_list_is_one_stub_for_each_attempt() -> None:
    """Attempts take them in turn, the last one stands for those that follow; pauses between take no time."""
    workflow = flow(http("get", retry={"attempts": 4, "initial": "1h", "factor": 1, "max": "1h"}))
    down = {"fails": {"type": "HttpError", "message": "down"}}
    found = play(workflow, {"get": [down, down, 7]})
    assert (found["output"], steps(found)["get"]["attempt"], found["duration_ms"]) == (7, 3, 2 * HOUR_MS)
    broken = play(workflow, {"get": [down]})
    assert (broken["status"], steps(broken)["get"]["attempt"]) == ("failed", 4)
    assert (broken["error"]["type"], broken["error"]["step"]) == ("HttpError", "get")
    last = {"fails": {"message": "gone", "again": False}}
    assert steps(play(workflow, {"get": [last, 7]}))["get"]["attempt"] == 1


def test_a_list_is_one_stub_for_each_item() -> None:
    """Items take theirs by index, each with attempts of its own where it is a list again; one stub may be for all."""
    workflow = flow(http("get", foreach="${input.names}", retry={"attempts": 2}))
    given = {"names": ["a", "b", "c"]}
    assert play(workflow, {"get": [1, [{"fails": "no"}, 2], 3]}, given)["output"] == [1, 2, 3]
    assert play(workflow, {"get": 1, "get[1]": 9}, given)["output"] == [1, 9, 1]
    with pytest.raises(NoStub, match="'get\\[1\\]' has 1 items, too few"):
        play(workflow, {"get": [1]}, given)


def test_an_output_that_is_a_list_is_written_in_a_list() -> None:
    """A list stands for attempts, so an output that is a list is the only one of them."""
    assert play(flow(http("get")), {"get": [[1, 2]]})["output"] == [1, 2]
    assert play(flow(http("get")), {"get": None})["output"] is None


def test_what_was_chosen_is_told() -> None:
    """Each condition is told with what it came to, and a skipped step with whose skipping it follows."""
    workflow = flow(
        {"id": "yes", "when": "input.n > 1", "transform": 1},
        {"id": "no", "when": "input.n > 9", "transform": 2},
        {"id": "after", "needs": ["no"], "transform": 3},
    )
    found = steps(play(workflow, given={"n": 5}))
    assert [found[each]["status"] for each in ("yes", "no", "after")] == ["completed", "skipped", "skipped"]
    assert found["yes"]["way"] == "`input.n > 1` is true"
    assert found["no"]["way"] == "`input.n > 9` is false"
    assert found["after"]["way"] == "needs no, skipped"


def test_waits_end_at_once_and_the_clock_moves_on() -> None:
    """A wait of a week takes no time here; who reads when it ended reads a week later."""
    found = play(flow({"id": "w", "wait": {"for": "7d"}}))
    assert found["duration_ms"] == 7 * 24 * HOUR_MS
    assert found["output"]["until"] == "2027-01-22T08:00:00.000Z"


WAIT = {"id": "s", "wait": {"signal": "go-${input.n}", "timeout": "1h", "on_timeout": "continue"}}


def test_signals_come_from_the_stubs() -> None:
    """A stub is the signal's body; or the signal never comes, and the timeout does."""
    heard = play(flow(WAIT), {"s": {"build": 7}}, {"n": 1})
    assert (heard["output"]["signal"], heard["output"]["body"], heard["duration_ms"]) == ("go-1", {"build": 7}, 0)
    late = play(flow(WAIT), {"s": {"times_out": True}}, {"n": 1})
    assert (late["output"]["timed_out"], late["duration_ms"]) == (True, HOUR_MS)


@pytest.mark.parametrize(
    ("stub", "status", "output"),
    [
        ("approve", "completed", (True, "stub", None)),
        ({"decision": "approve", "by": "ann", "comment": "fine"}, "completed", (True, "ann", "fine")),
        ("reject", "failed", None),
        ({"times_out": True}, "failed", None),
    ],
)
def test_approvals_come_from_the_stubs(stub: Any, status: str, output: Any) -> None:
    """A stub is a decision with who and why, or nobody decides in time."""
    found = play(flow({"id": "s", "approval": {"timeout": "1h"}}), {"s": stub})
    assert found["status"] == status
    if output is not None:
        assert tuple(found["output"][name] for name in ("approved", "by", "comment")) == output


def test_each_item_may_ask() -> None:
    """A foreach of approvals takes a decision for each item."""
    step = {"id": "s", "foreach": [1, 2], "approval": {"on_reject": "continue"}}
    assert [each["approved"] for each in play(flow(step), {"s": ["approve", "reject"]})["output"]] == [True, False]


@pytest.mark.parametrize(
    ("step", "stub", "words"),
    [
        ({"approval": {}}, "perhaps", "is no decision"),
        ({"approval": {}}, {"decision": "approve", "why": 1}, "is no decision"),
        ({"approval": {}}, {"times_out": True}, "has no `timeout`"),
        ({"http": URL}, {"fails": {"typ": "x"}}, "fails takes"),
        ({"http": URL}, [], "has 0 items"),
    ],
)
def test_a_stub_that_can_not_be_used_is_told(step: dict[str, Any], stub: Any, words: str) -> None:
    """What the stub says makes no sense for its step: that is told, and nothing is guessed."""
    with pytest.raises(NoStub, match=words):
        play(flow({"id": "s"} | step), {"s": stub})


def test_a_stub_of_no_step_is_refused() -> None:
    """A name that no step has is a slip of the pen."""
    with pytest.raises(ConfigError, match="no step 'gte'"):
        play(flow(http("get")), {"gte": 1})


def test_what_is_allowed_is_done_for_real() -> None:
    """A step of an allowed kind is performed with its argument, unless it has a stub."""
    asked: list[Any] = []

    def perform(unit: Any, step: Any, argument: Any, begun: Any) -> Any:
        asked.append((unit.id, argument, begun.attempt))
        return Failing(message="once") if begun.attempt == 1 else "real"

    python = {"id": "p", "python": "a:b", "with": {"n": "${input.n}"}, "retry": {"attempts": 2}}
    workflow = flow(python, http("get"))
    found = play(workflow, {"get": 1}, {"n": 5}, allowed=("python", "http"), perform=perform)
    assert found["output"] == {"p": "real", "get": 1}
    assert asked == [("p", {"n": 5}, 1), ("p", {"n": 5}, 2)]


def test_an_expression_that_fails_fails_its_step() -> None:
    """What real data would break breaks here, with the expression."""
    found = play(flow({"id": "s", "transform": "${input.absent}"}))
    assert (found["status"], found["error"]["type"]) == ("failed", "ExpressionError")
    found = play(flow({"id": "s", "transform": 1}, output="${steps.s.output.absent}"))
    assert (found["status"], found["error"]["type"]) == ("failed", "ExpressionError")


def test_steps_not_reached_are_shown() -> None:
    """After a failure the steps that never began stand there as pending."""
    found = play(flow(http("get"), {"id": "then", "needs": ["get"], "transform": 1}), {"get": {"fails": "no"}})
    assert steps(found)["then"]["status"] == "pending"


def test_a_recorded_run_makes_the_stubs() -> None:
    """Played again with what it recorded, a run comes to the same; transforms and allowed kinds are not taken over."""
    workflow = flow(
        http("get", retry={"attempts": 2}),
        http("each", "get", foreach="${input.names}", on_item_failure="continue"),
        {"id": "sig", "needs": ["each"], "wait": {"signal": "go", "timeout": "1h", "on_timeout": "continue"}},
        {"id": "ok", "needs": ["sig"], "approval": {"timeout": "1h"}},
        {"id": "sum", "needs": ["ok"], "transform": ["${steps.each.output}", "${steps.ok.output.by}"]},
    )
    stubs = {
        "get": [{"fails": "x"}, [1, 2]],
        "each": [5, {"fails": {"type": "Odd", "message": "m"}}],
        "sig": {"a": 1},
        "ok": {"decision": "approve", "by": "ann"},
    }
    first = play(workflow, stubs, {"names": ["a", "b"]})
    recorded = stubs_of(first, workflow)
    assert set(recorded) == {"get", "each[0]", "each[1]", "sig", "ok"}
    again = play(workflow, recorded, {"names": ["a", "b"]})
    assert (again["status"], again["output"]) == (first["status"], first["output"]) == ("completed", [[5, None], "ann"])
    assert set(stubs_of(first, workflow, ("http",))) == {"sig", "ok"}


@pytest.mark.parametrize("stub", ["reject", {"times_out": True}])
def test_a_recorded_refusal_is_one_again(stub: Any) -> None:
    """Rejected or too late, the run fails again as it did."""
    workflow = flow({"id": "ok", "approval": {"timeout": "1h"}})
    first = play(workflow, {"ok": stub})
    assert play(workflow, stubs_of(first, workflow))["error"]["type"] == first["error"]["type"]


def test_expectations_are_parts_of_what_is_there() -> None:
    """Fields that are not named don't matter; what differs is told with its path."""
    workflow = flow(
        {"id": "a", "transform": {"n": 1, "list": [1, {"x": True}]}}, {"id": "b", "transform": 1, "when": "false"}
    )
    found = play(workflow)
    assert found["status"] == State.COMPLETED
    good = {
        "status": "completed",
        "output": {"a": {"list": [1, {"x": True}]}},
        "steps": {"b": "skipped", "a": {"attempt": 1}},
    }
    assert compare(good, found) == []
    wrong = {
        "output": {"a": {"n": True, "list": [1]}},
        "error": {"type": "X"},
        "steps": {"b": "completed", "c": "failed"},
    }
    assert compare(wrong, found) == [
        "output.a.n: expected true, it is 1",
        'output.a.list: expected [1], it is [1,{"x":true}]',
        'error: expected {"type":"X"}, it is null',
        'steps.b.status: expected "completed", it is "skipped"',
        "steps.c: there is no such step",
    ]
    with pytest.raises(ConfigError, match="no field 'outputs'"):
        compare({"outputs": 1}, found)
