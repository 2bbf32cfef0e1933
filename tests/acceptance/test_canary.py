"""No secret is ever seen: one whole gateway, every kind of secret, many ways to fail, and then a search of everything.

What is looked through: all that commands and routes answer, the log, the metrics, the pages, the archive, the callbacks,
Valkey's files on the disk, and what any user of the machine may read of the processes.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import redis
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway import browsers, receipts
from gateway.secrets import new_master_key, read_master_keys, unseal
from tests.acceptance.machine import KEYS, Answer, Listener, Machine, order, orqo_headers, request, until
from tests.tools import RoomyServer

NASTY = "\"<&%+/=?>'"
"""Letters that JSON, HTML, URLs and Python write in other ways."""
NAMES = ("CI_SECRET", "GITLAB_SECRET", "STEP_BEARER", "STEP_SHELL", "VERIFY_TOKEN", "CREDENTIAL", "GATEWAY_MODEL_KEY")
KEPT = ("kept-app", "kept-step")
FILES = ("github", "header")
KEPT_RUNS = 12

CONFIG = """\
apps:
  - {id: 42, name: ci, adapter: direct, receipts: true, verify: {scheme: orqo, secrets: [{env: CI_SECRET}]},
     callback: {url: "CALLBACK_URL", secret: {env: CALLBACK_SECRET}}}
  - id: 43
    name: github
    verify: {scheme: github, secrets: [{file: "KEYS/github"}]}
    triggers: [{name: pushes, when: event.type == "push" && event.body.missing.deep == 1, workflow: greet}]
  - {id: 44, name: kept, adapter: direct, verify: {scheme: orqo, secrets: [{secret: kept-app}]}}
  - {id: 45, name: gitlab, verify: {scheme: gitlab, secrets: [{env: GITLAB_SECRET}]},
     triggers: [{name: all, workflow: greet, input: {a: "${event.body}"}}]}
  - {id: 46, name: meta, verify: {scheme: meta, secrets: [{env: CI_SECRET}]}, verify_token: {env: VERIFY_TOKEN}}
  - {id: 48, name: page, verify: none, form: {token: {min_fill: 0s}}, triggers: [{name: all, workflow: greet}]}
  - {id: 47, name: mediated, adapter: {url: "FAR/adapter"}, credentials: {key: {env: CREDENTIAL}}}
workflows:
  - id: 15
    name: all
    steps:
      - {id: bearer, http: {url: "FAR/echo", method: POST, json: {a: 1}, bearer: {env: STEP_BEARER},
         headers: {x-file: {file: "KEYS/header"}}}}
      - {id: basic, http: {url: "FAR/echo", basic: {user: me, password: {secret: kept-step}}}}
      - {id: tells, shell: {argv: [sh, -c, "env; env >&2; printf %s $KEY | base64"], env: {KEY: {env: STEP_SHELL}}}}
      - {id: asks, model: {model: m, prompt: hello}}
  - {id: 16, name: greet, steps: [{id: only, transform: "hello"}]}
  - {id: 17, name: refused, steps: [{id: a, http: {url: "FAR/fail", bearer: {secret: kept-step}, expect: ["2xx"]}}]}
  - {id: 18, name: crashes, steps: [{id: a, python: "leaks:crash"}]}
  - {id: 19, name: exits, steps: [{id: a, shell: {argv: [sh, -c, "env >&2; exit 3"], env: {KEY: {secret: kept-step}}}}]}
  - {id: 20, name: nowhere, steps: [{id: a, http: {url: "http://127.0.0.1:9/x", bearer: {env: STEP_BEARER}}}]}
