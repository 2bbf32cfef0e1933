"""Model steps against an OpenAI-compatible provider, which is a process of its own: answers, faults, streams, credits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from gateway.runs import Run
from tests.model_server import KEY, USAGE, WORDS
from tests.tools import begin, connected, ended, everything, publish, settings_for, tell, until, working
from tests.tools_api import names, parse_events, serving

TEXT = "".join(WORDS)
SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["verdict"],
}
REFERENCE = {"env": "TESTS_MODEL_KEY"}


class Provider:
    """The provider's process, seen from here."""

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.url = self.origin + "/v1"

    def look(self) -> dict[str, Any]:
        seen: dict[str, Any] = httpx2.get(self.origin + "/calls").json()
        return seen

    @property
    def calls(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.look()["calls"]
        return found

    def post(self, path: str) -> None:
        httpx2.post(self.origin + path, content=b"")


@pytest.fixture(scope="module")
def provider_process() -> Iterator[Provider]:
    command = [sys.executable, "-m", "tests.model_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Provider(int(process.stdout.readline()))
        finally:
            process.terminate()


@pytest.fixture
def provider(provider_process: Provider, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """The provider with nothing asked yet; its key is in the environment of the worker."""
    monkeypatch.setenv(REFERENCE["env"], KEY)
    provider_process.post("/reset")
    return provider_process


def step(provider: Provider, model: str, retry: Any = None, **fields: Any) -> dict[str, Any]:
    given = {"prompt": "Why?"} if "messages" not in fields else {}
    call = {"url": provider.url, "key": REFERENCE, "model": model} | given | fields
    return {"id": "ask", "model": call} | ({} if retry is None else {"retry": retry})


def file_of(*steps: dict[str, Any]) -> str:
    return json.dumps({"workflows": [{"id": 77, "name": "w", "steps": list(steps)}]})


def carry(store: str, folder: Path, *steps: dict[str, Any], given: Any = None, **settings: Any) -> Run:
    """Run a workflow of these steps to its end."""
    found: list[Run] = []

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, file_of(*steps))
            async with working(settings_for(store, folder, **({"lease": 5} | settings))):
                found.append(await ended(redis, await begin(redis, "w", input=given or {})))

    tell(story())
    return found[0]


def failure(run: Run) -> tuple[str, str, int]:
    assert run.error is not None
    return run.error.type, run.error.message, run.steps["ask"].attempt


# ---- is the provider of these tests what it says it is?


@pytest.fixture
def client(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=provider.url, api_key=KEY, max_retries=0) as made:
        yield made


ASKED: list[Any] = [{"role": "user", "content": "Why?"}]


def test_the_official_client_reads_the_answers_of_the_provider(client: openai.OpenAI) -> None:
    """OpenAI's own library takes the provider of these tests for its own: a whole answer with its usage."""
    answer = client.chat.completions.create(model="plain", messages=ASKED)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (TEXT, "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == USAGE["total_tokens"]


def test_the_official_client_reads_the_streams_of_the_provider(client: openai.OpenAI) -> None:
    """The same of a stream, with the usage in its last event."""
    options: Any = {"include_usage": True}
    with client.chat.completions.create(model="plain", messages=ASKED, stream=True, stream_options=options) as chunks:
        found = list(chunks)
    assert "".join(each.choices[0].delta.content or "" for each in found if each.choices) == TEXT
    assert found[-1].usage is not None
    assert found[-1].usage.total_tokens == USAGE["total_tokens"]


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("bad-request", openai.BadRequestError),
        ("missing", openai.NotFoundError),
        ("forbidden", openai.PermissionDeniedError),
        ("busy", openai.RateLimitError),
        ("overloaded", openai.InternalServerError),
    ],
)
def test_the_official_client_reads_the_faults_of_the_provider(
    client: openai.OpenAI, model: str, error: type[openai.APIStatusError]
) -> None:
    """And of each fault, with the provider's code."""
    with pytest.raises(error) as raised:
        client.chat.completions.create(model=model, messages=ASKED)
    assert raised.value.code == model


# ---- whole answers


def test_a_model_step_gives_the_answer_and_what_it_took(store: str, tmp_path: Path, provider: Provider) -> None:
    """The request is OpenAI's, with key, system text and numbers; the output holds text, reason, model and usage."""
    fields = {"prompt": "Why, ${input.name}?", "system": "Be brief.", "temperature": "${input.t}", "max_tokens": 50}
    run = carry(store, tmp_path, step(provider, "plain", **fields), given={"name": "Ann", "t": 0.5})
    assert run.output == {"text": TEXT, "finish_reason": "stop", "model": "plain-2026", "usage": USAGE}
    (call,) = provider.calls
    assert call["body"] == {
        "model": "plain",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why, Ann?"}],
        "temperature": 0.5,
        "max_tokens": 50,
    }
    assert len(call["headers"]["idempotency-key"]) == 40


def test_messages_may_be_written_or_computed(store: str, tmp_path: Path, provider: Provider) -> None:
    """A list of messages is sent as it is; an expression may give the list, and a prompt that is data becomes JSON."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    steps = [
        step(provider, "plain", messages=turns),
        step(provider, "plain", messages="${input.turns}") | {"id": "computed", "needs": ["ask"]},
        step(provider, "plain", prompt="${input.turns[0]}") | {"id": "data", "needs": ["computed"]},
    ]
    carry(store, tmp_path, *steps, given={"turns": turns})
    sent = [call["body"]["messages"] for call in provider.calls]
    assert sent[:2] == [turns, turns]
    assert json.loads(sent[2][0]["content"]) == turns[0]


def test_an_answer_is_checked_against_the_schema(store: str, tmp_path: Path, provider: Provider) -> None:
    """With `schema` the provider is asked for JSON of that form, and the output holds it as data."""
    run = carry(store, tmp_path, step(provider, "json", schema=SCHEMA))
    assert run.output["json"] == {"verdict": "good", "score": 3}
    wanted = {"type": "json_schema", "json_schema": {"name": "ask", "schema": SCHEMA}}
    assert provider.calls[0]["body"]["response_format"] == wanted


def test_an_answer_that_is_not_of_the_schema_may_be_tried_again(store: str, tmp_path: Path, provider: Provider) -> None:
    """A mismatch is a failed attempt; the next one may do better, and both have cost their tokens."""
    run = carry(store, tmp_path, step(provider, "json-later", {"attempts": 2, "initial": 0}, schema=SCHEMA))
    assert (run.output["json"]["verdict"], run.steps["ask"].attempt) == ("good", 2)
    assert run.credits == 2 * (1 + 2)


@pytest.mark.parametrize(
    ("model", "fields", "kind", "words", "attempts"),
    [
        ("json-later", {"schema": {"type": "array"}}, "SchemaMismatch", "not what `schema` asks for", 2),
        ("no-json", {"schema": SCHEMA}, "SchemaMismatch", "asked for JSON, and its answer is none", 2),
        ("length", {}, "CutShort", "finish_reason: length", 1),
        ("filter", {}, "ContentFiltered", "finish_reason: content_filter", 1),
        ("refuses", {}, "ModelRefused", "I can't help with that.", 1),
        ("refuses", {"stream": True}, "ModelRefused", "I can't do that.", 1),
        ("tools", {}, "BadAnswer", "finish_reason: tool_calls", 1),
        ("empty", {}, "BadAnswer", "holds no choice", 2),
        ("html", {}, "BadAnswer", "can't be read", 2),
        ("owes", {}, "BadAnswer", "can't be read", 2),
        ("bad-request", {}, "ModelRequest", "the provider answered 400: no, [secret], bad-request", 1),
        ("missing", {}, "ModelRequest", "404", 1),
        ("elsewhere", {}, "ModelRequest", "302", 1),
        ("forbidden", {}, "ModelAuth", "it refuses the key (env TESTS_MODEL_KEY)", 1),
        ("busy", {}, "ModelBusy", "429: no, [secret], busy", 2),
        ("overloaded", {}, "ModelError", "503", 2),
        ("cut", {"stream": True}, "BrokenStream", "before the model was done", 2),
        ("fails-midway", {"stream": True}, "ModelError", "while it answered: the engine stalled", 2),
        ("falls-silent", {"stream": True, "idle": "200ms"}, "ModelError", "nothing came for 0.2 s", 2),
        ("floods", {"stream": True}, "TooLarge", "more than the 2000 bytes", 1),
        ("babbles", {"stream": True}, "BadAnswer", "no chat completion", 2),
        ("plain", {"temperature": "${'warm'}"}, "ModelRequest", "`temperature` takes a number", 1),
        ("plain", {"messages": "${[1]}"}, "ModelRequest", "each with a `role` and a `content`", 1),
    ],
)
def test_what_goes_wrong_is_said_and_tried_again_only_where_that_helps(
    store: str, tmp_path: Path, provider: Provider, model: str, fields: Any, kind: str, words: str, attempts: int
) -> None:
    """Each fault of a provider or a model has its word and its reason, and no more attempts than can help."""
    retry = {"attempts": 2, "initial": 0}
    run = carry(store, tmp_path, step(provider, model, retry, **fields), max_output=2000)
    found, message, attempt = failure(run)
    assert (found, attempt) == (kind, attempts)
    assert words in message


def test_retry_after_is_obeyed(store: str, tmp_path: Path, provider: Provider) -> None:
    """After a 429 with Retry-After: 1 the next attempt comes no sooner, whatever the step's own policy says."""
    run = carry(store, tmp_path, step(provider, "busy-once", {"attempts": 2, "initial": 0}))
    first, second = (call["at"] for call in provider.calls)
    assert (str(run.state), second - first >= 1) == ("completed", True)


def test_a_broken_answer_is_tried_again_under_the_same_key(store: str, tmp_path: Path, provider: Provider) -> None:
    """A 500 is tried again with the same Idempotency-Key."""
    run = carry(store, tmp_path, step(provider, "broken-once", {"attempts": 2, "initial": 0}))
    keys = {call["headers"]["idempotency-key"] for call in provider.calls}
    assert (str(run.state), len(provider.calls), len(keys)) == ("completed", 2, 1)


# ---- keys


def test_the_key_of_the_settings_goes_to_their_provider_only(store: str, tmp_path: Path, provider: Provider) -> None:
    """Without `url` and `key` the settings' are used; a step that names its own URL is not given the settings' key."""
    own = {"id": "own", "needs": ["ask"], "model": {"url": provider.url, "model": "plain", "prompt": "Why?"}}
    defaults = {"id": "ask", "model": {"model": "plain", "prompt": "Why?"}}
    run = carry(store, tmp_path, defaults, own, model_url=provider.url + "/", model_key=KEY)
    assert (str(run.steps["ask"].state), run.error.type if run.error else "") == ("completed", "ModelAuth")
    given = [call["headers"].get("authorization") for call in provider.calls]
    assert given == [f"Bearer {KEY}", None]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"url": None}, "NoProvider", "set GATEWAY_MODEL_URL"),
        ({"key": {"env": "TESTS_ABSENT_KEY"}}, "NoSecret", "env TESTS_ABSENT_KEY"),
    ],
)
def test_what_is_not_set_is_named(
    store: str, tmp_path: Path, provider: Provider, change: dict[str, Any], kind: str, words: str
) -> None:
    """No provider, or a key that is not there, fails the step at once, with the name of what is missing."""
    written = step(provider, "plain", {"attempts": 3, "initial": 0})
    written["model"] |= change
    found, message, attempt = failure(carry(store, tmp_path, written))
    assert (found, attempt, words in message, provider.calls) == (kind, 1, True, [])


