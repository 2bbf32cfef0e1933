"""What makes a server fit to hold events, and a connection that never waits for ever."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from gateway.asgi import create_app
from gateway.errors import StoreError
from gateway.settings import Durability
from gateway.store.connection import Server, check_server, complaints, connect, inspect_server
from tests.tools import Valkey, connected, settings_for, tell
from workers.main import open_parts

GOOD = Server(
    name="valkey", version=(9, 1, 0), policy="noeviction", append_only=True, append_fsync="always", replicas=0
)


@pytest.mark.parametrize("durability", ["fsync", "everysec"])
def test_the_embedded_server_is_fit(store: str, durability: Durability) -> None:
    """Our own Valkey evicts nothing and writes every command down before it answers."""

    async def story() -> None:
        async with connected(store) as redis:
            server = await check_server(redis, durability)
            assert (server.name, server.append_only, server.append_fsync) == ("valkey", True, "always")

    tell(story())


@pytest.mark.parametrize(
    ("changes", "durability", "words"),
    [
        ({"version": (6, 0, 16)}, "fsync", "too old: 6.2"),
        ({"policy": "allkeys-lru"}, "fsync", "noeviction"),
        ({"append_only": False}, "fsync", "appendonly yes"),
        ({"append_only": False}, "everysec", "appendonly yes"),
        ({"append_fsync": "everysec"}, "fsync", "GATEWAY_DURABILITY=everysec"),
        ({"append_fsync": None}, "fsync", "not readable"),
        ({"append_fsync": "no"}, "everysec", "everysec or always"),
        ({}, "replica", "replica"),
    ],
)
def test_what_could_lose_events_is_a_complaint(changes: dict[str, object], durability: Durability, words: str) -> None:
    """Each shortcoming of a server is one line that says what to set."""
    (complaint,) = complaints(msgspec.structs.replace(GOOD, **changes), durability)
    assert words in complaint
    assert "\n" not in complaint


@pytest.mark.parametrize(
    ("changes", "durability"),
    [
        ({}, "fsync"),
        ({"version": (6, 2)}, "fsync"),
        ({"append_fsync": "everysec"}, "everysec"),
        ({"append_fsync": None}, "everysec"),
        ({"replicas": 1, "append_fsync": "everysec"}, "replica"),
    ],
)
def test_a_server_that_keeps_its_word_is_taken(changes: dict[str, object], durability: Durability) -> None:
    """What suffices for the durability asked for is no complaint."""
    assert complaints(msgspec.structs.replace(GOOD, **changes), durability) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("maxmemory-policy", "allkeys-lru", "set it to noeviction"),
        ("appendfsync", "everysec", "needs always"),
        ("appendonly", "no", "set appendonly yes"),
    ],
)
def test_receiver_and_worker_refuse_an_unfit_server(
    own_valkey: Valkey, tmp_path: Path, name: str, value: str, words: str
) -> None:
    """Neither starts on a server that could lose events, and each says which setting it is."""
    settings = settings_for(own_valkey.url, tmp_path)

    async def receiver() -> None:
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            pytest.fail("the receiver started")

    async def worker() -> None:
        async with open_parts(settings):
            pytest.fail("the worker started")

    async def story() -> None:
        async with connected(own_valkey.url) as redis:
            await redis.config_set(name, value)
        for start in (receiver, worker):
            with pytest.raises(StoreError, match=words):
                await start()

    tell(story())


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "unix:///no/such/socket", "redis://256.256.256.256:6379"])
def test_a_server_that_is_not_there_is_told(url: str) -> None:
    """No server at the address is one clear error and not a traceback of the library."""

    async def story() -> None:
        async with connected(url) as redis:
            with pytest.raises(StoreError, match="can't reach the Valkey server"):
                await inspect_server(redis)

    tell(story())


def test_no_call_outlasts_its_timeout(own_valkey: Valkey) -> None:
    """A frozen server holds nobody longer than the timeout of the connection."""

    async def story() -> None:
        redis = connect(own_valkey.url, timeout=0.3)
        await redis.ping()
        own_valkey.freeze()
        began = time.monotonic()
        with pytest.raises(StoreError):
            await inspect_server(redis)
        assert time.monotonic() - began < 2
        own_valkey.thaw()
        await redis.aclose()

    tell(story())
