"""The webhook door over real HTTP: every answer it gives, and what it takes to get none."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.signatures import Request, read_scheme, sign
from gateway.store.connection import Redis
from gateway.store.reading import Reader
from tests.tools import KEYS, SECRET, Valkey, connected, publish, receiving, settings_for, signed, tell, until

BODY = b'{"workflow_id": 15, "task": "world"}'
FILE = """
apps:
  - {id: 42, name: ci, token: token-of-ci, adapter: direct, verify: {scheme: orqo, secrets: [{env: A}, {env: B}]}}
  - {id: 43, name: github, verify: {scheme: github, secrets: [{env: A}]}, triggers: [
      {name: all, when: "event.type == 'push'", workflow: greet, input: {who: "${event.body.pusher}"}},
      {name: main, when: "event.body.ref == 'main'", workflow: 15}]}
  - {id: 44, name: shut, adapter: direct, verify: none, disabled: true}
  - {id: 45, name: sender, adapter: direct, verify: none, capabilities: [send]}
  - {id: 46, name: unverified, adapter: direct}
  - {id: 47, name: forgotten, adapter: direct, verify: {scheme: orqo, secrets: [{env: NO_SUCH_VARIABLE_OF_TESTS}]}}
  - {id: 48, name: small, adapter: direct, verify: none, max_body: 100}
  - {id: 49, name: strict, adapter: direct, verify: none, dedupe: event.body.id}
  - {id: 50, name: stamped, adapter: direct, verify: {scheme: standard-webhooks, secrets: [{env: W}]}}
workflows:
  - id: 15
    name: greet
    input: {type: object, properties: {n: {type: integer}}}
"""
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", SECRET)
    monkeypatch.setenv("B", "the older secret")
    monkeypatch.setenv("W", WHSEC)


class Door:
    """A running receiver, its store, and a client."""

    def __init__(self, port: int, redis: Redis, client: httpx2.AsyncClient) -> None:
        self.port = port
        self.redis = redis
        self.client = client

    async def post(self, app: object, body: bytes = BODY, headers: Any = None, **more: Any) -> httpx2.Response:
        url = f"http://127.0.0.1:{self.port}/api/v1/webhooks/{app}"
        return await self.client.post(url, content=body, headers=signed(body) if headers is None else headers, **more)

    async def runs(self) -> int:
        """How many runs there are."""
        return int(await self.redis.get(KEYS.named("runs:last")) or 0)

    async def raw(self, request: bytes) -> bytes:
        """Send these bytes and give all that comes back until the other side hangs up."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


@contextlib.asynccontextmanager
async def opened(url: str, folder: Path, **changes: object) -> AsyncIterator[Door]:
    async with connected(url) as redis:
        await publish(redis, FILE)
        async with receiving(settings_for(url, folder, **changes)) as port:
            limits = httpx2.Limits(max_connections=200)
            async with httpx2.AsyncClient(verify=False, timeout=20, limits=limits) as client:
                yield Door(port, redis, client)


# ---- 2xx


def test_a_signed_request_gets_orqo_s_very_words(store: str, tmp_path: Path) -> None:
    """200 with run id, `pending`, the workflow's id and no start, by the app's id as by its token; and it is stored."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            answer = await door.post(42)
            assert answer.status_code == 200
            assert answer.content == b'{"run_id":1,"status":"pending","workflow_id":15,"started_at":null}'
            assert answer.headers["content-type"] == "application/json"
            assert (await door.post("token-of-ci")).json()["run_id"] == 2
            run = await Reader(door.redis, KEYS).run(1)
            event = await Reader(door.redis, KEYS).event(run.request.event_id or "")
            assert (run.request.task, event.body, event.run_ids) == ("world", BODY, [1])

    tell(story())


def test_either_of_two_secrets_opens(store: str, tmp_path: Path) -> None:
    """During a rotation the old secret works as well, and the event knows which one it was."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            assert (await door.post(42, headers=signed(BODY, "the older secret"))).status_code == 200
            run = await Reader(door.redis, KEYS).run(1)
            event = await Reader(door.redis, KEYS).event(run.request.event_id or "")
            assert event.head.decision.secret == 1

    tell(story())


