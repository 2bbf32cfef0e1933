"""What a request holds: its bytes read as what its content type says. Nothing here is asked before they are verified."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from gateway.apps import LiveApp
from gateway.errors import BadRequest, Unprocessable, UnsupportedMedia
from gateway.nesting import MOST_LEVELS, is_too_deep
from gateway.signatures import Request
from gateway.triggers import DirectRequest

Read = TypeVar("Read")
TOO_DEEP = f"the body is JSON nested too deeply: more than {MOST_LEVELS} levels"
BYTE = re.compile(r"\(byte (\d+)\)")
JSON_TYPE = re.compile(r"application/(json|[\w.+-]+\+json)\s*(;.*)?", re.IGNORECASE)

_direct = msgspec.json.Decoder(DirectRequest)
_anything = msgspec.json.Decoder()


def read_content(app: LiveApp, request: Request) -> Any:
    """The body: a DirectRequest where the app's adapter is `direct`, else any JSON. Raises as `read_as` does."""
    check_media(request)
    return read_direct(request.body) if app.direct else read_json(request.body)


def check_media(request: Request) -> None:
    """Refuse content that is not plain JSON by its own headers."""
    encodings = [
        value for name, value in request.headers if name == "content-encoding" and value.strip().lower() != "identity"
    ]
    if encodings:
        message = f"content-encoding {encodings[0][:40]!r} is not accepted; send the body as it is"
        raise UnsupportedMedia(message)
    types = [value for name, value in request.headers if name == "content-type"]
    if len(types) != 1 or not JSON_TYPE.fullmatch(types[0].strip()):
        found = repr(types[0][:60]) if len(types) == 1 else f"given {len(types)} times"
        message = f"content-type {found} is not accepted here; send one application/json"
        raise UnsupportedMedia(message)


def read_direct(body: bytes) -> DirectRequest:
    """A run request from JSON. Raises as `read_as` does."""
    return read_as(_direct.decode, body)


def read_json(body: bytes) -> Any:
    """Any JSON. Raises as `read_as` does."""
    return read_as(_anything.decode, body)


def read_as(decode: Callable[[bytes], Read], body: bytes) -> Read:
    """JSON of a shape. Raises BadRequest with line and column, or Unprocessable with the field.

    Of a name that stands twice in one object the last counts, as in JavaScript and Python.
    """
    try:
        found = decode(body)
    except msgspec.ValidationError as error:
        raise _misshapen(error) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(body, error) from None
    if is_too_deep(body):
        raise BadRequest(TOO_DEEP)
    return found


def _misshapen(error: msgspec.ValidationError) -> Unprocessable:
    """Say which field of a JSON body is not what it should be."""
    what, _, where = str(error).partition(" - at `$")
    path = where.strip("`.") or "body"
    return Unprocessable(f"{path}: {what[:1].lower()}{what[1:]}", path=path)


def _malformed(body: bytes, error: Exception) -> BadRequest:
    """Say where JSON stops being JSON: line and column from 1, counted in bytes."""
    if isinstance(error, RecursionError):
        return BadRequest(TOO_DEEP)
    found = BYTE.search(str(error))
    place = int(found[1]) if found else _first_fault(body)
    line = body.count(b"\n", 0, place) + 1
    column = place - (body.rfind(b"\n", 0, place) + 1) + 1
    reason = BYTE.sub("", str(error)).removeprefix("JSON is malformed: ").strip() or "it is not UTF-8"
    return BadRequest(f"the body is not JSON: {reason} at line {line}, column {column}", line=line, column=column)


def _first_fault(body: bytes) -> int:
    """Where the body stops being UTF-8: behind its end when it never does."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(body)
