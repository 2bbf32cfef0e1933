"""Reconciling: what GitHub says it delivered, held against what came in. Silent.

GitHub does not deliver again by itself what failed. It keeps a list of a hook's deliveries, and on request sends one
again as it was, signed, under its old id. So whatever is missing here is asked for again, and comes in as it should
have in the first place: through the door, with its signature.

Source: GitHub, "Repository webhooks", `/repos/{owner}/{repo}/hooks/{hook_id}/deliveries` and `…/attempts`; GitHub,
"Handling failed webhook deliveries".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec

from gateway.errors import ConfigError
from gateway.retries import read_duration
from gateway.secrets import SecretRef

GITHUB = "https://api.github.com"
NAME = re.compile(r"(?!\.{1,2}(/|$))[A-Za-z0-9._-]{1,100}")
REPOSITORY = re.compile(rf"{NAME.pattern}/{NAME.pattern}")
PING = "ping"
SETTLE_MS = 60_000
"""A delivery this young may still be on its way in."""
OVERLAP_MS = 300_000
"""GitHub lists a delivery some time after it was made; so much before the mark is looked at again."""
WAITS_MS = (0, *(300_000 * 3**power for power in range(6)))
"""Before each time a delivery is asked for: the last one is some 30 hours after the first. GitHub keeps its list for days."""
MOST_REMEMBERED = 10_000
SHORTEST, LONGEST = 60.0, 86_400.0


class ReconcileSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which hook's deliveries are listed: of a repository or an organization; with which token, and how often.

    The token needs "Webhooks: read and write", as asking for a delivery again is a write. `api` is for GitHub
    Enterprise Server: `https://HOST/api/v3`.
    """

    hook: Annotated[int, msgspec.Meta(ge=1)]
    token: SecretRef
    repository: str | None = None
    organization: str | None = None
    every: str | float = "5m"
    api: str = GITHUB

    @property
    def path(self) -> str:
        """The hook's deliveries, below `api`."""
        owner = f"orgs/{self.organization}" if self.repository is None else f"repos/{self.repository}"
        return f"/{owner}/hooks/{self.hook}/deliveries"

    @property
    def seconds(self) -> float:
        """How long from one round to the next."""
        return read_duration(self.every, "reconcile.every")


def check_reconcile(settings: ReconcileSettings, sender: str | None) -> None:
    """Raise ConfigError with `details["path"]` for what can't work."""
    if sender != "github":
        message = "reconcile is for an app with `scheme: github`; no other sender lists what it delivered in this way"
        raise ConfigError(message, path="reconcile")
    if (settings.repository is None) == (settings.organization is None):
        message = "name the repository (owner/name) or the organization that has the hook, one of them"
        raise ConfigError(message, path="reconcile.repository")
    if settings.repository is not None and not REPOSITORY.fullmatch(settings.repository):
        message = f"a repository is written owner/name, as in acme/site, not {settings.repository!r}"
        raise ConfigError(message, path="reconcile.repository")
    if settings.organization is not None and not NAME.fullmatch(settings.organization):
        message = f"an organization is written by its short name, as in its URL, not {settings.organization!r}"
        raise ConfigError(message, path="reconcile.organization")
    if not SHORTEST <= settings.seconds <= LONGEST:
        message = "write a time from 1m to 1d"
        raise ConfigError(message, path="reconcile.every")


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt in GitHub's list. A delivery that was sent again has several, with one `guid`."""

    id: int
    guid: str
    delivered_at: str
    event: str = ""
    status_code: int = 0

    @property
    def at(self) -> int:
        """When it was made, in milliseconds. Raises ValueError for what is no time."""
        return int(datetime.fromisoformat(self.delivered_at).timestamp() * 1000)


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """How often a delivery was asked for, and when last (ms)."""

    times: int = 0
    at: int = 0

    @property
    def in_vain(self) -> bool:
        """Whether it was asked for as often as it ever is."""
        return self.times >= len(WAITS_MS)

    def is_due(self, now: int) -> bool:
        return not self.in_vain and now >= self.at + WAITS_MS[self.times]


