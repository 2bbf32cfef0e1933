"""What identifies one doing of a step to the outside world."""

from __future__ import annotations

import hashlib


def idempotency_key(run_id: int, step_id: str, item: int | None = None) -> str:
    """The same text for every attempt of one step of one run, so that a receiver can tell a repetition.

    Source of the header's meaning: IETF draft "The Idempotency-Key HTTP Header Field".
    """
    return hashlib.sha256(f"{run_id}:{step_id}:{'' if item is None else item}".encode()).hexdigest()[:40]


def child_event(run_id: int, attempt: int, step_id: str, failed_child: int | None) -> str:
    """The id of the event under which a step starts another run: the same, until that one has failed.

    Whoever does not know whether it was started asks again under it, and starts no second one.
    """
    origin = f"child:{run_id}:{attempt}:{step_id}:{failed_child or 0}"
    return "evt_" + hashlib.sha256(origin.encode()).hexdigest()[:28]
