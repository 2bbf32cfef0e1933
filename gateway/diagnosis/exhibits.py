"""What in a request's headers looks like a signature: wherever it stands, whatever stands around it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from gateway.proofs import Request
from gateway.verifiers.encodings import decode_base64, decode_hex
from gateway.verifiers.keys import DIGEST_SIZES

SIZES: Final = {size: name for name, size in DIGEST_SIZES.items()}
LONGEST_HEADER: Final = 8192
MOST_EXHIBITS: Final = 64
TOKEN: Final = re.compile(r"[A-Za-z0-9+/_-]{27,128}={0,2}")
HEX_OF_BASE64: Final = re.compile(rb"[0-9A-Fa-f]+")


class Exhibit(Struct, frozen=True):
    """A text of a digest's size in a header: the header's whole value, where in it, how it is written, its bytes."""

    header: str
    value: str
    start: int
    end: int
    encoding: str
    digest: bytes

    @property
    def text(self) -> str:
        return self.value[self.start : self.end]

    @property
    def algorithm(self) -> str:
        """The hash whose digests are of this size."""
        return SIZES[len(self.digest)]


def find_exhibits(request: Request) -> list[Exhibit]:
    """All of them, in the order of the headers, MOST_EXHIBITS at most."""
    found: list[Exhibit] = []
    for header, value in request.headers:
        for match in TOKEN.finditer(value[:LONGEST_HEADER]):
            found += _read(header, value, match)
            if len(found) >= MOST_EXHIBITS:
                return found[:MOST_EXHIBITS]
    return found


def _read(header: str, value: str, match: re.Match[str]) -> Iterator[Exhibit]:
    for encoding, digest in read_text(match[0]):
        if len(digest) in SIZES:
            yield Exhibit(header, value, match.start(), match.end(), encoding, digest)


def read_text(text: str) -> Iterator[tuple[str, bytes]]:
    """Each way in which the text may be a digest, and its bytes. Hex is hex, though it could be base64 as well."""
    bare = decode_hex(text)
    if bare is not None and len(bare) in SIZES:
        yield "hex", bare
        return
    strict = decode_base64(text)
    if strict is not None:
        yield from _read_base64("base64", strict)
        return
    standard = text.rstrip("=").replace("-", "+").replace("_", "/")
    loose = _decode_loosely(standard + "=" * (-len(standard) % 4))
    if loose is not None:
        yield from _read_base64("url-safe base64" if "-" in text or "_" in text else "base64 without padding", loose)


def _read_base64(encoding: str, decoded: bytes) -> Iterator[tuple[str, bytes]]:
    yield encoding, decoded
    if HEX_OF_BASE64.fullmatch(decoded):
        inner = decode_hex(decoded.decode("ascii"))
        if inner is not None:
            yield "base64 of hex", inner


def _decode_loosely(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None
