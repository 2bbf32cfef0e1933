"""Travis CI: RSA with SHA-1 over the decoded form field `payload`, by the key that its API tells.

Source: travis-ci/webhook-signature-verifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.errors import ConfigError
from gateway.proofs import Request, Verdict, read_field, read_header, refuse
from gateway.schemes import Scheme
from gateway.verifiers.asymmetric import sign_text
from gateway.verifiers.encodings import decode_base64, encode_base64
from gateway.verifiers.messagekeys import check_public, find_public
from gateway.verifiers.placing import Signed

ALGORITHM: Final = "rsa-v1_5-sha1"
FIELD: Final = "payload"
HEADER: Final = "signature"
ADDRESS: Final = "https://api.travis-ci.com/config"


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """Judge a request by public keys, fetched from where `find_address` says or pinned. Never raises."""
    claim = read_claim(request)
    return claim if isinstance(claim, Verdict) else find_public(ALGORITHM, secrets, *claim)


def find_address(scheme: Scheme, request: Request) -> str | Verdict:
    """Where the key is: ever the same place. Or why the request is refused already, and nothing fetched."""
    claim = read_claim(request)
    return claim if isinstance(claim, Verdict) else ADDRESS


def read_content(scheme: Scheme, request: Request) -> bytes:
    """What is signed: the field, however it is encoded."""
    return read_field(request.body, FIELD) or request.body


def read_claim(request: Request) -> tuple[bytes, bytes] | Verdict:
    """The signature, and the bytes that it is of."""
    value = read_header(request, HEADER)
    if isinstance(value, Verdict):
        return value
    signature = decode_base64(value)
    if not signature:
        return refuse("bad_encoding")
    # What stands beside the field is signed by nobody, and Travis CI sends nothing else.
    payload = None if b"&" in request.body else read_field(request.body, FIELD)
    return (signature, payload) if payload else refuse("malformed_body")


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The signature's header, by a private key in PEM. Raises ConfigError for a body without the field."""
    payload = read_field(request.body, FIELD)
    if not payload:
        raise ConfigError("the body has to be a form with one field `payload`")
    try:
        signature = sign_text(ALGORITHM, secret, payload)
    except (ValueError, TypeError):
        raise ConfigError("signing takes an RSA private key in PEM") from None
    return Signed(headers=(("Signature", encode_base64(signature)),))


def check(scheme: Scheme, secret: str) -> None:
    """A secret pins the public key. Raises ConfigError for anything else."""
    check_public(ALGORITHM, secret)
