"""Metrics in Prometheus' form: requests counted in this process, everything else read from the store's own counts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class StoreFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the store knows at this moment. `counts` has names such as `runs:review:completed`."""

    counts: Mapping[str, int]
    depths: Mapping[str, int]
    open_runs: Mapping[str, int]
    oldest_pending: Mapping[str, float]
    worker_age: float | None
    sweep_age: float | None = None
    archive_failed: bool = False


class Metrics:
    """The counters of one process. A label holds an app's name, a status or a reason from our own short lists."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "gateway_requests", "Requests at the webhook doors", ["app", "code", "reason"], registry=self._registry
        )
        self._latency = Histogram(
            "gateway_accept_duration_seconds",
            "From the whole request to the answer, of accepted events",
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._waiters = Gauge(
            "gateway_waiters",
            "Requests that wait for a run to end, or follow one",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._known: dict[tuple[str, int, str], Counter] = {}
        _forget_the_dead()

    def count_request(self, app: str, status: int, reason: str) -> None:
        labels = (app, status, reason)
        counter = self._known.get(labels)
        if counter is None:
            counter = self._known[labels] = self._requests.labels(app, str(status), reason)
        counter.inc()

    def observe_accept(self, seconds: float) -> None:
        self._latency.observe(seconds)

    def show_waiters(self, count: int) -> None:
        self._waiters.set(count)

    def render(self, figures: StoreFigures | None) -> bytes:
        """The whole page: of all processes that share a folder of counts, or else of this one; then the store's."""
        registry = self._registry
        if os.environ.get(SHARED_FOLDER):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        page = generate_latest(registry)
        return page if figures is None else page + generate_latest(_registry_of(figures))


def _forget_the_dead() -> None:
    """Nobody waits at a process that is gone; the one in its place says so."""
    folder = os.environ.get(SHARED_FOLDER)
    for kept in Path(folder).glob("gauge_live*_*.db") if folder else ():
        pid = kept.stem.rpartition("_")[2]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            kept.unlink(missing_ok=True)


def _registry_of(figures: StoreFigures) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_StoreCollector(figures))
    return registry


class _StoreCollector(Collector):
    def __init__(self, figures: StoreFigures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures
        yield _counter("gateway_runs", "Runs that ended", ["workflow", "status"], "runs", figures.counts)
        yield _counter("gateway_steps", "Steps that ended, by kind", ["kind", "status"], "steps", figures.counts)
        yield _counter(
            "gateway_callback_attempts", "Attempts to deliver a callback", ["outcome"], "callbacks", figures.counts
        )
        yield _counter(
            "gateway_endpoints_disabled",
            "Endpoints that were disabled by themselves",
            ["reason"],
            "endpoints:disabled",
            figures.counts,
        )
        yield from _sweep_metrics(figures)
        yield _gauge("gateway_queue_depth", "Jobs in arq's queues", "queue", figures.depths)
        yield _gauge("gateway_open_runs", "Runs that have not ended", "status", figures.open_runs)
        yield _gauge(
            "gateway_oldest_pending_seconds",
            "For how long the oldest run that has not begun is held, by reason",
            "reason",
            figures.oldest_pending,
        )
        if figures.worker_age is not None:
            yield _value(
                "gateway_worker_heartbeat_age_seconds", "Since any worker looked at the queue", figures.worker_age
            )


def _sweep_metrics(figures: StoreFigures) -> Iterator[Metric]:
    yield _counter("gateway_mended", "What was lost and the sweep put back", ["what"], "mended", figures.counts)
    yield _counter("gateway_removed", "What was past its time and is removed", ["what"], "removed", figures.counts)
    yield _counter(
        "gateway_reconciled", "Deliveries that a sender was asked for again", ["what"], "reconciled", figures.counts
    )
    yield _counter("gateway_archived_lines", "Lines written to the archive", ["what"], "archived", figures.counts)
    failed = float(figures.archive_failed)
    yield _value("gateway_archive_failed", "1 when the archive can't be written, so that nothing is removed", failed)
    if figures.sweep_age is not None:
        yield _value("gateway_sweep_age_seconds", "Since a worker last finished a sweep", figures.sweep_age)


def _counter(name: str, help_text: str, labels: list[str], group: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for key, value in _of_group(group, counts):
        # A workflow's name may hold colons; the status behind it never does.
        family.add_metric(key.rsplit(":", len(labels) - 1), value)
    return family


def _of_group(group: str, counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    return ((key[len(group) + 1 :], value) for key, value in counts.items() if key.startswith(group + ":"))


def _gauge(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _value(name: str, help_text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, help_text)
    family.add_metric([], value)
    return family
