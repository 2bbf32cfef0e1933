"""How a sender proves itself: the declarative form of `verify:`, read and checked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.errors import ConfigError
from gateway.kinds import (
    ALGORITHMS_OF,
    DECLARATIVE,
    DECLARED,
    FETCHING,
    HEADERLESS,
    KEY_FORMS_OF,
    OWN,
    SHARED,
    SIGNS_URL,
    TAKES,
    TIMES_OF,
)
from gateway.presets import ROWS
from gateway.specials import STARTS

BASIC_HEADER: Final = "Authorization"
PLAIN_PIECES: Final = ("body", "payload", "timestamp", "url", "decoded_url", "method")
NAMED_PIECES: Final = ("header", "form", "query", "json")
PIECE_FORMS: Final = (*PLAIN_PIECES, *(f"{kind}.NAME" for kind in NAMED_PIECES))
CONTENT_PIECES: Final = ("body", "payload", "form", "query", "json")

Kind = Literal[
    "hmac",
    "public-key",
    "token",
    "basic",
    "authorization",
    "url",
    "none",
    "adyen",
    "cavage",
    "hubspot-v1",
    "hubspot-v2",
    "jenkins-gwt",
    "netlify",
    "paypal",
    "rfc9421",
    "sns",
    "travis",
    "twilio",
    "websub",
]
Algorithm = Literal[
    "sha1",
    "sha256",
    "sha384",
    "sha512",
    "ed25519",
    "ecdsa-p256",
    "hmac-sha256",
    "ecdsa-p256-sha256",
    "ecdsa-p384-sha384",
    "rsa-pss-sha512",
    "rsa-v1_5-sha256",
    "by-key",
]
Encoding = Literal["hex", "base64"]
KeyForm = Literal["raw", "base64", "hex", "whsec", "whpk", "spki"]
Unit = Literal["s", "ms", "rfc3339", "httpdate"]
Seconds = Annotated[int, Meta(ge=0, le=10**9)]
Text = Annotated[str, Meta(min_length=1)]


class Source(Struct, frozen=True):
    """Where a value stands: in a header (its name in lower case), a field of a list, the JSON body, a form or the query."""

    kind: str
    name: str


class Timestamp(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True, rename={"source": "from"}):
    """A signed time: where it stands (`header:NAME`, `field:NAME`, `body:PATH`, `form:FIELD`), and how long it is good.

    `tolerance` and `future` are in seconds. In the declarative form `source` is written `from`.
    """

    source: Text
    unit: Unit = "s"
    tolerance: Seconds = 300
    future: Seconds = 300

    def __post_init__(self) -> None:
        _ = self.place

    @cached_property
    def place(self) -> Source:
        """`source`, read."""
        return parse_source(self.source, ("header", "field", "body", "form"), "timestamp.from")


class ListFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A header with several entries, `t=…,v1=…` or `v1,… v1,…`: separators, and the key of a signature."""

    item_sep: Text
    kv_sep: Text
    sig_key: Text


class Piece(Struct, frozen=True):
    """One piece of a template: its kind, its name (a literal's text), and the literal that follows it."""

    kind: str
    name: str
    until: str


class Plan(Struct, frozen=True):
    """What a scheme comes to once its texts are read: computed once for each scheme.

    `partial` are the pieces of the content that are signed, where that is not the body as it is.
    """

    header: str
    proof: Source
    pieces: tuple[Piece, ...]
    partial: tuple[Piece, ...]
    signs_time: bool
    id_sources: tuple[Source, ...]
    type_source: Source | None


