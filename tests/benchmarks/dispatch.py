"""`python -m tests.benchmarks.dispatch`: runs a second of one worker, beside stock arq's jobs a second.

Each worker is one process on an embedded Valkey of its own and finds its queue full when it starts. Its time goes
from the start of the first job or run to the moment the last one has left the queue, all of them written down.

Stock arq: its own `enqueue_job` and `Worker`, `max_jobs=100`, everything else as it comes; and once more with a poll
delay of 10 ms. Ours: `python -m workers` as in production, each run and step recorded, its log thrown away.

Latency is of an idle system: one signed request at a time through `gateway serve`, from before it is posted to the
first line of its step; for arq the same through a Starlette route that calls `enqueue_job`.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from subprocess import Popen
from typing import Any

import msgspec
import redis as valkey
from arq.connections import RedisSettings, create_pool
from arq.constants import default_queue_name
from arq.jobs import deserialize_result
from arq.worker import Worker

from gateway.events import Acceptable, Decision, Head, hash_body, new_event_id
from gateway.runs import RunRequest
from gateway.schemes import PRESETS
from gateway.signatures import Request, sign
from gateway.store.accepting import Acceptor
from gateway.store.catalog import Catalog
from gateway.store.connection import connect
from gateway.store.keys import Keys
from gateway.store.records import read_run
from tests.benchmarks import accept, common

SLOTS = 100
ARQ_POLL = 0.5
"""arq's own default, in seconds."""
QUICK_POLL = 0.01
SIDE_BY_SIDE = 200
QUIET = (0.02, 0.07)
"""Seconds between two requests of an idle system."""
WEEK_MS = 604_800_000
RESULT = "arq:result:"
COLUMNS = (
    "worker",
    "per second",
    "to arq",
    "to arq, poll 10 ms",
    "post to step p50",
    "p95",
    "stored to begun p50",
    "p95",
)
TARGETS = "wanted: 4 x arq for one transform step, p50 of 5 ms from post to step"

CONFIGURATION = f"""\
apps:
  - id: 42
    name: ci
    adapter: direct
    verify: {{scheme: orqo, secrets: [{{env: {common.SECRET_VARIABLE}}}]}}
workflows:
  - id: 1
    name: transform
    steps: [{{id: one, transform: done}}]
  - id: 2
    name: python
    steps: [{{id: one, python: "noop:tell_time"}}]
  - id: 3
    name: chain
    steps:
      - {{id: one, transform: done}}
      - {{id: two, needs: [one], transform: done}}
      - {{id: three, needs: [two], transform: done}}
"""

MODULES = {
    "noop": """\
import time


async def tell_time(argument):
    return time.time()
"""
}


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds of single requests: from the post to the step's first line, and from stored to begun."""

    to_step: list[float]
    to_begun: list[float]


class Row(msgspec.Struct, frozen=True):
    """One kind of worker; `drain` empties a queue of so many once, and gives jobs or runs a second."""

    name: str
    drain: Callable[[int], float]
    rates: list[float]


