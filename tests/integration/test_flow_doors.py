"""Flow control at the doors: what a sender and a caller are told, over real HTTP."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2

from gateway.store.reading import Reader
from gateway.store.refusals import read_refusals
from tests.tools import KEYS, publish, tell, until
from tests.tools_api import Api, serving

FILE = """
apps:
  - {id: 42, name: ci, adapter: direct, verify: none}
  - {id: 43, name: hub, verify: none, triggers: [
      {name: a, when: "event.body.kind == 'one'", workflow: single, input: "${event.body}"},
      {name: b, when: "event.body.kind == 'key'", workflow: keyed, input: {}},
      {name: c, when: "event.body.kind == 'many'", workflow: limited}]}
workflows:
  - {id: 1, name: single, singleton: {key: "has(input.k) ? input.k : 'all'"}, steps: [{id: a, transform: 1}]}
  - {id: 2, name: limited, rate_limit: {limit: 1, period: 2s}}
  - {id: 3, name: keyed, concurrency: {limit: 1, key: event.body.repo}}
  - {id: 4, name: gated, concurrency: {limit: 1, key: input.k}, steps: [{id: a, transform: 1}]}
  - {id: 5, name: gathered, batch: {max_size: 2, timeout: 1h}, steps: [{id: a, transform: "${input.items}"}]}
  - {id: 6, name: parked, throttle: {limit: 1, period: 1h}}
"""


@contextlib.asynccontextmanager
async def opened(store: str, folder: Path, *, worker: bool = False) -> AsyncIterator[Api]:
    async with serving(store, folder, worker=worker) as api:
        await publish(api.redis, FILE)

        async def known() -> bool:
            return (await api.get("/api/v1/workflows/parked")).status_code == 200

        await until(known)
        yield api


async def post(api: Api, app: int, body: Any) -> httpx2.Response:
    return await api.client.post(f"/api/v1/webhooks/{app}", json=body)


def test_a_rate_limit_is_429_with_retry_after_at_every_door(store: str, tmp_path: Path) -> None:
    """Webhook and API are told the same true number of seconds, nothing is stored, and the refusal is on record."""

    async def story() -> None:
        async with opened(store, tmp_path) as api:
            assert (await post(api, 42, {"workflow_id": 2})).status_code == 200
            began = time.monotonic()
            for answer in (
                await post(api, 42, {"workflow_id": 2}),
                await post(api, 43, {"kind": "many"}),
                await api.post("/api/v1/runs", {"workflow": "limited"}),
                await api.post("/api/v1/trigger", {"workflow_id": 2}),
            ):
                assert (answer.status_code, answer.headers["retry-after"]) == (429, "2"), answer.text
                assert answer.json()["code"] == "rate_limited"
            assert await api.redis.zcard(KEYS.named("events")) == 1

            async def noted() -> bool:
                seen = await read_refusals(api.redis, KEYS)
                return [each.decision.reason for each in seen if each.status == 429] == ["rate_limited"] * 2

            await until(noted)
            await until(lambda: time.monotonic() - began >= 2)
            assert (await post(api, 42, {"workflow_id": 2})).status_code == 200

    tell(story())


def test_a_skipped_request_is_answered_with_the_run_in_its_way(store: str, tmp_path: Path) -> None:
    """A direct request gets that run's id and state and `skipped`; an event gets 202; each is stored with its decision."""

    async def story() -> None:
        async with opened(store, tmp_path) as api:
            assert (await post(api, 42, {"workflow_id": 1})).json()["run_id"] == 1
            skipped = {"run_id": 1, "status": "pending", "workflow_id": 1, "started_at": None, "skipped": True}
            answer = await post(api, 42, {"workflow_id": 1})
            assert (answer.status_code, answer.json()) == (200, skipped)
            answer = await post(api, 43, {"kind": "one"})
            assert answer.status_code == 202
            event_id = answer.json()["event_id"]
            assert answer.json() == {"event_id": event_id, "status": "skipped", "runs": [skipped]}
            seen = (await api.get(f"/api/v1/events/{event_id}")).json()
            assert (seen["decision"]["outcome"], seen["decision"]["skipped"], seen["run_ids"]) == ("skipped", [1], [])
            assert int(await api.redis.get(KEYS.named("runs:last"))) == 1

    tell(story())


