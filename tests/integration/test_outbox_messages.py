"""Messages: which go to which endpoints, before a run's end and at it, and about no run at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook

from gateway.callbacks import Callback
from gateway.outbox import Outbox
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.store.listing import CallbackFilter, Listing
from gateway.store.posting import Once, Posting
from gateway.store.reading import Reader
from gateway.store.records import Outgoing
from gateway.store.registry import Registry
from tests.tools import (
    KEYS,
    Call,
    Peer,
    Reply,
    begin,
    connected,
    ended,
    publish,
    receiving,
    settings_for,
    signed,
    tell,
    until,
    working,
)
from tests.tools_api import MASTER_KEY
from tests.tools_endpoints import OLDER, WHSEC
from workers.silence import Silence

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
GREETING = [{"id": "a", "transform": "hello"}]
ALL = ["run.started", "run.waiting", "run.completed", "run.failed", "run.cancelled"]


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ONE", WHSEC), ("TWO", OLDER), ("IN", "a secret of the tests")):
        monkeypatch.setenv(name, value)


def endpoint(name: str, url: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "url": f"{url}/{name}", "secrets": [{"env": "ONE"}]} | fields


def file(endpoints: Sequence[dict[str, Any]], steps: Any = None, workflow: Any = None, **app: Any) -> str:
    """An app that names all these endpoints, and a workflow."""
    callback = [{"endpoint": each["name"]} for each in endpoints]
    apps = [{"id": 1, "name": "ci", "verify": "none", "callback": callback} | app]
    workflows = [{"id": 1, "name": "w", "steps": GREETING if steps is None else steps} | (workflow or {})]
    return json.dumps({"apps": apps, "workflows": workflows, "endpoints": endpoints})


async def delivered(redis: Redis, count: int) -> list[Callback]:
    """All callbacks, once so many are delivered and none is on its way."""

    async def look() -> list[Callback] | None:
        found = [each.callback for each in (await Listing(redis, KEYS).callbacks(CallbackFilter(), 100)).found]
        done = [each for each in found if each.state == "delivered"]
        return found if len(done) == count == len(found) else None

    wanted: list[Callback] = await until(look)
    return wanted


def told(peer: Peer) -> dict[str, list[str]]:
    """The types of messages that came to each path, sorted."""
    found: dict[str, list[str]] = {}
    for call in peer.calls:
        found.setdefault(call.target.strip("/"), []).append(json.loads(call.body)["type"])
    return {name: sorted(types) for name, types in found.items()}


def data_of(peer: Peer, kind: str) -> dict[str, Any]:
    """The data of the only message of this kind."""
    (found,) = [json.loads(call.body) for call in peer.calls if json.loads(call.body)["type"] == kind]
    data: dict[str, Any] = found["data"]
    return data


def play(
    store: str,
    folder: Path,
    count: int,
    text: Callable[[str], str],
    peer: Peer | None = None,
    settings: dict[str, Any] | None = None,
    **request: Any,
) -> tuple[Peer, list[Callback]]:
    """Run the workflow once, and give what the receivers were told when so many callbacks are delivered."""
    peer, found = peer or Peer(), []

    async def story() -> None:
        async with connected(store) as redis, peer.listening():
            await publish(redis, text(peer.url))
            async with working(
                settings_for(store, folder, **{"lease": 5, "master_keys": MASTER_KEY, **(settings or {})})
            ):
                await ended(redis, await begin(redis, "w", **request))
                found.extend(await delivered(redis, count))

    tell(story())
    return peer, found


# ---- who is told


def test_one_message_goes_to_three_endpoints_by_their_filters(store: str, tmp_path: Path) -> None:
    """Each endpoint that wants it gets it, signed with its own secret, under one id, with a callback of its own."""

    def text(url: str) -> str:
        endpoints = [
            endpoint("all", url),
            endpoint("some", url, filter="message.data.output == 'hello'", secrets=[{"env": "TWO"}]),
            endpoint("none", url, filter="message.data.output == 'bye'"),
            endpoint("broken", url, filter="message.data.output.x > 1"),
            endpoint("failures", url, events=["run.failed"]),
            endpoint("thin", url, payload="thin", headers={"X-Team": "ops"}),
        ]
        return file(endpoints)

    peer, callbacks = play(store, tmp_path, 3, text)
    assert told(peer) == {name: ["run.completed"] for name in ("all", "some", "thin")}
    assert {call.headers["webhook-id"] for call in peer.calls} == {callbacks[0].message_id}
    assert len({each.id for each in callbacks}) == len({each.endpoint for each in callbacks}) == 3
    assert all(each.endpoint.startswith("ep_") for each in callbacks)
    for call in peer.calls:
        Webhook(OLDER if call.target == "/some" else WHSEC).verify(call.body, call.headers)
    (thin,) = [call for call in peer.calls if call.target == "/thin"]
    data = json.loads(thin.body)["data"]
    assert (data["status"], data["run_id"], thin.headers["x-team"]) == ("completed", 1, "ops")
    assert data["url"].endswith("/api/v1/runs/1")
    assert "output" not in data


def test_apps_and_workflows_name_endpoints_and_each_is_told_once(store: str, tmp_path: Path) -> None:
    """The app's own callback, its endpoints and the workflow's get one message each, though two name the same."""

    def text(url: str) -> str:
        own = {"url": f"{url}/own", "secret": {"env": "TWO"}}
        endpoints = [endpoint("ops", url), endpoint("audit", url)]
        workflow = {"callback": [{"endpoint": "ops"}, {"endpoint": "audit"}]}
        return file(endpoints, workflow=workflow, callback=[own, {"endpoint": "ops"}])

    peer, callbacks = play(store, tmp_path, 3, text)
    assert told(peer) == {name: ["run.completed"] for name in ("own", "ops", "audit")}
    assert "app-1" in {each.endpoint for each in callbacks}


def test_a_workflow_tells_of_runs_that_no_app_started(store: str, tmp_path: Path) -> None:
    """A run of a token is told to the workflow's endpoint."""

    def text(url: str) -> str:
        return file([endpoint("ops", url)], workflow={"callback": {"endpoint": "ops"}}, callback=None)

    peer, (callback,) = play(store, tmp_path, 1, text, app_id=None)
    assert (told(peer), callback.app_id) == ({"ops": ["run.completed"]}, None)


