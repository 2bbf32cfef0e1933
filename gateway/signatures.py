"""Who sent this: webhook signatures, judged from values alone, and made the way a sender makes them.

A `Scheme` says how one sender signs; `PRESETS` has one for each known sender, and an operator may write
another in the same words. `verify` judges the raw bytes of one request and never raises: a refusal is a
`Verdict` with a reason from `REASONS`. Nothing is parsed before the signature holds, except a field that the
scheme itself signs.

A kind of proof is a row in `VERIFIERS` and one in `SIGNERS`; a piece of a template is a row in `PIECES`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from gateway.errors import ConfigError
from gateway.proofs import (
    REASONS,
    TIME_WRITERS,
    Headers,
    Request,
    Stamp,
    Verdict,
    read_header,
    read_signed,
    read_source,
    read_stamp,
    refuse,
)
from gateway.schemes import BASIC_HEADER, PRESETS, KeyForm, ListFormat, Scheme, Timestamp, explain, read_scheme

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
    "verify",
]

DIGEST_SIZES: Final[Mapping[str, int]] = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
MAX_CANDIDATES: Final = 5
MAX_LIST_ITEMS: Final = 32
# Spent when no secret is usable, so that the answer takes as long as with one.
DUMMY_KEYS: Final = (bytes(32),)


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """Judge the proof that `request` carries; `now` is in Unix seconds. Never raises.

    Every secret is tried, with comparisons in constant time on decoded bytes. Refused are: no secret or an
    empty one; a missing, empty, doubled or non-ASCII header; anything but the exact encoding of a whole
    digest; more than MAX_CANDIDATES signatures; and, once the signature holds, a time outside the tolerance.
    """
    return VERIFIERS[scheme.kind](scheme, secrets, request, now)


def sign(scheme: Scheme, secret: str, request: Request, now: float, delivery_id: str) -> tuple[tuple[str, str], ...]:
    """The headers a sender of this scheme adds: delivery id, time, signature.

    A header that `request` already has is kept and signed as it is. Raises ConfigError when the secret is
    unusable or the request lacks something the scheme signs.
    """
    check_secret(scheme, secret, "secret")
    keys, _ = read_keys(scheme.key, (secret,))
    added = companion_headers(scheme, request, now, delivery_id)
    lowered = tuple((name.lower(), value) for name, value in added)
    whole = Request(request.method, request.url, (*request.headers, *lowered), request.body)
    if scheme.kind == "none":
        return added
    proof = SIGNERS[scheme.kind](scheme, keys[0], whole, now)
    return (*added, (scheme.header or BASIC_HEADER, proof))


def check_secret(scheme: Scheme, secret: str, where: str) -> None:
    """Raise ConfigError, naming `where` but never the secret, when this scheme can't use `secret`."""
    _, fault = read_keys(scheme.key, (secret,))
    if fault is not None and scheme.kind != "none":
        raise ConfigError(f"{where}: {REASONS[fault.reason]} (key: {scheme.key})")
    if scheme.kind == "basic" and ":" not in secret:
        raise ConfigError(f"{where}: Basic credentials are written user:password")
    if scheme.kind == "token" and not is_header_text(secret):
        raise ConfigError(f"{where}: a token has to be printable ASCII, as a header can carry nothing else")


def delivery_id(scheme: Scheme, request: Request, body: object) -> str | None:
    """The sender's id of this delivery, or None when it has none or it can't be read.

    `body` is the parsed JSON, or None. A doubled header gives None: which line counts would be a guess.
    """
    parts = [read_source(source, request, body) for source in scheme.plan.id_sources]
    found = [part for part in parts if part]
    return " ".join(found) if found and len(found) == len(parts) else None


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


# ---- verifying


