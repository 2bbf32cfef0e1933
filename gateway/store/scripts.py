"""The Lua scripts by name, and how one is called: by its hash, loaded again where the server forgot it."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

from redis.exceptions import NoScriptError

from gateway.store.connection import Redis

NAMES = ("accept", "claim", "record", "beat", "release", "repair", "signal", "clock", "chained")


def _read(name: str) -> bytes:
    folder = resources.files("gateway.store") / "lua"
    prelude = (folder / "prelude.lua").read_bytes()
    return prelude + b"\n" + (folder / f"{name}.lua").read_bytes()


SOURCES: dict[str, bytes] = {name: _read(name) for name in NAMES}
DIGESTS: dict[str, str] = {
    name: hashlib.sha1(text, usedforsecurity=False).hexdigest() for name, text in SOURCES.items()
}


async def call(redis: Redis, name: str, prefix: str, *arguments: bytes | str | float) -> Any:
    """Call a script on one shard. Raises what redis-py raises when the answer is anything but clean."""
    try:
        return await redis.execute_command("EVALSHA", DIGESTS[name], 1, prefix, *arguments)
    except NoScriptError:
        await redis.execute_command("SCRIPT", "LOAD", SOURCES[name])
        return await redis.execute_command("EVALSHA", DIGESTS[name], 1, prefix, *arguments)


def counted(items: list[Any] | tuple[Any, ...]) -> list[Any]:
    """A list as the scripts' `take_list` reads it: its length, then its items."""
    return [len(items), *items]
