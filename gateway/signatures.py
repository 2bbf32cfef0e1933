"""Who sent this: webhook signatures, judged from values alone, and made the way a sender makes them.

A `Scheme` says how one sender signs; `PRESETS` has one for each known sender, and an operator may write
another in the same words. `verify` judges the raw bytes of one request and never raises: a refusal is a
`Verdict` with a reason from `REASONS`. Nothing is parsed before the signature holds, except a field that the
scheme itself signs, or that holds the signature.

A kind of proof is a module in `verifiers`; a piece of a template is a row in `PIECES`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from gateway.errors import ConfigError
from gateway.proofs import REASONS, TIME_WRITERS, Headers, Request, Verdict, read_place, read_source
from gateway.schemes import (
    PRESETS,
    ListFormat,
    Scheme,
    Source,
    Timestamp,
    explain,
    read_scheme,
)
from gateway.verifiers import CHECKERS, CONTENTS, SIGNERS, TIMES, VERIFIERS
from gateway.verifiers.placing import add_value

__all__ = [
    "PRESETS",
    "REASONS",
    "ListFormat",
    "Request",
    "Scheme",
    "Timestamp",
    "Verdict",
    "check_secret",
    "delivery_id",
    "event_type",
    "judge",
    "read_scheme",
    "sign",
    "sign_request",
    "signed_content",
    "signed_times",
    "verify",
]


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """Judge the proof that `request` carries; `now` is in Unix seconds. Never raises.

    Every secret is tried, with comparisons in constant time on decoded bytes. Refused are: no secret or an
    empty one; a missing, empty, doubled or non-ASCII header; anything but the exact encoding of a whole
    digest; more than MAX_CANDIDATES signatures; and, once the signature holds, a time outside the tolerance.
    """
    return VERIFIERS[scheme.kind](scheme, secrets, request, now)


def sign(scheme: Scheme, secret: str, request: Request, now: float, delivery_id: str) -> Headers:
    """The headers a sender of this scheme adds: delivery id, time, signature. Raises as `sign_request` does, and
    ConfigError for a scheme whose proof stands in the body or the URL, which headers can't carry.
    """
    added, whole = _sign(scheme, secret, request, now, delivery_id)
    if (whole.body, whole.url) != (request.body, request.url):
        raise ConfigError("this sender's proof stands in the body or the URL, not in headers")
    return added


def sign_request(scheme: Scheme, secret: str, request: Request, now: float, delivery_id: str) -> Request:
    """The request as a sender of this scheme posts it, with delivery id, time and signature.

    What `request` already has is kept and signed as it is. For `public-key`, `secret` is the private key of the same
    form. Raises ConfigError when the secret is unusable or the request lacks something the scheme signs.
    """
    return _sign(scheme, secret, request, now, delivery_id)[1]


def _sign(scheme: Scheme, secret: str, request: Request, now: float, delivery_id: str) -> tuple[Headers, Request]:
    # Where the key decides, the one that signs is another than those that verify.
    if not scheme.is_public and scheme.alg != "by-key":
        check_secret(scheme, secret, "secret")
    added: Headers = ()
    for place, name, text in companions(scheme, now, delivery_id):
        if not is_present(place, request):
            part = add_value(place, text, request, name)
            added, request = (*added, *part.headers), part.over(request)
    proof = SIGNERS[scheme.kind](scheme, secret, request, now)
    return (*added, *proof.headers), proof.over(request)


def check_secret(scheme: Scheme, secret: str, where: str) -> None:
    """Raise ConfigError, naming `where` but never the secret, when this scheme can't use `secret` to verify with."""
    try:
        CHECKERS[scheme.kind](scheme, secret)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}") from None


def delivery_id(scheme: Scheme, request: Request, body: object) -> str | None:
    """The sender's id of this delivery, or None when it has none or it can't be read.

    `body` is the parsed JSON, or None. A doubled header gives None: which line counts would be a guess.
    """
    parts = [read_source(source, request, body) for source in scheme.plan.id_sources]
    found = [part for part in parts if part]
    return " ".join(found) if found and len(found) == len(parts) else None


