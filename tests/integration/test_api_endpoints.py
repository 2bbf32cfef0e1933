"""Endpoints changed over our own API: as the commands do it, with secrets that are shown once, and never a file's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.store.reading import Reader
from tests.tools import KEYS, SECRET, Peer, Reply, publish, tell, until
from tests.tools_api import FILE, Api, serving

ROOT = "/api/v1/endpoints"
NAMED = """
endpoints:
  - {name: filed, url: "https://filed.example/", secrets: [{env: TESTS_SECRET}]}
"""
ALLOWED = """
  - id: 50
    name: lender
    verify: none
    callback: {secret: {env: TESTS_CALLBACK}}
    callback_urls: ["%s/in"]
workflows:
"""


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTS_SECRET", SECRET)
    monkeypatch.setenv("TESTS_CALLBACK", "whsec_" + "YSBzZWNyZXQgb2YgdGhlIHRlc3RzLi4uLg==")


async def settled(api: Api, callback_id: str) -> Any:
    """A callback once it was delivered."""

    async def look() -> Any:
        found = (await api.get(f"/api/v1/callbacks/{callback_id}")).json()
        return found if found["status"] == "delivered" else None

    return await until(look)


def test_an_endpoint_is_made_and_pinged(store: str, tmp_path: Path) -> None:
    """Its secret, and its key, are in the one answer and nowhere else, though the receiver says back what it got; a ping
    is delivered and verified at once.
    """

    async def story() -> None:
        peer = Peer(Reply(body=b'{"you said": {"authorization": "Bearer bearer-canary"}}'))
        async with serving(store, tmp_path, lease=5) as api, peer.listening():
            wanted = {
                "name": "ops",
                "url": f"{peer.url}/ops",
                "events": ["run.failed"],
                "signing_key": True,
                "headers": {"Authorization": "Bearer bearer-canary"},
            }
            answer = await api.post(ROOT, wanted)
            assert answer.status_code == 201, answer.text
            made = answer.json()
            assert (made["status"], made["events"], made["managed_by"]) == ("active", ["run.failed"], "api")
            assert made["public_key"].startswith("whpk_")
            pinged = await api.post(f"{ROOT}/ops/ping")
            assert pinged.status_code == 202
            callback = await settled(api, pinged.json()["callback_id"])
            assert (callback["type"], callback["endpoint"], callback["run_id"]) == ("ping", made["id"], None)
            assert "you said" in callback["attempts"][0]["answer"]
            (call,) = peer.calls
            seen = Webhook(made["secret"]).verify(call.body, call.headers)
            assert seen["data"] == {"endpoint_id": made["id"], "endpoint": "ops"}
            assert call.headers["authorization"] == "Bearer bearer-canary"
            assert "v1a," in call.headers["webhook-signature"]
            shown = (await api.get(ROOT)).text + (await api.get(f"{ROOT}/ops")).text + json.dumps(callback)
            kept = str(await api.redis.hgetall(KEYS.named("endpoints")))
            for canary in (made["secret"], made["secret"].removeprefix("whsec_"), "bearer-canary", "whsk_"):
                assert canary not in shown + kept

    tell(story())


def test_an_app_s_own_callback_is_pinged_by_its_id(store: str, tmp_path: Path) -> None:
    """`app-42` is the endpoint that app 42's callback is."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            answer = await api.post(f"{ROOT}/app-42/ping")
            callback = await Reader(api.redis, KEYS).callback(answer.json()["callback_id"])
            assert (callback.endpoint, callback.app_id, callback.url) == ("app-42", 42, "http://127.0.0.1:9/")
            assert (await api.post(f"{ROOT}/app-43/ping")).status_code == 404

    tell(story())


