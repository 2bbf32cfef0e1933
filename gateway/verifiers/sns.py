"""Amazon SNS over HTTP: the signature, its version and the address of its certificate stand in the JSON body.

Source: Amazon's own validators (aws-js-sns-message-validator, aws-php-sns-message-validator).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from gateway.errors import ConfigError
from gateway.proofs import Request, Verdict, read_rfc3339, refuse
from gateway.schemes import Scheme
from gateway.verifiers.asymmetric import sign_text
from gateway.verifiers.claims import judge_age
from gateway.verifiers.encodings import decode_base64, encode_base64
from gateway.verifiers.messagekeys import check_public, find_public
from gateway.verifiers.placing import Signed

ALGORITHMS: Final[Mapping[str, str]] = {"1": "rsa-v1_5-sha1", "2": "rsa-v1_5-sha256"}
"""What a SignatureVersion means."""
TYPES: Final = ("Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation")
# One list for all types: what is present is signed, in this order.
SIGNED: Final = ("Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
NEEDED: Final = ("Message", "MessageId", "Timestamp", "TopicArn", "Type")
# A region, and not the `s3-…` of a bucket that somebody called sns.
HOST: Final = r"https://sns\.[a-z]{2,}(-[a-z]+)+-[0-9]+\.amazonaws\.com(\.cn)?/"
ADDRESS: Final = re.compile(HOST + r"[A-Za-z0-9._-]+\.pem")
# As messages are spelt that have come by way of Amazon's Lambda.
SPELLINGS: Final[Mapping[str, str]] = {"SigningCertUrl": "SigningCertURL", "SubscribeUrl": "SubscribeURL"}

Message = Mapping[str, str]


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """Judge a message by certificates or public keys, fetched from where `find_address` says or pinned. Never raises.

    Refused are: a certificate's address that is not Amazon's, whatever the keys; a topic that is not among the
    scheme's; a signature of another version; and, once it holds, a time outside the tolerance.
    """
    message = read_message(request)
    if isinstance(message, Verdict):
        return message
    refusal = judge_source(scheme, message)
    if refusal is not None:
        return refusal
    alg, signature = ALGORITHMS.get(message.get("SignatureVersion", "")), decode_base64(message.get("Signature", ""))
    if alg is None or not signature:
        return refuse("no_candidate" if alg is None else "bad_encoding")
    verdict = find_public(alg, secrets, signature, write_signed(message))
    return (judge_time(scheme, message, now) or verdict) if verdict.valid else verdict


def find_address(scheme: Scheme, request: Request) -> str | Verdict:
    """Where this message's certificate is; or why it is refused already, and nothing fetched."""
    message = read_message(request)
    if isinstance(message, Verdict):
        return message
    return judge_source(scheme, message) or message["SigningCertURL"]


def read_content(scheme: Scheme, request: Request) -> bytes:
    """What is signed of a message, however its JSON is spelt and whatever stands beside it."""
    message = read_message(request)
    return request.body if isinstance(message, Verdict) else write_signed(message)


def read_message(request: Request) -> Message | Verdict:
    """The texts of a message of a known type; a null is as good as nothing."""
    try:
        found = msgspec.json.decode(request.body)
    except (ValueError, RecursionError):
        return refuse("malformed_body")
    if not isinstance(found, dict):
        return refuse("malformed_body")
    found = {SPELLINGS[name]: found[name] for name in SPELLINGS if name in found} | found
    texts = {name: value for name, value in found.items() if isinstance(value, str)}
    wrong = any(found.get(name) is not None and name not in texts for name in SIGNED)
    if wrong or not all(texts.get(name) for name in NEEDED) or texts["Type"] not in TYPES:
        return refuse("malformed_body")
    # Only the first signed text may hold line ends; in the others they would move the borders between texts.
    if any("\n" in texts.get(name, "") for name in SIGNED[1:]):
        return refuse("malformed_body")
    return texts


def judge_source(scheme: Scheme, message: Message) -> Verdict | None:
    """A refusal of a message from elsewhere, or None. Nobody has vouched for these words yet."""
    if not ADDRESS.fullmatch(message.get("SigningCertURL", "")):
        return refuse("foreign_key")
    if scheme.topics is not None and not any(is_topic(topic, message["TopicArn"]) for topic in scheme.topics):
        return refuse("foreign_topic")
    return None


def is_topic(wanted: str, arn: str) -> bool:
    """Whether this is the topic; one that ends in * stands for all that start so."""
    return arn.startswith(wanted[:-1]) if wanted.endswith("*") else arn == wanted


def write_signed(message: Message) -> bytes:
    """What Amazon signs: names and texts, each on a line."""
    return "".join(f"{name}\n{message[name]}\n" for name in SIGNED if name in message).encode("utf-8", "surrogatepass")


def judge_time(scheme: Scheme, message: Message, now: float) -> Verdict | None:
    seconds = read_rfc3339(message["Timestamp"])
    if seconds is None:
        return refuse("malformed_timestamp")
    return None if scheme.timestamp is None else judge_age(seconds, scheme.timestamp, now)


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The body with `Signature` in it, by a private key in PEM. Raises ConfigError when it is no message."""
    message = read_message(request)
    if isinstance(message, Verdict):
        raise ConfigError("the body is no message of SNS: it needs " + ", ".join(NEEDED))
    alg = ALGORITHMS.get(message.get("SignatureVersion", ""))
    if alg is None:
        raise ConfigError("the body's SignatureVersion has to be 1 or 2")
    try:
        signature = sign_text(alg, secret, write_signed(message))
    except (ValueError, TypeError):
        raise ConfigError("signing takes an RSA private key in PEM") from None
    signed = msgspec.json.decode(request.body) | {"Signature": encode_base64(signature)}
    return Signed(body=msgspec.json.encode(signed))


def check(scheme: Scheme, secret: str) -> None:
    """A secret pins the certificate, or its public key. Raises ConfigError for anything else."""
    check_public("rsa-v1_5-sha256", secret)
