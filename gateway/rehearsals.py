"""A workflow run through without server or store: the same plans, with stubs in place of what acts on the world. Silent.

Time is made up: a wait ends at once, and the clock has moved on by as much. What a step with effects gives, and what
people and other systems say, stands in the stubs; what is evaluated (transform, when, foreach, output) is real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway import plans, waits
from gateway.errors import ConfigError, GatewayError
from gateway.expressions import Failure
from gateway.plans import Facts, Unit
from gateway.runs import Problem, Run, RunRequest, Signal, State, StepRecord, StepState, describe, step_of
from gateway.workflows import PAUSES, CompiledStep, Workflow

MIDDLE = 0.5
"""The chance that leaves a retry's pause as it is written."""
EXAMPLES = {
    "http": "{status: 200, headers: {}, body: {}}",
    "model": '{text: "...", json: {}}',
    "python": "what the function returns",
    "shell": '{code: 0, stdout: "...", stderr: ""}',
    "workflow": "{run_id: 1, status: completed, output: {}, error: null}",
    "approval": "approve    # or reject, {decision: approve, by: ann, comment: ..}, {times_out: true}",
    "wait": "{}    # the signal's body; or {times_out: true}",
}
TIMES_OUT = {"times_out": True}
FAILS = {"fails"}
CHOICES = ("approve", "reject")


class NoStub(GatewayError):
    """A step needs a stub and has none, or one that can't be used. Says which, and what to write."""

    code = "no_stub"


