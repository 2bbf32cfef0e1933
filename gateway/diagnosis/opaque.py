"""Schemes whose codes are not computed here (public keys, senders with rules of their own): their verifier is asked.

It is asked once for each mistake: with another secret, another body, another URL, or a header moved to its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from gateway.diagnosis.bodies import changed_bodies
from gateway.diagnosis.cases import Case, Deviation, Meter
from gateway.diagnosis.keys import other_secret, own_copy, sender_copy
from gateway.diagnosis.urls import changed_urls
from gateway.proofs import Request
from gateway.signatures import verify

GOOD: Final = ("valid", "stale", "future")
SHORTEST: Final = 16
"""Characters of the shortest header that may be a proof."""


class Attempt(Struct, frozen=True):
    """What the verifier is asked about, and the mistake that it would be."""

    deviation: Deviation
    secrets: tuple[str, ...]
    request: Request


def find_opaque(case: Case, meter: Meter) -> tuple[Deviation, ...] | None:
    """The mistake without which the verifier would have agreed; None when it is none of them."""
    for attempt in _attempts(case):
        if not meter.spend(len(attempt.request.body) * max(len(attempt.secrets), 1)):
            return None
        if verify(case.scheme, attempt.secrets, attempt.request, case.now or 0.0).reason in GOOD:
            return (attempt.deviation,)
    return None


def _attempts(case: Case) -> Iterator[Attempt]:
    yield from _with_other_secrets(case)
    yield from _with_other_header(case)
    for deviation, url in changed_urls(case.request):
        yield Attempt(deviation, case.values, msgspec.structs.replace(case.request, url=url))
    for deviation, body in changed_bodies(case.request):
        if not deviation.overrides:
            yield Attempt(deviation, case.values, msgspec.structs.replace(case.request, body=body))


def _with_other_secrets(case: Case) -> Iterator[Attempt]:
    for secret in case.secrets:
        if secret.value.strip() != secret.value:
            yield Attempt(own_copy(secret, "spaces or a line break around it"), (secret.value.strip(),), case.request)
        yield Attempt(sender_copy(secret, "a line break too many"), (secret.value + "\n",), case.request)
    for secret in case.others[:50]:
        yield Attempt(other_secret(secret), (secret.value,), case.request)


def _with_other_header(case: Case) -> Iterator[Attempt]:
    wanted = case.scheme.plan.header
    rest = tuple(pair for pair in case.request.headers if pair[0] != wanted)
    for name, value in rest[:100]:
        if len(value) >= SHORTEST:
            explanation = f"The right proof stands in the header {name}; this scheme looks in {wanted}."
            deviation = Deviation(mistake="other_header", explanation=explanation, overrides={"header": name})
            moved = msgspec.structs.replace(case.request, headers=(*rest, (wanted, value)))
            yield Attempt(deviation, case.values, moved)
