"""Our own API, over HTTP, on a real receiver, worker and Valkey."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.web.api_runs import read_time
from tests.tools import PATIENCE, signed, tell, until
from tests.tools_api import Api, serving


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTS_SECRET", "a secret of the tests")


async def walk(api: Api, path: str, **query: Any) -> list[Any]:
    """All of a list, page by page."""
    found: list[Any] = []
    cursor: str | None = None
    while True:
        answer = await api.get(path, params=query | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def test_started_run_is_shown_whole_when_it_has_ended(store: str, tmp_path: Path) -> None:
    """A start with `wait` answers 201 with the ended run, its output, steps and kinds, and GET gives the same."""

    async def story() -> None:
        async with serving(store, tmp_path) as api:
            answer = await api.post("/api/v1/runs?wait=20", {"workflow": 15, "input": {"name": "Ada"}, "task": "t"})
            assert answer.status_code == 201
            run = answer.json()
            assert (run["status"], run["output"], run["task"]) == ("completed", "Hello, Ada!", "t")
            assert [(step["id"], step["kind"], step["status"]) for step in run["steps"]] == [
                ("greeting", "transform", "completed")
            ]
            assert run["callbacks"] == []
            assert (await api.get(f"/api/v1/runs/{run['run_id']}")).json() == run
            steps = await api.get(f"/api/v1/runs/{run['run_id']}/steps")
            assert steps.json() == {"data": run["steps"], "next_cursor": None}

    tell(story())


def test_orqo_trigger_waits_too(store: str, tmp_path: Path) -> None:
    """`?wait=` on ORQO's trigger holds its answer until the run has ended; without, the run is pending."""

    async def story() -> None:
        async with serving(store, tmp_path) as api:
            ended = (await api.post("/api/v1/trigger?wait=20", {"workflow_id": 15, "input": {}})).json()
            assert (ended["status"], ended["output"]) == ("completed", "Hello, you!")
            begun = (await api.post("/api/v1/trigger", {"workflow_id": 15, "input": {}})).json()
            assert begun["status"] == "pending"
            assert "output" not in begun

    tell(story())


def test_wait_gives_the_run_as_it_is_when_the_time_is_up(store: str, tmp_path: Path) -> None:
    """GET with `wait` on a run that goes on answers 200 after that time with the run as it is."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            run_id = await api.start()
            began = time.monotonic()
            answer = await api.get(f"/api/v1/runs/{run_id}?wait=0.3")
            assert answer.json()["status"] == "pending"
            assert 0.3 <= time.monotonic() - began < PATIENCE
            steps = (await api.get(f"/api/v1/runs/{run_id}/steps")).json()["data"]
            assert [(step["id"], step["status"]) for step in steps] == [("greeting", "pending")]

    tell(story())


def test_same_key_gives_the_same_run(store: str, tmp_path: Path) -> None:
    """An Idempotency-Key that comes again answers with the same run; with another body it is a 409 problem."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            key = {"idempotency-key": "k1"}
            first = await api.post("/api/v1/runs", {"workflow": "greet"}, headers=key)
            again = await api.post("/api/v1/runs", {"workflow": "greet"}, headers=key)
            other = await api.post("/api/v1/runs", {"workflow": "hidden"}, headers=key)
            assert first.json()["run_id"] == again.json()["run_id"]
            assert other.status_code == 409
            assert other.headers["content-type"] == "application/problem+json"
            assert other.json()["code"] == "conflict"

    tell(story())


def test_cancel_ends_a_run_once(store: str, tmp_path: Path) -> None:
    """Cancelling answers with the cancelled run; cancelling again is a 409."""

    async def story() -> None:
        async with serving(store, tmp_path) as api:
            run_id = await api.start("slow")
            answer = await api.post(f"/api/v1/runs/{run_id}/cancel")
            assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
            assert "admin" in answer.json()["error"]["message"]
            assert (await api.post(f"/api/v1/runs/{run_id}/cancel")).status_code == 409

    tell(story())


