"""The compiled tree of an expression: which paths it reads, and whether it may cost too much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from gateway.cel.scopes import Scope

MAX_LOOP_NESTING = 4  # map inside filter inside …
MAX_REPLACEMENTS = 100  # replace(old, new, limit) on text that all comes from data

# Numbers of fields in cel.expr.CheckedExpr (cel-spec, proto/cel/expr/checked.proto and syntax.proto).
_CONSTANT, _IDENT, _SELECT, _CALL, _LIST, _STRUCT, _LOOP = 3, 4, 5, 6, 7, 8, 9
_Fields: TypeAlias = dict[int, list[Any]]
Path: TypeAlias = tuple[str | int, ...]


class Tree:
    """What one walk over a compiled expression learns."""

    def __init__(self, serialized: bytes) -> None:
        self.paths: set[tuple[str, ...]] = set()
        self.only_path: Path | None = None
        self.grows_with_square = False
        self.asks_contents = False
        self.refusal: str | None = None
        checked = _fields(_fields(serialized)[2][0])
        root = _fields(checked[4][0])
        chain = _read_chain(root, frozenset())
        if chain and chain[1] and chain[0][0] in Scope.FOREACH.value:
            self.only_path = chain[0]
        self._visit(root, frozenset(), 0)

    def _visit(self, node: _Fields, bound: frozenset[str], nesting: int) -> None:
        chain = _read_chain(node, bound)
        if chain:
            self.paths.add(_before_index(chain[0]))
            self.asks_contents |= _asks_contents(chain[0])
        elif _CALL in node:
            self._check_call(_fields(node[_CALL][0]), nesting)
        if _LOOP in node:
            self._visit_loop(_fields(node[_LOOP][0]), bound, nesting + 1)
        elif not chain:
            for child in _children(node):
                self._visit(child, bound, nesting)

    def _visit_loop(self, loop: _Fields, bound: frozenset[str], nesting: int) -> None:
        if nesting > MAX_LOOP_NESTING:
            self.refusal = f"loops (map, filter, all, exists) are nested more than {MAX_LOOP_NESTING} deep"
        start = _fields(loop[4][0])
        self.grows_with_square |= _LIST in start
        inner = bound | {_decode(name) for number in (1, 3, 8) for name in loop.get(number, [])}
        for outer in (_fields(loop[2][0]), start):
            self._visit(outer, bound, nesting - 1)
        for number in (5, 6, 7):
            self._visit(_fields(loop[number][0]), inner, nesting)

    def _check_call(self, call: _Fields, nesting: int) -> None:
        name, arguments = _decode(call[2][0]), [_fields(argument) for argument in call.get(3, [])]
        if name == "@in" and nesting and _LIST not in arguments[1]:
            self.grows_with_square = True
        if name == "join" and any(_CONSTANT not in argument for argument in arguments):
            self.refusal = "the separator of join must be written out, so that data can't make the text explode"
        if name == "replace" and _may_explode(_fields(call[1][0]), arguments):
            self.refusal = (
                "replace on text from data with text from data needs a limit, so that it can't explode: "
                f"replace(old, new, n) with n written out, at most {MAX_REPLACEMENTS}"
            )


def _may_explode(target: _Fields, arguments: list[_Fields]) -> bool:
    if _CONSTANT in target or _CONSTANT in arguments[1]:
        return False
    limit = _read_constant(arguments[2]) if len(arguments) == 3 else None
    return not (isinstance(limit, int) and limit <= MAX_REPLACEMENTS)


def _read_chain(node: _Fields, bound: frozenset[str]) -> tuple[Path, bool] | None:
    """The path a chain of fields and written-out indexes reads, and whether a plain look-up does the same."""
    if _IDENT in node:
        name = _decode(_fields(node[_IDENT][0])[1][0])
        return None if name in bound else ((name.removeprefix("."),), True)
    if _SELECT in node:
        select = _fields(node[_SELECT][0])
        inner = _read_chain(_fields(select[1][0]), bound)
        return inner and ((*inner[0], _decode(select[2][0])), inner[1] and 3 not in select)
    if _CALL in node:
        return _read_index(_fields(node[_CALL][0]), bound)
    return None


def _read_index(call: _Fields, bound: frozenset[str]) -> tuple[Path, bool] | None:
    name = _decode(call[2][0])
    if name not in ("_[_]", "_?._", "_[?_]"):
        return None
    operand, index = (_fields(argument) for argument in call[3])
    key = _read_constant(index)
    inner = _read_chain(operand, bound)
    return ((*inner[0], key), inner[1] and name == "_[_]") if inner and key is not None else None


def _read_constant(node: _Fields) -> str | int | None:
    constant = _fields(node[_CONSTANT][0]) if _CONSTANT in node else {}
    if 6 in constant:
        return _decode(constant[6][0])
    number = constant.get(3, [None])[0]
    return None if number is None or number >= 1 << 63 else int(number)


def _asks_contents(path: Path) -> bool:
    """Whether a path may lead to the bytes of an event's files: `event.files[0].content`, or all of what holds them."""
    if path[0] != "event" or (len(path) > 1 and path[1] != "files"):
        return False
    return len(path) <= 3 or path[3] == "content"


def _before_index(path: Path) -> tuple[str, ...]:
    keys: list[str] = []
    for key in path:
        if not isinstance(key, str):
            break
        keys.append(key)
    return tuple(keys)


def _children(node: _Fields) -> Iterator[_Fields]:
    places = {_SELECT: (1,), _CALL: (1, 3), _LIST: (1,)}
    for kind, numbers in places.items():
        for body in node.get(kind, []):
            fields = _fields(body)
            yield from (_fields(child) for number in numbers for child in fields.get(number, []))
    for body in node.get(_STRUCT, []):
        entries = (_fields(entry) for entry in _fields(body).get(2, []))
        yield from (_fields(child) for entry in entries for number in (3, 4) for child in entry.get(number, []))


def _fields(message: bytes) -> _Fields:
    """Split one protobuf message into its fields by number (https://protobuf.dev/programming-guides/encoding/)."""
    fields: _Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = _varint(message, at)
        else:
            size, at = _varint(message, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
            value, at = message[at : at + size], at + size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while message[at] & 0x80:
        number |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return number | message[at] << shift, at + 1


def _decode(encoded: bytes) -> str:
    return encoded.decode()
