"""What every door shares: an app is found, its request verified and decided, its event stored with the runs it starts."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from gateway.apps import App, LiveApp
from gateway.browsers import FormTokens
from gateway.challenges import Challenge, Offer
from gateway.contents import stored_values
from gateway.decisions import NO_COSTS, Decider, Directory
from gateway.errors import (
    Conflict,
    Forbidden,
    MethodNotAllowed,
    PaymentRequired,
    RateLimited,
    Unauthorized,
    Unavailable,
)
from gateway.events import Acceptable, new_event_id
from gateway.handshakes import Handshake
from gateway.handshakes.base import are_same
from gateway.proving import KeyFinder, Mediator, Proof, Prover
from gateway.responses import Reply, Response
from gateway.signatures import Request, verify


class Stored(Protocol):
    """What the store answered for one event."""

    @property
    def outcome(self) -> str: ...

    @property
    def event_id(self) -> str: ...

    @property
    def run_ids(self) -> tuple[int, ...]: ...

    @property
    def skipped(self) -> tuple[tuple[int, int, str], ...]: ...

    @property
    def wait_ms(self) -> int: ...


class Storage(Protocol):
    """Where events are stored."""

    async def store(self, event: Acceptable) -> Stored: ...


class Visitor(Protocol):
    """Who calls the addresses that a handshake is confirmed by."""

    async def visit(self, url: str) -> None: ...


class Keeper(Protocol):
    """Who keeps the secret that an app's sender hands over; False when another one came before."""

    async def pair_app(self, app: App, secret: str) -> bool: ...


class Registrar(Protocol):
    """Who gives an event its place among those of its app, for the sender to keep as a signed receipt."""

    async def certify(self, app_id: int, event_id: str, body: bytes) -> str: ...


class Started(msgspec.Struct, frozen=True):
    """A run that an event started, or joined; or, `skipped`, the run that was in its way, with its state then."""

    run_id: int
    workflow_id: int | None
    status: str = "pending"
    skipped: bool = False


class Receipt(msgspec.Struct, frozen=True):
    """What became of a verified event: the runs it started, now or when it came first; none when nothing matched.

    `parked` is one that would have started runs, but too deep in a chain. `reply` is the app's own answer, or why it
    can't be given; `challenge` the answer that its sender wants; `page` is where the browser that sent a form goes on to.
    """

    event_id: str
    runs: tuple[Started, ...]
    known: bool
    direct: bool
    parked: bool = False
    reply: Reply | str | None = None
    challenge: Challenge | None = None
    page: str | None = None
    slip: str | None = None
    """What its sender may keep as a proof, where the app gives signed receipts."""

    @property
    def outcome(self) -> str:
        """In a word, whichever time it came."""
        if self.challenge is not None and self.challenge.record is not None:
            return "challenge"
        if not self.runs:
            return "parked" if self.parked else "ignored"
        return "skipped" if all(run.skipped for run in self.runs) else "accepted"


def hear_nobody(_: str, __: float) -> None:
    """For those who do not listen for silence."""


