"""`gateway event replay` and `gateway plan --since` as an operator uses them, on a machine of real processes."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import GITHUB_SECRET, Machine, until

MAIN = "refs/heads/main"


def push(machine: Machine, ref: str, after: str) -> int | None:
    """Deliver a push as GitHub does; gives the run it started."""
    body = json.dumps({"ref": ref, "after": after}).encode()
    digest = hmac.new(GITHUB_SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": f"d-{after}",
        "X-Hub-Signature-256": f"sha256={digest}",
    }
    answer = machine.post(body, app=43, headers=headers)
    assert answer.status in (200, 202), answer
    run_id: int | None = answer.json().get("run_id")
    return run_id


@pytest.fixture
def busy(up: MakeMachine) -> Machine:
    """A gateway that had two pushes to main and two to another branch."""
    machine = up()
    for number, ref in enumerate((MAIN, "refs/heads/x", MAIN, "refs/heads/x")):
        if run_id := push(machine, ref, f"c{number}"):
            machine.wait_run(run_id)
    return machine


def test_a_plan_says_what_the_stored_events_would_do(busy: Machine) -> None:
    """Before the file is changed nothing differs; then, by trigger, what stops, what starts, which inputs differ."""
    assert busy.run("plan", "--since", "7d", "--exit-code").returncode == 0
    new = busy.folder / "new.yaml"
    text = busy.config.read_text()
    new.write_text(text.replace(f'event.body.ref == "{MAIN}"', "event.body.after != 'c0'").replace(
        'input: {name: "${event.body.after}"}', 'input: {name: "${event.body.ref}"}'
    ))  # fmt: skip
    before = len(busy.runs())
    found = busy.json("plan", str(new), "--since", "7d", "--app", "github")
    (row,) = found["events"]["triggers"]
    assert (row["trigger"], row["matched_before"], row["matched_after"]) == ("deploys", 2, 3)
    assert row["counts"] == {"stops": 1, "starts": 2, "input": 1}
    assert found["events"]["looked_at"] == 4
    (changed,) = [each for each in row["examples"] if each["kind"] == "input"]
    assert changed["changes"] == [f'name: "c2" → "{MAIN}"']
    shown = busy.run("plan", str(new), "--since", "7d", "--exit-code")
    assert (shown.returncode, "matched, and would not" in shown.stdout) == (1, True), shown.stdout
    assert (len(busy.runs()), busy.run("plan", "--exit-code").returncode) == (before, 0)


def test_events_are_replayed_by_filter_after_a_dry_run(busy: Machine) -> None:
    """What is ignored would start nothing; what was accepted is shown first, and started once under one key."""
    ignored = busy.json("event", "replay", "--since", "1h", "--outcome", "ignored", "--dry-run")
    assert [each["status"] for each in ignored] == ["ignored", "ignored"]
    accepted = ("event", "replay", "--app", "github", "--type", "push", "--since", "1h", "--outcome", "accepted")
    dry = busy.json(*accepted, "--dry-run")
    assert [each["starts"][0]["input"] for each in dry] == [{"name": "c0"}, {"name": "c2"}]
    assert len(busy.runs()) == 2
    done = [busy.json(*accepted, "--key", "k") for _ in range(2)]
    assert [[each["status"] for each in each_time] for each_time in done] == [["started"] * 2, ["known"] * 2]
    run_id = done[0][0]["run_ids"][0]
    busy.wait_run(run_id)
    shown = busy.run("run", "show", str(run_id)).stdout
    assert f"of event {done[0][0]['event_id']}" in shown
    assert "replays event" in busy.run("run", "tail", str(run_id)).stdout


def test_one_event_is_replayed_by_its_id(busy: Machine) -> None:
    """With the same configuration too; an id that is not there exits with 1 and says why, the others go on."""
    event_id = busy.json("run", "show", "1")["event_id"]
    (done,) = busy.json("event", "replay", event_id, "--config", "same")
    assert (done["status"], done["starts"][0]["input"]) == ("started", {"name": "c0"})
    mixed = busy.run("event", "replay", "evt_00", event_id, "--json")
    assert mixed.returncode == 1
    assert [each["status"] for each in json.loads(mixed.stdout)] == ["refused", "started"]


@pytest.mark.parametrize(
    "argv",
    [[], ["evt_0", "--since", "2h"], ["--app", "ci"], ["evt_0", "--config", "old"], ["--since", "soon"],
     ["--since", "2h", "--outcome", "odd"]],
)  # fmt: skip
def test_what_is_not_understood_exits_with_2(shared: MakeMachine, argv: list[str]) -> None:
    """Neither ids nor a time, both, or words that mean nothing."""
    done = shared().run("event", "replay", *argv)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (2, "", False)


def test_a_replay_that_was_killed_goes_on_under_its_key(up: MakeMachine) -> None:
    """Killed between two pages, the same command with the key it named replays the rest, and nothing twice."""
    machine = up()
    first = [push(machine, MAIN, f"c{number}") for number in range(8)]
    argv = [sys.executable, "-m", "gateway", "event", "replay", "--since", "1h", "--rate", "2", "--key", "k"]
    process = subprocess.Popen(
        argv, cwd=machine.folder, env=machine.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        until(lambda: len(machine.runs()) > len(first), "the first replays")
        process.send_signal(signal.SIGKILL)
    done = machine.run("event", "replay", "--since", "1h", "--key", "k", "--json")
    found: list[Any] = json.loads(done.stdout)
    statuses = {each["status"] for each in found}
    assert (len(found), statuses) == (8, {"known", "started"}), done.stderr
    assert sorted(str(run.request.replay_of) for run in machine.runs() if run.request.replay_of) == sorted(
        each["event_id"] for each in found
    )
