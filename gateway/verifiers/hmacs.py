"""HMAC in the declarative form: most senders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.proofs import Request, Verdict, refuse
from gateway.schemes import Scheme
from gateway.verifiers.claims import judge_time, place_signature, read_claim, write_claim
from gateway.verifiers.keys import DIGEST_SIZES, compute_digest, find_match, read_key, read_keys
from gateway.verifiers.placing import Signed

# A whole digest, and nothing shorter.
SIZES: Final[Mapping[str, range]] = {alg: range(size, size + 1) for alg, size in DIGEST_SIZES.items()}


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """The digest of what the template names, under any of the secrets; then the signed time, if there is one."""
    keys, fault = read_keys(scheme.key, secrets)
    claim = read_claim(scheme, request, SIZES[scheme.alg])
    if isinstance(claim, Verdict):
        return fault or claim
    digests = [compute_digest(key, claim.signed, scheme.alg) for key in keys]
    match = find_match(digests, claim.candidates)
    if fault is not None or match is None:
        return fault or refuse("mismatch")
    return judge_time(scheme, request, claim, now) or Verdict(True, "valid", match)


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The digest where the scheme has it. Raises ConfigError when the request lacks something that is signed."""
    signed, fields = write_claim(scheme, request, now)
    digest = compute_digest(read_key(scheme.key, secret), signed, scheme.alg)
    return place_signature(scheme, request, fields, digest)
