"""What happened to a delivery, asked over HTTP: accepted, ignored, parked, repeated, refused; by our id or its sender's."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.hops import HEADER, Hop, write_hop
from gateway.refused import Sighting
from gateway.signatures import PRESETS, Request, judge, sign
from gateway.store import refusals
from gateway.store.refusals import Refusals
from gateway.store.retention import Limits, Retention
from tests.tools import KEYS, SECRET, everything, publish, signed, tell, until
from tests.tools_api import FILE, Api, serving

OLD = "the older secret of these"
WHSEC = "whsec_" + "YSBzZWNyZXQgb2YgdGhlIHRlc3RzLi4uLg=="
APPS = """
  - id: 43
    name: github
    verify: {scheme: github, secrets: [{env: TESTS_SECRET}, {env: TESTS_OLD}]}
    triggers:
      - name: deploys
        when: event.type == "push" && event.body.ref == "refs/heads/main"
        workflow: greet
        input: {name: "${event.body.pusher}"}
      - {name: tags, when: 'event.body.ref.startsWith("refs/tags/")', workflow: greet}
      - {name: keys, when: 'event.body.token == "right horse"', workflow: greet}
  - {id: 44, name: stamped, adapter: direct, verify: {scheme: standard-webhooks, secrets: [{env: TESTS_CALLBACK}]}}
  - {id: 45, name: slack, verify: {scheme: slack, secrets: [{env: TESTS_SECRET}]}}
  - {id: 46, name: small, adapter: direct, verify: {scheme: orqo, secrets: [{env: TESTS_SECRET}]}, max_body: 50}
  - {id: 47, name: gitlab, verify: {scheme: gitlab, secrets: [{env: TESTS_SECRET}]}}
  - {id: 48, name: mirror, verify: {scheme: github, secrets: [{env: TESTS_SECRET}]}}
