"""Links to what is too large for a message: whoever has one may read that one run, for a while. Silent.

A link's token says run and expiry, and is signed under a key derived from a master key, as links for approvals are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.approvals import Expired, Signer
from gateway.errors import NotFound
from gateway.runs import Run, describe, iso

PURPOSE = b"event gateway: result links, 1"
PAGE = "/results"
DAYS = 7
"""Longer than a message is tried for by the schedule of Standard Webhooks."""


class _Link(msgspec.Struct, frozen=True, array_like=True):
    run_id: int
    expires_at: int


class ResultLinks:
    """Makes and reads the links of one gateway, which the world reaches at `address`."""

    def __init__(self, master_keys: Sequence[bytes] = (), address: str = "") -> None:
        self._signer = Signer(PURPOSE, master_keys)
        self.address = address

    def make(self, run_id: int, now: float) -> str | None:
        """A link to a run's result, good for DAYS from `now` (unix seconds); None without a master key."""
        if not self._signer.is_able:
            return None
        token = self._signer.write(msgspec.json.encode(_Link(run_id, int(now + DAYS * 86_400))))
        return f"{self.address}{PAGE}/{token}"

    def read(self, token: str, now: float) -> int:
        """The run that a token is about. Raises NotFound for one that we did not sign, Expired for one too old."""
        body = self._signer.read(token)
        if body is None:
            message = "this is no link of ours: see that it was copied whole"
            raise NotFound(message)
        link = msgspec.json.decode(body, type=_Link)
        if link.expires_at <= now:
            message = f"this link was good until {iso(link.expires_at * 1000)}"
            raise Expired(message)
        return link.run_id


def tell_run(run: Run) -> dict[str, Any]:
    """What a message says of a run: its document without its steps."""
    return {name: value for name, value in describe(run).items() if name != "steps"}
