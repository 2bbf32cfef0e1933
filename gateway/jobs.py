"""What identifies one doing of a step to the outside world."""

from __future__ import annotations

import hashlib


def idempotency_key(root: int | str, step_id: str, item: int | None = None) -> str:
    """The same text for every attempt of one step under one root, so that a receiver can tell a repetition.

    Source of the header's meaning: IETF draft "The Idempotency-Key HTTP Header Field".
    """
    return hashlib.sha256(f"{root}:{step_id}:{'' if item is None else item}".encode()).hexdigest()[:40]


def effects_of(*origin: str) -> str:
    """What the effects of a run go by: the same for all runs of one origin, such as an event and a trigger of it."""
    return hashlib.sha256("\0".join(origin).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def child_event(run_id: int, attempt: int, step_id: str, failed_child: int | None) -> str:
    """The id of the event under which a step starts another run: the same, until that one has failed.

    Whoever does not know whether it was started asks again under it, and starts no second one.
    """
    origin = f"child:{run_id}:{attempt}:{step_id}:{failed_child or 0}"
    return "evt_" + hashlib.sha256(origin.encode()).hexdigest()[:28]
