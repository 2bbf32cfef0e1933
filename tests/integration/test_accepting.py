"""The accept script against a real Valkey: every event wholly or not at all, and each delivery once."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.errors import Unavailable
from gateway.events import Acceptable
from gateway.runs import MOVES, RunRequest
from gateway.store.accepting import Stored
from gateway.store.connection import connect
from gateway.store.reading import Reader
from gateway.store.records import Records, Write
from tests.tools import KEYS, Valkey, acceptor, connected, event_of, tell, until

REQUEST = RunRequest(workflow_id=1, workflow="w", digest="d", session_id="ses")
LIMIT = 6


# ---- against a model


class Model:
    """What the store should hold, as plain dictionaries."""

    def __init__(self) -> None:
        self.events: dict[str, tuple[int, ...]] = {}
        self.seen: dict[str, tuple[str, str]] = {}
        self.runs = 0
        self.queued = 0

    def store(self, event: Acceptable) -> Stored:
        if event.id in self.events:
            return Stored("stored", event.id, self.events[event.id])
        for key in event.keys:
            if key in self.seen:
                first, body_hash = self.seen[key]
                known = Stored("known", first, self.events[first])
                return known if body_hash == event.body_hash else Stored("conflict", first)
        if len(event.requests) > LIMIT - self.queued:
            return Stored("full")
        return self._take(event)

    def _take(self, event: Acceptable) -> Stored:
        ids = tuple(range(self.runs + 1, self.runs + 1 + len(event.requests)))
        self.runs += len(ids)
        self.queued += len(ids)
        self.events[event.id] = ids
        self.seen |= dict.fromkeys(event.keys, (event.id, event.body_hash))
        return Stored("stored", event.id, ids)


deliveries = st.tuples(
    st.lists(st.sampled_from(["k1", "k2", "k3"]), unique=True, max_size=2),
    st.sampled_from([b"{}", b"[1]"]),
    st.integers(0, 2),
)


class Accepting(RuleBasedStateMachine):
    """Batches of deliveries, repeated calls and ending runs, in any order, beside the model."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.redis = self.loop.run(self._open(url))
        self.acceptor = acceptor(self.redis, max_queue=LIMIT)
        self.runs = Records(self.redis, KEYS, "run")
        self.model = Model()
        self.sent: list[Acceptable] = []

    async def _open(self, url: str) -> Any:
        redis = connect(url)
        await redis.flushall()
        return redis

    def teardown(self) -> None:
        self.loop.run(self.redis.aclose())
        self.loop.close()

    def check(self, *events: Acceptable) -> None:
        async def together() -> list[Stored]:
            return await asyncio.gather(*(self.acceptor.store(event) for event in events))

        expected = [self.model.store(event) for event in events]
        assert self.loop.run(together()) == expected

    @rule(batch=st.lists(deliveries, min_size=1, max_size=4))
    def deliver(self, batch: list[tuple[list[str], bytes, int]]) -> None:
        events = [
            event_of(f"evt_{len(self.sent) + place}", *[REQUEST] * runs, keys=keys, body=body)
            for place, (keys, body, runs) in enumerate(batch)
        ]
        self.sent += events
        self.check(*events)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        """The very same call, as after an answer that was lost."""
        self.check(data.draw(st.sampled_from(self.sent)))

    @precondition(lambda self: self.model.queued)
    @rule()
    def end_a_run(self) -> None:
        async def end() -> None:
            (claimed,) = (await self.runs.claim("worker", 60_000, 1)).items
            write = Write(id=claimed.id, fence=claimed.fence, move=MOVES["complete"])
            assert await self.runs.write(write) == "ok"

        self.loop.run(end())
        self.model.queued -= 1

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        async def look() -> tuple[int, int, int, int]:
            async with self.redis.pipeline() as pipe:
                pipe.get(KEYS.named("runs:last"))
                pipe.zcard(KEYS.queue("run"))
                pipe.zcard(KEYS.named("events"))
                pipe.keys(KEYS.named("seen:*"))
                last, queued, events, seen = await pipe.execute()
            return int(last or 0), queued, events, len(seen)

        model = self.model
        assert self.loop.run(look()) == (model.runs, model.queued, len(model.events), len(model.seen))


def test_the_script_and_a_dictionary_agree(store: str) -> None:
    """Whatever is delivered, repeated and ended, in whatever order and batches, the store does as a dictionary would."""
    run_state_machine_as_test(
        lambda: Accepting(store),  # type: ignore[arg-type]  # whatever makes one is called
        settings=settings(max_examples=40, stateful_step_count=20, deadline=None),
    )


