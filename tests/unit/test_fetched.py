"""Senders that serve their keys: what they sign is accepted, from their own hosts only, for the topics that are named."""

from __future__ import annotations

import base64
import datetime
import json
from typing import Any
from urllib.parse import quote_plus

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from gateway.app_checks import check_app
from gateway.apps import App, LiveApp
from gateway.errors import ConfigError
from gateway.proofs import Request, Verdict
from gateway.signatures import (
    PRESETS,
    check_secret,
    delivery_id,
    event_type,
    read_scheme,
    sign_request,
    signed_content,
    verify,
)
from gateway.verifiers import sns
from gateway.verifiers.fetched import FETCHED, TRAVIS_KEY, find_address, read_key
from tests.tools_keys import END, START, Authority, pem, private_key, private_pem, public_pem

NOW = 1_750_000_000.0
URL = "https://gateway.example/hooks/app"
TOPIC = "arn:aws:sns:us-west-2:123456789012:deploys"
SNS_ADDRESS = "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-0f.pem"
PAYPAL_ADDRESS = "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-a5cafa77"
PAYPAL = read_scheme({"scheme": "paypal", "webhook_id": "9XL90610J3647323C"}, "verify")
NAME = "messageverificationcerts.paypal.com"
AUTHORITY = Authority()
ROOTS = [AUTHORITY.certificate.public_bytes(Encoding.DER)]
MESSAGE = {
    "Type": "Notification",
    "MessageId": "17dea24b-55c2-540b-8362-f916557af765",
    "TopicArn": TOPIC,
    "Message": "built\nin a minute",
    "Timestamp": "2025-06-15T15:06:40.000Z",
    "SignatureVersion": "2",
    "SigningCertURL": SNS_ADDRESS,
}


def notified(secret: str | None = None, **changes: Any) -> Request:
    """A message as SNS posts it; what is None is left out."""
    message = {name: value for name, value in (MESSAGE | changes).items() if value is not None}
    bare = Request("POST", URL, (("content-type", "text/plain"),), json.dumps(message).encode())
    return sign_request(PRESETS["aws-sns"], secret or private_pem("rsa"), bare, NOW, "")


def altered(request: Request, **changes: Any) -> Request:
    """The message with other words, and the signature of the old ones."""
    message = json.loads(request.body) | changes
    kept = {name: value for name, value in message.items() if value is not ...}
    return Request("POST", URL, request.headers, json.dumps(kept).encode())


