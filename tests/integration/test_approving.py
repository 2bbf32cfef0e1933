"""The page behind a signed link: it asks without deciding, decides once, and says why where it does neither."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.approvals import Links
from gateway.secrets import read_master_keys
from gateway.web.approving import HEADERS, STYLE
from tests.tools import ended, publish, tell, until
from tests.tools_api import FILE, MASTER_KEY, Api, serving

FLOW = """
  - id: 30
    name: "pay somebody"
    steps:
      - id: ask
        approval:
          who: ["${input.who}", ops@example.com]
          message: "Pay ${input.amount} to ${input.who}?"
          timeout: 1h
    output: "${steps.ask.output}"
"""
WHO = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTS_SECRET", "a secret of the tests")
    monkeypatch.setenv("TESTS_CALLBACK", "whsec_" + "YSBzZWNyZXQgb2YgdGhlIHRlc3RzLi4uLg==")


class Desk:
    """A run that waits for a word, and its link."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.run = 0
        self.path = ""

    async def ask(self) -> None:
        self.run = await self.api.start("pay somebody", input={"who": WHO, "amount": 7})
        await self.until_asked()
        made = await self.api.post(f"/api/v1/runs/{self.run}/approvals/ask/link", {"hours": 2})
        assert made.status_code == 201, made.text
        assert made.json()["url"].startswith("https://gateway.example/gw/approve/")
        self.path = made.json()["url"].removeprefix("https://gateway.example/gw")

    async def until_asked(self) -> None:
        async def look() -> bool:
            return bool((await self.document())["status"] == "waiting")

        await until(look)

    async def document(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.api.get(f"/api/v1/runs/{self.run}")).json()
        return found

    async def look(self, path: str = "") -> httpx2.Response:
        return await self.api.client.get(path or self.path)

    async def decide(self, path: str = "", **fields: str) -> httpx2.Response:
        return await self.api.client.post(path or self.path, data=fields)


@asynccontextmanager
async def asking(store: str, folder: Path) -> AsyncIterator[Desk]:
    async with serving(store, folder, public_url="https://gateway.example/gw/") as api:
        await publish(api.redis, FILE + FLOW)
        await api.settle()
        desk = Desk(api)
        await desk.ask()
        yield desk