workflows:"""
PUSH = {"ref": "refs/heads/main", "pusher": "Ada", "token": "wrong horse"}
SEEN = Sighting(
    app=None,
    outcome="refused",
    status=404,
    reason="not_found",
    error=None,
    method="POST",
    path="/api/v1/webhooks/nobody",
    query="",
    peer="192.0.2.1",
    headers=(),
    request=None,
)
ORDER = b'{"workflow_id": 15, "task": "world"}'


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTS_SECRET", SECRET)
    monkeypatch.setenv("TESTS_OLD", OLD)
    monkeypatch.setenv("TESTS_CALLBACK", WHSEC)


async def prepare(api: Api) -> None:
    await publish(api.redis, FILE.replace("\nworkflows:", APPS))

    async def known() -> bool:
        return (await api.get("/api/v1/apps/48")).status_code == 200

    await until(known)


def of_github(body: bytes, secret: str = SECRET, delivery: str = "d-1") -> dict[str, str]:
    mac = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {
        "content-type": "application/json",
        "x-github-event": "push",
        "x-github-delivery": delivery,
        "x-hub-signature-256": f"sha256={mac}",
    }


async def push(api: Api, secret: str = SECRET, delivery: str = "d-1", app: int = 43, **changes: Any) -> httpx2.Response:
    body = json.dumps(PUSH | changes).encode()
    return await api.client.post(f"/api/v1/webhooks/{app}", content=body, headers=of_github(body, secret, delivery))


async def explained(api: Api, name: str, **query: Any) -> dict[str, Any]:
    answer = await api.get(f"/api/v1/events/{name}/explanation", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def refused(api: Api, **query: Any) -> list[dict[str, Any]]:
    """The refused deliveries, once there are any: they are written a moment later."""

    async def look() -> Any:
        answer = await api.get("/api/v1/events", params={"outcome": "refused", **query})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    found: list[dict[str, Any]] = await until(look)
    return found


def test_an_accepted_event_names_its_secret_and_its_run(store: str, tmp_path: Path) -> None:
    """What was checked, which secret matched, what the triggers said, the run's state now and its callbacks; and the
    event is found by its sender's id as by ours.
    """

    async def story() -> None:
        async with serving(store, tmp_path) as api:
            await prepare(api)
            sent = (await push(api, OLD)).json()
            await api.get(f"/api/v1/runs/{sent['run_id']}?wait=20")
            told = await explained(api, "d-1")
            assert told == await explained(api, sent["event_id"])
            assert (told["outcome"], told["text"]) == ("accepted", "accepted: it started run 1 (completed)")
            assert (told["app"], told["type"], told["delivery_id"]) == ("github", "push", "d-1")
            proof = told["proof"]
            assert proof["text"] == "the proof is right: secret 2 of 2 (env TESTS_OLD) matched, not the newest"
            assert (proof["scheme"], proof["secrets"]) == ("github", ["env TESTS_SECRET", "env TESTS_OLD"])
            assert proof["headers"] == ["x-hub-signature-256", "x-github-delivery", "x-github-event"]
            assert told["dedupe"]["known_by"] == [
                "the sender's delivery id", "the body's hash, for that id is not signed",
            ]  # fmt: skip
            assert [each["matched"] for each in told["triggers"]] == [True, False, False]
            (run,) = told["runs"]
            assert (run["run_id"], run["status"], run["trigger"]) == (1, "completed", "deploys")

    tell(story())


def test_an_ignored_event_names_the_part_that_failed(store: str, tmp_path: Path) -> None:
    """Each trigger says which part of it was false and what stood there; what is named like a secret is masked; and
    an event is explained by the rules of its time, though they have changed.
    """

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            sent = await push(api, ref="refs/heads/dev")
            assert (sent.status_code, sent.json()["status"]) == (202, "ignored")
            changed = FILE.replace("\nworkflows:", APPS.replace('"refs/heads/main"', '"refs/heads/trunk"'))
            await publish(api.redis, changed)
            told = await explained(api, sent.json()["event_id"])
            assert told["text"] == "ignored: none of its 3 triggers matched"
            reasons = {each["trigger"]: [why["text"] for why in each["because"]] for each in told["triggers"]}
            assert reasons == {
                "deploys": ['event.body.ref == "refs/heads/main" is false: event.body.ref is "refs/heads/dev"'],
                "tags": ['event.body.ref.startsWith("refs/tags/") is false: event.body.ref is "refs/heads/dev"'],
                "keys": ["event.body.token == ••• is false: event.body.token is •••"],
            }
            assert "horse" not in json.dumps([each["because"] for each in told["triggers"]])

    tell(story())


def test_a_repetition_is_noted_on_the_first(store: str, tmp_path: Path) -> None:
    """A delivery that comes again is counted on its first event, with the time of the last; another body is refused
    and names that event.
    """

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            first = (await push(api)).json()["event_id"]
            for _ in range(3):
                assert (await push(api)).json()["event_id"] == first
            told = await explained(api, first)
            assert told["dedupe"]["repeats"] == 3
            assert told["dedupe"]["last_repeated_at"] >= told["received_at"]
            assert told["text"].endswith("it came again 3 times, which started nothing")
            listed = (await api.get("/api/v1/events?outcome=duplicate")).json()["data"]
            assert [(each["event_id"], each["repeats"]) for each in listed] == [(first, 3)]
            assert (await push(api, pusher="Eve")).status_code == 409
            (conflict,) = await refused(api)
            told = await explained(api, conflict["event_id"])
            assert (told["status"], told["dedupe"]["first_event_id"]) == (409, first)

    tell(story())


def test_a_repetition_of_what_is_gone_leaves_nothing(store: str, tmp_path: Path) -> None:
    """When an event's time is over its repetitions still start nothing, and leave no note that would stay for ever."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            first = (await push(api, ref="refs/heads/dev")).json()["event_id"]
            assert (await push(api, ref="refs/heads/dev")).json()["event_id"] == first
            retention = Retention(api.redis, KEYS, Limits(days=1e-9, window_ms=60_000))
            ((part, index),) = [each for each in retention.walks() if each[0] == "event"]
            looked = await retention.look(part, index, 0, 10)
            assert (await retention.remove(part, index, looked.old)).events == 1
            assert (await push(api, ref="refs/heads/dev")).json()["event_id"] == first
            assert set(await api.redis.hgetall(KEYS.event(first))) == {b"runs"}
            assert await api.redis.pttl(KEYS.event(first)) > 0
            assert (await api.get("/api/v1/events/d-1/explanation")).status_code == 404

    tell(story())


