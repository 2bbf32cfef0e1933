"""Hops: how a callback says, so that it can be checked, how long the chain is that it belongs to. Silent.

The header `gateway-hop` is `v1,DEPTH,ROOT,MAC`: the depth of the run that ended and the session of the run that the
chain began with. MAC is HMAC-SHA256 in hex over `webhook-id.webhook-timestamp.DEPTH.ROOT`, under a key derived from the
callback's secret. It is bound to one attempt of one message, which the message's own signature binds to its body. While a
secret is being replaced there is one such text for each, separated by spaces.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

import msgspec

from gateway.proofs import Request

HEADER = "gateway-hop"
UNVERIFIED = "ignored: no secret of this app vouches for it"
PURPOSE = b"event-gateway hop v1"
MOST = 4
"""Texts in one header that are looked at."""
SHAPE = re.compile(r"v1,(\d{1,6}),([A-Za-z0-9_-]{1,80}),([0-9a-f]{64})")


class Hop(msgspec.Struct, frozen=True):
    """Where in a chain a run stands: the session it began with, and how many runs came before."""

    root: str
    depth: int


def write_hop(secret: bytes, hop: Hop, message_id: str, timestamp: str) -> str:
    """The header for one attempt of one message."""
    return f"v1,{hop.depth},{hop.root},{_mac(secret, hop, message_id, timestamp)}"


def read_hop(text: str, secrets: Iterable[bytes], message_id: str, timestamp: str) -> Hop | None:
    """The hop in a header that one of these secrets vouches for; None when none does."""
    keys = [secret for secret in secrets if secret]
    for part in text.split(" ")[:MOST]:
        found = SHAPE.fullmatch(part)
        if found is None:
            continue
        hop = Hop(found[2], int(found[1]))
        macs = [_mac(key, hop, message_id, timestamp) for key in keys]
        if any(hmac.compare_digest(mac, found[3]) for mac in macs):
            return hop
    return None


def take_over(request: Request, secrets: Iterable[bytes]) -> tuple[Hop | None, str | None]:
    """The hop that a request verifiably says it is part of, and what to note of it; nothing where it has no header."""
    given = request.values(HEADER)
    if not given:
        return None, None
    lines = [given, request.values("webhook-id"), request.values("webhook-timestamp")]
    hop = read_hop(lines[0][0], secrets, lines[1][0], lines[2][0]) if all(len(each) == 1 for each in lines) else None
    return hop, UNVERIFIED if hop is None else f"depth {hop.depth}, began with {hop.root}"


def _mac(secret: bytes, hop: Hop, message_id: str, timestamp: str) -> str:
    key = hmac.digest(secret, PURPOSE, hashlib.sha256)
    return hmac.digest(key, f"{message_id}.{timestamp}.{hop.depth}.{hop.root}".encode(), hashlib.sha256).hex()
