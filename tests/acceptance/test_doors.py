"""Clients of four systems, and of our own API, at the doors of one gateway: the same runs, waited for and paid for."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.acceptance.callers import (
    READERS,
    House,
    Stream,
    by_arcee,
    by_arkai,
    by_eai,
    by_ours,
    by_trigger,
    by_webhook,
    new_machine,
    open_house,
    run_of,
)
from tests.acceptance.machine import CI_SECRET, Answer, Listener, frozen, orqo_headers, until

ANALYZE, REST, FAIL, TALK, DEAR = 7, 8, 9, 10, 11
START = {
    "webhook": by_webhook,
    "trigger": by_trigger,
    "arcee": by_arcee,
    "eai": by_eai,
    "arkai": by_arkai,
    "ours": by_ours,
}
QUICK = 1.0
"""Seconds within which a server that is not stuck answers, on a machine that does much else."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Iterator[House]:
    with open_house(new_machine(tmp_path_factory.mktemp("house"), listener)) as made:
        yield made


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Iterator[House]:
    """A gateway where two requests may wait."""
    with open_house(new_machine(tmp_path_factory.mktemp("small"), listener, max_waiters=2)) as made:
        yield made


def start(house: House, door: str, workflow: int, given: Any) -> int:
    """Start a run through this door and wait for its end; its id."""
    before = house.last_run()
    answer = START[door](house, workflow, given)
    run_id = before + 1 if door == "arkai" else run_of(answer)
    house.machine.wait_run(run_id)
    return run_id


# ---- one run, many shapes


@pytest.mark.parametrize("door", START)
def test_one_run_is_the_same_through_every_door(house: House, door: str) -> None:
    """Whichever door a run came through, the others show the same input, output, steps and end of it."""
    run_id = start(house, door, ANALYZE, {"name": door})
    # The command takes a second to start: it is asked about its own system's runs.
    readers = READERS if door == "webhook" else {name: READERS[name] for name in READERS if name != "orqo"}
    seen = {name: read(house, run_id, ANALYZE) for name, read in readers.items()}
    first = seen["ours"]
    assert first[:5] == (
        "completed",
        {"name": door},
        {"judged": f"of {door}"},
        [("fetch", "completed"), ("judge", "completed")],
        None,
    )
    assert all(each == first for each in seen.values()), seen


def test_a_task_is_shown_as_an_input(house: House) -> None:
    """ORQO's documented body has a task and no input; to the doors that know only inputs it is one of that name."""
    body = b'{"workflow_id": 7, "task": "look", "metadata": {"source": "ci-pipeline"}}'
    run_id = run_of(house.machine.post(body))
    house.machine.wait_run(run_id)
    for read in READERS.values():
        seen = read(house, run_id, ANALYZE)
        assert (seen.input, seen.output) == ({"task": "look"}, {"judged": "of look"})


def test_a_failed_run_through_every_door(house: House) -> None:
    """Each door says that it failed, at which step and why."""
    run_id = start(house, "webhook", FAIL, {})
    for read in READERS.values():
        seen = read(house, run_id, FAIL)
        assert (seen.word, seen.output, seen.steps) == ("failed", None, [("call", "failed")])
        assert "no_such_module" in str(seen.error)


# ---- conversations


def test_three_turns(house: House) -> None:
    """Each turn's workflow reads what was said and answered before; the conversation shows all of them."""
    first = by_arkai(house, TALK, {"say": "one"}).json()
    goes_on = {"conversationId": first["conversationId"]}
    second = by_arkai(house, TALK, {"say": "two"}, **goes_on).json()
    third = by_arkai(house, TALK, {"say": "three"}, **goes_on).json()
    assert [each["output"] for each in (first, second, third)] == [
        {"turn": 1, "heard": [], "answered": []},
        {"turn": 2, "heard": ["one"], "answered": [1]},
        {"turn": 3, "heard": ["one", "two"], "answered": [1, 2]},
    ]
    found = house.ask("POST", "/api/getConversationById", {"workflowId": "10"} | goes_on).json()
    assert [each["input"]["say"] for each in found["executions"]] == ["one", "two", "three"]


