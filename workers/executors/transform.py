"""`transform`: the step's output is its own value, with its expressions worked out."""

from __future__ import annotations

from typing import Any

from gateway.workflows import CompiledStep
from workers.executors.base import Context


async def perform(step: CompiledStep, argument: Any, context: Context) -> Any:
    return argument
