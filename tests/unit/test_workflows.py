"""Workflows: what a definition may say, and what comes next in a run of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.expressions import Failure
from gateway.runs import SETTLED, Problem, StepRecord, StepState
from gateway.workflows import Plan, Seconds, Workflow, digest_of, outcome, plan, prepare, step_values

NOW = 1_000_000
DONE = StepRecord(state=StepState.COMPLETED)
RUNNING = StepRecord(state=StepState.RUNNING)
SKIPPED = StepRecord(state=StepState.SKIPPED)
FAILED = StepRecord(state=StepState.FAILED, error=Problem(type="Boom", message="no", step="a"))


def waiting(due_at: int) -> StepRecord:
    return StepRecord(state=StepState.WAITING, attempt=1, due_at=due_at)


def step(step_id: str, *needs: str, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "needs": list(needs), "transform": step_id} | fields


def workflow(*steps: dict[str, Any], **fields: Any) -> Workflow:
    return prepare({"name": "w", "steps": list(steps)} | fields)


def next_of(flow: Workflow, now: int = NOW, **records: StepRecord) -> Plan:
    return plan(flow, records, {"steps": step_values(records), "input": {"go": True}}, now)


def mistake(*steps: dict[str, Any], **fields: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        workflow(*steps, **fields)
    return caught.value


DIAMOND = workflow(step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c"))


# ---- what comes next


def test_steps_that_need_nothing_begin_together() -> None:
    """All steps without needs are begun at once, side by side."""
    assert next_of(workflow(step("a"), step("b"), step("c", "a"))) == Plan(start=("a", "b"))


def test_a_step_begins_when_all_it_needs_is_settled() -> None:
    """One need that still runs holds a step back; it begins when the last of them is settled."""
    assert next_of(DIAMOND, a=DONE, b=DONE, c=RUNNING) == Plan()
    assert next_of(DIAMOND, a=DONE, b=DONE, c=DONE) == Plan(start=("d",))


def test_a_run_ends_when_nothing_is_left_to_do() -> None:
    """A workflow without steps ends at once; another when its last step is settled, and not while one runs."""
    assert next_of(workflow()) == Plan(ended=True)
    assert next_of(DIAMOND, a=DONE, b=DONE, c=DONE, d=RUNNING) == Plan()
    assert next_of(DIAMOND, a=DONE, b=DONE, c=DONE, d=DONE) == Plan(ended=True)


def test_a_step_whose_condition_is_false_is_skipped() -> None:
    """`when` decides, once what the step needs is settled: true begins it, false skips it."""
    flow = workflow(step("a"), step("b", "a", when="steps.a.status == 'failed'"), step("c", "a", when="input.go"))
    assert next_of(flow, a=DONE) == Plan(start=("c",), skip=("b",))


def test_skipping_goes_down_the_chain() -> None:
    """What needs a skipped step is skipped too, and what needs that."""
    flow = workflow(step("a", when="false"), step("b", "a"), step("c", "b"), step("z"))
    assert next_of(flow) == Plan(start=("z",), skip=("a",))
    assert next_of(flow, a=SKIPPED, z=DONE) == Plan(skip=("b",))
    assert next_of(flow, a=SKIPPED, b=SKIPPED, z=DONE) == Plan(skip=("c",))
    assert next_of(flow, a=SKIPPED, b=SKIPPED, c=SKIPPED, z=DONE) == Plan(ended=True)


def test_a_condition_of_its_own_overrides_the_chain() -> None:
    """A step that says `when` itself is asked, even if what it needs was skipped."""
    flow = workflow(step("a", when="false"), step("b", "a", when="steps.a.status == 'skipped'"))
    assert next_of(flow, a=SKIPPED) == Plan(start=("b",))


def test_a_failure_lets_the_others_end_and_begins_nothing() -> None:
    """After a failed step nothing begins, not even what is due; the run ends once nothing runs any more."""
    flow = workflow(step("a"), step("b"), step("c"), step("d"))
    assert next_of(flow, a=FAILED, b=RUNNING, c=waiting(NOW)) == Plan(problem=FAILED.error)
    assert next_of(flow, a=FAILED, b=DONE, c=waiting(NOW)) == Plan(ended=True, problem=FAILED.error)


def test_a_waiting_step_begins_when_it_is_due() -> None:
    """Before its time a waiting step only says when to look again; at that millisecond it begins."""
    flow = workflow(step("a"), step("b", "a"))
    assert next_of(flow, a=waiting(NOW + 1)) == Plan(due_at=NOW + 1)
    assert next_of(flow, a=waiting(NOW)).start == ("a",)


def test_the_earliest_of_those_that_wait_says_when_to_look_again() -> None:
    """What begins now does not hide when the next of the waiting steps is due."""
    flow = workflow(step("a"), step("b"), step("c"))
    plan_ = next_of(flow, a=waiting(NOW), b=waiting(NOW + 700), c=waiting(NOW + 500))
    assert (plan_.start, plan_.due_at, plan_.ended) == (("a",), NOW + 500, False)


@pytest.mark.parametrize(
    ("when", "reason"),
    [("input.absent", "absent"), ("1", "int"), ("'yes'", "str"), ("input.go + 1 == 2", "")],
)
def test_a_condition_that_gives_no_truth_fails_the_run(when: str, reason: str) -> None:
    """A `when` that can't be worked out, or gives something else than true or false, is a problem that names it."""
    found = next_of(workflow(step("a", when=when)))
    assert found.ended
    assert found.problem is not None
    assert (found.problem.type, found.problem.step) == ("ExpressionError", "a")
    assert when in found.problem.message
    assert reason in found.problem.message