def play(store: str, folder: Path, story: Callable[[Desk], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asking(store, folder) as desk:
            await story(desk)

    tell(whole())


def test_looking_asks_and_decides_nothing(store: str, tmp_path: Path) -> None:
    """The page names workflow, run, step, message and who, all escaped; however often it is looked at, nothing happens."""

    async def story(desk: Desk) -> None:
        for _ in range(3):
            page = await desk.look()
            assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert (await desk.api.client.head(desk.path)).status_code == 200
        assert "pay somebody" in page.text
        assert "Pay 7 to &lt;script&gt;alert(1)&lt;/script&gt;?" in page.text
        assert "ops@example.com" in page.text
        assert "<script" not in page.text
        assert (await desk.document())["status"] == "waiting"

    play(store, tmp_path, story)


def test_the_page_loads_nothing_and_is_kept_nowhere(store: str, tmp_path: Path) -> None:
    """Its policy allows its own style and its own form, no host stands in it, and nobody keeps or frames it."""

    async def story(desk: Desk) -> None:
        for page in (await desk.look(), await desk.look("/approve/none")):
            assert HEADERS.items() <= dict(page.headers).items()
            assert "default-src 'none'" in page.headers["content-security-policy"]
            assert f"<style>{STYLE}</style>" in page.text
            assert not re.search(r"https?:|src=|href=|url\(", page.text)
            assert page.headers["cache-control"] == "no-store"

    play(store, tmp_path, story)


@pytest.mark.parametrize(("decision", "status"), [("approve", "completed"), ("reject", "failed")])
def test_a_post_decides_once(store: str, tmp_path: Path, decision: str, status: str) -> None:
    """The first decision counts, with its comment; the link is used then, for looking as for deciding."""

    async def story(desk: Desk) -> None:
        answer = await desk.decide(decision=decision, comment="  seen & <checked>\n")
        assert (answer.status_code, "Thank you" in answer.text) == (200, True)
        again = await desk.decide(decision="approve")
        assert (again.status_code, "decided already" in again.text) == (409, True)
        run = await ended(desk.api.redis, desk.run)
        assert run.state == status
        assert "seen & <checked>" in str(run.output if decision == "approve" else run.error)
        for late in (await desk.look(), await desk.decide(decision="reject")):
            assert (late.status_code, "decided already" in late.text) == (409, True)
        assert (await ended(desk.api.redis, desk.run)).state == status

    play(store, tmp_path, story)


def test_links_that_are_not_ours_or_too_old_decide_nothing(store: str, tmp_path: Path) -> None:
    """A forged token is a 404, an expired one a 410, a cancelled run's a 409; each says so, and the run waits on."""

    async def story(desk: Desk) -> None:
        keys = read_master_keys([MASTER_KEY])
        old = Links(keys).make(desk.run, "ask", 1, 1_000_000_000).url
        other = Links([b"x" * 32]).make(desk.run, "ask", 1, 4_000_000_000).url
        nowhere = Links(keys).make(desk.run, "elsewhere", 1, 4_000_000_000).url
        gone = Links(keys).make(999, "ask", 1, 4_000_000_000).url
        for path, status in ((old, 410), (other, 404), (desk.path[:-1], 404), (nowhere, 409), (gone, 404)):
            for answer in (await desk.look(path), await desk.decide(path, decision="approve")):
                assert (answer.status_code, "<h1>" in answer.text) == (status, True), path
        assert (await desk.document())["status"] == "waiting"
        await desk.api.post(f"/api/v1/runs/{desk.run}/cancel")
        assert (await desk.look()).status_code == (await desk.decide(decision="approve")).status_code == 409

    play(store, tmp_path, story)


def test_what_is_no_decision_is_refused(store: str, tmp_path: Path) -> None:
    """No decision, another one, two at once, another content type, bytes that are no text, too much, another method."""

    async def story(desk: Desk) -> None:
        post, form = desk.api.client.post, {"content-type": "application/x-www-form-urlencoded"}
        assert (await desk.decide(comment="fine")).status_code == 400
        assert (await desk.decide(decision="perhaps")).status_code == 400
        assert (await post(desk.path, content=b"decision=approve&decision=reject", headers=form)).status_code == 400
        assert (await post(desk.path, content=b"decision=\xff\xfe", headers=form)).status_code == 400
        assert (await post(desk.path, content=b"&a=1" * 1000, headers=form)).status_code == 400
        assert (await post(desk.path, json={"decision": "approve"})).status_code == 415
        assert (await post(desk.path, content=b"x" * 30_000, headers=form)).status_code == 413
        assert (await desk.api.client.put(desk.path)).status_code == 405
        assert (await desk.document())["status"] == "waiting"

    play(store, tmp_path, story)


def test_what_is_asked_stands_in_the_run(store: str, tmp_path: Path) -> None:
    """Message and who are worked out when the waiting begins, and stay there when it is over."""

    async def story(desk: Desk) -> None:
        asked = {"message": f"Pay 7 to {WHO}?", "who": [WHO, "ops@example.com"]}
        (step,) = (await desk.document())["steps"]
        assert (step["waits_for"], step["asks"]) == ("approval", asked)
        await desk.decide(decision="approve")
        await ended(desk.api.redis, desk.run)
        (step,) = (await desk.document())["steps"]
        assert (step["waits_for"], step["asks"], step["output"]["by"]) == (None, asked, "signed link")

    play(store, tmp_path, story)


def test_a_retried_run_asks_anew(store: str, tmp_path: Path) -> None:
    """A rejection is of one attempt: retried, the run waits for another word, and takes it."""

    async def story(desk: Desk) -> None:
        await desk.decide(decision="reject")
        assert (await ended(desk.api.redis, desk.run)).state == "failed"
        assert (await desk.api.post(f"/api/v1/runs/{desk.run}/retry")).status_code == 200
        await desk.until_asked()
        assert (await desk.look()).status_code == 200
        assert (await desk.decide(decision="approve")).status_code == 200
        assert (await ended(desk.api.redis, desk.run)).state == "completed"

    play(store, tmp_path, story)


def test_a_link_is_made_only_for_what_is_asked(store: str, tmp_path: Path) -> None:
    """Another step, another run and hours without end get no link."""

    async def story(desk: Desk) -> None:
        base = f"/api/v1/runs/{desk.run}/approvals"
        assert (await desk.api.post(f"{base}/other/link")).status_code == 409
        assert (await desk.api.post("/api/v1/runs/999/approvals/ask/link")).status_code == 404
        assert (await desk.api.post(f"{base}/ask/link", {"hours": 1e9})).status_code == 422

    play(store, tmp_path, story)
