"""The handshakes of who delivers what one has subscribed to: Meta, WebSub, CloudEvents, Event Grid, Amazon SNS.

Sources: Meta, "Webhooks: getting started"; W3C WebSub, section 5.3; CloudEvents, "HTTP 1.1 Web Hooks", section 4; Azure,
"Endpoint validation with Event Grid event schema"; AWS, "Subscribe an HTTPS endpoint to a topic".
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs

import msgspec

from gateway.challenges import JSON, Challenge
from gateway.egress import Policy, RefusedUrl, read_url
from gateway.errors import Forbidden, NotFound
from gateway.handshakes.base import Facts, Row, are_same, find_header, read_fields, read_json, read_object
from gateway.proofs import Request
from gateway.verifiers.sns import is_topic

EVENT_GRID = "eventgrid.azure.net"
VALIDATION = "Microsoft.EventGrid.SubscriptionValidationEvent"
LONGEST_CHALLENGE = 4096
ORIGIN = re.compile(r"[A-Za-z0-9._:-]{1,253}")
COUNT = re.compile(r"[1-9][0-9]{0,8}")
SNS_HOST = re.compile(r"sns\.[a-z0-9-]{3,63}\.amazonaws\.com(\.cn)?")
SEEN = re.compile(r"[^ -~]")


def answer_meta(facts: Facts, request: Request) -> Challenge | None:
    """Meta's GET: the challenge when its token is the app's. Raises Forbidden for any other GET."""
    if request.method != "GET":
        return None
    challenge = answer_subscription(facts.verify_token, read_fields(request))
    if challenge is None:
        message = "this challenge does not hold this app's verify token"
        raise Forbidden(message, reason="bad_verify_token")
    return challenge


def answer_subscription(verify_token: str | None, fields: dict[str, list[str]]) -> Challenge | None:
    """The challenge, when the token is the configured one; None for anything else, or a doubled field."""
    mode, token, challenge = (fields.get(f"hub.{name}", []) for name in ("mode", "verify_token", "challenge"))
    if verify_token is None or mode != ["subscribe"] or len(token) != 1 or len(challenge) != 1:
        return None
    if not are_same(token[0], verify_token):
        return None
    return Challenge(challenge[0]) if challenge[0] else None


def answer_hub(facts: Facts, request: Request) -> Challenge | None:
    """A WebSub hub's GET: may it subscribe this address to a topic, or unsubscribe it? Raises NotFound for no.

    What the app names is to be subscribed and not to be unsubscribed, and the reverse. That a hub denies a subscription
    is noted.
    """
    if request.method != "GET":
        return None
    fields = {name: values[0] for name, values in read_fields(request).items() if len(values) == 1}
    mode, topic, challenge = (fields.get(f"hub.{name}", "") for name in ("mode", "topic", "challenge"))
    wanted = topic in facts.topics
    if mode == "denied" and wanted:
        reason = SEEN.sub("?", fields.get("hub.reason", ""))[:200]
        return Challenge(note=f"the hub denies the subscription to {topic}: {reason or 'no reason given'}")
    agreed = wanted if mode == "subscribe" else mode == "unsubscribe" and bool(topic) and not wanted
    lease = fields.get("hub.lease_seconds")
    if not agreed or not 0 < len(challenge) <= LONGEST_CHALLENGE or (lease is not None and not COUNT.fullmatch(lease)):
        message = "this is no topic that the app asks for; its `topics` name those"
        raise NotFound(message, reason="unknown_topic")
    words = f"{mode}d to {topic}" + (f" for {lease} s" if lease else "")
    return Challenge(challenge, note=words if mode == "subscribe" else None)


def answer_validation(facts: Facts, request: Request) -> Challenge | None:
    """The OPTIONS by which a CloudEvents sender asks for consent. Raises Forbidden for an origin that has none.

    An address in WebHook-Request-Callback is never called: whoever asks would choose where we connect to.
    """
    origin = find_header(request, "webhook-request-origin")
    if request.method != "OPTIONS" or origin is None:
        return None
    if not ORIGIN.fullmatch(origin) or origin.lower() not in {each.lower() for each in facts.origins}:
        message = "this origin may not send here; the app's `webhook_origins` name those that may"
        raise Forbidden(message, reason="unknown_origin")
    headers = [("allow", "POST"), ("webhook-allowed-origin", origin)]
    rate = _grant_rate(find_header(request, "webhook-request-rate"), facts.rate)
    if rate is not None:
        headers.append(("webhook-allowed-rate", rate))
    called = request.values("webhook-request-callback")
    return Challenge(headers=tuple(headers), note="its WebHook-Request-Callback is not called" if called else None)


def answer_event_grid(facts: Facts, request: Request) -> Challenge | None:
    """Event Grid's OPTIONS, where it delivers CloudEvents: it is an origin that needs no naming."""
    return answer_validation(msgspec.structs.replace(facts, origins=(*facts.origins, EVENT_GRID)), request)


