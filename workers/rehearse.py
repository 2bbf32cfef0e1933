"""One attempt of one step, for `gateway workflow test --allow`: `python -m workers.rehearse`.

It reads `{"definition", "step", "unit", "index", "argument", "attempt"}` from stdin to its end, and writes
`{"output": ...}` or `{"fails": {"type", "message", "again", "after"}}` to what was stdout. Prints go to stderr.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from gateway.errors import GatewayError
from gateway.jobs import idempotency_key
from gateway.logs import configure_logs
from gateway.settings import Settings, read_settings
from gateway.web.client import new_client
from gateway.workflows import prepare
from workers import attempts
from workers.executors.base import Context, Models, StepFailed, rules_of

RUN = 1
"""The id of every rehearsed run."""


def main() -> None:
    """Do it, and end."""
    result = os.dup(1)
    os.dup2(2, 1)
    order = json.load(sys.stdin)
    try:
        settings = read_settings()
        configure_logs(settings)
        answer = asyncio.run(_attempt(order, settings))
    except GatewayError as error:
        answer = _failure(StepFailed("ConfigError", error.message, again=False))
    sys.stdout.flush()
    with os.fdopen(result, "w") as pipe:
        json.dump(answer, pipe)


async def _attempt(order: dict[str, Any], settings: Settings) -> dict[str, Any]:
    step = prepare(order["definition"]).steps[order["step"]]
    async with new_client(settings) as client:
        context = Context(
            run_id=RUN,
            step_id=order["unit"],
            attempt=order["attempt"],
            key=idempotency_key(RUN, order["step"], order["index"]),
            seconds=step.step.timeout,
            cap=settings.max_output,
            client=client,
            models=Models(settings.model_url, settings.model_key, settings.model_credits),
            rules=rules_of(settings),
        )
        found = await attempts.attempt(step, order["argument"], context)
    return _failure(found) if isinstance(found, StepFailed) else {"output": found}


def _failure(failed: StepFailed) -> dict[str, Any]:
    message = attempts.readable(failed.message)
    return {"fails": {"type": failed.kind, "message": message, "again": failed.again, "after": failed.after}}


if __name__ == "__main__":
    main()