def test_an_endpoint_that_moved_gets_what_waits_for_it(store: str, tmp_path: Path) -> None:
    """The URL of the attempt is the one that the endpoint has by then."""

    async def story() -> None:
        broken, mended = Peer(Reply(500)), Peer()
        async with connected(store) as redis, broken.listening(), mended.listening():
            await publish(redis, file([endpoint("ops", broken.url)]))
            async with working(settings_for(store, tmp_path, lease=5, callback_schedule="0" + ",0.2" * 30)):
                await begin(redis, "w")
                await until(lambda: broken.calls)
                before = (await Catalog(redis, KEYS).read()).endpoints
                await publish(redis, file([endpoint("ops", mended.url)]))
                assert list((await Catalog(redis, KEYS).read()).endpoints) == list(before)
                (callback,) = await delivered(redis, 1)
            assert mended.calls[0].headers["webhook-id"] == callback.message_id

    tell(story())


# ---- before the end


def waits(seconds: float) -> list[dict[str, Any]]:
    return [{"id": "a", "transform": 1}, {"id": "pause", "needs": ["a"], "wait": {"for": seconds}}]


def test_a_run_is_told_when_it_starts_waits_and_ends(store: str, tmp_path: Path) -> None:
    """One message for each, with the state it is in; that it waits says for what and until when."""

    def text(url: str) -> str:
        return file([endpoint("ops", url, events=ALL), endpoint("ends", url)], waits(0.6))

    peer, _ = play(store, tmp_path, 4, text)
    assert told(peer) == {"ops": ["run.completed", "run.started", "run.waiting"], "ends": ["run.completed"]}
    assert data_of(peer, "run.started")["status"] == "running"
    waiting = data_of(peer, "run.waiting")
    assert (waiting["status"], waiting["completed_at"]) == ("waiting", None)
    (what,) = waiting["waits_for"]
    assert (what["step"], what["waits_for"]) == ("pause", "time")
    assert what["due_at"] is not None