def test_pages_hold_every_run_once_while_new_ones_arrive(store: str, tmp_path: Path) -> None:
    """Walking the pages gives each run that was there exactly once, newest first, however many arrive meanwhile."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            before = [await api.start() for _ in range(23)]
            found: list[int] = []
            cursor = None
            while True:
                page = (
                    await api.get("/api/v1/runs", params={"limit": 5} | ({"cursor": cursor} if cursor else {}))
                ).json()
                found += [run["run_id"] for run in page["data"]]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
                await api.start()
            assert found == sorted(before, reverse=True)

    tell(story())


def test_lists_are_filtered(store: str, tmp_path: Path) -> None:
    """Runs are found by workflow, status, app, time and any number of metadata values."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            red = await api.start("greet", metadata={"color": "red", "n": 1})
            blue = await api.start("greet", metadata={"color": "blue", "n": 1})
            other = await api.start("hidden")
            body = b'{"workflow_id": 15, "task": "t"}'
            hook = await api.client.post("/api/v1/webhooks/42", content=body, headers=signed(body))
            sent = hook.json()["run_id"]

            async def ids(**query: Any) -> list[int]:
                return [run["run_id"] for run in await walk(api, "/api/v1/runs", **query)]

            assert await ids() == [sent, other, blue, red]
            assert await ids(workflow="greet") == await ids(workflow="15") == [sent, blue, red]
            assert await ids(app=42) == [sent]
            assert await ids(status="completed") == []
            assert await ids(**{"metadata.color": "red", "metadata.n": "1"}) == [red]
            assert await ids(**{"metadata.n": "1"}) == [blue, red]
            created = (await api.get(f"/api/v1/runs/{other}")).json()["created_at"]
            assert red not in await ids(since=created) or red in await ids(until=created)
            assert await ids(since=time.time() + 60) == await ids(until="2020-01-01T00:00:00Z") == []
            for query in ({"limit": 0}, {"limit": 201}, {"since": "soon"}, {"cursor": "x"}, {"state": "x"}):
                answer = await api.get("/api/v1/runs", params=query)
                assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), query
            assert (await api.get("/api/v1/runs?limit=1&limit=2")).status_code == 400
            for wait in ("nan", "inf", "-1", "301", "x"):
                assert (await api.get(f"/api/v1/runs/{red}?wait={wait}")).status_code == 400, wait

    tell(story())


def test_event_shows_its_bytes_and_what_it_started(store: str, tmp_path: Path) -> None:
    """An event is shown with its decision, runs and body; the list walks by cursor, one at a time."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            body = b'{"workflow_id": 15, "task": "t"}'
            sent = []
            for number in range(3):
                headers = signed(body, idempotency_key=f"k{number}")
                sent.append(
                    (await api.client.post("/api/v1/webhooks/42", content=body, headers=headers)).json()["run_id"]
                )
            events = await walk(api, "/api/v1/events", limit=1)
            assert [event["run_ids"] for event in events] == [[run] for run in reversed(sent)]
            whole = (await api.get(f"/api/v1/events/{events[0]['event_id']}")).json()
            assert (whole["body"], whole["body_base64"], whole["app_id"]) == (body.decode(), None, 42)
            assert whole["decision"]["outcome"] == "accepted"
            assert (await api.get("/api/v1/events/evt_0")).status_code == 404
            assert (await api.get("/api/v1/events?cursor=evt_0")).status_code == 404

    tell(story())


def test_body_that_is_no_text_is_shown_as_base64() -> None:
    """An event's bytes that are no UTF-8 come as `body_base64`, and `body` is null."""
    from gateway.event_documents import describe_whole_event
    from gateway.events import Decision, Head

    whole = describe_whole_event("evt_1", Head(decision=Decision(outcome="accepted")), 0, [], b"\xff\x00")
    assert whole.body is None
    assert base64.b64decode(whole.body_base64 or "") == b"\xff\x00"


