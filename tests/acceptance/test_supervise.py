"""The supervisor, as an operator meets it: real processes that die, hang, are signalled and are killed."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PosixPath
from typing import Any, ClassVar

import msgspec
import pytest
import redis

from gateway import embedded
from gateway.supervise import Child, Supervisor, pause_before_restart, watch_file, watch_parent

ROOT = Path(__file__).resolve().parents[2]

# argv: the file that events are appended to, seconds of grace, the children, the loop, Valkey's folder or ""
SUPERVISOR = """
import asyncio, json, sys
from contextlib import nullcontext
from pathlib import Path
import msgspec, uvloop
from gateway import embedded
from gateway.supervise import Child, Supervisor

events, grace, children, loop, data_dir = Path(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:]
children = msgspec.json.decode(children, type=list[dict])
children = [Child(**{**each, "argv": tuple(each["argv"])}) for each in children]

def tell(event, name, details):
    with events.open("a") as file:
        file.write(json.dumps([event, name, details]) + "\\n")

valkey = Path(data_dir)
with embedded.exclusive(valkey, wait=2) if data_dir else nullcontext():
    if data_dir:
        first = Child("valkey", tuple(embedded.command(valkey)), ready=lambda: embedded.ready(valkey))
        children.insert(0, first)
    run = uvloop.run if loop == "uvloop" else asyncio.run
    sys.exit(run(Supervisor(children, on_event=tell, grace=grace).run()))
"""

# argv: a file to append words to. Says when it starts, gets a signal, and ends; ends on SIGTERM
POLITE = """
import os, signal, sys, time
from gateway.supervise import watch_parent

def say(word):
    with open(sys.argv[1], "a") as file:
        file.write(f"{sys.argv[2]} {word}\\n")

def end(number, frame):
    say("SIGTERM")
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, lambda number, frame: say("SIGINT"))
watch_parent()
say("up")
while True:
    signal.pause()
"""

STUBBORN = """
import signal, sys
from gateway.supervise import watch_parent

signal.signal(signal.SIGTERM, signal.SIG_IGN)
watch_parent(grace=0.1)
with open(sys.argv[1], "a") as file:
    file.write(f"{sys.argv[2]} up\\n")
while True:
    signal.pause()
"""

SHORT_LIVED = """
import sys, time
with open(sys.argv[1], "a") as file:
    file.write(f"{time.monotonic()}\\n")
