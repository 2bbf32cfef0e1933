"""Many callers, one call: what concurrent tasks ask for in the same moment travels together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batches(Generic[Item, Answer]):
    """Collects items while calls are under way; the next call takes all of them.

    `call` gets a batch and gives one answer for each item, in order. What it raises, each caller of that batch gets.
    A caller that gave up before its batch left is not sent. Where more than one of `calls` may be under way at a
    time, items may arrive in another order than they were submitted in.
    """

    def __init__(
        self, call: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], *, limit: int = 256, calls: int = 1
    ) -> None:
        self._call = call
        self._limit = limit
        self._calls = calls
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._senders = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = False

    async def submit(self, item: Item, patience: float | None = None) -> Answer:
        """Send one item with whatever else is on its way, and wait for its answer; TimeoutError after `patience` s."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        if not self._starting and self._senders < self._calls:
            self._start_sender(loop)
        if patience is None:
            return await future
        # A quarter of what asyncio.timeout costs: there is no task to cancel, only our own future to end.
        timer = loop.call_later(patience, _give_up, future)
        try:
            return await future
        finally:
            timer.cancel()

    def _start_sender(self, loop: asyncio.AbstractEventLoop) -> None:
        # It begins after the tasks that are ready now, and so takes along what they submit.
        self._starting = True
        self._senders += 1
        sender = loop.create_task(self._send())
        self._tasks.add(sender)
        sender.add_done_callback(self._tasks.discard)

    async def _send(self) -> None:
        self._starting = False
        try:
            while batch := self._next_batch():
                await self._send_batch(batch)
        finally:
            # Here and not when the task is done: what is submitted in between would find no sender and wait for ever.
            self._senders -= 1

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self._limit:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    async def _send_batch(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._call([item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
