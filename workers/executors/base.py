"""What every kind of step is given, and how it says that it failed."""

from __future__ import annotations

from typing import Protocol

import msgspec

from gateway.runs import Run
from gateway.web.client import Client
from gateway.workflows import Child


class StepFailed(Exception):
    """A step did not do what it should. `again` says whether another attempt could help."""

    def __init__(self, kind: str, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.again = again


class Parked(msgspec.Struct, frozen=True):
    """What a step gives whose end is the end of another run."""

    run_id: int


class Children(Protocol):
    """Where a step starts another run, and reads it."""

    async def start(self, parent: Run, unit_id: str, attempt: int, child: Child) -> int: ...

    async def read(self, run_id: int) -> Run: ...


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of one step. `seconds` is what is left for it, `cap` how many bytes its output may have."""

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
