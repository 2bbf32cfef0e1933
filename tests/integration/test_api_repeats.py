"""`Idempotency-Key` on the writes of our own API that start no run: done once, answered alike."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Conflict
from gateway.secrets import read_master_keys
from gateway.store.answers import LIFETIME_MS, Answers
from gateway.web.repeats import UNDER_WAY, Attempt, Repeats
from tests.tools import KEYS, connected, tell
from tests.tools_api import MASTER_KEY, Api, serving

KEY = {"idempotency-key": "the-same"}


def answers_of(api: Api) -> Answers:
    return Answers(api.redis, KEYS, read_master_keys([MASTER_KEY]))


def attempt(api: Api, body: bytes) -> Attempt:
    """What a receiver makes of the making of a token, with the admin's token."""
    return Attempt(
        token_id=api.admin.removeprefix("gw_api_")[:10],
        key=KEY["idempotency-key"],
        method="POST",
        target=b"/api/v1/tokens?",
        body=body,
    )


async def names(api: Api) -> list[str]:
    return [each["name"] for each in (await api.get("/api/v1/tokens")).json()["data"]]


def test_a_repeated_write_is_done_once(store: str, tmp_path: Path) -> None:
    """The same request under the same key gets the first status and body, secret and all, and makes nothing new."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            first = await api.post("/api/v1/tokens", {"name": "once"}, headers=KEY)
            again = [await api.post("/api/v1/tokens", {"name": "once"}, headers=KEY) for _ in range(3)]
            assert first.status_code == 201
            assert {(each.status_code, each.content) for each in again} == {(201, first.content)}
            assert {each.headers["content-type"] for each in again} == {first.headers["content-type"]}
            assert (await names(api)).count("once") == 1

    tell(story())


def test_every_kind_of_write_can_be_repeated(store: str, tmp_path: Path) -> None:
    """What makes, changes and removes is answered alike a second time, where without a key it could not be."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            run = await api.start()
            writes: list[tuple[str, str, Any]] = [
                ("POST", "/api/v1/apps", {"name": "partner"}),
                ("POST", "/api/v1/apps/partner/rotate-secret", None),
                ("POST", "/api/v1/apps/partner/disable", None),
                ("DELETE", "/api/v1/apps/partner", None),
                ("POST", "/api/v1/hooks", {"workflow": "greet"}),
                ("POST", f"/api/v1/runs/{run}/cancel", None),
            ]
            for number, (method, path, body) in enumerate(writes):
                headers = {"idempotency-key": f"key-{number}"}
                twice = [await api.call(method, path, json=body, headers=headers) for _ in range(2)]
                assert twice[0].status_code in (200, 201), twice[0].text
                assert twice[0].content == twice[1].content, path
                assert twice[0].status_code == twice[1].status_code

    tell(story())


def test_another_request_under_the_key_is_refused(store: str, tmp_path: Path) -> None:
    """Another body, query, path or method under a key that was used is a 409 and does nothing."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            assert (await api.post("/api/v1/tokens", {"name": "once"}, headers=KEY)).status_code == 201
            others = [
                await api.post("/api/v1/tokens", {"name": "twice"}, headers=KEY),
                await api.post("/api/v1/tokens?x=1", {"name": "once"}, headers=KEY),
                await api.post("/api/v1/apps", {"name": "once"}, headers=KEY),
                await api.call("DELETE", "/api/v1/apps/once", headers=KEY),
            ]
            assert [(each.status_code, each.json()["code"]) for each in others] == [(409, "conflict")] * 4
            assert "twice" not in await names(api)
            assert len((await api.get("/api/v1/apps")).json()["data"]) == 1

    tell(story())


def test_a_key_belongs_to_its_token(store: str, tmp_path: Path) -> None:
    """Another caller's same key is another key: nobody is given what somebody else was answered."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            second = await api.token("admin", name="second")
            await api.settle()
            made = [
                (await api.post("/api/v1/tokens", {"name": "once"}, headers=KEY, token=text)).json()
                for text in (api.admin, second)
            ]
            assert made[0]["token"] != made[1]["token"]
            stranger = await api.post("/api/v1/tokens", {"name": "once"}, headers=KEY, token="gw_api_x")
            weaker = await api.post("/api/v1/tokens", {"name": "once"}, headers=KEY, token=await reader_of(api))
            assert (stranger.status_code, weaker.status_code) == (401, 403)

    tell(story())


async def reader_of(api: Api) -> str:
    text = await api.token("runs:read")
    await api.settle()
    return text