@pytest.mark.parametrize("door", ["webhook", "trigger", "arcee", "eai", "ours"])
def test_a_run_of_another_door_is_the_first_turn_of_its_own(house: House, door: str) -> None:
    """A run that no conversation was named for can be read as one, and gone on with."""
    run_id = start(house, door, TALK, {"say": "one"})
    conversation = house.ask("GET", f"/api/v1/runs/{run_id}").json()["conversation_id"]
    assert conversation == f"run_{run_id}"
    second = by_arkai(house, TALK, {"say": "two"}, conversationId=conversation).json()
    assert second["conversationId"] == conversation
    assert second["output"] == {"turn": 2, "heard": ["one"], "answered": [1]}
    wanted = {"workflowId": "talk", "conversationId": conversation}
    turns = house.ask("POST", "/api/getConversationById", wanted).json()["executions"]
    assert [turn["output"]["turn"] for turn in turns] == [1, 2]


def test_a_guessed_conversation_is_nobodys(house: House) -> None:
    """The id of a run's own conversation can be guessed: it takes the right to read the run, and is no second name."""
    run_id = start(house, "trigger", TALK, {"say": "secret"})
    start_only = house.add_token("runs:start")
    with house.starts_nothing():
        answer = by_arkai(house, TALK, {"say": "tell"}, start_only, conversationId=f"run_{run_id}")
        assert answer.status == 404
        ahead = f"run_{run_id + 1}"
        assert by_arkai(house, TALK, {"say": "tell"}, conversationId=ahead).status == 404
    assert by_arkai(house, TALK, {"say": "hi"}, start_only).status == 200
    for name in (f"run_{run_id + 1}", f"run_0{run_id}", "run_", "run_-1", "run_٣", "run_" + "9" * 400):
        wanted = {"workflowId": "talk", "conversationId": name}
        assert house.ask("POST", "/api/getConversationById", wanted).status == 404, name


# ---- credits


def test_a_balance_runs_out(house: House) -> None:
    """Starts are paid until there is too little; then every door refuses, in its own words, before a run exists."""
    token = house.payer("9")
    paid = by_arkai(house, ANALYZE, {"name": "x"}, token).json()
    assert paid["creditUsage"] == 4
    wanted = {"workflowId": "7", "conversationId": paid["conversationId"]}
    found = house.ask("POST", "/api/getConversationById", wanted).json()
    assert [step["creditUsage"] for step in found["executionPath"]] == [1, 3]
    assert by_eai(house, ANALYZE, {"name": "y"}, token).status == 200
    with house.starts_nothing():
        refused = {
            door: START[door](house, ANALYZE, {}, token) for door in ("trigger", "arcee", "eai", "arkai", "ours")
        }
    assert {door: answer.status for door, answer in refused.items()} == {
        "trigger": 402,
        "arcee": 402,
        "eai": 402,
        "arkai": 400,
        "ours": 402,
    }
    assert set(refused["arkai"].json()) == {"error"}
    assert "credits" in refused["arkai"].json()["error"]


def test_an_apps_balance_runs_out(house: House) -> None:
    """An app's webhooks are paid as well: 402 when there is too little, and no run."""
    assert by_webhook(house, ANALYZE, {}, app=44).status == 200
    with house.starts_nothing():
        assert by_webhook(house, ANALYZE, {}, app=44).status == 402


def test_what_was_not_used_comes_back(house: House) -> None:
    """A start sets aside what all steps cost; what a skipped step would have cost is there again at the end."""
    token = house.payer("9")
    for _ in range(2):
        assert by_arkai(house, DEAR, {"far": False}, token).json()["creditUsage"] == 3
    assert by_arkai(house, DEAR, {"far": True}, token).status == 400


