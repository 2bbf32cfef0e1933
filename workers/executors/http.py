"""`http`: one request through the guarded client. The output is `{status, headers, body}`."""

from __future__ import annotations

import base64
import time
from typing import Any
from urllib.parse import urlencode

import msgspec
import structlog

from gateway.calls import HttpCall
from gateway.retries import read_retry_after
from gateway.secrets import SecretRef
from gateway.traces import HEADER as TRACE
from gateway.web.client import Answer, Failure
from gateway.workflows import CompiledStep
from workers.executors.base import Context, StepFailed
from workers.executors.keyring import Keyring

log = structlog.get_logger()
TRY_AGAIN = frozenset({408, 429})
HOPELESS = frozenset({"invalid_url", "invalid_request"})
MOST_RETRY_AFTER = 3600.0
"""Seconds of a Retry-After that count."""
TYPES = {"json": "application/json", "form": "application/x-www-form-urlencoded"}


async def perform(step: CompiledStep, argument: dict[str, Any], context: Context) -> Any:
    """Send it. An unexpected status, a cut answer and an unreachable address are failures."""
    call = step.step.http
    assert isinstance(call, HttpCall)
    keyring = Keyring(context.resolve)
    url = _with_query(str(argument["url"]), argument["query"])
    cap = min(context.cap, call.max_bytes or context.cap)
    answer = await context.client.request(
        str(argument["method"]).upper(),
        url,
        headers=_trace(context) | _headers(call, argument, context.key, keyring),
        body=_body(argument),
        total_timeout=context.seconds,
        cap=cap,
    )
    if isinstance(answer, Failure):
        raise failed(answer, "HttpError", context, keyring)
    _check(answer, call.expect, cap)
    headers = {name: keyring.hide(value) for name, value in answer.headers}
    return {"status": answer.status, "headers": headers, "body": _read(answer, call.response, keyring)}


def failed(failure: Failure, kind: str, context: Context, keyring: Keyring) -> StepFailed:
    """No whole answer, as a step says it. The log has more: who writes a workflow must not find out what is inside."""
    log.warning(
        "a step's request got no answer",
        run_id=context.run_id,
        step=context.step_id,
        attempt=context.attempt,
        error=keyring.hide(failure.text),
    )
    return StepFailed(kind, keyring.hide(failure.public_text), again=failure.reason not in HOPELESS)


def asked_pause(answer: Answer) -> float | None:
    """The seconds that the far end asks to be left alone (Retry-After), of which MOST_RETRY_AFTER count."""
    text = next((value for name, value in answer.headers if name == "retry-after"), None)
    seconds = None if text is None else read_retry_after(text, time.time())
    return None if seconds is None else min(seconds, MOST_RETRY_AFTER)


def _with_query(url: str, query: dict[str, Any]) -> str:
    # Not taken apart: how a URL is read is the guard's business alone.
    added = _encode(query)
    if not added:
        return url
    joint = "" if url.endswith(("?", "&")) else "&" if "?" in url else "?"
    return url + joint + added


def _encode(fields: dict[str, Any]) -> str:
    return urlencode({name: value for name, value in fields.items() if value is not None}, doseq=True)


def _trace(context: Context) -> dict[str, str]:
    """The trace that the run is part of; a header of the step's own goes before it."""
    return {} if context.traceparent is None else {TRACE: context.traceparent}


def _headers(call: HttpCall, argument: dict[str, Any], key: str, keyring: Keyring) -> dict[str, str]:
    headers = {"user-agent": "event-gateway", "accept": "*/*"}
    kind = next((kind for name, kind in TYPES.items() if name in argument), None)
    headers |= {} if kind is None else {"content-type": kind}
    wanted = argument["idempotency_key"]
    if wanted is not False and wanted is not None:
        headers["idempotency-key"] = key if wanted is True else str(wanted)
    headers |= {name.lower(): _value(name, value, keyring) for name, value in argument["headers"].items()}
    if call.bearer is not None:
        headers["authorization"] = f"Bearer {keyring.open(call.bearer)}"
    if call.basic is not None:
        headers["authorization"] = keyring.basic(call.basic.user, call.basic.password)
    return headers


def _value(name: str, value: Any, keyring: Keyring) -> str:
    if isinstance(value, SecretRef):
        return keyring.open(value)
    if isinstance(value, dict | list):
        # Also what an expression gave: a value from outside is never read as a reference to a secret.
        message = (
            f"the header {name!r} takes text or a number, not {'an object' if isinstance(value, dict) else 'a list'}"
        )
        raise StepFailed("HttpError", message, again=False)
    return str(value)


def _body(argument: dict[str, Any]) -> bytes:
    if "json" in argument:
        return msgspec.json.encode(argument["json"])
    if "form" in argument:
        return _encode(argument["form"]).encode()
    return b"" if argument["body"] is None else str(argument["body"]).encode()


def _check(answer: Answer, expect: list[int | str] | None, cap: int) -> None:
    if not _is_expected(answer.status, expect):
        message = f"the answer was {answer.status}, expected {' or '.join(map(str, expect)) if expect else 'success'}"
        raise StepFailed("HttpStatus", message, after=asked_pause(answer))
    if answer.truncated:
        message = f"the answer has more than {cap} bytes"
        raise StepFailed("TooLarge", message, again=False)


def _is_expected(status: int, expect: list[int | str] | None) -> bool:
    if not expect:
        return status < 500 and status not in TRY_AGAIN
    return status in expect or f"{status // 100}xx" in expect


def _read(answer: Answer, response: str, keyring: Keyring) -> Any:
    kind = _type_of(answer)
    body = keyring.hide_bytes(answer.body)
    # An answer to HEAD, and a 204, may name a type and have no body.
    is_json = bool(body) and (kind == "application/json" or kind.endswith("+json"))
    if response == "json" or (response == "auto" and is_json):
        return _read_json(body, kind)
    if response == "base64":
        return base64.b64encode(body).decode()
    try:
        return body.decode()
    except UnicodeDecodeError:
        if response == "text":
            message = "the answer is not text in UTF-8; `response: base64` takes any bytes"
            raise StepFailed("BadAnswer", message, again=False) from None
        return base64.b64encode(body).decode()


def _type_of(answer: Answer) -> str:
    found = next((value for name, value in answer.headers if name == "content-type"), "")
    return found.partition(";")[0].strip().lower()


def _read_json(body: bytes, kind: str) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        message = f"the answer can't be read as JSON; it says it is {kind or 'of no type'}"
        raise StepFailed("BadAnswer", message) from None