"""


class Room:
    """A folder with one supervisor in it: what its children said, what it told of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = folder / "said"
        self.events = folder / "events"
        self.said.touch()
        self.events.touch()
        self.process: subprocess.Popen[bytes] | None = None

    def child(self, name: str, script: str, **more: Any) -> Child:
        return Child(name, (sys.executable, "-c", script, str(self.said), name), **more)

    def begin(
        self,
        *children: Child,
        grace: float = 10,
        loop: str = "asyncio",
        valkey: str = "",
        fds: tuple[int, ...] = (),
    ) -> None:
        spec = [{name: value for name, value in msgspec.structs.asdict(each).items() if value} for each in children]
        argv = [str(self.events), str(grace), msgspec.json.encode(spec).decode(), loop, valkey]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, *argv],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
            pass_fds=fds,
        )

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def ended(self, within: float = 15) -> int:
        assert self.process is not None
        return self.process.wait(within)

    def words(self) -> list[str]:
        return self.said.read_text().splitlines()

    def has_said(self, *words: str) -> bool:
        return self.words() == list(words)

    def told(self, event: str, name: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.events.read_text().splitlines()]
        return [details for what, who, details in lines if (what, who) == (event, name)]

    def pids(self) -> list[int]:
        lines = [json.loads(line) for line in self.events.read_text().splitlines()]
        return [details["pid"] for what, _, details in lines if what == "started"]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path)
    yield room
    if room.process is not None:
        room.process.kill()
        room.process.wait()
    for pid in room.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], within: float = 15) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and only waits to be reaped does not."""
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return sys.platform != "linux" or ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def store(data_dir: Path) -> redis.Redis:
    return redis.Redis.from_url(embedded.redis_url(data_dir), decode_responses=True)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_in_reverse_order(room: Room, loop: str, number: signal.Signals) -> None:
    """One SIGTERM or SIGINT stops all children, the last started first, and the exit code is 0."""
    room.begin(*(room.child(name, POLITE) for name in ("a", "b", "c")), loop=loop)
    wait_until(lambda: sorted(room.words()) == ["a up", "b up", "c up"])
    room.signal(number)
    assert room.ended() == 0
    assert room.words()[3:] == ["c SIGTERM", "b SIGTERM", "a SIGTERM"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_restarts_a_child_that_was_killed(room: Room, loop: str) -> None:
    """A child that dies is started again, under a new pid, and its exit code is told."""
    room.begin(room.child("a", POLITE), loop=loop)
    for lives in (1, 2, 3):
        wait_until(partial(room.has_said, *["a up"] * lives))
        os.kill(room.pids()[-1], signal.SIGKILL)
    wait_until(lambda: len(room.words()) == 4)
    assert len(set(room.pids())) == 4
    assert [details["code"] for details in room.told("exited", "a")] == [-9, -9, -9]


def test_restarting_slows_down(room: Room) -> None:
    """A child that dies at once, again and again, is started after 0.1, 0.2, 0.4 and 0.8 seconds."""
    room.begin(room.child("a", SHORT_LIVED))
    wait_until(lambda: len(room.words()) == 5)
    starts = [float(word) for word in room.words()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert all(gap >= pause for gap, pause in zip(gaps, (0.1, 0.2, 0.4, 0.8), strict=True))
    assert [details["after"] for details in room.told("restarting", "a")][:4] == [0.1, 0.2, 0.4, 0.8]


def test_stops_a_child_that_waits_to_be_restarted(room: Room) -> None:
    """A stop does not wait for the pause before a restart, and starts nothing any more."""
    room.begin(room.child("a", SHORT_LIVED))
    wait_until(lambda: len(room.told("restarting", "a")) == 5)
    began = time.monotonic()
    room.signal(signal.SIGTERM)
    assert room.ended() == 0
    assert time.monotonic() - began < 1.5
    assert len(room.words()) == 5


def test_program_that_does_not_exist(room: Room) -> None:
    """A program that can't be started is told, tried again, and does not keep the others from running."""
    room.begin(Child("none", ("/no/such/program",)), room.child("a", POLITE))
    wait_until(lambda: len(room.told("failed", "none")) == 2 and room.words() == ["a up"])
    assert "/no/such/program" in str(room.told("failed", "none")[0]["error"])


def test_kills_what_does_not_stop(room: Room) -> None:
    """A child that ignores SIGTERM is killed after the grace, the others stop as always, the code is 1."""
    room.begin(room.child("a", POLITE), room.child("b", STUBBORN), grace=0.3)
    wait_until(lambda: sorted(room.words()) == ["a up", "b up"])
    room.signal(signal.SIGTERM)
    assert room.ended() == 1
    assert len(room.told("killed", "b")) == 1
    assert room.words()[-1] == "a SIGTERM"


def test_second_interrupt_hastens(room: Room) -> None:
    """A second Ctrl-C kills what has not stopped yet, however long the grace is."""
    room.begin(room.child("a", STUBBORN), room.child("b", STUBBORN), grace=600)
    wait_until(lambda: len(room.words()) == 2)
    room.signal(signal.SIGINT)
    wait_until(lambda: len(room.told("stopping", "b")) == 1)
    room.signal(signal.SIGINT)
    assert room.ended() == 1
    assert not any(is_alive(pid) for pid in room.pids())


def test_interrupt_reaches_the_supervisor_alone(room: Room) -> None:
    """Ctrl-C, which goes to a whole process group, does not reach the children: they only see SIGTERM."""
    room.begin(room.child("a", POLITE))
    wait_until(lambda: room.words() == ["a up"])
    assert room.process is not None
    os.killpg(room.process.pid, signal.SIGINT)
    assert room.ended() == 0
    assert room.words() == ["a up", "a SIGTERM"]


def test_what_a_child_leaves_behind(room: Room) -> None:
    """Programs that a child had started end with it when it is killed."""
    leaving = "import subprocess, sys; p = subprocess.Popen(['sleep', '600'])\n"
    leaving += "open(sys.argv[1], 'a').write(f'{p.pid}\\n'); p.wait()"
    room.begin(room.child("a", leaving))
    wait_until(lambda: len(room.words()) == 1)
    assert is_alive(int(room.words()[0]))
    os.kill(room.pids()[0], signal.SIGKILL)
    wait_until(lambda: not is_alive(int(room.words()[0])))


