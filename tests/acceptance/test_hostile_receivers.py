"""Receivers that answer in every wrong way: what is recorded, what the worker's memory does, how another one fares."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from gateway.callbacks import Callback, Outgoing, compose
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.store.posting import Posting
from gateway.store.reading import Reader
from gateway.store.standings import Standings
from tests.integration.test_client import tls_contexts
from tests.tools import KEYS, connected, publish, read_call, until

pytestmark = pytest.mark.slow

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ROOT = Path(__file__).parents[2]
MEGABYTE = bytes(1 << 20)
METADATA = "http://169.254.169.254/latest/meta-data/"
TIMEOUT = 1.0
ROOM = 25_000
"""kB that the worker may need for all of it."""
ENOUGH = 0.5
"""Seconds within which 99 of 100 messages to a good receiver must be there, whatever the bad ones do."""

FAILED, DELIVERED = "failed", "delivered"
TABLE: dict[str, tuple[str, list[int | str]]] = {
    "500": (FAILED, [500, 500, 500]),
    "429": (FAILED, [429, 429, 429]),
    "410": (FAILED, [410]),
    "301": (FAILED, [301, 301, 301]),
    "tls": (FAILED, ["tls", "tls", "tls"]),
    "hang": (FAILED, ["timeout", "timeout", "timeout"]),
    "drip": (FAILED, ["timeout", "timeout", "timeout"]),
    "close": (FAILED, ["protocol", "protocol", "protocol"]),
    "reset": (FAILED, ["protocol", "protocol", "protocol"]),
    "gigabyte": (DELIVERED, [200]),
    "bomb": (DELIVERED, [200]),
    "disable": (FAILED, [503]),
    "abort": (FAILED, [400]),
    "well": (DELIVERED, [204]),
}
SHORT = {
    "500": b"HTTP/1.1 500 No\r\ncontent-length: 4\r\n\r\nbusy",
    "429": b"HTTP/1.1 429 Slow\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
    "410": b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n",
    "301": f"HTTP/1.1 301 There\r\nlocation: {METADATA}\r\ncontent-length: 0\r\n\r\n".encode(),
    "close": b"",
    "disable": b"HTTP/1.1 503 No\r\nwebhook-delivery: disable\r\ncontent-length: 0\r\n\r\n",
    "abort": b"HTTP/1.1 400 No\r\nwebhook-delivery: abort-message\r\ncontent-length: 0\r\n\r\n",
    "well": b"HTTP/1.1 204 Good\r\n\r\n",
}


class Receivers:
    """One server that is every receiver; the path says which. It keeps when each message came, and under which id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.came: list[tuple[str, str, float]] = []
        self.port = self.tls_port = 0

    def ids(self, mode: str) -> list[str]:
        return [message_id for name, message_id, _ in self.came if name == mode]

    def url(self, mode: str) -> str:
        return f"https://127.0.0.1:{self.tls_port}/tls" if mode == "tls" else f"http://127.0.0.1:{self.port}/{mode}"

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Receivers]:
        context, _ = tls_contexts(self._folder, "localhost")  # of an authority that nobody trusts
        plain = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000)
        secure = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port, self.tls_port = (each.sockets[0].getsockname()[1] for each in (plain, secure))
        try:
            yield self
        finally:
            plain.close()
            secure.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            call = await read_call(reader)
            mode = call.target.removeprefix("/")
            Webhook(SECRET).verify(call.body, call.headers)
            self.came.append((mode, call.headers["webhook-id"], time.monotonic()))
            await self._answer(mode, reader, writer)
        writer.close()

    async def _answer(self, mode: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if mode == "hang":
            await reader.read()
        elif mode == "drip":
            writer.write(b"HTTP/1.1 200 Good\r\ncontent-length: 1000\r\n\r\n")
            while not reader.at_eof():
                writer.write(b".")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.1)
        elif mode == "gigabyte":
            writer.write(b"HTTP/1.1 200 Good\r\ncontent-length: 1073741824\r\n\r\n")
            for _ in range(1024):
                writer.write(MEGABYTE)
                await writer.drain()
        elif mode == "bomb":
            # Two million zero bytes in two thousand: whoever unpacks it has them all in memory.
            writer.write(
                b"HTTP/1.1 200 Good\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB) + BOMB
            )
        elif mode == "reset":
            writer.write(b"HTTP/1.1 200 Good\r\ncontent-length: 100\r\n\r\nten bytes.")
            await writer.drain()
            plug = writer.get_extra_info("socket")
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            writer.write(SHORT[mode])
        await writer.drain()


def _bomb() -> bytes:
    import gzip

    return gzip.compress(gzip.compress(bytes(100 << 20), mtime=0), mtime=0)


BOMB = _bomb()