def test_a_wrong_signature_is_kept_and_explained(store: str, tmp_path: Path) -> None:
    """Which headers were looked at, which secrets were tried and why none did; its bytes are there for `verify`."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            assert (await push(api, "a wrong secret", "d-9")).status_code == 401
            (row,) = await refused(api, app=43)
            assert row["event_id"].startswith("rfs_")
            told = await explained(api, "d-9")
            assert told["event_id"] == row["event_id"]
            assert told["text"] == "refused with 401: no secret gives this signature for these bytes"
            assert told["proof"]["valid"] is False
            assert told["proof"]["secrets"] == ["env TESTS_SECRET", "env TESTS_OLD"]
            assert (told["request"]["peer"], told["request"]["captured"]) == ("127.0.0.1", True)
            capture = (await api.get(f"/api/v1/events/{row['event_id']}/capture")).json()
            assert (capture["scheme"], capture["secrets"], capture["app_id"]) == ("github", [], 43)
            assert json.loads(capture["body"]) == PUSH
            assert judge(capture | {"secrets": [SECRET]}).reason == "mismatch"
            assert judge(capture | {"secrets": ["a wrong secret"]}).valid
            whole = (await api.get(f"/api/v1/events/{row['event_id']}")).json()
            assert (json.loads(whole["body"]), whole["status"]) == (PUSH, 401)

    tell(story())


def test_a_stale_time_is_told_with_its_age(store: str, tmp_path: Path) -> None:
    """The time that was signed, and how far from our clock it is; of an accepted one as well."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            now = time.time()
            for age, status in ((5, 200), (1000, 401)):
                request = Request("POST", "", (("content-type", "application/json"),), ORDER)
                headers = sign(PRESETS["standard-webhooks"], WHSEC, request, now - age, f"msg_{age}")
                headers = {"content-type": "application/json"} | dict(headers)
                answer = await api.client.post("/api/v1/webhooks/44", content=ORDER, headers=headers)
                assert answer.status_code == status
            await refused(api)
            stale, fresh = await explained(api, "msg_1000"), await explained(api, "msg_5")
            assert stale["text"] == "refused with 401: the signature is right, but older than the scheme allows"
            assert 999 < stale["proof"]["age_seconds"] < 1030
            assert 4 < fresh["proof"]["age_seconds"] < 35
            assert fresh["proof"]["signed_at"] is not None

    tell(story())


def test_what_came_before_the_proof_is_explained(store: str, tmp_path: Path) -> None:
    """Too large a body, an app there is not, and a body that is no JSON: each says what it was refused for."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            large = b'{"workflow_id": 15, "task": "%s"}' % (b"x" * 100)
            broken = b'{"workflow_id": '
            answers = [
                await api.client.post("/api/v1/webhooks/46", content=large, headers=signed(large)),
                await api.client.post("/api/v1/webhooks/not-a-token-of-anybody", content=ORDER, headers=signed(ORDER)),
                await api.client.post("/api/v1/webhooks/46", content=broken, headers=signed(broken)),
            ]
            assert [each.status_code for each in answers] == [413, 404, 400]
            rows = {each["status"]: each["event_id"] for each in await _all_refused(api, 3)}
            large_one, unknown, malformed = [await explained(api, rows[status]) for status in (413, 404, 400)]
            assert large_one["limits"] == ["the body is larger than the 50 bytes this app accepts"]
            assert large_one["proof"]["text"] == "it did not come so far"
            assert (unknown["app_id"], unknown["request"]["path"]) == (None, "/api/v1/webhooks/not-a-token…")
            assert malformed["text"].startswith("refused with 400: the body is not JSON")
            assert malformed["proof"]["valid"] is None

    tell(story())


async def _all_refused(api: Api, count: int) -> list[dict[str, Any]]:
    async def look() -> Any:
        found = await refused(api)
        return found if len(found) == count else None

    found: list[dict[str, Any]] = await until(look)
    return found


def test_a_handshake_is_noted(store: str, tmp_path: Path) -> None:
    """A challenge that was answered started nothing and is no event; it can be looked up all the same."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            body = b'{"type": "url_verification", "challenge": "abc"}'
            request = Request("POST", "", (("content-type", "application/json"),), body)
            headers = dict(sign(PRESETS["slack"], SECRET, request, time.time(), "s"))
            headers |= {"content-type": "application/json"}
            assert (await api.client.post("/api/v1/webhooks/45", content=body, headers=headers)).text == "abc"

            async def look() -> Any:
                return (await api.get("/api/v1/events?outcome=handshake")).json()["data"]

            (row,) = await until(look)
            told = await explained(api, row["event_id"])
            assert told["text"] == "handshake, answered with 200; nothing was stored or started"
            assert not (await api.get("/api/v1/events")).json()["data"]

    tell(story())


