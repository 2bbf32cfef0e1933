"""One field of a multipart form (RFC 7578), for a signature that stands in it or is of it; nothing else is read of it.

The bytes are not yet known to be anybody's, so the reading is strict and bounded: one boundary, each part's headers in
lines that end in CRLF, and a field only where its name stands once and it is no file.
"""

from __future__ import annotations

import re
from typing import Final

BOUNDARY: Final = re.compile(
    r"multipart/form-data\s*;\s*boundary=(?:\"([^\"\r\n]{1,70})\"|([0-9A-Za-z'()+_,./:=?-]{1,70}))\s*", re.IGNORECASE
)
DISPOSITION: Final = re.compile(rb"content-disposition:\s*form-data\s*;\s*name=\"([^\"\r\n]*)\"\s*", re.IGNORECASE)
MAX_PARTS: Final = 1000
MAX_HEADERS: Final = 2000


def read_part(content_type: str, body: bytes, name: str) -> bytes | None:
    """The value of the one field `name`; None when it is missing or repeated, or when this is no such form."""
    found = BOUNDARY.fullmatch(content_type.strip())
    if found is None:
        return None
    delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1")
    whole = b"\r\n" + body
    if not 2 <= whole.count(delimiter) <= MAX_PARTS:
        return None
    # What stands in front of the first delimiter and behind the last is no part.
    parts = whole.split(delimiter)[1:-1]
    values = [value for field, value in map(split_part, parts) if field == name.encode()]
    return values[0] if len(values) == 1 else None


def split_part(part: bytes) -> tuple[bytes | None, bytes]:
    """The field's name and its value; no name for a file, and for what is no field."""
    head, gap, value = part[: MAX_HEADERS + 4].partition(b"\r\n\r\n")
    if not gap or not head.startswith(b"\r\n"):
        return None, b""
    names = [found[1] for line in head[2:].split(b"\r\n") if (found := DISPOSITION.fullmatch(line))]
    value = part[len(head) + 4 :]
    return (names[0], value) if len(names) == 1 else (None, b"")
