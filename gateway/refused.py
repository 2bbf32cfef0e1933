"""Deliveries that left no event: refused ones, and handshakes. What is kept of each, without its secrets. Silent."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.apps import LiveApp
from gateway.challenges import Offer
from gateway.errors import GatewayError
from gateway.events import Decision, parse_body
from gateway.forms import is_secretive
from gateway.masks import HIDDEN, SHORTEST, Mask, cut, forms_of, is_sensitive
from gateway.proofs import Verdict, read_stamp
from gateway.schemes import Scheme, Source
from gateway.signatures import Request, delivery_id, event_type
from gateway.verifiers.claims import split_header

LARGEST_CAPTURE = 64 * 1024
MOST_HEADERS = 100
LONGEST_NAME = 100
LONGEST_HEADER = 1024
MOST_SHOWN = 16_384
"""Characters of all headers of one delivery."""
LONGEST_PATH = 500
LONGEST_QUERY = 4096
"""Characters of a query that are looked at: more than are shown, for what is hidden takes less room."""
LONGEST_MESSAGE = 300
NOBODY = "-"
"""The owner of what came for no app there is."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A delivery that left no event: what came, and what was decided. `at` is in milliseconds.

    Values of headers that may hold a secret are hidden; `size` and `sha256` are those of the whole body, where it was
    read. `status` is that of the answer.
    """

    id: str = ""
    at: int = 0
    app_id: int | None
    status: int
    decision: Decision
    message: str = ""
    method: str = ""
    path: str = ""
    peer: str = ""
    headers: list[tuple[str, str]] = []
    size: int | None = None
    sha256: str | None = None
    type: str | None = None
    delivery_id: str | None = None
    event_id: str | None = None
    """The event that came first, where its key came again with another body."""


class Kept(msgspec.Struct, frozen=True):
    """A refusal with the body that is kept of it, if any."""

    refusal: Refusal
    body: bytes | None = None


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery as the door saw it; `request` is there when its body was read to the end."""

    app: LiveApp | None
    outcome: str
    status: int
    reason: str
    error: GatewayError | None
    method: str
    path: str
    query: str
    peer: str
    headers: Collection[tuple[bytes, bytes]]
    request: Request | None

    @property
    def owner(self) -> str:
        return NOBODY if self.app is None else str(self.app.id)


def new_refusal_id(now: float, noise: bytes) -> str:
    """An id that sorts by time, as an event's does."""
    return f"rfs_{int(now * 1000):012x}{noise.hex()}"


def keep(seen: Sighting, now: float, noise: bytes) -> Kept:
    """What is kept of a delivery that left no event.

    The body only for an app there is, and only a small one that holds none of the app's secrets.
    """
    app, request = seen.app, seen.request
    scheme = None if app is None else app.scheme
    error = seen.error
    name, kind = _names(scheme, request)
    refusal = Refusal(
        id=new_refusal_id(now, noise),
        at=int(now * 1000),
        app_id=None if app is None else app.id,
        status=seen.status,
        decision=_decision(seen, scheme, now),
        message="" if error is None else cut(error.message, LONGEST_MESSAGE),
        method=cut(seen.method, 20),
        path=_shown_path(seen),
        peer=seen.peer,
        headers=_shown_headers(seen, scheme),
        size=None if request is None else len(request.body),
        sha256=None if request is None else hashlib.sha256(request.body).hexdigest(),
        type=kind,
        delivery_id=name,
        event_id=None if error is None else _text(error.details.get("event_id")),
    )
    return Kept(refusal, None if app is None or request is None or not _may_keep(app, request) else request.body)


def _may_keep(app: LiveApp, request: Request) -> bool:
    if len(request.body) > LARGEST_CAPTURE:
        return False
    handshake = app.handshake
    offer = _attempt(lambda: handshake.greet(request)) if handshake is not None and handshake.gives_secret else None
    offered = (offer.secret,) if isinstance(offer, Offer) else ()
    return not _holds(request.body, (*app.known_secrets, *offered))


def _holds(body: bytes, secrets: Collection[str]) -> bool:
    """Whether one of these stands in a body: as it is, in a form's encoding, or however JSON escapes it."""
    parsed = parse_body(body)
    # Nesting that can be read may be too much to be written: then nothing is there to look through.
    rewritten = _attempt(lambda: msgspec.json.encode(parsed))
    if rewritten is None:
        return True
    forms = (body, unquote_to_bytes(body.replace(b"+", b" ")), rewritten)
    known = {
        form.encode("utf-8", "surrogatepass")
        for secret in secrets
        if len(secret) >= SHORTEST
        for form in forms_of(secret)
    }
    return any(secret in form for secret in known for form in forms)


