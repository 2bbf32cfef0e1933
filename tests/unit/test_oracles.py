"""Oracles: what a sender's own SDK signs is accepted, and of what was changed on the way SDK and gateway think alike.

The SDKs are the extra `oracles`: `pip install '.[oracles]'`. A test whose SDK is missing is skipped.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import io
import json
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from standardwebhooks import Webhook as StandardWebhook

from gateway.signatures import PRESETS, Request, sign_request, verify
from tests.tools_senders import NOW, key_of

MANY = 1000
URL = "https://gateway.example/api/v1/webhooks/43?a=1&b=%20"
JSON = (("content-type", "application/json"),)
FORM = (("content-type", "application/x-www-form-urlencoded"),)
# Whatever a body might hold that somebody could normalise, re-encode or trim.
ALPHABET = "abcXYZ012 \t\r\n\"'\\{}[]:,&=+%/é߀漢🙂\u2028\x00\x7f"


def sdk(module: str, package: str) -> Any:
    """A sender's SDK; the test is skipped without it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        pytest.skip(f"the SDK is missing: pip install {package}, or all of them: pip install '.[oracles]'")


def texts(seed: str) -> Iterator[tuple[str, str]]:
    """MANY random bodies, each with another one that differs a little."""
    chance = random.Random(seed)
    for _ in range(MANY):
        text = "".join(chance.choices(ALPHABET, k=chance.randrange(1, 200)))
        place = chance.randrange(len(text))
        other = chance.choice([char for char in ALPHABET if char != text[place]])
        yield (
            text,
            chance.choice([text[:place] + other + text[place + 1 :], text + "\n", text[:place] + text[place + 1 :]]),
        )


def valid(name: str, secret: str, request: Request, now: float = NOW) -> bool:
    return verify(PRESETS[name], (secret,), request, now).valid


def posted(body: str, *headers: tuple[str, str]) -> Request:
    return Request("POST", URL, (*JSON, *headers), body.encode())


def judge_both(name: str, secret: str, headers: tuple[tuple[str, str], ...], text: str, other: str) -> None:
    """The body that was signed is accepted under these headers, and the other is refused."""
    assert valid(name, secret, posted(text, *headers)), text
    assert not valid(name, secret, posted(other, *headers)), other


def test_stripe_s_own_signatures() -> None:
    """What the stripe package signs is accepted; a body that differs is refused."""
    stripe = sdk("stripe", "stripe")
    for text, other in texts("stripe"):
        digest = stripe.WebhookSignature._compute_signature(f"{int(NOW)}.{text}", "whsec_abc")
        judge_both("stripe", "whsec_abc", (("stripe-signature", f"t={int(NOW)},v1={digest}"),), text, other)


def test_slack_s_own_signatures() -> None:
    """What slack-sdk signs is accepted; a body that differs is refused."""
    verifier = sdk("slack_sdk.signature", "slack-sdk").SignatureVerifier("a slack secret")
    for text, other in texts("slack"):
        signature = verifier.generate_signature(timestamp=str(int(NOW)), body=text)
        headers = (("x-slack-request-timestamp", str(int(NOW))), ("x-slack-signature", signature))
        judge_both("slack", "a slack secret", headers, text, other)


def test_svix_s_own_signatures() -> None:
    """What the svix package signs is accepted, as Svix's, as Resend's, and by the standard's names; others are refused."""
    secret = key_of(PRESETS["svix"]).public
    webhook, moment = sdk("svix.webhooks", "svix").Webhook(secret), datetime.fromtimestamp(NOW, UTC)
    for number, (text, other) in enumerate(texts("svix")):
        signature = webhook.sign(f"msg_{number}", moment, text)
        for name, start in (("svix", "svix"), ("resend", "svix"), ("standard-webhooks", "webhook")):
            values = {"id": f"msg_{number}", "timestamp": str(int(NOW)), "signature": signature}
            headers = tuple((f"{start}-{part}", value) for part, value in values.items())
            judge_both(name, secret, headers, text, other)


def test_the_standard_s_own_signatures() -> None:
    """What the standardwebhooks package signs is accepted; a body that differs is refused."""
    secret = key_of(PRESETS["standard-webhooks"]).public
    webhook, moment = StandardWebhook(secret), datetime.fromtimestamp(NOW, UTC)
    for number, (text, other) in enumerate(texts("standardwebhooks")):
        values = {"id": f"m{number}", "timestamp": str(int(NOW)), "signature": webhook.sign(f"m{number}", moment, text)}
        headers = tuple((f"webhook-{part}", value) for part, value in values.items())
        judge_both("standard-webhooks", secret, headers, text, other)


class Params(dict[str, list[str]]):
    """A form as web frameworks hand it to Twilio's validator."""

    def getall(self, name: str) -> list[str]:
        return self[name]