def test_many_at_once_make_one(store: str, tmp_path: Path) -> None:
    """Of many same requests at one time one is done; the others get its answer, or a 409 while it is under way."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            sent = [api.post("/api/v1/tokens", {"name": "once"}, headers=KEY) for _ in range(20)]
            answers = await asyncio.gather(*sent)
            assert {each.status_code for each in answers} <= {201, 409}
            assert len({each.content for each in answers if each.status_code == 201}) == 1
            assert (await names(api)).count("once") == 1

    tell(story())


def test_a_refused_write_may_be_tried_again(store: str, tmp_path: Path) -> None:
    """What was refused changed nothing and leaves the key free, for when the reason is gone or the body is mended."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            missing = await api.post("/api/v1/apps/late/disable", headers=KEY)
            assert missing.status_code == 404
            await api.post("/api/v1/apps", {"name": "late"})
            assert (await api.post("/api/v1/apps/late/disable", headers=KEY)).status_code == 200
            other = {"idempotency-key": "another"}
            assert (await api.post("/api/v1/tokens", {"nome": "x"}, headers=other)).status_code == 422
            assert (await api.post("/api/v1/tokens", {"name": "x"}, headers=other)).status_code == 201

    tell(story())


@pytest.mark.parametrize(("age", "word"), [(0.0, "under way"), (UNDER_WAY + 1, "not known")])
def test_a_write_whose_end_is_unknown_is_not_done_again(store: str, tmp_path: Path, age: float, word: str) -> None:
    """A process that died between the work and its answer leaves a 409 that says so, under way or lost; nothing is
    done a second time.
    """

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            body = b'{"name":"once"}'
            died = attempt(api, body)
            assert await answers_of(api).begin(died.name, died.digest, time.time() - age) is None
            answer = await api.call("POST", "/api/v1/tokens", content=body, headers=KEY)
            assert (answer.status_code, word in answer.json()["detail"]) == (409, True), answer.text
            assert "once" not in await names(api)

    tell(story())


def test_doubt_is_not_settled_by_doing_it_again(store: str, tmp_path: Path) -> None:
    """Where the work may or may not have been done, for the store gave no clear reply, the key stays taken."""

    async def story() -> None:
        async with connected(store) as redis:
            repeats = Repeats(Answers(redis, KEYS, read_master_keys([MASTER_KEY])))
            asked = Attempt(token_id="t", key="k", method="POST", target=b"/x?", body=b"{}")
            done: list[str] = []

            async def work() -> tuple[int, Any]:
                done.append("once")
                raise ConnectionError

            with pytest.raises(ConnectionError):
                await repeats.once(asked, work)
            with pytest.raises(Conflict, match="under way"):
                await repeats.once(asked, work)
            assert done == ["once"]

    tell(story())


def test_what_is_kept_is_sealed_and_ends(store: str, tmp_path: Path) -> None:
    """The store holds the answer for a day, and nothing of the secret in it that could be read without the key."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            text = (await api.post("/api/v1/tokens", {"name": "once"}, headers=KEY)).json()["token"]
            (name,) = [each async for each in api.redis.scan_iter("gw:{0}:answer:*")]
            kept = (await api.redis.get(name)).decode()
            assert text not in kept
            assert text[7:17] not in kept  # not even the id in it
            assert "once" not in kept
            assert LIFETIME_MS - 60_000 < await api.redis.pttl(name) <= LIFETIME_MS

    tell(story())


def test_without_a_master_key_no_answer_is_promised(store: str, tmp_path: Path) -> None:
    """An answer that could not be kept sealed is not promised: with a key the write is refused and not done."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False, master_keys="") as api:
            answer = await api.post("/api/v1/tokens", {"name": "once"}, headers=KEY)
            assert (answer.status_code, "GATEWAY_MASTER_KEYS" in answer.json()["detail"]) == (422, True)
            assert "once" not in await names(api)
            assert (await api.post("/api/v1/tokens", {"name": "once"})).status_code == 201

    tell(story())


def test_an_answer_under_a_lost_key_is_not_done_again(store: str, tmp_path: Path) -> None:
    """When the master key has changed, the kept answer can't be read, and the write is still not done again."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            assert (await api.post("/api/v1/tokens", {"name": "once"}, headers=KEY)).status_code == 201
            (name,) = [each async for each in api.redis.scan_iter("gw:{0}:answer:*")]
            kept = (await api.redis.get(name)).replace(b'"v2.', b'"v2.0')
            await api.redis.set(name, kept)
            answer = await api.post("/api/v1/tokens", {"name": "once"}, headers=KEY)
            assert (answer.status_code, "not known" in answer.json()["detail"]) == (409, True)
            assert (await names(api)).count("once") == 1

    tell(story())


@pytest.mark.parametrize(
    "headers",
    [
        [("idempotency-key", "")],
        [("idempotency-key", "x" * 256)],
        [("idempotency-key", "a")] * 2,
        [("idempotency-key", b"\xe4")],
    ],
)
def test_a_key_that_cannot_be_used_is_refused(store: str, tmp_path: Path, headers: list[tuple[str, Any]]) -> None:
    """An empty, too long, doubled or unprintable key is a 400, and nothing is done."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            given = [*headers, ("authorization", f"Bearer {api.admin}")]
            answer = await api.client.post("/api/v1/tokens", json={"name": "once"}, headers=given)
            assert answer.status_code == 400
            assert "once" not in await names(api)

    tell(story())
