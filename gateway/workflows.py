"""Workflows: what a definition says, and what comes next in a run of it. Silent: values in, values out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any

import jsonschema_rs
import msgspec

from gateway.cel.scopes import Scope
from gateway.errors import ConfigError, Forbidden
from gateway.expressions import Expression, Failure, compile_expression
from gateway.retries import RetryPolicy, read_duration
from gateway.runs import LARGEST_ID, SETTLED, Problem, StepRecord, StepState
from gateway.templates import Template, compile_template

STEP_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
# Not all digits, for a caller names a workflow by id or by name.
NAME = re.compile(r"(?!\d+$)[\w][\w .-]{0,99}")
DEFAULT_TIMEOUT = 300.0
UNSET = msgspec.UNSET


class Seconds(float):
    """A duration; written as `10s`, `5m`, `1h30m` or a number of seconds."""


class HttpCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One HTTP request. `expect` lists the statuses that are a success; unset, all below 500 but 408 and 429 are."""

    url: str
    method: str = "GET"
    headers: dict[str, Any] = {}
    query: dict[str, Any] = {}
    json: Any = UNSET
    body: str | None = None
    expect: list[int] | None = None


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One node of a workflow. Exactly one of the kinds is given."""

    id: str
    name: str | None = None
    needs: list[str] = []
    when: str | None = None
    with_: Any = msgspec.field(name="with", default=UNSET)
    retry: RetryPolicy = RetryPolicy()
    timeout: Seconds = Seconds(DEFAULT_TIMEOUT)
    http: HttpCall | msgspec.UnsetType = UNSET
    python: str | msgspec.UnsetType = UNSET
    transform: Any = UNSET

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) is not UNSET)


KINDS = ("http", "python", "transform")
CODE_KINDS = frozenset({"python"})
"""The kinds that run code of this machine: whoever defines one can do whatever a worker can."""
ARGUMENTS = {"python": "with"}
"""The field that holds a kind's expressions, where it is not the kind's own."""


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A workflow as its author wrote it."""

    id: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_ID)] | None = None
    name: Annotated[str, msgspec.Meta(min_length=1)]
    description: str = ""
    input: dict[str, Any] | None = None
    steps: list[Step] = []
    output: Any = UNSET


