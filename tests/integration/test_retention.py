"""What is past its time goes, all of it and nothing else; written down first where that is wanted."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import NotFound
from gateway.runs import MOVES, RunRequest
from gateway.store.connection import Redis
from gateway.store.figures import read_figures
from gateway.store.listing import CallbackFilter, EventFilter, Listing
from gateway.store.reading import Reader, RunFilter
from gateway.store.records import Records, Write
from tests.tools import KEYS, acceptor, connected, event_of, settings_for, tell, until, working
from tests.tools_sweep import (
    REQUEST,
    claim_all,
    deliver_all,
    end_runs,
    ended_runs,
    file_runs,
    grow_old,
    grow_old_event,
    keys_like,
    lines_of,
    retention,
    snapshot,
    spawn_request,
    sweeper,
    there,
)
from workers import retiring


def test_old_runs_go_with_all_that_is_theirs(store: str) -> None:
    """After retention by age no key names an old run, its event or its callback; the young ones keep everything."""

    async def story() -> None:
        async with connected(store) as redis:
            old = await file_runs(redis, 3, conversation_id='conv_"a')
            young = await file_runs(redis, 2, conversation_id='conv_"a')
            await end_runs(redis, await claim_all(redis), callback=True)
            await deliver_all(redis)
            await grow_old(redis, old)
            await sweeper(redis, days=6).sweep()
            assert await there(redis) == set(young)
            assert await snapshot(redis) == {
                "runs:completed": [b"4", b"5"],
                "runs:of:15": [b"4", b"5"],
                'conversation:conv_"a': [b"4", b"5"],
                "events": [b"evt_4", b"evt_5"],
                "callbacks:delivered": [b"msg_4", b"msg_5"],
            }
            assert await keys_like(redis, "evt_1") + await keys_like(redis, "msg_1") == []
            counts = (await read_figures(redis, KEYS)).counts
            removed = {name: counts[f"removed:{name}"] for name in ("runs", "events", "callbacks")}
            assert removed == {"runs": 3, "events": 3, "callbacks": 3}

    tell(story())


def test_the_newest_ended_runs_are_kept(store: str) -> None:
    """By count: so many of the newest that ended stay, whatever their state; open ones are not counted."""

    async def story() -> None:
        async with connected(store) as redis:
            await ended_runs(redis, 4)
            await ended_runs(redis, 4, move="fail")
            open_ones = await file_runs(redis, 3)
            await sweeper(redis, runs=5).sweep()
            assert await there(redis) == {4, 5, 6, 7, 8, *open_ones}
            await sweeper(redis, runs=5).sweep()
            assert len(await there(redis)) == 8

    tell(story())


def test_open_runs_are_never_removed(store: str) -> None:
    """However old: what is pending, running, waiting or taken up again stays, as does its event."""

    async def story() -> None:
        async with connected(store) as redis:
            runs = Records(redis, KEYS, "run")
            ids = await file_runs(redis, 3)
            fences = await claim_all(redis)
            await runs.write(Write(id="1", fence=fences[1], move=MOVES["park"], delay_ms=60_000))
            await runs.write(Write(id="2", fence=fences[2], move=MOVES["fail"], fields={"ended_at": 1}))
            await runs.write(Write(id="2", fence=None, move=MOVES["retry"], delay_ms=0, drops=("ended_at",)))
            ids += await file_runs(redis, 1)
            await grow_old(redis, ids)
            await sweeper(redis, days=1, runs=1).sweep()
            assert await there(redis) == {1, 2, 3, 4}
            assert await redis.zcard(KEYS.named("events")) == 4

    tell(story())


def test_what_changed_since_it_was_looked_at_stays(store: str) -> None:
    """A run that was retried, or ended anew, between looking and removing is not removed."""

    async def story() -> None:
        async with connected(store) as redis:
            runs, kept = Records(redis, KEYS, "run"), retention(redis, days=1)
            await grow_old(redis, await ended_runs(redis, 3, move="fail"))
            index = KEYS.state("run", "failed")
            looked = await kept.look("run", index, 0, 10)
            retry = {"move": MOVES["retry"], "delay_ms": 0, "fields": {"attempt": 2}}
            for run_id in ("1", "2"):
                await runs.write(Write(id=run_id, fence=None, **retry))
            await runs.write(Write(id="2", fence=None, move=MOVES["cancel"]))
            removed = await kept.remove("run", index, looked.old)
            assert ([each.id for each in looked.old], removed.runs) == (["1", "2", "3"], 1)
            assert await there(redis) == {1, 2}

    tell(story())


def test_what_is_still_needed_stays(store: str) -> None:
    """A child of an open run, a run with a callback to deliver, and one whose end others listen to, until that is over."""

    async def story() -> None:
        async with connected(store) as redis:
            (parent,) = await file_runs(redis, 1)
            children = await file_runs(redis, 1, **spawn_request(parent))
            told, heard = await file_runs(redis, 2)
            fences = await claim_all(redis)
            mine = {parent: fences.pop(parent)}
            await end_runs(redis, {told: fences.pop(told)}, callback=True)
            await end_runs(redis, fences)
            await redis.zadd(KEYS.named("runs:chaining"), {heard: 1})
            await grow_old(redis, [parent, *children, told, heard])
            await sweeper(redis, days=1).sweep()
            assert await there(redis) == {parent, *children, told, heard}
            await end_runs(redis, mine)
            await deliver_all(redis)
            await redis.delete(KEYS.named("runs:chaining"))
            await grow_old(redis, [parent])
            await sweeper(redis, days=1).sweep()
            assert await there(redis) == set()

    tell(story())


def test_an_event_goes_with_the_last_of_its_runs(store: str) -> None:
    """Of two runs of one event the first may go and the event stays; without runs it goes by its own age."""

    async def story() -> None:
        async with connected(store) as redis:
            request = RunRequest(workflow_id=1, workflow="w", digest="d", session_id="s", app_id=1, event_id="evt_two")
            await acceptor(redis).store(event_of("evt_two", request, request))
            await acceptor(redis).store(event_of("evt_none"))
            await acceptor(redis).store(event_of("evt_young"))
            await end_runs(redis, await claim_all(redis))
            await grow_old(redis, [1])
            await grow_old_event(redis, "evt_none")
            await sweeper(redis, days=1).sweep()
            assert (await there(redis), await snapshot_events(redis)) == ({2}, [b"evt_two", b"evt_young"])
            await grow_old(redis, [2])
            await sweeper(redis, days=1).sweep()
            assert (await there(redis), await snapshot_events(redis)) == (set(), [b"evt_young"])

    tell(story())


async def snapshot_events(redis: Redis) -> list[bytes]:
    found: list[bytes] = await redis.zrange(KEYS.named("events"), 0, -1)
    return found


def test_what_comes_again_starts_nothing_although_its_run_is_gone(store: str) -> None:
    """While the dedupe window is open, an event that is stored again under its id gives the runs it started."""

    async def story() -> None:
        async with connected(store) as redis:
            await ended_runs(redis, 2)
            await sweeper(redis, runs=1, window_ms=60_000).sweep()
            assert await there(redis) == {2}
            again = await acceptor(redis).store(event_of("evt_1", REQUEST))
            assert (again.outcome, again.run_ids) == ("stored", (1,))
            assert await there(redis) == {2}
            assert 0 < await redis.pttl(KEYS.event("evt_1")) <= 60_000
            with pytest.raises(NotFound):
                await Reader(redis, KEYS).event("evt_1")

    tell(story())


def test_lists_go_on_beside_what_was_removed(store: str) -> None:
    """Runs, events and callbacks are listed as before; a list of runs ends although millions of ids lie below."""

    async def story() -> None:
        async with connected(store) as redis:
            await redis.set(KEYS.named("runs:last"), 5_000_000)
            await ended_runs(redis, 1, move="fail")
            await redis.incrby(KEYS.named("runs:last"), 5_000_000)
            await file_runs(redis, 3)
            await end_runs(redis, await claim_all(redis), callback=True)
            await deliver_all(redis)
            await grow_old(redis, [10_000_002])
            await sweeper(redis, days=1).sweep()
            first = await Reader(redis, KEYS).page(RunFilter(), 10)
            assert [run.id for run in first.runs] == [10_000_004, 10_000_003, 5_000_001]
            assert first.next is None
            listing = Listing(redis, KEYS)
            assert len((await listing.callbacks(CallbackFilter(), 10)).found) == 2
            assert len((await listing.events(EventFilter(), 10)).events) == 3

    tell(story())


def test_entries_without_a_record_are_dropped(store: str) -> None:
    """An index names runs, events and callbacks whose hashes are lost: retention drops the names."""

    async def story() -> None:
        async with connected(store) as redis:
            await redis.zadd(KEYS.state("run", "failed"), {7: 7})
            await redis.zadd(KEYS.named("events"), {"evt_lost": 1})
            await redis.zadd(KEYS.state("callback", "failed"), {"msg_lost": 1})
            await sweeper(redis, days=1).sweep()
            assert await snapshot(redis) == {}

    tell(story())


def test_each_line_of_the_archive_is_a_whole_run(store: str, tmp_path: Path) -> None:
    """What is removed stands in the archive once, as the API shows it, with its callbacks and event; nobody else reads it."""

    async def story() -> None:
        async with connected(store) as redis:
            await file_runs(redis, 25, input={"n": 1})
            await end_runs(redis, await claim_all(redis), callback=True)
            await deliver_all(redis)
            await acceptor(redis).store(event_of("evt_alone", body=b"\xff"))
            await grow_old(redis, list(range(1, 26)))
            await grow_old_event(redis, "evt_alone")
            await sweeper(redis, tmp_path / "kept" / "here", days=1).sweep()
            assert await there(redis) == set()
            lines = lines_of(tmp_path / "kept" / "here")
            runs = {line["run_id"]: line for line in lines if "callbacks" in line}
            alone = [line for line in lines if "callbacks" not in line]
            assert (len(lines), set(runs)) == (26, set(range(1, 26)))
            assert (runs[7]["status"], runs[7]["input"]) == ("completed", {"n": 1})
            assert [(each["callback_id"], each["body"]) for each in runs[7]["callbacks"]] == [("msg_7", {})]
            assert [(each["event_id"], each["body"]) for each in runs[7]["events"]] == [("evt_7", "{}")]
            assert [(each["event_id"], each["body_base64"]) for each in alone] == [("evt_alone", "/w==")]
            modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "kept" / "here").iterdir()}
            assert modes == {0o600}
            assert (await read_figures(redis, KEYS)).counts["archived:runs"] == 25

    tell(story())


def test_an_archive_that_cannot_be_written_stops_the_removal(store: str, tmp_path: Path) -> None:
    """A file stands where the folder should be: nothing goes, the figures say so, and all goes once it is away."""
    in_the_way = tmp_path / "archive"
    in_the_way.write_text("a file")

    async def story() -> None:
        async with connected(store) as redis:
            await grow_old(redis, await ended_runs(redis, 3))
            await sweeper(redis, in_the_way, days=1).sweep()
            assert len(await there(redis)) == 3
            assert (await read_figures(redis, KEYS)).archive_failed
            in_the_way.unlink()
            await sweeper(redis, in_the_way, days=1).sweep()
            figures = await read_figures(redis, KEYS)
            assert (await there(redis), len(lines_of(in_the_way)), figures.archive_failed) == (set(), 3, False)
            assert figures.sweep_age is not None

    tell(story())


def test_a_disk_that_is_full_stops_the_removal(store: str, tmp_path: Path) -> None:
    """A process that may write only so many bytes leaves every run where it is, and no half file."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(15):
                await grow_old(redis, await ended_runs(redis, 2, input=os.urandom(4000).hex()))
            assert await sweep_elsewhere(store, tmp_path, "full") == 0
            assert (len(await there(redis)), os.listdir(tmp_path)) == (30, [])
            assert (await read_figures(redis, KEYS)).archive_failed

    tell(story())


