"""What happened to a delivery, told as one document: for the commands and the API alike. Silent.

What an event was decided by is recorded in few words; the details are worked out here, when somebody asks, from its
bytes and from the rules that its app had then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.apps import App
from gateway.callbacks import Callback
from gateway.contents import stored_values
from gateway.errors import ConfigError
from gateway.events import Decision, Head, Verdict
from gateway.explanations import Finding, explain_condition
from gateway.masks import Mask
from gateway.proofs import REASONS
from gateway.refused import Kept, Refusal, headers_looked_at, read_signed_time
from gateway.rules import Rules
from gateway.runs import Run, iso
from gateway.signatures import Request, Scheme, read_scheme

UNPROVEN = (403, 404, 405, 408, 413, 499)
"""Statuses of refusals that come before anybody looks at the proof."""
LIMITED = (402, 405, 408, 413, 415, 429, 503)
OTHER_REASONS = {
    "not_configured": "the app has no usable `verify`: a secret is missing, empty or too short, or nothing is written",
    "challenge": "the sender asked for a handshake",
}
KNOWN_BY = {
    "key": "the caller's Idempotency-Key or webhook-id",
    "body": "the body's hash",
    "cel": "the app's `dedupe`",
    "sent": "the time and the content that are signed",
    "form": "the form's token",
}
MOST_TRIGGERS = 20
"""Of those that did not match; more are named without their reasons."""


class ProofDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked: by which scheme, in which headers, with which secrets (where they are kept, newest first).

    `valid` is None where it came to no check. `secret` is the place of the one that matched, from 0. `age_seconds` is
    the difference between our clock and the time that it says it was signed.
    """

    valid: bool | None
    scheme: Any
    headers: list[str]
    secrets: list[str]
    secret: int | None
    signed_at: str | None
    age_seconds: float | None
    reason: str | None
    text: str


class TriggerDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What one trigger said, and the parts of its condition because of which it did not match."""

    trigger: str
    matched: bool
    when: str | None
    reason: str | None
    because: list[Finding]


class DedupeDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What makes it the same as another delivery, how often it came again, and which event came first."""

    known_by: list[str]
    repeats: int
    last_repeated_at: str | None
    first_event_id: str | None


class SentDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A callback in a line."""

    callback_id: str
    status: str
    type: str
    url: str
    attempts: int


class OutcomeDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A run that it started, or that was in its way (`skipped`), as it is now; without a status it is there no more."""

    run_id: int
    skipped: bool
    status: str | None
    workflow: str | None
    trigger: str | None
    held: str | None
    error: str | None
    callbacks: list[SentDocument]


class RequestDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What came, as far as it is kept. `captured` says whether its bytes are."""

    method: str | None
    path: str | None
    peer: str | None
    headers: list[tuple[str, str]]
    size: int | None
    sha256: str | None
    captured: bool


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to one delivery. `status` is that of the answer, where it was refused or a handshake."""

    event_id: str
    outcome: str
    text: str
    received_at: str | None
    app_id: int | None
    app: str | None
    type: str | None
    delivery_id: str | None
    status: int | None
    request: RequestDocument
    proof: ProofDocument
    dedupe: DedupeDocument
    triggers: list[TriggerDocument]
    limits: list[str]
    chain: str | None
    runs: list[OutcomeDocument]


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """A stored event, and what became of it: its runs and those that were in its way, None for those that are gone."""

    id: str
    head: Head
    received_at: int
    body: bytes
    repeats: int
    repeated_at: int | None
    runs: dict[int, Run | None]
    callbacks: dict[int, list[Callback]]


def explain_event(found: Happened, app: App | None, rules: Rules, mask: Mask) -> Explanation:
    """The explanation of a stored event, by the rules that its app had then."""
    head, decision = found.head, found.head.decision
    runs = [_describe_run(run_id, run, found, mask) for run_id, run in found.runs.items()]
    request = RequestDocument(
        method=None,
        path=None,
        peer=None,
        headers=mask.headers(head.headers.items()),
        size=len(found.body),
        sha256=None,
        captured=True,
    )
    return Explanation(
        event_id=found.id,
        outcome=decision.outcome,
        text=mask.text(_tell_event(found, rules, runs)),
        received_at=iso(found.received_at),
        app_id=head.app_id,
        app=None if app is None else app.name,
        type=head.type,
        delivery_id=head.delivery_id,
        status=None,
        request=request,
        proof=_prove_event(found, rules),
        dedupe=DedupeDocument(
            known_by=_known_by(head, rules),
            repeats=found.repeats,
            last_repeated_at=iso(found.repeated_at),
            first_event_id=None,
        ),
        triggers=_explain_triggers(found, app, rules, mask),
        limits=[mask.text(decision.reason)] if decision.reason and decision.outcome == "refused" else [],
        chain=decision.reason if decision.outcome == "parked" else decision.hop,
        runs=runs,
    )