def test_children_get_descriptors_and_environment(room: Room) -> None:
    """A child gets its listening socket under the same number, and its own variables beside the inherited."""
    script = (
        "import os, socket, sys; listener = socket.socket(fileno=int(os.environ['LISTENER']))\n"
        "while True: listener.accept()[0].sendall(os.environ['GREETING'].encode())"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        environment = {"LISTENER": str(fd), "GREETING": "hello"}
        room.begin(room.child("a", script, env=environment, fds=(fd,)), fds=(fd,))
        with socket.create_connection(listener.getsockname(), timeout=15) as connection:
            assert connection.recv(5) == b"hello"


def test_killed_supervisor_leaves_no_child(room: Room) -> None:
    """When the supervisor is killed its Python children end: politely, and the stubborn ones by force."""
    room.begin(room.child("a", POLITE), room.child("b", STUBBORN))
    wait_until(lambda: sorted(room.words()) == ["a up", "b up"])
    room.signal(signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in room.pids()))
    assert room.words()[2:] == ["a SIGTERM"]


def test_children_start_when_valkey_answers(room: Room) -> None:
    """The children after Valkey are started when it answers, and find it with its data."""
    data_dir = room.folder / "data"
    script = (
        "import sys; from pathlib import Path; from gateway import embedded\n"
        f"answers = embedded.is_running(Path({str(data_dir)!r}))\n"
        "open(sys.argv[1], 'a').write(f'{answers}\\n')"
    )
    room.begin(room.child("a", script), valkey=str(data_dir))
    wait_until(lambda: len(room.words()) >= 1)
    assert room.words()[0] == "True"
    room.signal(signal.SIGTERM)
    assert room.ended() == 0
    assert not embedded.is_running(data_dir)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_killed_valkey_is_back_at_once(room: Room, loop: str) -> None:
    """A killed Valkey is started again on the same files, and all it had acknowledged is there."""
    data_dir = room.folder / "data"
    room.begin(room.child("a", POLITE), valkey=str(data_dir), loop=loop)
    wait_until(lambda: room.words() == ["a up"])
    with store(data_dir) as client:
        acknowledged = [client.incr("n") for _ in range(200)][-1]
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    wait_until(lambda: len(room.told("started", "valkey")) == 2 and embedded.is_running(data_dir))
    with store(data_dir) as client:
        assert int(client.get("n")) == acknowledged == 200
    assert room.words() == ["a up"]


def test_killed_supervisor_and_the_next(room: Room) -> None:
    """After the supervisor was killed, another one on the same files has the data and the only Valkey."""
    data_dir = room.folder / "data"
    room.begin(valkey=str(data_dir))
    wait_until(lambda: embedded.is_running(data_dir))
    with store(data_dir) as client:
        assert client.set("kept", "yes")
    room.signal(signal.SIGKILL)
    room.ended()
    room.begin(room.child("a", POLITE), valkey=str(data_dir))
    wait_until(lambda: room.words() == ["a up"])
    first, second = room.pids()[0], room.pids()[1]
    assert not is_alive(first)
    with store(data_dir) as client:
        assert (client.get("kept"), client.info("server")["process_id"]) == ("yes", second)