def github(body: bytes, delivery: str, kind: str = "push") -> dict[str, str]:
    request = Request("POST", "/", (("content-type", "application/json"), ("x-github-event", kind)), body)
    return dict((*request.headers, *sign(read_scheme("github", "scheme"), SECRET, request, 0, delivery)))


def test_triggers_decide_what_an_event_starts(store: str, tmp_path: Path) -> None:
    """An event that two triggers hold for starts two runs, told beside the first one's words; none is 202."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            body = b'{"ref": "main", "pusher": "octo"}'
            answer = (await door.post(43, body, github(body, "d1"))).json()
            assert (answer["run_id"], [run["run_id"] for run in answer["runs"]]) == (1, [1, 2])
            assert (await Reader(door.redis, KEYS).run(1)).request.input == {"who": "octo"}
            nothing = await door.post(43, b"{}", github(b"{}", "d2", "star"))
            assert nothing.status_code == 202
            words = nothing.json()
            assert (words["status"], words["runs"]) == ("ignored", [])
            event = await Reader(door.redis, KEYS).event(words["event_id"])
            assert [verdict.matched for verdict in event.head.decision.triggers] == [False, False]

    tell(story())


def test_a_repetition_gets_the_first_answer(store: str, tmp_path: Path) -> None:
    """The same key and body again answer with the very bytes of the first time, and start nothing."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            headers = signed(BODY, idempotency_key="k1")
            first, again = await door.post(42, headers=headers), await door.post(42, headers=headers)
            assert (first.status_code, again.status_code, again.content) == (200, 200, first.content)
            assert await door.runs() == 1

    tell(story())


def test_a_replay_under_a_new_id_starts_nothing(store: str, tmp_path: Path) -> None:
    """GitHub's id is not signed: another one, or none at all, with the same body answers with the first runs."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            body = b'{"ref": "other", "pusher": "octo"}'
            headers = github(body, "d1")
            first = await door.post(43, body, headers)
            stripped = {name: value for name, value in headers.items() if name.lower() != "x-github-delivery"}
            for replay in (github(body, "d2"), stripped, stripped | {"idempotency-key": "new"}):
                assert (await door.post(43, body, replay)).json() == first.json()
            assert await door.runs() == 1

    tell(story())


def test_fifty_requests_at_once_with_one_key_start_one_run(store: str, tmp_path: Path) -> None:
    """However many come in the same moment, all get the same run."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            headers = signed(BODY, webhook_id="k1")
            answers = await asyncio.gather(*(door.post(42, headers=headers) for _ in range(50)))
            assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
            assert await door.runs() == 1

    tell(story())


# ---- 4xx


