"""`gateway doctor`: of a sound gateway it says so; each fault that is provoked it finds, with its exit status."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import CI_SECRET, GITHUB_SECRET, KEYS, Machine, frozen, order, orqo_headers, until


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway's folder in which nothing runs."""
    with closing(Machine(tmp_path_factory.mktemp("idle"))) as machine:
        yield machine


def examine(machine: Machine, **environ: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status, and what is not good."""
    machine.environ |= environ
    done = machine.run("doctor", "--json")
    document = json.loads(done.stdout)
    assert document["sound"] == (done.returncode == 0)
    return done.returncode, [each for each in document["checks"] if each["level"] != "good"]


def named(checks: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found = [each for each in checks if each["name"] == name]
    assert found, checks
    return found[0]


def test_running_gateway_is_sound(shared: MakeMachine) -> None:
    """A gateway that runs well is called sound, with status 0, and nobody's secret is shown."""
    machine = shared()
    machine.wait_run(machine.start_run(order("k", 16)))
    status, checks = examine(machine)
    done = machine.run("doctor")
    assert (status, [each for each in checks if each["level"] == "bad"]) == (0, [])
    assert done.returncode == 0
    assert "✓ store" in done.stdout
    assert CI_SECRET not in done.stdout
    assert GITHUB_SECRET not in done.stdout


def test_server_that_loses_events_is_found(shared: MakeMachine) -> None:
    """Valkey set to write when it likes, or to evict, is no place for events."""
    machine = shared()
    with redis.Redis.from_url(machine.store_url) as store:
        store.config_set("appendfsync", "no")
        store.config_set("maxmemory-policy", "allkeys-lru")
        try:
            status, checks = examine(machine)
        finally:
            store.config_set("appendfsync", "always")
            store.config_set("maxmemory-policy", "noeviction")
    texts = [each["text"] for each in checks if each["name"] == "store"]
    assert status == 1
    assert any("appendfsync is no" in text for text in texts)
    assert any("maxmemory-policy" in text for text in texts)


def test_missing_secret_is_found(shared: MakeMachine) -> None:
    """An app whose secret is not set, and one whose secret is short, are named."""
    machine = shared()
    try:
        status, checks = examine(machine, GITHUB_SECRET="", CI_SECRET="short-one")
    finally:
        machine.environ |= {"GITHUB_SECRET": GITHUB_SECRET, "CI_SECRET": CI_SECRET}
    assert status == 1
    assert "env GITHUB_SECRET" in named(checks, "app github")["text"]
    assert "env CI_SECRET" in named(checks, "app ci")["text"]


def test_stopped_worker_is_found(shared: MakeMachine) -> None:
    """With its only worker stopped, nobody looks for runs."""
    machine = shared(lease=1)
    with frozen(machine.children()["worker-1"]):
        until(lambda: machine.get("/readyz").status == 503, "the worker to be missed", 10)
        status, checks = examine(machine)
    assert status == 1
    assert "No worker looks for runs" in named(checks, "workers")["text"]
    machine.wait_ready()


def test_changed_file_and_open_key_are_found(up: MakeMachine) -> None:
    """A file with a mistake, and a master key that others can read, are found; the receiver goes on."""
    machine = up()
    (machine.folder / "data" / "master.key").chmod(0o644)
    machine.config.write_text("apps: [{id: x}]\n")
    status, checks = examine(machine)
    assert status == 1
    assert "0644" in named(checks, "master key")["text"]
    assert str(machine.config) in named(checks, "file")["text"]


def test_nothing_running_is_found_and_nothing_started(idle: Machine) -> None:
    """Where nothing runs the doctor says so, and neither starts nor makes anything."""
    status, checks = examine(idle)
    assert status == 1
    assert "not running" in named(checks, "store")["text"]
    assert not (idle.folder / "data").exists()


def test_server_that_is_not_there_is_a_remark(tmp_path: Path) -> None:
    """A server that can't be reached is one remark of several, not a crash."""
    with closing(Machine(tmp_path, redis_url="redis://127.0.0.1:1/0")) as machine:
        status, checks = examine(machine)
    assert status == 1
    assert "can't reach" in named(checks, "store")["text"]


def test_captured_request_is_explained(calm: Machine) -> None:
    """A captured request of an app is explained by the installation's own secrets, with status 0."""
    body = order("k", 16)
    capture = {"method": "POST", "url": calm.url, "headers": orqo_headers(body, GITHUB_SECRET), "body": body.decode()}
    file = calm.folder / "capture.json"
    file.write_text(json.dumps(capture))
    done = calm.run("doctor", str(file), "--app", "ci", "--json")
    document = json.loads(done.stdout)
    words = calm.run("doctor", "-", "--app", "42", given=json.dumps(capture)).stdout
    assert done.returncode == 0
    assert document["verdict"] == "explained"
    assert document["reason"] == "mismatch"
    assert [each["mistake"] for each in document["findings"]] == ["other_secret"]
    assert "app 'github', env GITHUB_SECRET" in document["findings"][0]["explanation"]
    assert document["tried"] > 0
    assert "other_secret" in words
    assert GITHUB_SECRET not in done.stdout + words


def test_what_nothing_explains_is_a_no(calm: Machine) -> None:
    """A request that no known mistake explains: status 1, what was tried, what to do."""
    body = order("k", 16)
    capture = {"headers": orqo_headers(body, "nobody knows this"), "body": body.decode(), "app_id": 42}
    done = calm.run("doctor", "-", "--json", given=json.dumps(capture))
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert (document["verdict"], document["findings"]) == ("unexplained", [])
    assert document["next"]


def test_refused_delivery_is_explained_by_its_id(calm: Machine) -> None:
    """A refused delivery whose capture is kept is explained by its id; one that is not kept is said to be gone."""
    body = order("k", 16)
    headers = [[name.lower(), value] for name, value in orqo_headers(body, CI_SECRET + "\n").items()]
    record = {
        "app_id": 42,
        "at": int(time.time() * 1000),
        "method": "POST",
        "path": "/api/v1/webhooks/42",
        "headers": headers,
    }
    name = f"rfs_{os.urandom(8).hex()}"
    with redis.Redis.from_url(calm.store_url) as store:
        store.hset(KEYS.named(f"refusal:{name}"), mapping={"record": json.dumps(record), "body": body})
    done = calm.run("doctor", name, "--json")
    gone = calm.run("doctor", "rfs_0123456789")
    assert [each["mistake"] for each in json.loads(done.stdout)["findings"]] == ["sender_secret"]
    assert gone.returncode == 1
    assert "no refused delivery" in gone.stderr


@pytest.mark.parametrize(
    ("argument", "given", "status"), [("nothing.json", None, 2), ("-", "no json", 1), ("-", "{}", 1)]
)
def test_what_is_no_capture_is_said(idle: Machine, argument: str, given: str | None, status: int) -> None:
    """A file that is not there is a usage error; one that holds no capture is a clear no; neither has a traceback."""
    done = idle.run("doctor", argument, given=given)
    assert done.returncode == status
    assert done.stderr.startswith("gateway: ")
    assert "Traceback" not in done.stderr
