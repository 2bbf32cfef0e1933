"""HTTP Message Signatures (RFC 9421), on requests.

Which algorithm, whose key, which label and what has to be covered is the configuration's word, never the message's.
A message that names an algorithm of its own has to name the configured one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import http_sf
from msgspec import Struct

from gateway.proofs import Request, Verdict, refuse
from gateway.schemes import Scheme
from gateway.verifiers.claims import judge_age, unsignable
from gateway.verifiers.components import Component, Coverage, read_coverage, write_base
from gateway.verifiers.digests import HASHES, holds_content_digest, write_content_digest
from gateway.verifiers.messagekeys import BY_KEY, find_key, pin_algorithm, sign_bytes
from gateway.verifiers.placing import Signed

MAX_SIGNATURES: Final = 5
MAX_HEADER: Final = 8192
DIGEST: Final = "content-digest"
# Whoever covers the first has covered the second.
INCLUDED: Final[Mapping[str, tuple[str, ...]]] = {
    "@authority": ("@target-uri",),
    "@path": ("@target-uri", "@request-target"),
    "@query": ("@target-uri", "@request-target"),
}


class Labelled(Struct, frozen=True):
    """One signature of a message: what it covers, and its bytes."""

    coverage: Coverage
    signature: bytes


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """Judge the signature of the configured label; without one any label may do. Never raises.

    Refused are, once a signature holds: what `require` names and it doesn't cover, a Content-Digest that is covered
    and is not the body's, no `created`, or times outside the tolerance.
    """
    found = read_signatures(scheme, request)
    if isinstance(found, Verdict):
        return found
    refusals = []
    for labelled in found:
        verdict = judge_signature(scheme, secrets, request, labelled)
        if verdict.valid:
            verdict = judge_rest(scheme, request, labelled.coverage, now) or verdict
        if verdict.valid:
            return verdict
        refusals.append(verdict)
    # A signature that holds, and fails later, tells more than one that doesn't.
    return next((each for each in refusals if each.reason != "mismatch"), refusals[0])


def read_times(scheme: Scheme, request: Request) -> Sequence[str]:
    """When each of the signatures that may count was made: a replay has the true one among them, whatever it adds."""
    found = read_signatures(scheme, request)
    if isinstance(found, Verdict):
        return ()
    return [str(each.coverage.parameters["created"]) for each in found if "created" in each.coverage.parameters]


def read_signatures(scheme: Scheme, request: Request) -> Sequence[Labelled] | Verdict:
    """The signatures that may count, at least one."""
    inputs, signatures = read_dictionary(request, "signature-input"), read_dictionary(request, "signature")
    if isinstance(inputs, Verdict):
        return inputs
    if isinstance(signatures, Verdict):
        return signatures
    labels = [label for label in inputs if label in signatures and scheme.label in (None, label)]
    if not labels:
        return refuse("no_candidate")
    if len(labels) > MAX_SIGNATURES:
        return refuse("too_many_candidates")
    read = [read_labelled(inputs[label], signatures[label]) for label in labels]
    faults = [each for each in read if isinstance(each, Verdict)]
    return [each for each in read if isinstance(each, Labelled)] or faults[0]


def read_labelled(member: object, signature: object) -> Labelled | Verdict:
    coverage = read_coverage(member)
    if isinstance(coverage, Verdict):
        return coverage
    value = signature[0] if isinstance(signature, tuple) else None
    return Labelled(coverage, value) if isinstance(value, bytes) and value else refuse("bad_encoding")


def read_dictionary(request: Request, name: str) -> dict[str, Any] | Verdict:
    """A header that is a dictionary, which may stand on several lines; a name that comes twice is refused."""
    text = ", ".join(request.values(name))
    if not text:
        return refuse("missing_header")
    if len(text) > MAX_HEADER:
        return refuse("malformed_header")
    try:
        found = http_sf.parse(text.encode("latin-1"), tltype="dictionary", on_duplicate_key=refuse_twice)
    except ValueError:
        return refuse("malformed_header")
    assert isinstance(found, dict)
    return found


def refuse_twice(key: str, context: str) -> None:
    raise ValueError(key)


def judge_signature(scheme: Scheme, secrets: Sequence[str], request: Request, labelled: Labelled) -> Verdict:
    named = labelled.coverage.parameters.get("alg")
    if scheme.alg != BY_KEY and named not in (None, scheme.alg):
        return refuse("mismatch")
    base = write_base(labelled.coverage, request)
    if isinstance(base, Verdict):
        return base
    return find_key(scheme, secrets, labelled.signature, base, None if named is None else {named})


def judge_rest(scheme: Scheme, request: Request, coverage: Coverage, now: float) -> Verdict | None:
    """A refusal of a signature that holds, or None."""
    if any(not is_covered(name, coverage, request) for name in scheme.require or ()):
        return refuse("uncovered")
    if any(covers_body(each) for each in coverage.components) and not holds_content_digest(request):
        return refuse("wrong_digest")
    return judge_times(scheme, coverage, now)


def is_covered(name: str, coverage: Coverage, request: Request) -> bool:
    if name == DIGEST:
        return not request.body or any(covers_body(each) for each in coverage.components)
    whole = {each.name for each in coverage.components if "key" not in each.parameters}
    return not whole.isdisjoint((name, *INCLUDED.get(name, ())))


def covers_body(component: Component) -> bool:
    """Whether the whole header is covered, or one member of it that counts."""
    return component.name == DIGEST and component.parameters.get("key", "sha-256") in HASHES


def judge_times(scheme: Scheme, coverage: Coverage, now: float) -> Verdict | None:
    expires, created = (coverage.parameters.get(name) for name in ("expires", "created"))
    if not all(each is None or is_whole(each) for each in (expires, created)):
        return refuse("malformed_timestamp")
    if scheme.timestamp is not None:
        refusal = refuse("missing_timestamp") if created is None else judge_age(created, scheme.timestamp, now)
        if refusal is not None:
            return refusal
    # Written so that a clock that is no number refuses.
    return None if expires is None or now <= expires else refuse("stale")


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# ---- signing

COVERED: Final = ("@method", "@authority", "@path", "@query", DIGEST)


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """Content-Digest, Signature-Input and Signature; with a private key in PEM where the algorithm wants one.

    Covered is what `require` names, or COVERED. Raises ConfigError when the request lacks some of it.
    """
    scheme = pin_algorithm(scheme, secret)
    added = () if request.values(DIGEST) else (("Content-Digest", write_content_digest(request.body)),)
    lowered = tuple((name.lower(), value) for name, value in added)
    whole = Request(request.method, request.url, (*request.headers, *lowered), request.body)
    components = tuple(Component(name, {}) for name in scheme.require or COVERED)
    coverage = Coverage(components, {"created": int(now), "alg": scheme.alg})
    base = write_base(coverage, whole)
    if isinstance(base, Verdict):
        raise unsignable(base)
    label = scheme.label or "sig1"
    signature = http_sf.ser({label: (sign_bytes(scheme, secret, base), {})})
    return Signed(headers=(*added, ("Signature-Input", f"{label}={coverage.text}"), ("Signature", signature)))