class Service:
    """Judges requests and stores what they start. Time and chance are handed in; `note` is told each secret's use."""

    def __init__(
        self,
        directory: Directory,
        storage: Storage,
        adapters: Mediator | None = None,
        keys: KeyFinder | None = None,
        *,
        visitor: Visitor | None = None,
        keeper: Keeper | None = None,
        registrar: Registrar | None = None,
        costs: Mapping[str, int] = NO_COSTS,
        max_depth: int = 16,
        tokens: FormTokens | None = None,
        hear: Callable[[str, float], None] = hear_nobody,
        clock: Callable[[], float] = time.time,
        noise: Callable[[int], bytes] = os.urandom,
        note: Callable[[str, float], None] = lambda _name, _now: None,
    ) -> None:
        self._directory = directory
        self._storage = storage
        self._prover = Prover(adapters, keys)
        self._visitor = visitor
        self._keeper = keeper
        self._registrar = registrar
        self._decider = Decider(directory, costs, max_depth, tokens)
        self._hear = hear
        self._clock = clock
        self._noise = noise
        self._note = note

    def open_door(self, name: str) -> LiveApp:
        """The app that may receive under this id or token. Raises NotFound or Forbidden."""
        app = self._directory.app(name)
        if app.app.disabled:
            message = "this app is disabled"
            raise Forbidden(message, reason="disabled")
        if "receive" not in app.app.capabilities:
            message = "this app does not have the capability `receive`"
            raise Forbidden(message, reason="no_receive")
        return app

    def greet(self, app: LiveApp, request: Request) -> Challenge:
        """Answer what a sender asks by GET, HEAD or OPTIONS.

        Raises Forbidden or NotFound for a no, and MethodNotAllowed where the app's sender never asks so.
        """
        takes = () if app.handshake is None else app.handshake.methods
        if app.handshake is not None and request.method in takes:
            challenge = app.handshake.greet(request)
            if isinstance(challenge, Challenge):
                if app.problem is not None:
                    raise Forbidden(reason="not_configured")
                return challenge
        message = "events are posted here"
        raise MethodNotAllowed(message, allow=", ".join((*app.admission.methods, *takes)))

    async def accept(self, app: LiveApp, request: Request) -> Receipt | Challenge:
        """Verify, decide and store one request. Nothing is parsed before its bytes are verified.

        A challenge is given back and not stored. Raises Unauthorized, BadRequest, Unprocessable, Spam, Conflict or
        Unavailable; then nothing was started.
        """
        now = self._clock()
        handshake = app.handshake
        if handshake is not None and handshake.asks_early:
            challenge = await self._meet(app, handshake, request, now)
            if challenge is not None:
                return challenge
        proof = await self._prover.prove(app, request, now)
        if isinstance(proof, Challenge):
            return proof
        if proof.secret is not None:
            self._note(app.uses[proof.secret], now)
        if handshake is not None:
            secret = None if proof.secret is None else app.secrets_at(now)[proof.secret]
            if challenge := handshake.reply(request, secret):
                return await self._conclude(app, proof, request, challenge, now)
        if app.app.expect_every is not None:
            self._hear(str(app.id), now)
        event = self._decider.decide(app, proof, request, new_event_id(now, self._noise(8)), now)
        stored = await self._storage.store(event)
        receipt = self._answer(app, event, stored)
        if app.app.receipts:
            receipt = msgspec.structs.replace(receipt, slip=await self._certify(app, stored.event_id, request.body))
        if handshake is not None and handshake.thanks is not None:
            return msgspec.structs.replace(receipt, challenge=handshake.thanks)
        return receipt

    async def _certify(self, app: LiveApp, event_id: str, body: bytes) -> str:
        """The signed receipt of a stored event. Without one it is no 2xx: the sender comes again, and it is known then."""
        if self._registrar is None:
            raise Unavailable(reason="no_receipts")
        return await self._registrar.certify(app.id, event_id, body)

    async def _meet(self, app: LiveApp, handshake: Handshake, request: Request, now: float) -> Challenge | None:
        """The answer to what nobody signed, if it is a handshake: at most it hands over the secret that is waited for."""
        if app.problem is not None and not app.waiting:
            return None
        found = handshake.greet(request)
        return await self._pair(app, found, request, now) if isinstance(found, Offer) else found

    async def _pair(self, app: LiveApp, offer: Offer, request: Request, now: float) -> Challenge:
        """Trust the first who hands over a secret, at the address that only the sender was told. Raises Unauthorized."""
        if any(are_same(offer.secret, secret) for secret in app.secrets):
            return offer.challenge  # it comes again: the first answer was lost
        if not app.waiting or self._keeper is None:
            raise Unauthorized(reason="already_paired")
        # Ids can be guessed.
        if not app.app.token or request.url.partition("?")[0].rpartition("/")[2] != app.app.token:
            raise Unauthorized(reason="pairing_needs_token")
        if app.scheme is not None and request.values(app.scheme.plan.header):
            verdict = verify(app.scheme, (offer.secret,), request, now)
            if not verdict.valid:
                raise Unauthorized(reason=verdict.reason)
        if not await self._keeper.pair_app(app.app, offer.secret):
            raise Unauthorized(reason="already_paired")
        return offer.challenge

    async def _conclude(
        self, app: LiveApp, proof: Proof, request: Request, challenge: Challenge, now: float
    ) -> Receipt | Challenge:
        """Do what a verified handshake asks for; only then it is kept, where it is, and answered."""
        if challenge.follow is not None:
            if self._visitor is None:
                raise Unavailable(reason="no_visitor")
            await self._visitor.visit(challenge.follow)
        if challenge.record is None:
            return challenge
        event_id = new_event_id(now, self._noise(8))
        stored = await self._storage.store(self._decider.note(app, proof, request, event_id, challenge.record))
        insist_on_stored(stored)
        return Receipt(stored.event_id, (), stored.outcome == "known", app.direct, challenge=challenge)

    def _answer(self, app: LiveApp, event: Acceptable, stored: Stored) -> Receipt:
        insist_on_stored(stored)
        requests = event.requests
        # A known event's runs are those of its first coming; the rules may have changed since.
        same = len(requests) == len(stored.run_ids) + len(stored.skipped)
        rivals = {place: (run_id, state) for place, run_id, state in stored.skipped}
        started = iter(stored.run_ids)
        runs = []
        for place in range(len(stored.run_ids) + len(rivals)):
            workflow_id = requests[place].workflow_id if same else None
            if place in rivals:
                run_id, state = rivals[place]
                runs.append(Started(run_id, workflow_id, state, skipped=True))
            else:
                runs.append(Started(next(started), workflow_id))
        # A direct event whose first coming was parked started nothing, whatever the limit is by now.
        parked = not runs and (app.direct or event.head.decision.outcome == "parked")
        receipt = Receipt(stored.event_id, tuple(runs), stored.outcome == "known", app.direct, parked, page=event.page)
        if app.response is None:
            return receipt
        return msgspec.structs.replace(receipt, reply=compose_reply(app.response, app, event, receipt))


def compose_reply(response: Response, app: LiveApp, event: Acceptable, receipt: Receipt) -> Reply | str:
    """The app's own answer to an event that is stored; or why the plain one has to do. Never raises."""
    try:
        runs = [{"run_id": run.run_id, "workflow_id": run.workflow_id, "status": run.status} for run in receipt.runs]
        return response.compose(
            {
                "event": stored_values(receipt.event_id, event.head, event.body),
                "app": {"id": app.id, "name": app.app.name},
                "runs": runs,
                "outcome": receipt.outcome,
            }
        )
    # The event is stored already: whatever goes wrong now must not look as if it were not.
    except Exception as error:
        return type(error).__name__


def insist_on_stored(stored: Stored) -> None:
    """Raise Unavailable, PaymentRequired, RateLimited or Conflict when the store kept nothing."""
    if stored.outcome == "full":
        raise Unavailable(reason="queue_full")
    if stored.outcome == "poor":
        raise PaymentRequired
    if stored.outcome == "limited":
        seconds = math.ceil(stored.wait_ms / 1000)
        message = f"this workflow's rate_limit takes the next one in {seconds} s; nothing was stored"
        raise RateLimited(message, retry_after=seconds)
    if stored.outcome == "conflict":
        message = f"this key came before with another body, as event {stored.event_id}"
        raise Conflict(message, event_id=stored.event_id)