"""
LEAKS = '''\
import base64, json, os


def crash(argument):
    """As careless code does: all of its environment is in what it raises."""
    own = {name: value for name, value in os.environ.items() if name in os.environ["CANARIES"].split()}
    whole = json.dumps(own) + repr(own) + str(base64.b64encode(own["CI_SECRET"].encode()))
    raise ValueError(whole)
'''


class Echo:
    """A far end that says back all that it was sent: the worst that an API can do with a secret."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        heads = self.heads

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                told = json.dumps(list(self.headers.values()))
                heads.append(told)
                answer: dict[str, Any] = {"told": told}
                if self.path.endswith("/chat/completions"):
                    message = {"role": "assistant", "content": told}
                    answer = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"total_tokens": 3}}
                body = json.dumps(answer).encode()
                self.send_response(500 if self.path == "/fail" else 200, "Failed")
                self.send_header("content-type", "application/json")
                self.send_header("x-told", quote(told))
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Say nothing on the terminal."""

        self._server = RoomyServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Secrets:
    """The canaries by name, and where each of them is found."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def new(self, name: str) -> str:
        """A secret as nasty as one may be."""
        return self.keep(name, f"canary-{name}-{NASTY}-{os.urandom(8).hex()}")

    def keep(self, name: str, value: str) -> str:
        self.values[name] = value
        return value

    def keep_bytes(self, name: str, raw: bytes) -> None:
        """A key that is no text, in its bytes, and as base64 and hex have it."""
        self.keep(name, "whsec_" + base64.b64encode(raw).decode())

    def find(self, where: str, content: bytes) -> Iterator[str]:
        """Each canary that stands in these bytes, however it is written."""
        for name, value in self.values.items():
            for form in forms(value):
                if form in content:
                    start = content.index(form)
                    yield f"{name} in {where}: ..{content[max(0, start - 80) : start + 20]!r}.."
                    break


def forms(value: str) -> set[bytes]:
    """A secret as it stands in text, JSON, HTML, URLs, Python's own text, hex, and at any place within base64."""
    texts = {value, json.dumps(value)[1:-1], html.escape(value), quote(value, safe="")}
    texts |= {quote(value), quote_plus(value), repr(value)[1:-1], value.encode().hex(), value.encode().hex().upper()}
    for shift in range(3):
        inner = base64.b64encode(b"x" * shift + value.encode()).decode()[4 if shift else 0 : -4]
        texts |= {inner, inner.replace("+", "-").replace("/", "_")}
    found = {text.encode() for text in texts}
    if value.startswith("whsec_"):
        found |= forms(value.removeprefix("whsec_"))
        with suppress(ValueError):
            raw = base64.b64decode(value.removeprefix("whsec_"), validate=True)
            found |= {raw, raw.hex().encode(), base64.urlsafe_b64encode(raw).rstrip(b"=")}
    return found


@pytest.mark.parametrize("value", [f"canary-{NASTY}-0123456789"])
def test_the_search_finds_a_secret_in_any_dress(value: str) -> None:
    """What would be a leak is found: in each encoding, and inside what is encoded with other things around it."""
    secrets = Secrets()
    secrets.keep("one", value)
    dresses = [value, json.dumps({"a": value}), f"user:{value}", quote(f"a={value}&"), html.escape(value), str([value])]
    for dress in dresses:
        for content in (dress.encode(), base64.b64encode(f"user:{value}".encode()), value.encode().hex().encode()):
            assert list(secrets.find("here", b"before" + content + b"after")), content
    assert not list(secrets.find("here", b"canary-"))