def test_an_app_s_own_callback_is_signed_with_both(store: str, tmp_path: Path) -> None:
    """Old and new secret of an app's callback verify during the overlap; revoked, the new one alone. What the app signs
    with is not touched; a second rotation meanwhile is a 409.
    """

    async def story() -> None:
        peer = Peer()
        async with serving(store, tmp_path, lease=5) as api, peer.listening():
            app = (await api.post("/api/v1/apps", {"name": "partner", "callback_url": peer.url})).json()
            root, ping = "/api/v1/apps/partner", f"{ROOT}/app-{app['id']}/ping"
            answer = await api.post(f"{root}/rotate-secret", {"callback": True, "overlap": "1h"})
            assert (answer.status_code, answer.json()["secret"]) == (200, None), answer.text
            old, new = app["callback_secret"], answer.json()["callback_secret"]
            assert answer.json()["callback_overlap_until"] is not None
            assert len(answer.json()["secrets"]) == 1
            assert (await api.post(f"{root}/rotate-secret", {"callback": True})).status_code == 409
            await settled(api, (await api.post(ping)).json()["callback_id"])
            for secret in (old, new):
                Webhook(secret).verify(peer.calls[0].body, peer.calls[0].headers)
            assert (await api.post(f"{root}/revoke-secret")).status_code == 409
            revoked = await api.post(f"{root}/revoke-secret", {"callback": True})
            assert (revoked.status_code, revoked.json()["callback_overlap_until"]) == (200, None)
            await settled(api, (await api.post(ping)).json()["callback_id"])
            Webhook(new).verify(peer.calls[1].body, peer.calls[1].headers)
            with pytest.raises(WebhookVerificationError):
                Webhook(old).verify(peer.calls[1].body, peer.calls[1].headers)
            kept = str(await api.redis.hgetall(KEYS.named("apps"))) + (await api.get(root)).text
            assert new not in kept

    tell(story())


def test_a_rotation_signs_with_both_and_ends_early(store: str, tmp_path: Path) -> None:
    """Old and new secret verify during the overlap; revoked, the new one alone. A second rotation meanwhile is a 409."""

    async def story() -> None:
        peer = Peer()
        async with serving(store, tmp_path, lease=5) as api, peer.listening():
            old = (await api.post(ROOT, {"name": "ops", "url": peer.url})).json()["secret"]
            answer = await api.post(f"{ROOT}/ops/rotate-secret")
            assert answer.status_code == 200
            new, until_ = answer.json()["secret"], answer.json()["overlap_until"]
            assert new != old
            assert until_ is not None
            assert (await api.post(f"{ROOT}/ops/rotate-secret")).status_code == 409
            await settled(api, (await api.post(f"{ROOT}/ops/ping")).json()["callback_id"])
            for secret in (old, new):
                Webhook(secret).verify(peer.calls[0].body, peer.calls[0].headers)
            revoked = await api.post(f"{ROOT}/ops/revoke-secret")
            assert (revoked.status_code, len(revoked.json()["secrets"])) == (200, 1)
            await settled(api, (await api.post(f"{ROOT}/ops/ping")).json()["callback_id"])
            assert len(peer.calls[1].headers["webhook-signature"].split(" ")) == 1
            Webhook(new).verify(peer.calls[1].body, peer.calls[1].headers)
            assert (await api.post(f"{ROOT}/ops/revoke-secret")).status_code == 409
            forced = await api.post(f"{ROOT}/ops/rotate-secret", {"overlap": 0})
            assert (forced.status_code, forced.json()["overlap_until"]) == (200, None)

    tell(story())


def test_an_endpoint_is_stopped_started_and_removed(store: str, tmp_path: Path) -> None:
    """Disabled it can't be pinged; removed it is not found."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await api.post(ROOT, {"name": "ops", "url": "http://127.0.0.1:9/"})
            for word, disabled, status in (("disable", True, 409), ("enable", False, 202)):
                answer = await api.post(f"{ROOT}/ops/{word}")
                assert (answer.status_code, answer.json()["disabled"]) == (200, disabled)
                assert (await api.post(f"{ROOT}/ops/ping")).status_code == status
            assert (await api.post(ROOT, {"name": "ops", "url": "http://127.0.0.1:9/"})).status_code == 409
            assert (await api.call("DELETE", f"{ROOT}/ops")).status_code == 200
            for word in ("enable", "disable", "ping", "rotate-secret", "revoke-secret"):
                assert (await api.post(f"{ROOT}/ops/{word}")).status_code == 404

    tell(story())


def test_a_file_s_endpoint_is_only_looked_at(store: str, tmp_path: Path) -> None:
    """Each write to what gateway.yaml manages is a 409 that names the file; enabled it may be where we disabled it."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await publish(api.redis, FILE + NAMED)
            before = (await api.get(ROOT)).json()
            assert [each["managed_by"] for each in before["data"]] == ["file"]
            words = ("disable", "rotate-secret", "revoke-secret")
            answers = [await api.post(f"{ROOT}/filed/{word}") for word in words]
            answers += [await api.call("DELETE", f"{ROOT}/filed")]
            for answer in answers:
                assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
                assert "gateway.yaml" in answer.json()["detail"]
            assert (await api.get(ROOT)).json() == before
            await api.redis.hset(KEYS.health(before["data"][0]["id"]), "disabled", "gone")
            shown = (await api.get(f"{ROOT}/filed")).json()
            assert (shown["status"], shown["why"]) == ("disabled", "it answered 410 Gone")
            assert (await api.post(f"{ROOT}/filed/enable")).json()["status"] == "active"
            assert (await api.get(ROOT)).json() == before

    tell(story())


