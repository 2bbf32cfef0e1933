"""Endpoints and their messages, for tests."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from gateway.callbacks import Attempt, Callback
from gateway.endpoints import EndpointSettings, LiveEndpoint, check_endpoint
from gateway.styles import Post, write_post

WHSEC = "whsec_" + base64.b64encode(b"twenty-four bytes of key").decode()
OLDER = "whsec_" + base64.b64encode(b"the key that came before").decode()


def live(*secrets: str, **fields: Any) -> LiveEndpoint:
    """An endpoint with these secrets, the newest first; `signing_key` is the key's own text."""
    key = fields.pop("signing_key", None)
    known = {f"S{number}": secret for number, secret in enumerate(secrets)} | ({} if key is None else {"KEY": key})
    written = {
        "name": "ops",
        "url": "https://ops.example/hooks",
        "secrets": [{"env": name} for name in known if name != "KEY"],
        **({} if key is None else {"signing_key": {"env": "KEY"}}),
        **fields,
    }
    settings = msgspec.structs.replace(msgspec.convert(written, EndpointSettings), id="ep_1")
    check_endpoint(settings)
    return LiveEndpoint(settings, lambda reference, _: known.get(reference.env or ""))


def message(body: bytes, attempts: int = 0, **changes: Any) -> Callback:
    """A callback on its way, tried so many times before."""
    fields: dict[str, Any] = {
        "id": "msg_7_ab",
        "message_id": "msg_7_ab",
        "endpoint": "ep_1",
        "run_id": 7,
        "app_id": 42,
        "type": "run.completed",
        "url": "https://x.example",
        "body": body,
        "state": "sending",
        "created_at": 0,
        "attempts": [Attempt(number=number + 1, at=0, duration_ms=1) for number in range(attempts)],
    }
    return Callback(**(fields | changes))


def post(endpoint: LiveEndpoint, callback: Callback, now: float) -> Post:
    """What is posted; there must be something to sign it with."""
    made = write_post(endpoint, callback, now)
    assert made is not None
    return made


def headers_for(secret: str, callback: Callback, now: float) -> dict[str, str]:
    """The headers of one attempt, signed with one secret."""
    return post(live(secret), callback, now).headers