def validate_event_grid(facts: Facts, request: Request, secret: str | None) -> Challenge | None:
    """Event Grid's validation event: its code. Its `validationUrl` is never called."""
    if find_header(request, "aeg-event-type") != "SubscriptionValidation":
        return None
    events = read_json(request.body)
    event: Any = events[0] if isinstance(events, list) and len(events) == 1 else None
    if not isinstance(event, dict) or event.get("eventType") != VALIDATION or not isinstance(event.get("data"), dict):
        return None
    code = event["data"].get("validationCode")
    if not isinstance(code, str) or not 0 < len(code) <= LONGEST_CHALLENGE:
        return None
    return Challenge(msgspec.json.encode({"validationResponse": code}).decode(), media=JSON)


def answer_sns(facts: Facts, request: Request, secret: str | None) -> Challenge | None:
    """Amazon SNS, verified: who confirms a topic of the app's is followed. Raises Forbidden for another topic.

    Amazon signs the messages of everybody's topics, so a message of a topic that is not named proves nothing.
    """
    message = read_object(request.body)
    arn = message.get("TopicArn")
    if not isinstance(arn, str) or not any(is_topic(topic, arn) for topic in facts.topics):
        complaint = "this is no topic of the app's; its `topics` name those"
        raise Forbidden(complaint, reason="unknown_topic")
    if message.get("Type") == "UnsubscribeConfirmation":
        return Challenge(record="handshake", note="SNS says that this address was unsubscribed; that is not undone")
    if message.get("Type") != "SubscriptionConfirmation":
        return None
    url = message.get("SubscribeURL")
    if not isinstance(url, str) or not is_confirmation(url, message):
        complaint = "SubscribeURL is no address of Amazon SNS that confirms this subscription"
        raise Forbidden(complaint, reason="bad_subscribe_url")
    return Challenge(record="handshake", follow=url)


def is_confirmation(url: str, message: dict[str, Any]) -> bool:
    """Whether this address is one of Amazon SNS that confirms what the message is about, and nothing else."""
    # Read as the client will read it: two ways of reading would leave room between them.
    found = read_url(Policy(), url)
    if isinstance(found, RefusedUrl) or found.port != 443 or not SNS_HOST.fullmatch(found.host):
        return False
    path, _, query = found.target.partition("?")
    try:
        fields = parse_qs(query, keep_blank_values=True, strict_parsing=True, max_num_fields=10)
    except ValueError:
        return False
    asked = {"Action": "ConfirmSubscription", "TopicArn": message.get("TopicArn"), "Token": message.get("Token")}
    return path == "/" and all(fields.get(name) == [value] for name, value in asked.items())


def _grant_rate(asked: str | None, most: int | None) -> str | None:
    """Deliveries a minute: no more than the app takes, where it says so, nor than were asked for."""
    if asked is None:
        return None if most is None else str(most)
    if not COUNT.fullmatch(asked):
        return "*" if most is None else str(most)
    return asked if most is None else str(min(int(asked), most))


ROWS = {
    "meta": Row(early=answer_meta, methods=("GET",)),
    "websub": Row(early=answer_hub, methods=("GET",), needs_topics=True),
    "cloudevents": Row(early=answer_validation, methods=("OPTIONS",)),
    "eventgrid": Row(early=answer_event_grid, late=validate_event_grid, methods=("OPTIONS",)),
    "sns": Row(late=answer_sns, needs_proof=True, needs_topics=True),
}