@pytest.mark.parametrize("model", ["plain", "quotes-key", "bad-request", "busy"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_key_is_nowhere_to_be_seen(
    store: str, tmp_path: Path, provider: Provider, capfd: pytest.CaptureFixture[str], model: str, stream: bool
) -> None:
    """Neither store nor logs ever hold the key, even where the provider quotes it; a wrong key is not shown either."""

    async def story() -> None:
        async with connected(store) as redis:
            wrong = step(provider, "plain", key={"file": str(tmp_path / "wrong")})
            await publish(redis, file_of(step(provider, model, stream=stream), wrong | {"id": "wrong"}))
            async with working(settings_for(store, tmp_path)):
                await ended(redis, await begin(redis, "w"))
            seen = await everything(redis)
            assert "ModelAuth" in seen
            assert KEY not in seen
            assert "sk-wrong" not in seen

    (tmp_path / "wrong").write_text("sk-wrong-0123456789\n")
    tell(story())
    told = "".join(capfd.readouterr())
    assert KEY not in told
    assert "sk-wrong" not in told


# ---- streams


@pytest.mark.parametrize(
    ("model", "text", "usage"),
    [("plain", TEXT, USAGE), ("carriage-returns", "ab", None), ("no-stream", TEXT, USAGE)],
)
def test_a_stream_gives_the_same_output(
    store: str, tmp_path: Path, provider: Provider, model: str, text: str, usage: Any
) -> None:
    """However a stream is cut, and also from a provider that can't stream, the output is that of a whole answer."""
    run = carry(store, tmp_path, step(provider, model, stream=True))
    assert (run.output["text"], run.output["finish_reason"]) == (text, "stop")
    assert run.output["usage"] == usage
    assert provider.calls[0]["body"]["stream_options"] == {"include_usage": True}


def test_a_stream_is_seen_in_the_timeline_while_it_comes(store: str, tmp_path: Path, provider: Provider) -> None:
    """Who follows the run hears `step.delta` while the step still runs; who comes later finds the output only."""

    async def story() -> None:
        async with serving(store, tmp_path, lease=5) as api:
            await publish(api.redis, file_of(step(provider, "waits", stream=True)))
            run_id = await begin(api.redis, "w")
            path, headers = f"/api/v1/runs/{run_id}/timeline", {"authorization": f"Bearer {api.admin}"}
            text = ""
            async with api.client.stream("GET", path, headers=headers) as answer:
                # The first word was said before anybody could follow, or after; the others come now.
                await until(lambda: provider.calls)
                async for piece in answer.aiter_text():
                    text += piece
                    if "step.running" in text and "step.delta" not in text.partition("step.running")[2]:
                        provider.post("/go")
            events = parse_events(text)
            deltas = [json.loads(each["data"]) for each in events if each["event"] == "step.delta"]
            assert TEXT.endswith("".join(each["text"] for each in deltas))
            assert [(each["run_id"], each["step"], each["attempt"]) for each in deltas] == [(run_id, "ask", 1)] * len(
                deltas
            )
            assert [TEXT[each["offset"] :].startswith(each["text"]) for each in deltas] == [True] * len(deltas)
            order = names(events)
            assert "step.delta" in order[: order.index("step.completed")]
            later = parse_events((await api.get(path)).text)
            assert "step.delta" not in names(later)
            assert json.loads(later[-2]["data"])["output"]["text"] == TEXT

    tell(story())


@pytest.mark.parametrize(("model", "stream"), [("slow", False), ("waits", True)])
def test_cancelling_a_run_hangs_up_on_the_provider(
    store: str, tmp_path: Path, provider: Provider, model: str, stream: bool
) -> None:
    """A cancelled run's model stops costing: the connection to the provider ends at once."""

    async def story() -> None:
        async with serving(store, tmp_path) as api:
            await publish(api.redis, file_of(step(provider, model, stream=stream)))
            run_id = await begin(api.redis, "w")
            await until(lambda: provider.calls)
            assert provider.look()["hung_up"] == 0
            await api.post(f"/api/v1/runs/{run_id}/cancel")
            await until(lambda: provider.look()["hung_up"] == 1)

    tell(story())


# ---- credits


def test_tokens_cost_credits(store: str, tmp_path: Path, provider: Provider) -> None:
    """1500 tokens at 2 credits for 1000 are 3, besides the attempt; an answer without usage costs the attempt only."""
    unknown = step(provider, "no-usage") | {"id": "unknown", "needs": ["ask"]}
    costs = {"model_credits": 2, "step_costs": "model=1"}
    run = carry(store, tmp_path, step(provider, "plain", stream=True), unknown, **costs)
    assert (run.steps["ask"].credits, run.steps["unknown"].credits, run.credits) == (4, 1, 5)
    assert run.output["usage"] is None


def test_arkai_tells_the_credits_of_runs_and_steps(store: str, tmp_path: Path, provider: Provider) -> None:
    """`creditUsage` of an execution, and of each step on its path, counts the tokens."""

    async def story() -> None:
        async with serving(store, tmp_path, lease=5) as api:
            text = file_of(step(provider, "plain"), {"id": "after", "needs": ["ask"], "transform": {"a": 1}})
            await publish(api.redis, text)
            headers = {"x-api-key": api.admin}
            asked = {"workflowId": "77", "version": 1, "input": {}}

            async def started() -> httpx2.Response | None:
                found = await api.post("/api/executeWorkflow", asked, headers=headers)
                return found if found.status_code == 200 else None

            answer = (await until(started)).json()
            assert answer["creditUsage"] == 1 + 2
            wanted = {"workflowId": "77", "conversationId": answer["conversationId"]}
            seen = (await api.post("/api/getConversationById", wanted, headers=headers)).json()
            path = {each["component"]: each["creditUsage"] for each in seen["executionPath"]}
            assert path == {"ask": 3, "after": 0}

    tell(story())


# ---- who may send which secret


def test_a_token_may_not_send_the_secrets_of_the_machine(store: str, tmp_path: Path, provider: Provider) -> None:
    """Who may write workflows may ask the provider of the settings, but not read the worker's environment."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            writer = await api.token("workflows:write", "workflows:read")
            await api.settle()

            async def upload(call: dict[str, Any], token: str) -> tuple[int, str]:
                document = {"name": "sent", "steps": [{"id": "ask", "model": call}]}
                answer = await api.post("/api/v1/workflows", document, token=token)
                return answer.status_code, answer.text

            secret = step(provider, "plain", key={"env": "GATEWAY_MASTER_KEYS"})["model"]
            status, text = await upload(secret, writer)
            assert (status, "env GATEWAY_MASTER_KEYS" in text) == (403, True)
            assert (await upload({"model": "plain", "prompt": "Why?"}, writer))[0] == 201
            assert (await upload(secret, api.admin))[0] == 201

    tell(story())
