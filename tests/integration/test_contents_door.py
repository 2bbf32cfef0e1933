"""Forms, files and CloudEvents over real HTTP, from the bytes that senders sign to the steps of a real worker."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

import httpx2
import pytest

from gateway.runs import Run
from gateway.store.connection import Redis
from gateway.store.reading import Reader
from tests.tools import KEYS, SECRET, connected, ended, publish, receiving, settings_for, tell, working

HERE = "test_contents_door"
FORM = "application/x-www-form-urlencoded"
FILE = f"""
apps:
  - id: 1
    name: github
    verify: {{scheme: github, secrets: [{{env: A}}]}}
    triggers: [{{name: t, when: event.type == "push", workflow: show, input: {{ref: "${{event.body.ref}}"}}}}]
  - id: 2
    name: gitea
    verify: {{scheme: gitea-form, secrets: [{{env: A}}]}}
    triggers: [{{name: t, when: event.body.ref == "main", workflow: show}}]
  - id: 3
    name: slack
    verify: {{scheme: slack, secrets: [{{env: A}}]}}
    triggers: [{{name: t, when: event.form.command == "/deploy", workflow: show, input: {{text: "${{event.form.text}}"}}}}]
    respond: {{status: 200, body: "${{event.form.user_name}}, run ${{runs[0].run_id}} is on its way"}}
  - id: 4
    name: inbound
    verify: {{type: hmac, header: X-Sig, template: "{{form.timestamp}}{{form.token}}", secrets: [{{env: A}}]}}
    triggers: [{{name: t, workflow: show}}]
  - id: 5
    name: page
    verify: none
    files: {{max_count: 2, max_size: 2000, types: [text/plain, image/*]}}
    triggers: [{{name: t, when: size(event.files) > 0, workflow: keep, input: {{names: "${{event.files.map(f, f.name)}}"}}}}]
    respond: {{redirect: "https://www.example.com/thanks"}}
  - id: 6
    name: clouds
    verify: {{scheme: cloudevents, secrets: [{{env: A}}]}}
    headers: [X-Team]
    triggers: [{{name: t, when: event.type == "order.made" && event.data.n == 1, workflow: show}}]
  - id: 7
    name: forgetful
    verify: none
    dedupe: body
    respond: {{status: 201, body: "${{event.body.missing}}"}}
    triggers: [{{name: t, when: has(event.body.go), workflow: show}}]
workflows:
  - id: 15
    name: show
    steps: [{{id: see, transform: "${{event}}"}}]
  - id: 16
    name: keep
    steps:
      - {{id: seen, python: "{HERE}:see", with: {{first: "${{event.files[0].content}}", all: "${{event.files}}"}}}}
      - {{id: sums, transform: "${{event.files.map(f, f.sha256)}}"}}
      - {{id: form, transform: "${{event.form}}"}}
"""


class Seen:
    """What the python step was given."""

    given: ClassVar[list[Any]] = []


def see(given: Any) -> int:
    """Take the bytes of the first file out of what the step is given."""
    Seen.given.append(given)
    return len(base64.b64decode(given["first"]))


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("A", SECRET)
    yield
    Seen.given.clear()


class House:
    """A receiver, a worker, their store and a client."""

    def __init__(self, port: int, redis: Redis, client: httpx2.AsyncClient) -> None:
        self.redis = redis
        self._client = client
        self._url = f"http://127.0.0.1:{port}/api/v1/webhooks/"

    async def post(self, app: object, body: bytes | None, headers: dict[str, str], **more: Any) -> httpx2.Response:
        content = {} if body is None else {"content": body}
        return await self._client.post(f"{self._url}{app}", headers=headers, **content, **more)

    async def start(self, app: object, body: bytes | None, headers: dict[str, str], **more: Any) -> Run:
        """Post what starts a run, and wait for that to end."""
        answer = await self.post(app, body, headers, **more)
        assert answer.status_code == 200, answer.text
        return await ended(self.redis, answer.json()["run_id"])


@contextlib.asynccontextmanager
async def house(url: str, folder: Path) -> AsyncIterator[House]:
    settings = settings_for(url, folder)
    async with connected(url) as redis:
        await publish(redis, FILE)
        async with (
            receiving(settings) as port,
            working(settings),
            httpx2.AsyncClient(verify=False, timeout=20) as client,
        ):
            yield House(port, redis, client)


def mac(signed: bytes) -> str:
    return hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()


def test_github_s_form_mode(store: str, tmp_path: Path) -> None:
    """Signed over the form's bytes; its payload is the event's body in triggers and in steps alike. Tampered, a 401."""

    async def story() -> None:
        async with house(store, tmp_path) as here:
            body = urlencode({"payload": json.dumps({"ref": "refs/heads/main"})}).encode()
            headers = {
                "content-type": FORM,
                "x-github-event": "push",
                "x-github-delivery": "d-1",
                "x-hub-signature-256": "sha256=" + mac(body),
            }
            assert (await here.post(1, body + b"&x=1", headers)).status_code == 401
            run = await here.start(1, body, headers)
            assert run.request.input == {"ref": "refs/heads/main"}
            assert run.output["body"] == {"ref": "refs/heads/main"}
            assert (run.output["type"], run.output["delivery_id"], run.output["method"]) == ("push", "d-1", "POST")

    tell(story())


def test_gitea_s_form_mode(store: str, tmp_path: Path) -> None:
    """Signed over the decoded payload, not over the form."""

    async def story() -> None:
        async with house(store, tmp_path) as here:
            payload = '{"ref": "main", "who": "grüße"}'
            body = urlencode({"payload": payload}).encode()
            headers = {
                "content-type": FORM,
                "x-gitea-event": "push",
                "x-gitea-delivery": "d-1",
                "x-gitea-signature": mac(payload.encode()),
            }
            run = await here.start(2, body, headers)
            assert run.output["body"]["who"] == "grüße"

    tell(story())


def test_a_slack_command_is_answered_in_slack_s_words(store: str, tmp_path: Path) -> None:
    """200 and a text, the very same again when it comes twice; one that matches nothing gets the plain answer."""

    async def story() -> None:
        async with house(store, tmp_path) as here:

            async def command(**fields: str) -> httpx2.Response:
                body, now = urlencode(fields).encode(), str(int(time.time()))
                headers = {
                    "content-type": FORM,
                    "x-slack-request-timestamp": now,
                    "x-slack-signature": "v0=" + mac(b"v0:" + now.encode() + b":" + body),
                    "idempotency-key": fields["trigger_id"],
                }
                return await here.post(3, body, headers)

            first = await command(command="/deploy", text="shop now", user_name="ada", trigger_id="1")
            again = await command(command="/deploy", text="shop now", user_name="ada", trigger_id="1")
            for answer in (first, again):
                assert (answer.status_code, answer.text) == (200, "ada, run 1 is on its way")
                assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert (await ended(here.redis, 1)).request.input == {"text": "shop now"}
            other = await command(command="/other", user_name="ada", trigger_id="2")
            assert (other.status_code, other.json()["status"]) == (202, "ignored")

    tell(story())


def test_a_signature_within_the_form(store: str, tmp_path: Path) -> None:
    """As Mailgun's routes have it: two fields are signed. A field that comes twice is a list."""

    async def story() -> None:
        async with house(store, tmp_path) as here:
            body = urlencode([("timestamp", "1700000000"), ("token", "t"), ("to", "a@x"), ("to", "b@x")]).encode()
            run = await here.start(4, body, {"content-type": FORM, "x-sig": mac(b"1700000000t")})
            assert run.output["form"] == {"timestamp": "1700000000", "token": "t", "to": ["a@x", "b@x"]}
            assert run.output["body"] is None

    tell(story())


def test_files_reach_the_steps(store: str, tmp_path: Path) -> None:
    """A form with two files ends on its page and in a run, whose steps have their names, digests and bytes."""

    async def story() -> None:
        async with house(store, tmp_path) as here:
            contents = (b"hello\r\n", bytes(range(256)) * 4)
            files = [
                ("docs", ("../../a.txt", contents[0], "text/plain")),
                ("docs", ("b.png", contents[1], "image/png")),
            ]
            answer = await here.post(5, None, {}, data={"name": "Ada", "tag": ["x", "y"]}, files=files)
            assert (answer.status_code, answer.headers["location"]) == (303, "https://www.example.com/thanks")
            run = await ended(here.redis, 1)
            assert run.error is None
            assert run.request.input == {"names": ["a.txt", "b.png"]}
            assert run.steps["sums"].output == [hashlib.sha256(content).hexdigest() for content in contents]
            assert run.steps["form"].output == {"name": "Ada", "tag": ["x", "y"]}
            (given,) = Seen.given
            assert [base64.b64decode(each["content"]) for each in given["all"]] == list(contents)
            assert (run.steps["seen"].output, given["all"][0]["name"]) == (len(contents[0]), "a.txt")

    tell(story())


def test_files_have_caps_at_the_door(store: str, tmp_path: Path) -> None:
    """Too many, too large, of another type, bytes that are no form: 413, 413, 415, 400, and nothing is stored."""

    async def story() -> None:
        async with house(store, tmp_path) as here:
            last = await here.redis.get(KEYS.named("runs:last"))
            small = ("f", ("a.txt", b"x", "text/plain"))
            refusals = {
                413: [[small] * 3, [("f", ("a.txt", b"x" * 2001, "text/plain"))]],
                415: [[("f", ("a.html", b"x", "text/html"))]],
            }
            for status, cases in refusals.items():
                for files in cases:
                    answer = await here.post(5, None, {}, files=files)
                    assert (answer.status_code, "this app accepts" in answer.json()["error"]) == (status, True)
            torn = await here.post(5, b"--B\r\nx", {"content-type": "multipart/form-data; boundary=B"})
            assert torn.status_code == 400
            assert (await here.post(5, b"a=%ff", {"content-type": FORM})).status_code == 400
            assert await here.redis.get(KEYS.named("runs:last")) == last

    tell(story())


def test_cloudevents_in_both_modes(store: str, tmp_path: Path) -> None:
    """Binary and structured start the same run with the same values; the same event in the other mode is a repetition
    where its id has come already, and is refused when its bytes are others.
    """

    async def story() -> None:
        async with house(store, tmp_path) as here:
            asked = {"authorization": f"Bearer {SECRET}", "x-team": "shop"}
            names = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/shop", "ce-type": "order.made"}
            run = await here.start(6, b'{"n": 1}', asked | names | {"content-type": "application/json"})
            event = {"specversion": "1.0", "id": "8", "source": "/shop", "type": "order.made", "data": {"n": 1}}
            kind = {"content-type": "application/cloudevents+json"}
            other = await here.start(6, json.dumps(event).encode(), asked | kind)
            for found, number in ((run, "7"), (other, "8")):
                assert (found.output["delivery_id"], found.output["source"]) == (f"/shop {number}", "/shop")
                assert found.output["headers"]["x-team"] == "shop"
                assert "authorization" not in found.output["headers"]
            again = await here.post(6, json.dumps(event | {"id": "7"}).encode(), asked | kind)
            assert again.status_code == 409

    tell(story())


def test_an_answer_that_can_t_be_made_is_the_plain_one(store: str, tmp_path: Path) -> None:
    """The event is stored and its run started, so it is a 200 all the same."""

    async def story() -> None:
        async with house(store, tmp_path) as here:
            answer = await here.post(7, b'{"go": 1}', {"content-type": "application/json"})
            assert (answer.status_code, answer.json()["status"]) == (200, "pending")
            run = await ended(here.redis, answer.json()["run_id"])
            event = await Reader(here.redis, KEYS).event(run.request.event_id or "")
            assert event.body == b'{"go": 1}'

    tell(story())
