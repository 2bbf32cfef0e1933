"""Workflows uploaded, compared, rolled back and removed over HTTP, on a real receiver, worker and Valkey."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.configuration import read_draft
from gateway.store.catalog import Catalog
from gateway.workflows import digest_of
from tests.tools import KEYS, connected, ended, publish, tell
from tests.tools_api import Api, serving

WRITE = ("workflows:write", "workflows:read")
CODED = {"name": "coded", "steps": [{"id": "who", "python": "os:getpid"}]}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTS_SECRET", "a secret of the tests")


def flow(value: object, name: str = "sent", **fields: Any) -> dict[str, Any]:
    return {"name": name, "steps": [{"id": "only", "transform": value}]} | fields


async def upload(api: Api, document: Any, status: int = 201, *, token: str | None = None, **query: str) -> Any:
    answer = await api.call("POST", "/api/v1/workflows", token=token, json=document, params=query)
    assert answer.status_code == status, answer.text
    return answer.json()


async def numbers(api: Api, name: str = "sent") -> list[tuple[int, str | None]]:
    """The versions' numbers and labels."""
    answer = await api.get(f"/api/v1/workflows/{name}/versions")
    assert answer.status_code == 200, answer.text
    return [(each["number"], each["label"]) for each in answer.json()["data"]]


async def output_of(api: Api, name: str = "sent") -> Any:
    answer = await api.post("/api/v1/runs?wait=20", {"workflow": name})
    assert answer.status_code == 201, answer.text
    return answer.json()["output"]


# ---- uploading


def test_upload_is_a_version_and_runs_at_once(store: str, tmp_path: Path) -> None:
    """A new text is 201 and the next number, the same text 200 and the same number; new runs start with it."""

    async def story() -> None:
        async with serving(store, tmp_path) as api:
            first = await upload(api, flow("one", description="d"))
            assert (first["version"], first["label"], first["managed_by"]) == (1, None, "api")
            assert first["published_at"].startswith("20")
            assert await upload(api, flow("one", description="d"), 200) == first
            assert await output_of(api) == "one"
            second = await upload(api, flow("two"), label="v2")
            assert (second["version"], second["label"], second["workflow_id"]) == (2, "v2", first["workflow_id"])
            assert await output_of(api) == "two"
            assert await numbers(api) == [(1, None), (2, "v2")]

    tell(story())


def test_a_json_file_is_uploaded_with_curl(store: str, tmp_path: Path) -> None:
    """One line of curl publishes a file under a label."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            file = tmp_path / "sent.json"
            file.write_bytes(msgspec.json.encode(flow(1)))
            url = f"http://127.0.0.1:{api.port}/api/v1/workflows?label=v1.0"
            argv = ["curl", "-sS", url, "-H", f"Authorization: Bearer {api.admin}", "--data-binary", f"@{file}"]
            done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, check=True)
            assert msgspec.json.decode(done.stdout)["label"] == "v1.0"

    tell(story())


def test_two_who_upload_at_once_both_get_a_version(store: str, tmp_path: Path) -> None:
    """Eight texts uploaded in the same moment, through two receivers, are eight versions, each with its text."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as one, serving(store, tmp_path, worker=False) as other:
            made = await asyncio.gather(*(upload((one, other)[each % 2], flow(each)) for each in range(8)))
            assert sorted(each["version"] for each in made) == list(range(1, 9))
            assert len({each["workflow_id"] for each in made}) == 1
            for value, document in enumerate(made):
                version = await one.get(f"/api/v1/workflows/sent/versions/{document['version']}")
                assert version.json()["definition"] == flow(value)
            # The one with the highest number is what is published.
            assert (await Catalog(one.redis, KEYS).read()).workflows["sent"].version == 8

    tell(story())


