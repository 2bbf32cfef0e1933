"""`http`: one request through the guarded client. The output is `{status, headers, body}`."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import msgspec

from gateway.web.client import Answer, Failure
from gateway.workflows import CompiledStep
from workers.executors.base import Context, StepFailed

TRY_AGAIN = frozenset({408, 429})


async def perform(step: CompiledStep, argument: dict[str, Any], context: Context) -> Any:
    """Send it. An unexpected status, a cut answer and an unreachable address are failures."""
    url = _with_query(str(argument["url"]), argument["query"])
    body, headers = _content(argument, context.key)
    answer = await context.client.request(
        str(argument["method"]).upper(), url, headers=headers, body=body, total_timeout=context.seconds, cap=context.cap
    )
    if isinstance(answer, Failure):
        message = f"{answer.reason}: {answer.detail}"
        raise StepFailed("HttpError", message)
    _check(answer, argument["expect"], context.cap)
    return {"status": answer.status, "headers": dict(answer.headers), "body": _read(answer)}


def _with_query(url: str, query: dict[str, Any]) -> str:
    if not query:
        return url
    parts = urlsplit(url)
    added = urlencode({name: value for name, value in query.items() if value is not None}, doseq=True)
    return urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added))


def _content(argument: dict[str, Any], key: str) -> tuple[bytes, dict[str, str]]:
    headers = {"user-agent": "event-gateway", "accept": "*/*", "idempotency-key": key}
    body = b""
    if "json" in argument:
        body = msgspec.json.encode(argument["json"])
        headers["content-type"] = "application/json"
    elif argument["body"] is not None:
        body = str(argument["body"]).encode()
    return body, headers | {name.lower(): str(value) for name, value in argument["headers"].items()}


def _check(answer: Answer, expect: list[int] | None, cap: int) -> None:
    good = answer.status in expect if expect else answer.status < 500 and answer.status not in TRY_AGAIN
    if not good:
        message = f"the answer was {answer.status}, expected {' or '.join(map(str, expect)) if expect else 'success'}"
        raise StepFailed("HttpStatus", message)
    if answer.truncated:
        message = f"the answer has more than {cap} bytes"
        raise StepFailed("TooLarge", message, again=False)


def _read(answer: Answer) -> Any:
    kind = (
        next((value for name, value in answer.headers if name == "content-type"), "").partition(";")[0].strip().lower()
    )
    # An answer to HEAD, and a 204, may name a type and have no body.
    if answer.body and (kind == "application/json" or kind.endswith("+json")):
        try:
            return msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            message = f"the answer says it is {kind}, but it can't be read as JSON"
            raise StepFailed("BadAnswer", message) from None
    try:
        return answer.body.decode()
    except UnicodeDecodeError:
        return base64.b64encode(answer.body).decode()
