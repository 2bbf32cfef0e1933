"""Metrics: what this process counted and what the store knows, on one page that Prometheus can read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import SHARED_FOLDER, Metrics, StoreFigures

FIGURES = StoreFigures(
    counts={
        "runs:review:completed": 3,
        "runs:ci: build:failed": 1,
        "steps:http:completed": 5,
        "callbacks:delivered": 2,
        "callbacks:retry": 7,
        "other:thing": 9,
    },
    depths={"runs": 4, "callbacks": 0},
    open_runs={"pending": 1, "running": 2, "waiting": 3},
    oldest_pending={"queue": 1.5, "throttle": 0.5},
    worker_age=0.25,
)


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_requests_are_counted_by_app_code_and_reason() -> None:
    """Each answer of the door counts once, under its app, its status and its reason."""
    metrics = Metrics()
    for _ in range(3):
        metrics.count_request("ci", 200, "accepted")
    metrics.count_request("ci", 401, "mismatch")
    found = samples(metrics.render(None))
    assert found["gateway_requests_total", (("app", "ci"), ("code", "200"), ("reason", "accepted"))] == 3
    assert found["gateway_requests_total", (("app", "ci"), ("code", "401"), ("reason", "mismatch"))] == 1


def test_the_time_to_accept_is_a_histogram() -> None:
    """A request of 30 ms counts in the buckets from 50 ms up."""
    metrics = Metrics()
    metrics.observe_accept(0.03)
    found = samples(metrics.render(None))
    assert found["gateway_accept_duration_seconds_bucket", (("le", "0.025"),)] == 0
    assert found["gateway_accept_duration_seconds_bucket", (("le", "0.05"),)] == 1
    assert found["gateway_accept_duration_seconds_count", ()] == 1


def test_waiting_requests_are_shown() -> None:
    """The page says how many wait now."""
    metrics = Metrics()
    metrics.show_waiters(3)
    metrics.show_waiters(2)
    assert samples(metrics.render(None))["gateway_waiters", ()] == 2


SHARED = """
import sys
from gateway.metrics import Metrics
metrics = Metrics()
if sys.argv[1:]:
    metrics.show_waiters(int(sys.argv[1]))
print(metrics.render(None).decode())
"""


def test_nobody_waits_at_a_process_that_is_gone(tmp_path: Path) -> None:
    """Of several processes the page shows the sum, without those that ended."""
    environ = os.environ | {SHARED_FOLDER: str(tmp_path)}

    def pages(*waiters: str) -> bytes:
        return subprocess.run(
            [sys.executable, "-c", SHARED, *waiters], env=environ, capture_output=True, check=True
        ).stdout

    assert samples(pages("5"))["gateway_waiters", ()] == 5
    assert samples(pages("2"))["gateway_waiters", ()] == 2
    assert samples(pages()).get(("gateway_waiters", ()), 0) == 0


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("gateway_runs_total", {"workflow": "review", "status": "completed"}, 3),
        ("gateway_runs_total", {"workflow": "ci: build", "status": "failed"}, 1),
        ("gateway_steps_total", {"kind": "http", "status": "completed"}, 5),
        ("gateway_callback_attempts_total", {"outcome": "delivered"}, 2),
        ("gateway_callback_attempts_total", {"outcome": "retry"}, 7),
        ("gateway_queue_depth", {"queue": "runs"}, 4),
        ("gateway_open_runs", {"status": "waiting"}, 3),
        ("gateway_oldest_pending_seconds", {"reason": "queue"}, 1.5),
        ("gateway_worker_heartbeat_age_seconds", {}, 0.25),
    ],
)
def test_the_store_s_figures_are_on_the_page(name: str, labels: dict[str, str], value: float) -> None:
    """Every count and depth of the store stands under its name, also for a workflow with a colon in its name."""
    found = samples(Metrics().render(FIGURES))
    assert found[name, tuple(sorted(labels.items()))] == value


def test_without_the_store_our_own_counters_are_still_shown() -> None:
    """When the store says nothing the page has what this process counted, and nothing invented."""
    names = {name for name, _ in samples(Metrics().render(None))}
    assert "gateway_queue_depth" not in names
    assert "gateway_accept_duration_seconds_count" in names


def test_without_a_worker_there_is_no_age() -> None:
    """Nobody looked at the queue yet: that is no number."""
    figures = StoreFigures(counts={}, depths={}, open_runs={}, oldest_pending={}, worker_age=None)
    assert "gateway_worker_heartbeat_age_seconds" not in {name for name, _ in samples(Metrics().render(figures))}


def test_a_hostile_name_breaks_no_line() -> None:
    """Quotes, backslashes and new lines in a label come back as they were."""
    metrics = Metrics()
    metrics.count_request('a"b\\c\nd', 200, "accepted")
    assert any(("app", 'a"b\\c\nd') in labels for _, labels in samples(metrics.render(None)))