def test_labels_name_one_version(store: str, tmp_path: Path) -> None:
    """A label is given later, or changed, by uploading the same text; one that names another version is a 409."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await upload(api, flow(1), label="first")
            await upload(api, flow(2))
            assert (await upload(api, flow(2), 200, label="second"))["label"] == "second"
            assert (await upload(api, flow(2), 200))["label"] == "second"
            assert await numbers(api) == [(1, "first"), (2, "second")]
            problem = await upload(api, flow(3), 409, label="first")
            assert "version 1" in problem["detail"]
            for label in ("12", "a/b", " a"):
                assert "label" in (await upload(api, flow(3), 422, label=label))["detail"]
            for label in ("", "x" * 101):
                await upload(api, flow(3), 400, label=label)
            assert await numbers(api) == [(1, "first"), (2, "second")]

    tell(story())


BROKEN: dict[str, tuple[Any, list[str]]] = {
    "nothing": ({}, [""]),
    "a name of digits": (flow(1, "123"), ["name"]),
    "no text for a name": ({"name": 7}, ["name"]),
    "steps that are none": ({"name": "sent", "steps": {}}, ["steps"]),
    "two mistakes": (
        {"name": "sent", "steps": [{"id": "a", "transfrom": 1}, {"id": "b", "transform": 1, "timeout": "soon"}]},
        ["steps[0].transfrom", "steps[1].timeout"],
    ),
    "an unknown need": (
        {"name": "sent", "steps": [{"id": "a", "transform": 1, "needs": ["b"]}]},
        ["steps[0].needs[0]"],
    ),
    "a circle": ({"name": "sent", "steps": [{"id": "a", "transform": 1, "needs": ["a"]}]}, ["steps"]),
    "a bad expression": (flow("${nobody.x}"), ["steps[0].transform"]),
    "a bad schema": (flow(1, input={"type": "objekt"}), ["input"]),
    "managed_by": (flow(1, managed_by="file"), ["managed_by"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_definition_that_can_not_be_used_is_a_422_with_paths(store: str, tmp_path: Path, case: str) -> None:
    """Each mistake has its path and its message, and nothing is published."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            document, paths = BROKEN[case]
            problem = await upload(api, document, 422)
            assert [each["path"] for each in problem["errors"]] == paths
            assert all(each["message"] in problem["detail"] for each in problem["errors"])
            assert (await api.get("/api/v1/workflows/sent")).status_code == 404

    tell(story())


@pytest.mark.parametrize("depth", [50, 190, 250, 20_000])
def test_a_deep_definition_is_no_trouble(store: str, tmp_path: Path, depth: int) -> None:
    """However deep a definition is nested, it is taken or refused, and what was taken can be shown and compared."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            body = b'{"name": "sent", "steps": [], "input": {"const": %s1%s}}' % (b"[" * depth, b"]" * depth)
            answer = await api.call("POST", "/api/v1/workflows", content=body)
            assert answer.status_code in (201, 400, 422), answer.text
            assert (answer.status_code == 201) == (depth < 200)
            if answer.status_code == 201:
                await upload(api, flow(1))
                assert (await api.get("/api/v1/workflows/sent/diff")).status_code == 200

    tell(story())


# ---- who may


def test_code_is_for_admins_and_trusted_workflows(store: str, tmp_path: Path) -> None:
    """A python step is refused with the reason, but for an admin, or where the operator trusts the workflow."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False, trusted_workflows="trusted, other") as api:
            writer = await api.token(*WRITE)
            await api.settle()
            problem = await upload(api, CODED, 403, token=writer)
            assert (problem["code"], "steps[0].python" in problem["detail"]) == ("forbidden", True)
            assert (await api.get("/api/v1/workflows/coded")).status_code == 404
            await upload(api, CODED | {"name": "trusted"}, 201, token=writer)
            await upload(api, CODED)
            await upload(api, flow(1, "coded"), 201, token=writer)
            back = await api.post("/api/v1/workflows/coded/rollback", {"version": 1}, token=writer)
            assert (back.status_code, "os:getpid" in back.json()["detail"]) == (403, True)
            assert (await api.post("/api/v1/workflows/coded/rollback", {"version": 1})).json()["version"] == 3

    tell(story())


