"""Netlify: a JWS in a header, whose claims hold the body's SHA-256.

Only HS256 is ever computed: what the token says of its algorithm is checked, never followed.

Source: Netlify, "Deploy notifications: payload signature"; RFC 7515 (JWS), compact serialization.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gateway.proofs import Request, Verdict, read_proof, refuse
from gateway.schemes import Scheme
from gateway.verifiers.keys import compute_digest, find_match, judge_match, read_key, read_keys
from gateway.verifiers.placing import Signed, add_value

ISSUER: Final = "netlify"
ALGORITHM: Final = "HS256"
LONGEST: Final = 4096


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """The token's signature under any of the secrets; then its algorithm, its issuer, and the body's hash."""
    keys, fault = read_keys(scheme.key, secrets)
    value = read_proof(scheme.plan.proof, request)
    if isinstance(value, Verdict):
        return fault or value
    parts = value.split(".")
    if len(value) > LONGEST or len(parts) != 3:
        return fault or refuse("malformed_header")
    signature = decode_base64url(parts[2])
    if not signature or len(signature) != hashlib.sha256().digest_size:
        return fault or refuse("bad_encoding")
    signed = value.rpartition(".")[0].encode("ascii")
    digests = [compute_digest(key, (signed,), "sha256") for key in keys]
    verdict = judge_match(find_match(digests, (signature,)), fault)
    return (judge_claims(parts, request.body) or verdict) if verdict.valid else verdict


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The token of this body."""
    claims = {"iss": ISSUER, "sha256": hashlib.sha256(request.body).hexdigest()}
    parts = [encode_base64url(msgspec.json.encode(each)) for each in ({"alg": ALGORITHM, "typ": "JWT"}, claims)]
    signed = ".".join(parts)
    digest = compute_digest(read_key(scheme.key, secret), (signed.encode("ascii"),), "sha256")
    return add_value(scheme.plan.proof, f"{signed}.{encode_base64url(digest)}", request, scheme.header)


def judge_claims(parts: Sequence[str], body: bytes) -> Verdict | None:
    """A refusal for a token that is not what Netlify signs, or of another body; None when all is well."""
    header, claims = (read_part(part) for part in parts[:2])
    # `crit` would ask for extensions that nobody here understands (RFC 7515, 4.1.11).
    if header.get("alg") != ALGORITHM or "crit" in header or claims.get("iss") != ISSUER:
        return refuse("malformed_header")
    told = claims.get("sha256")
    if not isinstance(told, str) or not told.isascii():
        return refuse("malformed_header")
    right = hashlib.sha256(body).hexdigest()
    return None if hmac.compare_digest(told.lower(), right) else refuse("mismatch")


def read_part(part: str) -> dict[str, Any]:
    """The JSON object of one part; an empty one for anything else."""
    try:
        return msgspec.json.decode(decode_base64url(part) or b"", type=dict[str, Any])
    except (ValueError, RecursionError):
        return {}


def decode_base64url(text: str) -> bytes | None:
    """Bytes of unpadded base64url in its one canonical spelling; None for anything else."""
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    return decoded if encode_base64url(decoded) == text else None


def encode_base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")
