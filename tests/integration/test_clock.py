"""The clock over a real store: one run a tick, however many look and whatever their machines think the time is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.events import parse_body
from gateway.schedules import LiveSchedule
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.store.reading import StoredEvent
from gateway.store.registry import Registry
from gateway.store.ticking import Ticking
from tests.tools import KEYS, acceptor, all_events, connected, ended, publish, settings_for, tell, until, working
from workers.clock import LOOK, SOON, Clock

MINUTE = 60_000
SCHEDULES = KEYS.named("schedules")


def file(*schedules: object, **more: Any) -> str:
    """A gateway.yaml with one workflow on these schedules."""
    workflow = {"name": "w", "schedule": list(schedules), "steps": [{"id": "a", "transform": "${event.body.tick}"}]}
    return json.dumps({"workflows": [workflow | more]})


def every_minute(**more: Any) -> dict[str, Any]:
    return {"cron": "* * * * *"} | more


def registry_of(redis: Redis) -> Registry:
    return Registry(redis, Catalog(redis, KEYS), KEYS.named("changed"), ())


async def clock_of(redis: Redis, **limits: Any) -> Clock:
    registry = registry_of(redis)
    await registry.load()
    return Clock(Ticking(redis, KEYS), registry, acceptor(redis, **limits))


async def now_of(redis: Redis) -> int:
    seconds, micros = await redis.time()
    return int(seconds * 1000 + micros // 1000)


async def schedule_of(redis: Redis) -> LiveSchedule:
    registry = registry_of(redis)
    await registry.load()
    ((_, workflow),) = registry.live_workflows()
    return workflow.schedules[0]


async def set_back(redis: Redis, by: int) -> int:
    """Let the last tick of every schedule be so long ago; gives that time."""
    last = await now_of(redis) - by
    for field in await redis.hkeys(SCHEDULES):
        await redis.hset(SCHEDULES, field, last)
    return last


async def events_of(redis: Redis) -> list[StoredEvent]:
    """All events, the oldest first."""
    return await all_events(redis)


async def last_of(redis: Redis) -> int:
    (last,) = await redis.hvals(SCHEDULES)
    return int(last)


@contextlib.asynccontextmanager
async def planned(store: str, *schedules: object, back: int = 0, **more: Any) -> AsyncIterator[tuple[Redis, Clock]]:
    """A store with a workflow on these schedules, seen by a clock; their last tick is then set back."""
    async with connected(store) as redis:
        await publish(redis, file(*schedules, **more))
        clock = await clock_of(redis)
        await clock.turn()
        if back:
            await set_back(redis, back)
        yield redis, clock


def test_a_new_schedule_begins_now(store: str) -> None:
    """Its first look starts nothing: what lies before is no tick of it. It is worth looking again at the next one."""

    async def story() -> None:
        async with planned(store, "0 0 1 1 *") as (redis, clock):
            assert abs(await last_of(redis) - await now_of(redis)) < 10_000
            assert await clock.turn() == LOOK
            assert await events_of(redis) == []

    tell(story())


@pytest.mark.parametrize("wrong", [0, 30 * 86_400, -30 * 86_400], ids=["right", "a month ahead", "a month behind"])
def test_many_clocks_start_one_run_a_tick(store: str, monkeypatch: pytest.MonkeyPatch, wrong: int) -> None:
    """Five clocks that look at once and again give each tick one run, also on machines whose own clock is wrong."""
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + wrong)

    async def story() -> None:
        async with planned(store, every_minute(missed="run_all"), back=10 * MINUTE) as (redis, first):
            after = await last_of(redis)
            async with contextlib.AsyncExitStack() as stack:
                others = [await stack.enter_async_context(connected(store)) for _ in range(4)]
                clocks = [first, *[await clock_of(other) for other in others]]
                for _ in range(2):
                    await asyncio.gather(*(clock.turn() for clock in clocks))
            wanted = list((await schedule_of(redis)).ticks(after, await last_of(redis)))
            events = await events_of(redis)
            assert len(wanted) >= 10
            assert [int(event.id[4:16], 16) for event in events] == wanted
            assert [event.run_ids for event in events] == [[run_id] for run_id in range(1, len(wanted) + 1)]

    tell(story())


def test_two_workers_run_each_tick_once(store: str, tmp_path: Path) -> None:
    """In running workers a missed tick starts a run that reads its tick from its event, and says what started it."""

    async def story() -> None:
        async with planned(store, every_minute(zone="Asia/Tokyo"), back=5 * MINUTE) as (redis, _):
            async with working(settings_for(store, tmp_path)), working(settings_for(store, tmp_path)):
                run = await ended(redis, await until(lambda: first_run(redis)))
            (event, *later) = await events_of(redis)
            told = parse_body(event.body)
            assert (run.state, run.output, run.request.trigger) == ("completed", told["tick"], "schedule")
            assert told["tick"].endswith(":00+09:00")
            assert (event.head.type, event.run_ids, run.request.event_id) == ("schedule", [run.id], event.id)
            # A minute may have begun meanwhile; no tick has two events.
            assert len({each.id[:16] for each in (event, *later)}) == len(later) + 1 <= 2

    tell(story())


def test_a_workflow_says_when_it_starts_next(store: str, tmp_path: Path) -> None:
    """The command, for people and as JSON, shows each schedule with its next tick; the document is the API's."""
    environ = os.environ | {"GATEWAY_REDIS_URL": store, "GATEWAY_DATA_DIR": str(tmp_path)}

    def show(*options: str) -> str:
        command = [sys.executable, "-m", "gateway", "workflow", "show", "w", *options]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=40).stdout

    async def story() -> None:
        async with planned(store, "0 0 1 1 *", {"cron": "30 5 1 1 *", "zone": "Asia/Kolkata", "missed": "skip"}):
            document = json.loads(await asyncio.to_thread(show, "--json"))
            year = datetime.now(UTC).year + 1
            assert document["schedules"] == [
                {"cron": "0 0 1 1 *", "zone": "UTC", "missed": "run_once", "next_at": f"{year}-01-01T00:00:00.000Z"},
                {
                    "cron": "30 5 1 1 *",
                    "zone": "Asia/Kolkata",
                    "missed": "skip",
                    "next_at": f"{year}-01-01T00:00:00.000Z",
                },
            ]
            words = await asyncio.to_thread(show)
            assert f"next tick {year}-01-01T00:00:00.000Z  (30 5 1 1 *, Asia/Kolkata; missed: skip)" in words

    tell(story())


