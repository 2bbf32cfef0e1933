"""Deliveries that GitHub made and that never came in are asked for, and come in through the door."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.apps import LiveApp
from gateway.egress import read_policy
from gateway.errors import GatewayError
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.store.lookups import read_outside
from gateway.store.marks import Marks
from gateway.web.client import Client
from gateway.web.reconciler import Reconciler
from tests.github_server import TOKEN, GitHubServer
from tests.tools import KEYS, SECRET, all_events, connected, publish, receiving, settings_for, tell, until, working

HOUR_MS = 3_600_000


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("API_TOKEN", TOKEN)


def file(api: str) -> str:
    reconcile = {"repository": "acme/site", "hook": 77, "token": {"env": "API_TOKEN"}, "api": api, "every": "1m"}
    app = {
        "id": 43,
        "name": "github",
        "verify": {"scheme": "github", "secrets": [{"env": "HOOK_SECRET"}]},
        "triggers": [{"name": "pushes", "when": 'event.type == "push"', "workflow": "w"}],
        "reconcile": reconcile,
    }
    return json.dumps({"apps": [app], "workflows": [{"name": "w", "steps": [{"id": "a", "transform": 1}]}]})


class Place:
    """A receiver, a GitHub that delivers to it, and what reconciles the two."""

    def __init__(self, redis: Redis, github: GitHubServer, reconciler: Reconciler) -> None:
        self.redis = redis
        self.github = github
        self.reconciler = reconciler
        self.marks = Marks(redis, KEYS)

    async def deliver(self, guid: str, **how: Any) -> None:
        await asyncio.to_thread(self.github.deliver, guid, **how)

    async def round(self, since: int | None = HOUR_MS, **how: Any) -> dict[str, Any]:
        app = (await Catalog(self.redis, KEYS).read()).apps[43]
        live = LiveApp(app, read_outside)
        start = None if since is None else await self.marks.now() - since
        return await self.reconciler.reconcile(live, start, **how)

    async def came_in(self) -> list[str | None]:
        return sorted(str(event.head.delivery_id) for event in await all_events(self.redis))


@contextlib.asynccontextmanager
async def place(store: str, folder: Path) -> AsyncIterator[Place]:
    settings = settings_for(store, folder, egress_allow="127.0.0.0/8")
    with GitHubServer(SECRET).serving() as github:
        async with connected(store) as redis, Client(read_policy("127.0.0.0/8")) as client:
            await publish(redis, file(github.url))
            async with receiving(settings) as port:
                github.door = (port, "/api/v1/webhooks/43")
                yield Place(redis, github, Reconciler(client, Marks(redis, KEYS)))


def test_what_is_missing_comes_in_through_the_door(store: str, tmp_path: Path) -> None:
    """Over several pages: each that was lost is asked for, comes signed, and starts its run; the others stay as they are."""

    async def story() -> None:
        async with place(store, tmp_path) as here:
            for number in range(10):
                await here.deliver(f"guid-{number}", lost=number in (1, 4, 9), age=1000 - number)
            found = await here.round()
            assert (found["listed"], found["missing"], found["asked_again"]) == (10, 3, 3)
            assert here.github.asked == ["guid-1", "guid-4", "guid-9"]
            assert await here.came_in() == [f"guid-{number}" for number in range(10)]
            again = await here.round()
            assert (again["missing"], again["asked_again"]) == (0, 0)
            assert len(await all_events(here.redis)) == 10

    tell(story())


def test_a_dry_run_only_says_what_is_missing(store: str, tmp_path: Path) -> None:
    """Nothing is asked for, and no mark is left."""

    async def story() -> None:
        async with place(store, tmp_path) as here:
            await here.deliver("lost", lost=True)
            found = await here.round(ask=False)
            assert found["missing_ids"] == ["lost"]
            assert here.github.asked == []
            assert await here.marks.read(43) is None

    tell(story())


def test_a_round_that_fails_leaves_the_mark_where_it_was(store: str, tmp_path: Path) -> None:
    """GitHub's rate limit, a wrong token, a hook that is gone: the next round looks at the same deliveries again."""

    async def story() -> None:
        async with place(store, tmp_path) as here:
            await here.deliver("lost", lost=True)
            here.github.troubles = [429]
            with pytest.raises(GatewayError, match="rate limit"):
                await here.round()
            mark = await here.marks.read(43)
            assert mark is not None
            assert "rate limit" in str(mark.problem)
            assert (await here.round(since=None))["asked_again"] == 1
            mark = await here.marks.read(43)
            assert mark is not None
            assert mark.problem is None
            assert await here.came_in() == ["lost"]

    tell(story())


def test_one_that_github_will_not_send_again_has_its_turn_next_time(store: str, tmp_path: Path) -> None:
    """The rest waits with it, and both are said to be missing."""

    async def story() -> None:
        async with place(store, tmp_path) as here:
            for name in ("first", "second"):
                await here.deliver(name, lost=True, age=700)
            answer = here.github.answer

            def moody(method: str, target: str, token: str | None) -> tuple[int, bytes, dict[str, str]]:
                return (503, b"", {}) if method == "POST" else answer(method, target, token)

            here.github.answer = moody  # type: ignore[method-assign]
            found = await here.round()
            assert (found["missing"], found["asked_again"]) == (2, 0)
            assert "503" in found["problem"]
            here.github.answer = answer  # type: ignore[method-assign]
            assert (await here.round(since=None))["asked_again"] == 2
            assert await here.came_in() == ["first", "second"]

    tell(story())


def test_what_was_sent_before_the_app_began_to_reconcile_is_left(store: str, tmp_path: Path) -> None:
    """A hook that served somebody else last week does not start a week's runs here."""

    async def story() -> None:
        async with place(store, tmp_path) as here:
            await here.deliver("last-week", lost=True, age=7 * 86400)
            assert (await here.round(since=None))["missing"] == 0
            assert here.github.asked == []

    tell(story())


def test_workers_reconcile_by_themselves(store: str, tmp_path: Path) -> None:
    """Of two workers one does the round, and what was lost becomes a run that ends."""

    async def story() -> None:
        settings = settings_for(store, tmp_path, egress_allow="127.0.0.0/8")
        async with place(store, tmp_path) as here:
            await here.deliver("lost", lost=True, age=120)
            async with working(settings), working(settings):
                await until(here.came_in)

                async def asked() -> bytes | None:
                    return await here.redis.hget(KEYS.named("counts"), "reconciled:asked_again")

                assert await until(asked) == b"1"
            assert here.github.asked == ["lost"]

    tell(story())
