"""Processes killed at random under load, from a seed: the seven counts, from ledgers outside Valkey."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.nemesis import KILLS
from tests.faults.storm import Report, Storm, run_storm, show

GOOD_CODES = {
    "order": {"200", "503", "no answer"},
    "repeat": {"200", "503", "no answer"},
    "other body": {"409", "503", "no answer"},
    "forged": {"401", "no answer"},
}


def judge(storm: Storm, report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    """Print the seven counts with their seed, then insist on them."""
    with capsys.disabled():
        print(f"\n{show(storm, report)}")  # noqa: T201
    assert report.counts.harmless
    assert report.counts.redone <= sum(report.acts.values()) * 100
    assert report.leaks == 0
    assert report.runs > 50
    for answer in report.codes:
        kind = next(kind for kind in GOOD_CODES if answer.startswith(kind))
        assert answer.removeprefix(f"{kind} ") in GOOD_CODES[kind]


def test_nothing_is_lost_or_doubled_when_anything_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """kill -9 of receiver, worker and Valkey at random: every 200 is one completed run with one verified callback."""
    storm = Storm(seed=20261, seconds=8, clients=3, acts=KILLS, pause=0.8)
    report = run_storm(storm, tmp_path)
    judge(storm, report, capsys)
    assert len(report.acts) == len(KILLS)


def test_nothing_is_lost_or_doubled_when_valkey_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """kill -9 of the embedded Valkey again and again under load: every 200 is one completed run, none is doubled."""
    storm = Storm(seed=20262, seconds=4, clients=4, workers=1, acts=("kill valkey",), pause=0.8, haste=0.02)
    report = run_storm(storm, tmp_path)
    judge(storm, report, capsys)
    assert report.acts["kill valkey"] >= 3
