"""ORQO's words: the webhook door's answers, the API trigger, and a workflow's own hook.

Sources: ORQO, "Use the API", steps 4, 5 and 9; ORQO, "Integrations: API", for trigger and hooks.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.control import Order, app_names
from gateway.errors import GatewayError, NotFound, Unauthorized, Unprocessable
from gateway.events import CALLER_KEYS
from gateway.runs import State, iso
from gateway.service import Receipt, Started
from gateway.tokens import Subject
from gateway.web.callers import bearer
from gateway.web.endpoints import Answer, Call, Dialect, Endpoint, Patience

ACCEPTED = 200
IGNORED = 202


def answer(receipt: Receipt) -> tuple[int, dict[str, Any]]:
    """The answer to an event that was stored. A repetition gets the very words of the first time."""
    if not receipt.runs:
        status = "parked" if receipt.parked else "ignored"
        return IGNORED, {"event_id": receipt.event_id, "status": status, "runs": []}
    if receipt.direct:
        return ACCEPTED, run_words(receipt.runs[0])
    if all(run.skipped for run in receipt.runs):
        runs = [run_words(run) for run in receipt.runs]
        return IGNORED, {"event_id": receipt.event_id, "status": "skipped", "runs": runs}
    runs = [run_words(run) for run in receipt.runs]
    first = next(words for words in runs if "skipped" not in words)
    return ACCEPTED, {**first, "event_id": receipt.event_id, "runs": runs}


def run_words(run: Started) -> dict[str, Any]:
    """A run that was just made: pending, and not started. One that was in the way says so, with its state then."""
    words = {"run_id": run.run_id, "status": run.status, "workflow_id": run.workflow_id, "started_at": None}
    return words | {"skipped": True} if run.skipped else words


def refusal(error: GatewayError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of a refusal. Whoever has no valid signature learns nothing of why."""
    message = Unauthorized().message if isinstance(error, Unauthorized) else error.message
    headers = {"retry-after": str(error.retry_after)} if error.retry_after else {}
    if "allow" in error.details:
        headers["allow"] = str(error.details["allow"])
    return error.status, {"error": message, "code": error.code}, headers


class TriggerBody(msgspec.Struct, frozen=True, kw_only=True):
    """What `/api/v1/trigger` takes. `input` is any JSON; ORQO's own example gives text.

    `callback_url` is where the run's end is told: an app, `app_id`, must allow it, and signs.
    """

    workflow_id: int | str
    input: Any = None
    task: str | None = None
    metadata: dict[str, Any] | None = None
    callback_url: str | None = None
    app_id: int | None = None


class TriggerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A run under both of its names, for ORQO's pages use either."""

    run_id: int
    workflow_run_id: int
    workflow_id: int
    status: State = State.PENDING
    started_at: str | None = None
    output: Any = msgspec.UNSET


async def trigger(call: Call) -> Answer:
    """Start any workflow by id, with a token."""
    wanted: TriggerBody = call.body
    published = call.workflow(wanted.workflow_id, "runs:start")
    order = Order(workflow=published.name, input=wanted.input, task=wanted.task, metadata=wanted.metadata)
    if wanted.callback_url is not None:
        app = None if wanted.app_id is None else str(wanted.app_id)
        if app is not None:
            # The app's name stands under what is sent: a token that is good for some workflows alone can't lend it.
            call.who.require("runs:start", Subject(app=app_names(wanted.app_id, call.control.live_apps)))
        order = msgspec.structs.replace(order, callback_url=wanted.callback_url, app=app)
    if not call.query.wait:
        run_id = (await call.start(order)).run_id
        return 201, TriggerAnswer(run_id=run_id, workflow_run_id=run_id, workflow_id=published.id)
    run = await call.start_and_wait(order, call.query.wait)
    return 201, TriggerAnswer(
        run_id=run.id,
        workflow_run_id=run.id,
        workflow_id=published.id,
        status=run.state,
        started_at=iso(run.started_at),
        output=run.output,
    )


class HookQuery(msgspec.Struct, frozen=True):
    """`callback_url`: where the run's end is told, if the hook's app allows it. Other parameters are left alone."""

    callback_url: str | None = None


class HookAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The run that a hook started."""

    workflow_run_id: int
    status: str = "started"


async def hook(call: Call) -> Answer:
    """Start a hook's workflow; whatever JSON comes is its input. The token in the path is all the proof there is."""
    found = call.control.hook(call.path["token"])
    order = Order(workflow=found.workflow, input=call.body, hook=found.id)
    if call.query.callback_url is not None:
        app = None if found.app_id is None else str(found.app_id)
        order = msgspec.structs.replace(order, callback_url=call.query.callback_url, app=app)
    try:
        started = await call.start(order)
    except NotFound:
        message = f"workflow: there is no workflow {found.workflow!r} any more"
        raise Unprocessable(message, path="workflow") from None
    return 201, HookAnswer(workflow_run_id=started.run_id)


def refuse(error: GatewayError) -> Answer:
    """ORQO's shape of an error."""
    return error.status, {"error": error.message, "code": error.code}


API = Dialect(
    name="orqo",
    prefix="",
    credential=bearer(b"authorization"),
    refuse=refuse,
    endpoints=(
        Endpoint(
            method="POST",
            path="/api/v1/trigger",
            handler=trigger,
            scope="runs:start",
            summary="Start a workflow by id (ORQO)",
            body=TriggerBody,
            query=Patience,
            answer=TriggerAnswer,
            status=201,
            example={"workflow_id": 42, "input": "Process the latest customer feedback data"},
            refuses=(400, 401, 402, 403, 404, 409, 413, 422, 503),
        ),
        Endpoint(
            method="POST",
            path="/api/v1/hooks/{token}",
            handler=hook,
            scope=None,
            summary="Start one workflow by its own URL (ORQO)",
            body=Any,
            optional_body=True,
            query=HookQuery,
            keys=CALLER_KEYS,
            answer=HookAnswer,
            status=201,
            example={"event": "push", "branch": "main", "commit": "a1b2c3d"},
            refuses=(400, 404, 409, 413, 422, 429, 503),
        ),
    ),
)
