"""The handshakes that only see whether somebody is there, and Adyen's word for `taken`.

Sources: Atlassian, "Trello: webhooks"; Intercom, "Setting up webhooks"; WooCommerce, WC_Webhook::deliver_ping; Adyen,
"Handle webhook events"; GitHub, Bitbucket, Buildkite and PagerDuty on their ping events.
"""

from __future__ import annotations

import re
from functools import partial

from gateway.challenges import JSON, Challenge
from gateway.errors import ConfigError
from gateway.handshakes.base import Facts, Row, is_form, read_object
from gateway.proofs import Request, read_source
from gateway.schemes import Source, parse_source

PING = "ping:"
PONG = Challenge('{"status":"ping","runs":[]}', media=JSON, record="ping")
HOOK_ID = re.compile(rb"webhook_id=[0-9]{1,20}")


def answer_head(facts: Facts, request: Request) -> Challenge | None:
    """The HEAD that Trello and Intercom make before they keep an address."""
    return Challenge() if request.method == "HEAD" else None


def answer_hook_id(facts: Facts, request: Request) -> Challenge | None:
    """WooCommerce's unsigned form, sent when a webhook is saved: exactly 200, and nothing else."""
    asks = request.method == "POST" and is_form(request) and HOOK_ID.fullmatch(request.body)
    return Challenge() if asks and not request.values("x-wc-webhook-signature") else None


def answer_marked(line: tuple[str, str], facts: Facts, request: Request, secret: str | None) -> Challenge | None:
    """A verified event with a header that says it is a ping."""
    return PONG if line in request.headers else None


def answer_ping(source: Source, value: str, facts: Facts, request: Request, secret: str | None) -> Challenge | None:
    """A verified event whose body says that it is a ping."""
    return PONG if read_source(source, request, read_object(request.body)) == value else None


def read_ping(text: str) -> Row:
    """The handshake written `ping:HEADER/VALUE`, or `ping:body:PATH/VALUE`. Raises ConfigError, without a place."""
    place, slash, value = text.removeprefix(PING).partition("/")
    if not slash or not place or not value:
        message = f"{text!r} says not what a ping holds; write ping:HEADER/VALUE or ping:body:PATH/VALUE"
        raise ConfigError(message)
    source = parse_source(place if ":" in place else f"header:{place}", ("header", "body"), "ping")
    if source.kind == "header":
        return Row(late=partial(answer_marked, (source.name, value)))
    return Row(late=partial(answer_ping, source, value))


ROWS = {
    "head200": Row(early=answer_head, methods=("HEAD",)),
    "woocommerce": Row(early=answer_hook_id),
    # Older merchants' accounts take a notification as delivered only when this is what comes back.
    "adyen": Row(thanks=Challenge("[accepted]", status=202)),
}