def test_a_parked_event_names_its_chain(store: str, tmp_path: Path) -> None:
    """A request too deep in a chain says where the chain began, and which limit it met."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False, max_depth=2) as api:
            stamp, hop = str(int(time.time())), Hop("ses_first", 5)
            headers = signed(ORDER) | {
                "webhook-id": "m1",
                "webhook-timestamp": stamp,
                HEADER: write_hop(SECRET.encode(), hop, "m1", stamp),
            }
            answer = await api.client.post("/api/v1/webhooks/42", content=ORDER, headers=headers)
            assert answer.json()["status"] == "parked"
            told = await explained(api, answer.json()["event_id"])
            assert told["outcome"] == "parked"
            assert "began with ses_first" in told["chain"]
            assert told["dedupe"]["known_by"] == ["the caller's Idempotency-Key or webhook-id"]

    tell(story())


def test_the_same_name_of_two_senders_is_told_apart(store: str, tmp_path: Path) -> None:
    """Where two apps' senders give the same id, the answer says so, and `app` says which. What is nobody's is a 404, and
    what a sender called so whom the token may not see is one as well: such names can be guessed."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            ours, theirs = [(await push(api, app=app)).json()["event_id"] for app in (43, 48)]
            answer = await api.get("/api/v1/events/d-1/explanation")
            assert (answer.status_code, "43, 48" in answer.text) == (409, True)
            assert (await explained(api, "d-1", app=43))["event_id"] == ours
            assert (await explained(api, "d-1", app=48))["event_id"] == theirs
            for name in ("d-2", "evt_1Stripe", "evt_" + "0" * 28, "rfs_" + "0" * 28):
                assert (await api.get(f"/api/v1/events/{name}/explanation")).status_code == 404
            narrow = await api.token("runs:read@app:mirror")
            await api.settle()
            seen = await api.get("/api/v1/events/d-1/explanation", token=narrow)
            assert seen.json()["event_id"] == theirs
            assert (await api.get(f"/api/v1/events/{ours}/explanation", token=narrow)).status_code == 403
            await push(api, delivery="order-7", ref="other")
            foreign, absent = [
                await api.get(f"/api/v1/events/{name}/explanation", token=narrow) for name in ("order-7", "order-8")
            ]
            assert (foreign.status_code, absent.status_code) == (404, 404)
            assert foreign.text.replace("order-7", "order-8") == absent.text

    tell(story())


def test_nothing_that_is_kept_of_a_refusal_holds_a_secret(store: str, tmp_path: Path) -> None:
    """Tokens, cookies and credentials in headers, query and path are hidden before anything is written; and a token
    that is good for one app only sees the refusals of that one.
    """

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            private = {"authorization": "Bearer canary-1", "cookie": "a=canary-2", "x-gitlab-token": "canary-3"}
            headers = {"content-type": "application/json"} | private
            url = "/api/v1/webhooks/47?token=canary-4&page=7"
            assert (await api.client.post(url, content=b"{}", headers=headers)).status_code == 401
            lost = "/api/v1/webhooks/canary-5-canary-5-canary-5"
            assert (await api.client.post(lost, content=b"{}", headers=headers)).status_code == 404
            rows = await _all_refused(api, 2)
            told = await explained(api, rows[1]["event_id"])
            assert told["request"]["path"] == "/api/v1/webhooks/47?token=•••&page=7"
            assert {name for name, value in told["request"]["headers"] if value == "•••"} == set(private)
            text = json.dumps(told) + await everything(api.redis)
            assert not [number for number in range(1, 5) if f"canary-{number}" in text]
            assert "canary-5-can" not in text
            narrow = await api.token("runs:read@app:gitlab")
            await api.settle()
            listed = await api.get("/api/v1/events?outcome=refused", token=narrow)
            assert [each["app_id"] for each in listed.json()["data"]] == [47]

    tell(story())


