"""A web site of our own: its pages, on a port of their own, and so of an origin that is not the gateway's."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler
from types import TracebackType

from tests.tools import RoomyServer


class Site:
    """Serves pages by their paths, each under whatever query, until it is closed."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self._server = RoomyServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        pages = self.pages

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                body = (page or "there is no such page").encode()
                self.send_response(200 if page else 404)
                self.send_header("content-type", "text/html; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing on the terminal."""

        return Handler
