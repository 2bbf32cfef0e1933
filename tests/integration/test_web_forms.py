"""Forms of web pages over real HTTP: who may post, what a robot is told, tokens, CORS, and where a browser goes on to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from gateway.secrets import new_master_key
from gateway.store.connection import Redis
from gateway.store.reading import Reader
from gateway.store.refusals import read_refusals
from tests.tools import KEYS, all_events, connected, publish, receiving, settings_for, tell, until

PAGE = "https://www.example.com"
THANKS, OTHER, SORRY = f"{PAGE}/thanks", f"{PAGE}/danke", f"{PAGE}/sorry?lang=en"
FILE = f"""
apps:
  - id: 1
    name: contact
    verify: none
    form:
      origins: ["{PAGE}", "http://127.0.0.1:9999"]
      honeypot: website
      token: {{min_fill: 0, max_age: 1h}}
      redirect: ["{THANKS}", "{OTHER}"]
      error: "{SORRY}"
    triggers: [{{name: all, workflow: greet, input: {{form: "${{event.form}}"}}}}]
  - {{id: 2, name: slow, verify: none, form: {{token: {{min_fill: 1h, max_age: 2h}}}},
     triggers: [{{name: all, workflow: greet}}]}}
  - {{id: 3, name: brief, verify: none, form: {{token: {{min_fill: 0, max_age: 100ms}}}},
     triggers: [{{name: all, workflow: greet}}]}}
  - {{id: 4, name: plain, verify: none, form: {{redirect: "{THANKS}"}}, triggers: [{{name: all, workflow: greet}}]}}
  - {{id: 5, name: signed, verify: {{scheme: github, secrets: [{{env: NO_SUCH_VARIABLE_OF_TESTS}}]}}}}
  - {{id: 6, name: limited, verify: none, rate: 1/h, form: {{origins: ["{PAGE}"], token: {{}}}}}}
  - {{id: 7, name: bodied, verify: none, dedupe: body, form: {{}}, triggers: [{{name: all, workflow: greet}}]}}
workflows:
  - {{id: 15, name: greet}}
