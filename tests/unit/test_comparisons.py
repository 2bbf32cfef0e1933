"""Stored events through two configurations: what would match, start or fail otherwise, by app and trigger."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.comparisons import EXAMPLES, Backtest, Comparison, Row, Side, foresee, shorten
from gateway.configuration import read_configuration
from gateway.events import Decision, Head
from gateway.versions import Change
from gateway.workflows import Published

FILE: dict[str, Any] = {
    "apps": [
        {
            "id": 43,
            "name": "forge",
            "verify": {"scheme": "github", "secrets": [{"env": "NOBODY_HAS_THIS"}]},
            "triggers": [
                {
                    "name": "deploys",
                    "when": 'event.body.ref == "main"',
                    "workflow": "deploy",
                    "input": {"commit": "${event.body.after}", "api_token": "${event.body.token}"},
                }
            ],
        },
        {"id": 42, "name": "ci", "adapter": "direct", "verify": "none"},
    ],
    "workflows": [
        {"id": 15, "name": "deploy", "steps": [{"id": "a", "transform": 1}]},
        {"id": 16, "name": "other", "steps": [{"id": "a", "transform": 1}]},
    ],
}
MAIN = {"ref": "main", "after": "c1", "token": "hunter2"}
HEAD = Head(app_id=43, type="push", decision=Decision(outcome="accepted", scheme="hmac"))


def compare(
    change: Callable[[dict[str, Any]], None], *bodies: Any, head: Head = HEAD, before: dict[str, Any] = FILE
) -> Backtest:
    """What a changed file would make of events with these bodies."""
    now = read_configuration(json.dumps(before))
    document = json.loads(json.dumps(before))
    change(document)
    workflows = [
        (
            Published(
                id=each.definition.id or 0, name=each.definition.name, version=1, digest=each.digest, managed_by="file"
            ),
            each,
        )
        for each in now.workflows
    ]
    names = {app.id: app.name for app in now.apps}
    after = foresee(read_configuration(json.dumps(document)), now.apps, workflows)
    comparison = Comparison(Side(now.apps, workflows), after, names)
    for number, body in enumerate(bodies or (MAIN,)):
        comparison.look_at(f"evt_{number}", head, json.dumps(body).encode())
    return comparison.result()


def trigger_of(file: dict[str, Any]) -> Any:
    return file["apps"][0]["triggers"][0]


def only_row(found: Backtest) -> Row:
    (row,) = found.triggers
    return row


def test_the_same_file_makes_no_difference() -> None:
    """Nothing differs, and what matches is counted on both sides."""
    found = compare(lambda file: None, MAIN, {"ref": "x"})
    assert not found.differs
    assert (found.looked_at, only_row(found).matched_before, only_row(found).matched_after) == (2, 1, 1)


@pytest.mark.parametrize(
    ("change", "body", "kind", "reason"),
    [
        (lambda file: trigger_of(file).update(when="false"), MAIN, "stops", "the condition is false"),
        (lambda file: trigger_of(file).update(when="true"), MAIN | {"ref": "x"}, "starts", "the condition is false"),
        (lambda file: trigger_of(file).update(input="${event.body.none}"), MAIN, "error", "its input can't be made"),
        (lambda file: file["workflows"][0].update(input={"required": ["zip"]}), MAIN, "error", "zip"),
        (lambda file: file["apps"][0].update(disabled=True), MAIN, "stops", "the app is disabled"),
        (lambda file: trigger_of(file).update(workflow="other"), MAIN, "workflow", None),
    ],
    ids=["stops", "starts", "input fails", "schema refuses", "disabled", "workflow"],
)  # fmt: skip
def test_each_kind_of_difference_is_found(
    change: Callable[[dict[str, Any]], None], body: Any, kind: str, reason: str | None
) -> None:
    """By kind, with an event to look at and why."""
    found = compare(change, body)
    (example,) = only_row(found).examples
    assert (example.event_id, example.kind, only_row(found).counts, found.differs) == ("evt_0", kind, {kind: 1}, True)
    assert reason is None or reason in (example.reason or "")


def test_a_mended_trigger_is_a_difference_too() -> None:
    """An error there is now and would not be is told, the other way round of a new one."""
    broken = json.loads(json.dumps(FILE))
    trigger_of(broken)["input"] = "${event.body.none}"
    found = compare(lambda file: trigger_of(file).update(input={}), before=broken)
    assert only_row(found).counts == {"mended": 1}


def test_inputs_that_differ_are_shown_without_secrets() -> None:
    """Old and new value by field; of a field with a secret's name only that it differs."""
    found = compare(
        lambda file: trigger_of(file).update(input={"commit": "${event.body.ref}", "api_token": "${event.body.after}"})
    )
    (example,) = only_row(found).examples
    assert example.changes == ['commit: "c1" → "main"', "api_token: ••• → •••"]
    assert "hunter2" not in repr(found)


