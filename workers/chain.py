"""Chains: when a run ends that other workflows listen to, their runs start. Every worker does this, and any may.

The script that ends a run puts it on a list in the store, if anybody listens; here what follows is stored as events
whose ids follow from that end, and then the run is taken off the list. So a worker that dies in between leaves it to
the next, and what is stored twice is one run. A run that is taken up again before anybody looked has not ended.
"""

from __future__ import annotations

import structlog

from gateway.errors import GatewayError, NotFound
from gateway.events import Acceptable
from gateway.runs import TERMINAL, Run
from gateway.starts import start_chained
from gateway.store.accepting import Acceptor, Stored
from gateway.store.connection import MISTAKES
from gateway.store.reading import Reader
from gateway.store.registry import Registry
from gateway.store.ticking import Ticking
from workers.loops import take_turns

LOOK = 1.0
"""Seconds between two looks at the list when nobody wakes us."""
PUT_OFF_MS = 30_000
log = structlog.get_logger()


class Chains:
    """Starts what follows from the ends of runs. No chain gets deeper than `max_depth`."""

    def __init__(
        self, ticking: Ticking, registry: Registry, reader: Reader, acceptor: Acceptor, *, max_depth: int
    ) -> None:
        self._ticking = ticking
        self._registry = registry
        self._reader = reader
        self._acceptor = acceptor
        self._max_depth = max_depth

    async def go(self) -> None:
        """Follow the ends of runs for ever."""
        await take_turns("chains", self._turn, LOOK)

    async def _turn(self) -> float:
        await self._ticking.wait(LOOK)
        await self.follow()
        return 0.0

    async def follow(self) -> int:
        """Start what follows from the runs on the list. The answer: how many were on it."""
        found = await self._ticking.chaining()
        if found:
            # The workflow that listens may be newer than the copy at hand.
            await self._registry.refresh()
        for run_id in found:
            try:
                await self._follow(run_id)
            except (*MISTAKES, GatewayError):
                raise
            except Exception:
                log.exception("what follows from a run can't be started; it is tried again", run_id=run_id)
                await self._ticking.put_off(run_id, PUT_OFF_MS)
        return len(found)

    async def _follow(self, run_id: int) -> None:
        try:
            run = await self._reader.run(run_id)
        except NotFound:
            await self._ticking.chained(run_id, None)
            return
        for event in self._starts(run) if run.state in TERMINAL else ():
            stored = await self._acceptor.store(event)
            if stored.outcome == "full":
                log.warning("a chain waits: the queue is full", run_id=run_id)
                return
            _log_start(run, event, stored)
        await self._ticking.chained(run_id, run.ended_at)

    def _starts(self, ended: Run) -> list[Acceptable]:
        found = [
            start_chained(ended, published, workflow, listener, self._max_depth)
            for published, workflow in self._registry.live_workflows()
            for listener in workflow.listeners
            if listener.hears(ended.request, ended.state)
        ]
        return [event for event in found if event is not None]


def _log_start(ended: Run, event: Acceptable, stored: Stored) -> None:
    decision = event.head.decision
    note = {"run_id": ended.id, "workflow": ended.request.workflow, "event_id": stored.event_id}
    if event.requests:
        log.info(
            "the end of a run starts another", starts=event.requests[0].workflow, run_ids=list(stored.run_ids), **note
        )
    else:
        log.warning(f"the end of a run starts nothing: {decision.outcome}", reason=decision.reason, **note)
