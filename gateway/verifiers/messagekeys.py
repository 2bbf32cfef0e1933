"""The keys of signed messages: a shared secret, or public keys in PEM. Which of them is the algorithm's business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.errors import ConfigError
from gateway.proofs import Verdict, refuse
from gateway.schemes import Scheme
from gateway.verifiers.asymmetric import FAMILIES, find_signer, is_pem, load_public, sign_text
from gateway.verifiers.keys import compute_digest, find_match, judge_match, read_key, read_keys

HMAC: Final = "hmac-sha256"


def find_key(scheme: Scheme, secrets: Sequence[str], signature: bytes, signed: bytes) -> Verdict:
    """Which of the secrets made this signature, by the scheme's algorithm."""
    if scheme.alg == HMAC:
        keys, fault = read_keys(scheme.key, secrets)
        fault = fault or (refuse("bad_secret") if any(map(is_pem, secrets)) else None)
        digests = [compute_digest(key, (signed,), "sha256") for key in keys]
        return judge_match(find_match(digests, (signature,)), fault)
    return find_public(scheme.alg, secrets, signature, signed)


def find_public(alg: str, pems: Sequence[str], signature: bytes, signed: bytes) -> Verdict:
    """Which of these public keys or certificates made this signature."""
    if not pems or not all(pems):
        return refuse("no_secret")
    if any(load_public(pem) is None for pem in pems):
        return refuse("bad_secret")
    return judge_match(find_signer(alg, pems, signature, signed), None)


def sign_bytes(scheme: Scheme, secret: str, text: bytes) -> bytes:
    """A signature with a shared secret, or with a private key in PEM. Raises ConfigError when it is neither."""
    if scheme.alg == HMAC:
        return compute_digest(read_key(scheme.key, secret), (text,), "sha256")
    try:
        return sign_text(scheme.alg, secret, text)
    except (ValueError, TypeError):
        raise ConfigError(f"a signature by {scheme.alg} takes a private key of its kind, in PEM") from None


def check(scheme: Scheme, secret: str) -> None:
    """Raise ConfigError, which never holds the secret, when the scheme's algorithm can't use it."""
    if scheme.alg != HMAC:
        check_public(scheme.alg, secret)
        return
    # Everybody has the public key: whoever took its text for a shared secret would let everybody in.
    if is_pem(secret):
        raise ConfigError(f"is a key or certificate, and alg is {HMAC}, which takes a shared secret; set `alg`")
    read_key(scheme.key, secret)


def check_public(alg: str, secret: str) -> None:
    """Raise ConfigError when this is not a public key or certificate of the algorithm's kind."""
    key = load_public(secret)
    if key is None:
        raise ConfigError("has to be a public key or a certificate, in PEM (-----BEGIN …)")
    if not FAMILIES[alg].fits(key):
        raise ConfigError(f"is a public key of another kind than {alg}")