def paid(body: bytes = b'{"event_type":"PAID"}', scheme: Any = PAYPAL, **changes: str | None) -> Request:
    """A request as PayPal posts it; a header that is None is left out after signing."""
    headers = {
        "paypal-transmission-id": "d938e770-8046-11e6-8103-6b62a8a99ac4",
        "paypal-transmission-time": "2025-06-15T15:06:40Z",
        "paypal-cert-url": PAYPAL_ADDRESS,
    }
    bare = Request("POST", URL, tuple(headers.items()), body)
    request = sign_request(scheme, private_pem("rsa"), bare, NOW, "")
    wanted = {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [(name, wanted.get(name, value)) for name, value in request.headers]
    return Request("POST", URL, tuple((name, value) for name, value in lines if value is not None), body)


def built(payload: str = '{"state":"passed"}') -> Request:
    """A request as Travis CI posts it."""
    body = b"payload=" + quote_plus(payload).encode()
    bare = Request("POST", URL, (("content-type", "application/x-www-form-urlencoded"),), body)
    return sign_request(PRESETS["travis"], private_pem("rsa"), bare, NOW, "")


def refusal(scheme: Any, request: Request, key: str | None = None, now: float = NOW) -> str:
    verdict = verify(scheme, (key or public_pem("rsa"),), request, now)
    return "accepted" if verdict.valid else verdict.reason


# ---- what each of them signs


@pytest.mark.parametrize(
    ("scheme", "request_"), [(PRESETS["aws-sns"], notified()), (PAYPAL, paid()), (PRESETS["travis"], built())]
)
def test_each_accepts_its_own(scheme: Any, request_: Request) -> None:
    """A pinned key, or one that was fetched, judges a request; another key, or none, refuses it."""
    assert verify(scheme, (public_pem("rsa", 2), public_pem("rsa")), request_, NOW) == Verdict(True, "valid", 1)
    assert refusal(scheme, request_, pem(AUTHORITY.give("any.example", private_key("rsa")))) == "accepted"
    assert refusal(scheme, request_, public_pem("rsa", 2)) == "mismatch"
    assert refusal(scheme, request_, public_pem("ed25519")) == "mismatch"
    assert refusal(scheme, request_, "a shared secret") == "bad_secret"
    assert not verify(scheme, (), request_, NOW).valid
    assert not verify(scheme, ("",), request_, NOW).valid


@pytest.mark.parametrize(
    "changes",
    [
        {"SignatureVersion": "1"},
        {"Subject": "built"},
        {"Subject": None},
        {
            "Type": "SubscriptionConfirmation",
            "Token": "2336412f37",
            "SubscribeURL": "https://sns.us-west-2.amazonaws.com/?a",
        },
        {
            "Type": "UnsubscribeConfirmation",
            "Token": "2336412f37",
            "SubscribeURL": "https://sns.us-west-2.amazonaws.com/?a",
        },
    ],
)
def test_every_type_of_message(changes: dict[str, Any]) -> None:
    """Both versions, with and without a subject, and both confirmations are accepted; a null is as good as nothing."""
    request = notified(**changes)
    assert refusal(PRESETS["aws-sns"], request) == "accepted"
    if "Subject" not in changes:
        assert refusal(PRESETS["aws-sns"], altered(request, Subject=None)) == "accepted"


def test_messages_by_way_of_lambda() -> None:
    """The other spelling of two names, and a subject that is null, are the same message."""
    request = notified()
    other = altered(request, SigningCertURL=..., SigningCertUrl=SNS_ADDRESS, Subject=None)
    assert refusal(PRESETS["aws-sns"], other) == "accepted"
    assert refusal(PRESETS["aws-sns"], altered(request, SigningCertUrl="https://evil.example/a.pem")) == "accepted"


@pytest.mark.parametrize("name", [name for name in sns.SIGNED if name in MESSAGE and name not in ("Type", "Timestamp")])
def test_every_signed_word_counts(name: str) -> None:
    """Each text of a message that is signed can't be another one."""
    assert refusal(PRESETS["aws-sns"], altered(notified(), **{name: MESSAGE[name] + "x"})) == "mismatch"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SignatureVersion": "3"}, "no_candidate"),
        ({"SignatureVersion": 2}, "no_candidate"),
        ({"SignatureVersion": "1"}, "mismatch"),
        ({"Signature": "%%"}, "bad_encoding"),
        ({"Signature": ...}, "bad_encoding"),
        ({"Type": "Other"}, "malformed_body"),
        ({"Message": 1}, "malformed_body"),
        ({"Message": None}, "malformed_body"),
        ({"Subject": ["a"]}, "malformed_body"),
        ({"Subject": "a\nTimestamp"}, "malformed_body"),
        ({"TopicArn": ...}, "malformed_body"),
        ({"SubscribeURL": "https://evil.example/"}, "mismatch"),
        ({"SigningCertURL": ...}, "foreign_key"),
        ({"SigningCertURL": 1}, "foreign_key"),
    ],
)
def test_malformed_notifications(changes: dict[str, Any], reason: str) -> None:
    """A message that lacks something, or says it in another shape, is refused."""
    assert refusal(PRESETS["aws-sns"], altered(notified(), **changes)) == reason


def test_texts_have_borders() -> None:
    """A text that was signed as one can't be taken apart into several with the same bytes."""
    request = notified(Message="a\nMessageId\nb")
    moved = altered(request, Message="a", MessageId="b\nMessageId\n" + MESSAGE["MessageId"])
    assert refusal(PRESETS["aws-sns"], request) == "accepted"
    assert sns.write_signed(json.loads(request.body)) == sns.write_signed(json.loads(moved.body))
    assert refusal(PRESETS["aws-sns"], moved) == "malformed_body"


