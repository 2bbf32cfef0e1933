"""The mistake of taking one sender for another: the preset by which the request is right as it came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from gateway.apps import read_sender
from gateway.diagnosis.cases import Case, Deviation, Meter, Secret
from gateway.diagnosis.differences import is_legacy
from gateway.proofs import Verdict
from gateway.schemes import PRESETS, Scheme
from gateway.signatures import delivery_id, event_type, verify

JUDGED_BY: Final = ("kind", "alg", "enc", "prefix", "list", "template", "key")
"""The fields of a scheme, besides its header and its time, that decide whether a proof is right."""
GOOD: Final = ("valid", "stale", "future")


def find_preset(case: Case, secrets: Sequence[Secret], meter: Meter) -> tuple[Deviation, Secret, Verdict] | None:
    """The preset and the secret by which the proof is right, the preset for which most speaks; None without one."""
    body = _parse(case.request.body)
    best: tuple[int, str, Secret, Verdict] | None = None
    for name in _candidates(case):
        for secret in secrets:
            if not meter.spend(len(case.request.body)):
                break
            verdict = verify(PRESETS[name], (secret.value,), case.request, case.now or 0.0)
            weight = _evidence(name, case, body) if verdict.reason in GOOD else 0
            if weight > (best[0] if best else 0):
                best = weight, name, secret, verdict
    if best is None:
        return None
    _, name, secret, verdict = best
    return _foreign(case, name), secret, verdict


def _candidates(case: Case) -> Iterator[str]:
    base = read_sender({"scheme": case.written})
    came = {name for name, _ in case.request.headers}
    for name, preset in PRESETS.items():
        same_header = preset.plan.header == case.scheme.plan.header
        header = preset.plan.header
        known = name == base or not _is_in_header(preset) or header not in came or is_legacy(case, header, preset.alg)
        if not known and not (same_header and _differs_in(preset, case.scheme) < 2):
            yield name


def _is_in_header(preset: Scheme) -> bool:
    return preset.header is not None or preset.kind == "basic"


def _differs_in(one: Scheme, other: Scheme) -> int:
    return sum(a != b for a, b in zip(_judged(one), _judged(other), strict=True))


def _judged(scheme: Scheme) -> list[Any]:
    timing = scheme.timestamp
    # A header's name may be written in capitals, and is the same.
    read = timing and (timing.place, timing.unit, timing.tolerance, timing.future)
    return [read, *(getattr(scheme, field) for field in JUDGED_BY)]


def _evidence(name: str, case: Case, body: Any) -> int:
    """How much speaks for this sender, besides the proof: a header of its own, its event's type and id."""
    preset = PRESETS[name]
    kin = [row for row in PRESETS.values() if row.plan.header == preset.plan.header]
    alone = all(_differs_in(preset, row) == 0 for row in kin)
    signed_headers = any(piece.kind == "header" for piece in preset.plan.pieces)
    shared = preset.kind in ("token", "basic")
    named = ((preset.event_type, event_type), (preset.delivery_id, delivery_id))
    found = [read(preset, case.request, body) is not None for source, read in named if source is not None]
    return 2 * alone + shared + signed_headers + (sum(found) if all(found) else 0)


def _foreign(case: Case, name: str) -> Deviation:
    base = read_sender({"scheme": case.written}) or "a scheme of its own"
    others = [f"`{each}`" for each in names_alike(PRESETS[name]) if each != name]
    alike = f" ({', '.join(others)} alike)" if others else ""
    plain = PRESETS[name].kind in ("token", "basic") and case.scheme.kind == "hmac"
    weak = " It proves less than a signature: whoever sees one request can send any." if plain else ""
    return Deviation(
        mistake="other_preset",
        explanation=f"This is how `{name}` signs{alike}, and it is right by that; the app is configured as {base}.{weak}",
        overrides={"scheme": name},
    )


def gather_into_preset(case: Case, found: tuple[Deviation, ...], scheme: Scheme) -> tuple[Deviation, ...]:
    """One mistake instead of several, where all that is different comes to another known sender's scheme."""
    parts = [each for each in found if each.overrides and not each.change]
    names = names_alike(scheme)
    if len(parts) < 2 or not names or read_sender({"scheme": case.written}) in names:
        return found
    return (_foreign(case, names[0]), *(each for each in found if each not in parts))


def names_alike(scheme: Scheme) -> list[str]:
    """The presets that judge just as this scheme does."""
    return [
        name
        for name, preset in PRESETS.items()
        if _is_in_header(preset) and preset.plan.header == scheme.plan.header and _differs_in(preset, scheme) == 0
    ]


def _parse(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
