"""What a request of the declarative form claims: its signatures, the bytes they are of, and the time it was signed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from gateway.errors import ConfigError
from gateway.proofs import (
    REASONS,
    TIME_WRITERS,
    Request,
    Stamp,
    Verdict,
    read_header,
    read_proof,
    read_signed,
    read_stamp,
    refuse,
)
from gateway.schemes import Scheme, Timestamp
from gateway.verifiers.encodings import DECODERS, ENCODERS
from gateway.verifiers.placing import Signed, add_value

MAX_CANDIDATES: Final = 5
MAX_LIST_ITEMS: Final = 32


class Claim(Struct, frozen=True):
    """What a request claims: the signed bytes (in parts), the signatures, and the entries beside them."""

    signed: Sequence[bytes]
    candidates: Sequence[bytes]
    fields: Sequence[tuple[str, str]]
    stamp: Stamp | None


def read_claim(scheme: Scheme, request: Request, sizes: range) -> Claim | Verdict:
    """Read the claim; `sizes` are the lengths that a whole signature may have, in bytes."""
    plan = scheme.plan
    value = read_header(request, plan.header) if plan.proof.kind == "header" else read_proof(plan.proof, request)
    if isinstance(value, Verdict):
        return value
    fields = split_header(scheme, value)
    if isinstance(fields, Verdict):
        return fields
    candidates = read_candidates(scheme, fields, sizes)
    if isinstance(candidates, Verdict):
        return candidates
    stamp = read_stamp(scheme.timestamp, request, fields) if plan.signs_time else None
    if isinstance(stamp, Verdict):
        return stamp
    signed = read_signed(plan.pieces, request, stamp.text if stamp else "")
    return signed if isinstance(signed, Verdict) else Claim(signed, candidates, fields, stamp)


def read_content(scheme: Scheme, request: Request) -> bytes:
    """What is signed of the content, however it is wrapped: a form's field may be encoded in many ways."""
    if not scheme.plan.partial:
        return request.body
    signed = read_signed(scheme.plan.partial, request, "")
    return request.body if isinstance(signed, Verdict) else b"\0".join(signed)


def read_times(scheme: Scheme, request: Request) -> Sequence[str]:
    """The time that a verified request was signed at, as it is written there; none where nothing signs one."""
    timing = scheme.timestamp
    if timing is None:
        return ()
    value = read_header(request, scheme.plan.header) if timing.place.kind == "field" else ""
    fields = () if isinstance(value, Verdict) or not value else split_header(scheme, value)
    stamp = refuse("malformed_header") if isinstance(fields, Verdict) else read_stamp(timing, request, fields)
    return () if stamp is None or isinstance(stamp, Verdict) else (stamp.text,)


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


def read_candidates(scheme: Scheme, fields: Sequence[tuple[str, str]], sizes: range) -> Sequence[bytes] | Verdict:
    """The signatures among the entries, decoded; other versions are passed over, and never accepted."""
    wanted = scheme.list.sig_key if scheme.list else ""
    texts = [text for key, text in fields if key == wanted]
    if not texts:
        return refuse("no_candidate")
    if len(texts) > MAX_CANDIDATES:
        return refuse("too_many_candidates")
    decoded = [DECODERS[scheme.enc](text) for text in texts]
    return [each for each in decoded if each and len(each) in sizes] or refuse("bad_encoding")


def judge_time(scheme: Scheme, request: Request, claim: Claim, now: float) -> Verdict | None:
    """A refusal when the signed time is too far from `now`, else None; asked once the signature holds."""
    timing = scheme.timestamp
    if timing is None:
        return None
    stamp = claim.stamp or read_stamp(timing, request, claim.fields)
    if stamp is None or isinstance(stamp, Verdict):
        return stamp
    return judge_age(stamp.seconds, timing, now)


def judge_age(seconds: float, timing: Timestamp, now: float) -> Verdict | None:
    """A refusal for a time that lies too far from `now`, else None."""
    age = now - seconds
    if age < -timing.future:
        return refuse("future")
    # Written so that a clock that is no number refuses.
    return None if age <= timing.tolerance else refuse("stale")


# ---- signing


def write_claim(scheme: Scheme, request: Request, now: float) -> tuple[Sequence[bytes], Sequence[tuple[str, str]]]:
    """The bytes to sign, and the entries that stand before the signature. Raises ConfigError when some are missing."""
    fields = own_fields(scheme, now)
    stamp = read_stamp(scheme.timestamp, request, fields) if scheme.plan.signs_time else None
    if isinstance(stamp, Verdict):
        raise unsignable(stamp)
    signed = read_signed(scheme.plan.pieces, request, stamp.text if stamp else "")
    if isinstance(signed, Verdict):
        raise unsignable(signed)
    return signed, fields


def place_signature(scheme: Scheme, request: Request, fields: Sequence[tuple[str, str]], signature: bytes) -> Signed:
    """The signature, written as the scheme writes it, where the scheme has it."""
    text = write_signature(scheme, fields, ENCODERS[scheme.enc](signature))
    return add_value(scheme.plan.proof, text, request, scheme.header)


def own_fields(scheme: Scheme, now: float) -> Sequence[tuple[str, str]]:
    timing = scheme.timestamp
    if timing is None or timing.place.kind != "field":
        return ()
    return ((timing.place.name, TIME_WRITERS[timing.unit](now)),)


def write_signature(scheme: Scheme, fields: Sequence[tuple[str, str]], signature: str) -> str:
    form = scheme.list
    if form is None:
        return scheme.prefix + signature
    entries = (*fields, (form.sig_key, signature))
    return form.item_sep.join(f"{key}{form.kv_sep}{text}" for key, text in entries)


def unsignable(refusal: Verdict) -> ConfigError:
    """What signing says of a request that verifying would refuse."""
    return ConfigError(f"this request can't be signed by the scheme: {REASONS[refusal.reason]}")
