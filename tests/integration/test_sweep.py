"""What the clock sees to: everything open has its job, and workers that are gone are forgotten."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.runs import MOVES, RunRequest
from gateway.store.connection import Redis
from gateway.store.records import Outgoing, Records, Write
from gateway.tasks import end_tasks
from tests.tools import (
    KEYS,
    Valkey,
    acceptor,
    begin,
    connected,
    ended,
    event_of,
    publish,
    settings_for,
    tell,
    until,
    working,
)
from workers import sweep
from workers.sweep import Sweep

REQUEST = RunRequest(workflow_id=1, workflow="w", digest="d", session_id="ses")
MESSAGE = Outgoing(id="msg_1_a", run_id=1, app_id=1, type="run.completed", url="https://x.example", body=b"{}")
FILE = "workflows:\n  - {name: w, steps: [{id: a, transform: 1}]}\n"


def sweeper(redis: Redis, interval: float = 60) -> Sweep:
    return Sweep(redis, KEYS, Records(redis, KEYS, "run"), Records(redis, KEYS, "callback"), interval=interval)


async def fill(redis: Redis, count: int) -> None:
    door = acceptor(redis)
    await asyncio.gather(*(door.store(event_of(f"evt_{number}", REQUEST)) for number in range(count)))


def test_every_open_record_gets_its_job_again(store: str) -> None:
    """With both queues lost, runs that are pending, running and waiting and a callback are all put back, once."""

    async def story() -> None:
        async with connected(store) as redis:
            runs = Records(redis, KEYS, "run")
            await fill(redis, 4)
            done, parked, _ = (await runs.claim("w", 60_000, 3)).items
            await runs.write(Write(id=done.id, fence=1, move=MOVES["complete"], callbacks=(MESSAGE,)))
            await runs.write(Write(id=parked.id, fence=1, move=MOVES["park"], delay_ms=60_000))
            await redis.delete(KEYS.queue("run"), KEYS.queue("callback"), "arq:job:{0}run:4")
            assert await sweeper(redis).sweep() == 4
            assert await sweeper(redis).sweep() == 0
            queued = {*await redis.zrange(KEYS.queue("run"), 0, -1), *await redis.zrange(KEYS.queue("callback"), 0, -1)}
            assert queued == {b"{0}run:2", b"{0}run:3", b"{0}run:4", b"{0}callback:msg_1_a"}

    tell(story())


def test_a_large_backlog_is_gone_through_page_by_page(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sweep looks at so many pages; the next goes on where it stopped, and begins anew at the end."""
    monkeypatch.setattr(sweep, "PAGE", 10)
    monkeypatch.setattr(sweep, "PAGES", 2)

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 45)
            await redis.delete(KEYS.queue("run"))
            one = sweeper(redis)
            assert [await one.sweep() for _ in range(4)] == [20, 20, 5, 0]
            await redis.delete(KEYS.queue("run"))
            assert sum([await one.sweep() for _ in range(3)]) == 45

    tell(story())


def test_workers_that_are_gone_are_forgotten(store: str) -> None:
    """A worker that has not looked at the queue for an hour is taken from the list."""

    async def story() -> None:
        async with connected(store) as redis:
            clock = await redis.time()
            now = clock[0] * 1000
            await redis.zadd(KEYS.named("workers"), {"run old": now - 3_700_000, "run new": now - 3_500_000})
            await sweeper(redis).sweep()
            assert await redis.zrange(KEYS.named("workers"), 0, -1) == [b"run new"]

    tell(story())


def test_one_worker_sweeps_at_a_time(store: str) -> None:
    """Of several workers whose clocks ring together only one goes through the records."""

    async def story() -> None:
        async with connected(store) as redis:
            counted = 0

            async def count() -> int:
                nonlocal counted
                counted += 1
                return 0

            sweepers = [sweeper(redis, interval=0.2) for _ in range(5)]
            for each in sweepers:
                each.sweep = count  # type: ignore[method-assign]
            tasks = [asyncio.create_task(each.go()) for each in sweepers]
            await until(lambda: counted)
            assert counted == 1
            await until(lambda: counted >= 3)
            await asyncio.gather(*(end_tasks(task) for task in tasks))

    tell(story())


def test_a_sweep_is_put_off_while_the_store_is_gone(own_valkey: Valkey) -> None:
    """The clock rings on without a store, and sweeps when it is back."""

    async def story() -> None:
        async with connected(own_valkey.url) as redis:
            await fill(redis, 1)
            await redis.delete(KEYS.queue("run"))
            own_valkey.stop()
            task = asyncio.create_task(sweeper(redis, interval=0.05).go())
            done, _ = await asyncio.wait([task], timeout=0.3)
            assert not done
            own_valkey.start()
            await until(lambda: _queued(redis))
            await end_tasks(task)

    tell(story())


async def _queued(redis: Redis) -> int:
    return int(await redis.zcard(KEYS.queue("run")))


def test_a_run_that_lost_its_job_completes(store: str, tmp_path: Path) -> None:
    """In a running worker the sweep finds a run that nobody would have looked at, and it is carried through."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, FILE)
            run_id = await begin(redis, "w")
            await redis.delete(KEYS.queue("run"), f"arq:job:{KEYS.job('run', run_id)}")
            async with working(settings_for(store, tmp_path)):
                assert (await ended(redis, run_id)).state == "completed"

    tell(story())
