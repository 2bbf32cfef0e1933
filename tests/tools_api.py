"""Shared by the API's tests: a receiver with a worker, a few workflows, tokens, and a small HTTP client."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.tokens import new_token
from tests.tools import KEYS, connected, publish, receiving, settings_for, until, working

FILE = """
apps:
  - id: 42
    name: ci
    adapter: direct
    verify: {scheme: orqo, secrets: [{env: TESTS_SECRET}]}
    callback: {url: "http://127.0.0.1:9/", secret: {env: TESTS_CALLBACK}}
workflows:
  - id: 15
    name: greet
    steps: [{id: greeting, transform: "Hello, ${has(input.name) ? input.name : 'you'}!"}]
  - id: 16
    name: hidden
    steps: [{id: nothing, transform: 1}]
  - id: 17
    name: slow
    steps:
      - {id: first, transform: 1}
      - id: second
        needs: [first]
        python: asyncio:sleep
        with: 60
  - id: 18
    name: steps
    steps:
      - {id: a, transform: 1}
      - {id: b, python: asyncio:sleep, with: 0.5}
      - {id: c, python: asyncio:sleep, with: 0.3}
      - {id: d, needs: [a, b, c], transform: 2}
"""


MASTER_KEY = base64.b64encode(b"a key of the tests, 32 bytes..!!").decode()


class Api:
    """A gateway over HTTP, and its store."""

    def __init__(self, port: int, redis: Redis) -> None:
        self.port = port
        self.redis = redis
        self.client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, limits=httpx2.Limits())
        self.admin = ""

    async def token(
        self, *scopes: str, name: str = "tests", lifetime: float | None = None, revoked: bool = False
    ) -> str:
        """A new token's text, known to the receiver."""
        text, token = new_token(name, list(scopes), time.time() - 100, lifetime)
        kept = msgspec.structs.replace(token, revoked_at=int(time.time())) if revoked else token
        await Catalog(self.redis, KEYS).put_token(kept)
        return text

    async def settle(self) -> None:
        """Wait until the receiver knows every token that was made before."""
        text = await self.token("runs:read")

        async def known() -> bool:
            return (await self.get("/api/v1/runs", token=text)).status_code == 200

        await until(known)

    async def get(self, path: str, *, token: str | None = None, **more: Any) -> httpx2.Response:
        return await self.call("GET", path, token=token, **more)

    async def post(self, path: str, body: Any = None, *, token: str | None = None, **more: Any) -> httpx2.Response:
        return await self.call("POST", path, token=token, json=body, **more)

    async def call(self, method: str, path: str, *, token: str | None = None, **more: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.admin if token is None else token}"} | more.pop("headers", {})
        return await self.client.request(method, path, headers=headers, **more)

    async def start(self, workflow: str = "greet", **more: Any) -> int:
        answer = await self.post("/api/v1/runs", {"workflow": workflow, **more})
        assert answer.status_code == 201, answer.text
        run_id: int = answer.json()["run_id"]
        return run_id


@contextlib.asynccontextmanager
async def serving(store: str, folder: Path, *, worker: bool = True, **changes: object) -> AsyncIterator[Api]:
    """A gateway with FILE published and an admin's token."""
    settings = settings_for(store, folder, **({"master_keys": MASTER_KEY} | changes))
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(connected(store))
        await publish(redis, FILE)
        port = await stack.enter_async_context(receiving(settings))
        if worker:
            await stack.enter_async_context(working(settings))
        api = Api(port, redis)
        api.admin = await api.token("admin", name="admin")
        await stack.enter_async_context(api.client)
        await api.settle()
        yield api


def parse_events(text: str) -> list[dict[str, str]]:
    """The events of a server-sent stream, each as its fields."""
    blocks = [block for block in text.split("\n\n") if block.strip()]
    fields = [dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":")) for block in blocks]
    return [each for each in fields if "event" in each]


def names(events: Sequence[dict[str, str]]) -> list[str]:
    return [each["event"] for each in events]
