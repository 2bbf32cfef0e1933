"""Apps changed over our own API: as the commands do it, and never what a file manages."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.tools import SECRET, publish, signed, tell, until
from tests.tools_api import FILE, Api, serving

BODY = b'{"workflow_id": 15, "task": "t"}'


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTS_SECRET", SECRET)


async def knock(api: Api, app: dict[str, Any], secret: str) -> int:
    """Send a signed request as this app, and give the answer's status."""
    answer = await api.client.post(app["path"], content=BODY, headers=signed(BODY, secret))
    return answer.status_code


def test_an_app_is_added_and_sends_at_once(store: str, tmp_path: Path) -> None:
    """The new app's secrets are in the answer and nowhere else; what is signed with them is taken at once."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            answer = await api.post("/api/v1/apps", {"name": "partner", "callback_url": "http://127.0.0.1:9/told"})
            assert answer.status_code == 201
            app = answer.json()
            assert (app["name"], app["scheme"], app["managed_by"], app["disabled"]) == ("partner", "orqo", "api", False)
            assert app["callback_secret"].startswith("whsec_")
            assert (await knock(api, app, app["secret"]), await knock(api, app, SECRET)) == (200, 401)
            listed = (await api.get("/api/v1/apps")).text
            shown = await api.get("/api/v1/apps/partner")
            once = ("secret", "callback_secret")
            assert shown.json() == {name: value for name, value in app.items() if name not in once}
            kept = str(await api.redis.hgetall("gw:{0}:apps"))
            for made in (app["secret"], app["callback_secret"]):
                assert made not in listed + shown.text + kept

    tell(story())


def test_an_app_without_a_callback_has_one_secret(store: str, tmp_path: Path) -> None:
    """Without a callback's URL there is no callback secret, not even an empty one."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            app = (await api.post("/api/v1/apps", {"name": "plain", "scheme": "github", "direct": False})).json()
            assert "callback_secret" not in app
            assert (app["scheme"], app["adapter"], app["callback_url"]) == ("github", None, None)

    tell(story())


def test_a_rotation_takes_both_secrets_for_the_overlap(store: str, tmp_path: Path) -> None:
    """After one rotation old and new secret are taken, and the app shows until when; another one has to be forced; the
    older one is revoked early, or ends by the clock alone.
    """

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            app = (await api.post("/api/v1/apps", {"name": "partner"})).json()
            secrets = [app["secret"]]
            for body in (None, {"force": True, "overlap": "2h"}):
                rotated = await api.post("/api/v1/apps/partner/rotate-secret", body)
                assert rotated.status_code == 200, rotated.text
                secrets.append(rotated.json()["secret"])
                refused = await api.post("/api/v1/apps/partner/rotate-secret")
                assert (refused.status_code, "two live secrets" in refused.json()["detail"]) == (409, True)
            assert len(set(secrets)) == 3
            assert [await knock(api, app, each) for each in secrets] == [401, 200, 200]
            newest, older = (await api.get("/api/v1/apps/partner")).json()["secret_uses"]
            seconds = datetime.fromisoformat(older["expires_at"]).timestamp() - time.time()
            assert (newest["expires_at"], 7000 < seconds <= 7200) == (None, True)
            assert (await api.post("/api/v1/apps/partner/revoke-secret")).status_code == 200
            assert [await knock(api, app, each) for each in secrets] == [401, 401, 200]
            assert (await api.post("/api/v1/apps/partner/revoke-secret")).status_code == 409
            brief = (await api.post("/api/v1/apps/partner/rotate-secret", {"overlap": 1})).json()["secret"]

            async def over() -> bool:
                return await knock(api, app, secrets[-1]) == 401

            await until(over)
            assert await knock(api, app, brief) == 200
            for body in ({"overlap": -1}, {"overlap": "31d"}, {"overlap": "soon"}, {"overlap": True}, {"more": 1}):
                assert (await api.post("/api/v1/apps/partner/rotate-secret", body)).status_code == 422, body

    tell(story())


