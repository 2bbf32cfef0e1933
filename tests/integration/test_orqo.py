"""ORQO's doors over real HTTP: hooks, challenges, receive configs, adapters, and the symptoms its debug table names.

One `gateway up` with its own Valkey and worker serves them all; the adapters are real HTTP servers on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import embedded
from gateway.adapters import AdapterSettings
from gateway.apps import App, LiveApp
from gateway.configuration import read_configuration
from gateway.egress import read_policy
from gateway.errors import Unavailable
from gateway.places import Mistakes
from gateway.signatures import PRESETS, Request, sign
from gateway.web.adapter import Adapters
from gateway.web.client import Client
from tests.tools import RoomyServer

PATIENCE = 30.0
SECRET = "s3cr3t"
BAD_WORKFLOW = "fails-at-once"
UNKNOWN_HOOK = b'{"error":"there is no hook with this token","code":"not_found"}'
UNPROVEN = b'{"error":"The request carries no valid proof of who sent it.","code":"unauthorized"}'
USELESS = b'{"error":"this event can\'t be verified now; send it again","code":"unavailable"}'
FILE = """\
apps:
  - {id: 42, name: ci, adapter: direct, verify: {scheme: orqo, secrets: [{env: ORQO_SECRET}]}}
  - {id: 43, name: switched-off, adapter: direct, disabled: true, verify: {scheme: orqo, secrets: [{env: ORQO_SECRET}]}}
  - {id: 44, name: deaf, adapter: direct, capabilities: [send], verify: {scheme: orqo, secrets: [{env: ORQO_SECRET}]}}
  - {id: 45, name: forgotten, adapter: direct, verify: {scheme: orqo, secrets: [{env: NOWHERE}]}}
  - {id: 50, name: page, verify: {scheme: meta, secrets: [{env: ORQO_SECRET}]}, verify_token: {env: VERIFY_TOKEN}}
  - {id: 51, name: page-without, verify: {scheme: meta, secrets: [{env: ORQO_SECRET}]}}
  - {id: 52, name: page-forgotten, verify: {scheme: meta, secrets: [{env: NOWHERE}]}, verify_token: {env: VERIFY_TOKEN}}
  - {id: 53, name: chat, verify: {scheme: slack, secrets: [{env: ORQO_SECRET}]}}
  - {id: 54, name: chat-direct, adapter: direct, verify: {scheme: {scheme: slack, tolerance: 60}, secrets: [{env: ORQO_SECRET}]}}
  - id: 60
    name: sha256
    adapter: direct
    receive_config: {signature_header: X-Hub-Signature-256, signature_algorithm: hmac-sha256, signature_secret_field: key}
    credentials: {key: {env: ORQO_SECRET}}
  - id: 61
    name: sha1
    adapter: direct
    receive_config: {signature_header: X-Hub-Signature, signature_algorithm: hmac-sha1, signature_secret_field: key}
    credentials: {key: {env: ORQO_SECRET}}
  - id: 62
    name: sha512
    adapter: direct
    receive_config: {signature_header: X-Long, signature_algorithm: hmac-sha512, signature_secret_field: key}
    credentials: {key: {env: ORQO_SECRET}}
  - id: 70
    name: good
    adapter: {url: "ADAPTER/good"}
    credentials: {SERVICE_TOKEN: {env: ORQO_SECRET}}
    triggers:
      - name: said
        when: has(event.body.text) && event.body.text != 'nothing'
        workflow: echo
        input: {text: "${event.body.text}", of: "${event.body.sender.id}"}
  - {id: 71, name: no-credential, adapter: {url: "ADAPTER/good"}, credentials: {SERVICE_TOKEN: {env: NOWHERE}}}
  - {id: 72, name: outside, adapter: {url: "http://192.0.2.1/good"}}
  - {id: 73, name: unreachable, adapter: {url: "http://127.0.0.1:9/good"}}
  - id: 74
    name: with-challenge
    adapter: {url: "ADAPTER/good"}
    credentials: {SERVICE_TOKEN: {env: ORQO_SECRET}}
    verify_token: {env: VERIFY_TOKEN}
BROKEN
workflows:
  - {id: 15, name: echo, steps: [{id: say, transform: "${input}"}]}
  - {id: 16, name: strict, input: {type: object, required: [commit]}, steps: [{id: say, transform: "${input}"}]}
  - {id: 17, name: fails-at-once, steps: [{id: call, python: no_such_module.here:run}]}
  - {id: 18, name: looks-back, steps: [{id: say, transform: "${event.body.text}"}]}
"""
# Behaviours of the adapter server that make an event impossible to verify.
BROKEN = (
    "unready", "no-health", "no-manifest", "verify-500", "parse-500", "not-json", "a-list", "huge", "redirect",
    "hang-up", "slow", "waking",
)  # fmt: skip
REFUSING = ("says-1", "says-yes", "says-nothing", "says-false")


class Answer(NamedTuple):
    """What a door answered."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def document(self) -> Any:
        return json.loads(self.body)


