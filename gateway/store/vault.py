"""Secrets that are kept under a name, for gateway.yaml and workflows to use as `{secret: NAME}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.errors import Conflict, NotFound, Unprocessable
from gateway.secrets import LONGEST, NAME, SHORTEST, VALUE, StoredSecret, seal
from gateway.store.catalog import Catalog, Contents, Pipeline
from gateway.store.changes import Changes

HASH = "secrets"


class Vault:
    """Writes the secrets of one shard, each change with its entry in the audit log."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def put(self, name: str, value: str, master_keys: Sequence[bytes], now: int) -> tuple[StoredSecret, bool]:
        """Keep a value under a name at this time in milliseconds, in place of what was there; and whether it is new.

        Raises Unprocessable for a name or a value that can't be, ConfigError without a master key.
        """
        check_secret(name, value)
        sealed = seal(master_keys, f"secret:{name}", value)
        made: list[tuple[StoredSecret, bool]] = []

        async def write(pipe: Pipeline, contents: Contents) -> Changes:
            before = contents.secrets.get(name)
            made[:] = [(StoredSecret(sealed, before.created_at if before else now, now), before is None)]
            pipe.hset(self._catalog.keys.named(HASH), name, msgspec.json.encode(made[0][0]))
            line = f"secret {name}"
            return Changes([line], [], []) if before is None else Changes([], [line], [])

        await self._catalog.change(write)
        return made[0]

    async def remove(self, name: str, *, force: bool = False) -> StoredSecret:
        """Forget a secret. Raises NotFound; and unless it is forced, Conflict where something names it."""
        removed: list[StoredSecret] = []

        async def write(pipe: Pipeline, contents: Contents) -> Changes:
            if name not in contents.secrets:
                message = f"there is no secret {name!r}; `gateway secret list` shows those there are"
                raise NotFound(message)
            users = await self.users(contents, name)
            if users and not force:
                message = f"secret {name!r} is named by {', '.join(users)}; take it out there first, or force it"
                raise Conflict(message)
            removed[:] = [contents.secrets[name]]
            pipe.hdel(self._catalog.keys.named(HASH), name)
            return Changes([], [], [f"secret {name}"])

        await self._catalog.change(write)
        return removed[0]

    async def users(self, contents: Contents, name: str) -> list[str]:
        """The apps, endpoints and published workflows that name a secret."""
        found = [f"app {each.name}" for each in contents.apps.values() if _names(msgspec.to_builtins(each), name)]
        endpoints = contents.endpoints.values()
        found += [f"endpoint {each.name}" for each in endpoints if _names(msgspec.to_builtins(each), name)]
        documents = [(each.name, await self._catalog.document(each.digest)) for each in contents.workflows.values()]
        return sorted([*found, *(f"workflow {each}" for each, document in documents if _names(document, name))])


def check_secret(name: str, value: str) -> None:
    """Raise Unprocessable for what can't be kept: the message says nothing of the value but its length."""
    if not re.fullmatch(NAME.strip("^$"), name):
        message = "name: takes 1 to 100 letters, digits, and _ . - behind the first"
        raise Unprocessable(message, path="name")
    if not SHORTEST <= len(value) <= LONGEST:
        message = f"value: takes {SHORTEST} to {LONGEST} letters, this has {len(value)}"
        raise Unprocessable(message, path="value")
    if not re.fullmatch(VALUE.strip("^$"), value):
        message = "value: has a NUL byte in it, or a blank or line break at one of its ends"
        raise Unprocessable(message, path="value")


def _names(document: Any, name: str) -> bool:
    if isinstance(document, dict):
        return document == {"secret": name} or any(_names(each, name) for each in document.values())
    return isinstance(document, list) and any(_names(each, name) for each in document)