# ---- one delivery, one effect


def test_fifty_concurrent_deliveries_of_one_key_start_one_run(store: str) -> None:
    """Fifty requests with one key, over five connections at once: one is stored, all get its run."""

    async def story() -> None:
        clients = [connect(store) for _ in range(5)]
        acceptors = [acceptor(client) for client in clients]
        calls = [
            each.store(event_of(f"evt_{number}_{place}", REQUEST, keys=["one"]))
            for number, each in enumerate(acceptors)
            for place in range(10)
        ]
        answers = await asyncio.gather(*calls)
        assert sorted(answer.outcome for answer in answers) == ["known"] * 49 + ["stored"]
        assert {(answer.event_id, answer.run_ids) for answer in answers} == {(answers[0].event_id, (1,))}
        assert await clients[0].zcard(KEYS.queue("run")) == 1
        for client in clients:
            await client.aclose()

    tell(story())


def test_a_delivery_right_after_the_answer_to_another_is_sent(store: str) -> None:
    """Who delivers again in the moment in which the last call comes to its end is not left waiting."""

    async def story() -> None:
        async with connected(store) as redis:
            door = acceptor(redis)
            for number in range(20):
                assert (await door.store(event_of(f"evt_{number}", REQUEST))).run_ids == (number + 1,)

    tell(story())


def test_concurrent_deliveries_share_a_call(store: str) -> None:
    """What is asked for in one moment travels in one script call."""

    async def story() -> None:
        async with connected(store) as redis:
            door = acceptor(redis)
            await door.store(event_of("evt_first", REQUEST))  # the script is loaded now
            await redis.config_resetstat()
            await asyncio.gather(*(door.store(event_of(f"evt_{number}", REQUEST)) for number in range(200)))
            calls = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            assert calls <= 2
            assert await redis.zcard(KEYS.queue("run")) == 201

    tell(story())


def test_an_event_without_runs_finds_room_in_an_overfull_queue(store: str) -> None:
    """The queue's limit is for runs: what starts none is stored even when the queue holds more than the limit."""

    async def story() -> None:
        async with connected(store) as redis:
            await acceptor(redis).store(event_of("evt_1", REQUEST, REQUEST))
            narrow = acceptor(redis, max_queue=1)
            assert await narrow.store(event_of("evt_2", REQUEST)) == Stored("full")
            assert (await narrow.store(event_of("evt_3"))).outcome == "stored"

    tell(story())


def test_a_delivery_is_remembered_for_its_window(store: str) -> None:
    """A key lives as long as the window says; after that the same key is a new delivery."""

    async def story() -> None:
        async with connected(store) as redis:
            await acceptor(redis).store(event_of("evt_1", REQUEST, keys=["long"]))
            assert 50_000 < await redis.pttl(KEYS.named("seen:long")) <= 60_000
            brief = acceptor(redis, window_ms=1)
            await brief.store(event_of("evt_2", REQUEST, keys=["short"]))
            await until(lambda: _absent(redis, KEYS.named("seen:short")))
            assert (await brief.store(event_of("evt_3", REQUEST, keys=["short"]))).outcome == "stored"

    tell(story())


async def _absent(redis: Any, key: str) -> bool:
    return not await redis.exists(key)


# ---- wholly or not at all


def test_everything_of_an_event_appears_together(store: str) -> None:
    """The event's bytes, its decision, its run, the index and arq's two entries are all there after one call."""

    async def story() -> None:
        async with connected(store) as redis:
            await acceptor(redis).store(event_of("evt_1", REQUEST, keys=["k"], body=b'{"\xc3\xa4": "\x00"}'))
            event = await Reader(redis, KEYS).event("evt_1")
            assert (event.body, event.run_ids, event.head.app_id) == (b'{"\xc3\xa4": "\x00"}', [1], 1)
            run = await Reader(redis, KEYS).run(1)
            assert (str(run.state), run.request, run.created_at) == ("pending", REQUEST, event.received_at)
            assert await redis.zrange(KEYS.state("run", "pending"), 0, -1) == [b"1"]
            assert await redis.zscore(KEYS.queue("run"), KEYS.job("run", 1)) == 1
            assert await redis.llen(KEYS.wake("run")) == 1
            assert await redis.ttl(KEYS.run(1)) == -1

    tell(story())


