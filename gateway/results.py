"""Links to what is too large for a message: whoever has one may read that one run, for a while. Silent.

A link's token says run and expiry, and is signed under a key derived from a master key, as links for approvals are. It
says a mark of the run as well: in another store, or one that was begun anew, its number is another run's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.approvals import Expired, Signer
from gateway.errors import NotFound
from gateway.runs import Run, describe, iso

PURPOSE = b"event gateway: result links, 1"
PAGE = "/results"
FOREIGN = "this is no link of ours: see that it was copied whole"
DAYS = 7
"""Longer than a message is tried for by the schedule of Standard Webhooks."""


class Link(msgspec.Struct, frozen=True, array_like=True):
    """What a link is about. `expires_at` is in seconds since 1970; those of an older version have no `mark`."""

    run_id: int
    expires_at: int
    mark: str = ""


class ResultLinks:
    """Makes and reads the links of one gateway, which the world reaches at `address`."""

    def __init__(self, master_keys: Sequence[bytes] = (), address: str = "") -> None:
        self._signer = Signer(PURPOSE, master_keys)
        self.address = address

    def make(self, run: Mapping[str, Any], now: float) -> str | None:
        """A link to the run of this document, good for DAYS from `now` (unix seconds); None without a master key."""
        if not self._signer.is_able:
            return None
        link = Link(run["run_id"], int(now + DAYS * 86_400), _mark(run))
        token = self._signer.write(msgspec.json.encode(link))
        return f"{self.address}{PAGE}/{token}"

    def read(self, token: str, now: float) -> Link:
        """What a token is about. Raises NotFound for one that we did not sign, Expired for one too old."""
        body = self._signer.read(token)
        if body is None:
            raise NotFound(FOREIGN)
        link = msgspec.json.decode(body, type=Link)
        if link.expires_at <= now:
            message = f"this link was good until {iso(link.expires_at * 1000)}"
            raise Expired(message)
        return link


def open_link(link: Link, run: Run) -> dict[str, Any]:
    """What the link leads to: this run's document. Raises NotFound where it was made for another run of that number."""
    found = tell_run(run)
    if link.mark not in ("", _mark(found)):
        raise NotFound(FOREIGN)
    return found


def tell_run(run: Run) -> dict[str, Any]:
    """What a message says of a run: its document without its steps."""
    return {name: value for name, value in describe(run).items() if name != "steps"}


def _mark(run: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{run['session_id']} {run['created_at']}".encode()).hexdigest()[:16]
