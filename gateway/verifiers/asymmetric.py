"""Public keys as senders hand them out, in PEM, and the asymmetric signatures that they judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    EllipticCurve,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, AsymmetricPadding, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"
SMALLEST_RSA: Final = 1024
# What Travis CI and the first version of SNS sign with.
SHA1_HASH: Final = SHA1()  # noqa: S303


@lru_cache(maxsize=256)
def load_public(pem: str) -> PublicKeyTypes | None:
    """The key of a PEM certificate (the first, of several) or PEM public key; None when it is neither.

    Nothing is asked of a certificate: who it belongs to and how long it is good is the business of who fetched it.
    """
    try:
        if CERTIFICATE in pem:
            return load_pem_x509_certificate(pem.encode()).public_key()
        return load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None


def is_pem(text: str) -> bool:
    """Whether this looks like a key or certificate rather than a shared secret."""
    return "-----BEGIN " in text


class Rsa:
    """RSA with one hash and one kind of padding; keys under 1024 bits are none."""

    def __init__(self, digest: HashAlgorithm, padding: AsymmetricPadding) -> None:
        self._digest = digest
        self._padding = padding

    def fits(self, key: object) -> bool:
        return isinstance(key, RSAPublicKey) and key.key_size >= SMALLEST_RSA

    def check(self, key: object, signature: bytes, signed: bytes) -> None:
        assert isinstance(key, RSAPublicKey)
        key.verify(signature, signed, self._padding, self._digest)

    def sign(self, key: object, text: bytes) -> bytes:
        assert isinstance(key, RSAPrivateKey)
        return key.sign(text, self._padding, self._digest)


class Ecdsa:
    """ECDSA on one curve; a signature is r and s, each as long as the curve's numbers (RFC 9421, 3.3.4)."""

    def __init__(self, curve: type[EllipticCurve], digest: HashAlgorithm, size: int) -> None:
        self._curve = curve
        self._digest = digest
        self._size = size

    def fits(self, key: object) -> bool:
        return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, self._curve)

    def check(self, key: object, signature: bytes, signed: bytes) -> None:
        assert isinstance(key, EllipticCurvePublicKey)
        if len(signature) != 2 * self._size:
            raise InvalidSignature
        r, s = signature[: self._size], signature[self._size :]
        pair = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
        key.verify(pair, signed, ECDSA(self._digest))

    def sign(self, key: object, text: bytes) -> bytes:
        assert isinstance(key, EllipticCurvePrivateKey)
        pair = decode_dss_signature(key.sign(text, ECDSA(self._digest)))
        return b"".join(number.to_bytes(self._size, "big") for number in pair)


class Ed25519:
    """Ed25519 over the text itself."""

    def fits(self, key: object) -> bool:
        return isinstance(key, Ed25519PublicKey)

    def check(self, key: object, signature: bytes, signed: bytes) -> None:
        assert isinstance(key, Ed25519PublicKey)
        key.verify(signature, signed)

    def sign(self, key: object, text: bytes) -> bytes:
        assert isinstance(key, Ed25519PrivateKey)
        return key.sign(text)


Family = Rsa | Ecdsa | Ed25519
FAMILIES: Final[Mapping[str, Family]] = {
    "ed25519": Ed25519(),
    "ecdsa-p256-sha256": Ecdsa(SECP256R1, SHA256(), 32),
    "ecdsa-p384-sha384": Ecdsa(SECP384R1, SHA384(), 48),
    "rsa-pss-sha512": Rsa(SHA512(), PSS(MGF1(SHA512()), 64)),
    "rsa-v1_5-sha256": Rsa(SHA256(), PKCS1v15()),
    "rsa-v1_5-sha1": Rsa(SHA1_HASH, PKCS1v15()),
}


def is_signed(alg: str, key: PublicKeyTypes, signature: bytes, signed: bytes) -> bool:
    """Whether `key` made `signature` over `signed`; never raises. A key of another family has made nothing."""
    family = FAMILIES[alg]
    if not family.fits(key):
        return False
    try:
        family.check(key, signature, signed)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


def sign_text(alg: str, private_pem: str, text: bytes) -> bytes:
    """A signature by a private key in PEM. Raises ValueError for another kind of key, or none."""
    key = load_pem_private_key(private_pem.encode(), None)
    family = FAMILIES[alg]
    if not family.fits(key.public_key()):
        raise ValueError(alg)
    return family.sign(key, text)


def find_algorithm(private_pem: str, choices: Sequence[str]) -> str | None:
    """The first of these algorithms that a private key in PEM is of; None when it is of none, or no such key."""
    try:
        public = load_pem_private_key(private_pem.encode(), None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return next((name for name in choices if name in FAMILIES and FAMILIES[name].fits(public)), None)


def find_signer(alg: str, pems: Sequence[str], signature: bytes, signed: bytes) -> int | None:
    """The index of the first of these keys that made the signature; all are asked."""
    keys = [load_public(pem) for pem in pems]
    made = [index for index, key in enumerate(keys) if key is not None and is_signed(alg, key, signature, signed)]
    return made[0] if made else None