class AdapterServer:
    """One server with an adapter for each behaviour below its first path segment. `asked` has all it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.released, self.awake = threading.Event(), threading.Event()
        self._server = RoomyServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def open(self) -> Iterator[AdapterServer]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def asked_of(self, behaviour: str) -> list[tuple[str, Any]]:
        """The routes that were asked of one adapter, each with what it was sent."""
        return [(route, sent) for name, route, sent in self.asked if name == behaviour]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._serve()

            def do_POST(self) -> None:
                self._serve()

            def _serve(self) -> None:
                _, behaviour, route = self.path.split("/", 2)
                raw = self.rfile.read(int(self.headers.get("content-length", 0)))
                sent = json.loads(raw) if raw else None
                server.asked.append((behaviour, route, sent))
                answered = server.answer(behaviour, route, sent)
                if answered is None:
                    self.close_connection = True
                    return
                status, body = answered
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                if status == 302:
                    self.send_header("location", server.url + "/good/" + route)
                with contextlib.suppress(ConnectionError):  # whoever was too slow to wait is gone
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """The test's output stays quiet."""

        return Handler

    def answer(self, behaviour: str, route: str, sent: Any) -> tuple[int, bytes] | None:
        """Status and body, or None to hang up."""
        if route == "manifest.json":
            return (500, b"{}") if behaviour == "no-manifest" else (200, b'{"schema_version":"1.0","name":"Mine"}')
        if route == "health":
            asleep = behaviour == "unready" or (behaviour == "waking" and not self.awake.is_set())
            status = "starting" if asleep else "ready"
            return (404, b"{}") if behaviour == "no-health" else (200, json.dumps({"status": status}).encode())
        if route == "verify-webhook":
            return self._verify(behaviour, sent)
        if behaviour == "parse-500":
            return 500, b'{"text": "started all the same"}'
        if behaviour == "huge":
            return 200, b'{"text": "x"}' + b" " * 1_100_000  # what is left of it when it is cut would be JSON
        return 200, json.dumps(_parse(sent)).encode()

    def _verify(self, behaviour: str, sent: Any) -> tuple[int, bytes] | None:
        if behaviour == "slow":
            self.released.wait()
        if behaviour == "hang-up":
            return None
        if behaviour == "good":
            valid = sent["headers"].get("x-proof") == sent["credentials"]["SERVICE_TOKEN"]
            return 200, json.dumps({"valid": valid}).encode()
        table = {
            "verify-500": (500, b'{"valid": true}'),
            "not-json": (200, b"valid: true"),
            "a-list": (200, b'[{"valid": true}]'),
            "redirect": (302, b'{"valid": true}'),
            "says-1": (200, b'{"valid": 1}'),
            "says-yes": (200, b'{"valid": "true"}'),
            "says-nothing": (200, b"{}"),
            "says-false": (200, b'{"valid": false}'),
        }
        return table.get(behaviour, (200, b'{"valid": true}'))


def _parse(sent: Any) -> dict[str, Any]:
    if sent["body_encoding"] == "base64":
        return {"text": "bytes", "sender": {"id": sent["body"]}}
    form = json.loads(sent["body"])
    if "challenge" in form:
        return {"challenge_response": form["challenge"]}
    return {"text": form["said"], "sender": {"id": sent["query"].get("of", "nobody")}}


class Machine:
    """`gateway up` in a folder of its own, and its commands."""

    def __init__(self, folder: Path, adapters: AdapterServer) -> None:
        self.adapters = adapters
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        self.environ = kept | {
            "GATEWAY_CONFIG": str(folder / "gateway.yaml"),
            "GATEWAY_DATA_DIR": str(folder / "data"),
            "GATEWAY_PORT": str(self.port),
            "GATEWAY_EGRESS_ALLOW": "127.0.0.1/32",
            "GATEWAY_LOG_FORMAT": "json",
            "GATEWAY_MAX_BODY": "100000",
            "ORQO_SECRET": SECRET,
            "VERIFY_TOKEN": "meatyhamhock",
        }

    @contextlib.contextmanager
    def run(self) -> Iterator[Machine]:
        broken = "\n".join(
            f'  - {{id: {number}, name: {name}, adapter: {{url: "ADAPTER/{name}"}}}}'
            for number, name in enumerate((*BROKEN, *REFUSING), 80)
        )
        text = FILE.replace("BROKEN\n", broken + "\n").replace("ADAPTER", self.adapters.url)
        (self.folder / "gateway.yaml").write_text(text)
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "up"], env=self.environ, stdout=log, stderr=log, cwd=self.folder
            )
            try:
                until(lambda: self.is_ready() or process.poll() is not None, "the gateway is ready")
                assert process.poll() is None, self.log
                yield self
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE)

    def is_ready(self) -> bool:
        try:
            return self.ask("GET", "/readyz").status == 200
        except OSError:
            return False

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """One request; a header's name may be written with underscores."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"content-type": "application/json"} | given)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()})

    def post(self, path: str, body: bytes = b"", **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def gateway(self, *arguments: str, code: int = 0) -> Any:
        """One command: its JSON document, or its complaint when it is to fail."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments, "--json"], env=self.environ, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if code == 0 else done.stderr

    def hook(self, *arguments: str) -> Any:
        """A new hook that the receiver knows of."""
        made = self.gateway("hook", "add", *arguments)
        until(lambda: self.post(made["url"], b"{").status != 404, "the hook is known")
        return made

    @property
    def last_run(self) -> int:
        """How many runs were ever started."""
        with contextlib.closing(redis.Redis.from_url(embedded.redis_url(self.folder / "data"))) as store:
            return int(store.get("gw:{0}:runs:last") or 0)  # type: ignore[arg-type]

    def stored(self, kind: str) -> dict[bytes, bytes]:
        with contextlib.closing(redis.Redis.from_url(embedded.redis_url(self.folder / "data"))) as store:
            return store.hgetall("gw:{0}:" + kind)  # type: ignore[return-value]

    def ended(self, run_id: int) -> Any:
        """A run's document, once it has ended."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [self.gateway("run", "show", str(run_id))]
            return found[0]["status"] in ("completed", "failed")

        until(look, f"run {run_id} has ended")
        return found[0]


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, as long as patience lasts."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """The whole gateway, and the adapters it may ask."""
    with (
        tempfile.TemporaryDirectory(prefix="orqo-") as folder,
        AdapterServer().open() as adapters,
        Machine(Path(folder), adapters).run() as machine,
    ):
        yield machine


@pytest.fixture(scope="module")
def echo_hook(machine: Machine) -> Any:
    """A hook of the workflow that gives back its input."""
    return machine.hook("echo", "--name", "first")


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    """ORQO's own header for these bytes."""
    return {"X_Signature_256": "sha256=" + hmac.new(secret.encode(), body, "sha256").hexdigest()}