"""
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8", "origin": PAGE}
SCRIPT = {"accept": "*/*", "origin": PAGE}
URLENCODED = {"content-type": "application/x-www-form-urlencoded"}


class Site:
    """A running receiver, and somebody who fills in forms."""

    def __init__(self, port: int, redis: Redis, client: httpx2.AsyncClient) -> None:
        self.base = f"http://127.0.0.1:{port}/api/v1/webhooks/"
        self.redis = redis
        self.client = client

    async def token(self, app: int = 1) -> str:
        answer = await self.client.get(f"{self.base}{app}/form-token", headers={"origin": PAGE})
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["token"]
        return token

    async def send(
        self, fields: dict[str, str], headers: dict[str, str] = BROWSER, app: int = 1, **more: Any
    ) -> httpx2.Response:
        content = urlencode(fields).encode()
        return await self.client.post(f"{self.base}{app}", content=content, headers=URLENCODED | headers, **more)

    async def upload(self, app: int, fields: dict[str, str], content: bytes) -> httpx2.Response:
        files = {"cv": ("cv.txt", content, "text/plain")}
        return await self.client.post(f"{self.base}{app}", data=fields, files=files, headers=SCRIPT)

    async def runs(self) -> int:
        return int(await self.redis.get(KEYS.named("runs:last")) or 0)


@contextlib.asynccontextmanager
async def opened(url: str, folder: Path, **changes: object) -> AsyncIterator[Site]:
    async with connected(url) as redis:
        await publish(redis, FILE)
        settings = settings_for(url, folder, **({"master_keys": new_master_key()} | changes))
        async with receiving(settings) as port, httpx2.AsyncClient(verify=False, timeout=20) as client:
            yield Site(port, redis, client)


# ---- what a person sees


def test_a_form_starts_a_run_and_the_browser_goes_on(store: str, tmp_path: Path) -> None:
    """303 to the first page listed; the run gets the fields, and none of those that are ours."""

    async def story() -> None:
        async with opened(store, tmp_path) as site:
            fields = {"name": "Ada", "_token": await site.token(), "website": "", "_redirect": THANKS}
            answer = await site.send(fields)
            assert (answer.status_code, answer.headers["location"], answer.content) == (303, THANKS, b"")
            assert answer.headers["cache-control"] == "no-store"
            run = await Reader(site.redis, KEYS).run(1)
            assert run.request.input == {"form": {"name": "Ada"}}

    tell(story())


def test_a_page_may_choose_among_the_pages_listed(store: str, tmp_path: Path) -> None:
    """By a field, to the letter; what is not listed is refused and never gone to."""

    async def story() -> None:
        async with opened(store, tmp_path) as site:
            answer = await site.send({"_token": await site.token(), "_redirect": OTHER})
            assert (answer.status_code, answer.headers["location"]) == (303, OTHER)
            for wanted in ("https://evil.example/", f"{THANKS}@evil.example", "//evil.example"):
                answer = await site.send({"_token": await site.token(), "_redirect": wanted})
                assert answer.headers["location"] == f"{SORRY}&code=form_redirect_refused"
            assert await site.runs() == 1

    tell(story())


def test_a_script_is_told_in_json(store: str, tmp_path: Path) -> None:
    """Who doesn't ask for a page gets no redirect, which it could not follow, but an answer it may read."""

    async def story() -> None:
        async with opened(store, tmp_path) as site:
            good = await site.send({"_token": await site.token()}, SCRIPT)
            bad = await site.send({"_token": "x"}, SCRIPT)
            assert (good.status_code, good.json()) == (200, {"status": "received"})
            assert (bad.status_code, bad.json()["code"]) == (422, "form_token_invalid")
            for answer in (good, bad):
                assert answer.headers["access-control-allow-origin"] == PAGE
                assert answer.headers["vary"] == "Origin"
                assert "access-control-allow-credentials" not in answer.headers

    tell(story())


def test_a_plain_form_needs_no_token_and_no_script(store: str, tmp_path: Path) -> None:
    """An app that asks for nothing but a form takes it from any page; a form for JSON's door it is not."""

    async def story() -> None:
        async with opened(store, tmp_path) as site:
            answer = await site.send({"a": "1"}, {"accept": "text/html"}, app=4)
            assert (answer.status_code, answer.headers["location"]) == (303, THANKS)
            refused = await site.client.post(f"{site.base}4", json={"a": 1})
            assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")
            assert await site.runs() == 1

    tell(story())


def test_who_sends_too_much_sees_the_error_page(store: str, tmp_path: Path) -> None:
    """Also a browser that is still sending then, and reads only when it is done: the line is closed, but not at once."""

    async def story() -> None:
        async with opened(store, tmp_path, max_body=1000) as site:
            answer = await site.send({"about": "x" * 2_000_000})
            assert (answer.status_code, answer.headers["location"]) == (303, f"{SORRY}&code=too_large")
            assert answer.headers["connection"] == "close"
            assert (await site.send({"about": "x" * 2_000_000}, SCRIPT)).status_code == 413
            assert await site.runs() == 0

    tell(story())


# ---- who may not


def test_another_page_s_form_is_refused(store: str, tmp_path: Path) -> None:
    """A foreign origin, `null`, two of them or none: 403 without any leave to read it, and no redirect. A Referer helps nobody."""

    async def story() -> None:
        async with opened(store, tmp_path) as site:
            token = await site.token()
            for origin in ("https://evil.example", "null", f"{PAGE}.evil.example", PAGE.upper(), ""):
                headers = {"accept": "text/html", "origin": origin, "referer": f"{PAGE}/form"}
                answer = await site.send({"_token": token}, headers)
                assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused"), origin
                assert "access-control-allow-origin" not in answer.headers
            assert (await site.send({"_token": token}, {"referer": f"{PAGE}/form"})).status_code == 403
            both = [*URLENCODED.items(), ("origin", PAGE), ("origin", "https://evil.example")]
            assert (await site.client.post(f"{site.base}1", content=b"a=1", headers=both)).status_code == 403
            assert await site.runs() == 0
            found = await until(lambda: read_refusals(site.redis, KEYS))
            assert {each.decision.reason for each in found} == {"origin_refused"}

    tell(story())