def test_an_unknown_app_is_404(store: str, tmp_path: Path) -> None:
    """An id or token that no app has is not found; a name is no id."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for app in ("99", "no-such-token", "0", "042", "ci", "%00"):
                assert (await door.post(app)).status_code == 404, app

    tell(story())


def test_every_reason_of_401_gets_the_same_answer(store: str, tmp_path: Path) -> None:
    """No signature, a wrong, empty, doubled, cut or foreign one, no `verify`, no secret: one and the same body."""
    good = signed(BODY)["x-signature-256"]
    kind = ("content-type", "application/json")
    wrong: list[list[tuple[str, str]]] = [
        [kind],
        [kind, ("x-signature-256", "")],
        [kind, ("x-signature-256", "sha256=")],
        [kind, ("x-signature-256", "sha256=" + "0" * 64)],
        [kind, ("x-signature-256", good[:-1])],
        [kind, ("x-signature-256", good.removeprefix("sha256="))],
        [kind, ("x-signature-256", good), ("x-signature-256", good)],
        [kind, ("x-signature-256", f"{good}, {good}")],
        [kind, ("x-signature-256", signed(BODY, "another secret")["x-signature-256"])],
        [kind, ("x-signature-256", signed(BODY + b" ")["x-signature-256"])],
    ]

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            answers = [await door.post(42, headers=headers) for headers in wrong]
            answers += [await door.post(app, headers=[kind, ("x-signature-256", good)]) for app in (46, 47)]
            assert {(answer.status_code, answer.content) for answer in answers} == {(401, answers[0].content)}
            assert answers[0].json()["code"] == "unauthorized"
            assert await door.runs() == 0

    tell(story())


@pytest.mark.parametrize("age", [-400, 400])
def test_a_stale_signature_is_401(store: str, tmp_path: Path, age: int) -> None:
    """Where the sender signs a time, a rightly signed request from too long ago or ahead is refused."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for shift, status in ((age, 401), (0, 200)):
                request = Request("POST", "/", (("content-type", "application/json"),), BODY)
                made = sign(read_scheme("standard-webhooks", ""), WHSEC, request, time.time() + shift, "msg_1")
                assert (await door.post(50, headers=dict((*request.headers, *made)))).status_code == status

    tell(story())


@pytest.mark.parametrize(("app", "words"), [(44, "disabled"), (45, "`receive`")])
def test_who_may_not_post_gets_403(store: str, tmp_path: Path, app: int, words: str) -> None:
    """A disabled app and one that only sends are known and refused."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            answer = await door.post(app)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            assert words in answer.json()["error"]

    tell(story())


def test_another_method_is_405(store: str, tmp_path: Path) -> None:
    """Only POST brings events; the answer says so."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS"):
                answer = await door.client.request(method, f"http://127.0.0.1:{door.port}/api/v1/webhooks/42")
                assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), method

    tell(story())


def test_a_body_announced_too_large_is_413_at_once(store: str, tmp_path: Path) -> None:
    """A Content-Length over the cap is refused before the body is read, and the connection is closed."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            answer = await door.raw(b"POST /api/v1/webhooks/48 HTTP/1.1\r\nhost: x\r\ncontent-length: 101\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert b"connection: close" in answer
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "too_large"

    tell(story())


def test_a_body_that_grows_too_large_is_413(store: str, tmp_path: Path) -> None:
    """Without a Content-Length the cap counts what arrives: one byte over it ends the reading."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            head = b"POST /api/v1/webhooks/48 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            answer = await door.raw(head + b"32\r\n" + b" " * 50 + b"\r\n33\r\n" + b" " * 51 + b"\r\n")
            assert answer.startswith(b"HTTP/1.1 413 ")

    tell(story())


def test_a_body_of_exactly_the_cap_is_taken(store: str, tmp_path: Path) -> None:
    """The cap itself is allowed, announced or in chunks."""
    body = BODY.ljust(100)

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:40]
        yield body[40:]

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            assert (await door.post(48, body)).status_code == 200
            url = f"http://127.0.0.1:{door.port}/api/v1/webhooks/48"
            assert (await door.client.post(url, content=pieces(), headers=signed(body))).status_code == 200

    tell(story())


def test_other_media_are_415(store: str, tmp_path: Path) -> None:
    """Another content type or a coded body is refused once its signature holds."""
    coded = {"content-encoding": "gzip"}
    requests = [
        (BODY, {"content-type": "text/plain"}),
        (BODY, {"content-type": "application/x-www-form-urlencoded"}),
        (BODY, {"content-encoding": "br"}),
        (gzip.compress(BODY), coded),
    ]

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for body, headers in requests:
                answer = await door.post(42, body, signed(body) | headers)
                assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type"), headers
            assert await door.runs() == 0

    tell(story())


def test_no_json_is_400_with_its_place(store: str, tmp_path: Path) -> None:
    """A rightly signed body that is no JSON is told by line and column."""
    bodies = [
        (42, b'{"workflow_id": 15,\n "task": }', "line 2, column 10"),
        (42, b"", "line 1, column 1"),
        (43, b"[1, 2", "line 1, column 6"),
        (43, b"[" * 50_000, "nested too deeply"),
    ]

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for app, body, place in bodies:
                answer = await door.post(app, body, signed(body) if app == 42 else github(body, "d"))
                assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
                assert place in answer.json()["error"]

    tell(story())


