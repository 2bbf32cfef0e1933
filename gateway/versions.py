"""Versions of a workflow: their numbers and labels, and what differs between two. Silent: values in, values out."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import yaml

from gateway.errors import ConfigError, NotFound
from gateway.workflows import Definition, Published, Step, Workflow, digest_of

LONGEST_LABEL = 100
UNSET = msgspec.UNSET
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version that was published. `published_at` is in milliseconds, 0 where that was not written down."""

    number: int
    digest: str
    label: str | None = None
    published_at: int = 0


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow to publish: checked, beside the document it came from."""

    workflow: Workflow
    document: Any
    label: str | None = None


class Publication(msgspec.Struct, frozen=True):
    """What publishing came to, and what was published under this name before."""

    published: Published
    before: Published | None

    @property
    def is_new(self) -> bool:
        """Whether it is another version than the one before."""
        return self.before is None or self.before.version != self.published.version


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One place where two definitions differ. Without `before` it was added, without `after` removed."""

    path: str
    before: Any = UNSET
    after: Any = UNSET


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Two versions of a workflow: which they are, where they differ, and that as a unified diff of their YAML."""

    name: str
    before: Version
    after: Version
    changes: list[Change]
    text: str


class _Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the store keeps of a version under its number."""

    digest: str
    label: str | None = None
    published_at: int = 0


def read_version(number: int, kept: bytes) -> Version:
    """A version as the store has it. What was kept before versions had labels is the digest alone."""
    if not kept.startswith(b"{"):
        return Version(number=number, digest=kept.decode())
    found = msgspec.json.decode(kept, type=_Kept)
    return Version(number=number, digest=found.digest, label=found.label, published_at=found.published_at)


def write_version(version: Version) -> bytes:
    """A version for the store."""
    return msgspec.json.encode(_Kept(version.digest, version.label, version.published_at))


def check_label(label: str | None) -> None:
    """Refuse a label that could be mistaken for a number, or can't stand in a path. Raises ConfigError."""
    if label is None:
        return
    fits = 0 < len(label) <= LONGEST_LABEL and label.isprintable() and label.strip() == label
    if not fits or "/" in label or label.isdecimal() or label in (".", ".."):
        message = (
            f"label: {label[:LONGEST_LABEL]!r} can't be used; give 1 to {LONGEST_LABEL} printable characters, "
            "not only digits, without / and without spaces around them"
        )
        raise ConfigError(message, path="label")


def find_version(versions: Sequence[Version], wanted: str | int) -> Version:
    """The version with this number or label. Raises NotFound."""
    found = [each for each in versions if str(wanted) in (str(each.number), each.label)]
    if not found:
        known = ", ".join(str(each.number) for each in versions[-10:]) or "none"
        message = f"there is no version {str(wanted)[:LONGEST_LABEL]!r} of this workflow; the newest are {known}"
        raise NotFound(message)
    return found[0]


def version_before(versions: Sequence[Version], version: Version) -> Version:
    """The version that was published before this one. Raises NotFound for the first."""
    if version.number <= 1:
        message = "version 1 is the first one: there is none before it to compare it with"
        raise NotFound(message)
    return find_version(versions, version.number - 1)


def differ(name: str, before: Version, after: Version, text_before: Any, text_after: Any) -> Difference:
    """What differs between two versions of a workflow, from their definitions."""
    names = [f"{name} version {each.number}" for each in (before, after)]
    return Difference(
        name=name,
        before=before,
        after=after,
        changes=compare(text_before, text_after),
        text=draw_difference(text_before, text_after, *names),
    )


def compare(before: Any, after: Any, path: str = "") -> list[Change]:
    """Where two documents differ, in the order of the one after. Items with an id, as steps are, are matched by it."""
    if isinstance(before, dict) and isinstance(after, dict):
        return list(_compare_members(before, after, path, "{path}.{name}" if path else "{name}"))
    named_before, named_after = _by_id(before), _by_id(after)
    if named_before is not None and named_after is not None:
        return [
            *_compare_order(list(named_before), list(named_after), path),
            *_compare_members(named_before, named_after, path, "{path}[{name}]"),
        ]
    # Not `==`, for which 1, 1.0 and true are the same.
    if digest_of(before) == digest_of(after):
        return []
    return [Change(path, before, after)]


def draw_difference(before: Any, after: Any, name_before: str, name_after: str) -> str:
    """A unified diff of two documents as canonical YAML; empty when nothing differs."""
    lines = difflib.unified_diff(
        write_yaml(before).splitlines(), write_yaml(after).splitlines(), name_before, name_after, lineterm=""
    )
    return "".join(f"{line}\n" for line in lines)


def write_yaml(document: Any) -> str:
    """A definition as canonical YAML: the same text whatever the order in which its fields came."""
    ordered = _order(document, Definition)
    if isinstance(document, dict) and isinstance(document.get("steps"), list):
        ordered["steps"] = [_order(step, Step) for step in document["steps"]]
    text: str = yaml.dump(ordered, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=10_000)
    return text


def _compare_members(before: dict[str, Any], after: dict[str, Any], path: str, form: str) -> Iterator[Change]:
    for name in dict.fromkeys([*after, *before]):
        where = form.format(path=path, name=name)
        if name not in before:
            yield Change(where, after=after[name])
        elif name not in after:
            yield Change(where, before=before[name])
        else:
            yield from compare(before[name], after[name], where)


def _compare_order(before: list[str], after: list[str], path: str) -> list[Change]:
    kept = [name for name in before if name in after]
    same = kept == [name for name in after if name in before]
    return [] if same else [Change(path, before, after)]


def _by_id(value: Any) -> dict[str, Any] | None:
    """A list's items under their ids; None when not every one has an id of its own."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        return None
    found = {each["id"]: each for each in value if isinstance(each.get("id"), str)}
    return found if len(found) == len(value) else None


def _order(value: Any, model: type[msgspec.Struct]) -> Any:
    """The fields in the order of the model, and everything within them by name."""
    if not isinstance(value, dict):
        return _sort(value)
    known = [field.encode_name for field in msgspec.structs.fields(model)]
    names = [name for name in known if name in value] + sorted(value.keys() - set(known))
    return {name: _sort(value[name]) for name in names}


def _sort(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sort(value[name]) for name in sorted(value)}
    return [_sort(each) for each in value] if isinstance(value, list) else value
