"""Waits between tries, durations as operators write them, and the Retry-After header."""

from __future__ import annotations

import datetime
import email.utils

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.retries import (
    CALLBACK_SCHEDULE,
    LONGEST,
    RetryPolicy,
    next_callback,
    read_duration,
    read_retry_after,
)

NOW = datetime.datetime(2026, 3, 1, 12, 0, 0, tzinfo=datetime.UTC).timestamp()

chances = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 1000),
    initial=st.floats(0, 1000),
    factor=st.floats(1, 1000),
    max=st.floats(0, 100_000),
    jitter=st.floats(0, 1),
)


def test_default_policy_tries_once() -> None:
    """A step without `retry` is tried once, so nothing comes after its first failure."""
    assert RetryPolicy().after(1, 0.5) is None


def test_waits_grow_by_the_factor_up_to_the_maximum() -> None:
    """In the middle of the jitter the waits are initial, initial x factor, and so on up to max."""
    policy = RetryPolicy(attempts=6, initial=1, factor=3, max=20)
    assert [policy.after(attempt, 0.5) for attempt in range(1, 7)] == [1, 3, 9, 20, 20, None]


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 8.0), (0.25, 9.0), (0.5, 10.0), (0.75, 11.0)])
def test_jitter_is_symmetric(chance: float, wait: float) -> None:
    """A jitter of 0.2 spreads a wait evenly from 20 % less to 20 % more."""
    assert RetryPolicy(attempts=2, initial=10, jitter=0.2).after(1, chance) == pytest.approx(wait)


@given(policies, st.integers(1, 1000), chances)
def test_every_wait_lies_within_the_jitter_of_the_maximum(policy: RetryPolicy, attempt: int, chance: float) -> None:
    """No wait is negative or longer than max and its jitter, and there is one exactly while tries remain."""
    wait = policy.after(attempt, chance)
    assert (wait is None) == (attempt >= policy.attempts)
    assert wait is None or 0 <= wait <= float(policy.max) * (1 + policy.jitter) * (1 + 1e-9)


@given(policies, chances)
def test_waits_never_shrink_without_jitter(policy: RetryPolicy, chance: float) -> None:
    """Without jitter each wait is at least as long as the one before, whatever the chance."""
    steady = msgspec.structs.replace(policy, jitter=0)
    waits = [steady.after(attempt, chance) for attempt in range(1, min(policy.attempts, 60))]
    known = [wait for wait in waits if wait is not None]
    assert known == sorted(known)
    assert len(known) == len(waits)


def test_policy_is_read_from_configuration() -> None:
    """`initial` and `max` may be written as durations and hold seconds once read."""
    text = b'{"attempts": 4, "initial": "250ms", "factor": 2, "max": "1m30s", "jitter": 0.1}'
    policy = msgspec.json.decode(text, type=RetryPolicy)
    assert policy == RetryPolicy(attempts=4, initial=0.25, factor=2, max=90, jitter=0.1)


def test_whole_seconds_are_read_from_configuration() -> None:
    """A plain number stands for seconds."""
    assert msgspec.convert({"attempts": 2, "initial": 5}, RetryPolicy).after(1, 0.5) == 5.0


@pytest.mark.parametrize(
    ("given_fields", "named"),
    [
        ({"initial": "soon"}, "initial"),
        ({"max": -1}, "max"),
        ({"attempts": 0}, "attempts"),
        ({"factor": 0.5}, "factor"),
        ({"factor": float("nan")}, "factor"),
        ({"jitter": 1.5}, "jitter"),
        ({"jitter": float("nan")}, "jitter"),
        ({"retries": 3}, "retries"),
    ],
)
def test_policy_refuses_what_makes_no_sense(given_fields: dict[str, object], named: str) -> None:
    """A field that is unknown or out of range is refused by name."""
    with pytest.raises(msgspec.ValidationError, match=named):
        msgspec.convert(given_fields, RetryPolicy)


def test_policy_made_in_code_is_checked_too() -> None:
    """Ranges hold also where no configuration is read."""
    with pytest.raises(ValueError, match="attempts"):
        RetryPolicy(attempts=0)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("250ms", 0.25),
        ("1s", 1),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1d2h3m4s5ms", 93784.005),
        ("1.5h", 5400),
        (" 30s ", 30),
        ("45", 45),
        ("0", 0),
        (0, 0),
        (2.5, 2.5),
        ("3650d", LONGEST),
    ],
)
def test_durations_are_read(written: object, seconds: float) -> None:
    """Every documented way to write a duration gives its seconds."""
    assert read_duration(written, "timeout") == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    [
        *("", " ", "s", "5 minutes", "1m1h", "1s1s", "-5s", "1h-5m", "+5s", "1e3", "1,5s", "٥s", "nan", "5S"),
        *(-1, -0.5, float("nan"), float("inf"), float("-inf"), True, None, [5], {"s": 5}),
        *("3651d", "9" * 500 + "d", "9" * 500, 10**4000),
    ],
)
def test_what_is_no_duration_is_refused(written: object) -> None:
    """Anything else is refused with the place it stood in."""
    with pytest.raises(ConfigError, match=r"^steps\[0\]\.timeout: ") as caught:
        read_duration(written, "steps[0].timeout")
    assert caught.value.details == {"path": "steps[0].timeout"}


