"""`python -m tests.benchmarks.accept`: how many durable accepts a second, beside what they are measured against.

Three servers of one process each, same machine, same load client, same request, same uvicorn flags, in turns:

* echo: a bare Starlette route that reads the body and answers 200;
* enqueue_job: a Starlette route that parses the body and hands it to stock arq, on an embedded Valkey of its own;
* gateway: `gateway serve`; each request verified by its HMAC, its event and run stored with fsync before the answer.

No worker runs, and each measurement begins with an empty store. The load comes from wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import uvicorn
from arq.connections import ArqRedis, RedisSettings, create_pool
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway.cli.serving import BACKLOG
from gateway.schemes import PRESETS
from gateway.signatures import Request, sign
from gateway.store.connection import connect
from gateway.store.keys import Keys
from tests.benchmarks import common

PATH = "/api/v1/webhooks/42"
WARM_UP = 1
TARGETS = {"echo": 0.5, "enqueue_job": 2.5}
COLUMNS = ("server", "connections", "requests/s", "p50 ms", "p99 ms", "errors", "to echo", "to enqueue_job")

CONFIGURATION = f"""\
apps:
  - id: 42
    name: ci
    adapter: direct
    verify: {{scheme: orqo, secrets: [{{env: {common.SECRET_VARIABLE}}}]}}
workflows:
  - id: 15
    name: review
    steps:
      - id: answer
        transform: done
"""

BODY = json.dumps(
    {
        "workflow_id": 15,
        "task": "Review the changes of build 4711 and say whether they may go to production today",
        "metadata": {"pipeline": "main", "commit": "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "try": 1},
    }
)

SCRIPT = """\
wrk.method = "POST"
wrk.body = %(body)s
%(headers)s
done = function(summary, latency)
  local failed = summary.errors
  io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    failed.status + failed.connect + failed.read + failed.write + failed.timeout))
end
"""

MISSING = """\
This benchmark needs wrk, an HTTP load generator, and it is not installed.
Get it with `apt-get install wrk` (Debian, Ubuntu), `brew install wrk` (macOS), or from github.com/wg/wrk.
"""


class Load(msgspec.Struct, frozen=True):
    """What one run of wrk saw. Latencies are milliseconds; `errors` are answers that are no 2xx, and no answers."""

    requests: int
    rate: float
    p50: float
    p99: float
    errors: int


class Row(msgspec.Struct, frozen=True):
    """One server under one number of connections, a load for each round."""

    server: str
    connections: int
    loads: list[Load]

    @property
    def rates(self) -> list[float]:
        return [load.rate for load in self.loads]


def main() -> int:
    """Measure, or be one of the servers that are measured."""
    options = read_options()
    if options.serve:
        serve(options.serve, options.redis, options.port)
        return 0
    if shutil.which("wrk") is None:
        sys.stderr.write(MISSING)
        return 2
    machine = common.describe_machine()
    rows = measure(options.seconds, options.rounds, options.connections)
    notes = [machine, f"{options.rounds} rounds of {options.seconds:g} s; medians; ratios are medians of each round's"]
    common.show_table("Durable accepts", COLUMNS, [write_row(row, rows) for row in rows], notes + judge(rows))
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.accept", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4, help="how long each measurement takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=common.numbers, default=[32, 128], metavar="32,128")
    parser.add_argument("--serve", choices=APPS, help=argparse.SUPPRESS)
    parser.add_argument("--redis", default="", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(seconds: float, rounds: int, connections: Sequence[int]) -> list[Row]:
    """All servers under all numbers of connections, in turns, round after round."""
    rows = [Row(server, number, []) for number in connections for server in SERVERS]
    for turn in range(rounds):
        for row in rows:
            load = measure_once(row.server, row.connections, seconds)
            common.say(f"round {turn + 1}: {row.server}, {row.connections} connections: {load.rate:.0f}/s")
            row.loads.append(load)
    return rows


def measure_once(server: str, connections: int, seconds: float) -> Load:
    """One server on a fresh store. Raises BenchmarkFailed when the gateway stored less than it said yes to."""
    with common.open_place(CONFIGURATION) as place, SERVERS[server](place):
        script = place.folder / "request.lua"
        script.write_text(write_script(place.settings.port))
        warm_up = press(script, place.settings.port, connections, WARM_UP)
        load = press(script, place.settings.port, connections, seconds)
        if server == "gateway":
            said = warm_up.requests + load.requests - warm_up.errors - load.errors
            stored = asyncio.run(count_runs(place))
            if stored < said:
                message = f"{said} requests were accepted, but {stored} runs are stored"
                raise common.BenchmarkFailed(message)
        return load


def write_script(port: int) -> str:
    """wrk's script for the one request, signed as ORQO signs."""
    url = f"http://{common.HOST}:{port}{PATH}"
    headers = {"content-type": "application/json", "user-agent": "benchmark"}
    request = Request(method="POST", url=url, headers=tuple(headers.items()), body=BODY.encode())
    headers |= dict(sign(PRESETS["orqo"], common.SECRET, request, time.time(), ""))
    lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    return SCRIPT % {"body": json.dumps(BODY), "headers": "\n".join(lines)}