class Published(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which version of a workflow new runs start with. `version` counts 1, 2, 3; `digest` names the exact text."""

    id: int
    name: str
    version: int
    digest: str
    description: str = ""
    input: dict[str, Any] | None = None
    steps: int = 0
    managed_by: str = "api"
    published_at: int = 0
    label: str | None = None


def read_duration_field(kind: type, value: Any) -> Any:
    """msgspec's hook for the types it doesn't know: durations."""
    if kind is Seconds:
        try:
            return Seconds(read_duration(value, ""))
        except ConfigError as error:
            # msgspec adds the place in the document to a ValueError, and to nothing else.
            raise ValueError(error.message.removeprefix(": ")) from None
    message = f"can't read a {kind}"
    raise NotImplementedError(message)


def read_definition(document: object) -> Definition:
    """A definition from plain data. Raises ConfigError with `details["path"]` at the first thing that is wrong."""
    try:
        definition = msgspec.convert(document, Definition, dec_hook=read_duration_field)
    except msgspec.ValidationError as error:
        message, path = split_path(str(error))
        raise ConfigError(message, path=path) from None
    check_steps(definition)
    return definition


def refuse_code(definition: Definition, admin: bool, trusted: Collection[str]) -> None:
    """Decide who may define what: steps that run code of this machine are for admins and for trusted workflows.

    `admin` is whether the one who sends it may do everything; `trusted` are the names in GATEWAY_TRUSTED_WORKFLOWS.
    Raises Forbidden naming the first such step.
    """
    if admin or definition.name in trusted:
        return
    for index, step in enumerate(definition.steps):
        if step.kind in CODE_KINDS:
            path = f"steps[{index}].{step.kind}"
            message = (
                f"{path}: step {step.id!r} runs code of this machine ({str(getattr(step, step.kind))[:80]}), which only "
                f"a token with the scope admin may define; or name the workflow in GATEWAY_TRUSTED_WORKFLOWS, or "
                "write it into gateway.yaml"
            )
            raise Forbidden(message, path=path)


def split_path(message: str) -> tuple[str, str]:
    """Part msgspec's message from the path it ends with: ("Expected `int`", "steps[0].timeout")."""
    what, _, where = message.partition(" - at `")
    return what, where.rstrip("`").removeprefix("$").removeprefix(".")


def check_steps(definition: Definition) -> None:
    """Refuse names and ids that can't be used, steps without exactly one kind, unknown `needs`, and cycles."""
    if not NAME.fullmatch(definition.name):
        message = (
            f"name {definition.name!r} can't be used: letters, digits, _, -, . and spaces, not only digits, at most 100"
        )
        raise ConfigError(message, path="name")
    ids: set[str] = set()
    for index, step in enumerate(definition.steps):
        _check_step(step, ids, f"steps[{index}]")
        ids.add(step.id)
    for index, step in enumerate(definition.steps):
        _check_needs(step, ids, f"steps[{index}].needs")
    upstream(definition)


def _check_step(step: Step, ids: set[str], path: str) -> None:
    if not STEP_ID.fullmatch(step.id):
        message = f"step id {step.id!r} can't be used: letters, digits, _ and -, a letter or _ first, at most 64"
        raise ConfigError(message, path=f"{path}.id")
    if step.id in ids:
        message = f"two steps have the id {step.id!r}"
        raise ConfigError(message, path=f"{path}.id")
    given = [kind for kind in KINDS if getattr(step, kind) is not UNSET]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        message = f"step {step.id!r} needs exactly one of {', '.join(KINDS)}; it has {found}"
        raise ConfigError(message, path=path)
    if step.python is not UNSET and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", str(step.python)):
        message = f"python takes `module:function`, not {step.python!r}"
        raise ConfigError(message, path=f"{path}.python")


def _check_needs(step: Step, ids: set[str], path: str) -> None:
    for index, need in enumerate(step.needs):
        if need not in ids:
            message = (
                f"step {step.id!r} needs {need!r}, which is no step of this workflow (steps: {', '.join(sorted(ids))})"
            )
            raise ConfigError(message, path=f"{path}[{index}]")


def upstream(definition: Definition) -> dict[str, frozenset[str]]:
    """Every step's id with the ids of all steps that end before it begins. Raises ConfigError on a cycle."""
    needs = {step.id: step.needs for step in definition.steps}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        # graphlib names each step after what it needs.
        circle = " → ".join(reversed(error.args[1]))
        message = f"steps wait for each other in a circle: {circle}"
        raise ConfigError(message, path="steps") from None
    found: dict[str, frozenset[str]] = {}
    for step_id in order:
        found[step_id] = frozenset(needs[step_id]).union(*(found[need] for need in needs[step_id]))
    return {step_id: found[step_id] for step_id in needs}


class CompiledStep:
    """A step with its expressions compiled."""

    def __init__(self, step: Step, path: str, before: frozenset[str]) -> None:
        self.step = step
        self.id = step.id
        self.kind = step.kind
        self.retry = step.retry
        self.when = _compile_when(step, path, before)
        self.argument = _compile_value(_argument(step), f"{path}.{ARGUMENTS.get(self.kind, self.kind)}", before)


def _argument(step: Step) -> Any:
    """All of a step that may hold expressions, as plain data."""
    if step.http is not UNSET:
        return {name: value for name, value in msgspec.structs.asdict(step.http).items() if value is not UNSET}
    if step.transform is not UNSET:
        return step.transform
    return None if step.with_ is UNSET else step.with_


def _compile_when(step: Step, path: str, before: frozenset[str]) -> Expression | None:
    if step.when is None:
        return None
    expression = compile_expression(step.when, Scope.STEP, f"{path}.when")
    _check_references(expression, before, f"{path}.when")
    return expression


def _compile_value(value: Any, path: str, before: frozenset[str]) -> Template:
    template = compile_template(value, Scope.STEP, path)
    for expression in template.expressions:
        _check_references(expression, before, path)
    return template


def _check_references(expression: Expression, before: frozenset[str], path: str) -> None:
    for name in sorted(expression.steps - before):
        message = f"`{expression.source}` reads steps.{name}, which does not end before this: add {name!r} to `needs`"
        raise ConfigError(message, path=path)


class Workflow:
    """A definition that is ready to run: checked, its expressions compiled, its input schema with them."""

    def __init__(self, definition: Definition, digest: str) -> None:
        before = upstream(definition)
        everything = frozenset(before)
        self.definition = definition
        self.digest = digest
        self.steps = {
            step.id: CompiledStep(step, f"steps[{index}]", before[step.id])
            for index, step in enumerate(definition.steps)
        }
        self.output = None if definition.output is UNSET else _compile_value(definition.output, "output", everything)
        self.validator = InputSchema(definition.input)
        self.names = self._names()

    def _names(self) -> frozenset[str]:
        """The names that any of its expressions reads."""
        templates = [step.argument for step in self.steps.values()] + ([self.output] if self.output else [])
        found = [expression.names for template in templates for expression in template.expressions]
        found += [step.when.names for step in self.steps.values() if step.when is not None]
        return frozenset().union(*found)

    @property
    def kinds(self) -> list[str]:
        """The kind of each step."""
        return [step.kind for step in self.steps.values()]

    @cached_property
    def last_steps(self) -> list[str]:
        """The steps that no other step needs: without `output`, theirs is the run's output."""
        needed = {need for step in self.definition.steps for need in step.needs}
        return [step.id for step in self.definition.steps if step.id not in needed]


class InputSchema:
    """A workflow's JSON Schema for its input."""

    def __init__(self, schema: dict[str, Any] | None) -> None:
        self._validator = None if schema is None else _compile_schema(schema)

    def complaint(self, value: Any) -> tuple[str, str] | None:
        """The path and the reason of the first thing the schema refuses in `value`; None when it is fine."""
        if self._validator is None:
            return None
        try:
            self._validator.validate({} if value is None else value)
        except jsonschema_rs.ValidationError as error:
            return _join_path(error.instance_path), error.message
        except ValueError as error:
            return "input", str(error)
        return None


def _compile_schema(schema: dict[str, Any]) -> Any:
    try:
        return jsonschema_rs.validator_for(schema, retriever=_refuse_to_fetch)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        message = f"`input` is no valid JSON Schema: {getattr(error, 'message', error)}"
        raise ConfigError(message, path="input") from None


def _refuse_to_fetch(uri: str) -> Any:
    # By itself the library would ask the network, or read our files, for a `$ref` that somebody uploaded.
    message = f"{uri} is outside of this schema"
    raise ValueError(message)


def _join_path(parts: list[str | int]) -> str:
    return "input" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def digest_of(document: object) -> str:
    """The name of exactly this definition: a hash of its canonical JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def prepare(document: object) -> Workflow:
    """Read, check and compile a definition. Raises ConfigError with `details["path"]`."""
    return Workflow(read_definition(document), digest_of(document))


class Plan(msgspec.Struct, frozen=True):
    """What comes next in a run: steps to begin now, steps to skip, when a waiting one is due next, or the end."""

    start: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    due_at: int | None = None
    ended: bool = False
    problem: Problem | None = None


def plan(workflow: Workflow, records: Mapping[str, StepRecord], values: Mapping[str, Any], now: int) -> Plan:
    """Decide what comes next from what is recorded. `now` and `due_at` are milliseconds of the store's clock.

    A failed step lets those that run come to their end and begins no other. A step is skipped when its `when` is
    false, or when a step it needs was skipped and it has no `when` of its own.
    """
    problem = _first_problem(workflow, records)
    running = any(record.state == StepState.RUNNING for record in records.values())
    if problem is not None:
        return Plan(ended=not running, problem=problem)
    start: list[str] = []
    skip: list[str] = []
    due: list[int] = []
    for step in workflow.steps.values():
        record = records.get(step.id)
        if record is not None and record.state == StepState.WAITING:
            due_at = record.due_at or now
            if due_at > now:
                due.append(due_at)
            else:
                start.append(step.id)
        elif record is None and _needs_met(step, records):
            verdict = _wanted(step, records, values)
            if isinstance(verdict, Problem):
                return Plan(ended=not running, problem=verdict)
            (start if verdict else skip).append(step.id)
    ended = not (start or skip or due or running)
    return Plan(start=tuple(start), skip=tuple(skip), due_at=min(due, default=None), ended=ended)


def _first_problem(workflow: Workflow, records: Mapping[str, StepRecord]) -> Problem | None:
    for step_id in workflow.steps:
        record = records.get(step_id)
        if record is not None and record.state == StepState.FAILED:
            return record.error or Problem(type="Failed", message="the step failed", step=step_id)
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


def outcome(workflow: Workflow, records: Mapping[str, StepRecord], values: Mapping[str, Any]) -> Any | Failure:
    """A finished run's output: its `output` expression, else the output of its last steps."""
    if workflow.output is not None:
        return workflow.output.render(values)
    last = {step_id: records[step_id].output for step_id in workflow.last_steps if step_id in records}
    return next(iter(last.values())) if len(last) == 1 else (last or None)


def step_values(records: Mapping[str, StepRecord]) -> dict[str, dict[str, Any]]:
    """The `steps` that expressions see."""
    return {
        step_id: {
            "status": str(record.state),
            "output": record.output,
            "error": None if record.error is None else msgspec.to_builtins(record.error),
        }
        for step_id, record in records.items()
    }
