"""How a connection is made: to the approved address and no other, straight or through the operator's proxy.

A proxy is asked for that address (CONNECT, RFC 9110 section 9.3.6), never for a name, whatever the URL's scheme: what
the guard approved is what is dialled. TLS goes through it to the far end, under the name.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

import httpcore2

from gateway.egress import Proxy

LONGEST_HEAD = 16_384
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r\n)")
_END = b"\r\n\r\n"


class PinnedNetwork(httpcore2.AsyncNetworkBackend):
    """Dials the approved address whatever name it is told, and remembers the stream for closing."""

    def __init__(self, address: str, proxy: Proxy | None = None) -> None:
        self._address = address
        self._proxy = proxy
        self._sockets = httpcore2.AnyIOBackend()
        self.stream: httpcore2.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (the signature is httpcore2's)
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        if self._proxy is None:
            self.stream = await self._sockets.connect_tcp(
                self._address, port, timeout=timeout, local_address=local_address, socket_options=socket_options
            )
        else:
            self.stream = await self._go_through(self._proxy, port, timeout)
        return self.stream

    async def _go_through(self, proxy: Proxy, port: int, seconds: float | None) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(seconds):
                stream = await self._sockets.connect_tcp(proxy.host, proxy.port)
                await _ask(stream, proxy, self._address, port)
                return stream
        except TimeoutError:
            message = f"the egress proxy opened no way within {seconds:g} s"
            raise httpcore2.ConnectTimeout(message) from None
        except (httpcore2.NetworkError, httpcore2.TimeoutException, OSError) as error:
            message = f"the egress proxy: {error or type(error).__name__}"
            raise httpcore2.ConnectError(message) from None


async def _ask(stream: httpcore2.AsyncNetworkStream, proxy: Proxy, address: str, port: int) -> None:
    try:
        await stream.write(_write_request(proxy, address, port))
        complaint = _judge(await _read_head(stream))
        if complaint is not None:
            raise httpcore2.ConnectError(complaint)
    except BaseException:
        # Nobody else knows of this stream yet.
        await stream.aclose()
        raise


def _write_request(proxy: Proxy, address: str, port: int) -> bytes:
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


async def _read_head(stream: httpcore2.AsyncNetworkStream) -> bytes:
    head = b""
    while _END not in head and len(head) <= LONGEST_HEAD:
        piece = await stream.read(4096)
        if not piece:
            break
        head += piece
    return head


def _judge(head: bytes) -> str | None:
    """Why the proxy's answer opens no way. A success has no body, so that what follows is the far end's."""
    status = _STATUS.match(head)
    if status is None or _END not in head:
        return "it does not answer as an HTTP proxy does"
    if not status[1].startswith(b"2"):
        return f"it answered {status[1].decode()} to CONNECT"
    return None if head.endswith(_END) and head.count(_END) == 1 else "it says more than its answer to CONNECT"
