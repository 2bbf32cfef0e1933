"""Endpoints made and changed by command or API: with secrets of their own, shown once and kept sealed. Silent."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.egress import Policy
from gateway.endpoints import (
    MOST_SECRETS,
    PRIVATE,
    SEED_BYTES,
    EndpointSettings,
    Rate,
    check_endpoint,
    check_header_value,
    write_public_key,
)
from gateway.errors import ConfigError, Conflict, Unprocessable
from gateway.forms import is_secretive
from gateway.registrations import LONGEST_OVERLAP, OVERLAP, Noise
from gateway.runs import iso
from gateway.secrets import SecretRef, field_of, seal

SECRET_BYTES = 32


class EndpointWish(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An endpoint that somebody asks for. `signing_key`: make an ed25519 key as well. Other fields as in a file."""

    name: str
    url: str
    events: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    filter: str | None = None
    headers: dict[str, str] = {}
    style: str | msgspec.UnsetType = msgspec.UNSET
    payload: str | msgspec.UnsetType = msgspec.UNSET
    timeout: float | str | None = None
    schedule: tuple[float | str, ...] | None = None
    rate: Rate | None = None
    concurrency: int | None = None
    order: str | None = None
    signing_key: bool = False


class Enlisted(msgspec.Struct, frozen=True):
    """An endpoint with the secret that was made for it, to be shown this once."""

    endpoint: EndpointSettings
    secret: str


def enlist(wish: EndpointWish, policy: Policy, master_keys: Sequence[bytes], noise: Noise) -> Enlisted:
    """A new endpoint with a new secret. It gets its id when it is published.

    Raises Unprocessable for what can't be, ConfigError without a master key to seal the secrets under.
    """
    owner = f"endpoint:{wish.name}"

    def sealed(field: str, value: str) -> SecretRef:
        return SecretRef(sealed=seal(master_keys, field_of(owner, field), value))

    secret = _new_secret(noise)
    written: dict[str, Any] = msgspec.to_builtins(wish)
    written.pop("signing_key", None)
    written["headers"] = {
        name: {"sealed": sealed(f"headers.{name}", value).sealed} if is_secretive(name) else value
        for name, value in wish.headers.items()
    }
    try:
        for name, value in wish.headers.items():
            check_header_value(name, value)
        endpoint = msgspec.structs.replace(
            msgspec.convert(written, EndpointSettings), secrets=(sealed("secrets", secret),)
        )
        if wish.signing_key:
            key = Ed25519PrivateKey.from_private_bytes(noise(SEED_BYTES))
            text = PRIVATE + base64.b64encode(key.private_bytes_raw() + key.public_key().public_bytes_raw()).decode()
            endpoint = msgspec.structs.replace(
                endpoint, signing_key=sealed("signing_key", text), public_key=write_public_key(key)
            )
        check_endpoint(endpoint, policy)
    except msgspec.ValidationError as error:
        raise Unprocessable(str(error)) from None
    except ConfigError as error:
        path = str(error.details.get("path", ""))
        message = f"{path}: {error.message.removeprefix(f'{path}: ')}"
        raise Unprocessable(message, path=path) from None
    return Enlisted(endpoint, secret)


def rotate_endpoint(
    endpoint: EndpointSettings,
    master_keys: Sequence[bytes],
    noise: Noise,
    now: float,
    *,
    overlap: float = OVERLAP,
    force: bool = False,
) -> Enlisted:
    """The endpoint with a new secret; the one it had signs as well for `overlap` seconds from `now`.

    Raises Conflict while two are live from the last time, unless `force` ends the older of them at once; Unprocessable
    for an overlap that is negative or longer than 30 days; ConfigError without a master key.
    """
    if not 0 <= overlap <= LONGEST_OVERLAP:
        message = f"overlap: must be between 0 and {LONGEST_OVERLAP:g} seconds"
        raise Unprocessable(message, path="overlap")
    if count_live(endpoint, now) >= MOST_SECRETS and not force:
        until = "" if endpoint.overlap_until is None else f" until {iso(endpoint.overlap_until * 1000)}"
        message = f"endpoint {endpoint.name!r} has two live secrets{until}; revoke the older one first, or force it"
        raise Conflict(message)
    secret = _new_secret(noise)
    newest = SecretRef(sealed=seal(master_keys, endpoint.holder("secrets"), secret))
    kept = (newest, *endpoint.secrets[:1]) if overlap else (newest,)
    until_ = int(now + overlap) if len(kept) > 1 else None
    return Enlisted(msgspec.structs.replace(endpoint, secrets=kept, overlap_until=until_), secret)


def revoke_endpoint(endpoint: EndpointSettings, now: float) -> EndpointSettings:
    """The endpoint with its newest secret alone. Raises Conflict when no older one is live."""
    if count_live(endpoint, now) < MOST_SECRETS:
        message = f"endpoint {endpoint.name!r} has no older secret that is live"
        raise Conflict(message)
    return msgspec.structs.replace(endpoint, secrets=endpoint.secrets[:1], overlap_until=None)


def count_live(endpoint: EndpointSettings, now: float) -> int:
    """How many secrets sign at this time (unix seconds)."""
    over = endpoint.overlap_until is not None and now >= endpoint.overlap_until
    return len(endpoint.secrets[:1] if over else endpoint.secrets)


def _new_secret(noise: Noise) -> str:
    return "whsec_" + base64.b64encode(noise(SECRET_BYTES)).decode()
