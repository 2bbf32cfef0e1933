"""What comes next in a run, from what is recorded of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.expressions import Failure
from gateway.plans import Facts, Plan, outcome, plan, read_verdict, step_values
from gateway.runs import SETTLED, Problem, Signal, StepRecord, StepState
from gateway.waits import ask_approval, ask_resume
from gateway.workflows import Workflow, prepare

NOW = 1_000_000
DONE = StepRecord(state=StepState.COMPLETED)
RUNNING = StepRecord(state=StepState.RUNNING)
SKIPPED = StepRecord(state=StepState.SKIPPED)
FAILED = StepRecord(state=StepState.FAILED, error=Problem(type="Boom", message="no", step="a"))


class Next(NamedTuple):
    """A plan in short: names of what begins and of what is skipped."""

    start: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    due_at: int | None = None
    ended: bool = False
    problem: Problem | None = None


def waiting(due_at: int) -> StepRecord:
    return StepRecord(state=StepState.WAITING, attempt=1, due_at=due_at)


def step(step_id: str, *needs: str, **fields: Any) -> dict[str, Any]:
    kind = {} if fields.keys() & {"wait", "approval", "workflow", "http", "python"} else {"transform": step_id}
    return {"id": step_id, "needs": list(needs)} | kind | fields


def workflow(*steps: dict[str, Any], **fields: Any) -> Workflow:
    return prepare({"name": "w", "steps": list(steps)} | fields)


def plan_of(
    flow: Workflow, records: dict[str, StepRecord], now: int = NOW, signals: tuple[Signal, ...] = (), **more: Any
) -> Plan:
    values = {"steps": step_values(records), "input": {"go": True, "list": ["x", "y", "z"]}}
    return plan(Facts(workflow=flow, records=records, values=values, now=now, signals=signals, **more))


def next_of(flow: Workflow, now: int = NOW, **records: StepRecord) -> Next:
    found = plan_of(flow, records, now)
    skipped = tuple(name for name, record in found.settle.items() if record.state == StepState.SKIPPED)
    assert len(skipped) == len(found.settle)
    return Next(tuple(unit.id for unit in found.start), skipped, found.due_at, found.ended, found.problem)


DIAMOND = workflow(step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c"))


# ---- what comes next


def test_steps_that_need_nothing_begin_together() -> None:
    """All steps without needs are begun at once, side by side."""
    assert next_of(workflow(step("a"), step("b"), step("c", "a"))) == Next(start=("a", "b"))


def test_a_step_begins_when_all_it_needs_is_settled() -> None:
    """One need that still runs holds a step back; it begins when the last of them is settled."""
    assert next_of(DIAMOND, a=DONE, b=DONE, c=RUNNING) == Next()
    assert next_of(DIAMOND, a=DONE, b=DONE, c=DONE) == Next(start=("d",))


def test_a_run_ends_when_nothing_is_left_to_do() -> None:
    """A workflow without steps ends at once; another when its last step is settled, and not while one runs."""
    assert next_of(workflow()) == Next(ended=True)
    assert next_of(DIAMOND, a=DONE, b=DONE, c=DONE, d=RUNNING) == Next()
    assert next_of(DIAMOND, a=DONE, b=DONE, c=DONE, d=DONE) == Next(ended=True)


def test_a_step_whose_condition_is_false_is_skipped() -> None:
    """`when` decides, once what the step needs is settled: true begins it, false skips it."""
    flow = workflow(step("a"), step("b", "a", when="steps.a.status == 'failed'"), step("c", "a", when="input.go"))
    assert next_of(flow, a=DONE) == Next(start=("c",), skip=("b",))


def test_a_condition_may_read_what_ends_before_it_through_others() -> None:
    """`needs` counts through the chain: what a needed step needs has ended as well."""
    flow = workflow(step("a"), step("b", "a"), step("c", "b", when="steps.a.output == 'a'"))
    assert next_of(flow, a=StepRecord(state=StepState.COMPLETED, output="a"), b=DONE).start == ("c",)


def test_skipping_goes_down_the_chain() -> None:
    """What needs a skipped step is skipped too, and what needs that."""
    flow = workflow(step("a", when="false"), step("b", "a"), step("c", "b"), step("z"))
    assert next_of(flow) == Next(start=("z",), skip=("a",))
    assert next_of(flow, a=SKIPPED, z=DONE) == Next(skip=("b",))
    assert next_of(flow, a=SKIPPED, b=SKIPPED, z=DONE) == Next(skip=("c",))
    assert next_of(flow, a=SKIPPED, b=SKIPPED, c=SKIPPED, z=DONE) == Next(ended=True)


def test_a_condition_of_its_own_overrides_the_chain() -> None:
    """A step that says `when` itself is asked, even if what it needs was skipped."""
    flow = workflow(step("a", when="false"), step("b", "a", when="steps.a.status == 'skipped'"))
    assert next_of(flow, a=SKIPPED) == Next(start=("b",))


def test_a_failure_lets_the_others_end_and_begins_nothing() -> None:
    """After a failed step nothing begins, not even what is due; the run ends once nothing runs any more."""
    flow = workflow(step("a"), step("b"), step("c"), step("d"))
    assert next_of(flow, a=FAILED, b=RUNNING, c=waiting(NOW)) == Next(problem=FAILED.error)
    assert next_of(flow, a=FAILED, b=DONE, c=waiting(NOW)) == Next(ended=True, problem=FAILED.error)


def test_a_waiting_step_begins_when_it_is_due() -> None:
    """Before its time a waiting step only says when to look again; at that millisecond it begins."""
    flow = workflow(step("a"), step("b", "a"))
    assert next_of(flow, a=waiting(NOW + 1)) == Next(due_at=NOW + 1)
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
    while not (found := next_of(flow, **records)).ended:
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


# ---- waiting


def settled(found: Plan, name: str) -> StepRecord:
    assert set(found.settle) == {name}
    return found.settle[name]


def test_a_wait_begins_without_a_worker_and_ends_when_its_time_has_come() -> None:
    """`for` is written down with the time it ends; before that time the plan only says when to look again."""
    flow = workflow(step("a", wait={"for": "1h"}))
    begun = settled(plan_of(flow, {}), "a")
    assert (begun.state, begun.due_at, begun.waits_for) == (StepState.WAITING, NOW + 3_600_000, "time")
    assert plan_of(flow, {"a": begun}, NOW + 3_599_999) == Plan(due_at=NOW + 3_600_000)
    assert settled(plan_of(flow, {"a": begun}, NOW + 3_600_000), "a").state == StepState.COMPLETED


@pytest.mark.parametrize("until", ["1970-01-01T00:20:00Z", "1970-01-01T01:20:00+01:00", 1200, "${1200}"])
def test_a_wait_until_takes_iso_8601_and_unix_seconds(until: object) -> None:
    """The same moment, written in several ways, also by an expression."""
    assert settled(plan_of(workflow(step("a", wait={"until": until})), {}), "a").due_at == 1_200_000


@pytest.mark.parametrize(
    ("wait", "kind"),
    [
        ({"until": "${input.go}"}, "BadWait"),
        ({"until": "${'soon'}"}, "BadWait"),
        ({"for": "${'long'}"}, "BadWait"),
        ({"for": "${input.absent}"}, "ExpressionError"),
        ({"signal": "${'approval:a'}"}, "BadWait"),
        ({"signal": "${input.list}"}, "BadWait"),
    ],
)
def test_a_wait_for_nonsense_fails_its_step(wait: dict[str, str], kind: str) -> None:
    """What an expression gives that is no time and no duration is a failed step that says so."""
    record = settled(plan_of(workflow(step("a", wait=wait)), {}), "a")
    assert record.state == StepState.FAILED
    assert record.error is not None
    assert record.error.type == kind


def test_a_wait_until_long_ago_is_over_at_once() -> None:
    """Also for times that no calendar in UTC has."""
    for moment in ("0001-01-01T00:00:00+14:00", "1969-12-31T00:00:00Z", 0):
        flow = workflow(step("a", wait={"until": moment}))
        assert settled(plan_of(flow, plan_of(flow, {}).settle), "a").state == StepState.COMPLETED


def test_a_signal_is_used_once_and_may_come_early() -> None:
    """Two waits for one name take two signals, in order; one that came before the wait is not lost."""
    flow = workflow(step("a", wait={"signal": "go"}), step("b", "a", wait={"signal": "go"}))
    words = tuple(Signal(name="go", body=n, seq=n, at=NOW) for n in (1, 2))
    records: dict[str, StepRecord] = {}
    for _ in range(4):
        records |= plan_of(flow, records, signals=words).settle
    assert [records[name].output["body"] for name in "ab"] == [1, 2]
    assert plan_of(flow, records, signals=words).ended


def test_a_signal_that_does_not_come_in_time_fails_or_lets_go_on() -> None:
    """A timeout fails the step; with `on_timeout: continue` it completes and says that it timed out."""
    for on_timeout, state in (("fail", StepState.FAILED), ("continue", StepState.COMPLETED)):
        flow = workflow(step("a", wait={"signal": "go", "timeout": "1s", "on_timeout": on_timeout}))
        begun = settled(plan_of(flow, {}), "a")
        assert plan_of(flow, {"a": begun}, NOW + 999).due_at == NOW + 1000
        assert settled(plan_of(flow, {"a": begun}, NOW + 1000), "a").state == state


@pytest.mark.parametrize(
    ("settings", "decision", "state", "approved"),
    [
        ({}, "approve", StepState.COMPLETED, True),
        ({}, "reject", StepState.FAILED, None),
        ({"on_reject": "continue"}, "reject", StepState.COMPLETED, False),
        ({}, None, StepState.FAILED, None),
        ({"on_timeout": "approve"}, None, StepState.COMPLETED, True),
        ({"on_timeout": "reject"}, None, StepState.FAILED, None),
        ({"on_timeout": "reject", "on_reject": "continue"}, None, StepState.COMPLETED, False),
    ],
)
def test_an_approval_ends_as_somebody_or_nobody_decides(
    settings: dict[str, str], decision: str | None, state: StepState, approved: bool | None
) -> None:
    """A decision settles the step, and when none comes in time, what the definition says."""
    flow = workflow(step("a", approval={"timeout": "1h"} | settings))
    begun = settled(plan_of(flow, {}), "a")
    word = Signal(name="approval:a", body={"decision": decision}, by="Ada", seq=1, at=NOW, once=ask_approval(1, "a"))
    later = plan_of(flow, {"a": begun}, NOW + (0 if decision else 3_600_000), (word,) if decision else ())
    record = settled(later, "a")
    assert (record.state, record.output and record.output["approved"]) == (state, approved)


def test_only_an_answer_to_its_question_decides_an_approval() -> None:
    """Neither a signal that is called like it, nor the answer that an attempt before was given, is taken for one."""
    flow = workflow(step("a", approval={}))
    begun = settled(plan_of(flow, {}), "a")
    said: dict[str, Any] = {"name": "approval:a", "body": {"decision": "approve"}, "at": NOW}
    words = (Signal(seq=1, **said), Signal(seq=2, once=ask_approval(1, "a"), **said))
    assert plan_of(flow, {"a": begun}, signals=words, attempt=2) == Plan()
    assert settled(plan_of(flow, {"a": begun}, signals=words, attempt=1), "a").answered == 2


def test_a_run_that_waits_for_a_word_only_has_no_time() -> None:
    """Without a timeout nothing is due, and the run has not ended."""
    flow = workflow(step("a", approval={}))
    assert plan_of(flow, {"a": settled(plan_of(flow, {}), "a")}) == Plan()


# ---- items


EACH = {"foreach": "${input.list}", "transform": "${item}", "parallel": 2}


def items(*states: StepRecord | None) -> dict[str, StepRecord]:
    opened = {"a": StepRecord(state=StepState.RUNNING, attempt=1, items=len(states))}
    return opened | {f"a[{index}]": state for index, state in enumerate(states) if state is not None}


def test_items_begin_a_few_at_a_time() -> None:
    """The step is opened first; then as many items as may run side by side begin, in order."""
    flow = workflow(step("a", **EACH))
    assert settled(plan_of(flow, {}), "a").items == 3
    assert [unit.id for unit in plan_of(flow, items(None, None, None)).start] == ["a[0]", "a[1]"]
    assert [unit.id for unit in plan_of(flow, items(DONE, RUNNING, None)).start] == ["a[2]"]
    assert plan_of(flow, items(RUNNING, RUNNING, None)).start == ()


def test_the_outputs_of_items_keep_their_order() -> None:
    """Whichever item ended first, the step's output is in the order of the list."""
    records = [StepRecord(state=StepState.COMPLETED, output=n) for n in (1, 2, 3)]
    record = settled(plan_of(workflow(step("a", **EACH)), items(*records)), "a")
    assert (record.state, record.output) == (StepState.COMPLETED, [1, 2, 3])


