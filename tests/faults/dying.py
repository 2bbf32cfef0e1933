"""`python -m tests.faults.dying POINT`: a worker, or a receiver, that ends on the very next line after this point.

It is the program as it is; only its own process is changed, from here, so that a call that has come back is the last
thing it does. It ends as after kill -9: no handler, no flush, no good-bye.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import httpcore2
import msgspec

from gateway.runs import StepRecord
from gateway.store.accepting import Acceptor
from gateway.store.records import STEP, Records, Write
from gateway.web.client import Client
from gateway.web.tunnel import PinnedNetwork
from workers import attempts
from workers.family import Family

CODE = 70
"""What it exits with."""


def end_after(owner: Any, name: str, when: Callable[..., object] = lambda *_: True) -> None:
    """End this process when the coroutine function has come back and `when` (its result, its arguments) says so."""
    call = getattr(owner, name)

    @wraps(call)
    async def called(*arguments: Any, **named: Any) -> Any:
        result = await call(*arguments, **named)
        if when(result, *arguments):
            os._exit(CODE)
        return result

    setattr(owner, name, called)


def claimed(kind: str) -> Callable[..., object]:
    return lambda claims, records, *_: records.kind == kind and claims.items


def wrote(fits: Callable[[Write, set[str]], object]) -> Callable[..., object]:
    """A write of a run; `fits` sees it, and the states of the steps in it."""

    def when(_: str, records: Records, write: Write) -> object:
        return records.kind == "run" and fits(write, states_in(write))

    return when


def states_in(write: Write) -> set[str]:
    found = (value for name, value in write.fields.items() if name.startswith(STEP))
    return {str(msgspec.json.decode(value, type=StepRecord).state) for value in found if isinstance(value, bytes)}


COURIER = ("outbox", "dialled", "answered", "sent", "told")
"""The points of one attempt at a callback."""
WORKER: dict[str, Callable[[], None]] = {
    "claim": lambda: end_after(Records, "claim", claimed("run")),
    "intent": lambda: end_after(
        Records, "write", wrote(lambda write, states: write.move is None and states == {"running"})
    ),
    "effect": lambda: end_after(attempts, "attempt"),
    "record": lambda: end_after(
        Records, "write", wrote(lambda write, states: write.move is None and "completed" in states)
    ),
    "child": lambda: end_after(Family, "start"),
    "park": lambda: end_after(Records, "write", wrote(lambda write, _: write.delay_ms is not None)),
    # Of the run that tells somebody of its end, not of the one that a step had started.
    "finish": lambda: end_after(Records, "write", wrote(lambda write, _: write.callbacks)),
    "outbox": lambda: end_after(Records, "claim", claimed("callback")),
    # Of one attempt: connected and nothing said; the answer's head read; the answer whole; written down.
    "dialled": lambda: end_after(PinnedNetwork, "connect_tcp"),
    "answered": lambda: end_after(httpcore2.AsyncHTTPConnection, "handle_async_request"),
    "sent": lambda: end_after(Client, "request"),
    "told": lambda: end_after(Records, "write", lambda _, records, __: records.kind == "callback"),
}
RECEIVER: dict[str, Callable[[], None]] = {"accept": lambda: end_after(Acceptor, "store")}


def main(point: str) -> None:
    if point in RECEIVER:
        from gateway.cli.serving import serve

        RECEIVER[point]()
        serve(fd=None)
    else:
        from workers.__main__ import main as work

        WORKER[point]()
        work()


if __name__ == "__main__":
    main(sys.argv[1])
