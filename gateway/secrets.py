"""Secrets at rest: envelope encryption under master keys of which the newest encrypts and all decrypt.

Each secret has a data key of its own (AES-256-GCM, 96-bit random nonce; NIST SP 800-38D). The master key wraps
that data key, with the key's id as associated data. The value's associated data is its owner and which of the owner's
fields it stands in: moved to another app, or to another field of the same one, it does not open. The owner goes by its
name, which nothing changes: an app of another name is another app, with secrets of its own.

A sealed text is `v2.KEY.WRAPPED.VALUE`. As the value knows nothing of the master key, `rewrap` leaves its bytes as they
are. The form before, `v1`, has the key's id in both, and no field; it opens still, and `rewrap` writes it anew.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Sequence

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import ConfigError, GatewayError

KEY_BYTES = 32
NONCE_BYTES = 12
VERSION, FIRST_VERSION = "v2", "v1"
SHORTEST = 5
"""Bytes of the shortest secret that is taken at all, that of Twilio's own example; anything under 16 is warned about."""


class SecretRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a secret's value comes from: exactly one of a variable, a file, the name of a `secret` that is kept here, a
    sealed value in the store, or `paired`: the sender itself hands it over.

    From `expires_at` on (unix seconds) it is no secret any more: a newer one took its place.
    """

    env: str | None = None
    file: str | None = None
    secret: str | None = None
    sealed: str | None = None
    paired: bool = False
    expires_at: int | None = None

    @property
    def label(self) -> str:
        """What may be shown of it."""
        if self.paired:
            return "handed over by its sender"
        named = (("env", self.env), ("file", self.file), ("secret", self.secret))
        return next((f"{kind} {name}" for kind, name in named if name is not None), "kept encrypted")

    @property
    def absence(self) -> str:
        """What to say when its value can't be had."""
        if self.secret is not None:
            return (
                "is not kept here, or none of GATEWAY_MASTER_KEYS opens it; `gateway secret list` shows those there are"
            )
        return (
            "can't be opened: the key that it is under is none of GATEWAY_MASTER_KEYS" if self.sealed else "is not set"
        )

    @property
    def identity(self) -> tuple[str, str]:
        """What stays the same for as long as the secret does, however it is wrapped and however long it lasts."""
        if self.sealed is not None:
            return "sealed", body_of(self.sealed)
        return self.label.partition(" ")[0], self.label

    @property
    def is_written(self) -> bool:
        """Whether it is what people may write: one variable, one file, or the name of one secret, and nothing else."""
        given = [value for value in (self.env, self.file, self.secret) if value is not None]
        return len(given) == 1 and bool(given[0]) and self == SecretRef(self.env, self.file, self.secret)


Resolve = Callable[[SecretRef, str], str | None]
"""Where a secret's value is looked up, for which owner."""
WAYS = "{env: NAME}, {file: PATH} or {secret: NAME}"
"""How people write where a secret is."""
HANDED_OVER = SecretRef(paired=True)
VERIFY_FIELD, CALLBACK_FIELD = "verify.secrets", "callback.secret"
"""The fields of an app that hold secrets made here."""
NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$"
VALUE = r"^[^\x00-\x20\x7f][^\x00]*[^\x00-\x20\x7f]$"
LONGEST = 16_384
"""Letters of the longest secret that is kept under a name."""


class Pair(msgspec.Struct, frozen=True):
    """The secret that an app's sender handed over: sealed, and when, in milliseconds."""

    sealed: str
    at: int


class StoredSecret(msgspec.Struct, frozen=True):
    """A secret that is kept under a name: sealed, and when it was first kept, and last set, in milliseconds."""

    sealed: str
    created_at: int
    changed_at: int


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


def field_of(owner: str, field: str) -> str:
    """The name under which the secret in one field of an owner is sealed, as `app:ci#callback.secret`."""
    return f"{owner}#{field}"


