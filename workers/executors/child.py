"""`workflow`: another run, started once; its end is the step's end. The output is `{run_id, status, output, error}`."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.errors import GatewayError
from gateway.runs import Run, State
from gateway.workflows import Child, CompiledStep
from workers.executors.base import Context, Parked, StepFailed


async def perform(step: CompiledStep, argument: dict[str, Any], context: Context) -> Any:
    """Start the run, or, when it is over, tell how it ended. What can't be started is a failure."""
    child = msgspec.convert(argument, Child)
    if context.child is not None:
        run = await context.read(context.child)
        context.charge(run.credits)
        return _tell(child, run)
    try:
        run_id = await context.start(child)
    except GatewayError as error:
        # What is wrong with it stays wrong; what was only short of room comes again.
        raise StepFailed("ChildNotStarted", error.message, again=error.status >= 500) from None
    if child.wait:
        return Parked(run_id)
    return {"run_id": run_id, "status": str(State.PENDING), "output": None, "error": None}


def _tell(child: Child, run: Run) -> dict[str, Any]:
    if run.state != State.COMPLETED and child.on_failure == "fail":
        reason = f": {run.error.message}" if run.error else ""
        message = f"run {run.id} of {run.request.workflow!r} {run.state}{reason}"
        raise StepFailed("ChildFailed", message)
    error = None if run.error is None else msgspec.to_builtins(run.error)
    return {"run_id": run.id, "status": str(run.state), "output": run.output, "error": error}
