"""What is removed, kept as compressed NDJSON: one file a batch, on the disk before anything of it is removed.

A batch that was cut short leaves a file that ends in `.part`; nothing in it was removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from gateway.callback_documents import describe_whole_callback
from gateway.documents import describe_whole_run, plain
from gateway.errors import NotFound
from gateway.event_documents import describe_whole_event
from gateway.runs import Run
from gateway.store.reading import Reader
from gateway.store.retention import Mark, Part

CHUNK = 10
"""Records that are in memory at a time."""
log = structlog.get_logger()
Result = TypeVar("Result")
Kinds = Callable[[Run], Awaitable[Mapping[str, str]]]


class ArchiveFailed(Exception):
    """The disk is full, or may not be written."""


class Archive:
    """Files in one folder, which is made when it is not there."""

    def __init__(self, folder: Path, reader: Reader, kinds: Kinds) -> None:
        self._folder = folder
        self._reader = reader
        self._kinds = kinds

    async def keep(self, part: Part, marks: Sequence[Mark]) -> list[Mark]:
        """Write these records down, through to the disk. The answer: those that are. Raises ArchiveFailed.

        One that can't be read is not among them.
        """
        path = self._folder / f"{part}s-{datetime.now(UTC):%Y-%m-%dT%H%M%S}-{secrets.token_hex(4)}.ndjson.gz"
        file = await _on_disk(Unfinished, path)
        try:
            kept: list[Mark] = []
            for first in range(0, len(marks), CHUNK):
                lines = {each: await self._line(part, each.id) for each in marks[first : first + CHUNK]}
                found = {each: line for each, line in lines.items() if line is not None}
                await _on_disk(file.write, b"".join(found.values()))
                kept += found
            await _on_disk(file.finish if kept else file.drop)
        except BaseException:
            file.drop()
            raise
        return kept

    async def _line(self, part: Part, record_id: str) -> bytes | None:
        try:
            return msgspec.json.encode(await self._describe(part, record_id)) + b"\n"
        except NotFound:
            return None
        except (KeyError, ValueError, TypeError) as error:
            log.error("a record can't be read; it is kept", kind=part, id=record_id, reason=str(error))
            return None

    async def _describe(self, part: Part, record_id: str) -> dict[str, Any]:
        if part == "run":
            return await self._describe_run(int(record_id))
        if part == "event":
            return await self._describe_event(record_id)
        return plain(describe_whole_callback(await self._reader.callback(record_id), operator=True))

    async def _describe_run(self, run_id: int) -> dict[str, Any]:
        run = await self._reader.run(run_id)
        callbacks = await self._reader.callbacks_of(run_id)
        event = await self._event_of(run)
        return plain(describe_whole_run(run, await self._kinds(run), callbacks, operator=True)) | {
            "callbacks": [plain(describe_whole_callback(each, operator=True)) for each in callbacks],
            "events": [] if event is None else [event],
        }

    async def _event_of(self, run: Run) -> dict[str, Any] | None:
        try:
            return None if run.request.event_id is None else await self._describe_event(run.request.event_id)
        except NotFound:
            return None

    async def _describe_event(self, event_id: str) -> dict[str, Any]:
        found = await self._reader.event(event_id)
        return plain(
            describe_whole_event(
                found.id, found.head, found.received_at, found.run_ids, found.body, found.repeats, found.repeated_at
            )
        )


class Unfinished:
    """A file that is being written, and has its name when all of it is on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Bodies are in it: nobody else's business.
        self._file = os.fdopen(os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._packed = gzip.GzipFile(filename="", fileobj=self._file, mode="wb")

    def write(self, data: bytes) -> None:
        self._packed.write(data)

    def finish(self) -> None:
        self._packed.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def drop(self) -> None:
        """Leave nothing behind; what could not be written is not wanted any more."""
        for close in (self._packed.close, self._file.close, self._part.unlink):
            with contextlib.suppress(OSError, ValueError):
                close()


async def _on_disk(do: Callable[..., Result], *arguments: Any) -> Result:
    try:
        return await asyncio.to_thread(do, *arguments)
    except OSError as error:
        raise ArchiveFailed(str(error)) from error
