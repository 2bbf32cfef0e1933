"""Addresses over real HTTP: what a sender signs of its URL, and a URL that is a secret."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.signatures import PRESETS, Request, sign_request
from tests.tools import SECRET, connected, publish, receiving, settings_for

TOKEN = hashlib.sha256(b"a").hexdigest()
PUBLIC = "https://gateway.example/in/square"
FILE = f"""
apps:
  - {{id: 42, name: square, public_url: "{PUBLIC}", adapter: direct, verify: {{scheme: square, secrets: [{{env: A}}]}}}}
  - {{id: 43, name: twilio, public_url: "{PUBLIC}", adapter: direct, verify: {{scheme: twilio, secrets: [{{env: A}}]}}}}
  - {{id: 44, name: hub, token: {TOKEN}, adapter: direct, verify: {{scheme: docker-hub}}}}
  - {{id: 45, name: grid, adapter: direct, verify: {{scheme: azure-event-grid, secrets: [{{env: A}}]}}}}
  - {{id: 46, name: gitea, verify: {{scheme: gitea, secrets: [{{env: A}}]}}, json_field: payload, triggers: [
      {{name: t, when: "event.body.word == 'é'", workflow: greet}}]}}
  - {{id: 47, name: calls, public_url: "{PUBLIC}", verify: {{scheme: twilio, secrets: [{{env: A}}]}}, triggers: [
      {{name: t, when: "event.form.Digits == '1234'", workflow: greet}}]}}
  - {{id: 48, name: mail, verify: {{scheme: mailgun-form, secrets: [{{env: A}}]}}, triggers: [
      {{name: t, when: "event.form.subject == 'hello'", workflow: greet}}]}}
  - {{id: 49, name: feed, topics: ["https://feed.example/"], verify: {{scheme: websub, secrets: [{{env: A}}]}},
      triggers: [{{name: t, workflow: greet}}]}}
workflows:
  - {{id: 15, name: greet}}
"""
BODY = b'{"workflow_id": 15, "task": "world"}'
JSON = (("content-type", "application/json"),)


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", SECRET)


def statuses(store: str, folder: Path, requests: list[tuple[str, dict[str, str]]]) -> list[int]:
    """What the door answers to each path with these headers."""
    return [status for status, _ in answers_to(store, folder, [(path, headers, BODY) for path, headers in requests])]


def answers_to(store: str, folder: Path, requests: list[tuple[str, dict[str, str], bytes]]) -> list[tuple[int, Any]]:
    """What the door answers to each request: path, headers and body."""

    async def story() -> list[tuple[int, Any]]:
        async with connected(store) as redis:
            await publish(redis, FILE)
            async with receiving(settings_for(store, folder)) as port, httpx2.AsyncClient(timeout=20) as client:
                base = f"http://127.0.0.1:{port}/api/v1/webhooks/"
                answers = [
                    await client.post(base + path, content=body, headers=headers) for path, headers, body in requests
                ]
                return [(answer.status_code, answer.json()) for answer in answers]

    return asyncio.run(story())


def test_the_url_that_a_sender_signs_is_the_registered_one(store: str, tmp_path: Path) -> None:
    """Square's signature of the public URL is taken whatever Host says; one of the URL as seen is refused."""
    signed = dict(sign_request(PRESETS["square"], SECRET, Request("POST", PUBLIC, JSON, BODY), 0, "").headers)
    other = Request("POST", "https://evil.example/in/square", JSON, BODY)
    foreign = dict(sign_request(PRESETS["square"], SECRET, other, 0, "").headers)
    requests = [
        ("42", signed),
        ("42", signed | {"host": "evil.example", "x-forwarded-host": "evil.example"}),
        ("42", foreign | {"host": "evil.example", "x-forwarded-host": "evil.example"}),
        ("42?a=1", signed),
    ]
    assert statuses(store, tmp_path, requests) == [200, 200, 401, 401]


def test_the_query_that_came_is_signed(store: str, tmp_path: Path) -> None:
    """Twilio puts the hash of a JSON body into the query, which reaches the verifier as it came."""
    whole = sign_request(PRESETS["twilio"], SECRET, Request("POST", PUBLIC, JSON, BODY), 0, "token-1")
    query, headers = whole.url.partition("?")[2], dict(whole.headers)
    requests = [(f"43?{query}", headers), ("43", headers), (f"43?{query}&a=1", headers)]
    assert statuses(store, tmp_path, requests) == [200, 401, 401]


