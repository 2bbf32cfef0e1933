"""The handshakes of senders that hand over the secret themselves: Asana and Notion. Trust on first use.

Sources: Asana, "Webhooks guide"; Notion, "Webhooks".
"""

from __future__ import annotations

import re

from gateway.challenges import Challenge, Offer
from gateway.handshakes.base import LONGEST_UNPROVEN, Facts, Row, find_header, read_object
from gateway.proofs import Request

SECRET = re.compile(r"[!-~]{16,255}")


def read_hook_secret(facts: Facts, request: Request) -> Offer | None:
    """Asana's X-Hook-Secret, to be given back in the same header. What carries a signature is an event."""
    secret = find_header(request, "x-hook-secret")
    if request.method != "POST" or secret is None or request.values("x-hook-signature"):
        return None
    return Offer(secret, Challenge(headers=(("x-hook-secret", secret),))) if SECRET.fullmatch(secret) else None


def read_verification_token(facts: Facts, request: Request) -> Offer | None:
    """Notion's token, which an operator pastes back into Notion, and which is the key of all that follows."""
    if request.method != "POST" or len(request.body) > LONGEST_UNPROVEN or b"verification_token" not in request.body:
        return None
    body = read_object(request.body)
    token = body.get("verification_token")
    if set(body) != {"verification_token"} or not isinstance(token, str) or not SECRET.fullmatch(token):
        return None
    return Offer(token, Challenge())


ROWS = {
    "asana": Row(early=read_hook_secret, gives_secret=True),
    "notion": Row(early=read_verification_token, gives_secret=True),
}
