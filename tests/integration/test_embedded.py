"""The embedded Valkey: real servers on real files, stopped, killed, doubled and orphaned."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from gateway import embedded
from gateway.errors import StoreError

ROOT = Path(__file__).resolve().parents[2]

OTHER = """
import sys
from contextlib import nullcontext
from pathlib import Path
from gateway import embedded
from gateway.errors import StoreError

data_dir = Path(sys.argv[1])
try:
    with embedded.exclusive(data_dir, wait=0.2) if sys.argv[2] == "owner" else nullcontext():
        process = embedded.start(data_dir)
        print("started", process.pid, flush=True)
        sys.stdin.read()
        embedded.stop(process)
except StoreError as error:
    print("refused", error, flush=True)
"""


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This test's temporary folder of the system, with a short path, made after pytest has made its own."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(name)


@pytest.fixture
def long_dir(tmp_path: Path) -> Path:
    """A data folder whose path is too long for a socket."""
    return tmp_path / ("long" * 30)


@contextmanager
def running(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    with embedded.exclusive(data_dir):
        process = embedded.start(data_dir)
        try:
            yield process
        finally:
            embedded.stop(process)


@contextmanager
def other_process(data_dir: Path, role: str) -> Iterator[subprocess.Popen[str]]:
    """Another program that starts the server, as its `owner` or without asking, until its stdin closes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", OTHER, str(data_dir), role]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as other:
        try:
            yield other
        finally:
            let_go(other)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def client(data_dir: Path) -> redis.Redis:
    return redis.Redis.from_url(embedded.redis_url(data_dir), decode_responses=True)