def test_one_failed_item_fails_the_step_or_leaves_a_gap() -> None:
    """By default what runs comes to its end, nothing more begins, the step fails naming the item; `continue` goes on."""
    flow = workflow(step("a", **EACH))
    assert plan_of(flow, items(FAILED, RUNNING, None)) == Plan()
    failed = settled(plan_of(flow, items(FAILED, DONE, None)), "a")
    assert failed.state == StepState.FAILED
    assert failed.error is not None
    assert failed.error.step == "a[0]"
    going_on = workflow(step("a", **EACH, on_item_failure="continue"))
    assert [unit.id for unit in plan_of(going_on, items(FAILED, DONE, None)).start] == ["a[2]"]
    assert settled(plan_of(going_on, items(FAILED, DONE, DONE)), "a").output == [None, None, None]


@pytest.mark.parametrize(("source", "reason"), [("${input.go}", "not a list"), ("${input.absent}", "absent")])
def test_a_foreach_over_no_list_fails_its_step(source: str, reason: str) -> None:
    """What is no list, or can't be worked out, is a failed step that says so."""
    record = settled(plan_of(workflow(step("a", foreach=source)), {}), "a")
    assert record.error is not None
    assert reason in record.error.message


def test_a_foreach_over_nothing_is_done_at_once() -> None:
    """An empty list gives an empty list."""
    assert settled(plan_of(workflow(step("a", foreach=[])), {}), "a").output == []