def test_a_run_whose_worker_was_lost_is_told_once(store: str, tmp_path: Path) -> None:
    """A claim after a crash tells of the start when nobody did, and not again when somebody had."""

    async def story() -> None:
        peer = Peer()
        async with connected(store) as redis, peer.listening():
            await publish(redis, file([endpoint("ops", peer.url, events=["run.started"])], waits(0.6)))
            run_id = await begin(redis, "w")
            # A worker that claimed it and died before anything was written down.
            await redis.hset(KEYS.run(run_id), mapping={"state": "running", "started_at": 1})
            await redis.zrem(KEYS.state("run", "pending"), run_id)
            await redis.zadd(KEYS.state("run", "running"), {str(run_id): run_id})
            async with working(settings_for(store, tmp_path, lease=5)):
                await ended(redis, run_id)  # parked once, so it was claimed twice
                (callback,) = await delivered(redis, 1)
            assert (callback.type, told(peer)) == ("run.started", {"ops": ["run.started"]})

    tell(story())


def test_who_wants_no_start_pays_for_none(store: str, tmp_path: Path) -> None:
    """Where no endpoint asks for them, nothing of a run says that starts or waits were told."""

    async def story() -> None:
        peer = Peer()
        async with connected(store) as redis, peer.listening():
            await publish(redis, file([endpoint("ops", peer.url)], waits(0.6)))
            async with working(settings_for(store, tmp_path, lease=5)):
                run_id = await begin(redis, "w")
                await ended(redis, run_id)
                await delivered(redis, 1)
            assert not await redis.hexists(KEYS.run(run_id), "told")

    tell(story())


def test_the_same_write_again_sends_nothing_again(store: str, tmp_path: Path) -> None:
    """A worker that asks again because the answer was lost puts no message back that was delivered meanwhile."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, file([]))
            posting = Posting(redis, KEYS)
            message = Outgoing(id="msg_1", run_id=0, type="ping", url="https://x.example/", body=b"{}")
            once = Once("silent", "1", "5")
            assert [await posting.post([message], once) for _ in range(2)] == [True, False]
            assert await posting.post([], Once("silent", "1", "6"))
            assert await redis.zcard(KEYS.queue("callback")) == 1

    tell(story())


# ---- an upgrade


def test_a_callback_of_before_there_were_endpoints_is_delivered(store: str, tmp_path: Path) -> None:
    """A record in the old form, without an endpoint, goes to its app's callback under its own id, signed."""

    async def story() -> None:
        peer = Peer()
        async with connected(store) as redis, peer.listening():
            await publish(redis, file([], callback={"url": f"{peer.url}/own", "secret": {"env": "ONE"}}))
            old = {
                "run_id": "9",
                "app_id": "1",
                "type": "run.completed",
                "url": f"{peer.url}/own",
                "body": b'{"type":"run.completed","timestamp":"2026-01-01T00:00:00.000Z","data":{"run_id":9}}',
                "root": "ses_a",
                "depth": "2",
                "state": "pending",
                "created_at": "1",
            }
            job = KEYS.job("callback", "msg_9_ab")
            await redis.hset(KEYS.callback("msg_9_ab"), mapping=old)
            await redis.zadd(KEYS.state("callback", "pending"), {"msg_9_ab": 1})
            await redis.set(f"arq:job:{job}", '{"t":null,"f":"callback","a":["msg_9_ab"],"k":{},"et":1}')
            await redis.zadd(KEYS.queue("callback"), {job: 1})
            async with working(settings_for(store, tmp_path, lease=5)):
                (callback,) = await delivered(redis, 1)
            (call,) = peer.calls
            Webhook(WHSEC).verify(call.body, call.headers)
            assert (call.headers["webhook-id"], callback.endpoint) == ("msg_9_ab", "app-1")
            assert call.headers["gateway-hop"].startswith("v1,2,ses_a,")

    tell(story())


