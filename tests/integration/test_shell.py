"""`shell` steps with real processes: what reaches them, what comes back, and that none of them is left afterwards."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.egress import read_policy
from gateway.expressions import Failure
from gateway.web.client import Client
from gateway.workflows import prepare
from tests.tools import begin, connected, ended, publish, settings_for, tell, until, working
from workers import children, guard
from workers.executors import shell
from workers.executors.base import Context, Rules, StepFailed

HOSTILE = ["; touch pwned", "$(touch pwned)", "`touch pwned`", "a\nb", "--help", "*", "'\"\\", "ä€𝄞", "", " ", "-n"]
STUBBORN = "trap '' TERM; echo $$ > {pids}/{name}; while :; do sleep 0.1; done"
SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd(), sys.stdin.read()]))"


def context(**changes: Any) -> Context:
    given: dict[str, Any] = {
        "run_id": 7,
        "step_id": "a",
        "attempt": 1,
        "key": "key-of-7-a",
        "seconds": 20.0,
        "cap": 1_000_000,
        "client": Client(read_policy("")),
        "rules": Rules(path=os.environ["PATH"]),
    }
    return Context(**(given | changes))


async def perform(call: Any, values: dict[str, Any] | None = None, **changes: Any) -> Any:
    """One attempt of a step, without a worker around it."""
    step = prepare({"name": "w", "steps": [{"id": "a", "shell": call}]}).steps["a"]
    argument = step.argument.render({"input": values or {}})
    assert not isinstance(argument, Failure)
    return await shell.perform(step, argument, context(**changes))


def run(call: Any, values: dict[str, Any] | None = None, **changes: Any) -> Any:
    return asyncio.run(perform(call, values, **changes))


def refused(call: Any, values: dict[str, Any] | None = None, **changes: Any) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        run(call, values, **changes)
    return caught.value


def show(**fields: Any) -> dict[str, Any]:
    return {"argv": [sys.executable, "-c", SHOW], "output": "json"} | fields


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """A folder where processes write their ids, and the certainty that none outlives the test."""
    folder = tmp_path / "pids"
    folder.mkdir()
    yield folder
    for pid in alive(folder):
        os.kill(pid, signal.SIGKILL)


def alive(folder: Path) -> list[int]:
    return [pid for pid in map(int, (file.read_text() for file in folder.iterdir())) if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def written(folder: Path, count: int) -> bool:
    return len([file for file in folder.iterdir() if file.read_text().strip()]) == count


def left_folders() -> list[str]:
    return [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("gateway-step-")]


# ---- what goes in


@pytest.mark.parametrize("value", HOSTILE)
def test_any_text_reaches_a_program_as_it_is(value: str) -> None:
    """Text that a shell would act upon is one argument, one variable, one input, and nothing more."""
    call = show(stdin="${input.x}", env={"VALUE": "${input.x}"})
    call["argv"] = [*call["argv"], "${input.x}"]
    argv, env, folder, stdin = run(call, {"x": value})["stdout"]
    assert (argv, env["VALUE"], stdin) == ([value], value, value)
    assert not Path(folder).exists()


def test_a_program_gets_a_small_fixed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the worker's environment is inherited but PATH; the step's own identity is there."""
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2hunter2")
    _, env, folder, _ = run(show(env={"MINE": "yes"}))["stdout"]
    env.pop("LC_CTYPE", None)
    assert env == {
        "PATH": os.environ["PATH"],
        "HOME": folder,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "GATEWAY_RUN_ID": "7",
        "GATEWAY_STEP": "a",
        "GATEWAY_IDEMPOTENCY_KEY": "key-of-7-a",
        "MINE": "yes",
    }


def test_a_program_runs_where_it_is_told(tmp_path: Path) -> None:
    """A folder that is named is used and left as it is."""
    assert run(show(cwd=str(tmp_path)))["stdout"][2] == str(tmp_path)
    assert tmp_path.is_dir()
    assert "is not there" in refused({"argv": ["true"], "cwd": str(tmp_path / "no")}).message


