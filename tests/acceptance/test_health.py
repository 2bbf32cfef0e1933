"""What `/readyz`, `/metrics` and the log say, and what they never say."""

from __future__ import annotations

import re
import signal

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import (
    CALLBACK_SECRET,
    CI_SECRET,
    GITHUB_SECRET,
    Machine,
    frozen,
    order,
    orqo_headers,
    until,
)

PROMISED = {
    "gateway_requests_total",
    "gateway_accept_duration_seconds_bucket",
    "gateway_runs_total",
    "gateway_steps_total",
    "gateway_callback_attempts_total",
    "gateway_queue_depth",
    "gateway_open_runs",
    "gateway_waiters",
    "gateway_oldest_pending_seconds",
    "gateway_worker_heartbeat_age_seconds",
}
SAMPLE = re.compile(r"([a-z_]+)(?:\{(.*)\})? (\S+)")


def read_metrics(machine: Machine) -> dict[tuple[str, str], float]:
    """Every sample of the page, by name and labels."""
    lines = machine.get("/metrics").body.decode().splitlines()
    found = [SAMPLE.fullmatch(line) for line in lines if not line.startswith("#")]
    return {(match[1], match[2] or ""): float(match[3]) for match in found if match}


def test_a_deaf_worker_is_noticed(shared: MakeMachine) -> None:
    """With its only worker frozen `/readyz` turns 503 and says why, while events are stored; thawed, it is 200 again."""
    machine = shared(lease=1)
    with frozen(machine.children()["worker-1"]):
        until(lambda: machine.get("/readyz").status == 503, "the worker to be missed", 10)
        check = machine.get("/readyz").json()["checks"]["run_workers"]
        assert machine.get("/readyz?only=store").status == 200
        run_id = machine.start_run(order("k", 16))

    assert check["ok"] is False
    assert "no worker has looked at the queue" in check["reason"]
    assert machine.wait_run(run_id).state == "completed"
    assert machine.wait_ready()


def test_a_healthy_gateway_stays_ready_with_the_shortest_lease(shared: MakeMachine) -> None:
    """Idle workers look at the queue often enough that `/readyz` never wavers."""
    machine = shared(lease=1)
    before = machine.start_run(order("before", 16))
    statuses = []

    def look() -> bool:
        statuses.append(machine.get("/readyz").status)
        return len(statuses) >= 100

    until(look, "a hundred looks")
    assert set(statuses) == {200}
    assert machine.wait_run(before).state == "completed"


def test_readyz_says_what_a_2xx_promises(calm: Machine) -> None:
    """`/readyz` names the durability, the server and its fsync policy, and the age of the workers' heartbeats."""
    document = calm.get("/readyz").json()

    assert (document["status"], document["durability"]) == ("ready", "fsync")
    store = document["checks"]["store"]
    assert (store["ok"], store["appendfsync"]) == (True, "always")
    assert re.fullmatch(r"valkey \d+\.\d+\.\d+", store["server"])
    assert {"run_workers", "callback_workers"} < document["checks"].keys()


def test_metrics_count_what_happened_whichever_receiver_is_asked(up: MakeMachine) -> None:
    """`/metrics` has the promised names, and two receivers tell the same counts, also after one was killed."""
    machine = up(receivers=2)
    for number in range(12):
        machine.wait_run(machine.start_run(order(f"k{number}", 16)))
    assert machine.post(order("bad"), headers={"Content-Type": "application/json"}).status == 401
    until(lambda: read_metrics(machine)["gateway_callback_attempts_total", 'outcome="delivered"'] == 12, "12 callbacks")

    machine.wait_reborn("receiver-1", machine.signal("receiver-1"))
    for _ in range(6):
        metrics = read_metrics(machine)
        assert {name for name, _ in metrics} >= PROMISED
        assert metrics["gateway_requests_total", 'app="ci",code="200",reason="accepted"'] == 12
        refused = [
            value for (name, labels), value in metrics.items() if name.endswith("requests_total") and "401" in labels
        ]
        assert refused == [1]
        assert metrics["gateway_runs_total", 'status="completed",workflow="greet"'] == 12
        assert metrics["gateway_steps_total", 'kind="transform",status="completed"'] == 12
        assert metrics["gateway_open_runs", 'status="pending"'] == 0


def test_no_secret_signature_or_body_is_logged(up: MakeMachine) -> None:
    """Secrets, signatures, tokens and what a sender wrote are in no line of the log, at debug level, with every kind of answer."""
    machine = up(log_level="debug", max_lost=1, lease=1, max_body=5000)
    canary = "BODY-CANARY"
    body = order(canary, canary=canary)
    machine.wait_run(machine.start_run(body))
    machine.wait_set_aside(machine.start_run(order(canary, 17)))
    answers = [
        machine.post(body, headers=orqo_headers(body, "wrong-SECRET-CANARY-1234567890")),
        machine.post(body, headers={"Content-Type": "application/json", "X-Signature-256": "SIGNATURE-CANARY"}),
        machine.post(b"{" + canary.encode()),
        machine.post(order(canary, 4711)),
        machine.post(order(canary * 1000)),
        machine.post(body, app=f"{canary}-app"),
        machine.post(body, headers=orqo_headers(body) | {"Authorization": "Bearer TOKEN-CANARY"}, key="k"),
        machine.post(body + b" ", key="k"),
    ]
    assert [answer.status for answer in answers] == [401, 401, 400, 422, 413, 404, 200, 409]
    token = machine.json("app", "show", "ci")["token"]
    assert machine.post(body, app=token).status == 200
    machine.wait_ready()
    machine.stop(signal.SIGTERM)

    text = machine.log.read_text()
    secrets = [CI_SECRET, GITHUB_SECRET, CALLBACK_SECRET, CALLBACK_SECRET.removeprefix("whsec_"), token]
    signatures = [orqo_headers(body)["X-Signature-256"].removeprefix("sha256="), "sha256=", "v1,"]
    found = [canary for canary in [*secrets, *signatures, "CANARY"] if canary in text]
    assert not found
    assert machine.said("request", status=401)