# ---- what is too large


def test_a_large_result_goes_by_a_link(store: str, tmp_path: Path) -> None:
    """The message says what it leaves out, and its link gives the run without any token; a changed one, or one that
    was made for another run of its number, gives nothing.
    """
    large = "x" * 5000

    async def story() -> None:
        peer = Peer()
        settings = settings_for(store, tmp_path, lease=5, master_keys=MASTER_KEY, callback_size=2000)
        async with connected(store) as redis, peer.listening(), receiving(settings) as port:
            await publish(redis, file([endpoint("ops", peer.url)], [{"id": "a", "transform": large}]))
            async with working(settings):
                await ended(redis, await begin(redis, "w", task="t"))
                await delivered(redis, 1)
            assert len(peer.calls[0].body) <= 2000
            data = data_of(peer, "run.completed")
            assert (data["output"], data["omitted"], data["task"]) == (None, ["output"], "t")
            token = data["result_url"].rpartition("/")[2]
            status, found = await fetch(port, f"/results/{token}")
            assert (status, found["output"], "steps" in found) == (200, large, False)
            for changed in (token[:-1] + ("A" if token[-1] != "A" else "B"), "x", f"{token}x"):
                assert (await fetch(port, f"/results/{changed}"))[0] == 404
            # The store was begun anew, and this number is another run's.
            await redis.hincrby(KEYS.run(1), "created_at", 1)
            assert (await fetch(port, f"/results/{token}"))[0] == 404

    tell(story())


def test_without_a_master_key_a_large_result_is_sent(store: str, tmp_path: Path) -> None:
    """Nothing is lost for want of a key to sign a link with."""
    large = "x" * 5000
    settings = {"callback_size": 2000, "master_keys": ""}
    peer, _ = play(
        store, tmp_path, 1, lambda url: file([endpoint("ops", url)], [{"id": "a", "transform": large}]), None, settings
    )
    assert data_of(peer, "run.completed")["output"] == large


async def fetch(port: int, path: str) -> tuple[int, Any]:

    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}{path}")
        return answer.status_code, answer.json()


# ---- where one request wants it


def direct(url: str) -> str:
    own = {"url": f"{url}/own", "secret": {"env": "ONE"}}
    return json.dumps(
        {
            "apps": [
                {
                    "id": 1,
                    "name": "ci",
                    "adapter": "direct",
                    "verify": {"scheme": "orqo", "secrets": [{"env": "IN"}]},
                    "callback": own,
                    "callback_urls": [f"{url}/in"],
                },
                {
                    "id": 2,
                    "name": "closed",
                    "adapter": "direct",
                    "verify": {"scheme": "orqo", "secrets": [{"env": "IN"}]},
                },
            ],
            "workflows": [
                {"id": 1, "name": "w", "steps": [{"id": "a", "http": {"url": f"{url}/step"}}]},
            ],
        }
    )


def test_a_request_says_where_its_callback_goes(store: str, tmp_path: Path) -> None:
    """In place of the app's own URL, signed with the app's secret; the trace it belongs to is passed on everywhere."""

    async def story() -> None:
        peer = Peer()
        settings = settings_for(store, tmp_path, lease=5)
        async with connected(store) as redis, peer.listening():
            await publish(redis, direct(peer.url))
            async with receiving(settings) as port, working(settings):
                body = {"workflow_id": 1, "callback_url": f"{peer.url}/in/7?a=b"}
                assert (await knock(port, 1, body, traceparent=TRACE))[0] == 200
                (callback,) = await delivered(redis, 1)
            calls: dict[str, Call] = {call.target: call for call in peer.calls}
            assert set(calls) == {"/step", "/in/7?a=b"}
            assert {call.headers.get("traceparent") for call in peer.calls} == {TRACE}
            Webhook(WHSEC).verify(calls["/in/7?a=b"].body, calls["/in/7?a=b"].headers)
            assert callback.endpoint.startswith("app-1.")

    tell(story())


