"""`workflow test`, `schema` and `run approve-link` as people use them in their own CI and by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.acceptance.machine import Listener, Machine, request, until

FLOW = """
name: ship
input: {type: object, required: [repo]}
steps:
  - id: look
    http: {url: "${input.url}", method: POST, json: {}, expect: [401]}
  - id: double
    python: mine:double
    with: 21
  - id: ask
    needs: [look, double]
    approval: {who: [ops], message: "Ship ${input.repo}?"}
  - id: late
    needs: [ask]
    when: steps.ask.output.approved
    wait: {for: 30d}
output: {n: "${steps.double.output}", by: "${steps.ask.output.by}", status: "${steps.look.output.status}"}
"""
MINE = """
def double(number):
    print("what a step prints is no document")
    return number * 2
"""
STUBS = """
look: {status: 401, headers: {}, body: {}}
ask: {decision: approve, by: ann}
"""
GIVEN = {"repo": "a", "url": "https://git.example/"}
ASK = "name: ask\nsteps:\n  - {id: ok, approval: {who: [ops], message: 'Ship ${task}?'}}\n"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A folder with a workflow and its python module, where no server runs."""
    with closing(Machine(tmp_path_factory.mktemp("bench"))) as machine:
        (machine.folder / "flows").mkdir()
        (machine.folder / "flows" / "ship.yaml").write_text(FLOW)
        (machine.folder / "flows" / "mine.py").write_text(MINE)
        (machine.folder / "stubs.yaml").write_text(STUBS)
        yield machine


def play(machine: Machine, *options: str, code: int = 0, given: Any = None) -> Any:
    argv = ["workflow", "test", "flows/ship.yaml", "--input", json.dumps(given or GIVEN), *options, "--json"]
    done = machine.run(*argv)
    assert done.returncode == code, done
    return json.loads(done.stdout) if code != 2 else done.stderr


def test_a_workflow_is_tested_without_any_server(bench: Machine, listener: Listener) -> None:
    """Stubs stand in for what acts; allowed kinds really run, in the file's folder; nothing is kept."""
    found = play(bench, "--stubs", "stubs.yaml", "--allow", "python")
    assert found["output"] == {"n": 42, "by": "ann", "status": 401}
    assert {each["id"]: each["status"] for each in found["steps"]} == dict.fromkeys(
        ("look", "double", "ask", "late"), "completed"
    )
    (bench.folder / "ask.yaml").write_text("ask: approve\n")
    real = play(bench, "--stubs", "ask.yaml", "--allow", "http,python", given=GIVEN | {"url": listener.url})
    assert real["output"] == {"n": 42, "by": "stub", "status": 401}
    assert not (bench.folder / "data").exists()


def test_it_says_what_is_missing_and_what_differs(bench: Machine) -> None:
    """A missing stub and a wrong option exit with 2, an unexpected end with 1, each with its reason."""
    assert "step 'double' (python) has no stub" in play(bench, "--stubs", "stubs.yaml", code=2)
    assert "--allow 'wait'" in play(bench, "--allow", "wait", code=2)
    assert "can't read none.yaml" in play(bench, "--stubs", "none.yaml", code=2)
    (bench.folder / "no.yaml").write_text(STUBS.replace("approve", "reject") + "double: 1\n")
    assert play(bench, "--stubs", "no.yaml", code=1)["error"]["type"] == "Rejected"
    (bench.folder / "expect.yaml").write_text("{status: failed, error: {type: Rejected}, steps: {late: pending}}")
    assert play(bench, "--stubs", "no.yaml", "--expect", "expect.yaml")["differences"] == []
    (bench.folder / "expect.yaml").write_text("{status: completed, steps: {double: {output: 2}}}")
    found = play(bench, "--stubs", "no.yaml", "--expect", "expect.yaml", code=1)
    assert found["differences"] == [
        'status: expected "completed", it is "failed"',
        "steps.double.output: expected 2, it is 1",
    ]
    (bench.folder / "bad.yaml").write_text("name: w\nsteps: [{id: s}]\n")
    done = bench.run("workflow", "test", "bad.yaml")
    assert (done.returncode, "bad.yaml:2:9: steps[0]: step 's' needs exactly one of" in done.stderr) == (1, True)
    done = bench.run("workflow", "test", "flows/ship.yaml")
    assert (done.returncode, "refuses this input" in done.stderr) == (1, True)