def test_what_can_not_run_is_422_with_its_path(store: str, tmp_path: Path) -> None:
    """A missing field, an unknown workflow, a wrong type, a refused input, no key to go by: told where, nothing starts."""
    bodies = [
        (42, b'{"task": "x"}', "workflow_id"),
        (42, b'{"workflow_id": 16}', "workflow_id"),
        (42, b'{"workflow_id": 15, "task": 5}', "task"),
        (42, b'{"workflow_id": 15, "input": {"n": "x"}}', "input.n"),
        (49, b'{"workflow_id": 15}', "event.body.id"),
    ]

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for app, body, path in bodies:
                answer = await door.post(app, body)
                assert (answer.status_code, answer.json()["code"]) == (422, "unprocessable")
                assert path in answer.json()["error"]
            assert await door.runs() == 0

    tell(story())


def test_the_same_key_with_another_body_is_409(store: str, tmp_path: Path) -> None:
    """The refusal names the event that came first, and nothing starts."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            await door.post(42, headers=signed(BODY, idempotency_key="k1"))
            other = BODY.replace(b"world", b"moon")
            answer = await door.post(42, other, signed(other, idempotency_key="k1"))
            run = await Reader(door.redis, KEYS).run(1)
            assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
            assert str(run.request.event_id) in answer.json()["error"]
            assert await door.runs() == 1

    tell(story())


def test_a_key_that_can_not_be_used_is_400(store: str, tmp_path: Path) -> None:
    """Two Idempotency-Keys would be a guess."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            headers = [*signed(BODY).items(), ("idempotency-key", "a"), ("idempotency-key", "b")]
            assert (await door.post(42, headers=headers)).status_code == 400

    tell(story())


def test_deep_json_is_run_or_refused(store: str, tmp_path: Path) -> None:
    """However deep the JSON is, it is stored or refused as the sender's; it is never our trouble."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for levels in (150, 250, 500, 900, 920, 930, 940, 950, 960, 970, 980, 990, 2000):
                body = b'{"workflow_id": 15, "metadata": {"a": ' + b"[" * levels + b"]" * levels + b"}}"
                assert (await door.post(42, body)).status_code == (200 if levels < 190 else 400), levels

    tell(story())


def test_numbers_beyond_64_bits_come_through(store: str, tmp_path: Path) -> None:
    """A number that many parsers can't hold is stored and read as it is."""
    body = b'{"workflow_id": 15, "input": {"m": 123456789012345678901234567890}}'

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            assert (await door.post(42, body)).status_code == 200
            assert (await Reader(door.redis, KEYS).run(1)).request.input == {"m": 123456789012345678901234567890}

    tell(story())


# ---- bodies that come slowly, or not


def test_a_slow_body_is_408(store: str, tmp_path: Path) -> None:
    """A body that is not there in time is answered, and the connection is closed."""

    async def story() -> None:
        async with opened(store, tmp_path, body_timeout=0.2) as door:
            head = b"POST /api/v1/webhooks/42 HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{"
            answer = await door.raw(head)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"connection: close" in answer

    tell(story())


