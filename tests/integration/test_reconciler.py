"""Whatever of the indexes, queues and jobs is lost, the sweep rebuilds it from the records: lists are right, all runs end."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.metrics import Metrics
from gateway.runs import MOVES, RunRequest, State
from gateway.store.connection import Redis
from gateway.store.figures import read_figures
from gateway.store.listing import CallbackFilter, EventFilter, Listing
from gateway.store.reading import Reader, RunFilter
from gateway.store.records import Records, Write
from tests.tools import KEYS, acceptor, connected, event_of, tell, until
from tests.tools_flow import GATE, Crew, ask, left_over
from tests.tools_sweep import (
    REQUEST,
    claim_all,
    deliver_all,
    end_runs,
    file_runs,
    grow_old,
    snapshot,
    sweeper,
    there,
)
from workers import sweep


async def populate(redis: Redis) -> None:
    """Runs in every state, in two workflows and a conversation, callbacks in several, events with and without runs."""
    runs = Records(redis, KEYS, "run")
    await file_runs(redis, 6, conversation_id='a "talk" \\ more')
    fences = await claim_all(redis)
    await runs.write(Write(id="6", fence=fences.pop(6), move=MOVES["park"], delay_ms=60_000))
    await end_runs(redis, {1: fences[1], 2: fences[2]}, callback=True)
    await deliver_all(redis)
    await end_runs(redis, {3: fences[3]}, move="fail", callback=True)
    await runs.write(Write(id="4", fence=None, move=MOVES["cancel"], fields={"ended_at": 1}))
    await file_runs(redis, 3, workflow_id=16, workflow="other")
    await acceptor(redis).store(event_of("evt_alone"))
    request = RunRequest(workflow_id=17, workflow="bare", digest="d", session_id="s", input={"event_id": "evt_1"})
    await acceptor(redis).store(event_of("evt_bare", request))


async def lose(redis: Redis, names: list[str]) -> None:
    keys = [KEYS.named(name) for name in names]
    await redis.delete(*keys)


def test_every_lost_index_is_rebuilt(store: str) -> None:
    """All indexes at once: after one sweep each holds what it held, in the same order; after that nothing is mended."""

    async def story() -> None:
        async with connected(store) as redis:
            await populate(redis)
            before = await snapshot(redis)
            assert {"runs:waiting", "runs:cancelled", "callbacks:pending", "events", "runs:of:17"} <= before.keys()
            await lose(redis, [*before, "runs:queue", "callbacks:queue"])
            await sweeper(redis).sweep()
            assert await snapshot(redis) == before
            counts = (await read_figures(redis, KEYS)).counts
            mended = {name.partition(":")[2]: count for name, count in counts.items() if name.startswith("mended:")}
            assert mended == {
                "state": 10,
                "workflow": 10,
                "conversation": 6,
                "callback": 3,
                "event": 11,
                "job": 7,
            }
            await sweeper(redis).sweep()
            assert (await read_figures(redis, KEYS)).counts == counts

    tell(story())


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_lost_all_runs_end_and_lists_are_right(store: str, data: st.DataObject) -> None:
    """Any keys, and any entries of those left, are lost: after two sweeps the lists are whole, and a worker ends all."""

    async def story() -> None:
        async with connected(store) as redis:
            await redis.flushall()
            await populate(redis)
            before = await snapshot(redis)
            names = sorted([*before, "runs:queue", "callbacks:queue"])
            lost = data.draw(st.lists(st.sampled_from(names), unique=True))
            chance = random.Random(data.draw(st.integers(0, 2**32)))
            await lose(redis, lost) if lost else None
            await lose_entries(redis, [name for name in before if name not in lost], chance)
            for run_id in range(5, 11):
                await redis.delete(f"arq:job:{KEYS.job('run', run_id)}") if chance.random() < 0.5 else None
            await sweeper(redis).sweep()
            await sweeper(redis).sweep()
            assert await snapshot(redis) == before
            await end_all(redis)

    tell(story())


async def lose_entries(redis: Redis, names: list[str], chance: random.Random) -> None:
    for name in names:
        key = KEYS.named(name)
        is_list = await redis.type(key) == b"list"
        for member in await (redis.lrange(key, 0, -1) if is_list else redis.zrange(key, 0, -1)):
            if chance.random() < 0.3:
                await (redis.lrem(key, 0, member) if is_list else redis.zrem(key, member))


async def end_all(redis: Redis) -> None:
    """The leases run out, what waits is due, and a worker ends everything that is open."""
    async for key in redis.scan_iter("arq:in-progress:*"):
        await redis.delete(key)
    for job in await redis.zrange(KEYS.queue("run"), 0, -1):
        await redis.zadd(KEYS.queue("run"), {job: 1})
    await end_runs(redis, await claim_all(redis))
    states = {state: await redis.zcard(KEYS.state("run", state)) for state in ("pending", "running", "waiting")}
    assert set(states.values()) == {0}
    page = await Reader(redis, KEYS).page(RunFilter(), 50)
    assert [run.id for run in page.runs] == list(range(10, 0, -1))
    assert all(run.state in ("completed", "failed", "cancelled") for run in page.runs)


def test_lists_are_right_again(store: str) -> None:
    """What the API lists by state, workflow and conversation, of events and callbacks, is the same after the loss."""

    async def seen(redis: Redis) -> list[Any]:
        reader, listing = Reader(redis, KEYS), Listing(redis, KEYS)
        pages = [await reader.page(RunFilter(state=state), 50) for state in State]
        pages += [await reader.page(RunFilter(workflow_id=number), 50) for number in (15, 16, 17)]
        talk = await reader.conversation('a "talk" \\ more')
        events = (await listing.events(EventFilter(), 50)).events
        callbacks = (await listing.callbacks(CallbackFilter(), 50)).found
        ids = [sorted(each.id for each in events), sorted(each.callback.id for each in callbacks)]
        return [*([run.id for run in page.runs] for page in pages), [run.id for run in talk], *ids]

    async def story() -> None:
        async with connected(store) as redis:
            await populate(redis)
            before = await seen(redis)
            await lose(redis, list(await snapshot(redis)))
            await sweeper(redis).sweep()
            assert await seen(redis) == before

    tell(story())


def test_no_run_id_is_given_twice(store: str) -> None:
    """The last id is lost: the next run gets a new one all the same, whichever state the newest is in."""

    async def story() -> None:
        async with connected(store) as redis:
            for number, state in enumerate(State, start=1):
                await redis.delete(KEYS.named("runs:last"))
                await redis.zadd(KEYS.state("run", state), {str(number * 100): number * 100})
                stored = await acceptor(redis).store(event_of(f"evt_{number}", REQUEST))
                assert stored.run_ids == (number * 100 + 1,)
            await redis.delete(KEYS.named("runs:last"))
            await sweeper(redis).sweep()
            assert await redis.get(KEYS.named("runs:last")) == b"601"

    tell(story())


def test_no_run_id_is_given_twice_when_all_indexes_are_lost(store: str) -> None:
    """Not even an index tells the last id: the next run is well above what a sweep saw, and the old ones are there."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(2):
                await file_runs(redis, 5)
                await sweeper(redis).sweep()
            await file_runs(redis, 5)
            await lose(redis, [*(await snapshot(redis)), "runs:last"])
            stored = await acceptor(redis).store(event_of("evt_new", REQUEST))
            assert stored.run_ids == (100_011,)
            for _ in range(4):
                await sweeper(redis).sweep()
            assert await redis.zcard(KEYS.runs_of(15)) == 16

    tell(story())