def test_a_person_reads_each_step_and_the_way_it_took(bench: Machine) -> None:
    """Without --json there is a table, with the branch that was taken, and the output."""
    done = bench.run(
        *(
            "workflow",
            "test",
            "flows/ship.yaml",
            "--input",
            json.dumps(GIVEN),
            "--stubs",
            "stubs.yaml",
            "--allow",
            "python",
        )
    )
    assert done.returncode == 0
    assert "✔ completed  ship" in done.stdout
    assert '{"n": 42, "by": "ann", "status": 401}' in done.stdout
    assert "is true" in done.stdout


def test_a_recorded_run_is_played_again(calm: Machine) -> None:
    """A run of the store, by its id or as `run show --json` printed it, gives the stubs and the input of a rehearsal."""
    run_id = calm.json("run", "rerun", str(start_asking(calm)))["run_id"]
    until(lambda: calm.json("run", "show", str(run_id))["status"] == "waiting", "the run to ask")
    calm.json("run", "approve", str(run_id), "ok")
    calm.wait_run(run_id)
    shown = calm.json("run", "show", str(run_id))
    (calm.folder / "run.json").write_text(json.dumps(shown))
    for source in (str(run_id), "@run.json"):
        found = calm.json("workflow", "test", "ask.yaml", "--recorded", source)
        assert found["output"]["by"] == shown["output"]["by"]
        assert found["task"] == shown["task"] == "it"


def start_asking(machine: Machine) -> int:
    """A run that waits for an approval, seen waiting."""
    (machine.folder / "ask.yaml").write_text(ASK)
    machine.json("workflow", "upload", "ask.yaml")
    token = machine.json("token", "create", "asking")["token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = b'{"workflow": "ask", "task": "it"}'

    def start() -> Any:
        answer = request(f"{machine.url}/api/v1/runs", "POST", body, headers)
        return answer.json()["run_id"] if answer.status == 201 else None

    run_id: int = until(start, "the token and the workflow to be known")
    until(lambda: machine.json("run", "show", str(run_id))["status"] == "waiting", "the run to ask")
    return run_id


def test_a_link_approves_a_step(calm: Machine) -> None:
    """`run approve-link` prints a link; a look decides nothing, its form does; `run show` says what is asked."""
    run_id = start_asking(calm)
    assert "Ship it? (asks ops)" in " ".join(calm.run("run", "show", str(run_id)).stdout.split())
    made = calm.json("run", "approve-link", str(run_id), "ok", "--hours", "1")
    assert made["url"].startswith(f"{calm.url}/approve/")
    assert "Ship it?" in request(made["url"]).body.decode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert request(made["url"], "POST", b"decision=approve&comment=fine", form).status == 200
    assert calm.wait_run(run_id).output["comment"] == "fine"
    done = calm.run("run", "approve-link", str(run_id), "ok")
    assert (done.returncode, "decided already" in done.stderr) == (1, True)


def test_the_schema_is_printed_and_written(tmp_path: Path, bench: Machine) -> None:
    """`gateway schema` prints it, `--output` writes it, and `init --schema` makes a file that names it and fits it."""
    printed = json.loads(bench.run("schema").stdout)
    jsonschema_rs.meta.validate(printed)
    written = tmp_path / "gateway.schema.json"
    done = bench.run("schema", "--output", str(written))
    assert (done.returncode, json.loads(written.read_text())) == (0, printed)
    assert "# yaml-language-server: $schema=" in done.stdout
    made = bench.run("init", "new.yaml", "--schema", "new.schema.json")
    assert made.returncode == 0
    first = (bench.folder / "new.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=./new.schema.json"
    assert json.loads((bench.folder / "new.schema.json").read_text()) == printed
    assert bench.run("check", "new.yaml").returncode == 0
