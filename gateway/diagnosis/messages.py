"""What the sender may have signed: the template, the time and the URL in it. One mistake a function."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.diagnosis.bodies import changed_bodies
from gateway.diagnosis.cases import Case, Deviation, Message
from gateway.diagnosis.urls import changed_urls
from gateway.errors import ConfigError
from gateway.proofs import (
    HTTP_DATE,
    RFC3339,
    TIME_READERS,
    Request,
    Verdict,
    as_text,
    find_path,
    read_header,
    read_signed,
)
from gateway.schemes import PRESETS, Piece, Timestamp, parse_template

MOST_STAMPS: Final = 8
LONGEST_TIME: Final = 40
TIME_FIELDS: Final = re.compile(r"(?:^|[,; ])(t|ts|time|timestamp)=([0-9]{9,14})(?=[,; ]|$)")
DIGITS: Final = re.compile(r"[0-9]{9,14}")
TEMPLATES: Final = tuple(
    dict.fromkeys(("{body}", *(row.template for row in PRESETS.values()), "{body}{timestamp}", "{body}.{timestamp}"))
)
"""What any known sender signs, and two that people make up."""


class Stamp(Struct, frozen=True):
    """A text that may be the time that was signed, and what it would mean to take it."""

    text: str
    deviation: Deviation | None = None


def right_message(case: Case) -> Message | None:
    """What the configured scheme signs, even where its time can't be read; None where a piece of it is missing."""
    return _build(case, case.scheme.plan.pieces, _own_stamp(case), case.request)


def messages(case: Case) -> Iterator[Message]:
    """What each mistake makes of it, one at a time; the likely ones first."""
    yield from with_other_body(case)
    yield from with_other_time(case)
    yield from with_other_url(case)
    yield from with_other_template(case)


def pairs(case: Case) -> Iterator[Message]:
    """Another template and another body at once."""
    changed = list(islice(changed_bodies(case.request), 12))
    for template in with_other_template(case):
        for deviation, body in changed:
            other = msgspec.structs.replace(case.request, body=body)
            pieces = parse_template(template.deviations[0].overrides["template"])
            made = _build(case, pieces, _own_stamp(case), other)
            if made is not None:
                yield msgspec.structs.replace(made, deviations=(*template.deviations, deviation))


def with_other_body(case: Case) -> Iterator[Message]:
    """The body was changed after it was signed."""
    stamp = _own_stamp(case)
    for index, (deviation, body) in enumerate(changed_bodies(case.request)):
        # Only a scheme that signs the body can be told to sign a field of it instead.
        template = case.scheme.template.replace("{body}", "{form.payload}").replace("{payload}", "{form.payload}")
        if deviation.overrides:
            deviation = msgspec.structs.replace(deviation, overrides={"template": template})
        made = _build(case, case.scheme.plan.pieces, stamp, msgspec.structs.replace(case.request, body=body))
        if made is not None:
            yield msgspec.structs.replace(made, deviations=(deviation,), likely=index < 12)


def with_other_time(case: Case) -> Iterator[Message]:
    """Another time was signed than stands where the scheme looks."""
    if not case.scheme.plan.signs_time:
        return
    for stamp in find_stamps(case):
        made = _build(case, case.scheme.plan.pieces, stamp.text, case.request)
        if made is not None and stamp.deviation is not None:
            yield msgspec.structs.replace(made, deviations=(stamp.deviation,), likely=True)


def with_other_template(case: Case) -> Iterator[Message]:
    """The parts are put together in another way, or other parts are signed."""
    for template in TEMPLATES:
        if template == case.scheme.template:
            continue
        pieces = parse_template(template)
        timed = any(piece.kind == "timestamp" for piece in pieces)
        for stamp in find_stamps(case) if timed else (Stamp(""),):
            made = _build(case, pieces, stamp.text, case.request)
            if made is not None:
                about = _other_template(case, template, stamp if timed else None)
                yield msgspec.structs.replace(made, deviations=about, likely=True)


def _other_template(case: Case, template: str, stamp: Stamp | None) -> tuple[Deviation, ...]:
    overrides: dict[str, Any] = {"template": template}
    mistake, warning = "other_template", ""
    if stamp is None and case.scheme.timestamp is not None:
        overrides["timestamp"] = None
        warning = " That signs no time, so a captured request could be sent again: better let the sender sign it."
    if (case.scheme.template, template) == ("{form.payload}", "{body}"):
        mistake = "form_bytes"
    deviation = Deviation(
        mistake=mistake,
        explanation=f"The sender signs `{template}`, and this scheme expects `{case.scheme.template}`.{warning}",
        overrides=overrides,
    )
    if stamp is None or stamp.deviation is None:
        return (deviation,)
    if case.scheme.timestamp is None:
        # Where no time was expected, its place is part of the template, not a mistake beside it.
        together = merge(deviation.overrides, stamp.deviation.overrides)
        return (msgspec.structs.replace(deviation, overrides=together),)
    return (deviation, stamp.deviation)


