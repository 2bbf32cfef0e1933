"""Callbacks on their way: signed, tried again, given up, and each attempt to be seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from gateway.callbacks import Callback
from gateway.store.connection import Redis
from gateway.store.reading import Reader
from tests.tools import KEYS, Peer, Reply, begin, connected, ended, publish, settings_for, tell, until, working

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_CALLBACK_SECRET", SECRET)


def file(url: str, transform: object = "hello", **app: Any) -> str:
    callback = {"url": url, "secret": {"env": "A_CALLBACK_SECRET"}}
    apps = [{"id": 1, "name": "ci", "verify": "none", "callback": callback} | app]
    return json.dumps({"apps": apps, "workflows": [{"name": "w", "steps": [{"id": "a", "transform": transform}]}]})


async def callback_of(redis: Redis, run_id: int, wanted: Callable[[Callback], bool]) -> Callback:
    """Wait until the run's callback is as wanted."""

    async def look() -> Callback | None:
        found = await Reader(redis, KEYS).callbacks_of(run_id)
        return found[0] if found and wanted(found[0]) else None

    found: Callback = await until(look)
    return found


def has_ended(callback: Callback) -> bool:
    return callback.state in ("delivered", "failed")


def deliver(
    store: str,
    folder: Path,
    peer: Peer,
    text: Callable[[str], str] = file,
    wanted: Callable[[Callback], bool] = has_ended,
    **settings: Any,
) -> Callback:
    """Run a workflow of an app that wants callbacks at the peer, and give its callback once it is as wanted."""
    found: list[Callback] = []

    async def story() -> None:
        async with connected(store) as redis, peer.listening():
            await publish(redis, text(peer.url + "/callback?x=1"))
            async with working(settings_for(store, folder, **({"lease": 5} | settings))):
                run_id = await begin(redis, "w", task="t", metadata={"ref": "main"})
                found.append(await callback_of(redis, run_id, wanted))

    tell(story())
    return found[0]


def test_a_completed_run_is_told_signed(store: str, tmp_path: Path) -> None:
    """The official library verifies the message; it has the run with what it was asked and what came out."""
    peer = Peer(Reply(204))
    callback = deliver(store, tmp_path, peer)
    (call,) = peer.calls
    message = Webhook(SECRET).verify(call.body, call.headers)
    assert (call.method, call.target, call.headers["content-type"]) == ("POST", "/callback?x=1", "application/json")
    assert message["type"] == "run.completed"
    data = message["data"]
    assert (data["run_id"], data["status"], data["output"], data["task"]) == (1, "completed", "hello", "t")
    assert (data["metadata"], data["error"]) == ({"ref": "main"}, None)
    assert call.headers["webhook-id"] == callback.id
    assert (callback.state, [attempt.status for attempt in callback.attempts]) == ("delivered", [204])


def test_a_failed_run_is_told_with_its_reason(store: str, tmp_path: Path) -> None:
    """Type and data say that and why it failed."""
    peer = Peer()
    deliver(store, tmp_path, peer, lambda url: file(url, transform="${input.x}"))
    message = json.loads(peer.calls[0].body)
    assert (message["type"], message["data"]["status"]) == ("run.failed", "failed")
    assert message["data"]["error"]["step"] == "a"


@pytest.mark.parametrize(
    "app",
    [
        {"callback": {"url": "https://x.example", "secret": {"env": "A_CALLBACK_SECRET"}, "events": ["run.failed"]}},
        {"callback": None},
        {"capabilities": ["receive"], "callback": None},
        {"id": 2},
    ],
    ids=["other endings", "no callback", "no capability", "another app's run"],
)
def test_who_does_not_want_to_hear_is_not_told(store: str, tmp_path: Path, app: dict[str, Any]) -> None:
    """Without a callback for this ending nothing goes into the outbox."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, file("https://x.example", **app))
            async with working(settings_for(store, tmp_path)):
                run_id = await begin(redis, "w")
                await ended(redis, run_id)
            assert await Reader(redis, KEYS).callbacks_of(run_id) == []
            assert await redis.exists(KEYS.queue("callback")) == 0

    tell(story())


def test_a_callback_is_tried_again_on_its_schedule(store: str, tmp_path: Path) -> None:
    """Failures are followed by further attempts with the same id and number after number, each recorded."""
    peer = Peer(Reply(503, b"busy"), Reply(302, headers={"location": "/"}), Reply(200, b"thanks"))
    callback = deliver(store, tmp_path, peer)
    assert callback.state == "delivered"
    assert [(each.number, each.status, each.answer) for each in callback.attempts] == [
        (1, 503, "busy"),
        (2, 302, None),
        (3, 200, "thanks"),
    ]
    assert {call.headers["webhook-id"] for call in peer.calls} == {callback.id}
    assert [call.headers["webhook-attempt"] for call in peer.calls] == ["1", "2", "3"]
    assert len({call.body for call in peer.calls}) == 1
    for call in peer.calls:
        Webhook(SECRET).verify(call.body, call.headers)
    times = [each.at for each in callback.attempts]
    assert times[1] - times[0] >= 80  # 0.1 s less the jitter
    assert callback.ended_at is not None


def test_a_schedule_that_is_exhausted_gives_up(store: str, tmp_path: Path) -> None:
    """After its last attempt a callback has failed, and is not tried again."""

    async def story() -> None:
        peer = Peer(Reply(500))
        async with connected(store) as redis, peer.listening():
            await publish(redis, file(peer.url))
            async with working(settings_for(store, tmp_path, callback_schedule="0,0.05")):
                run_id = await begin(redis, "w")
                callback = await callback_of(redis, run_id, has_ended)
                assert (callback.state, len(callback.attempts), len(peer.calls)) == ("failed", 2, 2)
                assert await redis.exists(KEYS.queue("callback"), f"arq:job:{KEYS.job('callback', callback.id)}") == 0
                counts = await redis.hgetall(KEYS.named("counts"))
                assert (counts[b"callbacks:failed"], counts[b"callbacks:retry"]) == (b"1", b"1")

    tell(story())


def test_410_gives_up_at_once(store: str, tmp_path: Path) -> None:
    """A receiver that is gone for good hears nothing more."""
    peer = Peer(Reply(410))
    callback = deliver(store, tmp_path, peer)
    assert (callback.state, len(callback.attempts)) == ("failed", 1)


def test_retry_after_is_waited_for(store: str, tmp_path: Path) -> None:
    """A receiver that asks for a minute gets it."""
    peer = Peer(Reply(429, headers={"retry-after": "60"}))
    callback = deliver(store, tmp_path, peer, wanted=lambda each: bool(each.attempts))
    assert callback.state == "pending"
    assert callback.due_at is not None
    assert 59_000 <= callback.due_at - callback.attempts[0].at <= 70_000


def test_a_private_address_is_not_told(store: str, tmp_path: Path) -> None:
    """Unless the operator allows the network, a callback URL can't reach inside it: refused and recorded."""
    peer = Peer()
    callback = deliver(
        store, tmp_path, peer, lambda url: file(url.replace("http://127.0.0.1", "https://localhost")), egress_allow=""
    )
    assert (callback.state, peer.calls) == ("failed", [])
    assert {(each.error or "").partition(":")[0] for each in callback.attempts} <= {"refused_address", "invalid_url"}