def test_arq_s_own_client_sees_the_job(store: str) -> None:
    """For arq the run is a queued job in its own words: function `run`, one argument, the run's id."""

    async def story() -> None:
        async with connected(store) as redis:
            await acceptor(redis).store(event_of("evt_1", REQUEST))
            client = ArqRedis(redis.connection_pool, job_deserializer=json.loads, default_queue_name=KEYS.queue("run"))
            (definition,) = await client.queued_jobs()
            assert (definition.function, list(definition.args), definition.kwargs) == ("run", [1], {})
            job = Job(KEYS.job("run", 1), client, KEYS.queue("run"), _deserializer=json.loads)
            assert await job.status() == JobStatus.queued
            info = await job.info()
            assert info is not None
            assert abs(info.enqueue_time.timestamp() - time.time()) < 60

    tell(story())


# ---- doubt


def test_a_store_that_comes_back_in_time_is_asked_again(own_valkey: Valkey) -> None:
    """While the server restarts, an event waits; it is stored once and nobody notices."""

    async def story() -> None:
        async with connected(own_valkey.url) as redis:
            door = acceptor(redis, timeout=10)
            await door.store(event_of("evt_1", REQUEST))
            own_valkey.stop()
            waiting = asyncio.create_task(door.store(event_of("evt_2", REQUEST)))
            await asyncio.sleep(0)
            own_valkey.start()
            assert (await waiting) == Stored("stored", "evt_2", (2,))

    tell(story())


@pytest.mark.parametrize("fault", ["stopped", "frozen"])
def test_a_store_that_does_not_answer_is_no_yes(own_valkey: Valkey, fault: str) -> None:
    """With the server gone or frozen, every event is refused as unavailable, on time."""

    async def story() -> None:
        async with connected(own_valkey.url) as redis:
            door = acceptor(redis, timeout=0.5)
            await door.store(event_of("evt_1", REQUEST))
            own_valkey.stop() if fault == "stopped" else own_valkey.freeze()
            began = time.monotonic()
            calls = [door.store(event_of(f"evt_x{number}", REQUEST, keys=[f"k{number}"])) for number in range(5)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(answer) for answer in answers] == [Unavailable] * 5
            assert time.monotonic() - began < 1.5
            own_valkey.thaw()

    tell(story())


def test_an_event_that_was_stored_in_doubt_is_known_when_it_comes_again(own_valkey: Valkey) -> None:
    """The server froze with the call on its way: the sender was told to come again, and no run is started twice."""

    async def story() -> None:
        async with connected(own_valkey.url) as redis:
            door = acceptor(redis, timeout=0.5)
            await door.store(event_of("evt_1", REQUEST))
            own_valkey.freeze()
            with pytest.raises(Unavailable):
                await door.store(event_of("evt_2", REQUEST, keys=["k"]))
            own_valkey.thaw()
            again = await acceptor(redis).store(event_of("evt_3", REQUEST, keys=["k"]))
            assert again.run_ids == (2,)
            assert await redis.get(KEYS.named("runs:last")) == b"2"

    tell(story())


def test_without_a_replica_its_word_is_not_given(store: str) -> None:
    """`replica` asks one to confirm; when none does the event is in doubt, and refused."""

    async def story() -> None:
        async with connected(store) as redis:
            with pytest.raises(Unavailable) as caught:
                await acceptor(redis, durability="replica").store(event_of("evt_1", REQUEST))
            assert caught.value.details["reason"] == "no replica confirmed the write"

    tell(story())


def test_with_a_replica_the_event_is_there_too(own_valkey: Valkey, tmp_path: Path) -> None:
    """With a replica connected the event is accepted, and is on the replica when the answer comes."""
    with Valkey.running(tmp_path / "replica") as replica, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()

        async def story() -> None:
            async with connected(own_valkey.url) as redis, connected(replica.url) as copy:
                await redis.config_set("repl-diskless-sync-delay", 0)
                await redis.config_set("bind", "127.0.0.1")
                await redis.config_set("port", port)
                await copy.replicaof("127.0.0.1", str(port))
                await until(lambda: _follows(copy))
                assert (await acceptor(redis, durability="replica").store(event_of("evt_1", REQUEST))).run_ids == (1,)
                assert (await Reader(copy, KEYS).event("evt_1")).run_ids == [1]

        tell(story())


async def _follows(copy: Any) -> bool:
    return bool((await copy.info("replication")).get("master_link_status") == "up")
