"""The three pages that machines look at, with the real receiver, worker and Valkey."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tests.tools import Valkey, begin, connected, ended, publish, receiving, settings_for, signed, tell, until, working

FILE = """
apps:
  - {id: 1, name: ci, adapter: direct, verify: none}
workflows:
  - {id: 15, name: "odd.name", steps: [{id: s, transform: 1}]}
"""


async def get(port: int, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(verify=False) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


def test_the_process_is_live_even_without_its_store(own_valkey: Valkey, tmp_path: Path) -> None:
    """`/livez` says 200 as long as the loop turns: a dead store is no reason to restart the receiver."""

    async def story() -> None:
        async with receiving(settings_for(own_valkey.url, tmp_path)) as port:
            own_valkey.stop()
            answer = await get(port, "/livez")
            assert (answer.status_code, answer.json()) == (200, {"status": "live"})

    tell(story())


def test_ready_means_stored_and_worked_on(store: str, tmp_path: Path) -> None:
    """Without a worker it is not ready, but for those who only ask for the store; with one it is."""

    async def story() -> None:
        settings = settings_for(store, tmp_path, lease=5)
        async with receiving(settings) as port:
            alone = await get(port, "/readyz")
            assert (alone.status_code, alone.json()["status"]) == (503, "not ready")
            assert alone.json()["checks"]["run_workers"]["reason"] == "no worker has looked at the queue"
            only = await get(port, "/readyz?only=store")
            assert (only.status_code, only.json()["status"], only.json()["durability"]) == (200, "ready", "fsync")
            assert only.json()["checks"]["store"]["appendfsync"] == "always"
            async with working(settings):
                ready = await until(lambda: _ready(port))
                assert set(ready["checks"]) == {"store", "run_workers", "callback_workers"}
            gone = await get(port, "/readyz")
            assert gone.status_code == 503

    tell(story())


async def _ready(port: int) -> Any:
    answer = await get(port, "/readyz")
    return answer.json() if answer.status_code == 200 else None


def test_a_worker_that_fell_silent_is_noticed(store: str, tmp_path: Path) -> None:
    """When no worker has looked for longer than a lease, the check says for how long."""

    async def story() -> None:
        async with connected(store) as redis, receiving(settings_for(store, tmp_path, lease=5)) as port:
            clock = await redis.time()
            for kind in ("run", "callback"):
                await redis.zadd("gw:{0}:workers", {f"{kind} w": clock[0] * 1000 - 90_000})
            answer = await get(port, "/readyz")
            assert answer.status_code == 503
            assert "for 9" in answer.json()["checks"]["run_workers"]["reason"]

    tell(story())


def test_not_ready_names_what_is_wrong_with_the_store(own_valkey: Valkey, tmp_path: Path) -> None:
    """A server that was set to lose data, one that is frozen and one that is gone: 503 with the reason, on time."""

    async def story() -> None:
        async with connected(own_valkey.url) as redis, receiving(settings_for(own_valkey.url, tmp_path)) as port:
            await redis.config_set("appendfsync", "no")
            lax = await get(port, "/readyz?only=store")
            assert lax.status_code == 503
            assert "GATEWAY_DURABILITY=fsync" in lax.json()["checks"]["store"]["reason"]
            own_valkey.freeze()
            began = time.monotonic()
            frozen = await get(port, "/readyz?only=store")
            assert frozen.status_code == 503
            assert frozen.json()["checks"]["store"]["reason"]
            assert time.monotonic() - began < 3
            own_valkey.thaw()
            own_valkey.stop()
            gone = await get(port, "/readyz?only=store")
            assert gone.status_code == 503
            assert "can't reach" in gone.json()["checks"]["store"]["reason"]

    tell(story())


def test_metrics_count_what_happened(store: str, tmp_path: Path) -> None:
    """After a request and its run the page has both, the queue is empty, and a worker was seen."""

    async def story() -> None:
        settings = settings_for(store, tmp_path)
        async with connected(store) as redis, receiving(settings) as port, working(settings):
            await publish(redis, FILE)
            await ended(redis, await begin(redis, "odd.name"))
            async with httpx2.AsyncClient(verify=False) as client:
                await client.post(f"http://127.0.0.1:{port}/api/v1/webhooks/no", content=b"{}", headers=signed(b"{}"))
            page = await get(port, "/metrics")
            found = {
                (sample.name, *sorted(sample.labels.values())): sample.value
                for family in text_string_to_metric_families(page.text)
                for sample in family.samples
            }
            assert found["gateway_runs_total", "completed", "odd.name"] == 1
            assert found["gateway_steps_total", "completed", "transform"] == 1
            assert found["gateway_requests_total", "", "404", "not_found"] == 1
            assert found["gateway_queue_depth", "runs"] == 0
            assert found["gateway_open_runs", "pending"] == 0
            assert 0 <= found["gateway_worker_heartbeat_age_seconds",] < 5

    tell(story())


def test_the_age_of_the_oldest_pending_run_is_shown(store: str, tmp_path: Path) -> None:
    """With nobody to work, the page tells how long the oldest run has waited."""

    async def story() -> None:
        async with connected(store) as redis, receiving(settings_for(store, tmp_path)) as port:
            await publish(redis, FILE)
            run_id = await begin(redis, "odd.name")
            clock = await redis.time()
            await redis.hset(f"gw:{{0}}:run:{run_id}", "created_at", clock[0] * 1000 - 42_000)
            page = (await get(port, "/metrics")).text
            (line,) = [line for line in page.splitlines() if 'pending_seconds{reason="queue"}' in line]
            assert 41 < float(line.split()[1]) < 50

    tell(story())


def test_metrics_are_shown_without_the_store(own_valkey: Valkey, tmp_path: Path) -> None:
    """With the store gone the page has what this process counted."""

    async def story() -> None:
        async with receiving(settings_for(own_valkey.url, tmp_path)) as port:
            own_valkey.stop()
            page = await get(port, "/metrics")
            assert page.status_code == 200
            assert "gateway_accept_duration_seconds_count" in page.text
            assert "gateway_queue_depth" not in page.text

    tell(story())
