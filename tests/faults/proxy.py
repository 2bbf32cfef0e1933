"""A TCP proxy that counts packets and does harm to one of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

from msgspec import Struct

Way = Literal["to server", "to client"]
Deed = Literal["cut", "pause"]
READ = 16_384


class Harm(Struct, frozen=True):
    """What to do to the packet `number` (from 1) that goes this way: pass `share` of its bytes, then cut or pause.

    A pause holds this connection's packets back for `seconds`, a cut ends it without a word to either side.
    """

    number: int
    way: Way
    deed: Deed
    share: float
    seconds: float


class Proxy:
    """Stands between clients and a server. Counts begin anew with each `arm`."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._harm: Harm | None = None
        self._counts: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.done = False

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._welcome, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def arm(self, harm: Harm | None) -> None:
        """Do this harm next, or none. `done` says whether its packet has come."""
        self._harm, self._counts, self.done = harm, {"to server": 0, "to client": 0}, False

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            try:
                await self._join(reader, writer, far_reader, far_writer)
            finally:
                writer.transport.abort()
                far_writer.transport.abort()

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        ways = [
            asyncio.ensure_future(self._carry(reader, far_writer, "to server")),
            asyncio.ensure_future(self._carry(far_reader, writer, "to client")),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        while packet := await reader.read(READ):
            harm = self._meets(way)
            if harm is None:
                writer.write(packet)
            else:
                writer.write(packet[: int(len(packet) * harm.share)])
                await writer.drain()
                if harm.deed == "cut":
                    return
                await asyncio.sleep(harm.seconds)
                writer.write(packet[int(len(packet) * harm.share) :])
            await writer.drain()

    def _meets(self, way: Way) -> Harm | None:
        if self._harm is None or self._harm.way != way or self.done:
            return None
        self._counts[way] += 1
        self.done = self._counts[way] == self._harm.number
        return self._harm if self.done else None
