"""Names that stand twice in one object of JSON: parsers differ in which of them counts, and so would judges. Silent.

`has_duplicate` is on the way of every body, so it looks twice: what has all its colons once it is read and written anew
has lost no name (1 µs for 1 kB); the rest goes through the standard library's scanner in C (5 µs). `find_duplicate`
says where, for the one that is refused.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

UNREAD = msgspec.UNSET
_TOKENS = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|[][{}]')


class _Doubled(Exception):
    """A name stands twice."""


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise _Doubled


# Numbers are not made: it takes time, and of very long ones it is refused.
_scanner = json.JSONDecoder(object_pairs_hook=_refuse_doubles, parse_int=len, parse_float=len)


_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
# A colon written so, `\u003a`, would make up for one that is lost.
_ESCAPED = b"\\u003"


def has_duplicate(text: bytes, document: Any = UNREAD) -> bool:
    """Whether an object of this valid JSON, of a few hundred levels at most, has a name twice, however it is escaped.

    `document` is all that it holds, for those who have read it already.
    """
    if _keeps_colons(text, document):
        return False
    try:
        _scanner.decode(text.decode())
    except _Doubled:
        return True
    return False


def _keeps_colons(text: bytes, document: Any) -> bool:
    """Whether as many colons stand in it as in the same written anew. Each name has one; of two names that are the same
    one is lost there, and its colon with it, and those within its value.
    """
    if _ESCAPED in text:
        return False
    try:
        return text.count(b":") == _encode(_decode(text) if document is UNREAD else document).count(b":")
    except (msgspec.DecodeError, RecursionError):
        return False


def find_duplicate(text: bytes) -> tuple[str, int] | None:
    """The first name of valid JSON that stands in its object for the second time, and its place in bytes."""
    seen: list[set[str]] = []
    for token in _TOKENS.finditer(text):
        if token[1] is None:
            seen.append(set()) if token[0] in b"{[" else seen.pop()
        elif token[2] is not None:
            name: str = json.loads(token[1])
            if name in seen[-1]:
                return name, token.start()
            seen[-1].add(name)
    return None
