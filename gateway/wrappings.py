"""The sealed secrets inside a record, wherever in it they stand: which master keys they need, and rewrapping them. Silent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gateway.errors import GatewayError
from gateway.secrets import field_of, needed_key, rewrap


def find_sealed(record: Any) -> Iterator[str]:
    """Every sealed text of a record that is plain data."""
    if isinstance(record, dict):
        for name, value in record.items():
            if name == "sealed" and isinstance(value, str):
                yield value
            else:
                yield from find_sealed(value)
    elif isinstance(record, list | tuple):
        for each in record:
            yield from find_sealed(each)


def find_needed(record: Any) -> Iterator[str]:
    """The ids of the master keys that a record's secrets are under; `?` where that can't be read."""
    for sealed in find_sealed(record):
        try:
            yield needed_key(sealed)
        except GatewayError:
            yield "?"


def rewrap_record(master_keys: Sequence[bytes], owner: str, record: Any, field: str = "") -> Any:
    """The record with each of its secrets under the newest master key; what no key opens stays as it is."""
    if isinstance(record, list | tuple):
        # Of the same kind again: who compares sees a difference only where there is one.
        return type(record)(rewrap_record(master_keys, owner, each, field) for each in record)
    if not isinstance(record, dict):
        return record
    return {
        name: _rewrap(master_keys, field_of(owner, field) if field else owner, value)
        if name == "sealed" and isinstance(value, str)
        else rewrap_record(master_keys, owner, value, f"{field}.{name}" if field else name)
        for name, value in record.items()
    }


def _rewrap(master_keys: Sequence[bytes], owner: str, sealed: str) -> str:
    try:
        return rewrap(master_keys, owner, sealed)
    except GatewayError:
        return sealed
