"""What every door shares: an app is found, its request verified and decided, its event stored with the runs it starts."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import msgspec

from gateway.apps import LiveApp
from gateway.callbacks import decode_secret
from gateway.challenges import META, SLACK, Challenge, answer_subscription, find_challenge
from gateway.credits import Payment, cost_of
from gateway.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    MethodNotAllowed,
    PaymentRequired,
    RateLimited,
    Unauthorized,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from gateway.events import (
    KEPT_HEADERS,
    Acceptable,
    Decision,
    Head,
    Verdict,
    dedupe_keys,
    event_values,
    hash_body,
    new_event_id,
    parse_body,
)
from gateway.flow import Flow, FlowControl, flow_values
from gateway.hops import HEADER as HOP
from gateway.hops import take_over
from gateway.nesting import MOST_LEVELS, is_too_deep
from gateway.runs import RunRequest
from gateway.signatures import PRESETS, Request, Scheme, delivery_id, event_type, verify
from gateway.starts import too_deep
from gateway.triggers import DirectRequest, start_by_triggers, start_directly
from gateway.workflows import Published, Workflow

Read = TypeVar("Read")
TOO_DEEP = f"the body is JSON nested too deeply: more than {MOST_LEVELS} levels"
BYTE = re.compile(r"\(byte (\d+)\)")
JSON_TYPE = re.compile(r"application/(json|[\w.+-]+\+json)\s*(;.*)?", re.IGNORECASE)

NO_COSTS: Mapping[str, int] = MappingProxyType({})

_direct = msgspec.json.Decoder(DirectRequest)
_anything = msgspec.json.Decoder()


class Directory(Protocol):
    """Where apps and workflows are looked up, in memory."""

    workflows: dict[str, Published]

    def app(self, name: str) -> LiveApp: ...

    def definition_at_hand(self, digest: str) -> Workflow | None: ...


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


class Mediator(Protocol):
    """Who verifies and parses for the apps that have an adapter."""

    async def read(self, app: LiveApp, request: Request) -> Challenge | dict[str, Any]: ...


class Proof(msgspec.Struct, frozen=True):
    """Why a request is believed: a scheme and which secret, or an adapter, and the message it made of it."""

    scheme: Scheme
    kind: str
    secret: int | None = None
    message: dict[str, Any] | None = None


class Started(msgspec.Struct, frozen=True):
    """A run that an event started, or joined; or, `skipped`, the run that was in its way, with its state then."""

    run_id: int
    workflow_id: int | None
    status: str = "pending"
    skipped: bool = False


class Receipt(msgspec.Struct, frozen=True):
    """What became of a verified event: the runs it started, now or when it came first; none when nothing matched.

    `parked` is one that would have started runs, but too deep in a chain.
    """

    event_id: str
    runs: tuple[Started, ...]
    known: bool
    direct: bool
    parked: bool = False


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
        self._costs = costs
        self._max_depth = max_depth
        self._adapters = adapters
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
        if app.adapter is None:
            proof = self._prove(app, request, now)
            if app.sender == SLACK and (challenge := find_challenge(parse_body(request.body))):
                return challenge
        else:
            proven = await self._mediate(app, request)
            if isinstance(proven, Challenge):
                return proven
            proof = proven
        event = self._decide(app, proof, request, new_event_id(now, self._noise(8)))
        stored = await self._storage.store(event)
        return self._answer(app, event, stored)

    async def _mediate(self, app: LiveApp, request: Request) -> Proof | Challenge:
        if app.problem is not None:
            raise Unauthorized(reason="not_configured")
        if self._adapters is None:
            raise Unavailable(reason="no_adapters")
        found = await self._adapters.read(app, request)
        return found if isinstance(found, Challenge) else Proof(PRESETS["none"], "adapter", message=found)

    def _prove(self, app: LiveApp, request: Request, now: float) -> Proof:
        if app.scheme is None or app.problem is not None:
            raise Unauthorized(reason="not_configured")
        verdict = verify(app.scheme, app.secrets, request, now)
        if not verdict.valid:
            raise Unauthorized(reason=verdict.reason)
        return Proof(app.scheme, app.scheme.kind, verdict.secret)

    def _decide(self, app: LiveApp, proof: Proof, request: Request, event_id: str) -> Acceptable:
        scheme, body = proof.scheme, _read_body(app, proof, request)
        parsed = None if app.direct else body
        delivery, kind = delivery_id(scheme, request, parsed), event_type(scheme, request, parsed)
        headers = {name: value for name, value in request.headers if name in KEPT_HEADERS}
        values = _values(app, event_id, kind, delivery, headers, request.body, parsed)
        verdicts: list[Verdict] = []
        if isinstance(body, DirectRequest):
            requests = [start_directly(body, app.id, event_id, self._find)]
        else:
            requests, verdicts = start_by_triggers(app, event_id, values, self._find)
        flows = self._flows(
            requests, lambda: values or _whole_values(app, event_id, kind, delivery, headers, request.body, parsed)
        )
        keys = dedupe_keys(app, scheme, request, delivery, values)
        decision = Decision(
            outcome="accepted" if requests else "ignored", scheme=proof.kind, secret=proof.secret, triggers=verdicts
        )
        requests, decision = self._place(app, request, requests, decision)
        head = Head(
            app_id=app.id,
            type=kind,
            delivery_id=delivery,
            headers=headers,
            message=proof.message,
            decision=decision,
        )
        return Acceptable(
            id=event_id,
            body=request.body,
            body_hash=hash_body(request.body),
            keys=keys,
            head=head,
            requests=requests,
            flows=flows if requests else [],
            payment=self._payment(app, requests),
        )

    def _place(
        self, app: LiveApp, request: Request, requests: list[RunRequest], decision: Decision
    ) -> tuple[list[RunRequest], Decision]:
        """Put runs behind those of the chain that the request verifiably belongs to; too deep, none is started."""
        # Most requests belong to no chain, and this is on the way of all.
        if not request.values(HOP):
            return requests, decision
        secrets = (decode_secret(secret) for secret in (*app.secrets, app.callback_secret) if secret)
        hop, note = take_over(request, secrets)
        if note is not None:
            decision = msgspec.structs.replace(decision, hop=note)
        if hop is None or not requests:
            return requests, decision
        depth = hop.depth + 1
        if depth > self._max_depth:
            reason = too_deep(depth, self._max_depth, hop.root)
            return [], msgspec.structs.replace(decision, outcome="parked", reason=reason)
        return [msgspec.structs.replace(each, root=hop.root, depth=depth) for each in requests], decision

    def _flows(self, requests: list[RunRequest], values: Callable[[], dict[str, Any]]) -> list[Flow | None]:
        """What controls the flow of each run; nothing where no workflow says anything."""
        found = [self._directory.definition_at_hand(request.digest) for request in requests]
        if all(workflow is None or workflow.flow is None for workflow in found):
            return []
        known = values()
        return [
            _flow(workflow.flow, request, known) if workflow is not None and workflow.flow is not None else None
            for workflow, request in zip(found, requests, strict=True)
        ]

    def _payment(self, app: LiveApp, requests: list[RunRequest]) -> Payment | None:
        if app.app.credits is None or not requests:
            return None
        found = [self._directory.definition_at_hand(request.digest) for request in requests]
        cost = sum(cost_of(workflow.kinds, self._costs) for workflow in found if workflow is not None)
        return Payment(app.payer, app.app.credits, cost)

    def _find(self, name: str | int) -> tuple[Published, Workflow]:
        published = self._directory.workflows.get(str(name))
        workflow = None if published is None else self._directory.definition_at_hand(published.digest)
        if published is None or workflow is None:
            message = f"workflow_id: there is no workflow {name!r}"
            raise Unprocessable(message, path="workflow_id")
        return published, workflow

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
        return Receipt(stored.event_id, tuple(runs), stored.outcome == "known", app.direct, parked)


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


def _flow(control: FlowControl, request: RunRequest, known: Mapping[str, Any]) -> Flow:
    values = flow_values(request.input, request.task, request.metadata, known["app"], known["event"])
    return control.decide(values)


def check_media(request: Request) -> None:
    """Refuse content that is not plain JSON by its own headers."""
    encodings = [
        value for name, value in request.headers if name == "content-encoding" and value.strip().lower() != "identity"
    ]
    if encodings:
        message = f"content-encoding {encodings[0][:40]!r} is not accepted; send the body as it is"
        raise UnsupportedMedia(message)
    types = [value for name, value in request.headers if name == "content-type"]
    if len(types) != 1 or not JSON_TYPE.fullmatch(types[0].strip()):
        found = repr(types[0][:60]) if len(types) == 1 else f"given {len(types)} times"
        message = f"content-type {found} is not accepted here; send one application/json"
        raise UnsupportedMedia(message)


def read_direct(body: bytes) -> DirectRequest:
    """A run request from JSON. Raises as `read_as` does."""
    return read_as(_direct.decode, body)


def read_json(body: bytes) -> Any:
    """Any JSON. Raises as `read_as` does."""
    return read_as(_anything.decode, body)


def read_as(decode: Callable[[bytes], Read], body: bytes) -> Read:
    """JSON of a shape. Raises BadRequest with line and column, or Unprocessable with the field.

    Of a name that stands twice in one object the last counts, as in JavaScript and Python.
    """
    try:
        found = decode(body)
    except msgspec.ValidationError as error:
        raise _misshapen(error) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(body, error) from None
    if is_too_deep(body):
        raise BadRequest(TOO_DEEP)
    return found


def _misshapen(error: msgspec.ValidationError) -> Unprocessable:
    """Say which field of a JSON body is not what it should be."""
    what, _, where = str(error).partition(" - at `$")
    path = where.strip("`.") or "body"
    return Unprocessable(f"{path}: {what[:1].lower()}{what[1:]}", path=path)


def _malformed(body: bytes, error: Exception) -> BadRequest:
    """Say where JSON stops being JSON: line and column from 1, counted in bytes."""
    if isinstance(error, RecursionError):
        return BadRequest(TOO_DEEP)
    found = BYTE.search(str(error))
    place = int(found[1]) if found else _first_fault(body)
    line = body.count(b"\n", 0, place) + 1
    column = place - (body.rfind(b"\n", 0, place) + 1) + 1
    reason = BYTE.sub("", str(error)).removeprefix("JSON is malformed: ").strip() or "it is not UTF-8"
    return BadRequest(f"the body is not JSON: {reason} at line {line}, column {column}", line=line, column=column)


def _read_body(app: LiveApp, proof: Proof, request: Request) -> Any:
    if proof.message is not None:
        return proof.message
    check_media(request)
    return read_direct(request.body) if app.direct else read_json(request.body)


def _first_fault(body: bytes) -> int:
    """Where the body stops being UTF-8: behind its end when it never does."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(body)


def _values(
    app: LiveApp,
    event_id: str,
    kind: str | None,
    delivery: str | None,
    headers: dict[str, str],
    raw: bytes,
    parsed: Any,
) -> dict[str, Any]:
    if app.direct and (app.dedupe is None or app.dedupe == "body"):
        return {}  # hardly anything will ask
    return _whole_values(app, event_id, kind, delivery, headers, raw, parsed)


def _whole_values(
    app: LiveApp,
    event_id: str,
    kind: str | None,
    delivery: str | None,
    headers: dict[str, str],
    raw: bytes,
    parsed: Any,
) -> dict[str, Any]:
    body = parse_body(raw) if app.direct else parsed
    event = event_values(event_id, kind, delivery, headers, body)
    return {"event": event, "app": {"id": app.id, "name": app.app.name}}