class Scheme(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """How a sender proves itself; the fields are the declarative form of `verify:`.

    `header` carries the signature (hmac, public-key) or the shared value (token, basic); one that stands elsewhere has
    its place in `proof`: `body:PATH`, `form:FIELD` or `query:FIELD`. With `url` the app's own token, at the end of its
    URL, is the secret. `template` is what is signed: `{body} {timestamp} {url} {method} {header.NAME} {form.FIELD}
    {query.FIELD} {json.PATH}`, `{payload}` (a form's decoded field of that name, of anything else the body), `{decoded_url}`
    (as HubSpot reads it) and literal text. With `public-key` the secrets are the sender's public keys, written as
    `key` says: 32 bytes of hex, `whpk_` and base64, or SPKI in base64 or PEM. The other kinds are named for their one
    sender. `delivery_id` and `event_type` are `header:NAME`, `body:PATH` or `form:FIELD`; several joined by `+` make
    one id. No `content_types` means any. Of signed messages (rfc9421, cavage) `require` names the components that have
    to be covered (an app has a default, REQUIRED_BY_APPS), and `label` the signature that counts. `topics` are those
    of SNS, one that ends in * stands for all that start so; `webhook_id` is PayPal's name for the webhook. `handshake`
    names one of gateway.handshakes; left out it is its sender's.

    Raises ConfigError, naming the field, when the parts don't fit together.
    """

    kind: Kind
    header: Text | None = None
    proof: Text | None = None
    alg: Algorithm = "sha256"
    enc: Encoding = "hex"
    prefix: str = ""
    list: ListFormat | None = None
    template: str = "{body}"
    key: KeyForm = "raw"
    timestamp: Timestamp | None = None
    delivery_id: Text | None = None
    event_type: Text | None = None
    content_types: tuple[str, ...] = ()
    label: Text | None = None
    require: tuple[Text, ...] | None = None
    topics: tuple[Text, ...] | None = None
    webhook_id: Text | None = None
    handshake: Text | None = None

    def __post_init__(self) -> None:
        check_scheme(self)

    @cached_property
    def plan(self) -> Plan:
        """The scheme's texts, read."""
        return compile_plan(self)

    @cached_property
    def signed_id(self) -> bool:
        """False when the delivery id lies outside the signature, so that a replay may carry another one.

        Then the body's hash has to count as well. True without a delivery id (there is nothing to distrust),
        and for shared values: who holds one can make up any body, so a hash would guard nothing.
        """
        return all(self.covers(place) for place in self.plan.id_sources)

    def covers(self, place: Source) -> bool:
        """True when a replay can't carry another value there: it is signed, or who sends could make up anything."""
        if self.kind in DECLARATIVE:
            return is_signed(place, self.plan.pieces)
        return self.kind in SHARED or place.kind in ("body", "form")

    @property
    def is_public(self) -> bool:
        """True when the secrets are public keys, so that signing takes another key, which the gateway never has."""
        return self.kind in ("public-key", *FETCHING) or (
            self.kind in ("rfc9421", "cavage") and self.alg not in ("hmac-sha256", "by-key")
        )

    @property
    def fetches_keys(self) -> bool:
        """True when the sender serves its keys, so that an app may do without secrets."""
        return self.kind in FETCHING

    @property
    def uses_url(self) -> bool:
        """True when the sender signs the URL it was given, which the receiver must then be told."""
        return self.kind in SIGNS_URL or any(piece.kind in ("url", "decoded_url") for piece in self.plan.pieces)


DEFAULTS: Final = {field.name: field.default for field in msgspec.structs.fields(Scheme)}


def read_scheme(value: object, where: str) -> Scheme:
    """The scheme an operator wrote: a preset's name, `{scheme: name, …overrides}`, or each field written out.

    `kind` may be spelt `type`, `proof` `signature`, and `list` and `timestamp` flat: item_sep, kv_sep, sig_key, ts, ts_unit,
    tolerance, future. Secrets are not part of a scheme. Raises ConfigError naming the field below `where`.
    """
    declared = read_declared(value, where)
    try:
        return msgspec.convert(declared, Scheme)
    except msgspec.ValidationError as error:
        field, problem = explain(error, Scheme, Timestamp, ListFormat)
        raise ConfigError(f"{join_path(where, as_written(field, value))}: {problem}") from error
    except ConfigError as error:
        field, _, problem = error.message.partition(": ")
        raise ConfigError(f"{join_path(where, as_written(field, value))}: {problem}") from error


# The flat spelling of nested fields.
FLAT_FIELDS: Final[Mapping[str, str]] = {
    "type": "kind",
    "signature": "proof",
    "item_sep": "list.item_sep",
    "kv_sep": "list.kv_sep",
    "sig_key": "list.sig_key",
    "ts": "timestamp.from",
    "ts_unit": "timestamp.unit",
    "tolerance": "timestamp.tolerance",
    "future": "timestamp.future",
}
PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
UNKNOWN_FIELD: Final = re.compile(r"unknown field `(.*?)`")
MISSING_FIELD: Final = re.compile(r"missing required field `(.*?)`")


def read_declared(value: object, where: str) -> dict[str, object]:
    """The nested form of what was written, with the preset it starts from merged in."""
    if isinstance(value, str):
        return dict(find_row(value, where))
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where}: expected a preset's name or a scheme's fields, got {type(value).__name__}")
    written = dict(value)
    if "scheme" not in written:
        return start_from_kind(nest_fields(written))
    base = read_declared(written.pop("scheme"), join_path(where, "scheme"))
    return merge_fields(base, nest_fields(written))


