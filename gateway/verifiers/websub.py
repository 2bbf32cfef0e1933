"""WebSub: `X-Hub-Signature: METHOD=HEX`, an HMAC of the body by the method that the header names.

Source: W3C WebSub, 7 "Authenticated Content Distribution". It is the one sender whose header chooses the hash, out of
the four that the standard lists; none of them is known to be weak in an HMAC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.proofs import Request, Verdict, read_proof, refuse
from gateway.schemes import Scheme
from gateway.verifiers.encodings import decode_hex
from gateway.verifiers.keys import DIGEST_SIZES, compute_digest, find_match, judge_match, read_key, read_keys
from gateway.verifiers.placing import Signed, add_value

METHODS: Final = ("sha1", "sha256", "sha384", "sha512")
OURS: Final = "sha256"


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """The body's digest by one of METHODS, under any of the secrets."""
    keys, fault = read_keys(scheme.key, secrets)
    value = read_proof(scheme.plan.proof, request)
    if isinstance(value, Verdict):
        return fault or value
    method, equals, text = value.partition("=")
    if not equals:
        return fault or refuse("malformed_header")
    if method not in METHODS:
        return fault or refuse("no_candidate")
    digest = decode_hex(text)
    if digest is None or len(digest) != DIGEST_SIZES[method]:
        return fault or refuse("bad_encoding")
    made = [compute_digest(key, (request.body,), method) for key in keys]
    return judge_match(find_match(made, (digest,)), fault)


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The digest by SHA-256."""
    digest = compute_digest(read_key(scheme.key, secret), (request.body,), OURS)
    return add_value(scheme.plan.proof, f"{OURS}={digest.hex()}", request, scheme.header)
