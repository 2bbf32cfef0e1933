"""What an app asks before a body is read: networks, methods, a rate over all receivers, depth; over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.store.connection import Redis
from gateway.store.refusals import read_refusals
from tests.tools import KEYS, Valkey, connected, publish, receiving, settings_for, tell, until

BODY = b'{"workflow_id": 15}'
JSON = {"content-type": "application/json"}
FILE = """
apps:
  - {id: 1, name: open, adapter: direct, verify: none}
  - {id: 2, name: here, adapter: direct, verify: none, networks: [127.0.0.0/8]}
  - {id: 3, name: there, adapter: direct, verify: none, networks: [203.0.113.0/24, "2001:db8::/32"]}
  - {id: 4, name: puts, adapter: direct, verify: none, methods: [PUT, POST]}
  - {id: 5, name: slow, adapter: direct, verify: none, rate: {limit: 1, period: 1h, burst: 3}}
  - {id: 6, name: flat, verify: none, max_depth: 3}
  - {id: 7, name: signed, adapter: direct, verify: {scheme: orqo, secrets: [{env: GATE_SECRET}]}, rate: 1/h}
  - {id: 8, name: wide, adapter: direct, verify: none, rate: 1000/s}
workflows:
  - {id: 15, name: greet}
"""


class Doors:
    """Receivers on one store, and a client."""

    def __init__(self, ports: list[int], redis: Redis, client: httpx2.AsyncClient) -> None:
        self.ports = ports
        self.redis = redis
        self.client = client

    async def post(self, app: int, *, door: int = 0, method: str = "POST", **more: Any) -> httpx2.Response:
        given = {"content": BODY, "headers": JSON} | more
        return await self.client.request(method, f"http://127.0.0.1:{self.ports[door]}/api/v1/webhooks/{app}", **given)

    async def runs(self) -> int:
        return int(await self.redis.get(KEYS.named("runs:last")) or 0)


@contextlib.asynccontextmanager
async def opened(url: str, folder: Path, count: int = 1, **changes: object) -> AsyncIterator[Doors]:
    async with connected(url) as redis, contextlib.AsyncExitStack() as stack:
        await publish(redis, FILE)
        settings = settings_for(url, folder, **changes)
        ports = [await stack.enter_async_context(receiving(settings)) for _ in range(count)]
        client = await stack.enter_async_context(httpx2.AsyncClient(verify=False, timeout=20))
        yield Doors(ports, redis, client)


def test_only_the_listed_networks_may_come(store: str, tmp_path: Path) -> None:
    """Another address is 403 before anything else is asked, whatever X-Forwarded-For claims; the refusal is remembered."""

    async def story() -> None:
        async with opened(store, tmp_path) as doors:
            assert (await doors.post(2)).status_code == 200
            for claim in ({}, {"x-forwarded-for": "203.0.113.7"}, {"forwarded": "for=203.0.113.7"}):
                answer = await doors.post(3, headers=JSON | claim)
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            assert await doors.runs() == 1
            found = await until(lambda: read_refusals(doors.redis, KEYS))
            assert (found[0].app_id, found[0].status, found[0].decision.reason) == (3, 403, "network")

    tell(story())


def test_a_trusted_proxy_says_who_came(store: str, tmp_path: Path) -> None:
    """Behind a proxy that is named in the settings, the address it adds counts, and no address left of that."""

    async def story() -> None:
        async with opened(store, tmp_path, trusted_proxies="127.0.0.1") as doors:
            for claim, status in (
                ("203.0.113.7", 200),
                ("198.51.100.1, 203.0.113.7", 200),
                ("2001:db8::5", 200),
                ("203.0.113.7, 198.51.100.1", 403),
                ("203.0.113.7, nobody", 403),
                ("::ffff:203.0.113.9", 200),
            ):
                assert (await doors.post(3, headers=JSON | {"x-forwarded-for": claim})).status_code == status, claim
            assert (await doors.post(3)).status_code == 403
            assert (await doors.post(2, headers=JSON | {"x-forwarded-for": "203.0.113.7"})).status_code == 403

    tell(story())


def test_methods_are_those_an_app_lists(store: str, tmp_path: Path) -> None:
    """POST by itself; others where the app lists them; what is refused says what is not."""

    async def story() -> None:
        async with opened(store, tmp_path) as doors:
            assert (await doors.post(4, method="PUT")).status_code == 200
            assert (await doors.post(4)).status_code == 200
            for app, method, allowed in ((1, "PUT", "POST"), (4, "PATCH", "PUT, POST"), (1, "TRACE", "POST")):
                answer = await doors.post(app, method=method)
                assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
                assert answer.json()["code"] == "method_not_allowed"
            assert await doors.runs() == 2

    tell(story())


def test_a_rate_holds_over_all_receivers(store: str, tmp_path: Path) -> None:
    """Of many requests at once at three receivers exactly the burst is let in; the others are 429 with Retry-After."""

    async def story() -> None:
        async with opened(store, tmp_path, count=3) as doors:
            answers = await asyncio.gather(*(doors.post(5, door=number % 3) for number in range(30)))
            refused = [answer for answer in answers if answer.status_code == 429]
            assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 27
            assert {answer.json()["code"] for answer in refused} == {"rate_limited"}
            assert all(0 < int(answer.headers["retry-after"]) <= 3600 for answer in refused)
            assert await doors.runs() == 3
            assert (await doors.post(1)).status_code == 200

    tell(story())


def test_a_wide_rate_takes_many_at_once(store: str, tmp_path: Path) -> None:
    """A crowd within the rate is let in whole, however many come in the same moment: they share a call."""

    async def story() -> None:
        async with opened(store, tmp_path) as doors:
            answers = await asyncio.gather(*(doors.post(8) for _ in range(150)))
            assert {answer.status_code for answer in answers} == {200}

    tell(story())


def test_a_rate_is_asked_before_the_body(store: str, tmp_path: Path) -> None:
    """Who is over the rate is told so while the body is still on its way: it is never waited for."""

    async def story() -> None:
        async with opened(store, tmp_path) as doors:
            for _ in range(3):
                await doors.post(5)
            reader, writer = await asyncio.open_connection("127.0.0.1", doors.ports[0])
            writer.write(b"POST /api/v1/webhooks/5 HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
            assert (await reader.readline()).startswith(b"HTTP/1.1 429 ")
            writer.close()

    tell(story())


def test_without_its_store_a_rate_lets_nobody_in(own_valkey: Valkey, tmp_path: Path) -> None:
    """What can't be counted is not let in: 503, and the sender comes again. Apps without a rate never ask."""

    async def story() -> None:
        async with opened(own_valkey.url, tmp_path) as doors:
            assert (await doors.post(5)).status_code == 200
            own_valkey.stop()
            answer = await doors.post(5)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert (await doors.post(2, method="PUT")).status_code == 405
            own_valkey.start()
            await until(lambda: _answers(doors, 5, 200))

    tell(story())