def wait_until(condition: Callable[[], bool], within: float = 15.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def write_log(data_dir: Path) -> Path:
    """The append-only file that new commands go to."""
    return max((data_dir / "valkey" / "appendonlydir").glob("*.incr.aof"))


def test_data_survives_a_stop(tmp_path: Path) -> None:
    """What was written before a clean stop is there after the next start."""
    with running(tmp_path), client(tmp_path) as store:
        store.set("kept", "yes")
    assert not embedded.is_running(tmp_path)
    with running(tmp_path), client(tmp_path) as store:
        assert store.get("kept") == "yes"


def test_acknowledged_writes_survive_a_kill(tmp_path: Path) -> None:
    """Every write that was answered is there after SIGKILL."""
    with running(tmp_path) as process, client(tmp_path) as store:
        acknowledged = [store.rpush("list", number) for number in range(500)][-1]
        process.kill()
        process.wait()
    with running(tmp_path), client(tmp_path) as store:
        assert store.llen("list") == acknowledged == 500


def test_killed_in_the_middle_of_a_rewrite(tmp_path: Path) -> None:
    """A server killed while its child rewrites the log starts again, complete, once that child has gone."""
    with running(tmp_path) as process, client(tmp_path) as store:
        store.eval("for i = 1, 50000 do redis.call('SET', 'key:' .. i, i) end", 0)
        store.config_set("rdb-key-save-delay", 200)
        store.bgrewriteaof()
        wait_until(lambda: store.info("persistence")["aof_rewrite_in_progress"] == 1)
        process.kill()
        process.wait()
    with running(tmp_path), client(tmp_path) as store:
        assert store.dbsize() == 50000


def test_torn_end_of_the_log(tmp_path: Path) -> None:
    """Half a command at the end of the log, as a power cut leaves it, costs nothing that was acknowledged."""
    with running(tmp_path), client(tmp_path) as store:
        store.set("kept", "yes")
    with write_log(tmp_path).open("ab") as log:
        log.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    with running(tmp_path), client(tmp_path) as store:
        assert store.keys() == ["kept"]


def test_settings_in_force(tmp_path: Path) -> None:
    """The running server has the settings the promises rest on, and listens on no port."""
    wanted = {**dict(embedded.SETTINGS), "no-appendfsync-on-rewrite": "no"}
    with running(tmp_path), client(tmp_path) as store:
        assert {name: store.config_get(name)[name] for name in wanted} == wanted


def test_files_are_private(tmp_path: Path) -> None:
    """The folder becomes 0700 even when it was wider before; the configuration is 0600, the socket 0700."""
    folder = tmp_path / "valkey"
    folder.mkdir(mode=0o755)
    with running(tmp_path):
        paths = (folder, folder / "valkey.conf", embedded.socket_path(tmp_path))
        assert [path.stat().st_mode & 0o777 for path in paths] == [0o700, 0o600, 0o700]


@pytest.mark.parametrize("name", ['a "b" c', "back\\slash", "zwölf", "50%", "a#b?c", "line\nbreak"])
def test_awkward_folder_names(tmp_path: Path, name: str) -> None:
    """A data folder may have any name, and the address still leads redis-py to its server."""
    data_dir = tmp_path / name
    with running(data_dir), client(data_dir) as store:
        assert store.config_get("dir") == {"dir": str(data_dir / "valkey")}


def test_long_path(long_dir: Path, temp: Path) -> None:
    """Where the socket's path would be too long, a private short folder takes it and all else is the same."""
    with running(long_dir), client(long_dir) as store:
        assert store.config_get("dir") == {"dir": str(long_dir / "valkey")}
    assert list(temp.iterdir()) == []
    folder = embedded.socket_path(long_dir).parent
    assert folder.parent == temp.resolve()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert embedded.socket_path(long_dir) != embedded.socket_path(long_dir.with_name("other" * 30))


def test_short_folder_open_to_others(long_dir: Path) -> None:
    """A short folder that others may enter is refused: somebody could have put their own server there."""
    embedded.socket_path(long_dir).parent.chmod(0o750)
    with pytest.raises(StoreError, match="mode 0700"):
        embedded.redis_url(long_dir)


def test_short_folder_is_a_link(long_dir: Path, tmp_path: Path) -> None:
    """A link in the place of the short folder is refused, wherever it leads."""
    folder = embedded.socket_path(long_dir).parent
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(StoreError, match="folder of this user"):
        embedded.start(long_dir)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_short_folder_of_another_user(long_dir: Path) -> None:
    """A short folder that belongs to another user is refused."""
    os.chown(embedded.socket_path(long_dir).parent, 65534, 65534)
    with pytest.raises(StoreError, match="folder of this user"):
        embedded.is_running(long_dir)


def test_no_path_short_enough(long_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where even the temporary folder's path is too long, the message says which variable to set."""
    monkeypatch.setattr(tempfile, "tempdir", str(long_dir))
    with pytest.raises(StoreError, match="Set TMPDIR"):
        embedded.command(long_dir)


def test_second_server_is_refused(tmp_path: Path) -> None:
    """A second server on the same files is refused with the first one's pid, and the first goes on."""
    with running(tmp_path) as process, client(tmp_path) as store:
        with pytest.raises(StoreError, match=rf"^\S+/valkey is in use by another Valkey \(pid {process.pid}\)"):
            embedded.start(tmp_path)
        assert store.set("kept", "yes")


def test_second_server_while_the_first_says_nothing(tmp_path: Path) -> None:
    """The files stay refused while their server answers nobody: the lock decides, not the socket."""
    with running(tmp_path) as process:
        embedded.socket_path(tmp_path).unlink()
        with pytest.raises(StoreError, match=rf"in use by another Valkey \(pid {process.pid}\)"):
            embedded.start(tmp_path)


def test_second_owner_is_refused(tmp_path: Path) -> None:
    """A second owner in another process is refused with the first one's pid."""
    with running(tmp_path), other_process(tmp_path, "owner") as other:
        assert first_line(other).startswith(
            f"refused {tmp_path / 'valkey'} is in use by another gateway (pid {os.getpid()})"
        )


def test_owner_waits_for_the_last_one(tmp_path: Path) -> None:
    """An owner that comes while another is leaving waits for it and then begins."""
    with other_process(tmp_path, "owner") as other:
        assert first_line(other).startswith("started")
        let_go(other)
        with embedded.exclusive(tmp_path, wait=15):
            assert not embedded.is_running(tmp_path)


def test_race_of_many(tmp_path: Path) -> None:
    """Of several processes that start a server on the same files at one moment, exactly one does."""
    with (
        other_process(tmp_path, "anyone") as one,
        other_process(tmp_path, "anyone") as two,
        other_process(tmp_path, "anyone") as three,
    ):
        first_words = [first_line(each).split()[0] for each in (one, two, three)]
    assert sorted(first_words) == ["refused", "refused", "started"]


def test_owner_killed(tmp_path: Path) -> None:
    """When the owner is killed, the next one gets the files, no old server and all acknowledged writes."""
    with other_process(tmp_path, "owner") as other:
        pid = int(first_line(other).removeprefix("started"))
        with client(tmp_path) as store:
            assert store.set("kept", "yes")
        other.kill()
        with running(tmp_path) as process, client(tmp_path) as store:
            assert store.get("kept") == "yes"
            assert store.info("server")["process_id"] == process.pid != pid


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next owner ends the orphan")
def test_server_ends_with_its_killed_owner(tmp_path: Path) -> None:
    """On Linux the server ends by itself when its owner is killed."""
    with other_process(tmp_path, "owner") as other:
        assert first_line(other).startswith("started")
        assert embedded.is_running(tmp_path)
        other.kill()
        wait_until(lambda: not embedded.is_running(tmp_path))


def test_orphan_is_ended_by_the_next_owner(tmp_path: Path) -> None:
    """A running server that nobody owns is shut down cleanly, and nothing of its data is lost."""
    orphan = embedded.start(tmp_path)
    with client(tmp_path) as store:
        store.set("kept", "yes")
    with running(tmp_path) as process, client(tmp_path) as store:
        assert orphan.wait() == 0
        assert process.pid != orphan.pid
        assert store.get("kept") == "yes"


def test_slow_loading_is_waited_for(tmp_path: Path) -> None:
    """A log that takes longer to load than the timeout is waited for, since the server says that it loads."""
    with running(tmp_path), client(tmp_path) as store:
        store.sadd("many", *range(2000))
    with write_log(tmp_path).open("ab") as log:
        log.write(b"*3\r\n$11\r\nSUNIONSTORE\r\n$4\r\ncopy\r\n$4\r\nmany\r\n" * 14000)
    began = time.monotonic()
    process = embedded.start(tmp_path, timeout=2.5)
    took = time.monotonic() - began
    embedded.stop(process)
    assert took > 2.5


def test_damaged_files(tmp_path: Path) -> None:
    """A server that can't load its files is reported with the last lines of its log, and leaves nothing."""
    with running(tmp_path), client(tmp_path) as store:
        store.set("kept", "yes")
    write_log(tmp_path).write_bytes(b"this is no log\r\n" * 9)
    with pytest.raises(StoreError, match="Bad file format reading the append only file"):
        embedded.start(tmp_path)
    with embedded.exclusive(tmp_path, wait=0):
        assert not embedded.is_running(tmp_path)


def test_data_dir_is_a_file(tmp_path: Path) -> None:
    """A data folder that can't be one is refused with the setting to change."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="GATEWAY_DATA_DIR"):
        embedded.command(tmp_path / "file")


def test_command_run_by_another_process(tmp_path: Path) -> None:
    """The server does not start under a process other than the one it is tied to."""
    argv = embedded.command(tmp_path)
    argv[-1] = "1" if os.getpid() != 1 else "2"
    result = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=15)
    assert (result.returncode, embedded.is_running(tmp_path)) == (1, False)
    assert "the process that asked for the server is gone" in result.stderr


def test_ready_gives_up_on_silence(tmp_path: Path) -> None:
    """Waiting for a server that never comes ends with a StoreError after the patience is used up."""
    with pytest.raises(StoreError, match=r"said nothing for 0\.1 s"):
        asyncio.run(embedded.ready(tmp_path, patience=0.1))


def test_ready_returns_when_it_answers(tmp_path: Path) -> None:
    """Waiting for a running server ends at once."""
    with running(tmp_path):
        asyncio.run(embedded.ready(tmp_path, patience=0.0))


def test_stop_of_a_hung_server(tmp_path: Path) -> None:
    """A server that does not react to SIGTERM is killed when the time is up, and has all its data after."""
    with running(tmp_path) as process, client(tmp_path) as store:
        store.set("kept", "yes")
        os.kill(process.pid, 19)
        embedded.stop(process, timeout=0.2)
        assert process.returncode == -9
    with running(tmp_path), client(tmp_path) as store:
        assert store.get("kept") == "yes"