def test_what_starts_by_itself_takes_the_right_to_start_and_to_read(store: str, tmp_path: Path) -> None:
    """A schedule takes `runs:start` here; `on` also `runs:read` of the workflow whose ends it would be told."""
    timed = {"schedule": "0 9 * * *"}
    heard = {"on": [{"workflow": "hidden", "input": "${event.body.output}"}]}

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            writer = await api.token("workflows:write")
            starter = await api.token("workflows:write", "runs:start", "runs:read@workflow:greet")
            reader = await api.token("workflows:write", "runs:start", "runs:read@workflow:hidden")
            await api.settle()
            await upload(api, flow(1, **timed), 403, token=writer)
            await upload(api, flow(1, **timed), 201, token=starter)
            await upload(api, flow(1, **heard), 403, token=starter)
            await upload(api, flow(1, on=[{"workflow": 16}]), 403, token=starter)
            await upload(api, flow(1, **heard), 201, token=reader)
            shown = (await api.get("/api/v1/workflows/sent")).json()
            assert (shown["definition"]["on"], shown["schedules"]) == (heard["on"], [])

    tell(story())


def test_a_narrowed_token_writes_its_workflow_and_no_other(store: str, tmp_path: Path) -> None:
    """By name it may make and change that one; by id only change the one that has it; it can't take an id for itself."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            by_name = await api.token("workflows:write@workflow:sent")
            by_id = await api.token("workflows:write@workflow:19")
            await api.settle()
            await upload(api, flow(1, "other", id=19), 403, token=by_id)
            await upload(api, flow(1, id=19), 201, token=by_name)
            await upload(api, flow(2, id=19), 201, token=by_id)
            for document in (flow(1, "other"), {"steps": []}, {"name": ["sent"]}):
                await upload(api, document, 403, token=by_name)
            await upload(api, flow(1, "other"))
            problem = await upload(api, flow(3, id=20), 409, token=by_name)
            assert "other" in problem["detail"]
            answer = await api.call("DELETE", "/api/v1/workflows/other", token=by_name)
            assert answer.status_code == 403
            answer = await api.call("DELETE", "/api/v1/workflows/19", token=by_name)
            assert answer.status_code == 200

    tell(story())


def test_what_a_file_manages_is_not_written(store: str, tmp_path: Path) -> None:
    """Upload, rollback and removal of a workflow of gateway.yaml are 409, say so, and change nothing."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            before = (await api.get("/api/v1/workflows/greet")).json()
            answers = [
                await api.post("/api/v1/workflows", flow(1, "greet")),
                await api.post("/api/v1/workflows/greet/rollback", {"version": 1}),
                await api.call("DELETE", "/api/v1/workflows/greet"),
            ]
            for answer in answers:
                assert answer.status_code == 409, answer.text
                assert "managed by gateway.yaml" in answer.json()["detail"]
            assert (await api.get("/api/v1/workflows/greet")).json() == before

    tell(story())


# ---- versions