def test_twilio_s_own_signatures_of_forms() -> None:
    """What the twilio package signs of a form, with repeated and empty fields, is accepted; a form that differs is not."""
    validator = sdk("twilio.request_validator", "twilio").RequestValidator("a twilio token")
    chance = random.Random("twilio")
    for text, other in texts("twilio"):
        pairs = [
            (chance.choice(("From", "To", "Body", "é", "a b")), value) for value in (text, text[:3], "", text[3:9])
        ]
        params = Params()
        for name, value in pairs:
            params.setdefault(name, []).append(value)
        signature = validator.compute_signature(URL, params)
        for body, good in ((urlencode(pairs), True), (urlencode([*pairs[1:], (pairs[0][0], other + "x")]), False)):
            request = Request("POST", URL, (*FORM, ("x-twilio-signature", signature)), body.encode())
            assert valid("twilio", "a twilio token", request) is good


def test_twilio_s_own_signatures_of_json() -> None:
    """What the twilio package signs of a URL with the body's hash is accepted; another body is refused by both."""
    validator = sdk("twilio.request_validator", "twilio").RequestValidator("a twilio token")
    for text, other in texts("twilio json"):
        url = f"{URL}&bodySHA256={hashlib.sha256(text.encode()).hexdigest()}"
        signature = validator.compute_signature(url, {})
        for body in (text, other):
            request = Request("POST", url, (*JSON, ("x-twilio-signature", signature)), body.encode())
            assert (
                valid("twilio", "a twilio token", request) is validator.validate(url, body, signature) is (body == text)
            )


def test_discord_s_own_judgement() -> None:
    """What is signed for Discord its own helper takes, and what differs both refuse."""
    verify_key = sdk("discord_interactions", "discord-interactions").verify_key
    key = key_of(PRESETS["discord"])
    for text, other in texts("discord"):
        request = sign_request(PRESETS["discord"], key.private, posted(text), NOW, "")
        signature, moment = request.values("x-signature-ed25519")[0], request.values("x-signature-timestamp")[0]
        for body in (text, other):
            # The helper prints what it refuses.
            with contextlib.redirect_stdout(io.StringIO()):
                theirs = verify_key(body.encode(), signature, moment, key.public)
            assert valid("discord", key.public, posted(body, *request.headers[1:])) is theirs is (body == text)


def test_sendgrid_s_own_judgement() -> None:
    """What is signed for SendGrid its own helper takes, and what differs both refuse."""
    key = key_of(PRESETS["sendgrid"])
    helper = sdk("sendgrid.helpers.eventwebhook", "sendgrid").EventWebhook(key.public)
    for text, other in texts("sendgrid"):
        request = sign_request(PRESETS["sendgrid"], key.private, posted(text), NOW, "")
        signature, moment = (
            request.values(f"x-twilio-email-event-webhook-{part}")[0] for part in ("signature", "timestamp")
        )
        for body in (text, other):
            theirs = helper.verify_signature(body, signature, moment)
            assert valid("sendgrid", key.public, posted(body, *request.headers[1:])) is theirs is (body == text)


def test_mailgun_s_own_judgement() -> None:
    """What is signed for Mailgun its own helper takes, and a signature of another token both refuse."""
    guard = sdk("mailgun.security", "mailgun").SecurityGuard
    now = int(time.time())
    for number, (text, _) in enumerate(texts("mailgun")):
        secret = text + "key"
        request = sign_request(PRESETS["mailgun"], secret, posted("{}"), now, f"token{number}")
        for token in (f"token{number}", f"token{number}0"):
            proof = json.loads(request.body)["signature"] | {"token": token}
            theirs = guard.verify_webhook(secret, proof["token"], proof["timestamp"], proof["signature"])
            request = Request("POST", URL, JSON, json.dumps({"signature": proof}).encode())
            assert valid("mailgun", secret, request, now) is theirs is (token == f"token{number}")


def test_adyen_s_own_signatures() -> None:
    """What the Adyen package signs of an item is accepted, and refused as soon as a signed field differs."""
    util = sdk("Adyen.util", "Adyen")
    secret = key_of(PRESETS["adyen"]).public
    for text, other in texts("adyen"):
        item = {"pspReference": text, "amount": {"value": len(text), "currency": "EUR"}, "merchantReference": text[:7],
                "eventCode": "CAPTURE", "success": "true"}  # fmt: skip
        signature = util.generate_notification_sig(item, secret).decode()
        for reference in (text, other):
            whole = item | {"pspReference": reference, "additionalData": {"hmacSignature": signature}}
            document = {"notificationItems": [{"NotificationRequestItem": whole}]}
            theirs = util.is_valid_hmac_notification(document, secret)
            assert valid("adyen", secret, posted(json.dumps(document))) is theirs is (reference == text)


def test_adyen_s_own_signatures_of_payloads() -> None:
    """What the Adyen package signs of a whole body is accepted; a body that differs is refused."""
    util = sdk("Adyen.util", "Adyen")
    secret = key_of(PRESETS["adyen-header"]).public
    for text, other in texts("adyen-header"):
        signature = util.generate_payload_sig(text.encode(), secret).decode()
        assert base64.b64decode(signature)
        judge_both("adyen-header", secret, (("hmacsignature", signature),), text, other)
