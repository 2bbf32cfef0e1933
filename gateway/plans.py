"""What comes next in a run: decided from what is recorded, and from nothing else. Silent: values in, values out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from gateway import waits
from gateway.expressions import Failure
from gateway.jobs import child_event
from gateway.runs import SETTLED, Problem, Run, Signal, StepRecord, StepState, asked_about, step_of
from gateway.waits import Approval, Wait
from gateway.workflows import MOST_ITEMS, PAUSES, CompiledStep, Workflow

ASKED = frozenset({"WorkerLost", "ProbeFailed"})
"""Problems of an unknown step that a person must look at, whatever its definition says."""

VERDICTS = {"http": "body", "shell": "stdout", "model": "json"}
"""Where in its output a probe of such a kind says what it found."""


class Unit(msgspec.Struct, frozen=True):
    """One thing to do: a step, one item of a `foreach` step, or a probe. `id` names its record."""

    id: str
    step: str
    index: int | None = None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that a plan is made from. `now` is milliseconds of the store's clock; `ended` are child runs that are over;
    `attempt` is the run's."""

    workflow: Workflow
    records: Mapping[str, StepRecord]
    values: Mapping[str, Any]
    now: int
    signals: Sequence[Signal] = ()
    ended: Collection[int] = frozenset()
    attempt: int = 1
    lists: dict[str, list[Any]] = msgspec.field(default_factory=dict)
    """The items of `foreach` steps that were worked out before; more are put in."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What comes next: what to begin, what to write down without doing anything, when to look again, or the end."""

    start: tuple[Unit, ...] = ()
    settle: dict[str, StepRecord] = {}
    due_at: int | None = None
    ended: bool = False
    problem: Problem | None = None


def plan(facts: Facts) -> Plan:
    """Decide what comes next.

    A failed step lets those that run come to their end and begins no other. A step is skipped when its `when` is
    false, or when a step it needs was skipped and it has no `when` of its own.
    """
    running = any(record.state == StepState.RUNNING and record.items is None for record in facts.records.values())
    problem = _first_problem(facts)
    draft = _Draft(facts)
    for step in facts.workflow.steps.values():
        if problem is None and step.id not in facts.workflow.probes:
            problem = draft.consider(step)
    if problem is not None:
        return Plan(ended=not running, problem=problem)
    ended = not (draft.start or draft.settle or draft.left or running)
    return Plan(start=tuple(draft.start), settle=draft.settle, due_at=min(draft.due, default=None), ended=ended)


