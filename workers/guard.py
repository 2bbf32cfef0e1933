"""The guard: a small process that starts one command and answers for every process that comes of it.

    python -I -S guard.py CONTROL GRACE SECONDS MEMORY FOLDER ARGV...

It ends all of them (SIGTERM, `GRACE` seconds, SIGKILL) when the command has ended, when `SECONDS` are over, and when
the other end of the socket CONTROL is shut, which a worker that was killed does too. Processes that left the command's
group by setsid, and those whose parents have gone, are found on Linux, where the guard is their reaper
(PR_SET_CHILD_SUBREAPER); elsewhere only the process group is. FOLDER, unless it is empty, is removed at the end.

CONTROL is told `pid N`, then `errno N` where nothing could be started, or `code N` (-9 for SIGKILL) when all is over.
Only the standard library's quick parts are imported, for this is started anew for each step.
"""

import contextlib
import os
import select
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
PAUSE = 0.01
PATIENCE = 5.0
"""Seconds that killed processes get to be gone: one that hangs in the kernel may never be."""
LEAST_LIKED = b"1000"


class Command:
    """The command, and whether it has ended."""

    def __init__(self, argv: list[str]) -> None:
        # What Python and this guard ignore, a child would inherit.
        ignored = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT)
        self.pid = os.posix_spawnp(argv[0], argv, os.environ, setpgroup=0, setsigdef=ignored)
        self.code: int | None = None

    def reap(self) -> bool:
        """Take in all that has ended, orphans too; whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                self.code = os.waitstatus_to_exitcode(status)

    def tell_all(self, signum: int) -> None:
        """Send a signal to the group, and to every other process that came of the command."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signum)
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(pid, signum)

    def end(self, grace: float) -> None:
        """End whatever is left."""
        if not self.reap():
            return
        self.tell_all(signal.SIGTERM)
        self._wait(grace)
        deadline = time.monotonic() + PATIENCE
        while self.reap() and time.monotonic() < deadline:
            self.tell_all(signal.SIGKILL)
            time.sleep(PAUSE)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.reap() and time.monotonic() < deadline:
            time.sleep(PAUSE)


def descendants(root: int) -> list[int]:
    """The processes below this one, by /proc; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                children.setdefault(parent_of(name), []).append(int(name))
    found: list[int] = []
    ahead = [root]
    while ahead:
        below = children.get(ahead.pop(), [])
        found += below
        ahead += below
    return found


def members(session: int) -> list[int]:
    """The processes of a session, by /proc; none where there is no /proc."""
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and session_of(name) == session]
    return []


def parent_of(pid: str) -> int:
    """Its parent's id, 0 when it has gone."""
    return _stat(pid, 1)


def session_of(pid: str) -> int:
    """Its session's id, 0 when it has gone."""
    return _stat(pid, 3)


def _stat(pid: str, place: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The name in parentheses may hold anything, parentheses too.
            return int(stat.read().rpartition(b")")[2].split()[place])
    except (OSError, IndexError, ValueError):
        return 0


def become_reaper() -> None:
    """Have orphans given to us (Linux), and let us and ours be the first to go when memory runs out."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as score:
        score.write(LEAST_LIKED)


def limit_memory(size: int) -> None:
    """Cap the address space of each process that comes of us, in bytes."""
    if size:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def let_go_of_pipes() -> None:
    """Leave the pipes to the command, so that they end with it."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)


def wait_for_end(command: Command, control: int, bell: int, seconds: float) -> None:
    """Until the command has ended, the other end is shut, or the time is over."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(bell, select.POLLIN)
    while command.code is None and (left := deadline - time.monotonic()) > 0:
        ready = [number for number, _ in poll.poll(left * 1000)]
        if control in ready:
            return
        if bell in ready:
            os.read(bell, 4096)
        command.reap()


def hear_of_children() -> int:
    """A pipe that can be read when a child has ended."""
    bell, ringer = os.pipe()
    os.set_blocking(ringer, False)
    signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return bell


def remove(folder: str) -> None:
    """Remove a folder and all in it, also what its owner may not write to."""
    import shutil

    for path, names, _ in os.walk(folder):
        for name in names:
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                with contextlib.suppress(OSError):
                    os.chmod(inner, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def tell(control: int, word: str, number: int) -> None:
    """Say one line; nobody may be there to hear it."""
    with contextlib.suppress(OSError):
        os.write(control, f"{word} {number}\n".encode())


def main(control: int, grace: float, seconds: float, memory: int, folder: str, argv: list[str]) -> None:
    """Run the command, and end with all that came of it."""
    os.set_inheritable(control, False)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        become_reaper()
        bell = hear_of_children()
        limit_memory(memory)
        try:
            command = Command(argv)
        except OSError as error:
            tell(control, "errno", error.errno or 0)
            return
        let_go_of_pipes()
        tell(control, "pid", command.pid)
        wait_for_end(command, control, bell, seconds)
        command.end(grace)
    finally:
        if folder:
            remove(folder)
    tell(control, "code", -signal.SIGKILL if command.code is None else command.code)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5], sys.argv[6:])