def test_second_supervisor_is_refused(room: Room, tmp_path: Path) -> None:
    """A second supervisor on the same Valkey files does not start, and the first goes on."""
    data_dir = room.folder / "data"
    room.begin(valkey=str(data_dir))
    wait_until(lambda: embedded.is_running(data_dir))
    first = room.process
    assert first is not None
    argv = [sys.executable, "-c", SUPERVISOR, str(tmp_path / "other"), "1", "[]", "asyncio", str(data_dir)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    second = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert f"in use by another gateway (pid {first.pid})" in second.stderr
    assert second.returncode == 1
    assert embedded.is_running(data_dir)
    assert first.poll() is None


def test_child_that_never_gets_ready(room: Room) -> None:
    """What a `ready` raises stops the children that run, starts no other, and comes out of run."""

    async def refuse() -> None:
        await until(lambda: room.words() == ["a up"])
        raise LookupError("not today")

    events: list[tuple[str, str]] = []
    environment = {"PYTHONPATH": str(ROOT)}
    children = [
        room.child("a", POLITE, env=environment, ready=refuse),
        room.child("b", POLITE, env=environment),
    ]
    supervisor = Supervisor(children, on_event=lambda event, name, details: events.append((event, name)))
    with pytest.raises(LookupError, match="not today"):
        asyncio.run(asyncio.wait_for(supervisor.run(), 30))
    assert events == [("started", "a"), ("stopping", "a"), ("exited", "a")]


def test_stop_while_waiting_for_ready(room: Room) -> None:
    """A stop is heard while a child is still waited for."""

    async def never() -> None:
        supervisor.stop()
        await asyncio.Event().wait()

    child = room.child("a", "import signal; signal.pause()", ready=never)
    supervisor = Supervisor([child, room.child("b", POLITE)], on_event=lambda event, name, details: None)
    assert asyncio.run(asyncio.wait_for(supervisor.run(), 30)) == 0
    assert room.words() == []


def test_fault_in_the_listener(room: Room) -> None:
    """An error in `on_event` comes out of run, and no child is left."""
    pids: list[int] = []

    def fail(event: str, name: str, details: dict[str, Any]) -> None:
        if event == "started":
            pids.append(details["pid"])
            raise LookupError("the log is full")

    supervisor = Supervisor([room.child("a", "import signal; signal.pause()")], on_event=fail)
    with pytest.raises(LookupError, match="the log is full"):
        asyncio.run(asyncio.wait_for(supervisor.run(), 30))
    assert len(pids) == 1
    wait_until(lambda: not is_alive(pids[0]))


@pytest.mark.parametrize(
    ("previous", "lived", "pause"),
    [(0, 0, 0.1), (0.1, 9.9, 0.2), (0.2, 0, 0.4), (4.0, 0, 5.0), (5.0, 0, 5.0), (5.0, 10.0, 0.1)],
)
def test_pause_before_restart(previous: float, lived: float, pause: float) -> None:
    """The pause doubles from 0.1 to 5 seconds with each early death; ten seconds of life begin anew."""
    assert pause_before_restart(previous, lived) == pytest.approx(pause)


def test_watch_parent_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that no supervisor started watches nothing."""
    monkeypatch.delenv("GATEWAY_PARENT_FD", raising=False)
    assert watch_parent() is False


def test_watch_parent_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor that is no pipe is refused, and the variable is used up all the same."""
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setenv("GATEWAY_PARENT_FD", str(file.fileno()))
        with pytest.raises(ValueError, match="is no pipe"):
            watch_parent()
    assert "GATEWAY_PARENT_FD" not in os.environ


class LookedAt(PosixPath):
    """A path that counts how often its file was read."""

    looks: ClassVar[list[None]] = []

    def read_bytes(self) -> bytes:
        self.looks.append(None)
        return super().read_bytes()


class Growing(PosixPath):
    """A file that somebody goes on writing while it is looked at, until it holds five bytes."""

    def read_bytes(self) -> bytes:
        content = super().read_bytes()
        if len(content) < 5:
            self.write_bytes(content + b"x")
        return content


def test_watched_file(tmp_path: Path) -> None:
    """A change is told once, also of a file that was absent, was replaced, or came back different."""
    path = LookedAt(tmp_path / "gateway.yaml")
    told: list[str] = []

    async def note() -> None:
        told.append(path.read_text())

    async def looked_at_again() -> None:
        enough = len(path.looks) + 3
        await until(lambda: len(path.looks) >= enough)

    async def story() -> None:
        watch = asyncio.create_task(watch_file(path, note, interval=0.01))
        await looked_at_again()
        path.write_text("one")
        await until(lambda: told == ["one"])
        (tmp_path / "new").write_text("two")
        (tmp_path / "new").replace(path)
        await until(lambda: told == ["one", "two"])
        path.unlink()
        await looked_at_again()
        path.write_text("two")
        await looked_at_again()
        path.write_text("three")
        await until(lambda: len(told) >= 3)
        watch.cancel()

    asyncio.run(story())
    assert told == ["one", "two", "three"]


def test_file_that_is_being_written(tmp_path: Path) -> None:
    """A file that differs at every look is not told before it has come to rest."""
    path = Growing(tmp_path / "gateway.yaml")
    path.write_text("")
    told: list[bytes] = []

    async def note() -> None:
        told.append(path.read_bytes())

    async def story() -> None:
        watch = asyncio.create_task(watch_file(path, note, interval=0.01))
        await until(lambda: bool(told))
        watch.cancel()

    asyncio.run(story())
    assert told == [b"xxxxx"]
