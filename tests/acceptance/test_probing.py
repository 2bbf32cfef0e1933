"""A probe finds what a receiver does wrong, and nothing else. The receivers are real, and each is careless in one way."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from gateway.signatures import PRESETS, Request, verify
from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import CI_SECRET, GITHUB_SECRET
from tests.tools import RoomyServer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CAP = 1_000_000
PATIENCE = 1.0
UNPROVEN = ("mismatch", "missing_header", "no_candidate")
Answer = tuple[int, bytes]


class Receiver:
    """A receiver by the book, except in what `careless` names."""

    def __init__(self, careless: str) -> None:
        self.careless = careless
        self.seen: dict[str, tuple[bytes, Answer]] = {}

    def answer(self, request: Request) -> Answer:
        if len(request.body) > CAP:
            return 413, b""
        if not self._is_proven(request):
            return 401, b""
        identity = next(iter(request.values("webhook-id")), "")
        if self.careless != "doubles" and identity in self.seen:
            body, answer = self.seen[identity]
            return answer if body == request.body else (409, b"")
        answer = self._take(request)
        self.seen[identity] = (request.body, answer)
        return answer

    def _is_proven(self, request: Request) -> bool:
        now = time.time()
        if self.careless == "timeless":
            now = float(next(iter(request.values("webhook-timestamp")), "0"))
        verdict = verify(PRESETS["standard-webhooks"], (SECRET,), request, now)
        return verdict.valid or (self.careless == "trusting" and verdict.reason in UNPROVEN)

    def _take(self, request: Request) -> Answer:
        if self.careless == "slow":
            time.sleep(PATIENCE * 1.5)
        try:
            document = json.loads(request.body)
        except ValueError:
            return (500 if "broken" in self.careless else 400), b""
        if "choosy" in self.careless and document["type"] != "probe":
            return 422, b""
        return 200, b"%d" % len(self.seen)


def read_within(read: Callable[[int], bytes], size: int, seconds: float) -> bytes:
    """The whole body. Raises TimeoutError when it takes longer."""
    body, end = b"", time.monotonic() + seconds
    while len(body) < size:
        body += read(size - len(body))
        if time.monotonic() > end:
            raise TimeoutError
    return body


@contextmanager
def served(receiver: Receiver) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                body = read_within(self.rfile.read1, int(self.headers["content-length"]), PATIENCE)
                status, words = receiver.answer(
                    Request("POST", self.path, tuple((k.lower(), v) for k, v in self.headers.items()), body)
                )
            except TimeoutError:
                status, words = 408, b""
                self.close_connection = True
            self.send_response(status)
            self.send_header("content-length", str(len(words)))
            self.end_headers()
            self.wfile.write(words)

        def log_message(self, *_: object) -> None:
            pass

    with RoomyServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("careless", "failed"),
    [
        ("in nothing", []),
        ("trusting", ["unsigned", "wrong secret", "changed body", "unknown version"]),
        ("timeless", ["stale", "from the future"]),
        ("doubles", ["delivered twice", "one id, two bodies"]),
        ("broken, choosy", ["unknown type", "not JSON"]),
        ("slow", ["good", "delivered twice", "two signatures", "unknown type", "slow"]),
    ],
)
def test_a_probe_finds_what_a_receiver_is_careless_in(careless: str, failed: list[str]) -> None:
    """By the command, with its exit status: 0 for full marks, 1 otherwise."""
    with served(Receiver(careless)) as url:
        argv = ["probe", url, "--secret", SECRET, "--patience", str(PATIENCE), "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *argv], capture_output=True, text=True, timeout=90, check=False
        )
    assert done.stderr == ""
    document = json.loads(done.stdout)
    found = [each["trial"] for each in document["trials"] if not each["passed"]]
    if careless == "slow":
        assert set(found) <= set(failed)
        assert "good" in found
    else:
        assert found == failed
    assert done.returncode == (1 if failed else 0)
    assert document["of"] == len(document["trials"]) == 14


def test_our_own_receiver_gets_full_marks(up: MakeMachine) -> None:
    """Through GitHub's scheme and through ORQO's, whose body names the workflow."""
    machine = up(body_timeout=1)
    for app, scheme, secret, data in (
        (43, "github", GITHUB_SECRET, '{"ref": "refs/heads/main", "after": "abc"}'),
        (42, "orqo", CI_SECRET, '{"workflow_id": 16, "input": {"name": "probe"}}'),
    ):
        argv = ["probe", f"{machine.url}/api/v1/webhooks/{app}", "--scheme", scheme, "--secret", secret, "--data", data]
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *argv], capture_output=True, text=True, timeout=90, check=False
        )
        assert "full marks" in done.stdout, done.stdout + done.stderr
        assert done.returncode == 0
