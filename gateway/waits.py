"""Steps that wait for a time, for a signal or for somebody's word: what they say, how they begin, what ends them. Silent."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from gateway.errors import ConfigError
from gateway.retries import LONGEST, read_duration
from gateway.runs import Asked, Problem, Signal, StepRecord, StepState, iso

APPROVAL = "approval:"
"""What the signals that carry a decision are called: this, and the id of the step."""
SIGNAL_NAME = "^[^:/\\x00-\\x1f]+$"
"""What a signal may be called. A colon is for words of our own, such as decisions, and nobody can send those as signals."""
LONGEST_NAME = 100
RESUME = "resume:"
"""What the signals that decide about an unknown step are called: this, and the id of its record."""
MARK = "${"
LONGEST_MESSAGE = 4000
LONGEST_WHO = 200
MOST_ASKED = 100


class Wait(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Wait `for` a duration, `until` a time (ISO 8601 or unix seconds), or for a `signal`, at most `timeout`."""

    for_: Any = msgspec.field(name="for", default=None)
    until: Any = None
    signal: str | None = None
    timeout: Any = None
    on_timeout: Literal["fail", "continue"] = "fail"


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Wait until somebody approves or rejects, at most `timeout`. `who` and `message` are for the people asked."""

    who: list[str] = []
    message: str = ""
    timeout: Any = None
    on_timeout: Literal["fail", "approve", "reject"] = "fail"
    on_reject: Literal["fail", "continue"] = "fail"


def check_wait(wait: Wait, path: str) -> None:
    """Refuse a wait for nothing or for several things, and durations that are none. Raises ConfigError."""
    given = [name for name in ("for", "until", "signal") if _fields(wait)[name] is not None]
    if len(given) != 1:
        message = f"a wait takes exactly one of for, until, signal; it has {' and '.join(given) or 'none'}"
        raise ConfigError(message, path=path)
    if wait.timeout is not None and wait.signal is None:
        message = "only a wait for a signal has a timeout"
        raise ConfigError(message, path=f"{path}.timeout")
    if wait.signal is not None and MARK not in wait.signal:
        check_signal(wait.signal, f"{path}.signal")
    for name, value in (("for", wait.for_), ("timeout", wait.timeout)):
        check_duration(value, f"{path}.{name}")
    if wait.until is not None and MARK not in str(wait.until):
        try:
            _read_moment(wait.until)
        except ConfigError as error:
            raise ConfigError(error.message.removeprefix("until: "), path=f"{path}.until") from None


def check_signal(name: object, path: str) -> None:
    """Refuse what can't be the name of a signal. Raises ConfigError."""
    if not isinstance(name, str) or len(name) > LONGEST_NAME or re.fullmatch(SIGNAL_NAME, name) is None:
        message = f"{path}: {str(name)[:60]!r} can't be a signal's name: text without : and /, at most {LONGEST_NAME}"
        raise ConfigError(message, path=path)


def check_duration(value: object, path: str) -> None:
    """Refuse what is neither a duration nor a template that may give one. Raises ConfigError."""
    if value is not None and not (isinstance(value, str) and MARK in value):
        read_duration(value, path)


def begin(kind: str, argument: Mapping[str, Any], now: int) -> StepRecord:
    """The record of a wait or an approval that begins, its expressions worked out; failed when they give nonsense."""
    try:
        due, reason = _plan_approval(argument, now) if kind == "approval" else _plan_wait(argument, now)
    except ConfigError as error:
        return failed("BadWait", error.message, now, now)
    asks = _work_out(argument) if kind == "approval" else None
    return StepRecord(state=StepState.WAITING, attempt=1, started_at=now, due_at=due, waits_for=reason, asks=asks)


def go_on(
    kind: str, settings: Wait | Approval, step_id: str, record: StepRecord, signals: Sequence[Signal], now: int
) -> StepRecord | None:
    """The record of a step whose waiting is over; None while it is not. `signals` are those not used yet."""
    if isinstance(settings, Approval):
        over = _decide(settings, step_id, record, signals, now)
        return None if over is None else msgspec.structs.replace(over, asks=record.asks)
    name = (record.waits_for or "").removeprefix("signal ")
    if record.waits_for != "time":
        heard = next((each for each in signals if each.name == name), None)
        if heard is not None:
            output = {"signal": name, "body": heard.body, "by": heard.by, "at": iso(heard.at), "timed_out": False}
            return completed(record, output, now, heard.seq)
    if record.due_at is None or record.due_at > now:
        return None
    if record.waits_for == "time":
        return completed(record, {"until": iso(record.due_at)}, now)
    if settings.on_timeout == "continue":
        output = {"signal": name, "body": None, "by": None, "at": None, "timed_out": True}
        return completed(record, output, now)
    return failed("Timeout", f"no signal {name!r} came in time", record.started_at or now, now)