def test_workflows_and_apps_are_shown(store: str, tmp_path: Path) -> None:
    """Workflows come with definition and versions, apps with where their secrets are, never with what they are."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            listed = (await api.get("/api/v1/workflows")).json()["data"]
            assert [each["name"] for each in listed] == ["greet", "hidden", "slow", "steps"]
            by_name = (await api.get("/api/v1/workflows/greet")).json()
            assert by_name == (await api.get("/api/v1/workflows/15")).json()
            assert by_name["definition"]["steps"][0]["id"] == "greeting"
            assert [(each["number"], each["digest"]) for each in by_name["versions"]] == [(1, by_name["digest"])]
            assert by_name["schedules"] == []
            apps = await api.get("/api/v1/apps")
            assert [each["name"] for each in apps.json()["data"]] == ["ci"]
            assert (await api.get("/api/v1/apps/42")).json() == (await api.get("/api/v1/apps/ci")).json()
            assert "a secret of the tests" not in apps.text
            assert (await api.get("/api/v1/apps/43")).status_code == 404

    tell(story())


def test_new_token_works_at_once_and_revoked_one_ends_at_once(store: str, tmp_path: Path) -> None:
    """A token is shown once, works on the next call, and is refused within a second of its revocation."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            made = await api.post("/api/v1/tokens", {"name": "n", "scopes": ["runs:read"], "days": 1})
            assert made.status_code == 201
            text = made.json()["token"]
            assert (await api.get("/api/v1/runs", token=text)).status_code == 200
            assert text not in (await api.get("/api/v1/tokens")).text
            revoked = await api.call("DELETE", f"/api/v1/tokens/{made.json()['id']}")
            assert (revoked.status_code, revoked.json()["status"]) == (200, "revoked")
            assert (await api.get("/api/v1/runs", token=text)).status_code == 401
            assert (await api.call("DELETE", "/api/v1/tokens/unknown")).status_code == 404
            for body in ({"name": ""}, {"name": "n", "scopes": ["all"]}, {"name": "n", "scopes": []}, {"nam": "n"}):
                assert (await api.post("/api/v1/tokens", body)).status_code == 422, body

    tell(story())


def test_revocation_reaches_another_receiver_within_a_second(store: str, tmp_path: Path) -> None:
    """A token that one receiver revokes is refused by another within a second."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as one, serving(store, tmp_path, worker=False) as other:
            made = (await one.post("/api/v1/tokens", {"name": "n", "scopes": ["runs:read"]})).json()

            async def accepted() -> bool:
                return (await other.get("/api/v1/runs", token=made["token"])).status_code == 200

            await until(accepted)
            await one.call("DELETE", f"/api/v1/tokens/{made['id']}")

            async def refused() -> bool:
                return not await accepted()

            await until(refused, patience=1)

    tell(story())


def test_unknown_paths_and_methods_are_problems(store: str, tmp_path: Path) -> None:
    """A path that is not there is a 404 problem, a method that a path does not take a 405 with Allow."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            for path in (
                "/api/v1/nothing",
                "/api/v1/runs/",
                "/api/v1/runs/x",
                "/api/v1/runs/0",
                "/api/v1/runs/1/",
                "/x",
            ):
                answer = await api.get(path)
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
                assert answer.headers["content-type"] == "application/problem+json"
            answer = await api.call("PUT", "/api/v1/runs")
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")

    tell(story())


def test_store_that_is_away_is_a_503(tmp_path: Path, own_valkey: Any) -> None:
    """When the store does not answer, reading is a 503 with Retry-After, not a 500."""

    async def story() -> None:
        async with serving(own_valkey.url, tmp_path, worker=False) as api:
            await asyncio.to_thread(own_valkey.stop)
            answer = await api.get("/api/v1/runs/1")
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"]
            await asyncio.to_thread(own_valkey.start)

    tell(story())


@given(st.datetimes(timezones=st.timezones()))
def test_times_are_read_as_they_are_written(moment: Any) -> None:
    """Every ISO 8601 time with a zone gives its milliseconds, with its plus escaped or not."""
    expected = moment.timestamp() * 1000
    for text in (moment.isoformat(), moment.isoformat().replace("+", " ")):
        assert abs(read_time("since", text) - expected) <= 1


@given(st.text(max_size=40))
def test_what_is_no_time_is_refused(text: str) -> None:
    """Any text is either a time or a BadRequest that names the parameter."""
    try:
        read: object = read_time("since", text)
    except BadRequest as error:
        read = error.message
    assert isinstance(read, int) or str(read).startswith("since: ")