def test_a_late_schedule_is_said_to_be_late(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The log names the workflow, the tick and the seconds, and how many ticks were passed over."""

    async def story() -> None:
        async with planned(store, "0 0 1 1 *", back=400 * 86_400_000) as (_, clock):
            await clock.turn()
            said = capsys.readouterr().out
            assert "schedule is late" in said
            assert "ticks were missed" not in said
        async with planned(store, every_minute(missed="skip"), back=60 * MINUTE) as (_, clock):
            await clock.turn()
            assert "ticks were missed and are passed over" in capsys.readouterr().out

    tell(story())


async def first_run(redis: Redis) -> int:
    return 1 if await redis.exists(KEYS.run(1)) else 0


def test_a_worker_that_dies_before_it_writes_the_tick_down_doubles_nothing(store: str) -> None:
    """What was stored and not written down as done is stored again by the next, which is the same event and run."""

    async def story() -> None:
        async with planned(store, every_minute(missed="run_all"), back=3 * MINUTE) as (redis, clock):
            after = await last_of(redis)
            await clock.turn()
            (field,) = await redis.hkeys(SCHEDULES)
            first = [event.id for event in await events_of(redis)]
            await redis.hset(SCHEDULES, field, after)
            await (await clock_of(redis)).turn()
            assert [event.id for event in await events_of(redis)][: len(first)] == first
            assert len(first) >= 3
            assert int(await redis.get(KEYS.named("runs:last"))) == len(await events_of(redis))

    tell(story())


@pytest.mark.parametrize(("missed", "least", "most"), [("run_once", 1, 1), ("skip", 0, 1), ("run_all", 60, 61)])
def test_the_policy_decides_on_missed_ticks(store: str, missed: str, least: int, most: int) -> None:
    """After an hour's outage one run, none but what is on time, or all; and the next look starts nothing of it."""

    async def story() -> None:
        async with planned(store, every_minute(missed=missed), back=60 * MINUTE) as (redis, clock):
            await clock.turn()
            started = len(await events_of(redis))
            assert least <= started <= most
            assert await now_of(redis) - await last_of(redis) < 2 * MINUTE
            await clock.turn()
            assert len(await events_of(redis)) - started <= 1

    tell(story())


def test_the_last_tick_moves_only_forward(store: str) -> None:
    """A slow worker that writes an older tick down as done changes nothing, nor one whose schedule is gone."""

    async def story() -> None:
        async with planned(store, every_minute()) as (redis, _):
            last, (field,) = await last_of(redis), await redis.hkeys(SCHEDULES)
            ticking = Ticking(redis, KEYS)
            await ticking.advance(0, {field.decode(): last - 1, "gone 1": 5}, (), ())
            assert await last_of(redis) == last
            await ticking.advance(0, {field.decode(): last + 1}, (), ())
            assert await last_of(redis) == last + 1

    tell(story())


def test_a_changed_schedule_begins_anew(store: str) -> None:
    """Another time is another schedule, from now on; the one before is forgotten, and so is that of a removed workflow."""

    async def story() -> None:
        async with planned(store, every_minute(), back=60 * MINUTE) as (redis, clock):
            await publish(redis, file("0 0 1 1 *"))
            assert await clock.turn() == SOON
            for _ in range(2):
                await clock.turn()
            assert await events_of(redis) == []
            assert await now_of(redis) - await last_of(redis) < 10_000
            await publish(redis, "workflows: []\n")
            for _ in range(3):
                await clock.turn()
            assert await redis.hlen(SCHEDULES) == 0

    tell(story())


def test_a_schedule_removed_while_no_worker_ran_is_forgotten(store: str) -> None:
    """The first clock to look again drops it, so that it begins anew when it comes back."""

    async def story() -> None:
        async with planned(store, every_minute(), back=60 * MINUTE) as (redis, _):
            await publish(redis, "workflows: []\n")
            clock = await clock_of(redis)
            for _ in range(2):
                await clock.turn()
            assert await redis.hlen(SCHEDULES) == 0

    tell(story())


def test_who_does_not_know_the_last_change_starts_nothing(store: str) -> None:
    """A worker whose copy is old is sent to read the new one: it starts no tick of a schedule that was taken out."""

    async def story() -> None:
        async with planned(store, every_minute(), back=60 * MINUTE) as (redis, clock):
            await publish(redis, file())
            for _ in range(3):
                await clock.turn()
            assert await events_of(redis) == []

    tell(story())


def test_a_definition_that_this_worker_can_not_read_keeps_its_place(store: str) -> None:
    """During a rolling deploy an older worker leaves alone what it does not understand."""

    async def story() -> None:
        async with planned(store, every_minute(), back=60 * MINUTE) as (redis, _):
            last = await last_of(redis)
            (published,) = (await Catalog(redis, KEYS).read()).workflows.values()
            kept = await redis.get(KEYS.definition(published.digest))
            await redis.set(KEYS.definition(published.digest), b'{"name": "w", "of tomorrow": 1}')
            older = await clock_of(redis)
            for _ in range(2):
                await older.turn()
            assert await last_of(redis) == last
            await redis.set(KEYS.definition(published.digest), kept)
            await (await clock_of(redis)).turn()
            assert len(await events_of(redis)) == 1

    tell(story())


def test_a_full_queue_holds_a_tick_up_and_loses_none(store: str) -> None:
    """The tick stays due until there is room."""

    async def story() -> None:
        async with planned(store, every_minute(missed="run_all"), back=3 * MINUTE) as (redis, clock):
            after = await last_of(redis)
            await (await clock_of(redis, max_queue=2)).turn()
            assert len(await events_of(redis)) == 2
            await clock.turn()
            wanted = list((await schedule_of(redis)).ticks(after, await last_of(redis)))
            assert [int(event.id[4:16], 16) for event in await events_of(redis)] == wanted

    tell(story())


def test_a_tick_whose_input_is_refused_is_explained(store: str) -> None:
    """No run, an event that says why, and the clock goes on."""
    schema = {"type": "object", "properties": {"commit": {"type": "integer"}}}
    given = {"commit": "${event.body.tick}"}

    async def story() -> None:
        async with planned(store, every_minute(input=given), back=2 * MINUTE, input=schema) as (redis, clock):
            await clock.turn()
            (event,) = await events_of(redis)
            assert (event.head.decision.outcome, event.run_ids) == ("refused", [])
            assert "commit" in (event.head.decision.reason or "")
            assert await now_of(redis) - await last_of(redis) < 2 * MINUTE

    tell(story())
