"""Work beside the dispatchers: no failure ends it, and an outage is told of once."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from workers.loops import take_turns


class Over(BaseException):
    """The test has seen enough."""


def test_an_outage_is_told_of_once_and_a_mistake_each_time() -> None:
    """Turns go on after every failure; the second outage, after a good turn, is told of again."""
    lost, wrong = RedisConnectionError("gone"), KeyError("bug")
    turns = iter([lost, lost, None, lost, wrong, wrong, Over()])

    async def turn() -> float:
        failure = next(turns)
        if failure is not None:
            raise failure
        return 0.0

    with capture_logs() as logs, pytest.raises(Over):
        asyncio.run(take_turns("ticks", turn, 0.0))
    assert [entry["log_level"] for entry in logs] == ["warning", "warning", "error", "error"]
    assert {entry["event"] for entry in logs} == {"ticks are put off"}