# ---- hooks


def test_a_hook_starts_its_workflow_with_the_body(machine: Machine, echo_hook: Any) -> None:
    """Any JSON becomes the run's input; the answer is 201 with the run's id. ORQO, "Integrations: API"."""
    answer = machine.post(echo_hook["url"], b'{"event":"push","branch":"main","commit":"a1b2c3d"}')
    run_id = machine.last_run
    assert (answer.status, answer.body) == (201, b'{"workflow_run_id":%d,"status":"started"}' % run_id)
    assert answer.headers["content-type"] == "application/json"
    assert machine.ended(run_id)["output"] == {"event": "push", "branch": "main", "commit": "a1b2c3d"}


@pytest.mark.parametrize(("body", "given_input"), [(b"", None), (b"[1]", [1]), (b'"text"', "text"), (b"0", 0)])
def test_a_hooks_body_is_optional_and_any_json(
    machine: Machine, echo_hook: Any, body: bytes, given_input: object
) -> None:
    """No body at all is a null input, and a body needs not be an object, nor have a content type of JSON."""
    answer = machine.post(echo_hook["url"], body, content_type="application/x-www-form-urlencoded")
    assert answer.status == 201
    assert machine.ended(answer.document["workflow_run_id"])["input"] == given_input


def test_a_hooks_url_is_shown_once(machine: Machine, echo_hook: Any) -> None:
    """The token is 43 characters in the answer of `hook add`, and nowhere in the store, the list or the log."""
    token = echo_hook["token"]
    assert len(token) == 43
    assert echo_hook["url"] == f"/api/v1/hooks/{token}"
    machine.post(echo_hook["url"], b"1")
    listed = machine.gateway("hook", "list")
    assert [set(each) for each in listed] == [{"id", "name", "workflow", "status", "created_at"}] * len(listed)
    assert token not in json.dumps(listed)
    kept = json.loads(machine.stored("hooks")[echo_hook["id"].encode()])
    assert kept["hash"] == hashlib.sha256(token.encode()).hexdigest()
    assert token not in json.dumps(kept)
    assert '"path":"/api/v1/hooks/…"' in machine.log
    assert token not in machine.log


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="-_~.=+"), min_size=1, max_size=60)
)
def test_any_other_token_is_404(machine: Machine, echo_hook: Any, token: str) -> None:
    """A token that is unknown and one that is malformed get the very same answer, and no run starts."""
    before = machine.last_run
    answer = machine.post(f"/api/v1/hooks/{token}", b"{}")
    assert (answer.status, answer.body) == (404, UNKNOWN_HOOK)
    assert machine.last_run == before


def test_a_token_almost_right_is_404(machine: Machine, echo_hook: Any) -> None:
    """Case, padding, a cut or an escaped blank make another token; the bad body behind it is not even judged."""
    token = echo_hook["token"]
    for other in (token.swapcase(), token + "=", token[:-1], token + "%20", "%00" + token, echo_hook["id"]):
        answer = machine.post(f"/api/v1/hooks/{other}", b"1")
        assert (answer.status, answer.body) == (404, UNKNOWN_HOOK)


def test_a_hook_takes_only_posts(machine: Machine, echo_hook: Any) -> None:
    """Another method is 405 and says which one is taken."""
    answer = machine.ask("GET", echo_hook["url"])
    body = b'{"error":"this path takes POST","code":"method_not_allowed"}'
    assert (answer.status, answer.body, answer.headers["allow"]) == (405, body, "POST")


