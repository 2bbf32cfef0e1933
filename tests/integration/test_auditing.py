"""Every change leaves its entry, in the same transaction; whoever acts is named; a touched log is found out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from gateway.apps import App
from gateway.audit import Actor, acting
from gateway.errors import Conflict, Unavailable
from gateway.store.auditing import Audit
from gateway.store.catalog import Catalog
from tests.tools import KEYS, connected, publish, tell
from tests.tools_api import serving

WORKFLOW = {"name": "w", "steps": [{"id": "ask", "approval": {"message": "?"}}]}


def test_changes_of_apps_are_written_with_whoever_made_them(store: str, tmp_path: Path) -> None:
    """Added, changed, removed: and a change that was refused leaves nothing."""

    async def story() -> None:
        async with connected(store) as redis:
            acting.set(Actor(kind="command", name="anna"))
            catalog = Catalog(redis, KEYS)
            await catalog.add_app(App(name="ci", verify="none"))
            with pytest.raises(Conflict):
                await catalog.add_app(App(name="ci", verify="none"))
            await catalog.change_app("ci", lambda app: msgspec.structs.replace(app, disabled=True))
            await catalog.change_app("ci", lambda app: app)
            await catalog.change_app("ci", lambda _: None)
            entries = await catalog.audit.page()
            assert [(each.action, each.subject, each.detail) for each in entries] == [
                ("app.add", "ci", {}),
                ("app.change", "ci", {"fields": ["disabled"]}),
                ("app.remove", "ci", {}),
            ]
            assert {each.actor.name for each in entries} == {"anna"}
            assert (await catalog.audit.verify())[1] is None

    tell(story())


def test_many_at_once_make_one_chain(store: str) -> None:
    """Through several connections, changes and notes mixed: no number twice, none left out."""

    async def story() -> None:
        async with connected(store) as one, connected(store) as two:
            catalogs, logs = [Catalog(one, KEYS), Catalog(two, KEYS)], [Audit(one, KEYS), Audit(two, KEYS)]
            adding = [catalogs[n % 2].add_app(App(name=f"app {n}", verify="none")) for n in range(20)]
            noting = [logs[n % 2].note("run.cancel", str(n)) for n in range(200)]
            await asyncio.gather(*adding, *noting)
            last, fault = await logs[0].verify()
            assert fault is None
            assert last is not None
            assert last.number == 220

    tell(story())


def test_whoever_waits_when_it_closes_is_told(store: str) -> None:
    """Those being written and those behind them: nobody waits for ever for an answer that never comes."""

    async def story() -> None:
        async with connected(store) as redis:
            audit = Audit(redis, KEYS)
            first = asyncio.ensure_future(audit.note("run.cancel", "1"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # the writer has taken the first
            second = asyncio.ensure_future(audit.note("run.cancel", "2"))
            await asyncio.sleep(0)
            await audit.close()
            done = await asyncio.wait_for(asyncio.gather(first, second, return_exceptions=True), 10)
            assert [type(each) for each in done] == [Unavailable, Unavailable]
            assert (await audit.verify())[1] is None

    tell(story())


def test_a_touched_log_is_found_out(store: str) -> None:
    """An entry that was taken out, one that is no entry, and one with a changed byte."""

    async def story() -> None:
        async with connected(store) as redis:
            audit = Audit(redis, KEYS)
            for number in range(6):
                await audit.note("run.cancel", str(number))
            await redis.xdel(audit.key, "6-0")
            assert (await audit.verify())[1] is None  # the end was cut off: only a noted hash can tell
            await redis.xdel(audit.key, "3-0")
            _, fault = await audit.verify()
            assert fault is not None
            assert (fault.number, "missing" in fault.reason) == (3, True)
            await redis.delete(audit.key)
            await redis.xadd(audit.key, {"entry": b"{"}, id="1-0")
            _, fault = await audit.verify()
            assert fault is not None
            assert "can't be read" in fault.reason

    tell(story())


def test_the_api_names_the_token_and_the_address(store: str, tmp_path: Path) -> None:
    """What a token does to runs, apps and workflows; what it only reads leaves no entry."""

    async def story() -> None:
        async with connected(store) as redis, serving(store, tmp_path, worker=False) as api:
            await publish(redis, json.dumps({"workflows": [WORKFLOW]}))
            await api.post("/api/v1/apps", {"name": "site"})
            started = (await api.post("/api/v1/runs", {"workflow": "w"})).json()
            await api.get("/api/v1/apps")
            await api.post(f"/api/v1/runs/{started['run_id']}/cancel")
            await api.post(f"/api/v1/runs/{started['run_id']}/cancel")
            found = (await api.get("/api/v1/audit")).json()["data"]
            said = [(each["action"], each["subject"], each["actor"]["kind"]) for each in found]
            # The second cancel was refused, as the run had ended: it leaves no entry.
            assert said[:2] == [("run.cancel", str(started["run_id"]), "token"), ("app.add", "site", "token")]
            assert {each["actor"]["address"] for each in found[:2]} == {"127.0.0.1"}
            assert ("workflow.add", "w") in [each[:2] for each in said]
            assert "secret" not in json.dumps(found).replace("rotate_secret", "")

    tell(story())


def test_pages_go_back_to_the_first_entry(store: str, tmp_path: Path) -> None:
    """Newest first, none twice, and the last page has no next one."""

    async def story() -> None:
        async with connected(store) as redis, serving(store, tmp_path, worker=False) as api:
            for number in range(7):
                await Audit(redis, KEYS).note("run.retry", str(number))
            seen, cursor = [], ""
            while True:
                page = (await api.get(f"/api/v1/audit?limit=3{cursor}")).json()
                seen += [each["number"] for each in page["data"]]
                if page["next_cursor"] is None:
                    break
                cursor = f"&cursor={page['next_cursor']}"
            assert seen == list(range(seen[0], 0, -1))

    tell(story())