def explain_refusal(kept: Kept, app: App | None, rules: Rules, mask: Mask) -> Explanation:
    """The explanation of a delivery that left no event."""
    refusal, decision = kept.refusal, kept.refusal.decision
    request = RequestDocument(
        method=refusal.method,
        path=refusal.path,
        peer=refusal.peer,
        headers=[(name, mask.text(value)) for name, value in refusal.headers],
        size=refusal.size,
        sha256=refusal.sha256,
        captured=kept.body is not None,
    )
    proof = _prove_refusal(refusal, rules)
    return Explanation(
        event_id=refusal.id,
        outcome=decision.outcome,
        text=mask.text(_tell_refusal(refusal, proof)),
        received_at=iso(refusal.at),
        app_id=refusal.app_id,
        app=None if app is None else app.name,
        type=refusal.type,
        delivery_id=refusal.delivery_id,
        status=refusal.status,
        request=request,
        proof=proof,
        dedupe=DedupeDocument(known_by=[], repeats=0, last_repeated_at=None, first_event_id=refusal.event_id),
        triggers=[],
        limits=[mask.text(refusal.message)] if refusal.status in LIMITED else [],
        chain=None,
        runs=[],
    )


# ---- proof


def _prove_event(found: Happened, rules: Rules) -> ProofDocument:
    decision = found.head.decision
    scheme = _scheme_of(rules)
    signed, age = decision.signed_at, decision.age
    if signed is None and found.head.app_id is not None:
        request = Request("POST", "", tuple(found.head.headers.items()), found.body)
        signed = read_signed_time(scheme, request)
        age = None if signed is None else round(found.received_at / 1000 - signed, 3)
    return _proof(True, decision, rules, _tell_proof(found.head, rules), signed, age)


def _tell_proof(head: Head, rules: Rules) -> str:
    decision = head.decision
    if head.token_id is not None:
        return f"the API token {head.token_id} vouches for it"
    if head.hook_id is not None:
        return f"it came to the hook {head.hook_id}, whose URL is the proof"
    if head.app_id is None:
        return f"the gateway itself made it ({decision.scheme or 'its own'})"
    if decision.scheme == "adapter":
        return "the app's adapter vouches for it"
    if decision.secret is None:
        return "this app asks for no proof"
    place = f"secret {decision.secret + 1}"
    if decision.secret < len(rules.secrets):
        place += f" of {len(rules.secrets)} ({rules.secrets[decision.secret].label})"
    return f"the proof is right: {place} matched" + (", not the newest" if decision.secret else "")


def _prove_refusal(refusal: Refusal, rules: Rules) -> ProofDocument:
    decision = refusal.decision
    reason = decision.reason or ""
    valid: bool | None = False if refusal.status == 401 else None
    if decision.outcome == "handshake":
        text = "a handshake is answered before anything is stored"
    elif valid is False:
        text = REASONS.get(reason) or OTHER_REASONS.get(reason) or reason
    elif refusal.status in UNPROVEN:
        text = "it did not come so far"
    else:
        text = "this is not what it was refused for"
    return _proof(valid, decision, rules, text, decision.signed_at, decision.age)


def _proof(
    valid: bool | None, decision: Decision, rules: Rules, text: str, signed: float | None, age: float | None
) -> ProofDocument:
    scheme = _scheme_of(rules)
    return ProofDocument(
        valid=valid,
        scheme=rules.scheme or decision.scheme,
        headers=[] if scheme is None else headers_looked_at(scheme),
        secrets=[each.label for each in rules.secrets],
        secret=decision.secret,
        signed_at=None if signed is None else _moment(signed),
        age_seconds=age,
        reason=decision.reason if valid is False else None,
        text=text,
    )


