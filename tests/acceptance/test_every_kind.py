"""Twelve steps of every kind, two waits and an approval, while receiver, worker and Valkey are killed; and a frozen worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import frozen, order, until
from tests.faults.every_kind import Plan, run_plan, show

EACH = """\
  - id: 31
    name: each
    steps:
      - id: each
        foreach: [0, 1, 2, 3]
        parallel: 2
        python: effects:do
        with: {run: "${run.id}", step: "${'each' + string(index)}", key: "${metadata.key}", saw: {}, how: "${metadata}"}
"""


def test_a_workflow_of_every_kind_survives_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """kill -9 of each process at random: every run completes and is told of, nothing is redone but what was unknown."""
    plan = Plan(seed=20274, seconds=11)
    found = run_plan(plan, tmp_path)
    with capsys.disabled():
        print(f"\n{show(plan, found)}")  # noqa: T201
    assert found.harmless
    assert found.runs == plan.runs
    assert sum(found.acts.values()) >= 4


def test_a_frozen_worker_begins_no_item_when_it_thaws(make_machine: MakeMachine, tmp_path: Path) -> None:
    """A worker stopped with two items of four at work: another does them all, and the thawed one records and begins none."""
    machine = make_machine(workers=2, lease=1)
    machine.config.write_text(machine.config.read_text() + EACH)
    machine.start().wait_ready()
    gate = tmp_path / "gate"
    run_id = machine.start_run(order("items", 31, gates={f"each{index}": [str(gate)] for index in range(2)}))
    until(lambda: len(machine.effects(what="start", key="items")) == 2, "two items to begin")
    pid = machine.effects(what="start", key="items")[0]["pid"]

    with frozen(pid):
        until(lambda: len(machine.effects(what="start", key="items")) == 4, "another worker to take over")
        gate.touch()
        run = machine.wait_run(run_id)
    until(lambda: len(machine.effects(what="end", key="items", pid=pid)) == 2, "the thawed items to end")
    until(lambda: machine.said("lease lost, stopping work") or machine.said("another worker took this over"), "a word")

    assert run.state == "completed"
    assert machine.wait_run(run_id) == run
    assert [run.steps[f"each[{index}]"].unknown for index in range(4)] == [1, 1, 0, 0]
    assert {line["step"] for line in machine.effects(what="start", pid=pid)} == {"each0", "each1"}
    ends = [line for line in machine.effects(what="end", key="items") if line["pid"] != pid]
    assert {line["token"] for line in ends} == set(run.output)
