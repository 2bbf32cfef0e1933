"""Ending tasks: also those that lose a cancellation, and only those."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.tasks import end_tasks, insist_on_end
from tests.tools import tell, until


class Deaf:
    """A task's work that loses its first cancellation, as `asyncio.wait_for` of Python 3.11 may."""

    def __init__(self) -> None:
        self.lost = 0

    async def work(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        self.lost += 1
        await asyncio.Event().wait()


def test_a_task_that_loses_a_cancellation_is_ended() -> None:
    """Whoever cancels once, as arq does, has it ended all the same; `end_tasks` sees to it by itself."""

    async def story() -> None:
        for end in (asyncio.Task.cancel, lambda task: asyncio.create_task(end_tasks(task))):
            deaf = Deaf()
            task = asyncio.create_task(deaf.work())
            await asyncio.sleep(0)
            watcher = asyncio.create_task(insist_on_end(task, 0.01))
            end(task)
            await until(task.done)
            await watcher
            assert deaf.lost == 1
            assert task.cancelled()

    tell(story())


def test_a_task_that_takes_its_cancellation_back_goes_on() -> None:
    """As a timeout within it does, which cancels it for a moment."""
    looked = asyncio.Event()

    async def work() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        asyncio.current_task().uncancel()
        await looked.wait()
        return "done"

    async def story() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        watcher = asyncio.create_task(insist_on_end(task, 0.01))
        await asyncio.wait({task}, timeout=0.1)
        looked.set()
        assert await task == "done"
        await watcher

    tell(story())
