"""Shared by the tests: a Valkey, a receiver, a worker and an HTTP peer, all real and on loopback; and waiting."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import inspect
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from gateway import embedded
from gateway.asgi import create_app
from gateway.configuration import read_configuration
from gateway.events import Acceptable, Decision, Head, hash_body
from gateway.runs import Run, RunRequest
from gateway.settings import Settings, read_settings
from gateway.store.accepting import Acceptor
from gateway.store.catalog import Catalog
from gateway.store.changes import Changes
from gateway.store.connection import Redis, connect
from gateway.store.keys import Keys
from gateway.store.listing import EventFilter, Listing
from gateway.store.reading import Reader, StoredEvent
from gateway.web.protocol import Protocol
from workers.main import work

PATIENCE = 30.0
SECRET = "a secret of the tests"
KEYS = Keys()


class RoomyServer(ThreadingHTTPServer):
    """An HTTP server of the standard library that takes many connections at once: by itself it lets five queue, and
    resets some of those that come beyond.
    """

    request_queue_size = 1024


class Valkey:
    """An embedded server that a test may stop, start again, freeze and thaw."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = embedded.redis_url(folder)
        self._process = embedded.start(folder)

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path) -> Iterator[Valkey]:
        with embedded.exclusive(folder):
            valkey = cls(folder)
            try:
                yield valkey
            finally:
                valkey.thaw()
                valkey.stop()

    def stop(self) -> None:
        embedded.stop(self._process)

    def start(self) -> None:
        self._process = embedded.start(self.folder)

    def freeze(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGCONT)


def tell(story: Coroutine[Any, Any, None], seconds: float = 60) -> None:
    """Run one test's coroutine, but not for ever."""

    async def told() -> None:
        async with asyncio.timeout(seconds):
            await story

    asyncio.run(told())


async def until(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait until the condition, a plain one or one to be awaited, gives something true, and give that."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    async with asyncio.timeout(patience):
        # The timeout's one cancellation can be lost within a library's own.
        while loop.time() <= end:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.005)
    raise TimeoutError


def settings_for(url: str, folder: Path, **changes: object) -> Settings:
    """Settings with short times; loopback may be called. Changes are named as in Settings."""
    environ: dict[str, object] = {
        "redis_url": url,
        "data_dir": folder,
        "config": folder / "gateway.yaml",
        "concurrency": 20,
        "lease": 1,
        "grace": 2,
        "egress_allow": "127.0.0.0/8",
        "accept_timeout": 1,
        "callback_schedule": "0,0.1,0.1",
        "callback_timeout": 2,
    }
    return read_settings({f"GATEWAY_{name.upper()}": str(value) for name, value in (environ | changes).items()})


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Redis]:
    redis = connect(url)
    try:
        yield redis
    finally:
        await redis.aclose()


async def publish(redis: Redis, text: str) -> Changes:
    """Make the store say what this gateway.yaml says."""
    return await Catalog(redis, KEYS).apply(read_configuration(text))


async def ended(redis: Redis, run_id: int) -> Run:
    """Wait until a run has ended."""

    async def look() -> Run | None:
        run = await Reader(redis, KEYS).run(run_id)
        return run if run.ended_at is not None else None

    found: Run = await until(look)
    return found


async def everything(redis: Redis) -> str:
    """All that the store holds in hashes and strings, to look for what must not be there."""
    found = []
    async for key in redis.scan_iter():
        kind = await redis.type(key)
        reads = {b"hash": redis.hgetall, b"string": redis.get}
        found.append(str(await reads[kind](key)) if kind in reads else "")
    return "".join(found)


async def lose_lease(redis: Redis, callback_id: str, endpoint: str = "app-1") -> None:
    """Let the time of a callback's lease be over."""
    job = KEYS.job("callback", callback_id)
    await redis.delete(f"arq:in-progress:{job}")
    await redis.zadd(KEYS.queue("callback"), {job: 1})
    await redis.zadd(KEYS.lane(endpoint), {callback_id: 1})
    await redis.zadd(KEYS.busy(endpoint), {callback_id: 1})
    await redis.zadd(KEYS.named("callbacks:lanes"), {endpoint: 1})


