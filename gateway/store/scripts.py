"""The Lua scripts by name, and how one is called: by its hash, loaded again where the server forgot it."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

from redis.exceptions import NoScriptError

from gateway.store.connection import Redis

# Lua makes every function anew at each call: what accepts without flow control goes without its functions.
PARTS: dict[str, tuple[str, ...]] = {
    "accept": ("prelude", "turns", "last", "accept"),
    "accept_flow": ("prelude", "turns", "flow", "arrange", "last", "accept"),
    "claim": ("prelude", "turns", "flow", "claim"),
    "deal": ("prelude", "lanes", "deal"),
    "record": ("prelude", "turns", "flow", "lanes", "health", "outbox", "record"),
    "revive": ("prelude", "lanes", "revive"),
    "post": ("prelude", "lanes", "outbox", "post"),
    "beat": ("prelude", "lanes", "beat"),
    "release": ("prelude", "lanes", "release"),
    "repair": ("prelude", "turns", "flow", "lanes", "repair"),
    "refuse": ("prelude", "refuse"),
    "mend": ("prelude", "last", "origins", "mend"),
    "retire": ("prelude", "lanes", "origins", "retire"),
    "signal": ("prelude", "signal"),
    "clock": ("prelude", "clock"),
    "chained": ("prelude", "chained"),
    "arrive": ("prelude", "arrive"),
}
"""Each script, and the files it is made of."""


def _read(parts: tuple[str, ...]) -> bytes:
    folder = resources.files("gateway.store") / "lua"
    return b"\n".join((folder / f"{part}.lua").read_bytes() for part in parts)


SOURCES: dict[str, bytes] = {name: _read(parts) for name, parts in PARTS.items()}
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
