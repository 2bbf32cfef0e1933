"""Allow-lists: which URLs a single request may have its callback sent to. Silent.

A pattern is `https://HOST[:PORT][/PATH]`. HOST is a whole name, or `*.` and a name of at least two labels, which stands
for every name below it, however deep, and not for that name itself. Without PORT it is 443. PATH is a beginning that
ends where a segment does: `/hooks` and `/hooks/` allow `/hooks/1`, not `/hooksmith`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from gateway.egress import Destination, Policy, RefusedUrl, read_policy, read_url
from gateway.errors import ConfigError

STAR = "*."
FEWEST_LABELS = 2
TRICKY = re.compile(r"%(2e|2f|5c|[01].|7f|25|c[01])|%(?![0-9a-f]{2})|//|;", re.IGNORECASE)
"""What servers and proxies read in several ways: an encoded dot, slash, backslash or control character, what becomes one
when it is decoded twice (%252e) or carelessly (%c0%ae, %u002e), an empty segment, a parameter."""
ANYWHERE = read_policy("0.0.0.0/0, ::/0")


class Pattern(msgspec.Struct, frozen=True):
    """One row of an allow-list, taken apart. `segments` are those that the path must begin with."""

    text: str
    scheme: str
    host: str
    port: int
    is_wild: bool
    segments: tuple[str, ...]


def read_pattern(text: str, where: str) -> Pattern:
    """One pattern. Raises ConfigError for what is no URL, or would allow more than its writer can have meant."""
    plain, star, _ = text.partition("://" + STAR)
    is_wild = bool(star)
    found = read_url(ANYWHERE, text.replace("://" + STAR, "://", 1) if is_wild else text)
    reason = found.reason if isinstance(found, RefusedUrl) else _refusal(found, is_wild)
    if isinstance(found, RefusedUrl) or reason is not None:
        raise ConfigError(f"{where}: {reason}", path=where)
    return Pattern(text, plain.lower() if is_wild else found.scheme, found.host, found.port, is_wild, _segments(found))


def refusal_of(patterns: Sequence[Pattern], url: str, policy: Policy = ANYWHERE) -> str | None:
    """Why a request may not have its callback sent there; None when it may."""
    if not patterns:
        return "this app lets no request choose where its callback goes; it has no `callback_urls`"
    found = read_url(policy, url)
    if isinstance(found, RefusedUrl):
        return found.reason
    if (reason := _refusal_of_path(found)) is not None:
        return reason
    if any(_fits(pattern, found) for pattern in patterns):
        return None
    return "it fits none of this app's `callback_urls`"


def _refusal(found: Destination, is_wild: bool) -> str | None:
    if found.scheme != "https" and not found.is_literal:
        return "only https can be allowed"
    if is_wild and (found.is_literal or found.host.count(".") + 1 < FEWEST_LABELS):
        return "`*.` stands before a name of two labels at least, such as *.example.com"
    if "*" in found.target:
        return "`*` stands for a name's beginning only; a path allows all that is below it"
    if "?" in found.target:
        return "a pattern has no query; any is allowed"
    return _refusal_of_path(found)


def _refusal_of_path(found: Destination) -> str | None:
    path = found.target.partition("?")[0]
    if TRICKY.search(path) or any(each in (".", "..") for each in path.split("/")):
        return "its path holds `.`, `..`, `;`, an empty segment, or an encoded dot, slash or %, which servers read differently"
    return None


def _fits(pattern: Pattern, found: Destination) -> bool:
    if (pattern.scheme, pattern.port) != (found.scheme, found.port):
        return False
    named = found.host.endswith("." + pattern.host) if pattern.is_wild else found.host == pattern.host
    return named and _segments(found)[: len(pattern.segments)] == pattern.segments


def _segments(found: Destination) -> tuple[str, ...]:
    path = found.target.partition("?")[0].strip("/")
    return tuple(path.split("/")) if path else ()
