"""Every published vector through one running receiver, an app for each, its clock set: the verdicts of `gateway verify`."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from gateway.signatures import judge
from tests.tools import connected, publish, receiving, settings_for, tell
from tests.tools_raw import speak, write

SAMPLES = Path(__file__).parent.parent / "samples" / "signatures"
FIRST_ID = 1000
# What an operator writes beside the sender's name and secret.
BESIDE: dict[str, dict[str, Any]] = {
    "rfc9421": {"require": []},
    "cavage": {"require": []},
}
TOPICS = {"aws-sns": {"topics": ["arn:aws:sns:*"]}, "websub": {"topics": ["https://example.com/feed"]}}
# The vector's own words, where its sender is known by name for something else: a time that is none.
WRITTEN_OUT = ("149",)


class Outcome(NamedTuple):
    """One vector: what is right, what `gateway verify` said, and what the door answered."""

    id: str
    sender: str
    valid: bool
    judged: bool
    status: int

    @property
    def holds(self) -> bool:
        """Whether both said what is right. After the proof a door may still refuse what is no JSON, say."""
        proven = self.status // 100 == 2 or self.status == 400
        return self.judged == self.valid == proven and (proven or self.status == 401)


def read_samples() -> list[dict[str, Any]]:
    return [each for path in sorted(SAMPLES.glob("*.json")) for each in json.loads(path.read_text("utf-8"))]


def secret_of(vector: dict[str, Any]) -> str:
    return str(vector.get("secret") or vector["public_key"])


def scheme_of(vector: dict[str, Any]) -> dict[str, Any]:
    if vector["id"] in WRITTEN_OUT:
        return dict(vector["scheme"])
    return {"scheme": vector["sender"], **BESIDE.get(vector["sender"], {})}


def body_of(vector: dict[str, Any]) -> bytes:
    return base64.b64decode(vector["body_base64"]) if "body_base64" in vector else vector["body"].encode()


def write_app(place: int, vector: dict[str, Any]) -> dict[str, Any]:
    """The app as its operator would write it."""
    return {
        "id": FIRST_ID + place,
        "name": f"vector-{place}",
        "public_url": vector["url"].partition("?")[0],
        "methods": ["POST", "PUT"],
        "content_types": ["*/*"],
        **TOPICS.get(vector["sender"], {}),
        "verify": scheme_of(vector) | {"secrets": [{"env": f"VECTOR_{place}"}]},
    }


def write_request(place: int, vector: dict[str, Any]) -> bytes:
    query = urlsplit(vector["url"]).query
    target = f"/api/v1/webhooks/{FIRST_ID + place}" + (f"?{query}" if query else "")
    lines = []
    for name, value in vector["headers"].items():
        values = [value] if isinstance(value, str) else value
        lines += [(name.lower(), each.encode().decode("latin-1")) for each in values]
    return write(vector["method"], target, lines, body_of(vector))


def judge_offline(vector: dict[str, Any]) -> bool:
    document = {name: vector[name] for name in ("method", "url", "headers", "now")}
    document |= {name: vector[name] for name in ("body", "body_base64") if name in vector}
    return judge(document | {"scheme": scheme_of(vector), "secrets": [secret_of(vector)]}).valid


def run_vectors(vectors: Iterable[dict[str, Any]], url: str, folder: Path) -> list[Outcome]:
    """Each vector, offline and at the door of a receiver whose clock is the vector's."""
    listed = list(vectors)
    found: list[Outcome] = []
    now = 0.0

    async def story() -> None:
        nonlocal now
        async with connected(url) as redis:
            await publish(redis, json.dumps({"apps": [write_app(*each) for each in enumerate(listed)]}))
        async with receiving(settings_for(url, folder), clock=lambda: now) as port:
            for place, vector in enumerate(listed):
                now = float(vector["now"] or 1_750_000_000)
                answer = await asyncio.to_thread(speak, port, write_request(place, vector))
                status = int(answer.split(b" ", 2)[1])
                found.append(Outcome(vector["id"], vector["sender"], vector["valid"], judge_offline(vector), status))

    tell(story())
    return found


def test_vectors_at_the_door(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its source calls valid is let in over HTTP, what it calls invalid is a 401, and both as `verify` says."""
    # Events are posted: a message that is asked for by GET is `gateway verify`'s alone.
    vectors = [each for each in read_samples() if each["method"] != "GET"]
    for place, vector in enumerate(vectors):
        monkeypatch.setenv(f"VECTOR_{place}", secret_of(vector))
    found = run_vectors(vectors, store, tmp_path)
    assert len(found) > 80
    assert [each for each in found if not each.holds] == []
