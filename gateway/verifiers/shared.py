"""Proofs that are the secret itself: a token, Basic credentials, the secret in a URL; and no proof at all."""

from __future__ import annotations

import hashlib
import math
import re
import string
from collections.abc import Sequence
from typing import Final

from gateway.errors import ConfigError
from gateway.proofs import Request, Verdict, read_proof, refuse
from gateway.schemes import Scheme
from gateway.verifiers.encodings import decode_base64, encode_base64
from gateway.verifiers.keys import check, find_match, judge_match, read_keys
from gateway.verifiers.placing import Signed, add_value

BASIC_WORD: Final = "Basic "
BEARER_WORD: Final = "Bearer "
LEAST_BITS: Final = 128
URL_SAFE: Final = re.compile(r"[A-Za-z0-9_-]+")
ALPHABETS: Final = (
    string.digits,
    string.digits + "abcdef",
    string.digits + "ABCDEF",
    string.digits + string.ascii_lowercase,
    string.digits + string.ascii_letters + "-_",
)


def verify_token(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """The shared value, behind its prefix, in a header or in a field of the query or the body."""
    return compare(secrets, read_prefixed(scheme, request, scheme.prefix))


def sign_token(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The secret where the scheme has it."""
    return add_value(scheme.plan.proof, scheme.prefix + secret, request, scheme.header)


def verify_basic(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """`Authorization: Basic` with `user:password` (RFC 7617)."""
    value = read_prefixed(scheme, request, BASIC_WORD)
    if isinstance(value, Verdict):
        return compare(secrets, value)
    return compare(secrets, decode_base64(value.decode("ascii")) or refuse("bad_encoding"))


def sign_basic(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The credentials in their header."""
    value = BASIC_WORD + encode_base64(secret.encode())
    return add_value(scheme.plan.proof, value, request, scheme.header)


def verify_authorization(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """`Authorization` in either way that a sender may be set up with: `Bearer` and the secret, or Basic credentials."""
    value = read_proof(scheme.plan.proof, request)
    if isinstance(value, str) and value.startswith(BEARER_WORD):
        return compare(secrets, read_prefixed(scheme, request, BEARER_WORD))
    return verify_basic(scheme, secrets, request, now)


def sign_authorization(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """Basic credentials of `user:password`, a bearer token of anything else."""
    if ":" in secret:
        return sign_basic(scheme, secret, request, now)
    return add_value(scheme.plan.proof, BEARER_WORD + secret, request, scheme.header)


def verify_url(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """The secret as the last part of the URL's path: an app of this kind is known by its token alone."""
    path = request.url.partition("#")[0].partition("?")[0]
    shown = path.rpartition("/")[2].encode("utf-8", "surrogatepass")
    return compare(secrets, shown or refuse("missing_proof"))


def sign_url(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """Nothing is added: who posts there knows the URL. Raises ConfigError for a URL without the secret."""
    if not verify_url(scheme, (secret,), request, now).valid:
        raise ConfigError("this sender's proof is its URL, which has to end in the app's token")
    return Signed()


def verify_none(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """Whoever it is."""
    return Verdict(True, "unsigned")


def sign_none(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """Nothing is added."""
    return Signed()


def compare(secrets: Sequence[str], shown: bytes | Verdict) -> Verdict:
    """Compare a value that is the secret itself; hashed first, so that the time tells not even its length."""
    keys, fault = read_keys("raw", secrets)
    if isinstance(shown, Verdict):
        return fault or shown
    digests = [hashlib.sha256(key).digest() for key in keys]
    return judge_match(find_match(digests, (hashlib.sha256(shown).digest(),)), fault)


def read_prefixed(scheme: Scheme, request: Request, prefix: str) -> bytes | Verdict:
    value = read_proof(scheme.plan.proof, request)
    if isinstance(value, Verdict):
        return value
    if not value.startswith(prefix) or len(value) == len(prefix):
        return refuse("malformed_header")
    return value[len(prefix) :].encode("ascii")


# ---- what may be such a secret


def check_token(scheme: Scheme, secret: str) -> None:
    """Raise ConfigError for a token that the place it stands in can't carry."""
    check(scheme, secret)
    if not (secret.isascii() and secret.isprintable()):
        raise ConfigError("a token has to be printable ASCII, as a header can carry nothing else")


def check_basic(scheme: Scheme, secret: str) -> None:
    """Raise ConfigError for credentials without a user."""
    check(scheme, secret)
    if ":" not in secret:
        raise ConfigError("Basic credentials are written user:password")


def check_url(scheme: Scheme, secret: str) -> None:
    """Raise ConfigError for a token that is no part of a path, or that could be guessed."""
    check(scheme, secret)
    if not URL_SAFE.fullmatch(secret):
        raise ConfigError("a token in a URL has letters, digits, - and _ only")
    if count_bits(secret) < LEAST_BITS:
        raise ConfigError(
            f"the token in the URL is this sender's only secret, and has not the {LEAST_BITS} bits that can't be guessed; "
            "make one: `openssl rand -hex 32`"
        )


def check_none(scheme: Scheme, secret: str) -> None:
    """Nothing is asked of it."""


def count_bits(token: str) -> float:
    """The most bits of chance that such a text can hold, by its length and by the alphabet it seems to be drawn from."""
    size = next(len(alphabet) for alphabet in ALPHABETS if set(token) <= set(alphabet))
    # A text of few different characters was not drawn at random.
    return len(token) * math.log2(min(size, 2 ** (len(set(token)) / 2)))
