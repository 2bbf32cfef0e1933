"""An outbox that a test fills and empties by hand."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from gateway.callbacks import Attempt, Outgoing
from gateway.runs import CALLBACK_MOVES
from gateway.store.connection import Redis
from gateway.store.posting import Posting
from gateway.store.records import Claimed, Claims, Records, Write
from gateway.verdicts import Bearing
from tests.tools import KEYS

LEASE = 60_000
AGAIN = 60_000
SLOTS = 50
BEARING = Bearing(share=4, failures=3)
LESSON = (0, 3, 30_000, 1_800_000, 432_000_000)


class Hall:
    """A store whose outbox a test fills and empties."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.records = Records(redis, KEYS, "callback", bearing=BEARING)
        self.held: dict[str, Claimed] = {}

    async def put(self, endpoint: str, *ids: str, order: str | None = None) -> None:
        messages = [
            Outgoing(
                id=each, endpoint=endpoint, run_id=0, type="ping", url="https://x.example", body=b"{}", order=order
            )
            for each in ids
        ]
        await Posting(self.redis, KEYS).post(messages)

    async def claims(self, count: int = SLOTS, token: str = "worker", spare: int = 0) -> Claims:
        claims = await self.records.claim(token, LEASE, count, spare=spare)
        self.held |= {each.id: each for each in claims.items}
        return claims

    async def claim(self, count: int = SLOTS, **more: Any) -> list[str]:
        return [each.id for each in (await self.claims(count, **more)).items]

    async def end(self, item: str, lesson: str = "good", move: str = "deliver", wait: int = 0) -> str:
        seconds, micros = await self.redis.time()
        due = {"due_at": int(seconds) * 1000 + int(micros) // 1000 + AGAIN} if move == "retry" else {}
        return await self.records.write(
            Write(
                id=item,
                fence=self.held[item].fence,
                move=CALLBACK_MOVES[move],
                delay_ms=AGAIN if move == "retry" else None,
                fields={"attempt:1": msgspec.json.encode(Attempt(number=1, at=0, duration_ms=1)), **due},
                lesson=(lesson, wait, *LESSON[1:]),
            )
        )

    async def fail(self, endpoint: str, times: int) -> None:
        """So many attempts at an endpoint fail, one after the other."""
        for number in range(times):
            item = f"{endpoint}-bad-{number}"
            await self.put(endpoint, item)
            assert item in await self.claim()
            await self.end(item, "bad", "fail")

    async def health(self, endpoint: str) -> dict[str, str]:
        found = await self.redis.hgetall(KEYS.health(endpoint))
        return {name.decode(): value.decode() for name, value in found.items()}

    async def let_pass(self, endpoint: str) -> None:
        """Let the time be over until which nothing is sent to an endpoint."""
        await self.redis.hset(KEYS.health(endpoint), "not_before", 1)
        await self.redis.zadd(KEYS.named("callbacks:lanes"), {endpoint: 1})

    async def publish(self, endpoint: str, **settings: Any) -> None:
        await self.redis.hset(KEYS.named("endpoints"), endpoint, json.dumps({"id": endpoint} | settings))

    async def insist_on_empty(self) -> None:
        names = {name.decode() for name in await self.redis.keys("*callback*")}
        assert names <= {
            KEYS.named("callbacks:delivered"),
            KEYS.named("callbacks:failed"),
            KEYS.named("callbacks:last"),
        } | {name for name in names if ":callback:" in name or name.endswith(":wake")}
