"""The webhook door: bytes in, verified and stored, an answer out. Plain ASGI, for it is the busiest place of all."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

import msgspec
import structlog
from starlette.types import Receive, Scope, Send

from gateway.apps import LiveApp
from gateway.browsers import Spam
from gateway.challenges import Challenge
from gateway.errors import GatewayError, Timeout, TooLarge, Unavailable
from gateway.metrics import Metrics
from gateway.refused import Sighting
from gateway.responses import BODILESS, Reply
from gateway.service import Receipt, Service
from gateway.signatures import Request
from gateway.store.refusals import Refusals
from gateway.web.bodies import ClientGone, read_body, send_and_close
from gateway.web.gate import Gate
from gateway.web.pages import Answer, Said, answer_form, answer_preflight, cors_headers, refuse_form

JSON = (b"content-type", b"application/json")
SLIP = "gateway-receipt"
log = structlog.get_logger()
ASKING = ("GET", "HEAD", "OPTIONS")
_encoder = msgspec.json.Encoder()


class Limits(msgspec.Struct, frozen=True):
    """How much of a body is read, and for how long (seconds)."""

    max_body: int
    body_timeout: float


class Words(Protocol):
    """How a dialect answers at the webhook door."""

    def answer(self, receipt: Receipt) -> tuple[int, dict[str, Any]]: ...

    def refusal(self, error: GatewayError) -> tuple[int, dict[str, Any], dict[str, str]]: ...


class Receiver:
    """`/api/v1/webhooks/{app}`, where `{app}` is an id or a token: POST for events; GET, HEAD and OPTIONS for what the
    app's sender asks by them.
    """

    def __init__(
        self, service: Service, words: Words, metrics: Metrics, limits: Limits, refusals: Refusals, gate: Gate
    ) -> None:
        self._gate = gate
        self._service = service
        self._words = words
        self._metrics = metrics
        self._limits = limits
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        visit = _Visit()
        words: Said
        try:
            status, words, headers = self._answer(await self._take(scope, receive, visit), visit, scope)
        except ClientGone:
            self._note(scope, visit, 499, "client_gone", began)
            return
        except GatewayError as error:
            visit.error = error
            visit.reason = str(error.details.get("reason") or error.code)
            status, words, headers = self._refuse(error, visit, scope)
        except asyncio.CancelledError:
            # This process stops and can't wait for the store any longer: stored or not, the sender must come again.
            visit.reason = "stopping"
            status, words, headers = self._refuse(Unavailable(), visit, scope)
        except Exception:
            # Whatever went wrong is our fault; the sender must come again.
            log.exception("request failed")
            visit.reason = "internal"
            status, words, headers = self._refuse(Unavailable(), visit, scope)
        if visit.receipt is not None and visit.receipt.slip is not None and status < 400:
            headers = headers | {SLIP: visit.receipt.slip}
        if visit.app is not None and visit.app.form is not None:
            headers = headers | cors_headers(visit.app.form, scope)
        await _send(receive, send, status, words, headers, unread=visit.unread)
        self._note(scope, visit, status, visit.reason, began)

    def _answer(self, outcome: Receipt | Challenge | Answer, visit: _Visit, scope: Scope) -> Answer:
        if isinstance(outcome, tuple):
            return outcome
        if isinstance(outcome, Challenge):
            return outcome.status, outcome.text.encode(), _headers_of(outcome)
        if visit.app is not None and visit.app.form is not None:
            return answer_form(outcome.page, scope)
        if isinstance(outcome.reply, Reply):
            return outcome.reply.status or self._words.answer(outcome)[0], outcome.reply.body, outcome.reply.headers
        if outcome.reply is not None:
            log.warning("an app's own answer can't be given", event_id=outcome.event_id, reason=outcome.reply)
        if outcome.challenge is not None:
            return self._answer(outcome.challenge, visit, scope)
        return *self._words.answer(outcome), {}

    def _refuse(self, error: GatewayError, visit: _Visit, scope: Scope) -> Answer:
        visit.refused = True
        visit.unread = isinstance(error, TooLarge | Timeout)
        form = None if visit.app is None else visit.app.form
        shown = None if form is None else refuse_form(form, error, scope)
        return shown or self._words.refusal(error)

    async def _take(self, scope: Scope, receive: Receive, visit: _Visit) -> Receipt | Challenge | Answer:
        app = visit.app = self._service.open_door(scope["path_params"]["app"])
        if scope["method"] in ASKING:
            return self._greet(app, scope, visit)
        await self._gate.admit(app, scope)
        cap = app.app.max_body or self._limits.max_body
        body = await read_body(scope, receive, cap, self._limits.body_timeout)
        request = Request.from_asgi(scope["method"], app.url_of(_url(scope)), scope["headers"], body)
        visit.request = request
        try:
            receipt = await self._service.accept(app, request)
        except Spam as spam:
            visit.refused, visit.reason = True, "spam"
            return answer_form(spam.page, scope)
        if isinstance(receipt, Challenge):
            visit.reason = "challenge"
            return _noted(app, receipt)
        visit.receipt = receipt
        if receipt.challenge is not None:
            _noted(app, receipt.challenge)
        visit.reason = "duplicate" if receipt.known else receipt.outcome
        return receipt

    def _greet(self, app: LiveApp, scope: Scope, visit: _Visit) -> Challenge | Answer:
        """What a browser or a sender asks before it sends anything."""
        self._gate.check_network(app, scope)
        if scope["method"] == "OPTIONS" and app.form is not None:
            visit.reason = "preflight"
            return answer_preflight(app.form, scope, "POST")
        visit.reason = "challenge"
        asked = Request.from_asgi(scope["method"], _url(scope), scope["headers"], b"")
        return _noted(app, self._service.greet(app, asked))

    def _note(self, scope: Scope, visit: _Visit, status: int, reason: str, began: float) -> None:
        seconds = time.perf_counter() - began
        app = "" if visit.app is None else visit.app.app.name
        self._metrics.count_request(app, status, reason)
        receipt = visit.receipt
        if receipt is None:
            if visit.refused or status >= 400 or reason == "challenge":
                self._refusals.note(self._sighting(scope, visit, status, reason))
            log.info("request", app=app, status=status, reason=reason, ms=round(seconds * 1000, 1))
            return
        self._metrics.observe_accept(seconds)
        log.info(
            "request",
            app=app,
            status=status,
            reason=reason,
            event_id=receipt.event_id,
            run_ids=[run.run_id for run in receipt.runs],
            ms=round(seconds * 1000, 1),
        )

    def _sighting(self, scope: Scope, visit: _Visit, status: int, reason: str) -> Sighting:
        return Sighting(
            app=visit.app,
            outcome="refused" if visit.refused or status >= 400 else "handshake",
            status=status,
            reason=reason,
            error=visit.error,
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            peer=self._gate.peer_of(scope),
            headers=scope["headers"],
            request=visit.request,
        )


class _Visit:
    """What is known of a request by the time it is logged."""

    __slots__ = ("app", "error", "reason", "receipt", "refused", "request", "unread")

    def __init__(self) -> None:
        self.app: LiveApp | None = None
        self.request: Request | None = None
        self.error: GatewayError | None = None
        self.receipt: Receipt | None = None
        self.refused = False
        self.unread = False
        self.reason = "internal"


def _noted(app: LiveApp, challenge: Challenge) -> Challenge:
    if challenge.note is not None:
        log.warning("handshake", app=app.app.name, note=challenge.note)
    return challenge


def _headers_of(challenge: Challenge) -> dict[str, str]:
    media = {"content-type": challenge.media} if challenge.text else {}
    return {"x-content-type-options": "nosniff"} | media | dict(challenge.headers)


def _url(scope: Scope) -> str:
    # Never the Host header's word for it: only the path and the query as they came.
    query = scope["query_string"].decode("latin-1")
    path: str = scope["path"]
    return path + ("?" + query if query else "")


async def _send(
    receive: Receive, send: Send, status: int, words: Said, headers: dict[str, str], *, unread: bool
) -> None:
    raw: list[tuple[bytes, bytes]] = []
    if isinstance(words, bytes):
        body = words
    else:
        body, raw = _encoder.encode(words), [JSON]
    if status not in BODILESS:
        raw.append((b"content-length", b"%d" % len(body)))
    raw += [(name.encode(), value.encode()) for name, value in headers.items()]
    if unread:
        await send_and_close(receive, send, status, raw, body)
        return
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
