"""What every kind of step is given, and how it says that it failed."""

from __future__ import annotations

import msgspec

from gateway.web.client import Client


class StepFailed(Exception):
    """A step did not do what it should. `again` says whether another attempt could help."""

    def __init__(self, kind: str, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.again = again


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of one step. `seconds` is what is left for it, `cap` how many bytes its output may have."""

    run_id: int
    step_id: str
    attempt: int
    key: str
    seconds: float
    cap: int
    client: Client
