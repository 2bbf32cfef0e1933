"""Hooks over our own API: made, shown, stopped and removed, beside ORQO's door on the same path."""

from __future__ import annotations

import re
from pathlib import Path

from tests.tools import tell
from tests.tools_api import serving


def test_a_hook_is_made_shown_and_used(store: str, tmp_path: Path) -> None:
    """The answer to the making has token and URL, which work at once; no other answer has either."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            made = await api.post("/api/v1/hooks", {"workflow": 15, "name": "forms"})
            assert made.status_code == 201
            hook = made.json()
            assert re.fullmatch(r"[\w-]{43}", hook["token"])
            assert hook["url"] == f"/api/v1/hooks/{hook['token']}"
            assert (hook["name"], hook["workflow"], hook["status"]) == ("forms", "greet", "active")
            shown = {name: value for name, value in hook.items() if name not in ("token", "url")}
            assert (await api.get(f"/api/v1/hooks/{hook['id']}")).json() == shown
            assert (await api.get("/api/v1/hooks")).json() == {"data": [shown], "next_cursor": None}
            started = await api.client.post(hook["url"], json={"name": "Ada"})
            assert (started.status_code, started.json()["status"]) == (201, "started")
            run = (await api.get(f"/api/v1/runs/{started.json()['workflow_run_id']}")).json()
            assert run["input"] == {"name": "Ada"}

    tell(story())


def test_a_hook_is_stopped_started_and_removed(store: str, tmp_path: Path) -> None:
    """A disabled hook's URL answers 409, an enabled one's 201, a removed one's 404; each twice without harm."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            hook = (await api.post("/api/v1/hooks", {"workflow": "greet"})).json()
            one = f"/api/v1/hooks/{hook['id']}"

            async def knock() -> int:
                return (await api.client.post(hook["url"])).status_code

            for action, status, answer in (("disable", "disabled", 409), ("enable", "active", 201)):
                for _ in range(2):
                    done = await api.post(f"{one}/{action}")
                    assert (done.status_code, done.json()["status"], await knock()) == (200, status, answer)
            gone = await api.call("DELETE", one)
            assert (gone.status_code, gone.json()["id"], await knock()) == (200, hook["id"], 404)
            for method, path in (("GET", one), ("DELETE", one), ("POST", f"{one}/enable")):
                assert (await api.call(method, path)).status_code == 404

    tell(story())


def test_ids_and_tokens_are_never_taken_for_each_other(store: str, tmp_path: Path) -> None:
    """A token opens only ORQO's POST and an id does not; whatever is not a GET or DELETE of an id is ORQO's to refuse."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            hook = (await api.post("/api/v1/hooks", {"workflow": "greet"})).json()
            for method, path, allowed in (
                ("PUT", f"/api/v1/hooks/{hook['id']}", "POST"),
                ("GET", hook["url"], "POST"),
                ("DELETE", hook["url"], "POST"),
            ):
                answer = await api.call(method, path)
                assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
            assert (await api.post(f"/api/v1/hooks/{hook['id']}")).json()["code"] == "not_found"
            for action in ("disable", "enable"):
                assert (await api.post(f"{hook['url']}/{action}")).status_code == 404
            assert (await api.client.post(hook["url"])).status_code == 201

    tell(story())


def test_a_hook_needs_a_workflow(store: str, tmp_path: Path) -> None:
    """Making a hook for a workflow that is not there is a 404, a body of another shape a 422; neither makes one."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            for body, status in (
                ({"workflow": "nobody"}, 404),
                ({"workflow": 99}, 404),
                ({}, 422),
                ({"workflow": "greet", "name": ""}, 422),
                ({"workflow": "greet", "token": "x" * 43}, 422),
            ):
                answer = await api.post("/api/v1/hooks", body)
                assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), (
                    body
                )
            assert (await api.get("/api/v1/hooks")).json()["data"] == []

    tell(story())
