"""The commands as an operator and a script use them: exit status, documents, messages."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import CI_SECRET, Listener, Machine, order, orqo_headers

RUN_FIELDS = {
    "run_id", "workflow_run_id", "workflow_id", "workflow", "status", "session_id", "app_id", "event_id",
    "conversation_id", "credits", "trigger", "parent_run_id", "rerun_of", "replay_of", "root", "depth",
    "attempt", "task", "input", "metadata", "output", "error", "created_at", "started_at", "completed_at",
    "duration_ms", "steps", "callbacks",
}  # fmt: skip
STEP_FIELDS = {
    "id", "kind", "status", "attempt", "started_at", "completed_at", "due_at", "duration_ms", "output", "error",
    "credits", "waits_for", "child_run_id", "unknown",
}  # fmt: skip
GITHUB_HEADERS = {
    "Content-Type": "application/json",
    "X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
}
ORQO_HEADERS = {
    "Content-Type": "application/json",
    "X-Signature-256": "sha256=a82f96441b4a6ca0e17e22c4e9f3de6f063d7fc16c81eec3ffbfbc25b4af7736",
}
# Published by GitHub ("Validating webhook deliveries"), and computed from ORQO's description of its signature.
GITHUB_CAPTURE = {"scheme": "github", "secrets": ["It's a Secret to Everybody"], "headers": GITHUB_HEADERS}
ORQO_CAPTURE = {"scheme": "orqo", "secrets": ["orqo-test-secret"], "headers": ORQO_HEADERS}
ORQO_BODY = '{"event":"run.finished","id":"evt_1","data":{"app":"demo","ok":true}}'


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway's folder in which nothing runs."""
    with closing(Machine(tmp_path_factory.mktemp("idle"))) as machine:
        yield machine


def test_help_comes_at_once(idle: Machine) -> None:
    """`gateway --help` names every command and takes less than 0.3 seconds of work."""
    best = min(_seconds_of([str(Path(sys.executable).with_name("gateway")), "--help"]) for _ in range(3))
    text = idle.run("--help").stdout
    assert best < 0.3
    for command in (
        "demo",
        "up",
        "serve",
        "worker",
        "init",
        "check",
        "plan",
        "apply",
        "app",
        "token",
        "run",
        "send",
        "verify",
        "doctor",
    ):
        assert f" {command} " in text


def _seconds_of(argv: list[str]) -> float:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "argv",
    [
        ["no-such-command"],
        ["run", "show", "not-a-number"],
        ["run", "list", "--status", "sleeping"],
        ["token", "create", "t", "--scope", "everything"],
        ["send", "http://127.0.0.1:1/", "--secret", "s" * 20, "-H", "no colon"],
        ["check", "--no-such-option"],
    ],
)
def test_a_command_that_is_not_understood_exits_with_2(idle: Machine, argv: list[str]) -> None:
    """Usage errors exit with 2, say why on standard error, and print nothing else."""
    done = idle.run(*argv)
    assert done.returncode == 2
    assert done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("capture", "body", "valid"),
    [
        (GITHUB_CAPTURE, "Hello, World!", True),
        (GITHUB_CAPTURE, "Hello, World?", False),
        (GITHUB_CAPTURE | {"headers": {}}, "Hello, World!", False),
        (GITHUB_CAPTURE | {"secrets": ["mysecret-mysecret"]}, "Hello, World!", False),
        (ORQO_CAPTURE, ORQO_BODY, True),
        (ORQO_CAPTURE, ORQO_BODY.replace("true", "True"), False),
        (ORQO_CAPTURE | {"secrets": ["another-secret-0123", "orqo-test-secret"]}, ORQO_BODY, True),
    ],
)
def test_verify_judges_a_captured_request(
    idle: Machine, tmp_path: Path, capture: dict[str, Any], body: str, valid: bool
) -> None:
    """`gateway verify` says valid and exits with 0, or not valid with a reason and exits with 1."""
    document = {"method": "POST", "url": "https://gateway.example/hooks/app", "body": body, "now": None} | capture
    file = tmp_path / "capture.json"
    file.write_text(json.dumps(document))

    done = idle.run("verify", str(file))

    verdict = json.loads(done.stdout)
    assert verdict.keys() == {"valid", "reason"}
    assert (verdict["valid"], done.returncode) == (valid, 0 if valid else 1)
    assert (verdict["reason"] == "valid") is valid