def test_a_run_that_cannot_be_read_is_kept(store: str, tmp_path: Path) -> None:
    """Its neighbours are archived and go; it stays where it can be looked at."""

    async def story() -> None:
        async with connected(store) as redis:
            await grow_old(redis, await ended_runs(redis, 3))
            await redis.hset(KEYS.run(2), "output", "no JSON")
            await sweeper(redis, tmp_path, days=1).sweep()
            assert (await there(redis), [line["run_id"] for line in lines_of(tmp_path)]) == ({2}, [1, 3])

    tell(story())


ELSEWHERE = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from gateway.store.retention import Retention
from tests.tools import connected
from tests.tools_sweep import sweeper

url, folder, how = sys.argv[1:]

async def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with connected(url) as redis:
        await sweeper(redis, Path(folder), days=1).sweep()

if how == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
else:
    Retention.remove = die
asyncio.run(main())
"""


async def sweep_elsewhere(url: str, folder: Path, how: str) -> int:
    """Sweep in a process of its own, on a full disk or killed between archive and removal; gives its exit code."""
    root = Path(__file__).parents[2]
    arguments = ("-c", ELSEWHERE, url, str(folder), how)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=root)
    return await process.wait()


def test_killed_between_archive_and_removal_nothing_is_lost(store: str, tmp_path: Path) -> None:
    """The next sweep writes the same lines once more and then removes: each run stands there, some twice."""

    async def story() -> None:
        async with connected(store) as redis:
            await grow_old(redis, await ended_runs(redis, 12))
            assert await sweep_elsewhere(store, tmp_path, "kill") == -signal.SIGKILL
            assert (len(await there(redis)), len(lines_of(tmp_path))) == (12, 12)
            await sweeper(redis, tmp_path, days=1).sweep()
            written = [line["run_id"] for line in lines_of(tmp_path)]
            assert (await there(redis), set(written), len(written)) == (set(), set(range(1, 13)), 24)

    tell(story())


def test_those_that_stay_are_passed_over(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many old runs whose callbacks are still to deliver do not keep those behind them, over several sweeps."""
    monkeypatch.setattr(retiring, "PAGE", 5)
    monkeypatch.setattr(retiring, "FRUITLESS", 2)

    async def story() -> None:
        async with connected(store) as redis:
            waiting = await file_runs(redis, 32)
            await end_runs(redis, await claim_all(redis), callback=True)
            behind = await ended_runs(redis, 21)
            await grow_old(redis, [*waiting, *behind])
            for _ in range(6):
                await sweeper(redis, days=1).sweep()
            assert await there(redis) == set(waiting)

    tell(story())


