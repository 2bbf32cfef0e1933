"""Live timelines: server-sent events of one run, from where the client left off, until the run has ended.

Source of the format: HTML Living Standard, section 9.2, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.control import LOOK_AGAIN, Control
from gateway.errors import BadRequest, NotFound
from gateway.runs import TERMINAL, Run
from gateway.store.connection import MISTAKES
from gateway.timelines import Entry, timeline
from gateway.web.bodies import ClientGone, while_connected
from gateway.web.callers import Headers

HEARTBEAT = 15.0
RETRY_MS = 2000
START = f"retry: {RETRY_MS}\n\n".encode()
BEAT = b": the run goes on\n\n"
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
LONGEST_ID = 20


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream; `data` is an entry of the timeline as JSON.

    A `step.delta` has no id: its `data` is a piece of what a step is just saying, which is not kept.
    """

    event: str
    data: str
    id: str = ""


class EventStream(Response):
    """An answer that goes on: `first`, and what comes after it. Ends with them, or when the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, chunks: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers=HEADERS)
        self._first = first
        self._chunks = chunks
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._chunks):
            with contextlib.suppress(ClientGone):
                await while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def open_stream(control: Control, run_id: int, after: int) -> EventStream:
    """A run's timeline from after the entry `after` on. Raises TooManyWaiters before anything is sent."""
    chunks = follow(control, run_id, after)
    return EventStream(await anext(chunks), chunks)


async def follow(control: Control, run_id: int, after: int) -> AsyncGenerator[bytes, None]:
    """The chunks of a stream: each entry once, in order; a comment when nothing was sent for HEARTBEAT seconds.

    Ends early when this process stops: the client comes back with its last id.
    What a step says meanwhile is passed on as `step.delta`, without an id: it is not kept, and not told again.
    """
    feed, clock = Feed(after), asyncio.get_running_loop().time
    async with control.follow(run_id) as hearing:
        yield START
        spoken = looked = clock()
        while True:
            left = min(looked + LOOK_AGAIN, spoken + HEARTBEAT) - clock()
            words, moved = await hearing.listen(max(left, 0))
            chunk, run = b"".join(b"event: step.delta\ndata: %b\n\n" % word for word in words), None
            if moved or clock() - looked >= LOOK_AGAIN:
                run, looked = await _look(control, run_id), clock()
                chunk += b"" if run is None else feed.take(run)
            if chunk or clock() - spoken >= HEARTBEAT:
                yield chunk or BEAT
                spoken = clock()
            if control.stopping or (run is not None and run.state in TERMINAL):
                return


class Feed:
    """What one client has been sent of a timeline."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._last = after
        self._sent: set[int] = set()

    def take(self, run: Run) -> bytes:
        """What is new, as it is sent."""
        new = [entry for entry in timeline(run) if entry.id > self._after and entry.id not in self._sent]
        self._sent.update(entry.id for entry in new)
        return b"".join(self._write(entry) for entry in new)

    def _write(self, entry: Entry) -> bytes:
        data = b"event: %b\ndata: %b\n\n" % (entry.event.encode(), msgspec.json.encode(entry))
        if entry.id < self._last:
            # Recorded late, by another step's side: without an id, so that the client's place stays where it is.
            return data
        self._last = entry.id
        return b"id: %d\n%b" % (entry.id, data)


def read_last_id(headers: Headers) -> int:
    """The client's `Last-Event-ID`; 0 when it has none. Raises BadRequest for one that was never ours."""
    given = [value.strip() for name, value in headers if name == b"last-event-id"]
    if not given or given == [b""]:
        return 0
    if len(given) > 1 or not given[0].isdigit() or len(given[0]) > LONGEST_ID:
        message = "last-event-id is no id of this stream; leave it out to get everything"
        raise BadRequest(message)
    return int(given[0])


async def _look(control: Control, run_id: int) -> Any:
    """The run; None when the store doesn't answer now: the next look will tell."""
    try:
        return await control.run(run_id)
    except (NotFound, *MISTAKES):
        return None