@pytest.mark.parametrize("text", ["no json", "[]", '{"scheme": "no-such-scheme"}'])
def test_verify_refuses_what_is_no_capture(idle: Machine, text: str) -> None:
    """A file that is no captured request exits with 1 and a message, not a traceback."""
    done = idle.run("verify", "-", given=text)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("gateway: ") or json.loads(done.stdout)["valid"] is False


def test_check_names_line_column_and_field(idle: Machine, tmp_path: Path) -> None:
    """`gateway check` exits with 1 and one line for each mistake, with where it is; a good file exits with 0."""
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        "apps:\n  - id: 1\n    name: a\n    verify: {scheme: orko, secrets: [{env: CI_SECRET}]}\n"
        "workflows:\n  - name: w\n    stepz: []\n"
    )
    missing = idle.run("check", str(tmp_path / "absent.yaml"))
    done, told = idle.run("check", str(broken)), idle.run("check", str(broken), "--json")
    well = idle.run("check", "--json")

    assert (done.returncode, told.returncode, missing.returncode, well.returncode) == (1, 1, 1, 0)
    assert f"{broken}:4:" in done.stderr
    assert f"{broken}:7:5: workflows[0].stepz:" in done.stderr
    assert "did you mean `steps`" in done.stderr
    document = json.loads(told.stdout)
    assert document["valid"] is False
    assert [mistake["line"] for mistake in document["mistakes"]] == [4, 7]
    assert document["mistakes"][0].keys() == {"line", "column", "path", "message"}
    assert "absent.yaml" in missing.stderr
    assert json.loads(well.stdout)["valid"] is True


@pytest.mark.parametrize("command", ["check", "plan", "apply", "up"])
def test_yaml_that_cannot_be_read_is_placed(idle: Machine, tmp_path: Path, command: str) -> None:
    """A file that is no YAML stops each command with 1 and the line and column."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("apps:\n  - id: 1\n   name: [\n")
    argv = [command, str(broken)] if command != "up" else [command]
    idle.environ["GATEWAY_CONFIG"], kept = str(broken), idle.environ["GATEWAY_CONFIG"]
    try:
        done = idle.run(*argv)
    finally:
        idle.environ["GATEWAY_CONFIG"] = kept
    assert done.returncode == 1
    assert "line 3, column" in done.stderr or "broken.yaml:3:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_first_file_works_as_it_is(make_machine: MakeMachine) -> None:
    """`gateway init`'s file is good, runs the order its own comments describe, and is not overwritten."""
    machine = make_machine()
    machine.config.unlink()
    assert machine.run("init", str(machine.config)).returncode == 0
    text = machine.config.read_text()
    again = machine.run("init", str(machine.config))
    assert (again.returncode, machine.config.read_text()) == (1, text)
    assert machine.run("check").returncode == 0
    machine.start().wait_ready()

    plain = machine.wait_run(machine.start_run(b'{"workflow_id": 15}'))
    task = machine.wait_run(machine.start_run(b'{"workflow_id": 15, "task": "reader"}'))
    named = machine.wait_run(machine.start_run(b'{"workflow_id": "greet", "input": {"name": "Ada"}}'))

    said = [(run.state, (run.output or {}).get("greeting")) for run in (plain, task, named)]
    assert said == [("completed", f"Hello, {name}!") for name in ("world", "reader", "Ada")]


def test_apps_are_made_shown_and_used(calm: Machine, listener: Listener) -> None:
    """`app add` shows its secrets once, works at once for the right sender, and `list` and `show` never tell them."""
    added = calm.json("app", "add", "partner", "--callback-url", listener.url)
    listed, shown = calm.json("app", "list"), calm.json("app", "show", "partner")
    taken = calm.run("app", "add", "partner")
    absent = calm.run("app", "show", "nobody")

    assert added["secret"]
    assert added["callback_secret"].startswith("whsec_")
    assert {app["name"] for app in listed} == {"ci", "github", "partner"}
    assert shown == {name: value for name, value in added.items() if name not in ("secret", "callback_secret")}
    assert added["secret"] not in json.dumps([listed, shown])
    assert (taken.returncode, absent.returncode) == (1, 1)
    body = order("partner", 16)
    good = calm.post(body, app=added["id"], headers=orqo_headers(body, added["secret"]))
    by_token = calm.post(body, app=added["token"], headers=orqo_headers(body, added["secret"]))
    bad = calm.post(body, app=added["id"], headers=orqo_headers(body, CI_SECRET))
    assert (good.status, by_token.status, bad.status) == (200, 200, 401)


