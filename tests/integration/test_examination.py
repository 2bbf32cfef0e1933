"""What `gateway doctor` asks the store: fit or not, runs that nobody holds, callbacks given up, whose deliveries came in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.errors import NotFound
from gateway.runs import CALLBACK_MOVES
from gateway.settings import read_settings
from gateway.store.connection import Redis
from gateway.store.examination import (
    count_deliveries,
    examine_store,
    find_failing_endpoints,
    find_orphans,
    read_refused,
)
from gateway.store.records import Records, Write
from tests.tools import KEYS, connected, settings_for, tell
from tests.tools_sweep import claim_all, end_runs, file_runs


async def give_up(redis: Redis, ago_ms: int = 0) -> None:
    """Every due callback fails for good."""
    callbacks = Records(redis, KEYS, "callback")
    now = (await redis.time())[0] * 1000 - ago_ms
    for item in (await callbacks.claim("worker", 60_000, 10_000)).items:
        write = Write(id=item.id, fence=item.fence, fields={"ended_at": now}, move=CALLBACK_MOVES["fail"])
        assert await callbacks.write(write) == "ok"


def test_fit_store_has_no_complaints(store: str, tmp_path: Path) -> None:
    """A good server is fit, its clock agrees, and nobody works yet."""

    async def story() -> None:
        async with connected(store) as redis:
            found = await examine_store(redis, KEYS, settings_for(store, tmp_path))
            ahead = await examine_store(redis, KEYS, settings_for(store, tmp_path), clock=lambda: 0.0)
        assert (found.unreachable, list(found.complaints), found.writable) == (None, [], True)
        assert found.run_worker_age is None
        assert abs(found.clock) < 1 < abs(ahead.clock)

    tell(story())


def test_server_that_is_not_there_is_a_value(tmp_path: Path) -> None:
    """A server that can't be reached is said to be so, and nothing is raised."""

    async def story() -> None:
        settings = replace(read_settings({}), redis_url="redis://127.0.0.1:1/0")
        async with connected(settings.redis_url) as redis:
            assert "can't reach" in str((await examine_store(redis, KEYS, settings)).unreachable)

    tell(story())


def test_only_runs_that_nobody_holds_are_orphans(store: str) -> None:
    """A run with a lease is held; one without lease and job is an orphan; one that has not begun is none."""

    async def story() -> None:
        async with connected(store) as redis:
            held = await file_runs(redis, 2)
            await claim_all(redis)
            await file_runs(redis, 1)
            assert await find_orphans(redis, KEYS) == []
            job = KEYS.job("run", held[0])
            await redis.delete(f"arq:in-progress:{job}")
            await redis.zrem(KEYS.queue("run"), job)
            assert await find_orphans(redis, KEYS) == held[:1]

    tell(story())


@pytest.mark.parametrize(("ago_ms", "expected"), [(0, [("https://x.example", 2, "never tried")]), (2 * 86_400_000, [])])
def test_endpoints_that_fail_lately(store: str, ago_ms: int, expected: list[tuple[str, int, str]]) -> None:
    """Callbacks given up in the last day are counted by URL; older ones are not."""

    async def story() -> None:
        async with connected(store) as redis:
            await file_runs(redis, 2)
            await end_runs(redis, await claim_all(redis), callback=True)
            await give_up(redis, ago_ms)
            found = await find_failing_endpoints(redis, KEYS)
        assert [(each.url, each.failed, each.last) for each in found] == expected

    tell(story())


def test_deliveries_are_counted_by_app(store: str) -> None:
    """Accepted events count for their app."""

    async def story() -> None:
        async with connected(store) as redis:
            await file_runs(redis, 3)
            deliveries = await count_deliveries(redis, KEYS)
        assert (dict(deliveries.accepted), dict(deliveries.refused)) == ({1: 3}, {})

    tell(story())


def test_refused_delivery_that_is_gone(store: str) -> None:
    """A refused delivery that is not kept is NotFound, and says why that may be."""

    async def story() -> None:
        async with connected(store) as redis:
            with pytest.raises(NotFound, match="only the newest are kept"):
                await read_refused(redis, KEYS, f"rfs_{os.urandom(4).hex()}")

    tell(story())
