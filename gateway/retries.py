"""When to try again: policies of steps, the schedule of callbacks, durations as operators write them.

All is arithmetic on given values: the caller brings the chance (a random number in [0, 1)) and the time.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from gateway.errors import ConfigError

# Seconds before each try of a callback, the first included: ten tries in 75 h 35 min.
# https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
CALLBACK_SCHEDULE: tuple[float, ...] = (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
LONGEST = 10 * 365 * 86400.0  # seconds; what is longer is a slip of the pen
MOST_ATTEMPTS = 1000

_Duration = Annotated[float | str, Meta(description='Seconds, or text such as "250ms", "30s", "1h30m"')]


class Seconds(float):
    """A duration; written as `10s`, `5m`, `1h30m` or a number of seconds."""


class RetryPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often and how patiently a step is tried: after initial, initial·factor, … up to max, each ± jitter.

    `attempts` counts the first try too. `initial` and `max` take what `read_duration` takes, and always hold
    seconds afterwards. A value out of range raises ValueError, to which msgspec adds the place in the file.
    """

    attempts: Annotated[int, Meta(ge=1, le=MOST_ATTEMPTS)] = 1
    initial: _Duration = 1.0
    factor: Annotated[float, Meta(ge=1, le=1000)] = 2.0
    max: _Duration = 60.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2

    def __post_init__(self) -> None:
        # Also for policies made in code, and for YAML's .nan, which no comparison holds for.
        _require_range("attempts", self.attempts, 1, MOST_ATTEMPTS)
        _require_range("factor", self.factor, 1, 1000)
        _require_range("jitter", self.jitter, 0, 1)
        for name in ("initial", "max"):
            msgspec.structs.force_setattr(self, name, _read_field(getattr(self, name), name))

    def after(self, attempt: int, chance: float) -> float | None:
        """Seconds to wait after the failed attempt number `attempt` (from 1), or None when that was the last.

        `chance` in [0, 1) picks the place within ± jitter, 0.5 being the middle.
        """
        if attempt >= self.attempts:
            return None
        return _spread(self._planned(attempt), self.jitter, chance)

    def _planned(self, attempt: int) -> float:
        try:
            wait = float(self.initial) * self.factor ** (attempt - 1)
        except OverflowError:
            return float(self.max)
        return min(wait, float(self.max))


def read_duration(value: object, where: str) -> float:
    """Read "250ms", "1s", "5m", "2h", "1d", "1h30m" or a number of seconds; give seconds.

    Raises ConfigError for anything else, for what is negative or not finite, and for more than ten years.
    """
    seconds = _read_text(value) if isinstance(value, str) else _read_number(value)
    if seconds is None:
        raise ConfigError(
            f"{where}: {_show(value)} is not a duration. Write 250ms, 30s, 5m, 2h, 1d, 1h30m or a number of seconds.",
            path=where,
        )
    if seconds > LONGEST:
        raise ConfigError(f"{where}: {_show(value)} is longer than ten years.", path=where)
    return seconds


def next_callback(
    schedule: Sequence[float],
    attempt: int,
    chance: float,
    jitter: float = 0.2,
    retry_after: float | None = None,
    cap: float = 3600,
) -> float | None:
    """Seconds until the next try, `attempt` tries having been made; None when the schedule is exhausted.

    `schedule` holds the wait before each try, the first included. `retry_after`, the seconds the receiver
    asked for, of which at most `cap` count, can lengthen the wait and never shortens it.
    """
    if attempt >= len(schedule):
        return None
    wait = _spread(schedule[attempt], jitter, chance)
    return wait if retry_after is None else max(wait, min(retry_after, cap))


def read_retry_after(text: str, now: float) -> float | None:
    """Seconds a Retry-After header asks for: a number, or a date in any of HTTP's three forms; else None.

    A date that has passed is 0. Source: RFC 9110, sections 10.2.3 and 5.6.7.
    """
    plain = text.strip(" \t")
    if re.fullmatch(r"[0-9]+", plain):
        return min(float(plain), LONGEST)
    moment = _read_date(plain, now)
    return None if moment is None else max(0.0, moment - now)


def _spread(wait: float, jitter: float, chance: float) -> float:
    return wait * (1 + jitter * (2 * chance - 1))


def _require_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"`{name}` must be between {least:g} and {most:g}, not {value:g}")


def _read_field(value: object, name: str) -> float:
    try:
        return read_duration(value, name)
    except ConfigError as error:
        raise ValueError(error.message) from None


# ---- durations

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION = re.compile("".join(rf"(?:{_NUMBER}{unit})?" for unit in _UNITS))
DURATION = rf"^(?=[0-9])(?:{_NUMBER}|{_DURATION.pattern})$"
"""What a duration's text looks like, for those who only know patterns."""


def _read_text(text: str) -> float | None:
    plain = text.strip()
    if re.fullmatch(_NUMBER, plain):
        return float(plain)
    found = _DURATION.fullmatch(plain)
    if not plain or not found:
        return None
    return sum(float(amount or 0) * size for amount, size in zip(found.groups(), _UNITS.values(), strict=True))


def _read_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return None
    return float(value) if value <= LONGEST else LONGEST * 2


def _show(value: object) -> str:
    shown = repr(value) if isinstance(value, str | float | bool) or value is None else f"a {type(value).__name__}"
    return shown if len(shown) <= 60 else shown[:59] + "…"


# ---- HTTP's dates

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = r"(?P<month>[A-Z][a-z]{2})"
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES = tuple(
    re.compile(form)
    for form in (
        rf"[A-Z][a-z]{{2}}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT",
        rf"[A-Z][a-z]{{5,8}}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",
        rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)


def _read_date(text: str, now: float) -> float | None:
    found = next((match for form in _DATES if (match := form.fullmatch(text))), None)
    if not found or found["month"] not in _MONTHS:
        return None
    try:
        return datetime.datetime(
            _read_year(found["year"], now),
            _MONTHS.index(found["month"]) + 1,
            int(found["day"]),
            int(found["hour"]),
            int(found["minute"]),
            59 if found["second"] == "60" else int(found["second"]),  # a leap second
            tzinfo=datetime.UTC,
        ).timestamp()
    except ValueError:
        return None


def _read_year(text: str, now: float) -> int:
    """A year of two digits lies at most 50 years ahead, else in the past (RFC 9110, 5.6.7)."""
    if len(text) == 4:
        return int(text)
    this_year = datetime.datetime.fromtimestamp(now, datetime.UTC).year
    year = this_year - this_year % 100 + int(text)
    return year - 100 if year > this_year + 50 else year
