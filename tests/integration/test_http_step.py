"""`http` steps against real peers: what is sent, how answers are read, what is tried again, and secrets."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.runs import Run
from gateway.web.client import Answer
from tests.tools import Peer, Reply, begin, connected, ended, everything, publish, settings_for, tell, working
from workers.executors.http import MOST_RETRY_AFTER, asked_pause

SECRET = "s3cret of/the tests+"
BASIC = base64.b64encode(f"ann:{SECRET}".encode()).decode()


def flow(*steps: dict[str, Any]) -> str:
    return json.dumps({"workflows": [{"name": "w", "steps": list(steps)}]})


def http(step_id: str, url: str, retry: Any = None, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "http": {"url": url} | fields} | ({} if retry is None else {"retry": retry})


def call(store: str, folder: Path, peer: Peer, text: Callable[[str], str], **settings: Any) -> Run:
    """Run a workflow whose steps call the peer."""
    found: list[Run] = []

    async def story() -> None:
        async with connected(store) as redis, peer.listening():
            await publish(redis, text(peer.url))
            async with working(settings_for(store, folder, **({"lease": 5} | settings))):
                found.append(await ended(redis, await begin(redis, "w", input={"q": "a b&c", "n": 5})))

    tell(story())
    return found[0]


JSON = {"content-type": "application/json"}


def test_an_http_step_sends_what_it_says(store: str, tmp_path: Path) -> None:
    """Method, path, query, headers and JSON body arrive as written, with expressions worked out."""
    fields = {
        "method": "put",
        "query": {"q": "${input.q}", "n": "${input.n}", "no": None, "many": [1, 2]},
        "headers": {"X-Own": "v${input.n}", "Content-Type": "application/vnd.x+json"},
        "json": {"n": "${input.n}"},
    }
    peer = Peer(Reply(200, b'{"ok": true}', JSON))
    run = call(store, tmp_path, peer, lambda url: flow(http("a", url + "/p?x=1", **fields)))
    (got,) = peer.calls
    assert (got.method, got.target) == ("PUT", "/p?x=1&q=a+b%26c&n=5&many=1&many=2")
    assert (got.headers["x-own"], got.headers["content-type"]) == ("v5", "application/vnd.x+json")
    assert got.body == b'{"n":5}'
    assert (run.output["status"], run.output["body"]) == (200, {"ok": True})
    assert run.output["headers"]["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (Reply(200, b'{"a": [1, null]}', JSON), {"a": [1, None]}),
        (Reply(200, b"[1]", {"content-type": "application/problem+json; charset=utf-8"}), [1]),
        (Reply(200, b"12345678901234567890123", JSON), 12345678901234567890123),
        (Reply(200, "grüß".encode(), {"content-type": "text/plain"}), "grüß"),
        (Reply(200, b'{"a": 1}'), '{"a": 1}'),
        (Reply(200, b"\xff\xfe\x00", {"content-type": "image/x"}), base64.b64encode(b"\xff\xfe\x00").decode()),
        (Reply(200, b"", JSON), ""),
        (Reply(404, b"no"), "no"),
        (Reply(301, b"", {"location": "http://127.0.0.1:1/"}), ""),
    ],
)
def test_an_answer_is_read_as_what_it_says_it_is(store: str, tmp_path: Path, reply: Reply, body: Any) -> None:
    """JSON becomes data, text stays text, other bytes become base64; a 404 and a redirect are answers too."""
    run = call(store, tmp_path, Peer(reply), lambda url: flow(http("a", url)))
    assert (run.output["status"], run.output["body"]) == (reply.status, body)


def test_an_answer_to_head_has_no_body(store: str, tmp_path: Path) -> None:
    """HEAD names the type and the length of a body that does not come; that is no failure."""
    peer = Peer(Reply(200, b"", JSON | {"content-length": "12"}))
    run = call(store, tmp_path, peer, lambda url: flow(http("a", url, method="HEAD")))
    assert (run.output["status"], run.output["body"]) == (200, "")


def test_an_http_step_is_tried_again_with_the_same_key(store: str, tmp_path: Path) -> None:
    """On 503, 429 and a broken answer it is tried again; every attempt carries one Idempotency-Key, no other step's."""
    peer = Peer(Reply(503), Reply(429), Reply(200, b"{", JSON), Reply(200, b"{}", JSON))
    retry = {"attempts": 4, "initial": 0}
    text: Callable[[str], str] = lambda url: flow(http("a", url, retry), http("b", url) | {"needs": ["a"]})  # noqa: E731
    run = call(store, tmp_path, peer, text)
    keys = [got.headers["idempotency-key"] for got in peer.calls]
    assert len(set(keys[:4])) == 1
    assert len(keys) == 5
    assert keys[4] != keys[0]
    assert (run.steps["a"].attempt, str(run.state)) == (4, "completed")


