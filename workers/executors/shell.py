"""`shell`: one program with its arguments, without any shell. The output is `{code, stdout, stderr}`."""

from __future__ import annotations

import base64
import json
import signal
from pathlib import Path
from typing import Any

import msgspec

from gateway.cel.values import encode
from gateway.nesting import MOST_LEVELS, is_too_deep
from gateway.secrets import SecretRef
from gateway.shells import ShellCall, call_of, cap_of
from gateway.workflows import CompiledStep
from workers.children import CannotStart, Order, Outcome, run_child
from workers.executors.base import Context, StepFailed
from workers.executors.keyring import Keyring

FIXED = {"LANG": "C.UTF-8", "TZ": "UTC"}
TAIL = 1_000
SHORT = 8
"""A value of `env` with fewer characters is hidden in messages only where it is a secret: it would hide other words."""


async def perform(step: CompiledStep, argument: dict[str, Any], context: Context) -> Any:
    """Run it in a process group that is gone when the step is over.

    Another exit code than expected, a signal, too much output and a program that is not there are failures.
    """
    assert step.step.shell is not msgspec.UNSET
    call = call_of(step.step.shell)
    keyring = Keyring(context.resolve)
    own, hidden = _read_environment(argument["env"], keyring)
    order = Order(
        argv=[_checked(_text(each), f"argv[{index}]") for index, each in enumerate(argument["argv"])],
        env=FIXED | {"PATH": context.rules.path} | own | context.environment,
        folder=None if call.cwd is None else Path(call.cwd),
        stdin=_text(argument["stdin"]).encode(),
        seconds=context.seconds,
        cap=cap_of(call, context.cap),
        memory=context.rules.memory,
    )
    try:
        outcome = await run_child(order)
    except CannotStart as error:
        raise StepFailed("CannotStart", _hide(str(error), hidden), again=error.again) from None
    # What a program says of its own secrets is for nobody: not for the record, nor for who reads the callback.
    stdout, stderr = keyring.hide_bytes(outcome.stdout), keyring.hide_bytes(outcome.stderr)
    outcome = msgspec.structs.replace(outcome, stdout=stdout, stderr=stderr)
    _check(outcome, call, order, hidden)
    return {
        "code": outcome.code,
        "stdout": _read(outcome.stdout, call.output),
        "stderr": outcome.stderr.decode(errors="backslashreplace"),
    }


def _read_environment(env: dict[str, Any], keyring: Keyring) -> tuple[dict[str, str], list[str]]:
    """The variables of this step, and those of their values that no message may show."""
    values: dict[str, str] = {}
    hidden: list[str] = []
    for name, value in env.items():
        secret = isinstance(value, dict)
        values[name] = _checked(_secret(name, value, keyring) if secret else _text(value), f"env.{name}")
        if values[name] and (secret or len(values[name]) >= SHORT):
            hidden.append(values[name])
    return values, sorted(hidden, key=len, reverse=True)


def _secret(name: str, value: dict[str, str], keyring: Keyring) -> str:
    reference = msgspec.convert(value, SecretRef)
    found = keyring.read(reference)
    if found is None:
        message = f"env.{name}: its secret ({reference.label}) is not set on this worker"
        raise StepFailed("MissingSecret", message, again=False)
    return found


def _text(value: Any) -> str:
    """As templates write a value inside text."""
    if isinstance(value, str):
        return value
    return "" if value is None else encode(value).decode()


def _checked(text: str, where: str) -> str:
    if "\0" in text:
        message = f"{where} holds a NUL byte, which no program can be given there: use stdin"
        raise StepFailed("BadArgument", message, again=False)
    return text


def _check(outcome: Outcome, call: ShellCall, order: Order, hidden: list[str]) -> None:
    program = order.argv[0]
    if outcome.excess is not None:
        message = f"{program} wrote more than {order.cap} bytes to {outcome.excess}, so it was ended (cap)"
        raise StepFailed("TooLarge", message, again=False)
    if outcome.code in call.codes:
        return
    if outcome.code is None:
        message = f"{program} and the process that guards it were killed from outside"
        raise StepFailed("Killed", message)
    how = f"ended with code {outcome.code}" if outcome.code >= 0 else f"was ended by {_signal(-outcome.code)}"
    said = _hide(outcome.stderr.decode(errors="backslashreplace"), hidden)[-TAIL:].strip()
    raise StepFailed("ExitCode", f"{program} {how}" + (f": {said}" if said else ""))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _hide(text: str, values: list[str]) -> str:
    for value in values:
        text = text.replace(value, "***")
    return text


def _read(data: bytes, output: str) -> Any:
    if output == "base64":
        return base64.b64encode(data).decode()
    if output == "json":
        return _read_json(data)
    text = data.decode(errors="backslashreplace")
    return text.removesuffix("\n").split("\n") if output == "lines" and text else ([] if output == "lines" else text)


def _read_json(data: bytes) -> Any:
    if is_too_deep(data):
        message = f"stdout is JSON nested too deeply: more than {MOST_LEVELS} levels"
        raise StepFailed("BadAnswer", message, again=False)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        message = f"stdout is no JSON, which `output: json` asks for: {error}"
        raise StepFailed("BadAnswer", message, again=False) from None