class _Draft:
    """A plan in the making: each step of the workflow adds to it."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._used = {record.answered for record in facts.records.values() if record.answered is not None}
        self.start: list[Unit] = []
        self.settle: dict[str, StepRecord] = {}
        self.due: list[int] = []
        self.left = False

    def consider(self, step: CompiledStep) -> Problem | None:
        """What is next of one step; the problem, if whether it is wanted can't be said."""
        record = self._facts.records.get(step.id)
        if record is None:
            return self._reach(step)
        if record.state in SETTLED:
            return None
        self.left = True
        if record.items is None:
            self._go_on(step, Unit(step.id, step.id), record)
        else:
            self._go_through(step, record, record.items)
        return None

    def _reach(self, step: CompiledStep) -> Problem | None:
        facts = self._facts
        if not _needs_met(step, facts.records):
            return None
        wanted = _wanted(step, facts.records, facts.values)
        if isinstance(wanted, Problem):
            return wanted
        if not wanted:
            self.settle[step.id] = StepRecord(state=StepState.SKIPPED, started_at=facts.now, ended_at=facts.now)
        elif step.foreach is None:
            self._begin(step, Unit(step.id, step.id))
        else:
            self.settle[step.id] = _open(items_of(step, facts), facts.now)
        return None

    def _begin(self, step: CompiledStep, unit: Unit) -> None:
        if step.kind not in PAUSES:
            self.start.append(unit)
            return
        argument = step.argument.render(values_for(unit, step, self._facts))
        now = self._facts.now
        if isinstance(argument, Failure):
            message = f"`{argument.expression}`: {argument.message}"
            self.settle[unit.id] = waits.failed("ExpressionError", message, now, now)
        else:
            self.settle[unit.id] = waits.begin(step.kind, argument, now)  # type: ignore[arg-type]

    def _go_on(self, step: CompiledStep, unit: Unit, record: StepRecord) -> None:
        """What is next of something that was begun and has not ended."""
        if record.state == StepState.UNKNOWN:
            self._clear_up(step, unit, record)
        elif record.state == StepState.WAITING and step.kind in PAUSES:
            self._wait_on(step, unit, record)
        elif record.state == StepState.WAITING and record.child is not None:
            if record.child in self._facts.ended:
                self.start.append(unit)
        elif record.state == StepState.WAITING:
            self._when_due(unit, record.due_at or self._facts.now)

    def _when_due(self, unit: Unit, due_at: int) -> None:
        if due_at > self._facts.now:
            self.due.append(due_at)
        else:
            self.start.append(unit)

    def _wait_on(self, step: CompiledStep, unit: Unit, record: StepRecord) -> None:
        settings = getattr(step.step, step.kind)
        assert isinstance(settings, Wait | Approval)
        asked = waits.ask_approval(self._facts.attempt, unit.id) if isinstance(settings, Approval) else ""
        over = waits.go_on(step.kind, settings, unit.id, record, self._words(asked), self._facts.now)
        if over is None:
            if record.due_at is not None:
                self.due.append(record.due_at)
        else:
            self.settle[unit.id] = over
            if over.answered is not None:
                self._used.add(over.answered)

    def _words(self, asked: str) -> list[Signal]:
        """The words that answer this question and are not used yet."""
        return [each for each in self._facts.signals if each.once == asked and each.seq not in self._used]

    def _go_through(self, step: CompiledStep, record: StepRecord, count: int) -> None:
        """What is next of a `foreach` step's items."""
        items = [(_item(step, index), self._facts.records.get(f"{step.id}[{index}]")) for index in range(count)]
        failed = _first_failed(step, items)
        open_items = [(unit, each) for unit, each in items if each is not None and each.state not in SETTLED]
        if failed is not None:
            if not any(each.state == StepState.RUNNING for _, each in open_items):
                self.settle[step.id] = _close(record, None, failed, self._facts.now)
            return
        if not open_items and all(each is not None for _, each in items):
            output = [None if each is None else each.output for _, each in items]
            self.settle[step.id] = _close(record, output, None, self._facts.now)
            return
        for unit, each in open_items:
            self._go_on(step, unit, each)
        waiting = [unit for unit, each in items if each is None]
        for unit in waiting[: max(step.step.parallel - len(open_items), 0)]:
            self._begin(step, unit)

    def _clear_up(self, step: CompiledStep, unit: Unit, record: StepRecord) -> None:
        """What is next of a step of which nobody knows whether it happened."""
        words = self._words(waits.ask_resume(self._facts.attempt, unit.id, record.unknown))
        if words:
            word = words[0]
            self._used.add(word.seq)
            self.settle[unit.id] = _resumed(record, word, self._facts.now)
        elif _is_asked(record) or step.on_unknown == "ask":
            pass
        elif step.probe is not None:
            self._probe(self._facts.workflow.steps[step.probe], unit, record)
        elif step.on_unknown == "fail":
            self.settle[unit.id] = _unknown_failure(record, self._facts.now)
        else:
            self.start.append(unit)

    def _probe(self, probe: CompiledStep, unit: Unit, record: StepRecord) -> None:
        asking = Unit(f"{probe.id}@{unit.id}#{record.unknown}", probe.id, unit.index)
        found = self._facts.records.get(asking.id)
        if found is None:
            self._begin(probe, asking)
        elif found.state not in SETTLED:
            self._go_on(probe, asking, found)
        elif found.state == StepState.COMPLETED:
            happened, output = read_verdict(probe.kind, found.output)
            if happened is None:
                self._set_aside(unit, record, "it said neither true, false nor {happened, output}")
            elif happened:
                self.settle[unit.id] = waits.completed(record, output, self._facts.now)
            else:
                self.start.append(unit)
        else:
            self._set_aside(unit, record, "" if found.error is None else found.error.message)

    def _set_aside(self, unit: Unit, record: StepRecord, reason: str) -> None:
        problem = Problem(type="ProbeFailed", message=f"its probe failed: {reason}", step=unit.step)
        self.settle[unit.id] = msgspec.structs.replace(record, error=problem, waits_for="resume")


def read_verdict(kind: str, output: Any) -> tuple[bool | None, Any]:
    """What a probe of this kind found: whether the step has happened, and what it gave.

    It says `true`, `false`, or `{happened: true, output: ..}`; a program on its stdout, a web service in its body, a
    model as JSON. Anything else is no verdict (None): to take it for a no would do the step twice.
    """
    said = output[VERDICTS[kind]] if kind in VERDICTS else output
    happened, given = (said.get("happened"), said.get("output")) if isinstance(said, dict) else (said, None)
    return (happened if isinstance(happened, bool) else None), given


