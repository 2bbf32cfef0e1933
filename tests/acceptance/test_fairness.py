"""One app's backlog and another app's single runs, on one worker process."""

from __future__ import annotations

from tests.benchmarks import common
from tests.benchmarks.fairness import measure

BACKLOG = 5000
MOST_MS = 1000


def test_a_backlog_of_one_app_does_not_hold_up_another_s_run() -> None:
    """With 5 000 runs of one app queued, the runs that another starts begin within a second, each and every one."""
    found = measure(BACKLOG, 20)
    assert found.left > BACKLOG // 10
    assert common.percentile(found.values, 0.99) < MOST_MS
