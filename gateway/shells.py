"""`shell` steps: what one may say, and which of them would hand a computed value to an interpreter as its program.

A program is started from a list of arguments, never through a shell. So a computed value is one argument, whatever it
holds, unless the program itself reads that argument as a text to be run: then it is refused. Silent: values in and out.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from gateway.errors import ConfigError
from gateway.interpreters import RUN_BY_OTHERS, find_danger, is_interpreter
from gateway.secrets import WAYS

TEMPLATE = re.compile(r"(?<!\$)\$\{")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?i?B?)", re.IGNORECASE)
UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}
LARGEST_CAP = 268_435_456
OURS = "GATEWAY_"
SECRET_FIELDS = ({"env"}, {"file"}, {"secret"})
HINT = "pass it as a further argument (`sh -c 'echo \"$1\"' sh ${…}`) or through `env`, where it stays a value"

Output = Literal["text", "json", "lines", "base64"]


class ShellCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One program with its arguments. `argv[0]`, `cwd`, `codes`, `output` and `cap` are constants.

    `env` is added to a small fixed environment; a value may be a secret, `{env: NAME}` or `{file: PATH}`.
    `cwd` is an absolute folder; without it there is a fresh one, removed afterwards. `cap` bounds stdout and stderr,
    each, in bytes or as text such as `1MB`; without it GATEWAY_MAX_OUTPUT does.
    """

    argv: list[str | int | float]
    stdin: Any = None
    env: dict[str, Any] = {}
    cwd: str | None = None
    codes: tuple[int, ...] = (0,)
    output: Output = "text"
    cap: int | str | None = None


Shell = ShellCall | list[str | int | float]


def call_of(shell: Shell) -> ShellCall:
    """The short form, a list, is one of arguments alone."""
    return shell if isinstance(shell, ShellCall) else ShellCall(argv=shell)


def argument_of(shell: Shell) -> dict[str, Any]:
    """The parts that may hold expressions."""
    call = call_of(shell)
    return {"argv": list(call.argv), "stdin": call.stdin, "env": dict(call.env)}


def cap_of(call: ShellCall, largest: int) -> int:
    """How many bytes each stream may have."""
    return largest if call.cap is None else min(read_size(call.cap), largest)


def read_size(value: int | str) -> int:
    """Bytes, from a number or text such as `512kB`, `1MB`, `4MiB`. Raises ConfigError."""
    match = SIZE.fullmatch(str(value).strip())
    size = 0
    if match:
        size = int(float(match[1]) * UNITS.get(match[2].lower().rstrip("b"), 0))
    if not 1 <= size <= LARGEST_CAP:
        message = f"{value!r} is no size from 1 to {LARGEST_CAP} bytes: write a number of bytes, or `512kB`, `1MB`"
        raise ConfigError(message)
    return size


def check_shell(shell: Shell, path: str) -> None:
    """Refuse what can't be started, and computed values that would be run. Raises ConfigError with the field's path."""
    call = call_of(shell)
    place = f"{path}.argv" if isinstance(shell, ShellCall) else path
    arguments = [str(each) for each in call.argv]
    _check_program(arguments, place)
    _check_environment(call.env, f"{path}.env")
    _check_constants(call, path)
    computed = [has_template(each) for each in arguments]
    danger = find_danger(arguments, computed, has_template(call.stdin))
    if danger is not None:
        where = f"{path}.stdin" if danger.place is None else f"{place}[{danger.place}]"
        message = f"untrusted values that would reach a shell as text: {danger.reason}. Instead, {HINT}"
        raise ConfigError(message, path=where)


def has_template(value: Any) -> bool:
    """Whether there is a `${…}` anywhere in it."""
    if isinstance(value, dict):
        return any(map(has_template, value.values()))
    if isinstance(value, list):
        return any(map(has_template, value))
    return isinstance(value, str) and TEMPLATE.search(value) is not None


def unguarded_options(shell: Shell) -> list[int]:
    """The arguments that may come out as an option, for they begin with a computed value and no `--` stands before."""
    arguments = call_of(shell).argv
    found: list[int] = []
    for index, argument in enumerate(arguments):
        if argument == "--" or is_interpreter(str(arguments[0])):
            break
        if index and TEMPLATE.match(str(argument)):
            found.append(index)
    return found


def _check_program(arguments: list[str], place: str) -> None:
    if not arguments or not arguments[0].strip():
        message = "shell needs a program: a list such as [git, status]"
        raise ConfigError(message, path=place)
    if has_template(arguments[0]):
        message = "the program can't be computed: write its name or path, and choose between steps with `when`"
        raise ConfigError(message, path=f"{place}[0]")
    for index, argument in enumerate(arguments):
        if "\0" in argument:
            message = "an argument can't hold a NUL byte; use stdin"
            raise ConfigError(message, path=f"{place}[{index}]")


def _check_environment(env: dict[str, Any], path: str) -> None:
    for name, value in env.items():
        where = f"{path}.{name}"
        if not VARIABLE.fullmatch(name) or name.startswith(OURS):
            message = f"{name!r} can't be a variable: letters, digits and _, no digit first, and not {OURS}..."
            raise ConfigError(message, path=where)
        if isinstance(value, dict) and (set(value) not in SECRET_FIELDS or has_template(value)):
            message = f"a secret is {WAYS}; all else is text or a number"
            raise ConfigError(message, path=where)
        if has_template(value) and RUN_BY_OTHERS.fullmatch(name):
            message = f"programs run or load what {name} holds, so it can't be computed; use a name of your own"
            raise ConfigError(message, path=where)


def _check_constants(call: ShellCall, path: str) -> None:
    if call.cwd is not None and (has_template(call.cwd) or not call.cwd.startswith("/") or "\0" in call.cwd):
        message = "cwd is one absolute folder, which can't be computed"
        raise ConfigError(message, path=f"{path}.cwd")
    if not call.codes or not all(0 <= code <= 255 for code in call.codes):
        message = "codes lists the exit codes, 0 to 255, that are a success"
        raise ConfigError(message, path=f"{path}.codes")
    if call.cap is not None:
        try:
            read_size(call.cap)
        except ConfigError as error:
            raise ConfigError(error.message, path=f"{path}.cap") from None
