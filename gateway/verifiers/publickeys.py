"""Public-key signatures in the declarative form: Ed25519 (RFC 8032), and ECDSA on P-256 with SHA-256 (FIPS 186-5).

The app's secrets are the sender's public keys, which are no secrets; signing takes the private key of the same form.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from gateway.errors import ConfigError
from gateway.proofs import REASONS, Request, Verdict, refuse
from gateway.schemes import Scheme
from gateway.verifiers.claims import judge_time, place_signature, read_claim, write_claim
from gateway.verifiers.placing import Signed

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey
PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey

SEED_BYTES: Final = 32
# Lengths of a whole signature: two numbers of 32 bytes; as DER (RFC 3279, 2.2.3), 8 to 72 bytes.
SIZES: Final[Mapping[str, range]] = {"ed25519": range(64, 65), "ecdsa-p256": range(8, 73)}
# Points of small order, for which anybody can make signatures (RFC 7748, 7); the sign bit is left out.
WEAK: Final = frozenset(
    bytes.fromhex(point)
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)
PRIVATE_MARKS: Final = ("whsk_", "-----BEGIN PRIVATE", "-----BEGIN EC PRIVATE")


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """The signature of what the template names, under any of the public keys; then the signed time, if there is one."""
    keys = read_public_keys(scheme, secrets)
    if isinstance(keys, Verdict):
        return keys
    claim = read_claim(scheme, request, SIZES[scheme.alg])
    if isinstance(claim, Verdict):
        return claim
    message = b"".join(claim.signed)
    for index, key in enumerate(keys):
        if any(is_signed_by(key, candidate, message) for candidate in claim.candidates):
            return judge_time(scheme, request, claim, now) or Verdict(True, "valid", index)
    return refuse("mismatch")


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The signature by a private key. Raises ConfigError for another key, or a request without what is signed."""
    key = read_private_key(scheme, secret)
    signed, fields = write_claim(scheme, request, now)
    message = b"".join(signed)
    signature = key.sign(message) if isinstance(key, Ed25519PrivateKey) else key.sign(message, ECDSA(SHA256()))
    return place_signature(scheme, request, fields, signature)


def check(scheme: Scheme, secret: str) -> None:
    """Raise ConfigError for what is no public key of this form, or is a weak or a private one."""
    if secret.startswith(PRIVATE_MARKS):
        raise ConfigError(f"this is a private key; verifying takes the sender's public key (key: {scheme.key})")
    keys = read_public_keys(scheme, (secret,))
    if isinstance(keys, Verdict):
        raise ConfigError(f"{REASONS[keys.reason]} (alg: {scheme.alg}, key: {scheme.key})")


def is_signed_by(key: PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


# ---- keys


def read_public_keys(scheme: Scheme, secrets: Sequence[str]) -> Sequence[PublicKey] | Verdict:
    # One text is a sequence of texts too.
    several = (secrets,) if isinstance(secrets, str) else secrets
    if not several or not all(several):
        return refuse("no_secret")
    try:
        keys = [check_key(PUBLIC_FORMS[scheme.key](text, scheme.alg), scheme.alg) for text in several]
    except (ValueError, UnsupportedAlgorithm):
        return refuse("bad_secret")
    return keys


def check_key(key: object, alg: str) -> PublicKey:
    """The key, when it is one of this algorithm. Raises ValueError for another, and for one that proves nothing."""
    if alg == "ecdsa-p256" and isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    if alg == "ed25519" and isinstance(key, Ed25519PublicKey):
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        if raw[:-1] + bytes([raw[-1] & 0x7F]) not in WEAK:
            return key
    raise ValueError(alg)


def read_private_key(scheme: Scheme, secret: str) -> PrivateKey:
    """The private key of the form that belongs to the public one. Raises ConfigError without the secret in it."""
    wanted = Ed25519PrivateKey if scheme.alg == "ed25519" else EllipticCurvePrivateKey
    try:
        key = PRIVATE_FORMS[scheme.key](secret, scheme.alg)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, wanted):
        raise ConfigError(f"secret: signing takes the {scheme.alg} private key: {PRIVATE_WORDS[scheme.key]}")
    return key


def public_from_bytes(raw: bytes, alg: str) -> PublicKey:
    if alg == "ed25519":
        return Ed25519PublicKey.from_public_bytes(raw)
    return EllipticCurvePublicKey.from_encoded_point(SECP256R1(), raw)


def private_from_bytes(raw: bytes, alg: str) -> PrivateKey:
    # Svix writes the public half behind the seed.
    if alg == "ed25519":
        return Ed25519PrivateKey.from_private_bytes(raw[:SEED_BYTES])
    return derive_private_key(int.from_bytes(raw, "big"), SECP256R1())


def decode_marked(text: str, mark: str) -> bytes:
    """Base64 behind a mark that may be left out, as may the padding."""
    bare = text.removeprefix(mark).rstrip("=")
    return binascii.a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True)


def decode_der(text: str) -> bytes:
    """DER from base64, bare or as PEM has it."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return base64.b64decode("".join(line for line in lines if not line.startswith("-----")), validate=True)


PUBLIC_FORMS: Final[Mapping[str, Callable[[str, str], object]]] = {
    "hex": lambda text, alg: public_from_bytes(binascii.unhexlify(text), alg),
    "whpk": lambda text, alg: public_from_bytes(decode_marked(text, "whpk_"), alg),
    "spki": lambda text, alg: load_der_public_key(decode_der(text)),
}
PRIVATE_FORMS: Final[Mapping[str, Callable[[str, str], object]]] = {
    "hex": lambda text, alg: private_from_bytes(binascii.unhexlify(text), alg),
    "whpk": lambda text, alg: private_from_bytes(decode_marked(text, "whsk_"), alg),
    "spki": lambda text, alg: load_der_private_key(decode_der(text), None),
}
PRIVATE_WORDS: Final[Mapping[str, str]] = {
    "hex": "its 32 bytes in hex",
    "whpk": "whsk_ and the base64 of its 32 bytes",
    "spki": "PKCS #8, in PEM or as the base64 of its DER",
}
