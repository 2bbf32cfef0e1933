"""A `python` step in a process of its own: what blocks, leaks, hangs or ends its process harms nobody else."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from workers.children import CannotStart, Order, Outcome, run_child
from workers.executors.base import Context, StepFailed

ARGV = [sys.executable, "-m", "workers.isolated"]
ROOM = 8_192
"""Bytes that the frame around an output, or a failure, may have."""


async def call(reference: str, argument: Any, context: Context) -> Any:
    """Call it in a child, and give what it returned. Its exceptions come back by type and message."""
    order = {
        "path": sys.path,
        "modules": context.rules.modules,
        "reference": reference,
        "argument": argument,
    }
    wanted = Order(
        argv=ARGV,
        env=_environment() | context.environment,
        folder=Path.cwd(),
        stdin=json.dumps(order).encode(),
        seconds=context.seconds,
        cap=context.cap + ROOM,
        tail=True,
        memory=context.rules.memory,
    )
    try:
        outcome = await run_child(wanted)
    except CannotStart as error:
        raise StepFailed("CannotStart", str(error), again=error.again) from None
    return _read(outcome, context.cap)


def _environment() -> dict[str, str]:
    """The worker's, as a step that is not isolated has it, but without the gateway's own settings and keys."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}


def _read(outcome: Outcome, cap: int) -> Any:
    if outcome.excess is not None:
        message = f"the step returned more than the {cap} bytes allowed (GATEWAY_MAX_OUTPUT)"
        raise StepFailed("TooLarge", message, again=False)
    try:
        answer = json.loads(outcome.stdout)
    except ValueError:
        raise StepFailed("ProcessEnded", _explain(outcome)) from None
    if "error" in answer:
        error = answer["error"]
        raise StepFailed(error["type"], error["message"], again=error["again"])
    return answer["output"]


def _explain(outcome: Outcome) -> str:
    code = outcome.code
    how = "was killed" if code is None else f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"
    said = outcome.stderr.decode(errors="backslashreplace")[-1000:].strip()
    return f"the step's process {how} and gave no result" + (f"; its last words: {said}" if said else "")
