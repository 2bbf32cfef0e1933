"""Who may do what: every mounted API route against every kind of caller. The routes come from the rows themselves.

A new route needs a row in ROUTES: what to send that is whole, and for narrowed tokens, what it touches.
"""

from __future__ import annotations

import http.client
import itertools
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.routing import Route

from gateway.asgi import DIALECTS, create_app
from gateway.errors import Forbidden
from gateway.tokens import SCOPES
from gateway.web.callers import BEARER
from gateway.web.endpoints import Dialect, Endpoint
from tests.tools import KEYS, settings_for, signed, tell
from tests.tools_api import Api, serving

ROWS = [(dialect, endpoint) for dialect in DIALECTS for endpoint in dialect.endpoints]
GUARDED = [(dialect, endpoint) for dialect, endpoint in ROWS if endpoint.scope is not None]
ARCEE = "/api/v1/workflow"
ARCEE_WORKFLOW = f"{ARCEE}/workflows/{{workflow_id}}"
EAI = "/api/eai/v3/orchestrate"
FRESH = {"name": "sent", "description": "{fresh}", "steps": [{"id": "only", "transform": 1}]}
SENT = {"name": "sent", "nodes": {"only": {"type": "transform", "config": 1}}, "edges": []}
TURN = {"workflowId": "greet", "version": 1, "input": {}}


class Touch(msgspec.Struct, frozen=True):
    """A call that would succeed: its path with what exists, its body; `narrows` when it touches `greet` or `sent`.

    A route that `waits` for a run's end needs a worker. `marks` are fields of the run as they must be before, and
    `over` says that it must have ended.
    """

    path: str
    body: Any = None
    narrows: bool = False
    listed: bool = False
    waits: bool = False
    marks: dict[str, str] = {}
    over: bool = False


