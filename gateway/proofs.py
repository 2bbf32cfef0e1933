"""What a request shows: the headers, the pieces of it that a scheme signs, and the time it was signed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

import msgspec
from msgspec import Struct

from gateway.parts import read_part
from gateway.schemes import Piece, Source, Timestamp

REASONS: Final[Mapping[str, str]] = {
    "valid": "the proof is right, and fresh where the scheme signs a time",
    "unsigned": "this scheme asks for no proof",
    "no_secret": "no secret is configured, or an empty one",
    "bad_secret": "a configured secret is not of the form this scheme's secrets have",
    "missing_header": "a header the scheme needs is missing or empty",
    "doubled_header": "a header the scheme needs came more than once",
    "malformed_header": "a header is not of this scheme's form: prefix, list, or characters",
    "no_candidate": "the signature header holds no signature of the version this scheme takes",
    "too_many_candidates": "the signature header holds more signatures than a sender would send",
    "bad_encoding": "the signature is not the hex or base64 of a whole digest",
    "missing_timestamp": "the time the scheme signs is missing or empty",
    "malformed_timestamp": "the time is not of the form this scheme's times have, or came more than once",
    "missing_proof": "the body or the URL does not hold the proof where the scheme looks for it, or holds it twice",
    "malformed_body": "the field of the body that the scheme signs can't be read",
    "malformed_url": "the field of the URL's query that the scheme signs can't be read",
    "missing_context": "the scheme signs the URL or the method, and it is not known",
    "foreign_key": "the address of the sender's key is not on one of the sender's own hosts",
    "foreign_topic": "the message is of a topic that the configuration does not name",
    "mismatch": "no secret gives this signature for these bytes",
    "uncovered": "the signature is right, but does not cover all that the configuration requires, such as the body",
    "wrong_digest": "the signature is right, but the digest it covers is not the body's",
    "stale": "the signature is right, but older than the scheme allows",
    "future": "the signature is right, but its time lies further ahead than the scheme allows",
}
MAX_FORM_FIELDS: Final = 1000
FORM_TYPE: Final = re.compile(r"application/x-www-form-urlencoded\s*(;.*)?", re.IGNORECASE | re.DOTALL)

# What HubSpot decodes in a URL before it signs it: : / ? @ ! $ ' ( ) * , ;
LITERALS: Final = re.compile(r"%(?:3A|2F|3F|40|21|24|27|28|29|2A|2C|3B)", re.IGNORECASE)

Headers = tuple[tuple[str, str], ...]


class Request(Struct, frozen=True):
    """One request as a verifier sees it.

    `headers`: names in lower case, in order of arrival, a repeated line stays repeated, values decoded as
    Latin-1. `url` is the one the sender signed: the registered public one, not the one seen behind a proxy.
    """

    method: str
    url: str
    headers: Headers
    body: bytes

    @classmethod
    def from_asgi(cls, scope_method: str, url: str, raw_headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Request:
        """The request of an ASGI scope; `raw_headers` is `scope["headers"]`, `body` the whole body."""
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw_headers]
        return cls(scope_method, url, tuple(headers), body)

    def values(self, name: str) -> list[str]:
        """Every line of the header `name`, in order of arrival."""
        wanted = name.lower()
        return [value for key, value in self.headers if key == wanted]


class Verdict(Struct, frozen=True):
    """What a proof was worth: `reason` is a key of REASONS, `secret` the index of the secret that matched."""

    valid: bool
    reason: str
    secret: int | None = None


class Stamp(Struct, frozen=True):
    """A signed time: the text exactly as received, and what it means in Unix seconds."""

    text: str
    seconds: float


def refuse(reason: str) -> Verdict:
    """A refusal, with its reason."""
    return Verdict(False, reason)


def read_header(request: Request, name: str) -> str | Verdict:
    """The one line of a header; nothing else may decide about trust."""
    values = [value for key, value in request.headers if key == name]
    if len(values) != 1:
        return refuse("doubled_header" if values else "missing_header")
    if not values[0]:
        return refuse("missing_header")
    return values[0] if values[0].isascii() else refuse("malformed_header")


def read_proof(place: Source, request: Request) -> str | Verdict:
    """The text of the proof, in ASCII, from where the scheme has it: a header, or a field of the body or the query."""
    if place.kind == "header":
        return read_header(request, place.name)
    text = read_place(place, request)
    return text if text and text.isascii() else refuse("missing_proof")


def read_place(place: Source, request: Request) -> str | None:
    """What stands at a place of the body or the query; None when nothing does, or more than one thing."""
    if place.kind == "body":
        return read_json(request.body, place.name)
    value = read_form(request, place.name) if place.kind == "form" else read_field(query_of(request), place.name)
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def query_of(request: Request) -> bytes:
    """The query of the request's URL, as it came."""
    return request.url.partition("#")[0].partition("?")[2].encode("utf-8", "surrogatepass")


