"""What a receiver's answer means: for the message, and for the endpoint as a whole. Silent.

2xx alone is success. A redirect is a failure and never followed. Of Standard Webhooks 1.0 ("Webhook delivery", "Operational
considerations"): 410 ends the endpoint, 429, 502 and 504 slow it down. A `webhook-delivery` header is the receiver's word,
whatever the status: `disable` ends the endpoint, `abort-message` this message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from gateway.retries import next_callback, read_retry_after
from gateway.runs import CallbackState

GONE = 410
SLOW = frozenset({429, 502, 504})
CONTROL = "webhook-delivery"
CAP = 3600.0
"""Seconds of a Retry-After that are obeyed at most."""


class Lesson(StrEnum):
    """What an attempt tells of its endpoint. `NONE`: the fault is ours, and the endpoint heard nothing."""

    GOOD = "good"
    BAD = "bad"
    SLOW = "slow"
    GONE = "gone"
    ASKED = "asked"
    NONE = "none"


ENDS: Mapping[str, str] = {
    Lesson.GONE: "it answered 410 Gone",
    Lesson.ASKED: "it asked for it (webhook-delivery: disable)",
    "failing": "nothing but failures for days",
}
"""Why an endpoint is disabled by itself, in words."""


class Bearing(msgspec.Struct, frozen=True, kw_only=True):
    """How endpoints share the workers, and how their failures are borne. Times are seconds.

    `share` is how many attempts one endpoint has at once, over all workers: the receiver feels all of them. After
    `failures` in a row nothing but a probe is sent, after `pause`, which doubles up to `longest`. An endpoint that did
    nothing but fail for `patience` is disabled.
    """

    share: int = 4
    failures: int = 10
    pause: float = 30.0
    longest: float = 1800.0
    patience: float = 5 * 86_400.0


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What came back from an attempt. No status: no whole answer; `ours` when nothing was sent at all."""

    status: int | None = None
    retry_after: str | None = None
    control: str | None = None
    ours: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """What follows: `delivered`, `failed` for good, or again after `delay` seconds; and what the endpoint is told of it.

    `wait` is how long (seconds) the receiver asked to be left alone; `reason` why it failed for good.
    """

    state: CallbackState
    delay: float | None = None
    lesson: Lesson = Lesson.BAD
    wait: float = 0.0
    reason: str | None = None


def judge(heard: Heard, number: int, schedule: Sequence[float], now: float, chance: float) -> Verdict:
    """What an answer to attempt `number` (from 1 on this schedule) means, at this time (unix seconds)."""
    asked = None if heard.retry_after is None else read_retry_after(heard.retry_after, now)
    wait = 0.0 if asked is None else min(asked, CAP)
    lesson, control = _lesson_of(heard), (heard.control or "").strip().lower()
    if lesson is Lesson.GOOD or _is_success(heard.status):
        return Verdict(CallbackState.DELIVERED, lesson=lesson)
    if lesson in (Lesson.GONE, Lesson.ASKED):
        return Verdict(CallbackState.FAILED, lesson=lesson, reason=ENDS[lesson])
    if control == "abort-message":
        return Verdict(
            CallbackState.FAILED, lesson=lesson, wait=wait, reason="the receiver wants no more of this message"
        )
    delay = next_callback(schedule, number, chance, retry_after=asked, cap=CAP)
    if delay is None:
        return Verdict(CallbackState.FAILED, lesson=lesson, wait=wait, reason=f"all {number} attempts failed")
    return Verdict(CallbackState.PENDING, delay, lesson, wait)


def _lesson_of(heard: Heard) -> Lesson:
    if heard.ours:
        return Lesson.NONE
    if (heard.control or "").strip().lower() == "disable":
        return Lesson.ASKED
    if _is_success(heard.status):
        return Lesson.GOOD
    if heard.status == GONE:
        return Lesson.GONE
    return Lesson.SLOW if heard.status in SLOW else Lesson.BAD


def _is_success(status: int | None) -> bool:
    return status is not None and 200 <= status < 300
