"""Arkai's API over real HTTP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from doors import MALFORMED, Machine, Reply, machine, run_node, wait_until

from gateway.dialects import arcee, arkai
from gateway.runs import State, StepState

JAVASCRIPT = """\
const apiKey = "your-api-key";
const workflowId = "12345";

const response = await fetch("https://api.arkai.app/api/executeWorkflow", {
method: "POST",
headers: {
"Content-Type": "application/json",
"x-api-key": apiKey,
},
body: JSON.stringify({
workflowId: workflowId,
version: 1,
input: {
"First Name": "John",
Age: 30,
},
}),
});

const result = await response.json();
console.log(result.output);
"""
PYTHON = """\
import requests

api_key = 'your-api-key'
workflow_id = '12345'

response = requests.post(
'https:/api.arkai.app/api/executeWorkflow',
headers={
'Content-Type': 'application/json',
'x-api-key': api_key
},
json={
'workflowId': workflow_id,
'version': 1,
'input': {
'First Name': 'John',
'Age': 30
}
}
)

result = response.json()
print(result['output'])
"""
FINDINGS = {"Analysis Results": "Findings on John", "Risk Score": 85}
JOHN = {"workflowId": "12345", "version": 1, "input": {"First Name": "John", "Age": 30}}


@pytest.fixture(scope="module")
def up() -> Iterator[Machine]:
    with machine() as made:
        yield made


def ask(up: Machine, name: str, body: Any = None, token: str | None = None, **more: Any) -> Reply:
    headers = {"x-api-key": token or up.token} | more.pop("headers", {})
    return up.call(more.pop("method", "POST"), f"/api/{name}", body, headers, **more)


def adapted(sample: str, up: Machine, *, background: bool) -> str:
    """A sample of the page, with only host and key changed; the one for background work differs as on the page."""
    for host in ("https://api.arkai.app", "https:/api.arkai.app"):
        sample = sample.replace(host, up.url)
    sample = sample.replace("your-api-key", up.token)
    if background:
        sample = sample.replace("executeWorkflow", "executeWorkflowBackground")
        sample = sample.replace("result.output", "result.conversationId").replace("'output'", "'conversationId'")
    return sample


def run_python(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def read(up: Machine, conversation: str, workflow: str | int = "12345") -> dict[str, Any]:
    answer = ask(up, "getConversationById", {"workflowId": workflow, "conversationId": conversation})
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.document
    return found


def test_every_state_has_a_word() -> None:
    """No state of a run or a step is without Arkai's word for it."""
    assert set(arkai.RUN_WORDS) == set(State)
    assert set(arkai.STEP_WORDS) == set(StepState)


def test_the_documented_javascript(up: Machine) -> None:
    """The page's JavaScript prints the output, and in the background the conversation."""
    printed = run_node(up.folder, adapted(JAVASCRIPT, up, background=False))
    assert printed == "{ 'Analysis Results': 'Findings on John', 'Risk Score': 85 }"
    conversation = run_node(up.folder, adapted(JAVASCRIPT, up, background=True))
    wait_until(lambda: read(up, conversation)["status"] == "completed")
    assert read(up, conversation)["output"] == FINDINGS


def test_the_documented_python(up: Machine) -> None:
    """The page's Python prints the output, and in the background the conversation."""
    assert run_python(adapted(PYTHON, up, background=False)) == str(FINDINGS)
    conversation = run_python(adapted(PYTHON, up, background=True))
    wait_until(lambda: read(up, conversation)["status"] == "completed")
    assert read(up, conversation)["output"] == FINDINGS


def test_execute_and_read(up: Machine) -> None:
    """An execution is kept as a conversation, with its version, input, output and path."""
    answer = ask(up, "executeWorkflow", JOHN | {"workflowId": 12345, "version": 1.0})
    assert answer.status == 200
    assert set(answer.document) == {"conversationId", "output", "creditUsage"}
    assert answer.document["output"] == FINDINGS
    assert type(answer.document["creditUsage"]) is int
    found = read(up, answer.document["conversationId"])
    assert (found["workflowId"], found["version"], found["status"]) == ("12345", 1, "completed")
    assert (found["input"], found["output"], found["error"]) == (JOHN["input"], FINDINGS, None)
    assert [(step["component"], step["status"]) for step in found["executionPath"]] == [("look", "completed")]
    assert len(found["executions"]) == 1


