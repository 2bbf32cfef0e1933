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