def test_numbers_and_objects_become_text() -> None:
    """What is no text is written as templates write it: compact JSON, and nothing for null."""
    call = show(stdin="${input}")
    call["argv"] = [*call["argv"], 5, 0.5, "${input.n}", "${input.none}", "${input.list}"]
    argv, _, _, stdin = run(call, {"n": 3, "none": None, "list": [1, "a"]})["stdout"]
    assert argv == ["5", "0.5", "3", "", '[1,"a"]']
    assert json.loads(stdin) == {"n": 3, "none": None, "list": [1, "a"]}


def test_a_secret_is_given_by_name_and_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A secret of `env` reaches the program; what it and computed values hold is not in a failure's message."""
    monkeypatch.setenv("DEPLOY_KEY", "s3cr3t")
    (tmp_path / "key").write_text("from-a-file\n")
    env = {"A": {"env": "DEPLOY_KEY"}, "B": {"file": str(tmp_path / "key")}, "C": "${input.token}"}
    script = 'echo "fatal: $A $B $C $0" >&2; exit 9'
    failure = refused({"argv": ["sh", "-c", script], "env": env}, {"token": "long-enough-token"})
    assert failure.message == "sh ended with code 9: fatal: [secret] [secret] *** sh"
    own = {"A": env["A"], "B": env["B"]}
    told = run({"argv": ["sh", "-c", "echo $A; printf %s $B | base64; echo $A >&2"], "env": own})
    assert (told["stdout"], told["stderr"]) == ("[secret]\n" * 2, "[secret]\n")
    missing = refused({"argv": ["true"], "env": {"A": {"env": "NO_SUCH_KEY"}}})
    assert missing.kind == "MissingSecret"
    assert "env NO_SUCH_KEY" in missing.message


@pytest.mark.parametrize(
    ("call", "values", "kind", "words"),
    [
        (["printf", "${input.x}"], {"x": "a\0b"}, "BadArgument", "argv[1] holds a NUL byte"),
        ({"argv": ["true"], "env": {"A": "${input.x}"}}, {"x": "a\0b"}, "BadArgument", "env.A holds a NUL byte"),
        (["printf", "${input.x}"], {"x": "x" * 200_000}, "CannotStart", "use stdin"),
        (["printf", "${input.x}"], {"x": "x" * 4_000_000}, "CannotStart", "use stdin"),
        (["no-such-program-of-tests"], {}, "CannotStart", "there is no program 'no-such-program-of-tests'"),
        (["/etc/passwd"], {}, "CannotStart", "ermission denied"),
    ],
)
def test_what_can_not_be_given_or_started_says_why(call: Any, values: dict[str, Any], kind: str, words: str) -> None:
    """The failure names the argument and what to do, and is not tried again."""
    before = left_folders()
    failure = refused(call, values)
    assert (failure.kind, failure.again) == (kind, False)
    assert words in failure.message
    assert left_folders() == before


def test_a_program_need_not_read_its_input() -> None:
    """More input than a pipe holds, to a program that ends without reading it, is no failure."""
    assert run({"argv": ["true"], "stdin": "${input.x}"}, {"x": "x" * 900_000})["code"] == 0


# ---- what comes back


def test_outputs_are_read_as_asked() -> None:
    """Text, lines, JSON and base64 of the same bytes."""
    argv = ["printf", '["a",\n"b"]\n']
    assert run(argv) == {"code": 0, "stdout": '["a",\n"b"]\n', "stderr": ""}
    assert run({"argv": argv, "output": "lines"})["stdout"] == ['["a",', '"b"]']
    assert run({"argv": argv, "output": "json"})["stdout"] == ["a", "b"]
    assert base64.b64decode(run({"argv": argv, "output": "base64"})["stdout"]) == b'["a",\n"b"]\n'
    assert run({"argv": ["true"], "output": "lines"})["stdout"] == []