def ask_approval(attempt: int, step_id: str) -> str:
    """The question that an approval asks in one attempt of its run; the next attempt asks anew."""
    return f"{attempt} {APPROVAL}{step_id}"


def ask_resume(attempt: int, step_id: str, unknown: int) -> str:
    """The question that a step asks when it is unknown for the n-th time in one attempt of its run."""
    return f"{attempt}.{unknown} {RESUME}{step_id}"


def completed(record: StepRecord, output: Any, now: int, answered: int | None = None) -> StepRecord:
    """The record of what waited, brought to its good end."""
    return StepRecord(
        state=StepState.COMPLETED,
        attempt=record.attempt,
        started_at=record.started_at,
        ended_at=now,
        output=output,
        answered=answered,
        unknown=record.unknown,
    )


def failed(kind: str, message: str, started: int, now: int, answered: int | None = None) -> StepRecord:
    """The record of what failed while it waited."""
    problem = Problem(type=kind, message=message)
    return StepRecord(
        state=StepState.FAILED, attempt=1, started_at=started, ended_at=now, error=problem, answered=answered
    )


def _decide(
    settings: Approval, step_id: str, record: StepRecord, signals: Sequence[Signal], now: int
) -> StepRecord | None:
    heard = next((each for each in signals if each.name == APPROVAL + step_id), None)
    if heard is not None:
        word = heard.body if isinstance(heard.body, dict) else {}
        approved, comment, by, seq = word.get("decision") == "approve", word.get("comment"), heard.by, heard.seq
    elif record.due_at is None or record.due_at > now:
        return None
    elif settings.on_timeout == "fail":
        return failed("Timeout", "nobody decided in time", record.started_at or now, now)
    else:
        approved, comment, by, seq = settings.on_timeout == "approve", "nobody decided in time", None, None
    if not approved and settings.on_reject == "fail":
        said = f": {comment}" if comment else ""
        return failed("Rejected", f"rejected by {by or 'nobody, in time'}{said}", record.started_at or now, now, seq)
    output = {"approved": approved, "by": by, "comment": comment, "at": iso(heard.at if heard else now)}
    return completed(record, output, now, seq)


def _work_out(argument: Mapping[str, Any]) -> Asked:
    """What an approval asks, and whom, as text that fits a page."""
    who = [_readable(each, LONGEST_WHO) for each in argument["who"][:MOST_ASKED]]
    return Asked(message=_readable(argument["message"], LONGEST_MESSAGE), who=who)


def _readable(value: Any, longest: int) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _plan_wait(argument: Mapping[str, Any], now: int) -> tuple[int | None, str]:
    if argument["for"] is not None:
        return now + _milliseconds(argument["for"], "for"), "time"
    if argument["until"] is not None:
        return min(max(_read_moment(argument["until"]), 0), now + int(LONGEST * 1000)), "time"
    check_signal(argument["signal"], "signal")
    return _deadline(argument, now), f"signal {argument['signal']}"


def _plan_approval(argument: Mapping[str, Any], now: int) -> tuple[int | None, str]:
    return _deadline(argument, now), "approval"


def _deadline(argument: Mapping[str, Any], now: int) -> int | None:
    return None if argument["timeout"] is None else now + _milliseconds(argument["timeout"], "timeout")


def _milliseconds(value: object, name: str) -> int:
    return int(read_duration(value, name) * 1000)


def _read_moment(value: object) -> int:
    """A time in milliseconds, from ISO 8601 (without a zone: UTC) or unix seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**11:
        return int(value * 1000)
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        message = f"until: {str(value)[:60]!r} is no time; write ISO 8601 or unix seconds"
        raise ConfigError(message, path="until") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _fields(wait: Wait) -> dict[str, Any]:
    return {"for": wait.for_, "until": wait.until, "signal": wait.signal}
