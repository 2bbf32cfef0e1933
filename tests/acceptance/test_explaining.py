"""`gateway event …` on a gateway that runs: what came in, what happened to it, and its bytes."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from tests.acceptance.machine import CI_SECRET, GITHUB_SECRET, Machine, order, orqo_headers, request, until

PUSH = b'{"ref": "refs/heads/dev", "after": "c0ffee"}'


def github_headers(body: bytes, secret: str = GITHUB_SECRET, delivery: str = "72d3162e") -> dict[str, str]:
    mac = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": f"sha256={mac}",
    }


def post(machine: Machine, app: int, body: bytes, headers: dict[str, str]) -> Any:
    return request(f"{machine.url}/api/v1/webhooks/{app}", "POST", body, headers).json()


def document(machine: Machine, *words: str) -> Any:
    return json.loads(machine.run("event", *words, "--json").stdout)


def test_an_ignored_delivery_is_explained_by_its_sender_s_id(calm: Machine) -> None:
    """A person is told which part of the condition was false and what stood there; a script gets the same as JSON."""
    event_id = post(calm, 43, PUSH, github_headers(PUSH))["event_id"]
    assert post(calm, 43, PUSH, github_headers(PUSH))["event_id"] == event_id
    done = calm.run("event", "explain", "72d3162e")
    assert done.returncode == 0
    for words in (
        f"{event_id}  – ignored: its trigger 'deploys' did not match; it came again 1 time",
        "the proof is right: secret 1 of 1 (env GITHUB_SECRET) matched",
        "✘ trigger deploys  did not match",
        'event.body.ref == "refs/heads/main" is false: event.body.ref is "refs/heads/dev"',
        "came again ×1",
    ):
        assert words in done.stdout, done.stdout
    told = document(calm, "explain", event_id)
    assert (told["event_id"], told["outcome"], told["dedupe"]["repeats"]) == (event_id, "ignored", 1)
    listed = document(calm, "list", "--app", "github", "--outcome", "ignored", "--type", "push", "--since", "1h")
    assert [each["event_id"] for each in listed] == [event_id]
    shown = calm.run("event", "show", event_id).stdout
    assert '"ref": "refs/heads/dev"' in shown
    assert document(calm, "show", event_id)["body"] == PUSH.decode()


def test_an_accepted_delivery_shows_what_became_of_it(calm: Machine) -> None:
    """The run it started, its state now and its callback are told; the app says which secret is in use."""
    body = order("explained")
    run_id = post(calm, 42, body, orqo_headers(body))["run_id"]

    def told() -> Any:
        run = document(calm, "list", "--app", "42", "--limit", "1")[0]
        found = document(calm, "explain", run["event_id"])
        return found if [each["status"] for each in found["runs"][0]["callbacks"]] == ["delivered"] else None

    found = until(told, "the callback")
    assert (found["outcome"], found["runs"][0]["run_id"], found["runs"][0]["status"]) == (
        "accepted",
        run_id,
        "completed",
    )
    drawn = calm.run("event", "explain", found["event_id"]).stdout
    assert f"run {run_id}  ✔ completed  three" in drawn
    assert "run.completed → http://127.0.0.1" in drawn

    def used() -> Any:
        app = json.loads(calm.run("app", "show", "ci", "--json").stdout)
        return app["secret_uses"][0]["count"]

    assert until(used, "the count of the secret's uses") >= 1
    assert "env CI_SECRET: used" in calm.run("app", "show", "ci").stdout


def test_a_refused_delivery_is_found_and_captured(calm: Machine, tmp_path: Path) -> None:
    """A wrong signature is listed, explained without any secret, and captured as a document that `gateway verify` takes."""
    body = b'{"workflow_id": 16, "task": "refused"}'
    assert post(calm, 42, body, orqo_headers(body, "another secret of theirs"))["code"] == "unauthorized"
    row = until(lambda: document(calm, "list", "--outcome", "refused", "--app", "ci"), "the refusal")[0]
    assert (row["status"], row["decision"]["reason"]) == (401, "mismatch")
    assert row["event_id"] in calm.run("event", "list").stdout
    drawn = calm.run("event", "explain", row["event_id"]).stdout
    assert "✘ proof  no secret gives this signature for these bytes" in drawn
    assert "secret 1: env CI_SECRET" in drawn
    assert CI_SECRET not in drawn
    captured = calm.run("event", "show", row["event_id"], "--capture").stdout
    assert CI_SECRET not in captured
    for secret, valid in ((CI_SECRET, False), ("another secret of theirs", True)):
        path = tmp_path / "capture.json"
        path.write_text(json.dumps(json.loads(captured) | {"secrets": [secret]}))
        assert json.loads(calm.run("verify", str(path)).stdout)["valid"] is valid


def test_what_is_not_there_is_a_clear_no(calm: Machine) -> None:
    """An unknown id, app or outcome ends with a message and the right exit status."""
    for words, status, message in (
        (("explain", "no-such-id"), 1, "there is no event or refused delivery 'no-such-id'"),
        (("show", "evt_" + "0" * 28), 1, "there is no event 'evt_0000"),
        (("explain", "rfs_" + "0" * 28), 1, "there is no refused delivery 'rfs_0000"),
        (("list", "--app", "nobody"), 1, "there is no app 'nobody'"),
        (("list", "--outcome", "lost"), 2, "there is no outcome 'lost'"),
        (("list", "--since", "long ago"), 2, "--since takes"),
    ):
        done = calm.run("event", *words)
        assert (done.returncode, message in done.stderr) == (status, True), (words, done.stderr)
