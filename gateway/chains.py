"""Chains: a workflow that starts when a run of another ends. What is written of it, compiled. Silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

import msgspec

from gateway.cel.scopes import Scope
from gateway.errors import ConfigError
from gateway.expressions import Expression, compile_expression
from gateway.runs import RunRequest
from gateway.templates import Template, compile_template

Ending = Literal["completed", "failed", "cancelled"]
UNSET = msgspec.UNSET


class Listener(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which workflow's end starts this one, in which states, under which condition, and with what."""

    workflow: str | int
    status: tuple[Ending, ...] = ("completed",)
    when: str = "true"
    input: Any = UNSET


class LiveListener:
    """A listener with its expressions compiled. `index` is its place under `on:`."""

    def __init__(self, listener: Listener, index: int, path: str) -> None:
        self.index = index
        self.workflow = str(listener.workflow)
        self.status = listener.status
        self.when: Expression = compile_expression(listener.when, Scope.CHAIN, f"{path}.when")
        value = {} if listener.input is UNSET else listener.input
        self.path = f"{path}.input"
        self.input: Template = compile_template(value, Scope.CHAIN, self.path)

    def hears(self, request: RunRequest, state: str) -> bool:
        """Whether it listens to the end of such a run in this state."""
        return self.workflow in (request.workflow, str(request.workflow_id)) and state in self.status


def compile_listeners(listeners: Sequence[Listener], path: str = "on") -> tuple[LiveListener, ...]:
    """The listeners of a workflow. Raises ConfigError with `details["path"]`."""
    for index, listener in enumerate(listeners):
        if not listener.status:
            message = "an empty list starts nothing; give completed, failed or cancelled"
            raise ConfigError(message, path=f"{path}[{index}].status")
    return tuple(LiveListener(each, index, f"{path}[{index}]") for index, each in enumerate(listeners))


def listened_by(document: Any) -> list[str]:
    """The workflows, by id or name, whose end a checked definition listens to."""
    return [str(each["workflow"]) for each in document.get("on", [])]


def find_loop(listens: Mapping[str, Sequence[str]]) -> str | None:
    """Workflows that start each other in a circle, as `a → b → a`; None when there are none."""
    try:
        TopologicalSorter(listens).prepare()
    except CycleError as error:
        return " → ".join(error.args[1])
    return None
