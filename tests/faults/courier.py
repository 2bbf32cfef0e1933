"""`python -m tests.faults.courier [KILLS]`: workers end at each step of delivering a callback, again and again.

For each of 50 kills there is one more message; a worker claims what is due, and ends as after kill -9 at the next point
of an attempt (tests/faults/dying.py, COURIER). The last worker lives. What arrived stands in a ledger outside the store:
exits with 0 when every message was acknowledged under one id, and only those came twice that may have arrived already.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import redis
from msgspec import Struct

from tests.acceptance.machine import KEYS, Listener, order, until
from tests.faults.dying import CODE, COURIER
from tests.faults.points import Field, open_field

AFTER = ("answered", "sent")
"""Where the receiver has answered and nobody has written it down."""
SHARE = 4


class Report(Struct, frozen=True, kw_only=True):
    """What became of the messages."""

    kills: Counter[str]
    messages: int
    acknowledged: int
    ids: int
    twice: int
    """How many deliveries were made again of what had been acknowledged."""
    left: list[str]
    """What is left in the store of a message that is under way, or of an endpoint's share."""
    seconds: float

    @property
    def harmless(self) -> bool:
        again = SHARE * sum(self.kills[point] for point in AFTER)
        return self.messages == self.acknowledged == self.ids and self.twice <= again and not self.left


def kill_couriers(field: Field, kills: int) -> Report:
    """So many workers end while they deliver."""
    began, done, keys = time.monotonic(), Counter[str](), []
    for number in range(kills):
        point = COURIER[number % len(COURIER)]
        keys.append(f"courier-{number}")
        field.machine.start_run(order(keys[-1], 16), keys[-1])
        with field.process("tests.faults.dying", point) as worker:
            assert until(lambda worker=worker: worker.poll() is not None and worker.returncode, point) == CODE
        done[point] += 1
    with field.process("workers"):
        until(field.told_all, "all callbacks", 60)
    return _report(field, keys, done, time.monotonic() - began)


def _report(field: Field, keys: list[str], kills: Counter[str], seconds: float) -> Report:
    about = {key: [line for line in field.listener.about(key) if line["answer"] == 204] for key in keys}
    with redis.Redis.from_url(field.machine.store_url) as store:
        names = ("callbacks:queue", "callbacks:lanes", "callbacks:busy:app-42", "callbacks:lane:app-42")
        left = [name for name in names if store.exists(KEYS.named(name))]
    return Report(
        kills=kills,
        messages=len(keys),
        acknowledged=sum(bool(lines) for lines in about.values()),
        ids=len({line["id"] for lines in about.values() for line in lines}),
        twice=sum(max(len(lines) - 1, 0) for lines in about.values()),
        left=left,
        seconds=seconds,
    )


def main(kills: int) -> int:
    with tempfile.TemporaryDirectory(prefix="courier-") as temporary:
        listener = Listener(Path(temporary))
        try:
            with open_field(Path(temporary), listener) as field:
                report = kill_couriers(field, kills)
        finally:
            listener.close()
    lines = [
        f"{sum(report.kills.values())} workers ended in {report.seconds:.0f} s: {dict(report.kills)}",
        f"{report.messages} messages, {report.acknowledged} acknowledged, under {report.ids} ids",
        f"{report.twice} delivered again; left in the store: {report.left or 'nothing'}",
        "as promised" if report.harmless else "HARM",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if report.harmless else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