@pytest.mark.parametrize(
    ("late", "reason"), [(0, "accepted"), (4500, "accepted"), (4501, "stale"), (-300, "accepted"), (-301, "future")]
)
def test_messages_are_good_for_the_hour_of_retries(late: float, reason: str) -> None:
    """SNS repeats a message for an hour, with its first time."""
    assert refusal(PRESETS["aws-sns"], notified(), now=NOW + late) == reason


@pytest.mark.parametrize(
    ("topics", "reason"),
    [
        ([TOPIC], "accepted"),
        (["arn:aws:sns:us-west-2:1:other", TOPIC], "accepted"),
        (["arn:aws:sns:us-west-2:123456789012:*"], "accepted"),
        (["*"], "accepted"),
        ([TOPIC + "2"], "foreign_topic"),
        ([TOPIC[:-1]], "foreign_topic"),
        (["arn:aws:sns:us-west-2:999999999999:*"], "foreign_topic"),
        ([], "foreign_topic"),
    ],
)
def test_topics(topics: list[str], reason: str) -> None:
    """Only messages of the named topics count, and no key is fetched for others."""
    scheme = read_scheme({"scheme": "aws-sns", "topics": topics}, "verify")
    assert refusal(scheme, notified()) == reason
    found = find_address(scheme, notified())
    assert found == (SNS_ADDRESS if reason == "accepted" else Verdict(False, "foreign_topic"))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (paid(paypal_transmission_id="other"), "mismatch"),
        (paid(paypal_transmission_time="2025-06-15T15:06:41Z"), "mismatch"),
        (paid(paypal_transmission_time="yesterday"), "malformed_timestamp"),
        (paid(paypal_transmission_id="a|b"), "malformed_header"),
        (paid(paypal_transmission_sig="AAAA"), "mismatch"),
        (paid(paypal_transmission_sig="%"), "bad_encoding"),
        (paid(paypal_transmission_sig=None), "missing_header"),
        (paid(paypal_transmission_id=None), "missing_header"),
        (paid(paypal_cert_url=None), "missing_header"),
        (paid(paypal_auth_algo=None), "missing_header"),
        (paid(paypal_auth_algo="SHA1withRSA"), "no_candidate"),
        (Request("POST", URL, paid().headers, b"{}"), "mismatch"),
        (Request("POST", URL, (*paid().headers, ("paypal-transmission-id", "x")), b"{}"), "doubled_header"),
    ],
)
def test_paypal_refuses(request_: Request, reason: str) -> None:
    """Whatever PayPal signs can't be another, and none of its headers be missing or doubled."""
    assert refusal(PAYPAL, request_) == reason


def test_paypal_signs_for_one_webhook() -> None:
    """A request for another webhook, of anybody's, is refused; and so is every one where none is configured."""
    other = read_scheme({"scheme": "paypal", "webhook_id": "ANOTHER"}, "verify")
    assert refusal(PAYPAL, paid(scheme=other)) == "mismatch"
    assert refusal(PRESETS["paypal"], paid()) == "missing_context"


def test_paypal_times_may_be_limited() -> None:
    """PayPal's own code takes a request of any age; an operator may ask for a fresh one."""
    strict = {"from": "header:PAYPAL-TRANSMISSION-TIME", "unit": "rfc3339"}
    judged = read_scheme({"scheme": "paypal", "webhook_id": PAYPAL.webhook_id, "timestamp": strict}, "verify")
    assert refusal(PAYPAL, paid(), now=NOW + 1e6) == "accepted"
    assert refusal(judged, paid(), now=NOW + 300) == "accepted"
    assert refusal(judged, paid(), now=NOW + 301) == "stale"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"payload=%7B%7D", "mismatch"),
        (b"payload=", "malformed_body"),
        (b"", "malformed_body"),
        (built().body + b"&payload=1", "malformed_body"),
        (built().body + b"&other=1", "malformed_body"),
    ],
)
def test_travis_signs_one_field(body: bytes, reason: str) -> None:
    """The field that is signed has to be there once, with nothing beside it, which would not be signed."""
    assert refusal(PRESETS["travis"], Request("POST", URL, built().headers, body)) == reason


