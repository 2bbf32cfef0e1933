"""Passing on what a step is just saying, to whoever watches: in order, at a bounded rate, and never in the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

from gateway.store.connection import MISTAKES
from gateway.timelines import Delta
from workers.executors.base import Context

PAUSE = 0.1
"""Seconds between two pieces."""
LONGEST_PIECE = 16_384
LAST_WORDS = 2.0
"""Seconds that the last pieces may take."""


class Speaker:
    """Tells what one attempt says. What can't be told is lost, for it is in the step's output as well."""

    def __init__(self, context: Context, hide: Callable[[str], str]) -> None:
        self._context = context
        self._hide = hide
        self._pending = ""
        self._offset = 0
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None:
            return
        self._closing.set()
        if kind is None:
            await asyncio.wait([self._task], timeout=LAST_WORDS)
        self._task.cancel()

    def say(self, text: str) -> None:
        """Tell this soon."""
        self._pending += text
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        while self._pending:
            text, self._pending = self._pending[:LONGEST_PIECE], self._pending[LONGEST_PIECE:]
            delta = Delta(
                run_id=self._context.run_id,
                step=self._context.step_id,
                attempt=self._context.attempt,
                offset=self._offset,
                text=self._hide(text),
            )
            self._offset += len(text)
            # A ValueError is text that no JSON can hold.
            with contextlib.suppress(*MISTAKES, ValueError):
                await self._context.tell(delta)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self._closing.wait()
