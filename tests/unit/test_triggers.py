"""Triggers: which runs an event starts, and what each rule said."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.apps import App, LiveApp, TriggerSettings
from gateway.errors import Unprocessable
from gateway.events import Verdict
from gateway.triggers import DirectRequest, start_by_triggers, start_directly
from gateway.workflows import Published, Workflow, prepare

EVENT = {"type": "push", "body": {"ref": "refs/heads/main", "after": "0d1a", "count": 3}, "headers": {}}
VALUES = {"event": EVENT, "app": {"id": 7, "name": "github"}}
SCHEMA = {"type": "object", "required": ["commit"], "properties": {"commit": {"type": "string"}}}
REVIEW = prepare({"name": "review", "input": SCHEMA})
PUBLISHED = Published(id=15, name="review", version=3, digest=REVIEW.digest)


def find(name: str | int) -> tuple[Published, Workflow]:
    if name not in (15, "review"):
        message = f"workflow_id: there is no workflow {name!r}"
        raise Unprocessable(message, path="workflow_id")
    return PUBLISHED, REVIEW


def app(*triggers: dict[str, Any]) -> LiveApp:
    settings = [
        TriggerSettings(**{"name": "t", "workflow": "review", "input": {"commit": "x"}} | each) for each in triggers
    ]
    return LiveApp(App(id=7, name="github", verify="none", triggers=settings), lambda *_: None)


def start(*triggers: dict[str, Any]) -> tuple[list[Any], list[Verdict]]:
    requests, verdicts = start_by_triggers(app(*triggers), "evt_1", VALUES, find)
    return [request.input for request in requests], verdicts


def test_a_trigger_that_holds_starts_a_run_with_its_input() -> None:
    """The run knows its workflow's version, its trigger, its event and the input made from the event."""
    rule = {"name": "deploys", "when": "event.type == 'push'", "input": {"commit": "${event.body.after}"}}
    (request,), verdicts = start_by_triggers(app(rule), "evt_1", VALUES, find)
    assert (request.workflow_id, request.workflow, request.digest) == (15, "review", REVIEW.digest)
    assert (request.app_id, request.event_id, request.trigger) == (7, "evt_1", "deploys")
    assert request.input == {"commit": "0d1a"}
    assert verdicts == [Verdict("deploys", True)]


def test_each_trigger_is_judged_by_itself() -> None:
    """One event may start several runs, in the order of the triggers, in one session; the others say why not."""
    rules: list[dict[str, Any]] = [{"name": "no", "when": "false"}, {"name": "one"}, {"name": "two", "workflow": 15}]
    requests, verdicts = start_by_triggers(app(*rules), "evt_1", VALUES, find)
    assert [request.trigger for request in requests] == ["one", "two"]
    assert {request.session_id for request in requests} == {"ses_1"}
    assert verdicts == [Verdict("no", False, "the condition is false"), Verdict("one", True), Verdict("two", True)]


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ("event.body.pull_request.merged", "pull_request"),
        ("event.body.count", "neither true nor false"),
        ("event.body.ref", "neither true nor false"),
        ("event.body.count + 'x' == ''", ""),
    ],
)
def test_a_condition_that_can_not_be_judged_does_not_hold(when: str, reason: str) -> None:
    """A condition over what this event lacks, or that gives no truth, starts nothing and says why."""
    inputs, (verdict,) = start({"when": when})
    assert (inputs, verdict.matched) == ([], False)
    assert reason in str(verdict.reason)


def test_an_input_that_can_not_be_made_starts_nothing() -> None:
    """A trigger that holds but reads what is not there is a refusal that names trigger and expression."""
    with pytest.raises(Unprocessable, match=r"'t'.*event\.body\.before"):
        start({"name": "first"}, {"input": {"commit": "${event.body.before}"}})


def test_an_input_that_the_workflow_refuses_starts_nothing() -> None:
    """The workflow's schema decides before a run exists, and says where the input is wrong."""
    with pytest.raises(Unprocessable, match=r"input\.commit: ") as caught:
        start({"input": {"commit": "${event.body.count}"}})
    assert caught.value.details["path"] == "input.commit"


def test_a_direct_request_carries_what_its_body_says() -> None:
    """Task, metadata and input reach the run as they are; a name finds the workflow as well as its number."""
    body = DirectRequest(workflow_id="review", task="do", metadata={"a": [1]}, input={"commit": "x"})
    request = start_directly(body, app(), "evt_abc", find)
    assert (request.workflow_id, request.task, request.metadata, request.input) == (
        15,
        "do",
        {"a": [1]},
        {"commit": "x"},
    )
    assert (request.session_id, request.event_id, request.trigger) == ("ses_abc", "evt_abc", None)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (DirectRequest(workflow_id=16, input={"commit": "x"}), "workflow_id"),
        (DirectRequest(workflow_id=15), "input"),
        (DirectRequest(workflow_id=15, input={"commit": 1}), "input.commit"),
        (DirectRequest(workflow_id=15, input={"commit": "x"}, callback_url="https://a.example/"), "callback_url"),
    ],
)
def test_a_direct_request_that_can_not_run_is_refused_with_its_path(body: DirectRequest, path: str) -> None:
    """An unknown workflow and a refused input are told with the path to what is wrong."""
    with pytest.raises(Unprocessable) as caught:
        start_directly(body, app(), "evt_1", find)
    assert caught.value.details["path"] == path
