"""Envelopes: CloudEvents 1.0, binary and structured, and the payload of Standard Webhooks. Silent.

Sources: CloudEvents, HTTP protocol binding 1.0.2 (3.1 binary, 3.2 structured, 3.3 batched); Standard Webhooks, "Payload
structure".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from gateway.errors import BadRequest

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
ATTRIBUTES: Final = ("specversion", "id", "source", "type", "subject", "time")
HEADERS: Final = frozenset(f"ce-{name}" for name in ATTRIBUTES)
ID_HEADERS: Final = ("ce-source", "ce-id")
NEEDED: Final = ("id", "source", "type")


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What an event says of itself beside its data. `by_header`: the id stands in headers and not in the body."""

    type: str | None = None
    id: str | None = None
    source: str | None = None
    subject: str | None = None
    time: str | None = None
    data: Any = None
    by_header: bool = False


def open_envelope(kind: str, headers: Mapping[str, str], body: Any) -> Envelope | None:
    """The envelope of a body of this content type; None where there is none. Raises BadRequest for half a CloudEvent."""
    if kind == BATCH:
        return _read_batch(body)
    if kind == STRUCTURED:
        return _read_structured(body)
    if headers.get("ce-specversion", "").startswith("1."):
        return _read_binary(headers, body)
    return _read_standard(body)


def _read_binary(headers: Mapping[str, str], body: Any) -> Envelope:
    given = {name: headers[f"ce-{name}"] for name in ATTRIBUTES if headers.get(f"ce-{name}")}
    _check(given, "the headers of a CloudEvent", "ce-")
    told = {name: unquote(given[name]) for name in ("type", "source", "subject", "time") if name in given}
    # The id is as it came: a preset that reads these headers gives the same one.
    return Envelope(id=f"{given['source']} {given['id']}", data=body, by_header=True, **told)


def _read_structured(event: Any) -> Envelope | None:
    if not isinstance(event, dict):
        message = "a CloudEvent is a JSON object"
        raise BadRequest(message)
    if not str(event.get("specversion", "")).startswith("1."):
        return None
    given = {name: event[name] for name in ATTRIBUTES if isinstance(event.get(name), str) and event[name]}
    _check(given, "a CloudEvent")
    told = {name: given[name] for name in ("type", "source", "subject", "time") if name in given}
    data = event.get("data", event.get("data_base64"))
    return Envelope(id=f"{given['source']} {given['id']}", data=data, **told)


def _read_batch(events: Any) -> Envelope:
    """Several events that come as one delivery: its id is made of theirs, its type is that of all, if they have one."""
    if not isinstance(events, list):
        message = "a batch of CloudEvents is a JSON list"
        raise BadRequest(message)
    found = [each for each in map(_read_structured, events) if each is not None]
    types, sources = {each.type for each in found}, {each.source for each in found}
    digest = hashlib.sha256(msgspec.json.encode([each.id for each in found])).hexdigest()[:32]
    return Envelope(
        id=f"batch {digest}" if found and len(found) == len(events) else None,
        type=types.pop() if len(types) == 1 else None,
        source=sources.pop() if len(sources) == 1 else None,
        data=[each.data for each in found],
    )


def _read_standard(body: Any) -> Envelope | None:
    if not isinstance(body, dict) or "timestamp" not in body or "type" not in body or "data" not in body:
        return None
    kind, time = body["type"], body["timestamp"]
    if not isinstance(kind, str) or not kind:
        return None
    return Envelope(type=kind, time=time if isinstance(time, str) else None, data=body["data"])


def _check(given: Mapping[str, str], what: str, prefix: str = "") -> None:
    missing = [prefix + name for name in NEEDED if name not in given]
    if missing:
        message = f"{what} must have {' and '.join(missing)}, as text that is not empty"
        raise BadRequest(message)
