"""Flow control: what may hold a workflow's runs back before they begin. Silent: a definition and values in, a Flow out.

The names are Inngest's (https://www.inngest.com/docs/guides/flow-control). Every key is CEL over what asks for the run:
`input`, `task`, `metadata`, `app` and, where one started it, `event`. The Flow of a run is worked out when it is asked
for; the store's scripts (store/lua/flow.lua) do what it says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.cel.scopes import Scope
from gateway.errors import ConfigError, Unprocessable
from gateway.expressions import Expression, Failure, compile_expression
from gateway.retries import Seconds

MOST_AT_ONCE = 1000
MOST_ITEMS = 1000
MOST_BYTES = 4_194_304
"""A batch that holds this many bytes begins, whatever its `max_size`."""
HIGHEST = 600
"""Of a priority, as with Inngest; the lowest is its negative."""

_Key = Annotated[str, Meta(description="CEL over input, task, metadata, app and event")]
_AtOnce = Annotated[int, Meta(ge=1, le=MOST_AT_ONCE)]
_Many = Annotated[int, Meta(ge=1, le=1_000_000)]


class Concurrency(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At most `limit` runs of a key at once. A run counts until it ends, also while it waits."""

    limit: _AtOnce
    key: _Key | None = None
    scope: Literal["workflow", "gateway"] = "workflow"
    on_conflict: Literal["queue", "cancel_running", "skip"] = "queue"