def test_binary_output_is_kept_whole_or_shown_by_its_codes() -> None:
    """Base64 keeps every byte; text shows what is no UTF-8 as escapes; JSON that is none is a failure."""
    script = "import sys; sys.stdout.buffer.write(bytes(range(256)))"
    argv = [sys.executable, "-c", script]
    assert base64.b64decode(run({"argv": argv, "output": "base64"})["stdout"]) == bytes(range(256))
    assert run(argv)["stdout"].endswith("\\xfe\\xff")
    assert refused({"argv": argv, "output": "json"}).kind == "BadAnswer"


def test_exit_codes_and_signals_are_named() -> None:
    """Another code than expected fails with the end of stderr; expected codes are a success."""
    script = ["sh", "-c", "echo out; echo wrong >&2; exit 4"]
    assert refused(script).message == "sh ended with code 4: wrong"
    assert run({"argv": script, "codes": [0, 4]}) == {"code": 4, "stdout": "out\n", "stderr": "wrong\n"}
    assert refused(["sh", "-c", "kill -SEGV $$"]).message == "sh was ended by SIGSEGV"
    assert len(refused(["sh", "-c", "yes | head -c 100000 >&2; exit 1"]).message) < 1100


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_too_much_output_ends_the_program(stream: str) -> None:
    """50 MB are not read: the program is ended at the cap, and the worker's memory does not grow with them."""
    target = "" if stream == "stdout" else ">&2"
    before = _peak()
    failure = refused({"argv": ["sh", "-c", f"head -c 50000000 /dev/zero {target}"], "cap": "1MB"})
    assert (failure.kind, failure.again) == ("TooLarge", False)
    assert f"more than 1000000 bytes to {stream}" in failure.message
    assert _peak() - before < 20_000


def _peak() -> int:
    """The most memory this process ever had, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


# ---- how it ends


def stubborn(pids: Path) -> list[str]:
    """A program, its child, and one that left its group, none of which heeds SIGTERM."""
    script = " & ".join(
        f'{start} sh -c "{STUBBORN.format(pids=pids, name=name).replace("$", chr(92) + "$")}"'
        for name, start in (("child", ""), ("away", "setsid"), ("orphan", "setsid setsid"))
    )
    return ["sh", "-c", f"{script} & {STUBBORN.format(pids=pids, name='main')}"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_timeout_ends_every_process(pids: Path, monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    """The group, and what left it by setsid, are killed after the grace; none is left when the step is over."""
    monkeypatch.setattr(children, "GRACE", 0.2)
    before = left_folders()

    async def story() -> None:
        task = asyncio.create_task(perform(stubborn(pids)))
        await until(lambda: written(pids, 4))
        assert len(alive(pids)) == 4
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert alive(pids) == []

    (asyncio.run if loop == "asyncio" else uvloop.run)(story())
    assert left_folders() == before


def test_a_cancel_that_comes_again_still_waits_for_the_end(pids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that stops cancels a step again and again; the step is over only when its processes are."""
    monkeypatch.setattr(children, "GRACE", 0.5)

    async def story() -> None:
        task = asyncio.create_task(perform(stubborn(pids)))
        await until(lambda: written(pids, 4))
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.05)
        assert alive(pids) == []

    asyncio.run(story())


def test_what_a_program_leaves_running_is_ended(pids: Path) -> None:
    """A step is over when its program is: a daemon it left behind neither holds it up nor outlives it."""
    script = (
        f"setsid sh -c 'echo $$ > {pids}/daemon; exec sleep 1000' & while [ ! -s {pids}/daemon ]; do :; done; echo ok"
    )
    assert run(["sh", "-c", script])["stdout"] == "ok\n"
    assert alive(pids) == []


