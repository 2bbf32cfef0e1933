"""`model`: one chat completion of an OpenAI-compatible provider, through the guarded client.

The output is `{text, json, finish_reason, model, usage}`; `json` only where the step has a `schema`.
"""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import msgspec

from gateway.calls import ModelCall
from gateway.credits import token_cost
from gateway.schemas import compile_schema
from gateway.web.client import Answer, Failure
from gateway.workflows import CompiledStep
from workers.executors.base import Context, Models, StepFailed
from workers.executors.completions import (
    Collector,
    Completion,
    ProviderError,
    Usage,
    read_completion,
    read_reason,
)
from workers.executors.http import asked_pause, failed
from workers.executors.keyring import Keyring
from workers.executors.speaker import Speaker

AUTH = frozenset({401, 403})
TRY_AGAIN = frozenset({408, 409, 425, 429})
ENVELOPE = 65_536
"""Bytes that an answer may have around its text."""
LONGEST_COMPLAINT = 300


async def perform(step: CompiledStep, argument: dict[str, Any], context: Context) -> Any:
    """Ask the model. Raises StepFailed for an unfit request, a provider that fails, and an answer that is no answer."""
    call = step.step.model
    assert isinstance(call, ModelCall)
    keyring = Keyring(context.resolve)
    url, headers = _address(call, argument, context, keyring)
    body = msgspec.json.encode(_request(call, argument, step.id))
    async with Speaker(context, keyring.hide) as speaker:
        collector = Collector(context.cap, speaker.say)
        answer = await context.client.request(
            "POST",
            url,
            headers=headers,
            body=body,
            total_timeout=context.seconds,
            cap=2 * context.cap + ENVELOPE,
            idle_timeout=float(call.idle) if call.stream else None,
            sink=collector.take if call.stream else None,
        )
    _charge(context, collector.usage)
    completion = _completion(answer, collector, call, context, keyring)
    if collector.usage is None:
        _charge(context, completion.usage)
    return _output(completion, call, keyring)


def _address(
    call: ModelCall, argument: dict[str, Any], context: Context, keyring: Keyring
) -> tuple[str, dict[str, str]]:
    """Where to send, and the headers."""
    base = context.models.url if call.url is None else str(argument["url"])
    if not base:
        message = "there is no provider: give the step's model a `url`, or set GATEWAY_MODEL_URL"
        raise StepFailed("NoProvider", message, again=False)
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream" if call.stream else "application/json",
        "idempotency-key": context.key,
    }
    key = _key(call, context.models, keyring)
    if key:
        headers["authorization"] = f"Bearer {key}"
    return base.rstrip("/") + "/chat/completions", headers


def _key(call: ModelCall, models: Models, keyring: Keyring) -> str:
    if call.key is not None:
        return keyring.open(call.key)
    # The operator's key is for the operator's provider, not for any URL that a definition names.
    if call.url is not None or not models.key:
        return ""
    keyring.remember(models.key)
    return models.key


def _request(call: ModelCall, argument: dict[str, Any], name: str) -> dict[str, Any]:
    request: dict[str, Any] = {"model": str(argument["model"]), "messages": _messages(argument)}
    for field, kinds in (("temperature", (int, float)), ("max_tokens", (int,))):
        value = argument[field]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, kinds):
            message = f"`{field}` takes a number, not {value!r:.60}"
            raise StepFailed("ModelRequest", message, again=False)
        request[field] = value
    if call.schema is not None:
        request["response_format"] = {"type": "json_schema", "json_schema": {"name": name, "schema": call.schema}}
    if call.stream:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    return request


def _messages(argument: dict[str, Any]) -> list[Any]:
    given = argument["messages"]
    if given is None:
        given = [{"role": "user", "content": _text(argument["prompt"])}]
    fits = isinstance(given, list) and all(
        isinstance(each, dict) and isinstance(each.get("role"), str) and "content" in each for each in given
    )
    if not fits or not given:
        message = "`messages` takes a list of messages, each with a `role` and a `content`"
        raise StepFailed("ModelRequest", message, again=False)
    system = argument["system"]
    return given if system is None else [{"role": "system", "content": _text(system)}, *given]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _charge(context: Context, usage: Usage | None) -> None:
    if usage is not None:
        context.charge(token_cost(usage.total_tokens, context.models.rate))


