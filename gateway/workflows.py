"""Workflows: what a definition says, checked and compiled. Silent: values in, values out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from gateway import shells
from gateway.callables import REFERENCE
from gateway.calls import HttpCall, ModelCall, argument_of, check_call, secrets_of
from gateway.cel.scopes import Scope
from gateway.chains import Listener, compile_listeners
from gateway.endpoints import EndpointName
from gateway.errors import ConfigError, Forbidden
from gateway.expressions import Expression, compile_expression
from gateway.flow import Batch, Concurrency, Debounce, RateLimit, Singleton, Throttle, compile_flow, settings_of
from gateway.retries import RetryPolicy, Seconds, read_duration
from gateway.runs import LARGEST_ID
from gateway.schedules import Schedule, compile_schedules
from gateway.schemas import InputSchema
from gateway.templates import Template, compile_template
from gateway.waits import MARK, Approval, Wait, check_duration, check_wait

STEP_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
# Not all digits, for a caller names a workflow by id or by name.
NAME = re.compile(r"(?!\d+$)[\w][\w .-]{0,99}")
DEFAULT_TIMEOUT = 300.0
UNSET = msgspec.UNSET


class Child(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start another workflow, by id or name, and wait for its end unless `wait` is false."""

    name: str | int
    input: Any = None
    wait: bool = True
    on_failure: Literal["fail", "continue"] = "fail"


class Verify(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Find out by another step, which runs for nothing else, whether the unknown one has happened."""

    verify: str


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One node of a workflow. Exactly one of the kinds is given."""

    id: str
    name: str | None = None
    needs: list[str] = []
    when: str | None = None
    foreach: Any = None
    parallel: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    on_item_failure: Literal["fail", "continue"] = "fail"
    on_unknown: Literal["retry", "ask", "fail"] | Verify | msgspec.UnsetType = UNSET
    with_: Any = msgspec.field(name="with", default=UNSET)
    retry: RetryPolicy = RetryPolicy()
    timeout: Seconds = msgspec.field(default_factory=lambda: Seconds(DEFAULT_TIMEOUT))
    http: HttpCall | msgspec.UnsetType = UNSET
    model: ModelCall | msgspec.UnsetType = UNSET
    python: str | msgspec.UnsetType = UNSET
    isolate: Literal["process"] | None = None
    shell: shells.Shell | msgspec.UnsetType = UNSET
    transform: Any = UNSET
    wait: Wait | msgspec.UnsetType = UNSET
    approval: Approval | msgspec.UnsetType = UNSET
    workflow: Child | msgspec.UnsetType = UNSET

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) is not UNSET)


