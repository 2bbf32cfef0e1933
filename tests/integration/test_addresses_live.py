"""Addresses over real HTTP: what a sender signs of its URL, and a URL that is a secret."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

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

    async def story() -> list[int]:
        async with connected(store) as redis:
            await publish(redis, FILE)
            async with receiving(settings_for(store, folder)) as port, httpx2.AsyncClient(timeout=20) as client:
                base = f"http://127.0.0.1:{port}/api/v1/webhooks/"
                answers = [await client.post(base + path, content=BODY, headers=headers) for path, headers in requests]
                return [answer.status_code for answer in answers]

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