def test_one_request_s_url_that_is_gone_is_gone_alone(store: str, tmp_path: Path) -> None:
    """410 from a `callback_url` ends that message; what other requests have sent to the same host goes on."""

    async def story() -> None:
        peer = Peer(Reply(), Reply(410), Reply())
        settings = settings_for(store, tmp_path, lease=5)
        async with connected(store) as redis, peer.listening():
            await publish(redis, direct(peer.url))

            async def ended(run_id: int) -> str | None:
                found = await Reader(redis, KEYS).callbacks_of(run_id)
                return found[0].state if found and found[0].ended_at else None

            async with receiving(settings) as port, working(settings):
                for run_id, state in ((1, "failed"), (2, "delivered")):
                    body = {"workflow_id": 1, "callback_url": f"{peer.url}/in/{run_id}"}
                    assert (await knock(port, 1, body))[0] == 200
                    assert await until(lambda wanted=run_id: ended(wanted)) == state

    tell(story())


@pytest.mark.parametrize(
    "trace", ["", "00-0-0-01", TRACE.upper(), "ff" + TRACE[2:], TRACE + "-x", "00-" + "0" * 32 + TRACE[35:]]
)
def test_a_trace_that_is_none_is_not_passed_on(store: str, tmp_path: Path, trace: str) -> None:
    """Nothing that is no `traceparent` comes out again."""

    async def story() -> None:
        peer = Peer()
        settings = settings_for(store, tmp_path, lease=5)
        async with connected(store) as redis, peer.listening():
            await publish(redis, direct(peer.url))
            async with receiving(settings) as port, working(settings):
                assert (await knock(port, 1, {"workflow_id": 1}, traceparent=trace))[0] == 200
                await delivered(redis, 1)
            assert {call.headers.get("traceparent") for call in peer.calls} == {None}

    tell(story())


@pytest.mark.parametrize(
    ("app", "url", "words"),
    [
        (1, "https://elsewhere.example/in", "fits none"),
        (1, "PEER/inside", "fits none"),
        (1, "PEER/in/../own", "`..`"),
        (1, "http://user@127.0.0.1/in", "user name"),
        (1, "nonsense", "https://host/path"),
        (2, "PEER/in", "no `callback_urls`"),
    ],
)
def test_a_url_that_the_app_does_not_allow_starts_nothing(
    store: str, tmp_path: Path, app: int, url: str, words: str
) -> None:
    """422 with the reason, and no run."""

    async def story() -> None:
        peer = Peer()
        settings = settings_for(store, tmp_path, lease=5)
        async with connected(store) as redis, peer.listening():
            await publish(redis, direct(peer.url))
            async with receiving(settings) as port:
                body = {"workflow_id": 1, "callback_url": url.replace("PEER", peer.url)}
                status, answer = await knock(port, app, body)
            assert (status, answer["code"]) == (422, "unprocessable")
            assert words in answer["error"]
            assert not await redis.exists(KEYS.run(1))

    tell(story())


async def knock(port: int, app: int, document: dict[str, Any], **headers: str) -> tuple[int, Any]:

    body = json.dumps(document).encode()
    async with httpx2.AsyncClient() as client:
        sent = signed(body, "a secret of the tests", **headers)
        answer = await client.post(f"http://127.0.0.1:{port}/api/v1/webhooks/{app}", content=body, headers=sent)
        return answer.status_code, answer.json()


# ---- about no run


