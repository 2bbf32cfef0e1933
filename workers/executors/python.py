"""`python`: an importable callable, given the step's `with` as its one argument. What it returns is the output."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from gateway.workflows import CompiledStep
from workers.executors.base import Context, StepFailed


async def perform(step: CompiledStep, argument: Any, context: Context) -> Any:
    """Call it: a coroutine function on the event loop, any other in a thread."""
    reference = str(step.step.python)
    if reference.partition(":")[0] in sys.modules:
        function = load(reference)
    else:
        # An import runs the module's code, which may take its time.
        function = await asyncio.to_thread(load, reference)
    if inspect.iscoroutinefunction(function):
        return await function(argument)
    result = await asyncio.to_thread(_call, function, argument)
    return await result if inspect.isawaitable(result) else result


def load(reference: str) -> Callable[[Any], Any]:
    """The callable that `module:function` names. Raises StepFailed, saying what could not be found."""
    module_name, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        message = f"{reference}: can't import {module_name}: {error}. Is it beside gateway.yaml, or installed?"
        raise StepFailed("ImportError", message, again=False) from None
    for name in path.split("."):
        if not hasattr(found, name):
            message = f"{reference}: the module {module_name} has no {path}"
            raise StepFailed("ImportError", message, again=False)
        found = getattr(found, name)
    if not callable(found):
        message = f"{reference} is a {type(found).__name__}, not something that can be called"
        raise StepFailed("ImportError", message, again=False)
    return found  # type: ignore[no-any-return]


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except StopIteration as error:
        # No future can carry it: the step would hang until its timeout.
        raise StepFailed("StopIteration", str(error) or "no message") from error