def test_a_balance_is_refilled(house: House) -> None:
    """After its period a token has as many credits as at first, and no more."""
    token = house.payer("4", "--refill", "3s")
    heard = []

    def is_refilled() -> bool:
        heard.append(by_arkai(house, ANALYZE, {}, token).status)
        return heard.count(200) == 2

    until(is_refilled, "the refill", 10)
    assert heard[:2] == [200, 400]
    assert by_arkai(house, ANALYZE, {}, token).status == 400


def test_a_cancelled_step_is_paid(house: House) -> None:
    """A step that was at work when its run was cancelled has cost what it costs, and only the rest comes back."""
    token = house.payer("7")
    run_id = run_of(by_ours(house, REST, house.rest("paid", gate=house.gate("paid")), token))
    steps = f"/api/v1/runs/{run_id}/steps"
    until(lambda: house.ask("GET", steps).json()["data"][1]["status"] == "running", "the step to be at work")
    assert house.ask("POST", f"/api/v1/runs/{run_id}/cancel").status == 200
    assert house.ask("GET", f"/api/v1/runs/{run_id}").json()["credits"] == 4
    assert by_arkai(house, ANALYZE, {}, token).status == 400
    assert by_arkai(house, DEAR, {"far": False}, token).status == 400
    assert by_arkai(house, TALK, {"say": "affordable"}, token).json()["creditUsage"] == 2


# ---- cancelling


def test_a_cancelled_step_really_stops(house: House) -> None:
    """What a running step did outside the store ends with the cancel, and every door says how it ended."""
    given = house.rest("cancelled", gate=house.gate("cancelled"))
    run_id = run_of(by_eai(house, REST, given, **{"async": True}))
    until(lambda: len(house.ticks("cancelled")) > 2, "the step to be at work")
    answer = house.ask("POST", f"/api/eai/v3/orchestrate/executions/exec_{run_id}/cancel")
    assert (answer.status, answer.body) == (204, b"")
    until(lambda: house.ticks("cancelled")[-1] == "stopped", "the step to stop", 5)
    ticks = house.ticks("cancelled")
    by_eai(house, REST, house.rest("later", seconds=0.5))
    assert house.ticks("cancelled") == ticks
    seen = {name: read(house, run_id, REST) for name, read in READERS.items()}
    assert all("cancelled" in str(each.error) for each in seen.values())
    words = {name: each.word for name, each in seen.items()}
    assert words == {"ours": "cancelled", "orqo": "cancelled", "arcee": "failed", "eai": "cancelled", "arkai": "failed"}
    assert house.ask("POST", f"/api/eai/v3/orchestrate/executions/exec_{run_id}/cancel").status == 409


# ---- waiting


def is_waiting(house: House, count: int) -> bool:
    return house.waiters() == count


WAITING: dict[str, tuple[str, str, Callable[[dict[str, Any]], Any]]] = {
    "eai": ("POST", "/api/eai/v3/orchestrate/workflows/rest/execute", lambda given: {"input": given}),
    "arkai": ("POST", "/api/executeWorkflow", lambda given: {"workflowId": "rest", "version": 1, "input": given}),
    "ours": ("POST", "/api/v1/runs?wait=60", lambda given: {"workflow": "rest", "input": given}),
    "trigger": ("POST", "/api/v1/trigger?wait=60", lambda given: {"workflow_id": 8, "input": given}),
}


@contextmanager
def open_request(house: House, method: str, path: str, body: Any = None) -> Iterator[http.client.HTTPConnection]:
    """A request that was sent and whose answer nobody has read yet; cut off at the end of the block."""
    connection = http.client.HTTPConnection("127.0.0.1", house.machine.port, timeout=60)
    headers = {"Authorization": f"Bearer {house.token}", "x-api-key": house.token}
    with closing(connection):
        connection.request(method, path, json.dumps(body).encode() if body else None, headers)
        yield connection


@pytest.mark.parametrize("door", WAITING)
def test_a_client_that_goes_away_frees_everything(house: House, door: str) -> None:
    """Nothing waits any more for somebody who left; the run that they started goes on to its end."""
    method, path, body = WAITING[door]
    name = f"left-{door}"
    with open_request(house, method, path, body(house.rest(name, gate=house.gate(name)))):
        until(lambda: house.ticks(name) and is_waiting(house, 1), "the request to wait")
        run_id = house.last_run()
    until(lambda: is_waiting(house, 0), "the place to be free", 3)
    Path(house.gate(name)).touch()
    assert house.machine.wait_run(run_id).state == "completed"


