"""Handshakes: what each sender asks of an address before, and between, its events. Silent.

One row for each kind, in the modules of this package; one name for each sender, in HANDSHAKES, unless its scheme's field
`handshake` names another. A handshake is asked for in two places: before proof, for what its sender doesn't sign, and
after it. Neither starts anything, and the first keeps nothing but the secret that an app waits for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final

from msgspec import Struct

from gateway.challenges import Challenge, Offer
from gateway.errors import ConfigError
from gateway.handshakes import chats, pairings, pings, subscriptions
from gateway.handshakes.base import Facts, Row
from gateway.proofs import Request
from gateway.schemes import list_names, suggest

__all__ = ["HANDSHAKES", "TABLE", "Facts", "Handshake", "find_kind", "read_handshake"]

NONE = "none"
TABLE: Final[Mapping[str, Row]] = {**chats.ROWS, **subscriptions.ROWS, **pairings.ROWS, **pings.ROWS}
HANDSHAKES: Final[Mapping[str, str]] = {
    "adyen": "adyen",
    "asana": "asana",
    "aws-sns": "sns",
    "azure-event-grid": "eventgrid",
    "bitbucket-server": "ping:X-Event-Key/diagnostics:ping",
    "buildkite": "ping:X-Buildkite-Event/ping",
    "buildkite-token": "ping:X-Buildkite-Event/ping",
    "cloudevents": "cloudevents",
    "discord": "discord",
    "facebook": "meta",
    "github": "ping:X-GitHub-Event/ping",
    "intercom": "head200+ping:body:topic/ping",
    "meta": "meta",
    "notion": "notion",
    "pagerduty": "ping:body:event.event_type/pagey.ping",
    "slack": "slack",
    "trello": "head200",
    "websub": "websub",
    "whatsapp": "meta",
    "woocommerce": "woocommerce",
    "zoom": "zoom",
}
"""The handshake of each sender that has one, under its preset's name."""


class Handshake(Struct, frozen=True, dict=True):
    """An app's handshake: one kind or several, and what the app says to them."""

    name: str
    rows: tuple[Row, ...]
    facts: Facts

    @cached_property
    def asks_early(self) -> bool:
        """Whether some of it comes without proof."""
        return any(row.early for row in self.rows)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods it takes besides POST."""
        return tuple(dict.fromkeys(method for row in self.rows for method in row.methods))

    @cached_property
    def thanks(self) -> Challenge | None:
        """The answer to every event that was taken, where its sender wants a certain one."""
        return next((row.thanks for row in self.rows if row.thanks), None)

    @property
    def gives_secret(self) -> bool:
        """Whether the sender hands over the secret itself."""
        return any(row.gives_secret for row in self.rows)

    def greet(self, request: Request) -> Challenge | Offer | None:
        """What to say to a request that nobody has proven; None for what needs proof. Raises Forbidden or NotFound."""
        for row in self.rows:
            found = row.early(self.facts, request) if row.early else None
            if found is not None:
                return found
        return None

    def reply(self, request: Request, secret: str | None) -> Challenge | None:
        """What to say to a verified request, `secret` being what verified it; None for an ordinary event."""
        for row in self.rows:
            found = row.late(self.facts, request, secret) if row.late else None
            if found is not None:
                return found
        return None


def find_kind(written: str | None, sender: str | None) -> str:
    """The name of a handshake: as it is written in the scheme, else the sender's; `none` where there is none."""
    return written or HANDSHAKES.get(sender or "", NONE)


def read_handshake(kind: str, facts: Facts) -> Handshake | None:
    """A handshake by its name, several joined by `+`. Raises ConfigError, without a place, for one there isn't."""
    if kind == NONE:
        return None
    rows = tuple(_find_row(name) for name in kind.split("+"))
    return Handshake(kind, rows, facts)


def _find_row(name: str) -> Row:
    if name.startswith(pings.PING):
        return pings.read_ping(name)
    if name not in TABLE:
        names = (NONE, *TABLE, "ping:HEADER/VALUE")
        message = f"there is no handshake {name!r}{suggest(name, TABLE) or list_names(names)}"
        raise ConfigError(message)
    return TABLE[name]
