"""Chains over a real store: the end of a run starts another exactly once, whoever ends it and whoever dies."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.control import Control
from gateway.events import parse_body
from gateway.runs import MOVES, Run, State
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.store.listing import CallbackFilter, Listing
from gateway.store.reading import Reader, StoredEvent
from gateway.store.records import Records, Write
from gateway.store.registry import Registry
from gateway.store.ticking import Ticking
from gateway.store.waiting import Waiters
from tests.tools import (
    KEYS,
    acceptor,
    all_events,
    begin,
    connected,
    ended,
    publish,
    receiving,
    settings_for,
    tell,
    until,
    working,
)
from workers.chain import Chains

CHAINING = KEYS.state("run", "chaining")
SECRET = "whsec_" + base64.b64encode(b"a secret of the tests of chains!").decode()


def file(*workflows: dict[str, Any], **more: Any) -> str:
    """A gateway.yaml with `build`, which answers with its input, and these workflows."""
    build = {"id": 1, "name": "build", "steps": [{"id": "a", "transform": "${input.n}"}]}
    return json.dumps({"workflows": [build, *workflows]} | more)


def deploy(*listeners: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "deploy", "on": [{"workflow": "build"} | each for each in listeners]} | more


def chains_of(redis: Redis, *, max_depth: int = 16, **limits: Any) -> Chains:
    registry = Registry(redis, Catalog(redis, KEYS), KEYS.named("changed"), ())
    return Chains(Ticking(redis, KEYS), registry, Reader(redis, KEYS), acceptor(redis, **limits), max_depth=max_depth)


async def end(redis: Redis, run_id: int, move: str = "complete") -> None:
    """End a pending run as a worker does that dies right after."""
    runs = Records(redis, KEYS, "run")
    claims = await runs.claim("w", 60_000, 10)
    (fence,) = (item.fence for item in claims.items if item.id == str(run_id))
    assert (
        await runs.write(Write(id=str(run_id), fence=fence, fields={"ended_at": claims.now}, move=MOVES[move])) == "ok"
    )


async def runs_of(redis: Redis) -> list[Run]:
    """All runs, the oldest first."""
    reader = Reader(redis, KEYS)
    return [await reader.run(run_id) for run_id in range(1, int(await redis.get(KEYS.named("runs:last")) or 0) + 1)]


async def events_of(redis: Redis, scheme: str = "chain") -> list[StoredEvent]:
    """The events that ends of runs made, the oldest first."""
    found = await all_events(redis)
    return [event for event in found if event.head.decision.scheme == scheme]


async def nothing_listed(redis: Redis) -> bool:
    return not await redis.exists(CHAINING)


def test_a_completed_run_starts_what_listens_to_it(store: str, tmp_path: Path) -> None:
    """By name and by id; the new runs have their input from the old one, and read it in their steps as `event`."""
    listening = deploy(
        {"input": {"n": "${event.body.output}"}}, steps=[{"id": "s", "transform": "${event.body.run_id}"}]
    )
    other = {
        "name": "report",
        "on": [{"workflow": 1, "when": "run.output > 4"}, {"workflow": 1, "when": "run.output > 5"}],
    }

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, file(listening, other))
            async with working(settings_for(store, tmp_path)):
                run_id = await begin(redis, "build", input={"n": 5})
                await until(lambda: ended_runs(redis, 3))
                assert await nothing_listed(redis)
            _, *started = await runs_of(redis)
            found = {run.request.workflow: run for run in started}
            assert set(found) == {"deploy", "report"}
            assert (found["deploy"].request.input, found["deploy"].output) == ({"n": 5}, run_id)
            assert {(run.request.root, run.request.depth) for run in started} == {("ses_t", 1)}
            assert {run.request.trigger for run in started} == {"on build", "on 1"}

    tell(story())


async def ended_runs(redis: Redis, count: int) -> bool:
    return int(await redis.zcard(KEYS.state("run", "completed"))) >= count


@pytest.mark.parametrize(("move", "started"), [("complete", []), ("fail", ["deploy"]), ("cancel", ["deploy"])])
def test_only_the_states_that_are_listened_to_start_something(store: str, move: str, started: list[str]) -> None:
    """A listener to failed and cancelled runs does not hear of a completed one; the list is empty in the end."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, file(deploy({"status": ["failed", "cancelled"]})))
            await end(redis, await begin(redis, "build"), move)
            assert await chains_of(redis).follow() == 1
            assert [run.request.workflow for run in (await runs_of(redis))[1:]] == started
            assert await nothing_listed(redis)

    tell(story())


