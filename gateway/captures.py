"""A captured request as `gateway verify` and `gateway doctor` read it, without any secret."""

from __future__ import annotations

import base64
from typing import Any

from msgspec import Struct


class Capture(Struct, frozen=True, kw_only=True):
    """One request as it is kept. `received_at` is in milliseconds; values that may be secret are hidden.

    `body` is None where it was not kept. `scheme` is what the app's `verify` said then: a name, or written out.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None
    received_at: int
    scheme: Any = None
    app_id: int | None = None
    secrets_from: tuple[str, ...] = ()
    """Where the app's secrets were kept, newest first."""


def write_capture(capture: Capture) -> dict[str, Any]:
    """The document of `gateway verify FILE`. Its `secrets` are empty: whoever judges it writes them in."""
    document: dict[str, Any] = {
        "scheme": capture.scheme,
        "secrets": [],
        "secrets_from": list(capture.secrets_from),
        "app_id": capture.app_id,
        "method": capture.method,
        "url": capture.url,
        "headers": _headers(capture.headers),
        "now": capture.received_at / 1000,
    }
    return document | _body(capture.body)


def _headers(headers: tuple[tuple[str, str], ...]) -> dict[str, str | list[str]]:
    lines: dict[str, list[str]] = {}
    for name, value in headers:
        lines.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in lines.items()}


def _body(body: bytes | None) -> dict[str, str]:
    if body is None:
        return {"note": "the body was not kept"}
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}
