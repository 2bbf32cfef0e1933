"""Callbacks sent once more, endpoints that are disabled and come back, and what is told of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from gateway.asgi import new_redelivery
from gateway.callbacks import Callback
from gateway.errors import Conflict, NotFound
from gateway.redelivery import Redelivery
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.store.listing import CallbackFilter, Listing
from gateway.store.reading import Reader
from tests.tools import KEYS, Peer, Reply, begin, connected, publish, settings_for, tell, until, working
from tests.tools_api import serving
from tests.tools_outbox import Hall

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def play(store: str, story: Callable[[Hall, Redelivery], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        async with connected(store) as redis:
            await story(Hall(redis), new_redelivery(redis, KEYS, Catalog(redis, KEYS)))

    tell(told())


async def look(redis: Redis, item: str) -> Callback:
    return await Reader(redis, KEYS).callback(item)


@pytest.mark.parametrize("state", ["deliver", "fail"])
def test_what_has_ended_is_sent_again(store: str, state: str) -> None:
    """Under the same id and with its attempts, its schedule from the start; its reason and its end are forgotten."""

    async def story(hall: Hall, redelivery: Redelivery) -> None:
        await hall.put("a", "1")
        await hall.claim()
        await hall.end("1", "bad" if state == "fail" else "good", state)
        again = await redelivery.send("1")
        assert (again.state, again.spent, len(again.attempts), again.ended_at) == ("pending", 1, 1, None)
        assert await hall.claim() == ["1"]

    play(store, story)


def test_what_waits_for_its_next_attempt_goes_now(store: str) -> None:
    """A receiver was repaired: nobody waits for ten hours."""

    async def story(hall: Hall, redelivery: Redelivery) -> None:
        await hall.put("a", "1")
        await hall.claim()
        await hall.end("1", "bad", "retry")
        assert await hall.claim() == []
        await redelivery.send("1")
        assert await hall.claim() == ["1"]

    play(store, story)


def test_what_is_on_its_way_is_left_alone(store: str) -> None:
    """Sending it again at that moment is refused and changes nothing; nor is there a callback that nobody made."""

    async def story(hall: Hall, redelivery: Redelivery) -> None:
        await hall.put("a", "1")
        await hall.claim()
        with pytest.raises(Conflict):
            await redelivery.send("1")
        assert (await look(hall.redis, "1")).state == "sending"
        assert await hall.end("1") == "ok"
        with pytest.raises(NotFound):
            await redelivery.send("2")

    play(store, story)


def test_those_that_fit_are_sent_again(store: str) -> None:
    """By endpoint, state and time; up to the limit, and the same call goes on where it ended."""

    async def story(hall: Hall, redelivery: Redelivery) -> None:
        await hall.put("b", "b1")
        for number in range(5):
            await hall.put("a", f"a{number}")
            for item in await hall.claim():
                await hall.end(item, "good", "deliver" if item == "a0" else "fail")
        now = int((await hall.redis.time())[0]) * 1000
        wanted = CallbackFilter(state="failed", endpoint="a", since=now - 60_000)
        late = CallbackFilter(state="failed", endpoint="a", since=now + 60_000)
        assert (await redelivery.send_all(late, 10)).ids == []
        first = await redelivery.send_all(wanted, 3)
        assert (len(first.ids), first.next is not None) == (3, True)
        rest = await redelivery.send_all(wanted, 3, first.next)
        assert (len(rest.ids), rest.next) == (1, None)
        assert (await redelivery.send_all(wanted, 3)).ids == []
        assert sorted(await hall.claim()) == ["a1", "a2", "a3", "a4"]

    play(store, story)


def test_a_message_sent_again_goes_to_the_end_of_its_line(store: str) -> None:
    """What is on its way with the same key is not overtaken."""

    async def story(hall: Hall, redelivery: Redelivery) -> None:
        await hall.put("a", "x1", "x2", "x3", order="x")
        await hall.claim()
        await hall.end("x1", "bad", "fail")
        assert await hall.claim() == ["x2"]
        again = await redelivery.send("x1")
        assert again.held is not None
        assert (again.held.reason, again.held.behind) == ("order", "x2")
        await hall.end("x2")
        assert await hall.claim() == ["x3"]
        await hall.end("x3")
        assert await hall.claim() == ["x1"]

    play(store, story)


def test_a_list_says_what_each_waits_for(store: str) -> None:
    """Disabled, breaker, pace, order, share: with the time or the one before it; who just waits says nothing."""

    async def story(hall: Hall, redelivery: Redelivery) -> None:
        async def reasons(endpoint: str) -> dict[str, str | None]:
            page = await Listing(hall.redis, KEYS).callbacks(CallbackFilter(endpoint=endpoint, state="pending"), 50)
            return {each.callback.id: each.callback.held and each.callback.held.reason for each in page.found}

        await hall.publish("off", disabled=True)
        await hall.put("off", "off1")
        await hall.put("line", "x1", "x2", order="x")
        await hall.put("many", *(f"m{number}" for number in range(5)))
        await hall.fail("broken", 3)
        await hall.put("broken", "br1")
        await hall.put("gone", "g1", "g2")
        await hall.put("slow", "s1", "s2")
        await hall.claim()
        await hall.end("g1", "gone", "fail")
        await hall.end("g2", "bad", "retry")
        await hall.end("s1", "slow", "fail", wait=60_000)
        await hall.end("s2", "bad", "retry")
        await hall.end("x1", "bad", "retry")
        assert await reasons("off") == {"off1": "disabled"}
        assert await reasons("line") == {"x1": None, "x2": "order"}
        assert await reasons("many") == {"m4": "share"}
        assert await reasons("broken") == {"br1": "breaker"}
        assert await reasons("gone") == {"g2": "disabled"}
        assert (await look(hall.redis, "g2")).held.detail == "its endpoint is disabled: it answered 410 Gone"  # type: ignore[union-attr]
        await hall.put("slow", "s3")
        assert (await reasons("slow"))["s3"] == "slowed"

    play(store, story)


def test_an_endpoint_comes_back(store: str) -> None:
    """Enabled, it gets what waited; recovered, also what had failed since: all of it once."""

    async def story(hall: Hall, redelivery: Redelivery) -> None:
        await hall.put("app-7", "1", "2", "3")
        await hall.claim()
        await hall.end("1", "bad", "fail")
        await hall.end("2", "gone", "fail")
        await hall.end("3", "bad", "retry")
        await hall.put("app-7", "4")
        assert await hall.claim() == []
        directory = NoDirectory()
        assert await redelivery.enable("app-7", directory) == "app-7"
        assert await hall.claim() == ["4"]
        assert (await redelivery.standings.read(["app-7"]))["app-7"].status == "active"
        assert (await redelivery.recover("app-7", directory, 0, 10)).ids == ["2", "1"]
        assert sorted(await hall.claim()) == ["1", "2"]

    play(store, story)


class NoDirectory:
    """An app's own callback is in no directory of endpoints."""

    async def endpoint(self, wanted: str) -> Any:
        raise AssertionError(wanted)

    async def disable_endpoint(self, wanted: str, disabled: bool = True) -> Any:
        raise AssertionError(wanted)