ROUTES: dict[str, Touch] = {
    "GET /api/v1/runs": Touch("/api/v1/runs", listed=True),
    "POST /api/v1/runs": Touch("/api/v1/runs", {"workflow": "greet"}, narrows=True),
    "GET /api/v1/runs/{run_id}": Touch("/api/v1/runs/{run}", narrows=True),
    "GET /api/v1/runs/{run_id}/steps": Touch("/api/v1/runs/{run}/steps", narrows=True),
    "GET /api/v1/runs/{run_id}/timeline": Touch("/api/v1/runs/{ended}/timeline", narrows=True),
    "POST /api/v1/runs/{run_id}/cancel": Touch("/api/v1/runs/{run}/cancel", narrows=True),
    "POST /api/v1/runs/{run_id}/signals/{name}": Touch("/api/v1/runs/{run}/signals/go", 1, narrows=True),
    "POST /api/v1/runs/{run_id}/approvals/{step}": Touch(
        "/api/v1/runs/{run}/approvals/ask",
        {"decision": "approve"},
        narrows=True,
        marks={"step:ask": '{"state": "waiting", "waits_for": "approval"}'},
    ),
    "POST /api/v1/runs/{run_id}/approvals/{step}/link": Touch(
        "/api/v1/runs/{run}/approvals/ask/link",
        {},
        narrows=True,
        marks={"step:ask": '{"state": "waiting", "waits_for": "approval"}'},
    ),
    "POST /api/v1/runs/{run_id}/resume": Touch(
        "/api/v1/runs/{run}/resume", {}, narrows=True, marks={"step:lost": '{"state": "unknown"}'}
    ),
    "POST /api/v1/runs/{run_id}/retry": Touch("/api/v1/runs/{run}/retry", narrows=True, over=True),
    "POST /api/v1/runs/{run_id}/rerun": Touch("/api/v1/runs/{run}/rerun", {}, narrows=True),
    "GET /api/v1/events": Touch("/api/v1/events", listed=True),
    "GET /api/v1/events/{event_id}": Touch("/api/v1/events/{event}", narrows=True),
    "POST /api/v1/events/{event_id}/replay": Touch("/api/v1/events/{event}/replay", {}, narrows=True),
    "POST /api/v1/events/replay": Touch("/api/v1/events/replay", {"since": "0", "dry_run": True}, listed=True),
    "GET /api/v1/events/{event_id}/explanation": Touch("/api/v1/events/{event}/explanation", narrows=True),
    "GET /api/v1/events/{event_id}/capture": Touch("/api/v1/events/{event}/capture", narrows=True),
    "GET /api/v1/callbacks": Touch("/api/v1/callbacks", listed=True),
    "GET /api/v1/callbacks/{callback_id}": Touch("/api/v1/callbacks/{callback}", narrows=True),
    "POST /api/v1/callbacks/{callback_id}/redeliver": Touch("/api/v1/callbacks/{callback}/redeliver", narrows=True),
    "POST /api/v1/callbacks/redeliver": Touch(
        "/api/v1/callbacks/redeliver", {"since": "0", "status": "pending"}, listed=True
    ),
    "GET /api/v1/workflows": Touch("/api/v1/workflows", listed=True),
    "GET /api/v1/workflows/{name}": Touch("/api/v1/workflows/greet", narrows=True),
    "POST /api/v1/workflows": Touch("/api/v1/workflows", FRESH, narrows=True),
    "DELETE /api/v1/workflows/{name}": Touch("/api/v1/workflows/{sent}", narrows=True),
    "GET /api/v1/workflows/{name}/versions": Touch("/api/v1/workflows/greet/versions", narrows=True),
    "GET /api/v1/workflows/{name}/versions/{number}": Touch("/api/v1/workflows/greet/versions/1", narrows=True),
    "GET /api/v1/workflows/{name}/diff": Touch("/api/v1/workflows/greet/diff?from=1", narrows=True),
    "POST /api/v1/workflows/{name}/rollback": Touch("/api/v1/workflows/{sent}/rollback", {"version": 1}, narrows=True),
    "GET /api/v1/apps": Touch("/api/v1/apps"),
    "POST /api/v1/apps": Touch("/api/v1/apps", {"name": "{new}"}),
    "GET /api/v1/apps/{app}": Touch("/api/v1/apps/42"),
    "DELETE /api/v1/apps/{app}": Touch("/api/v1/apps/{made_app}"),
    "POST /api/v1/apps/{app}/disable": Touch("/api/v1/apps/{made_app}/disable"),
    "POST /api/v1/apps/{app}/enable": Touch("/api/v1/apps/{made_app}/enable"),
    "POST /api/v1/apps/{app}/rotate-secret": Touch("/api/v1/apps/{made_app}/rotate-secret"),
    "POST /api/v1/apps/{app}/revoke-secret": Touch("/api/v1/apps/{rotated_app}/revoke-secret"),
    "GET /api/v1/secrets": Touch("/api/v1/secrets"),
    "PUT /api/v1/secrets/{name}": Touch("/api/v1/secrets/kept", {"value": "a value that is long enough"}),
    "DELETE /api/v1/secrets/{name}": Touch("/api/v1/secrets/{made_secret}"),
    "GET /api/v1/endpoints": Touch("/api/v1/endpoints"),
    "POST /api/v1/endpoints": Touch("/api/v1/endpoints", {"name": "e{fresh}", "url": "http://127.0.0.1:9/told"}),
    "GET /api/v1/endpoints/{endpoint}": Touch("/api/v1/endpoints/{made_endpoint}"),
    "DELETE /api/v1/endpoints/{endpoint}": Touch("/api/v1/endpoints/{made_endpoint}"),
    "POST /api/v1/endpoints/{endpoint}/disable": Touch("/api/v1/endpoints/{made_endpoint}/disable"),
    "POST /api/v1/endpoints/{endpoint}/enable": Touch("/api/v1/endpoints/{made_endpoint}/enable"),
    "POST /api/v1/endpoints/{endpoint}/recover": Touch("/api/v1/endpoints/{made_endpoint}/recover", {"since": "0"}),
    "POST /api/v1/endpoints/{endpoint}/rotate-secret": Touch("/api/v1/endpoints/{made_endpoint}/rotate-secret"),
    "POST /api/v1/endpoints/{endpoint}/revoke-secret": Touch("/api/v1/endpoints/{rotated_endpoint}/revoke-secret"),
    "POST /api/v1/endpoints/{endpoint}/ping": Touch("/api/v1/endpoints/{made_endpoint}/ping"),
    "GET /api/v1/hooks": Touch("/api/v1/hooks"),
    "POST /api/v1/hooks": Touch("/api/v1/hooks", {"workflow": "greet"}),
    "GET /api/v1/hooks/{token:hook}": Touch("/api/v1/hooks/{made_hook}"),
    "DELETE /api/v1/hooks/{token:hook}": Touch("/api/v1/hooks/{made_hook}"),
    "POST /api/v1/hooks/{hook_id}/disable": Touch("/api/v1/hooks/{made_hook}/disable"),
    "POST /api/v1/hooks/{hook_id}/enable": Touch("/api/v1/hooks/{made_hook}/enable"),
    "GET /api/v1/audit": Touch("/api/v1/audit"),
    "GET /api/v1/tokens": Touch("/api/v1/tokens"),
    "POST /api/v1/tokens": Touch("/api/v1/tokens", {"name": "x"}),
    "DELETE /api/v1/tokens/{token_id}": Touch("/api/v1/tokens/{token}"),
    "POST /api/v1/trigger": Touch("/api/v1/trigger", {"workflow_id": 15}, narrows=True),
    f"GET {ARCEE}/workflows": Touch(f"{ARCEE}/workflows", listed=True),
    f"POST {ARCEE}/workflows": Touch(f"{ARCEE}/workflows", SENT, narrows=True),
    f"POST {ARCEE_WORKFLOW}/execute": Touch(f"{ARCEE}/workflows/greet/execute", {"name": "you"}, narrows=True),
    f"GET {ARCEE_WORKFLOW}/runs": Touch(f"{ARCEE}/workflows/greet/runs", listed=True),
    f"GET {ARCEE_WORKFLOW}/runs/{{run_id}}": Touch(f"{ARCEE}/workflows/greet/runs/{{run}}", narrows=True),
    f"GET {ARCEE_WORKFLOW}/runs/{{run_id}}/steps": Touch(f"{ARCEE}/workflows/greet/runs/{{run}}/steps", narrows=True),
    f"GET {ARCEE_WORKFLOW}/diagram": Touch(f"{ARCEE}/workflows/greet/diagram", narrows=True),
    f"POST {EAI}/workflows/{{workflow_id}}/execute": Touch(
        f"{EAI}/workflows/greet/execute", {"input": {}, "async": True}, narrows=True
    ),
    f"GET {EAI}/executions/{{execution_id}}": Touch(f"{EAI}/executions/exec_{{run}}", narrows=True),
    f"GET {EAI}/workflows": Touch(f"{EAI}/workflows", listed=True),
    f"GET {EAI}/executions": Touch(f"{EAI}/executions", listed=True),
    f"POST {EAI}/executions/{{execution_id}}/cancel": Touch(f"{EAI}/executions/exec_{{run}}/cancel", narrows=True),
    "POST /api/executeWorkflow": Touch("/api/executeWorkflow", TURN, narrows=True, waits=True),
    "POST /api/executeWorkflowBackground": Touch("/api/executeWorkflowBackground", TURN, narrows=True),
    "POST /api/getConversationById": Touch(
        "/api/getConversationById", {"workflowId": "greet", "conversationId": "{conversation}"}, narrows=True
    ),
}
NUMBERS = itertools.count()
"""For what must differ each time it is sent."""
ABSENT = {
    "made_app": "999",
    "rotated_app": "999",
    "made_secret": "nothing",
    "made_endpoint": "nowhere",
    "rotated_endpoint": "nowhere",
    "made_hook": "hook_0a1b2c3d4e5f",
}
OPEN = {"POST /api/v1/hooks/{token}"}
"""Routes that ask for no token. Each must say here that it means to."""
OPEN_PAGES = {
    "/api/v1/webhooks/{app}",  # the sender's signature
    "/api/v1/webhooks/{app}/form-token",  # nothing: it lets nobody in by itself
    "/approve/{token}",  # the signature of the link
    "/results/{token}",  # the signature of the link
    *("/.well-known/gateway-receipts.json", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/{file}"),
}
"""Routes of no dialect, which ask for no token either; what proves who asks, where something does."""


def name_of(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


def credential(dialect: Dialect, text: str) -> dict[str, str]:
    """The header that carries a token in this dialect."""
    scheme = dialect.credential.schemes[0]
    if scheme["type"] == "http":
        return {"authorization": f"Bearer {text}"}
    return {scheme["name"]: BEARER + text if "Bearer" in scheme.get("description", "") else text}


class Stage:
    """A gateway with one ended and one open run of `greet`, an event, a callback, a conversation, and all kinds of
    tokens: `@this` is good for `greet`, and for `sent`, which callers publish.
    """

    def __init__(self, api: Api) -> None:
        self.api = api
        self.tokens: dict[str, str] = {}
        self.found: dict[str, str] = {}

    async def set(self) -> Stage:
        api = self.api
        # The callback needs no delivery, only to be there.
        body = b'{"workflow_id": 15, "task": "t"}'
        sent = (await api.client.post("/api/v1/webhooks/42", content=body, headers=signed(body))).json()
        await api.post(f"/api/v1/runs/{sent['run_id']}/cancel")
        ended = (await api.get(f"/api/v1/runs/{sent['run_id']}")).json()
        turn = await api.post("/api/executeWorkflowBackground", TURN, headers={"x-api-key": api.admin})
        throwaway = (await api.post("/api/v1/tokens", {"name": "throwaway"})).json()
        self.found = {
            "sent": "sent",
            "ended": str(ended["run_id"]),
            "event": ended["event_id"],
            "callback": ended["callbacks"][0]["callback_id"],
            "token": throwaway["id"],
            "conversation": turn.json()["conversationId"],
        }
        self.tokens = {
            "expired": await api.token("admin", lifetime=1),
            "revoked": await api.token("admin", revoked=True),
            "nothing": await api.token(),
        }
        for scope in SCOPES:
            self.tokens[scope] = await api.token(scope)
            if scope != "admin":
                self.tokens[f"{scope}@this"] = await api.token(f"{scope}@workflow:greet", f"{scope}@workflow:sent")
                self.tokens[f"{scope}@other"] = await api.token(f"{scope}@workflow:hidden")
                self.tokens[f"{scope}@other app"] = await api.token(f"{scope}@app:77")
        await api.settle()
        return self

    async def try_as(self, dialect: Dialect, endpoint: Endpoint, headers: dict[str, str]) -> Any:
        """One whole call; an open run is there for each that needs one."""
        touch = ROUTES[name_of(endpoint)]
        if "{sent}" in touch.path:
            await self.api.post("/api/v1/workflows", FRESH)
        run = await self._make_run(touch) if "{run}" in touch.path else 0
        path = touch.path.format(run=run, **self.found, **await self.make_for(touch.path))
        content = write_body(touch.body, self.found["conversation"])
        return await self.api.client.request(endpoint.method, path, content=content, headers=headers)

    async def _make_run(self, touch: Touch) -> int:
        run = await self.api.start("greet")
        if touch.marks:
            await self.api.redis.hset(KEYS.run(run), mapping=touch.marks)
        if touch.over:
            await self.api.post(f"/api/v1/runs/{run}/cancel")
        return run

    async def make_for(self, path: str) -> dict[str, str]:
        """An app, a secret or a hook of its own for each call that needs one: some calls remove it."""
        if "{made_app}" in path:
            made = await self.api.post("/api/v1/apps", {"name": f"app {os.urandom(6).hex()}"})
            return {"made_app": str(made.json()["id"])}
        if "{rotated_app}" in path:
            made = await self.api.post("/api/v1/apps", {"name": f"app {os.urandom(6).hex()}"})
            await self.api.post(f"/api/v1/apps/{made.json()['id']}/rotate-secret")
            return {"rotated_app": str(made.json()["id"])}
        if "{made_secret}" in path:
            name = f"made-{os.urandom(6).hex()}"
            await self.api.call("PUT", f"/api/v1/secrets/{name}", json={"value": "a value that is long enough"})
            return {"made_secret": name}
        if "_endpoint}" in path:
            wanted = {"name": f"e{next(NUMBERS)}", "url": "http://127.0.0.1:9/told"}
            made = await self.api.post("/api/v1/endpoints", wanted)
            one = made.json()["id"]
            if "{rotated_endpoint}" in path:
                await self.api.post(f"/api/v1/endpoints/{one}/rotate-secret")
            return {"made_endpoint": one, "rotated_endpoint": one}
        if "{made_hook}" in path:
            made = await self.api.post("/api/v1/hooks", {"workflow": "greet"})
            return {"made_hook": made.json()["id"]}
        return {}

    async def status_of(self, dialect: Dialect, endpoint: Endpoint, text: str | None) -> int:
        headers = {} if text is None else credential(dialect, text)
        answer = await self.try_as(dialect, endpoint, headers)
        if answer.status_code >= 400:
            assert answer.headers["content-type"].startswith(dialect.media_type)
        asked = dialect.credential.challenge if answer.status_code == 401 else None
        assert answer.headers.get("www-authenticate") == asked
        status: int = answer.status_code
        return status


def write_body(body: Any, conversation: str = "") -> bytes:
    """A row's body as JSON; none is no bytes."""
    if body is None:
        return b""
    content = msgspec.json.encode(body).replace(b"{conversation}", conversation.encode())
    content = content.replace(b"{fresh}", str(next(NUMBERS)).encode())
    return content.replace(b"{new}", b"new " + os.urandom(6).hex().encode())


def refused_as(dialect: Dialect) -> int:
    """The status with which a dialect says that the caller may not do that."""
    return dialect.refuse(Forbidden())[0]


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTS_SECRET", "a secret of the tests")
    monkeypatch.setenv("TESTS_CALLBACK", "whsec_" + "YSBzZWNyZXQgb2YgdGhlIHRlc3RzLi4uLg==")


def test_every_route_has_a_row() -> None:
    """Each mounted API route stands in ROUTES or OPEN, and nothing else does."""
    mounted = {name_of(endpoint): endpoint.scope for _, endpoint in ROWS}
    assert set(mounted) == set(ROUTES) | OPEN
    assert {name for name, scope in mounted.items() if scope is None} == OPEN
    assert {scope for scope in mounted.values() if scope is not None} <= set(SCOPES)


def test_every_page_that_is_open_says_so(store: str, tmp_path: Path) -> None:
    """What is mounted beside the dialects stands in OPEN_PAGES, and nothing else does."""
    app = create_app(settings_for(store, tmp_path))
    own = {endpoint.path for _, endpoint in ROWS}
    mounted = {route.path for route in app.routes if isinstance(route, Route) and ":path}" not in route.path}
    assert mounted - own == OPEN_PAGES


def mistype(text: str) -> str:
    return text[:-1] + ("A" if text[-1] != "A" else "B")


def part_of(endpoint: Endpoint) -> str:
    """Which of the three parts a route is tested in: each has a gateway of its own."""
    if ROUTES[name_of(endpoint)].waits:
        return "waiting"
    return "admin" if endpoint.scope == "admin" else "others"


def rows_of(dialect: Dialect, part: str) -> list[Endpoint]:
    """A dialect's guarded routes: those that wait for a run's end, those for admins, or the others."""
    guarded = [each for each in dialect.endpoints if each.scope is not None and name_of(each) in ROUTES]
    return [each for each in guarded if part_of(each) == part]


PARTS = ("waiting", "admin", "others")
CASES = [(dialect, part) for dialect in DIALECTS for part in PARTS if rows_of(dialect, part)]


@pytest.mark.parametrize(("dialect", "part"), CASES, ids=[f"{each.name}-{part}" for each, part in CASES])
def test_each_caller_gets_what_is_theirs(store: str, tmp_path: Path, dialect: Dialect, part: str) -> None:
    """No token, a mistyped, unknown, expired or revoked one is a 401; a narrower scope or another workflow a 403."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=part == "waiting") as api:
            stage = await Stage(api).set()
            for endpoint in rows_of(dialect, part):
                await refuse_strangers(stage, dialect, endpoint)
                await hold_to_scopes(stage, dialect, endpoint)
                if endpoint.scope != "admin":
                    await hold_to_subjects(stage, dialect, endpoint)

    tell(story(), seconds=300)


async def refuse_strangers(stage: Stage, dialect: Dialect, endpoint: Endpoint) -> None:
    unknown = "gw_api_" + "0" * 46 + "zzzzzz"
    ended = [stage.tokens["expired"], stage.tokens["revoked"]]
    for text in (None, "x", "gw_api_", unknown, mistype(stage.api.admin), *ended):
        assert await stage.status_of(dialect, endpoint, text) == 401, (name_of(endpoint), text)


async def hold_to_scopes(stage: Stage, dialect: Dialect, endpoint: Endpoint) -> None:
    good = {str(endpoint.scope), "admin"}
    for kind in ("nothing", *SCOPES):
        expected = endpoint.status if kind in good else refused_as(dialect)
        answer = await stage.status_of(dialect, endpoint, stage.tokens[kind])
        assert answer == expected, (name_of(endpoint), kind)


async def hold_to_subjects(stage: Stage, dialect: Dialect, endpoint: Endpoint) -> None:
    touch, where = ROUTES[name_of(endpoint)], name_of(endpoint)
    assert touch.narrows != touch.listed, f"{where} must say what a narrowed token sees"
    refused = refused_as(dialect) if touch.narrows else 200
    for narrowed, status in (("this", endpoint.status), ("other", refused), ("other app", refused)):
        answer = await stage.status_of(dialect, endpoint, stage.tokens[f"{endpoint.scope}@{narrowed}"])
        assert answer == status, (where, narrowed)


def test_lists_show_only_what_may_be_seen(store: str, tmp_path: Path) -> None:
    """A narrowed token's lists hold nothing of another workflow or app, and all of its own."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            stage = await Stage(api).set()
            await api.start("hidden")
            for dialect, endpoint in GUARDED:
                if ROUTES[name_of(endpoint)].listed:
                    await look_at_list(stage, dialect, endpoint)

    tell(story())


async def look_at_list(stage: Stage, dialect: Dialect, endpoint: Endpoint) -> None:
    where, found, sizes = name_of(endpoint), {}, {}
    for kind in ("", "@this", "@other", "@other app"):
        headers = credential(dialect, stage.tokens[f"{endpoint.scope}{kind}"])
        content = write_body(ROUTES[where].body)
        answer = await stage.api.client.request(endpoint.method, ROUTES[where].path, content=content, headers=headers)
        found[kind] = answer.text
        listed = msgspec.json.decode(found[kind])
        sizes[kind] = len(listed if isinstance(listed, list) else listed["data"])
    assert "hidden" not in found["@this"], where
    assert "greet" not in found["@other"], where
    assert sizes["@other app"] == 0, where
    assert sizes["@this"] > 0, where
    # Besides these two workflows there are others, that nobody's narrowed token is good for.
    assert sizes[""] == sizes["@this"] + sizes["@other"] or endpoint.scope == "workflows:read", where


SUFFIXES = ("/", "//", "/.", "/..", "/..;/", "/;x", "%2f", "%2F", ".json", ".", "%00", "%20", "/%2e%2e", "?x", "#x")
PREFIXES = ("/.", "//", "/%2f", "/x/..", "/./", "/;")


def hostile(path: str) -> list[str]:
    """This path as people write it who hope that the guard and the router read it differently."""
    found = [path + suffix for suffix in SUFFIXES] + [prefix + path for prefix in PREFIXES]
    found += [
        path.upper(),
        path.title(),
        path.replace("/api", "/api/"),
        path.replace("/v1", "/v1/."),
        path.replace("/", "%2f"),
    ]
    return [
        *found,
        path.replace("/", "//"),
        path.replace("/", "/./"),
        path.replace("a", "%61"),
        path.replace("/", "\\"),
    ]


def test_no_spelling_of_a_path_gets_past_the_guard(store: str, tmp_path: Path) -> None:
    """However a route's path is spelled, without a token it is refused or not found, and nothing is started."""

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            stage = await Stage(api).set()
            before = len((await api.get("/api/v1/runs?limit=200")).json()["data"])
            tokens = await states_of(api)
            for _, endpoint in GUARDED:
                touch = ROUTES[name_of(endpoint)]
                body = write_body(touch.body)
                for target in hostile(touch.path.format(run=1, **stage.found, **ABSENT)):
                    status = await send_raw(api.port, endpoint.method, target, body)
                    assert status in (400, 401, 404, 405), (endpoint.method, target, status)
            assert len((await api.get("/api/v1/runs?limit=200")).json()["data"]) == before
            assert await states_of(api) == tokens

    tell(story())


async def states_of(api: Api) -> dict[str, str]:
    """Every token's status."""
    return {each["id"]: each["status"] for each in (await api.get("/api/v1/tokens")).json()["data"]}


async def send_raw(port: int, method: str, target: str, body: bytes) -> int:
    """One request with exactly this target."""
    import asyncio

    def send() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.putrequest(method, target, skip_accept_encoding=True)
        connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        try:
            return connection.getresponse().status
        finally:
            connection.close()

    return await asyncio.to_thread(send)
