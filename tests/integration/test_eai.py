"""EAI Orchestrate's API over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from doors import MALFORMED, Machine, Reply, machine, run_node, wait_until

from gateway.dialects import arcee, eai
from gateway.runs import State, StepState

BASE = "/api/eai/v3/orchestrate"
SAMPLE = """\
const response = await fetch('/api/eai/v3/orchestrate/workflows/analyze_project/execute', {
method: 'POST',
headers: { 'Content-Type': 'application/json' },
body: JSON.stringify({
input: {
projectId: 'proj_123',
analysisType: 'comprehensive'
},
async: true
})
});
const execution = await response.json();
"""
# In the browser the page's own host is asked, and a proxy adds the token.
BROWSER = """\
const plain = globalThis.fetch;
globalThis.fetch = (path, options) =>
    plain(%r + path, {...options, headers: {...options.headers, Authorization: 'Bearer %s'}});
"""


@pytest.fixture(scope="module")
def up() -> Iterator[Machine]:
    with machine(GATEWAY_CONCURRENCY="300") as made:
        yield made


def ask(up: Machine, method: str, path: str, body: Any = None, token: str | None = None, **more: Any) -> Reply:
    headers = {"authorization": f"Bearer {token or up.token}"} | more.pop("headers", {})
    return up.call(method, BASE + path, body, headers, **more)


def execute(up: Machine, workflow: str, given: dict[str, Any], **more: Any) -> Reply:
    return ask(up, "POST", f"/workflows/{workflow}/execute", {"input": given} | more)


def test_every_state_has_a_word() -> None:
    """No state of a run or a step is without EAI's word for it."""
    assert set(eai.RUN_WORDS) == set(State)
    assert set(eai.STEP_WORDS) == set(StepState)


def test_the_documented_sample(up: Machine) -> None:
    """The page's JavaScript, with only host and token added, starts an execution that can be read."""
    script = BROWSER % (up.url, up.token) + SAMPLE + "console.log(execution.id, execution.workflowId);"
    execution_id, workflow = run_node(up.folder, script).split()
    assert workflow == "analyze_project"
    wait_until(lambda: ask(up, "GET", f"/executions/{execution_id}").document["state"] == "completed")
    found = ask(up, "GET", f"/executions/{execution_id}").document
    assert found["input"] == {"projectId": "proj_123", "analysisType": "comprehensive"}
    assert found["output"] == {"analysis": "of proj_123"}
    assert [(step["stepId"], step["name"], step["state"]) for step in found["steps"]] == [
        ("fetch_project", "Fetch Project Data", "completed"),
        ("analyze", "AI Analysis", "completed"),
    ]
    assert all(isinstance(step["duration"], int) for step in found["steps"])
    assert found["startedAt"] <= found["completedAt"]


def test_waiting_is_the_default(up: Machine) -> None:
    """Without `async` the answer is the finished execution, with its metadata."""
    answer = execute(up, "7", {"projectId": "x"}, metadata={"requestedBy": "user_456"})
    assert (answer.status, answer.document["state"], answer.document["output"]) == (
        200,
        "completed",
        {"analysis": "of x"},
    )
    assert answer.document["metadata"] == {"requestedBy": "user_456"}
    failed = execute(up, "fail", {}).document
    assert (failed["state"], failed["error"], "output" in failed) == ("failed", "it broke", False)
    assert [(step["stepId"], step["state"], step["name"]) for step in failed["steps"]] == [
        ("fail", "failed", "fail"),
        ("after", "skipped", "after"),
    ]


def test_cancel_stops_the_step(up: Machine) -> None:
    """A running execution that is cancelled has its step stopped, and can't be cancelled twice."""
    given = {"folder": str(up.folder), "name": "stopme"}
    started = execute(up, "hold", given, **{"async": True}).document
    assert started["state"] in ("pending", "running")
    wait_until((up.folder / "stopme.begun").exists)
    wait_until(lambda: ask(up, "GET", f"/executions/{started['id']}").document["steps"][0]["state"] == "running")
    answer = ask(up, "POST", f"/executions/{started['id']}/cancel")
    assert (answer.status, answer.document) == (204, None)
    wait_until((up.folder / "stopme.stopped").exists)
    found = ask(up, "GET", f"/executions/{started['id']}").document
    assert (found["state"], found["steps"][0]["state"]) == ("cancelled", "cancelled")
    again = ask(up, "POST", f"/executions/{started['id']}/cancel")
    assert (again.status, again.document["code"]) == (409, "CONFLICT")


