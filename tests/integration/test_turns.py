"""Whose turn it is: fairness between apps, priority within one, and how many may wait at all."""

from __future__ import annotations

import asyncio

from gateway.runs import MOVES
from gateway.store.records import Records, Write
from tests.tools import KEYS, acceptor, connected, tell
from tests.tools_flow import (
    GATE,
    HOUR,
    ask,
    claim,
    run_of,
    wish,
)


def test_a_heavy_app_does_not_hold_up_a_light_one(store: str) -> None:
    """With thousands queued by one app another's single run is among the next few, and the heavy one keeps its order."""

    async def story() -> None:
        async with connected(store) as redis:
            door = acceptor(redis, max_queue=10_000)
            await asyncio.gather(*(door.store(wish({}, app=1)) for _ in range(3000)))
            assert await claim(redis, 500) == list(range(1, 501))
            (light,) = (await door.store(wish({}, app=2))).run_ids
            held = (await run_of(redis, light)).held
            assert held is not None
            assert held.behind is not None
            assert held.behind <= 1
            assert light in await claim(redis, 2)
            assert (await claim(redis, 10))[-1] < 520

    tell(story())


def test_two_heavy_apps_take_turns(store: str) -> None:
    """The one that came later does not wait for all of the first one's."""

    async def story() -> None:
        async with connected(store) as redis:
            door = acceptor(redis)
            for app in (1, 2):
                await asyncio.gather(*(door.store(wish({}, app=app)) for _ in range(100)))
            first = await claim(redis, 40)
            assert sum(run_id > 100 for run_id in first) == 20

    tell(story())


def test_runs_that_go_on_and_runs_that_begin_share_the_worker(store: str) -> None:
    """A due retry does not wait for all that is queued, nor a new run for all retries."""

    async def story() -> None:
        async with connected(store) as redis:
            door, runs = acceptor(redis), Records(redis, KEYS, "run")
            await asyncio.gather(*(door.store(wish({})) for _ in range(20)))
            for run_id in await claim(redis, 10):
                await runs.write(Write(id=str(run_id), fence=1, move=MOVES["park"], delay_ms=0))
            found = await claim(redis, 6)
            assert sorted(run_id > 10 for run_id in found) == [False] * 3 + [True] * 3

    tell(story())


def test_priority_goes_before_the_app_s_own_runs_and_no_others(store: str) -> None:
    """High priority is next among its own app's runs; a negative one goes behind those that come after it."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(5):
                await ask(redis, {})
            await ask(redis, {"priority": 600})
            held = (await run_of(redis, 6)).held
            assert held is not None
            assert held.behind is not None
            assert held.behind <= 1
            await ask(redis, {"priority": -3})
            await ask(redis, {})
            assert (await claim(redis))[-1] == 7

    tell(story())


def test_a_lane_whose_backlog_was_cancelled_starts_anew(store: str) -> None:
    """An app that cancelled its thousand runs is not punished for them while another app's wait."""

    async def story() -> None:
        async with connected(store) as redis:
            door, runs = acceptor(redis, max_queue=10_000), Records(redis, KEYS, "run")
            await asyncio.gather(*(door.store(wish({}, app=1)) for _ in range(1000)))
            await asyncio.gather(*(door.store(wish({}, app=2)) for _ in range(50)))
            writes = [Write(id=str(run_id), fence=None, move=MOVES["cancel"]) for run_id in range(1, 1001)]
            await asyncio.gather(*(runs.write(write) for write in writes))
            (late,) = (await ask(redis, {}, app=1)).run_ids
            held = (await run_of(redis, late)).held
            assert held is not None
            assert held.behind is not None
            assert held.behind <= 50

    tell(story())


def test_the_queue_s_limit_counts_what_has_not_begun(store: str) -> None:
    """Runs under way or parked take no room; runs that wait at a gate do."""

    async def story() -> None:
        async with connected(store) as redis:
            door = acceptor(redis, max_queue=2)
            await door.store(wish(GATE))
            assert await claim(redis) == [1]
            assert [(await door.store(wish(GATE))).outcome for _ in range(3)] == ["stored", "stored", "full"]
            joined = {"debounce": {"period": HOUR}}
            assert (await door.store(wish(joined))).outcome == "full"

    tell(story())
