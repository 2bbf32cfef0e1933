"""What the store knows of itself: for `/metrics` and `/readyz`. Never by going through history."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.metrics import StoreFigures
from gateway.runs import OPEN
from gateway.store.connection import Redis
from gateway.store.keys import Keys


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
        pipe.zrange(keys.state("run", "pending"), 0, 0)
        pipe.zrange(keys.named("workers"), 0, -1, desc=True, withscores=True)
        clock, counts, runs, callbacks, *rest = await pipe.execute()
    now = clock[0] * 1000 + clock[1] // 1000
    *open_runs, oldest, workers = rest
    return StoreFigures(
        counts={name.decode(): int(value) for name, value in counts.items()},
        depths={"runs": runs, "callbacks": callbacks},
        open_runs=dict(zip((str(state) for state in OPEN), open_runs, strict=True)),
        oldest_pending=await _age_of(redis, keys, oldest, now),
        worker_age=_age(workers, b"run ", now),
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


async def _age_of(redis: Redis, keys: Keys, oldest: list[bytes], now: int) -> float:
    if not oldest:
        return 0.0
    created = await redis.hget(keys.run(int(oldest[0])), "created_at")
    return 0.0 if created is None else max(now - int(created), 0) / 1000