def test_a_key_of_another_type_holds_nobody_up(store: str) -> None:
    """Where a run, an event, a callback or an index is no longer what it was, the others get their jobs and lists."""

    async def story() -> None:
        async with connected(store) as redis:
            await file_runs(redis, 3)
            await end_runs(redis, {1: (await claim_all(redis))[1]}, callback=True)
            for key in (KEYS.run(2), KEYS.event("evt_3"), KEYS.callback("msg_1")):
                await redis.delete(key)
                await redis.set(key, "something else")
            await redis.delete(KEYS.runs_of(15), KEYS.queue("run"), KEYS.named("events"))
            await sweeper(redis, days=1).sweep()
            assert await redis.zrange(KEYS.runs_of(15), 0, -1) == [b"1", b"3"]
            assert await redis.zrange(KEYS.queue("run"), 0, -1) == [b"{0}run:3"]
            assert await redis.zrange(KEYS.named("events"), 0, -1) == [b"evt_1", b"evt_2"]
            await redis.delete(KEYS.queue("run"), KEYS.runs_of(15))
            await redis.set(KEYS.runs_of(15), "something else")
            assert await sweeper(redis, days=1).sweep() == 1

    tell(story())


def test_an_entry_without_a_record_gets_no_job(store: str) -> None:
    """A name in an open state whose run is lost, or is in another state, is put right instead of queued for ever."""

    async def story() -> None:
        async with connected(store) as redis:
            await file_runs(redis, 2)
            await end_runs(redis, await claim_all(redis))
            await redis.zadd(KEYS.state("run", "pending"), {"2": 2, "77": 77})
            await redis.zadd(KEYS.state("callback", "sending"), {"msg_lost": 1})
            assert await sweeper(redis).sweep() == 0
            assert await redis.zcard(KEYS.queue("run")) + await redis.zcard(KEYS.queue("callback")) == 0
            assert await snapshot(redis) == {
                "runs:completed": [b"1", b"2"],
                "runs:of:15": [b"1", b"2"],
                "events": [b"evt_1", b"evt_2"],
            }

    tell(story())


