"""The lists of events and callbacks over our own API: by cursor and by filter."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tools import SECRET, publish, signed, tell, until
from tests.tools_api import FILE, Api, serving

TWO_APPS = FILE.replace(
    "workflows:",
    """  - id: 43
    name: other
    adapter: direct
    verify: {scheme: orqo, secrets: [{env: TESTS_SECRET}]}
    callback: {url: "http://127.0.0.1:9/", secret: {env: TESTS_CALLBACK}}
workflows:""",
)


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTS_SECRET", SECRET)
    monkeypatch.setenv("TESTS_CALLBACK", "whsec_" + "YSBzZWNyZXQgb2YgdGhlIHRlc3RzLi4uLg==")


async def prepare(api: Api) -> None:
    """Publish a second app, and wait until it is known."""
    await publish(api.redis, TWO_APPS)

    async def known() -> bool:
        return (await api.get("/api/v1/apps/43")).status_code == 200

    await until(known)


async def send(api: Api, app: int, workflow: int = 15) -> int:
    """One event of an app; gives its run."""
    body = b'{"workflow_id": %d, "task": "t"}' % workflow
    answer = await api.client.post(f"/api/v1/webhooks/{app}", content=body, headers=signed(body))
    run_id: int = answer.json()["run_id"]
    return run_id


async def end(api: Api, *runs: int) -> None:
    """End runs in one moment, so that each has a callback."""
    answers = await asyncio.gather(*(api.post(f"/api/v1/runs/{run}/cancel") for run in runs))
    assert {each.status_code for each in answers} == {200}


async def walk(api: Api, path: str, limit: int, **query: Any) -> list[Any]:
    """All of a list, so many at a time."""
    found: list[Any] = []
    more: dict[str, Any] = {}
    while True:
        answer = await api.get(path, params={"limit": limit, **query, **more})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["data"]) <= limit
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        more = {"cursor": page["next_cursor"]}


def test_callbacks_are_walked_by_cursor(store: str, tmp_path: Path) -> None:
    """Each callback comes once, whatever the page's size and though several were made in the same millisecond."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            runs = [await send(api, 42) for _ in range(9)]
            await end(api, *runs)
            whole = [each["callback_id"] for each in (await api.get("/api/v1/callbacks")).json()["data"]]
            assert len(whole) == len(runs)
            for limit in (1, 2, 3, 9, 10):
                walked = await walk(api, "/api/v1/callbacks", limit)
                assert [each["callback_id"] for each in walked] == whole, limit

    tell(story())


def test_callbacks_of_one_moment_are_each_found(store: str, tmp_path: Path) -> None:
    """Where more callbacks than are looked at in one go have the same time, a walk still finds each of them once."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await end(api, run := await send(api, 42))
            (first,) = (await api.get("/api/v1/callbacks")).json()["data"]
            fields = await api.redis.hgetall(f"gw:{{0}}:callback:{first['callback_id']}")
            for number in range(250):
                name = f"msg_{run}_{number:04d}"
                await api.redis.hset(f"gw:{{0}}:callback:{name}", mapping=fields)
                await api.redis.zadd("gw:{0}:callbacks:pending", {name: 1_700_000_000_000})
            walked = [each["callback_id"] for each in await walk(api, "/api/v1/callbacks", 60)]
            assert len(walked) == len(set(walked)) == 251
            assert walked[0] == first["callback_id"]

    tell(story())


def test_callbacks_are_filtered(store: str, tmp_path: Path) -> None:
    """Callbacks are found by status, run, app and workflow, and by several of them; a bad filter is a 400."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            greet, hidden, other = await send(api, 42), await send(api, 42, 16), await send(api, 43)
            await end(api, greet, hidden, other)

            async def runs(**query: Any) -> set[int]:
                return {each["run_id"] for each in await walk(api, "/api/v1/callbacks", 1, **query)}

            assert await runs() == await runs(status="pending") == {greet, hidden, other}
            assert await runs(status="delivered") == set()
            assert await runs(run_id=hidden) == {hidden}
            assert await runs(run_id=4711) == await runs(run_id=hidden, status="failed") == set()
            assert (await runs(app=42), await runs(app=43), await runs(app=44)) == ({greet, hidden}, {other}, set())
            assert await runs(workflow="greet") == await runs(workflow=15) == {greet, other}
            assert await runs(workflow="greet", app=43, run_id=other) == {other}
            for query in ("status=x", "run_id=0", "app=-1", "cursor=x", "cursor=1.evt_1", "limit=0", "type=x"):
                answer = await api.get(f"/api/v1/callbacks?{query}")
                assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), query
            assert (await api.get("/api/v1/callbacks?workflow=nobody")).status_code == 404

    tell(story())


