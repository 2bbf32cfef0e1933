"""What a receiver's answer means, for the message and for the endpoint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.retries import CALLBACK_SCHEDULE
from gateway.runs import CallbackState
from gateway.verdicts import CAP, Heard, Lesson, Verdict, judge

NOW = 1_750_000_000.0
SCHEDULE = (0, 5, 300)
MIDDLE = 0.5
DELIVERED, FAILED, PENDING = CallbackState.DELIVERED, CallbackState.FAILED, CallbackState.PENDING


def answer(status: int | None, number: int = 1, retry_after: str | None = None, control: str | None = None) -> Verdict:
    return judge(Heard(status=status, retry_after=retry_after, control=control), number, SCHEDULE, NOW, MIDDLE)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    """A 2xx ends it, whatever Retry-After says, and the endpoint is well."""
    assert answer(status, retry_after="60") == Verdict(DELIVERED, lesson=Lesson.GOOD)


@pytest.mark.parametrize("status", [None, 199, 300, 301, 308, 400, 401, 404, 408, 409, 429, 500, 502, 503, 504])
def test_anything_else_is_tried_again_on_the_schedule(status: int | None) -> None:
    """No answer, a redirect and every error wait as the schedule says, and after its last try it has failed."""
    assert [(each.state, each.delay) for each in (answer(status, number) for number in (1, 2, 3))] == [
        (PENDING, 5),
        (PENDING, 300),
        (FAILED, None),
    ]
    assert answer(status, 3).reason == "all 3 attempts failed"


@pytest.mark.parametrize("status", [429, 502, 504])
def test_a_receiver_under_load_is_slowed_down(status: int) -> None:
    """429, 502 and 504 speak for the whole endpoint, with the time that it asks for, up to an hour."""
    assert (answer(status).lesson, answer(status).wait) == (Lesson.SLOW, 0)
    assert answer(status, retry_after="60").wait == 60
    assert answer(status, retry_after="999999").wait == CAP


@pytest.mark.parametrize("status", [None, 301, 404, 500, 503])
def test_other_failures_are_failures_only(status: int | None) -> None:
    """They count against the endpoint, and do not slow it down."""
    assert answer(status).lesson is Lesson.BAD


def test_410_gives_up_at_once() -> None:
    """A receiver that is gone for good is not asked again: neither for this message nor for another."""
    verdict = answer(410)
    assert (verdict.state, verdict.lesson, verdict.reason) == (FAILED, Lesson.GONE, "it answered 410 Gone")


def test_what_the_receiver_says_of_its_deliveries_is_obeyed() -> None:
    """`abort-message` ends this message, `disable` the endpoint, whatever the status; other words mean nothing."""
    assert (answer(500, control="abort-message").state, answer(500, control="abort-message").lesson) == (
        FAILED,
        Lesson.BAD,
    )
    assert (answer(400, control=" Disable ").state, answer(400, control=" Disable ").lesson) == (FAILED, Lesson.ASKED)
    assert answer(200, control="disable") == Verdict(DELIVERED, lesson=Lesson.ASKED)
    assert answer(200, control="abort-message") == Verdict(DELIVERED, lesson=Lesson.GOOD)
    assert answer(500, control="please-stop") == answer(500)


def test_our_own_fault_tells_nothing_of_the_endpoint() -> None:
    """What could not be signed was never sent: it is tried again, and the endpoint's record stays clean."""
    verdict = judge(Heard(ours=True), 1, SCHEDULE, NOW, MIDDLE)
    assert (verdict.state, verdict.delay, verdict.lesson) == (PENDING, 5, Lesson.NONE)


@pytest.mark.parametrize(
    ("retry_after", "delay"),
    [("60", 60), ("1", 5), ("99999", 3600), ("soon", 5), ("Wed, 21 Oct 2015 07:28:00 GMT", 5), ("", 5)],
)
def test_retry_after_lengthens_the_wait_and_never_shortens_it(retry_after: str, delay: float) -> None:
    """What the receiver asks for counts up to an hour, and not below the schedule; nonsense does not count."""
    assert answer(503, retry_after=retry_after).delay == delay


def test_the_standard_schedule_tries_ten_times_over_three_days() -> None:
    """Ten attempts, the first at once, over a bit more than 75 hours."""
    delays, number = [], 1
    while (verdict := judge(Heard(status=500), number, CALLBACK_SCHEDULE, NOW, MIDDLE)).delay is not None:
        delays.append(verdict.delay)
        number += 1
    assert (number, CALLBACK_SCHEDULE[0]) == (10, 0)
    assert 75 * 3600 < sum(delays) < 76 * 3600


@given(st.integers(100, 599), st.integers(1, 12), st.floats(0, 1, exclude_max=True))
def test_every_attempt_has_one_of_three_ends(status: int, number: int, chance: float) -> None:
    """An attempt is delivered, failed for good with a reason, or tried again after a wait that is never negative."""
    verdict = judge(Heard(status=status), number, CALLBACK_SCHEDULE, NOW, chance)
    assert (verdict.state == PENDING) == (verdict.delay is not None)
    assert (verdict.state == FAILED) == (verdict.reason is not None)
    assert verdict.delay is None or verdict.delay >= 0
