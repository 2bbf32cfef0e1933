"""What the store knows of itself: for `/metrics` and `/readyz`. Never by going through history."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.metrics import StoreFigures
from gateway.runs import HELD, OPEN
from gateway.store.connection import Redis
from gateway.store.keys import Keys
from gateway.store.retention import ENDED_AT, FAILED, NOTES

FIRST = 100
TIMES = 10**12
"""Scores of the queue of runs: turns below it, times (ms) above (store/lua/flow.lua)."""


class Pulse(msgspec.Struct, frozen=True):
    """Whether the store takes writes now, and how long ago (seconds) a worker last looked at each queue."""

    writable: bool
    run_worker_age: float | None
    callback_worker_age: float | None


async def read_figures(redis: Redis, keys: Keys) -> StoreFigures:
    """Counts, depths and ages, in one round trip and then one more for the oldest run."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.hgetall(keys.named("counts"))
        for kind in ("run", "callback"):
            pipe.zcard(keys.queue(kind))
        for state in OPEN:
            pipe.zcard(keys.state("run", state))
        pipe.zrange(keys.named("workers"), 0, -1, desc=True, withscores=True)
        # The lanes take turns, so that each one's oldest run is among the first.
        pipe.zrange(keys.queue("run"), "-inf", f"({TIMES}", byscore=True, offset=0, num=FIRST)
        for reason in HELD[1:]:
            pipe.zrange(keys.held(reason), 0, 0, withscores=True)
        pipe.hmget(keys.named(NOTES), ENDED_AT, FAILED)
        clock, counts, runs, callbacks, *rest, (swept_at, failed) = await pipe.execute()
    now = clock[0] * 1000 + clock[1] // 1000
    open_runs, (workers, first, *oldest) = rest[: len(OPEN)], rest[len(OPEN) :]
    ages = {
        reason: max(now - rows[0][1], 0) / 1000 if rows else 0.0 for reason, rows in zip(HELD[1:], oldest, strict=True)
    }
    return StoreFigures(
        counts={name.decode(): int(value) for name, value in counts.items()},
        depths={"runs": runs, "callbacks": callbacks},
        open_runs=dict(zip((str(state) for state in OPEN), open_runs, strict=True)),
        oldest_pending={HELD[0]: await _age_of(redis, keys, first, now)} | ages,
        worker_age=_age(workers, b"run ", now),
        sweep_age=None if swept_at is None else max(now - int(swept_at), 0) / 1000,
        archive_failed=failed == b"1",
    )


async def feel_pulse(redis: Redis, keys: Keys) -> Pulse:
    """Write and read back. Raises what the store raises when it does neither."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.set(keys.named("pulse"), "1", px=60_000)
        pipe.zrange(keys.named("workers"), 0, -1, desc=True, withscores=True)
        clock, written, workers = await pipe.execute()
    now = clock[0] * 1000 + clock[1] // 1000
    return Pulse(bool(written), _age(workers, b"run ", now), _age(workers, b"callback ", now))


def _age(workers: list[Any], kind: bytes, now: int) -> float | None:
    newest = max((score for name, score in workers if name.startswith(kind)), default=None)
    return None if newest is None else max(now - newest, 0) / 1000


async def _age_of(redis: Redis, keys: Keys, jobs: list[bytes], now: int) -> float:
    if not jobs:
        return 0.0
    oldest = min(int(job.rpartition(b":")[2]) for job in jobs)
    created = await redis.hget(keys.run(oldest), "created_at")
    return 0.0 if created is None else max(now - int(created), 0) / 1000
