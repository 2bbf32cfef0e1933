"""What pages with a form are told: CORS, redirects, and the token that a page fetches when it is opened.

No answer carries credentials, and none is HTML: a browser that was sent by a form goes on to a listed page, and
whoever else asks (a page's script) gets JSON.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from starlette.types import Receive, Scope, Send

from gateway.apps import LiveApp
from gateway.browsers import FormTokens, OriginRefused, WebForm
from gateway.errors import GatewayError, MethodNotAllowed, NotFound
from gateway.service import Service
from gateway.web.gate import Gate, values_of

Said = dict[str, Any] | bytes
"""What is answered: JSON, or what has its own content type among the headers."""
Answer = tuple[int, Said, dict[str, str]]
"""Status, words and headers."""
RECEIVED = {"status": "received"}
NONCE_BYTES = 12
PREFLIGHT_SECONDS = "600"
TAKEN_HEADERS = "content-type, idempotency-key"
log = structlog.get_logger()


def cors_headers(form: WebForm, scope: Scope) -> dict[str, str]:
    """What lets a script of a listed page read the answer; never credentials."""
    if not form.origins:
        return {}
    given = values_of(scope, b"origin")
    if len(given) != 1 or given[0] not in form.origins:
        return {"vary": "Origin"}
    exposed = {"access-control-expose-headers": "retry-after"}
    return {"access-control-allow-origin": given[0], "vary": "Origin"} | exposed


def answer_preflight(form: WebForm, scope: Scope, method: str) -> Answer:
    """May a page's script send that? Raises OriginRefused, and MethodNotAllowed for what asks no such question."""
    if not values_of(scope, b"access-control-request-method"):
        message = f"forms are sent here by {method}"
        raise MethodNotAllowed(message, allow=method)
    form.check_origin(values_of(scope, b"origin"))
    headers = {
        "access-control-allow-methods": method,
        "access-control-allow-headers": TAKEN_HEADERS,
        "access-control-max-age": PREFLIGHT_SECONDS,
    }
    return 204, b"", headers


def answer_form(page: str | None, scope: Scope) -> Answer:
    """What was sent is received; a robot is told the same."""
    if page is not None and _is_browsing(scope):
        return _go_to(page)
    return 200, RECEIVED, {}


def refuse_form(form: WebForm, error: GatewayError, scope: Scope) -> Answer | None:
    """A browser goes on to the form's error page, if it has one; other people's pages don't send it there."""
    page = None if isinstance(error, OriginRefused) else form.error_page(error.code)
    return _go_to(page) if page is not None and _is_browsing(scope) else None


def _go_to(page: str) -> Answer:
    return 303, b"", {"location": page, "cache-control": "no-store"}


def _is_browsing(scope: Scope) -> bool:
    """Whether a person waits for a page; a script that would follow a redirect to another origin could not read it."""
    return scope["method"] == "POST" and any("text/html" in value.lower() for value in values_of(scope, b"accept"))


class TokenDoor:
    """`GET /api/v1/webhooks/{app}/form-token`: a token for a page that is opened now. Nothing is stored."""

    def __init__(
        self,
        service: Service,
        gate: Gate,
        tokens: FormTokens,
        refusal: Callable[[GatewayError], tuple[int, dict[str, Any], dict[str, str]]],
        *,
        clock: Callable[[], float] = time.time,
        noise: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._service = service
        self._gate = gate
        self._tokens = tokens
        self._refusal = refusal
        self._clock = clock
        self._noise = noise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: LiveApp | None = None
        try:
            app = self._service.open_door(scope["path_params"]["app"])
            status, words, headers = await self._answer(app, scope)
        except GatewayError as error:
            status, words, headers = self._refusal(error)
        name = "" if app is None else app.app.name
        log.info("form token", app=name, status=status)
        if app is not None and app.form is not None:
            headers = headers | cors_headers(app.form, scope)
        await _send_json(send, status, words, headers | {"cache-control": "no-store"})

    async def _answer(self, app: LiveApp, scope: Scope) -> Answer:
        form = app.form
        if form is None or form.token is None:
            message = "this app's forms need no token"
            raise NotFound(message)
        self._gate.check_network(app, scope)
        if scope["method"] == "OPTIONS":
            return answer_preflight(form, scope, "GET")
        if scope["method"] != "GET":
            message = "a form's token is fetched by GET"
            raise MethodNotAllowed(message, allow="GET")
        # A page's own server, which puts the token into the page, sends no Origin.
        if origins := values_of(scope, b"origin"):
            form.check_origin(origins)
        await self._gate.count(app)
        issued = self._tokens.issue(form, app.id, self._clock(), self._noise(NONCE_BYTES))
        return 200, msgspec.to_builtins(issued), {}


async def _send_json(send: Send, status: int, words: Said, headers: dict[str, str]) -> None:
    body = msgspec.json.encode(words) if isinstance(words, dict) else words
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 204:
        raw = raw[:-2]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
