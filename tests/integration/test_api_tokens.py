"""What tokens tell of themselves: when they were last used, and what credits they have left."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from gateway.credits import Allowance
from gateway.store.catalog import Catalog
from gateway.store.reading import Reader
from gateway.store.uses import Uses
from gateway.tokens import new_token
from tests.tools import KEYS, Valkey, connected, receiving, settings_for, tell, until
from tests.tools_api import Api, serving


async def token_called(api: Api, name: str) -> dict[str, Any]:
    """The document of the only token with this name."""
    (found,) = [each for each in (await api.get("/api/v1/tokens")).json()["data"] if each["name"] == name]
    document: dict[str, Any] = found
    return document


def test_the_last_use_is_shown_to_the_minute(store: str, tmp_path: Path) -> None:
    """A token that was never used says so; soon after a use it shows the minute, and a wrong one changes nothing."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            text = await api.token("runs:read", name="reader")
            await api.settle()
            assert (await token_called(api, "reader"))["last_used_at"] is None
            await api.get("/api/v1/runs", token=text[:-1] + ("A" if text[-1] != "A" else "B"))
            before = time.time()
            assert (await api.get("/api/v1/runs", token=text)).status_code == 200

            async def used() -> Any:
                return (await token_called(api, "reader"))["last_used_at"]

            moment = datetime.fromisoformat(await until(used))
            assert (moment.second, moment.microsecond) == (0, 0)
            assert before - 60 < moment.timestamp() <= time.time()

    tell(story())


def test_a_use_outlives_the_receiver(store: str, tmp_path: Path) -> None:
    """A receiver that stops writes down what it gathered; the next one shows it."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            text = await api.token("runs:read", name="reader")
            async with receiving(settings_for(store, tmp_path)) as port:
                headers = {"authorization": f"Bearer {text}"}
                answer = await api.client.get(f"http://127.0.0.1:{port}/api/v1/runs", headers=headers)
                assert answer.status_code == 200
            assert (await token_called(api, "reader"))["last_used_at"] is not None

    tell(story())


def test_many_uses_are_one_write(store: str) -> None:
    """A thousand uses in a minute are one write, the next minute is another, and the later of two receivers stays."""

    async def story() -> None:
        async with connected(store) as redis:
            uses, late = Uses(redis, KEYS, pause=0.01), Uses(redis, KEYS, pause=0.01)

            async def written() -> int:
                stats: dict[str, Any] = await redis.info("commandstats")
                return int(stats.get("cmdstat_zadd", {"calls": 0})["calls"])

            before, reader = await written(), Reader(redis, KEYS)
            for number in range(1000):
                uses.note("a", 600.0 + number / 20)
            uses.note("b", 600.0)
            await until(lambda: look(reader, {"a": 600, "b": 600}))
            uses.note("a", 659.9)
            assert await written() == before + 1
            uses.note("a", 660.0)
            await until(lambda: look(reader, {"a": 660, "b": 600}))
            late.note("a", 610.0)
            await late.close()
            await uses.close()
            assert await reader.last_uses() == {"a": 660, "b": 600}

    tell(story())


async def look(reader: Reader, wanted: dict[str, int]) -> bool:
    return await reader.last_uses() == wanted


def test_uses_wait_for_a_store_that_is_away(own_valkey: Valkey) -> None:
    """What was gathered while the store was gone is written when it is back."""

    async def story() -> None:
        async with connected(own_valkey.url) as redis:
            uses = Uses(redis, KEYS, pause=0.01)
            await redis.ping()
            await asyncio.to_thread(own_valkey.stop)
            uses.note("a", 600.0)
            await uses.close()
            await asyncio.to_thread(own_valkey.start)
            uses.note("b", 660.0)
            await until(lambda: look(Reader(redis, KEYS), {"a": 600, "b": 660}))
            await uses.close()

    tell(story())


def test_a_balance_is_shown_with_its_refill(store: str, tmp_path: Path) -> None:
    """A token with credits shows what is left, of how many, and when it gets as many again; one without shows none."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False, step_costs="transform=3") as api:
            text, token = new_token("payer", ["runs:start"], time.time(), None, Allowance(10, "1h"))
            once = msgspec.structs.replace(new_token("once", ["runs:start"], time.time())[1], credits=Allowance(5))
            for each in (token, once):
                await Catalog(api.redis, KEYS).put_token(each)
            await api.settle()
            assert (await token_called(api, "payer"))["credits"] == {"left": 10, "amount": 10, "refill_at": None}
            before = time.time()
            started = await api.post("/api/v1/runs", {"workflow": "greet"}, token=text)
            assert started.status_code == 201
            credits = (await token_called(api, "payer"))["credits"]
            assert (credits["left"], credits["amount"]) == (7, 10)
            assert before - 2 < datetime.fromisoformat(credits["refill_at"]).timestamp() - 3600 < time.time() + 2
            assert (await token_called(api, "once"))["credits"] == {"left": 5, "amount": 5, "refill_at": None}
            assert (await token_called(api, "admin"))["credits"] is None

    tell(story())


def test_a_token_with_credits_is_made_over_the_api(store: str, tmp_path: Path) -> None:
    """It may use so many, and no more; what can't be understood is a 422 that names the field."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            wanted = {"name": "poor", "scopes": ["runs:start"], "credits": {"amount": 1, "every": "3d"}}
            made = await api.post("/api/v1/tokens", wanted)
            assert made.status_code == 201, made.text
            assert (await token_called(api, "poor"))["credits"]["amount"] == 1
            # `slow` has a python step, which costs one credit.
            statuses = [
                (await api.post("/api/v1/runs", {"workflow": "slow"}, token=made.json()["token"])).status_code
                for _ in range(2)
            ]
            assert statuses == [201, 402]
            for wrong in ({"credits": 1}, {"credits": {"amount": 1, "every": "soon"}}, {"credits": {"amount": -1}}):
                answer = await api.post("/api/v1/tokens", {"name": "x", **wrong})
                assert answer.status_code == 422, answer.text

    tell(story())
