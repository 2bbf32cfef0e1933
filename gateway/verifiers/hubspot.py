"""HubSpot's first two versions: a plain SHA-256 with the secret in front, not an HMAC.

Version 1 hashes secret and body; version 2 secret, method, URL and body. HubSpot sends the headers of several versions
at once, so only the configured one counts.

Source: HubSpot, "Validating requests", and hubspot-api-python, `hubspot/utils/signature.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from gateway.proofs import Request, Verdict, read_header, read_proof, refuse
from gateway.schemes import Scheme
from gateway.verifiers.claims import unsignable
from gateway.verifiers.encodings import decode_hex
from gateway.verifiers.keys import find_match, judge_match, read_key, read_keys
from gateway.verifiers.placing import Signed, add_value

VERSION_HEADER: Final = "X-HubSpot-Signature-Version"
DIGEST_BYTES: Final = 32


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """The digest of the configured version, under any of the secrets; a header that names another is refused."""
    keys, fault = read_keys(scheme.key, secrets)
    shown = read_digest(scheme, request)
    if isinstance(shown, Verdict):
        return fault or shown
    message = read_message(scheme, request)
    if isinstance(message, Verdict):
        return fault or message
    digests = [compute(key, message) for key in keys]
    return judge_match(find_match(digests, (shown,)), fault)


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """Version and digest. Raises ConfigError for a request without what is signed."""
    message = read_message(scheme, request)
    if isinstance(message, Verdict):
        raise unsignable(message)
    digest = compute(read_key(scheme.key, secret), message).hex()
    signature = add_value(scheme.plan.proof, digest, request, scheme.header)
    return Signed(((VERSION_HEADER, version_of(scheme)), *signature.headers))


def version_of(scheme: Scheme) -> str:
    return scheme.kind.partition("-")[2]


def read_digest(scheme: Scheme, request: Request) -> bytes | Verdict:
    version = read_header(request, VERSION_HEADER.lower())
    if isinstance(version, Verdict):
        return version
    if version != version_of(scheme):
        return refuse("no_candidate")
    value = read_proof(scheme.plan.proof, request)
    if isinstance(value, Verdict):
        return value
    digest = decode_hex(value)
    return digest if digest and len(digest) == DIGEST_BYTES else refuse("bad_encoding")


def read_message(scheme: Scheme, request: Request) -> Sequence[bytes] | Verdict:
    # Such a digest can be continued by who doesn't know the secret, but only behind padding that has a NUL in it.
    if b"\0" in request.body:
        return refuse("malformed_body")
    if version_of(scheme) == "v1":
        return (request.body,)
    if not request.method or not request.url:
        return refuse("missing_context")
    parts = (request.method, request.url)
    return (*(part.encode("utf-8", "surrogatepass") for part in parts), request.body)


def compute(key: bytes, message: Sequence[bytes]) -> bytes:
    digest = hashlib.sha256(key)
    for part in message:
        digest.update(part)
    return digest.digest()