def test_cancel_ends_who_waits(up: Machine) -> None:
    """A caller that waits for an execution is answered as soon as somebody cancels it."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(execute, up, "hold", {"folder": str(up.folder), "name": "waited"})
        wait_until((up.folder / "waited.begun").exists)
        assert ask(up, "POST", f"/executions/exec_{up.last_run()}/cancel").status == 204
        assert waiting.result(20).document["state"] == "cancelled"


def test_two_hundred_wait(up: Machine) -> None:
    """While 200 callers wait for their executions, one that takes seconds is answered, and so is a quick one."""
    with ThreadPoolExecutor(201) as pool:
        names = [f"crowd{number}" for number in range(200)]
        crowd = [pool.submit(execute, up, "hold", {"folder": str(up.folder), "name": name}) for name in names]
        wait_until(lambda: sum((up.folder / f"{name}.begun").exists() for name in names) == 200)
        long = pool.submit(execute, up, "take", {"seconds": 2})
        began = time.monotonic()
        assert execute(up, "7", {"projectId": "quick"}).document["state"] == "completed"
        assert time.monotonic() - began < 2
        assert long.result(30).document["output"] == {"seconds": 2}
        assert not any(each.done() for each in crowd)
        for name in names:
            (up.folder / f"{name}.go").touch()
        outputs = [each.result(60).document["output"]["held"] for each in crowd]
    assert outputs == names


def test_lists(up: Machine) -> None:
    """Workflows and executions are listed under `data`; the filters hold together with limit and offset."""
    workflows = {each["id"]: each for each in ask(up, "GET", "/workflows").document["data"]}
    assert workflows["analyze_project"]["version"] == "1.0.0"
    assert workflows["analyze_project"]["steps"][1] == {"id": "analyze", "name": "AI Analysis", "type": "transform"}
    made = [execute(up, "plain", {"n": number}).document["id"] for number in range(3)]
    execute(up, "fail", {})

    def listed(query: str) -> list[str]:
        return [each["id"] for each in ask(up, "GET", f"/executions?{query}").document["data"]]

    assert listed("workflowId=plain&limit=2") == [made[2], made[1]]
    assert listed("workflowId=plain&state=completed&limit=2&offset=1") == [made[1], made[0]]
    assert listed("workflowId=13&state=failed") == []
    assert listed("workflowId=nobody") == []
    running = execute(up, "hold", {"folder": str(up.folder), "name": "listed"}, **{"async": True}).document["id"]
    wait_until(lambda: running in listed("state=running"))
    (up.folder / "listed.go").touch()
    wait_until(lambda: running not in listed("state=running"))


def test_deep_offsets(up: Machine) -> None:
    """An offset beyond what is looked through at a time still counts every execution once."""
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda number: execute(up, "plain", {"deep": number}, **{"async": True}), range(2100))
        assert all(answer.status == 200 for answer in answers)
    newest = up.last_run()
    rows = ask(up, "GET", "/executions?limit=1&offset=2050").document["data"]
    assert rows[0]["id"] == f"exec_{newest - 2050}"
    narrow = up.add_token("runs:read@workflow:plain", "workflows:read")
    found = ask(up, "GET", "/executions?workflowId=plain&limit=1&offset=2050", token=narrow).document["data"]
    assert found == rows


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_bodies(up: Machine, case: str) -> None:
    """A body that is not what it should be is refused in EAI's shape, and starts nothing."""
    before = up.last_run()
    answer = ask(up, "POST", "/workflows/7/execute", raw=MALFORMED[case])
    assert answer.status in (400, 413, 422), answer
    assert answer.document["code"] in ("BAD_REQUEST", "TOO_LARGE", "UNPROCESSABLE")
    assert answer.document["message"]
    assert up.last_run() == before


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/workflows/7/execute", {}, 422),
        ("POST", "/workflows/7/execute", {"input": [1]}, 422),
        ("POST", "/workflows/7/execute", {"input": {}, "async": "yes"}, 422),
        ("POST", "/workflows/7/execute", {"input": {}, "metadata": [1]}, 422),
        ("POST", "/workflows/12345/execute", {"input": {"First Name": 7}}, 422),
        ("POST", "/workflows/nobody/execute", {"input": {}}, 404),
        ("POST", "/executions/exec_999999/cancel", None, 404),
        ("GET", "/executions/exec_x", None, 404),
        ("GET", "/executions/exec_" + "9" * 5000, None, 404),
        ("GET", "/executions/%D9%A1", None, 404),
        ("GET", "/executions?state=unheard", None, 400),
        ("GET", "/executions?limit=0", None, 400),
        ("GET", "/executions?offset=1e99", None, 400),
        ("GET", "/nothing", None, 404),
        ("PUT", "/workflows", None, 405),
    ],
)
def test_refusals(up: Machine, method: str, path: str, body: Any, status: int) -> None:
    """What is not there, or not so, is refused with a code and a message, and starts nothing."""
    before = up.last_run()
    answer = ask(up, method, path, body)
    assert answer.status == status, answer
    assert {"code", "message"} <= set(answer.document)
    assert up.last_run() == before


