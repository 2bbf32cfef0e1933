"""Shared by the tests of flow control: asking for runs of a workflow with rules, claiming, ending, and a worker."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator
from typing import Any

from gateway.events import Acceptable, Decision, Head, hash_body
from gateway.flow import flow_values
from gateway.runs import MOVES, Run, RunRequest
from gateway.store.accepting import Stored
from gateway.store.connection import Redis
from gateway.store.reading import Reader
from gateway.store.records import Records, Write
from gateway.workflows import prepare
from tests.tools import KEYS, acceptor
from workers.dispatcher import Dispatcher, Ending, Hold, StoreClock
from workers.sweep import Sweep

numbers = itertools.count()
GATE = {"concurrency": {"limit": 1}}
SKIP = {"singleton": {"mode": "skip"}}
CANCEL = {"singleton": {"mode": "cancel"}}
HOUR = "1h"


def wish(fields: dict[str, Any], value: Any = None, app: int = 1, **more: Any) -> Acceptable:
    """An event of an app that asks for one run of a workflow with these fields."""
    control = prepare({"name": "w"} | fields).flow
    request = RunRequest(workflow_id=1, workflow="w", digest="d", session_id="ses", app_id=app, input=value)
    values = flow_values(value, None, None, {"id": app, "name": "a"})
    given: dict[str, Any] = {"id": f"evt_{next(numbers)}_{os.urandom(3).hex()}", "body": b"{}", "keys": []} | more
    return Acceptable(
        **given,
        body_hash=hash_body(given["body"]),
        head=Head(app_id=app, decision=Decision(outcome="accepted")),
        requests=[request],
        flows=[] if control is None else [control.decide(values)],
    )


async def ask(redis: Redis, fields: dict[str, Any], value: Any = None, **more: Any) -> Stored:
    return await acceptor(redis).store(wish(fields, value, **more))


async def run_of(redis: Redis, run_id: int) -> Run:
    reader = Reader(redis, KEYS)
    return await reader.locate(await reader.run(run_id))


async def reason_of(redis: Redis, run_id: int) -> str | None:
    held = (await run_of(redis, run_id)).held
    return None if held is None else held.reason


async def claim(redis: Redis, count: int = 10) -> list[int]:
    """The runs that a worker is given now."""
    claims = await Records(redis, KEYS, "run").claim("worker", 60_000, count)
    return [int(item.id) for item in claims.items]


async def end(redis: Redis, run_id: int, move: str = "complete") -> None:
    write = Write(id=str(run_id), fence=None if move == "cancel" else 1, move=MOVES[move])
    assert await Records(redis, KEYS, "run").write(write) == "ok"


def sweeper(redis: Redis) -> Sweep:
    return Sweep(redis, KEYS, Records(redis, KEYS, "run"), Records(redis, KEYS, "callback"), interval=60)


async def left_over(redis: Redis) -> list[bytes]:
    """Keys of flow control that are still there."""
    found = [key async for key in redis.scan_iter(f"{KEYS.prefix}*", count=1000)]
    marks = (b":gate:", b":held:", b":debounce:", b":batch:")
    return [key for key in found if any(mark in key for mark in marks)]


class Crew:
    """A worker that notes when its runs begin and end, each after a turn of the loop or two."""

    def __init__(self, redis: Redis) -> None:
        self.records = Records(redis, KEYS, "run")
        self.redis = redis
        self.begun: list[int] = []
        self.begun_at: dict[int, int] = {}
        self.cancelled: list[int] = []
        self.now = 0
        self.most = 0
        self.clock = StoreClock()

    async def perform(self, hold: Hold) -> Ending:
        run_id = int(hold.claimed.id)
        self.begun.append(run_id)
        self.begun_at[run_id] = self.clock.now()
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        hold.settling = True
        told = b"cancel_wish" in hold.claimed.fields
        if told:
            self.cancelled.append(run_id)
        write = Write(id=hold.claimed.id, fence=hold.claimed.fence, move=MOVES["cancel" if told else "complete"])
        return Ending.DONE if await self.records.write(write) == "ok" else Ending.LOST

    @contextlib.asynccontextmanager
    async def working(self, slots: int = 20) -> AsyncIterator[None]:
        dispatcher = Dispatcher(self.redis, KEYS, self.records, self.perform, self.clock, slots=slots, lease=5)
        task = asyncio.create_task(dispatcher.async_run())
        try:
            yield
        finally:
            await dispatcher.stop(0)
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def left_over_nothing(redis: Redis) -> bool:
    return await left_over(redis) == []
