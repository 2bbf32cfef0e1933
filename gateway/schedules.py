"""Schedules: when a workflow starts by the clock. Silent: what is due is computed from values, `now` among them.

Times are milliseconds since 1970, of the store's clock. Cron has five fields, read by cronsim as Debian's cron reads
them, in the local time of the schedule's zone. Where clocks change:

* A schedule at fixed times (neither minute nor hour begins with `*`, such as `30 2 * * *`) ticks once for each time it
  names. A time that is skipped ticks at the first moment after the gap; a time that comes twice ticks the first time.
* A schedule that repeats (`*/15 * * * *`, `0 * * * *`) follows real time: what is skipped does not tick, and what
  comes twice ticks twice.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from gateway.cel.scopes import Scope
from gateway.errors import ConfigError
from gateway.templates import Template, compile_template

Missed = Literal["run_once", "skip", "run_all"]
UNSET = msgspec.UNSET
FIELDS = 5
ON_TIME = 60_000
"""Milliseconds that a tick may be late and is not yet missed: a restart takes that long."""
MOST_MISSED = 100
"""How many missed ticks `run_all` makes up for, the newest."""
HOUR = 3_600_000
SOME_DAY = 946_684_800_000
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a workflow starts by itself, and with what. `missed` says what to do after an outage:
    run once for all missed ticks, skip them, or run all (the newest hundred).
    """

    cron: str
    zone: str = "UTC"
    missed: Missed = "run_once"
    input: Any = UNSET


class LiveSchedule:
    """A schedule ready to tick. `key` names it within its workflow: another time, zone or input is another schedule."""

    def __init__(self, schedule: Schedule, path: str) -> None:
        self.cron, self.zone, self.missed = schedule.cron, schedule.zone, schedule.missed
        value = {} if schedule.input is UNSET else schedule.input
        self.path = f"{path}.input"
        self.input: Template = compile_template(value, Scope.TRIGGER, self.path)
        written = msgspec.json.encode([schedule.cron, schedule.zone, value], order="deterministic")
        self.key = hashlib.sha256(written).hexdigest()[:16]
        self._zone = _read_zone(schedule.zone, f"{path}.zone")
        minute, hour = _check_cron(schedule.cron, f"{path}.cron")
        self._repeats = minute.startswith("*") or hour.startswith("*")
        if self.next(SOME_DAY) is None:
            message = f"{schedule.cron!r} names a time that never comes"
            raise ConfigError(message, path=f"{path}.cron")

    def next(self, after: int) -> int | None:
        """The first tick after a time; None when there is none within fifty years."""
        return next(self.ticks(after), None)

    def ticks(self, after: int, until: int | None = None) -> Iterator[int]:
        """Every tick after a time, up to and with another, in order and each once."""
        waiting: list[int] = []
        last = after
        for local in CronSim(self.cron, self._start(after)):
            moments = self._moments(local)
            for moment in moments:
                heapq.heappush(waiting, moment)
            # A local time's second coming lies behind the first coming of later ones.
            while moments and waiting and waiting[0] <= moments[0]:
                tick = heapq.heappop(waiting)
                if until is not None and tick > until:
                    return
                if tick > last:
                    yield tick
                    last = tick

    def local(self, tick: int) -> str:
        """A tick in the schedule's own time, as ISO 8601."""
        return datetime.fromtimestamp(tick / 1000, self._zone).isoformat(timespec="seconds")

    def _start(self, after: int) -> datetime:
        """A local time before which nothing ticks after `after`."""
        moment = datetime.fromtimestamp(after // 1000, UTC)
        earlier, later = ((moment + side).astimezone(self._zone).utcoffset() for side in (-DAY, DAY))
        assert earlier is not None
        assert later is not None
        # Where clocks are set back, local times before this one come again.
        return moment.astimezone(self._zone).replace(tzinfo=None) - abs(later - earlier) - timedelta(seconds=1)

    def _moments(self, local: datetime) -> list[int]:
        """When it is that local time: once, or never, or twice."""
        first, second = self._both(local)
        if first == second:
            return [first]
        if first < second:
            return [first, second] if self._repeats else [first]
        if self._repeats:
            return []
        while first > second:
            local += MINUTE
            first, second = self._both(local)
        return [first]

    def _both(self, local: datetime) -> tuple[int, int]:
        # PEP 495: the same for most times, in order for one that comes twice, the wrong way round for one that is skipped.
        first, second = (local.replace(tzinfo=self._zone, fold=fold).timestamp() for fold in (0, 1))
        return int(first) * 1000, int(second) * 1000


Written = str | Schedule | list[str | Schedule] | msgspec.UnsetType
"""What may stand under `schedule:`."""


def compile_schedules(written: Written, path: str = "schedule") -> tuple[LiveSchedule, ...]:
    """The schedules of a workflow. Raises ConfigError with `details["path"]`."""
    if written is UNSET:
        return ()
    several = isinstance(written, list)
    rows: Sequence[Any] = written if isinstance(written, list) else [written]
    found: dict[str, LiveSchedule] = {}
    for index, row in enumerate(rows):
        where = f"{path}[{index}]" if several else path
        live = LiveSchedule(Schedule(cron=row) if isinstance(row, str) else row, where)
        if live.key in found:
            message = "this schedule is there twice"
            raise ConfigError(message, path=where)
        found[live.key] = live
    return tuple(found.values())


def due_ticks(schedule: LiveSchedule, after: int, now: int, policy: Missed) -> list[int]:
    """The ticks after `after` and up to `now` that are to run, oldest first, by what is said of missed ones."""
    if policy == "run_once":
        return newest_ticks(schedule, after, now, 1)
    if policy == "run_all":
        return newest_ticks(schedule, after, now, MOST_MISSED)
    return list(schedule.ticks(max(after, now - ON_TIME), now))


def newest_ticks(schedule: LiveSchedule, after: int, now: int, count: int) -> list[int]:
    """The newest `count` ticks after `after` and up to `now`, without going through all of a long outage."""
    span = HOUR
    while True:
        start = max(after, now - span)
        found = list(schedule.ticks(start, now))
        if len(found) >= count or start == after:
            return found[-count:]
        span *= 4


def _check_cron(cron: str, path: str) -> tuple[str, str]:
    parts = cron.split()
    if len(parts) != FIELDS:
        message = (
            f"{cron!r} has {len(parts)} fields; cron has five: minute, hour, day, month, weekday (`0 9 * * mon-fri`)"
        )
        raise ConfigError(message, path=path)
    try:
        CronSim(cron, datetime(2000, 1, 1))
    except CronSimError as error:
        message = f"{cron!r} can't be read as cron: {error}"
        raise ConfigError(message, path=path) from None
    return parts[0], parts[1]


def _read_zone(name: str, path: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        message = f"there is no time zone {name!r}; give a name such as Europe/Berlin or UTC"
        raise ConfigError(message, path=path) from None
