"""Secrets that are shared with the sender: read into keys, and digests made and compared in constant time."""

from __future__ import annotations

import binascii
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.errors import ConfigError
from gateway.proofs import REASONS, Verdict, refuse
from gateway.schemes import Scheme

DIGEST_SIZES: Final[Mapping[str, int]] = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
# Spent when no secret is usable, so that the answer takes as long as with one.
DUMMY_KEYS: Final = (bytes(32),)


def read_keys(form: str, secrets: Sequence[str]) -> tuple[Sequence[bytes], Verdict | None]:
    """The keys of the secrets; or dummy keys, to be spent all the same, and the refusal that then follows."""
    decode = KEY_FORMS[form]
    # One text is a sequence of texts too: its single characters must not become keys.
    several = (secrets,) if isinstance(secrets, str) else secrets
    try:
        keys = [decode(secret) for secret in several]
    except ValueError:
        return DUMMY_KEYS, refuse("bad_secret")
    return (keys, None) if keys and all(keys) else (DUMMY_KEYS, refuse("no_secret"))


def read_key(form: str, secret: str) -> bytes:
    """The key of one secret. Raises ConfigError, which never holds the secret, when it can't be one."""
    keys, fault = read_keys(form, (secret,))
    if fault is not None:
        raise ConfigError(f"{REASONS[fault.reason]} (key: {form})")
    return keys[0]


def check(scheme: Scheme, secret: str) -> None:
    """Raise ConfigError when the secret is not of the form that the scheme's secrets have."""
    read_key(scheme.key, secret)


def find_match(digests: Sequence[bytes], candidates: Sequence[bytes]) -> int | None:
    """The index of the first digest that is among the candidates; all are compared whatever is found."""
    match = None
    for index, digest in enumerate(digests):
        for candidate in candidates:
            if hmac.compare_digest(digest, candidate) and match is None:
                match = index
    return match


def judge_match(match: int | None, fault: Verdict | None) -> Verdict:
    """The verdict once all is compared: the fault of the secrets first, whatever matched a dummy key."""
    if fault is not None or match is None:
        return fault or refuse("mismatch")
    return Verdict(True, "valid", match)


def compute_digest(key: bytes, signed: Sequence[bytes], alg: str) -> bytes:
    """The HMAC of the signed bytes, which stay in their parts."""
    mac = hmac.new(key, signed[0], alg)
    for part in signed[1:]:
        mac.update(part)
    return mac.digest()


def decode_whsec(secret: str) -> bytes:
    """Standard Webhooks secrets: `whsec_` is optional, and so is the padding."""
    text = secret.removeprefix("whsec_").rstrip("=")
    return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)


def decode_padded(secret: str) -> bytes:
    return binascii.a2b_base64(secret, strict_mode=True)


KEY_FORMS: Final[Mapping[str, Callable[[str], bytes]]] = {
    "raw": str.encode,
    "base64": decode_padded,
    "hex": binascii.unhexlify,
    "whsec": decode_whsec,
}