def test_an_app_is_stopped_started_and_removed(store: str, tmp_path: Path) -> None:
    """A disabled app gets 403, an enabled one 200, a removed one 404, and is not found by any route."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            app = (await api.post("/api/v1/apps", {"name": "partner"})).json()
            one = f"/api/v1/apps/{app['id']}"
            for action, disabled, status in (("disable", True, 403), ("enable", False, 200)):
                done = await api.post(f"{one}/{action}")
                assert (done.status_code, done.json()["disabled"]) == (200, disabled)
                assert await knock(api, app, app["secret"]) == status
            gone = await api.call("DELETE", "/api/v1/apps/partner")
            assert (gone.status_code, gone.json()["id"]) == (200, app["id"])
            assert await knock(api, app, app["secret"]) == 404
            assert (await api.get(one)).status_code == 404
            for action in ("disable", "enable", "rotate-secret"):
                assert (await api.post(f"{one}/{action}")).status_code == 404

    tell(story())


def test_what_a_file_manages_is_not_changed(store: str, tmp_path: Path) -> None:
    """Each write to an app of gateway.yaml is a 409 that names the file, and changes nothing."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            before = (await api.get("/api/v1/apps")).json()
            answers = [await api.post(f"/api/v1/apps/ci/{word}") for word in ("disable", "enable", "rotate-secret")]
            answers += [await api.call("DELETE", "/api/v1/apps/42"), await api.post("/api/v1/apps", {"name": "ci"})]
            for answer in answers:
                assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
                assert "gateway.yaml" in answer.json()["detail"]
            assert (await api.get("/api/v1/apps")).json() == before

    tell(story())


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({}, 422, "name"),
        ({"name": ""}, 422, "name"),
        ({"name": "77"}, 422, "name"),
        ({"name": "a\nb"}, 422, "name"),
        ({"name": "a", "scheme": "orko"}, 422, "scheme"),
        ({"name": "a", "callback_url": "http://10.0.0.1/"}, 422, "callback_url"),
        ({"name": "a", "callback_url": "ftp://example.com/"}, 422, "callback_url"),
        ({"name": "a", "secret": "mine"}, 422, "secret"),
        ([], 422, "object"),
    ],
)
def test_what_is_no_app_is_refused(store: str, tmp_path: Path, body: Any, status: int, word: str) -> None:
    """An app that could not work is refused with the field that is wrong, and is not there afterwards."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            answer = await api.post("/api/v1/apps", body)
            assert (answer.status_code, word in answer.json()["detail"]) == (status, True), answer.text
            assert [each["id"] for each in (await api.get("/api/v1/apps")).json()["data"]] == [42]

    tell(story())


def test_an_app_needs_a_key_to_keep_its_secret_under(store: str, tmp_path: Path) -> None:
    """Without a master key no app is made: the answer says what to set."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False, master_keys="") as api:
            answer = await api.post("/api/v1/apps", {"name": "partner"})
            assert (answer.status_code, answer.json()["code"]) == (422, "config")
            assert "GATEWAY_MASTER_KEYS" in answer.json()["detail"]

    tell(story())


def test_an_apps_balance_is_shown(store: str, tmp_path: Path) -> None:
    """An app with credits shows what is left of them and when there are more; one without shows none."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False, step_costs="transform=2") as api:
            await publish(
                api.redis, FILE.replace("    name: ci\n", "    name: ci\n    credits: {amount: 10, every: 1d}\n")
            )
            await api.post("/api/v1/apps", {"name": "free"})
            fresh = (await api.get("/api/v1/apps/ci")).json()["credits"]
            assert fresh == {"left": 10, "amount": 10, "refill_at": None}
            sent = await api.client.post("/api/v1/webhooks/42", content=BODY, headers=signed(BODY))
            assert sent.status_code == 200, sent.text
            listed = {each["name"]: each["credits"] for each in (await api.get("/api/v1/apps")).json()["data"]}
            assert listed["free"] is None
            assert (listed["ci"]["left"], listed["ci"]["amount"]) == (8, 10)
            assert listed["ci"]["refill_at"] > (await api.get("/api/v1/runs/1")).json()["created_at"]
            assert json.dumps(listed["ci"]) == json.dumps((await api.get("/api/v1/apps/ci")).json()["credits"])

    tell(story())