def test_a_schema_that_refuses_a_secret_does_not_tell_it() -> None:
    """The refusal of a field with a secret's name says no more than which field it is."""
    schema = {"properties": {"api_token": {"type": "string", "maxLength": 3}}}
    found = compare(lambda file: file["workflows"][0].update(input=schema))
    assert only_row(found).counts == {"error": 1}
    assert "hunter2" not in repr(found)


def test_secrets_within_values_are_masked() -> None:
    """Whatever the depth, a value under a secret's name is not shown; others are."""
    given = {"a": [{"password": "x", "n": 1}], "Authorization": "y"}
    (line,) = shorten([Change(path="more", after=given)])
    assert line == 'more: nothing → {"a":[{"password":"•••","n":1}],"Authorization":"•••"}'


def test_events_of_an_app_that_is_gone_are_named() -> None:
    """An app that the file has no more is named with how many events it had."""
    found = compare(lambda file: file["apps"].pop(0), MAIN, MAIN)
    assert (found.gone, found.differs, found.triggers) == ({"forge": 2}, True, [])


def test_a_renamed_app_is_the_same_by_its_id() -> None:
    """With its id written, an app is found under its new name."""
    found = compare(lambda file: file["apps"][0].update(name="github"))
    assert not found.differs


def test_direct_requests_are_compared_by_the_workflow_they_name() -> None:
    """A workflow that is gone is a new error for the events that name it, by id."""
    head = Head(app_id=42, decision=Decision(outcome="accepted"))
    found = compare(lambda file: file["workflows"].pop(1), {"workflow_id": 16}, {"workflow_id": 15}, head=head)
    assert only_row(found).counts == {"error": 1}


@pytest.mark.parametrize(
    "head",
    [
        Head(token_id="t", decision=Decision(outcome="accepted", scheme="token")),
        Head(app_id=43, replay_of="evt_x", decision=Decision(outcome="accepted", scheme="replay")),
        Head(app_id=43, decision=Decision(outcome="accepted", scheme="rerun")),
        Head(app_id=7, decision=Decision(outcome="accepted", scheme="hmac")),
        Head(app_id=43, decision=Decision(outcome="ping", scheme="hmac")),
    ],
    ids=["token", "replay", "rerun", "app of long ago", "ping"],
)
def test_what_no_trigger_decides_is_passed_over(head: Head) -> None:
    """Starts without an app, copies, handshakes, and events of apps that are gone already are counted apart."""
    found = compare(lambda file: trigger_of(file).update(when="false"), head=head)
    assert (found.looked_at, found.others, found.differs) == (0, 1, False)


def test_many_differences_are_counted_and_a_few_shown() -> None:
    """All are counted; of each kind the first few events are kept, whatever the number."""
    found = compare(lambda file: trigger_of(file).update(when="false"), *[MAIN] * 50)
    assert only_row(found).counts == {"stops": 50}
    assert len(only_row(found).examples) == EXAMPLES
