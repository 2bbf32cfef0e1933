"""Data on its way into the engine and results on their way out; what can't pass raises UnfitError."""

from __future__ import annotations

import base64
import datetime
import math
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from gateway.nesting import MOST_LEVELS, is_too_deep

MAX_LOOP_ITEMS = 2500  # of one list or map, where the time grows with its square; about 0.2 s
MAX_DATA_DEPTH = MOST_LEVELS  # the engine's stack bears about 3000 with 8 MB, and a thread may have much less
TOO_DEEP = f"the data is nested more than {MAX_DATA_DEPTH} levels deep"
MAX_RESULT = 200_000  # values in one computed result; 100 characters of text count as one more

Wanted: TypeAlias = "dict[str, Wanted | None]"
encode = msgspec.json.Encoder().encode
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class UnfitError(Exception):
    """Data or a result that can't be used; the message becomes a Failure's."""


def merge_paths(paths: set[tuple[str, ...]]) -> dict[str, Wanted | None]:
    """Make one tree of the paths; None stands for the whole value from there on."""
    merged: dict[str, Wanted | None] = {}
    for path in sorted(paths, key=len):
        _add_path(merged, path)
    return merged


def _add_path(merged: dict[str, Wanted | None], path: tuple[str, ...]) -> None:
    for key in path[:-1]:
        inner = merged.setdefault(key, {})
        if inner is None:
            return
        merged = inner
    merged.setdefault(path[-1], None)


def narrow(value: object, wanted: Wanted | None) -> object:
    if wanted is None or not isinstance(value, dict):
        return value
    return {key: narrow(value[key], inner) for key, inner in wanted.items() if key in value}


def check_data(data: dict[str, object], is_limited: bool) -> None:
    encoded = encode(data)
    if b"\\u0000" in encoded and _NUL.search(encoded):
        raise UnfitError("the data holds text with a NUL character, which can't be compared safely")
    if encoded.count(b"{") + encoded.count(b"[") > MAX_DATA_DEPTH or (
        is_limited and encoded.count(b",") >= MAX_LOOP_ITEMS
    ):
        _check_shape(data, is_limited)


def _check_shape(data: dict[str, object], is_limited: bool) -> None:
    level: list[Any] = [data]
    for _ in range(MAX_DATA_DEPTH):
        longest = max(map(len, level), default=0)
        if is_limited and longest > MAX_LOOP_ITEMS:
            raise UnfitError(f"a list of {longest} is too long for this loop (at most {MAX_LOOP_ITEMS})")
        items = (item for group in level for item in (group.values() if isinstance(group, dict) else group))
        level = [item for item in items if isinstance(item, dict | list)]
    if level:
        raise UnfitError(TOO_DEEP)


def has(value: object, key: str | int) -> bool:
    if isinstance(value, dict):
        return key in value
    return isinstance(value, list) and isinstance(key, int) and key < len(value)


def check_plain(value: object) -> None:
    """Refuse what could not be written as JSON again, by writing it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UnfitError("the result is not a finite number")
    if (not isinstance(value, str) or not value.isascii()) and is_too_deep(encode(value)):
        raise UnfitError(TOO_DEEP)


class Room:
    """How much more a result may hold."""

    __slots__ = ("_left",)

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise UnfitError(f"the result is too large (more than {MAX_RESULT} values)")


def read_result(result: Any, room: Room) -> object:
    kind = result.type().name()
    room.take(1)
    if kind in _SCALARS:
        return _SCALARS[kind](result, room)
    if kind.startswith("LIST"):
        return [read_result(item, room) for item in result.value()]
    if kind.startswith("MAP"):
        return {_read_key(key): read_result(item, room) for key, item in result.value().items()}
    if kind == "ERROR":  # an optional calls itself one too, and then has no text either: a TypeError
        raise RuntimeError(result.plain_value())
    raise UnfitError(f"the result is a {kind.lower()}, which JSON has no form for")


def _read_key(key: object) -> str:
    if not isinstance(key, str):
        raise UnfitError(f"the result is a map with the key {key!r}; JSON's keys are text: use string(x)")
    return key


def _read_null(result: Any, room: Room) -> None:
    return None


def _read_exact(result: Any, room: Room) -> object:
    value: object = result.plain_value()
    return value


def _read_text(result: Any, room: Room) -> str:
    text: str = result.plain_value()
    room.take(len(text) // 100)
    return text


def _read_float(result: Any, room: Room) -> float:
    number: float = result.plain_value()
    if not math.isfinite(number):
        raise UnfitError(f"the result is {number}, which is not a finite number")
    return number


def _read_bytes(result: Any, room: Room) -> str:
    data: bytes = result.plain_value()
    room.take(len(data) // 75)
    return base64.b64encode(data).decode()


def _read_timestamp(result: Any, room: Room) -> str:
    moment: datetime.datetime = result.plain_value()
    return moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + _write_fraction(moment.microsecond) + "Z"


def _read_duration(result: Any, room: Room) -> str:
    length: datetime.timedelta = result.plain_value()
    micros = length // datetime.timedelta(microseconds=1)
    seconds, rest = divmod(abs(micros), 1_000_000)
    return f"{'-' if micros < 0 else ''}{seconds}{_write_fraction(rest)}s"


def _write_fraction(micros: int) -> str:
    """Three or six digits or none, as protobuf's JSON writes them."""
    if not micros:
        return ""
    return f".{micros:06}" if micros % 1000 else f".{micros // 1000:03}"


_SCALARS: dict[str, Callable[[Any, Room], object]] = {
    "NULL": _read_null,
    "BOOL": _read_exact,
    "INT": _read_exact,
    "UINT": _read_exact,
    "DOUBLE": _read_float,
    "STRING": _read_text,
    "BYTES": _read_bytes,
    "TIMESTAMP": _read_timestamp,
    "DURATION": _read_duration,
}
