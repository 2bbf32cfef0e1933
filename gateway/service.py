"""What every door shares: an app is found, its request verified and decided, its event stored with the runs it starts."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from gateway.apps import LiveApp
from gateway.challenges import META, SLACK, Challenge, answer_subscription, find_challenge
from gateway.contents import stored_values
from gateway.decisions import NO_COSTS, Decider, Directory
from gateway.errors import Conflict, Forbidden, MethodNotAllowed, PaymentRequired, RateLimited, Unavailable
from gateway.events import Acceptable, new_event_id, parse_body
from gateway.proving import Mediator, Prover
from gateway.responses import Reply, Response
from gateway.signatures import Request


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


class Started(msgspec.Struct, frozen=True):
    """A run that an event started, or joined; or, `skipped`, the run that was in its way, with its state then."""

    run_id: int
    workflow_id: int | None
    status: str = "pending"
    skipped: bool = False


class Receipt(msgspec.Struct, frozen=True):
    """What became of a verified event: the runs it started, now or when it came first; none when nothing matched.

    `parked` is one that would have started runs, but too deep in a chain. `reply` is the app's own answer, or why it
    can't be given.
    """

    event_id: str
    runs: tuple[Started, ...]
    known: bool
    direct: bool
    parked: bool = False
    reply: Reply | str | None = None

    @property
    def outcome(self) -> str:
        """In a word, whichever time it came."""
        if not self.runs:
            return "parked" if self.parked else "ignored"
        return "skipped" if all(run.skipped for run in self.runs) else "accepted"


class Service:
    """Judges requests and stores what they start. Time and chance are handed in."""

    def __init__(
        self,
        directory: Directory,
        storage: Storage,
        adapters: Mediator | None = None,
        *,
        costs: Mapping[str, int] = NO_COSTS,
        max_depth: int = 16,
        clock: Callable[[], float] = time.time,
        noise: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._directory = directory
        self._storage = storage
        self._prover = Prover(adapters)
        self._decider = Decider(directory, costs, max_depth)
        self._clock = clock
        self._noise = noise

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

    def greet(self, app: LiveApp, query: str) -> Challenge:
        """Answer what Meta asks by GET. Raises Forbidden, or MethodNotAllowed where the app's sender never asks."""
        if app.sender not in META and app.app.verify_token is None:
            message = "events are posted here"
            raise MethodNotAllowed(message, allow="POST")
        challenge = None if app.problem is not None else answer_subscription(app.verify_token, query)
        if challenge is None:
            message = "this challenge does not hold this app's verify token"
            raise Forbidden(message, reason="bad_verify_token")
        return challenge

    async def accept(self, app: LiveApp, request: Request) -> Receipt | Challenge:
        """Verify, decide and store one request. Nothing is parsed before its bytes are verified.

        A challenge is given back and not stored. Raises Unauthorized, BadRequest, Unprocessable, Conflict or
        Unavailable; then nothing was started.
        """
        now = self._clock()
        proof = await self._prover.prove(app, request, now)
        if isinstance(proof, Challenge):
            return proof
        if app.sender == SLACK and (challenge := find_challenge(parse_body(request.body))):
            return challenge
        event = self._decider.decide(app, proof, request, new_event_id(now, self._noise(8)))
        stored = await self._storage.store(event)
        return self._answer(app, event, stored)

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
        receipt = Receipt(stored.event_id, tuple(runs), stored.outcome == "known", app.direct, parked)
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
        raise Conflict(message)
