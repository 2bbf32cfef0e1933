"""Steps that test_isolated has called in child processes: a module of its own, for each child imports it anew."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def double(argument: Any) -> Any:
    sys.stdout.write("what a step prints is no result")
    sys.stderr.write("nor is this\n")
    return argument * 2


async def double_later(argument: Any) -> Any:
    await asyncio.sleep(0)
    return argument * 2


def tell_about(_: Any) -> Any:
    return {
        "pid": os.getpid(),
        "stdin": sys.stdin.read(),
        "env": {name: value for name, value in os.environ.items() if name.startswith(("GATEWAY_", "MINE"))},
    }


def raise_error(_: Any) -> None:
    message = "it broke\nin two lines"
    raise LookupError(message)


def leave(code: int) -> None:
    sys.stderr.write("last words")
    sys.stderr.flush()
    os._exit(code)


def crash(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def give_large(size: int) -> str:
    return "x" * size


def give_set(_: Any) -> Any:
    return {1}


def take_memory(size: int) -> int:
    return len(b"x" * size)


def shout(size: int) -> str:
    sys.stderr.write("x" * size)
    return "done"


def hold(file: str) -> None:
    """Say who we are, ignore all that can be ignored, and never end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(file).write_text(str(os.getpid()))
    while True:
        time.sleep(0.1)


async def ignore_cancel(file: str) -> None:
    """The same on an event loop."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: None)
    await asyncio.to_thread(Path(file).write_text, str(os.getpid()))
    await asyncio.Event().wait()