def test_a_silent_source_is_told_once(store: str, tmp_path: Path) -> None:
    """An app that sent nothing for as long as it says is told of once, to its own callback and to operators' endpoints;
    after an event and another silence, once more.
    """

    async def story() -> None:
        peer = Peer()
        async with connected(store) as redis, peer.listening():
            own = {"url": f"{peer.url}/own", "secret": {"env": "ONE"}, "events": ["source.silent"]}
            operators = [endpoint("ops", peer.url, events=["source.silent"]), endpoint("other", peer.url)]
            await publish(redis, file(operators, callback=own, expect_every="1m"))
            now = int((await redis.time())[0])
            await redis.zadd(KEYS.named("heard"), {"1": now - 100})
            async with working(settings_for(store, tmp_path, lease=5)), working(settings_for(store, tmp_path, lease=5)):
                first = await delivered(redis, 2)
                await redis.zadd(KEYS.named("heard"), {"1": now - 90})
                await delivered(redis, 4)
            assert told(peer) == {"own": ["source.silent"] * 2, "ops": ["source.silent"] * 2}
            data = json.loads(peer.calls[0].body)["data"]
            assert (data["app_id"], data["app"], data["expect_every"]) == (1, "ci", 60.0)
            assert data["silent_for"] >= 100
            assert {each.run_id for each in first} == {0}

    tell(story())


def test_an_app_that_is_switched_off_is_not_silent(store: str) -> None:
    """While it is disabled nothing is told of it; from when it is enabled its silence counts anew."""

    async def story() -> None:
        async with connected(store) as redis:
            own = {"url": "https://x.example/own", "secret": {"env": "ONE"}, "events": ["source.silent"]}
            registry = Registry(redis, Catalog(redis, KEYS), KEYS.named("changed"), ())
            silence, now = Silence(redis, KEYS, registry, Outbox()), int((await redis.time())[0])

            async def look(disabled: bool) -> dict[bytes, bytes]:
                await publish(redis, file([], callback=own, expect_every="1m", disabled=disabled))
                await registry.refresh()
                await silence.turn()
                told: dict[bytes, bytes] = await redis.hgetall(KEYS.named("silent"))
                return told

            await redis.zadd(KEYS.named("heard"), {"1": now - 1000})
            assert await look(disabled=True) == {}
            assert await look(disabled=False) == {}
            await redis.zadd(KEYS.named("heard"), {"1": now - 100})
            assert await look(disabled=False) == {b"1": str(now - 100).encode()}

    tell(story())


def test_an_event_ends_a_silence(store: str, tmp_path: Path) -> None:
    """What an app sends is noted where it says how often it means to; the time is that of the event."""

    async def story() -> None:
        settings = settings_for(store, tmp_path)
        async with connected(store) as redis:
            async with receiving(settings) as port:
                await publish(
                    redis, direct("https://x.example").replace('"id": 1,', '"id": 1, "expect_every": "1h",', 1)
                )
                await until(lambda: accepted(port))
            now = int((await redis.time())[0])
            ((app, heard),) = await redis.zrange(KEYS.named("heard"), 0, -1, withscores=True)
            assert app == b"1"
            assert now - 20 <= heard <= now

    async def accepted(port: int) -> bool:
        return (await knock(port, 1, {"workflow_id": 1}))[0] == 200

    tell(story())


def test_messages_about_no_run_have_their_place_in_lists(store: str, tmp_path: Path) -> None:
    """They are read back as they were put in, and nothing says which run they are of."""

    async def story() -> None:
        async with connected(store) as redis:
            message = Outgoing(
                id="msg_a", endpoint="ep_1", run_id=0, type="ping", url="https://x.example/", body=b"{}", order="k"
            )
            await Posting(redis, KEYS).post([message])
            callback = await Reader(redis, KEYS).callback("msg_a")
            assert (callback.endpoint, callback.run_id, callback.app_id, callback.order) == ("ep_1", 0, None, "k")
            (found,) = (await Listing(redis, KEYS).callbacks(CallbackFilter(state="pending"), 5)).found
            assert (found.callback, found.request) == (callback, None)

    tell(story())