def test_a_hooks_body_has_to_be_json(machine: Machine, echo_hook: Any) -> None:
    """What is no JSON is 400 with line and column, and starts nothing."""
    before = machine.last_run
    answer = machine.post(echo_hook["url"], b'{"a":\n nope}')
    assert answer.status == 400
    assert answer.document["code"] == "bad_request"
    assert "the body is not JSON" in answer.document["error"]
    assert "line 2" in answer.document["error"]
    assert machine.last_run == before


def test_a_hooks_body_is_capped(machine: Machine, echo_hook: Any) -> None:
    """A body over GATEWAY_MAX_BODY is 413."""
    answer = machine.post(echo_hook["url"], b" " * 100_001)
    body = b'{"error":"the body is larger than the 100000 bytes this app accepts","code":"too_large"}'
    assert (answer.status, answer.body) == (413, body)


@pytest.mark.parametrize("header", ["Idempotency-Key", "webhook-id"])
def test_the_same_key_gives_the_same_run(machine: Machine, echo_hook: Any, header: str) -> None:
    """A repetition under one key answers as the first time; another body under it is a conflict."""
    before = machine.last_run
    first, again = (machine.post(echo_hook["url"], b"[7]", **{header: f"key {header}"}) for _ in range(2))
    assert (first.status, first.body) == (again.status, again.body)
    assert first.status == 201
    other = machine.post(echo_hook["url"], b"[8]", **{header: f"key {header}"})
    assert other.status == 409
    assert other.document["code"] == "conflict"
    assert other.document["error"].startswith("this key came before with another body, as event evt_")
    assert machine.last_run == before + 1


def test_a_hooks_keys_are_its_own(machine: Machine, echo_hook: Any) -> None:
    """The same key at another hook is another run."""
    second = machine.hook("15", "--name", "second")
    answers = [machine.post(hook["url"], b"1", idempotency_key="shared") for hook in (echo_hook, second)]
    assert [answer.status for answer in answers] == [201, 201]
    assert answers[0].body != answers[1].body


def test_a_key_that_cant_be_used_is_400(machine: Machine, echo_hook: Any) -> None:
    """A key over 255 characters is refused by its name."""
    answer = machine.post(echo_hook["url"], b"1", webhook_id="k" * 256)
    body = b'{"error":"webhook-id must be given once, with 1 to 255 characters","code":"bad_request"}'
    assert (answer.status, answer.body) == (400, body)


def test_a_refused_input_is_422_with_its_path(machine: Machine) -> None:
    """An input that the workflow's schema refuses starts nothing, and the answer says where it is wrong."""
    hook = machine.hook("strict")
    before = machine.last_run
    for body, complaint in (
        (b"", "is a required property"),
        (b"{}", '"commit" is a required property'),
        (b"[]", 'is not of type "object"'),
    ):
        answer = machine.post(hook["url"], body)
        assert (answer.status, answer.document["code"]) == (422, "unprocessable")
        assert answer.document["error"].startswith("input")
        assert complaint in answer.document["error"]
    assert machine.last_run == before
    assert machine.post(hook["url"], b'{"commit": "a1"}').status == 201


def test_a_hook_can_be_disabled_enabled_and_removed(machine: Machine) -> None:
    """Disabled it answers 409, enabled 201 again, removed 404; all running receivers follow."""
    made = machine.hook("echo", "--name", "passing")
    assert machine.gateway("hook", "disable", "passing")["status"] == "disabled"
    until(lambda: machine.post(made["url"]).status == 409, "it is disabled")
    assert machine.post(made["url"]).body == b'{"error":"this hook is disabled","code":"conflict"}'
    assert machine.gateway("hook", "enable", made["id"])["status"] == "active"
    until(lambda: machine.post(made["url"]).status == 201, "it is enabled")
    assert machine.gateway("hook", "remove", made["id"])["id"] == made["id"]
    until(lambda: machine.post(made["url"]).body == UNKNOWN_HOOK, "it is gone")
    assert made["id"] not in [each["id"] for each in machine.gateway("hook", "list")]


def test_what_cant_be_done_with_a_hook_is_said(machine: Machine) -> None:
    """An unknown workflow or hook ends a command with 1 and a hint."""
    assert machine.gateway("hook", "add", "nope", code=1) == (
        "gateway: there is no workflow 'nope'; `gateway workflow list` shows those there are\n"
    )
    assert machine.gateway("hook", "remove", "nope", code=1) == (
        "gateway: there is no hook 'nope'; `gateway hook list` shows those there are\n"
    )


def test_a_hook_whose_workflow_is_gone_is_422(machine: Machine) -> None:
    """A hook outlives its workflow, does not move to the one that gets its number, and works again when it is back."""
    file = machine.folder / "gateway.yaml"
    kept = file.read_text()
    file.write_text(kept + "  - {id: 30, name: fleeting, steps: [{id: say, transform: hello}]}\n")
    machine.gateway("apply")
    hook = machine.hook("fleeting")
    until(lambda: machine.post(hook["url"]).status == 201, "the workflow is known")
    file.write_text(kept + "  - {id: 30, name: another, steps: [{id: say, transform: hello}]}\n")
    machine.gateway("apply")
    until(lambda: machine.post(hook["url"]).status == 422, "the workflow is gone")
    body = b'{"error":"workflow: there is no workflow \'fleeting\' any more","code":"unprocessable"}'
    assert machine.post(hook["url"]).body == body
    file.write_text(kept)
    machine.gateway("apply")