def test_readers_that_go_away_free_everything(house: House) -> None:
    """The same for those who wait for a run that is there, and for those who follow one."""
    run_id = run_of(by_ours(house, REST, house.rest("read", gate=house.gate("read"))))
    for path in (f"/api/v1/runs/{run_id}?wait=60", f"/api/v1/runs/{run_id}/timeline"):
        with ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(open_request(house, "GET", path))
            until(lambda: is_waiting(house, 10), "the requests to wait")
        until(lambda: is_waiting(house, 0), "the places to be free", 3)
    Path(house.gate("read")).touch()


def test_more_waiters_than_may_are_503(small: House) -> None:
    """With every place taken a request that would wait is 503 in its door's own shape, and starts nothing."""
    run_id = run_of(by_ours(small, REST, small.rest("full", gate=small.gate("full"))))
    path = f"/api/v1/runs/{run_id}?wait=60"
    with open_request(small, "GET", path), open_request(small, "GET", path):
        until(lambda: is_waiting(small, 2), "the places to be taken")
        with small.starts_nothing():
            refused = {door: small.ask(*WAITING[door][:2], WAITING[door][2](small.rest("never"))) for door in WAITING}
            refused["timeline"] = small.ask("GET", f"/api/v1/runs/{run_id}/timeline")
        assert {answer.status for answer in refused.values()} == {503}
        assert all(answer.headers["retry-after"] for answer in refused.values())
        shapes = {door: set(answer.json()) for door, answer in refused.items()}
        assert (shapes["arkai"], shapes["trigger"]) == ({"error"}, {"error", "code"})
        assert {"code", "message"} <= shapes["eai"]
        assert refused["ours"].json()["code"] == "too_many_waiters"
        assert run_of(by_trigger(small, ANALYZE, {"name": "not waiting"})) == run_id + 1
    until(lambda: is_waiting(small, 0), "the places to be free", 3)
    Path(small.gate("full")).touch()
    assert small.ask("GET", path, within=20).json()["status"] == "completed"