def test_a_condition_that_fails_waits_for_the_steps_that_run() -> None:
    """A broken `when` ends the run only after the running steps came to their end."""
    flow = workflow(step("a"), step("b"), step("c", "a", when="input.absent"))
    assert not next_of(flow, a=DONE, b=RUNNING).ended
    assert next_of(flow, a=DONE, b=DONE).ended


@st.composite
def definitions(draw: st.DrawFn) -> Workflow:
    """Workflows of up to eight steps that need any of those before them, written down in any order."""
    ids = [f"s{number}" for number in range(draw(st.integers(1, 8)))]
    whens: st.SearchStrategy[dict[str, str]] = st.sampled_from([{}, {}, {}, {"when": "true"}, {"when": "false"}])
    steps = [
        step(
            step_id, *draw(st.lists(st.sampled_from(ids[:index]), unique=True) if index else st.just([])), **draw(whens)
        )
        for index, step_id in enumerate(ids)
    ]
    return workflow(*draw(st.permutations(steps)))


endings = st.sampled_from([DONE, DONE, DONE, waiting(0), FAILED])


@given(definitions(), st.data())
def test_any_workflow_comes_to_its_end_in_order(flow: Workflow, data: st.DataObject) -> None:
    """Whatever the graph and whatever its steps do: none begins before its needs or after a failure, none twice, and
    at the end either one failed or every step is settled."""
    records: dict[str, StepRecord] = {}
    tries = 0
    while not (found := plan(flow, records, {"steps": step_values(records)}, NOW)).ended:
        for name in (*found.start, *found.skip):
            assert name not in records or records[name].state == StepState.WAITING
            assert all(records[need].state in SETTLED for need in flow.steps[name].step.needs)
            assert FAILED not in records.values()
        records |= dict.fromkeys(found.skip, SKIPPED) | dict.fromkeys(found.start, RUNNING)
        running = [name for name, record in records.items() if record == RUNNING]
        assert running or found.skip, "the run stands still"
        if running:
            tries += 1
            ending = data.draw(endings) if tries < 30 else DONE
            records[data.draw(st.sampled_from(running))] = ending
    assert RUNNING not in records.values()
    assert (found.problem is not None) == (FAILED in records.values())
    assert found.problem is not None or set(records) == set(flow.steps)


# ---- what comes out


def test_one_last_step_gives_the_output_of_the_run() -> None:
    """Without `output` the run's output is that of the one step nobody needs."""
    flow = workflow(step("a"), step("b", "a"))
    assert outcome(flow, {"a": DONE, "b": StepRecord(state=StepState.COMPLETED, output=5)}, {}) == 5


def test_several_last_steps_give_their_outputs_by_name() -> None:
    """Where several steps are last, the output has each under its id; without any step there is none."""
    one, two = (StepRecord(state=StepState.COMPLETED, output=number) for number in (1, 2))
    assert outcome(workflow(step("a"), step("b")), {"a": one, "b": two}, {}) == {"a": 1, "b": 2}
    assert outcome(workflow(), {}, {}) is None


def test_output_is_worked_out_from_the_steps() -> None:
    """`output` may read every step; what it can't read is a Failure and not an exception."""
    flow = workflow(step("a"), step("b"), output={"both": "${steps.a.output}-${steps.b.output}"})
    records = {name: StepRecord(state=StepState.COMPLETED, output=name.upper()) for name in "ab"}
    assert outcome(flow, records, {"steps": step_values(records)}) == {"both": "A-B"}
    assert isinstance(outcome(flow, {}, {"steps": {}}), Failure)


# ---- what may be written