# ---- challenges

META = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token="


@pytest.mark.parametrize("app", [50, "page-by-token", 74])
def test_metas_challenge_is_answered(machine: Machine, app: int | str) -> None:
    """The right verify token gets the challenge as plain text, by the app's id or token, adapter or not."""
    if app == "page-by-token":
        app = machine.gateway("app", "show", "page")["token"]
    answer = machine.ask("GET", f"/api/v1/webhooks/{app}?{META}meatyhamhock")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"1158201444", "text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("app", "query"),
    [
        *((50, query) for query in (META + "wrong", META, "", "hub.mode=subscribe")),
        *((51, query) for query in (META + "meatyhamhock", META)),
        (52, META + "meatyhamhock"),
    ],
)
def test_another_challenge_is_403(machine: Machine, app: int, query: str) -> None:
    """A wrong, empty or missing token, an app without one, or without its secret: nothing is given back."""
    answer = machine.ask("GET", f"/api/v1/webhooks/{app}?{query}")
    body = b'{"error":"this challenge does not hold this app\'s verify token","code":"forbidden"}'
    assert (answer.status, answer.body) == (403, body)


def test_other_apps_take_no_get(machine: Machine) -> None:
    """A sender that never asks by GET gets 405; an unknown app is 404 all the same."""
    answer = machine.ask("GET", f"/api/v1/webhooks/42?{META}meatyhamhock")
    body = b'{"error":"events are posted here","code":"method_not_allowed"}'
    assert (answer.status, answer.body, answer.headers["allow"]) == (405, body, "POST")
    assert machine.ask("GET", "/api/v1/webhooks/999").status == 404
    assert machine.ask("HEAD", "/api/v1/webhooks/50").status == 405


def slack_headers(body: bytes, secret: str = SECRET) -> dict[str, str]:
    """What Slack adds to these bytes."""
    request = Request("POST", "/", (), body)
    return dict(sign(PRESETS["slack"], secret, request, time.time(), "unused"))


CHALLENGE = (
    b'{"token":"Jhj5dZrVaK7ZwHHjRyZWjbDl","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P",'
    b'"type":"url_verification"}'
)


@pytest.mark.parametrize("app", [53, 54])
def test_slacks_challenge_is_answered_when_it_is_signed(machine: Machine, app: int) -> None:
    """A verified url_verification gets its challenge as plain text, also where other bodies name a workflow."""
    answer = machine.post(f"/api/v1/webhooks/{app}", CHALLENGE, **slack_headers(CHALLENGE))
    text = b"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, text, "text/plain")


def test_slacks_challenge_needs_its_signature(machine: Machine) -> None:
    """An unsigned or wrongly signed challenge is given back to nobody."""
    for headers in ({}, slack_headers(CHALLENGE, "another"), slack_headers(CHALLENGE + b" ")):
        answer = machine.post("/api/v1/webhooks/53", CHALLENGE, **headers)
        assert (answer.status, answer.body) == (401, UNPROVEN)


def test_only_slacks_apps_answer_slacks_challenge(machine: Machine) -> None:
    """The same words from another sender are an event like any other."""
    answer = machine.post("/api/v1/webhooks/50", CHALLENGE, X_Hub_Signature_256=signed(CHALLENGE)["X_Signature_256"])
    assert (answer.status, answer.document["status"]) == (202, "ignored")


# ---- receive configs


@pytest.mark.parametrize(
    ("app", "header", "algorithm"),
    [(60, "X-Hub-Signature-256", "sha256"), (61, "X-Hub-Signature", "sha1"), (62, "X-Long", "sha512")],
)
def test_a_receive_config_verifies(machine: Machine, app: int, header: str, algorithm: str) -> None:
    """ORQO's receive config asks for `<algorithm>=<hex HMAC of the body>` in its header, and for nothing less."""
    body = b'{"workflow_id": 15}'
    digest = hmac.new(SECRET.encode(), body, algorithm).hexdigest()
    good = machine.post(f"/api/v1/webhooks/{app}", body, **{header: f"{algorithm}={digest}"})
    run = b'{"run_id":%d,"status":"pending","workflow_id":15,"started_at":null}' % machine.last_run
    assert (good.status, good.body) == (200, run)
    wrong = hmac.new(b"another", body, algorithm).hexdigest()
    for value in (digest, f"{algorithm}={wrong}", f"{algorithm}={digest[:-1]}", f"{algorithm}=", ""):
        bad = machine.post(f"/api/v1/webhooks/{app}", body, **{header: value})
        assert (bad.status, bad.body) == (401, UNPROVEN)


