"""What both benchmarks stand on: an installation of their own, processes that end with them, and one table."""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from gateway import embedded
from gateway.configuration import read_configuration
from gateway.settings import Settings, read_settings
from gateway.store.catalog import Catalog
from gateway.store.connection import connect
from gateway.store.keys import Keys

HOST = "127.0.0.1"
PATIENCE = 60.0
SECRET_VARIABLE = "BENCHMARK_SECRET"
SECRET = "a secret of forty letters, for one run.."
PROBES = 200


class BenchmarkFailed(Exception):
    """What was measured did not do its work, so there is nothing to compare."""


class Place(msgspec.Struct, frozen=True):
    """An installation of the gateway in a folder that is thrown away: its Valkey runs, its file is applied."""

    folder: Path
    settings: Settings
    environ: dict[str, str]

    @property
    def redis_url(self) -> str:
        return embedded.redis_url(self.settings.data_dir)

    @property
    def socket_path(self) -> str:
        return str(embedded.socket_path(self.settings.data_dir))


@contextmanager
def open_place(configuration: str, modules: Mapping[str, str] | None = None) -> Iterator[Place]:
    """A fresh installation with an embedded Valkey at its usual settings (fsync always), and steps' own modules."""
    with tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as name:
        folder = Path(name)
        (folder / "gateway.yaml").write_text(configuration)
        for module, text in (modules or {}).items():
            (folder / f"{module}.py").write_text(text)
        environ = _environ(folder)
        place = Place(folder, read_settings(environ), environ)
        with embedded.exclusive(place.settings.data_dir):
            server = embedded.start(place.settings.data_dir)
            try:
                asyncio.run(publish(place, configuration))
                yield place
            finally:
                embedded.stop(server)


async def publish(place: Place, configuration: str) -> None:
    """Bring what a gateway.yaml says into the store."""
    redis = connect(place.redis_url)
    try:
        await Catalog(redis, Keys()).apply(read_configuration(configuration))
    finally:
        await redis.aclose()


def _environ(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return kept | {
        "GATEWAY_DATA_DIR": str(folder / "data"),
        "GATEWAY_CONFIG": str(folder / "gateway.yaml"),
        "GATEWAY_HOST": HOST,
        "GATEWAY_PORT": str(free_port()),
        "GATEWAY_LOG_FORMAT": "json",
        "GATEWAY_LOG_LEVEL": "info",
        SECRET_VARIABLE: SECRET,
    }


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def run_module(place: Place, module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module as a process of its own, silent; ended with SIGTERM when the block is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=place.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes], what: str, pause: float = 0.005) -> None:
    """Wait for a condition that a process brings about. Raises BenchmarkFailed when it dies or takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if process.poll() is not None:
            message = f"{what}: the process ended with code {process.returncode}"
            raise BenchmarkFailed(message)
        if time.monotonic() > deadline:
            message = f"{what}: not within {PATIENCE:g} seconds"
            raise BenchmarkFailed(message)
        time.sleep(pause)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def numbers(text: str) -> list[int]:
    """`32,128` as numbers, for the command line."""
    return [int(part) for part in text.split(",")]


def median_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """The median of the rounds' own ratios: what changes on the machine between rounds then matters least."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> None:
    """The one table of a benchmark, what there is to know of it below."""
    table = Table(title=title, caption="\n".join(notes), caption_justify="left", title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def say(text: str) -> None:
    """Progress, beside the table: on standard error."""
    print(text, file=sys.stderr, flush=True)


def describe_machine() -> str:
    """Cores, what else runs, and what an fsync costs where the benchmark's Valkey writes."""
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, load {load:.1f} before, fdatasync {probe_fsync() * 1e6:.0f} µs"


def probe_fsync() -> float:
    """Median seconds of writing half a kilobyte through to the disk of the temporary folder."""
    taken = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(PROBES):
            began = time.perf_counter()
            os.write(file.fileno(), b"x" * 512)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)