def test_a_url_that_is_a_secret_is_the_only_way_in(store: str, tmp_path: Path) -> None:
    """An app whose secret is its URL is not found by its id, by half of its token, or with the token elsewhere."""
    headers = dict(JSON)
    requests = [(TOKEN, headers), ("44", headers), (TOKEN[:-1], headers), (f"44?token={TOKEN}", headers)]
    assert statuses(store, tmp_path, requests) == [200, 404, 404, 404]


def test_a_secret_in_the_query_opens(store: str, tmp_path: Path) -> None:
    """Event Grid's secret is looked for in the query, and in nothing else."""
    code, headers = SECRET.replace(" ", "+"), dict(JSON)
    requests = [
        (f"45?code={code}", headers),
        ("45", headers),
        ("45?code=other", headers),
        ("45", headers | {"code": code}),
    ]
    assert statuses(store, tmp_path, requests) == [200, 401, 401, 401]


def test_forms_of_senders_are_verified_as_received(store: str, tmp_path: Path) -> None:
    """Gitea's, Twilio's and Mailgun's forms, and a WebSub feed, are verified over their bytes, and start what they should."""
    form, feed = (("content-type", "application/x-www-form-urlencoded"),), (("content-type", "application/atom+xml"),)
    given = [
        ("46", "gitea", form, b"payload=%7B%22word%22%3A+%22%C3%A9%22%7D", b"payload=%7B%22word%22%3A+%22%C3%A8%22%7D"),
        ("47", "twilio", form, b"CallSid=CA1&Digits=1234&From=%2B1415", b"CallSid=CA1&Digits=1235&From=%2B1415"),
        (
            "48",
            "mailgun-form",
            form,
            b"subject=hello&body-plain=a%0D%0Ab",
            b"subject=hello&timestamp=1&token=1&signature=1",
        ),
        ("49", "websub", feed, b"<feed/>", b"<feed />"),
    ]
    requests = []
    for path, name, headers, body, other in given:
        bare = Request("POST", PUBLIC, headers, body)
        signed = sign_request(PRESETS[name], SECRET, bare, time.time(), f"delivery-{path}")
        requests += [(path, dict(signed.headers), signed.body), (path, dict(signed.headers), other)]
    found = answers_to(store, tmp_path, requests)
    assert [status for status, _ in found] == [200, 401] * 4, found
    assert all(answer["run_id"] for _, answer in found[::2])


def test_a_replay_in_other_wrapping_starts_nothing(store: str, tmp_path: Path) -> None:
    """Who sends a caught form again, re-encoded, with more fields, in another order or as JSON, and under an id that was
    never signed, starts nothing: what counts is what was signed.
    """
    form, document = "application/x-www-form-urlencoded", b'{"word": "\xc3\xa9"}'
    bare = Request("POST", PUBLIC, (("content-type", form),), b"payload=%7B%22word%22%3A+%22%C3%A9%22%7D")
    signature = sign_request(PRESETS["gitea"], SECRET, bare, 0, "d").values("x-gitea-signature")[0]
    twilio = Request("POST", PUBLIC, (("content-type", form),), b"Digits=1234&From=%2B1415")
    call = sign_request(PRESETS["twilio"], SECRET, twilio, 0, "d").values("x-twilio-signature")[0]
    bodies = [
        (form, bare.body),
        (form, bare.body.replace(b"+", b"%20")),
        (form, bare.body + b"&x=1"),
        (JSON[0][1], document),
    ]
    requests: list[tuple[str, dict[str, str], bytes]] = []
    for number, (kind, body) in enumerate(bodies):
        headers = {"content-type": kind, "x-gitea-signature": signature, "x-gitea-delivery": f"d{number}"}
        requests.append(("46", headers, body))
    for number, body in enumerate((twilio.body, b"From=%2b1415&Digits=1234", b"&From=%2B1415&Digits=1234&Digits=1234")):
        token = {"content-type": form, "x-twilio-signature": call, "i-twilio-idempotency-token": f"d{number}"}
        requests.append(("47", token, body))
    found = answers_to(store, tmp_path, requests)
    runs = [answer.get("run_id") for _, answer in found if answer.get("run_id")]
    assert set(runs) <= {1, 2}, found
    assert [status for status, _ in found] == [200, 409, 409, 409, 200, 409, 409], found