@pytest.mark.parametrize(
    ("lines", "where", "complaint"),
    [
        (
            "verify: none\n    receive_config: {signature_secret_field: k}",
            (4, "receive_config"),
            "has `verify` as well",
        ),
        (
            "receive_config:\n      signature_secret_field: k\n      signature_algorithm: hmac-md5",
            (5, "receive_config.signature_algorithm"),
            "there is no algorithm 'hmac-md5'; there are: hmac-sha256, hmac-sha1, hmac-sha512",
        ),
        (
            "receive_config:\n      signature_secret_field: k",
            (4, "receive_config.signature_secret_field"),
            "there is no credential 'k'; add `credentials: {k: {env: NAME}}`",
        ),
        (
            "receive_config: {signature_header: X}",
            (3, "receive_config"),
            "missing required field `signature_secret_field`",
        ),
        (
            "receive_config: {signature_head: X}",
            (3, "receive_config.signature_head"),
            "did you mean `signature_header`?",
        ),
        ("verify: none\n    adapter: {url: 'https://a.example'}", (3, "verify"), "this app's adapter verifies"),
        ("adapter: {url: 'ftp://a.example'}", (3, "adapter.url"), "it is neither https nor http"),
        ("verify: none\n    verify_token: {env: X}", (4, "verify_token"), "verify_token is for `scheme: meta`"),
    ],
)
def test_a_mistake_in_an_app_has_its_line(lines: str, where: tuple[int, str], complaint: str) -> None:
    """What can't be meant is refused when the file is read, with line, field and reason."""
    with pytest.raises(Mistakes) as caught:
        read_configuration(f"apps:\n  - name: one\n    {lines}\n")
    (mistake,) = caught.value.mistakes
    assert (mistake.line, mistake.path) == (where[0], f"apps[0].{where[1]}")
    assert complaint in mistake.message


# ---- adapters


def test_an_adapter_verifies_and_parses(machine: Machine) -> None:
    """The adapter's message is what triggers see; the adapter gets headers, body, query and credentials."""
    body = b'{"said": "hello"}'
    answer = machine.post("/api/v1/webhooks/70?of=ann", body, X_Proof=SECRET)
    run_id = machine.last_run
    event_id = answer.document["event_id"]
    run = {"run_id": run_id, "status": "pending", "workflow_id": 15, "started_at": None}
    assert answer.status == 200
    assert answer.document == {**run, "event_id": event_id, "runs": [run]}
    assert machine.ended(run_id)["output"] == {"text": "hello", "of": "ann"}
    (verified, _), (parsed, sent) = [each for each in machine.adapters.asked_of("good") if each[1] is not None][-2:]
    assert (verified, parsed) == ("verify-webhook", "parse-inbound")
    assert (sent["body"], sent["body_encoding"]) == (body.decode(), "utf-8")
    assert sent["query"] == {"of": "ann"}
    assert sent["credentials"] == {"SERVICE_TOKEN": SECRET}
    assert sent["headers"]["x-proof"] == SECRET


def test_a_run_reads_the_adapters_message(machine: Machine) -> None:
    """In a run that an adapter's event started, `event.body` is the adapter's message too."""
    file = machine.folder / "gateway.yaml"
    kept = file.read_text()
    file.write_text(kept.replace("        workflow: echo\n", "        workflow: looks-back\n"))
    machine.gateway("apply")
    outputs: list[Any] = []

    def look() -> bool:
        answer = machine.post("/api/v1/webhooks/70", b'{"said": "again"}', X_Proof=SECRET)
        outputs[:] = [machine.ended(answer.document["run_id"])["output"]]
        return outputs == ["again"]

    until(look, "the new rule is in use")
    file.write_text(kept)
    machine.gateway("apply")


def test_an_adapter_gets_bytes_as_base64(machine: Machine) -> None:
    """A body that is no UTF-8, of any content type, reaches the adapter whole, and the field says how."""
    answer = machine.post("/api/v1/webhooks/70", b"\xff\x00", X_Proof=SECRET, content_type="application/octet-stream")
    assert answer.status == 200
    assert machine.ended(answer.document["run_id"])["input"]["of"] == "/wA="


def test_an_adapters_event_may_match_nothing(machine: Machine) -> None:
    """A message that no trigger wants is stored and starts nothing."""
    answer = machine.post("/api/v1/webhooks/70", b'{"said": "nothing"}', X_Proof=SECRET)
    event_id = answer.document["event_id"]
    assert (answer.status, answer.document) == (202, {"event_id": event_id, "status": "ignored", "runs": []})


def test_an_adapters_event_is_one_delivery(machine: Machine) -> None:
    """A caller's key makes a repetition known behind an adapter as well."""
    first, again = (
        machine.post("/api/v1/webhooks/70", b'{"said": "once"}', X_Proof=SECRET, webhook_id="m1") for _ in range(2)
    )
    assert first.status == 200
    assert first.body == again.body


def test_an_adapters_challenge_is_echoed(machine: Machine) -> None:
    """A challenge_response goes back as plain text, and nothing starts."""
    before = machine.last_run
    answer = machine.post("/api/v1/webhooks/70", b'{"challenge": "abc123"}', X_Proof=SECRET)
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"abc123", "text/plain")
    assert machine.last_run == before


