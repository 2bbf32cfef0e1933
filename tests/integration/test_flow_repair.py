"""Nothing that flow control holds back is stuck: lost indexes, lost workers, lost answers, and why each one waits."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.runs import MOVES
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.store.figures import read_figures
from gateway.store.reading import Reader
from gateway.store.records import Records, Write
from tests.tools import KEYS, Valkey, acceptor, connected, ended, publish, tell, until
from tests.tools_flow import (
    GATE,
    HOUR,
    SKIP,
    Crew,
    ask,
    claim,
    end,
    left_over,
    left_over_nothing,
    reason_of,
    sweeper,
    wish,
)


def test_the_oldest_is_known_for_every_reason(store: str) -> None:
    """The figures tell for each reason how long the oldest run is held."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(2):
                await ask(redis, GATE)
            await ask(redis, {"debounce": {"period": HOUR}})
            await until(lambda: oldest_is_at_least(redis, "concurrency", 0.05))
            figures = await read_figures(redis, KEYS)
            assert set(figures.oldest_pending) == {"queue", "concurrency", "throttle", "debounce", "batch"}
            assert figures.oldest_pending["debounce"] > 0
            assert figures.oldest_pending["queue"] > 0
            assert figures.oldest_pending["throttle"] == 0

    tell(story())


async def oldest_is_at_least(redis: Redis, reason: str, seconds: float) -> bool:
    return (await read_figures(redis, KEYS)).oldest_pending[reason] >= seconds


def test_gates_are_rebuilt_from_the_runs(store: str) -> None:
    """Every index of flow control and the queue are lost: after a sweep all runs are done, in order, one at a time."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(20):
                await ask(redis, GATE)
            await ask(redis, {"debounce": {"period": "1ms"}})
            await ask(redis, {"batch": {"max_size": 5, "timeout": "1ms"}}, 1)
            await redis.delete(*await left_over(redis), KEYS.queue("run"))
            assert await sweeper(redis).sweep() > 0
            assert await sweeper(redis).sweep() == 0
            crew = Crew(redis)
            async with crew.working():
                await until(lambda: len(crew.begun) == 22)
                await until(lambda: left_over_nothing(redis))
            assert [run_id for run_id in crew.begun if run_id <= 20] == list(range(1, 21))

    tell(story())


def test_a_gate_whose_active_run_is_gone_lets_the_next_in(store: str) -> None:
    """A run's hash was lost together with its job: the sweep sees that nobody holds the gate."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(3):
                await ask(redis, GATE)
            assert await claim(redis) == [1]
            await redis.delete(KEYS.run(1), KEYS.job("run", 1))
            await redis.zrem(KEYS.queue("run"), KEYS.job("run", 1))
            await redis.zrem(KEYS.state("run", "running"), 1)
            assert await sweeper(redis).sweep() == 1
            assert await claim(redis) == [2]

    tell(story())


def test_a_running_run_keeps_its_gate_when_the_gate_is_lost(store: str) -> None:
    """The sweep puts what runs back into its gate before it lets anybody in."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(3):
                await ask(redis, GATE)
            assert await claim(redis) == [1]
            await redis.delete(*await left_over(redis))
            await sweeper(redis).sweep()
            assert await claim(redis) == []
            assert await reason_of(redis, 2) == "concurrency"
            await end(redis, 1)
            assert await claim(redis) == [2]

    tell(story())


def test_a_lost_throttle_queue_is_rebuilt_at_its_times(store: str) -> None:
    """Throttled and debounced runs come back when they were due, not all at once."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(3):
                await ask(redis, {"throttle": {"limit": 1, "period": HOUR}})
            await ask(redis, {"debounce": {"period": HOUR}})
            before = await redis.zrange(KEYS.queue("run"), 1, -1, withscores=True)
            await redis.delete(KEYS.queue("run"))
            assert await sweeper(redis).sweep() == 4
            assert await claim(redis) == [1]
            assert {*await redis.zrange(KEYS.queue("run"), 0, -1, withscores=True)} >= {*before}

    tell(story())


