"""The known senders: a row each, in the words an operator may use; a field that is left out has Scheme's default.

Adding a sender that fits the form is a row here and a vector in tests/samples/signatures. `delivery_id` is
given only where the sender keeps it over its own retries and changes it for anything else. What is no plain HMAC in a
header, and senders that sign nothing, are in `specials`.

Source: each sender's own documentation or SDK, by way of the project's table of senders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.specials import ALIASES, CLOUDEVENTS, FORM, JSON, SPECIALS, Row

XML: Final = ("application/xml", "text/xml")

COMMAS: Final = {"item_sep": ",", "kv_sep": "=", "sig_key": "v1"}
SPACES: Final = {"item_sep": " ", "kv_sep": ",", "sig_key": "v1"}


def _standard_webhooks(names: str, event_type: str = "body:type") -> Row:
    """Standard Webhooks 1.0 with symmetric keys; `names` starts the three headers' names."""
    return {
        "kind": "hmac",
        "header": f"{names}-signature",
        "enc": "base64",
        "list": SPACES,
        "template": f"{{header.{names}-id}}.{{timestamp}}.{{body}}",
        "key": "whsec",
        "timestamp": {"from": f"header:{names}-timestamp"},
        "delivery_id": f"header:{names}-id",
        "event_type": event_type,
        "content_types": JSON,
    }


def _gitea(name: str, template: str, content_types: tuple[str, ...]) -> Row:
    """Gitea and its relatives sign the JSON, which a form carries in its field `payload`."""
    return {
        "kind": "hmac",
        "header": f"X-{name}-Signature",
        "template": template,
        "delivery_id": f"header:X-{name}-Delivery",
        "event_type": f"header:X-{name}-Event",
        "content_types": content_types,
    }