def test_nothing_is_removed_without_limits(store: str) -> None:
    """0 days and 0 runs keep everything for ever."""

    async def story() -> None:
        async with connected(store) as redis:
            await grow_old(redis, await ended_runs(redis, 3), 10**12)
            await sweeper(redis).sweep()
            assert len(await there(redis)) == 3

    tell(story())


async def removal_cost(redis: Redis, begin: int) -> float:
    """The least microseconds that the store was busy with removing a hundred runs, of four tries."""
    kept, index = retention(redis, days=1), KEYS.state("run", "completed")
    best: list[float] = []
    for _ in range(4):
        looked = await kept.look("run", index, 0, 100)
        await redis.config_resetstat()
        removed = await kept.remove("run", index, looked.old)
        assert removed.runs == 100
        stats: Any = await redis.info("commandstats")
        best.append(stats["cmdstat_evalsha"]["usec"])
    return min(best)


def test_removing_costs_the_same_however_much_is_stored(store: str) -> None:
    """A hundred runs with their events and callbacks go in a few milliseconds, beside a thousand and beside many."""

    async def story() -> None:
        async with connected(store) as redis:
            costs = []
            for more in (600, 5000):
                for _ in range(more // 200):
                    await file_runs(redis, 200)
                    await end_runs(redis, await claim_all(redis), callback=True)
                    await deliver_all(redis)
                oldest = [int(each) for each in await redis.zrange(KEYS.state("run", "completed"), 0, 399)]
                await grow_old(redis, oldest)
                costs.append(await removal_cost(redis, oldest[0]))
            few, many = costs
            assert many < 3 * few + 1000
            assert many < 20_000

    tell(story())


async def is_empty(redis: Redis) -> bool:
    return not await there(redis)


def test_a_worker_removes_by_itself(store: str, tmp_path: Path) -> None:
    """With the settings of a worker, what is past its time is archived and goes, without anybody asking."""

    async def story() -> None:
        async with connected(store) as redis:
            await grow_old(redis, await ended_runs(redis, 3))
            settings = settings_for(store, tmp_path, keep_days=1, archive_dir=tmp_path / "archive")
            async with working(settings):
                await until(lambda: is_empty(redis))
            assert {line["run_id"] for line in lines_of(tmp_path / "archive")} == {1, 2, 3}

    tell(story())