def test_a_robot_learns_nothing_and_starts_nothing(store: str, tmp_path: Path) -> None:
    """A filled honeypot is answered to the letter like success, for browsers and for scripts; it is remembered as spam."""

    async def story() -> None:
        async with opened(store, tmp_path) as site:
            for headers in (BROWSER, SCRIPT):
                token = await site.token()
                good = await site.send({"_token": token, "website": ""}, headers)
                spam = await site.send({"_token": token, "website": "https://buy.example"}, headers)
                assert (spam.status_code, spam.content) == (good.status_code, good.content)
                told = [
                    {name: value for name, value in each.headers.items() if name != "date"} for each in (spam, good)
                ]
                assert told[0] == told[1]
            assert await site.runs() == 2
            found = await until(lambda: read_refusals(site.redis, KEYS))
            assert {(each.decision.outcome, each.decision.reason) for each in found} == {("refused", "spam")}
            page = (await site.client.get(site.base.replace("/api/v1/webhooks/", "/metrics"))).text
            assert 'app="contact",code="303",reason="spam"' in page

    tell(story())


# ---- tokens


def test_a_double_click_is_one_event(store: str, tmp_path: Path) -> None:
    """The same form under the same token, also at once, is one run; with other words under that token it is refused."""

    async def story() -> None:
        async with opened(store, tmp_path) as site:
            fields = {"name": "Ada", "_token": await site.token()}
            answers = await asyncio.gather(*(site.send(fields) for _ in range(10)))
            assert {answer.headers["location"] for answer in answers} == {THANKS}
            changed = await site.send(fields | {"name": "Eve"})
            assert changed.headers["location"] == f"{SORRY}&code=conflict"
            keyed = await site.send(fields | {"name": "Eve"}, SCRIPT | {"idempotency-key": "another"})
            assert (keyed.status_code, keyed.json()["code"]) == (409, "conflict")
            assert (len(await all_events(site.redis)), await site.runs()) == (1, 1)

    tell(story())


def test_a_double_click_with_a_file_is_one_event_too(store: str, tmp_path: Path) -> None:
    """Each time a browser sends a form with a file its bytes differ, by their boundary; what they hold is the same. With
    another file under the same token it is refused. Without a token an app can have `dedupe: body`."""

    async def story() -> None:
        async with opened(store, tmp_path) as site:
            for app, fields in ((1, {"_token": await site.token()}), (7, {})):
                before = await site.runs()
                answers = [await site.upload(app, fields, b"all of it") for _ in range(3)]
                assert len({answer.request.headers["content-type"] for answer in answers}) == 3
                assert {answer.status_code for answer in answers} == {200}
                assert await site.runs() == before + 1
                other = await site.upload(app, fields, b"something else")
                assert other.status_code == (409 if app == 1 else 200)

    tell(story())