def test_tokens_are_made_shown_once_and_revoked(calm: Machine) -> None:
    """`token create` shows the token, `list` does not, `revoke` ends it; what is unknown exits with 1."""
    made = calm.json("token", "create", "ci", "--scope", "runs:read", "--days", "1")
    listed = calm.json("token", "list")
    revoked = calm.json("token", "revoke", made["id"])
    again = calm.run("token", "revoke", made["id"])

    assert made["token"].startswith("gw_api_")
    assert (made["status"], made["scopes"]) == ("active", ["runs:read"])
    assert listed == [{name: value for name, value in made.items() if name != "token"}]
    assert (revoked["id"], revoked["status"]) == (made["id"], "revoked")
    assert again.returncode == 1


def test_runs_are_listed_shown_and_followed(calm: Machine) -> None:
    """`run list`, `run show` and `run tail` print the API's fields; an unknown run exits with 1."""
    run_id = calm.start_run(order("shown"))
    tail = calm.run("run", "tail", str(run_id), "--json")
    calm.wait_run(run_id)
    shown = calm.json("run", "show", str(run_id))
    listed = calm.json("run", "list", "--limit", "1")
    absent = calm.run("run", "show", "4711")

    assert shown.keys() == RUN_FIELDS
    assert (shown["run_id"], shown["status"], shown["workflow_id"], shown["app_id"]) == (run_id, "completed", 15, 42)
    assert [step["id"] for step in shown["steps"]] == ["a", "b", "c"]
    assert {frozenset(step) for step in shown["steps"]} == {frozenset(STEP_FIELDS)}
    assert {step["kind"] for step in shown["steps"]} == {"python"}
    assert shown["completed_at"] >= shown["started_at"] >= shown["created_at"]
    assert (listed[0]["run_id"], listed[0].keys()) == (run_id, RUN_FIELDS - {"callbacks"})
    assert tail.returncode == 0
    assert json.loads(tail.stdout.splitlines()[-1])["status"] == "completed"
    assert (absent.returncode, "4711" in absent.stderr) == (1, True)
    assert calm.run("run", "show", str(run_id)).returncode == 0


