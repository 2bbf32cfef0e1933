"""Two gateways that tell each other of their runs: a run here starts one there and back again, until the limit."""

from __future__ import annotations

import json
from typing import Any

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import Machine, order, until

FILE = """\
apps:
  - id: 42
    name: ci
    adapter: direct
    verify: {scheme: orqo, secrets: [{env: CI_SECRET}]}
  - id: 7
    name: neighbour
    verify: {scheme: standard-webhooks, secrets: [{env: CALLBACK_SECRET}]}
    triggers:
      - name: ends
        when: event.type == "run.completed"
        workflow: turn
        input: {turns: "${event.data.output.turns}"}
endpoints:
  - name: other
    url: "OTHER/api/v1/webhooks/7"
    secrets: SECRETS
workflows:
  - id: 15
    name: turn
    steps:
      - id: count
        transform: {turns: "${has(input.turns) ? input.turns + 1 : 1}"}
    output: "${steps.count.output}"
    callback: {endpoint: other}
"""
ONE = "[{env: CALLBACK_SECRET}]"
ROTATING = "[{env: GITHUB_SECRET}, {env: CALLBACK_SECRET}]"
"""The other gateway knows the older of the two."""


def runs_of(machine: Machine) -> list[dict[str, Any]]:
    """The runs of a gateway, the oldest first, once all of them have ended."""
    found: list[dict[str, Any]] = machine.json("run", "list")
    return found[::-1] if all(each["status"] == "completed" for each in found) else []


def test_the_loop_guard_stops_the_third_round(make_machine: MakeMachine) -> None:
    """The run of here starts one there and that one here again; the next is parked there, with the whole chain's root.

    The count holds though one of the two is changing its secret.
    """
    here, there = make_machine(max_depth=2), make_machine(max_depth=2)
    for machine, other, secrets in ((here, there, ONE), (there, here, ROTATING)):
        machine.config.write_text(FILE.replace("OTHER", other.url).replace("SECRETS", secrets))
        machine.start()
    for machine in (here, there):
        machine.wait_ready()
    first = here.start_run(order("chain"))
    until(lambda: len(runs_of(here)) == 2, "the chain to come back")
    callbacks = until(lambda: delivered(here, 2), "both of our runs to be told of")
    mine, theirs = runs_of(here), runs_of(there)
    assert [each["depth"] for each in mine] == [0, 2]
    assert [each["depth"] for each in theirs] == [1]
    root = here.json("run", "show", str(first))["session_id"]
    assert {each["root"] for each in (mine[1], *theirs)} == {root}
    assert [each["output"]["turns"] for each in (mine[0], *theirs, mine[1])] == [1, 2, 3]
    answers = {each["run_id"]: each["attempts"][-1]["answer"] for each in callbacks}
    assert json.loads(answers[mine[0]["run_id"]])["status"] == "pending"
    assert json.loads(answers[mine[1]["run_id"]])["status"] == "parked"


def delivered(machine: Machine, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = machine.json("callback", "list", "--status", "delivered")
    return found if len(found) == count else []
