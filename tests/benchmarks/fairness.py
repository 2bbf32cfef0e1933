"""`python -m tests.benchmarks.fairness`: how long one app's single run waits behind another app's backlog.

One app has 100 000 runs queued, each of which holds a slot for 50 ms. Meanwhile another app starts one run after the
other, and each is timed by the store's own clock: from when it was stored to when a worker began it. The same is done
first with nothing queued.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from subprocess import Popen

import msgspec
import redis as valkey

from gateway.runs import RunRequest
from gateway.store.accepting import Acceptor
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis, connect
from gateway.store.keys import Keys
from gateway.store.records import read_run
from tests.benchmarks import common
from tests.benchmarks.dispatch import WEEK_MS, make_event

HEAVY, LIGHT = 42, 43
AT_ONCE = 2000
QUIET = (0.0, 0.04)
"""Seconds between two single runs."""
COLUMNS = ("single runs of one app", "p50", "p95", "p99", "longest", "still queued")
CONFIGURATION = """\
workflows:
  - id: 1
    name: hold
    steps: [{id: one, python: "slow:hold"}]
  - id: 2
    name: single
    steps: [{id: one, transform: done}]
"""
MODULES = {
    "slow": """\
import asyncio


async def hold(argument):
    await asyncio.sleep(0.05)
"""
}


class Latencies(msgspec.Struct, frozen=True):
    """Milliseconds from stored to begun, and how many of the backlog were left when the last one had begun."""

    values: list[float]
    left: int


def measure(backlog: int, samples: int) -> Latencies:
    """A worker process with so much queued by one app, and single runs of another."""
    with common.open_place(CONFIGURATION, MODULES) as place:
        asyncio.run(fill(place, backlog))
        client = valkey.Redis(unix_socket_path=place.socket_path)
        with common.run_module(place, "workers") as process:
            workers = Keys().named("workers")
            common.wait_until(lambda: client.zcard(workers) == 2, process, "the worker")
            return asyncio.run(start_singles(place, client, process, samples))


async def fill(place: common.Place, count: int) -> None:
    """Queue so many runs of the heavy app, a few thousand at a time."""

    async def work(redis: Redis) -> None:
        start = await starter(redis, "hold", HEAVY)
        for first in range(0, count, AT_ONCE):
            await asyncio.gather(*(start() for _ in range(min(AT_ONCE, count - first))))

    await with_store(place, work)


async def start_singles(place: common.Place, client: valkey.Redis, process: Popen[bytes], samples: int) -> Latencies:
    chance, values = random.Random(1), list[float]()

    async def work(redis: Redis) -> None:
        start = await starter(redis, "single", LIGHT)
        for _ in range(samples):
            run_id = await start()
            name = Keys().run(run_id)
            common.wait_until(lambda name=name: client.hget(name, "state") == b"completed", process, "a single run")
            run = read_run(run_id, client.hgetall(name))
            values.append(float((run.started_at or 0) - run.created_at))
            await asyncio.sleep(chance.uniform(*QUIET))

    await with_store(place, work)
    return Latencies(values, int(client.zcard(Keys().state("run", "pending"))))


async def with_store(place: common.Place, work: Callable[[Redis], Awaitable[None]]) -> None:
    redis = connect(place.redis_url, timeout=60)
    try:
        await work(redis)
    finally:
        await redis.aclose()


async def starter(redis: Redis, workflow: str, app: int) -> Callable[[], Awaitable[int]]:
    """What starts a run of this workflow for this app, and gives its id."""
    published = (await Catalog(redis, Keys()).read()).workflows[workflow]
    acceptor = Acceptor(redis, Keys(), timeout=60, max_queue=2**40, window_ms=WEEK_MS, durability="fsync")
    request = RunRequest(
        workflow_id=published.id, workflow=workflow, digest=published.digest, session_id="s", app_id=app
    )

    async def start() -> int:
        event = make_event(request)
        event = msgspec.structs.replace(event, head=msgspec.structs.replace(event.head, app_id=app))
        return (await acceptor.store(event)).run_ids[0]

    return start


def row_of(name: str, found: Latencies) -> list[str]:
    shares = [f"{common.percentile(found.values, share):.0f} ms" for share in (0.5, 0.95, 0.99, 1)]
    return [name, *shares, str(found.left)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fairness", description=__doc__.splitlines()[0])
    parser.add_argument("--backlog", type=int, default=100_000, help="how many the other app has queued")
    parser.add_argument("--samples", type=int, default=60)
    options = parser.parse_args()
    machine = common.describe_machine()
    rows = [row_of("nothing else queued", measure(0, options.samples))]
    found = measure(options.backlog, options.samples)
    rows.append(row_of(f"{options.backlog} of another app queued", found))
    if not found.left:
        message = "the backlog was done before the last single run: more of it are needed"
        raise common.BenchmarkFailed(message)
    common.show_table("From stored to begun", COLUMNS, rows, [machine, f"{options.samples} single runs, one worker"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