def test_a_lost_claim_keeps_the_gate(store: str) -> None:
    """The worker that had the run is gone: another gets that run, and the next still waits."""

    async def story() -> None:
        async with connected(store) as redis:
            runs = Records(redis, KEYS, "run")
            for _ in range(2):
                await ask(redis, GATE)
            assert [item.id for item in (await runs.claim("lost", 1, 5)).items] == ["1"]

            async def again() -> bool:
                return await claim(redis) == [1]

            await until(again)
            assert await reason_of(redis, 2) == "concurrency"

    tell(story())


def test_a_call_that_is_made_again_counts_once(store: str) -> None:
    """An answer was lost and the whole call comes again: the same runs, one item, one place in the rate."""

    async def story() -> None:
        async with connected(store) as redis:
            fields = {"batch": {"max_size": 3, "timeout": HOUR}, "rate_limit": {"limit": 2, "period": HOUR}}
            event = wish(fields, "a")
            answers = [await acceptor(redis).store(event) for _ in range(3)]
            assert answers == [answers[0]] * 3
            assert await redis.hget(f"{KEYS.prefix}batch:w:-", "count") == b"1"
            assert (await ask(redis, fields, "b")).outcome == "stored"

    tell(story())


def test_what_is_kept_of_a_flow_can_be_read(store: str) -> None:
    """The field `flow` of a run holds its rules as JSON, with the lane whose turn it takes."""

    async def story() -> None:
        async with connected(store) as redis:
            await ask(redis, GATE, app=7)
            kept = json.loads(await redis.hget(KEYS.run(1), "flow"))
            assert kept == {
                "concurrency": {"name": "w:-", "limit": 1, "on_conflict": "queue"},
                "lane": "app 7",
            }

    tell(story())


def test_an_event_with_two_requests_may_start_one_and_join_one(store: str) -> None:
    """Each request of an event goes its own way, and the answer names each in its place."""

    async def story() -> None:
        async with connected(store) as redis:
            await ask(redis, SKIP)
            plain, skipped = wish({}), wish(SKIP)
            both = msgspec.structs.replace(
                plain, requests=[*skipped.requests, *plain.requests], flows=[*skipped.flows, None]
            )
            stored = await acceptor(redis).store(both)
            assert (stored.run_ids, stored.skipped) == ((2,), ((0, 1, "pending"),))
            seen = await Reader(redis, KEYS).event(both.id)
            assert (seen.run_ids, seen.head.decision.outcome, seen.head.decision.skipped) == ([2], "accepted", [1])

    tell(story())


def test_a_store_that_restarts_in_the_middle_loses_nobody(own_valkey: Valkey) -> None:
    """Killed and started again while a hundred runs go through a gate: all end, one at a time, in order."""

    async def story() -> None:
        async with connected(own_valkey.url) as redis:
            door, crew = acceptor(redis), Crew(redis)
            await asyncio.gather(*(door.store(wish(GATE)) for _ in range(100)))
            async with crew.working():
                await until(lambda: len(crew.begun) > 20)
                own_valkey.stop()
                own_valkey.start()
                await until(lambda: len(set(crew.begun)) == 100)
            assert list(dict.fromkeys(crew.begun)) == list(range(1, 101))
            assert crew.most == 1

    tell(story())


