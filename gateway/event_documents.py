"""What we show of events and of refused deliveries: one definition for the commands and the API. Silent."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from gateway.events import Decision, Head
from gateway.refused import Kept, Refusal
from gateway.runs import iso


class EventDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A verified delivery: who sent it, what was decided, which runs it started, how often it came again.

    One that was refused, or was a handshake, has the `status` of its answer.
    """

    event_id: str
    app_id: int | None
    token_id: str | None
    hook_id: str | None
    type: str | None
    delivery_id: str | None
    replay_of: str | None
    method: str | None
    headers: dict[str, str]
    query: dict[str, Any]
    decision: Decision
    received_at: str | None
    run_ids: list[int]
    repeats: int
    last_repeated_at: str | None
    status: int | None = None


class WholeEvent(EventDocument, frozen=True, kw_only=True):
    """An event with its bytes as received: `body` where they are text, else `body_base64`."""

    body: str | None
    body_base64: str | None


def describe_event(
    event_id: str, head: Head, received_at: int, run_ids: list[int], *again: int | None
) -> EventDocument:
    """An event's document; `again` is how often it came again, and when last."""
    return EventDocument(**_event_fields(event_id, head, received_at, run_ids, *again))


def describe_whole_event(
    event_id: str, head: Head, received_at: int, run_ids: list[int], body: bytes, *again: int | None
) -> WholeEvent:
    """An event's document with its bytes; `again` is how often it came again, and when last."""
    return WholeEvent(**_event_fields(event_id, head, received_at, run_ids, *again), **_body_fields(body))


def describe_refusal(refusal: Refusal) -> EventDocument:
    return EventDocument(**_refusal_fields(refusal))


def describe_whole_refusal(kept: Kept) -> WholeEvent:
    """A refused delivery's document with its bytes, where they are kept."""
    return WholeEvent(**_refusal_fields(kept.refusal), **_body_fields(kept.body))


def _body_fields(body: bytes | None) -> dict[str, Any]:
    if body is None:
        return {"body": None, "body_base64": None}
    try:
        return {"body": body.decode(), "body_base64": None}
    except UnicodeDecodeError:
        return {"body": None, "body_base64": base64.b64encode(body).decode()}


def _refusal_fields(refusal: Refusal) -> dict[str, Any]:
    # A line that came several times is one here, as with events; `event show --capture` has them all.
    head = Head(
        app_id=refusal.app_id,
        type=refusal.type,
        delivery_id=refusal.delivery_id,
        headers=dict(refusal.headers),
        decision=refusal.decision,
    )
    return _event_fields(refusal.id, head, refusal.at, []) | {"status": refusal.status}


def _event_fields(
    event_id: str,
    head: Head,
    received_at: int,
    run_ids: list[int],
    repeats: int | None = 0,
    repeated_at: int | None = None,
) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "app_id": head.app_id,
        "token_id": head.token_id,
        "hook_id": head.hook_id,
        "type": head.type,
        "delivery_id": head.delivery_id,
        "replay_of": head.replay_of,
        "method": head.method or ("POST" if head.app_id is not None else None),
        "headers": head.headers,
        "query": head.query,
        "decision": head.decision,
        "received_at": iso(received_at),
        "run_ids": run_ids,
        "repeats": repeats or 0,
        "last_repeated_at": iso(repeated_at),
    }