def resident(pid: int) -> float:
    """Megabytes that a process holds in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def connections(house: House) -> int:
    with redis.Redis.from_url(house.machine.store_url) as store:
        return len(store.client_list())


def wait_at(house: House, number: int) -> str:
    """One of 200: start a run that rests until the gate opens, wait at one of four doors; what the answer holds."""
    given = house.rest(f"crowd-{number}", gate=house.gate("crowd"))
    if number % 4 == 0:
        return str(by_eai(house, REST, given).json()["output"]["rested"])
    if number % 4 == 1:
        return str(by_arkai(house, REST, given).json()["output"]["rested"])
    if number % 4 == 2:
        return str(by_ours(house, REST, given, wait="?wait=60").json()["output"]["rested"])
    with closing(Stream(house, run_of(by_arcee(house, REST, given)))) as stream:
        assert list(stream.events())[-1] == "run.completed"
    return f"crowd-{number}"


def test_twenty_seconds_among_two_hundred(house: House) -> None:
    """A synchronous call of 20 s and 200 others that wait meanwhile are answered rightly, at little cost.

    The server's health is quick all the while; each waiting request costs it little memory and no connection of its own.
    """
    receiver = house.machine.children()["receiver-1"]
    before, links, slowest = resident(receiver), connections(house), 0.0
    with ThreadPoolExecutor(201) as pool:
        began = time.monotonic()
        long = pool.submit(by_eai, house, REST, house.rest("long", seconds=20))
        crowd = [pool.submit(wait_at, house, number) for number in range(200)]
        until(lambda: is_waiting(house, 201), "all of them to wait")
        grown, more_links = resident(receiver) - before, connections(house) - links
        while not long.done():
            asked = time.monotonic()
            assert house.machine.get("/livez").status == 200
            assert house.machine.get("/readyz").status == 200
            slowest = max(slowest, time.monotonic() - asked)
            with suppress(TimeoutError):
                long.exception(0.2)
        document, took = long.result().json(), time.monotonic() - began
        assert not any(each.done() for each in crowd)
        Path(house.gate("crowd")).touch()
        assert [each.result(30) for each in crowd] == [f"crowd-{number}" for number in range(200)]
    assert (document["state"], document["output"]) == ("completed", {"rested": "long"})
    assert [step["state"] for step in document["steps"]] == ["completed", "completed"]
    assert 20 <= took < 25
    assert slowest < QUICK
    assert grown < 30
    assert more_links < 20
    assert is_waiting(house, 0)


# ---- following a run


def test_a_stream_is_resumed_over_a_restart_of_the_receiver(small: House) -> None:
    """Cut off by a receiver that is killed, a client goes on from its last id, misses nothing, and hears the end."""
    run_id = run_of(by_ours(small, REST, small.rest("stream", gate=small.gate("stream"))))
    stream = Stream(small, run_id)
    heard: list[str] = []
    events = stream.events()
    while "step.running" not in heard:
        heard.append(next(events))
    killed = small.machine.signal("receiver-1")
    with suppress(http.client.HTTPException, OSError):
        heard += events
    stream.close()
    small.machine.wait_reborn("receiver-1", killed)
    small.machine.wait_ready()
    with closing(Stream(small, run_id, stream.last_id)) as again:
        Path(small.gate("stream")).touch()
        heard += again.events()
    with closing(Stream(small, run_id)) as whole:
        assert heard == list(whole.events())
    assert heard[-1] == "run.completed"
    assert is_waiting(small, 0)


@pytest.mark.parametrize(("workflow", "end"), [(FAIL, "run.failed"), (REST, "run.cancelled")])
def test_a_stream_ends_when_its_run_does(house: House, workflow: int, end: str) -> None:
    """A run that failed or was cancelled ends its stream, for those who follow it and those who come later."""
    run_id = run_of(by_ours(house, workflow, house.rest("followed", gate=house.gate("followed"))))
    stream = Stream(house, run_id)
    events = stream.events()
    heard = [next(events)]
    if workflow == REST:
        assert house.ask("POST", f"/api/v1/runs/{run_id}/cancel").status == 200
    heard += events
    stream.close()
    with closing(Stream(house, run_id)) as later:
        assert heard == list(later.events())
    assert heard[-1] == end


# ---- tokens


@pytest.mark.parametrize(
    ("label", "program"),
    [("curl", ["sh"]), ("Python", [sys.executable]), ("JavaScript", ["node", "--input-type=module"])],
)
def test_the_examples_of_a_new_token_work(house: House, label: str, program: list[str]) -> None:
    """`gateway token create` shows a call in three languages, to be pasted as it is."""
    if not all(map(shutil.which, (program[0], "curl"))):
        pytest.skip(f"{program[0]} or curl is not installed")
    shown = house.machine.run("token", "create", "mine", "--scope", "runs:read").stdout
    token = shown.partition("export GATEWAY_TOKEN=")[2].split()[0]
    _, *scripts = re.split(r"\n\n(curl|Python|JavaScript)\n\n", shown)
    script = scripts[scripts.index(label) + 1]
    until(lambda: house.ask("GET", "/api/v1/runs", token=token).status == 200, "the token to be known")
    environ = os.environ | {"GATEWAY_TOKEN": token}
    done = subprocess.run(program, input=script, env=environ, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "next_cursor" in done.stdout


# ---- bad input


PATHS = {
    "webhook": "/api/v1/webhooks/42",
    "trigger": "/api/v1/trigger",
    "hook": "/api/v1/hooks/HOOK",
    "arcee": "/api/v1/workflow/workflows/7/execute",
    "arcee upload": "/api/v1/workflow/workflows",
    "eai": "/api/eai/v3/orchestrate/workflows/7/execute",
    "arkai": "/api/executeWorkflow",
    "arkai background": "/api/executeWorkflowBackground",
    "arkai conversation": "/api/getConversationById",
    "ours": "/api/v1/runs",
}
SHAPES = {
    "webhook": {"error", "code"},
    "trigger": {"error", "code"},
    "hook": {"error", "code"},
    "arcee": {"detail", "message", "code"},
    "eai": {"code", "message", "detail", "error"},
    "arkai": {"error"},
    "ours": {"type", "title", "status", "detail", "code"},
}
GIVEN = {"name": "GIVEN"}
VALID: dict[str, dict[str, Any]] = {
    "webhook": {"workflow_id": 7, "input": GIVEN},
    "trigger": {"workflow_id": 7, "input": GIVEN},
    "hook": {"say": "GIVEN"},
    "arcee": GIVEN,
    "arcee upload": {"name": "n", "nodes": {"a": {"type": "transform", "config": "GIVEN"}}},
    "eai": {"input": GIVEN},
    "arkai": {"workflowId": 7, "version": 1, "input": GIVEN},
    "arkai background": {"workflowId": 7, "version": 1, "input": GIVEN},
    "arkai conversation": {"workflowId": 7, "conversationId": "GIVEN"},
    "ours": {"workflow": 7, "input": GIVEN},
}
BODIES: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "ten megabytes": (lambda whole: whole.replace(b"GIVEN", b"x" * 10_000_000), 413),
    "ten megabytes of blanks": (lambda whole: whole + b" " * 10_000_000, 413),
    "a byte order mark": (lambda whole: b"\xef\xbb\xbf" + whole, 400),
    "UTF-16": (lambda whole: whole.decode().encode("utf-16"), 400),
    "two documents": (lambda whole: whole + whole, 400),
    "a NUL behind it": (lambda whole: whole + b"\0", 400),
    "NaN": (lambda whole: whole.replace(b'"GIVEN"', b"NaN"), 400),
    "a comma too many": (lambda whole: whole[:-1] + b",}", 400),
    "a lone surrogate": (lambda whole: whole.replace(b"GIVEN", b"\\udc00"), 400),
    "a form": (lambda whole: b"workflow_id=7&input=x", 400),
}


def post_raw(house: House, door: str, raw: bytes) -> Answer:
    return house.ask("POST", house.path(PATHS[door]), raw=raw, headers=orqo_headers(raw))


def check_refusal(door: str, answer: Answer, status: int) -> None:
    """In its door's shape, with one of its door's statuses: Arcee and Arkai have 400 for all that is malformed."""
    name = door.partition(" ")[0]
    known = 400 if name in ("arcee", "arkai") and status in (413, 422) else status
    assert (door, answer.status, answer.body[:300]) == (door, known, answer.body[:300])
    document = answer.json()
    assert set(document) - {"details", "path", "line", "column", "type"} == SHAPES[name] - {"type"}, document
    assert all(document[field] for field in SHAPES[name])


@pytest.mark.parametrize("case", BODIES)
def test_bodies_that_no_door_takes(house: House, case: str) -> None:
    """Each door answers in its own shape and status, and nothing starts."""
    spoil, status = BODIES[case]
    with house.starts_nothing():
        for door, document in VALID.items():
            check_refusal(door, post_raw(house, door, spoil(json.dumps(document).encode())), status)


def test_what_is_nested_too_deeply(house: House) -> None:
    """Within an input anything may stand, but not on more levels than all that comes after can handle."""
    deep = b"[" * 200 + b"]" * 200
    with house.starts_nothing():
        for door in VALID.keys() - {"arkai conversation"}:
            raw = json.dumps(VALID[door]).encode().replace(b'"GIVEN"', deep)
            check_refusal(door, post_raw(house, door, raw), 400)


FIELDS: dict[str, tuple[str, object, int]] = {
    "no such workflow for ORQO's webhook": ("webhook", {"workflow_id": 10**30}, 422),
    "a workflow with a NUL": ("webhook", {"workflow_id": "7\0"}, 422),
    "a list for a task": ("webhook", {"workflow_id": 7, "task": ["x"]}, 422),
    "a list for metadata": ("webhook", {"workflow_id": 7, "metadata": ["x"]}, 422),
    "an input against the schema": ("webhook", {"workflow_id": 7, "input": {"name": 7}}, 422),
    "no such workflow for the trigger": ("trigger", {"workflow_id": 10**30}, 404),
    "a number with a point": ("trigger", {"workflow_id": 7.5}, 422),
    "a list for an id": ("trigger", {"workflow_id": [7]}, 422),
    "an input against the schema of the trigger": ("trigger", {"workflow_id": 7, "input": "text"}, 422),
    "an input against the hook's schema": ("hook", {"say": 7}, 422),
    "an input against the schema of Arcee's": ("arcee", {"name": [7]}, 422),
    "nodes that are a list": ("arcee upload", {"name": "n", "nodes": []}, 422),
    "text for async": ("eai", {"input": {}, "async": "no"}, 422),
    "a list for EAI's metadata": ("eai", {"input": {}, "metadata": []}, 422),
    "no version": ("arkai", {"workflowId": "7", "input": {}}, 422),
    "a version that is not there": ("arkai", {"workflowId": "7", "version": 10**30, "input": {}}, 422),
    "a component that is not there": ("arkai background", {"workflowId": "7", "version": 1, "input": {"no": 1}}, 422),
    "a conversation with a NUL": ("arkai conversation", {"workflowId": "7", "conversationId": "\0"}, 404),
    "a conversation that is a number": ("arkai conversation", {"workflowId": "7", "conversationId": 7}, 422),
    "no such workflow": ("ours", {"workflow": 10**30}, 404),
    "a field that is not there": ("ours", {"workflow": 7, "inputs": {}}, 422),
}


@pytest.mark.parametrize("case", FIELDS)
def test_fields_that_are_wrong(house: House, case: str) -> None:
    """A field of another type, or the name of something that is not there, is refused in the door's own shape."""
    door, document, status = FIELDS[case]
    with house.starts_nothing():
        check_refusal(door, post_raw(house, door, json.dumps(document).encode()), status)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods(house: House, method: str) -> None:
    """Every path says 405 in its door's shape, and which method it takes."""
    for door, path in PATHS.items():
        answer = house.ask(method, house.path(path), {})
        check_refusal(door, answer, 405)
        assert "POST" in answer.headers["allow"]


