"""Arcee Orchestra's API over real HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from doors import MALFORMED, Machine, Reply, machine, wait_until
from hypothesis import given
from hypothesis import strategies as some

from gateway.dialects import arcee
from gateway.runs import State, StepState

BASE = "/api/v1/workflow"
GRAPH: dict[str, Any] = {
    "settings": {"support_multiple_edges": False},
    "input_data": {"query": ""},
    "nodes": {
        "shout": {"type": "transform", "name": "Shout it", "config": "${input.query.upperAscii()}", "needs_": None},
        "wrap": {"type": "transform", "config": {"text": "${steps.shout.output}!"}},
    },
    "edges": [{"source": "START", "target": "shout"}, {"source": "shout", "target": "wrap"}],
    "entry_point": "shout",
    "finish_point": "wrap",
    "selectedOutput": "wrap.text",
}
del GRAPH["nodes"]["shout"]["needs_"]


@pytest.fixture(scope="module")
def up() -> Iterator[Machine]:
    with machine() as made:
        yield made


def ask(up: Machine, method: str, path: str, body: Any = None, token: str | None = None, **more: Any) -> Reply:
    headers = {"authorization": f"Bearer {token or up.token}"} | more.pop("headers", {})
    return up.call(method, BASE + path, body, headers, **more)


def run_to_end(up: Machine, workflow: str, inputs: dict[str, Any]) -> dict[str, Any]:
    started = ask(up, "POST", f"/workflows/{workflow}/execute", inputs)
    assert started.status == 200, started
    path = f"/workflows/{workflow}/runs/{started.document['run_id']}"
    wait_until(lambda: ask(up, "GET", path).document[0]["end_time"])
    found: dict[str, Any] = ask(up, "GET", path).document[0]
    return found


def test_every_state_has_a_word() -> None:
    """No state of a run or a step is without Arcee's word for it."""
    assert set(arcee.RUN_WORDS) == set(State)
    assert set(arcee.STEP_WORDS) == set(StepState)


@given(some.integers(0, 2**62 - 1))
def test_ids_there_and_back(number: int) -> None:
    """Our numbers become UUIDs of version 8 and come back from them, of their own kind only."""
    text = arcee.to_uuid(arcee.RUN, number)
    assert text[14] == "8"
    assert text[19] in "89ab"
    assert arcee.from_uuid(arcee.RUN, text) == number
    assert arcee.from_uuid(arcee.WORKFLOW, text) is None


@given(some.uuids() | some.text(max_size=40))
def test_foreign_ids(given: object) -> None:
    """Whatever is no UUID of ours has no number."""
    assert arcee.from_uuid(arcee.RUN, str(given)) is None