def test_a_command_prints_its_document_and_nothing_else(calm: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who acts on runs need not have the apps' secrets at hand, and hears nothing of them."""
    run_id = calm.start_run(order("acted on"))
    calm.wait_run(run_id)
    monkeypatch.delitem(calm.environ, "CI_SECRET")
    again = calm.run("run", "rerun", str(run_id), "--json")
    refused = calm.run("run", "retry", str(run_id), "--json")

    assert json.loads(again.stdout)["rerun_of"] == run_id
    assert again.stderr == ""
    assert (refused.returncode, refused.stdout, "is completed" in refused.stderr) == (1, "", True)


def test_callbacks_are_listed_and_shown(calm: Machine) -> None:
    """`callback list` and `callback show` tell what was sent, where to, and each attempt."""
    run_id = calm.start_run(order("told", 16))
    deadline = time.monotonic() + 20
    while not (
        found := [each for each in calm.json("callback", "list", "--status", "delivered") if each["run_id"] == run_id]
    ):
        assert time.monotonic() < deadline
    shown = calm.json("callback", "show", found[0]["callback_id"])

    assert found[0] == {name: value for name, value in shown.items() if name != "body"}
    assert (shown["status"], shown["type"]) == ("delivered", "run.completed")
    assert shown["body"]["data"]["run_id"] == run_id
    assert [attempt["status"] for attempt in shown["attempts"]] == [204]


def test_workflows_are_listed_and_shown(calm: Machine) -> None:
    """`workflow list` and `workflow show` name each published workflow with its version and definition."""
    listed = {each["name"]: each for each in calm.json("workflow", "list")}
    shown = calm.json("workflow", "show", "15")
    assert set(listed) == {"three", "greet", "poison", "stubborn", "once"}
    assert (listed["three"]["workflow_id"], listed["three"]["version"], listed["three"]["steps"]) == (15, 1, 3)
    assert [step["id"] for step in shown["definition"]["steps"]] == ["a", "b", "c"]


def test_workflows_are_uploaded_compared_and_rolled_back(calm: Machine, tmp_path: Path) -> None:
    """`workflow upload` publishes a file live, `versions`, `diff` and `rollback` go through what was published."""
    file = tmp_path / "shout.yaml"
    file.write_text("name: shout\nsteps:\n  - {id: s, python: 'os:getpid'}\noutput: one\n")
    first = calm.json("workflow", "upload", str(file), "--label", "v1.0")
    again = calm.json("workflow", "upload", str(file))
    file.write_text('{"name": "shout", "steps": [], "output": "two"}')
    second = calm.json("workflow", "upload", str(file))
    difference = calm.json("workflow", "diff", "shout")
    shown = calm.run("workflow", "diff", "shout", "v1.0", "2")
    back = calm.json("workflow", "rollback", "shout", "v1.0")
    versions = calm.json("workflow", "versions", "shout")
    old = calm.json("workflow", "show", "shout", "--version", "2")

    assert (first["version"], first["label"], again) == (1, "v1.0", first)
    assert (old["number"], old["definition"]["output"]) == (2, "two")
    assert (second["version"], back["version"], back["digest"]) == (2, 3, first["digest"])
    assert [(each["number"], each["label"]) for each in versions] == [(1, "v1.0"), (2, None), (3, None)]
    assert {each["path"] for each in difference["changes"]} == {"steps[s]", "output"}
    assert "\n-output: one\n+steps: []\n+output: two\n" in difference["diff"]
    assert "\n-output: one\n+steps: []\n+output: two\n" in shown.stdout
    for argv in (["upload", str(file)], ["versions", "shout"], ["diff", "shout", "1", "3"], ["rollback", "shout", "1"]):
        assert calm.run("workflow", *argv).returncode == 0
    assert calm.json("workflow", "remove", "shout")["name"] == "shout"
    assert calm.run("workflow", "remove", "shout").returncode == 1
    assert calm.run("workflow", "versions", "shout").returncode == 1


def test_upload_names_line_column_and_field(idle: Machine, tmp_path: Path) -> None:
    """A file with mistakes is told as `gateway check` tells it, and none of its workflows is published."""
    file = tmp_path / "wrong.yaml"
    file.write_text("workflows:\n  - name: good\n  - name: bad\n    steps:\n      - {id: s, transfrom: 1}\n")
    done, told = idle.run("workflow", "upload", str(file)), idle.run("workflow", "upload", str(file), "--json")
    absent = idle.run("workflow", "upload", str(tmp_path / "absent.yaml"))

    assert (done.returncode, told.returncode, absent.returncode) == (1, 1, 1)
    assert f"{file}:5:17: workflows[1].steps[0].transfrom: " in done.stderr
    assert [each["line"] for each in json.loads(told.stdout)["mistakes"]] == [5]
    assert "absent.yaml" in absent.stderr
    assert not {"good", "bad"} & {each["name"] for each in idle.json("workflow", "list")}


def test_what_the_file_manages_is_not_changed_by_command(calm: Machine, tmp_path: Path) -> None:
    """Upload, rollback and removal of a workflow of gateway.yaml exit with 1 and say why; several are all or none."""
    file = tmp_path / "several.json"
    file.write_text('{"workflows": [{"name": "mine", "steps": []}, {"name": "greet", "steps": []}]}')
    for argv in (["upload", str(file)], ["rollback", "greet", "1"], ["remove", "greet"]):
        done = calm.run("workflow", *argv)
        assert (done.returncode, "managed by gateway.yaml" in done.stderr) == (1, True), argv
    assert "mine" not in {each["name"] for each in calm.json("workflow", "list")}


def test_commands_work_while_nothing_runs(idle: Machine) -> None:
    """Without a gateway running, the commands open the data folder themselves, and leave it closed."""
    planned = idle.json("plan")
    assert idle.json("plan") == planned
    assert idle.json("apply") == planned
    assert planned["added"]
    assert idle.json("apply") == {"added": [], "changed": [], "removed": []}
    assert {app["name"] for app in idle.json("app", "list")} == {"ci", "github"}
    assert idle.json("run", "list") == []
    assert idle.start().wait_ready().stop() == 0