def test_what_is_the_same_in_a_replay() -> None:
    """Neither another spelling of a message nor words beside it, which nobody signed, make another one of it."""
    request, scheme = notified(), PRESETS["aws-sns"]
    again = altered(request, UnsubscribeURL="https://evil.example/", MessageAttributes={})
    assert refusal(scheme, again) == "accepted"
    assert (
        signed_content(scheme, again)
        == signed_content(scheme, request)
        != signed_content(scheme, notified(Message="x"))
    )
    other = Request("POST", URL, built().headers, built().body.replace(b"state", b"%73tate"))
    assert refusal(PRESETS["travis"], other) == "accepted"
    assert (
        signed_content(PRESETS["travis"], other) == signed_content(PRESETS["travis"], built()) == b'{"state":"passed"}'
    )
    for nothing in (scheme, PRESETS["travis"]):
        assert signed_content(nothing, Request("POST", URL, (), b"{}")) == b"{}"


def test_what_names_a_delivery() -> None:
    """Id and type come from what is signed where there is such a thing."""
    message = json.loads(notified().body)
    assert delivery_id(PRESETS["aws-sns"], notified(), message) == MESSAGE["MessageId"]
    assert event_type(PRESETS["aws-sns"], notified(), message) == "Notification"
    assert delivery_id(PAYPAL, paid(), None) == "d938e770-8046-11e6-8103-6b62a8a99ac4"
    assert event_type(PAYPAL, paid(), {"event_type": "PAID"}) == "PAID"


# ---- from where a key may come


@pytest.mark.parametrize(
    ("address", "good"),
    [
        (SNS_ADDRESS, True),
        ("https://sns.us-gov-west-1.amazonaws.com/a.pem", True),
        ("https://sns.cn-north-1.amazonaws.com.cn/a.pem", True),
        ("http://sns.us-west-2.amazonaws.com/a.pem", False),
        ("https://sns.us-west-2.amazonaws.com.evil.example/a.pem", False),
        ("https://sns.us-west-2.amazonaws.com@evil.example/a.pem", False),
        ("https://evil.example/sns.us-west-2.amazonaws.com/a.pem", False),
        ("https://sns.us-west-2.amazonaws.com:8443/a.pem", False),
        ("https://sns.s3-us-west-2.amazonaws.com/a.pem", False),
        ("https://sns.s3.amazonaws.com/a.pem", False),
        ("https://us-west-2.amazonaws.com/a.pem", False),
        ("https://sns.us-west-2.amazonaws.com/a.txt", False),
        ("https://sns.us-west-2.amazonaws.com/a.pem?x", False),
        ("https://sns.us-west-2.amazonaws.com/?a.pem", False),
        ("https://sns.us-west-2.amazonaws.com/../a.pem\n", False),
        ("https://sns.us-west-2.amazonaws.com\\a.pem", False),
        ("", False),
    ],
)
def test_addresses_of_amazon(address: str, good: bool) -> None:
    """A certificate comes from a region's own host and no other, and that counts for pinned keys as well."""
    request = notified(SigningCertURL=address)
    expected: object = address if good else Verdict(False, "foreign_key")
    assert find_address(PRESETS["aws-sns"], request) == expected
    assert refusal(PRESETS["aws-sns"], request) == ("accepted" if good else "foreign_key")