@pytest.mark.parametrize("value", ["", "whsec_"])
def test_nothing_is_sent_unsigned(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Without a secret, or with one that is no key, no attempt leaves the house; the reason is recorded."""
    monkeypatch.setenv("A_CALLBACK_SECRET", value)
    peer = Peer()
    callback = deliver(store, tmp_path, peer)
    assert (callback.state, peer.calls) == ("failed", [])
    assert (callback.attempts[0].error or "").startswith("no_secret: ")


def test_a_receiver_that_does_not_answer_is_given_its_time(store: str, tmp_path: Path) -> None:
    """No answer within the timeout, and nobody there, are recorded as such."""

    async def story() -> None:
        async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silence, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        settings = settings_for(store, tmp_path, lease=5, callback_timeout=0.2, callback_schedule="0,1")
        async with connected(store) as redis, server:
            await publish(redis, file(url))
            async with working(settings):
                run_id = await begin(redis, "w")
                await callback_of(redis, run_id, lambda each: len(each.attempts) == 1)
                server.close()
                callback = await callback_of(redis, run_id, has_ended)
            reasons = [(each.error or "").partition(":")[0] for each in callback.attempts]
            assert reasons == ["timeout", "unreachable"]
            assert callback.attempts[0].duration_ms >= 200

    tell(story())


def test_an_attempt_uses_the_secret_of_its_time(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rotation the next attempt is signed with the new secret."""
    new = "whsec_" + "B" * 32

    async def story() -> None:
        peer = Peer(Reply(500), Reply(200))
        async with connected(store) as redis, peer.listening():
            await publish(redis, file(peer.url))
            async with working(settings_for(store, tmp_path, callback_schedule="0,1")):
                run_id = await begin(redis, "w")
                await callback_of(redis, run_id, lambda each: len(each.attempts) == 1)
                monkeypatch.setenv("A_CALLBACK_SECRET", new)
                await publish(redis, file(peer.url, token="changed"))
                await callback_of(redis, run_id, has_ended)
            one, two = peer.calls
            Webhook(SECRET).verify(one.body, one.headers)
            Webhook(new).verify(two.body, two.headers)

    tell(story())


def test_an_app_that_is_newer_than_the_worker_s_copy_is_told(store: str, tmp_path: Path) -> None:
    """A run of an app that the worker has not heard of yet, for its announcement was lost, is told all the same."""

    async def story() -> None:
        peer = Peer()
        async with connected(store) as redis, peer.listening():
            await publish(redis, file(peer.url))
            app = await redis.hget(KEYS.named("apps"), "1")
            await redis.hdel(KEYS.named("apps"), "1")
            async with working(settings_for(store, tmp_path, lease=5)):
                await ended(redis, await begin(redis, "w"))  # the worker has taken its copy, and waits for news
                await redis.hset(KEYS.named("apps"), "1", app)
                await redis.incr(KEYS.named("revision"))
                run_id = await begin(redis, "w")
                assert (await callback_of(redis, run_id, has_ended)).state == "delivered"

    tell(story())


def test_a_callback_whose_worker_was_lost_is_tried_again(store: str, tmp_path: Path) -> None:
    """A callback that was claimed and never recorded goes to another worker when the lease is over."""

    async def story() -> None:
        peer = Peer()
        async with connected(store) as redis, peer.listening():
            await publish(redis, file(peer.url))
            async with working(settings_for(store, tmp_path, callback_schedule="0,0.3")):
                run_id = await begin(redis, "w")
                callback = await callback_of(redis, run_id, has_ended)
            await redis.hset(KEYS.callback(callback.id), "state", "sending")
            await redis.zadd(KEYS.state("callback", "sending"), {callback.id: 1})
            async with working(settings_for(store, tmp_path)):
                again = await callback_of(redis, run_id, lambda each: len(each.attempts) == 2)
            assert [call.headers["webhook-id"] for call in peer.calls] == [again.id, again.id]

    tell(story())
