"""What one proven request comes to: an event, what makes it the same as another, and the runs it is to start.

Pure but for the directory in memory: the same request against the same directory gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from gateway.apps import LiveApp
from gateway.browsers import Filled, FormTokens, check_form
from gateway.callbacks import decode_secret
from gateway.contents import read_content, restore_content
from gateway.credits import Payment, cost_of
from gateway.envelopes import ID_HEADERS, Envelope
from gateway.errors import Unprocessable
from gateway.events import (
    KEPT_HEADERS,
    Acceptable,
    Content,
    Decision,
    Head,
    Verdict,
    dedupe_keys,
    event_values,
    form_key,
    handshake_keys,
    hash_body,
)
from gateway.flow import Flow, FlowControl, flow_values
from gateway.forms import hide, read_query
from gateway.handshakes.base import read_json
from gateway.hops import HEADER as HOP
from gateway.hops import take_over
from gateway.proving import Proof
from gateway.runs import RunRequest
from gateway.schemes import Scheme, Source
from gateway.signatures import Request, delivery_id, event_type
from gateway.starts import too_deep
from gateway.traces import HEADER as TRACE
from gateway.traces import read_traceparent
from gateway.triggers import DirectRequest, start_by_triggers, start_directly
from gateway.workflows import Published, Workflow

NO_COSTS: Mapping[str, int] = MappingProxyType({})


class Directory(Protocol):
    """Where apps and workflows are looked up, in memory."""

    workflows: dict[str, Published]

    def app(self, name: str) -> LiveApp: ...

    def definition_at_hand(self, digest: str) -> Workflow | None: ...


class Known(Protocol):
    """What is known of an event when it is decided: a request that just came, or what is stored of one."""

    @property
    def app(self) -> LiveApp: ...

    @property
    def event_id(self) -> str: ...

    @property
    def direct(self) -> DirectRequest | None: ...

    @property
    def values(self) -> dict[str, Any]: ...


class Start(msgspec.Struct, frozen=True):
    """What an event starts: the runs, what each trigger said, what controls the runs' flow, and who pays."""

    requests: list[RunRequest]
    verdicts: list[Verdict]
    flows: list[Flow | None]
    payment: Payment | None


class Arrival:
    """One proven request of an app, read: what it holds, what names it, and what expressions see of it."""

    def __init__(self, app: LiveApp, proof: Proof, request: Request, event_id: str) -> None:
        self.app = app
        self.proof = proof
        self.request = request
        self.event_id = event_id
        self.headers = keep_headers(app, request)
        self.query = hide(read_query(request.url), app.query_secrets) if "?" in request.url else {}
        self.direct: DirectRequest | None = None
        read = Content(proof.message) if proof.message is not None else read_content(app, request, self.headers)
        if isinstance(read, DirectRequest):
            self.direct, read = read, Content()
        # Of a form's fields some are the gateway's, and not the event's.
        self.hidden = () if app.form is None else tuple(sorted(app.form.own_fields.intersection(read.form)))
        self.filled_in = read.form
        self.read = read = read.without(self.hidden)
        document = read.form if read.body is None else read.body
        self.delivery_id = delivery_id(proof.scheme, request, document)
        self.type = event_type(proof.scheme, request, document)
        self.signed_id = True
        self._values: dict[str, Any] = {}
        if read.envelope is not None:
            self._take_over(read.envelope)

    def _take_over(self, envelope: Envelope) -> None:
        """Let the envelope name the event where its sender's preset doesn't."""
        self.type = self.type or envelope.type
        if self.delivery_id is None and envelope.id is not None:
            self.delivery_id = envelope.id
            self.signed_id = signs_id(self.proof.scheme, envelope)

    @property
    def identity(self) -> bytes:
        """What makes its body the same as another: its bytes, and of a browser's form what it holds."""
        return self.request.body if self.app.form is None else self.read.identity

    @property
    def content(self) -> Content:
        """What it holds, that of a direct request too."""
        if self.direct is None:
            return self.read
        return restore_content(Head(headers=self.headers, decision=UNDECIDED), self.request.body)

    @property
    def values(self) -> dict[str, Any]:
        """What expressions see. Made when one asks: hardly anything does of a direct request."""
        if not self._values:
            event = event_values(
                self.event_id, self.type, self.delivery_id, self.content, self.headers, self.request.method, self.query
            )
            self._values = {"event": event, "app": {"id": self.app.id, "name": self.app.app.name}}
        return self._values


UNDECIDED = Decision(outcome="")


def keep_headers(app: LiveApp, request: Request) -> dict[str, str]:
    """The headers that are stored and shown: some of all senders, and those that the app names. Lines are joined."""
    kept: dict[str, str] = {}
    for name, value in request.headers:
        if name in KEPT_HEADERS or name in app.headers:
            kept[name] = f"{kept[name]}, {value}" if name in kept else value
    return kept


def signs_id(scheme: Scheme, envelope: Envelope) -> bool:
    """Whether the id of an envelope is covered by the signature, where there is one."""
    places = [Source("header", name) for name in ID_HEADERS] if envelope.by_header else [Source("body", "id")]
    return all(scheme.covers(place) for place in places)


