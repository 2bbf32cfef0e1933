"""Known senders that do not put a plain HMAC into a header: public keys, proofs in the body or the URL, ways of their own.

The rows are of the same form as those of `presets`, which has them in its table. Senders that sign nothing are here too:
their proof is the app's token at the end of their URL (`url`), a field of its query, Basic credentials or a header; where
a sender can do several of these, the others are an override, such as `{scheme: docker-hub, kind: basic}`.

Source: each sender's own documentation or SDK, by way of the project's table of senders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Row = Mapping[str, object]

JSON: Final = ("application/json",)
FORM: Final = ("application/x-www-form-urlencoded",)
MULTIPART: Final = ("multipart/form-data",)
CLOUDEVENTS: Final = ("application/cloudevents+json", "application/cloudevents-batch+json")

V1A: Final = {"item_sep": " ", "kv_sep": ",", "sig_key": "v1a"}
# SendGrid documents no window, and tries again for a day.
ONE_DAY: Final = 86_400
ADYEN_ITEM: Final = "body:notificationItems.0.NotificationRequestItem"


def _standard_webhooks_v1a(names: str) -> Row:
    """Standard Webhooks 1.0 with asymmetric keys; `names` starts the three headers' names."""
    return {
        "kind": "public-key",
        "header": f"{names}-signature",
        "alg": "ed25519",
        "enc": "base64",
        "list": V1A,
        "template": f"{{header.{names}-id}}.{{timestamp}}.{{body}}",
        "key": "whpk",
        "timestamp": {"from": f"header:{names}-timestamp"},
        "delivery_id": f"header:{names}-id",
        "event_type": "body:type",
        "content_types": JSON,
    }


def _hubspot(version: str) -> Row:
    return {
        "kind": f"hubspot-{version}",
        "header": "X-HubSpot-Signature",
        "event_type": "body:0.subscriptionType",
        "content_types": JSON,
    }


KINDS: Final[Mapping[str, Row]] = {
    # Senders of these bring a Base64 secret, as the RFC's own examples do.
    "rfc9421": {"kind": "rfc9421", "alg": "by-key", "key": "base64", "timestamp": {"from": "field:created"}},
    "cavage": {
        "kind": "cavage",
        "header": "Signature",
        "alg": "by-key",
        "timestamp": {"from": "header:Date", "unit": "httpdate"},
    },
    # A message keeps its time over the retries, which go on for an hour.
    "sns": {
        "kind": "sns",
        "timestamp": {"from": "body:Timestamp", "unit": "rfc3339", "tolerance": 4500},
        "delivery_id": "body:MessageId",
        "event_type": "body:Type",
        "content_types": ("text/plain", *JSON),
    },
    "paypal": {
        "kind": "paypal",
        "delivery_id": "header:PAYPAL-TRANSMISSION-ID",
        "event_type": "body:event_type",
        "content_types": JSON,
    },
    "travis": {"kind": "travis", "content_types": FORM},
}
SPECIALS: Final[Mapping[str, Row]] = {
    "aws-sns": KINDS["sns"],
    "cavage": KINDS["cavage"],
    "drone": {
        **KINDS["cavage"],
        "alg": "hmac-sha256",
        "require": ("date", "digest"),
        "event_type": "header:X-Drone-Event",
        "content_types": JSON,
    },
    "paypal": KINDS["paypal"],
    "rfc9421": KINDS["rfc9421"],
    "travis": KINDS["travis"],
    "url": {"kind": "url"},
    "adyen": {
        "kind": "adyen",
        "key": "hex",
        "delivery_id": f"{ADYEN_ITEM}.pspReference+{ADYEN_ITEM}.eventCode",
        "event_type": f"{ADYEN_ITEM}.eventCode",
        "content_types": JSON,
    },
    "azure-event-grid": {
        "kind": "token",
        "proof": "query:code",
        "event_type": "header:aeg-event-type",
        "content_types": (*JSON, *CLOUDEVENTS),
    },
    "cloudevents-query": {
        "kind": "token",
        "proof": "query:access_token",
        "delivery_id": "header:ce-source+header:ce-id",
        "event_type": "header:ce-type",
        "content_types": (*JSON, *CLOUDEVENTS),
    },
    "discord": {
        "kind": "public-key",
        "header": "X-Signature-Ed25519",
        "alg": "ed25519",
        "template": "{timestamp}{body}",
        "key": "hex",
        "timestamp": {"from": "header:X-Signature-Timestamp"},
        "delivery_id": "body:id",
        "event_type": "body:type",
        "content_types": JSON,
    },
    "docker-hub": {"kind": "url", "content_types": JSON},
    "google-apps-script": {"kind": "hmac", "header": "X-Signature-256", "prefix": "sha256="},
    "hubspot-v1": _hubspot("v1"),
    "hubspot-v2": _hubspot("v2"),
    "jenkins": {"kind": "hmac", "header": "X-Signature-256", "prefix": "sha256=", "content_types": JSON},
    "jenkins-gwt": {"kind": "jenkins-gwt", "header": "X-Hub-Signature", "content_types": JSON},
    "jotform": {"kind": "url", "content_types": (*MULTIPART, *FORM)},
    "mailgun": {
        "kind": "hmac",
        "proof": "body:signature.signature",
        "template": "{json.signature.timestamp}{json.signature.token}",
        "timestamp": {"from": "body:signature.timestamp", "tolerance": 900},
        "delivery_id": "body:signature.token",
        "event_type": "body:event-data.event",
        "content_types": JSON,
    },
    "mailgun-form": {
        "kind": "hmac",
        "proof": "form:signature",
        "template": "{form.timestamp}{form.token}",
        "timestamp": {"from": "form:timestamp", "tolerance": 900},
        "delivery_id": "form:token",
        "event_type": "form:event",
        "content_types": (*FORM, *MULTIPART),
    },
    "netlify": {
        "kind": "netlify",
        "header": "X-Webhook-Signature",
        "event_type": "header:X-Netlify-Event",
        "content_types": JSON,
    },
    "sendgrid": {
        "kind": "public-key",
        "header": "X-Twilio-Email-Event-Webhook-Signature",
        "alg": "ecdsa-p256",
        "enc": "base64",
        "template": "{timestamp}{body}",
        "key": "spki",
        "timestamp": {"from": "header:X-Twilio-Email-Event-Webhook-Timestamp", "tolerance": ONE_DAY},
        "event_type": "body:0.event",
        "content_types": JSON,
    },
    "standard-webhooks-v1a": _standard_webhooks_v1a("webhook"),
    "svix-v1a": _standard_webhooks_v1a("svix"),
    "twilio": {
        "kind": "twilio",
        "header": "X-Twilio-Signature",
        "alg": "sha1",
        "delivery_id": "header:I-Twilio-Idempotency-Token",
        "content_types": (*FORM, *JSON),
    },
    "websub": {"kind": "websub", "header": "X-Hub-Signature", "content_types": ("*/*",)},
}
STARTS: Final[Mapping[str, Row]] = {**{name: row for name, row in SPECIALS.items() if row["kind"] == name}, **KINDS}
"""What a kind of one sender has, under what is written out beside it."""
ALIASES: Final[Mapping[str, str]] = {
    "adyen-standard": "adyen",
    "adyen-platforms": "adyen-header",
    "bitbucket-cloud": "bitbucket",
    "event-grid": "azure-event-grid",
    "facebook": "meta",
    "google-forms": "google-apps-script",
    "whatsapp": "meta",
    "sns": "aws-sns",
    "travis-ci": "travis",
}