def signed_content(scheme: Scheme, request: Request) -> bytes:
    """What the signature covers of a verified request's content: the same for each replay, which the body need not be."""
    read = CONTENTS.get(scheme.kind)
    return request.body if read is None else read(scheme, request)


def signed_times(scheme: Scheme, request: Request) -> Sequence[str]:
    """The times that a verified request says it was signed at, as they are written; none where nothing signs one."""
    read = TIMES.get(scheme.kind)
    return () if read is None else read(scheme, request)


def event_type(scheme: Scheme, request: Request, body: object) -> str | None:
    """The sender's name for what happened, or None. `body` is the parsed JSON, or None."""
    source = scheme.plan.type_source
    return (read_source(source, request, body) or None) if source else None


class Capture(Struct, frozen=True, kw_only=True):
    """The document of `gateway verify`: a captured request, with the scheme and secrets to judge it by."""

    scheme: object
    secrets: tuple[str, ...]
    headers: dict[str, str | tuple[str, ...]]
    method: str = "POST"
    url: str = ""
    body: str | None = None
    body_base64: str | None = None
    now: float | None = None


def judge(document: Mapping[str, object]) -> Verdict:
    """Judge one captured request offline; a header's value may be text or a list of its repeated lines.

    `now` may be left out, or null, only where the scheme signs no time. Fields it doesn't know (a note, say)
    are left alone. Raises ConfigError naming the field when the document is malformed.
    """
    try:
        capture = msgspec.convert(dict(document), Capture)
    except msgspec.ValidationError as error:
        field, problem = explain(error, Capture)
        raise ConfigError(f"{field}: {problem}") from error
    scheme = read_scheme(capture.scheme, "scheme")
    if scheme.timestamp is not None and capture.now is None:
        raise ConfigError("now: is missing; this scheme signs a time, so say when it is judged, in Unix seconds")
    request = Request(capture.method, capture.url, captured_headers(capture), captured_body(capture))
    return verify(scheme, capture.secrets, request, capture.now or 0.0)


# ---- signing


def companions(scheme: Scheme, now: float, identity: str) -> list[tuple[Source, str, str]]:
    """What goes with a signature, where the scheme has it: place, the header's own spelling, and text."""
    found = []
    for source, place in zip((scheme.delivery_id or "").split("+"), scheme.plan.id_sources, strict=False):
        if len(scheme.plan.id_sources) == 1 and is_ours(place, scheme):
            found.append((place, header_name(source), identity))
    timing = scheme.timestamp
    if timing is not None and is_ours(timing.place, scheme):
        found.append((timing.place, header_name(timing.source), TIME_WRITERS[timing.unit](now)))
    return found


def is_ours(place: Source, scheme: Scheme) -> bool:
    """True for a header; and for a field of the body that is signed beside a proof that stands in the body itself."""
    pieces = {(piece.kind, piece.name) for piece in scheme.plan.pieces}
    signed = ({"body": "json"}.get(place.kind, place.kind), place.name) in pieces
    return place.kind == "header" or (signed and scheme.plan.proof.kind == place.kind)


def is_present(place: Source, request: Request) -> bool:
    """True when the request has something there already."""
    return bool(request.values(place.name)) if place.kind == "header" else read_place(place, request) is not None


def header_name(source: str) -> str:
    """The name as the scheme spells it."""
    return source.partition(":")[2]


# ---- captured requests


def captured_headers(capture: Capture) -> Headers:
    lines = []
    for name, value in capture.headers.items():
        repeated = (value,) if isinstance(value, str) else value
        # Text beyond ASCII arrives as UTF-8 on the wire, which a server shows as Latin-1.
        lines += [(name.lower(), line.encode("utf-8", "surrogatepass").decode("latin-1")) for line in repeated]
    return tuple(lines)


def captured_body(capture: Capture) -> bytes:
    if (capture.body is None) == (capture.body_base64 is None):
        raise ConfigError("body: give exactly one of body and body_base64")
    try:
        if capture.body is not None:
            return capture.body.encode()
        return base64.b64decode(capture.body_base64 or "", validate=True)
    except UnicodeEncodeError as error:
        raise ConfigError("body: holds text that has no UTF-8 form; give body_base64") from error
    except ValueError as error:
        raise ConfigError("body_base64: is not base64") from error