def values_for(unit: Unit, step: CompiledStep, facts: Facts) -> Mapping[str, Any]:
    """What a unit's expressions see: an item of a `foreach` step has `item` and `index` as well."""
    if unit.index is None:
        return facts.values
    source = _source_of(unit, step, facts.workflow)
    items = items_of(source, facts)
    item = items[unit.index] if isinstance(items, list) and unit.index < len(items) else None
    return {**facts.values, "item": item, "index": unit.index}


def items_of(step: CompiledStep, facts: Facts) -> list[Any] | Problem:
    """The items that a `foreach` step goes through, or why there are none."""
    known = facts.lists.get(step.id)
    if known is not None:
        return known
    assert step.foreach is not None
    found = step.foreach.render(facts.values)
    if isinstance(found, Failure):
        return _bad_list(step, f"`{found.expression}`: {found.message}")
    if not isinstance(found, list):
        return _bad_list(step, f"it gives {type(found).__name__}, not a list")
    if len(found) > MOST_ITEMS:
        return _bad_list(step, f"it gives {len(found)} items, more than {MOST_ITEMS}")
    facts.lists[step.id] = found
    return found


def begun(before: StepRecord | None, now: int) -> StepRecord:
    """The record of a unit that begins now, after what is recorded of it. What was unknown begins as the attempt it was."""
    if before is None:
        return StepRecord(state=StepState.RUNNING, attempt=1, started_at=now)
    same = before.state == StepState.UNKNOWN or before.child is not None
    return StepRecord(
        state=StepState.RUNNING,
        attempt=before.attempt if same else before.attempt + 1,
        started_at=now if before.child is None else before.started_at,
        child=before.child,
        failed_child=before.failed_child,
        unknown=before.unknown,
    )


def achieved(begun: StepRecord, output: Any, now: int) -> StepRecord:
    """The record of an attempt that gave an output."""
    return msgspec.structs.replace(begun, state=StepState.COMPLETED, ended_at=now, output=output)


def let_down(
    step: CompiledStep,
    begun: StepRecord,
    problem: Problem,
    now: int,
    chance: float,
    *,
    again: bool = True,
    after: float | None = None,
) -> StepRecord:
    """The record of an attempt that failed: it waits for the next one, or has failed for good.

    `again` says whether another could help, `after` how many seconds the far end asks for at least.
    """
    delay = step.retry.after(begun.attempt, chance) if again else None
    if delay is None:
        return msgspec.structs.replace(begun, state=StepState.FAILED, ended_at=now, error=problem)
    due_at = now + int(max(delay, after or 0) * 1000)
    waiting = {"state": StepState.WAITING, "error": problem, "due_at": due_at, "waits_for": "retry", "child": None}
    return msgspec.structs.replace(begun, **waiting, failed_child=begun.child or begun.failed_child)


def unknown(begun: StepRecord, lost: int, *, asks: bool) -> StepRecord:
    """The record of a unit that was begun by a worker that is gone; `lost` workers in a row, where it is to blame."""
    message = f"{lost} workers in a row were lost while they did this; it is likely the cause"
    return msgspec.structs.replace(
        begun,
        state=StepState.UNKNOWN,
        unknown=begun.unknown + 1,
        waits_for="resume" if asks else None,
        error=Problem(type="WorkerLost", message=message) if lost else None,
    )


def relatives(run: Run) -> tuple[int | str, ...]:
    """The runs that must hear of a run's end: the one that waits for it, and those it waited for.

    Of a step that was not heard of since it began: the event under which it may have started one.
    """
    parent = [run.request.parent.run_id] if run.request.parent else []
    children = [each.child for each in run.steps.values() if each.child and each.state == StepState.WAITING]
    return (*parent, *children, *unsure_children(run))


def unsure_children(run: Run) -> list[str]:
    """The events under which steps may have started runs without coming to say so."""
    return [
        child_event(run.id, run.attempt, name, each.failed_child)
        for name, each in run.steps.items()
        if each.state in (StepState.RUNNING, StepState.UNKNOWN) and each.child is None and each.items is None
    ]


def outcome(workflow: Workflow, records: Mapping[str, StepRecord], values: Mapping[str, Any]) -> Any | Failure:
    """A finished run's output: its `output` expression, else the output of its last steps."""
    if workflow.output is not None:
        return workflow.output.render(values)
    last = {step_id: records[step_id].output for step_id in workflow.last_steps if step_id in records}
    return next(iter(last.values())) if len(last) == 1 else (last or None)