@pytest.mark.parametrize(
    ("address", "good"),
    [
        (PAYPAL_ADDRESS, True),
        ("https://api.sandbox.paypal.com/v1/notifications/certs/CERT-1", True),
        ("https://api-m.paypal.com/v1/notifications/certs/CERT-1", True),
        ("http://api.paypal.com/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com.evil.example/v1/notifications/certs/CERT-1", False),
        ("https://evil-paypal.com/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com@evil.example/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com:444/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com/elsewhere/CERT-1", False),
        ("https://api.paypal.com/v1/notifications/certs/../../CERT-1", False),
        ("https://api.paypal.com/v1/notifications/certs/CERT-1?to=evil", False),
    ],
)
def test_addresses_of_paypal(address: str, good: bool) -> None:
    """A certificate comes from PayPal's own hosts and the place of its certificates."""
    request = paid(paypal_cert_url=address)
    expected: object = address if good else Verdict(False, "foreign_key")
    assert find_address(PAYPAL, request) == expected
    assert refusal(PAYPAL, request) == ("accepted" if good else "foreign_key")


def test_the_address_of_travis_is_ever_the_same() -> None:
    """No request has a say in where the key of Travis CI is; without a signature none is fetched."""
    assert find_address(PRESETS["travis"], built()) == "https://api.travis-ci.com/config"
    assert isinstance(find_address(PRESETS["travis"], Request("POST", URL, (), built().body)), Verdict)


# ---- what counts of what is found there


def configured(key: object) -> bytes:
    *above, last = TRAVIS_KEY.split(".")
    document: object = {last: key}
    for name in reversed(above):
        document = {name: document}
    return json.dumps(document).encode()


def test_keys_that_count() -> None:
    """A current certificate, one that an authority gave to PayPal, and Travis CI's key are read as PEM."""
    certificate = pem(AUTHORITY.give(NAME, private_key("rsa")))
    assert read_key("sns", certificate.encode(), (), NOW) == certificate
    assert read_key("paypal", certificate.encode(), ROOTS, NOW) == certificate
    assert read_key("travis", configured(public_pem("rsa")), (), NOW) == public_pem("rsa")


@pytest.mark.parametrize("kind", sorted(FETCHED))
@pytest.mark.parametrize(
    "found",
    [
        b"",
        b"not found",
        b"{}",
        b"[" * 10_000,
        b"\xff",
        public_pem("rsa").encode(),
        configured("no key"),
        configured(1),
        configured(public_pem("ed25519")),
        pem(AUTHORITY.give(NAME, private_key("p256"))).encode(),
        pem(AUTHORITY.give(NAME, private_key("rsa"), START, START + datetime.timedelta(days=1))).encode(),
        pem(AUTHORITY.give(NAME, private_key("rsa"), END - datetime.timedelta(days=1), END)).encode(),
        pem(AUTHORITY.give(NAME, private_key("rsa"))).encode() * 9,
    ],
)
def test_keys_that_do_not_count(kind: str, found: bytes) -> None:
    """Anything else, keys of another kind and certificates out of date are no keys."""
    assert read_key(kind, found, ROOTS, NOW) is None


def test_paypal_has_to_be_vouched_for() -> None:
    """A certificate in another name, by an unknown authority or by itself, is none of PayPal's."""
    good = AUTHORITY.give(NAME, private_key("rsa"))
    foreign = Authority().give(NAME, private_key("rsa"))
    for certificate, roots in (
        (AUTHORITY.give("evil.example", private_key("rsa")), ROOTS),
        (AUTHORITY.give("evilpaypal.com", private_key("rsa")), ROOTS),
        (foreign, ROOTS),
        (good, []),
        (good, [b"no certificate"]),
    ):
        assert read_key("paypal", pem(certificate).encode(), roots, NOW) is None
    assert read_key("paypal", (pem(foreign) + pem(good)).encode(), ROOTS, NOW) is None


@given(found=st.binary(max_size=200), kind=st.sampled_from(sorted(FETCHED)), now=st.floats())
def test_reading_a_key_never_raises(found: bytes, kind: str, now: float) -> None:
    """Whatever an address serves is a key or is none."""
    wrapped = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(found) + b"\n-----END CERTIFICATE-----\n"
    certificate = pem(AUTHORITY.give(NAME, private_key("rsa"))).encode()
    for document in (found, wrapped):
        assert read_key(kind, document, ROOTS, now) is None
    assert read_key(kind, certificate, ROOTS, now) in (None, certificate.decode())


