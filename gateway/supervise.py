"""The children of `gateway up`: started in order, restarted when they die, stopped in reverse order.

Each child leads a process group of its own, so Ctrl-C reaches the supervisor alone; what is left of a group
when its child ends is killed. When the supervisor itself is killed, a pipe that it held closes, and children
that called `watch_parent` see that and end.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import stat
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

FIRST_PAUSE = 0.1  # seconds before a restart, doubling with each early death
LONGEST_PAUSE = 5.0
LONG_LIFE = 10.0  # seconds after which a death counts as the first again
KILL_AGAIN = 0.1
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
PARENT_FD = "GATEWAY_PARENT_FD"

OnEvent = Callable[[str, str, dict[str, object]], None]


class Child(Struct, frozen=True):
    """One program to keep running. It logs by itself: stdout and stderr are the supervisor's."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    """Added to the supervisor's own environment."""
    fds: tuple[int, ...] = ()
    """Open descriptors it inherits under the same numbers, such as a listening socket."""
    ready: Callable[[], Coroutine[Any, Any, None]] | None = None
    """Returns when the next child may start; what it raises stops everything."""


class Supervisor:
    """Keeps children running until SIGINT, SIGTERM or `stop`.

    `on_event(event, name, details)` hears of each child: `started` {pid}, `failed` {error} when there was
    nothing to start, `exited` {pid, code, lived}, `restarting` {after}, `stopping` {}, `killed` {pid} when it
    did not end within `grace` seconds.
    """

    def __init__(self, children: Sequence[Child], *, on_event: OnEvent, grace: float = 10.0) -> None:
        self._children = children
        self._on_event = on_event
        self._grace = grace
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> int:
        """Runs the children, in the main thread, and returns when all have ended: 0 when each ended by itself
        after SIGTERM, 1 when one had to be killed. Raises what a `ready` raised, after stopping all."""
        with _parent_pipe() as pipe, _on_signals(self.stop):
            keepers = [_Keeper(child, pipe, self._on_event) for child in self._children]
            try:
                await self._start(keepers)
                await self._unless_stopped(keepers)
            finally:
                clean = await self._end(keepers)
        return 0 if clean else 1

    def stop(self) -> None:
        """Begins a clean stop; the second call kills what has not ended yet."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def _start(self, keepers: Sequence[_Keeper]) -> None:
        for number, keeper in enumerate(keepers, 1):
            if self._stopping.is_set():
                return
            keeper.begin()
            if keeper.child.ready is not None:
                await self._unless_stopped(keepers[:number], keeper.child.ready())

    async def _unless_stopped(self, keepers: Sequence[_Keeper], *work: Coroutine[Any, Any, None]) -> None:
        await _first_of(self._stopping.wait(), *(keeper.broken() for keeper in keepers), *work)

    async def _end(self, keepers: Sequence[_Keeper]) -> bool:
        clean = [await keeper.end(self._grace, self._hurry) for keeper in reversed(keepers)]
        return all(clean)


def pause_before_restart(previous: float, lived: float) -> float:
    """Seconds to wait before a restart, from the last such wait (0 at first) and how long the child lived."""
    if lived >= LONG_LIFE:
        return FIRST_PAUSE
    return min(max(previous * 2, FIRST_PAUSE), LONGEST_PAUSE)


def watch_parent(grace: float = 10.0) -> bool:
    """For a child to call as it starts: once its supervisor dies it sends itself SIGTERM, as if stopped, and
    SIGKILL `grace` seconds later. Returns False, and does nothing, where there is no supervisor."""
    # taken out, so that a program started by this one never mistakes one of its own descriptors for the pipe
    given = os.environ.pop(PARENT_FD, None)
    if given is None:
        return False
    pipe = int(given)
    if not stat.S_ISFIFO(os.fstat(pipe).st_mode):
        raise ValueError(f"{PARENT_FD}={given} is no pipe. The supervisor sets it; leave it alone.")
    os.set_inheritable(pipe, False)
    threading.Thread(target=_end_with_parent, args=(pipe, grace), name="watch-parent", daemon=True).start()
    return True


