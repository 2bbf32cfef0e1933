"""What we show of endpoints: one definition for the commands and the API. Silent."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.endpoints import EndpointSettings, Rate, Style
from gateway.enlisting import Enlisted, count_live
from gateway.runs import iso
from gateway.secrets import SecretRef
from gateway.standings import Standing

WELL = Standing()


class EndpointDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Where messages are sent. `secrets` says where each live one is kept, never what it is; the older one of two signs
    until `overlap_until`. Times are seconds.

    `status` is `active`, `slowed`, `failing` or `disabled`; `why` says why, `failing_since` when its failures in a row began.
    """

    id: str
    name: str
    url: str
    status: str
    why: str | None
    failing_since: str | None
    events: tuple[str, ...]
    filter: str | None
    style: Style
    payload: str
    headers: dict[str, str]
    secrets: list[str]
    overlap_until: str | None
    signing_key: str | None
    public_key: str | None
    timeout: float | None
    schedule: list[float] | None
    rate: Rate | None
    concurrency: int | None
    order: str | None
    disabled: bool
    managed_by: str


class NewEndpoint(EndpointDocument, frozen=True, kw_only=True):
    """An endpoint with the secret that was just made for it, shown this once."""

    secret: str


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was put into the outbox."""

    callback_id: str
    message_id: str
    type: str


def describe_endpoint(endpoint: EndpointSettings, now: float, standing: Standing = WELL) -> EndpointDocument:
    """An endpoint's document, at this time (unix seconds)."""
    return EndpointDocument(**_fields(endpoint, now, standing))


def describe_new_endpoint(made: Enlisted, now: float) -> NewEndpoint:
    """An endpoint with its new secret."""
    return NewEndpoint(**_fields(made.endpoint, now), secret=made.secret)


def _fields(endpoint: EndpointSettings, now: float, standing: Standing = WELL) -> dict[str, Any]:
    live = count_live(endpoint, now)
    standing = msgspec.structs.replace(standing, by_operator=endpoint.disabled)
    return {
        "id": endpoint.id,
        "name": endpoint.name,
        "url": endpoint.url,
        "status": standing.status,
        "why": standing.why,
        "failing_since": iso(standing.failing_since),
        "events": endpoint.events,
        "filter": endpoint.filter,
        "style": endpoint.style,
        "payload": endpoint.payload,
        "headers": {name: _shown(value) for name, value in endpoint.headers.items()},
        "secrets": [each.label for each in endpoint.secrets[:live]],
        "overlap_until": iso(endpoint.overlap_until * 1000) if endpoint.overlap_until and live > 1 else None,
        "signing_key": None if endpoint.signing_key is None else endpoint.signing_key.label,
        "public_key": endpoint.public_key,
        "timeout": endpoint.timeout,
        "schedule": None if endpoint.schedule is None else list(endpoint.schedule),
        "rate": endpoint.rate,
        "concurrency": endpoint.concurrency,
        "order": endpoint.order,
        "disabled": endpoint.disabled,
        "managed_by": endpoint.managed_by,
    }


def _shown(value: str | SecretRef) -> str:
    return value if isinstance(value, str) else f"({value.label})"
