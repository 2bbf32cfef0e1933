"""Credits against a real Valkey: set aside when a run is stored, settled when it ends, new in each period."""

from __future__ import annotations

import asyncio

import msgspec

from gateway.credits import Allowance, Payment
from gateway.runs import MOVES, RunRequest
from gateway.store.connection import Redis
from gateway.store.reading import Reader
from gateway.store.records import Records, Write
from tests.tools import KEYS, acceptor, connected, event_of, tell

REQUEST = RunRequest(workflow_id=1, workflow="w", digest="d", session_id="ses")
WEEKLY = Allowance(10, "7d")


async def start(redis: Redis, name: str, cost: int, allowance: Allowance = WEEKLY, runs: int = 1) -> str:
    """Store an event whose runs cost so much together; what the store says."""
    event = event_of(f"evt_{name}", *[REQUEST] * runs)
    paid = msgspec.structs.replace(event, payment=Payment("token:t", allowance, cost))
    return (await acceptor(redis).store(paid)).outcome


async def end(redis: Redis, run_id: int, used: int) -> None:
    """End a run that has used so many credits."""
    write = Write(id=str(run_id), fence=None, fields={"credits": used}, move=MOVES["cancel"])
    assert await Records(redis, KEYS, "run").write(write) == "ok"


async def left(redis: Redis, allowance: Allowance = WEEKLY) -> int:
    return (await Reader(redis, KEYS).balances({"token:t": allowance}))["token:t"].left


async def pass_a_week(redis: Redis) -> None:
    """Let the period have begun a week and a second earlier."""
    await redis.hincrby(KEYS.balance("token:t"), "since", -(7 * 86_400_000 + 1000))


def test_what_cant_be_afforded_leaves_nothing(store: str) -> None:
    """A start over the balance stores no event and no run, and takes nothing; one that fits is stored."""

    async def story() -> None:
        async with connected(store) as redis:
            assert await start(redis, "a", 6) == "stored"
            assert await start(redis, "b", 5) == "poor"
            assert await redis.get(KEYS.named("runs:last")) == b"1"
            assert not await redis.exists(KEYS.event("evt_b"))
            assert await left(redis) == 4
            assert await start(redis, "c", 4) == "stored"
            assert await left(redis) == 0

    tell(story())


def test_many_at_once_can_not_spend_twice(store: str) -> None:
    """Of twenty that start at the same moment only those are stored that the balance pays for."""

    async def story() -> None:
        async with connected(store) as redis:
            outcomes = await asyncio.gather(*(start(redis, str(number), 3) for number in range(20)))
            assert sorted(outcomes) == ["poor"] * 17 + ["stored"] * 3
            assert await left(redis) == 1

    tell(story())


def test_the_rest_comes_back_and_what_was_more_is_taken(store: str) -> None:
    """Each run gives back what it did not use of its share; one that used more takes the difference."""

    async def story() -> None:
        async with connected(store) as redis:
            await start(redis, "two", 8, runs=2)
            await end(redis, 1, 1)
            assert await left(redis) == 5
            await end(redis, 2, 6)
            assert await left(redis) == 3

    tell(story())


def test_a_period_refills_and_does_not_add_up(store: str) -> None:
    """After a period there is as much as at first, however much was left of the one before."""

    async def story() -> None:
        async with connected(store) as redis:
            await start(redis, "a", 2)
            await pass_a_week(redis)
            assert await left(redis) == 10
            await start(redis, "b", 3)
            assert await left(redis) == 7

    tell(story())


def test_what_another_period_paid_does_not_come_back(store: str) -> None:
    """A run that ends after a refill gives nothing back, nor takes anything: no period has more than its credits."""

    async def story() -> None:
        async with connected(store) as redis:
            await start(redis, "old", 10)
            await pass_a_week(redis)
            await start(redis, "new", 1)
            await end(redis, 1, 0)
            assert await left(redis) == 9
            await end(redis, 2, 0)
            assert await left(redis) == 10

    tell(story())


def test_without_a_period_it_is_never_refilled(store: str) -> None:
    """An allowance that is given once is used up once."""

    async def story() -> None:
        async with connected(store) as redis:
            once = Allowance(10)
            await start(redis, "a", 10, once)
            await pass_a_week(redis)
            assert await start(redis, "b", 1, once) == "poor"
            await end(redis, 1, 10)
            assert await left(redis, once) == 0

    tell(story())