# ---- the pieces that are signed


def read_signed(pieces: Sequence[Piece], request: Request, stamp: str) -> Sequence[bytes] | Verdict:
    """The signed bytes, in parts; the body is one of them as it is, never a copy."""
    signed = []
    for piece in pieces:
        part = PIECES[piece.kind](piece, request, stamp)
        if isinstance(part, Verdict):
            return part
        signed.append(part)
    return signed


def piece_text(piece: Piece, request: Request, stamp: str) -> bytes | Verdict:
    return piece.name.encode()


def piece_body(piece: Piece, request: Request, stamp: str) -> bytes | Verdict:
    return request.body


def piece_payload(piece: Piece, request: Request, stamp: str) -> bytes | Verdict:
    kinds = request.values("content-type")
    if len(kinds) > 1:
        return refuse("doubled_header")
    is_form = bool(kinds) and FORM_TYPE.fullmatch(kinds[0].strip()) is not None
    return (read_field(request.body, "payload") or refuse("malformed_body")) if is_form else request.body


def piece_timestamp(piece: Piece, request: Request, stamp: str) -> bytes | Verdict:
    return stamp.encode("ascii")


def piece_url(piece: Piece, request: Request, stamp: str) -> bytes | Verdict:
    return request.url.encode("utf-8", "surrogatepass") or refuse("missing_context")


def piece_decoded_url(piece: Piece, request: Request, stamp: str) -> bytes | Verdict:
    text = LITERALS.sub(lambda found: unquote(found[0]), request.url)
    return text.encode("utf-8", "surrogatepass") or refuse("missing_context")


def piece_method(piece: Piece, request: Request, stamp: str) -> bytes | Verdict:
    return request.method.encode("utf-8", "surrogatepass") or refuse("missing_context")


def piece_header(piece: Piece, request: Request, stamp: str) -> bytes | Verdict:
    value = read_header(request, piece.name)
    if isinstance(value, Verdict):
        return value
    # A value that holds the text after it could be cut elsewhere: `a.1` + `.2` signs what `a` + `.1.2` signs.
    if piece.until and piece.until in value:
        return refuse("malformed_header")
    return value.encode("ascii")


def piece_form(piece: Piece, request: Request, stamp: str) -> bytes | Verdict:
    return read_form(request, piece.name) or refuse("malformed_body")


def piece_query(piece: Piece, request: Request, stamp: str) -> bytes | Verdict:
    return read_field(query_of(request), piece.name) or refuse("malformed_url")


def piece_json(piece: Piece, request: Request, stamp: str) -> bytes | Verdict:
    text = read_json(request.body, piece.name)
    return text.encode("utf-8", "surrogatepass") if text else refuse("malformed_body")


PIECES: Final[Mapping[str, Callable[[Piece, Request, str], bytes | Verdict]]] = {
    "text": piece_text,
    "body": piece_body,
    "payload": piece_payload,
    "timestamp": piece_timestamp,
    "url": piece_url,
    "decoded_url": piece_decoded_url,
    "method": piece_method,
    "header": piece_header,
    "form": piece_form,
    "query": piece_query,
    "json": piece_json,
}


def read_form(request: Request, name: str) -> bytes | None:
    """The decoded value of the one field `name` of a form, URL-encoded or multipart; None when missing or repeated."""
    kinds = request.values("content-type")
    if len(kinds) == 1 and kinds[0].strip()[:10].lower() == "multipart/":
        return read_part(kinds[0], request.body, name)
    return read_field(request.body, name)


def read_field(form: bytes, name: str) -> bytes | None:
    """The decoded value of the one field `name` of URL-encoded pairs; None when missing or repeated."""
    pairs = split_form(form)
    wanted = name.encode()
    values = [value for key, value in pairs or () if unquote_to_bytes(key) == wanted]
    return unquote_to_bytes(values[0]) if len(values) == 1 else None