async def _answers(doors: Doors, app: int, status: int) -> bool:
    return (await doors.post(app)).status_code == status


def test_depth_is_the_app_s_own(store: str, tmp_path: Path) -> None:
    """An app that takes three levels refuses the fourth with 400; any app refuses ten thousand."""

    async def story() -> None:
        async with opened(store, tmp_path) as doors:
            assert (await doors.post(6, content=b'{"a": [{}]}')).status_code == 202
            for app, body in ((6, b'{"a": [[{}]]}'), (1, b"[" * 10_000 + b"]" * 10_000)):
                answer = await doors.post(app, content=body)
                assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
                assert "levels" in answer.json()["error"]

    tell(story())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"workflow_id": 15,\n "task": "a", "task": "b"}', "'task' twice in one object, again at line 2, column 15"),
        (b'{"workflow_id": 15, "a": NaN}', "line 1, column 26"),
        (b'{"workflow_id": 15, "a": "\\ud800"}', "line 1, column"),
        (b'{"workflow_id": 15, "a": "\xff"}', "line 1, column 27"),
    ],
)
def test_json_that_parsers_read_differently_is_400(store: str, tmp_path: Path, body: bytes, words: str) -> None:
    """Doubled names, NaN, halves of characters and other bytes than UTF-8 are told with their place; nothing starts."""

    async def story() -> None:
        async with opened(store, tmp_path) as doors:
            answer = await doors.post(1, content=body)
            assert answer.status_code == 400
            assert words in answer.json()["error"], json.dumps(answer.json())
            assert await doors.runs() == 0

    tell(story())