def step_values(records: Mapping[str, StepRecord]) -> dict[str, dict[str, Any]]:
    """The `steps` that expressions see."""
    return {step_id: step_value(record) for step_id, record in records.items() if is_step(step_id)}


def step_value(record: StepRecord) -> dict[str, Any]:
    """What expressions see of one step."""
    return {
        "status": str(record.state),
        "output": record.output,
        "error": None if record.error is None else msgspec.to_builtins(record.error),
    }


def is_step(unit_id: str) -> bool:
    """Whether a record is about a whole step, not an item or a probe."""
    return "[" not in unit_id and "@" not in unit_id


def _first_problem(facts: Facts) -> Problem | None:
    for step_id in facts.workflow.steps:
        record = facts.records.get(step_id)
        if record is not None and record.state == StepState.FAILED:
            error = record.error or Problem(type="Failed", message="the step failed")
            return error if error.step else msgspec.structs.replace(error, step=step_id)
    return None


def _needs_met(step: CompiledStep, records: Mapping[str, StepRecord]) -> bool:
    return all(need in records and records[need].state in SETTLED for need in step.step.needs)


def _wanted(step: CompiledStep, records: Mapping[str, StepRecord], values: Mapping[str, Any]) -> bool | Problem:
    if step.when is None:
        return not any(records[need].state == StepState.SKIPPED for need in step.step.needs)
    verdict = step.when.evaluate(values)
    if isinstance(verdict, bool):
        return verdict
    reason = (
        verdict.message if isinstance(verdict, Failure) else f"it gives {type(verdict).__name__}, not true or false"
    )
    return Problem(type="ExpressionError", message=f"when: `{step.when.source}`: {reason}", step=step.id)


def _item(step: CompiledStep, index: int) -> Unit:
    return Unit(f"{step.id}[{index}]", step.id, index)


def _source_of(unit: Unit, step: CompiledStep, workflow: Workflow) -> CompiledStep:
    """The `foreach` step whose item a unit is about; a probe's is that of the step it was asked about."""
    about = asked_about(unit.id)
    return workflow.steps[step_of(about)] if about else step


def _open(items: list[Any] | Problem, now: int) -> StepRecord:
    if isinstance(items, Problem):
        return StepRecord(state=StepState.FAILED, attempt=1, started_at=now, ended_at=now, error=items)
    if not items:
        return StepRecord(state=StepState.COMPLETED, attempt=1, started_at=now, ended_at=now, output=[])
    return StepRecord(state=StepState.RUNNING, attempt=1, started_at=now, items=len(items))


def _close(record: StepRecord, output: Any, error: Problem | None, now: int) -> StepRecord:
    state = StepState.COMPLETED if error is None else StepState.FAILED
    return msgspec.structs.replace(record, state=state, ended_at=now, output=output, error=error)


def _first_failed(step: CompiledStep, items: Sequence[tuple[Unit, StepRecord | None]]) -> Problem | None:
    if step.step.on_item_failure == "continue":
        return None
    for unit, record in items:
        if record is not None and record.state == StepState.FAILED:
            error = record.error or Problem(type="Failed", message="the item failed")
            return msgspec.structs.replace(error, step=unit.id)
    return None


def _is_asked(record: StepRecord) -> bool:
    return record.error is not None and record.error.type in ASKED


def _unknown_failure(record: StepRecord, now: int) -> StepRecord:
    message = "the worker was lost in the middle of it; nobody knows whether it happened"
    problem = Problem(type="Unknown", message=message, attempt=record.attempt)
    return msgspec.structs.replace(record, state=StepState.FAILED, ended_at=now, error=problem)


def _resumed(record: StepRecord, word: Signal, now: int) -> StepRecord:
    said = word.body if isinstance(word.body, dict) else {}
    decision = said.get("decision")
    if decision == "complete":
        return waits.completed(record, said.get("output"), now, word.seq)
    if decision == "skip":
        return msgspec.structs.replace(
            record, state=StepState.SKIPPED, ended_at=now, answered=word.seq, error=None, waits_for=None
        )
    if decision == "fail":
        return msgspec.structs.replace(_unknown_failure(record, now), answered=word.seq)
    # Due at once, as the attempt it was; one that reads its child again goes on as what it is anyway (`begun`).
    return msgspec.structs.replace(
        record,
        state=StepState.WAITING,
        due_at=now,
        attempt=max(record.attempt - 1, 0) if record.child is None else record.attempt,
        answered=word.seq,
        error=None,
        waits_for=None,
    )


def _bad_list(step: CompiledStep, reason: str) -> Problem:
    return Problem(type="ExpressionError", message=f"foreach: {reason}", step=step.id)