@pytest.mark.parametrize(
    ("steps", "circle"),
    [
        ([step("a", "a")], "a → a"),
        ([step("a", "b"), step("b", "a")], "a → b → a"),
        ([step("z"), step("a", "z", "c"), step("b", "a"), step("c", "b")], "a → c → b → a"),
    ],
)
def test_a_circle_is_refused_and_named(steps: list[dict[str, Any]], circle: str) -> None:
    """Steps that wait for each other are refused, and the message goes round the circle."""
    assert circle in mistake(*steps).message


@pytest.mark.parametrize("order", [1, -1])
def test_a_long_chain_is_no_circle(order: int) -> None:
    """A chain of a thousand steps is read in whatever order it is written."""
    steps = [step(f"s{number}", *([f"s{number - 1}"] if number else [])) for number in range(1000)]
    flow = workflow(*steps[::order])
    assert len(flow.steps) == 1000
    assert flow.last_steps == ["s999"]


@pytest.mark.parametrize(
    ("steps", "path", "words"),
    [
        ([step("a", "b")], "steps[0].needs[0]", "no step of this workflow"),
        ([step("a"), step("a")], "steps[1].id", "two steps"),
        ([{"id": "a"}], "steps[0]", "exactly one of"),
        ([step("a", python="m:f")], "steps[0]", "python and transform"),
        ([step("2a")], "steps[0].id", "can't be used"),
        ([step("a" * 65)], "steps[0].id", "at most 64"),
        ([{"id": "a", "python": "m.f"}], "steps[0].python", "module:function"),
        ([{"id": "a", "python": "os:system('x')"}], "steps[0].python", "module:function"),
        ([step("a", when="steps.b.output == 1"), step("b")], "steps[0].when", "add 'b' to `needs`"),
        ([step("a", transform="${steps.b.output}"), step("b")], "steps[0].transform", "add 'b' to `needs`"),
        ([step("a", when="input.x = 1")], "steps[0].when", "=="),
        ([step("a", transform={"x": ["${input.}"]})], "steps[0].transform.x[0]", ""),
        ([{"id": "a", "http": {"url": "https://x.example", "bdy": "x"}}], "steps[0].http", "bdy"),
        ([{"id": "a", "http": {}}], "steps[0].http", "url"),
        ([step("a", retry={"attempts": 0})], "steps[0].retry.attempts", ">= 1"),
        ([step("a", retry={"attempts": 2, "initial": "soon"})], "steps[0].retry", "soon"),
        ([step("a", needs="b")], "steps[0].needs", "array"),
    ],
)
def test_a_wrong_step_is_refused_with_its_place(steps: list[dict[str, Any]], path: str, words: str) -> None:
    """Every mistake in a step is refused with the path to it and words that say what to mend."""
    error = mistake(*steps)
    assert error.details["path"] == path
    assert words in error.message


def test_a_condition_may_read_what_ends_before_it_through_others() -> None:
    """`needs` counts through the chain: what a needed step needs has ended as well."""
    flow = workflow(step("a"), step("b", "a"), step("c", "b", when="steps.a.output == 'a'"))
    assert next_of(flow, a=StepRecord(state=StepState.COMPLETED, output="a"), b=DONE).start == ("c",)


def test_a_timeout_is_a_duration() -> None:
    """`timeout` takes durations as operators write them, and refuses what is none."""
    assert workflow(step("a", timeout="1m30s")).steps["a"].step.timeout == Seconds(90)
    assert "soon" in mistake(step("a", timeout="soon")).message


def test_the_input_schema_names_the_place_of_what_it_refuses() -> None:
    """An input is held against the workflow's JSON Schema; no input counts as an empty object."""
    items = {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}}
    flow = workflow(input={"type": "object", "required": ["rows"], "properties": {"rows": items}})
    assert flow.validator.complaint({"rows": [{"n": 1}]}) is None
    path, reason = flow.validator.complaint({"rows": [{"n": 1}, {"n": "2"}]}) or ("", "")
    assert path == "input.rows[1].n"
    assert "integer" in reason
    assert flow.validator.complaint(None) == ("input", '"rows" is a required property')


def test_without_a_schema_every_input_is_fine() -> None:
    """A workflow that asks for nothing takes anything."""
    assert workflow().validator.complaint([1, None, "x"]) is None


@pytest.mark.parametrize("schema", [{"type": "objet"}, {"$ref": "#/nowhere"}, {"pattern": "("}])
def test_a_schema_that_is_none_is_refused(schema: dict[str, Any]) -> None:
    """A broken JSON Schema is a mistake of the file, found when it is read."""
    assert "no valid JSON Schema" in mistake(input=schema).message


def test_the_digest_names_the_content_and_not_its_order() -> None:
    """Two documents that say the same have one digest, whatever the order of their fields; another has another."""
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert digest_of({"a": "ü"}) != digest_of({"a": "u"})
