"""Senders whose key is fetched from where they serve it: at which address, and what counts of what is found there.

Two silent steps with a fetch between them, which is the caller's: `find_address` names an address, of the sender's own
hosts and no others, before anything is asked of anybody; `read_key` makes a key of what was found, to be handed to the
verifier as if it were the app's secret. An app with secrets has its keys pinned, and nothing is fetched for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import (
    Certificate,
    DNSName,
    ExtensionNotFound,
    SubjectAlternativeName,
    load_der_x509_certificate,
    load_pem_x509_certificates,
)
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from msgspec import Struct

from gateway.proofs import Request, Verdict, find_path
from gateway.schemes import Scheme
from gateway.verifiers import paypal, sns, travis
from gateway.verifiers.asymmetric import FAMILIES, load_public

Roots = Sequence[bytes]
"""Certificates of authorities that are trusted, in DER."""
MOST_CERTIFICATES: Final = 8
TRAVIS_KEY: Final = "config.notifications.webhook.public_key"


class Fetched(Struct, frozen=True):
    """How a sender's key is found, and read: from the bytes that were found, and the time in Unix seconds."""

    find_address: Callable[[Scheme, Request], str | Verdict]
    read: Callable[[bytes, Roots, float], str | None]


def find_address(scheme: Scheme, request: Request) -> str | Verdict:
    """Where the key of this request is, or why the request is refused already. `scheme` is of a kind in FETCHED."""
    return FETCHED[scheme.kind].find_address(scheme, request)


def read_key(kind: str, found: bytes, roots: Roots, now: float) -> str | None:
    """The key, in PEM, or None when what was found is none, is out of date, or is vouched for by nobody."""
    try:
        return FETCHED[kind].read(found, roots, now)
    # Certificates are read lazily: any look at one may find that it is malformed.
    except (ValueError, OverflowError, TypeError, UnsupportedAlgorithm):
        return None


def read_certificate(found: bytes, roots: Roots, now: float) -> str | None:
    """A certificate that is good today: the address, on a host of the sender's, vouches for it."""
    chain = read_chain(found)
    if not chain or not is_current(chain[0], now):
        return None
    return as_pem(chain[0])


def read_vouched(found: bytes, roots: Roots, now: float) -> str | None:
    """A certificate in PayPal's name that a trusted authority gave, by way of those that come with it."""
    chain = read_chain(found)
    name = find_name(chain[0]) if chain else None
    if not chain or name is None or not is_current(chain[0], now):
        return None
    try:
        store = Store([load_der_x509_certificate(root) for root in roots])
        moment = datetime.fromtimestamp(now, UTC)
        PolicyBuilder().store(store).time(moment).build_server_verifier(DNSName(name)).verify(chain[0], chain[1:])
    except (VerificationError, ValueError):
        return None
    return as_pem(chain[0])


def read_configuration(found: bytes, roots: Roots, now: float) -> str | None:
    """The public key in the configuration that Travis CI publishes."""
    try:
        key = find_path(msgspec.json.decode(found), TRAVIS_KEY)
    except (ValueError, RecursionError):
        return None
    return key if isinstance(key, str) and FAMILIES[travis.ALGORITHM].fits(load_public(key)) else None


FETCHED: Final[Mapping[str, Fetched]] = {
    "sns": Fetched(sns.find_address, read_certificate),
    "paypal": Fetched(paypal.find_address, read_vouched),
    "travis": Fetched(travis.find_address, read_configuration),
}


def read_chain(found: bytes) -> list[Certificate]:
    try:
        chain = load_pem_x509_certificates(found)
    except ValueError:
        return []
    return chain if len(chain) <= MOST_CERTIFICATES else []


def is_current(certificate: Certificate, now: float) -> bool:
    start, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return start <= now <= end and FAMILIES["rsa-v1_5-sha256"].fits(load_public(as_pem(certificate)))


def as_pem(certificate: Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def find_name(certificate: Certificate) -> str | None:
    """The first name of the certificate that is the sender's own."""
    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except (ExtensionNotFound, ValueError):
        return None
    return next((name for name in names.get_values_for_type(DNSName) if name.endswith(paypal.OWNER)), None)
