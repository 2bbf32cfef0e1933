"""Every example delivery that GitHub's own community keeps, signed and posted: its type is known and it is stored."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import http.client
import json
import os
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.tools import SECRET, all_events, connected, publish, receiving, settings_for, tell

EXAMPLES = os.environ.get("GITHUB_EXAMPLES")
FILE = {"apps": [{"id": 43, "name": "github", "verify": {"scheme": "github", "secrets": [{"env": "HOOK_SECRET"}]}}]}


def read_examples(folder: str) -> list[tuple[str, bytes]]:
    """Each example's event name and bytes."""
    rows = msgspec.json.decode((Path(folder) / "index.json").read_bytes())
    return [(row["name"], msgspec.json.encode(example)) for row in rows for example in row["examples"]]


def post(port: int, examples: list[tuple[str, bytes]]) -> list[int]:
    """Post them one after the other on one connection; the answers' statuses."""
    connection, statuses = http.client.HTTPConnection("127.0.0.1", port, timeout=30), []
    for number, (name, body) in enumerate(examples):
        headers = {
            "content-type": "application/json",
            "x-github-event": name,
            "x-github-delivery": f"00000000-0000-4000-8000-{number:012}",
            "x-hub-signature-256": "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest(),
        }
        connection.request("POST", "/api/v1/webhooks/43", body, headers)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()
    return statuses


@pytest.mark.skipif(
    EXAMPLES is None,
    reason="set GITHUB_EXAMPLES to the folder api.github.com of the npm package @octokit/webhooks-examples",
)
def test_every_example_of_github_is_stored_under_its_type(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are answered 202, as nothing is triggered, a ping 200; an example that is there twice is one event."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    examples = read_examples(str(EXAMPLES))
    distinct = {body: name for name, body in reversed(examples)}

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, json.dumps(FILE))
            async with receiving(settings_for(store, tmp_path)) as port:
                statuses = await asyncio.to_thread(post, port, examples)
            stored = Counter(event.head.type for event in await all_events(redis))
        assert statuses == [200 if name == "ping" else 202 for name, _ in examples]
        assert stored == Counter(distinct.values())

    tell(story())