async def all_events(redis: Redis) -> list[StoredEvent]:
    """All events, the oldest first."""
    page = await Listing(redis, KEYS).events(EventFilter(), 1000)
    reader = Reader(redis, KEYS)
    return [await reader.event(event.id) for event in reversed(page.events)]


def event_of(event_id: str, *requests: RunRequest, keys: Sequence[str] = (), body: bytes = b"{}") -> Acceptable:
    """A verified event of app 1, as a door hands it to the store."""
    head = Head(app_id=1, decision=Decision(outcome="accepted"))
    return Acceptable(
        id=event_id, body=body, body_hash=hash_body(body), keys=list(keys), head=head, requests=list(requests)
    )


def acceptor(redis: Redis, **changes: Any) -> Acceptor:
    limits: dict[str, Any] = {"timeout": 3.0, "max_queue": 1000, "window_ms": 60_000, "durability": "fsync"}
    return Acceptor(redis, KEYS, **(limits | changes))


async def begin(redis: Redis, name: str, **fields: Any) -> int:
    """Start a run of a published workflow for app 1, unless the fields say otherwise; gives its id."""
    published = (await Catalog(redis, KEYS).read()).workflows[name]
    given: dict[str, Any] = {"app_id": 1, "session_id": "ses_t"} | fields
    request = RunRequest(workflow_id=published.id, workflow=name, digest=published.digest, **given)
    stored = await acceptor(redis).store(event_of(f"evt_{os.urandom(6).hex()}", request))
    return stored.run_ids[0]


async def begin_many(redis: Redis, name: str, count: int) -> list[int]:
    """Start so many runs of a published workflow for app 1; gives their ids."""
    published = (await Catalog(redis, KEYS).read()).workflows[name]
    request = RunRequest(workflow_id=published.id, workflow=name, digest=published.digest, app_id=1, session_id="ses_t")
    door = acceptor(redis, timeout=30.0, max_queue=count + 10_000)
    events = [event_of(f"evt_{os.urandom(6).hex()}", request) for _ in range(count)]
    stored = await asyncio.gather(*(door.store(event) for event in events))
    return [each.run_ids[0] for each in stored]


@contextlib.asynccontextmanager
async def receiving(settings: Settings, clock: Callable[[], float] = time.time) -> AsyncIterator[int]:
    """The receiver, served as `gateway serve` serves it, by this clock; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, clock),
            http=Protocol,
            ws="none",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            log_config=None,
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await until(lambda: server.started or serving.done())
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving
        listener.close()


@contextlib.asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[None]:
    """A worker, as `gateway worker` runs it, until the block ends."""
    stop = asyncio.Event()
    task = asyncio.create_task(work(settings, stop))
    try:
        yield
    finally:
        stop.set()
        await task


def signed(body: bytes, secret: str = SECRET, **headers: str) -> dict[str, str]:
    """The headers of an ORQO request, signed as its documentation says."""
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"content-type": "application/json", "x-signature-256": f"sha256={digest}"} | named


class Call(msgspec.Struct, frozen=True):
    """One request that a peer got."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Reply(msgspec.Struct, frozen=True):
    """One answer of a peer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}


class Peer:
    """An HTTP server on loopback that answers from a list, the last answer for ever, and keeps what it got."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies) or [Reply()]
        self.calls: list[Call] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def listening(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Peer]:
        server = await asyncio.start_server(self._serve, host, port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            self.calls.append(await read_call(reader))
            writer.write(_bytes_of(self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]))
            await writer.drain()
        writer.close()


async def read_call(reader: asyncio.StreamReader) -> Call:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Call(method, target, headers, body)


def _bytes_of(reply: Reply) -> bytes:
    headers = {"content-length": str(len(reply.body)), "connection": "close"} | reply.headers
    lines = [f"HTTP/1.1 {reply.status} Word", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + reply.body
