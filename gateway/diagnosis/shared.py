"""Where the proof is the secret itself, a token or Basic credentials: where it came instead, and what around it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from gateway.diagnosis.cases import Case, Deviation, Key, Meter
from gateway.diagnosis.keys import other_keys, own_keys, right_keys
from gateway.verifiers.encodings import decode_base64

WORDS: Final = ("Bearer ", "Token ", "token ", "bearer ", "Basic ", "basic ", "HMAC ", "Key ")
QUOTES: Final = "\"'` \t"
LONGEST: Final = 8192


class Shown(Struct, frozen=True):
    """A text that may be the secret: the header it stands in (or the URL), what stands before it, the text."""

    place: str
    before: str
    text: bytes
    deviations: tuple[Deviation, ...] = ()


def find_shared(case: Case, meter: Meter) -> tuple[Deviation, ...] | None:
    """The mistakes by which a shared value is right; None when it is by none."""
    shown = {_digest(each.text): each for each in reversed(list(_shown(case)))}
    for keys in (iter(right_keys(case)), own_keys(case), other_keys(case)):
        for key in keys:
            found = _match(key, shown, meter)
            if found is not None:
                return (*key.deviations, *_compare(case, found))
    return None


def find_in_the_clear(case: Case, meter: Meter) -> Deviation | None:
    """The mistake of sending the secret itself where a signature is expected."""
    shown = {_digest(each.text): each for each in _shown(case)}
    for key in [*right_keys(case), *(Key(value.encode("utf-8", "surrogatepass")) for value in case.values)]:
        found = _match(key, shown, meter)
        if found is not None:
            return Deviation(
                mistake="secret_in_the_clear",
                explanation=f"The sender sends the secret itself, in {found.place}, instead of a signature made with it.",
                change="Let the sender sign. If it can't, `{kind: token, header: …}` takes a plain token: weaker, for whoever"
                " sees one request can send any. Make a new secret in any case, for this one has been sent about.",
            )
    return None


def _match(key: Key, shown: dict[bytes, Shown], meter: Meter) -> Shown | None:
    return shown.get(_digest(key.material)) if key.material and meter.spend(len(key.material)) else None


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _shown(case: Case) -> Iterator[Shown]:
    """What may be the secret, where the scheme looks first."""
    wanted = case.scheme.plan.header
    ordered = sorted(case.request.headers[:200], key=lambda pair: pair[0] != wanted)
    for name, value in ordered:
        yield from _readings(name, value[:LONGEST])
    try:
        pairs = parse_qsl(urlsplit(case.request.url).query, max_num_fields=100)
    except ValueError:
        return
    for name, value in pairs:
        yield Shown(f"the URL's query ({name})", "", value.encode("utf-8", "surrogatepass"))


def _readings(name: str, value: str) -> Iterator[Shown]:
    for before in ("", *(word for word in WORDS if value.startswith(word))):
        text = value[len(before) :]
        yield Shown(name, before, text.encode("latin-1", "replace"))
        if text.strip(QUOTES) != text:
            quoted = Deviation(
                mistake="quoted_signature",
                explanation=f"Quotes or spaces stand around the value of {name}.",
                change="Take them out at the sender.",
            )
            yield Shown(name, before, text.strip(QUOTES).encode("latin-1", "replace"), (quoted,))
        decoded = decode_base64(text) if text.isascii() else None
        if decoded:
            yield Shown(name, f"{before or ''}base64 ", decoded)


def _compare(case: Case, shown: Shown) -> tuple[Deviation, ...]:
    scheme = case.scheme
    wanted = "Basic base64 " if scheme.kind == "basic" else scheme.prefix
    found = list(shown.deviations)
    if shown.place.startswith("the URL"):
        explanation = f"The token stands in {shown.place}; this scheme looks in the header {scheme.plan.header}."
        change = f"Let the sender put it into {scheme.plan.header}: URLs end up in logs. Then make a new one."
        return (*found, Deviation(mistake="token_in_url", explanation=explanation, change=change))
    if shown.place != scheme.plan.header:
        explanation = f"The right value stands in {shown.place}; this scheme looks in {scheme.plan.header}."
        found.append(Deviation(mistake="other_header", explanation=explanation, overrides={"header": shown.place}))
    if shown.before != wanted:
        found.append(_other_prefix(shown.before, wanted))
    return tuple(found)


def _other_prefix(before: str, wanted: str) -> Deviation:
    came, expected = (f"`{each.strip()}` before it" if each else "nothing before it" for each in (before, wanted))
    encoded = "base64" in before or "base64" in wanted
    explanation = f"The value comes with {came}, and this scheme expects {expected}."
    if encoded:
        change = f"Let the sender write it with {expected}."
        return Deviation(mistake="other_form", explanation=explanation, change=change)
    return Deviation(
        mistake="other_prefix" if before else "missing_prefix", explanation=explanation, overrides={"prefix": before}
    )
