"""HTTP by hand: requests as bytes, for those that no client would write."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress

PATIENCE = 10.0


def write(method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """A request's bytes; host, length and the end of the connection are added where they are not given."""
    given = [*headers]
    if not any(name in ("content-length", "transfer-encoding") for name, _ in given):
        given.append(("content-length", str(len(body))))
    if not any(name == "host" for name, _ in given):
        given.append(("host", "gateway.example"))
    lines = [f"{method} {target} HTTP/1.1", "connection: close"]
    lines += [f"{name}: {value}" for name, value in given]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def speak(port: int, data: bytes) -> bytes:
    """Send these bytes, and give all that comes back until the other side hangs up."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as line:
        line.sendall(data)
        with suppress(ConnectionError):
            while chunk := line.recv(65_536):
                answer += chunk
    return answer
