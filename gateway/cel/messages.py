"""Why an expression can't be compiled or gave no value, in words for whoever wrote it."""

from __future__ import annotations

import difflib
import re

from msgspec import Struct

from gateway.cel.scopes import FUNCTIONS, NAMESPACES, Scope
from gateway.cel.trees import Path
from gateway.cel.values import TOO_DEEP, UnfitError


class Mistake(Struct, frozen=True):
    offset: int
    message: str


_COMPILE_ERROR = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_NO_OVERLOAD = re.compile(r"found no matching overload for '(.+)' applied to '(?:(\w+)\.)?\((.*)\)'")
_SYNTAX = (
    (re.compile(r".*input '<EOF>'.*"), "the expression ends too early"),
    (re.compile(r"Syntax error: token recognition error at: '(.*?)\s*'$"), r"can't read `\1`"),
    (
        re.compile(r"Syntax error: (?:mismatched|extraneous) input '(.*?)' expecting.*"),
        r"did not expect `\1`",
    ),
    (re.compile(r"Syntax error: no viable alternative at input '(.*?)'.*"), r"did not expect `\1`"),
    (
        re.compile(r".*recursion.*"),
        "the expression is nested too deeply (32 levels; a long chain counts too)",
    ),
)
_HINTS = (
    (re.compile(r"\$\{"), "write the bare expression here, without ${ and }"),
    (re.compile(r"===|!=="), "CEL writes == and !="),
    (re.compile(r"[^=!<>]=[^=]"), "CEL compares with =="),
    (re.compile(r"\b(?:and|or|not)\b"), "CEL writes && for and, || for or, ! for not"),
    (re.compile(r"\b(?:None|True|False|nil|undefined)\b"), "CEL writes null, true, false"),
)


def read_mistake(text: str, source: str, scope: Scope) -> Mistake:
    found = _COMPILE_ERROR.search(text)
    if not found:
        return Mistake(0, _explain_syntax(_strip_status(text), source))
    offset = _find_offset(source, int(found[1]), int(found[2]))
    if undeclared := _UNDECLARED.match(found[3]):
        return _explain_undeclared(undeclared[1], source, offset, scope)
    if overload := _NO_OVERLOAD.match(found[3]):
        kinds = [overload[2], *overload[3].split(", ")] if overload[2] else overload[3].split(", ")
        return Mistake(offset, _explain_overload(overload[1], kinds))
    return Mistake(offset, _explain_syntax(_strip_status(found[3]), source))


def _find_offset(source: str, line: int, column: int) -> int:
    lines = source.split("\n")
    before = sum(len(text) + 1 for text in lines[: line - 1]) if line > 0 else 0
    return min(before + max(column - 1, 0), len(source))


def _strip_status(text: str) -> str:
    """Take away the engine's status words: `INVALID_ARGUMENT: text [INVALID_ARGUMENT]` is `text`."""
    return re.sub(r"^[A-Z_]+: | \[[A-Z_]+\]$", "", text)


def _explain_syntax(text: str, source: str) -> str:
    words = next((m.expand(out) for pattern, out in _SYNTAX if (m := pattern.match(text))), shorten(text))
    hint = next((hint for pattern, hint in _HINTS if pattern.search(source)), None)
    return f"{words}; {hint}" if hint else words


def _explain_undeclared(name: str, source: str, offset: int, scope: Scope) -> Mistake:
    # The engine points at the last dot of a name and at a call's bracket; a reader wants the beginning.
    for start in (name.rpartition(".")[0], name):
        if start and source[:offset].endswith(start):
            offset -= len(start)
            break
    if name in NAMESPACES:
        name = re.split(r"[^\w.]", source[offset:], maxsplit=1)[0]
    is_call = source[offset + len(name) :].lstrip().startswith("(")
    return Mistake(offset, _explain_function(name) if is_call else _explain_name(name.split(".")[0], scope))


def _explain_function(name: str) -> str:
    if name in FUNCTIONS:
        return f"`{name}` does not take these arguments"
    return f"there is no function `{name}`{_suggest(name, FUNCTIONS)}"


def _explain_name(name: str, scope: Scope) -> str:
    in_reach = f" (in reach: {', '.join(scope.value)})"
    if name in Scope.FOREACH.value:
        return f"`{name}` can't be used here{in_reach}"
    return f"there is no name `{name}`{_suggest(name, scope.value)}{in_reach}"