def test_processes_end_when_their_worker_is_killed(pids: Path, tmp_path: Path) -> None:
    """After kill -9 of the worker its steps' processes and folders are gone too."""
    worker = tmp_path / "worker_of_tests.py"
    worker.write_text(
        "import asyncio, json, sys\nfrom workers.children import Order, run_child\n"
        "argv = json.loads(sys.argv[1])\n"
        "asyncio.run(run_child(Order(argv=argv, env={'PATH': sys.argv[2]}, seconds=60.0, cap=1000)))\n"
    )
    before = left_folders()
    process = subprocess.Popen([sys.executable, str(worker), json.dumps(stubborn(pids)), os.environ["PATH"]])

    async def story() -> None:
        await until(lambda: written(pids, 4))
        process.kill()
        process.wait()
        await until(lambda: not alive(pids))
        await until(lambda: left_folders() == before)

    tell(story())


def test_a_frozen_worker_does_not_stretch_a_timeout(pids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard ends a program by itself a little after its timeout."""
    monkeypatch.setattr(children, "GRACE", 0.1)
    monkeypatch.setattr(children, "LATE", 0.0)
    failure = refused(stubborn(pids), seconds=1.0)
    assert failure.message == "sh was ended by SIGKILL"
    assert alive(pids) == []


def test_a_guard_that_is_killed_is_told_as_such(pids: Path) -> None:
    """A program that kills its guard fails, and its group ends with it."""
    failure = refused(["sh", "-c", f"echo $$ > {pids}/main; kill -9 $PPID; exec sleep 1000"])
    assert failure.kind == "Killed"
    assert alive(pids) == []


def test_a_guard_that_is_killed_at_once_takes_its_program_along(
    pids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may kill its guard before that has said which it is: it is found by its session, and ended."""
    silent = tmp_path / "guard.py"
    silent.write_text(Path(children.guard.__file__).read_text().replace('tell(control, "pid", command.pid)', "pass"))
    monkeypatch.setattr(children.guard, "__file__", str(silent))
    failure = refused(["sh", "-c", f"echo $$ > {pids}/main; kill -9 $PPID; exec sleep 1000"])
    assert failure.kind == "Killed"
    assert alive(pids) == []


def test_memory_can_be_bounded() -> None:
    """A program that takes more than GATEWAY_CHILD_MEMORY is refused it, and only that step fails."""
    script = "x = b'x' * 400_000_000"
    rules = Rules(path=os.environ["PATH"], memory=200_000_000)
    assert "MemoryError" in refused([sys.executable, "-c", script], rules=rules).message


def test_a_hundred_steps_leave_nothing_open() -> None:
    """No file and no child of ours is left by steps that end, fail, or can't start."""

    async def story() -> None:
        await perform(["true"])
        before = len(os.listdir("/proc/self/fd"))
        for call in (["true"], ["false"], ["no-such-program-of-tests"], {"argv": ["yes"], "cap": 10}):
            for _ in range(5):
                with contextlib.suppress(StepFailed):
                    await perform(call)
        assert len(os.listdir("/proc/self/fd")) == before

    others = guard.descendants(os.getpid())
    asyncio.run(story())
    uvloop.run(story())
    assert guard.descendants(os.getpid()) == others


# ---- by a worker


def test_a_worker_runs_shell_steps_and_their_timeouts(store: str, tmp_path: Path, pids: Path) -> None:
    """Through the store and back: an output that the next step reads, and a timeout that is told as one."""
    steps = [
        {"id": "a", "shell": ["printf", "%s", "${input.x}"]},
        {"id": "b", "needs": ["a"], "shell": {"argv": ["cat"], "stdin": "${steps.a.output.stdout}!"}},
        {"id": "c", "needs": ["b"], "timeout": 1, "shell": ["sh", "-c", f"echo $$ > {pids}/c; exec sleep 1000"]},
    ]

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, json.dumps({"workflows": [{"name": "w", "steps": steps}]}))
            async with working(settings_for(store, tmp_path, lease=5)):
                run = await ended(redis, await begin(redis, "w", input={"x": "$HOME"}))
        assert run.steps["b"].output == {"code": 0, "stdout": "$HOME!", "stderr": ""}
        assert run.error is not None
        assert (run.error.type, run.error.step) == ("Timeout", "c")
        assert alive(pids) == []

    tell(story())
