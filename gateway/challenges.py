"""Challenges: what a platform asks of an address before it sends events there. Silent.

Sources: Meta, "Webhooks: getting started" (the GET with hub.challenge); Slack, "url_verification" (a signed POST).
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import parse_qs

import msgspec

META = frozenset({"meta", "whatsapp", "facebook"})
"""Presets whose sender asks by GET."""
SLACK = "slack"
MOST_FIELDS = 100


class Challenge(msgspec.Struct, frozen=True):
    """The text that is given back, as text/plain; nothing is stored and nothing starts."""

    text: str


def answer_subscription(verify_token: str | None, query: str) -> Challenge | None:
    """Meta's GET: the challenge when its token is the configured one; None for anything else, or a doubled field."""
    try:
        fields = parse_qs(query, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return None
    mode, token, challenge = (fields.get(f"hub.{name}", []) for name in ("mode", "verify_token", "challenge"))
    if verify_token is None or mode != ["subscribe"] or len(token) != 1 or len(challenge) != 1:
        return None
    # Hashed first, so that the time tells not even the length.
    if not hmac.compare_digest(_digest(token[0]), _digest(verify_token)):
        return None
    return Challenge(challenge[0]) if challenge[0] else None


def find_challenge(body: object) -> Challenge | None:
    """Slack's POST, once it is verified: the challenge, or None for an ordinary event."""
    if not isinstance(body, dict) or body.get("type") != "url_verification":
        return None
    text = body.get("challenge")
    return Challenge(text) if isinstance(text, str) and text else None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
