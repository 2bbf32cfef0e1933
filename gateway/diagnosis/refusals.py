"""What to say of a refusal whose reason says all: no secret, a header missing, empty or doubled, a time too old."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from gateway.diagnosis.cases import Case, Deviation
from gateway.diagnosis.exhibits import find_exhibits
from gateway.diagnosis.messages import fits_unit, own_time
from gateway.proofs import REASONS, TIME_READERS, Verdict, read_header

HOUR: Final = 3600
PLAIN_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent"}
)


def explain_reason(case: Case, reason: str) -> Deviation | None:
    """The mistake that the verifier's reason names by itself; None when it only says that nothing matches."""
    explain = BY_REASON.get(reason)
    return None if explain is None else explain(case)


def no_secret(case: Case) -> Deviation:
    return Deviation(
        mistake="no_secret",
        explanation="No secret is configured here, or an empty one, so that everything is refused.",
        change="Give the app its secret: `secrets: [{env: NAME}]`, with NAME set where the receiver runs.",
    )


def bad_secret(case: Case) -> Deviation:
    return Deviation(
        mistake="bad_secret",
        explanation=f"A configured secret is not what this scheme takes (key: {case.scheme.key}).",
        change="Copy it again from the sender, whole and without anything around it.",
    )


def missing_header(case: Case) -> Deviation:
    wanted = _needed(case, 0)
    came = ", ".join(name for name in dict.fromkeys(n for n, _ in case.request.headers) if name not in PLAIN_HEADERS)
    empty = any(case.request.values(wanted)) or case.request.values(wanted)
    signed = sorted({each.header for each in find_exhibits(case.request)} - {wanted})
    explanation = f"The header {wanted} came empty." if empty else f"The header {wanted} did not come."
    explanation += f" Besides the usual ones there came: {came[:1000] or 'none'}."
    if signed:
        explanation += (
            f" In {', '.join(signed[:5])} stands what may be a signature, but no known mistake makes it right."
        )
    return Deviation(
        mistake="empty_header" if empty else "missing_header",
        explanation=explanation,
        change="See that the secret is set at the sender: without one, most send no signature, some an empty header."
        f" Then see whether a proxy or forwarder before this gateway drops {wanted}.",
    )


def doubled_header(case: Case) -> Deviation:
    name = _needed(case, 2)
    return Deviation(
        mistake="doubled_header",
        explanation=f"The header {name} came {len(case.request.values(name))} times, so nobody can say which one counts.",
        change="Something before this gateway adds it again, or the sender sets it twice: let it come once.",
    )


def _needed(case: Case, lines: int) -> str:
    """The header that the scheme needs and that came so often: none or empty (0), or several times (2)."""
    names = [case.scheme.plan.header, *(piece.name for piece in case.scheme.plan.pieces if piece.kind == "header")]
    if case.scheme.timestamp is not None and case.scheme.timestamp.place.kind == "header":
        names.append(case.scheme.timestamp.place.name)
    for name in names:
        read = read_header(case.request, name)
        if isinstance(read, Verdict) and (read.reason == "doubled_header") == (lines > 1):
            return name
    return names[0]


def missing_time(case: Case) -> Deviation:
    source = case.scheme.timestamp.source if case.scheme.timestamp else ""
    return Deviation(
        mistake="missing_timestamp",
        explanation=f"The time that is signed should stand in {source}, and nothing is there.",
        change="See that the sender sends it, and that no proxy drops it; or name the place where it stands: `timestamp.from`.",
    )


def malformed_time(case: Case) -> Deviation:
    timing = case.scheme.timestamp
    text = own_time(timing, case) if timing else ""
    unit = fits_unit(text, case.now, 10 * 365 * 86_400) if case.now is not None else None
    if timing is None or unit is None:
        explanation = f"The signed time is {text[:40]!r}, which is no time in the unit {timing.unit if timing else ''}."
        return Deviation(mistake="malformed_timestamp", explanation=explanation, change=_units())
    return Deviation(
        mistake="timestamp_unit",
        explanation=f"The signed time is in the unit `{unit}`, and this scheme expects `{timing.unit}`.",
        overrides={"timestamp": {"unit": unit}},
    )


def _units() -> str:
    return f"Say how the sender writes it: `timestamp.unit` is one of {', '.join(TIME_READERS)}."


def too_old(case: Case) -> Deviation | None:
    timing, now = case.scheme.timestamp, case.now
    if timing is None or now is None:
        return None
    text = own_time(timing, case)
    seconds = TIME_READERS[timing.unit](text)
    if seconds is None:
        return None
    unit = fits_unit(text, now, timing.tolerance)
    if unit not in (None, timing.unit):
        return malformed_time(case)
    age = now - seconds
    words = f"{_spell(abs(age))} {'before' if age > 0 else 'after'} the time at which it is judged here"
    limit = timing.tolerance if age > 0 else timing.future
    return Deviation(
        mistake="stale" if age > 0 else "clock_ahead",
        explanation=f"The signature is right, but its time is {words}; {_spell(limit)} are allowed. {_clocks(case, seconds, age)}",
        change="Set the clock that is wrong (NTP). A time that old is refused to keep captured requests from being sent again:"
        " raise `timestamp.tolerance` only as far as the sender's own delays need, for that weakens it.",
    )


def _clocks(case: Case, signed: float, age: float) -> str:
    """Which clock it may be, from what the request itself says."""
    hours = round(age / HOUR)
    if hours and abs(hours) <= 14 and abs(age - hours * HOUR) < 120:
        return f"That is {abs(hours)} h almost to the minute: a clock that keeps local time as UTC."
    dates = case.request.values("date")
    try:
        sent = parsedate_to_datetime(dates[0]).timestamp() if len(dates) == 1 else None
    except (ValueError, OverflowError, TypeError):
        sent = None
    if sent is None:
        return "Compare both clocks: the sender's and this gateway's (`gateway doctor` shows how far Valkey's is off)."
    if abs(sent - signed) < 60:
        return "Its Date header says the same time: it was delivered late or sent again, or the two machines' clocks differ."
    return (
        "Its Date header says another time: it was signed long before it was sent, or what was captured was sent again."
    )


def _spell(seconds: float) -> str:
    whole = round(seconds)
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if whole >= 2 * size:
            rest = f" {whole % size // (size // 60)} {'min' if name == 'h' else 's'}" if name in ("h", "min") else ""
            return f"{whole // size} {name}{rest}"
    return f"{whole} s"


def too_many(case: Case) -> Deviation:
    return Deviation(
        mistake="too_many_candidates",
        explanation=REASONS["too_many_candidates"] + ".",
        change="Take secrets that are no longer used out of the sender: each adds a signature.",
    )


def missing_context(case: Case) -> Deviation:
    return Deviation(
        mistake="missing_context",
        explanation="The sender signs the URL, and it is not known here.",
        change="Set GATEWAY_PUBLIC_URL to the address that the sender was given; in a captured request, give `url`.",
    )


BY_REASON: Final[Mapping[str, Callable[[Case], Deviation | None]]] = {
    "no_secret": no_secret,
    "bad_secret": bad_secret,
    "missing_header": missing_header,
    "doubled_header": doubled_header,
    "missing_timestamp": missing_time,
    "malformed_timestamp": malformed_time,
    "stale": too_old,
    "future": too_old,
    "too_many_candidates": too_many,
    "missing_context": missing_context,
}