def test_the_documented_request(up: Machine) -> None:
    """The page's request, with its literal `Authentication` header, starts a run and gets the page's answer."""
    target = arcee.to_uuid(arcee.WORKFLOW, 7)
    body = b'{\n  "projectId": "one",\n  "input_variable_2": ""\n}'
    lines = [
        f"POST {BASE}/workflows/{target}/execute HTTP/1.1",
        f"Authentication: Bearer {up.token}",
        "Content-type: application/json",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    with socket.create_connection(("127.0.0.1", up.port), 20) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b'{"message":"Workflow execution started","run_id":"' in answer


def test_run_steps_and_history(up: Machine) -> None:
    """A run is read back as one element, with its steps, and stands first in its workflow's history."""
    run = run_to_end(up, "analyze_project", {"projectId": "two"})
    assert run["status"] == "completed"
    assert run["inputs"] == {"projectId": "two"}
    assert run["outputs"] == {"analysis": "of two"}
    assert run["all_outputs"] == {"projectId": "two", "fetch_project": "two", "analyze": {"analysis": "of two"}}
    assert run["error"] is None
    assert isinstance(run["elapsed_time"], int)
    assert len(run["start_time"]) == len("2025-04-24T03:18:12.322630Z")
    steps = ask(up, "GET", f"/workflows/7/runs/{run['id']}/steps").document
    assert [(step["node_id"], step["status"], step["outputs"]) for step in steps] == [
        ("fetch_project", "completed", "two"),
        ("analyze", "completed", {"analysis": "of two"}),
    ]
    first = ask(up, "GET", "/workflows/7/runs?limit=1").document
    assert first == [run]
    run_to_end(up, "7", {"projectId": "three"})
    assert ask(up, "GET", "/workflows/7/runs?limit=1&offset=1").document == [run]


def test_a_failed_run(up: Machine) -> None:
    """A failed run says why, and the steps after the failure have not begun."""
    run = run_to_end(up, "fail", {})
    assert (run["status"], run["error"], run["outputs"]) == ("failed", "it broke", None)
    steps = ask(up, "GET", f"/workflows/fail/runs/{run['id']}/steps").document
    assert [(step["node_id"], step["status"], step["error"]) for step in steps] == [("fail", "failed", "it broke")]


def test_list_and_diagram(up: Machine) -> None:
    """The list has Arcee's members, and its ids are good for a diagram of the same steps."""
    found = {each["name"]: each for each in ask(up, "GET", "/workflows").document}
    project = found["analyze_project"]
    assert project["graph"]["edges"] == [{"source": "fetch_project", "target": "analyze"}]
    assert (project["graph"]["entry_point"], project["graph"]["finish_point"]) == ("fetch_project", "analyze")
    assert (project["status"], project["version"], project["public"]) == ("active", "1", False)
    drawn = ask(up, "GET", f"/workflows/{project['workflow_id']}/diagram").document["diagram"]
    assert drawn.startswith('graph TD\n    fetch_project["fetch_project<br/>Fetch Project Data"]\n')
    assert "\n    START --> fetch_project\n" in drawn
    assert "\n    fetch_project --> analyze\n" in drawn


def test_upload_and_run(up: Machine) -> None:
    """A graph that is uploaded runs at once; uploaded again with a change, it is the next version."""
    made = ask(up, "POST", "/workflows", {"name": "shouter", "description": "loud", "graph": GRAPH})
    assert (made.status, made.document["version"]) == (200, "1")
    run = run_to_end(up, made.document["workflow_id"], {"query": "hey"})
    assert (run["status"], run["outputs"]) == ("completed", "HEY!")
    changed = GRAPH | {"name": "shouter", "selectedOutput": ""}
    again = ask(up, "POST", "/workflows", changed)
    assert (again.document["version"], again.document["workflow_id"]) == ("2", made.document["workflow_id"])
    assert run_to_end(up, "shouter", {"query": "hey"})["outputs"] == {"wrap": {"text": "HEY!"}}
    assert ask(up, "POST", "/workflows/shouter/execute", {}).status == 400


def changed(**changes: Any) -> dict[str, Any]:
    return {"name": "wrong", "graph": GRAPH | changes}


def with_node(node: Any) -> dict[str, Any]:
    return changed(nodes=GRAPH["nodes"] | {"wrap": node})


REFUSED_GRAPHS: dict[str, tuple[Any, str]] = {
    "a kind we lack": (with_node({"type": "slack_integration", "config": {}}), "'slack_integration'"),
    "a model without a name": (with_node({"type": "model", "config": {"prompt": "Why?"}}), "`model`"),
    "no kind": (with_node({"config": {}}), "wrap"),
    "no object": (with_node(7), "object"),
    "a bad expression": (with_node({"type": "transform", "config": "${nobody.x}"}), "nobody"),
    "an unknown field": (with_node({"type": "transform", "config": 1, "retries": 3}), "retries"),
    "no nodes": (changed(nodes={}, edges=[]), "nodes"),
    "an edge to nowhere": (changed(edges=[{"source": "shout", "target": "nowhere"}]), "nowhere"),
    "a condition": (changed(edges=[{"source": "shout", "target": "wrap", "condition": "x"}]), "condition"),
    "a circle": (
        changed(edges=[{"source": "shout", "target": "wrap"}, {"source": "wrap", "target": "shout"}]),
        "circle",
    ),
    "an unreached node": (changed(edges=[]), "wrap"),
    "no such entry": (changed(entry_point="nowhere"), "nowhere"),
    "an end that isn't": (changed(finish_point="shout"), "shout"),
    "no such output": (changed(selectedOutput="nowhere"), "nowhere"),
    "an output that breaks out": (changed(selectedOutput='wrap.x"] + ["'), "selectedOutput"),
    "a file for a schema": (
        changed(input_data={"type": "object", "properties": {"a": {"$ref": "file:///etc/hostname"}}}),
        "outside",
    ),
    "no name": ({"graph": GRAPH}, "name"),
    "an id for a name": ({"name": "12345", "graph": GRAPH}, "name"),
    "a file's name": ({"name": "assess", "graph": GRAPH}, "gateway.yaml"),
    "a graph that is none": ({"name": "wrong", "graph": []}, "object"),
    "too many nodes": (changed(nodes={f"n{i}": {"type": "transform", "config": 1} for i in range(1001)}), "1001"),
}


@pytest.mark.parametrize("case", REFUSED_GRAPHS)
def test_refused_uploads(up: Machine, case: str) -> None:
    """A graph that can't be run is refused when it is uploaded, by the name of what is wrong, and leaves nothing."""
    body, word = REFUSED_GRAPHS[case]
    answer = ask(up, "POST", "/workflows", body)
    assert answer.status == 400, answer
    assert word in answer.document["detail"]
    assert "wrong" not in {each["name"] for each in ask(up, "GET", "/workflows").document}


def test_code_is_for_admins(up: Machine) -> None:
    """A graph with a python node is refused to a token without the scope admin, and published for one that has it."""
    body = with_node({"type": "python", "config": "os:getpid"}) | {"name": "coded"}
    refused = ask(up, "POST", "/workflows", body)
    assert (refused.status, "os:getpid" in refused.document["detail"]) == (401, True)
    assert "coded" not in {each["name"] for each in ask(up, "GET", "/workflows").document}
    assert ask(up, "POST", "/workflows", body, token=up.add_token("admin")).status == 200


def test_a_long_chain_is_uploaded(up: Machine) -> None:
    """A thousand nodes, each after the next, are no trouble."""
    nodes = {f"n{i}": {"type": "transform", "config": i} for i in range(1000)}
    edges = [{"source": f"n{i + 1}", "target": f"n{i}"} for i in range(999)]
    answer = ask(up, "POST", "/workflows", {"name": "chain", "nodes": nodes, "edges": edges})
    assert answer.status == 200, answer


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("path", ["/workflows/7/execute", "/workflows"])
def test_malformed_bodies(up: Machine, path: str, case: str) -> None:
    """A body that is no JSON object is 400 in Arcee's shape, and starts nothing."""
    before = up.last_run()
    answer = ask(up, "POST", path, raw=MALFORMED[case])
    assert answer.status == 400, answer
    assert answer.document["detail"] == answer.document["message"] != ""
    assert up.last_run() == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/workflows/nobody/execute", 404),
        ("POST", "/workflows/fda37c90-dd1c-4317-82d1-797b7f77fca5/execute", 404),
        ("GET", "/workflows/7/runs/fda37c90-dd1c-4317-82d1-797b7f77fca5", 404),
        ("GET", "/workflows/7/runs/999999", 404),
        ("GET", "/workflows/7/runs/" + "9" * 5000, 404),
        ("GET", "/workflows/7/runs/%ED%A0%80/steps", 404),
        ("GET", "/workflows/7/runs?limit=0", 400),
        ("GET", "/workflows/7/runs?limit=ten", 400),
        ("GET", "/workflows/7/runs?limit=1&limit=2", 400),
        ("GET", "/workflows/7/runs?offset=-1", 400),
        ("GET", "/workflows/7/runs?offset=" + "9" * 400, 400),
        ("GET", "/workflows/nobody/diagram", 404),
        ("GET", "/nothing", 404),
        ("DELETE", "/workflows", 405),
        ("GET", "/workflows/7/execute", 405),
    ],
)
def test_refusals(up: Machine, method: str, path: str, status: int) -> None:
    """What is not there, or not so, is refused in Arcee's shape with one of its statuses."""
    answer = ask(up, method, path, {} if method == "POST" else None)
    assert answer.status == status, answer
    assert set(answer.document) == {"detail", "message", "code"}


