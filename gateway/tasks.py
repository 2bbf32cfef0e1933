"""Ending asyncio's tasks for good."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN = 0.1


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks until each has ended.

    Once is not enough: `asyncio.wait_for` of Python 3.11, through which redis-py sends, loses a cancellation that
    comes in the moment its work is done (https://github.com/python/cpython/issues/86296).
    """
    while left := {task for task in tasks if task is not None and not task.done()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=AGAIN)


async def insist_on_end(task: asyncio.Task[Any], pause: float = 5 * AGAIN) -> None:
    """Once somebody has cancelled the task, and that was lost, cancel it again. For tasks that others end, and end once.

    That it is being cancelled is seen twice, `pause` seconds apart: a timeout within it cancels it too, for a moment.
    """
    asked = False
    while not task.done():
        await asyncio.sleep(pause)
        if asked and task.cancelling():
            task.cancel()
        asked = task.cancelling() > 0
