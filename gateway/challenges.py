"""Challenges: what is answered to a platform that asks something of an address before it sends events there. Silent."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

PLAIN = "text/plain"
JSON = "application/json"

Record = Literal["ping", "handshake"]
RECORDS: Final[tuple[Record, ...]] = ("ping", "handshake")


class Challenge(msgspec.Struct, frozen=True):
    """An answer that starts nothing: its text, status, media type and further headers.

    `record` is the outcome of the event that the request is kept as, where an operator has a use for that; only what
    was verified is kept. `follow` is the address to call before it is answered. `note` is a word for the log.
    """

    text: str = ""
    status: int = 200
    media: str = PLAIN
    headers: tuple[tuple[str, str], ...] = ()
    record: Record | None = None
    follow: str | None = None
    note: str | None = None


class Offer(msgspec.Struct, frozen=True):
    """The secret that a sender offers for all that it will sign, and the answer once it is kept."""

    secret: str
    challenge: Challenge
