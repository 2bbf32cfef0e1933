"""A connection to Valkey or Redis that never waits for ever, and the checks that make a server fit to hold events."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeAlias

import msgspec
from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool
from redis.connection import HiredisRespSerializer
from redis.exceptions import RedisError, ResponseError

from gateway.errors import ConfigError, StoreError
from gateway.settings import Durability

Redis: TypeAlias = Any
"""redis-py's client for asyncio. Its own annotations say of each answer that it may or may not be awaitable."""

OLDEST = (6, 2)
PAUSE = 0.1
MISTAKES = (OSError, RedisError, asyncio.TimeoutError)
"""What a call to the store may raise when the server or the way to it is at fault."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of itself."""

    name: str
    version: tuple[int, ...]
    policy: str
    append_only: bool
    append_fsync: str | None
    replicas: int


def connect(url: str, *, timeout: float = 5.0, connections: int = 64) -> ArqRedis:
    """A client for the server at `url` (redis://, rediss:// or unix://). No call outlasts `timeout` seconds.

    Jobs are JSON, as arq's own clients and workers on this queue must have them. Raises ConfigError on a bad URL.
    """
    try:
        pool = ConnectionPool.from_url(
            url,
            max_connections=connections,
            socket_timeout=timeout,
            socket_connect_timeout=min(timeout, 2.0),
            health_check_interval=30,
            **({} if url.startswith("unix:") else {"socket_keepalive": True}),
        )
    except ValueError as error:
        message = f"GATEWAY_REDIS_URL: {error}. It looks like redis://user:password@host:6379/0"
        raise ConfigError(message) from None
    pool.connection_class = _packing_in_c(pool.connection_class)
    client = ArqRedis(pool, job_serializer=write_job, job_deserializer=json.loads)
    # The pool was made for this client alone: closing one closes the other.
    client.auto_close_connection_pool = True
    return client


class _PackingInC:
    """What redis-py does for blocking connections and leaves out for asyncio's: commands are packed by hiredis."""

    _pack = staticmethod(HiredisRespSerializer().pack)

    def pack_command(self, *arguments: Any) -> list[bytes]:
        packed: list[bytes] = self._pack(*arguments)
        return packed


def _packing_in_c(base: type) -> type:
    return type(base.__name__, (_PackingInC, base), {})


def write_job(job: dict[str, Any]) -> bytes:
    """arq's job as JSON. Results are not kept, so that what can't be written is only ever an exception's text."""
    return json.dumps(job, default=repr).encode()


async def inspect_server(redis: Redis) -> Server:
    """Ask the server what it is. Raises StoreError when it can't be reached."""
    try:
        info: dict[str, Any] = await redis.info("everything")
        fsync = await _configured(redis, "appendfsync")
    except MISTAKES as error:
        message = f"can't reach the Valkey server: {error or type(error).__name__}. Is it running, is GATEWAY_REDIS_URL right?"
        raise StoreError(message) from None
    return Server(
        name=str(info.get("server_name", "redis")),
        version=_version(str(info.get("valkey_version") or info.get("redis_version", "0"))),
        policy=str(info.get("maxmemory_policy", "noeviction")),
        append_only=bool(info.get("aof_enabled", 0)),
        append_fsync=fsync,
        replicas=int(info.get("connected_slaves", 0)),
    )


def complaints(server: Server, durability: Durability) -> list[str]:
    """Why this server can't be trusted with events at this durability: one line each, empty when it can."""
    found = []
    if server.version < OLDEST:
        found.append(
            f"the server is {server.name} {_dotted(server.version)}, too old: {_dotted(OLDEST)} or newer is needed"
        )
    if server.policy != "noeviction":
        found.append(
            f"the server evicts keys when memory is short (maxmemory-policy {server.policy}): set it to noeviction"
        )
    if not server.append_only:
        found.append(
            f"the server has no append-only file, GATEWAY_DURABILITY={durability} needs one: set appendonly yes"
        )
    elif durability == "fsync" and server.append_fsync != "always":
        found.append(
            f"the server's appendfsync is {server.append_fsync or 'not readable'}, GATEWAY_DURABILITY=fsync needs always: "
            "set it, or choose GATEWAY_DURABILITY=everysec and accept to lose a second in a power cut"
        )
    elif durability == "everysec" and server.append_fsync == "no":
        found.append("the server's appendfsync is no, GATEWAY_DURABILITY=everysec needs everysec or always")
    if durability == "replica" and not server.replicas:
        found.append("the server has no connected replica, GATEWAY_DURABILITY=replica needs at least one")
    return found


async def check_server(redis: Redis, durability: Durability) -> Server:
    """Refuse a server that could lose events. Raises StoreError with one line for each reason."""
    server = await inspect_server(redis)
    found = complaints(server, durability)
    if found:
        raise StoreError("\n".join(found))
    return server


async def _configured(redis: Redis, name: str) -> str | None:
    try:
        answer: dict[str, str] = await redis.config_get(name)
    except ResponseError:
        return None  # a managed server may not let us look
    return answer.get(name)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