def split_form(form: bytes) -> list[tuple[bytes, bytes]] | None:
    """URL-encoded pairs, in order, still percent-encoded; None when there are more than MAX_FORM_FIELDS."""
    if form.count(b"&") >= MAX_FORM_FIELDS:
        return None
    pairs = [pair.replace(b"+", b" ").partition(b"=") for pair in form.split(b"&")]
    return [(key, value) for key, _, value in pairs]


def read_json(body: bytes, path: str) -> str | None:
    """The text or whole number at `path` of a JSON body; None when there is none."""
    try:
        return as_text(find_path(msgspec.json.decode(body), path))
    except (ValueError, RecursionError):
        return None


def find_path(document: object, path: str) -> object:
    """What stands at a dotted path; a number is a place in an array. None when nothing does."""
    found = document
    for step in path.split("."):
        if isinstance(found, Mapping):
            found = found.get(step)
        elif isinstance(found, Sequence) and step.isascii() and step.isdigit():
            found = found[int(step)] if len(step) < 10 and int(step) < len(found) else None
        else:
            return None
    return found


def as_text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    # Larger numbers differ between parsers, and turning very long ones into text is refused by Python.
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return str(value) if whole else None


def read_source(source: Source, request: Request, body: object) -> str | None:
    if source.kind == "body":
        return as_text(find_path(body, source.name))
    if source.kind == "form":
        return read_place(source, request)
    value = read_header(request, source.name)
    return None if isinstance(value, Verdict) else value


# ---- time


def read_stamp(timing: Timestamp | None, request: Request, fields: Sequence[tuple[str, str]]) -> Stamp | Verdict | None:
    """The time the sender gives, or a refusal; None when the scheme has no time."""
    if timing is None:
        return None
    text = read_time_text(timing.place, request, fields)
    if isinstance(text, Verdict):
        return text
    seconds = TIME_READERS[timing.unit](text)
    return refuse("malformed_timestamp") if seconds is None else Stamp(text, seconds)


def read_time_text(place: Source, request: Request, fields: Sequence[tuple[str, str]]) -> str | Verdict:
    if place.kind == "header":
        value = read_header(request, place.name)
        return refuse(TIME_FAULTS[value.reason]) if isinstance(value, Verdict) else value
    if place.kind in ("body", "form"):
        return read_place(place, request) or refuse("missing_timestamp")
    texts = [text for key, text in fields if key == place.name]
    if len(texts) > 1:
        return refuse("malformed_timestamp")
    return (texts[0] if texts else "") or refuse("missing_timestamp")


TIME_FAULTS: Final[Mapping[str, str]] = {
    "missing_header": "missing_timestamp",
    "malformed_header": "malformed_timestamp",
    "doubled_header": "doubled_header",
}


def read_seconds(text: str) -> float | None:
    return float(text) if len(text) <= 11 and text.isascii() and text.isdigit() else None


def read_milliseconds(text: str) -> float | None:
    return int(text) / 1000 if len(text) <= 14 and text.isascii() and text.isdigit() else None


RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
HTTP_DATE: Final = re.compile(
    r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [0-9]{4}"
    r" [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
)


def read_rfc3339(text: str) -> float | None:
    return as_seconds(lambda: datetime.fromisoformat(text.upper())) if RFC3339.fullmatch(text) else None


def read_http_date(text: str) -> float | None:
    return as_seconds(lambda: parsedate_to_datetime(text)) if HTTP_DATE.fullmatch(text) else None


def as_seconds(read: Callable[[], datetime]) -> float | None:
    try:
        return read().timestamp()
    except (ValueError, OverflowError):
        return None


TIME_READERS: Final[Mapping[str, Callable[[str], float | None]]] = {
    "s": read_seconds,
    "ms": read_milliseconds,
    "rfc3339": read_rfc3339,
    "httpdate": read_http_date,
}
TIME_WRITERS: Final[Mapping[str, Callable[[float], str]]] = {
    "s": lambda now: str(int(now)),
    "ms": lambda now: str(int(now * 1000)),
    "rfc3339": lambda now: datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    "httpdate": lambda now: formatdate(int(now), usegmt=True),
}
