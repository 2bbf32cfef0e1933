"""Workers that end at each step of delivering a callback: the short version of tests/faults/courier.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.machine import Listener
from tests.faults.courier import kill_couriers
from tests.faults.dying import COURIER
from tests.faults.points import open_field

pytestmark = pytest.mark.slow


def test_a_message_arrives_whenever_its_worker_ends(tmp_path: Path, listener: Listener) -> None:
    """Each is acknowledged under one id, at most once more than needed; nothing of the dead worker's share stays."""
    with open_field(tmp_path, listener) as field:
        report = kill_couriers(field, len(COURIER))
    assert report.harmless, report
