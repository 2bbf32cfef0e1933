"""One attempt of one step: done within its time, its result checked; whatever it throws is an ordinary failure."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from gateway import plans
from gateway.nesting import MOST_LEVELS, is_too_deep
from gateway.runs import Problem, StepRecord, StepState
from gateway.workflows import CompiledStep
from workers.executors import EXECUTORS
from workers.executors.base import Context, Parked, StepFailed

LONGEST_MESSAGE = 2000


async def attempt(step: CompiledStep, argument: Any, context: Context) -> Any | StepFailed:
    """Do it, as `_attempt` does; why it failed is told without any secret that this process knows."""
    result = await _attempt(step, argument, context)
    if isinstance(result, StepFailed):
        # Code of somebody's own may say anything as it fails, its whole environment too.
        result.message = context.hide(result.message)
    return result


async def _attempt(step: CompiledStep, argument: Any, context: Context) -> Any | StepFailed:
    """Do it. Gives the output as plain JSON data, Parked for a step that waits for another run, or why it failed.

    Raises CancelledError only when this task itself is cancelled.
    """
    limit = asyncio.timeout(context.seconds)
    try:
        async with limit:
            output = await EXECUTORS[step.kind](step, argument, context)
        return output if isinstance(output, Parked) else check_output(output, context.cap)
    except StepFailed as failure:
        return failure
    except TimeoutError as error:
        if limit.expired():
            return StepFailed("Timeout", f"the step took longer than its {context.seconds:g} seconds")
        return _failure_of(error)
    except asyncio.CancelledError as error:
        if _is_cancelled():
            raise
        return _failure_of(error)  # the step's own: it awaited what it had cancelled
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return _failure_of(error)


def record(step: CompiledStep, unit_id: str, begun: StepRecord, result: Any, now: int, chance: float) -> StepRecord:
    """What is written of an attempt that began as `begun` says and gave `result`."""
    if isinstance(result, Parked):
        waiting = {"state": StepState.WAITING, "child": result.run_id, "waits_for": f"run {result.run_id}"}
        return msgspec.structs.replace(begun, **waiting)
    if not isinstance(result, StepFailed):
        return plans.achieved(begun, result, now)
    problem = Problem(type=result.kind, message=readable(result.message), step=unit_id, attempt=begun.attempt)
    return plans.let_down(step, begun, problem, now, chance, again=result.again, after=result.after)


def check_output(output: Any, cap: int) -> Any:
    """What a step gave, as plain JSON data. Raises StepFailed when it is none, or too large."""
    try:
        text = json.dumps(output, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        # UnicodeEncodeError, for lone surrogates, is a ValueError.
        message = f"the step returned what is no JSON: {error}"
        raise StepFailed("NotJson", message, again=False) from None
    if is_too_deep(text):
        message = f"the step returned JSON nested too deeply: more than {MOST_LEVELS} levels"
        raise StepFailed("NotJson", message, again=False)
    if len(text) > cap:
        message = f"the step returned {len(text)} bytes, more than the {cap} allowed (GATEWAY_MAX_OUTPUT)"
        raise StepFailed("TooLarge", message, again=False)
    return output if type(output) in (str, int, bool, type(None)) else json.loads(text)


def readable(message: str) -> str:
    """The beginning of a message as text that can be stored, which lone surrogates can't."""
    return message[:LONGEST_MESSAGE].encode(errors="backslashreplace").decode()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _failure_of(error: BaseException) -> StepFailed:
    try:
        message = str(error)
    except Exception:
        message = ""  # an exception of somebody's own that can't even say what it is
    return StepFailed(type(error).__name__, message or "no message")
