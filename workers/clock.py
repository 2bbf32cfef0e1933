"""The clock: it starts a run at each tick of each published schedule. Every worker has one, and all may tick at once.

Nothing here reads this machine's clock. The store's says what is due; the id of a tick's event follows from workflow,
schedule and tick, so that it is stored once, whoever stores it; and the last tick done moves only forward. A worker
that dies between storing a tick and writing it down as done leaves it to be stored again, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import structlog

from gateway.runs import iso
from gateway.schedules import ON_TIME, LiveSchedule, due_ticks, newest_ticks
from gateway.starts import start_tick
from gateway.store.accepting import Acceptor
from gateway.store.registry import Registry
from gateway.store.ticking import Ticking
from gateway.workflows import Published, Workflow
from workers.loops import take_turns

LOOK = 1.0
"""Seconds between two looks at the schedules; a tick that comes sooner is waited for."""
SOON = 0.01
log = structlog.get_logger()


class Planned(msgspec.Struct, frozen=True):
    """A schedule with the published workflow that it starts."""

    published: Published
    workflow: Workflow
    schedule: LiveSchedule


class Clock:
    """Looks at the schedules once a second. A new schedule, or a changed one, begins when it is first seen."""

    def __init__(self, ticking: Ticking, registry: Registry, acceptor: Acceptor) -> None:
        self._ticking = ticking
        self._registry = registry
        self._acceptor = acceptor
        self._next: dict[str, tuple[int, int | None]] = {}
        self._known: frozenset[str] | None = None

    async def go(self) -> None:
        """Tick for ever."""
        await take_turns("schedules", self.turn, LOOK)

    async def turn(self) -> float:
        """Start what is due. The answer: seconds until it is worth looking again."""
        revision, planned = self._registry.revision, self._planned()
        if not planned and self._known == frozenset():
            return LOOK
        ticks = await self._ticking.advance(revision, {}, planned, self._gone(planned))
        if ticks.last is None:
            await self._registry.refresh()
            return SOON
        self._known = frozenset(ticks.last)
        self._next = {field: after for field, after in self._next.items() if field in planned}
        for field, after in ticks.last.items():
            if field in planned and self._is_due(field, planned[field].schedule, after, ticks.now):
                done = await self._start_due(planned[field], after, ticks.now)
                await self._ticking.advance(revision, {field: done}, (), ())
        return self._pause(ticks.now)

    def _planned(self) -> dict[str, Planned]:
        return {
            f"{published.name} {schedule.key}": Planned(published, workflow, schedule)
            for published, workflow in self._registry.live_workflows()
            for schedule in workflow.schedules
        }

    def _gone(self, planned: Collection[str]) -> list[str]:
        """What the store still has and nobody plans; not where another worker may be able to read the definition."""
        return [field for field in self._known or () if field not in planned and not self._is_unreadable(field)]

    def _is_unreadable(self, field: str) -> bool:
        published = self._registry.workflows.get(field.rpartition(" ")[0])
        return published is not None and self._registry.definition_at_hand(published.digest) is None

    def _is_due(self, field: str, schedule: LiveSchedule, after: int, now: int) -> bool:
        if self._next.get(field, (None,))[0] != after:
            self._next[field] = (after, schedule.next(after))
        tick = self._next[field][1]
        return tick is not None and tick <= now

    def _pause(self, now: int) -> float:
        coming = [tick for _, tick in self._next.values() if tick is not None and tick > now]
        return min(LOOK, max((min(coming) - now) / 1000, SOON)) if coming else LOOK

    async def _start_due(self, planned: Planned, after: int, now: int) -> int:
        """Start the ticks after `after`. The answer: the last tick that is done with."""
        schedule = planned.schedule
        ticks = due_ticks(schedule, after, now, schedule.missed)
        _log_missed(planned, ticks, after)
        done = after
        for tick in ticks:
            if not await self._start(planned, tick, now):
                return done
            done = tick
        return done if ticks else newest_ticks(schedule, after, now, 1)[0]

    async def _start(self, planned: Planned, tick: int, now: int) -> bool:
        event = start_tick(planned.published, planned.workflow, planned.schedule, tick)
        stored = await self._acceptor.store(event)
        note = {"workflow": planned.published.name, "tick": iso(tick)}
        if stored.outcome == "full":
            log.warning("a schedule waits: the queue is full", **note)
            return False
        if now - tick > ON_TIME:
            log.warning("schedule is late", seconds=round((now - tick) / 1000), **note)
        if event.requests:
            log.info("schedule starts a run", event_id=stored.event_id, run_ids=list(stored.run_ids), **note)
        else:
            log.error("schedule starts nothing", event_id=stored.event_id, reason=event.head.decision.reason, **note)
        return True


def _log_missed(planned: Planned, ticks: list[int], after: int) -> None:
    """Say so when ticks are passed over."""
    first = planned.schedule.next(after)
    if not ticks or first != ticks[0]:
        log.warning(
            "ticks were missed and are passed over",
            workflow=planned.published.name,
            missed=planned.schedule.missed,
            first=iso(first),
            made_up_for=len(ticks),
        )