def test_another_workflows_run(up: Machine) -> None:
    """A run is not found under a workflow that is not its own."""
    run = run_to_end(up, "plain", {})
    assert ask(up, "GET", f"/workflows/7/runs/{run['id']}").status == 404


def test_tokens(up: Machine) -> None:
    """No token, a wrong one and one that may not are 401; a narrowed one sees its own workflow and no other."""
    assert up.call("GET", BASE + "/workflows").status == 401
    assert ask(up, "GET", "/workflows", token=up.token[:-1] + "!").status == 401
    narrow = up.add_token("runs:start@workflow:plain", "workflows:read@workflow:13", "runs:read@workflow:plain")
    assert [each["name"] for each in ask(up, "GET", "/workflows", token=narrow).document] == ["plain"]
    assert ask(up, "POST", "/workflows/plain/execute", {}, token=narrow).status == 200
    assert ask(up, "POST", "/workflows/7/execute", {"projectId": "x"}, token=narrow).status == 401
    assert ask(up, "GET", "/workflows/7/runs", token=narrow).document == []
    assert ask(up, "GET", "/workflows/13/runs", token=narrow).document != []
    assert ask(up, "POST", "/workflows", {"name": "mine", "graph": GRAPH}, token=narrow).status == 401


def test_idempotency(up: Machine) -> None:
    """The same key gives the same run; with another body, or for another workflow, it is refused."""
    key = {"idempotency-key": "arcee-1"}
    first = ask(up, "POST", "/workflows/plain/execute", {"a": 1}, headers=key)
    assert ask(up, "POST", "/workflows/plain/execute", {"a": 1}, headers=key).document == first.document
    assert ask(up, "POST", "/workflows/plain/execute", {"a": 2}, headers=key).status == 400
    assert ask(up, "POST", "/workflows/fail/execute", {"a": 1}, headers=key).status == 400