def _moment(seconds: float) -> str | None:
    try:
        return iso(int(seconds * 1000))
    except (ValueError, OverflowError, OSError):
        return None


def _scheme_of(rules: Rules) -> Scheme | None:
    if rules.scheme is None:
        return None
    try:
        return read_scheme(rules.scheme, "scheme")
    except ConfigError:
        return None


# ---- what it is the same as


def _known_by(head: Head, rules: Rules) -> list[str]:
    if head.app_id is None:
        return []
    if head.delivery_id is None:
        return [KNOWN_BY[kind] for kind in (head.decision.dedupe or "").split() if kind in KNOWN_BY]
    scheme = _scheme_of(rules)
    unsigned = (scheme is not None and not scheme.signed_id) or head.decision.dedupe is not None
    return ["the sender's delivery id", *([f"{KNOWN_BY['body']}, for that id is not signed"] if unsigned else [])]


# ---- triggers


def _explain_triggers(found: Happened, app: App | None, rules: Rules, mask: Mask) -> list[TriggerDocument]:
    written = {each.name: each.when for each in rules.triggers}
    values = _values_of(found, app)
    told, left = [], MOST_TRIGGERS
    for verdict in found.head.decision.triggers:
        when = written.get(verdict.trigger)
        because: list[Finding] = []
        if when is not None and not verdict.matched and left:
            because, left = explain_condition(when, values, mask), left - 1
        told.append(_describe_trigger(verdict, when, because, mask))
    return told


def _describe_trigger(verdict: Verdict, when: str | None, because: list[Finding], mask: Mask) -> TriggerDocument:
    return TriggerDocument(
        trigger=verdict.trigger,
        matched=verdict.matched,
        when=None if when is None else mask.text(when),
        reason=None if verdict.reason is None else mask.text(verdict.reason),
        because=because,
    )


def _values_of(found: Happened, app: App | None) -> dict[str, Any]:
    head = found.head
    event = stored_values(found.id, head, found.body)
    return {"event": event, "app": {"id": head.app_id, "name": None if app is None else app.name}}


# ---- what became of it


def _describe_run(run_id: int, run: Run | None, found: Happened, mask: Mask) -> OutcomeDocument:
    skipped = run_id in found.head.decision.skipped
    error = None if run is None or run.error is None else f"{run.error.type}: {run.error.message}"
    return OutcomeDocument(
        run_id=run_id,
        skipped=skipped,
        status=None if run is None else str(run.state),
        workflow=None if run is None else run.request.workflow,
        trigger=None if run is None or skipped else run.request.trigger,
        held=None if run is None or run.held is None else run.held.reason,
        error=None if error is None else mask.text(error),
        callbacks=[_describe_sent(each) for each in found.callbacks.get(run_id, ())],
    )


def _describe_sent(callback: Callback) -> SentDocument:
    return SentDocument(
        callback_id=callback.id,
        status=callback.state,
        type=callback.type,
        url=callback.url,
        attempts=len(callback.attempts),
    )


def _tell_event(found: Happened, rules: Rules, runs: Sequence[OutcomeDocument]) -> str:
    decision = found.head.decision
    again = "" if not found.repeats else f"; it came again {_count(found.repeats, 'time')}, which started nothing"
    if decision.outcome in ("parked", "refused"):
        return f"{decision.outcome}: {decision.reason}{again}"
    started = [f"run {each.run_id} ({each.status or 'gone'})" for each in runs if not each.skipped]
    if started:
        return f"accepted: it started {', '.join(started)}{again}"
    if runs:
        return f"skipped: run {runs[0].run_id} was in its way{again}"
    return f"ignored: {_why_ignored(decision, rules)}{again}"


def _why_ignored(decision: Decision, rules: Rules) -> str:
    if not decision.triggers:
        return "its app has no triggers"
    if len(decision.triggers) == 1:
        return f"its trigger {decision.triggers[0].trigger!r} did not match"
    return f"none of its {len(decision.triggers)} triggers matched"


def _tell_refusal(refusal: Refusal, proof: ProofDocument) -> str:
    if refusal.decision.outcome == "handshake":
        return f"handshake, answered with {refusal.status}; nothing was stored or started"
    why = proof.text if proof.valid is False else refusal.message or refusal.decision.reason
    return f"refused with {refusal.status}: {why}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