@pytest.mark.parametrize(
    ("reply", "fields", "kind", "words"),
    [
        (Reply(500), {}, "HttpStatus", "the answer was 500, expected success"),
        (Reply(408), {}, "HttpStatus", "408"),
        (Reply(200), {"expect": [201, 202]}, "HttpStatus", "the answer was 200, expected 201 or 202"),
        (Reply(200, b"{", JSON), {}, "BadAnswer", "can't be read as JSON"),
        (Reply(200, b"x" * 2000), {}, "TooLarge", "more than 1024 bytes"),
        (Reply(200, b"\xff" * 1000), {}, "TooLarge", "GATEWAY_MAX_OUTPUT"),
        (Reply(200, b"[" * 500 + b"]" * 500, JSON), {}, "NotJson", "nested too deeply"),
        (Reply(200), {"headers": {"x": "${'a\\nb'}"}}, "HttpError", "invalid_request"),
        (Reply(200), {"headers": {"x": "${'a\\r\\nb'}"}}, "HttpError", "invalid_request"),
        (Reply(200), {"headers": {"x": "${'a\\u0000'}"}}, "HttpError", "invalid_request"),
        (Reply(200), {"headers": {"x": "${{'env': 'HOME'}}"}}, "HttpError", "takes text or a number, not an object"),
        (Reply(200), {"headers": {"x": "${['a']}"}}, "HttpError", "not a list"),
        (Reply(200, b"x" * 500), {"max_bytes": 100}, "TooLarge", "more than 100 bytes"),
        (Reply(200, b"hello"), {"response": "json"}, "BadAnswer", "can't be read as JSON; it says it is of no type"),
        (Reply(200, b"\xff\xfe"), {"response": "text"}, "BadAnswer", "`response: base64`"),
        (Reply(404), {"expect": ["2xx", 301]}, "HttpStatus", "the answer was 404, expected 2xx or 301"),
        (Reply(200), {"bearer": {"env": "TESTS_ABSENT"}}, "NoSecret", "the secret (env TESTS_ABSENT) is not set"),
        (Reply(200), {"headers": {"host": "other"}}, "HttpError", "invalid_request"),
    ],
)
def test_an_http_step_fails_with_the_reason(
    store: str, tmp_path: Path, reply: Reply, fields: dict[str, Any], kind: str, words: str
) -> None:
    """A status that is not expected, a broken, cut or deep answer, and headers that can't be sent are told."""
    run = call(store, tmp_path, Peer(reply), lambda url: flow(http("a", url, **fields)), max_output=1024)
    assert run.error is not None
    assert run.error.type == kind
    assert words in run.error.message


def test_an_expected_failure_is_a_success(store: str, tmp_path: Path) -> None:
    """`expect` may name a 503."""
    run = call(store, tmp_path, Peer(Reply(503)), lambda url: flow(http("a", url, expect=[503])))
    assert run.output["status"] == 503


def test_a_private_address_is_not_called(store: str, tmp_path: Path) -> None:
    """Unless the operator allows the network, an http step does not reach inside."""
    peer = Peer()
    run = call(store, tmp_path, peer, lambda url: flow(http("a", url.replace("http://", "https://"))), egress_allow="")
    assert run.error is not None
    assert run.error.type == "HttpError"
    assert peer.calls == []


def test_nobody_there_is_told(store: str, tmp_path: Path) -> None:
    """A port where nobody listens is unreachable."""
    run = call(store, tmp_path, Peer(), lambda _: flow(http("a", "http://127.0.0.1:1/")))
    assert run.error is not None
    assert run.error.message.startswith("unreachable: ")


# ---- bodies, answers and keys


def test_a_form_is_sent_as_browsers_do(store: str, tmp_path: Path) -> None:
    """`form` becomes name=value pairs in their own content type; null is left out, a list is repeated."""
    peer = Peer()
    fields = {"q": "${input.q}", "none": None, "many": [1, 2]}
    call(store, tmp_path, peer, lambda url: flow(http("a", url, method="POST", form=fields)))
    (got,) = peer.calls
    assert got.headers["content-type"] == "application/x-www-form-urlencoded"
    assert got.body == b"q=a+b%26c&many=1&many=2"


@pytest.mark.parametrize(
    ("response", "body"),
    [("auto", {"a": 1}), ("json", {"a": 1}), ("text", '{"a": 1}'), ("base64", base64.b64encode(b'{"a": 1}').decode())],
)
def test_an_answer_is_read_as_the_step_wants_it(store: str, tmp_path: Path, response: str, body: Any) -> None:
    """`response` decides, whatever the answer says of itself."""
    peer = Peer(Reply(200, b'{"a": 1}', JSON))
    run = call(store, tmp_path, peer, lambda url: flow(http("a", url, response=response)))
    assert run.output["body"] == body


