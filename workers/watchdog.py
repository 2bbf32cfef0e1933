"""The watchdog: a thread that sees when the event loop stands still, and says which step holds it up.

While it stands still no heartbeat is sent. Past the lease the runs go to another worker, and the fence refuses whatever
this one writes afterwards: nothing is lost or recorded twice, but a worker that blocks is slow for all its runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import structlog

ALARM = 1.0
"""Seconds of stillness that are worth a line."""
FRAMES = 3
log = structlog.get_logger()

Place = tuple[int, str]
_places: dict[asyncio.Task[Any], Place] = {}


@contextlib.contextmanager
def watched(run_id: int, step_id: str) -> Iterator[None]:
    """Note that the current task is in the hands of this step's own code."""
    task = asyncio.current_task()
    assert task is not None
    before = _places.get(task)
    _places[task] = (run_id, step_id)
    try:
        yield
    finally:
        if before is None:
            del _places[task]
        else:
            _places[task] = before


class Watchdog:
    """Watches the running loop from a thread, between `with` and its end.

    It logs when the loop has stood still for `alarm` seconds, each time that has doubled, and when it goes on.
    """

    def __init__(self, lease: float, alarm: float = ALARM) -> None:
        self._lease = lease
        self._alarm = alarm
        self._pulse = alarm / 4
        self._over = threading.Event()
        self._seen = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Watchdog:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._beat()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        self._seen = time.monotonic()
        self._timer = self._loop.call_later(self._pulse, self._beat)

    def _watch(self) -> None:
        threshold, blamed, started = self._alarm, dict[str, Any](), 0.0
        while not self._over.wait(self._pulse):
            seen = self._seen
            still = time.monotonic() - seen
            if blamed and seen != started:
                log.warning("the event loop goes on", **blamed, seconds=round(seen - started, 1))
                threshold, blamed = self._alarm, {}
            if still >= threshold:
                started, threshold = seen, still * 2
                blamed = self._blame()
                where = {"at": self._frames(), "lease_lost": still > self._lease}
                log.warning("the event loop is blocked", **blamed, **where, seconds=round(still, 1))

    def _blame(self) -> dict[str, Any]:
        """The step whose task holds the loop; else those that could have begun what holds it."""
        task = asyncio.current_task(self._loop)
        place = None if task is None else _places.get(task)
        if place is not None:
            return {"run_id": place[0], "step": place[1]}
        return {"running": sorted(f"{run_id}/{step_id}" for run_id, step_id in list(_places.values())) or "no step's"}

    def _frames(self) -> str:
        """Where the loop's thread is, innermost first."""
        frame = sys._current_frames().get(self._loop_thread)
        stack = traceback.extract_stack(frame)[-FRAMES:] if frame is not None else []
        return " < ".join(f"{each.filename}:{each.lineno} {each.name}" for each in reversed(stack))
