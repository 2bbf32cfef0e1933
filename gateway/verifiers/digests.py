"""The digest of a body that a header carries: Content-Digest (RFC 9530) and its forerunner Digest (RFC 3230)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

import http_sf

from gateway.proofs import Request
from gateway.verifiers.encodings import decode_base64, encode_base64

HASHES: Final[Mapping[str, str]] = {"sha-256": "sha256", "sha-512": "sha512"}
"""The algorithms that count, by their names in both headers; all others are weak, or unknown."""


def holds_content_digest(request: Request) -> bool:
    """Whether Content-Digest names this body by every algorithm that counts, and by one at least."""
    try:
        found: Any = http_sf.parse(joined(request, "content-digest").encode("latin-1"), tltype="dictionary")
    except ValueError:
        return False
    values = {name: member[0] for name, member in found.items() if name in HASHES}
    return bool(values) and all(is_digest(name, value, request.body) for name, value in values.items())


def holds_digest(request: Request) -> bool:
    """Whether Digest names this body by every algorithm that counts, and by one at least."""
    items = [item.strip().partition("=") for item in joined(request, "digest").split(",")]
    values = [(name.lower(), text) for name, _, text in items if name.lower() in HASHES]
    decoded = [(name, decode_base64(text) if text.isascii() else None) for name, text in values]
    return bool(decoded) and all(is_digest(name, value, request.body) for name, value in decoded)


def is_digest(name: str, value: object, body: bytes) -> bool:
    """Whether this is the body's digest."""
    return isinstance(value, bytes) and hmac.compare_digest(value, hashlib.new(HASHES[name], body).digest())


def joined(request: Request, name: str) -> str:
    """All lines of a header as one value."""
    return ", ".join(request.values(name))


def write_content_digest(body: bytes) -> str:
    """The value of Content-Digest, by SHA-256."""
    return f"sha-256=:{encode_base64(hashlib.sha256(body).digest())}:"


def write_digest(body: bytes) -> str:
    """The value of Digest, by SHA-256."""
    return f"SHA-256={encode_base64(hashlib.sha256(body).digest())}"