class Decider:
    """Decides what requests start."""

    def __init__(
        self,
        directory: Directory,
        costs: Mapping[str, int] = NO_COSTS,
        max_depth: int = 16,
        tokens: FormTokens | None = None,
    ) -> None:
        self._tokens = tokens or FormTokens()
        self._directory = directory
        self._costs = costs
        self._max_depth = max_depth

    def decide(self, app: LiveApp, proof: Proof, request: Request, event_id: str, now: float) -> Acceptable:
        """The event to store and the runs to start. Raises BadRequest, UnsupportedMedia, Unprocessable or Spam.

        `now` is when it came (unix seconds): by that the token of a form is judged.
        """
        arrival = Arrival(app, proof, request, event_id)
        filled = self._judge_form(arrival, now)
        requests, verdicts = self._start(arrival)
        flows = self._flows(arrival, requests)
        keys = dedupe_keys(
            app,
            proof.scheme,
            request,
            arrival.delivery_id,
            lambda: arrival.values,
            signed_id=arrival.signed_id,
            content=arrival.identity,
        )
        if filled.number is not None:
            keys = [form_key(app.id, filled.number), *keys]
        decision = Decision(
            outcome="accepted" if requests else "ignored",
            scheme=proof.kind,
            secret=proof.secret,
            dedupe=_known_by(arrival, keys),
            triggers=verdicts,
            rules=app.rules,
            signed_at=proof.signed_at,
            age=proof.age,
        )
        requests, decision = self._place(app, request, _trace(request, requests), decision)
        return Acceptable(
            id=event_id,
            body=request.body,
            body_hash=hash_body(arrival.identity),
            keys=keys,
            head=_head(arrival, decision),
            requests=requests,
            flows=flows if requests else [],
            payment=self._payment(app, requests),
            page=filled.page,
        )

    def note(self, app: LiveApp, proof: Proof, request: Request, event_id: str, outcome: str) -> Acceptable:
        """The event to keep of a handshake, which starts nothing whatever it holds."""
        body = read_json(request.body)
        delivery = delivery_id(proof.scheme, request, body)
        return Acceptable(
            id=event_id,
            body=request.body,
            body_hash=hash_body(request.body),
            keys=handshake_keys(app, proof.scheme, request, delivery),
            head=Head(
                app_id=app.id,
                type=event_type(proof.scheme, request, body),
                delivery_id=delivery,
                headers=keep_headers(app, request),
                decision=Decision(outcome=outcome, scheme=proof.kind, secret=proof.secret),
            ),
            requests=[],
        )

    def decide_anew(self, known: Known) -> Start:
        """What a stored event starts by what is published now. Raises Unprocessable or BadRequest."""
        requests, verdicts = self._start(known)
        return Start(requests, verdicts, self._flows(known, requests), self._payment(known.app, requests))

    def _judge_form(self, arrival: Arrival, now: float) -> Filled:
        form = arrival.app.form
        return Filled() if form is None else check_form(form, self._tokens, arrival.app.id, arrival.filled_in, now)

    def _start(self, arrival: Known) -> tuple[list[RunRequest], list[Verdict]]:
        app = arrival.app
        if arrival.direct is not None:
            return [start_directly(arrival.direct, app, arrival.event_id, self._find)], []
        return start_by_triggers(app, arrival.event_id, arrival.values, self._find)

    def _place(
        self, app: LiveApp, request: Request, requests: list[RunRequest], decision: Decision
    ) -> tuple[list[RunRequest], Decision]:
        """Put runs behind those of the chain that the request verifiably belongs to; too deep, none is started."""
        # Most requests belong to no chain, and this is on the way of all.
        if not request.values(HOP):
            return requests, decision
        secrets = (decode_secret(secret) for secret in (*app.shared_secrets, *app.callback_secrets))
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

    def _flows(self, arrival: Known, requests: list[RunRequest]) -> list[Flow | None]:
        """What controls the flow of each run; nothing where no workflow says anything."""
        found = [self._directory.definition_at_hand(request.digest) for request in requests]
        if all(workflow is None or workflow.flow is None for workflow in found):
            return []
        return [
            None if workflow is None or workflow.flow is None else _flow(workflow.flow, request, arrival.values)
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


def _known_by(arrival: Arrival, keys: list[str]) -> str | None:
    """What it is remembered by, `id`, `key`, `body`, `cel`; nothing where its scheme and its id say that already."""
    if arrival.delivery_id is not None and (len(keys) == 1 or not arrival.proof.scheme.signed_id):
        return None
    return " ".join(key.split(":")[1] for key in keys) or None


def _trace(request: Request, requests: list[RunRequest]) -> list[RunRequest]:
    """The runs as parts of the trace that the request belongs to, if it does."""
    lines = request.values(TRACE)
    trace = read_traceparent(lines) if lines else None
    return requests if trace is None else [msgspec.structs.replace(each, traceparent=trace) for each in requests]


def _head(arrival: Arrival, decision: Decision) -> Head:
    return Head(
        app_id=arrival.app.id,
        type=arrival.type,
        delivery_id=arrival.delivery_id,
        headers=arrival.headers,
        method=arrival.request.method,
        query=arrival.query,
        field=arrival.read.field,
        hidden=arrival.hidden,
        message=arrival.proof.message,
        decision=decision,
    )


def _flow(control: FlowControl, request: RunRequest, known: Mapping[str, Any]) -> Flow:
    values = flow_values(request.input, request.task, request.metadata, known["app"], known["event"])
    return control.decide(values)
