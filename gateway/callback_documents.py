"""What we show of callbacks: one definition for the commands and the API. Silent."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.callbacks import Attempt, Callback, Hindrance
from gateway.runs import CallbackState, iso


class AttemptDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One try to deliver a callback: the HTTP status and the first bytes of the answer, or why there was none."""

    number: int
    at: str | None
    duration_ms: int
    status: int | None
    error: str | None
    answer: str | None


class CallbackDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A message to one endpoint, with each attempt to deliver it. `message_id` is the `webhook-id` it is sent with.

    `reason` is why it failed; `held` what it waits for beside its time: an endpoint that is disabled, fails or is slowed
    down, another message with the same order key, or its turn.
    """

    callback_id: str
    message_id: str
    endpoint: str
    status: CallbackState
    type: str
    run_id: int | None
    app_id: int | None
    url: str
    created_at: str | None
    completed_at: str | None
    next_attempt_at: str | None
    reason: str | None
    held: Hindrance | None
    attempts: list[AttemptDocument]


class WholeCallback(CallbackDocument, frozen=True, kw_only=True):
    """A callback with the message it carries."""

    body: Any


def describe_callback(callback: Callback, *, operator: bool = False) -> CallbackDocument:
    """A callback. Why nothing answered is told in full to operators only: it names addresses inside."""
    return CallbackDocument(**_callback_fields(callback, operator))


def describe_whole_callback(callback: Callback, *, operator: bool = False) -> WholeCallback:
    return WholeCallback(**_callback_fields(callback, operator), body=msgspec.json.decode(callback.body))


def _callback_fields(callback: Callback, operator: bool) -> dict[str, Any]:
    return {
        "callback_id": callback.id,
        "status": CallbackState(callback.state),
        "type": callback.type,
        "message_id": callback.message_id,
        "endpoint": callback.endpoint,
        "run_id": callback.run_id or None,
        "app_id": callback.app_id,
        "url": callback.url,
        "created_at": iso(callback.created_at),
        "completed_at": iso(callback.ended_at),
        "next_attempt_at": iso(callback.due_at) if callback.state == CallbackState.PENDING else None,
        "reason": callback.reason,
        "held": callback.held,
        "attempts": [_describe_attempt(each, operator) for each in callback.attempts],
    }


def _describe_attempt(attempt: Attempt, operator: bool) -> AttemptDocument:
    return AttemptDocument(
        number=attempt.number,
        at=iso(attempt.at),
        duration_ms=attempt.duration_ms,
        status=attempt.status,
        error=(attempt.detail if operator else None) or attempt.error,
        answer=attempt.answer,
    )