def test_items_may_wait() -> None:
    """A wait for each item is written down for each; the step ends with the last."""
    flow = workflow(step("a", foreach=["x", "y"], wait={"signal": "for-${item}"}))
    records = {"a": settled(plan_of(flow, {}), "a")}
    records |= plan_of(flow, records).settle
    assert {name: record.waits_for for name, record in records.items() if "[" in name} == {
        "a[0]": "signal for-x",
        "a[1]": "signal for-y",
    }
    words = tuple(Signal(name=f"for-{x}", body=x, seq=n, at=NOW) for n, x in enumerate("yx", 1))
    for _ in range(2):
        records |= plan_of(flow, records, signals=words).settle
    assert [each["body"] for each in records["a"].output] == ["x", "y"]


# ---- what is unknown


def lost(**fields: Any) -> StepRecord:
    return StepRecord(state=StepState.UNKNOWN, attempt=1, unknown=1, **fields)


@pytest.mark.parametrize(
    ("policy", "start", "ended"), [("retry", ("a",), False), ("ask", (), False), ("fail", (), False)]
)
def test_an_unknown_step_does_what_its_definition_says(policy: str, start: tuple[str, ...], ended: bool) -> None:
    """`retry` does it again, `ask` waits for a person, `fail` fails it."""
    found = plan_of(workflow(step("a", on_unknown=policy)), {"a": lost()})
    assert (tuple(unit.id for unit in found.start), found.ended) == (start, ended)
    assert [record.state for record in found.settle.values()] == ([StepState.FAILED] if policy == "fail" else [])