def test_refusal_shows_examples() -> None:
    """Who mistypes a duration is shown how to write one."""
    with pytest.raises(ConfigError, match=r"250ms.*1h30m"):
        read_duration("5 minutes", "timeout")


@given(st.tuples(*(st.integers(0, most) for most in (300, 23, 59, 59, 999))))
def test_durations_survive_writing_and_reading(parts: tuple[int, ...]) -> None:
    """What is written from days, hours, minutes, seconds and milliseconds reads back as their sum."""
    units = zip(parts, ("d", "h", "m", "s", "ms"), (86400, 3600, 60, 1, 0.001), strict=True)
    used = [(amount, unit, size) for amount, unit, size in units if amount] or [(0, "s", 1)]
    written = "".join(f"{amount}{unit}" for amount, unit, _ in used)
    assert read_duration(written, "x") == pytest.approx(sum(amount * size for amount, _, size in used))


@given(st.one_of(st.text(), st.text("0123456789.dhms "), st.floats(), st.integers(), st.none(), st.booleans()))
def test_any_value_is_a_sane_duration_or_refused(value: object) -> None:
    """Whatever an operator writes gives seconds between zero and ten years, or a ConfigError."""
    try:
        seconds = read_duration(value, "x")
    except ConfigError:
        return
    assert 0 <= seconds <= LONGEST


def test_callback_schedule_is_ten_tries_over_three_days() -> None:
    """Without jitter a callback is tried at once and nine times more, the last after 75 h 35 min 5 s."""
    waits = [next_callback(CALLBACK_SCHEDULE, made, 0.5) for made in range(11)]
    assert waits == [*CALLBACK_SCHEDULE, None]
    assert sum(CALLBACK_SCHEDULE) == 75 * 3600 + 35 * 60 + 5


@given(st.integers(0, 9), chances, st.floats(0, 1))
def test_callback_waits_stay_within_their_jitter(made: int, chance: float, jitter: float) -> None:
    """Each wait lies within its jitter around the schedule."""
    wait = next_callback(CALLBACK_SCHEDULE, made, chance, jitter)
    planned = CALLBACK_SCHEDULE[made]
    assert wait is not None
    assert planned * (1 - jitter) - 1e-6 <= wait <= planned * (1 + jitter) + 1e-6


@pytest.mark.parametrize(
    ("asked", "wait"),
    [(None, 300.0), (10.0, 300.0), (0.0, 300.0), (-5.0, 300.0), (900.0, 900.0), (86400.0, 3600.0)],
)
def test_retry_after_only_lengthens_up_to_the_cap(asked: float | None, wait: float) -> None:
    """A receiver can ask for more patience, at most an hour of it, and never for less."""
    assert next_callback(CALLBACK_SCHEDULE, 2, 0.5, retry_after=asked) == wait


def test_retry_after_does_not_shorten_a_wait_beyond_the_cap() -> None:
    """The cap limits what the receiver asks for, not what the schedule says."""
    assert next_callback(CALLBACK_SCHEDULE, 9, 0.5, retry_after=7200.0) == 86400


def test_retry_after_does_not_revive_an_exhausted_schedule() -> None:
    """After the last try there is none more, whatever the receiver asks for."""
    assert next_callback(CALLBACK_SCHEDULE, 10, 0.5, retry_after=60.0) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("Sun, 01 Mar 2026 12:02:00 GMT", 120),
        ("Sunday, 01-Mar-26 12:02:00 GMT", 120),
        ("Sun Mar  1 12:02:00 2026", 120),
        ("Sun Mar 01 12:02:00 2026", 120),
        ("Sun, 01 Mar 2026 11:59:00 GMT", 0),
        ("Sun, 01 Mar 2026 12:00:60 GMT", 59),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("9" * 500, LONGEST),
    ],
)
def test_retry_after_is_read(text: str, seconds: float) -> None:
    """Seconds and all three forms of an HTTP date are understood; what has passed is no wait."""
    assert read_retry_after(text, NOW) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "-5", "1.5", "1e3", "٣", "5s", "12 0", "Sun, 31 Feb 2026 12:00:00 GMT"),
        *("Sun, 01 Mar 2026 12:00:00", "Sun, 01 Mar 2026 12:00:00 CET", "Sun, 01 Mrz 2026 12:00:00 GMT"),
        *("Sun, 01 Mar 2026 25:00:00 GMT", "Sun, 01 Mar 2026 12:00:61 GMT", "Sun, 01 Mar 0000 12:00:00 GMT"),
        *("2026-03-01T12:00:00Z", "Sun, 1 Mar 2026 12:00:00 GMT", "Sun Mar    12:02:00 2026"),
    ],
)
def test_garbage_in_retry_after_is_no_wish(text: str) -> None:
    """What is neither seconds nor an HTTP date is None."""
    assert read_retry_after(text, NOW) is None


@given(st.integers(0, 10**9))
def test_retry_after_agrees_with_the_standard_library(ahead: int) -> None:
    """A date as Python's own email package writes it reads back to the second."""
    written = email.utils.formatdate(NOW + ahead, usegmt=True)
    assert read_retry_after(written, NOW) == ahead


@given(st.text(), st.floats(0, 4e9))
def test_any_retry_after_is_a_number_or_none(text: str, now: float) -> None:
    """No text makes the reader fail."""
    seconds = read_retry_after(text, now)
    assert seconds is None or seconds >= 0
