"""What a publication changes: by name for those who look, by fields for the audit log."""

from __future__ import annotations

import msgspec

from gateway.audit import Change, changed_fields


class Changes(msgspec.Struct, frozen=True):
    """What a publication changed, as `kind name` lines; and of what changed, the names of the fields that did.

    `entries` are for the audit log beside these.
    """

    added: list[str]
    changed: list[str]
    removed: list[str]
    fields: dict[str, list[str]] = {}
    entries: list[Change] = []

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.entries)

    def __add__(self, other: Changes) -> Changes:
        return Changes(
            self.added + other.added,
            self.changed + other.changed,
            self.removed + other.removed,
            self.fields | other.fields,
            self.entries + other.entries,
        )


def note(changes: Changes, name: str, before: object, after: object) -> None:
    if before is None:
        changes.added.append(name)
    elif before != after:
        changes.changed.append(name)
        changes.fields[name] = changed_fields(before, after)


def audited(changes: Changes) -> list[Change]:
    """The lines of a publication as the audit log has them: `app.change` of `ci`."""
    return [
        Change(
            action=f"{line.partition(' ')[0]}.{action}",
            subject=line.partition(" ")[2],
            detail={"fields": changes.fields[line]} if line in changes.fields else {},
        )
        for action, lines in (("add", changes.added), ("change", changes.changed), ("remove", changes.removed))
        for line in lines
    ]