def verify_hmac(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    keys, fault = read_keys(scheme.key, secrets)
    claim = read_claim(scheme, request)
    if isinstance(claim, Verdict):
        return fault or claim
    digests = [compute_digest(key, claim.signed, scheme.alg) for key in keys]
    match = find_match(digests, claim.candidates)
    if fault is not None or match is None:
        return fault or refuse("mismatch")
    return judge_time(scheme, request, claim, now) or Verdict(True, "valid", match)


def verify_token(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    return verify_shared(scheme, secrets, read_prefixed(scheme, request, scheme.prefix))


def verify_basic(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    value = read_prefixed(scheme, request, "Basic ")
    if isinstance(value, Verdict):
        return verify_shared(scheme, secrets, value)
    return verify_shared(scheme, secrets, decode_base64(value.decode("ascii")) or refuse("bad_encoding"))


def verify_none(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    return Verdict(True, "unsigned")


def verify_shared(scheme: Scheme, secrets: Sequence[str], shown: bytes | Verdict) -> Verdict:
    """Compare a value that is the secret itself; hashed first, so that the time tells not even its length."""
    keys, fault = read_keys(scheme.key, secrets)
    if isinstance(shown, Verdict):
        return fault or shown
    digests = [hashlib.sha256(key).digest() for key in keys]
    match = find_match(digests, (hashlib.sha256(shown).digest(),))
    if fault is not None or match is None:
        return fault or refuse("mismatch")
    return Verdict(True, "valid", match)


Verifier = Callable[[Scheme, Sequence[str], Request, float], Verdict]
VERIFIERS: Final[Mapping[str, Verifier]] = {
    "hmac": verify_hmac,
    "token": verify_token,
    "basic": verify_basic,
    "none": verify_none,
}


class Claim(Struct, frozen=True):
    """What a request claims: the signed bytes (in parts), the signatures, and the entries beside them."""

    signed: Sequence[bytes]
    candidates: Sequence[bytes]
    fields: Sequence[tuple[str, str]]
    stamp: Stamp | None


def find_match(digests: Sequence[bytes], candidates: Sequence[bytes]) -> int | None:
    """The index of the first digest that is among the candidates; all are compared whatever is found."""
    match = None
    for index, digest in enumerate(digests):
        for candidate in candidates:
            if hmac.compare_digest(digest, candidate) and match is None:
                match = index
    return match


def compute_digest(key: bytes, signed: Sequence[bytes], alg: str) -> bytes:
    mac = hmac.new(key, signed[0], alg)
    for part in signed[1:]:
        mac.update(part)
    return mac.digest()


def read_claim(scheme: Scheme, request: Request) -> Claim | Verdict:
    value = read_header(request, scheme.plan.header)
    if isinstance(value, Verdict):
        return value
    fields = split_header(scheme, value)
    if isinstance(fields, Verdict):
        return fields
    candidates = read_candidates(scheme, fields)
    if isinstance(candidates, Verdict):
        return candidates
    stamp = read_stamp(scheme.timestamp, request, fields) if scheme.plan.signs_time else None
    if isinstance(stamp, Verdict):
        return stamp
    signed = read_signed(scheme.plan.pieces, request, stamp.text if stamp else "")
    return signed if isinstance(signed, Verdict) else Claim(signed, candidates, fields, stamp)


def read_prefixed(scheme: Scheme, request: Request, prefix: str) -> bytes | Verdict:
    value = read_header(request, scheme.plan.header)
    if isinstance(value, Verdict):
        return value
    if not value.startswith(prefix) or len(value) == len(prefix):
        return refuse("malformed_header")
    return value[len(prefix) :].encode("ascii")


def split_header(scheme: Scheme, value: str) -> Sequence[tuple[str, str]] | Verdict:
    """The header's entries; a header that is one signature is one entry under the empty key."""
    form = scheme.list
    if form is None:
        bare = value.removeprefix(scheme.prefix)
        fits = len(bare) + len(scheme.prefix) == len(value)
        return (("", bare),) if fits else refuse("malformed_header")
    if value.count(form.item_sep) >= MAX_LIST_ITEMS:
        return refuse("too_many_candidates")
    entries = [item.partition(form.kv_sep) for item in value.split(form.item_sep)]
    if not all(separator for _, separator, _ in entries):
        return refuse("malformed_header")
    return [(key, text) for key, _, text in entries]


def read_candidates(scheme: Scheme, fields: Sequence[tuple[str, str]]) -> Sequence[bytes] | Verdict:
    """The signatures among the entries, decoded; other versions are passed over, and never accepted."""
    wanted = scheme.list.sig_key if scheme.list else ""
    texts = [text for key, text in fields if key == wanted]
    if not texts:
        return refuse("no_candidate")
    if len(texts) > MAX_CANDIDATES:
        return refuse("too_many_candidates")
    size = DIGEST_SIZES[scheme.alg]
    decoded = [DECODERS[scheme.enc](text) for text in texts]
    return [digest for digest in decoded if digest and len(digest) == size] or refuse("bad_encoding")


def decode_hex(text: str) -> bytes | None:
    """Bytes of hex in either case; None for anything else, spaces included."""
    try:
        return binascii.unhexlify(text)
    except ValueError:
        return None


def decode_base64(text: str) -> bytes | None:
    """Bytes of padded standard base64 in its one canonical spelling; None for anything else."""
    try:
        decoded = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None
    # The strict mode lets the last character's unused bits differ: a second spelling of the same bytes.
    return decoded if binascii.b2a_base64(decoded, newline=False) == text.encode("ascii") else None


DECODERS: Final[Mapping[str, Callable[[str], bytes | None]]] = {"hex": decode_hex, "base64": decode_base64}


# ---- secrets


def read_keys(form: KeyForm, secrets: Sequence[str]) -> tuple[Sequence[bytes], Verdict | None]:
    """The keys of the secrets; or dummy keys, to be spent all the same, and the refusal that then follows."""
    decode = KEY_FORMS[form]
    # One text is a sequence of texts too: its single characters must not become keys.
    several = (secrets,) if isinstance(secrets, str) else secrets
    try:
        keys = [decode(secret) for secret in several]
    except ValueError:
        return DUMMY_KEYS, refuse("bad_secret")
    return (keys, None) if keys and all(keys) else (DUMMY_KEYS, refuse("no_secret"))


def decode_whsec(secret: str) -> bytes:
    """Standard Webhooks secrets: `whsec_` is optional, and so is the padding."""
    text = secret.removeprefix("whsec_").rstrip("=")
    return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)


def decode_padded(secret: str) -> bytes:
    return binascii.a2b_base64(secret, strict_mode=True)


KEY_FORMS: Final[Mapping[str, Callable[[str], bytes]]] = {
    "raw": str.encode,
    "base64": decode_padded,
    "hex": binascii.unhexlify,
    "whsec": decode_whsec,
}


def judge_time(scheme: Scheme, request: Request, claim: Claim, now: float) -> Verdict | None:
    """A refusal when the signed time is too far from `now`, else None; asked once the signature holds."""
    timing = scheme.timestamp
    stamp = claim.stamp or read_stamp(timing, request, claim.fields)
    if timing is None or stamp is None or isinstance(stamp, Verdict):
        return stamp if isinstance(stamp, Verdict) else None
    age = now - stamp.seconds
    if age < -timing.future:
        return refuse("future")
    # Written so that a clock that is no number refuses.
    return None if age <= timing.tolerance else refuse("stale")


# ---- signing


def companion_headers(scheme: Scheme, request: Request, now: float, identity: str) -> Headers:
    """The id's and the time's headers, where the scheme has them and the request has not."""
    written: list[tuple[str, str]] = []
    if len(scheme.plan.id_sources) == 1 and scheme.plan.id_sources[0].kind == "header":
        written.append((header_name(scheme.delivery_id), identity))
    if scheme.timestamp is not None and scheme.timestamp.place.kind == "header":
        written.append((header_name(scheme.timestamp.source), write_time(scheme.timestamp, now)))
    return tuple((name, value) for name, value in written if not request.values(name))


def header_name(source: str | None) -> str:
    """The header's name as the scheme spells it."""
    return (source or "").partition(":")[2]


def write_time(timing: Timestamp, now: float) -> str:
    return TIME_WRITERS[timing.unit](now)


def sign_hmac(scheme: Scheme, key: bytes, request: Request, now: float) -> str:
    fields = own_fields(scheme, now)
    stamp = read_stamp(scheme.timestamp, request, fields) if scheme.plan.signs_time else None
    if isinstance(stamp, Verdict):
        raise unsignable(stamp)
    signed = read_signed(scheme.plan.pieces, request, stamp.text if stamp else "")
    if isinstance(signed, Verdict):
        raise unsignable(signed)
    signature = ENCODERS[scheme.enc](compute_digest(key, signed, scheme.alg))
    return write_signature(scheme, fields, signature)


def sign_token(scheme: Scheme, key: bytes, request: Request, now: float) -> str:
    return scheme.prefix + key.decode()


def sign_basic(scheme: Scheme, key: bytes, request: Request, now: float) -> str:
    return f"Basic {encode_base64(key)}"


SIGNERS: Final[Mapping[str, Callable[[Scheme, bytes, Request, float], str]]] = {
    "hmac": sign_hmac,
    "token": sign_token,
    "basic": sign_basic,
}


def own_fields(scheme: Scheme, now: float) -> Sequence[tuple[str, str]]:
    """The entries that stand before the signature in the header's list."""
    timing = scheme.timestamp
    if timing is None or timing.place.kind != "field":
        return ()
    return ((timing.place.name, write_time(timing, now)),)


def write_signature(scheme: Scheme, fields: Sequence[tuple[str, str]], signature: str) -> str:
    form = scheme.list
    if form is None:
        return scheme.prefix + signature
    entries = (*fields, (form.sig_key, signature))
    return form.item_sep.join(f"{key}{form.kv_sep}{text}" for key, text in entries)


def encode_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


ENCODERS: Final[Mapping[str, Callable[[bytes], str]]] = {"hex": bytes.hex, "base64": encode_base64}


def is_header_text(value: str) -> bool:
    return value.isascii() and value.isprintable()


def unsignable(refusal: Verdict) -> ConfigError:
    return ConfigError(f"this request can't be signed by the scheme: {REASONS[refusal.reason]}")


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
