"""A server that speaks the part of GitHub's API that lists a hook's deliveries and sends one again."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.tools import RoomyServer

PATH = "/repos/acme/site/hooks/77/deliveries"
TOKEN = "a-token-for-the-api"
PAGE = 3


class Sent:
    """One delivery that this GitHub made, with the attempts at it."""

    def __init__(self, number: int, guid: str, event: str, body: bytes, at: datetime) -> None:
        self.number = number
        self.guid = guid
        self.event = event
        self.body = body
        self.at = at
        self.status = 0

    @property
    def row(self) -> dict[str, Any]:
        return {
            "id": self.number,
            "guid": self.guid,
            "delivered_at": self.at.isoformat().replace("+00:00", "Z"),
            "redelivery": False,
            "duration": 0.1,
            "status": "OK" if self.status == 200 else "failed to connect to host",
            "status_code": self.status,
            "event": self.event,
            "action": None,
            "installation_id": None,
            "repository_id": 1,
        }


class GitHubServer:
    """Makes deliveries at its `door` (port, path), and lists them in pages of three. `troubles` are answered first."""

    def __init__(self, secret: str) -> None:
        self.door = (0, "")
        self._secret = secret
        self.sent: list[Sent] = []
        self.asked: list[str] = []
        self.troubles: list[int] = []
        self.url = ""

    def deliver(self, guid: str, *, lost: bool = False, age: float = 600, event: str = "push", **body: Any) -> Sent:
        """Make a delivery; a `lost` one is written into the list and reaches nobody. `age` in seconds."""
        text = json.dumps({"guid": guid, **body}).encode()
        sent = Sent(len(self.sent) + 1, guid, event, text, datetime.now(UTC) - timedelta(seconds=age))
        self.sent.append(sent)
        if not lost:
            self.post(sent)
        return sent

    def post(self, sent: Sent) -> None:
        port, path = self.door
        digest = hmac.new(self._secret.encode(), sent.body, hashlib.sha256).hexdigest()
        headers = {
            "content-type": "application/json",
            "x-github-event": sent.event,
            "x-github-delivery": sent.guid,
            "x-hub-signature-256": f"sha256={digest}",
        }
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("POST", path, sent.body, headers)
            sent.status = connection.getresponse().status
        finally:
            connection.close()

    def answer(self, method: str, target: str, token: str | None) -> tuple[int, bytes, dict[str, str]]:
        if self.troubles:
            return self.troubles.pop(0), b'{"message": "no"}', {}
        if token != f"Bearer {TOKEN}":
            return 401, b'{"message": "Bad credentials"}', {}
        parts = urlsplit(target)
        if method == "GET" and parts.path == PATH:
            return self._page(parse_qs(parts.query))
        if method == "POST" and parts.path.startswith(PATH) and parts.path.endswith("/attempts"):
            return self._again(int(parts.path.split("/")[-2]))
        return 404, b'{"message": "Not Found"}', {}

    def _page(self, query: dict[str, list[str]]) -> tuple[int, bytes, dict[str, str]]:
        before = int(query.get("cursor", ["v1_999999"])[0].removeprefix("v1_"))
        rows = [each for each in sorted(self.sent, key=lambda each: -each.number) if each.number < before]
        headers = {"content-type": "application/json"}
        if len(rows) > PAGE:
            cursor = f"v1_{rows[PAGE - 1].number}"
            headers["link"] = f'<{self.url}{PATH}?per_page=100&cursor={cursor}>; rel="next"'
        return 200, json.dumps([each.row for each in rows[:PAGE]]).encode(), headers

    def _again(self, number: int) -> tuple[int, bytes, dict[str, str]]:
        sent = next(each for each in self.sent if each.number == number)
        self.asked.append(sent.guid)
        again = Sent(len(self.sent) + 1, sent.guid, sent.event, sent.body, datetime.now(UTC))
        self.sent.append(again)
        self.post(again)
        return 202, b"{}", {"content-type": "application/json"}

    @contextlib.contextmanager
    def serving(self) -> Iterator[GitHubServer]:
        github = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                status, body, headers = github.answer(self.command, self.path, self.headers.get("authorization"))
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *_: object) -> None:
                pass

        with RoomyServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