def _suggest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean `{close[0]}`?" if close else ""


def _explain_overload(function: str, kinds: list[str]) -> str:
    shown = {"_[_]": "[ ]", "_[?_]": "[? ]", "_?_:_": "? :"}.get(function, function.strip("_@"))
    names = [kind.removesuffix("64") for kind in kinds]
    used = " and ".join(dict.fromkeys(names))
    if len(set(names)) > 1 and set(names) <= {"int", "uint", "double"}:
        return f"`{shown}` can't mix {used}: convert with double(x) or int(x)"
    if function == "_+_" and "string" in names:
        return f"`+` can't join {used}: convert with string(x)"
    return f"`{shown}` can't be used on {used}"


_EMPTY_HANDED = "the result is an optional, which JSON has no form for: end it with .orValue(…)"
_RUNTIME = (
    (re.compile(r"Key not found in map : (.*)"), r"no such key \1"),
    (re.compile(r'No value with name "(.*)" found in Activation'), r"`\1` is not available in this run"),
    (re.compile(r"Index error: index=(-?\d+) size=(\d+)"), r"there is no index \1 in a list of \2"),
    (
        re.compile(r"Applying SELECT to non-message type|Invalid container type"),
        "a field was asked of a value that has no fields (text, number, list or null)",
    ),
    (re.compile(r".*<jump_condition>"), "what stands before ? is not true or false"),
    (re.compile(r".*<iter_range>"), "a loop (map, filter, all, exists) needs a list or a map"),
    (
        re.compile(r".*overloads found : (?:_&&_|_\|\|_|!_)$"),
        "`&&`, `||` and `!` work only on true and false",
    ),
    (re.compile(r".*overloads found : @in$"), "`in` needs a list or a map on its right"),
    (re.compile(r".*overloads found : _\[\?_\]$"), "`[? ]` needs a list or a map before it"),
    (re.compile(r".*overloads found : (\w+)$"), r"`\1` can't be used on this value"),
    (re.compile(r"Integer value .* out of range"), "the data holds a whole number beyond 64 bits"),
    (
        re.compile(r"Exceeds the limit .* for integer string"),
        "the data holds a number of thousands of digits",
    ),
    (re.compile(r"Iteration budget exceeded"), "the loops took more than 10000 turns"),
)
_RUNTIME_OVERLOAD = re.compile(r"No matching overloads found : (?:\((\w+)\)\.)?([^()]+)\((.*)\)$")


def explain_failure(text: str) -> str:
    plain = _strip_status(text)
    if overload := _RUNTIME_OVERLOAD.match(plain):
        kinds = [*filter(None, [overload[1], *overload[3].split(", ")])]
        return _explain_overload(overload[2], kinds)
    return next((m.expand(out) for pattern, out in _RUNTIME if (m := pattern.match(plain))), shorten(plain))


def explain_exception(error: Exception) -> str:
    if isinstance(error, UnfitError):
        return str(error)
    if isinstance(error, UnicodeError):
        return "the data holds text that is not Unicode (half of a surrogate pair)"
    if isinstance(error, RecursionError):
        return TOO_DEEP
    if isinstance(error, TypeError | SystemError) and "return value" in str(error):
        return _EMPTY_HANDED
    return explain_failure(str(error)) if str(error) else type(error).__name__


def explain_absence(value: object, path: Path, key: str | int) -> str:
    place = _write_path(path)
    if isinstance(value, dict):
        return f"no such key {quote(key)} in {place}"
    if isinstance(value, list) and isinstance(key, int):
        return f"there is no index {key} in {place}, a list of {len(value)}"
    kind = {str: "text", list: "a list", type(None): "null"}.get(type(value), "a number or truth value")
    return f"no such key {quote(key)}: {place} is {kind}, which has no fields"


def _write_path(path: Path) -> str:
    return "".join(f".{key}" if is_name(key) else f"[{quote(key)}]" for key in path).removeprefix(".")


def is_name(key: object) -> bool:
    return isinstance(key, str) and re.fullmatch(r"[A-Za-z_][\w-]*", key) is not None


def quote(key: str | int) -> str:
    return f'"{shorten(key)}"' if isinstance(key, str) else str(key)


def shorten(text: str) -> str:
    return text if len(text) <= 200 else text[:199] + "…"