@pytest.mark.parametrize(
    ("door", "path"),
    [
        ("webhook", "/api/v1/webhooks/%00"),
        ("hook", "/api/v1/hooks/" + "A" * 43),
        ("arcee", "/api/v1/workflow/workflows/%00/execute"),
        ("arcee", "/api/v1/workflow/workflows/%ED%A0%80/execute"),
        ("eai", "/api/eai/v3/orchestrate/workflows/%00/execute"),
        ("eai", "/api/eai/v3/orchestrate/executions/exec_%00/cancel"),
        ("ours", "/api/v1/runs/" + "9" * 400 + "/cancel"),
    ],
)
def test_ids_that_are_none(house: House, door: str, path: str) -> None:
    """An id with a NUL, half a character or too many digits is one that is not there."""
    with house.starts_nothing():
        raw = b'{"input": {}}'
        check_refusal(door, house.ask("POST", path, raw=raw, headers=orqo_headers(raw)), 404)


def test_a_name_that_stands_twice_starts_nothing(house: House) -> None:
    """Which of the two would count is another matter for who judges and for who starts: neither is asked."""
    narrow = house.add_token("runs:start@workflow:talk")
    twice = '{"workflowId": "%s", "workflowId": "%s", "version": 1, "input": {"say": "x"}}'
    with house.starts_nothing():
        for names in (("talk", "7"), ("7", "talk")):
            answer = house.ask("POST", "/api/executeWorkflow", token=narrow, raw=(twice % names).encode())
            assert (answer.status, "twice" in answer.json()["error"]) == (400, True)