def test_uses_of_each_secret_are_counted(store: str, tmp_path: Path) -> None:
    """An app's document says how often each of its secrets proved its sender, and when last; a refusal counts none."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            for number in range(3):
                await push(api, OLD, f"d-{number}", pusher=str(number))
            await push(api, "a wrong secret", "d-9")

            async def look() -> Any:
                new, old = (await api.get("/api/v1/apps/43")).json()["secret_uses"]
                return old["count"] and (new, old)

            new, old = await until(look)
            nothing = {"count": 0, "since": None, "last_used_at": None, "expires_at": None}
            assert new == {"secret": "env TESTS_SECRET"} | nothing
            assert (old["secret"], old["count"]) == ("env TESTS_OLD", 3)
            assert old["since"] <= old["last_used_at"]

    tell(story())


def test_a_flood_of_refusals_stays_within_its_cap(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of forged requests leave so many records and bodies and no more, and no key of an older one; and those
    of one app do not push out what was refused of another.
    """
    monkeypatch.setattr(refusals, "KEPT", 60)
    monkeypatch.setattr(refusals, "KEPT_OF_ONE", 25)
    monkeypatch.setattr(refusals, "BODIES", 12)
    monkeypatch.setattr(refusals, "BODIES_OF_ONE", 5)
    monkeypatch.setattr(refusals, "PAUSE", 0.02)
    forged = of_github(b"{}", "a wrong secret")

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            assert (await push(api, "a wrong secret", "quiet", app=48)).status_code == 401

            async def one(number: int) -> int:
                door = 43 if number < 1000 else (43, 45, 46, 47, "nobody")[number % 5]
                answer = await api.client.post(f"/api/v1/webhooks/{door}", content=b"{}", headers=forged)
                return answer.status_code

            for start in range(0, 5000, 100):
                if start == 1000:
                    assert (await explained(api, "quiet"))["app_id"] == 48
                assert {*await asyncio.gather(*map(one, range(start, start + 100)))} <= {401, 404}
            await until(lambda: _settled(api))
            ids = {raw.decode() for raw in await api.redis.zrange(KEYS.named("refused"), 0, -1)}
            kept = {key.decode().rpartition(":")[2] async for key in api.redis.scan_iter(f"{KEYS.prefix}refusal:*")}
            bodies = [refusal for refusal in kept if await api.redis.hexists(KEYS.refusal(refusal), "body")]
            assert ids == kept
            assert len(ids) == 60
            assert 0 < len(bodies) <= 12
            for owner in ("43", "45", "46", "47", "-"):
                assert await api.redis.zcard(KEYS.named(f"refused:of:{owner}")) <= 25
                assert await api.redis.zcard(KEYS.named(f"refused:bodies:{owner}")) <= 5
            assert not await api.redis.exists(KEYS.named("refused:bodies:-"))

    tell(story())


async def _settled(api: Api) -> bool:
    """Whether the last of them are written: nobody writes any more."""
    before = await api.redis.zrange(KEYS.named("refused"), -1, -1)
    await asyncio.sleep(0.1)
    return bool(before == await api.redis.zrange(KEYS.named("refused"), -1, -1))


def test_old_refusals_go(store: str, tmp_path: Path) -> None:
    """What was refused longer ago than a week is gone with its body when the next comes."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await prepare(api)
            long_ago = Refusals(api.redis, KEYS, clock=lambda: time.time() - 8 * 86_400)
            long_ago.note(SEEN)
            await long_ago.close()
            assert await api.redis.zcard(KEYS.named("refused")) == 1
            await push(api, "a wrong secret")
            await refused(api, app=43)
            assert len(await refused(api)) == 1
            assert len([key async for key in api.redis.scan_iter(f"{KEYS.prefix}refusal:*")]) == 1

    tell(story())