@pytest.mark.parametrize("app", [71, *range(80 + len(BROKEN), 80 + len(BROKEN) + len(REFUSING))])
def test_what_an_adapter_does_not_vouch_for_is_401(machine: Machine, app: int) -> None:
    """Anything but a plain true, or a credential that is not set, is a refusal without a reason."""
    before = machine.last_run
    answer = machine.post(f"/api/v1/webhooks/{app}", b'{"said": "x"}')
    assert (answer.status, answer.body) == (401, UNPROVEN)
    assert machine.last_run == before


def test_a_wrong_proof_is_not_even_parsed(machine: Machine) -> None:
    """The adapter's parser sees only what its verifier believed."""
    parsed = [each for each in machine.adapters.asked_of("good") if each[0] == "parse-inbound"]
    answer = machine.post("/api/v1/webhooks/70", b'{"challenge": "abc123"}', X_Proof="guess")
    assert (answer.status, answer.body) == (401, UNPROVEN)
    assert [each for each in machine.adapters.asked_of("good") if each[0] == "parse-inbound"] == parsed


@pytest.mark.parametrize("behaviour", [*BROKEN, "outside", "unreachable"])
def test_an_adapter_that_is_of_no_use_is_503(machine: Machine, behaviour: str) -> None:
    """Slow, failing, oversize, not ready, no JSON, redirecting, forbidden: come again, in five seconds at most."""
    before, began = machine.last_run, time.monotonic()
    answer = machine.post(f"/api/v1/webhooks/{_app_of(behaviour)}", b'{"said": "x"}')
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (503, USELESS, "2")
    assert time.monotonic() - began < 7
    assert machine.last_run == before


def _app_of(behaviour: str) -> int:
    return {"outside": 72, "unreachable": 73}.get(behaviour) or 80 + BROKEN.index(behaviour)


def test_an_adapters_health_is_kept_for_some_seconds(machine: Machine) -> None:
    """Its health is not asked again with every event."""
    before = [route for route, _ in machine.adapters.asked_of("says-false")]
    for _ in range(5):
        machine.post(f"/api/v1/webhooks/{80 + len(BROKEN) + REFUSING.index('says-false')}", b"{}")
    asked = [route for route, _ in machine.adapters.asked_of("says-false")][len(before) :]
    assert asked.count("verify-webhook") == 5
    assert asked.count("health") <= 2


def test_an_adapter_that_becomes_ready_is_used(machine: Machine) -> None:
    """What was not ready is looked at again soon: 503 until it is, then its events are taken."""
    path, body = f"/api/v1/webhooks/{_app_of('waking')}", b'{"said": "good morning"}'
    assert machine.post(path, body).status == 503
    machine.adapters.awake.set()
    until(lambda: machine.post(path, body).status == 202, "the adapter is used")


def _live(url: str) -> LiveApp:
    return LiveApp(App(id=1, name="one", adapter=AdapterSettings(url)), lambda *_: None)


def _asking(policy: str, apps: Sequence[LiveApp], **options: float) -> list[object]:
    """What comes of asking for all these apps at once."""

    async def ask() -> list[object]:
        async with Client(read_policy(policy)) as client:
            adapters = Adapters(client, **options)
            request = Request("POST", "/", (), b'{"said": "x"}')
            return list(await asyncio.gather(*(adapters.read(app, request) for app in apps), return_exceptions=True))

    return asyncio.run(ask())


def test_many_events_ask_an_adapters_health_once() -> None:
    """Events that come at once share one look at the adapter's health, and the slow are cut off at the budget."""
    with AdapterServer().open() as server:
        apps = [_live(server.url + "/says-true")] * 50
        answers = _asking("127.0.0.1", apps)
        assert answers == [{"text": "x", "sender": {"id": "nobody"}}] * 50
        assert [route for route, _ in server.asked_of("says-true")].count("health") == 1
        began = time.monotonic()
        answers = _asking("127.0.0.1", [_live(server.url + "/slow")] * 120, budget=0.5)
        assert time.monotonic() - began < 3
        assert {type(answer) for answer in answers} == {Unavailable}
        assert not [route for route, _ in server.asked_of("slow") if route == "parse-inbound"]


def test_an_adapter_inside_the_network_is_not_asked() -> None:
    """Without GATEWAY_EGRESS_ALLOW an adapter on loopback gets no connection at all."""
    with AdapterServer().open() as server:
        (answer,) = _asking("", [_live(server.url + "/good")])
        assert isinstance(answer, Unavailable)
        assert answer.details["reason"] == "adapter_unreachable"
        assert server.asked == []


# ---- what commands show and change


def test_an_app_shows_how_it_is_verified(machine: Machine) -> None:
    """`app show` tells an adapter's address and a receive config's secret by its label."""
    adapted, configured = (machine.gateway("app", "show", name) for name in ("good", "sha1"))
    assert (adapted["scheme"], adapted["adapter"]) == ("adapter", machine.adapters.url + "/good")
    assert (configured["scheme"], configured["secrets"]) == ("receive_config", ["env ORQO_SECRET"])