KNOWN: Final[Mapping[str, Row]] = {
    **SPECIALS,
    "none": {"kind": "none"},
    "basic": {"kind": "basic"},
    "bearer": {"kind": "token", "header": "Authorization", "prefix": "Bearer "},
    "orqo": {"kind": "hmac", "header": "X-Signature-256", "prefix": "sha256="},
    "standard-webhooks": _standard_webhooks("webhook"),
    "svix": _standard_webhooks("svix"),
    "adyen-header": {
        "kind": "hmac",
        "header": "HmacSignature",
        "enc": "base64",
        "key": "hex",
        "event_type": "body:type",
        "content_types": JSON,
    },
    "airtable": {
        "kind": "hmac",
        "header": "X-Airtable-Content-MAC",
        "prefix": "hmac-sha256=",
        "key": "base64",
        "content_types": JSON,
    },
    "alertmanager": {"kind": "authorization", "event_type": "body:status", "content_types": JSON},
    "alertmanager-bearer": {
        "kind": "token",
        "header": "Authorization",
        "prefix": "Bearer ",
        "event_type": "body:status",
        "content_types": JSON,
    },
    "asana": {"kind": "hmac", "header": "X-Hook-Signature", "content_types": JSON},
    "azure-devops": {
        "kind": "basic",
        "delivery_id": "body:subscriptionId+body:notificationId",
        "event_type": "body:eventType",
        "content_types": JSON,
    },
    "bitbucket": {
        "kind": "hmac",
        "header": "X-Hub-Signature",
        "prefix": "sha256=",
        "delivery_id": "header:X-Request-UUID",
        "event_type": "header:X-Event-Key",
        "content_types": JSON,
    },
    "bitbucket-server": {
        "kind": "hmac",
        "header": "X-Hub-Signature",
        "prefix": "sha256=",
        "delivery_id": "header:X-Request-Id",
        "event_type": "header:X-Event-Key",
        "content_types": JSON,
    },
    "buildkite": {
        "kind": "hmac",
        "header": "X-Buildkite-Signature",
        "list": {"item_sep": ",", "kv_sep": "=", "sig_key": "signature"},
        "template": "{timestamp}.{body}",
        "timestamp": {"from": "field:timestamp"},
        "event_type": "header:X-Buildkite-Event",
        "content_types": JSON,
    },
    "buildkite-token": {
        "kind": "token",
        "header": "X-Buildkite-Token",
        "event_type": "header:X-Buildkite-Event",
        "content_types": JSON,
    },
    "circleci": {
        "kind": "hmac",
        "header": "circleci-signature",
        "list": COMMAS,
        "delivery_id": "body:id",
        "event_type": "header:circleci-event-type",
        "content_types": JSON,
    },
    "cloudevents": {
        "kind": "token",
        "header": "Authorization",
        "prefix": "Bearer ",
        "delivery_id": "header:ce-source+header:ce-id",
        "event_type": "header:ce-type",
        "content_types": (*JSON, *CLOUDEVENTS),
    },
    "cloudflare-notifications": {
        "kind": "token",
        "header": "cf-webhook-auth",
        "event_type": "body:alert_type",
        "content_types": JSON,
    },
    "cloudflare-stream": {
        "kind": "hmac",
        "header": "Webhook-Signature",
        "list": {"item_sep": ",", "kv_sep": "=", "sig_key": "sig1"},
        "template": "{timestamp}.{body}",
        "timestamp": {"from": "field:time"},
        "event_type": "body:status.state",
        "content_types": JSON,
    },
    "datadog": {"kind": "basic", "content_types": (*JSON, *FORM)},
    "forgejo": _gitea("Forgejo", "{payload}", (*JSON, *FORM)),
    "forgejo-form": _gitea("Forgejo", "{form.payload}", FORM),
    "gitea": _gitea("Gitea", "{payload}", (*JSON, *FORM)),
    "gitea-form": _gitea("Gitea", "{form.payload}", FORM),
    "github": {
        "kind": "hmac",
        "header": "X-Hub-Signature-256",
        "prefix": "sha256=",
        "delivery_id": "header:X-GitHub-Delivery",
        "event_type": "header:X-GitHub-Event",
        "content_types": (*JSON, *FORM),
    },
    "gitlab": {
        "kind": "token",
        "header": "X-Gitlab-Token",
        "delivery_id": "header:Idempotency-Key",
        "event_type": "header:X-Gitlab-Event",
        "content_types": JSON,
    },
    "gitlab-signed": _standard_webhooks("webhook", event_type="header:X-Gitlab-Event"),
    "gogs": _gitea("Gogs", "{payload}", (*JSON, *FORM)),
    "gogs-form": _gitea("Gogs", "{form.payload}", FORM),
    "grafana": {
        "kind": "hmac",
        "header": "X-Grafana-Alerting-Signature",
        "event_type": "body:status",
        "content_types": JSON,
    },
    "grafana-timestamp": {
        "kind": "hmac",
        "header": "X-Grafana-Alerting-Signature",
        "template": "{timestamp}:{body}",
        "timestamp": {"from": "header:X-Grafana-Alerting-Timestamp"},
        "event_type": "body:status",
        "content_types": JSON,
    },
    "harbor": {
        "kind": "token",
        "header": "Authorization",
        "event_type": "body:type",
        "content_types": (*JSON, *CLOUDEVENTS),
    },
    "hubspot-v3": {
        "kind": "hmac",
        "header": "X-HubSpot-Signature-v3",
        "enc": "base64",
        "template": "{method}{decoded_url}{body}{timestamp}",
        "timestamp": {"from": "header:X-HubSpot-Request-Timestamp", "unit": "ms"},
        "event_type": "body:0.subscriptionType",
        "content_types": JSON,
    },
    "intercom": {
        "kind": "hmac",
        "header": "X-Hub-Signature",
        "alg": "sha1",
        "prefix": "sha1=",
        "delivery_id": "body:id",
        "event_type": "body:topic",
        "content_types": JSON,
    },
    "jira": {
        "kind": "hmac",
        "header": "X-Hub-Signature",
        "prefix": "sha256=",
        "delivery_id": "header:X-Atlassian-Webhook-Identifier",
        "event_type": "body:webhookEvent",
        "content_types": JSON,
    },
    "linear": {
        "kind": "hmac",
        "header": "Linear-Signature",
        "timestamp": {"from": "body:webhookTimestamp", "unit": "ms", "tolerance": 60},
        "delivery_id": "header:Linear-Delivery",
        "event_type": "body:type",
        "content_types": JSON,
    },
    "meta": {
        "kind": "hmac",
        "header": "X-Hub-Signature-256",
        "prefix": "sha256=",
        "event_type": "body:object",
        "content_types": JSON,
    },
    "notion": {
        "kind": "hmac",
        "header": "X-Notion-Signature",
        "prefix": "sha256=",
        "delivery_id": "body:id",
        "event_type": "body:type",
        "content_types": JSON,
    },
    "pagerduty": {
        "kind": "hmac",
        "header": "X-PagerDuty-Signature",
        "list": COMMAS,
        "delivery_id": "body:event.id",
        "event_type": "body:event.event_type",
        "content_types": JSON,
    },
    "postmark": {"kind": "basic", "event_type": "body:RecordType", "content_types": JSON},
    "resend": _standard_webhooks("svix"),
    "sentry": {
        "kind": "hmac",
        "header": "Sentry-Hook-Signature",
        "delivery_id": "header:Request-ID",
        "event_type": "header:Sentry-Hook-Resource",
        "content_types": JSON,
    },
    "shopify": {
        "kind": "hmac",
        "header": "X-Shopify-Hmac-Sha256",
        "enc": "base64",
        "delivery_id": "header:X-Shopify-Webhook-Id",
        "event_type": "header:X-Shopify-Topic",
        "content_types": (*JSON, *XML),
    },
    "slack": {
        "kind": "hmac",
        "header": "X-Slack-Signature",
        "prefix": "v0=",
        "template": "v0:{timestamp}:{body}",
        "timestamp": {"from": "header:X-Slack-Request-Timestamp"},
        "delivery_id": "body:event_id",
        "event_type": "body:type",
        "content_types": (*JSON, *FORM),
    },
    "square": {
        "kind": "hmac",
        "header": "x-square-hmacsha256-signature",
        "enc": "base64",
        "template": "{url}{body}",
        "delivery_id": "body:event_id",
        "event_type": "body:type",
        "content_types": JSON,
    },
    "stripe": {
        "kind": "hmac",
        "header": "Stripe-Signature",
        "list": COMMAS,
        "template": "{timestamp}.{body}",
        "timestamp": {"from": "field:t"},
        "delivery_id": "body:id",
        "event_type": "body:type",
        "content_types": JSON,
    },
    "tally": {
        "kind": "hmac",
        "header": "Tally-Signature",
        "enc": "base64",
        "delivery_id": "body:eventId",
        "event_type": "body:eventType",
        "content_types": JSON,
    },
    "telegram": {
        "kind": "token",
        "header": "X-Telegram-Bot-Api-Secret-Token",
        "delivery_id": "body:update_id",
        "content_types": JSON,
    },
    "trello": {
        "kind": "hmac",
        "header": "X-Trello-Webhook",
        "alg": "sha1",
        "enc": "base64",
        "template": "{body}{url}",
        "delivery_id": "body:action.id",
        "event_type": "body:action.type",
        "content_types": JSON,
    },
    "typeform": {
        "kind": "hmac",
        "header": "Typeform-Signature",
        "enc": "base64",
        "prefix": "sha256=",
        "delivery_id": "body:event_id",
        "event_type": "body:event_type",
        "content_types": JSON,
    },
    "vercel": {
        "kind": "hmac",
        "header": "x-vercel-signature",
        "alg": "sha1",
        "delivery_id": "body:id",
        "event_type": "body:type",
        "content_types": JSON,
    },
    "woocommerce": {
        "kind": "hmac",
        "header": "X-WC-Webhook-Signature",
        "enc": "base64",
        "delivery_id": "header:X-WC-Webhook-Delivery-ID",
        "event_type": "header:X-WC-Webhook-Topic",
        "content_types": JSON,
    },
    "zendesk": {
        "kind": "hmac",
        "header": "X-Zendesk-Webhook-Signature",
        "enc": "base64",
        "template": "{timestamp}{body}",
        "timestamp": {"from": "header:X-Zendesk-Webhook-Signature-Timestamp", "unit": "rfc3339"},
        "delivery_id": "header:X-Zendesk-Webhook-Invocation-Id",
        "event_type": "body:type",
        "content_types": (*JSON, *XML, *FORM),
    },
    "zoom": {
        "kind": "hmac",
        "header": "x-zm-signature",
        "prefix": "v0=",
        "template": "v0:{timestamp}:{body}",
        "timestamp": {"from": "header:x-zm-request-timestamp"},
        "event_type": "body:event",
        "content_types": JSON,
    },
}
ROWS: Final[Mapping[str, Row]] = {**KNOWN, **{alias: KNOWN[name] for alias, name in ALIASES.items()}}
UNIQUE_BODIES: Final = frozenset(
    (
        *("adyen-header", "adyen-platforms", "airtable", "asana", "facebook", "hubspot-v1", "hubspot-v2", "meta"),
        *("netlify", "travis", "travis-ci", "websub", "whatsapp"),
    )
)
"""Who signs neither an id nor a time, but never sends one body for two events: there is a time or an id inside."""
