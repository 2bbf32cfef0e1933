"""Adapters: services that verify and parse one platform's events for us. What is said to them, and heard. Silent.

Source: ORQO, "Adapter contract", for the routes, `status: ready` and `challenge_response`. Its pages leave the bodies
of the two POSTs open; they are these:

    POST /verify-webhook   {"headers", "body", "body_encoding", "credentials"}            -> {"valid": true}
    POST /parse-inbound    {"headers", "body", "body_encoding", "query", "credentials"}   -> the message, an object
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from gateway.challenges import Challenge
from gateway.egress import check_url, read_policy
from gateway.errors import ConfigError
from gateway.proofs import Request

MOST_FIELDS = 1000
ANYWHERE = read_policy("0.0.0.0/0, ::/0")


class AdapterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an app's adapter is: the address that `/manifest.json`, `/health` and the others are put behind."""

    url: str

    def route(self, name: str) -> str:
        """The URL of one of its routes."""
        return f"{self.url.rstrip('/')}/{name}"


def check_adapter(settings: AdapterSettings) -> None:
    """Raise ConfigError for a URL that can't be used under any policy; where it leads is judged at each request."""
    refusal = check_url(ANYWHERE, settings.url)
    if refusal is None and urlsplit(settings.url).query:
        refusal = "an adapter's address has no query"
    if refusal is not None:
        raise ConfigError(refusal, path="adapter.url")


def compose_inbound(request: Request, credentials: Mapping[str, str]) -> dict[str, Any]:
    """What both POSTs hold of a request. `body_encoding` is `utf-8`, or `base64` for bytes that are no UTF-8."""
    headers: dict[str, str] = {}
    for name, value in request.headers:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    try:
        body, encoding = request.body.decode(), "utf-8"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(request.body).decode(), "base64"
    return {"headers": headers, "body": body, "body_encoding": encoding, "credentials": dict(credentials)}


def read_query(url: str) -> dict[str, str]:
    """The query as `parse-inbound` is told of it: of a repeated name the last value. Too many fields give none."""
    try:
        return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError:
        return {}


def read_object(raw: bytes) -> dict[str, Any] | None:
    """An adapter's answer; None when it is no JSON object."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def is_ready(health: Mapping[str, Any]) -> bool:
    """Whether `/health` says so, in exactly this word."""
    return health.get("status") == "ready"


def is_valid(verdict: Mapping[str, Any]) -> bool:
    """Whether `/verify-webhook` vouches for the request. Nothing but a plain true does."""
    return verdict.get("valid") is True


def read_message(document: dict[str, Any]) -> Challenge | dict[str, Any]:
    """What `/parse-inbound` made of the request: a challenge to give back, or the event's message."""
    given = document.get("challenge_response")
    if given is None:
        return document
    return Challenge(given if isinstance(given, str) else msgspec.json.encode(given).decode())
