"""Requests that wait, and timelines that are followed: what they cost, how they end, how they go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.runs import Run, RunRequest, State, StepRecord, StepState
from gateway.store.connection import Redis
from gateway.store.waiting import TooManyWaiters, Waiters
from gateway.timelines import timeline
from gateway.web import live
from tests.tools import KEYS, connected, tell, until
from tests.tools_api import Api, names, parse_events, serving

MOVED = KEYS.moved("run", "*")


async def subscribed(redis: Redis) -> list[bytes]:
    """The runs that somebody waits for."""
    found: list[bytes] = await redis.execute_command("PUBSUB", "CHANNELS", MOVED)
    return found


async def listeners(redis: Redis) -> int:
    """How many connections are subscribed to anything."""
    return sum(int(client["sub"]) > 0 for client in await redis.client_list())


@contextlib.asynccontextmanager
async def raw_requests(api: Api, path: str, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Many GETs on connections of their own, cut when the block ends."""
    pairs = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(count)]
    for _, writer in pairs:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {api.admin}\r\n\r\n".encode())
    try:
        yield [reader for reader, _ in pairs]
    finally:
        for _, writer in pairs:
            writer.transport.abort()


def test_500_waiters_share_one_subscription_and_leave_nothing(store: str, tmp_path: Path) -> None:
    """500 requests that wait for 100 runs hold one subscribed connection; each is answered when its run ends."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            runs = [await api.start() for _ in range(100)]
            before = await listeners(api.redis)
            waits = [raw_requests(api, f"/api/v1/runs/{run}?wait=60", 5) for run in runs]
            async with contextlib.AsyncExitStack() as stack:
                readers = [reader for wait in waits for reader in await stack.enter_async_context(wait)]

                async def all_wait() -> bool:
                    return len(await subscribed(api.redis)) == len(runs)

                await until(all_wait)
                assert await listeners(api.redis) == before + 1
                assert len(await api.redis.client_list()) < 100
                await asyncio.gather(*(api.post(f"/api/v1/runs/{run}/cancel") for run in runs))
                firsts = await asyncio.gather(*(reader.readline() for reader in readers))
                assert set(firsts) == {b"HTTP/1.1 200 OK\r\n"}
            await until(lambda: nobody_waits(api.redis))

    tell(story())


async def nobody_waits(redis: Redis) -> bool:
    return not await subscribed(redis)


@pytest.mark.parametrize("path", ["/api/v1/runs/1?wait=60", "/api/v1/runs/1/timeline"])
def test_client_that_leaves_frees_everything(store: str, tmp_path: Path, path: str) -> None:
    """Cutting the connections of waiting requests ends their waiting at once, with no answer needed."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await api.start()
            async with raw_requests(api, path, 20):
                await until(lambda: subscribed(api.redis))
            await until(lambda: nobody_waits(api.redis), patience=3)

    tell(story())


def test_too_many_waiters_are_refused(store: str) -> None:
    """One more waiter than the limit is a TooManyWaiters, which is a 503; when one leaves there is room again."""

    async def story() -> None:
        async with connected(store) as redis:
            waiters = Waiters(redis, KEYS, limit=2)
            try:
                async with waiters.watch(1):
                    async with waiters.watch(1):
                        with pytest.raises(TooManyWaiters) as refused:
                            async with waiters.watch(2):
                                pass
                        assert refused.value.status == 503
                    async with waiters.watch(2):
                        assert waiters.count == 2
                assert waiters.count == 0
            finally:
                await waiters.close()

    tell(story())


def test_subscription_is_made_again_when_the_store_comes_back(tmp_path: Path, own_valkey: Any) -> None:
    """A request that waits over a restart of the store is woken when its run ends, long before its time is up."""

    async def story() -> None:
        async with serving(own_valkey.url, tmp_path, worker=False) as api:
            run_id = await api.start()
            waiting = asyncio.create_task(api.get(f"/api/v1/runs/{run_id}?wait=60"))
            await until(lambda: subscribed(api.redis))
            await asyncio.to_thread(own_valkey.stop)
            await asyncio.to_thread(own_valkey.start)
            async with connected(own_valkey.url) as redis:
                await until(lambda: subscribed(redis))
            async with asyncio.timeout(4):
                await api.post(f"/api/v1/runs/{run_id}/cancel")
                assert (await waiting).json()["status"] == "cancelled"

    tell(story())


def test_killed_subscription_is_made_again(store: str) -> None:
    """When the store drops the subscribed connection, waiters are woken to look, and hear of later moves."""

    async def story() -> None:
        async with connected(store) as redis:
            waiters = Waiters(redis, KEYS, limit=10)
            try:
                async with waiters.watch(7) as moved:
                    await until(lambda: subscribed(redis))
                    await until(moved.is_set)
                    moved.clear()
                    await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                    await until(moved.is_set)
                    moved.clear()
                    await until(lambda: subscribed(redis))
                    await redis.publish(KEYS.moved("run", 7), "running")
                    await until(moved.is_set)
            finally:
                await waiters.close()

    tell(story())


def test_timeline_tells_a_whole_run_in_order_and_ends(store: str, tmp_path: Path) -> None:
    """The stream gives retry, then each entry with a growing id, and ends when the run has ended."""

    async def story() -> None:
        async with serving(store, tmp_path) as api:
            run_id = await api.start("steps")
            answer = await api.get(f"/api/v1/runs/{run_id}/timeline")
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.text.startswith("retry: ")
            events = parse_events(answer.text)
            assert names(events)[:2] == ["run.pending", "run.running"]
            assert names(events)[-1] == "run.completed"
            for step in "abcd":
                own = [
                    json.loads(each["data"])["status"] for each in events if json.loads(each["data"])["step"] == step
                ]
                assert own == ["running", "completed"]
            ids = [int(each["id"]) for each in events if "id" in each]
            assert ids == sorted(set(ids))
            assert len(events) == 2 + 2 * 4 + 1

    tell(story())


