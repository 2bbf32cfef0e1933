"""Secrets kept under a name, and the master keys that all that is kept is under: over our API, and in the store."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from gateway.egress import read_policy
from gateway.endpoints import LiveEndpoint
from gateway.enlisting import EndpointWish
from gateway.errors import ConfigError, Conflict, GatewayError, NotFound, Unprocessable
from gateway.management import Management
from gateway.registrations import Wish
from gateway.secrets import SecretRef, key_id_of, needed_key, new_master_key, read_master_keys, seal, unseal
from gateway.store.answers import Answers
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.store.lookups import Lookup, find_unopened
from gateway.store.registry import Registry
from gateway.store.rewrapping import Rewrapping
from tests.tools import KEYS, SECRET, connected, publish, signed, tell, until
from tests.tools_api import FILE, serving

OLD, NEW = read_master_keys([new_master_key(), new_master_key()])
VALUE = "the value of a kept secret"
BODY = b'{"workflow_id": 15, "task": "t"}'
LOOPBACK = read_policy("127.0.0.0/8")
SENDS = {"name": "sends", "steps": [{"id": "call", "http": {"url": "URL", "bearer": {"secret": "far"}}}]}
NAMES_ONE = FILE.replace("{env: TESTS_SECRET}", "{secret: ci-secret}")


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTS_SECRET", SECRET)


def manage(redis: Redis, *keys: bytes) -> Management:
    return Management(Catalog(redis, KEYS), keys, LOOPBACK)


def rewrapping(redis: Redis, *keys: bytes) -> Rewrapping:
    return Rewrapping(redis, KEYS, Catalog(redis, KEYS), keys)


def over_store(store: str, story: Any) -> None:
    """Tell a story of an empty store."""

    async def whole() -> None:
        async with connected(store) as redis:
            await story(redis)

    tell(whole())


@contextlib.asynccontextmanager
async def far_end(answers: list[str]) -> AsyncIterator[str]:
    """A server that says what it was sent as a Bearer token."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        answers.append(next(line[15:] for line in head.split("\r\n") if line.lower().startswith("authorization:")))
        body = json.dumps({"echo": answers[-1]}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


# ---- over the API


def test_a_secret_is_kept_listed_changed_and_removed(store: str, tmp_path: Path) -> None:
    """No answer, no list, no audit entry and no key of the store holds its value; what it was changed to counts."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            one = "/api/v1/secrets/far"
            answers = [await api.call("PUT", one, json={"value": each}) for each in (VALUE, VALUE + " 2")]
            answers += [await api.get("/api/v1/secrets"), await api.call("DELETE", one), await api.call("DELETE", one)]
            answers += [await api.get("/api/v1/audit")]
            assert [each.status_code for each in answers] == [200, 200, 200, 200, 404, 200]
            (listed,) = answers[2].json()["data"]
            assert listed["name"] == "far"
            assert listed["created_at"] == answers[0].json()["created_at"] <= listed["changed_at"]
            assert all(VALUE not in each.text for each in answers)
            actions = [entry["action"] for entry in answers[-1].json()["data"] if entry["subject"] == "far"]
            assert sorted(actions) == ["secret.add", "secret.change", "secret.remove"]

    tell(story())


@pytest.mark.parametrize(
    "value", ["", "four", "ends in a line break\n", " starts blank", "holds \0 a NUL", "x" * 16_385]
)
def test_what_is_no_secret_is_refused(store: str, tmp_path: Path, value: str) -> None:
    """Too short or long, with blanks at its ends or a NUL: 422, which does not repeat it, and nothing is kept."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            answer = await api.call("PUT", "/api/v1/secrets/far", json={"value": value})
            assert (answer.status_code, not value or value not in answer.json()["detail"]) == (422, True)
            assert (await api.get("/api/v1/secrets")).json()["data"] == []
            with pytest.raises(Unprocessable):
                await manage(api.redis, NEW).set_secret("far", value)

    tell(story())


def test_a_step_sends_a_kept_secret_and_shows_none(store: str, tmp_path: Path) -> None:
    """A workflow names it; the far end gets it, the run's record never does; a change is used by the next run."""

    async def story() -> None:
        got: list[str] = []
        async with serving(store, tmp_path, egress_allow="127.0.0.0/8") as api, far_end(got) as url:
            await api.call("PUT", "/api/v1/secrets/far", json={"value": VALUE})
            text = json.dumps(SENDS).replace("URL", url)
            assert (await api.call("POST", "/api/v1/workflows", content=text)).status_code == 201
            writer = await api.token("workflows:write", name="writer")
            await api.settle()
            refused = await api.call("POST", "/api/v1/workflows", content=text.replace("sends", "mine"), token=writer)
            assert (refused.status_code, "secret far" in refused.json()["detail"]) == (403, True)
            for value in (VALUE, "another value of it"):
                await api.call("PUT", "/api/v1/secrets/far", json={"value": value})

                async def sent(value: str = value) -> bool:
                    run = await api.start("sends")
                    answer = await api.get(f"/api/v1/runs/{run}?wait=20")
                    assert answer.json()["status"] == "completed", answer.text
                    assert value not in answer.text
                    return got[-1] == f"Bearer {value}"

                await until(sent)
            refused = await api.call("DELETE", "/api/v1/secrets/far")
            assert (refused.status_code, "workflow sends" in refused.json()["detail"]) == (409, True)
            assert (await api.call("DELETE", "/api/v1/secrets/far?force=true")).status_code == 200

            async def failed() -> bool:
                run = await api.get(f"/api/v1/runs/{await api.start('sends')}?wait=20")
                return bool(run.json()["status"] == "failed" and "secret far" in run.text)

            await until(failed)

    tell(story())


def test_an_app_of_the_file_names_a_kept_secret(store: str, tmp_path: Path) -> None:
    """Until it is kept the app refuses everybody and says why; then it takes what is signed with it."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await publish(api.redis, NAMES_ONE)

            async def knock() -> int:
                answer: httpx2.Response = await api.client.post(
                    "/api/v1/webhooks/42", content=BODY, headers=signed(BODY)
                )
                return answer.status_code

            async def is_refused() -> bool:
                return await knock() == 401

            await until(is_refused)
            assert "gateway secret list" in (await api.get("/api/v1/apps/42")).json()["problem"]
            await api.call("PUT", "/api/v1/secrets/ci-secret", json={"value": SECRET})
            assert await knock() == 200
            assert (await api.get("/api/v1/apps/42")).json()["problem"] is None
            refused = await api.call("DELETE", "/api/v1/secrets/ci-secret")
            assert (refused.status_code, "app ci" in refused.json()["detail"]) == (409, True)

    tell(story())


# ---- in the store


def test_all_that_is_kept_comes_under_the_newest_key(store: str) -> None:
    """Apps, callbacks, kept secrets, what senders handed over and kept answers; then the old key is needed by nothing.

    The values' own bytes stay, an answer keeps its lifetime, and a second time there is nothing to do.
    """

    async def story(redis: Redis) -> None:
        before = manage(redis, OLD)
        made = await before.add_app(Wish(name="a", callback_url="http://127.0.0.1/told"))
        paired = await before.add_app(Wish(name="n", scheme="notion", direct=False))
        assert await before.pair_app(paired.app, "secret_of_notion")
        await before.set_secret("far", VALUE)
        answers = Answers(redis, KEYS, [OLD])
        await answers.begin("name", "digest", 1.0)
        kept = await answers.begin("name", "digest", 1.0)
        assert kept is not None
        await answers.keep("name", kept, 200, b"an answer")
        await redis.pexpire(KEYS.answer("name"), 50_000)
        keys = (NEW, OLD)
        old, new = key_id_of(OLD), key_id_of(NEW)
        uses = await rewrapping(redis, *keys).uses()
        everything = {"apps": 1, "pairs": 1, "secrets": 1, "answers": 1}
        assert [(each.id, each.state, each.records) for each in uses] == [
            (new, "newest", {}),
            (old, "older", everything),
        ]
        assert dict(await rewrapping(redis, *keys).rewrap()) == everything
        uses = await rewrapping(redis, *keys).uses()
        assert [(each.id, each.records) for each in uses] == [(new, everything), (old, {})]
        assert dict(await rewrapping(redis, *keys).rewrap()) == {}
        contents = await Catalog(redis, KEYS).read()
        lookup, app = Lookup([NEW], contents), contents.apps[made.app.id]
        assert lookup(SecretRef(secret="far"), "") == VALUE
        assert (find_unopened(app, lookup), find_unopened(app, Lookup([OLD], contents)) is None) == (None, False)
        assert await manage(redis, NEW).pairing(paired.app) is not None
        after = await Answers(redis, KEYS, [NEW]).begin("name", "digest", 1.0)
        assert after is not None
        assert Answers(redis, KEYS, [NEW]).read("name", after) == b"an answer"
        assert 0 < await redis.pttl(KEYS.answer("name")) <= 50_000
        newest = (await Catalog(redis, KEYS).audit.newest())[0]
        assert (newest.action, newest.subject, newest.detail["apps"]) == ("secret.rewrap", f"key {new}", 1)

    over_store(store, story)


def test_a_missing_key_is_named_and_what_is_under_it_stays(store: str) -> None:
    """What no key opens is left as it was, told as missing, and its app says why it refuses."""

    async def story(redis: Redis) -> None:
        made = await manage(redis, OLD).add_app(Wish(name="a"))
        await manage(redis, NEW).set_secret("far", VALUE)
        assert dict(await rewrapping(redis, NEW).rewrap()) == {}
        uses = await rewrapping(redis, NEW).uses()
        assert [(each.id, each.state, each.records) for each in uses] == [
            (key_id_of(NEW), "newest", {"secrets": 1}),
            (key_id_of(OLD), "missing", {"apps": 1}),
        ]
        contents = await Catalog(redis, KEYS).read()
        problem = find_unopened(contents.apps[made.app.id], Lookup([NEW], contents))
        assert problem is not None
        assert "GATEWAY_MASTER_KEYS" in problem
        with pytest.raises(ConfigError, match="GATEWAY_MASTER_KEYS"):
            await manage(redis).set_secret("far", VALUE)

    over_store(store, story)


def test_rewrapping_loses_no_write_of_others(store: str) -> None:
    """While apps are rotated and secrets set, all of it is rewrapped again and again: each last write is what is there."""

    async def story(redis: Redis) -> None:
        management = manage(redis, OLD)
        names = [f"app-{number}" for number in range(4)]
        for name in names:
            await management.add_app(Wish(name=name))
        told: dict[str, str] = {}

        async def rotate(name: str) -> None:
            for _ in range(5):
                made = await management.rotate_secret(name, force=True)
                told[name] = str(made.secret)
                await management.set_secret(name, told[name])

        async def rewrap() -> None:
            while len(told) < len(names) or not done.is_set():
                await rewrapping(redis, NEW, OLD).rewrap()

        done = asyncio.Event()
        other = asyncio.create_task(rewrap())
        await asyncio.gather(*map(rotate, names))
        done.set()
        await other
        await rewrapping(redis, NEW, OLD).rewrap()
        contents = await Catalog(redis, KEYS).read()
        lookup = Lookup([NEW], contents)
        for app in contents.apps.values():
            newest = SecretRef(**app.verify["secrets"][0])  # type: ignore[index]
            assert lookup(newest, app.holder("verify.secrets")) == told[app.name]
            assert lookup(SecretRef(secret=app.name), "") == told[app.name]

    over_store(store, story)


def test_all_secrets_of_an_endpoint_are_rewrapped(store: str) -> None:
    """Both of a rotation, the signing key and the header: each needs the old key before, and opens without it after."""

    async def story(redis: Redis) -> None:
        management = manage(redis, OLD)
        wish = EndpointWish(name="ops", url="http://127.0.0.1/", headers={"X-Api-Key": "header canary"})
        first = (await management.add_endpoint(wish)).secret
        second = (await management.rotate_endpoint("ops")).secret
        keyed = msgspec.structs.replace(wish, name="keyed", headers={}, signing_key=True)
        await management.add_endpoint(keyed)
        newest, older = await rewrapping(redis, NEW, OLD).uses()
        assert (newest.records, older.records) == ({}, {"endpoints": 2})
        assert dict(await rewrapping(redis, NEW, OLD).rewrap()) == {"endpoints": 2}
        assert dict(await rewrapping(redis, NEW, OLD).rewrap()) == {}
        contents = await Catalog(redis, KEYS).read()
        lookup = Lookup([NEW], contents)
        live = {each.name: LiveEndpoint(each, lookup) for each in contents.endpoints.values()}
        assert live["ops"].known_secrets == (second, first, "header canary")
        assert [each.flaw for each in live.values()] == [None, None]
        assert live["keyed"].signing_key is not None

    over_store(store, story)


def test_what_is_rewrapped_already_is_passed_over(store: str) -> None:
    """Where some are under the newest key, as after one that was cut short, the others follow, and all open."""

    async def story(redis: Redis) -> None:
        for number, key in enumerate((OLD, NEW, OLD)):
            await manage(redis, key).set_secret(f"s{number}", f"value number {number}")
        before = (await Catalog(redis, KEYS).read()).secrets
        assert needed_key(before["s0"].sealed) == key_id_of(OLD)
        assert dict(await rewrapping(redis, NEW, OLD).rewrap()) == {"secrets": 2}
        contents = await Catalog(redis, KEYS).read()
        assert contents.secrets["s1"] == before["s1"]
        lookup = Lookup([NEW], contents)
        assert [lookup(SecretRef(secret=f"s{n}"), "") for n in range(3)] == [f"value number {n}" for n in range(3)]

    over_store(store, story)


def test_a_process_with_the_old_key_alone_goes_on(store: str) -> None:
    """What it opened before a rewrapping it has still; what was changed since, under a key it lacks, it has not."""

    async def story(redis: Redis) -> None:
        made = await manage(redis, OLD).add_app(Wish(name="a"))
        registry = Registry(redis, Catalog(redis, KEYS), KEYS.named("changed"), (OLD,))
        await registry.load()
        await rewrapping(redis, NEW, OLD).rewrap()
        for _ in range(3):
            await registry.load()
            assert registry.app("1").secrets == (made.secret,)
        await manage(redis, NEW).rotate_secret("a", overlap=0)
        await registry.load()
        assert registry.app("1").problem is not None

    over_store(store, story)


def test_a_sealed_secret_that_was_moved_does_not_open() -> None:
    """An app's secret put where its callback's stands, or into another app, makes a dead letter of it."""
    owner = "app:a#verify.secrets"
    sealed = seal([NEW], owner, VALUE)
    lookup = Lookup([NEW])
    assert lookup(SecretRef(sealed=sealed), owner) == VALUE == unseal([NEW], owner, sealed)
    for other in ("app:a#callback.secret", "app:b#verify.secrets", "secret:a"):
        assert lookup(SecretRef(sealed=sealed), other) is None


def test_what_is_not_there_can_not_be_removed(store: str) -> None:
    """A secret that nobody keeps is not found; a name that can't be one is refused."""

    async def story(redis: Redis) -> None:
        with pytest.raises(NotFound):
            await manage(redis, NEW).remove_secret("nothing")
        for name in ("", "a b", "../x", "ä", "x" * 101):
            with pytest.raises(GatewayError):
                await manage(redis, NEW).set_secret(name, VALUE)
        await publish(redis, NAMES_ONE)
        await manage(redis, NEW).set_secret("ci-secret", VALUE)
        with pytest.raises(Conflict, match="app ci"):
            await manage(redis, NEW).remove_secret("ci-secret")
        await manage(redis, NEW).remove_secret("ci-secret", force=True)

    over_store(store, story)