def test_a_body_that_stops_half_way_starts_nothing(store: str, tmp_path: Path) -> None:
    """A sender that hangs up in its body is counted as gone; nothing is stored, and the next one is served."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            signature = signed(BODY)["x-signature-256"]
            head = "POST /api/v1/webhooks/42 HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            head += f"x-signature-256: {signature}\r\ncontent-length: {len(BODY)}\r\n\r\n"
            _, writer = await asyncio.open_connection("127.0.0.1", door.port)
            writer.write(head.encode() + BODY[:-1])
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            await until(lambda: _counted(door, 499))
            assert await door.runs() == 0
            assert (await door.post(42)).status_code == 200

    tell(story())


async def _counted(door: Door, code: int) -> bool:
    page = (await door.client.get(f"http://127.0.0.1:{door.port}/metrics")).text
    return re.search(rf'gateway_requests_total{{[^}}]*code="{code}"[^}}]*}} [1-9]', page) is not None


def test_a_thousand_half_requests_stop_nobody(store: str, tmp_path: Path) -> None:
    """With a thousand connections that never finish their headers the door still serves others, and promptly."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            lines = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(1000)]
            for _, writer in lines:
                writer.write(b"POST /api/v1/webhooks/42 HTTP/1.1\r\nhost: x\r\nx-half: ")
            began = time.monotonic()
            answers = await asyncio.gather(*(door.post(42) for _ in range(20)))
            assert {answer.status_code for answer in answers} == {200}
            assert time.monotonic() - began < 5
            for _, writer in lines:
                writer.close()
            for _, writer in lines:
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    tell(story())


# ---- 503


def test_a_full_queue_is_503(store: str, tmp_path: Path) -> None:
    """With no room the sender is told to come again; when there is room, the same request is taken."""

    async def story() -> None:
        async with opened(store, tmp_path, max_queue=2) as door:
            headers = [signed(BODY, idempotency_key=f"k{number}") for number in range(3)]
            answers = [await door.post(42, headers=each) for each in headers]
            assert [answer.status_code for answer in answers] == [200, 200, 503]
            assert (answers[2].headers["retry-after"], answers[2].json()["code"]) == ("2", "unavailable")
            await door.redis.zrem(KEYS.state("run", "pending"), 1)
            assert (await door.post(42, headers=headers[2])).json()["run_id"] == 3

    tell(story())


@pytest.mark.parametrize("fault", ["stopped", "frozen"])
def test_without_its_store_the_door_says_503_in_time(own_valkey: Valkey, tmp_path: Path, fault: str) -> None:
    """With Valkey gone or frozen every request is 503 with Retry-After after the three seconds of the default and
    never a 2xx; who may not post is refused as ever; and once it is back, requests are taken again."""

    async def story() -> None:
        async with opened(own_valkey.url, tmp_path, accept_timeout=3) as door:
            assert (await door.post(42)).status_code == 200
            own_valkey.stop() if fault == "stopped" else own_valkey.freeze()
            began = time.monotonic()
            answers = await asyncio.gather(*(door.post(42) for _ in range(20)))
            assert time.monotonic() - began < 4
            assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(503, "2")}
            assert (await door.post(42, headers={})).status_code == 401
            assert (await door.post(99)).status_code == 404
            own_valkey.start() if fault == "stopped" else own_valkey.thaw()
            assert (await door.post(42)).status_code == 200

    tell(story())


def test_a_store_that_refuses_writes_is_503(own_valkey: Valkey, tmp_path: Path) -> None:
    """A server without memory left answers with an error: that is our trouble, and the sender comes again."""

    async def story() -> None:
        async with opened(own_valkey.url, tmp_path) as door:
            await door.redis.config_set("maxmemory", "1")
            answer = await door.post(42)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            await door.redis.config_set("maxmemory", "0")
            assert (await door.post(42)).status_code == 200

    tell(story())


# ---- changes while it runs


def test_a_change_of_the_apps_reaches_the_open_door(store: str, tmp_path: Path) -> None:
    """An app that is disabled, and one that is removed, are refused without a restart."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            assert (await door.post(42)).status_code == 200
            for change, status in (("adapter: direct,", 403), ("gone", 404)):
                text = FILE.replace("token-of-ci, adapter: direct,", "token-of-ci, adapter: direct, disabled: true,")
                await publish(door.redis, text if change != "gone" else "")
                await until(lambda status=status: _answers(door, status))  # type: ignore[misc]

    tell(story())


async def _answers(door: Door, status: int) -> bool:
    return (await door.post(42)).status_code == status
