"""Waiting for runs to move, without polling: one subscription per process wakes whoever waits for that run."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec

from gateway.errors import Unavailable
from gateway.store.connection import MISTAKES, Redis
from gateway.store.keys import Keys
from gateway.timelines import Delta

LISTEN = 5.0
"""Seconds after which the listener looks whether its connection still lives."""
PAUSE = 0.5
AGAIN = 0.1
MOST_WORDS = 100
"""Pieces that are kept for a follower who is slow; the oldest are lost."""
Told = Callable[[bytes | None], None]
"""Is called with each message, and with None when the subscription begins."""


class TooManyWaiters(Unavailable):
    """Too many requests wait for their runs. Start the run without waiting, and ask for it later."""

    code = "too_many_waiters"


class Hearing:
    """What one follower hears of a run: that it may have moved, and what its steps are saying."""

    def __init__(self) -> None:
        self._stirred = asyncio.Event()
        self._moved = False
        self._words: deque[bytes] = deque(maxlen=MOST_WORDS)

    def move(self, _: bytes | None = None) -> None:
        self._moved = True
        self._stirred.set()

    def hear(self, word: bytes | None) -> None:
        if word is not None:
            self._words.append(word)
            self._stirred.set()

    async def listen(self, seconds: float) -> tuple[list[bytes], bool]:
        """Wait for something, at most so long: what was said, and whether the run may have moved."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        self._stirred.clear()
        words, moved = list(self._words), self._moved
        self._words.clear()
        self._moved = False
        return words, moved


async def tell_delta(redis: Redis, keys: Keys, delta: Delta) -> None:
    """Tell those who follow the run now. Nothing is kept, and nobody need listen."""
    await redis.publish(keys.said(delta.run_id), msgspec.json.encode(delta))


class Waiters:
    """Who waits for which run. `limit` is how many may wait at once; `tell` hears how many do.

    All share one connection, which one task owns. Each time the store confirms a subscription, the first time and
    after a lost connection, those who wait for that run are woken as well: it may have moved just before.
    """

    def __init__(
        self, redis: Redis, keys: Keys, *, limit: int, tell: Callable[[int], object] = lambda count: None
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._limit = limit
        self._tell = tell
        self._waiting: dict[str, set[Told]] = {}
        self._changed = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self.count = 0
        self.ended = False

    async def close(self) -> None:
        if self._listener is not None:
            await _end(self._listener)

    def end(self) -> None:
        """Wake all who wait, and let nobody wait any more: this process stops."""
        self.ended = True
        for told in set[Told]().union(*self._waiting.values()):
            told(None)

    def check_room(self) -> None:
        """Raise TooManyWaiters when as many wait as may."""
        if self.count >= self._limit:
            raise TooManyWaiters

    @contextlib.asynccontextmanager
    async def watch(self, run_id: int) -> AsyncIterator[asyncio.Event]:
        """An event that is set each time the run may have moved. Raises TooManyWaiters; leaves nothing behind."""
        moved = asyncio.Event()
        moved.set()  # look once more: the run may have moved since the caller looked
        with self._joined({self._keys.moved("run", run_id): lambda _: moved.set()}):
            yield moved

    @contextlib.asynccontextmanager
    async def follow(self, run_id: int) -> AsyncIterator[Hearing]:
        """As `watch`, and what the run's steps are saying besides."""
        hearing = Hearing()
        hearing.move()
        with self._joined({self._keys.moved("run", run_id): hearing.move, self._keys.said(run_id): hearing.hear}):
            yield hearing

    @contextlib.contextmanager
    def _joined(self, listeners: dict[str, Told]) -> Iterator[None]:
        self.check_room()
        self._count(1)
        for channel, told in listeners.items():
            self._join(channel, told)
        try:
            yield
        finally:
            self._count(-1)
            for channel, told in listeners.items():
                self._leave(channel, told)

    def _join(self, channel: str, told: Told) -> None:
        self._waiting.setdefault(channel, set()).add(told)
        self._changed.set()
        if self._listener is None or self._listener.done():
            self._listener = asyncio.get_running_loop().create_task(self._listen())

    def _leave(self, channel: str, told: Told) -> None:
        self._waiting[channel].discard(told)
        if not self._waiting[channel]:
            del self._waiting[channel]
            self._changed.set()

    def _count(self, more: int) -> None:
        self.count += more
        self._tell(self.count)

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(*MISTAKES):
                async with self._redis.pubsub() as words:
                    await words.connect()
                    await self._follow(words)
            await asyncio.sleep(PAUSE)

    async def _follow(self, words: Redis) -> None:
        """Subscribe and read side by side on one connection, until either fails."""
        tasks = [asyncio.ensure_future(self._subscribe(words)), asyncio.ensure_future(self._read(words))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _end(*tasks)

    async def _subscribe(self, words: Redis) -> None:
        subscribed: set[str] = set()
        while True:
            self._changed.clear()
            wanted = set(self._waiting)
            if new := wanted - subscribed:
                await words.subscribe(*new)
            if old := subscribed - wanted:
                await words.unsubscribe(*old)
            subscribed = wanted
            await self._changed.wait()

    async def _read(self, words: Redis) -> None:
        while True:
            message = await words.get_message(timeout=LISTEN)
            if message is not None and message["type"] in ("message", "subscribe"):
                word = message["data"] if message["type"] == "message" else None
                for told in self._waiting.get(message["channel"].decode(), ()):
                    told(word)


async def _end(*tasks: asyncio.Task[None]) -> None:
    """Cancel until they are done: redis-py's `wait_for` may swallow a cancellation on Python 3.11."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=AGAIN)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen, so that nobody is told of it at the end of the process
