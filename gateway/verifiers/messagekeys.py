"""The keys of signed messages: a shared secret, or public keys in PEM. Which of them is the algorithm's business."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from gateway.errors import ConfigError
from gateway.kinds import ALGORITHMS_OF
from gateway.proofs import Verdict, refuse
from gateway.schemes import Scheme
from gateway.verifiers.asymmetric import FAMILIES, find_algorithm, find_signer, is_pem, load_public, sign_text
from gateway.verifiers.keys import compute_digest, find_match, judge_match, read_key, read_keys

HMAC: Final = "hmac-sha256"
BY_KEY: Final = "by-key"


def find_key(
    scheme: Scheme, secrets: Sequence[str], signature: bytes, signed: bytes, named: Collection[str] | None = None
) -> Verdict:
    """Which of the secrets made this signature, by the scheme's algorithm; or, where that is `by-key`, by one of its
    key's kind, of those that the message has `named`, if it has.
    """
    if scheme.alg != BY_KEY:
        return find_by(scheme.alg, scheme.key, secrets, signature, signed)
    # One text is a sequence of texts too: its single characters must not become keys.
    several = (secrets,) if isinstance(secrets, str) else secrets
    refusals = [] if several else [refuse("no_secret")]
    for place, secret in enumerate(several):
        algorithms = algorithms_of(scheme, secret)
        refusals += [] if algorithms else [refuse("bad_secret")]
        for alg in algorithms:
            if named is None or alg in named:
                verdict = find_by(alg, scheme.key, (secret,), signature, signed)
                if verdict.valid:
                    return Verdict(True, verdict.reason, place)
                refusals.append(verdict)
    return next((each for each in refusals if each.reason != "mismatch"), refuse("mismatch"))


def algorithms_of(scheme: Scheme, key: str) -> tuple[str, ...]:
    """The scheme's algorithms that a key can be of: the kind of key decides, so none passes for a shared secret."""
    if not is_pem(key):
        return (HMAC,)
    public = load_public(key)
    known = (name for name in ALGORITHMS_OF[scheme.kind] if name in FAMILIES)
    return tuple(name for name in known if FAMILIES[name].fits(public))


def find_by(alg: str, form: str, secrets: Sequence[str], signature: bytes, signed: bytes) -> Verdict:
    """Which of the secrets made this signature, by this algorithm."""
    if alg == HMAC:
        keys, fault = read_keys(form, secrets)
        fault = fault or (refuse("bad_secret") if any(map(is_pem, secrets)) else None)
        digests = [compute_digest(key, (signed,), "sha256") for key in keys]
        return judge_match(find_match(digests, (signature,)), fault)
    return find_public(alg, secrets, signature, signed)


def find_public(alg: str, pems: Sequence[str], signature: bytes, signed: bytes) -> Verdict:
    """Which of these public keys or certificates made this signature."""
    if not pems or not all(pems):
        return refuse("no_secret")
    if any(load_public(pem) is None for pem in pems):
        return refuse("bad_secret")
    return judge_match(find_signer(alg, pems, signature, signed), None)


def pin_algorithm(scheme: Scheme, secret: str) -> Scheme:
    """The scheme with an algorithm, for who signs with this key: the scheme's, or else what the key is of."""
    if scheme.alg != BY_KEY:
        return scheme
    alg = find_algorithm(secret, ALGORITHMS_OF[scheme.kind]) if is_pem(secret) else HMAC
    if alg is None:
        raise ConfigError("signing takes a shared secret in base64, or a private key in PEM")
    return msgspec.structs.replace(scheme, alg=alg)


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
    if scheme.alg == BY_KEY and is_pem(secret):
        if not algorithms_of(scheme, secret):
            raise ConfigError("has to be a public key or a certificate, in PEM, of a kind that signs messages")
        return
    if scheme.alg not in (HMAC, BY_KEY):
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
