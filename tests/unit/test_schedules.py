"""Schedules: when they tick, what changed clocks do to them, and that no polling doubles or loses a tick."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.schedules import (
    MOST_MISSED,
    ON_TIME,
    LiveSchedule,
    Missed,
    Schedule,
    compile_schedules,
    due_ticks,
    newest_ticks,
)
from gateway.workflows import prepare

MINUTE = 60_000
DAY = 86_400_000


def at(text: str) -> int:
    """A time in milliseconds; without an offset it is UTC."""
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def live(cron: str, zone: str = "UTC", **more: Any) -> LiveSchedule:
    (schedule,) = compile_schedules(Schedule(cron=cron, zone=zone, **more))
    return schedule


def first(schedule: LiveSchedule, count: int, after: str) -> list[str]:
    return [schedule.local(tick) for tick in islice(schedule.ticks(at(after)), count)]


def test_a_schedule_ticks_in_its_own_time() -> None:
    """Nine o'clock on working days is nine o'clock there, in summer as in winter."""
    found = first(live("0 9 * * mon-fri", "Europe/Berlin"), 3, "2026-03-26T12:00")
    assert found == ["2026-03-27T09:00:00+01:00", "2026-03-30T09:00:00+02:00", "2026-03-31T09:00:00+02:00"]


def test_a_tick_is_not_its_own_successor() -> None:
    """What comes after a tick is the one behind it; a millisecond before, it is the tick itself."""
    schedule = live("0 9 * * *")
    tick = at("2026-05-01T09:00")
    assert (schedule.next(tick), schedule.next(tick - 1)) == (tick + DAY, tick)


def test_a_skipped_time_ticks_right_after_the_gap() -> None:
    """Half past two does not exist on the night clocks go forward: it ticks at three, once for two such times."""
    found = first(live("15,30 2 * * *", "Europe/Berlin"), 4, "2026-03-28T02:20+01:00")
    assert found[:2] == ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00"]
    assert found[2:] == ["2026-03-30T02:15:00+02:00", "2026-03-30T02:30:00+02:00"]


def test_a_doubled_time_ticks_once() -> None:
    """Half past two comes twice on the night clocks go back: it ticks the first time, also seen from in between."""
    schedule = live("30 2 * * *", "Europe/Berlin")
    assert first(schedule, 2, "2026-10-24T12:00") == ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]
    assert first(schedule, 1, "2026-10-25T02:10+01:00") == ["2026-10-26T02:30:00+01:00"]


def test_a_repeating_schedule_follows_real_time() -> None:
    """Every half hour goes on through the doubled hour, and has nothing to do in the skipped one."""
    schedule = live("*/30 * * * *", "Europe/Berlin")
    autumn = [each[11:] for each in first(schedule, 5, "2026-10-25T01:40+02:00")]
    assert autumn == ["02:00:00+02:00", "02:30:00+02:00", "02:00:00+01:00", "02:30:00+01:00", "03:00:00+01:00"]
    spring = [each[11:] for each in first(schedule, 2, "2026-03-29T01:10+01:00")]
    assert spring == ["01:30:00+01:00", "03:00:00+02:00"]


# ---- against a plain account of every minute

Named = Callable[[datetime], bool]
REPEATING: dict[str, Named] = {
    "* * * * *": lambda _: True,
    "*/15 * * * *": lambda local: local.minute % 15 == 0,
    "10 */2 * * *": lambda local: local.minute == 10 and local.hour % 2 == 0,
    "*/20 2 * * *": lambda local: local.minute % 20 == 0 and local.hour == 2,
}
FIXED: dict[str, Named] = {
    "30 2 * * *": lambda local: (local.hour, local.minute) == (2, 30),
    "15,45 1-3 * * *": lambda local: local.minute in (15, 45) and 1 <= local.hour <= 3,
    "0 0 * * sun,sat": lambda local: (local.hour, local.minute) == (0, 0) and local.weekday() >= 5,
}
CHANGES = {
    "forward": ("Europe/Berlin", "2026-03-29T01:00"),
    "back": ("Europe/Berlin", "2026-10-25T01:00"),
    "by half an hour, forward": ("Australia/Lord_Howe", "2026-10-03T15:30"),
    "by half an hour, back": ("Australia/Lord_Howe", "2026-04-04T15:00"),
    "at midnight": ("America/Santiago", "2026-09-06T04:00"),
    "a whole day": ("Pacific/Apia", "2011-12-30T10:00"),
    "never": ("UTC", "2026-06-01T00:00"),
}


def minutes(zone: str, start: int, end: int) -> Iterator[tuple[int, datetime]]:
    """Each minute with the local time that a clock on the wall shows."""
    for tick in range(start, end + 1, MINUTE):
        yield tick, datetime.fromtimestamp(tick / 1000, ZoneInfo(zone)).replace(tzinfo=None)


def expected(cron: str, zone: str, start: int, end: int) -> list[int]:
    """The ticks by counting: a repeating schedule at each fitting minute; a fixed time when it is first reached."""
    if cron in REPEATING:
        return [tick for tick, local in minutes(zone, start, end) if REPEATING[cron](local) and tick > start]
    reached, found = datetime.min, []
    for tick, local in minutes(zone, start - 3 * DAY, end):
        passed = int((local - reached) / timedelta(minutes=1)) if reached > datetime.min else 1
        names = (local - timedelta(minutes=back) for back in range(max(passed, 0)))
        if any(FIXED[cron](name) for name in names) and tick > start:
            found.append(tick)
        reached = max(reached, local)
    return found


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cron", [*REPEATING, *FIXED])
def test_clocks_that_change_lose_and_double_nothing(cron: str, change: str) -> None:
    """For two days around a change, ticks are what counting minutes gives, from whichever moment one looks."""
    zone, middle = CHANGES[change]
    schedule, start, end = live(cron, zone), at(middle) - DAY, at(middle) + DAY
    wanted = expected(cron, zone, start, end)
    assert list(schedule.ticks(start, end)) == wanted
    for moment in range(at(middle) - 2 * 3_600_000, at(middle) + 3 * 3_600_000, 7 * MINUTE + 1):
        soon = moment + 3 * 3_600_000
        assert list(schedule.ticks(moment, soon)) == [tick for tick in wanted if moment < tick <= soon]


# ---- polling


def poll(schedule: LiveSchedule, times: list[int], after: int, policy: Missed) -> list[tuple[int, int]]:
    """What a clock does that looks at these times: pairs of a time and a tick that it starts."""
    started = []
    for now in times:
        tick = schedule.next(after)
        if tick is not None and tick <= now:
            ticks = due_ticks(schedule, after, now, policy)
            started += [(now, each) for each in ticks]
            after = ticks[-1] if ticks else newest_ticks(schedule, after, now, 1)[0]
    return started


GAPS = st.lists(st.integers(1, 40 * MINUTE), min_size=1, max_size=25)
SOME = st.sampled_from([*REPEATING, *FIXED])
PLACES = st.sampled_from(list(CHANGES.values()))


def times_of(middle: str, gaps: list[int]) -> tuple[int, list[int]]:
    start = at(middle) - 4 * 3_600_000
    return start, [start + sum(gaps[: index + 1]) for index in range(len(gaps))]


@settings(max_examples=60)
@given(cron=SOME, place=PLACES, gaps=GAPS)
def test_no_polling_doubles_or_loses_a_tick(cron: str, place: tuple[str, str], gaps: list[int]) -> None:
    """With `run_all`, whatever the times at which one looks, each tick up to the last look starts, once, in order."""
    schedule = live(cron, place[0])
    start, times = times_of(place[1], gaps)
    started = [tick for _, tick in poll(schedule, times, start, "run_all")]
    assert started == list(schedule.ticks(start, times[-1]))


@settings(max_examples=60)
@given(cron=SOME, place=PLACES, gaps=GAPS)
def test_run_once_starts_the_newest_of_what_was_missed(cron: str, place: tuple[str, str], gaps: list[int]) -> None:
    """At each look at most one tick starts, the newest there is, and none twice."""
    schedule = live(cron, place[0])
    start, times = times_of(place[1], gaps)
    started = poll(schedule, times, start, "run_once")
    assert len({now for now, _ in started}) == len(started) == len({tick for _, tick in started})
    assert all(newest_ticks(schedule, start, now, 1) == [tick] for now, tick in started)
    newest = newest_ticks(schedule, start, times[-1], 1)
    assert [tick for _, tick in started][-1:] == newest


@settings(max_examples=60)
@given(cron=SOME, place=PLACES, gaps=GAPS)
def test_skip_starts_exactly_what_is_on_time(cron: str, place: tuple[str, str], gaps: list[int]) -> None:
    """A tick starts when somebody looks within a minute of it, and else never."""
    schedule = live(cron, place[0])
    start, times = times_of(place[1], gaps)
    started = [tick for _, tick in poll(schedule, times, start, "skip")]
    seen = [tick for tick in schedule.ticks(start, times[-1]) if any(tick <= now < tick + ON_TIME for now in times)]
    assert started == seen


def test_a_long_outage_is_made_up_for_within_bounds() -> None:
    """After ten years of missed minutes `run_all` gives the newest hundred, and does not take long to find them."""
    schedule = live("* * * * *")
    now = at("2026-01-01T00:00")
    ticks = due_ticks(schedule, at("2016-01-01T00:00"), now, "run_all")
    assert ticks == [now - MINUTE * back for back in reversed(range(MOST_MISSED))]


def test_a_rare_schedule_is_found_after_a_long_outage() -> None:
    """The newest tick of one that comes in leap years only is found, however long ago it was."""
    schedule = live("0 12 29 2 *")
    assert due_ticks(schedule, at("2010-01-01T00:00"), at("2027-01-01T00:00"), "run_once") == [at("2024-02-29T12:00")]


# ---- as written


@pytest.mark.parametrize(
    ("written", "path", "part"),
    [
        ("0 9 * *", "schedule.cron", "has 4 fields; cron has five"),
        ("0 0 9 * * *", "schedule.cron", "has 6 fields"),
        ("61 9 * * *", "schedule.cron", "can't be read as cron: Bad minute"),
        ("0 0 30 2 *", "schedule.cron", "Bad day-of-month"),
        (["0 9 * * *", "never"], "schedule[1].cron", "has 1 fields"),
        (["0 9 * * *", "0 9 * * *"], "schedule[1]", "there twice"),
        ({"cron": "0 9 * * *", "zone": "Europe/Bärlin"}, "schedule.zone", "there is no time zone 'Europe/Bärlin'"),
        ({"cron": "0 9 * * *", "zone": "Europe"}, "schedule.zone", "there is no time zone"),
        ({"cron": "0 9 * * *", "zone": "../../etc/passwd"}, "schedule.zone", "there is no time zone"),
        ({"cron": "0 9 * * *", "missed": "perhaps"}, "schedule.missed", "Invalid enum value"),
        ({"cron": "0 9 * * *", "input": {"a": "${steps.x}"}}, "schedule.input.a", "steps"),
        ({"zone": "UTC"}, "schedule", "missing required field `cron`"),
    ],
)
def test_a_schedule_that_can_not_be_used_is_refused(written: object, path: str, part: str) -> None:
    """The refusal names the field and says what is wrong, before anything is published."""
    with pytest.raises(ConfigError) as caught:
        prepare({"name": "w", "schedule": written})
    assert caught.value.details["path"] == path
    assert part in caught.value.message


def test_a_list_mixes_both_ways_to_write() -> None:
    """Text is a schedule in UTC; each of a list has a key of its own, and the same text the same key again."""
    both = prepare({"name": "w", "schedule": ["0 9 * * *", {"cron": "0 9 * * *", "zone": "Asia/Tokyo"}]}).schedules
    assert [each.zone for each in both] == ["UTC", "Asia/Tokyo"]
    assert both[0].key != both[1].key
    assert both[0].key == live("0 9 * * *").key == live("0 9 * * *", missed="skip").key
    assert live("0 9 * * *", input={"a": 1}).key != both[0].key
    assert prepare({"name": "w"}).schedules == ()


def test_no_date_is_too_early() -> None:
    """A schedule that begins now has its next tick in front of it, on any day of this century."""
    schedule = live("0 0 1 * *")
    for year in range(2001, 2100, 7):
        after = at(f"{date(year, 5, 17)}T00:00")
        assert schedule.next(after) == at(f"{date(year, 6, 1)}T00:00")
    assert msgspec.to_builtins(Schedule(cron="x"))["missed"] == "run_once"