def test_a_class_of_statuses_may_be_expected(store: str, tmp_path: Path) -> None:
    """`expect: ["5xx"]` takes a 503."""
    run = call(store, tmp_path, Peer(Reply(503)), lambda url: flow(http("a", url, expect=["5xx"])))
    assert run.output["status"] == 503


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"idempotency_key": False}, None),
        ({"idempotency_key": "n-${input.n}"}, "n-5"),
        ({"headers": {"Idempotency-Key": "own"}}, "own"),
    ],
)
def test_the_idempotency_key_may_be_left_out_or_chosen(
    store: str, tmp_path: Path, fields: dict[str, Any], key: str | None
) -> None:
    """The key of run and step is a default only."""
    peer = Peer()
    call(store, tmp_path, peer, lambda url: flow(http("a", url, **fields)))
    assert peer.calls[0].headers.get("idempotency-key") == key


def test_what_can_never_be_sent_is_not_tried_again(store: str, tmp_path: Path) -> None:
    """A header with a line break fails at the first attempt, and nothing was sent."""
    peer = Peer()
    fields = {"headers": {"x": "${'a\\nb: c'}"}}
    run = call(store, tmp_path, peer, lambda url: flow(http("a", url, {"attempts": 3, "initial": 0}, **fields)))
    assert (run.steps["a"].attempt, peer.calls) == (1, [])


# ---- Retry-After


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_lengthens_the_wait(store: str, tmp_path: Path, status: int) -> None:
    """The next attempt comes no sooner than the far end asked for, whatever the step's policy says."""
    peer = Peer(Reply(status, b"", {"retry-after": "1"}), Reply(200))
    started = time.monotonic()
    run = call(store, tmp_path, peer, lambda url: flow(http("a", url, {"attempts": 2, "initial": 0})))
    assert (str(run.state), len(peer.calls)) == ("completed", 2)
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("7", 7), ("99999999", MOST_RETRY_AFTER), ("soon", None), (None, None)]
)
def test_only_an_hour_of_retry_after_counts(text: str | None, seconds: float | None) -> None:
    """A far end can't put a step to sleep for years, and what can't be read is not obeyed."""
    headers = () if text is None else (("retry-after", text),)
    assert asked_pause(Answer(status=429, headers=headers, body=b"", truncated=False)) == seconds


# ---- secrets


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"bearer": {"env": "TESTS_HTTP_SECRET"}}, "authorization", f"Bearer {SECRET}"),
        ({"basic": {"user": "ann", "password": {"env": "TESTS_HTTP_SECRET"}}}, "authorization", f"Basic {BASIC}"),
        ({"headers": {"X-Api-Key": {"env": "TESTS_HTTP_SECRET"}}}, "x-api-key", SECRET),
    ],
)
@pytest.mark.parametrize("status", [200, 500])
def test_a_secret_is_sent_and_never_seen(
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fields: dict[str, Any],
    name: str,
    value: str,
    status: int,
) -> None:
    """The peer gets it; record, definition and logs do not have it, even where the peer sends back all it got."""
    monkeypatch.setenv("TESTS_HTTP_SECRET", SECRET)
    echo = json.dumps({"headers": {name: value}, "token": BASIC, "plain": SECRET}).encode()
    peer = Peer(Reply(status, echo, JSON | {"x-echo": value}))
    run = call(store, tmp_path, peer, lambda url: flow(http("a", url, **fields)))
    assert peer.calls[0].headers[name] == value
    assert str(run.state) == ("completed" if status == 200 else "failed")

    async def look() -> None:
        async with connected(store) as redis:
            seen = await everything(redis)
            assert ("[secret]" in seen) == (status == 200)
            assert [text for text in (SECRET, f"ann:{SECRET}") if text in seen] == []

    tell(look())
    assert SECRET not in "".join(capfd.readouterr())


def test_a_secret_in_a_file_is_read_without_its_line_break(store: str, tmp_path: Path) -> None:
    """`{file: PATH}` is the text of the file; one with a line break inside can't be a header and is refused."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(SECRET + "\n")
    bad.write_text("two\nlines\n")
    peer = Peer()
    text: Callable[[str], str] = lambda url: flow(  # noqa: E731
        http("a", url, bearer={"file": str(good)}), http("b", url, bearer={"file": str(bad)}) | {"needs": ["a"]}
    )
    run = call(store, tmp_path, peer, text)
    assert [got.headers["authorization"] for got in peer.calls] == [f"Bearer {SECRET}"]
    assert (run.error.type if run.error else "", "lines" in str(run.error)) == ("BadSecret", False)
