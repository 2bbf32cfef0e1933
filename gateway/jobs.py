"""What identifies one doing of a step to the outside world."""

from __future__ import annotations

import hashlib


def idempotency_key(run_id: int, step_id: str, item: int | None = None) -> str:
    """The same text for every attempt of one step of one run, so that a receiver can tell a repetition.

    Source of the header's meaning: IETF draft "The Idempotency-Key HTTP Header Field".
    """
    return hashlib.sha256(f"{run_id}:{step_id}:{'' if item is None else item}".encode()).hexdigest()[:40]
