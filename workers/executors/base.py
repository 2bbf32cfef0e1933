"""What every kind of step is given, and how it says that it failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from gateway.runs import Run
from gateway.timelines import Delta
from gateway.web.client import Client
from gateway.workflows import Child


class StepFailed(Exception):
    """A step did not do what it should. `again` says whether another attempt could help.

    `after` is how many seconds the far end asks to be left alone; the next attempt comes no sooner.
    """

    def __init__(self, kind: str, message: str, *, again: bool = True, after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.again = again
        self.after = after


class Models:
    """What the settings say of model steps: the provider's base URL, the key for it, credits for 1000 tokens."""

    def __init__(self, url: str = "", key: str = "", rate: float = 0.0) -> None:
        self.url = url
        self.key = key
        self.rate = rate


def _charge_nobody(_: int) -> None:
    """Where nobody pays."""


async def _tell_nobody(_: Delta) -> None:
    """Where nobody listens."""


NO_MODELS = Models()


class Parked(msgspec.Struct, frozen=True):
    """What a step gives whose end is the end of another run."""

    run_id: int


class Children(Protocol):
    """Where a step starts another run, and reads it."""

    async def start(self, parent: Run, unit_id: str, attempt: int, child: Child) -> int: ...

    async def read(self, run_id: int) -> Run: ...


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of one step. `seconds` is what is left for it, `cap` how many bytes its output may have.

    `charge` adds credits to what the run has used; `tell` passes on what the step is just saying.
    """

    run_id: int
    step_id: str
    attempt: int
    key: str
    seconds: float
    cap: int
    client: Client
    run: Run
    children: Children
    child: int | None = None
    """The run that this step started before, and that is over now."""
    models: Models = NO_MODELS
    charge: Callable[[int], None] = _charge_nobody
    tell: Callable[[Delta], Awaitable[None]] = _tell_nobody