@pytest.mark.parametrize(
    ("app", "code"),
    [(1, "form_token_missing"), (2, "form_token_early"), (3, "form_token_expired"), (4, "form_token_invalid")],
)
def test_a_token_that_is_not_good_is_told_by_its_code(store: str, tmp_path: Path, app: int, code: str) -> None:
    """Missing, too early, too late, of another form: 422 with a code of its own, and nothing starts."""

    async def story() -> None:
        async with opened(store, tmp_path) as site:
            given = {1: "", 2: "", 3: "", 4: await site.token(2)}
            token = given[app] or (await site.token(app) if app != 1 else "")
            target = 1 if app == 4 else app
            if app == 3:
                await until(lambda: _is_told(site, token, "form_token_expired"))
            before = await site.runs()
            answer = await site.send({"_token": token}, SCRIPT, app=target)
            assert (answer.status_code, answer.json()["code"]) == (422, code)
            assert ("retry-after" in answer.headers) == (code == "form_token_early")
            assert "_token" in answer.json()["error"]
            assert await site.runs() == before <= 1

    tell(story())


async def _is_told(site: Site, token: str, code: str) -> bool:
    return (await site.send({"_token": token}, SCRIPT, app=3)).json().get("code") == code


def test_form_tokens_are_for_the_pages_listed(store: str, tmp_path: Path) -> None:
    """A listed page and a page's own server get one, never stored by a cache; others, and apps without, get none."""

    async def story() -> None:
        async with opened(store, tmp_path) as site:
            page = await site.client.get(f"{site.base}1/form-token", headers={"origin": PAGE})
            assert page.headers["access-control-allow-origin"] == PAGE
            assert page.headers["cache-control"] == "no-store"
            assert page.json().keys() == {"token", "field", "min_fill", "expires_in"}
            assert (await site.client.get(f"{site.base}1/form-token")).status_code == 200
            for origin in ("https://evil.example", "null"):
                foreign = await site.client.get(f"{site.base}1/form-token", headers={"origin": origin})
                assert (foreign.status_code, foreign.json()["code"]) == (403, "origin_refused")
                assert "access-control-allow-origin" not in foreign.headers
            assert (await site.client.post(f"{site.base}1/form-token")).status_code == 405
            for app in ("4", "5", "99", "contact"):
                assert (await site.client.get(f"{site.base}{app}/form-token")).status_code == 404

    tell(story())


def test_form_tokens_count_as_requests(store: str, tmp_path: Path) -> None:
    """Fetching tokens is bounded by the app's rate as posting is."""

    async def story() -> None:
        async with opened(store, tmp_path) as site:
            await site.token(6)
            answer = await site.client.get(f"{site.base}6/form-token")
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) > 3000

    tell(story())


def test_without_a_master_key_forms_with_tokens_wait(store: str, tmp_path: Path) -> None:
    """No token can be made or read: 503 for the page, and no form gets in without."""

    async def story() -> None:
        async with opened(store, tmp_path, master_keys="") as site:
            assert (await site.client.get(f"{site.base}1/form-token")).status_code == 503
            assert (await site.send({"_token": "x.y"}, SCRIPT)).status_code == 503
            assert (await site.send({"a": "1"}, app=4)).status_code == 303

    tell(story())


# ---- CORS


def test_scripts_of_listed_pages_may_ask_first(store: str, tmp_path: Path) -> None:
    """A preflight is answered for the very origin and for POST alone; other origins and other apps get no leave."""

    async def story() -> None:
        async with opened(store, tmp_path) as site:

            async def ask(app: int, origin: str) -> httpx2.Response:
                headers = {"origin": origin, "access-control-request-method": "POST"}
                return await site.client.request("OPTIONS", f"{site.base}{app}", headers=headers)

            answer = await ask(1, PAGE)
            assert (answer.status_code, answer.content) == (204, b"")
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert answer.headers["access-control-allow-methods"] == "POST"
            assert answer.headers["vary"] == "Origin"
            for app, origin, status in ((1, "https://evil.example", 403), (1, "null", 403), (5, PAGE, 405)):
                answer = await ask(app, origin)
                assert answer.status_code == status
                assert "access-control-allow-origin" not in answer.headers
            plain = await site.client.request("OPTIONS", f"{site.base}1", headers={"origin": PAGE})
            assert (plain.status_code, plain.headers["allow"]) == (405, "POST")

    tell(story())
