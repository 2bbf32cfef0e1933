"""Shared by the tests of retention and of mending: runs of any age and state, and what the store holds."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import msgspec

from gateway.callbacks import Outgoing
from gateway.runs import CALLBACK_MOVES, MOVES, Parent, RunRequest
from gateway.store.connection import Redis
from gateway.store.reading import Reader
from gateway.store.records import Records, Write
from gateway.store.retention import DAY_MS, Limits, Retention
from gateway.verdicts import Bearing
from tests.tools import KEYS, acceptor, event_of
from workers.archive import Archive
from workers.retiring import Retiring
from workers.sweep import Sweep

WEEK = 7 * DAY_MS
REQUEST = RunRequest(workflow_id=15, workflow="w", digest="d", session_id="ses_t", app_id=1, token_id="tok")


async def no_kinds(run: object) -> dict[str, str]:
    return {}


def retention(redis: Redis, days: float = 0, runs: int = 0, window_ms: int = 0) -> Retention:
    return Retention(redis, KEYS, Limits(days, runs, window_ms))


def sweeper(redis: Redis, folder: Path | None = None, **limits: Any) -> Sweep:
    """A sweep with these limits, as a worker has it."""
    kept = retention(redis, **limits)
    archive = None if folder is None else Archive(folder, Reader(redis, KEYS), no_kinds)
    runs, callbacks = Records(redis, KEYS, "run"), Records(redis, KEYS, "callback")
    retiring = Retiring(kept, archive, seconds=20)
    return Sweep(redis, KEYS, runs, callbacks, interval=60, retention=kept, retiring=retiring)


async def file_runs(redis: Redis, count: int, **fields: Any) -> list[int]:
    """Store runs, each with an event of its own that names it; gives their ids."""
    door, last = acceptor(redis), int(await redis.get(KEYS.named("runs:last")) or 0)
    names = [f"evt_{last + number + 1}" for number in range(count)]
    requests = [msgspec.structs.replace(REQUEST, event_id=name, **fields) for name in names]
    events = [event_of(name, request) for name, request in zip(names, requests, strict=True)]
    stored = await asyncio.gather(*(door.store(event) for event in events))
    return [each.run_ids[0] for each in stored]


async def claim_all(redis: Redis) -> dict[int, int]:
    """Every due run with its fence."""
    claims = await Records(redis, KEYS, "run").claim("worker", 60_000, 10_000)
    return {int(item.id): item.fence for item in claims.items}


async def end_runs(redis: Redis, fences: dict[int, int], *, move: str = "complete", callback: bool = False) -> None:
    """End runs that were claimed, each with a callback where wanted."""
    now = (await redis.time())[0] * 1000
    writes = [
        Write(
            id=str(run_id),
            fence=fence,
            fields={"ended_at": now},
            move=MOVES[move],
            callbacks=(message(run_id),) if callback else (),
        )
        for run_id, fence in fences.items()
    ]
    runs = Records(redis, KEYS, "run")
    assert set(await asyncio.gather(*(runs.write(write) for write in writes))) <= {"ok"}


def message(run_id: int) -> Outgoing:
    kind, url = "run.completed", "https://x.example"
    return Outgoing(id=f"msg_{run_id}", run_id=run_id, app_id=1, type=kind, url=url, body=b"{}")


async def deliver_all(redis: Redis) -> None:
    """Every due callback arrives."""
    callbacks = Records(redis, KEYS, "callback", bearing=Bearing(share=10_000))
    now = (await redis.time())[0] * 1000
    for item in (await callbacks.claim("worker", 60_000, 10_000)).items:
        write = Write(id=item.id, fence=item.fence, fields={"ended_at": now}, move=CALLBACK_MOVES["deliver"])
        assert await callbacks.write(write) == "ok"


async def ended_runs(redis: Redis, count: int, *, move: str = "complete", **fields: Any) -> list[int]:
    """Runs that began and ended."""
    ids = await file_runs(redis, count, **fields)
    await end_runs(redis, await claim_all(redis), move=move)
    return ids


async def grow_old(redis: Redis, ids: list[int], by_ms: int = WEEK) -> None:
    """Make it so long ago that these runs, their events and their callbacks were made and ended."""
    for run_id in ids:
        run = await redis.hgetall(KEYS.run(run_id))
        await _set_back(redis, KEYS.run(run_id), by_ms, "created_at", "ended_at")
        request = msgspec.json.decode(run[b"request"], type=RunRequest)
        if request.event_id is not None:
            await grow_old_event(redis, request.event_id, by_ms)


async def grow_old_event(redis: Redis, event_id: str, by_ms: int = WEEK) -> None:
    await _set_back(redis, KEYS.event(event_id), by_ms, "received_at")
    await redis.zadd(KEYS.named("events"), {event_id: int(await redis.hget(KEYS.event(event_id), "received_at"))})


async def _set_back(redis: Redis, key: str, by_ms: int, *names: str) -> None:
    for name in names:
        kept = await redis.hget(key, name)
        if kept is not None:
            await redis.hset(key, name, int(kept) - by_ms)


async def there(redis: Redis) -> set[int]:
    """The ids of the runs that are still there."""
    return {int(key.rpartition(b":")[2]) async for key in redis.scan_iter(f"{KEYS.prefix}run:*", count=1000)}


async def keys_like(redis: Redis, text: str) -> list[bytes]:
    return sorted([key async for key in redis.scan_iter(f"*{text}*", count=1000)])


async def snapshot(redis: Redis) -> dict[str, Any]:
    """What every index of runs, callbacks and events holds; callbacks sorted, for theirs is the order of their last moves."""
    found: dict[str, Any] = {}
    async for key in redis.scan_iter(f"{KEYS.prefix}*", count=1000):
        name = key.decode().removeprefix(KEYS.prefix)
        if name == "events" or name.startswith(("runs:", "callbacks:", "conversation:")):
            kind = await redis.type(key)
            reads = {b"zset": redis.zrange, b"list": redis.lrange}
            if kind in reads and not name.endswith((":queue", ":wake")):
                members = await reads[kind](key, 0, -1)
                found[name] = sorted(members) if name.startswith("callbacks:") else members
    return found


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """All lines of the finished files."""
    files = sorted(folder.glob("*.ndjson.gz"))
    return [msgspec.json.decode(line) for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]


def spawn_request(parent: int) -> dict[str, Any]:
    return {"parent": Parent(parent, "step")}
