"""EXECUTORS: a kind of step, and the coroutine that does it. A new kind is one module and one row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.workflows import CompiledStep
from workers.executors import child, http, model, python, shell, transform
from workers.executors.base import Context

Executor = Callable[[CompiledStep, Any, Context], Awaitable[Any]]

EXECUTORS: dict[str, Executor] = {
    "http": http.perform,
    "model": model.perform,
    "python": python.perform,
    "shell": shell.perform,
    "transform": transform.perform,
    "workflow": child.perform,
}
