"""Adyen's standard webhooks: each item of the body carries a signature of eight of its own fields.

The other fields of an item are not signed. Every item has to hold: one that is signed proves nothing of its neighbours.

Source: Adyen, "Verify HMAC signatures", and adyen-python-api-library, `Adyen/util.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gateway.errors import ConfigError
from gateway.proofs import Request, Verdict, find_path, refuse
from gateway.schemes import Scheme
from gateway.verifiers.claims import unsignable
from gateway.verifiers.encodings import decode_base64, encode_base64
from gateway.verifiers.keys import compute_digest, judge_match, read_key, read_keys
from gateway.verifiers.keys import find_match as find_one
from gateway.verifiers.placing import Signed

FIELDS: Final = (
    "pspReference",
    "originalReference",
    "merchantAccountCode",
    "merchantReference",
    "amount.value",
    "amount.currency",
    "eventCode",
    "success",
)
LIST: Final = "notificationItems"
ITEM: Final = "NotificationRequestItem"
SIGNATURE: Final = "additionalData.hmacSignature"
DIGEST_BYTES: Final = 32
MOST_ITEMS: Final = 100


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """Every item's signature, all under one and the same of the secrets."""
    keys, fault = read_keys(scheme.key, secrets)
    items = read_items(request.body)
    if isinstance(items, Verdict):
        return fault or items
    made: list[list[bytes]] = []
    shown: list[bytes] = []
    for item in items:
        digest, message = read_signature(item), write_message(item)
        if isinstance(digest, Verdict) or isinstance(message, Verdict):
            return fault or (digest if isinstance(digest, Verdict) else refuse("malformed_body"))
        shown.append(digest)
        made.append([compute_digest(key, (message,), "sha256") for key in keys])
    return judge_match(find_match(made, shown), fault)


def find_match(made: Sequence[Sequence[bytes]], shown: Sequence[bytes]) -> int | None:
    """The index of the first key by which every item is signed."""
    keys = zip(*made, strict=True)
    hits = [[find_one((digest,), (item,)) is not None for digest, item in zip(key, shown, strict=True)] for key in keys]
    return next((index for index, each in enumerate(hits) if all(each)), None)


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The body with a signature in each item. Raises ConfigError when it holds none."""
    key = read_key(scheme.key, secret)
    document = read_document(request.body)
    items = items_of(document)
    if isinstance(items, Verdict):
        raise unsignable(items)
    for item in items:
        message = write_message(item)
        if isinstance(message, Verdict):
            raise unsignable(message)
        added = item.setdefault("additionalData", {})
        if not isinstance(added, dict):
            raise ConfigError("additionalData: has to be an object, for the signature stands in it")
        added["hmacSignature"] = encode_base64(compute_digest(key, (message,), "sha256"))
    return Signed(body=msgspec.json.encode(document))


def read_items(body: bytes) -> Sequence[dict[str, Any]] | Verdict:
    return items_of(read_document(body))


def read_document(body: bytes) -> object:
    """The body as JSON; None when it is none."""
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None


def items_of(document: object) -> Sequence[dict[str, Any]] | Verdict:
    """The items of a notification; a body that is one bare item, as Adyen's own tests have it, is that item."""
    if not isinstance(document, dict):
        return refuse("malformed_body")
    if LIST not in document:
        return (document,)
    listed = document[LIST]
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST_ITEMS:
        return refuse("malformed_body")
    items = [each.get(ITEM) if isinstance(each, dict) else None for each in listed]
    found = [item for item in items if isinstance(item, dict)]
    return found if len(found) == len(items) else refuse("malformed_body")


def read_signature(item: dict[str, Any]) -> bytes | Verdict:
    text = find_path(item, SIGNATURE)
    if not isinstance(text, str) or not text:
        return refuse("missing_proof")
    digest = decode_base64(text)
    return digest if digest and len(digest) == DIGEST_BYTES else refuse("bad_encoding")


def write_message(item: dict[str, Any]) -> bytes | Verdict:
    """The fields joined by colons, nothing escaped; a missing one is empty."""
    texts = [write_field(find_path(item, path)) for path in FIELDS]
    if any(text is None for text in texts):
        return refuse("malformed_body")
    return ":".join(text or "" for text in texts).encode("utf-8", "surrogatepass")


def write_field(value: object) -> str | None:
    """A field as Adyen writes it into the signed text; None for what it never holds."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 2**63 else None
    return value if isinstance(value, str) else None
