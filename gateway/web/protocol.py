"""uvicorn, with four things changed: how long a head may be, how answers leave, what is known of a body, how it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.web.bodies import WHOLE

LARGEST_HEAD = 65_536
"""Bytes of a request's first line and headers, beside those that came in one piece with its beginning."""
MOST_HEADERS = 200
TOO_LARGE = "The request's head is too large."


class JoinedWrites:
    """Head and body in one write, where uvicorn makes two: a write is the dearest thing a request does.

    A transport that sends at once what is written within one turn of the event loop; else as the one it holds.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()


class HeadTooLarge(Exception):
    """The parser makes a 400 of it."""


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP on httptools, with bounds for a request's head, which it has none for, and joined writes.

    A request that has come whole says so in its scope.
    """

    _in_head = False
    _head_size = 0

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_size += len(data)
            if self._head_size > LARGEST_HEAD:
                self.send_400_response(TOO_LARGE)
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._in_head, self._head_size = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        headers = self.headers
        if len(headers) > MOST_HEADERS or sum([len(name) + len(value) for name, value in headers]) > LARGEST_HEAD:
            raise HeadTooLarge
        super().on_headers_complete()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport, self.loop)))

    def on_message_complete(self) -> None:
        super().on_message_complete()
        cast("dict[str, Any]", self.scope)[WHOLE] = True


class Server(uvicorn.Server):
    """Calls `on_stop` before it waits for the requests under way, so that those may hurry which would take long."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)
