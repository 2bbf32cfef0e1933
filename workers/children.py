"""Child processes of steps: started under a guard, read up to a cap, and gone when the step is over, however it ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import msgspec
import structlog

from workers import guard

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""
LATE = 1.0
"""Seconds after a step's timeout at which the guard ends it by itself, should its worker be frozen."""
PATIENCE = GRACE + guard.PATIENCE + 3.0
CHUNK = 65_536
TAIL = 4_096
log = structlog.get_logger()


PASSING = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Reasons not to start a process that may be gone in a moment."""


class CannotStart(Exception):
    """The command could not be started. Its text says why, `again` whether it could be in a moment."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.again = number in PASSING


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A command to run. `folder` None is a fresh one, removed at the end; `env` is all it gets.

    `cap` bounds stdout, and stderr too unless only its last bytes are wanted (`tail`). `memory` 0 is no limit.
    """

    argv: list[str]
    env: dict[str, str]
    folder: Path | None = None
    stdin: bytes = b""
    seconds: float
    cap: int
    tail: bool = False
    memory: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """What came of it. `code` is negative for a signal, None when its guard was killed; `excess` names a stream that
    went over its cap."""

    code: int | None
    stdout: bytes
    stderr: bytes
    excess: str | None = None


async def run_child(order: Order) -> Outcome:
    """Run the command to its end. When this is cancelled, all its processes are ended before it returns.

    Raises CannotStart.
    """
    child = Child(order)
    try:
        return await child.attend()
    finally:
        await child.end()


class Child:
    """A command that runs under its guard."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._excess: str | None = None
        self._words: dict[str, int] = {}
        self._made: str | None = None
        self._control, theirs = socket.socketpair()
        try:
            if order.folder is None:
                self._made = tempfile.mkdtemp(prefix="gateway-step-")
            self._guard = self._start(theirs)
        except BaseException:
            self._control.close()
            self._remove()
            raise
        finally:
            theirs.close()

    async def attend(self) -> Outcome:
        """Give it its input, take its output, wait for its end."""
        cap = self._order.cap
        async with asyncio.TaskGroup() as group:
            group.create_task(self._feed())
            stdout = group.create_task(self._read("stdout", self._guard.stdout, cap))
            stderr = group.create_task(self._read("stderr", self._guard.stderr, TAIL if self._order.tail else cap))
            group.create_task(self._listen())
        if "errno" in self._words:
            raise self._refusal(self._words["errno"])
        return Outcome(self._words.get("code"), stdout.result(), stderr.result(), self._excess)

    async def end(self) -> None:
        """Have the guard end everything, and wait until it has: also when we are cancelled again meanwhile."""
        self._stop()
        waiting = asyncio.get_running_loop().create_task(self._wait_for_guard())
        interrupted = False
        while not waiting.done():
            try:
                await asyncio.wait({waiting})
            except asyncio.CancelledError:
                interrupted = True
        for pipe in (self._guard.stdin, self._guard.stdout, self._guard.stderr):
            if pipe is not None:
                pipe.close()
        self._control.close()
        if interrupted:
            raise asyncio.CancelledError

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        order, number = self._order, theirs.fileno()
        folder = self._made or str(order.folder)
        limits = [str(number), str(GRACE), str(order.seconds + LATE), str(order.memory), self._made or ""]
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, *limits, *order.argv],
                env={"HOME": folder} | order.env,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=(number,),
                start_new_session=True,
            )
        except OSError as error:
            raise self._refusal(error.errno or 0) from None
        except ValueError as error:
            raise CannotStart(str(error)) from None

    def _refusal(self, number: int) -> CannotStart:
        return CannotStart(self._explain(number), number)

    def _explain(self, number: int) -> str:
        """Why it did not start, by the system's error number."""
        program, folder = self._order.argv[0], self._order.folder
        if number == errno.E2BIG:
            size = sum(map(len, self._order.argv)) + sum(map(len, self._order.env.values()))
            return f"arguments and environment have {size} characters, more than this system allows: use stdin"
        if folder is not None and not folder.is_dir():
            return f"its working directory {folder} is not there, or is no directory"
        if number == errno.ENOENT:
            return f"there is no program {program!r} on this worker (PATH: {self._order.env.get('PATH', '')})"
        return f"can't start {program!r}: {os.strerror(number)}"

    async def _feed(self) -> None:
        pipe = self._guard.stdin
        assert pipe is not None
        left = memoryview(self._order.stdin)
        # A command need not read what it is given.
        with pipe, contextlib.suppress(BrokenPipeError):
            os.set_blocking(pipe.fileno(), False)
            while left:
                await _ready(pipe.fileno(), to_write=True)
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(pipe.fileno(), left[:CHUNK]) :]

    async def _read(self, name: str, pipe: IO[bytes] | None, cap: int) -> bytes:
        """All that comes, up to the cap; then the rest is thrown away and the command ended, unless only a tail counts."""
        assert pipe is not None
        kept = bytearray()
        keeps_tail = name == "stderr" and self._order.tail
        with pipe:
            while chunk := await _take(pipe.fileno()):
                kept += chunk
                if len(kept) <= cap:
                    continue
                if keeps_tail:
                    del kept[:-cap]
                else:
                    del kept[cap:]
                    self._excess = self._excess or name
                    self._stop()
        return bytes(kept)

    async def _listen(self) -> None:
        said = b""
        while chunk := await _take(self._control.fileno()):
            said += chunk
        for line in said.decode().splitlines():
            word, _, number = line.partition(" ")
            self._words[word] = int(number)
        if not {"code", "errno"} & self._words.keys():
            self._kill_group()  # its guard was killed, and it would keep our pipes open

    def _stop(self) -> None:
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    async def _wait_for_guard(self) -> None:
        # Polled, for the threads that could wait for it may all be taken by steps.
        pause = 0.001
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self._guard.poll() is None:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 0.05)
        if self._guard.returncode != 0:
            self._clean_up_after_guard()

    def _clean_up_after_guard(self) -> None:
        log.warning("a step's guard did not end as it should; its process group is killed", pid=self._words.get("pid"))
        with contextlib.suppress(OSError):
            self._guard.kill()
        self._kill_group()
        self._remove()

    def _kill_group(self) -> None:
        with contextlib.suppress(OSError, KeyError):
            os.killpg(self._words["pid"], signal.SIGKILL)
        # A program may be quicker to kill its guard than that was to say which it is; the session is the guard's.
        for pid in guard.members(self._guard.pid):
            if pid != self._guard.pid:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def _remove(self) -> None:
        if self._made:
            shutil.rmtree(self._made, ignore_errors=True)


async def _take(number: int) -> bytes:
    """What comes next from this file descriptor; nothing at its end."""
    os.set_blocking(number, False)
    while True:
        await _ready(number)
        with contextlib.suppress(BlockingIOError):
            try:
                return os.read(number, CHUNK)
            except ConnectionError:
                return b""


async def _ready(number: int, *, to_write: bool = False) -> None:
    # Not asyncio's pipes: its loops disagree about who closes the file.
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)

    def say_so() -> None:
        if not ready.done():
            ready.set_result(None)

    add(number, say_so)
    try:
        await ready
    finally:
        remove(number)