class Singleton(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Short for `concurrency` with `limit: 1`; `mode` says which of the two runs lives."""

    key: _Key | None = None
    mode: Literal["skip", "cancel"] = "skip"


class Throttle(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At most `limit` runs begin in a `period`, evenly spread, `burst` of them at once. The others wait."""

    limit: _Many
    period: Seconds
    burst: _Many = 1
    key: _Key | None = None


class RateLimit(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At most `limit` runs are asked for at once, and as many again in a `period`. The others are refused."""

    limit: _Many
    period: Seconds
    key: _Key | None = None


class Debounce(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run, with the newest request, when none came for a `period`; at the latest `max_wait` after the first."""

    period: Seconds
    key: _Key | None = None
    max_wait: Seconds | None = None


class Batch(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run for up to `max_size` requests, begun `timeout` after the first at the latest."""

    max_size: Annotated[int, Meta(ge=1, le=MOST_ITEMS)]
    timeout: Seconds
    key: _Key | None = None


class Rule(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One kind of control for one run: `name` is its key's place in the store, `key` what a person reads.

    Times are milliseconds.
    """

    name: str
    key: str | None = None
    limit: int | None = None
    on_conflict: str | None = None
    period: int | None = None
    burst: int | None = None
    max_wait: int | None = None
    max_size: int | None = None
    max_bytes: int | None = None
    timeout: int | None = None


class Flow(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What holds one run back: what its request, as it came, makes of its workflow's rules.

    `lane` is whose turn the run takes in the queue; the store fills it in.
    """

    concurrency: Rule | None = None
    throttle: Rule | None = None
    rate_limit: Rule | None = None
    debounce: Rule | None = None
    batch: Rule | None = None
    priority: int = 0
    lane: str = ""


class FlowSettings(Struct, frozen=True, kw_only=True):
    """The fields of a definition that control its flow."""

    concurrency: Concurrency | None = None
    singleton: Singleton | None = None
    throttle: Throttle | None = None
    rate_limit: RateLimit | None = None
    debounce: Debounce | None = None
    batch: Batch | None = None
    priority: int | str | None = None


class FlowControl:
    """A workflow's rules with their keys compiled. `names` are what its expressions read."""

    def __init__(self, settings: FlowSettings, owner: str) -> None:
        self._owner = owner
        self._rules = {name: rule for name, rule in _rules_of(settings).items() if rule is not None}
        self._keys = {
            name: compile_expression(rule.key, Scope.REQUEST, f"{name}.key")
            for name, rule in self._rules.items()
            if rule.key is not None
        }
        given = settings.priority
        self._priority = compile_expression(given, Scope.REQUEST, "priority") if isinstance(given, str) else None
        self._fixed = given if isinstance(given, int) else 0
        expressions = [*self._keys.values(), *([self._priority] if self._priority else [])]
        self.names = frozenset[str]().union(*(each.names for each in expressions))

    def decide(self, values: Mapping[str, Any]) -> Flow:
        """The Flow of a run that these values ask for. Raises Unprocessable when a key or the priority gives nothing."""
        rules: dict[str, Any] = {name: self._rule(name, rule, values) for name, rule in self._rules.items()}
        return Flow(**rules, priority=self._decide_priority(values))

    def decide_inside(self, values: Mapping[str, Any], *, alone: bool = False) -> Flow:
        """As `decide`, for what the gateway starts itself: no rate turns that away. `alone`: it joins no other run."""
        flow = msgspec.structs.replace(self.decide(values), rate_limit=None)
        return msgspec.structs.replace(flow, debounce=None, batch=None) if alone else flow

    def _rule(self, name: str, rule: Struct, values: Mapping[str, Any]) -> Rule:
        expression = self._keys.get(name)
        key = None if expression is None else _evaluate(expression, f"{name}.key", values)
        text = None if key is None else key if isinstance(key, str) else msgspec.json.encode(key).decode()
        shared = isinstance(rule, Concurrency) and rule.scope == "gateway"
        place = f"{'*' if shared else self._owner}:{_digest(key)}"
        return Rule(name=place, key=None if text is None else text[:200], **_numbers(rule))

    def _decide_priority(self, values: Mapping[str, Any]) -> int:
        if self._priority is None:
            return self._fixed
        value = _evaluate(self._priority, "priority", values)
        if isinstance(value, bool) or not isinstance(value, int | float):
            message = f"priority: `{self._priority.source}` gives no number here"
            raise Unprocessable(message, path="priority")
        return int(max(-HIGHEST, min(HIGHEST, value)))


def compile_flow(settings: FlowSettings, owner: str) -> FlowControl | None:
    """The flow control of the workflow named `owner`; None when it has none. Raises ConfigError with `path`."""
    _check(settings)
    if all(getattr(settings, name) is None for name in settings.__struct_fields__):
        return None
    return FlowControl(settings, owner)


def settings_of(definition: Any) -> FlowSettings:
    """The fields of a definition that control its flow."""
    return FlowSettings(**{name: getattr(definition, name) for name in FlowSettings.__struct_fields__})


def flow_values(
    input_value: Any, task: str | None, metadata: dict[str, Any] | None, app: dict[str, Any], event: Any = None
) -> dict[str, Any]:
    """What keys may read. Without an event, a key that reads it fails."""
    values = {
        "input": {} if input_value is None else input_value,
        "task": task,
        "metadata": metadata or {},
        "app": app,
    }
    return values if event is None else values | {"event": event}


def _rules_of(settings: FlowSettings) -> dict[str, Any]:
    gate, single = settings.concurrency, settings.singleton
    if single is not None:
        mode: Any = "skip" if single.mode == "skip" else "cancel_running"
        gate = Concurrency(limit=1, key=single.key, on_conflict=mode)
    return {
        "concurrency": gate,
        "throttle": settings.throttle,
        "rate_limit": settings.rate_limit,
        "debounce": settings.debounce,
        "batch": settings.batch,
    }


def _numbers(rule: Struct) -> dict[str, Any]:
    given = msgspec.structs.asdict(rule)
    numbers = {
        name: int(value * 1000) if isinstance(value, Seconds) else value
        for name, value in given.items()
        if name not in ("key", "scope")
    }
    return numbers | ({"max_bytes": MOST_BYTES} if isinstance(rule, Batch) else {})


def _digest(key: Any) -> str:
    if key is None:
        return "-"
    return hashlib.blake2b(msgspec.json.encode(key, order="sorted"), digest_size=12).hexdigest()


def _evaluate(expression: Expression, where: str, values: Mapping[str, Any]) -> Any:
    value = expression.evaluate(values)
    if isinstance(value, Failure) or value is None:
        reason = value.message if isinstance(value, Failure) else "it gives null"
        message = f"{where}: `{expression.source}` gives nothing here: {reason}"
        raise Unprocessable(message, path=where)
    return value


def _check(settings: FlowSettings) -> None:
    if settings.concurrency is not None and settings.singleton is not None:
        _refuse("singleton", "`singleton` is short for `concurrency` with limit 1: give one of the two")
    if settings.debounce is not None and settings.batch is not None:
        _refuse("batch", "`debounce` keeps the newest request and `batch` keeps all: give one of the two")
    gate = _rules_of(settings)["concurrency"]
    if gate is not None:
        _check_gate(settings, gate, "concurrency" if settings.singleton is None else "singleton")
    for name in ("throttle", "rate_limit", "debounce", "batch"):
        _check_periods(getattr(settings, name), name)
    if isinstance(settings.priority, int) and abs(settings.priority) > HIGHEST:
        _refuse("priority", f"a priority is -{HIGHEST} to {HIGHEST}")


def _check_gate(settings: FlowSettings, gate: Concurrency, path: str) -> None:
    if gate.scope == "gateway" and gate.key is None:
        _refuse(f"{path}.scope", "a limit shared by workflows needs a `key` that says what they share")
    if gate.on_conflict != "queue" and settings.throttle is not None:
        _refuse("throttle", f"with `{path}` that skips or cancels, nothing queues: leave one of the two out")
    if gate.on_conflict == "skip" and (settings.debounce is not None or settings.batch is not None):
        _refuse(path, "whether to skip is decided when the event comes, so it can't stand beside `debounce` or `batch`")


def _check_periods(rule: Any, name: str) -> None:
    for field in ("period", "timeout", "max_wait"):
        value = getattr(rule, field, None)
        if value is not None and value < 0.001:
            _refuse(f"{name}.{field}", "it must be at least 1ms")
    if isinstance(rule, Debounce) and rule.max_wait is not None and rule.max_wait < rule.period:
        _refuse("debounce.max_wait", "it must be at least as long as `period`")
    if isinstance(rule, Throttle) and rule.burst > rule.limit:
        _refuse("throttle.burst", "it can't be more than `limit`")


def _refuse(path: str, message: str) -> None:
    raise ConfigError(message, path=path)
