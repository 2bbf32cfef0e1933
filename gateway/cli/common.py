"""What the commands share: how they print, how they fail, how they reach the store."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import getpass
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.management import Management
    from gateway.redelivery import Redelivery
    from gateway.store.catalog import Contents
    from gateway.store.lookups import Lookup

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Result = TypeVar("Result")

COLOURS = {
    "completed": "green",
    "delivered": "green",
    "active": "green",
    "failed": "red",
    "cancelled": "yellow",
    "unknown": "magenta",
    "revoked": "red",
    "disabled": "yellow",
    "failing": "red",
    "slowed": "yellow",
    "expired": "yellow",
    "running": "cyan",
    "sending": "cyan",
    "waiting": "yellow",
    "pending": "blue",
    "skipped": "bright_black",
}
MARKS = {
    "completed": "✔",
    "delivered": "✔",
    "failed": "✘",
    "running": "▶",
    "waiting": "…",
    "cancelled": "✘",
    "unknown": "?",
    "skipped": "–",
    "pending": "·",
}


def out() -> Any:
    """The terminal, or the pipe, that results go to."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def print_json(document: object) -> None:
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def fail(message: str, code: int = 1) -> NoReturn:
    """Say why on standard error and leave: 1 is a clear no, 2 a command that was not understood."""
    sys.stderr.write(f"gateway: {message}\n")
    raise typer.Exit(code)


@contextlib.contextmanager
def plainly() -> Any:
    """Turn our errors into one clear message and exit status 1."""
    try:
        yield
    except GatewayError as error:
        fail(error.message)


class Shard:
    """The store, opened for one command."""

    def __init__(self, redis: Any, settings: Any) -> None:
        from gateway.store.catalog import Catalog
        from gateway.store.keys import Keys
        from gateway.store.listing import Listing
        from gateway.store.reading import Reader

        self.redis = redis
        self.settings = settings
        self.keys = Keys()
        self.reader = Reader(redis, self.keys)
        self.listing = Listing(redis, self.keys)
        self.catalog = Catalog(redis, self.keys)

    def lookup(self, contents: Contents) -> Lookup:
        """Where the values of secrets are looked up, as it is here."""
        from gateway.asgi import master_keys
        from gateway.store.lookups import Lookup

        return Lookup(master_keys(self.settings), contents)

    def redelivery(self) -> Redelivery:
        """What sends callbacks once more."""
        from gateway.asgi import new_redelivery

        return new_redelivery(self.redis, self.keys, self.catalog)

    def management(self, *, sealing: bool = False) -> Management:
        """What changes apps, hooks and tokens. `sealing` sees to it that there is a master key to keep secrets under."""
        from gateway.asgi import master_keys
        from gateway.egress import read_policy
        from gateway.machine import ensure_master_key
        from gateway.management import Management
        from gateway.store.posting import Posting
        from gateway.web.destinations import examine

        if sealing:
            ensure_master_key(self.settings)
        policy = read_policy(self.settings.egress_allow)
        looking = functools.partial(examine, policy)
        posting = Posting(self.redis, self.keys)
        return Management(self.catalog, master_keys(self.settings), policy, posting=posting, examine=looking)


def with_store(work: Callable[[Shard], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine over the store. With no server of its own running, the embedded one is started meanwhile."""
    from gateway.audit import Actor, acting
    from gateway.settings import read_settings
    from gateway.store.connection import MISTAKES

    async def go() -> Result:
        acting.set(Actor(kind="command", name=who()))
        async with open_shard(read_settings()) as shard:
            return await work(shard)

    with plainly():
        try:
            return asyncio.run(go())
        except MISTAKES as error:
            fail(f"can't reach the Valkey server: {error or type(error).__name__}. Is GATEWAY_REDIS_URL right?")


def who() -> str:
    """Who acts, as the machine knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "somebody at the command line"


@contextlib.asynccontextmanager
async def open_shard(settings: Any) -> AsyncIterator[Shard]:
    from gateway.asgi import store_url
    from gateway.store.connection import connect

    with _server_for(settings):
        redis = connect(store_url(settings))
        try:
            yield Shard(redis, settings)
        finally:
            await redis.aclose()


@contextlib.contextmanager
def _server_for(settings: Any) -> Any:
    from gateway import embedded

    if not settings.embedded or embedded.is_running(settings.data_dir):
        yield
        return
    with embedded.exclusive(settings.data_dir):
        server = embedded.start(settings.data_dir)
        try:
            yield
        finally:
            embedded.stop(server)


def coloured(status: str) -> str:
    colour = COLOURS.get(status, "white")
    return f"[{colour}]{MARKS.get(status, ' ')} {status}[/{colour}]"


def local_time(text: str | None) -> str:
    """An ISO time as a person reads it here."""
    if text is None:
        return "–"
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def written(text: str) -> str:
    """Somebody's text as it is: none of it is taken for colours or for commands to the terminal."""
    from rich.markup import escape

    return escape("".join(letter if letter.isprintable() else " " for letter in text))


def in_words(value: Any) -> str:
    """A value of a document on one line: lists and fields with commas, `–` for nothing."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {in_words(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value)) or "–"
    words = {None: "–", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def took(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "–"
    return f"{milliseconds} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"


def table(*columns: str) -> Any:
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made
