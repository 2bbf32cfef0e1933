"""How one attempt of one message looks on the wire: its headers and its bytes, in the style of its endpoint. Silent.

All styles carry `webhook-id` and the gateway's own headers. `standard-webhooks` (1.0): `webhook-signature` holds a `v1`
for each live secret, the newest first, and a `v1a` where there is a signing key. `orqo`: `X-Signature-256` over the body
with the newest secret. `cloudevents` (1.0, binary mode): the envelope's parts are `ce-` headers, the body is the data,
signed as in Standard Webhooks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import msgspec

from gateway.callbacks import Callback, decode_secret, sign
from gateway.endpoints import LiveEndpoint
from gateway.hops import HEADER, write_hop

USER_AGENT = "event-gateway"
SOURCE = "/event-gateway"


class Post(msgspec.Struct, frozen=True):
    """What is posted."""

    headers: dict[str, str]
    body: bytes


class _Envelope(msgspec.Struct, frozen=True):
    type: str
    timestamp: str
    data: msgspec.Raw


_envelope = msgspec.json.Decoder(_Envelope)


def write_post(endpoint: LiveEndpoint, callback: Callback, now: float) -> Post | None:
    """One attempt at the time `now` (unix seconds); None where there is nothing to sign it with."""
    secrets = [each for each in endpoint.secrets(now) if decode_secret(each)]
    able = secrets or (endpoint.signing_key is not None and endpoint.style != "orqo")
    if endpoint.problem is not None or not able:
        return None
    timestamp, body = int(now), callback.body
    headers: dict[str, str] = {}
    if endpoint.style == "cloudevents":
        headers, body = _cloud_event(callback)
    headers |= _common(callback, timestamp, secrets)
    if endpoint.style == "orqo":
        headers["x-signature-256"] = "sha256=" + hmac.digest(secrets[0].encode(), body, hashlib.sha256).hex()
    else:
        headers["webhook-signature"] = sign_all(endpoint, secrets, callback.message_id, timestamp, body)
    return Post(endpoint.headers | headers, body)


def sign_all(endpoint: LiveEndpoint, secrets: list[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature`: one for each secret, and one with the signing key. Separated by spaces."""
    signatures = [sign(secret, message_id, timestamp, body) for secret in secrets]
    if endpoint.signing_key is not None:
        signed = endpoint.signing_key.sign(f"{message_id}.{timestamp}.".encode() + body)
        signatures.append("v1a," + base64.b64encode(signed).decode())
    return " ".join(signatures)


def _common(callback: Callback, timestamp: int, secrets: list[str]) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "webhook-id": callback.message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-attempt": str(len(callback.attempts) + 1),
    }
    if callback.hop is not None and secrets:
        keys = [decode_secret(secret) for secret in secrets]
        hops = (write_hop(key, callback.hop, callback.message_id, str(timestamp)) for key in keys)
        headers[HEADER] = " ".join(hops)
    if callback.traceparent is not None:
        headers["traceparent"] = callback.traceparent
    return headers


def _cloud_event(callback: Callback) -> tuple[dict[str, str], bytes]:
    """The headers and the body of binary mode. Source: CloudEvents 1.0, HTTP binding, 3.1."""
    envelope = _envelope.decode(callback.body)
    headers: dict[str, Any] = {
        "ce-specversion": "1.0",
        "ce-id": callback.message_id,
        "ce-source": SOURCE,
        "ce-type": callback.type,
        "ce-time": envelope.timestamp,
    }
    if callback.run_id:
        headers["ce-subject"] = f"runs/{callback.run_id}"
    if callback.traceparent is not None:
        headers["ce-traceparent"] = callback.traceparent
    return headers, bytes(envelope.data)