class Stage:
    """One gateway with a secret in every place that takes one."""

    def __init__(self, machine: Machine, listener: Listener, far: Echo, keys: Path) -> None:
        self.machine = machine
        self.secrets = Secrets()
        self.seen: dict[str, bytes] = {}
        self.far = far
        given = {name: self.secrets.new(name) for name in NAMES}
        key = "whsec_" + base64.b64encode(os.urandom(32)).decode()
        given["CALLBACK_SECRET"] = self.secrets.keep("CALLBACK_SECRET", key)
        masters = [self.secrets.keep(f"master {n}", new_master_key()) for n in (1, 2)]
        given["GATEWAY_MASTER_KEYS"] = ",".join(masters)
        self.masters = read_master_keys(masters)
        for n, master in enumerate(self.masters, 1):
            for what, purpose in (("forms", browsers.PURPOSE), ("receipts", receipts.PURPOSE)):
                made = HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(master)
                self.secrets.keep_bytes(f"key of {what} {n}", made)
        for name in FILES:
            (keys / name).write_text(self.secrets.new(f"file {name}"))
        text = CONFIG.replace("CALLBACK_URL", listener.url).replace("FAR", far.url).replace("KEYS", str(keys))
        machine.config.write_text(text)
        (machine.folder / "leaks.py").write_text(LEAKS)
        names = " ".join(given)
        machine.environ |= given | {"GATEWAY_MODEL_URL": f"{far.url}/v1", "CANARIES": names}

    def set_up(self) -> None:
        """Start it, and make everything that is shown once."""
        machine = self.machine.start().wait_ready()
        for name in KEPT:
            self.look(f"secret set {name}", machine.run("secret", "set", name, given=self.secrets.new(name) + "\n"))
        self.admin = self._make("token", "token", "create", "admin", "--scope", "admin")
        self.hook = self._make("hook", "hook", "add", "greet")
        made = machine.json("app", "add", "made", "--callback-url", "http://127.0.0.1:9/told")
        self.first = self.secrets.keep("made", made["secret"])
        self.secrets.keep("made's callback", made["callback_secret"])
        self.made = made["id"]
        self.second = self.secrets.keep("rotated", machine.json("app", "rotate-secret", "made")["secret"])
        until(lambda: self.ask("/api/v1/apps")[0] == 200, "the token to be known")
        self._add_endpoint()

    def _add_endpoint(self) -> None:
        """An endpoint made by command, with all that it may keep secret, in the middle of a rotation, as the app's own
        callback is.
        """
        header = self.secrets.new("endpoint's header")
        given = ("--signing-key", "--header", f"X-Api-Key: {header}", "--schedule", "0")
        made = self.machine.json("endpoint", "add", "ops", f"{self.far.url}/echo", *given)
        self.secrets.keep("endpoint's first", made["secret"])
        record = json.loads(self.store("HGET", KEYS.named("endpoints"), made["id"]))
        key = unseal(self.masters, "endpoint:ops#signing_key", record["signing_key"]["sealed"])
        # Its other half is the public key.
        self.secrets.keep_bytes("endpoint's signing key", base64.b64decode(key.removeprefix("whsk_"))[:32])
        for path, field, body in (
            ("endpoints/ops", "secret", {}),
            ("apps/made", "callback_secret", {"callback": True}),
        ):
            answer = self.call(f"/api/v1/{path}/rotate-secret", "POST", body)
            assert answer.status == 200, answer
            self.secrets.keep(f"rotated, of {path}", answer.json()[field])

    def store(self, *words: str) -> Any:
        """What the store answers."""
        with redis.Redis.from_url(self.machine.store_url) as client:
            return client.execute_command(*words)

    def _make(self, name: str, *argv: str) -> str:
        return self.secrets.keep(name, self.machine.json(*argv)["token"])

    def look(self, what: str, done: Any) -> str:
        """Keep what a command said, to be searched."""
        self.seen[f"gateway {what}"] = (done.stdout + done.stderr).encode()
        return str(done.stdout)

    def ask(self, path: str, method: str = "GET", body: object = None, **headers: str) -> tuple[int, Any]:
        """Keep what a route answered, to be searched."""
        answer = self.call(path, method, body, **headers)
        told = repr(sorted(answer.headers.items())).encode() + answer.body
        # The answer may repeat the path; a hook's token stands in that one.
        self.seen[f"{method} {path.replace(self.hook, 'HOOK')} #{len(self.seen)}"] = told
        return answer.status, answer.body

    def call(self, path: str, method: str = "GET", body: object = None, **headers: str) -> Answer:
        """What a route answers, which may show a secret this once."""
        given = {"Authorization": f"Bearer {self.admin}", "Content-Type": "application/json"} | headers
        content = None if body is None else json.dumps(body).encode()
        return request(self.machine.url + path, method, content, given)

    def run_all(self) -> None:
        """Send what is good and what is not, and wait for what it started."""
        machine, secrets = self.machine, self.secrets.values
        started = [self.order(workflow) for workflow in range(15, 21)]
        states = [machine.wait_run(run).state for run in started]
        assert states == ["completed", "completed", "failed", "failed", "failed", "failed"]
        body = order("kept", 16)
        assert self._send(44, body, orqo_headers(body, secrets["kept-app"])) == 200
        for secret in (self.first, self.second):
            assert self._send(self.made, body, orqo_headers(body, secret)) == 200
        token = {"X-Gitlab-Token": secrets["GITLAB_SECRET"], "X-Gitlab-Event": "Push Hook"}
        assert self._send(45, b'{"n": 1}', token) == 200
        assert self._send(45, b'{"n": 2}', {"X-Gitlab-Token": secrets["CI_SECRET"]}) == 401
        wrong = orqo_headers(body, secrets["GITLAB_SECRET"])
        for path in ("42", f"42?secret={quote(secrets['CI_SECRET'])}", "43", "nobody"):
            assert self._send(path, body, wrong) in (401, 404)
        assert self._send(42, body, {"Authorization": f"Bearer {secrets['CI_SECRET']}"}) == 401
        assert self._send(42, b"{", orqo_headers(b"{", secrets["CI_SECRET"])) in (400, 422)
        asked = f"46?hub.mode=subscribe&hub.challenge=12&hub.verify_token={quote(secrets['VERIFY_TOKEN'])}"
        assert self.ask(f"/api/v1/webhooks/{asked}")[0] == 200
        self._send(47, b"{}", {})
        page = json.loads(self.ask("/api/v1/webhooks/48/form-token")[1])
        filled = f"_token={page['token']}&about=x".encode()
        assert self._send(48, filled, {"Content-Type": "application/x-www-form-urlencoded"}) == 200
        pinged = self.call("/api/v1/endpoints/ops/ping", "POST").json()["callback_id"]
        until(lambda: b'"delivered"' in self.ask(f"/api/v1/callbacks/{pinged}")[1], "the ping to be delivered")
        assert self.ask(f"/api/v1/hooks/{self.hook}", "POST", {"a": 1})[0] == 201
        assert self.ask(f"/api/v1/hooks/{self.hook}x", "POST", {})[0] == 404
        assert self.ask("/api/v1/runs", Authorization=f"Bearer {self.admin}x")[0] == 401
        assert self.ask(f"/api/v1/runs?token={self.admin}", Authorization="")[0] in (400, 401)
        assert self.ask("/api/v1/secrets/kept-step", "PUT", {"value": "short", "x": secrets["kept-step"]})[0] == 422
        assert self.ask("/api/v1/secrets/kept-step", "PUT", {"value": secrets["kept-step"] + "\n"})[0] == 422
        keyed = {"Idempotency-Key": "canary"}
        assert self.ask("/api/v1/secrets/kept-step", "PUT", {"value": secrets["kept-step"]}, **keyed)[0] == 200

    def order(self, workflow: int) -> int:
        """Start a run of this workflow."""
        body = order(f"w{workflow}", workflow)
        answer = self.machine.post(body, headers=orqo_headers(body, self.secrets.values["CI_SECRET"]))
        assert answer.status == 200, answer
        return int(answer.json()["run_id"])

    def _send(self, app: object, body: bytes, headers: dict[str, str]) -> int:
        given = {"Content-Type": "application/json"} | headers
        answer = request(f"{self.machine.url}/api/v1/webhooks/{app}", "POST", body, given)
        self.seen[f"webhook {app} #{len(self.seen)}"] = repr(answer.headers).encode() + answer.body
        return answer.status

    def look_around(self) -> None:
        """Every command and every route that shows something."""
        machine = self.machine
        # What was refused is written a little later than it is answered.
        late = "/api/v1/events?outcome=refused"
        until(lambda: self.call(late).json()["data"], "the refused deliveries to be kept")
        events = machine.json("event", "list", "--limit", "100")
        refused = next(each["event_id"] for each in events if each["decision"]["outcome"] == "refused")
        accepted = next(each["event_id"] for each in events if each["decision"]["outcome"] == "accepted")
        commands = [f"{kind} list --json" for kind in ("app", "run", "event", "callback", "audit", "secret")]
        commands += ["app show made", "run show 1 --json", "run show 4", f"event explain {refused}"]
        commands += ["endpoint show ops", "receipt chain 42", "receipt keys"]
        commands += [
            f"event show {accepted} --capture",
            f"doctor {refused}",
            "doctor",
            "check",
            "plan",
            "secret rewrap",
        ]
        # Two at a time: most of what a command takes is its own start.
        with ThreadPoolExecutor(2) as both:
            done = both.map(lambda command: machine.run(*command.split()), commands)
            for command, said in zip(commands, done, strict=True):
                self.look(command, said)
        paths = ["/metrics", "/openapi.json", "/docs", "/readyz", "/livez", "/"]
        paths += [f"/api/v1/{kind}" for kind in ("runs", "events", "callbacks", "apps", "hooks", "tokens", "secrets")]
        paths += ["/api/v1/endpoints", "/api/v1/endpoints/ops", "/.well-known/gateway-receipts.json"]
        paths += ["/api/v1/audit", "/api/v1/workflows", "/api/v1/apps/42", "/api/v1/apps/made"]
        paths += [f"/api/v1/runs/{run}{part}" for run in range(1, 7) for part in ("", "/steps", "/timeline")]
        paths += [
            f"/api/v1/events/{each['event_id']}{part}" for each in events for part in ("", "/explain", "/capture")
        ]
        for path in paths:
            self.ask(path)

    def look_at_processes(self) -> None:
        """What anybody may read of any of them; and of the server, which needs none of it, the environment too."""
        for name, pid in self.machine.children().items():
            self.seen[f"argv of {name}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
        self.seen["environment of valkey"] = Path(f"/proc/{self.machine.children()['valkey']}/environ").read_bytes()

    def look_at_files(self, folders: list[Path]) -> None:
        """All files that the gateway and its server wrote."""
        for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            if path.suffix == ".gz":
                content = gzip.decompress(content)
            self.seen[str(path)] = content


def test_no_secret_is_ever_seen(
    tmp_path_factory: pytest.TempPathFactory, make_machine: Any, listener: Listener
) -> None:
    """After all that may happen to a secret, none of them stands in any answer, log, page, metric or file."""
    keys, archive = tmp_path_factory.mktemp("keys"), tmp_path_factory.mktemp("archive")
    machine = make_machine(log_level="debug", archive_dir=archive, keep_runs=KEPT_RUNS)
    with closing(Echo()) as far:
        stage = Stage(machine, listener, far, keys)
        stage.set_up()
        stage.run_all()
        stage.look_around()
        for _ in range(KEPT_RUNS):
            stage.order(16)
        until(lambda: list(archive.glob("*.gz")), "the archive to be written")
        stage.look_at_processes()
        with redis.Redis.from_url(machine.store_url) as store:
            store.save()
        assert machine.stop() == 0
        heads = "".join(far.heads)
    stage.look_at_files([machine.folder, archive, listener.ledger.path.parent])
    # The far end was given them: it is not for want of secrets that none is found.
    for name in ("STEP_BEARER", "kept-step", "file header", "GATEWAY_MODEL_KEY", "endpoint's header"):
        assert any(form.decode() in heads for form in forms(stage.secrets.values[name]) if form.isascii()), name
    assert any(path.endswith(".rdb") for path in stage.seen), sorted(stage.seen)
    assert any(".aof" in path for path in stage.seen)
    found = [leak for where, content in stage.seen.items() for leak in stage.secrets.find(where, content)]
    assert not found, "\n".join(found[:60])