def test_a_run_that_a_person_cancels_starts_what_listens(store: str, tmp_path: Path) -> None:
    """The receiver ends it, and a worker that looks later starts the rest."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, file(deploy({"status": ["cancelled"], "input": "${run.error.message}"})))
            run_id = await begin(redis, "build")
            catalog, reader = Catalog(redis, KEYS), Reader(redis, KEYS)
            registry = Registry(redis, catalog, KEYS.named("changed"), ())
            records = Records(redis, KEYS, "run")
            control = Control(registry, acceptor(redis), reader, records, Waiters(redis, KEYS, limit=1), catalog)
            assert (await control.cancel(run_id, "not today")).state == State.CANCELLED
            async with working(settings_for(store, tmp_path)):
                chained = await ended(redis, await until(lambda: second_run(redis)))
            assert chained.request.input == "not today"

    tell(story())


async def second_run(redis: Redis) -> int:
    return 2 if await redis.exists(KEYS.run(2)) else 0


def test_who_is_not_listened_to_is_not_listed(store: str) -> None:
    """The end of a run costs nothing where nobody wants to hear of it."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, file({"name": "other"}))
            await end(redis, await begin(redis, "build"))
            assert await nothing_listed(redis)
            await publish(redis, file({"name": "other"}, deploy({})))
            await end(redis, await begin(redis, "other"))
            assert await nothing_listed(redis)

    tell(story())


DYING = """
import asyncio, os, sys
from gateway.settings import read_settings
from gateway.store.accepting import Acceptor
from gateway.store.ticking import Ticking
from workers.main import run_worker

listed, stored = Ticking.chaining, Acceptor.store

async def die_when_listed(self):
    if await listed(self):
        os._exit(9)
    return []

async def die_when_stored(self, event):
    await stored(self, event)
    os._exit(9)

if sys.argv[1] == "before":
    Ticking.chaining = die_when_listed
else:
    Acceptor.store = die_when_stored
run_worker(read_settings())
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_dies_between_end_and_start_loses_and_doubles_nothing(
    store: str, tmp_path: Path, when: str
) -> None:
    """A worker process ends itself before it stores what follows, or right after; the next worker makes it one run."""
    environ = os.environ | {
        "GATEWAY_REDIS_URL": store,
        "GATEWAY_DATA_DIR": str(tmp_path),
        "GATEWAY_CONFIG": str(tmp_path / "gateway.yaml"),
    }

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, file(deploy({})))
            run_id = await begin(redis, "build", input={"n": 1})
            command = [sys.executable, "-c", DYING, when]
            worker = await asyncio.to_thread(
                subprocess.run, command, env=environ, capture_output=True, timeout=40, check=False
            )
            assert worker.returncode == 9, worker.stderr.decode()
            assert (await ended(redis, run_id)).state == "completed"
            assert await redis.zrange(CHAINING, 0, -1) == [b"1"]
            assert len(await runs_of(redis)) == (1 if when == "before" else 2)
            async with working(settings_for(store, tmp_path)):
                assert (await ended(redis, await until(lambda: second_run(redis)))).state == "completed"
                await until(lambda: nothing_listed(redis))
            assert [run.request.workflow for run in await runs_of(redis)] == ["build", "deploy"]

    tell(story())


def test_many_workers_start_one_run(store: str) -> None:
    """All may look at the same end at once, and again."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, file(deploy({}, {})))
            await end(redis, await begin(redis, "build"))
            await asyncio.gather(*(chains_of(redis).follow() for _ in range(5)))
            await redis.zadd(CHAINING, {"1": 0})
            await chains_of(redis).follow()
            assert [run.request.workflow for run in await runs_of(redis)] == ["build", "deploy", "deploy"]

    tell(story())


def test_a_loop_ends_at_the_limit_and_is_explained(store: str, tmp_path: Path) -> None:
    """Two workflows that start each other do so as often as the limit lets them; the last start is parked and says why."""
    ping = {"name": "ping", "on": [{"workflow": "pong"}]}
    pong = {"name": "pong", "on": [{"workflow": "ping"}]}

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, json.dumps({"workflows": [ping, pong]}))
            async with working(settings_for(store, tmp_path, max_depth=3)):
                await begin(redis, "ping")
                parked = await until(lambda: parked_event(redis))
                await until(lambda: nothing_listed(redis))
            runs = await runs_of(redis)
            assert [run.request.workflow for run in runs] == ["ping", "pong", "ping", "pong"]
            assert [(run.state, run.request.depth) for run in runs] == [("completed", depth) for depth in range(4)]
            assert {run.request.root for run in runs[1:]} == {"ses_t"}
            assert (parked.head.decision.outcome, parked.run_ids) == ("parked", [])
            assert "GATEWAY_MAX_DEPTH allows 3; it began with ses_t" in parked.head.decision.reason
            assert parse_body(parked.body)["run_id"] == 4

    tell(story())


