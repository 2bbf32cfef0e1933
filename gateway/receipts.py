"""Signed receipts: what an app's sender can hold against us. Which bytes were taken, when, as which event of how many.

Every event that is answered with a receipt has a place in its app's chain: a number, counted from one, and a hash that
covers the place and the hash before it. So a sender that keeps its receipts can show that an event was taken, and that
none was taken out or put in later. A receipt is a JWS (RFC 7515, compact) signed with Ed25519 (RFC 8037), which other
people's tools read as well; the key is made of a master key (HKDF, RFC 5869), so that every receiver signs alike and
there is no other secret to keep. Silent.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.errors import GatewayError

PURPOSE: Final = b"event gateway: receipts, version 1"
TYPE: Final = "gateway-receipt"
START: Final = "0" * 64
"""What stands in place of a hash before an app's first place."""
LONGEST: Final = 4096
"""Characters of a receipt that are read at all."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """An event's place in its app's chain, and all that a receipt says. `sha256` is that of its bytes, in hex;
    `at` is when it got its place, in milliseconds; `chain` covers everything here and `before`, the place before it.
    """

    app_id: int
    number: int
    event_id: str
    sha256: str
    at: int
    before: str
    chain: str


class Fault(msgspec.Struct, frozen=True):
    """Where a chain is not what was given out: the number of the place, and why."""

    number: int
    reason: str


class ReceiptInvalid(GatewayError):
    """This receipt proves nothing: it is malformed, changed, or signed with another key."""

    code = "receipt_invalid"


def next_place(last: Place | None, app_id: int, event_id: str, sha256: str, at: int) -> Place:
    """The place behind `last`, the newest one of this app."""
    number, before = (1, START) if last is None else (last.number + 1, last.chain)
    place = Place(app_id=app_id, number=number, event_id=event_id, sha256=sha256, at=at, before=before, chain="")
    return msgspec.structs.replace(place, chain=hash_place(place))


def hash_place(place: Place) -> str:
    """SHA-256, in hex, of the place as JSON with sorted names, without its own hash."""
    content = msgspec.json.encode(msgspec.structs.replace(place, chain=""), order="sorted")
    return hashlib.sha256(content).hexdigest()


def find_fault(places: Iterable[Place], last: Place | None = None) -> Fault | None:
    """The first place that does not follow from the one before it; None for a good chain.

    Without `last` the first one is taken as it is: what was before it may have been forgotten.
    """
    for place in places:
        if place.chain != hash_place(place):
            return Fault(place.number, "it was changed: its hash is another")
        if last is not None and place.number != last.number + 1:
            return Fault(last.number + 1, f"place {last.number + 1} is missing; {place.number} stands there")
        if last is not None and place.before != last.chain:
            return Fault(place.number, "it does not follow from the place before it")
        last = place
    return None


class Signer:
    """Signs receipts with the newest master key, and reads those of all. Without a master key it can do neither."""

    def __init__(self, master_keys: Sequence[bytes]) -> None:
        self._private = [Ed25519PrivateKey.from_private_bytes(_derive(key)) for key in master_keys]
        self.keys = {name_key(private.public_key()): private.public_key() for private in self._private}

    @property
    def can_sign(self) -> bool:
        """Whether there is a key to sign with."""
        return bool(self._private)

    def sign(self, place: Place) -> str:
        """The receipt: the same text for the same place, whenever it is asked for."""
        private = self._private[0]
        head = {"alg": "EdDSA", "kid": name_key(private.public_key()), "typ": TYPE}
        content = f"{_write(msgspec.json.encode(head))}.{_write(msgspec.json.encode(place))}"
        return f"{content}.{_write(private.sign(content.encode()))}"

    def published(self) -> dict[str, Any]:
        """The public keys as a JWK set (RFC 7517), newest first."""
        return {"keys": [describe_key(public) for public in self.keys.values()]}


def read_receipt(text: str, keys: Mapping[str, Ed25519PublicKey]) -> Place:
    """The place that a receipt proves. Raises ReceiptInvalid, saying why, for anything but a good signature."""
    head, body, signature = _split(text)
    public = keys.get(str(head.get("kid")))
    if head.get("alg") != "EdDSA" or head.get("typ") != TYPE:
        message = f"this is no receipt: it says {head.get('alg')!r} and {head.get('typ')!r}"
        raise ReceiptInvalid(message)
    if public is None:
        message = f"it was signed with the key {head.get('kid')!r}, which is not at hand"
        raise ReceiptInvalid(message)
    try:
        public.verify(signature, text.strip().rpartition(".")[0].encode())
        place = msgspec.json.decode(body, type=Place)
    except InvalidSignature:
        message = "its signature is wrong: it was changed, or made by somebody else"
        raise ReceiptInvalid(message) from None
    except msgspec.MsgspecError as error:
        message = f"it is signed, and still no receipt: {error}"
        raise ReceiptInvalid(message) from None
    if place.chain != hash_place(place):
        message = "it is signed, and its hash is wrong"
        raise ReceiptInvalid(message)
    return place


def read_keys(document: bytes) -> dict[str, Ed25519PublicKey]:
    """The keys of a JWK set, or of one JWK. Raises ReceiptInvalid."""
    try:
        found = msgspec.json.decode(document, type=dict[str, Any])
        rows = found.get("keys", [found])
        publics = [Ed25519PublicKey.from_public_bytes(_read(row["x"])) for row in rows if row.get("crv") == "Ed25519"]
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"this holds no public keys as the gateway publishes them: {error}"
        raise ReceiptInvalid(message) from None
    return {name_key(public): public for public in publics}


def name_key(public: Ed25519PublicKey) -> str:
    """A key's name: its JWK thumbprint (RFC 7638)."""
    content = f'{{"crv":"Ed25519","kty":"OKP","x":"{_write(public.public_bytes_raw())}"}}'
    return _write(hashlib.sha256(content.encode()).digest())


def describe_key(public: Ed25519PublicKey) -> dict[str, str]:
    """A public key as a JWK."""
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": _write(public.public_bytes_raw()),
        "kid": name_key(public),
        "alg": "EdDSA",
        "use": "sig",
    }


def _derive(master_key: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(master_key)


def _split(text: str) -> tuple[dict[str, Any], bytes, bytes]:
    parts = text.strip().split(".")
    try:
        if len(parts) != 3 or len(text) > LONGEST:
            raise ValueError("it is not of three parts")
        head, body, signature = (_read(part) for part in parts)
        return msgspec.json.decode(head, type=dict[str, Any]), body, signature
    except (ValueError, msgspec.MsgspecError) as error:
        message = f"this is no receipt: {error}"
        raise ReceiptInvalid(message) from None


def _write(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _read(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