# ---- with a worker


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", SECRET)


def file(ops: str, other: str) -> str:
    endpoints = [
        {"name": "ops", "url": ops, "secrets": [{"env": "A_SECRET"}], "schedule": [0, 0.05]},
        {"name": "other", "url": other, "secrets": [{"env": "A_SECRET"}], "events": ["endpoint.disabled"]},
    ]
    apps = [{"id": 1, "name": "ci", "verify": "none", "callback": {"endpoint": "ops"}}]
    return json.dumps(
        {"apps": apps, "endpoints": endpoints, "workflows": [{"name": "w", "steps": [{"id": "a", "transform": 1}]}]}
    )


def test_a_disabled_endpoint_is_told_of_and_recovers(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """410: others that want it hear of it once, signed; what came meanwhile waits; enabled and recovered, all arrives."""

    async def story() -> None:
        ops, other = Peer(Reply(410), Reply(200)), Peer()
        async with connected(store) as redis, ops.listening(), other.listening():
            await publish(redis, file(ops.url, other.url))
            async with working(settings_for(store, tmp_path)):
                first = await begin(redis, "w")
                await until(lambda: other.calls)
                second = await begin(redis, "w")
                (waits,) = await until(lambda: Reader(redis, KEYS).callbacks_of(second))
                assert (waits.state, waits.held.reason) == ("pending", "disabled")
                message = Webhook(SECRET).verify(other.calls[0].body, other.calls[0].headers)
                assert (message["type"], message["data"]["endpoint"]) == ("endpoint.disabled", "ops")
                assert message["data"]["detail"] == "it answered 410 Gone"
                redelivery = new_redelivery(redis, KEYS, Catalog(redis, KEYS))
                await redelivery.standings.revive(waits.endpoint)
                assert (
                    len((await redelivery.send_all(CallbackFilter(state="failed", endpoint=waits.endpoint), 10)).ids)
                    == 1
                )
                for run_id in (first, second):
                    await until(lambda run_id=run_id: delivered(redis, run_id))
            assert len(other.calls) == 1
            assert len({call.headers["webhook-id"] for call in ops.calls}) == 2
            assert len(ops.calls) == 3

    tell(story())


async def delivered(redis: Redis, run_id: int) -> bool:
    return all(each.state == "delivered" for each in await Reader(redis, KEYS).callbacks_of(run_id))


def test_news_of_an_endpoint_survives_its_worker(store: str, tmp_path: Path) -> None:
    """A worker that dies after it told and before it forgot tells nothing twice."""

    async def story() -> None:
        other = Peer()
        async with connected(store) as redis, other.listening():
            await publish(redis, file("http://127.0.0.1:9/", other.url))
            ids = {each.name: each.id for each in (await Catalog(redis, KEYS).read()).endpoints.values()}
            await redis.hset(KEYS.health(ids["ops"]), mapping={"disabled": "failing", "disabled_at": 5000})
            for _ in range(2):
                await redis.sadd(KEYS.named("endpoints:news"), ids["ops"])
                async with working(settings_for(store, tmp_path)):
                    await until(lambda: is_empty(redis))
                    await until(lambda: other.calls)
            assert len(other.calls) == 1

    tell(story())


async def is_empty(redis: Redis) -> bool:
    return not await redis.exists(KEYS.named("endpoints:news"))


# ---- over HTTP


def test_the_api_sends_again_and_writes_down_who_asked(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by its id, all that fit by pages, an endpoint's failures; refusals say why; the audit log has each."""
    monkeypatch.setenv("TESTS_SECRET", "a secret of the tests")

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            hall = Hall(api.redis)
            await hall.put("app-42", "msg_0_a", "msg_0_b", "msg_0_c")
            await hall.claim()
            busy = await api.post("/api/v1/callbacks/msg_0_a/redeliver")
            assert (busy.status_code, busy.json()["code"]) == (409, "conflict")
            assert (await api.post("/api/v1/callbacks/msg_0_no/redeliver")).status_code == 404
            for item in list(hall.held):
                await hall.end(item, "gone" if item == "msg_0_c" else "bad", "fail")
            one = await api.post("/api/v1/callbacks/msg_0_a/redeliver")
            assert (one.status_code, one.json()["status"], one.json()["held"]["reason"]) == (202, "pending", "disabled")
            first = (await api.post("/api/v1/callbacks/redeliver", {"since": "0", "limit": 1})).json()
            assert len(first["data"]) == 1
            rest = {"since": "0", "cursor": first["next_cursor"]}
            second = (await api.post("/api/v1/endpoints/app-42/recover", rest)).json()
            assert {*first["data"], *second["data"]} == {"msg_0_b", "msg_0_c"}
            listed = (await api.get("/api/v1/callbacks?endpoint=app-42&status=pending")).json()["data"]
            assert {each["held"]["detail"] for each in listed} == {"its endpoint is disabled: it answered 410 Gone"}
            bad = await api.post("/api/v1/callbacks/redeliver", {"since": "yesterday"})
            assert bad.status_code == 400
            entries = await Catalog(api.redis, KEYS).audit.newest()
            assert {each.action for each in entries} >= {"callback.redeliver"}
            assert {each.actor.name for each in entries if each.action == "callback.redeliver"} == {"admin"}

    tell(story())