def with_other_url(case: Case) -> Iterator[Message]:
    """The sender signed the URL that it was given; this gateway saw, or was told, another."""
    if not case.scheme.uses_url:
        return
    for deviation, url in changed_urls(case.request):
        made = _build(case, case.scheme.plan.pieces, _own_stamp(case), msgspec.structs.replace(case.request, url=url))
        if made is not None:
            yield msgspec.structs.replace(made, deviations=(deviation,), likely=True)


# ---- times


def find_stamps(case: Case) -> list[Stamp]:
    """The texts that may be the signed time: where the scheme looks, in another unit, and elsewhere in the request."""
    own = _own_stamp(case)
    found = [Stamp(own)] if own else []
    found += [Stamp(text, _in_other_unit(words)) for text, words in _rescaled(own)]
    for source, text in _times(case.request):
        if text != own:
            found.append(Stamp(text, _elsewhere(case, source, text)))
            found += [Stamp(scaled, _in_other_unit(words)) for scaled, words in _rescaled(text)]
    return list({stamp.text: stamp for stamp in reversed(found)}.values())[::-1][:MOST_STAMPS]


def _rescaled(text: str) -> Iterator[tuple[str, str]]:
    if DIGITS.fullmatch(text):
        if len(text) == 13:
            yield text[:-3], "seconds, and sent it in milliseconds"
        elif len(text) == 10:
            yield text + "000", "milliseconds, and sent it in seconds"


def _in_other_unit(words: str) -> Deviation:
    return Deviation(
        mistake="signed_time_unit",
        explanation=f"The sender signed the time in {words}.",
        change="Let the sender put the very text into the signature that it sends as the time.",
    )


def _elsewhere(case: Case, source: str, text: str) -> Deviation:
    expected = case.scheme.timestamp.source if case.scheme.timestamp else "nowhere"
    changed = (
        " There stands another time, which is not signed: unless this sender always sends two, somebody changed it."
    )
    doubt = changed if _own_stamp(case) else ""
    return Deviation(
        mistake="timestamp_elsewhere",
        explanation=f"The signed time stands in {source}, and this scheme takes it from {expected}.{doubt}",
        overrides={"timestamp": {"from": source, "unit": unit_of(text)}},
    )


def unit_of(text: str) -> str:
    """The unit that a time's text is in, by its looks."""
    if RFC3339.fullmatch(text):
        return "rfc3339"
    return "httpdate" if HTTP_DATE.fullmatch(text) else ("ms" if len(text) > 11 else "s")


def _times(request: Request) -> Iterator[tuple[str, str]]:
    for name, value in request.headers[:200]:
        if len(value) <= LONGEST_TIME and value.isascii() and (DIGITS.fullmatch(value) or RFC3339.fullmatch(value)):
            yield f"header:{name}", value
        for field, text in TIME_FIELDS.findall(value[:2048]):
            yield f"field:{field}", text
    try:
        document = msgspec.json.decode(request.body) if request.body[:1] == b"{" else {}
    except (ValueError, RecursionError):
        return
    for name, value in islice(document.items(), 100):
        text = as_text(value) or ""
        if len(text) <= LONGEST_TIME and text.isascii() and (DIGITS.fullmatch(text) or RFC3339.fullmatch(text)):
            yield f"body:{name}", text


def _own_stamp(case: Case) -> str:
    """The text where the scheme takes the time from, of whatever form; empty when there is none."""
    timing = case.scheme.timestamp
    return "" if timing is None else own_time(timing, case)


def own_time(timing: Timestamp, case: Case) -> str:
    """The text that stands where this time should; empty when none does."""
    place = timing.place
    if place.kind == "field":
        return next((text for field, text in _fields(case) if field == place.name), "")
    if place.kind == "header":
        value = read_header(case.request, place.name)
        return "" if isinstance(value, Verdict) else value
    try:
        return as_text(find_path(msgspec.json.decode(case.request.body), place.name)) or ""
    except (ValueError, RecursionError):
        return ""


def _fields(case: Case) -> Iterator[tuple[str, str]]:
    form = case.scheme.list
    if form is None:
        return
    wanted = case.request.values(case.scheme.plan.header)
    # Where the header came under another name, its list is another's value.
    for value in wanted or [value for _, value in case.request.headers[:200]]:
        for item in value[:8192].split(form.item_sep, 32):
            key, _, text = item.strip().partition(form.kv_sep)
            if text.isascii():
                yield key, text


def fits_unit(text: str, now: float, tolerance: float) -> str | None:
    """The unit in which this text is a time close to `now`; None when it is in none."""
    for unit, read in TIME_READERS.items():
        seconds = read(text)
        if seconds is not None and abs(now - seconds) <= tolerance:
            return unit
    return None


def _build(case: Case, pieces: tuple[Piece, ...], stamp: str, request: Request) -> Message | None:
    if not stamp and any(piece.kind == "timestamp" for piece in pieces):
        return None
    try:
        signed = read_signed(pieces, request, stamp)
    except (ValueError, ConfigError):
        return None
    return None if isinstance(signed, Verdict) or not signed else Message(signed)


def merge(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both overrides at once; where both have fields of one group, those of both."""
    merged = dict(base)
    for name, value in more.items():
        old = merged.get(name)
        merged[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
