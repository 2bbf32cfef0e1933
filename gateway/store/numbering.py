"""Which id something gets that is published, and what stands in its way."""

from __future__ import annotations

import itertools
import secrets as randomness
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from gateway.apps import App
from gateway.endpoints import EndpointSettings
from gateway.errors import Conflict
from gateway.versions import Draft, Version
from gateway.workflows import Published

FILE = "file"


def complete_app(app: App, number: int, before: App | None) -> App:
    token = app.token or (before.token if before else None) or randomness.token_urlsafe(32)
    return msgspec.structs.replace(app, id=number, token=token)


def find_gone(now: Collection[App | Published | EndpointSettings], kept: Collection[str]) -> list[str]:
    return sorted(each.name for each in now if each.managed_by == FILE and each.name not in kept)


def new_endpoint_id() -> str:
    return f"ep_{randomness.token_hex(8)}"


def next_id(taken: dict[int, Any]) -> int:
    return max(taken, default=0) + 1


def number_for(draft: Draft, before: Published | None, now: Collection[Published], last: int) -> int:
    """The id of a workflow: the one written in it, else the one it has, else a new one. Raises Conflict."""
    taken = {each.id: each.name for each in now}
    name = draft.workflow.definition.name
    number = draft.workflow.definition.id or (before.id if before else max((*taken, last)) + 1)
    _refuse_taken("workflow", number, taken.get(number, name), name)
    return number


def number_all(
    kind: str, wanted: Mapping[str, int | None], now: Collection[App | Published], last: int = 0
) -> dict[str, int]:
    """The id of everything in the file: the one written there, else the one it has, else a new one. Raises Conflict."""
    refuse_clash(kind, wanted, now)
    held = {each.name: each.id for each in now}
    owners = {each.id: each.name for each in now if each.managed_by != FILE}
    numbers: dict[str, int] = {}
    for name, written in wanted.items():
        number = written or held.get(name)
        if number is not None:
            _refuse_taken(kind, number, owners.setdefault(number, name), name)
            numbers[name] = number
    free = itertools.count(max((*held.values(), *owners, last)) + 1)
    return {name: numbers[name] if name in numbers else next(free) for name in wanted}


def refuse_managed(workflow: Published | None) -> None:
    if workflow is not None and workflow.managed_by == FILE:
        message = (
            f"workflow {workflow.name!r} is managed by gateway.yaml; change it there, or give this one another name"
        )
        raise Conflict(message)


def refuse_label(label: str | None, others: Collection[Version]) -> None:
    for each in others:
        if label is not None and each.label == label:
            message = f"the label {label!r} names version {each.number} already; give this one another"
            raise Conflict(message)


def refuse_clash(kind: str, names: Collection[str], now: Collection[App | Published | EndpointSettings]) -> None:
    for each in now:
        if each.managed_by != FILE and each.name in names:
            message = f"there is {kind} {each.name!r} already, made by command or API; give this one another name"
            raise Conflict(message)


def _refuse_taken(kind: str, number: int, owner: str, name: str) -> None:
    if owner != name:
        message = f"{kind} id {number} is taken by {owner!r}"
        raise Conflict(message)