KINDS = ("http", "model", "python", "shell", "transform", "wait", "approval", "workflow")
CODE_KINDS = frozenset({"python", "shell"})
"""The kinds that run code of this machine: whoever defines one can do whatever a worker can."""
EFFECTS = frozenset({"http", "python", "shell", "model", "workflow"})
"""Kinds that act on the world: they are recorded as begun before they begin."""
PAUSES = frozenset({"wait", "approval"})
"""Kinds that no worker does: a time, a signal or a person ends them."""
UNKNOWN = {"shell": "ask"}
"""What a kind does about an unknown step when its definition doesn't say; `retry` where it is not named."""
MOST_ITEMS = 5000
ARGUMENTS = {"python": "with"}
"""The field that holds a kind's expressions, where it is not the kind's own."""


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A workflow as its author wrote it."""

    id: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_ID)] | None = None
    name: Annotated[str, msgspec.Meta(min_length=1)]
    description: str = ""
    input: dict[str, Any] | None = None
    schedule: str | Schedule | list[str | Schedule] | msgspec.UnsetType = UNSET
    on: list[Listener] = []
    steps: list[Step] = []
    output: Any = UNSET
    concurrency: Concurrency | None = None
    singleton: Singleton | None = None
    throttle: Throttle | None = None
    rate_limit: RateLimit | None = None
    debounce: Debounce | None = None
    batch: Batch | None = None
    priority: int | str | None = None
    callback: EndpointName | list[EndpointName] | None = None


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
    endpoints: tuple[str, ...] = ()


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


def refuse_secrets(definition: Definition, admin: bool, trusted: Collection[str]) -> None:
    """Who may define steps that send what is in a worker's environment or files: the same as those who may define code.

    Raises Forbidden naming the first such step.
    """
    if admin or definition.name in trusted:
        return
    for index, step in enumerate(definition.steps):
        for call in (step.http, step.model):
            for field, reference in () if call is UNSET else secrets_of(call):
                path = f"steps[{index}].{step.kind}.{field}"
                message = (
                    f"{path}: step {step.id!r} sends a secret of this machine ({reference.label}), which only a token "
                    "with the scope admin may define; or name the workflow in GATEWAY_TRUSTED_WORKFLOWS, or write it "
                    "into gateway.yaml"
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
        _check_probe(step, definition, f"steps[{index}].on_unknown")
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
    _check_kind(step, path)


def _check_kind(step: Step, path: str) -> None:
    if isinstance(step.foreach, str | int | float | dict) and MARK not in str(step.foreach):
        message = "foreach takes ${...} that gives a list, or a list written out"
        raise ConfigError(message, path=f"{path}.foreach")
    if step.with_ is not UNSET and step.python is UNSET:
        message = f"`with` is the argument of a python step; what a {step.kind} step is given stands in `{step.kind}`"
        raise ConfigError(message, path=f"{path}.with")
    if isinstance(step.wait, Wait):
        check_wait(step.wait, f"{path}.wait")
    if isinstance(step.approval, Approval):
        check_duration(step.approval.timeout, f"{path}.approval.timeout")
    if step.shell is not UNSET:
        shells.check_shell(step.shell, f"{path}.shell")
    if step.isolate is not None and step.python is UNSET:
        message = "isolate is for python steps; a shell step has a process of its own anyway"
        raise ConfigError(message, path=f"{path}.isolate")
    if step.python is not UNSET and not REFERENCE.fullmatch(str(step.python)):
        message = f"python takes `module:function`, not {step.python!r}"
        raise ConfigError(message, path=f"{path}.python")
    for kind, call in (("http", step.http), ("model", step.model)):
        if call is not UNSET:
            check_call(call, f"{path}.{kind}")


def _check_needs(step: Step, ids: set[str], path: str) -> None:
    for index, need in enumerate(step.needs):
        if need not in ids:
            message = (
                f"step {step.id!r} needs {need!r}, which is no step of this workflow (steps: {', '.join(sorted(ids))})"
            )
            raise ConfigError(message, path=f"{path}[{index}]")


def _check_probe(step: Step, definition: Definition, path: str) -> None:
    probe_id = probe_of(step)
    if probe_id is None:
        return
    probe = next((each for each in definition.steps if each.id == probe_id), None)
    if probe is None or probe is step:
        message = f"step {step.id!r} is verified by {probe_id!r}, which is no other step of this workflow"
        raise ConfigError(message, path=f"{path}.verify")
    needed = any(probe_id in each.needs for each in definition.steps)
    if needed or probe.needs or probe.foreach is not None or probe.when or probe.kind in PAUSES or probe_of(probe):
        message = f"{probe_id!r} verifies {step.id!r}: nothing can need it, and it has no needs, when, foreach or wait"
        raise ConfigError(message, path=f"{path}.verify")


def probe_of(step: Step) -> str | None:
    """The id of the step that finds out whether this one has happened, if it names one."""
    return step.on_unknown.verify if isinstance(step.on_unknown, Verify) else None


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


class Upstream(NamedTuple):
    """What an expression may read: the steps that end before it; and all `ids`, to tell one too late from one that isn't."""

    before: frozenset[str]
    ids: Collection[str]


class CompiledStep:
    """A step with its expressions compiled."""

    def __init__(self, step: Step, path: str, before: Upstream, *, loops: bool) -> None:
        self.step = step
        self.id = step.id
        self.kind = step.kind
        self.retry = step.retry
        self.has_effects = self.kind in EFFECTS
        self.probe = probe_of(step)
        self.on_unknown = UNKNOWN.get(self.kind, "retry") if step.on_unknown is UNSET else step.on_unknown
        self.when = _compile_when(step, path, before)
        self.foreach = None if step.foreach is None else _compile_value(step.foreach, f"{path}.foreach", before)
        where = f"{path}.{ARGUMENTS.get(self.kind, self.kind)}"
        self.argument = _compile_value(_argument(step), where, before, Scope.FOREACH if loops else Scope.STEP)


def _argument(step: Step) -> Any:
    """All of a step that may hold expressions, as plain data."""
    for call in (step.http, step.model):
        if call is not UNSET:
            return argument_of(call)
    if step.shell is not UNSET:
        return shells.argument_of(step.shell)
    if step.transform is not UNSET:
        return step.transform
    settings = getattr(step, step.kind)
    if isinstance(settings, msgspec.Struct):
        return {name.rstrip("_"): value for name, value in _fields(settings) if value is not UNSET}
    return None if step.with_ is UNSET else step.with_


def _fields(settings: msgspec.Struct) -> Iterable[tuple[str, Any]]:
    return msgspec.structs.asdict(settings).items()