class Scene:
    """A worker process, its store, and the receivers."""

    def __init__(self, redis: Redis, receivers: Receivers, worker: subprocess.Popen[bytes]) -> None:
        self.redis = redis
        self.receivers = receivers
        self.worker = worker
        self.endpoints: dict[str, str] = {}

    async def post(self, mode: str, count: int = 1) -> list[str]:
        ids = [f"msg_{mode}_{os.urandom(6).hex()}" for _ in range(count)]
        body, url = compose("ping", 0, {}), self.receivers.url(mode)
        messages = [
            Outgoing(id=each, endpoint=self.endpoints[mode], run_id=0, type="ping", url=url, body=body) for each in ids
        ]
        await Posting(self.redis, KEYS).post(messages)
        return ids

    async def ended(self, callback_id: str) -> Callback:
        async def look() -> Callback | None:
            found = await Reader(self.redis, KEYS).callback(callback_id)
            return found if found.state in (FAILED, DELIVERED) else None

        found: Callback = await until(look, 30)
        return found

    async def send_steadily(self, count: int) -> list[float]:
        """Post so many messages to the good receiver, one by one; how long each took to arrive (s), sorted."""
        posted: dict[str, float] = {}
        for _ in range(count):
            begun = time.monotonic()
            (item,) = await self.post("well")
            posted[item] = begun
            await asyncio.sleep(random.uniform(0.005, 0.02))
        await until(lambda: posted.keys() <= set(self.receivers.ids("well")), 30)
        came = {message_id: at for _, message_id, at in self.receivers.came}
        return sorted(came[item] - begun for item, begun in posted.items())

    def memory(self, what: str) -> int:
        """kB of the worker: `VmRSS` now, `VmHWM` at most so far."""
        found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{self.worker.pid}/status").read_text())
        assert found is not None
        return int(found[1])


@contextlib.contextmanager
def worker_process(store: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    settings: dict[str, Any] = {
        "redis_url": store,
        "data_dir": folder,
        "config": folder / "gateway.yaml",
        "egress_allow": "127.0.0.0/8",
        "lease": 2,
        "grace": 0,
        "callback_schedule": "0,0.2,0.2",
        "callback_timeout": TIMEOUT,
        "callback_pause": 1,
    }
    environ = os.environ | {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}
    log = (folder / "worker.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "workers"],
        cwd=folder,
        env=environ | {"A_SECRET": SECRET, "PYTHONPATH": str(ROOT)},
        stdout=log,
        stderr=log,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()


@contextlib.asynccontextmanager
async def open_scene(store: str, folder: Path) -> AsyncIterator[Scene]:
    async with connected(store) as redis, Receivers(folder).listening() as receivers:
        endpoints = [
            {"name": f"r-{mode}", "url": receivers.url(mode), "secrets": [{"env": "A_SECRET"}]} for mode in TABLE
        ]
        await publish(redis, json.dumps({"endpoints": endpoints, "workflows": []}))
        with worker_process(store, folder) as worker:
            scene = Scene(redis, receivers, worker)
            published = (await Catalog(redis, KEYS).read()).endpoints.values()
            scene.endpoints = {each.name.removeprefix("r-"): each.id for each in published}
            await scene.ended((await scene.post("well"))[0])
            yield scene


def test_every_wrong_answer_is_recorded_and_hurts_nobody(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The attempts say what came; ids are stable; 410 and `disable` end an endpoint; memory stays; others are served."""

    async def story() -> None:
        async with open_scene(store, tmp_path) as scene:
            await scene.send_steadily(20)
            quiet, before = await scene.send_steadily(100), scene.memory("VmRSS")
            await insist_on_table(scene)
            standings = await Standings(scene.redis, KEYS).read(list(scene.endpoints.values()))
            disabled = {mode for mode, each in scene.endpoints.items() if standings[each].status == "disabled"}
            assert disabled == {"410", "disable"}
            for mode in ("hang", "drip", "gigabyte", "close", "reset", "tls", "500"):
                await scene.post(mode, 200)
            busy, after = await scene.send_steadily(100), scene.memory("VmHWM")
            slowest = [each[98] * 1000 for each in (quiet, busy)]
            with capsys.disabled():
                sys.stdout.write(
                    f"\nanother endpoint's p99: {slowest[0]:.0f} ms alone, {slowest[1]:.0f} ms beside them; "
                    f"the worker: {before} kB before, {after} kB at most\n"
                )
            assert busy[98] < max(ENOUGH, 2 * quiet[98])
            assert after - before < ROOM

    asyncio.run(asyncio.wait_for(story(), 120))


async def insist_on_table(scene: Scene) -> None:
    ids = {mode: (await scene.post(mode))[0] for mode in TABLE}
    found = {mode: await scene.ended(item) for mode, item in ids.items()}
    seen = {
        mode: (each.state, [at.status or (at.error or "").partition(":")[0] for at in each.attempts])
        for mode, each in found.items()
    }
    assert seen == TABLE
    for mode, each in found.items():
        # What came arrived under one id each time; what fails in the handshake never does.
        assert scene.receivers.ids(mode).count(each.id) == (0 if mode == "tls" else len(each.attempts)), mode
        assert all(at.duration_ms < (TIMEOUT + 1) * 1000 for at in each.attempts), mode
        assert all(len(at.answer or "") <= 512 for at in each.attempts), mode
    waits = [
        second.at - first.at for first, second in zip(found["429"].attempts, found["429"].attempts[1:], strict=False)
    ]
    assert min(waits) >= 1000
    assert found["500"].reason == "all 3 attempts failed"
    assert found["410"].reason == "it answered 410 Gone"