def test_what_a_workflow_names_can_t_be_removed(store: str, tmp_path: Path) -> None:
    """A workflow may be uploaded that names an endpoint there is, and then that endpoint stays; another name is a 422."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await api.post(ROOT, {"name": "ops", "url": "http://127.0.0.1:9/"})
            document = {"name": "made", "callback": {"endpoint": "ops"}, "steps": [{"id": "a", "transform": 1}]}
            assert (await api.post("/api/v1/workflows", document)).status_code == 201
            removed = await api.call("DELETE", f"{ROOT}/ops")
            assert (removed.status_code, "'made'" in removed.json()["detail"]) == (409, True)
            unknown = await api.post("/api/v1/workflows", document | {"callback": {"endpoint": "nobody"}})
            assert (unknown.status_code, "nobody" in unknown.json()["detail"]) == (422, True)
            assert (await api.call("DELETE", "/api/v1/workflows/made")).status_code == 200
            assert (await api.call("DELETE", f"{ROOT}/ops")).status_code == 200

    tell(story())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"url": "http://ops.example/"}, "https"),
        ({"url": "https://u@ops.example/"}, "user name"),
        ({"url": "https://10.0.0.1/"}, "address"),
        ({"url": "https://ops.example:22/"}, "port 22"),
        ({"url": "https://localhost/"}, "loopback"),
        ({"filter": "nobody.x"}, "filter"),
        ({"headers": {"Host": "a"}}, "headers.Host"),
        ({"headers": {"X-Team": "a\r\nX-Other: b"}}, "headers.X-Team"),
        ({"headers": {"Authorization": "Bearer a\r\nX-Other: b"}}, "headers.Authorization"),
        ({"headers": {"Authorization": ""}}, "headers.Authorization"),
        ({"name": "app-7"}, "name"),
        ({"secret": "mine"}, "secret"),
    ],
)
def test_what_can_t_be_is_refused(store: str, tmp_path: Path, body: dict[str, Any], words: str) -> None:
    """422 with the reason, also for a name that leads inside; nothing is made."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False, egress_allow="") as api:
            answer = await api.post(ROOT, {"name": "ops", "url": "https://ops.invalid/"} | body)
            assert answer.status_code == 422, answer.text
            assert words in answer.text
            assert (await api.get(ROOT)).json()["data"] == []

    tell(story())


# ---- where a single request wants its callback


def test_trigger_and_hook_say_where_the_callback_goes(store: str, tmp_path: Path) -> None:
    """With the app that allows it and signs; without one, or elsewhere, or with a token that is not good for the app,
    nothing starts.
    """

    async def story() -> None:
        peer = Peer()
        async with serving(store, tmp_path, lease=5) as api, peer.listening():
            await publish(api.redis, FILE.replace("workflows:\n", ALLOWED[1:] % peer.url, 1))
            await until(lambda: known(api))
            body = {"workflow_id": 15, "callback_url": f"{peer.url}/in/1"}
            assert (await api.post("/api/v1/trigger", body)).status_code == 422
            assert (await api.post("/api/v1/trigger", body | {"app_id": 99})).status_code in (403, 404)
            assert (await api.post("/api/v1/trigger", body | {"app_id": 42})).status_code == 422
            narrow = await api.token("runs:start@workflow:greet")
            both = await api.token("runs:start@workflow:greet", "runs:start@app:lender")
            await api.settle()
            lent = body | {"app_id": 50}
            assert (await api.post("/api/v1/trigger", lent, token=narrow)).status_code == 403
            assert (await api.post("/api/v1/trigger", lent, token=both)).status_code == 201
            await until(lambda: len(peer.calls) == 1)
            hook = (await api.post("/api/v1/hooks", {"workflow": "greet", "app": "lender"})).json()["url"]
            answer = await api.client.post(hook, params={"callback_url": f"{peer.url}/in/2"})
            assert answer.status_code == 201
            refused = await api.client.post(hook, params={"callback_url": f"{peer.url}/other"})
            assert (refused.status_code, "fits none" in refused.text) == (422, True)
            bare = (await api.post("/api/v1/hooks", {"workflow": "greet"})).json()["url"]
            assert (await api.client.post(bare, params={"callback_url": f"{peer.url}/in"})).status_code == 422
            await until(lambda: len(peer.calls) == 2)
            assert sorted(call.target for call in peer.calls) == ["/in/1", "/in/2"]

    async def known(api: Api) -> bool:
        return (await api.get("/api/v1/apps/lender")).status_code == 200

    tell(story())
