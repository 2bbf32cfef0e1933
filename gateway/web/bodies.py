"""Reading a request's body under a cap and a deadline, whatever its headers claim."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from gateway.errors import BadRequest, Timeout, TooLarge

WHOLE = "gateway.whole"
"""In the scope of a request whose last byte had come before anybody read it: so nobody has to wait, and to watch a clock."""
LINGER = 1.0
"""Seconds for which the rest of a refused body is thrown away before the connection is closed."""
LONGEST_LENGTH = 20
"""Digits of a content-length."""
Result = TypeVar("Result")


class ClientGone(Exception):
    """The client went away before it was answered: there is nobody to answer, and nothing more to start."""


async def read_body(scope: Scope, receive: Receive, cap: int, seconds: float) -> bytes:
    """The whole body, or ClientGone, Timeout after `seconds`, TooLarge at `cap` bytes, read so far or announced."""
    _check_length(scope, cap)
    if WHOLE in scope:
        return await _gather(receive, cap)
    try:
        async with asyncio.timeout(seconds):
            return await _gather(receive, cap)
    except TimeoutError:
        message = f"the body did not arrive within {seconds:g} seconds"
        raise Timeout(message) from None


async def send_and_close(
    receive: Receive, send: Send, status: int, headers: list[tuple[bytes, bytes]], content: bytes
) -> None:
    """Answer somebody who may still be sending, and close the connection.

    Not at once: what arrives at a closed connection resets it, and the answer is lost on all who read after they wrote.
    Source: RFC 9112, section 9.6.
    """
    closing = [*headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": closing})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b""})


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Do something that may take long for a client who has sent its whole body. Ended by ClientGone when it leaves."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_leave(receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for each in (task, leaving):
            each.cancel()
        # Whoever waited must have let go of what it held before this request counts as over.
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


async def _leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _check_length(scope: Scope, cap: int) -> None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            # Python makes no number of thousands of digits, be they all zeros.
            if not value.isdigit() or len(value) > LONGEST_LENGTH:
                message = "content-length is not a number"
                raise BadRequest(message)
            if int(value) > cap:
                raise _too_large(cap)


async def _gather(receive: Receive, cap: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > cap:
            raise _too_large(cap)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(cap: int) -> TooLarge:
    return TooLarge(f"the body is larger than the {cap} bytes this app accepts")