def _completion(
    answer: Answer | Failure, collector: Collector, call: ModelCall, context: Context, keyring: Keyring
) -> Completion:
    if isinstance(answer, Failure):
        raise failed(answer, "ModelError", context, keyring)
    if not 200 <= answer.status < 300:
        raise _refused(answer, call, keyring)
    if answer.truncated and collector.problem is None and answer.body:
        message = f"the provider's answer has more than {len(answer.body)} bytes"
        raise StepFailed("TooLarge", message, again=False)
    try:
        if collector.problem is not None:
            raise collector.problem
        # A provider that can't stream answers all at once.
        return read_completion(answer.body) if answer.body or not call.stream else collector.completion()
    except OverflowError as error:
        raise StepFailed("TooLarge", str(error), again=False) from None
    except ProviderError as error:
        message = f"the provider failed while it answered: {error}"
        raise StepFailed("ModelError", keyring.hide(message)) from None
    except ValueError as error:
        raise StepFailed("BadAnswer", keyring.hide(f"the provider's answer can't be read: {error}")) from None


def _refused(answer: Answer, call: ModelCall, keyring: Keyring) -> StepFailed:
    status = answer.status
    if status in AUTH:
        # What providers say here tends to quote the key.
        name = call.key.label if call.key is not None else "GATEWAY_MODEL_KEY, for GATEWAY_MODEL_URL only"
        return StepFailed("ModelAuth", f"the provider answered {status}: it refuses the key ({name})", again=False)
    reason = read_reason(answer.body)
    message = f"the provider answered {status}" + (f": {keyring.hide(reason)}" if reason else "")
    if status == 429:
        return StepFailed("ModelBusy", message, after=asked_pause(answer))
    if status >= 500 or status in TRY_AGAIN:
        return StepFailed("ModelError", message, after=asked_pause(answer))
    return StepFailed("ModelRequest", message, again=False)


def _output(completion: Completion, call: ModelCall, keyring: Keyring) -> dict[str, Any]:
    text = keyring.hide(_said(completion, keyring))
    output: dict[str, Any] = {"text": text}
    if call.schema is not None:
        output["json"] = _read_json(text, call.schema)
    usage = completion.usage
    return output | {
        "finish_reason": completion.finish_reason,
        "model": completion.model,
        "usage": None if usage is None else msgspec.structs.asdict(usage),
    }


def _said(completion: Completion, keyring: Keyring) -> str:
    """The text of a completion that came to its own end; for all else StepFailed says what happened."""
    reason = completion.finish_reason
    if completion.refusal:
        raise StepFailed("ModelRefused", keyring.hide(f"the model refused: {completion.refusal}"), again=False)
    if reason == "content_filter":
        message = "the provider's content filter stopped the answer (finish_reason: content_filter)"
        raise StepFailed("ContentFiltered", message, again=False)
    if reason == "length":
        message = (
            "the answer was cut at the limit of tokens (finish_reason: length); raise `max_tokens`, or ask for less"
        )
        raise StepFailed("CutShort", message, again=False)
    if not completion.whole:
        message = "the stream ended before the model was done"
        raise StepFailed("BrokenStream", message)
    if completion.text is None:
        message = f"the answer holds no text (finish_reason: {reason}); tools are not offered to the model"
        raise StepFailed("BadAnswer", message, again=False)
    return completion.text


def _read_json(text: str, schema: dict[str, Any]) -> Any:
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        message = f"the model was asked for JSON, and its answer is none: {error}"
        raise StepFailed("SchemaMismatch", message) from None
    try:
        compile_schema(schema, "schema").validate(value)
    except jsonschema_rs.ValidationError as error:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
        message = f"the model's JSON is not what `schema` asks for: json{place}: {error.message[:LONGEST_COMPLAINT]}"
        raise StepFailed("SchemaMismatch", message) from None
    except ValueError as error:
        message = f"the model's JSON can't be checked: {error}"
        raise StepFailed("SchemaMismatch", message[:LONGEST_COMPLAINT]) from None
    return value
