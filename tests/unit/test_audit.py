"""The audit chain: whatever is done to one entry, the chain shows where."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.apps import App
from gateway.audit import START, Actor, Change, Entry, changed_fields, find_fault, hash_entry, write_entries

ME = Actor(kind="token", name="deploy", id="tok_1", address="192.0.2.7")


def log(count: int) -> list[Entry]:
    changes = [Change(action="app.change", subject=f"app {n}", detail={"fields": ["verify"]}) for n in range(count)]
    return write_entries(changes, ME, 1_700_000_000_000, None)


def test_an_untouched_log_has_no_fault() -> None:
    """Numbers count from one, each entry names the hash of the one before, and it may be looked at in parts."""
    entries = log(5)
    assert [each.number for each in entries] == [1, 2, 3, 4, 5]
    assert entries[0].before == START
    assert find_fault(entries) is None
    assert find_fault(entries[3:], entries[2]) is None
    assert find_fault([]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"at": 1},
        {"actor": Actor(kind="token", name="somebody else")},
        {"action": "app.remove"},
        {"subject": "app 3"},
        {"detail": {}},
    ],
)
def test_a_changed_entry_is_found(change: dict[str, Any]) -> None:
    """Whichever part of it; and one whose hash was made new is found at the next."""
    entries = log(5)
    entries[2] = msgspec.structs.replace(entries[2], **change)
    fault = find_fault(entries)
    assert fault is not None
    assert fault.number == 3
    entries[2] = msgspec.structs.replace(entries[2], hash=hash_entry(entries[2]))
    fault = find_fault(entries)
    assert fault is not None
    assert fault.number == 4


@given(st.integers(2, 8), st.data())
def test_an_entry_that_is_taken_out_moved_or_doubled_is_found(count: int, data: st.DataObject) -> None:
    """Anywhere but at the end, which a noted hash guards."""
    entries = log(count)
    place = data.draw(st.integers(0, count - 2))
    kind = data.draw(st.sampled_from(["out", "swapped", "doubled"]))
    if kind == "out":
        del entries[place]
    elif kind == "swapped":
        entries[place], entries[place + 1] = entries[place + 1], entries[place]
    else:
        entries.insert(place, entries[place])
    fault = find_fault(entries)
    assert fault is not None
    assert fault.number in (place + 1, place + 2)


def test_the_hash_does_not_depend_on_the_order_of_names() -> None:
    """The entry may be written and read by other programs."""
    one, two = log(1)[0], log(1)[0]
    one = msgspec.structs.replace(one, detail={"a": 1, "b": 2})
    two = msgspec.structs.replace(two, detail={"b": 2, "a": 1})
    assert hash_entry(one) == hash_entry(two)


def test_only_the_names_of_fields_are_told() -> None:
    """What changed in an app, two levels deep; never what it was or is."""
    before = App(name="ci", verify={"scheme": "orqo", "secrets": [{"env": "OLD"}]})
    after = App(name="ci", verify={"scheme": "orqo", "secrets": [{"env": "NEW"}]}, disabled=True)
    assert changed_fields(before, after) == ["disabled", "verify.secrets"]