# ---- the README's debug table


def test_symptom_404(house: House) -> None:
    """An id that is wrong is 404; `gateway app list` has those that are right."""
    assert house.machine.post(b'{"workflow_id": 7}', app=999).status == 404
    assert [app["id"] for app in house.machine.json("app", "list")] == [42, 44, 45]


def test_symptom_401(house: House) -> None:
    """The log has the reason, `gateway check` names the secret that is not set, `gateway verify` judges what came."""
    body = b'{"workflow_id": 7}'
    forged = orqo_headers(body, "not the secret")
    with house.starts_nothing():
        assert house.machine.post(body, headers=forged).status == 401
        assert house.machine.post(body, app=45).status == 401
    until(lambda: house.machine.said("request", app="ci", status=401, reason="mismatch"), "the reason in the log")
    checked = house.machine.run("check", "gateway.yaml")
    assert "NOT_SET_ANYWHERE" in checked.stdout + checked.stderr
    captured = {"scheme": "orqo", "secrets": [CI_SECRET], "method": "POST", "url": "/", "headers": forged}
    (house.machine.folder / "captured.json").write_text(json.dumps(captured | {"body": body.decode()}))
    judged = house.machine.run("verify", "captured.json")
    assert (judged.returncode, json.loads(judged.stdout)) == (1, {"valid": False, "reason": "mismatch"})


