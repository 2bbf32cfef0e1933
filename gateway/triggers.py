"""Triggers: which runs an event starts. Silent: an event and an app's rules in, run requests and verdicts out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.allowlists import refusal_of
from gateway.apps import LiveApp, Trigger
from gateway.errors import Unprocessable
from gateway.events import Verdict, session_of
from gateway.expressions import Failure
from gateway.jobs import effects_of
from gateway.runs import RunRequest
from gateway.workflows import Published, Workflow

FindWorkflow = Callable[[str | int], tuple[Published, Workflow]]


class DirectRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a direct request: ORQO's words. Other fields are left alone."""

    workflow_id: int | str
    task: str | None = None
    metadata: dict[str, Any] | None = None
    input: Any = None
    callback_url: str | None = None


def start_directly(body: DirectRequest, app: LiveApp, event_id: str, find: FindWorkflow) -> RunRequest:
    """The run that a direct request asks for.

    Raises Unprocessable for an unknown workflow, a refused input, or a callback_url that the app does not allow.
    """
    published, workflow = find(body.workflow_id)
    check_input(workflow, body.input)
    if body.callback_url is not None:
        check_callback_url(app, body.callback_url)
    return RunRequest(
        workflow_id=published.id,
        workflow=published.name,
        digest=published.digest,
        session_id=session_of(event_id),
        app_id=app.id,
        event_id=event_id,
        callback_url=body.callback_url,
        task=body.task,
        input=body.input,
        metadata=body.metadata,
        effects=effects_of(event_id, ""),
    )


def start_by_triggers(
    app: LiveApp, event_id: str, values: dict[str, Any], find: FindWorkflow
) -> tuple[list[RunRequest], list[Verdict]]:
    """The runs that an app's triggers start for one event, and what each trigger said.

    A condition that can't be judged, because it reads what this event doesn't have, does not hold. Raises
    Unprocessable when a trigger holds but its input can't be made or its workflow refuses it: then nothing starts.
    """
    requests, verdicts = [], []
    for trigger in app.triggers:
        verdict = _judge(trigger, values)
        verdicts.append(verdict)
        if verdict.matched:
            requests.append(_request(trigger, app.id, event_id, values, find))
    return requests, verdicts


def try_trigger(
    trigger: Trigger, app_id: int, event_id: str, values: dict[str, Any], find: FindWorkflow
) -> tuple[Verdict, RunRequest | None]:
    """What one trigger says to an event, and the run it starts. Raises Unprocessable as `start_by_triggers` does."""
    verdict = _judge(trigger, values)
    return verdict, _request(trigger, app_id, event_id, values, find) if verdict.matched else None


def _judge(trigger: Trigger, values: dict[str, Any]) -> Verdict:
    answer = trigger.when.evaluate(values)
    if isinstance(answer, Failure):
        return Verdict(trigger.name, False, answer.message)
    if not isinstance(answer, bool):
        return Verdict(trigger.name, False, "the condition gives neither true nor false")
    return Verdict(trigger.name, answer, None if answer else "the condition is false")


def _request(trigger: Trigger, app_id: int, event_id: str, values: dict[str, Any], find: FindWorkflow) -> RunRequest:
    published, workflow = find(trigger.workflow)
    given = trigger.input.render(values)
    if isinstance(given, Failure):
        message = f"trigger {trigger.name!r}: its input can't be made: `{given.expression}`: {given.message}"
        raise Unprocessable(message)
    check_input(workflow, given)
    return RunRequest(
        workflow_id=published.id,
        workflow=published.name,
        digest=published.digest,
        session_id=session_of(event_id),
        app_id=app_id,
        event_id=event_id,
        trigger=trigger.name,
        input=given,
        effects=effects_of(event_id, trigger.name),
    )


def check_callback_url(app: LiveApp, url: str) -> None:
    """Refuse a URL that the app does not let its requests have their callbacks sent to, with the reason."""
    reason = refusal_of(app.callback_urls, url)
    if reason is None and "send" not in app.app.capabilities:
        reason = "this app does not have the capability `send`"
    if reason is not None:
        message = f"callback_url: {reason}"
        raise Unprocessable(message, path="callback_url")


def check_input(workflow: Workflow, value: Any) -> None:
    """Refuse an input that the workflow's schema refuses, saying where it is wrong."""
    complaint = workflow.validator.complaint(value)
    if complaint is not None:
        path, reason = complaint
        message = f"{path}: {reason}"
        raise Unprocessable(message, path=path)