@pytest.mark.parametrize(
    ("decision", "state"),
    [("complete", "completed"), ("skip", "skipped"), ("fail", "failed"), ("retry", "waiting")],
)
def test_a_person_decides_about_an_unknown_step(decision: str, state: str) -> None:
    """Each decision settles it; `retry` has it done again as the same attempt."""
    flow = workflow(step("a", on_unknown="ask"))
    body = {"decision": decision, "output": 7}
    word = Signal(name="resume:a", body=body, by="Ada", seq=3, at=NOW, once=ask_resume(1, "a", 1))
    record = settled(plan_of(flow, {"a": lost()}, signals=(word,)), "a")
    assert (record.state, record.output) == (state, 7 if decision == "complete" else None)
    if decision == "retry":
        assert [unit.id for unit in plan_of(flow, {"a": record}, signals=(word,)).start] == ["a"]


def test_a_probe_finds_out_whether_a_step_has_happened() -> None:
    """The probe runs for nothing else; what it finds completes the step, or has it done again; its failure asks."""
    flow = workflow(step("a", on_unknown={"verify": "look"}), step("look"))
    assert [unit.id for unit in plan_of(flow, {}).start] == ["a"]
    assert [unit.id for unit in plan_of(flow, {"a": lost()}).start] == ["look@a#1"]

    def after(**probe: Any) -> Plan:
        return plan_of(flow, {"a": lost(), "look@a#1": StepRecord(**({"state": StepState.COMPLETED} | probe))})

    assert settled(after(output={"happened": True, "output": 5}), "a").output == 5
    assert settled(after(output=True), "a").state == StepState.COMPLETED
    doubtful = settled(after(output={"id": 7}), "a")
    assert (doubtful.state, doubtful.waits_for) == (StepState.UNKNOWN, "resume")
    assert [unit.id for unit in after(output=False).start] == ["a"]
    item = {"a[1]": lost(), "a": StepRecord(state=StepState.RUNNING, items=3)}
    each = workflow(
        step("a", foreach="${input.list}", on_unknown={"verify": "look"}), step("look") | {"transform": "${item}"}
    )
    assert "look@a[1]#1" in [unit.id for unit in plan_of(each, item).start]
    asking = settled(after(state=StepState.FAILED), "a")
    assert (asking.state, asking.waits_for) == (StepState.UNKNOWN, "resume")
    assert plan_of(flow, {"a": asking, "look@a#1": FAILED}) == Plan()