def test_why_nothing_answered_is_told_in_full_to_admins_only(store: str, tmp_path: Path) -> None:
    """Whoever may see a callback reads that nobody answered; which address did not is for operators."""

    async def story() -> None:
        async with serving(store, tmp_path, callback_schedule="0") as api:
            await send(api, 42)

            async def failed() -> Any:
                found = (await api.get("/api/v1/callbacks?status=failed")).json()["data"]
                return found[0] if found else None

            full = await until(failed)
            token = await api.token("runs:read")
            await api.settle()
            (listed,) = (await api.get("/api/v1/callbacks", token=token)).json()["data"]
            path = f"/api/v1/callbacks/{full['callback_id']}"
            shown = [(await api.get(path, token=each)).json() for each in (api.admin, token)]
            whole = (await api.get(f"/api/v1/runs/{full['run_id']}", token=token)).json()
        errors = [each["attempts"][0]["error"] for each in (full, shown[0])]
        assert all(each.startswith("unreachable: 127.0.0.1: ") for each in errors)
        errors = [each["attempts"][0]["error"] for each in (listed, shown[1], whole["callbacks"][0])]
        assert errors == ["unreachable: no connection could be made"] * 3

    tell(story())


def test_a_narrowed_caller_walks_its_own_callbacks(store: str, tmp_path: Path) -> None:
    """A narrowed token's pages are full of what it may see, and hold nothing else."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            runs = [await send(api, 42 + number % 2, 15 + number % 3 // 2) for number in range(8)]
            await end(api, *runs)
            text = await api.token("runs:read@app:other")
            await api.settle()
            first = (await api.get("/api/v1/callbacks?limit=3", token=text)).json()
            rest = (await api.get("/api/v1/callbacks", token=text, params={"cursor": first["next_cursor"]})).json()
            assert (len(first["data"]), len(rest["data"]), rest["next_cursor"]) == (3, 1, None)
            assert {each["app_id"] for each in first["data"] + rest["data"]} == {43}

    tell(story())


def test_events_are_filtered(store: str, tmp_path: Path) -> None:
    """Events are found by app and time, page by page; a bad filter is a 400."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            for app in (42, 43, 42, 43, 42):
                await send(api, app)
            direct = await api.start()
            whole = await walk(api, "/api/v1/events", 2)
            assert [each["app_id"] for each in whole] == [None, 42, 43, 42, 43, 42]

            async def ids(limit: int = 1, **query: Any) -> list[str]:
                return [each["event_id"] for each in await walk(api, "/api/v1/events", limit, **query)]

            by_app = {app: [each["event_id"] for each in whole if each["app_id"] == app] for app in (42, 43)}
            assert (await ids(app=42), await ids(2, app=43)) == (by_app[42], by_app[43])
            assert await ids(app=44) == await ids(since=time.time() + 60) == await ids(until="2020-01-01") == []
            everything = [each["event_id"] for each in whole]
            assert await ids(since="2020-01-01T00:00:00Z", until=time.time() + 60) == everything
            moment = whole[2]["received_at"]
            # A moment is part of what is since it and of what is until it.
            assert await ids(since=moment) == [each["event_id"] for each in whole if each["received_at"] >= moment]
            assert await ids(2, until=moment) == [each["event_id"] for each in whole if each["received_at"] <= moment]
            assert whole[0]["run_ids"] == [direct]
            for query in ("app=x", "since=soon", "until=x", "cursor=x", "app=1&app=2"):
                assert (await api.get(f"/api/v1/events?{query}")).status_code == 400, query

    tell(story())