def test_background_answers_at_once(up: Machine) -> None:
    """Background work answers while it runs; its conversation says so, and holds the output in the end."""
    given = {"folder": str(up.folder), "name": "behind"}
    answer = ask(up, "executeWorkflowBackground", {"workflowId": 8, "version": 1, "input": given})
    assert (answer.status, answer.document["creditUsage"]) == (200, 0)
    conversation = answer.document["conversationId"]
    wait_until((up.folder / "behind.begun").exists)
    assert read(up, conversation, 8)["status"] == "running"
    (up.folder / "behind.go").touch()
    wait_until(lambda: read(up, conversation, 8)["status"] == "completed")
    assert read(up, conversation, 8)["output"] == {"held": "behind"}


def test_three_turns(up: Machine) -> None:
    """A conversation goes on: each turn's workflow reads what was said and answered before, and no more."""
    order: dict[str, Any] = {"workflowId": "talk", "version": 1, "input": {"say": "one"}}
    first = ask(up, "executeWorkflow", order).document
    assert first["output"] == {"turn": 1, "heard": [], "answers": []}
    order["conversationId"] = first["conversationId"]
    second = ask(up, "executeWorkflow", order | {"input": {"say": "two"}}).document
    assert second["output"] == {"turn": 2, "heard": ["one"], "answers": [1]}
    third = ask(up, "executeWorkflow", order | {"input": {"say": "three"}}).document
    assert third["output"] == {"turn": 3, "heard": ["one", "two"], "answers": [1, 2]}
    found = read(up, first["conversationId"], "talk")
    assert [each["input"]["say"] for each in found["executions"]] == ["one", "two", "three"]
    assert found["input"] == {"say": "three"}


def test_a_workflow_that_talks_runs_through_other_doors(up: Machine) -> None:
    """Where there is no conversation, a workflow that reads it sees one without turns."""
    bearer = {"authorization": f"Bearer {up.token}"}
    path = "/api/eai/v3/orchestrate/workflows/talk/execute"
    found = up.call("POST", path, {"input": {"say": "alone"}}, bearer).document
    assert found["output"] == {"turn": 1, "heard": [], "answers": []}


def test_a_failed_execution(up: Machine) -> None:
    """An execution that fails is 500 with its reason, and is kept as a conversation."""
    answer = ask(up, "executeWorkflow", {"workflowId": "fail", "version": 1, "input": {}})
    assert (answer.status, answer.document["error"]) == (500, "it broke")
    found = read(up, answer.document["conversationId"], "fail")
    assert (found["status"], found["error"]) == ("failed", "it broke")


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("name", ["executeWorkflow", "executeWorkflowBackground", "getConversationById"])
def test_malformed_bodies(up: Machine, name: str, case: str) -> None:
    """A body that is not what it should be is 400 in Arkai's shape, and starts nothing."""
    before = up.last_run()
    answer = ask(up, name, raw=MALFORMED[case])
    assert (answer.status, set(answer.document)) == (400, {"error"}), answer
    assert up.last_run() == before


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"workflowId": "nobody"}, 404, "nobody"),
        ({"workflowId": 10**400}, 404, "workflow"),
        ({"workflowId": True}, 400, "workflowId"),
        ({"workflowId": None}, 400, "workflowId"),
        ({"version": 2}, 400, "version"),
        ({"version": 0}, 400, "version"),
        ({"version": 1.5}, 400, "version"),
        ({"version": 10**300}, 400, "version"),
        ({"version": 10**400}, 400, "version"),
        ({"version": 1e300}, 400, "version"),
        ({"version": "1"}, 400, "version"),
        ({"version": None}, 400, "version"),
        ({"input": {"First Name": "John", "Shoe Size": 43}}, 400, "Shoe Size"),
        ({"input": {"First Name": "John", "Age": "old"}}, 400, "Age"),
        ({"input": {"Age": 3}}, 400, "First Name"),
        ({"input": ["John"]}, 400, "input"),
        ({"input": None}, 400, "input"),
        ({"conversationId": "67890"}, 404, "67890"),
        ({"conversationId": 67890}, 400, "conversationId"),
    ],
)
def test_refusals(up: Machine, change: dict[str, Any], status: int, word: str) -> None:
    """What is wrong in a request is named in Arkai's shape, and starts nothing."""
    before = up.last_run()
    for name in ("executeWorkflow", "executeWorkflowBackground"):
        answer = ask(up, name, JOHN | change)
        assert (answer.status, set(answer.document)) == (status, {"error"}), answer
        assert word in answer.document["error"]
    assert up.last_run() == before


