"""A room to try the engine in: a real store with workflows, a worker, and steps that tell what they did."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from gateway.control import Control
from gateway.runs import Run
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.store.reading import Reader
from gateway.store.records import Records, Write
from gateway.store.registry import Registry
from gateway.store.waiting import Waiters
from tests.tools import KEYS, acceptor, begin, connected, ended, publish, settings_for, tell, until, working

HERE = "tests.tools_engine"
RUNNING = {"state": "running", "attempt": 1, "started_at": 1}


class Stage:
    """What the steps of one test share with it."""

    calls: ClassVar[list[Any]] = []
    gates: ClassVar[dict[str, asyncio.Event]] = {}
    at_once: ClassVar[int] = 0
    most: ClassVar[int] = 0

    @classmethod
    def clear(cls) -> None:
        cls.calls.clear()
        cls.gates.clear()
        cls.at_once = cls.most = 0


def note(argument: Any) -> Any:
    Stage.calls.append(argument)
    return argument


def fail_once(argument: Any) -> Any:
    Stage.calls.append(argument)
    if Stage.calls.count(argument) == 1:
        message = "not yet"
        raise ValueError(message)
    return argument


async def pass_gate(name: str) -> str:
    """Come through when the gate is open; say when it was broken off."""
    Stage.calls.append(f"{name} begun")
    try:
        await Stage.gates.setdefault(name, asyncio.Event()).wait()
    except asyncio.CancelledError:
        Stage.calls.append(f"{name} stopped")
        raise
    return name


async def count(argument: Any) -> Any:
    Stage.at_once += 1
    Stage.most = max(Stage.most, Stage.at_once)
    await asyncio.sleep(0.01)
    Stage.at_once -= 1
    return argument


def python(step_id: str, function: str, *needs: str, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "needs": list(needs), "python": f"{HERE}:{function}", "with": step_id} | fields


def flow(*steps: dict[str, Any], name: str = "w", **fields: Any) -> dict[str, Any]:
    return {"name": name, "steps": list(steps)} | fields


class Room:
    """A store with published workflows, and the control that the API's doors have."""

    def __init__(self, redis: Redis, control: Control) -> None:
        self.redis = redis
        self.control = control
        self.steering = control.steering

    async def begin(self, name: str = "w", **fields: Any) -> int:
        return await begin(self.redis, name, **fields)

    async def run(self, run_id: int) -> Run:
        return await Reader(self.redis, KEYS).run(run_id)

    async def until_state(self, run_id: int, state: str) -> Run:
        async def look() -> Run | None:
            run = await self.run(run_id)
            return run if run.state == state else None

        found: Run = await until(look)
        return found

    async def ended(self, run_id: int) -> Run:
        return await ended(self.redis, run_id)

    async def lose(self, token: str, **marks: dict[str, Any]) -> None:
        """Claim as a worker that writes down what it begins, and is never heard of again."""
        runs = Records(self.redis, KEYS, "run")
        (claimed,) = await until(lambda: _claimed(runs, token))
        fields: dict[str, Any] = {f"step:{name}": json.dumps(mark) for name, mark in marks.items()}
        assert await runs.write(Write(id=claimed.id, fence=claimed.fence, fields=fields)) == "ok"


async def _claimed(runs: Records, token: str) -> Any:
    return (await runs.claim(token, 20, 1)).items


@asynccontextmanager
async def room(store: str, *flows: dict[str, Any]) -> AsyncIterator[Room]:
    Stage.clear()
    async with connected(store) as redis:
        await publish(redis, json.dumps({"workflows": list(flows)}))
        catalog = Catalog(redis, KEYS)
        registry = Registry(redis, catalog, KEYS.named("changed"), ())
        await registry.load()
        runs, waiters = Records(redis, KEYS, "run"), Waiters(redis, KEYS, limit=100)
        yield Room(redis, Control(registry, acceptor(redis), Reader(redis, KEYS), runs, waiters, catalog))
        await waiters.close()


def play(store: str, folder: Path, story: Callable[[Room], Any], *flows: dict[str, Any], **settings: Any) -> None:
    """Tell a story in a room with a worker."""

    async def told() -> None:
        async with room(store, *flows) as made, working(settings_for(store, folder, **settings)):
            await story(made)

    tell(told())
