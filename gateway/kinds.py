"""What there is to say about each kind of proof: the fields it takes, its algorithms, its forms of keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DECLARED: Final = ("header", "proof", "alg", "enc", "prefix", "list", "template", "key", "timestamp")
OWN: Final = ("label", "require", "topics", "webhook_id")
# The fields among DECLARED and OWN that a kind takes; all kinds take delivery_id, event_type and content_types.
TAKES: Final[Mapping[str, tuple[str, ...]]] = {
    "hmac": DECLARED,
    "public-key": DECLARED,
    "token": ("header", "proof", "prefix"),
    "basic": ("header",),
    "authorization": ("header",),
    "url": (),
    "none": (),
    "adyen": ("key",),
    "cavage": ("header", "alg", "key", "timestamp", "require"),
    "hubspot-v1": ("header",),
    "hubspot-v2": ("header",),
    "jenkins-gwt": ("header",),
    "netlify": ("header",),
    "paypal": ("timestamp", "webhook_id"),
    "rfc9421": ("alg", "key", "timestamp", "label", "require"),
    "sns": ("timestamp", "topics"),
    "travis": (),
    "twilio": ("header", "alg"),
    "websub": ("header",),
}
DECLARATIVE: Final = ("hmac", "public-key")
# Who holds such a value can make up any body, id and time.
SHARED: Final = ("token", "basic", "authorization", "url", "none")
HEADERLESS: Final = ("basic", "authorization", "url", "none", "adyen", "paypal", "rfc9421", "sns", "travis")
SIGNS_URL: Final = ("hubspot-v2", "rfc9421", "twilio")
# Who may sign the path, which a proxy changes: where the app names its `public_url`, that is it.
SIGNS_PATH: Final = ("cavage",)
KEY_FORMS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "hmac": ("raw", "base64", "hex", "whsec"),
    "public-key": ("hex", "whpk", "spki"),
    "cavage": ("raw", "base64", "hex"),
    "rfc9421": ("raw", "base64", "hex"),
}
ALGORITHMS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "hmac": ("sha1", "sha256", "sha384", "sha512"),
    "public-key": ("ed25519", "ecdsa-p256"),
    "twilio": ("sha1", "sha256"),
    "cavage": ("by-key", "hmac-sha256", "rsa-v1_5-sha256"),
    "rfc9421": (
        "by-key",
        "hmac-sha256",
        "ed25519",
        "ecdsa-p256-sha256",
        "ecdsa-p384-sha384",
        "rsa-pss-sha512",
        "rsa-v1_5-sha256",
    ),
}
# Where the one time stands that such a sender signs.
TIMES_OF: Final[Mapping[str, str]] = {
    "paypal": "header:PAYPAL-TRANSMISSION-TIME",
    "rfc9421": "field:created",
    "sns": "body:Timestamp",
}
# Whose key is fetched from where they serve it.
FETCHING: Final = ("paypal", "sns", "travis")
# What an app asks of a message whose scheme doesn't say: the body, and with keys that other receivers know, the host.
REQUIRED_BY_APPS: Final[Mapping[str, tuple[str, ...]]] = {
    "cavage": ("date", "digest"),
    "rfc9421": ("@method", "@authority", "content-digest"),
}
# What a sender could do without, but an app can't: anyone may have a key that such a sender vouches for.
ASKED_OF_APPS: Final[Mapping[str, tuple[str, str]]] = {
    "paypal": ("webhook_id", "give the id that PayPal shows for this webhook; it is part of what is signed"),
    "sns": (
        "topics",
        "name the topics whose messages count, as in [arn:aws:sns:us-east-2:123456789012:deploys]: everyone with an"
        " account can have Amazon sign for a topic of their own. A * at the end stands for all that start so",
    ),
}
