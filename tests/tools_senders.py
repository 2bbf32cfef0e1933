"""For tests of senders: a secret, a key pair and a request of the form that each preset's sender has."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.signatures import PRESETS, Request, Scheme, sign_request

NOW = 1_750_000_000.0
BASE = "https://gateway.example/api/v1/webhooks/"
ADYEN = {
    "pspReference": "7914",
    "amount": {"value": 1130, "currency": "EUR"},
    "eventCode": "CAPTURE",
    "success": "true",
}
FORM = b"other=1&payload=%7B%22a%22%3A+%22%C3%A9%22%7D"


class Key(NamedTuple):
    """What the sender signs with, and what the app is given."""

    private: str
    public: str


def key_of(scheme: Scheme, seed: str = "one") -> Key:
    """A secret, or a key pair, of the scheme's form; another seed gives another."""
    raw = hashlib.sha256(seed.encode()).digest()
    if scheme.kind == "public-key":
        return _pair(scheme, raw)
    texts = {
        "raw": raw.hex(),
        "hex": raw.hex(),
        "base64": base64.b64encode(raw).decode(),
        "whsec": "whsec_" + base64.b64encode(raw).decode(),
    }
    text = ("user:" if scheme.kind == "basic" else "") + texts[scheme.key]
    return Key(text, text)


def _pair(scheme: Scheme, raw: bytes) -> Key:
    if scheme.alg == "ed25519":
        made = Ed25519PrivateKey.from_private_bytes(raw)
        public = made.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        if scheme.key == "hex":
            return Key(raw.hex(), public.hex())
        if scheme.key == "whpk":
            return Key("whsk_" + _text(raw), "whpk_" + _text(public))
        return Key(
            _text(made.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())),
            _text(made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
        )
    curve = ec.derive_private_key(int.from_bytes(raw, "big") >> 1, ec.SECP256R1())
    der = curve.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Key(_text(der), _text(curve.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)))


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def bare_request(name: str, key: Key) -> Request:
    """A request that this preset's sender could sign."""
    scheme = PRESETS[name]
    kind = "application/json"
    body = json.dumps({"id": "evt_1", "webhookTimestamp": int(NOW * 1000)}).encode()
    if "form." in scheme.template or scheme.kind == "twilio" or (scheme.proof or "").startswith("form:"):
        kind, body = "application/x-www-form-urlencoded", FORM
    if scheme.kind == "adyen":
        body = json.dumps({"notificationItems": [{"NotificationRequestItem": ADYEN}] * 2}).encode()
    url = BASE + (key.private if scheme.kind == "url" else "43?payload=%7B%7D")
    return Request("POST", url, (("content-type", kind),), body)


def signed_by(name: str, key: Key, now: float = NOW) -> Request:
    """A request as this preset's sender posts it."""
    return sign_request(PRESETS[name], key.private, bare_request(name, key), now, "msg_1")


def with_lines(request: Request, name: str, *values: str) -> Request:
    """The same request with these lines, and no others, of one header."""
    others = tuple(line for line in request.headers if line[0] != name)
    return Request(request.method, request.url, (*others, *((name, value) for value in values)), request.body)
