"""The handshakes of Slack, Discord and Zoom.

Sources: Slack, "url_verification", and "Implementing slash commands" for ssl_check; Discord, "Interactions overview" and
"Webhook events"; Zoom, "Validate your webhook endpoint".
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import parse_qs

import msgspec

from gateway.challenges import JSON, Challenge
from gateway.handshakes.base import (
    LONGEST_UNPROVEN,
    MOST_FIELDS,
    Facts,
    Row,
    is_form,
    read_fields,
    read_object,
)
from gateway.proofs import Request

LONGEST_TOKEN = 512


def check_ssl(facts: Facts, request: Request) -> Challenge | None:
    """Slack's unsigned look at the certificate, by GET or as a form: an empty 200."""
    if request.method == "GET":
        return Challenge() if read_fields(request).get("ssl_check") == ["1"] else None
    if b"ssl_check=1" not in request.body[:LONGEST_UNPROVEN] or len(request.body) > LONGEST_UNPROVEN:
        return None
    try:
        fields = parse_qs(request.body.decode("latin-1"), max_num_fields=MOST_FIELDS)
    except ValueError:
        return None
    # A slash command is signed and says what it is; whoever says both is asked for the signature.
    asks = is_form(request) and fields.get("ssl_check") == ["1"] and "command" not in fields
    return Challenge() if asks else None


def answer_url_verification(facts: Facts, request: Request, secret: str | None) -> Challenge | None:
    """Slack's signed question: the challenge as text."""
    body = read_object(request.body)
    text = body.get("challenge")
    if body.get("type") != "url_verification" or not isinstance(text, str) or not text:
        return None
    return Challenge(text)


def answer_discord(facts: Facts, request: Request, secret: str | None) -> Challenge | None:
    """Discord's two pings: of interactions (type 1), and of webhook events (type 0; there a 1 comes with its event)."""
    body = read_object(request.body)
    kind = body.get("type")
    if type(kind) is not int or "event" in body:
        return None
    if kind == 1:
        return Challenge('{"type":1}', media=JSON)
    return Challenge(status=204) if kind == 0 else None


def answer_zoom(facts: Facts, request: Request, secret: str | None) -> Challenge | None:
    """Zoom's signed question, asked again every 72 hours: the plain token, and its HMAC under the secret that matched."""
    body = read_object(request.body)
    payload = body.get("payload")
    if body.get("event") != "endpoint.url_validation" or not isinstance(payload, dict) or not secret:
        return None
    plain = payload.get("plainToken")
    if not isinstance(plain, str) or not 0 < len(plain) <= LONGEST_TOKEN:
        return None
    digest = hmac.new(secret.encode(), plain.encode(), hashlib.sha256).hexdigest()
    answer = msgspec.json.encode({"plainToken": plain, "encryptedToken": digest})
    return Challenge(answer.decode(), media=JSON)


ROWS = {
    "slack": Row(early=check_ssl, late=answer_url_verification, methods=("GET",)),
    "discord": Row(late=answer_discord),
    "zoom": Row(late=answer_zoom, needs_proof=True),
}
