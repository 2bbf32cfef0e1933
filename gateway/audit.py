"""The audit log: who changed what, when and from where, each entry chained to the one before by its hash. Silent.

An entry's hash covers all of it and the hash of the entry before it, so that none can be changed, taken out or put in
between without every later hash being wrong. What the chain alone can't show is that its end was cut off: who wants to
know that keeps the number and hash of an entry elsewhere, and `verify` holds the log against it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Any, Final, Literal

import msgspec

START: Final = "0" * 64
"""What stands in place of a hash before the first entry."""
SHOWN: Final = 200
"""Letters of a name that are kept."""


class Actor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who acts: an API token (by id and name), a command (by the person at the machine), a file, a link, or the gateway."""

    kind: Literal["token", "command", "file", "link", "gateway"]
    name: str = ""
    id: str | None = None
    address: str | None = None
    """The address that a request came from."""


NOBODY: Final = Actor(kind="gateway")
acting: ContextVar[Actor] = ContextVar("acting", default=NOBODY)
"""Who acts in this task. Set where a request or a command comes in, and read where something is changed."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to what: `action` such as `app.change` or `run.cancel`; `detail` never holds a secret."""

    action: str
    subject: str
    detail: dict[str, Any] = {}


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log. `number` counts from 1, `at` is milliseconds of the store's clock."""

    number: int
    at: int
    actor: Actor
    action: str
    subject: str
    detail: dict[str, Any]
    before: str
    hash: str


class Fault(msgspec.Struct, frozen=True):
    """Where a log is not what was written: the number of the entry, and why."""

    number: int
    reason: str


def write_entries(changes: Sequence[Change], actor: Actor, at: int, last: Entry | None) -> list[Entry]:
    """The entries of these changes, behind `last`, the newest there is."""
    found: list[Entry] = []
    for change in changes:
        last = link(change, actor, at, last)
        found.append(last)
    return found


def link(change: Change, actor: Actor, at: int, last: Entry | None) -> Entry:
    """One entry behind another."""
    number, before = (1, START) if last is None else (last.number + 1, last.hash)
    open_entry = Entry(
        number=number,
        at=at,
        actor=actor,
        action=change.action,
        subject=change.subject[:SHOWN],
        detail=change.detail,
        before=before,
        hash="",
    )
    return msgspec.structs.replace(open_entry, hash=hash_entry(open_entry))


def hash_entry(entry: Entry) -> str:
    """SHA-256, in hex, of the entry as JSON with sorted names, its own hash left out."""
    content = msgspec.json.encode(msgspec.structs.replace(entry, hash=""), order="sorted")
    return hashlib.sha256(content).hexdigest()


def find_fault(entries: Iterable[Entry], last: Entry | None = None) -> Fault | None:
    """The first entry that does not follow from the one before it, `last` being the one before all; None for a good log."""
    for entry in entries:
        number, before = (1, START) if last is None else (last.number + 1, last.hash)
        if entry.number != number:
            return Fault(number, f"entry {number} is missing; {entry.number} stands in its place")
        if entry.before != before:
            return Fault(number, "it does not follow from the entry before it")
        if entry.hash != hash_entry(entry):
            return Fault(number, "it was changed: its hash is another")
        last = entry
    return None


def changed_fields(before: object, after: object) -> list[str]:
    """The names of what differs between two objects, two levels deep: `callback.url`. Never a value."""
    old, new = _plain(before), _plain(after)
    found = []
    for name in sorted(old.keys() | new.keys()):
        here, there = old.get(name), new.get(name)
        if here == there:
            continue
        if isinstance(here, dict) and isinstance(there, dict):
            inner = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
            found += [f"{name}.{key}" for key in inner]
        else:
            found.append(name)
    return found


def _plain(value: object) -> dict[str, Any]:
    built = msgspec.to_builtins(value)
    return built if isinstance(built, dict) else {}