def press(script: Path, port: int, connections: int, seconds: float) -> Load:
    """Ask as fast as it answers, with one thread of wrk."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(script)]
    done = subprocess.run([*command, f"http://{common.HOST}:{port}{PATH}"], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    requests, duration, p50, p99, errors = map(int, line.split()[1:])
    return Load(requests, requests / (duration / 1e6), p50 / 1000, p99 / 1000, errors)


async def count_runs(place: common.Place) -> int:
    redis = connect(place.redis_url)
    try:
        return int(await redis.zcard(Keys().state("run", "pending")))
    finally:
        await redis.aclose()


def write_row(row: Row, rows: Sequence[Row]) -> list[str]:
    loads = row.loads
    ratios = [
        f"{ratio_to(row, rows, base):.2f}" if row.server in ("gateway", "enqueue_job") and row.server != base else ""
        for base in TARGETS
    ]
    return [
        row.server,
        str(row.connections),
        f"{statistics.median(row.rates):.0f}",
        f"{statistics.median(load.p50 for load in loads):.1f}",
        f"{statistics.median(load.p99 for load in loads):.1f}",
        str(sum(load.errors for load in loads)),
        *ratios,
    ]


def ratio_to(row: Row, rows: Sequence[Row], server: str) -> float:
    base = next(each for each in rows if each.server == server and each.connections == row.connections)
    return common.median_ratio(row.rates, base.rates)


def judge(rows: Sequence[Row]) -> list[str]:
    """Each target, and how far the gateway is from it."""
    said = [f"wanted of the gateway: {' and '.join(f'{share:g} x {base}' for base, share in TARGETS.items())}"]
    said.append("every run that was answered with a 2xx is stored (counted each time)")
    missed = [
        f"{row.connections} connections: {ratio_to(row, rows, base):.2f} x {base}"
        for row in rows
        for base, wanted in TARGETS.items()
        if row.server == "gateway" and ratio_to(row, rows, base) < wanted
    ]
    return said + ([f"missed at {'; '.join(missed)}"] if missed else ["reached"])


@contextmanager
def serve_gateway(place: common.Place) -> Iterator[None]:
    """`gateway serve`, as in production, its log thrown away."""
    with common.run_module(place, "gateway", "serve") as process:
        common.wait_until(lambda: common.is_listening(place.settings.port), process, "gateway serve")
        yield


def serve_app(name: str) -> Callable[[common.Place], contextlib.AbstractContextManager[None]]:
    """How one of the apps below is served in a process of its own."""

    @contextmanager
    def serving(place: common.Place) -> Iterator[None]:
        port = place.settings.port
        arguments = ("--serve", name, "--redis", place.socket_path, "--port", str(port))
        with common.run_module(place, "tests.benchmarks.accept", *arguments) as process:
            common.wait_until(lambda: common.is_listening(port), process, name)
            yield

    return serving


SERVERS = {"echo": serve_app("echo"), "enqueue_job": serve_app("enqueue_job"), "gateway": serve_gateway}


def make_echo(_: str) -> Starlette:
    async def echo(request: HttpRequest) -> JSONResponse:
        await request.body()
        return JSONResponse({"status": "ok"})

    return Starlette(routes=[Route(PATH, echo, methods=["POST"])])


def make_enqueue_job(socket_path: str) -> Starlette:
    """What most people would write: parse the body, enqueue it, answer with the job's id."""
    pools: list[ArqRedis] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        pools.append(await create_pool(RedisSettings(unix_socket_path=socket_path)))
        yield
        await pools.pop().aclose()

    async def enqueue(request: HttpRequest) -> JSONResponse:
        job = await pools[0].enqueue_job("work", await request.json())
        return JSONResponse({"job_id": None if job is None else job.job_id})

    return Starlette(routes=[Route(PATH, enqueue, methods=["POST"])], lifespan=lifespan)


APPS = {"echo": make_echo, "enqueue_job": make_enqueue_job}


def serve(name: str, socket_path: str, port: int) -> None:
    """Serve one of the apps with the flags of `gateway serve`."""
    uvicorn.run(
        APPS[name](socket_path),
        host=common.HOST,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        backlog=BACKLOG,
        access_log=False,
        server_header=False,
        log_config=None,
        timeout_keep_alive=5,
    )


if __name__ == "__main__":
    sys.exit(main())