def main() -> int:
    """Measure, or be the stock arq worker that is measured."""
    options = read_options()
    if options.stock_worker:
        run_stock_worker(options.stock_worker, options.poll)
        return 0
    machine = common.describe_machine()
    rows = measure(options.jobs, options.rounds)
    latencies = [
        measure_stock_latency(ARQ_POLL, options.samples // 4),
        measure_stock_latency(QUICK_POLL, options.samples),
    ]
    latencies.append(measure_our_latency(options.samples))
    notes = [
        machine,
        f"{options.rounds} rounds of {options.jobs}; medians; ratios are medians of each round's",
        TARGETS,
    ]
    common.show_table("Jobs and runs of one worker", COLUMNS, write_rows(rows, latencies), notes)
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.dispatch", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=5000, help="how many wait in the queue")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=100, help="single requests for the latencies")
    parser.add_argument("--stock-worker", default="", help=argparse.SUPPRESS)
    parser.add_argument("--poll", type=float, default=ARQ_POLL, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(jobs: int, rounds: int) -> list[Row]:
    """All workers in turns, round after round."""
    rows = [
        Row("stock arq", lambda count: drain_stock(count, ARQ_POLL), []),
        Row("stock arq, poll 10 ms", lambda count: drain_stock(count, QUICK_POLL), []),
        Row("gateway, one transform step", lambda count: drain_ours(count, "transform"), []),
        Row("gateway, one python step", lambda count: drain_ours(count, "python"), []),
        Row("gateway, three transform steps", lambda count: drain_ours(count, "chain"), []),
    ]
    for turn in range(rounds):
        for row in rows:
            row.rates.append(row.drain(jobs))
            common.say(f"round {turn + 1}: {row.name}: {row.rates[-1]:.0f}/s")
    return rows


def write_rows(rows: Sequence[Row], latencies: Sequence[Latency]) -> list[list[str]]:
    stock, quick, transform, python, chain = rows
    seen = {stock.name: latencies[0], quick.name: latencies[1], python.name: latencies[2]}
    return [
        [
            row.name,
            f"{statistics.median(row.rates):.0f}",
            f"{common.median_ratio(row.rates, stock.rates):.2f}",
            f"{common.median_ratio(row.rates, quick.rates):.2f}",
            *write_latency(seen.get(row.name)),
        ]
        for row in (stock, quick, transform, python, chain)
    ]


def write_latency(latency: Latency | None) -> list[str]:
    if latency is None:
        return [""] * 4
    return [
        f"{common.percentile(values, share):.1f} ms"
        for values in (latency.to_step, latency.to_begun)
        for share in (0.5, 0.95)
    ]


def drain_stock(jobs: int, poll: float) -> float:
    """Jobs a second of a stock arq worker."""
    with common.open_place(CONFIGURATION, MODULES) as place:
        asyncio.run(fill_stock(place, jobs))
        client = valkey.Redis(unix_socket_path=place.socket_path)
        with run_stock(place, poll) as process:
            ended = wait_until_empty(client, default_queue_name, process)
        results = [deserialize_result(raw) for raw in client.mget(client.keys(RESULT + "*"))]
        if sum(result.success for result in results) != jobs:
            message = f"stock arq did {len(results)} of {jobs} jobs"
            raise common.BenchmarkFailed(message)
        return jobs / (ended - min(result.start_time.timestamp() for result in results))


async def fill_stock(place: common.Place, jobs: int) -> None:
    pool = await create_pool(RedisSettings(unix_socket_path=place.socket_path))
    for start in range(0, jobs, SIDE_BY_SIDE):
        count = min(SIDE_BY_SIDE, jobs - start)
        await asyncio.gather(*(pool.enqueue_job("do_nothing") for _ in range(count)))
    await pool.aclose()


def drain_ours(jobs: int, workflow: str) -> float:
    """Runs a second of our worker."""
    with common.open_place(CONFIGURATION, MODULES) as place:
        asyncio.run(fill_ours(place, jobs, workflow))
        client, keys = valkey.Redis(unix_socket_path=place.socket_path), Keys()
        with common.run_module(place, "workers") as process:
            ended = wait_until_empty(client, keys.queue("run"), process)
        done = client.zcard(keys.state("run", "completed"))
        if done != jobs:
            message = f"{done} of {jobs} runs are completed"
            raise common.BenchmarkFailed(message)
        return jobs / (ended - first_start(client, keys, jobs))


async def fill_ours(place: common.Place, jobs: int, workflow: str) -> None:
    client = connect(place.redis_url, timeout=60)
    published = (await Catalog(client, Keys()).read()).workflows[workflow]
    acceptor = Acceptor(client, Keys(), timeout=60, max_queue=jobs + 1, window_ms=WEEK_MS, durability="fsync")
    events = [
        make_event(
            RunRequest(workflow_id=published.id, workflow=workflow, digest=published.digest, session_id="s", app_id=42)
        )
        for _ in range(jobs)
    ]
    await asyncio.gather(*(acceptor.store(event) for event in events))
    await client.aclose()


def make_event(request: RunRequest) -> Acceptable:
    body = accept.BODY.encode()
    head = Head(app_id=42, decision=Decision(outcome="accepted"))
    identity = new_event_id(time.time(), random.randbytes(8))
    return Acceptable(id=identity, body=body, body_hash=hash_body(body), keys=[], head=head, requests=[request])


def wait_until_empty(client: Any, queue: str, process: Popen[bytes]) -> float:
    """When the queue was seen empty, in unix seconds."""
    common.wait_until(lambda: client.zcard(queue) == 0, process, "the worker", pause=0.01)
    return time.time()


def first_start(client: Any, keys: Keys, jobs: int) -> float:
    """When the first of all runs began, in unix seconds."""
    pipe = client.pipeline(transaction=False)
    for run_id in range(1, jobs + 1):
        pipe.hget(keys.run(run_id), "started_at")
    return min(int(raw) for raw in pipe.execute()) / 1000


def measure_our_latency(samples: int) -> Latency:
    """One request at a time, the next after its run is over and a moment of quiet."""
    with (
        common.open_place(CONFIGURATION, MODULES) as place,
        accept.serve_gateway(place),
        common.run_module(place, "workers") as process,
    ):
        client, keys = valkey.Redis(unix_socket_path=place.socket_path), Keys()
        common.wait_until(lambda: client.zcard(keys.named("workers")) == 2, process, "the worker")
        latency = Latency([], [])
        for posted, answer in post_one_by_one(place, samples, QUIET[1]):
            name = keys.run(answer["run_id"])
            common.wait_until(lambda name=name: client.hget(name, "state") == b"completed", process, "the run")
            run = read_run(answer["run_id"], client.hgetall(name))
            latency.to_step.append((run.output - posted) * 1000)
            latency.to_begun.append(float((run.started_at or 0) - run.created_at))
        return latency


def measure_stock_latency(poll: float, samples: int) -> Latency:
    """The same through Starlette, `enqueue_job` and a stock worker."""
    longest = QUIET[1] + poll  # so that requests meet the poll at any moment of its period
    with (
        common.open_place(CONFIGURATION, MODULES) as place,
        accept.SERVERS["enqueue_job"](place),
        run_stock(place, poll) as process,
    ):
        client = valkey.Redis(unix_socket_path=place.socket_path)
        common.wait_until(lambda: client.exists(default_queue_name + ":health-check"), process, "the worker")
        latency = Latency([], [])
        for posted, answer in post_one_by_one(place, samples, longest):
            name = RESULT + answer["job_id"]
            common.wait_until(lambda name=name: client.exists(name), process, "the job")
            result = deserialize_result(client.get(name))
            latency.to_step.append((result.result - posted) * 1000)
            latency.to_begun.append((result.start_time - result.enqueue_time).total_seconds() * 1000)
        return latency


def post_one_by_one(place: common.Place, samples: int, longest: float) -> Iterator[tuple[float, dict[str, Any]]]:
    """When each request was posted (unix seconds), and its answer; with up to `longest` seconds of quiet between."""
    body = json.dumps({"workflow_id": 2, "task": "tell the time"}).encode()
    headers = {"content-type": "application/json"}
    request = Request(method="POST", url=accept.PATH, headers=tuple(headers.items()), body=body)
    headers |= dict(sign(PRESETS["orqo"], common.SECRET, request, time.time(), ""))
    chance = random.Random(1)
    connection = http.client.HTTPConnection(common.HOST, place.settings.port)
    for number in range(samples + 1):
        time.sleep(chance.uniform(QUIET[0], longest))
        posted = time.time()
        connection.request("POST", accept.PATH, body, headers)
        answer = json.loads(connection.getresponse().read())
        if number:  # the first opens connections and imports the step's module
            yield posted, answer
    connection.close()


@contextmanager
def run_stock(place: common.Place, poll: float) -> Iterator[Popen[bytes]]:
    """A stock arq worker as a process."""
    arguments = ("--stock-worker", place.socket_path, "--poll", str(poll))
    with common.run_module(place, "tests.benchmarks.dispatch", *arguments) as process:
        yield process


def run_stock_worker(socket_path: str, poll: float) -> None:
    """arq's Worker as it comes, but for the slots and the poll delay."""
    settings = RedisSettings(unix_socket_path=socket_path)
    Worker(functions=[do_nothing, work], redis_settings=settings, max_jobs=SLOTS, poll_delay=poll).run()


async def do_nothing(ctx: dict[Any, Any]) -> None:
    """The job whose work is nothing."""


async def work(ctx: dict[Any, Any], body: dict[str, Any]) -> float:
    """What the Starlette route enqueues: tells when it began."""
    return time.time()


if __name__ == "__main__":
    sys.exit(main())