def test_a_caller_is_shown_only_a_run_that_it_may_see(store: str, tmp_path: Path) -> None:
    """Skipped at the API: whoever may read the run in the way gets it, whoever may not gets 409 and no word of it."""

    async def story() -> None:
        async with opened(store, tmp_path) as api:
            first = (await api.post("/api/v1/runs", {"workflow": "single", "task": "a secret"})).json()
            answer = await api.post("/api/v1/runs", {"workflow": "single"})
            assert (answer.status_code, answer.json()["run_id"]) == (201, first["run_id"])
            narrow = await api.token("runs:start")
            await api.settle()
            refused = await api.post("/api/v1/runs", {"workflow": "single"}, token=narrow)
            assert refused.status_code == 409
            assert "a secret" not in refused.text

    tell(story())


def test_a_key_that_gives_nothing_is_422_and_nothing_is_stored(store: str, tmp_path: Path) -> None:
    """A key reads what the request doesn't have: the answer names the field, at webhooks and at the API."""

    async def story() -> None:
        async with opened(store, tmp_path) as api:
            for answer in (
                await post(api, 43, {"kind": "key"}),
                await post(api, 42, {"workflow_id": 4}),
                await api.post("/api/v1/runs", {"workflow": "gated", "input": {"j": 1}}),
                await api.post("/api/v1/runs", {"workflow": "keyed", "input": {"j": 1}}),
            ):
                assert answer.status_code == 422, answer.text
                assert "concurrency.key" in answer.text
            assert await api.redis.zcard(KEYS.named("events")) == 0
            assert (await post(api, 43, {"kind": "key", "repo": "r"})).status_code == 200
            assert (await post(api, 42, {"workflow_id": 3, "repo": "r"})).status_code == 200

    tell(story())


def test_why_a_run_has_not_started_is_shown(store: str, tmp_path: Path) -> None:
    """The API tells reason, key, since when and behind how many; the metrics page how long the oldest waits."""

    async def story() -> None:
        async with opened(store, tmp_path) as api:
            await api.start("gated", input={"k": "x"})
            second = await api.start("gated", input={"k": "x"})
            held = (await api.get(f"/api/v1/runs/{second}")).json()["held"]
            assert (held["reason"], held["key"], held["behind"], "since" in held) == ("concurrency", "x", 1, True)
            await api.start("parked")
            third = await api.start("parked")
            held = (await api.get(f"/api/v1/runs/{third}")).json()["held"]
            assert (held["reason"], held["until"] > held["since"]) == ("throttle", True)
            listed = (await api.get("/api/v1/runs")).json()["data"]
            assert {row["held"]["reason"] for row in listed} == {"queue", "concurrency", "throttle"}
            page = (await api.client.get("/metrics")).text
            assert 'gateway_oldest_pending_seconds{reason="concurrency"}' in page

    tell(story())


def test_a_gated_and_a_batched_run_are_carried_to_their_end(store: str, tmp_path: Path) -> None:
    """The whole way with a real worker: what waits at a gate is done, and a batch's step sees its items."""

    async def story() -> None:
        async with opened(store, tmp_path, worker=True) as api:
            for _ in range(3):
                await api.start("gated", input={"k": "x"})
            answer = await api.post("/api/v1/runs?wait=20", {"workflow": "gated", "input": {"k": "x"}})
            assert answer.json()["status"] == "completed"
            assert "held" not in answer.json()
            first = await api.start("gathered", input={"n": 1})
            answer = await api.post("/api/v1/runs?wait=20", {"workflow": "gathered", "input": {"n": 2}})
            assert (answer.json()["run_id"], answer.json()["output"]) == (first, [{"n": 1}, {"n": 2}])
            event = await Reader(api.redis, KEYS).event((await api.get(f"/api/v1/runs/{first}")).json()["event_id"])
            assert json.loads(event.body)["input"] == {"n": 1}

    tell(story())
