"""The server's own HTTP protocol: what it knows of a body before anybody reads it."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.types import Receive, Scope, Send

from gateway.web.bodies import WHOLE, read_body
from gateway.web.protocol import Protocol, Server
from tests.tools import tell, until

HEAD = b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\n\r\n"


def test_only_a_request_that_came_whole_says_so() -> None:
    """One whose last bytes are still on their way does not, also behind others on its connection; all are read."""
    seen: list[bool] = []
    bodies: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(WHOLE in scope)
        bodies.append(await read_body(scope, receive, 10, 20))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def story() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        server = Server(uvicorn.Config(app, http=Protocol, ws="none", lifespan="off", log_config=None), lambda: None)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(HEAD + b"one." + HEAD + b"two.")
        await until(lambda: len(bodies) == 2)
        writer.write(HEAD + b"th")
        await until(lambda: len(seen) == 3)
        writer.write(b"r.")
        await until(lambda: len(bodies) == 3)
        writer.close()
        server.should_exit = True
        await serving
        listener.close()

    tell(story())
    assert seen == [True, True, False]
    assert bodies == [b"one.", b"two.", b"thr."]