async def parked_event(redis: Redis, scheme: str = "chain") -> StoredEvent | None:
    found = [event for event in await events_of(redis, scheme) if event.head.decision.outcome == "parked"]
    return found[0] if found else None


def test_a_file_whose_workflows_go_in_a_circle_is_warned_of(tmp_path: Path) -> None:
    """`gateway check` finds no mistake in it, and says what will happen."""
    circle = tmp_path / "gateway.yaml"
    circle.write_text(json.dumps({"workflows": [{"name": "ping", "on": [{"workflow": "ping"}]}]}))
    command = [sys.executable, "-m", "gateway", "check", str(circle), "--json"]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=40, check=True)
    (warning,) = json.loads(checked.stdout)["warnings"]
    assert "ping → ping; GATEWAY_MAX_DEPTH ends it" in warning


def test_a_full_queue_holds_a_chain_up_and_loses_none(store: str) -> None:
    """The run stays on the list until there is room for what follows."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, file(deploy({})))
            await end(redis, await begin(redis, "build"))
            await chains_of(redis, max_queue=0).follow()
            assert len(await runs_of(redis)) == 1
            await chains_of(redis).follow()
            assert len(await runs_of(redis)) == 2
            assert await nothing_listed(redis)

    tell(story())


def test_a_run_that_is_taken_up_again_has_not_ended(store: str) -> None:
    """Its end starts nothing any more; one that ended again while somebody looked stays on the list; one gone does not."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, file(deploy({})))
            await end(redis, await begin(redis, "build"), "fail")
            await redis.hset(KEYS.run(1), "state", "pending")
            await chains_of(redis).follow()
            assert (len(await runs_of(redis)), await nothing_listed(redis)) == (1, True)
            await redis.zadd(CHAINING, {"1": 0, "99": 0})
            await Ticking(redis, KEYS).chained(1, 5)
            assert await Ticking(redis, KEYS).chaining() == [1, 99]
            await chains_of(redis).follow()
            assert await nothing_listed(redis)

    tell(story())


def test_what_can_not_be_followed_does_not_hold_up_the_rest(store: str) -> None:
    """A run whose record can't be read is put off, and the next is followed."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, file(deploy({})))
            for _ in range(2):
                await end(redis, await begin(redis, "build"))
            await redis.hset(KEYS.run(1), "output", "no JSON")
            assert await chains_of(redis).follow() == 2
            assert await redis.zrange(CHAINING, 0, -1) == [b"1"]
            assert await Ticking(redis, KEYS).chaining() == []
            assert await redis.exists(KEYS.run(3))

    tell(story())


# ---- across gateways


def test_a_loop_through_callbacks_ends_at_the_limit(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway whose callbacks start runs that call back goes no deeper than the limit, with one root for all."""
    monkeypatch.setenv("A_HOP_SECRET", SECRET)

    def circle(port: int) -> str:
        url = f"http://127.0.0.1:{port}/api/v1/webhooks/7"
        trigger = [{"name": "again", "when": "event.type == 'run.completed'", "workflow": "build"}]
        app = {
            "id": 7,
            "name": "chain",
            "verify": {"scheme": "standard-webhooks", "secrets": [{"env": "A_HOP_SECRET"}]},
            "triggers": trigger,
            "callback": {"url": url, "secret": {"env": "A_HOP_SECRET"}},
        }
        return json.dumps({"apps": [app], "workflows": [{"id": 1, "name": "build"}]})

    async def story() -> None:
        settings = settings_for(store, tmp_path, max_depth=2)
        async with connected(store) as redis, receiving(settings) as port:
            await publish(redis, circle(port))
            async with working(settings):
                await begin(redis, "build", app_id=7)
                parked = await until(lambda: parked_event(redis, "hmac"))
                delivered = await until(lambda: all_delivered(redis, 3))
            runs = await runs_of(redis)
            assert [(run.request.root, run.request.depth) for run in runs] == [(None, 0), ("ses_t", 1), ("ses_t", 2)]
            assert parked.head.decision.hop == "depth 2, began with ses_t"
            assert "GATEWAY_MAX_DEPTH allows 2" in parked.head.decision.reason
            (last,) = (callback.attempts[0] for callback in delivered if callback.run_id == 3)
            assert (last.status, json.loads(last.answer)["status"]) == (202, "parked")

    tell(story())


async def all_delivered(redis: Redis, count: int) -> Any:
    page = await Listing(redis, KEYS).callbacks(CallbackFilter(state="delivered"), 100)
    return [each.callback for each in page.found] if len(page.found) == count else None
