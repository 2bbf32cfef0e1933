"""Who sent a request, and why that is believed: by the app's scheme, or by the word of its adapter."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from gateway.apps import LiveApp
from gateway.challenges import Challenge
from gateway.errors import Unauthorized, Unavailable
from gateway.refused import read_signed_time
from gateway.signatures import PRESETS, Request, Scheme, Verdict, verify
from gateway.verifiers.fetched import find_address


class Mediator(Protocol):
    """Who verifies and parses for the apps that have an adapter."""

    async def read(self, app: LiveApp, request: Request) -> Challenge | dict[str, Any]: ...


class KeyFinder(Protocol):
    """Who fetches the keys of senders that serve them."""

    async def find(self, kind: str, address: str) -> str:
        """The key at this address, in PEM. Raises Unavailable when it can't be had."""
        ...


class Proof(msgspec.Struct, frozen=True):
    """Why a request is believed: a scheme and which secret, or an adapter, and the message it made of it.

    `signed_at` is when its headers say it was signed, `age` how long ago that is (seconds).
    """

    scheme: Scheme
    kind: str
    secret: int | None = None
    message: dict[str, Any] | None = None
    signed_at: float | None = None
    age: float | None = None


class Prover:
    """Asks for proof of each request. Nothing of one is parsed before."""

    def __init__(self, adapters: Mediator | None = None, keys: KeyFinder | None = None) -> None:
        self._adapters = adapters
        self._keys = keys

    async def prove(self, app: LiveApp, request: Request, now: float) -> Proof | Challenge:
        """The proof that `request` is this app's, `now` being Unix seconds; or a challenge that its adapter answered.

        Raises Unauthorized with `details["reason"]` of the verdict, and Unavailable where nobody could judge.
        """
        if app.problem is not None:
            raise Unauthorized(reason="not_configured")
        if app.adapter is not None:
            return await self._mediate(app, request)
        if app.scheme is None:
            raise Unauthorized(reason="not_configured")
        secrets = app.secrets_at(now) if app.secrets else await self._fetch_key(app.scheme, request)
        verdict = verify(app.scheme, secrets, request, now)
        if not verdict.valid:
            raise Unauthorized(reason=verdict.reason)
        signed = read_signed_time(app.scheme, request, looks_inside=False)
        age = None if signed is None else round(now - signed, 3)
        # A fetched key, and the token of a URL, are none of the app's `secrets`.
        secret = verdict.secret if app.secrets and not app.only_by_token else None
        return Proof(app.scheme, app.scheme.kind, secret, signed_at=signed, age=age)

    async def _fetch_key(self, scheme: Scheme, request: Request) -> tuple[str, ...]:
        """The key of a sender that serves it, where the app has pinned none. Nothing is fetched for a foreign address."""
        if not scheme.fetches_keys:
            return ()
        address = find_address(scheme, request)
        if isinstance(address, Verdict):
            raise Unauthorized(reason=address.reason)
        if self._keys is None:
            raise Unavailable(reason="no_keys")
        return (await self._keys.find(scheme.kind, address),)

    async def _mediate(self, app: LiveApp, request: Request) -> Proof | Challenge:
        if self._adapters is None:
            raise Unavailable(reason="no_adapters")
        found = await self._adapters.read(app, request)
        return found if isinstance(found, Challenge) else Proof(PRESETS["none"], "adapter", message=found)