class Failing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A stub's way to fail. `again` says whether another attempt could help, `after` how many seconds to wait first."""

    type: str = "StepFailed"
    message: str = "the stub says so"
    again: bool = True
    after: float | None = None


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What starts the run."""

    input: Any = None
    task: str | None = None
    metadata: dict[str, Any] = {}
    event: dict[str, Any] | None = None


Perform = Callable[[Unit, CompiledStep, Any, StepRecord], Any | Failing]
"""Does a step for real: its output, or how it failed."""


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """How it went: the run, and of each step that had a choice, which way it took."""

    run: Run
    ways: dict[str, str]


class Rehearsal:
    """One run of one workflow. `allowed` are the kinds of steps that `perform` does for real where they have no stub."""

    def __init__(
        self,
        workflow: Workflow,
        given: Given,
        stubs: Mapping[str, Any],
        now: int,
        *,
        allowed: Sequence[str] = (),
        perform: Perform | None = None,
    ) -> None:
        self._workflow = workflow
        self._given = given
        self._stubs = check_stubs(stubs, workflow)
        self._allowed = allowed
        self._perform = perform
        self._began = self._now = now
        self._records: dict[str, StepRecord] = {}
        self._signals: list[Signal] = []
        self._lists: dict[str, list[Any]] = {}
        self._values = _values_of(workflow, given)

    def play(self) -> Played:
        """Carry it to its end. Raises NoStub."""
        while True:
            plan = plans.plan(self._facts())
            if plan.ended:
                return self._end(plan.problem)
            for unit_id, record in plan.settle.items():
                self._settle(unit_id, record)
            for unit in plan.start:
                self._settle(unit.id, self._attempt(unit))
            if not plan.settle and not plan.start:
                if plan.due_at is None:
                    raise self._stuck()
                self._now = max(self._now, plan.due_at)

    def _facts(self) -> Facts:
        values = self._values | {"steps": plans.step_values(self._records)}
        return Facts(
            workflow=self._workflow,
            records=self._records,
            values=values,
            now=self._now,
            signals=tuple(self._signals),
            lists=self._lists,
        )

    def _settle(self, unit_id: str, record: StepRecord) -> None:
        begins = record.state == StepState.WAITING and record.waits_for not in ("retry", "time")
        if begins and self._workflow.steps[step_of(unit_id)].kind in PAUSES:
            self._hear(unit_id, record)
        self._records[unit_id] = record

    def _hear(self, unit_id: str, record: StepRecord) -> None:
        """Give the word for which a step begins to wait, as the stubs have it."""
        step = self._workflow.steps[step_of(unit_id)]
        stub = self._stub_of(unit_id, step)
        if stub is None:
            raise _no_stub(step, unit_id)
        (said,) = stub
        if said == TIMES_OUT:
            if record.due_at is None:
                message = f"step {unit_id!r} has no `timeout`, so its stub can't say that it times out"
                raise NoStub(message)
            return
        by, once = "stub", ""
        if step.kind == "approval":
            name, body = waits.APPROVAL + unit_id, _read_decision(unit_id, said)
            once = waits.ask_approval(1, unit_id)
            by = body.pop("by", None) or by
        else:
            name, body = (record.waits_for or "").removeprefix("signal "), said
        seq = len(self._signals) + 1
        self._signals.append(Signal(name=name, body=body, by=by, seq=seq, at=self._now, once=once))

    def _attempt(self, unit: Unit) -> StepRecord:
        step = self._workflow.steps[unit.step]
        begun = plans.begun(self._records.get(unit.id), self._now)
        argument = step.argument.render(plans.values_for(unit, step, self._facts()))
        if isinstance(argument, Failure):
            message = f"`{argument.expression}`: {argument.message}"
            result: Any = Failing(type="ExpressionError", message=message, again=False)
        else:
            result = self._result(unit, step, argument, begun)
        if not isinstance(result, Failing):
            return plans.achieved(begun, result, self._now)
        problem = Problem(type=result.type, message=result.message, step=unit.id, attempt=begun.attempt)
        return plans.let_down(step, begun, problem, self._now, MIDDLE, again=result.again, after=result.after)

    def _result(self, unit: Unit, step: CompiledStep, argument: Any, begun: StepRecord) -> Any:
        stub = self._stub_of(unit.id, step, unit.index, begun.attempt)
        if stub is not None:
            return read_stub(unit.id, stub[0])
        if step.kind == "transform":
            return argument
        if step.kind in self._allowed and self._perform is not None:
            return self._perform(unit, step, argument, begun)
        raise _no_stub(step, unit.id)

    def _stub_of(
        self, unit_id: str, step: CompiledStep, index: int | None = None, attempt: int = 1
    ) -> tuple[Any] | None:
        """The stub of one attempt of one unit, in a tuple, for a stub may be null; None when there is none."""
        index = _index_of(unit_id) if index is None else index
        if unit_id in self._stubs:
            found = self._stubs[unit_id]
        elif step.id in self._stubs:
            found = self._stubs[step.id]
            if index is not None and isinstance(found, list):
                found = _take(found, index, unit_id)
        else:
            return None
        # The last one stands for all attempts that follow.
        return (_take(found, min(attempt, len(found)) - 1, unit_id),) if isinstance(found, list) else (found,)

    def _stuck(self) -> NoStub:
        names = ", ".join(name for name, each in self._records.items() if each.state == StepState.WAITING)
        message = f"nothing can go on: {names or 'no step'} waits, and no stub ends it"
        return NoStub(message)

    def _end(self, problem: Problem | None) -> Played:
        values = self._values | {"steps": plans.step_values(self._records)}
        output = plans.outcome(self._workflow, self._records, values) if problem is None else None
        if isinstance(output, Failure):
            message = f"output: `{output.expression}`: {output.message}"
            problem, output = Problem(type="ExpressionError", message=message), None
        run = Run(
            id=1,
            state=State.COMPLETED if problem is None else State.FAILED,
            request=_request(self._workflow, self._given),
            created_at=self._began,
            started_at=self._began,
            ended_at=self._now,
            output=output,
            error=problem,
            steps=self._records,
        )
        return Played(run=run, ways=ways(self._workflow, self._records))


def check_stubs(stubs: Mapping[str, Any], workflow: Workflow) -> Mapping[str, Any]:
    """Refuse stubs of steps that are not there. Raises ConfigError."""
    for name in stubs:
        if step_of(name) not in workflow.steps:
            message = f"there is no step {name!r} (steps: {', '.join(workflow.steps)})"
            raise ConfigError(message, path=name)
    return stubs


def read_stub(unit_id: str, stub: Any) -> Any | Failing:
    """What a stub stands for: an output as it is, or a failure for `{fails: {type, message, again, after}}`."""
    if not isinstance(stub, dict) or set(stub) != FAILS:
        return stub
    written = stub["fails"]
    try:
        return Failing(message=written) if isinstance(written, str) else msgspec.convert(written or {}, Failing)
    except msgspec.ValidationError as error:
        message = f"the stub of {unit_id!r}: fails takes {{type, message, again, after}}: {error}"
        raise NoStub(message) from None


def stubs_of(document: Mapping[str, Any], workflow: Workflow, allowed: Sequence[str] = ()) -> dict[str, Any]:
    """The stubs that a recorded run makes: what its steps gave. Not of those that are done for real."""
    found: dict[str, Any] = {}
    steps = {each["id"]: each for each in document.get("steps", ())}
    with_items = {step_of(name) for name in steps if "[" in name}
    for name, step in steps.items():
        known = workflow.steps.get(step_of(name))
        real = known is None or known.kind in ("transform", *allowed)
        if not real and name not in with_items and "@" not in name and step["status"] in ("completed", "failed"):
            found[name] = _recorded(step, known.kind if known else "")
    return found


def ways(workflow: Workflow, records: Mapping[str, StepRecord]) -> dict[str, str]:
    """Of each step with a condition, what it came to; and why a step was skipped without one."""
    found: dict[str, str] = {}
    for step_id, step in workflow.steps.items():
        record = records.get(step_id)
        if record is None:
            continue
        skipped = record.state == StepState.SKIPPED
        if step.when is not None:
            found[step_id] = f"`{step.when.source}` is {'false' if skipped else 'true'}"
        elif skipped:
            missing = [need for need in step.step.needs if records[need].state == StepState.SKIPPED]
            found[step_id] = f"needs {', '.join(missing)}, skipped"
    return found


def describe_played(played: Played, workflow: Workflow) -> dict[str, Any]:
    """How it went, as plain data, in the words of our API."""
    kinds = {step_id: step.kind for step_id, step in workflow.steps.items()}
    whole = describe(played.run)
    steps = [
        {**each, "kind": kinds[step_of(each["id"])], "way": played.ways.get(each["id"])} for each in whole["steps"]
    ]
    begun = {step_of(each["id"]) for each in steps}
    steps += [
        {"id": name, "kind": kinds[name], "status": "pending", "way": None} for name in kinds if name not in begun
    ]
    fields = ("workflow", "status", "input", "task", "metadata", "output", "error", "duration_ms")
    return {**{name: whole[name] for name in fields}, "steps": steps}


def compare(expected: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """What is not as expected: `status`, `output`, `error` and `steps`, each a part of what is there.

    Raises ConfigError for other fields. `steps` are by id, each a status or the fields that matter.
    """
    for name in expected:
        if name not in ("status", "output", "error", "steps"):
            message = f"there is no field {name!r} to expect (there are: status, output, error, steps)"
            raise ConfigError(message, path=name)
    found = [
        each
        for name in ("status", "output", "error")
        if name in expected
        for each in _differ(expected[name], document[name], name)
    ]
    steps = {each["id"]: each for each in document["steps"]}
    for step_id, wanted in (expected.get("steps") or {}).items():
        part = {"status": wanted} if isinstance(wanted, str) else wanted
        if step_id not in steps:
            found.append(f"steps.{step_id}: there is no such step")
        else:
            found += _differ(part, steps[step_id], f"steps.{step_id}")
    return found


def _differ(wanted: Any, there: Any, path: str) -> list[str]:
    if isinstance(wanted, dict) and isinstance(there, dict):
        rows = [(f"{path}.{name}", value, there.get(name)) for name, value in wanted.items()]
    elif isinstance(wanted, list) and isinstance(there, list) and len(wanted) == len(there):
        rows = [(f"{path}[{index}]", *pair) for index, pair in enumerate(zip(wanted, there, strict=True))]
    else:
        same = wanted == there and isinstance(wanted, bool) == isinstance(there, bool)
        return [] if same else [f"{path}: expected {_short(wanted)}, it is {_short(there)}"]
    return [each for where, value, found in rows for each in _differ(value, found, where)]


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else f"{text[:199]}…"


def _recorded(step: Mapping[str, Any], kind: str) -> Any:
    output: Any = step.get("output")
    error = step.get("error") or {}
    if step["status"] == "failed" and error.get("type") == "Timeout" and kind in PAUSES:
        return TIMES_OUT
    if step["status"] == "failed" and kind == "approval":
        return "reject"
    if step["status"] == "failed":
        return {"fails": {"type": error.get("type", "StepFailed"), "message": error.get("message", ""), "again": False}}
    if kind == "approval":
        decision = "approve" if output["approved"] else "reject"
        return {"decision": decision, "by": output.get("by"), "comment": output.get("comment")}
    if kind == "wait" and "signal" in output:
        return TIMES_OUT if output["timed_out"] else [output["body"]]
    return [output]


def _read_decision(unit_id: str, said: Any) -> dict[str, Any]:
    body = {"decision": said} if isinstance(said, str) else said
    if not isinstance(body, dict) or body.get("decision") not in CHOICES or set(body) - {"decision", "by", "comment"}:
        message = f"the stub of {unit_id!r} is no decision: write {EXAMPLES['approval']}"
        raise NoStub(message)
    return dict(body)


def _no_stub(step: CompiledStep, unit_id: str) -> NoStub:
    allow = f", or let it run with --allow {step.kind}" if step.kind in ("http", "model", "python", "shell") else ""
    what = f"step {unit_id!r} ({step.kind}) has no stub. Write into the stubs file{allow}:"
    return NoStub(f"{what}\n\n  {step.id}: {EXAMPLES[step.kind]}\n", step=unit_id)


def _take(stubs: list[Any], index: int, unit_id: str) -> Any:
    if not 0 <= index < len(stubs):
        message = f"the list of stubs for {unit_id!r} has {len(stubs)} items, too few"
        raise NoStub(message)
    return stubs[index]


def _index_of(unit_id: str) -> int | None:
    number = unit_id.partition("[")[2].rstrip("]")
    return int(number) if number.isdigit() else None


def _request(workflow: Workflow, given: Given) -> RunRequest:
    definition = workflow.definition
    return RunRequest(
        workflow_id=definition.id or 0,
        workflow=definition.name,
        digest=workflow.digest,
        session_id="rehearsal",
        task=given.task,
        input=given.input,
        metadata=given.metadata,
    )


def _values_of(workflow: Workflow, given: Given) -> dict[str, Any]:
    request = _request(workflow, given)
    values: dict[str, Any] = {
        "input": {} if given.input is None else given.input,
        "task": given.task,
        "metadata": given.metadata,
        "run": {
            "id": 1,
            "workflow": request.workflow,
            "workflow_id": request.workflow_id,
            "attempt": 1,
            "session_id": request.session_id,
            "event_id": None,
            "replay": False,
        },
        "app": {"id": None, "name": None},
        "conversation": {"id": "run_1", "turns": []},
    }
    return values if given.event is None else values | {"event": given.event}