NEVER = Asked()


class Mark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Up to when (ms) nothing is missing, and how often each delivery that still is was asked for."""

    at: int
    asked: dict[str, Asked] = {}
    checked_at: int = 0
    """When the last round was (ms), and what it found."""
    listed: int = 0
    missing: int = 0
    given_up: int = 0
    problem: str | None = None


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """What is missing. Of that, `ask` is to be asked for now, and `given_up` was asked for often enough."""

    listed: int
    missing: tuple[Delivery, ...]
    ask: tuple[Delivery, ...]
    given_up: tuple[Delivery, ...]


def window_start(mark: Mark) -> int:
    """From when on (ms) deliveries are listed."""
    return mark.at - OVERLAP_MS


def guids_of(listed: Sequence[Delivery]) -> list[str]:
    """The ids to be looked for among what came in."""
    return list(dict.fromkeys(each.guid for each in listed if each.event != PING))


def find_gap(listed: Sequence[Delivery], known: Collection[str], mark: Mark, now: int) -> Gap:
    """What GitHub delivered and nobody here knows: each once, by its newest attempt, the oldest first.

    `known` are the ids that came in. Pings are left out, as they start nothing, and what is younger than SETTLE_MS.
    One is asked for again after longer and longer waits, as the way in may be closed for hours, and not for ever, as
    the answer to it may be a refusal that stands.
    """
    newest: dict[str, Delivery] = {}
    for each in sorted(listed, key=lambda each: each.id):
        if each.event != PING:
            newest[each.guid] = each
    settled = [each for each in newest.values() if each.guid not in known and each.at <= now - SETTLE_MS]
    missing = tuple(sorted(settled, key=lambda each: each.at))
    asked = {each.guid: mark.asked.get(each.guid, NEVER) for each in missing}
    ask = tuple(each for each in missing if asked[each.guid].is_due(now))
    given_up = tuple(each for each in missing if asked[each.guid].in_vain)
    return Gap(listed=len(newest), missing=missing, ask=ask, given_up=given_up)


def advance(mark: Mark, gap: Gap, asked: Collection[str], listed: Sequence[Delivery], now: int) -> Mark:
    """The mark after a round: never past a delivery that may still be brought in. `asked`: which GitHub sends again."""
    before = {each.guid: mark.asked.get(each.guid, NEVER) for each in gap.missing}
    after = {guid: Asked(each.times + 1, now) if guid in asked else each for guid, each in before.items()}
    waiting = [first_attempt(listed, guid) for guid, each in after.items() if not each.in_vain]
    seen = [each.at for each in listed if each.at <= now - SETTLE_MS]
    return Mark(
        at=max(mark.at, min(waiting, default=max(seen, default=mark.at))),
        asked=dict(list(after.items())[-MOST_REMEMBERED:]),
        checked_at=now,
        listed=gap.listed,
        missing=len(gap.missing),
        given_up=len(gap.given_up),
    )


def first_attempt(listed: Sequence[Delivery], guid: str) -> int:
    """When (ms) a delivery was first made, as far as the list goes back."""
    return min(each.at for each in listed if each.guid == guid)


def read_page(body: bytes) -> list[Delivery]:
    """One page of GitHub's list, the newest first. Raises ValueError when it is none."""
    rows = msgspec.json.decode(body, type=list[Delivery])
    for each in rows:
        _ = each.at
    return rows


def read_cursor(link: str | None) -> str | None:
    """The cursor of the next page in a Link header; the address itself is not followed. RFC 8288."""
    for part in (link or "").split(","):
        target, _, relation = part.partition(">")
        if 'rel="next"' in relation:
            _, found, cursor = target.partition("cursor=")
            return cursor.partition("&")[0] if found else None
    return None


def describe_round(mark: Mark, asked: int, words: Mapping[str, Any]) -> dict[str, Any]:
    """A round as commands and logs show it."""
    return {
        **words,
        "listed": mark.listed,
        "missing": mark.missing,
        "asked_again": asked,
        "given_up": mark.given_up,
        "problem": mark.problem,
    }
