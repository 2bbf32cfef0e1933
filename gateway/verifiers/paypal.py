"""PayPal: RSA over the transmission's id and time, the webhook's id, and a CRC-32 of the body.

The CRC is no protection of the body: whoever has seen one signed request can make another body with the same one.
So the transmission's id counts as the delivery id, and a second body under it is refused; and TLS has to keep
requests from being seen.

Source: paypalrestsdk, `WebhookEvent.verify`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Final

from gateway.errors import ConfigError
from gateway.proofs import Request, Verdict, read_header, read_rfc3339, refuse
from gateway.schemes import Scheme
from gateway.verifiers.asymmetric import sign_text
from gateway.verifiers.claims import judge_age
from gateway.verifiers.encodings import decode_base64, encode_base64
from gateway.verifiers.messagekeys import check_public, find_public
from gateway.verifiers.placing import Signed

ALGORITHM: Final = "rsa-v1_5-sha256"
NAMES: Final = ("paypal-transmission-id", "paypal-transmission-time", "paypal-transmission-sig", "paypal-cert-url")
AUTH_ALGO: Final = "paypal-auth-algo"
AUTH_ALGO_VALUE: Final = "SHA256withRSA"
ADDRESS: Final = re.compile(r"https://(api|api-m)(\.sandbox)?\.paypal\.com/v1/notifications/certs/[A-Za-z0-9._-]+")
OWNER: Final = ".paypal.com"
"""How the name in PayPal's certificates ends."""


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """Judge a request by certificates or public keys, fetched from where `find_address` says or pinned. Never raises.

    Refused are: a certificate's address that is not PayPal's, whatever the keys; another algorithm; a webhook's id
    that is not configured; and, once the signature holds, a time outside the tolerance, if there is one.
    """
    values = read_values(request)
    if isinstance(values, Verdict):
        return values
    if scheme.webhook_id is None:
        return refuse("missing_context")
    transmission, time, text, _ = values
    signature, seconds = decode_base64(text), read_rfc3339(time)
    if signature is None or seconds is None:
        return refuse("bad_encoding" if signature is None else "malformed_timestamp")
    signed = write_signed(transmission, time, scheme.webhook_id, request.body)
    verdict = find_public(ALGORITHM, secrets, signature, signed)
    timing = scheme.timestamp
    late = judge_age(seconds, timing, now) if verdict.valid and timing is not None else None
    return late or verdict


def find_address(scheme: Scheme, request: Request) -> str | Verdict:
    """Where this request's certificate is; or why it is refused already, and nothing fetched."""
    values = read_values(request)
    return values if isinstance(values, Verdict) else values[3]


def read_values(request: Request) -> tuple[str, str, str, str] | Verdict:
    """Id, time, signature and certificate's address."""
    read = []
    for name in NAMES:
        value = read_header(request, name)
        if isinstance(value, Verdict):
            return value
        read.append(value)
    algorithm = read_header(request, AUTH_ALGO)
    if algorithm != AUTH_ALGO_VALUE:
        return algorithm if isinstance(algorithm, Verdict) else refuse("no_candidate")
    identity, time, signature, address = read
    # A stroke would let one text pass for two.
    if "|" in identity or "|" in time:
        return refuse("malformed_header")
    return (identity, time, signature, address) if ADDRESS.fullmatch(address) else refuse("foreign_key")


def write_signed(transmission: str, time: str, webhook_id: str, body: bytes) -> bytes:
    """What PayPal signs."""
    return f"{transmission}|{time}|{webhook_id}|{zlib.crc32(body)}".encode("utf-8", "surrogatepass")


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The signature's header, by a private key in PEM; id and time have to be there. Raises ConfigError."""
    texts = [read_header(request, name) for name in NAMES[:2]]
    if scheme.webhook_id is None or any(isinstance(text, Verdict) for text in texts):
        raise ConfigError("signing takes `webhook_id`, and the headers of the transmission's id and time")
    signed = write_signed(str(texts[0]), str(texts[1]), scheme.webhook_id, request.body)
    try:
        signature = encode_base64(sign_text(ALGORITHM, secret, signed))
    except (ValueError, TypeError):
        raise ConfigError("signing takes an RSA private key in PEM") from None
    return Signed(headers=(("PAYPAL-AUTH-ALGO", AUTH_ALGO_VALUE), ("PAYPAL-TRANSMISSION-SIG", signature)))


def check(scheme: Scheme, secret: str) -> None:
    """A secret pins the certificate, or its public key. Raises ConfigError for anything else."""
    check_public(ALGORITHM, secret)
