"""Callbacks: the message a finished run sends, how it is signed, and what is kept of it. Silent."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import msgspec

from gateway.hops import Hop
from gateway.runs import iso

EXCERPT = 512


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One try to deliver a callback. `at` is milliseconds of the store's clock; `answer` the first bytes of the reply.

    `error` is for everybody who may see the callback, `detail` says more and is for the operator alone.
    """

    number: int
    at: int
    duration_ms: int
    status: int | None = None
    error: str | None = None
    detail: str | None = None
    answer: str | None = None


class Hindrance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a pending callback waits though it might go: `disabled`, `breaker`, `slowed`, `order` or `share`.

    `behind` is the callback that goes before it.
    """

    reason: str
    detail: str
    until: str | None = None
    behind: str | None = None


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one endpoint, as the store holds it.

    `message_id` is the `webhook-id` of every attempt: it names the message, which may go to several endpoints, each with a
    callback of its own. Where there is one endpoint it is the callback's own id. `run_id` 0: it tells of no run. `endpoint`
    is the endpoint's id; `app-42` is app 42's own callback, `app-42.HASH` an address that one of its requests gave.
    """

    id: str
    message_id: str
    endpoint: str
    run_id: int
    app_id: int | None
    type: str
    url: str
    body: bytes
    state: str
    created_at: int
    ended_at: int | None = None
    fence: int = 0
    due_at: int | None = None
    attempts: list[Attempt] = []
    hop: Hop | None = None
    order: str | None = None
    traceparent: str | None = None
    spent: int = 0
    """How many of its attempts were made before somebody had it sent again: the schedule began anew then."""
    reason: str | None = None
    """Why it has failed."""
    held: Hindrance | None = None


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A callback on its way into the outbox. Fields as of Callback."""

    id: str
    message_id: str = ""
    endpoint: str = ""
    run_id: int
    app_id: int | None = None
    type: str
    url: str
    body: bytes
    hop: Hop | None = None
    """Where in its chain the run stood."""
    order: str | None = None
    """Messages to the same endpoint with the same key are to arrive one after the other."""
    traceparent: str | None = None


def new_callback_id(run_id: int, noise: bytes) -> str:
    return f"msg_{run_id}_{noise.hex()}"


def new_message_id(noise: bytes) -> str:
    """The id of a message that is about no run."""
    return f"msg_{noise.hex()}"


def compose(kind: str, timestamp: int, data: dict[str, Any]) -> bytes:
    """The message's bytes: Standard Webhooks' envelope of type, timestamp and data."""
    return msgspec.json.encode({"type": kind, "timestamp": iso(timestamp), "data": data})


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of one attempt: `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`.

    `timestamp` is unix seconds of the attempt. Source: Standard Webhooks 1.0, "Signature scheme".
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(decode_secret(secret), content, hashlib.sha256)).decode()


def decode_secret(secret: str) -> bytes:
    """The key in a secret, read as the official libraries read it: `whsec_` dropped, the rest is base64.

    Text that is no base64 is used as it stands.
    """
    text = secret.removeprefix("whsec_")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return secret.encode()


def excerpt(body: bytes) -> str:
    """The first bytes of an answer as text that is safe to print."""
    text = body[:EXCERPT].decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text)