def test_stream_goes_on_from_any_last_event_id(store: str, tmp_path: Path) -> None:
    """With Last-Event-ID each place in a stream gives exactly the rest; an id that is none is a 400."""

    async def story() -> None:
        async with serving(store, tmp_path) as api:
            run_id = await api.start("steps")
            await api.get(f"/api/v1/runs/{run_id}?wait=20")
            path = f"/api/v1/runs/{run_id}/timeline"
            everything = parse_events((await api.get(path)).text)
            for place, event in enumerate(everything):
                rest = parse_events((await api.get(path, headers={"last-event-id": event["id"]})).text)
                assert rest == everything[place + 1 :]
            assert (await api.get(path, headers={"last-event-id": "x"})).status_code == 400
            assert (await api.get("/api/v1/runs/999/timeline")).status_code == 404

    tell(story())


def test_stream_cut_in_the_middle_loses_and_doubles_nothing(store: str, tmp_path: Path) -> None:
    """A client that is cut off after each event and comes back with its id hears everything exactly once."""

    async def story() -> None:
        async with serving(store, tmp_path) as api:
            run_id = await api.start("steps")
            heard: list[dict[str, str]] = []
            while not heard or heard[-1]["event"] != "run.completed":
                heard += await first_events(api, run_id, heard[-1]["id"] if heard else "")
            again = parse_events((await api.get(f"/api/v1/runs/{run_id}/timeline")).text)
            assert heard == again

    tell(story())


async def first_events(api: Api, run_id: int, last: str) -> list[dict[str, str]]:
    """The first event that comes, and what came with it; then the connection is cut."""
    headers = {"authorization": f"Bearer {api.admin}", "last-event-id": last}
    text = ""
    async with api.client.stream("GET", f"/api/v1/runs/{run_id}/timeline", headers=headers) as answer:
        async for chunk in answer.aiter_text():
            text += chunk
            if parse_events(text) and text.endswith("\n\n"):
                break
    return parse_events(text)[:1]


def test_heartbeat_is_a_comment(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream with nothing to tell sends comments, which are no events."""
    monkeypatch.setattr(live, "HEARTBEAT", 0.05)

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            run_id = await api.start()
            headers = {"authorization": f"Bearer {api.admin}"}
            text = ""
            async with api.client.stream("GET", f"/api/v1/runs/{run_id}/timeline", headers=headers) as answer:
                async for chunk in answer.aiter_text():
                    text += chunk
                    if text.count("\n: ") >= 2:
                        break
            assert names(parse_events(text)) == ["run.pending"]

    tell(story())


def test_failed_run_tells_its_error(store: str, tmp_path: Path) -> None:
    """A cancelled run's stream ends with what was under way, and with the run's reason."""

    async def story() -> None:
        async with serving(store, tmp_path) as api:
            run_id = await api.start("slow")

            async def under_way() -> bool:
                steps = (await api.get(f"/api/v1/runs/{run_id}/steps")).json()["data"]
                return any(step["status"] == "running" for step in steps)

            await until(under_way)
            await api.post(f"/api/v1/runs/{run_id}/cancel")
            events = parse_events((await api.get(f"/api/v1/runs/{run_id}/timeline")).text)
            assert names(events)[-2:] == ["step.cancelled", "run.cancelled"]
            assert json.loads(events[-1]["data"])["error"]["type"] == "Cancelled"

    tell(story())


TIMES = st.integers(1_000, 9_000)


@st.composite
def lives(draw: st.DrawFn) -> list[Run]:
    """The records of one run as it goes on: each step begins and ends; then the run ends."""
    steps = draw(st.dictionaries(st.sampled_from("abcdef"), st.tuples(TIMES, st.integers(0, 3_000)), max_size=5))
    request = RunRequest(workflow_id=1, workflow="w", digest="d", session_id="s")
    moments = sorted({begin for begin, _ in steps.values()} | {begin + took for begin, took in steps.values()})
    records = []
    for now in moments:
        known: dict[str, StepRecord] = {}
        for name, (begin, took) in steps.items():
            if begin + took <= now:
                ended = {"state": StepState.COMPLETED, "started_at": begin, "ended_at": begin + took}
                known[name] = StepRecord(attempt=1, **ended)
            elif begin <= now:
                known[name] = StepRecord(state=StepState.RUNNING, attempt=1, started_at=begin)
        records.append(Run(id=1, state=State.RUNNING, request=request, created_at=900, started_at=950, steps=known))
    last = records[-1].steps if records else {}
    ended_at = (moments[-1] if moments else 960) + draw(st.integers(-5, 5))
    end = Run(
        id=1, state=State.COMPLETED, request=request, created_at=900, started_at=950, ended_at=ended_at, steps=last
    )
    return [*records, end]


@given(lives())
def test_timeline_only_grows_at_its_end(records: list[Run]) -> None:
    """As a run goes on its timeline keeps every entry as it was, and what is new comes after all that was there."""
    before: list[Any] = []
    for run in records:
        now = timeline(run)
        assert now[: len(before)] == before
        assert len({entry.id for entry in now}) == len(now)
        before = now
    assert before[-1].event == "run.completed"