headers = st.sampled_from([*(name for name, _ in paid().headers), "signature", "content-type"])
messages = st.dictionaries(
    st.sampled_from([*sns.SIGNED, "Signature", "SignatureVersion", "SigningCertURL"]),
    st.one_of(st.none(), st.text(max_size=20), st.integers(), st.sampled_from([*MESSAGE.values()])),
)


@given(
    lines=st.lists(st.tuples(headers, st.text(max_size=30)), max_size=6),
    body=st.one_of(st.binary(max_size=50), messages.map(lambda found: json.dumps(found).encode())),
    name=st.sampled_from(["aws-sns", "paypal", "travis"]),
    key=st.one_of(st.just(public_pem("rsa")), st.text(max_size=40)),
    now=st.floats(),
)
def test_judging_never_raises(lines: list[tuple[str, str]], body: bytes, name: str, key: str, now: float) -> None:
    """Whatever comes, it is refused and not an error, before a fetch and after it."""
    request = Request("POST", URL, tuple(lines), body)
    scheme = PAYPAL if name == "paypal" else PRESETS[name]
    assert not verify(scheme, (key,), request, now).valid
    assert isinstance(find_address(scheme, request), str | Verdict)


# ---- configuration


@pytest.mark.parametrize(
    ("verify_", "field", "words"),
    [
        ({"scheme": "aws-sns"}, "verify.topics", "name the topics"),
        ({"kind": "sns"}, "verify.topics", "name the topics"),
        ({"scheme": "aws-sns", "topics": []}, "verify.topics", "name the topics"),
        ({"scheme": "paypal"}, "verify.webhook_id", "id that PayPal shows"),
        ({"scheme": "aws-sns", "topic": "a"}, "verify.topic", "did you mean 'topics'"),
    ],
)
def test_what_an_app_has_to_say(verify_: dict[str, Any], field: str, words: str) -> None:
    """An app that would let in whoever has an account at the sender is told what is missing."""
    with pytest.raises(ConfigError, match=words) as caught:
        check_app(App(id=1, name="a", verify=verify_))
    assert caught.value.details["path"] == field


def test_topics_may_stand_beside_verify() -> None:
    """The topics of an app count wherever it names them, as those of WebSub do."""
    app = App(
        id=1, name="a", verify={"scheme": "aws-sns", "topics": [TOPIC]}, topics=("arn:aws:sns:eu-west-1:1:other",)
    )
    check_app(app)
    scheme = LiveApp(app, lambda *_: None).scheme
    assert scheme is not None
    assert scheme.topics == (TOPIC, "arn:aws:sns:eu-west-1:1:other")


@pytest.mark.parametrize(
    "verify_",
    [{"scheme": "aws-sns", "topics": [TOPIC]}, {"scheme": "paypal", "webhook_id": "9X"}, {"scheme": "travis"}],
)
def test_apps_of_fetched_keys_need_no_secret(verify_: dict[str, Any]) -> None:
    """Such an app is ready without a secret; one that it has is a pinned key, and has to be one."""
    app = App(id=1, name="a", verify=verify_)
    check_app(app)
    live = LiveApp(app, lambda *_: None)
    assert (live.problem, live.secrets) == (None, ())
    pinned = App(id=1, name="a", verify=verify_ | {"secrets": [{"env": "KEY"}]})
    assert LiveApp(pinned, lambda *_: public_pem("rsa")).secrets == (public_pem("rsa"),)
    assert "in PEM" in (LiveApp(pinned, lambda *_: "a shared secret").problem or "")
    with pytest.raises(ConfigError, match="another kind"):
        check_secret(read_scheme(verify_, "verify"), public_pem("p256"), "secret")
