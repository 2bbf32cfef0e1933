"""A whole machine for tests of the API: `gateway up` as a user runs it, tokens for it, and plain HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PATIENCE = 60.0
EVERYTHING = ["runs:start", "runs:read", "runs:cancel", "workflows:read", "workflows:write"]
STEPS = '''
import asyncio, pathlib

async def hold(given):
    """Begin, wait for a file to appear, and tell when stopped."""
    folder = pathlib.Path(given["folder"])
    (folder / (given["name"] + ".begun")).touch()
    try:
        while not (folder / (given["name"] + ".go")).exists():
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        (folder / (given["name"] + ".stopped")).touch()
        raise
    return {"held": given["name"]}

async def take(given):
    await asyncio.sleep(given["seconds"])
    return given

def fail(given):
    raise ValueError("it broke")
'''
FILE = """\
workflows:
  - id: 12345
    name: assess
    description: Looks at a person
    input:
      type: object
      properties: {First Name: {type: string}, Age: {type: number}}
      required: [First Name]
    steps:
      - {id: look, name: Look closely, transform: {name: '${input["First Name"]}'}}
    output: {Analysis Results: 'Findings on ${steps.look.output.name}', Risk Score: 85}
  - id: 7
    name: analyze_project
    description: Comprehensive project analysis with AI
    steps:
      - {id: fetch_project, name: Fetch Project Data, transform: '${input.projectId}'}
      - {id: analyze, name: AI Analysis, needs: [fetch_project], transform: {analysis: 'of ${steps.fetch_project.output}'}}
  - id: 8
    name: hold
    steps:
      - {id: wait, python: 'door_steps:hold', with: '${input}'}
  - id: 9
    name: take
    steps:
      - {id: take, python: 'door_steps:take', with: '${input}'}
  - id: 10
    name: fail
    steps:
      - {id: fail, python: 'door_steps:fail'}
      - {id: after, needs: [fail], transform: 1}
  - id: 11
    name: talk
    input: {type: object, properties: {say: {type: string}}, required: [say]}
    steps:
      - {id: recall, transform: '${conversation.turns.map(turn, turn.input.say)}'}
      - {id: answers, transform: '${conversation.turns.map(turn, turn.output.turn)}'}
    output: {turn: '${size(conversation.turns) + 1}', heard: '${steps.recall.output}', answers: '${steps.answers.output}'}
  - id: 13
    name: plain
    steps:
      - {id: echo, transform: '${task}'}
"""


class Reply(NamedTuple):
    """An answer over HTTP; `document` is its body as JSON, None where there is none."""

    status: int
    document: Any
    headers: dict[str, str]


class Machine:
    """A gateway that runs. `folder` is where its file is, and where its steps leave their marks."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = environ
        self.port = int(environ["GATEWAY_PORT"])
        self.url = f"http://127.0.0.1:{self.port}"
        self.token = ""

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        raw: bytes | None = None,
        timeout: float = PATIENCE,
    ) -> Reply:
        """One request on a connection of its own."""
        content = raw if raw is not None else (b"" if body is None else json.dumps(body).encode())
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            connection.request(method, path, content, {"content-type": "application/json"} | (headers or {}))
            answer = connection.getresponse()
            text = answer.read()
            return Reply(answer.status, json.loads(text) if text else None, dict(answer.getheaders()))

    def add_token(self, *scopes: str) -> str:
        """A token with these scopes, that the receiver knows of."""
        argv = [sys.executable, "-m", "gateway", "token", "create", "test", "--json"]
        argv += [word for scope in scopes for word in ("--scope", scope)]
        made = subprocess.run(argv, env=self.environ, capture_output=True, check=True)
        text: str = json.loads(made.stdout)["token"]
        probe = {"authorization": f"Bearer {text}"}
        wait_until(lambda: self.call("GET", "/api/eai/v3/orchestrate/workflows", headers=probe).status != 401)
        return text

    def last_run(self) -> int:
        """The id of the newest run there is."""
        path = "/api/eai/v3/orchestrate/executions?limit=1"
        rows = self.call("GET", path, headers={"authorization": f"Bearer {self.token}"}).document["data"]
        return int(rows[0]["id"].removeprefix("exec_")) if rows else 0


@contextlib.contextmanager
def machine(**settings: str) -> Iterator[Machine]:
    """`gateway up` in a folder of its own, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="gw-doors-") as name:
        made = Machine(Path(name), _environment(Path(name), settings))
        with (made.folder / "gateway.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "up"],
                env=made.environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                wait_until(lambda: process.poll() is not None or _is_ready(made))
                assert process.poll() is None, (made.folder / "gateway.log").read_text()[-3000:]
                made.token = made.add_token(*EVERYTHING)
                yield made
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE)


def _environment(folder: Path, settings: dict[str, str]) -> dict[str, str]:
    (folder / "gateway.yaml").write_text(FILE)
    (folder / "door_steps.py").write_text(STEPS)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    own = {
        "GATEWAY_CONFIG": str(folder / "gateway.yaml"),
        "GATEWAY_DATA_DIR": str(folder / "data"),
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "GATEWAY_LOG_FORMAT": "json",
    }
    return kept | own | settings


def _is_ready(made: Machine) -> bool:
    try:
        return made.call("GET", "/readyz").status == 200
    except OSError:
        return False


def wait_until(condition: Callable[[], Any], within: float = PATIENCE) -> None:
    """Look until the condition is true."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def run_node(folder: Path, script: str) -> str:
    """Run a script as a JavaScript module in Node; skips the test where there is no Node. What it printed."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    path = folder / "sample.mjs"
    path.write_text(script)
    done = subprocess.run([node, str(path)], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "half of it": b'{"input": {',
    "not UTF-8": b'{"input": {"a": "\xff"}}',
    "a lone surrogate": b'{"input": {"a": "\\ud800"}}',
    "a surrogate for a key": b'{"\\udc00": 1}',
    "a list": b"[]",
    "text": b'"text"',
    "null": b"null",
    "a number": b"7",
    "too large a number": b'{"input": {"a": 1e999}, "a": 1e999}',
    "a number of 5000 digits": b'{"input": {"a": %s}, "a": %s}' % (b"9" * 5000, b"9" * 5000),
    "nested too deep": b'{"input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "too large": b'{"input": {"a": "' + b"x" * 1_200_000 + b'"}}',
}
"""Bodies that no door may take."""