async def watch_file(path: Path, on_change: Callable[[], Awaitable[object]], interval: float = 0.5) -> None:
    """Calls `on_change` whenever the file holds other bytes than before, until cancelled.

    Looks every `interval` seconds and waits for two looks that agree, so a file being written is left alone.
    A file that is absent or can't be read is no change, nor is one that comes back as it was. Counts from the
    first look: begin to watch before reading the file.
    """
    told = last = await asyncio.to_thread(_digest, path)
    while True:
        await asyncio.sleep(interval)
        now = await asyncio.to_thread(_digest, path)
        if now is not None and now == last and now != told:
            told = now
            await on_change()
        last = now


class _Keeper:
    """One child's life: start, wait, start again, until told to end."""

    def __init__(self, child: Child, pipe: int, on_event: OnEvent) -> None:
        self.child = child
        self._pipe = pipe
        self._on_event = on_event
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    def begin(self) -> None:
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.child.name}")

    async def broken(self) -> None:
        """Returns or raises only when keeping the child failed: a fault of ours, not of the child."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def end(self, grace: float, hurry: asyncio.Event) -> bool:
        """Whether the child ended by itself, after SIGTERM and within `grace` seconds."""
        if self._task is None or self._task.done():
            return True
        self._tell("stopping")
        self._ending.set()
        self._signal(signal.SIGTERM)
        await _first_of(asyncio.wait({self._task}), hurry.wait(), within=grace)
        return self._task.done() or await self._kill(self._task)

    async def _kill(self, task: asyncio.Task[None]) -> bool:
        self._tell("killed", pid=self._process.pid if self._process else None)
        while not task.done():
            self._signal(signal.SIGKILL)
            await asyncio.wait({task}, timeout=KILL_AGAIN)
        return False

    async def _keep(self) -> None:
        pause = 0.0
        while not self._ending.is_set():
            lived = await self._live()
            if self._ending.is_set():
                return
            pause = pause_before_restart(pause, lived)
            self._tell("restarting", after=pause)
            await _first_of(self._ending.wait(), within=pause)

    async def _live(self) -> float:
        """One life of the child; how many seconds it lasted."""
        began = time.monotonic()
        try:
            self._process = await self._spawn()
        except OSError as error:
            self._tell("failed", error=str(error))
            return 0.0
        try:
            return await self._attend(self._process, began)
        finally:
            _kill_group(self._process.pid)
            await self._process.wait()
            self._process = None

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.child.argv,
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **self.child.env, PARENT_FD: str(self._pipe)},
            pass_fds=(self._pipe, *self.child.fds),
            start_new_session=True,
        )

    async def _attend(self, process: asyncio.subprocess.Process, began: float) -> float:
        self._tell("started", pid=process.pid)
        if self._ending.is_set():
            self._signal(signal.SIGTERM)
        code = await process.wait()
        lived = time.monotonic() - began
        self._tell("exited", pid=process.pid, code=code, lived=round(lived, 3))
        return lived

    def _signal(self, number: signal.Signals) -> None:
        # not Process.send_signal: in Python 3.11 that may reap the child first and lose its exit code
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def _tell(self, event: str, **details: object) -> None:
        self._on_event(event, self.child.name, details)


@contextmanager
def _parent_pipe() -> Iterator[int]:
    """The reading end of a pipe whose writing end lives as long as this process."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


@contextmanager
def _on_signals(callback: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


async def _first_of(*work: Coroutine[Any, Any, Any], within: float | None = None) -> None:
    """Waits until one is done or the time is up, cancels the others, raises what the done ones raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _kill_group(leader: int) -> None:
    """Ends what a child left behind, such as the commands it was running."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _end_with_parent(pipe: int, grace: float) -> None:
    os.read(pipe, 1)
    # to the main thread by name: a signal to the process may be taken by this thread and wake nobody
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(grace)
    os.kill(os.getpid(), signal.SIGKILL)


def _digest(path: Path) -> bytes | None:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None