def _compile_when(step: Step, path: str, before: Upstream) -> Expression | None:
    if step.when is None:
        return None
    expression = compile_expression(step.when, Scope.STEP, f"{path}.when")
    _check_references(expression, before, f"{path}.when")
    return expression


def _compile_value(value: Any, path: str, before: Upstream, scope: Scope = Scope.STEP) -> Template:
    template = compile_template(value, scope, path)
    for expression in template.expressions:
        _check_references(expression, before, _find(expression.source, value, path) or path)
    return template


def _find(source: str, value: Any, path: str) -> str | None:
    """Where in a value the text with this expression stands."""
    if isinstance(value, str):
        return path if source in value else None
    rows = [(f"{path}.{name}", each) for name, each in value.items()] if isinstance(value, dict) else []
    rows += [(f"{path}[{index}]", each) for index, each in enumerate(value)] if isinstance(value, list) else []
    return next((found for inner, each in rows if (found := _find(source, each, inner))), None)


def _check_references(expression: Expression, upstream: Upstream, path: str) -> None:
    for name in sorted(expression.steps - upstream.before):
        reason = f"which does not end before this: add {name!r} to `needs`"
        if name not in upstream.ids:
            reason = f"which is no step of this workflow (steps: {', '.join(upstream.ids)})"
        message = f"`{expression.source}` reads steps.{name}, {reason}"
        raise ConfigError(message, path=path)


class Workflow:
    """A definition that is ready to run: checked, its expressions compiled, its input schema with them."""

    def __init__(self, definition: Definition, digest: str) -> None:
        before = upstream(definition)
        self.definition = definition
        self.digest = digest
        self.probes = frozenset(probe for step in definition.steps if (probe := probe_of(step)))
        """Steps that run only to find out whether another has happened."""
        self.steps = {
            step.id: self._compile(step, f"steps[{index}]", before) for index, step in enumerate(definition.steps)
        }
        everything = frozenset(before) - self.probes
        self.output = (
            None
            if definition.output is UNSET
            else _compile_value(definition.output, "output", Upstream(everything, before))
        )
        self.validator = InputSchema(definition.input)
        self.schedules = compile_schedules(definition.schedule)
        self.listeners = compile_listeners(definition.on)
        for schedule in self.schedules:
            _check_constant(schedule.input, schedule.path, self.validator)
        for listener in self.listeners:
            _check_constant(listener.input, listener.path, self.validator)
        self.flow = compile_flow(settings_of(definition), definition.name)
        expressions = self._expressions()
        self.names = frozenset[str]().union(*(each.names for each in expressions))
        self.asks_contents = any(each.asks_contents for each in expressions)

    def _compile(self, step: Step, path: str, before: dict[str, frozenset[str]]) -> CompiledStep:
        asking = [each for each in self.definition.steps if probe_of(each) == step.id]
        # A probe sees what all those see that it is asked about.
        seen = frozenset.intersection(*(before[each.id] for each in asking)) if asking else before[step.id]
        loops = step.foreach is not None or any(each.foreach is not None for each in asking)
        return CompiledStep(step, path, Upstream(seen, before), loops=loops)

    def _expressions(self) -> list[Expression]:
        """All that a run of it may evaluate."""
        templates = [step.argument for step in self.steps.values()] + ([self.output] if self.output else [])
        templates += [step.foreach for step in self.steps.values() if step.foreach is not None]
        found = [expression for template in templates for expression in template.expressions]
        return found + [step.when for step in self.steps.values() if step.when is not None]

    @property
    def kinds(self) -> list[str]:
        """The kind of each step."""
        return [step.kind for step in self.steps.values()]

    @cached_property
    def last_steps(self) -> list[str]:
        """The steps that no other step needs: without `output`, theirs is the run's output."""
        needed = {need for step in self.definition.steps for need in step.needs}
        return [step.id for step in self.definition.steps if step.id not in needed | self.probes]


def _check_constant(given: Template, path: str, schema: InputSchema) -> None:
    """Refuse an input that is the same each time and that the workflow will refuse each time."""
    complaint = None if given.expressions else schema.complaint(given.render({}))
    if complaint is not None:
        message = f"this workflow's own `input` refuses what is given here: {complaint[0]}: {complaint[1]}"
        raise ConfigError(message, path=path)


def digest_of(document: object) -> str:
    """The name of exactly this definition: a hash of its canonical JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def prepare(document: object) -> Workflow:
    """Read, check and compile a definition. Raises ConfigError with `details["path"]`."""
    return Workflow(read_definition(document), digest_of(document))
