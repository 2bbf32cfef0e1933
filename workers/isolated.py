"""The process of one isolated `python` step: `python -m workers.isolated`.

It reads `{"path": [...], "modules": [...], "reference": "module:function", "argument": ...}` from stdin to its end, and
writes `{"output": ...}` or `{"error": {"type", "message", "again"}}` to what was stdout. Whatever the callable prints goes
to stderr, and it can neither read our stdin nor write our stdout.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from typing import Any

LONGEST_MESSAGE = 2000


def main() -> None:
    """Do it, and end."""
    result = _take_pipes()
    order = json.loads(_read_all())
    sys.path[:] = order["path"]
    answer = _answer(order)
    sys.stdout.flush()
    with os.fdopen(result, "wb") as pipe:
        pipe.write(answer)


def _take_pipes() -> int:
    """Keep the way back for ourselves: prints go to stderr, from here on and in processes that the step starts."""
    result = os.dup(1)
    os.dup2(2, 1)
    return result


def _read_all() -> bytes:
    with os.fdopen(os.dup(0), "rb") as pipe:
        data = pipe.read()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return data


def _answer(order: dict[str, Any]) -> bytes:
    from workers.callables import CannotLoad, load

    try:
        output = _call(load(order["reference"], order["modules"]), order["argument"])
    except CannotLoad as error:
        return _failure("ImportError", str(error), again=False)
    except BaseException as error:
        return _failure(type(error).__name__, _text_of(error), again=True)
    try:
        return json.dumps({"output": output}, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return _failure("NotJson", f"the step returned what is no JSON: {error}", again=False)


def _call(function: Any, argument: Any) -> Any:
    result = function(argument)
    if not inspect.isawaitable(result):
        return result
    import asyncio

    async def wait() -> Any:
        return await result

    return asyncio.run(wait())


def _failure(kind: str, message: str, *, again: bool) -> bytes:
    error = {"type": kind, "message": message[:LONGEST_MESSAGE] or "no message", "again": again}
    return json.dumps({"error": error}).encode()


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""  # an exception that can't even say what it is


if __name__ == "__main__":
    main()
