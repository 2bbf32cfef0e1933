"""What every kind of step is given, and how it says that it failed."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import msgspec

from gateway.errors import NotFound
from gateway.runs import Run
from gateway.secrets import Resolve
from gateway.settings import Settings
from gateway.store.lookups import read_outside
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


async def _start_nothing(_: Child) -> int:
    raise NotFound


async def _read_nothing(_: int) -> Run:
    raise NotFound


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator lets steps use: modules (none named: any), a PATH, bytes of memory for a child (0: no limit)."""

    modules: tuple[str, ...] = ()
    path: str = os.defpath
    memory: int = 0


def rules_of(settings: Settings) -> Rules:
    """The rules that the settings make; PATH is the worker's own unless they name another."""
    return Rules(
        modules=settings.python_modules,
        path=settings.shell_path or os.environ.get("PATH", os.defpath),
        memory=settings.child_memory,
    )


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of one step. `seconds` is what is left for it, `cap` how many bytes its output may have.

    `charge` adds credits to what the run has used; `tell` passes on what the step is just saying. `start` starts
    another run, the same one however often this attempt asks, and gives its id; `read` reads it.
    """

    run_id: int
    step_id: str
    attempt: int
    key: str
    seconds: float
    cap: int
    client: Client
    traceparent: str | None = None
    child: int | None = None
    """The run that this step started before, and that is over now."""
    start: Callable[[Child], Awaitable[int]] = _start_nothing
    read: Callable[[int], Awaitable[Run]] = _read_nothing
    models: Models = NO_MODELS
    charge: Callable[[int], None] = _charge_nobody
    tell: Callable[[Delta], Awaitable[None]] = _tell_nobody
    rules: Rules = Rules()
    resolve: Resolve = read_outside
    """Where the values of secrets are looked up."""
    hide: Callable[[str], str] = str
    """Takes out of a message whatever secret this process knows."""

    @property
    def environment(self) -> dict[str, str]:
        """What tells a child process which step it is."""
        return {
            "GATEWAY_RUN_ID": str(self.run_id),
            "GATEWAY_STEP": self.step_id,
            "GATEWAY_IDEMPOTENCY_KEY": self.key,
        }
