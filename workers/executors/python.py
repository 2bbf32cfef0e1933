"""`python`: an importable callable, given the step's `with` as its one argument. What it returns is the output."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog

from gateway.workflows import CompiledStep
from workers import watchdog
from workers.callables import CannotLoad, load
from workers.executors import isolated
from workers.executors.base import Context, StepFailed

log = structlog.get_logger()


async def perform(step: CompiledStep, argument: Any, context: Context) -> Any:
    """Call it: a coroutine function on the event loop, any other in a thread; with `isolate`, in a child process.

    A thread can't be stopped: one whose step is over before it is named in the log.
    """
    reference = str(step.step.python)
    if step.step.isolate is not None:
        return await isolated.call(reference, argument, context)
    function = await _find(reference, context.rules.modules)
    if inspect.iscoroutinefunction(function):
        with watchdog.watched(context.run_id, context.step_id):
            return await function(argument)
    result = await _call_in_thread(function, argument, context)
    if not inspect.isawaitable(result):
        return result
    with watchdog.watched(context.run_id, context.step_id):
        return await result


async def _find(reference: str, modules: tuple[str, ...]) -> Callable[[Any], Any]:
    try:
        if reference.partition(":")[0] in sys.modules:
            return load(reference, modules)
        # An import runs the module's code, which may take its time.
        return await asyncio.to_thread(load, reference, modules)
    except CannotLoad as error:
        raise StepFailed("ImportError", str(error), again=False) from None


class _Thread:
    """A call in a thread, and whether its step has gone on without it."""

    def __init__(self, function: Callable[[Any], Any], context: Context) -> None:
        self._function = function
        self._about = {"run_id": context.run_id, "step": context.step_id}
        self._begun = 0.0
        self._left = self._ended = False

    def call(self, argument: Any) -> Any:
        self._begun = time.monotonic()
        try:
            return self._function(argument)
        except StopIteration as error:
            # No future can carry it: the step would hang until its timeout.
            raise StepFailed("StopIteration", str(error) or "no message") from error
        finally:
            self._ended = True
            if self._left:
                log.info("the thread of a step that was over has ended", **self._about, seconds=self._seconds())

    def leave(self) -> None:
        """Say that it goes on; one that had not begun never will."""
        if self._begun and not self._ended:
            self._left = True
            log.warning(
                "a step is over, but its thread can't be stopped and goes on; `isolate: process` could be",
                **self._about,
                seconds=self._seconds(),
            )

    def _seconds(self) -> float:
        return round(time.monotonic() - self._begun, 1)


async def _call_in_thread(function: Callable[[Any], Any], argument: Any, context: Context) -> Any:
    thread = _Thread(function, context)
    try:
        return await asyncio.to_thread(thread.call, argument)
    except asyncio.CancelledError:
        thread.leave()
        raise
