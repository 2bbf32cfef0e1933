"""Secrets at rest: envelope encryption under master keys of which the newest encrypts and all decrypt.

Each secret has a data key of its own (AES-256-GCM, 96-bit random nonce; NIST SP 800-38D). The master key wraps
that data key. The owner's name is associated data, so that a ciphertext moved to another owner does not open.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import ConfigError, GatewayError

KEY_BYTES = 32
NONCE_BYTES = 12
SHORTEST = 6
"""Bytes of the shortest secret that is taken at all; anything under 16 is warned about."""


class SecretRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a secret's value comes from: exactly one of a variable, a file, a sealed value in the store, or `paired`: the
    sender itself hands it over.
    """

    env: str | None = None
    file: str | None = None
    sealed: str | None = None
    paired: bool = False

    @property
    def label(self) -> str:
        """What may be shown of it."""
        if self.env is not None:
            return f"env {self.env}"
        if self.paired:
            return "handed over by its sender"
        return f"file {self.file}" if self.file is not None else "kept encrypted"


HANDED_OVER = SecretRef(paired=True)


class Pair(msgspec.Struct, frozen=True):
    """The secret that an app's sender handed over: sealed, and when, in milliseconds."""

    sealed: str
    at: int


class SecretUnreadable(GatewayError):
    """This secret can't be opened: another master key, another owner, or changed bytes."""

    code = "secret_unreadable"


def new_master_key() -> str:
    """A new master key as GATEWAY_MASTER_KEYS takes it: 32 random bytes in base64."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def read_master_keys(texts: Sequence[str]) -> tuple[bytes, ...]:
    """The keys' bytes, newest first. Raises ConfigError when one isn't 32 bytes of base64."""
    return tuple(_read_master_key(index, text) for index, text in enumerate(texts))


def _read_master_key(index: int, text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        message = f"GATEWAY_MASTER_KEYS: key {index + 1} is not {KEY_BYTES} bytes of base64; make one: `openssl rand -base64 32`"
        raise ConfigError(message)
    return key


def seal(master_keys: Sequence[bytes], owner: str, value: str) -> str:
    """Encrypt `value` for `owner` under the newest master key. Raises ConfigError when there is no key."""
    if not master_keys:
        message = "there is no key to keep a secret under; set GATEWAY_MASTER_KEYS: `openssl rand -base64 32` makes one"
        raise ConfigError(message)
    data_key, nonce, wrap_nonce = os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES), os.urandom(NONCE_BYTES)
    key_id = _key_id(master_keys[0])
    name = f"{key_id}:{owner}".encode()
    wrapped = AESGCM(master_keys[0]).encrypt(wrap_nonce, data_key, name)
    sealed = AESGCM(data_key).encrypt(nonce, value.encode(), name)
    return f"v1.{key_id}.{_text(wrap_nonce + wrapped)}.{_text(nonce + sealed)}"


def unseal(master_keys: Sequence[bytes], owner: str, sealed: str) -> str:
    """Decrypt what `seal` made for the same owner. Raises SecretUnreadable."""
    try:
        version, key_id, wrapped, body = sealed.split(".")
        master = {_key_id(key): key for key in master_keys}[key_id]
        name = f"{key_id}:{owner}".encode()
        data_key = _decrypt(master, wrapped, name)
        if version != "v1":
            raise SecretUnreadable
        return _decrypt(data_key, body, name).decode()
    except (ValueError, KeyError, InvalidTag):
        raise SecretUnreadable from None


def _decrypt(key: bytes, text: str, name: bytes) -> bytes:
    raw = base64.b64decode(text, validate=True)
    return AESGCM(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], name)


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"gateway master key id" + key).hexdigest()[:8]


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