def test_check_warns_of_what_is_not_set(machine: Machine) -> None:
    """`gateway check` names each secret and credential that this environment does not have, and what follows."""
    lines = "\n".join(machine.gateway("check")["warnings"])
    assert (
        "app 'no-credential': its credential SERVICE_TOKEN (env NOWHERE) is not set: it refuses every request" in lines
    )
    assert "app 'forgotten': its secret (env NOWHERE) is not set: it refuses every request" in lines
    assert "app 'good'" not in lines
    assert "has no `verify`" not in lines


def test_an_apps_secret_is_rotated(machine: Machine) -> None:
    """After a rotation the new secret and the one before are taken, after another, forced one the oldest no more."""
    made = machine.gateway("app", "add", "rotated")
    body = b'{"workflow_id": 15}'

    def status(secret: str) -> int:
        return machine.post(made["path"], body, **signed(body, secret)).status

    until(lambda: status(made["secret"]) == 200, "the app is known")
    second = machine.gateway("app", "rotate-secret", "rotated")["secret"]
    until(lambda: status(second) == 200, "the new secret is taken")
    assert status(made["secret"]) == 200
    third = machine.gateway("app", "rotate-secret", str(made["id"]), "--force")["secret"]
    until(lambda: status(third) == 200, "the newest secret is taken")
    assert [status(second), status(made["secret"])] == [200, 401]


def test_an_app_made_by_command_is_disabled_and_removed(machine: Machine) -> None:
    """Disabled it answers 403, enabled it takes events again, removed it is not found."""
    made = machine.gateway("app", "add", "passing")
    body = b'{"workflow_id": 15}'

    def status() -> int:
        return machine.post(made["path"], body, **signed(body, made["secret"])).status

    until(lambda: status() == 200, "the app is known")
    assert machine.gateway("app", "disable", "passing")["disabled"] is True
    until(lambda: status() == 403, "the app is disabled")
    assert machine.gateway("app", "enable", "passing")["disabled"] is False
    until(lambda: status() == 200, "the app is enabled")
    machine.gateway("app", "remove", "passing")
    until(lambda: status() == 404, "the app is gone")


@pytest.mark.parametrize("command", ["disable", "enable", "remove", "rotate-secret"])
def test_an_app_of_the_file_is_changed_in_the_file(machine: Machine, command: str) -> None:
    """A command that the next `apply` would undo is refused, and says where to make the change."""
    complaint = machine.gateway("app", command, "ci", code=1)
    assert complaint == "gateway: app 'ci' comes from gateway.yaml, which manages it: change it there\n"


# ---- ORQO's debug table ("Use the API", step 9)


def test_symptom_404_the_apps_id_is_wrong(machine: Machine) -> None:
    """A wrong id or token is 404, whatever was signed."""
    body = b'{"workflow_id": 15}'
    for name in ("999", "no-such-token", "042", "4%32x"):
        answer = machine.post(f"/api/v1/webhooks/{name}", body, **signed(body))
        expected = b'{"error":"there is no app with this id or token","code":"not_found"}'
        assert (answer.status, answer.body) == (404, expected)


@pytest.mark.parametrize(
    ("app", "headers"),
    [(42, {}), (42, {"X_Signature_256": "sha256=00"}), (42, signed(b"other")), (45, signed(b'{"workflow_id": 15}'))],
)
def test_symptom_401_the_signature_is_wrong(machine: Machine, app: int, headers: dict[str, str]) -> None:
    """No signature, a wrong one, or a secret the gateway does not have: 401, and no run."""
    before = machine.last_run
    answer = machine.post(f"/api/v1/webhooks/{app}", b'{"workflow_id": 15}', **headers)
    assert (answer.status, answer.body) == (401, UNPROVEN)
    assert machine.last_run == before


@pytest.mark.parametrize(
    ("app", "error"), [(43, "this app is disabled"), (44, "this app does not have the capability `receive`")]
)
def test_symptom_403_the_app_may_not_receive(machine: Machine, app: int, error: str) -> None:
    """A disabled app, or one without the capability, is 403 in these words."""
    body = b'{"workflow_id": 15}'
    answer = machine.post(f"/api/v1/webhooks/{app}", body, **signed(body))
    assert (answer.status, answer.body) == (
        403,
        json.dumps({"error": error, "code": "forbidden"}, separators=(",", ":")).encode(),
    )


def test_symptom_a_run_that_fails_at_once(machine: Machine) -> None:
    """A workflow that can't work is accepted; its run fails soon, and `run show` says which step and why."""
    body = json.dumps({"workflow_id": 17}).encode()
    answer = machine.post("/api/v1/webhooks/42", body, **signed(body))
    assert answer.status == 200
    run = machine.ended(answer.document["run_id"])
    assert (run["status"], run["error"]["step"]) == ("failed", "call")
    assert "no_such_module" in run["error"]["message"]
    assert run["session_id"].startswith("ses_")
    assert run["started_at"]


def test_symptom_no_response(machine: Machine) -> None:
    """Where nothing listens there is no answer; where the gateway does, `/readyz` tells what it can do."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE).connect()
    assert machine.ask("GET", "/readyz").status == 200