def test_tokens(up: Machine) -> None:
    """Without a token it is 401; a narrowed one is held to its workflow, in lists too."""
    assert up.call("GET", BASE + "/executions").status == 401
    mine = execute(up, "plain", {}).document["id"]
    other = execute(up, "7", {"projectId": "x"}).document["id"]
    narrow = up.add_token("runs:read@workflow:plain", "runs:start@workflow:13")
    assert ask(up, "GET", f"/executions/{mine}", token=narrow).status == 200
    assert ask(up, "GET", f"/executions/{other}", token=narrow).status == 403
    assert ask(up, "POST", f"/executions/{mine}/cancel", token=narrow).status == 403
    assert ask(up, "POST", "/workflows/7/execute", {"input": {}}, token=narrow).status == 403
    listed = ask(up, "GET", "/executions?limit=1000", token=narrow).document["data"]
    assert {each["workflowId"] for each in listed} == {"plain"}


def test_idempotency(up: Machine) -> None:
    """The same key gives the same execution; with another body, or for another workflow, it is a conflict."""
    key, body = {"idempotency-key": "eai-1"}, {"input": {"a": 1}}
    first = ask(up, "POST", "/workflows/plain/execute", body, headers=key)
    assert ask(up, "POST", "/workflows/plain/execute", body, headers=key).document == first.document
    assert ask(up, "POST", "/workflows/plain/execute", {"input": {"a": 2}}, headers=key).status == 409
    assert ask(up, "POST", "/workflows/fail/execute", body, headers=key).status == 409


def test_one_run_through_every_door(up: Machine) -> None:
    """A run that ORQO's trigger started is read back in Arcee's words and in EAI's."""
    bearer = {"authorization": f"Bearer {up.token}"}
    order = {"workflow_id": 13, "task": "Look", "metadata": {"ref": "main"}}
    run_id = up.call("POST", "/api/v1/trigger", order, bearer).document["run_id"]
    wait_until(lambda: ask(up, "GET", f"/executions/exec_{run_id}").document["state"] == "completed")
    here = ask(up, "GET", f"/executions/exec_{run_id}").document
    assert (here["workflowId"], here["output"], here["metadata"]) == ("plain", "Look", {"ref": "main"})
    path = f"{arcee.PREFIX}/workflows/plain/runs/{arcee.to_uuid(arcee.RUN, run_id)}"
    there = up.call("GET", path, headers=bearer).document[0]
    assert (there["status"], there["outputs"], there["inputs"]) == ("completed", "Look", {"task": "Look"})
