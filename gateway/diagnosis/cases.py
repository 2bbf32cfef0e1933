"""What the search for a mistake works with: the case, what may deviate in it, what it comes to, and how far it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from gateway.proofs import Request
from gateway.schemes import Scheme

MAX_TRIES: Final = 3000
"""Codes and comparisons that are computed for one case at most."""
MAX_HASHED: Final = 192 * 1024 * 1024
"""Bytes that are hashed for one case at most: well under a second's work."""
SMALL: Final = 256
"""Bytes that a code costs besides those it is made of."""


class Secret(Struct, frozen=True):
    """A secret with what may be shown of it."""

    label: str
    value: str


class Case(Struct, frozen=True, kw_only=True):
    """A request that was refused, and what it was judged by.

    `written` is the scheme as its operator wrote it, without secrets. `others` are secrets that stand elsewhere in
    this installation. `now` is in Unix seconds; None when nobody knows when the request came. Without `has_body` the
    body was not kept, so that nothing can be computed.
    """

    scheme: Scheme
    written: object
    secrets: tuple[Secret, ...]
    request: Request
    now: float | None = None
    others: tuple[Secret, ...] = ()
    references: object = None
    has_body: bool = True

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(secret.value for secret in self.secrets)


class Deviation(Struct, frozen=True, kw_only=True):
    """One mistake that may have been made: its name, what happened, and what to change.

    `overrides` are fields of `verify:` that would make the app take it as it is. Where there is no `change` of its
    own, those are the change.
    """

    mistake: str
    explanation: str
    change: str = ""
    overrides: Mapping[str, Any] = {}


class Key(Struct, frozen=True):
    """The bytes of a key that the sender may have used, and what that would mean. `likely` ones are paired."""

    material: bytes
    deviations: tuple[Deviation, ...] = ()
    likely: bool = False


class Message(Struct, frozen=True):
    """The bytes, in parts, that the sender may have signed, and what that would mean."""

    parts: Sequence[bytes]
    deviations: tuple[Deviation, ...] = ()
    likely: bool = False


class Finding(Struct, frozen=True):
    """A mistake that explains the refusal: its name, what happened, what to change."""

    mistake: str
    explanation: str
    change: str


class Diagnosis(Struct, frozen=True, kw_only=True):
    """What a case comes to.

    `verdict` is `valid` (nothing is wrong with the proof), `explained` or `unexplained`. `reason` is the verifier's.
    The first finding is the cause, or the first of several; `next` says what to do where none was found.
    """

    verdict: str
    reason: str
    findings: tuple[Finding, ...] = ()
    tried: int = 0
    next: tuple[str, ...] = ()


class Meter:
    """Counts what is computed, and says when it is enough. It counts work, not time, so that a case always ends alike."""

    def __init__(self, tries: int = MAX_TRIES, hashed: int = MAX_HASHED) -> None:
        self.tried = 0
        self.spent = False
        self._tries = tries
        self._hashed = hashed

    def spend(self, size: int) -> bool:
        """Whether one more of `size` bytes may be computed; it counts as done."""
        if self.tried >= self._tries or self._hashed < size + SMALL:
            self.spent = True
            return False
        self.tried += 1
        self._hashed -= size + SMALL
        return True