def test_gates_and_indexes_are_lost_together(store: str) -> None:
    """Runs behind a gate, without gate, queue and state indexes: all are done, in order, one at a time."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(12):
                await ask(redis, GATE)
            indexes = [KEYS.named(name) for name in await snapshot(redis)]
            await redis.delete(*indexes, *await left_over(redis), KEYS.queue("run"))
            await sweeper(redis).sweep()
            crew = Crew(redis)
            async with crew.working():
                await until(lambda: len(crew.begun) == 12)
            assert (crew.begun, crew.most) == (list(range(1, 13)), 1)

    tell(story())


def test_the_walk_goes_on_where_it_stopped(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep looks at so many runs, whichever worker it is, and comes through all of them in turn."""
    for name, value in {"NEWEST": 1, "WALKED": 2, "MOST": 2, "RUNS": 5}.items():
        monkeypatch.setattr(sweep, name, value)

    async def story() -> None:
        async with connected(store) as redis:
            ids = await file_runs(redis, 42)
            await redis.delete(KEYS.runs_of(15))
            seen = []
            for _ in range(4):
                await sweeper(redis).sweep()
                seen.append(await redis.zcard(KEYS.runs_of(15)))
            # The newest five and the next ten, then ten at a time; the first are reached by the last of them.
            assert seen == [20, 30, 40, 42]
            assert [int(each) for each in await redis.zrange(KEYS.runs_of(15), 0, -1)] == ids

    tell(story())


def test_mending_brings_nothing_back_that_was_removed(store: str) -> None:
    """Retention and mending, one after the other, over what is there and what is gone: only what is there is listed."""

    async def story() -> None:
        async with connected(store) as redis:
            await file_runs(redis, 30)
            await end_runs(redis, await claim_all(redis))
            await grow_old(redis, list(range(1, 21)))
            for _ in range(3):
                await sweeper(redis, days=1, window_ms=10**12).sweep()
            found = await snapshot(redis)
            assert await there(redis) == set(range(21, 31))
            assert {name: len(members) for name, members in found.items()} == {
                "runs:completed": 10,
                "runs:of:15": 10,
                "events": 10,
            }

    tell(story())


def test_the_metrics_tell_what_was_mended(store: str) -> None:
    """`gateway_mended_total{what}`, what was removed, and when the last sweep ended."""

    async def story() -> None:
        async with connected(store) as redis:
            await file_runs(redis, 3)
            await lose(redis, ["runs:pending", "runs:queue"])
            await sweeper(redis).sweep()
            page = Metrics().render(await read_figures(redis, KEYS)).decode()
            assert 'gateway_mended_total{what="state"} 3.0' in page
            assert 'gateway_mended_total{what="job"} 3.0' in page
            assert "gateway_archive_failed 0.0" in page
            assert "gateway_sweep_age_seconds 0." in page

    tell(story())
