"""The audit log in the store: a stream to which entries are only added, each under its own number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias

import msgspec
from redis.exceptions import WatchError

from gateway.audit import Actor, Change, Entry, Fault, acting, find_fault, write_entries
from gateway.errors import GatewayError, Unavailable
from gateway.store.connection import Redis
from gateway.store.keys import Keys
from gateway.tasks import end_tasks

PAGE = 500
MOST_TRIES = 200
Pipeline: TypeAlias = Any
Draft: TypeAlias = tuple[Change, Actor, "asyncio.Future[None]"]


class AuditUnreadable(GatewayError):
    """An entry of the audit log can't be read."""

    code = "audit_unreadable"


class Audit:
    """Adds to the log and reads it. What many ask for at once is written together."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self.key = keys.named("audit")
        self._waiting: list[Draft] = []
        self._writer: asyncio.Task[None] | None = None

    async def note(self, action: str, subject: str, **detail: Any) -> None:
        """Write down what whoever acts in this task is about to do. Raises what the store raises; then it isn't done."""
        written = asyncio.get_running_loop().create_future()
        change = Change(action=action, subject=subject, detail={k: v for k, v in detail.items() if v is not None})
        self._waiting.append((change, acting.get(), written))
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())
        await written

    async def watch(self, pipe: Pipeline) -> tuple[Entry | None, int]:
        """The newest entry, which must still be that when `pipe` is executed, and the store's time (ms)."""
        await pipe.watch(self.key)
        rows = await pipe.xrevrange(self.key, count=1)
        seconds, micros = await pipe.time()
        return (read_row(rows[0]) if rows else None), int(seconds * 1000 + micros // 1000)

    def add(self, pipe: Pipeline, changes: Sequence[Change], actor: Actor, at: int, last: Entry | None) -> Entry | None:
        """Put the entries of these changes into a transaction. The newest entry then."""
        for entry in write_entries(changes, actor, at, last):
            pipe.xadd(self.key, {"entry": msgspec.json.encode(entry)}, id=f"{entry.number}-0")
            last = entry
        return last

    async def page(self, after: int = 0, limit: int = PAGE) -> list[Entry]:
        """Entries behind the one with this number, the oldest first. Raises AuditUnreadable."""
        return [read_row(row) for row in await self._redis.xrange(self.key, f"({after}-0", "+", count=limit)]

    async def newest(self, before: int | None = None, limit: int = 50) -> list[Entry]:
        """Entries before the one with this number, the newest first. Raises AuditUnreadable."""
        end = "+" if before is None else f"({before}-0"
        return [read_row(row) for row in await self._redis.xrevrange(self.key, end, "-", count=limit)]

    async def entries(self) -> AsyncIterator[list[Entry]]:
        """The whole log, page by page."""
        after = 0
        while page := await self.page(after):
            yield page
            after = page[-1].number

    async def verify(self) -> tuple[Entry | None, Fault | None]:
        """Walk the whole chain: its newest entry, or the first that is not as it was written."""
        last: Entry | None = None
        try:
            async for page in self.entries():
                if fault := find_fault(page, last):
                    return last, fault
                last = page[-1]
        except AuditUnreadable as error:
            return last, Fault(1 if last is None else last.number + 1, error.message)
        return last, None

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._settle(batch)
        finally:
            self._writer = None

    async def _settle(self, batch: list[Draft]) -> None:
        try:
            await self._append(batch)
        except BaseException as error:
            for _, _, written in batch:
                if not written.done():
                    written.set_exception(error if isinstance(error, Exception) else Unavailable())
            if not isinstance(error, Exception):
                raise
            return
        for _, _, written in batch:
            if not written.done():
                written.set_result(None)

    async def _append(self, batch: list[Draft]) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            for _ in range(MOST_TRIES):
                last, at = await self.watch(pipe)
                pipe.multi()
                for change, actor, _ in batch:
                    last = self.add(pipe, [change], actor, at, last)
                try:
                    await pipe.execute()
                except WatchError:
                    continue  # another process wrote meanwhile
                return
        raise Unavailable(reason="audit_contended")

    async def close(self) -> None:
        """Let go of the writer; whoever waits, also behind what was being written, is told that nothing is done."""
        await end_tasks(self._writer)
        for _, _, written in self._waiting:
            if not written.done():
                written.set_exception(Unavailable(reason="stopping"))
        self._waiting.clear()


def read_row(row: tuple[bytes, dict[bytes, bytes]]) -> Entry:
    """One entry of the stream. Raises AuditUnreadable."""
    number, fields = row
    try:
        return msgspec.json.decode(fields[b"entry"], type=Entry)
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError):
        message = f"entry {number.decode().partition('-')[0]} can't be read"
        raise AuditUnreadable(message) from None
