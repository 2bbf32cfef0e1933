"""The document and its reader, served; and the server held to the document by generated requests."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
import schemathesis.openapi
from hypothesis import strategies
from schemathesis.checks import CHECKS
from starlette.routing import Route

from gateway.asgi import create_app
from gateway.web.openapi import PARAMETER
from tests.tools import settings_for, tell
from tests.tools_api import Api, serving

SKIPPED = {"/docs/{file}"}
EXAMPLES = 12
BEYOND_SCHEMAS = {
    "POST /api/v1/workflows",
    "POST /api/v1/workflows/{name}/rollback",
    "POST /api/v1/workflow/workflows",
    "POST /api/executeWorkflow",
    "POST /api/executeWorkflowBackground",
    "POST /api/v1/apps",
    "POST /api/v1/events/replay",
    "POST /api/v1/endpoints",
    "POST /api/v1/trigger",
    "POST /api/v1/callbacks/redeliver",
    "POST /api/v1/endpoints/{endpoint}/recover",
    "POST /api/v1/apps/{app}/rotate-secret",
}
"""Where 400 or 422 is right for what a JSON Schema can't tell: no definition or graph, 1.0, a version that isn't there, a
callback's URL that leads inside, or that no app allows, a time that is too long.
"""
NEIGHBOURS = {"GET /api/v1/hooks/{token}", "DELETE /api/v1/hooks/{token}"}
"""Where a parameter that is none leads next door, to another dialect and its shape of an error."""
FOUND = {
    "workflow_id": "greet",
    "run_id": "1",
    "execution_id": "exec_1",
    "name": "greet",
    "number": "1",
    "app": "ci",
}
"""What the path's parameters may be, so that not everything is a 404."""


def test_every_route_is_in_the_document(store: str, tmp_path: Path) -> None:
    """Whatever is mounted is described, and whatever is described is mounted."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            document = (await api.get("/openapi.json")).json()
            app = create_app(settings_for(store, tmp_path))
            mounted = {route.path for route in app.routes if isinstance(route, Route) and ":path}" not in route.path}
            assert {PARAMETER.sub(r"{\1}", path) for path in mounted} - SKIPPED == set(document["paths"])

    tell(story())


def test_reader_comes_from_here_alone(store: str, tmp_path: Path) -> None:
    """Swagger UI's page loads only files that this server gives, each under the strict policy."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            page = await api.client.get("/docs")
            assert page.status_code == 200
            files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
            assert len(files) == 4
            for name in files:
                file = await api.client.get("/" + name)
                assert file.status_code == 200, name
                assert file.headers["x-content-type-options"] == "nosniff"
                assert "default-src 'none'" in file.headers["content-security-policy"]
            for name in ("nothing.js", "..%2f..%2fpyproject.toml", "swagger-ui-bundle.js.map"):
                assert (await api.client.get(f"/docs/{name}")).status_code == 404

    tell(story())


def test_samples_run_as_they_are_pasted(store: str, tmp_path: Path) -> None:
    """The curl and Python samples of listing runs give what the API gives."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            document = (await api.get("/openapi.json")).json()
            shell, python, _ = document["paths"]["/api/v1/runs"]["get"]["x-codeSamples"]
            here = f"127.0.0.1:{api.port}"
            for argv in (["sh", "-c", shell["source"]], [sys.executable, "-c", python["source"]]):
                argv[-1] = argv[-1].replace("127.0.0.1:8080", here)
                environ = os.environ | {"GATEWAY_TOKEN": api.admin}
                done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, env=environ)
                assert done.returncode == 0, done.stderr
                assert "next_cursor" in done.stdout

    tell(story())


@contextmanager
def background(store: str, folder: Path) -> Iterator[tuple[str, str]]:
    """A gateway on a thread of its own: its address and an admin's token."""
    ready, stop = threading.Event(), threading.Event()
    found: list[Any] = []

    async def story() -> None:
        async with serving(store, folder, lease=15) as api:
            found[:] = [f"http://127.0.0.1:{api.port}", api.admin]
            await prepare(api)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(story(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield found[0], found[1]
    finally:
        stop.set()
        thread.join()


async def prepare(api: Api) -> None:
    """Some ended runs, so that not everything is a 404."""
    for _ in range(5):
        await api.post("/api/v1/runs?wait=20", {"workflow": "greet"})


def test_server_keeps_what_its_document_says(store: str, tmp_path: Path) -> None:
    """Requests made from the document, valid and hostile, get only the answers, types and statuses it describes."""
    cases = [case for operation in read_operations(store, tmp_path) for case in draw_cases(operation)]
    assert len({case.operation.label for case in cases}) > 60
    assert len(cases) > 600
    with background(store, tmp_path) as (url, token):
        for case in cases:
            hold_to_its_word(case, url, token)


def read_operations(store: str, folder: Path) -> list[Any]:
    """The operations of the document that a gateway serves."""
    found: list[Any] = []

    async def story() -> None:
        async with serving(store, folder, worker=False) as api:
            found.append((await api.get("/openapi.json")).json())

    tell(story())
    schema = schemathesis.openapi.from_dict(found[0]).exclude(path_regex="^/(docs|openapi|metrics)")
    return [result.ok() for result in schema.get_all_operations()]


def draw_cases(operation: Any) -> list[Any]:
    """The same requests each time, drawn while nothing else runs: Hypothesis calls it flaky when another thread asks the
    `random` module for something, or when a request that is sent twice gets two answers.
    """
    drawn: list[Any] = []
    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        finds = strategies.booleans() if mode is schemathesis.GenerationMode.POSITIVE else strategies.just(False)

        def keep(case: Any, finds: bool) -> None:
            drawn.append(point_at_something(case) if finds else case)

        try:
            settings(hypothesis.given(case=operation.as_strategy(generation_mode=mode), finds=finds)(keep))()
        except hypothesis.errors.Unsatisfiable:
            assert mode is schemathesis.GenerationMode.NEGATIVE
    return drawn


def point_at_something(case: Any) -> Any:
    """Let a valid request be about a run and a workflow that are there. What is drawn is shared, and never changed."""
    case.path_parameters = {name: FOUND.get(name, value) for name, value in (case.path_parameters or {}).items()}
    if isinstance(case.body, dict):
        names = {"workflow", "workflow_id", "workflowId"} & case.body.keys()
        case.body = case.body | dict.fromkeys(names, "greet")
        if "version" in case.body:
            case.body |= {"version": 1, "conversationId": None}
    return case


def hold_to_its_word(case: Any, url: str, token: str) -> None:
    excluded = [CHECKS.get_one("positive_data_acceptance")] if case.operation.label in BEYOND_SCHEMAS else []
    if case.operation.label in NEIGHBOURS:
        excluded.append(CHECKS.get_one("content_type_conformance"))
    if isinstance((case.query or {}).get("wait"), int | float):
        case.query = {**case.query, "wait": 0}
    try:
        case.call_and_validate(
            base_url=url,
            headers={"Authorization": f"Bearer {token}", "X-API-Key": token},
            timeout=20,
            excluded_checks=excluded,
        )
    except Exception as error:
        pytest.fail(f"{case.operation.label}: {error}\n{json.dumps(case.operation.definition.raw)[:500]}")