def test_symptom_a_run_that_fails_at_once(house: House) -> None:
    """The run is accepted; `gateway run show` has the step, the attempt and the message."""
    run_id = start(house, "webhook", FAIL, {})
    shown = house.machine.run("run", "show", str(run_id)).stdout
    assert all(word in shown for word in ("failed", "call", "attempt 1", "no_such_module")), shown


def test_symptom_no_answer(small: House) -> None:
    """Where nothing listens no answer comes; while the store is stuck `/readyz` is 503 and names that check."""
    with frozen(small.machine.children()["valkey"]):
        answer = small.machine.get("/readyz")
        assert (answer.status, answer.json()["checks"]["store"]["ok"]) == (503, False)
    small.machine.wait_ready()


def test_a_receiver_that_stops_answers_who_waits(house: House) -> None:
    """Told to stop, a receiver answers all who wait with the run as it is, and is soon there again.

    None of them is a refusal: the runs were started, and go on.
    """
    with ThreadPoolExecutor(10) as pool, ExitStack() as stack:
        given = {door: house.rest(f"stop-{door}", gate=house.gate("stop")) for door in WAITING}
        started = {door: pool.submit(house.ask, *WAITING[door][:2], WAITING[door][2](given[door])) for door in WAITING}
        until(lambda: is_waiting(house, len(WAITING)), "the requests to wait")
        until(lambda: all(house.ticks(f"stop-{door}") for door in WAITING), "the runs to be under way")
        run_id = house.last_run()
        shown = pool.submit(house.ask, "GET", f"/api/v1/runs/{run_id}?wait=60")
        stream = stack.enter_context(closing(Stream(house, run_id)))
        until(lambda: is_waiting(house, len(WAITING) + 2), "the readers to wait")
        began = time.monotonic()
        stopped = house.machine.signal("receiver-1", signal.SIGTERM)
        answers = {door: each.result(20) for door, each in started.items()}
        assert "run.completed" not in list(stream.events())
        house.machine.wait_reborn("receiver-1", stopped)
        took = time.monotonic() - began
    house.machine.wait_ready()
    assert {door: answer.status for door, answer in answers.items()} == {
        "eai": 200,
        "arkai": 202,
        "ours": 201,
        "trigger": 201,
    }
    words = {door: answer.json().get("state", answer.json().get("status")) for door, answer in answers.items()}
    assert set(words.values()) == {"running"}
    assert (shown.result().status, shown.result().json()["status"]) == (200, "running")
    assert took < 5
    assert not [line for line in house.machine.lines() if "exception" in line]
    Path(house.gate("stop")).touch()
    assert house.machine.wait_run(run_id).state == "completed"
