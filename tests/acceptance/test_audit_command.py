"""`gateway audit` on a gateway that runs."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import Machine


def gateway(machine: Machine, *argv: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *argv],
        env=machine.environ,
        cwd=machine.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_who_changed_what_is_listed_and_verified(up: MakeMachine) -> None:
    """The file's changes and the commands', each with its actor; a noted end is found again, a wrong one is not."""
    machine = up()
    assert gateway(machine, "app", "add", "site", "--json")[0] == 0
    assert gateway(machine, "app", "disable", "site")[0] == 0
    entries = json.loads(gateway(machine, "audit", "list", "--json")[1])
    assert [(each["action"], each["subject"], each["actor"]["kind"]) for each in entries[:2]] == [
        ("app.change", "site", "command"),
        ("app.add", "site", "command"),
    ]
    assert {each["actor"]["kind"] for each in entries[2:]} == {"file"}
    code, text = gateway(machine, "audit", "verify", "--json")
    found = json.loads(text)
    assert (code, found["valid"], found["entries"]) == (0, True, len(entries))
    assert gateway(machine, "audit", "verify", "--expect", found["head"])[0] == 0
    number, _, line = found["head"].partition(":")
    code, text = gateway(machine, "audit", "verify", "--expect", f"{number}:{line[::-1]}")
    assert (code, "not the one you noted" in text) == (1, True)
    assert gateway(machine, "audit", "verify", "--expect", "nonsense")[0] == 2
