"""Who calls the API: a token from the request's headers, judged in one place for every route."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from gateway.control import app_names as app_names
from gateway.control import run_subject as run_subject
from gateway.errors import Forbidden, Unauthorized
from gateway.tokens import NOTHING, Subject, Token, matches, read_id
from gateway.workflows import Published

BEARER = "bearer "


class Tokens(Protocol):
    """The tokens at hand, by id."""

    tokens: dict[str, Token]


class Caller(msgspec.Struct, frozen=True):
    """Somebody with a valid token."""

    token: Token

    def require(self, scope: str, subject: Subject = NOTHING) -> None:
        """Raise Forbidden unless the token may do this here."""
        if not self.token.may(scope, subject):
            message = f"this token may not do that; it takes the scope {scope}"
            raise Forbidden(message)

    def sees(self, scope: str, subject: Subject) -> bool:
        """Whether the token may do this here; for lists, which leave out what it may not."""
        return self.token.may(scope, subject)


def workflow_subject(workflow: Published) -> Subject:
    """What a token must be good for to touch this workflow."""
    return Subject(workflow=frozenset({str(workflow.id), workflow.name}))


def named_subject(name: str, workflows: Iterable[Published]) -> Subject:
    """What a token must be good for to publish a workflow of this name, which may be a new one."""
    known = next((each for each in workflows if each.name == name), None)
    return Subject(workflow=frozenset({name})) if known is None else workflow_subject(known)


Headers = Iterable[tuple[bytes, bytes]]


class Credential(msgspec.Struct, frozen=True):
    """Where a dialect looks for a token, and how OpenAPI says so: one security scheme for each place.

    `challenge` is what a 401 names in `WWW-Authenticate`; None where HTTP has no name for the scheme.
    """

    read: Callable[[Headers], str | None]
    schemes: tuple[dict[str, Any], ...]
    challenge: str | None = None

    def __call__(self, headers: Headers) -> str | None:
        return self.read(headers)


def bearer(*names: bytes) -> Credential:
    """Read a Bearer token from any of these headers. Source: RFC 6750, section 2.1."""

    def read(headers: Headers) -> str | None:
        found = [value.decode("latin-1") for name, value in headers if name in names]
        if len(found) != 1 or found[0][: len(BEARER)].lower() != BEARER:
            return None
        return found[0][len(BEARER) :].strip()

    return Credential(read, tuple(_bearer_scheme(name.decode()) for name in names), "Bearer")


def plain(name: bytes) -> Credential:
    """Read a token that is the whole value of a header, such as `x-api-key`."""

    def read(headers: Headers) -> str | None:
        found = [value.decode("latin-1") for header, value in headers if header == name]
        return found[0].strip() if len(found) == 1 else None

    return Credential(read, ({"type": "apiKey", "in": "header", "name": name.decode()},))


def _bearer_scheme(name: str) -> dict[str, Any]:
    if name == "authorization":
        return {"type": "http", "scheme": "bearer"}
    return {"type": "apiKey", "in": "header", "name": name, "description": "`Bearer ` and the token"}


class Gatekeeper:
    """Turns a token's text into a Caller; `note` is told each good use."""

    def __init__(
        self,
        tokens: Tokens,
        clock: Callable[[], float] = time.time,
        note: Callable[[str, float], None] = lambda _token_id, _now: None,
    ) -> None:
        self._tokens = tokens
        self._clock = clock
        self._note = note

    def identify(self, text: str | None) -> Caller:
        """The caller. Raises Unauthorized, in the same words for a token that is missing, mistyped, unknown or ended."""
        token_id = None if text is None else read_id(text)
        token = None if token_id is None else self._tokens.tokens.get(token_id)
        now = self._clock()
        if text is None or token is None or not matches(text, token, now):
            message = "a valid API token is needed; make one with `gateway token create`"
            raise Unauthorized(message)
        self._note(token.id, now)
        return Caller(token)
