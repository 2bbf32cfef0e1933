"""Senders as they are: curl and openssl, GitHub, impatient and broken clients, storms of the same delivery."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import shlex
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import CI_SECRET, GITHUB_SECRET, Answer, Listener, Machine, order, orqo_headers, until

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")

# The request of ORQO's "Use the API": its fields, its header, its way to sign with openssl.
PAYLOAD = """{
"workflow_id": 15,
"task": "Research the latest trends in AI agent frameworks",
"metadata": {
"source": "ci-pipeline",
"ref": "main",
"key": "curl"
}
}"""
SIGNED = """
SIGNATURE=$(echo -n "$PAYLOAD" | openssl dgst -sha256 -hmac "$SECRET" | cut -d' ' -f2)
curl -sS -X POST "$URL/api/v1/webhooks/42" \
-H "Content-Type: application/json" \
-H "X-Signature-256: sha256=$SIGNATURE" \
-d "$PAYLOAD" -w '\\n%{http_code}'
"""
UNSIGNED = """
curl -sS -X POST "$URL/api/v1/webhooks/42" -H "Content-Type: application/json" -d "$PAYLOAD" -w '\\n%{http_code}'
"""


def run_script(machine: Machine, script: str, secret: str = CI_SECRET) -> tuple[int, object]:
    """What a shell script with curl printed: the status and the document."""
    given = {"PAYLOAD": PAYLOAD, "SECRET": secret, "URL": machine.url}
    done = subprocess.run(["sh", "-c", script], env=os.environ | given, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


@needs_curl
@needs_openssl
def test_orqos_own_curl_line_starts_a_run(calm: Machine) -> None:
    """The documented request, signed by the documented openssl line, is answered as ORQO answers, and runs."""
    status, document = run_script(calm, SIGNED)

    assert status == 200
    assert isinstance(document, dict)
    run_id = document.pop("run_id")
    assert isinstance(run_id, int)
    assert document == {"status": "pending", "workflow_id": 15, "started_at": None}
    calm.wait_run(run_id)
    shown = calm.json("run", "show", str(run_id))
    assert shown["status"] == "completed"
    assert shown["task"] == "Research the latest trends in AI agent frameworks"
    assert shown["metadata"] == {"source": "ci-pipeline", "ref": "main", "key": "curl"}


@needs_curl
@needs_openssl
@pytest.mark.parametrize(("script", "secret"), [(UNSIGNED, CI_SECRET), (SIGNED, "another-secret-0123456789")])
def test_an_unsigned_or_wrongly_signed_curl_starts_nothing(calm: Machine, script: str, secret: str) -> None:
    """Without the signature, or with another secret, the same request is 401 and no run exists."""
    before = len(calm.runs())
    status, _ = run_script(calm, script, secret)
    assert status == 401
    assert len(calm.runs()) == before


def github_push(body: bytes, delivery: str, **headers: str) -> dict[str, str]:
    signature = hmac.new(GITHUB_SECRET.encode(), body, hashlib.sha256).hexdigest()
    given = {"Content-Type": "application/json", "X-GitHub-Event": "push", "X-GitHub-Delivery": delivery}
    return given | {"X-Hub-Signature-256": f"sha256={signature}"} | headers


def test_a_github_push_starts_what_its_trigger_says_once(calm: Machine) -> None:
    """A push to main starts a run; sent again, also under a new delivery id, it starts none; another branch is ignored."""
    body = json.dumps({"ref": "refs/heads/main", "after": "c0ffee"}).encode()
    other = json.dumps({"ref": "refs/heads/other", "after": "c0ffee"}).encode()
    before = len(calm.runs())

    first = calm.post(body, app=43, headers=github_push(body, "one"))
    again = calm.post(body, app=43, headers=github_push(body, "one"))
    replayed = calm.post(body, app=43, headers=github_push(body, "two"))
    ignored = calm.post(other, app=43, headers=github_push(other, "three"))

    assert (first.status, first.body) == (again.status, again.body) == (replayed.status, replayed.body)
    assert (first.status, ignored.status) == (200, 202)
    assert len(calm.runs()) == before + 1
    assert calm.wait_run(first.json()["run_id"]).output == "Hello, c0ffee!"


def test_a_storm_of_one_delivery_is_one_run(up: MakeMachine) -> None:
    """The same order 400 times from 16 connections to two receivers, one killed meanwhile: one run, equal answers."""
    machine = up(receivers=2)
    body = order("storm", 16)
    pid = machine.children()["receiver-2"]

    def post(number: int) -> Answer | None:
        if number == 150:
            machine.signal("receiver-2")
        with suppress(OSError, http.client.HTTPException):  # a kill may cut an answer in half
            return machine.post(body, key="storm")
        return None

    with ThreadPoolExecutor(16) as pool:
        answers = [answer for answer in pool.map(post, range(400)) if answer is not None]
    machine.wait_reborn("receiver-2", pid)
    answers += [machine.post(body, key="storm") for _ in range(10)]

    assert len(answers) > 300
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len(machine.runs()) == 1
    assert machine.post(body + b" ", key="storm").status == 409


def test_without_a_key_each_order_is_a_run(calm: Machine) -> None:
    """The same order without any key starts a new run each time."""
    body = order("no key", 16)
    assert len({calm.start_run(body) for _ in range(3)}) == 3


def test_many_runs_are_each_claimed_once(up: MakeMachine) -> None:
    """Without faults 300 runs on three workers are done once each: nothing is done again."""
    machine = up(workers=3, lease=15)
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda number: machine.start_run(order(f"k{number}", 19)), range(300)))

    ended = [machine.wait_run(run_id) for run_id in runs]

    assert {run.state for run in ended} == {"completed"}
    assert {run.fence for run in ended} == {1}
    assert sorted(effect["run"] for effect in machine.effects(what="start")) == sorted(runs)
    assert {run.output for run in ended} == {effect["token"] for effect in machine.effects(what="start")}


def test_every_step_of_a_completed_run_shows_its_end(up: MakeMachine) -> None:
    """A step that ends in the moment it would be shown as running keeps its result."""
    machine = up()
    steps = [f"{{id: s{number}, python: 'naps:nap', with: '${{run.id % 12}}'}}" for number in range(8)]
    machine.config.write_text(machine.config.read_text() + f"  - {{id: 30, name: naps, steps: [{', '.join(steps)}]}}\n")
    (machine.folder / "naps.py").write_text(
        "import asyncio\n\nasync def nap(ms):\n    await asyncio.sleep(0.19 + ms / 1000)\n    return 'rested'\n"
    )
    until(lambda: machine.said("gateway.yaml applied", added=["workflow naps"]), "the workflow")
    until(lambda: machine.post(order("nap", 30)).status == 200, "the receiver to know it")

    runs = [machine.wait_run(run_id) for run_id in [machine.start_run(order("nap", 30)) for _ in range(150)]]

    assert {str(step.state) for run in runs for step in run.steps.values()} == {"completed"}
    assert {step.output for run in runs for step in run.steps.values()} == {"rested"}


@pytest.mark.parametrize("sent", ["half a head", "half a body", "no body"])
def test_a_client_that_hangs_up_early_starts_nothing(calm: Machine, sent: str) -> None:
    """A request that is not whole when its client goes away starts no run, and the gateway serves on."""
    body = order("hung up", 16)
    lines = [f"{name}: {value}" for name, value in orqo_headers(body).items()]
    head = "\r\n".join(["POST /api/v1/webhooks/42 HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines])
    whole = head.encode() + b"\r\n\r\n" + body
    cut = {"half a head": len(head) // 2, "half a body": len(whole) - len(body) // 2, "no body": len(whole) - len(body)}
    before = len(calm.said("request"))

    with socket.create_connection(("127.0.0.1", calm.port)) as client:
        client.sendall(whole[: cut[sent]])

    if sent != "half a head":
        until(lambda: len(calm.said("request")) > before and calm.said("request", reason="client_gone"), "the hang-up")
    assert calm.post(order("after", 16)).status == 200
    assert "hung up" not in {(run.request.metadata or {}).get("key") for run in calm.runs()}


def test_a_client_that_hangs_up_after_its_request_changes_nothing(calm: Machine) -> None:
    """An order whose sender does not wait for the answer is one run, and when sent again it is the same run."""
    body = order("impatient", 16)
    lines = [f"{name}: {value}" for name, value in (orqo_headers(body) | {"Idempotency-Key": "impatient"}).items()]
    head = "\r\n".join(["POST /api/v1/webhooks/42 HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines])

    with socket.create_connection(("127.0.0.1", calm.port)) as client:
        client.sendall(head.encode() + b"\r\n\r\n" + body)
    run_id = calm.start_run(body, key="impatient")

    calm.wait_run(run_id)
    assert [run.id for run in calm.runs() if (run.request.metadata or {}).get("key") == "impatient"] == [run_id]


def test_the_send_command_signs_as_senders_do(calm: Machine) -> None:
    """`gateway send` is accepted with the right secret, and exits with 1 when the answer is a refusal."""
    url = f"{calm.url}/api/v1/webhooks/42"
    data = order("send", 16).decode()

    good = calm.run("send", url, "--scheme", "orqo", "--secret", CI_SECRET, "--data", data, "--json")
    bad = calm.run("send", url, "--scheme", "orqo", "--secret", "another-secret-0123456789", "--data", data, "--json")
    nobody = calm.run("send", "http://127.0.0.1:1/", "--secret", CI_SECRET)
    pushed = calm.run(
        *shlex.split(f"send {calm.url}/api/v1/webhooks/43 --scheme github --secret {GITHUB_SECRET} --json"),
        *("-H", "X-GitHub-Event: push", "--data", "@-"),
        given=json.dumps({"ref": "refs/heads/main", "after": "sent"}),
    )

    answer = json.loads(good.stdout)
    assert (good.returncode, answer["status"]) == (0, 200)
    assert calm.wait_run(answer["body"]["run_id"]).output == "Hello, a task!"
    assert (bad.returncode, json.loads(bad.stdout)["status"]) == (1, 401)
    assert nobody.returncode == 1
    assert "http://127.0.0.1:1/" in nobody.stderr
    assert (pushed.returncode, json.loads(pushed.stdout)["status"]) == (0, 200)


def test_a_callback_is_tried_until_it_is_taken(up: MakeMachine, listener: Listener) -> None:
    """A receiver that answers 500 twice gets the same message, under the same id, a third time."""
    machine = up(callback_schedule="0,0.1,0.1,9")
    listener.fail("tried again", 2)
    run_id = machine.start_run(order("tried again", 16))
    (shown,) = until(lambda: _delivered(machine, run_id), "the delivery to be recorded")

    messages = listener.about("tried again")
    assert [message["answer"] for message in messages] == [500, 500, 204]
    assert {message["id"] for message in messages} == {shown["callback_id"]}
    assert [attempt["status"] for attempt in shown["attempts"]] == [500, 500, 204]


def _delivered(machine: Machine, run_id: int) -> list[dict[str, Any]]:
    callbacks = machine.json("run", "show", str(run_id))["callbacks"]
    return [callback for callback in callbacks if callback["status"] == "delivered"]