def test_another_workflows_conversation(up: Machine) -> None:
    """A conversation belongs to its workflow: with another it is neither read nor gone on with."""
    conversation = ask(up, "executeWorkflow", JOHN).document["conversationId"]
    order = {"workflowId": "talk", "version": 1, "input": {"say": "hi"}, "conversationId": conversation}
    assert ask(up, "executeWorkflow", order).status == 400
    assert ask(up, "getConversationById", {"workflowId": "talk", "conversationId": conversation}).status == 400
    narrow = up.add_token("runs:read@workflow:talk", "runs:start@workflow:talk")
    assert ask(up, "executeWorkflow", order, token=narrow).status == 404


def test_keys(up: Machine) -> None:
    """A missing or wrong key is 401, one that may not is 403, and other methods are 405, all in Arkai's shape."""
    missing = up.call("POST", "/api/executeWorkflow", JOHN, {"authorization": f"Bearer {up.token}"})
    assert (missing.status, set(missing.document)) == (401, {"error"})
    assert ask(up, "executeWorkflow", JOHN, token="wrong").status == 401
    narrow = up.add_token("runs:start@workflow:talk")
    refused = ask(up, "executeWorkflow", JOHN, token=narrow)
    assert (refused.status, set(refused.document)) == (403, {"error"})
    assert ask(up, "getConversationById", {"workflowId": 7, "conversationId": "x"}, token=narrow).status == 403
    for name in ("executeWorkflow", "executeWorkflowBackground", "getConversationById"):
        wrong = ask(up, name, method="GET")
        assert (wrong.status, set(wrong.document)) == (405, {"error"})


def test_idempotency(up: Machine) -> None:
    """The same key gives the same conversation and result; with another body it is refused."""
    key = {"idempotency-key": "arkai-1"}
    first = ask(up, "executeWorkflow", JOHN, headers=key)
    assert first.status == 200
    assert ask(up, "executeWorkflow", JOHN, headers=key).document == first.document
    behind = ask(up, "executeWorkflowBackground", JOHN, headers=key)
    assert behind.document["conversationId"] == first.document["conversationId"]
    assert ask(up, "executeWorkflow", JOHN | {"input": {"First Name": "Ann"}}, headers=key).status == 400


def test_an_older_version(up: Machine) -> None:
    """A caller names the version: an older one still runs, and the conversation says which it was."""
    bearer = {"authorization": f"Bearer {up.token}"}
    for text in ("old", "new"):
        graph = {"nodes": {"say": {"type": "transform", "config": text}}, "selectedOutput": "say"}
        made = up.call("POST", f"{arcee.PREFIX}/workflows", {"name": "sayer", "graph": graph}, bearer)
        assert made.status == 200
    for version, text in ((1, "old"), (2, "new")):
        answer = ask(up, "executeWorkflow", {"workflowId": "sayer", "version": version, "input": {}}).document
        assert answer["output"] == {"output": text}
        assert read(up, answer["conversationId"], "sayer")["version"] == version


def test_one_conversation_through_other_doors(up: Machine) -> None:
    """A run that was started here is read back in Arcee's words and in EAI's."""
    ask(up, "executeWorkflow", JOHN)
    run_id, bearer = up.last_run(), {"authorization": f"Bearer {up.token}"}
    here = up.call("GET", f"/api/eai/v3/orchestrate/executions/exec_{run_id}", headers=bearer).document
    assert (here["workflowId"], here["output"]) == ("assess", FINDINGS)
    path = f"{arcee.PREFIX}/workflows/12345/runs/{arcee.to_uuid(arcee.RUN, run_id)}"
    assert up.call("GET", path, headers=bearer).document[0]["outputs"] == FINDINGS
