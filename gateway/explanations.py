"""Why a condition holds or doesn't: the smallest parts of it that decided, and the values they looked at. Silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from gateway.cel.fragments import Fragment, hide_literals, take_apart
from gateway.cel.scopes import Scope
from gateway.errors import ConfigError
from gateway.expressions import Expression, Failure, compile_expression
from gateway.masks import HIDDEN, Mask, cut, is_sensitive

Outcome = Literal["true", "false", "error"]
MOST_EVALUATIONS = 64
MOST_FINDINGS = 10
MOST_READINGS = 5
LONGEST_EXPRESSION = 300


class Reading(msgspec.Struct, frozen=True):
    """A value that decided: what was read, and what stood there, as JSON that may be cut."""

    expression: str
    value: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a condition that decided it: what it came to, what it read, or why it came to nothing."""

    expression: str
    outcome: Outcome
    reads: list[Reading] = []
    message: str | None = None
    text: str
    """All of it in one sentence."""


def explain_condition(
    source: str, values: Mapping[str, object], mask: Mask, scope: Scope = Scope.TRIGGER
) -> list[Finding]:
    """The parts of a condition because of which it came to what it did, for these values. Never raises.

    Of `a && b` those that are false, of `a || b` all when it is false; what stands in `!`, the condition of `? :` and
    the branch taken. Secrets are masked: the known ones, and what is read from a field that is named like one.
    """
    inquiry = _Inquiry(values, mask, scope)
    return inquiry.explain(take_apart(source))[:MOST_FINDINGS]


class _Inquiry:
    """One condition and one event; counts how often the engine is asked."""

    def __init__(self, values: Mapping[str, object], mask: Mask, scope: Scope) -> None:
        self._values = values
        self._mask = mask
        self._scope = scope
        self._compiled: dict[str, Expression | Failure] = {}
        self._answers: dict[str, object] = {}
        self._left = MOST_EVALUATIONS

    def explain(self, condition: Fragment) -> list[Finding]:
        """The parts that decided it. What can't be judged only as a whole says so itself: the engine refuses all of an
        event's data for a number in a part that it would not have read.
        """
        found = self.why(condition)
        failed = isinstance(self._ask(condition), Failure) and all(each.outcome != "error" for each in found)
        return [self._find(condition), *found] if failed else found

    def why(self, fragment: Fragment) -> list[Finding]:
        if fragment.kind in ("relation", "leaf") or self._left <= 0:
            return [self._find(fragment)]
        if fragment.kind == "not":
            return self.why(fragment.parts[0])
        if fragment.kind == "choice":
            return self._why_chosen(fragment)
        return self._why_joined(fragment)

    def _why_joined(self, fragment: Fragment) -> list[Finding]:
        """Of `&&` and `||`: one part alone decides it when it is `decisive`, else all do."""
        answer, decisive = self._ask(fragment), fragment.kind == "or"
        if answer is decisive:
            blamed = [part for part in fragment.parts if self._ask(part) is decisive]
        elif answer is not decisive and isinstance(answer, bool):
            blamed = list(fragment.parts)
        else:
            blamed = [part for part in fragment.parts if not isinstance(self._ask(part), bool)]
        found = [finding for part in blamed for finding in self.why(part)]
        return found or [self._find(fragment)]

    def _why_chosen(self, fragment: Fragment) -> list[Finding]:
        condition, yes, no = fragment.parts
        answer = self._ask(condition)
        if not isinstance(answer, bool):
            return self.why(condition)
        branch = yes if answer else no
        return self.why(condition) + ([] if branch.text in ("true", "false") else self.why(branch))

    def _find(self, fragment: Fragment) -> Finding:
        answer = self._ask(fragment)
        shown = self._written(fragment)
        if not isinstance(answer, bool):
            return self._fail(shown, answer)
        outcome: Outcome = "true" if answer else "false"
        reads = [each for each in self._readings(fragment) if each.expression != shown]
        because = ", ".join(f"{each.expression} is {each.value}" for each in reads)
        return Finding(
            expression=shown, outcome=outcome, reads=reads, text=f"{shown} is {outcome}" + (because and f": {because}")
        )

    def _fail(self, shown: str, answer: object) -> Finding:
        if isinstance(answer, Failure):
            message = cut(self._mask.text(answer.message), LONGEST_EXPRESSION)
        else:
            message = "it is neither true nor false"
        return Finding(expression=shown, outcome="error", message=message, text=f"{shown} can't be judged: {message}")

    def _readings(self, fragment: Fragment) -> list[Reading]:
        if fragment.kind == "relation":
            sides = [part for part in fragment.parts if self._paths(part.text)]
            return [self._reading(self._written(part), self._ask(part), part.text) for part in sides]
        paths = sorted(self._paths(fragment.text))[:MOST_READINGS]
        return [self._reading(text := ".".join(path), self._ask(Fragment("leaf", text)), text) for path in paths]

    def _reading(self, shown: str, value: object, source: str) -> Reading:
        if isinstance(value, Failure):
            return Reading(shown, "not there")
        return Reading(shown, HIDDEN if self._is_sensitive(source) else self._mask.shown(value))

    def _written(self, fragment: Fragment) -> str:
        """A fragment to be shown: what a secret is compared with is one as well."""
        hidden = self._is_sensitive(fragment.text)
        text = hide_literals(fragment.text, HIDDEN) if hidden else fragment.text
        return cut(self._mask.text(" ".join(text.split())), LONGEST_EXPRESSION)

    def _is_sensitive(self, source: str) -> bool:
        return any(is_sensitive(key) for path in self._paths(source) for key in path)

    def _paths(self, source: str) -> frozenset[tuple[str, ...]]:
        compiled = self._compile(source)
        return frozenset() if isinstance(compiled, Failure) else compiled.paths

    def _ask(self, fragment: Fragment) -> object:
        source = fragment.text
        if source not in self._answers:
            self._left -= 1
            compiled = self._compile(source)
            self._answers[source] = compiled if isinstance(compiled, Failure) else compiled.evaluate(self._values)
        return self._answers[source]

    def _compile(self, source: str) -> Expression | Failure:
        if source not in self._compiled:
            try:
                self._compiled[source] = compile_expression(source, self._scope)
            except ConfigError as error:
                self._compiled[source] = Failure(source, error.message)
        return self._compiled[source]
