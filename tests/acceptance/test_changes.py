"""gateway.yaml changed while `gateway up` runs."""

from __future__ import annotations

import time

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import Machine, frozen, order, until

NEW_APP = """\
apps:
  - id: 99
    name: late
    adapter: direct
    verify: {scheme: orqo, secrets: [{env: CI_SECRET}]}
"""
SOON = 2.5


def answer_of(machine: Machine, app: int) -> int:
    return machine.post(order(str(time.monotonic()), 16), app=app).status


def test_apps_come_and_go_while_it_runs(calm: Machine) -> None:
    """An app that is written into the file works within two seconds; when it is taken out again it is 404."""
    before = calm.config.read_text()
    assert answer_of(calm, 99) == 404

    calm.config.write_text(before.replace("apps:\n", NEW_APP))
    until(lambda: answer_of(calm, 99) == 200, "the new app", SOON)
    calm.config.write_text(before)
    until(lambda: answer_of(calm, 99) == 404, "the app to be gone", SOON)

    assert answer_of(calm, 42) == 200


def test_a_broken_file_changes_nothing(calm: Machine) -> None:
    """A file with a mistake leaves all as it was, and the log says the line and column; mended, it is applied."""
    before = calm.config.read_text()
    broken = before.replace("scheme: orqo", "scheme: orko").replace("id: 42", "id: 41")

    calm.config.write_text(broken)
    (line,) = until(lambda: calm.said("gateway.yaml was not applied, what was there stays"), "the complaint", SOON)

    assert (line["level"], "line 5, column" in line["reason"]) == ("error", True), line
    assert "orko" in line["reason"]
    assert (answer_of(calm, 42), answer_of(calm, 41)) == (200, 404)
    calm.config.write_text(before.replace("id: 42", "id: 41"))
    until(lambda: answer_of(calm, 41) == 200, "the mended file", SOON)
    calm.config.write_text(before)
    until(lambda: answer_of(calm, 41) == 404, "the old file", SOON)


def test_a_run_keeps_the_version_it_began_with(calm: Machine) -> None:
    """A workflow changed while a run of it is under way does not change that run; the next run is of the new one."""
    gate = calm.folder / "gate"
    old = calm.start_run(order("old", gates={"b": [str(gate)]}))
    until(lambda: calm.effects(what="start", step="b"), "step b to begin")

    text = calm.config.read_text()
    calm.config.write_text(text.replace('output: {key: "${metadata.key}",', 'output: {version: 2, key: "x",'))
    until(lambda: calm.said("gateway.yaml applied", changed=["workflow three"]), "the change", SOON)
    until(lambda: calm.json("workflow", "show", "three")["version"] == 2, "version 2")
    gate.touch()

    assert calm.wait_run(old).output["key"] == "old"
    new = calm.wait_run(calm.start_run(order("new")))
    assert new.output["version"] == 2


def test_a_file_changed_while_valkey_is_silent_is_applied_afterwards(up: MakeMachine) -> None:
    """A change that can't be applied because Valkey does not answer is not forgotten; meanwhile requests get 503 in time."""
    machine = up(accept_timeout=1)
    valkey = machine.children()["valkey"]
    before = machine.config.read_text()

    with frozen(valkey):
        machine.config.write_text(before.replace("apps:\n", NEW_APP))
        began = time.monotonic()
        answer = machine.post(order("k", 16))
        assert (answer.status, answer.headers["retry-after"]) == (503, "2")
        assert time.monotonic() - began < 2
        ready = machine.get("/readyz")
        assert (ready.status, ready.json()["checks"]["store"]["ok"]) == (503, False)
        assert machine.get("/livez").status == 200
        metrics = machine.get("/metrics").body.decode()
        assert "gateway_requests_total" in metrics
        assert "gateway_queue_depth" not in metrics
        until(lambda: machine.said("gateway.yaml can't be applied yet"), "the attempt to fail", 10)

    until(lambda: answer_of(machine, 99) == 200, "the new app", 10)
    assert answer_of(machine, 42) == 200
    assert machine.wait_ready()