def test_a_stock_arq_worker_keeps_to_the_rules(store: str, tmp_path: Path) -> None:
    """arq's own command: what is held when it looks is left alone, and done when it may begin."""
    file = {"workflows": [{"name": "w", "steps": [{"id": "a", "transform": 1}]}]}
    gate = {"concurrency": {"limit": 1}, "throttle": {"limit": 50, "period": "1s"}}

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, json.dumps(file))
            published = (await Catalog(redis, KEYS).read()).workflows["w"]
            for fields in (gate, gate, gate, {"debounce": {"period": "100ms"}} | gate):
                event = wish(fields)
                request = msgspec.structs.replace(event.requests[0], digest=published.digest)
                await acceptor(redis).store(msgspec.structs.replace(event, requests=[request]))
            environ = {"GATEWAY_REDIS_URL": store, "GATEWAY_DATA_DIR": str(tmp_path), "GATEWAY_LEASE": "1"}
            arguments = ("-m", "arq", "workers.main.WorkerSettings")
            quiet = asyncio.subprocess.DEVNULL
            process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, env=os.environ | environ, stdout=quiet, stderr=quiet
            )
            try:
                for run_id in range(1, 5):
                    assert (await ended(redis, run_id)).state == "completed"
                await until(lambda: left_over_nothing(redis))
            finally:
                process.terminate()
                await process.wait()

    tell(story())


MOVES_OF_THE_WORLD = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("ab")),
        st.tuples(st.sampled_from(["claim", "end", "park", "cancel", "sweep", "forget"]), st.integers(0, 5)),
    ),
    max_size=40,
)


class World:
    """Runs of two keys behind a limit of two, and everything that may happen to them."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.runs = Records(redis, KEYS, "run")
        self.keys: dict[int, str] = {}
        self.begun: dict[int, int] = {}
        self.ended: set[int] = set()

    async def go(self, word: str, value: Any) -> None:
        await getattr(self, word)(value)
        for key in "ab":
            under_way = [run_id for run_id in self.begun if self.keys[run_id] == key and run_id not in self.ended]
            assert len(under_way) <= 2

    async def ask(self, key: str) -> None:
        stored = await ask(self.redis, {"concurrency": {"limit": 2, "key": "input"}}, key)
        self.keys[stored.run_ids[0]] = key

    async def claim(self, count: int) -> None:
        for item in (await self.runs.claim("worker", 60_000, count)).items:
            self.begun[int(item.id)] = item.fence

    async def end(self, place: int) -> None:
        await self._write(place, "complete")

    async def park(self, place: int) -> None:
        await self._write(place, "park", delay_ms=0)

    async def cancel(self, place: int) -> None:
        left = sorted(self.keys.keys() - self.ended)
        if place < len(left):
            answer = await self.runs.write(Write(id=str(left[place]), fence=None, move=MOVES["cancel"]))
            assert answer == "ok"
            self.ended.add(left[place])

    async def sweep(self, _: int) -> None:
        await sweeper(self.redis).sweep()

    async def forget(self, _: int) -> None:
        """The waiting lists and the queue are lost, and a sweep follows."""
        lost = [key for key in await left_over(self.redis) if key.endswith(b":waiting")]
        await self.redis.delete(KEYS.queue("run"), *lost)
        await sweeper(self.redis).sweep()

    async def _write(self, place: int, move: str, **more: Any) -> None:
        under_way = sorted(self.begun.keys() - self.ended)
        if place < len(under_way):
            run_id = under_way[place]
            write = Write(id=str(run_id), fence=self.begun[run_id], move=MOVES[move], **more)
            answer = await self.runs.write(write)
            if answer == "ok" and move == "complete":
                self.ended.add(run_id)

    async def finish(self) -> None:
        """Carry all to their end, and look at what is left."""
        while self.keys.keys() - self.ended:
            before = len(self.ended), len(self.begun)
            await self.go("claim", 10)
            for run_id in sorted(self.begun.keys() - self.ended):
                await self.runs.write(Write(id=str(run_id), fence=None, move=MOVES["cancel"]))
                self.ended.add(run_id)
            assert (len(self.ended), len(self.begun)) != before, "stuck"
        assert await left_over(self.redis) == []


@given(MOVES_OF_THE_WORLD)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_the_limit_holds_and_nobody_is_stuck(store: str, moves: list[tuple[str, Any]]) -> None:
    """Asking, claiming, ending, parking, cancelling, sweeping and losing indexes in any order."""

    async def story() -> None:
        async with connected(store) as redis:
            await redis.flushall()
            world = World(redis)
            for word, value in moves:
                await world.go(word, value)
            await world.finish()

    tell(story())