def read_signed_time(scheme: Scheme | None, request: Request, *, looks_inside: bool = True) -> float | None:
    """When a request says it was signed, in Unix seconds; without `looks_inside`, only where a header says it."""
    timing = None if scheme is None else scheme.timestamp
    if timing is None or scheme is None or (timing.place.kind in ("body", "form") and not looks_inside):
        return None
    fields: Any = ()
    if timing.place.kind == "field":
        values = request.values(scheme.plan.header)
        fields = split_header(scheme, values[0]) if len(values) == 1 else ()
    if isinstance(fields, Verdict):
        return None
    stamp = read_stamp(timing, request, fields)
    return None if stamp is None or isinstance(stamp, Verdict) else stamp.seconds


def headers_looked_at(scheme: Scheme) -> list[str]:
    """The names of the headers by which a scheme proves a sender and tells deliveries apart."""
    plan = scheme.plan
    names = [plan.proof.name] if plan.proof.kind == "header" and scheme.kind not in ("none", "url") else []
    names += [piece.name for piece in plan.pieces if piece.kind == "header" and scheme.kind == "hmac"]
    sources: list[Source | None] = [*plan.id_sources, plan.type_source]
    if scheme.timestamp is not None:
        sources.insert(0, scheme.timestamp.place)
    names += [source.name for source in sources if source is not None and source.kind == "header"]
    return list(dict.fromkeys(name.lower() for name in names if name))


def _decision(seen: Sighting, scheme: Scheme | None, now: float) -> Decision:
    app = seen.app
    signed = None if seen.request is None else _attempt(lambda: read_signed_time(scheme, seen.request or _NO_REQUEST))
    return Decision(
        outcome=seen.outcome,
        reason=seen.reason,
        scheme=None if scheme is None else scheme.kind,
        rules=None if app is None else app.rules,
        signed_at=signed,
        age=None if signed is None else round(now - signed, 3),
    )


_NO_REQUEST = Request("", "", (), b"")


def _names(scheme: Scheme | None, request: Request | None) -> tuple[str | None, str | None]:
    """The sender's own id of the delivery and its type, as far as an unproven request says so."""
    if scheme is None or request is None:
        return None, None
    body = parse_body(request.body) if len(request.body) <= LARGEST_CAPTURE else None
    name = _attempt(lambda: delivery_id(scheme, request, body))
    kind = _attempt(lambda: event_type(scheme, request, body))
    return (None if name is None else cut(name, 255)), (None if kind is None else cut(kind, 100))


def _attempt(read: Callable[[], Any]) -> Any:
    # The request is not proven to be anybody's: whatever it holds must not keep it from being noted.
    try:
        return read()
    except (ValueError, KeyError, TypeError, RecursionError, GatewayError):
        return None


def _shown_headers(seen: Sighting, scheme: Scheme | None) -> list[tuple[str, str]]:
    first = itertools.islice(seen.headers, MOST_HEADERS)
    raw = [(cut(name.decode("latin-1").lower(), LONGEST_NAME), value.decode("latin-1")) for name, value in first]
    proofs = headers_looked_at(scheme) if scheme is not None and scheme.kind == "hmac" else []
    shared = {scheme.plan.header} if scheme is not None and scheme.kind in ("token", "basic") else set()
    secrets = () if seen.app is None else seen.app.known_secrets
    masked = Mask(secrets).headers(raw, proofs)
    shown = [(name, HIDDEN if name in shared else cut(value, LONGEST_HEADER)) for name, value in masked]
    sizes = itertools.accumulate(len(name) + len(value) for name, value in shown)
    return [line for line, size in zip(shown, sizes, strict=True) if size <= MOST_SHOWN]


def _shown_path(seen: Sighting) -> str:
    """The path with no token in it, and the query without what is named like a secret."""
    door, _, name = seen.path.rpartition("/")
    place = cut(name, 12) if seen.app is None else str(seen.app.id)
    query = seen.query
    if len(query) > LONGEST_QUERY:
        # Not within a pair: half a secret would not be known as one.
        query = query[: max(0, query.rfind("&", 0, LONGEST_QUERY))]
    pairs = [pair.partition("=") for pair in query.split("&")] if query else []
    names = {key for key, _, _ in pairs}
    hidden = {key for key in names if len(key) > LONGEST_NAME or is_sensitive(key) or is_secretive(key)}
    shown = "&".join(key + sign + (HIDDEN if key in hidden else value) for key, sign, value in pairs)
    secrets = () if seen.app is None else seen.app.known_secrets
    return cut(f"{door}/{place}" + (f"?{Mask(secrets).text(shown)}" if shown else ""), LONGEST_PATH)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