@pytest.mark.parametrize(
    ("kind", "output", "verdict"),
    [
        ("http", {"status": 200, "headers": {}, "body": {"happened": True, "output": 5}}, (True, 5)),
        ("http", {"status": 404, "headers": {}, "body": {"error": "not found"}}, (None, None)),
        ("shell", {"code": 0, "stdout": False, "stderr": ""}, (False, None)),
        ("model", {"text": "..", "json": {"happened": False}}, (False, None)),
        ("python", {"happened": 1}, (None, None)),
        ("transform", None, (None, None)),
    ],
)
def test_a_probe_of_any_kind_says_what_it_found(kind: str, output: Any, verdict: tuple[bool | None, Any]) -> None:
    """A web service says it in its body, a program on its stdout; what is no verdict is not taken for a no."""
    assert read_verdict(kind, output) == verdict


def test_a_step_that_waits_for_a_run_goes_on_when_that_has_ended() -> None:
    """While the child runs nothing is due; when it is over the step begins again, to read it."""
    flow = workflow(step("a", workflow={"name": "other"}))
    record = StepRecord(state=StepState.WAITING, attempt=1, child=12)
    assert plan_of(flow, {"a": record}) == Plan()
    assert [unit.id for unit in plan_of(flow, {"a": record}, ended={12}).start] == ["a"]