def find_row(name: str, where: str) -> Mapping[str, object]:
    if name not in ROWS:
        raise ConfigError(f"{where}: there is no preset {name!r}{suggest(name, ROWS) or list_names(ROWS)}")
    return ROWS[name]


def start_from_kind(written: Mapping[str, object]) -> dict[str, object]:
    """What was written out, over what its kind has of its own."""
    return merge_fields(STARTS.get(str(written.get("kind")), {}), written)


def nest_fields(written: Mapping[str, object]) -> dict[str, object]:
    nested: dict[str, object] = {}
    for key, given in written.items():
        group, dot, name = FLAT_FIELDS.get(key, key).partition(".")
        nested = merge_fields(nested, {group: {name: given}} if dot else {group: given})
    return nested


def merge_fields(base: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """`base` with `changes`; a group that both have is merged field by field."""
    merged = dict(base)
    for key, change in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(change, Mapping):
            merged[key] = {**old, **change}
        else:
            merged[key] = change
    return merged


def explain(error: msgspec.ValidationError, *known: type[Struct]) -> tuple[str, str]:
    """The path of the field that a validation error is about, and what is wrong with it."""
    what, _, place = str(error).partition(" - at `$")
    path = place.rstrip("`").removeprefix(".")
    if unknown := UNKNOWN_FIELD.search(what):
        names = [name for shape in known for name in shape.__struct_encode_fields__]
        return join_path(path, unknown[1]), "is no field here" + suggest(unknown[1], names)
    if missing := MISSING_FIELD.search(what):
        return join_path(path, missing[1]), "is missing"
    return path, what[:1].lower() + what[1:]


def as_written(path: str, value: object) -> str:
    """The operator's own name for a field that has a flat spelling."""
    written = value if isinstance(value, Mapping) else {}
    return next((flat for flat, nested in FLAT_FIELDS.items() if nested == path and flat in written), path)


def suggest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def list_names(names: Iterable[str]) -> str:
    return f"; there are: {', '.join(sorted(names))}"


def join_path(where: str, field: str) -> str:
    return f"{where}.{field}" if where and field else where or field


def compile_plan(scheme: Scheme) -> Plan:
    """Read a scheme's texts. Raises ConfigError, starting with the field's name."""
    pieces = parse_template(scheme.template) if scheme.kind in DECLARATIVE else ()
    content = tuple(piece for piece in pieces if piece.kind in CONTENT_PIECES)
    identities = scheme.delivery_id.split("+") if scheme.delivery_id else ()
    kinds = ("header", "body", "form")
    header = (scheme.header or BASIC_HEADER).lower()
    elsewhere = parse_source(scheme.proof, ("body", "form", "query"), "proof") if scheme.proof else None
    return Plan(
        header=header,
        proof=elsewhere or Source("header", header),
        pieces=pieces,
        partial=() if any(piece.kind == "body" for piece in pieces) else content,
        signs_time=any(piece.kind == "timestamp" for piece in pieces),
        id_sources=tuple(parse_source(text, kinds, "delivery_id") for text in identities),
        type_source=parse_source(scheme.event_type, kinds, "event_type") if scheme.event_type else None,
    )


def parse_template(template: str) -> tuple[Piece, ...]:
    texts = PLACEHOLDER.split(template)
    literals, inners = texts[::2], texts[1::2]
    if any("{" in literal or "}" in literal for literal in literals):
        raise ConfigError("template: has a brace without its pair")
    pieces = [Piece("text", literals[0], "")]
    for inner, literal in zip(inners, literals[1:], strict=True):
        pieces += (parse_piece(inner, literal), Piece("text", literal, ""))
    return tuple(piece for piece in pieces if piece.kind != "text" or piece.name)


def parse_piece(inner: str, until: str) -> Piece:
    kind, _, name = inner.partition(".")
    known = bool(name) if kind in NAMED_PIECES else inner in PLAIN_PIECES
    if not known:
        raise ConfigError(f"template: there is no piece {{{inner}}}{list_names(PIECE_FORMS)}")
    return Piece(kind, name.lower() if kind == "header" else name, until)


def parse_source(text: str, kinds: Sequence[str], field: str) -> Source:
    kind, _, name = text.partition(":")
    if kind not in kinds or not name:
        forms = " or ".join(f"{known}:NAME" for known in kinds)
        raise ConfigError(f"{field}: {text!r} says not where the value stands; write {forms}")
    return Source(kind, name.lower() if kind == "header" else name)


def check_scheme(scheme: Scheme) -> None:
    """Raise ConfigError, starting with the field's name, when the scheme's parts don't fit together."""
    _ = scheme.plan
    check_fields(scheme)
    check_place(scheme)
    check_choice(scheme, "alg", ALGORITHMS_OF)
    check_choice(scheme, "key", KEY_FORMS_OF)
    check_own(scheme)
    if scheme.kind in DECLARATIVE:
        check_template(scheme)
        check_time(scheme)


def check_fields(scheme: Scheme) -> None:
    for field in (*DECLARED, *OWN):
        if getattr(scheme, field) != DEFAULTS[field] and field not in TAKES[scheme.kind]:
            others = ", ".join(TAKES[scheme.kind]) or "nothing of the kind"
            raise ConfigError(f"{field}: means nothing for kind {scheme.kind}, which takes {others}")


def check_own(scheme: Scheme) -> None:
    timing = scheme.timestamp
    if timing is None:
        return
    if timing.source != TIMES_OF.get(scheme.kind, timing.source):
        raise ConfigError(f"timestamp.from: the time that kind {scheme.kind} signs is {TIMES_OF[scheme.kind]}")
    if scheme.kind == "cavage" and timing.place.kind != "header" and timing.source != "field:created":
        raise ConfigError("timestamp.from: the time of kind cavage is header:NAME or field:created")


def check_place(scheme: Scheme) -> None:
    if scheme.kind not in HEADERLESS and not scheme.header and not scheme.proof:
        raise ConfigError(f"header: is missing; kind {scheme.kind} needs the name of the header with the proof")
    if scheme.header and scheme.proof:
        raise ConfigError("proof: says that the proof stands elsewhere than in a header; keep one of header and proof")


def check_choice(scheme: Scheme, field: str, choices: Mapping[str, tuple[str, ...]]) -> None:
    known = choices.get(scheme.kind)
    if known and getattr(scheme, field) not in known:
        raise ConfigError(f"{field}: kind {scheme.kind} takes one of {', '.join(known)}")


def check_template(scheme: Scheme) -> None:
    if not any(piece.kind in CONTENT_PIECES for piece in scheme.plan.pieces):
        raise ConfigError("template: signs nothing of the message; it needs {body}, or a field of it")
    if scheme.plan.proof.kind in ("body", "form") and any(
        piece.kind in ("body", "payload") for piece in scheme.plan.pieces
    ):
        raise ConfigError("template: the proof stands in the body, which can't be signed as a whole then")
    if scheme.plan.signs_time and not scheme.timestamp:
        raise ConfigError("timestamp: is missing; the template has {timestamp}, so say where the time stands")
    if scheme.list and scheme.prefix:
        raise ConfigError("prefix: is for a header with one signature; in a list, sig_key names the version")


def check_time(scheme: Scheme) -> None:
    timing = scheme.timestamp
    if timing is None:
        return
    if timing.place.kind == "field" and (not scheme.list or timing.place.name == scheme.list.sig_key):
        raise ConfigError("timestamp.from: a field needs a `list`, and another key than its sig_key")
    if not scheme.plan.signs_time and not is_signed(timing.place, scheme.plan.pieces):
        raise ConfigError("timestamp.from: this time is not signed, so it proves nothing; sign {timestamp}")


def is_signed(source: Source, pieces: Sequence[Piece]) -> bool:
    """True when what stands at `source` is among the signed pieces."""
    exact = any((piece.kind, piece.name) == (source.kind, source.name) for piece in pieces)
    within = {
        "body": (("body", ""), ("payload", ""), ("json", source.name)),
        "form": (("body", ""),),
    }.get(source.kind, ())
    return exact or any((piece.kind, piece.name) in within for piece in pieces)


PRESETS: Final[Mapping[str, Scheme]] = {name: read_scheme(name, "presets") for name in ROWS}
