"""Expressions in CEL: checked and compiled once, when configuration is read; `evaluate` never raises.

CEL itself (https://github.com/google/cel-spec) runs in cel-expr-python. Measured with its 0.1.3, it does
these things that we must not let through, and so this module goes round them:

* A variable is handed over wholly, 27 ms for 1 MB of JSON, to read one field of it. So we read the compiled
  tree, learn which paths it uses, and hand over only those. A plain path (`event.body.ref`) never goes there.
* Text is cut at its first NUL: "1\\0" == "1" would be true. Such data is a Failure.
* Asking for a null as a Python value takes a reference to None that is not the engine's to take, and ends the
  process after some thousand times on Python 3.11. We look at the type first.
* Data nested some thousand levels deep overflows the stack.
* One evaluation may take 10,000 turns of its loops and can't be stopped in between, and the time of `map` and
  `filter` grows with the square of the list's length.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_encoders, ext_math, ext_optional, ext_strings
from msgspec import Struct

from gateway.cel.messages import Mistake, explain_absence, explain_exception, read_mistake, shorten
from gateway.cel.scopes import Scope
from gateway.cel.trees import Tree
from gateway.cel.values import MAX_RESULT, Room, check_data, check_plain, has, merge_paths, narrow, read_result
from gateway.errors import ConfigError

MAX_LENGTH = 4000  # characters of one expression


class Failure(Struct, frozen=True):
    """Why an expression gave no value this time. An ordinary outcome, so it is returned, not raised."""

    expression: str
    message: str


class Expression:
    """A compiled expression; make one with `compile_expression`.

    `paths` are the places of the data that it reads, `names` the names of its scope that it uses, `steps` the ids in
    `steps.<id>` and `steps["id"]`; an id that is computed (`steps[input.name]`) can't be known and is not among them.
    `asks_contents` is false where it surely reads no bytes of an event's files.
    """

    __slots__ = ("_limited", "_path", "_program", "_wanted", "asks_contents", "names", "paths", "source", "steps")

    def __init__(self, source: str, program: Any, tree: Tree, scope: Scope) -> None:
        self.source = source
        self.paths = frozenset(tree.paths)
        self.names = frozenset(path[0] for path in tree.paths).intersection(scope.value)
        self.steps = frozenset(path[1] for path in tree.paths if path[0] == "steps" and len(path) > 1)
        self.asks_contents = tree.asks_contents
        self._program = program
        self._path = tree.only_path
        self._wanted = merge_paths(tree.paths)
        self._limited = tree.grows_with_square

    def evaluate(self, values: Mapping[str, object]) -> object | Failure:
        """Give the value as plain JSON-able Python, or the Failure that says why there is none.

        `values` hold JSON values under the names of the scope; a name left out is not available and fails
        only where it is needed. Timestamps and durations become their JSON text (protobuf's), bytes become
        base64 text. NaN, infinities, types, optionals and maps with keys that are not text are Failures.
        A plain path gives the very object found in `values`: do not change it.
        """
        try:
            return self._look_up(self._path, values) if self._path else self._compute(values)
        # The engine is foreign code: whatever it throws at some sender's data must not end a run.
        except Exception as error:
            return Failure(self.source, explain_exception(error))

    def _look_up(self, path: tuple[str | int, ...], values: Mapping[str, object]) -> object | Failure:
        if path[0] not in values:
            return Failure(self.source, f"`{path[0]}` is not available in this run")
        value = values[str(path[0])]
        for place, key in enumerate(path[1:], 1):
            if not has(value, key):
                return Failure(self.source, explain_absence(value, path[:place], key))
            value = value[key]  # type: ignore[index]  # has looked
        check_plain(value)
        return value

    def _compute(self, values: Mapping[str, object]) -> object | Failure:
        data = {name: narrow(values[name], wanted) for name, wanted in self._wanted.items() if name in values}
        check_data(data, self._limited)
        return read_result(self._program.eval(data=data), Room(MAX_RESULT))


def compile_expression(source: str, scope: Scope, where: str = "") -> Expression:
    """Check and compile one bare CEL expression (`event.type == "push"`).

    Raises ConfigError with what is wrong, where, and what to write instead; its details are `path` (the given
    `where`), `line`, `column` (both from 1) and `expression`.
    """
    made = try_compile(source, scope)
    if isinstance(made, Mistake):
        raise refuse(made.message, where, source, made.offset, source)
    return made


def referenced_steps(source: str) -> set[str]:
    """Ids of the steps a bare CEL expression names as `steps.<id>` or `steps["id"]`; raises ConfigError."""
    return set(compile_expression(source, Scope.FOREACH).steps)


# The engine takes text as UTF-8 that ends at a NUL.
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


def refuse(message: str, path: str, text: str, offset: int, expression: str) -> ConfigError:
    line = text.count("\n", 0, offset) + 1
    column = offset - text.rfind("\n", 0, offset)
    place = f"{path}: " if path else ""
    return ConfigError(
        f"{place}line {line}, column {column}: {message}",
        path=path,
        line=line,
        column=column,
        expression=shorten(expression),
    )


def try_compile(source: str, scope: Scope) -> Expression | Mistake:
    if len(source) > MAX_LENGTH:
        return Mistake(0, f"the expression is longer than {MAX_LENGTH} characters")
    if not source.strip():
        return Mistake(0, "the expression is empty")
    if unusable := _UNUSABLE.search(source):
        return Mistake(unusable.start(), "this character can't stand in an expression")
    try:
        program = _environment(scope).compile(source)
    except (RuntimeError, TypeError, ValueError) as error:
        return read_mistake(str(error), source, scope)
    tree = Tree(program.serialize())
    if tree.refusal:
        return Mistake(0, tree.refusal)
    return Expression(source, program, tree, scope)


@functools.cache
def _environment(scope: Scope) -> Any:
    extensions = [
        ext_strings.ExtStrings(),
        ext_math.ExtMath(),
        ext_optional.ExtOptional(),
        ext_encoders.ExtEncoders(),
    ]
    return cel.NewEnv(variables=dict.fromkeys(scope.value, cel.Type.DYN), extensions=extensions)