def test_versions_are_shown_and_compared(store: str, tmp_path: Path) -> None:
    """A version is found by number and by label; a diff says place by place what changed, and as a patch."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await upload(api, flow(1), label="v1")
            await upload(api, flow(2, description="new"))
            base = "/api/v1/workflows/sent"
            by_label = (await api.get(f"{base}/versions/v1")).json()
            assert by_label == (await api.get(f"{base}/versions/1")).json()
            assert (by_label["definition"], by_label["digest"]) == (flow(1), digest_of(flow(1)))
            found = (await api.get(f"{base}/diff")).json()
            assert (found["before"]["label"], found["after"]["number"]) == ("v1", 2)
            assert found["changes"] == [
                {"path": "steps[only].transform", "before": 1, "after": 2},
                {"path": "description", "after": "new"},
            ]
            assert "-  transform: 1\n+  transform: 2\n" in found["diff"]
            back = (await api.get(f"{base}/diff?from=2&to=v1")).json()
            assert [each["path"] for each in back["changes"]] == ["steps[only].transform", "description"]
            same = (await api.get(f"{base}/diff?from=2")).json()
            assert (same["changes"], same["diff"]) == ([], "")
            for path in ("versions/3", "versions/v2", "versions/0", "diff?from=3", "diff?to=v3", "diff?to=1"):
                answer = await api.get(f"{base}/{path}")
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
            for path in ("versions", "versions/1", "diff"):
                assert (await api.get(f"/api/v1/workflows/nobody/{path}")).status_code == 404

    tell(story())


def test_rollback_publishes_the_old_text_again(store: str, tmp_path: Path) -> None:
    """It is the next number with the old digest, and new runs start with it; asked again, nothing changes."""

    async def story() -> None:
        async with serving(store, tmp_path) as api:
            first = await upload(api, flow("one"), label="good")
            await upload(api, flow("two"))
            waiting = await api.start("slow")
            for wanted in ("good", 1, "1"):
                back = await api.post("/api/v1/workflows/sent/rollback", {"version": wanted})
                assert back.status_code == 200, back.text
                assert (back.json()["version"], back.json()["digest"]) == (3, first["digest"])
            assert await numbers(api) == [(1, "good"), (2, None), (3, None)]
            assert await output_of(api) == "one"
            for body, status in (({"version": 9}, 404), ({"version": 0}, 422), ({}, 422), ({"version": None}, 422)):
                answer = await api.post("/api/v1/workflows/sent/rollback", body)
                assert answer.status_code == status, answer.text
            await api.post(f"/api/v1/runs/{waiting}/cancel")

    tell(story())


def test_runs_keep_the_version_they_began_with(store: str, tmp_path: Path) -> None:
    """A run that waits while its workflow is changed, and removed, ends with the text it was started with."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            await upload(api, flow("old"))
            run_id = await api.start("sent")
            await upload(api, flow("new"))
            assert (await api.call("DELETE", "/api/v1/workflows/sent")).json()["version"] == 2
            assert (await api.post("/api/v1/runs", {"workflow": "sent"})).status_code == 404
            async with serving(store, tmp_path):
                assert (await ended(api.redis, run_id)).output == "old"
            assert (await api.get(f"/api/v1/runs/{run_id}")).json()["steps"][0]["kind"] == "transform"

    tell(story())


def test_a_removed_workflow_comes_back_under_the_next_version(store: str, tmp_path: Path) -> None:
    """Removing twice is a 404; uploaded again, versions count on, and no other workflow gets its id."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            made = await upload(api, flow(1))
            assert (await api.call("DELETE", "/api/v1/workflows/sent")).status_code == 200
            for path in ("", "/versions", "/versions/1", "/diff"):
                assert (await api.get(f"/api/v1/workflows/sent{path}")).status_code == 404
            assert (await api.call("DELETE", "/api/v1/workflows/sent")).status_code == 404
            other = await upload(api, flow(1, "other"))
            assert other["workflow_id"] > made["workflow_id"]
            assert (await upload(api, flow(2)))["version"] == 2
            assert await numbers(api) == [(1, None), (2, None)]

    tell(story())


def test_what_was_kept_before_versions_had_labels_is_read(store: str) -> None:
    """A store that holds digests alone is read, shown and written on."""

    async def story() -> None:
        async with connected(store) as redis:
            catalog = Catalog(redis, KEYS)
            await publish(redis, "workflows:\n  - {name: old, steps: [{id: s, transform: 1}]}\n")
            digest = (await catalog.read()).workflows["old"].digest
            await redis.hset(KEYS.versions("old"), "1", digest)
            assert await catalog.version("old", 1) == digest
            assert await catalog.number("old", digest) == 1
            await publish(redis, "workflows:\n  - {name: old, steps: [{id: s, transform: 2}]}\n")
            versions = [(each.number, each.label, each.published_at) for each in await catalog.versions("old")]
            assert versions == [(1, None, 0), (2, None, 0)]

    tell(story())


def test_several_are_published_together_or_not_at_all(store: str) -> None:
    """When one of a file's workflows is refused, none of them is published."""

    async def story() -> None:
        async with connected(store) as redis:
            catalog = Catalog(redis, KEYS)
            await publish(redis, "workflows:\n  - {name: filed, id: 5}\n")
            drafts = [read_draft(flow(1, "a")), read_draft(flow(1, "b"))]
            with pytest.raises(Exception, match="filed"):
                await catalog.publish([*drafts, read_draft(flow(1, "c", id=5))])
            assert list((await catalog.read()).workflows) == ["filed"]
            made = await catalog.publish(drafts, at=1_700_000_000_000)
            assert [(each.published.id, each.published.version, each.is_new) for each in made] == [
                (6, 1, True),
                (7, 1, True),
            ]

    tell(story())
