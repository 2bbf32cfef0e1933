"""A 2xx with a signed receipt: one chain an app, whoever answers, and none without one."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
from pathlib import Path

import pytest

from gateway.receipts import Place, Signer, find_fault, read_keys, read_receipt
from gateway.store.connection import Redis
from gateway.store.receipting import Chains
from tests.tools import KEYS, SECRET, connected, publish, receiving, settings_for, signed, tell

MASTER = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
FILE = {
    "apps": [
        {
            "id": 42,
            "name": "ci",
            "adapter": "direct",
            "receipts": True,
            "verify": {"scheme": "orqo", "secrets": [{"env": "HOOK_SECRET"}]},
        },
        {
            "id": 43,
            "name": "plain",
            "adapter": "direct",
            "verify": {"scheme": "orqo", "secrets": [{"env": "HOOK_SECRET"}]},
        },
    ],
    "workflows": [{"id": 15, "name": "w", "steps": [{"id": "a", "transform": 1}]}],
}
SIGNER = Signer((b"01234567890123456789012345678901",))


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)


def body_of(number: int) -> bytes:
    return b'{"workflow_id": 15, "task": "%d"}' % number


def post(port: int, body: bytes, app: int = 42, **headers: str) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", f"/api/v1/webhooks/{app}", body, signed(body, SECRET, **headers))
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers["gateway-receipt"]
    finally:
        connection.close()


async def chain_of(redis: Redis) -> list[Place]:
    return [place async for page in Chains(redis, KEYS).places(42) for place in page]


def test_each_2xx_has_a_receipt_of_its_bytes(store: str, tmp_path: Path) -> None:
    """With the event's id; a repetition gets the very same one; an app that doesn't ask for them gets none."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, json.dumps(FILE))
            async with receiving(settings_for(store, tmp_path, master_keys=MASTER)) as port:
                status, text = await asyncio.to_thread(post, port, body_of(1), idempotency_key="one")
                assert (status, text is not None) == (200, True)
                place = read_receipt(str(text), SIGNER.keys)
                assert (place.number, place.sha256) == (1, hashlib.sha256(body_of(1)).hexdigest())
                assert await redis.exists(KEYS.event(place.event_id))
                again = await asyncio.to_thread(post, port, body_of(1), idempotency_key="one")
                assert again == (200, text)
                assert await asyncio.to_thread(post, port, b"{}") == (422, None)
                assert (await asyncio.to_thread(post, port, body_of(2), 43))[1] is None

    tell(story())


def test_two_receivers_make_one_chain(store: str, tmp_path: Path) -> None:
    """Sixty events at once through both: sixty places, no number twice, and every receipt stands in the chain."""

    async def story() -> None:
        settings = settings_for(store, tmp_path, master_keys=MASTER)
        async with connected(store) as redis:
            await publish(redis, json.dumps(FILE))
            async with receiving(settings) as one, receiving(settings) as two:
                posts = [asyncio.to_thread(post, (one, two)[n % 2], body_of(n)) for n in range(60)]
                answers = await asyncio.gather(*posts)
            chain = await chain_of(redis)
            assert find_fault(chain) is None
            assert [place.number for place in chain] == list(range(1, 61))
            given = {read_receipt(str(text), SIGNER.keys).chain for _, text in answers}
            assert given == {place.chain for place in chain}

    tell(story())


def test_without_a_place_there_is_no_2xx(store: str, tmp_path: Path) -> None:
    """Where the chain can't be written, or there is no master key: 503, and the sender that comes again gets both."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, json.dumps(FILE))
            async with receiving(settings_for(store, tmp_path)) as port:
                assert await asyncio.to_thread(post, port, body_of(1), idempotency_key="k") == (503, None)
            async with receiving(settings_for(store, tmp_path, master_keys=MASTER)) as port:
                await redis.set(KEYS.named("receipts:42"), "something else")
                assert await asyncio.to_thread(post, port, body_of(1), idempotency_key="k") == (503, None)
                await redis.delete(KEYS.named("receipts:42"))
                status, text = await asyncio.to_thread(post, port, body_of(1), idempotency_key="k")
                assert status == 200
                assert read_receipt(str(text), SIGNER.keys).number == 1

    tell(story())


def test_the_keys_are_published(store: str, tmp_path: Path) -> None:
    """To everybody, as other programs read them."""

    async def story() -> None:
        async with receiving(settings_for(store, tmp_path, master_keys=MASTER)) as port:

            def read() -> bytes:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                connection.request("GET", "/.well-known/gateway-receipts.json")
                try:
                    return connection.getresponse().read()
                finally:
                    connection.close()

            assert read_keys(await asyncio.to_thread(read)).keys() == SIGNER.keys.keys()

    tell(story())