def seal(master_keys: Sequence[bytes], owner: str, value: str) -> str:
    """Encrypt `value` for `owner` under the newest master key. Raises ConfigError when there is no key."""
    if not master_keys:
        message = "there is no key to keep a secret under; set GATEWAY_MASTER_KEYS: `openssl rand -base64 32` makes one"
        raise ConfigError(message)
    data_key = os.urandom(KEY_BYTES)
    return f"{VERSION}.{_wrap(master_keys[0], data_key)}.{_encrypt(data_key, value.encode(), _value_name(owner))}"


def unseal(master_keys: Sequence[bytes], owner: str, sealed: str) -> str:
    """Decrypt what `seal` made for the same owner. Raises SecretUnreadable."""
    try:
        version, key_id, wrapped, body = sealed.split(".")
        if version == FIRST_VERSION:
            return _unseal_first(_find_key(master_keys, key_id), f"{key_id}:{_without_field(owner)}", wrapped, body)
        if version != VERSION:
            raise SecretUnreadable
        data_key = _decrypt(_find_key(master_keys, key_id), wrapped, _wrap_name(key_id))
        return _decrypt(data_key, body, _value_name(owner)).decode()
    except (ValueError, KeyError, InvalidTag):
        raise SecretUnreadable from None


def rewrap(master_keys: Sequence[bytes], owner: str, sealed: str) -> str:
    """The same secret under the newest master key, the value's own bytes untouched; as it is when it is so already.

    `owner` matters to the first form only, which is sealed anew. Raises SecretUnreadable, or ConfigError without a key.
    """
    version, key_id, _, body = _parts(sealed)
    if not master_keys or version == FIRST_VERSION:
        return seal(master_keys, owner, unseal(master_keys, owner, sealed))
    if key_id == key_id_of(master_keys[0]):
        return sealed
    try:
        data_key = _decrypt(_find_key(master_keys, key_id), _parts(sealed)[2], _wrap_name(key_id))
    except (ValueError, KeyError, InvalidTag):
        raise SecretUnreadable from None
    return f"{VERSION}.{_wrap(master_keys[0], data_key)}.{body}"


def needed_key(sealed: str) -> str:
    """The id of the master key that a sealed text is under. Raises SecretUnreadable for what is none."""
    return _parts(sealed)[1]


def body_of(sealed: str) -> str:
    """The part of a sealed text that stays the same for as long as its value does."""
    return sealed.rpartition(".")[2]


def key_id_of(key: bytes) -> str:
    """A name for a master key, from which nothing can be learned about it."""
    return hashlib.sha256(b"gateway master key id" + key).hexdigest()[:8]


def _parts(sealed: str) -> tuple[str, str, str, str]:
    parts = sealed.split(".")
    if len(parts) != 4 or parts[0] not in (VERSION, FIRST_VERSION):
        raise SecretUnreadable
    return parts[0], parts[1], parts[2], parts[3]


def _find_key(master_keys: Sequence[bytes], key_id: str) -> bytes:
    return {key_id_of(key): key for key in master_keys}[key_id]


def _wrap(master_key: bytes, data_key: bytes) -> str:
    key_id = key_id_of(master_key)
    return f"{key_id}.{_encrypt(master_key, data_key, _wrap_name(key_id))}"


def _wrap_name(key_id: str) -> bytes:
    return f"{VERSION} data key under {key_id}".encode()


def _value_name(owner: str) -> bytes:
    return f"{VERSION} value of {owner}".encode()


def _without_field(owner: str) -> str:
    # The first form knew no fields.
    return owner.rpartition("#")[0] or owner


def _unseal_first(master_key: bytes, name: str, wrapped: str, body: str) -> str:
    data_key = _decrypt(master_key, wrapped, name.encode())
    return _decrypt(data_key, body, name.encode()).decode()


def _encrypt(key: bytes, raw: bytes, name: bytes) -> str:
    nonce = os.urandom(NONCE_BYTES)
    return base64.b64encode(nonce + AESGCM(key).encrypt(nonce, raw, name)).decode()


def _decrypt(key: bytes, text: str, name: bytes) -> bytes:
    raw = base64.b64decode(text, validate=True)
    return AESGCM(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], name)
