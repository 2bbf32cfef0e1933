"""What is past its time goes: a little at each sweep, written down first where an archive is wanted."""

from __future__ import annotations

import asyncio
import time

import msgspec
import structlog

from gateway.store.retention import FAILED, Looked, Mark, Part, Removed, Retention
from workers.archive import Archive, ArchiveFailed

PAGE = 100
"""Records that one script looks at, or removes: what comes in meanwhile waits so long."""
FILE = 1000
"""Records of one file."""
FRUITLESS = 10
"""Pages in which nothing is past its time, after which a walk rests until the next sweep."""
REST = 4
"""Times as long as the store was busy with it, it is left in peace."""
log = structlog.get_logger()


class Walk(msgspec.Struct):
    """The way through one index. What may not go yet is passed over, and looked at again the next time round."""

    part: Part
    index: str
    place: int = 0
    fruitless: int = 0
    over: bool = False


class Retiring:
    """Removes records past their time, for at most `seconds` at a sweep."""

    def __init__(self, retention: Retention, archive: Archive | None, *, seconds: float) -> None:
        self._retention = retention
        self._archive = archive
        self._seconds = seconds

    async def go(self, notes: dict[str, int]) -> Removed:
        """Go on with every walk from where `notes` says, and write there where the next sweep goes on."""
        if not self._retention.limits.any:
            return Removed()
        deadline = time.monotonic() + self._seconds
        walks = [Walk(part, index, notes.get(index, 0)) for part, index in self._retention.walks()]
        total = Removed()
        try:
            while time.monotonic() < deadline and (left := [walk for walk in walks if not walk.over]):
                for walk in left:
                    total = _sum(total, await self._step(walk))
            notes[FAILED] = 0
        except ArchiveFailed as error:
            notes[FAILED] = 1
            log.error("nothing is removed: the archive can't be written", reason=str(error))
        notes.update({walk.index: walk.place for walk in walks})
        if total != Removed():
            log.info("what was past its time is removed", **msgspec.structs.asdict(total))
        return total

    async def _step(self, walk: Walk) -> Removed:
        marks = await self._gather(walk)
        if not marks:
            return Removed()
        if self._archive is not None:
            marks = await self._archive.keep(walk.part, marks)
            await self._retention.count(f"archived:{walk.part}s", len(marks))
        total = Removed()
        for first in range(0, len(marks), PAGE):
            begun = time.monotonic()
            removed = await self._retention.remove(walk.part, walk.index, marks[first : first + PAGE])
            walk.place = max(walk.place - _of(walk.part, removed), 0)
            total = _sum(total, removed)
            await _rest(begun)
        return total

    async def _gather(self, walk: Walk) -> list[Mark]:
        """The next records past their time: a page of them, or a file's worth."""
        marks: list[Mark] = []
        wanted = PAGE if self._archive is None else FILE
        while not walk.over and len(marks) < wanted:
            begun = time.monotonic()
            looked = await self._retention.look(walk.part, walk.index, walk.place, PAGE)
            marks += looked.old
            _move_on(walk, looked)
            await _rest(begun)
            if not looked.old:
                break
        return marks


def _move_on(walk: Walk, looked: Looked) -> None:
    walk.place = 0 if looked.ended else walk.place + looked.size
    walk.fruitless = 0 if looked.old else walk.fruitless + 1
    walk.over = looked.ended or walk.fruitless >= FRUITLESS


def _of(part: Part, removed: Removed) -> int:
    return {"run": removed.runs, "event": removed.events, "callback": removed.callbacks}[part]


def _sum(one: Removed, other: Removed) -> Removed:
    return Removed(one.runs + other.runs, one.events + other.events, one.callbacks + other.callbacks)


async def _rest(begun: float) -> None:
    await asyncio.sleep((time.monotonic() - begun) * REST)
