"""What every test may ask for: one Valkey for the whole session, empty at the start of each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from tests.tools import Valkey

# A machine under load is slow, not wrong; and a failure prints all it takes to see it again. Each run tries the same, so
# that nobody's change fails by another's bad luck; `pytest --hypothesis-profile=search` looks for something new.
hypothesis.settings.register_profile("search", deadline=None, database=None, print_blob=True)
hypothesis.settings.register_profile("gateway", hypothesis.settings.get_profile("search"), derandomize=True)
hypothesis.settings.load_profile("gateway")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, and say how to have it."""
    if os.environ.get("SLOW_TESTS"):
        return
    skipped = pytest.mark.skip(reason="takes minutes: set SLOW_TESTS=1 to run it")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skipped)


@pytest.fixture(scope="session")
def session_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """The server that tests share; none may stop it."""
    with Valkey.running(tmp_path_factory.mktemp("session-valkey")) as valkey:
        yield valkey


@pytest.fixture
def store(session_valkey: Valkey) -> str:
    """The address of an empty store."""
    with redis.Redis.from_url(session_valkey.url) as client:
        client.flushall()
    return session_valkey.url


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A server of the test's own, to be stopped or frozen."""
    with Valkey.running(tmp_path / "own-valkey") as valkey:
        yield valkey
