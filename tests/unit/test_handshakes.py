"""Handshakes: what each sender asks is answered in its own words, and to nobody else."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.app_checks import check_app
from gateway.apps import App
from gateway.challenges import Challenge, Offer
from gateway.errors import ConfigError, Forbidden, NotFound
from gateway.handshakes import HANDSHAKES, TABLE, Facts, Handshake, read_handshake
from gateway.signatures import Request

SAMPLES = Path(__file__).parent.parent / "samples" / "handshakes" / "published.json"
VECTORS = json.loads(SAMPLES.read_text("utf-8"))
SECRET = "zoom-secret-token"
TOKEN = "meatyhamhock"
TOPIC = "https://example.com/feed"
ARN = "arn:aws:sns:us-east-1:123456789012:builds"
SNS = f"https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={ARN}&Token=t1"
FACTS = Facts(verify_token=TOKEN, topics=(TOPIC, ARN), origins=("eventemitter.example.com",))
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def handshake(kind: str, facts: Facts = FACTS) -> Handshake:
    found = read_handshake(HANDSHAKES.get(kind, kind), facts)
    assert found is not None
    return found


def request(method: str = "POST", url: str = "/hook", body: str | bytes = b"", **headers: str) -> Request:
    lines = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Request(method, url, lines, body.encode() if isinstance(body, str) else body)


def captured(vector: dict[str, Any]) -> Request:
    asked = vector["request"]
    headers = tuple((name.lower(), value) for name, value in asked.get("headers", {}).items())
    return Request(asked["method"], asked.get("url", "/hook"), headers, asked.get("body", "").encode())


def answer(found: Handshake, asked: Request, signed: bool) -> Challenge | None:
    """What comes back: before proof, and after it where the request is signed."""
    early = found.greet(asked)
    if early is not None:
        return early.challenge if isinstance(early, Offer) else early
    return (found.reply(asked, SECRET) if signed else None) or found.thanks


def vectors() -> list[Any]:
    return [pytest.param(vector, id=f"{vector['sender']}: {vector['when']}") for vector in VECTORS]


@pytest.mark.parametrize("vector", vectors())
def test_each_sender_gets_the_answer_it_wants(vector: dict[str, Any]) -> None:
    """Status, body and headers are those that the sender's documentation asks for."""
    signed = vector["signed"] or vector["sender"] in ("azure-event-grid", "adyen")
    found = answer(handshake(vector["sender"]), captured(vector), signed)
    wanted = vector["response"]
    assert found is not None
    assert found.status == wanted["status"]
    assert found.text == wanted.get("body", found.text)
    headers = {"content-type": found.media, **dict(found.headers)}
    assert {name.lower(): value for name, value in wanted.get("headers", {}).items()}.items() <= headers.items()


@pytest.mark.parametrize("vector", vectors())
def test_no_other_sender_gets_that_answer(vector: dict[str, Any]) -> None:
    """For every handshake that is not this sender's the same request is an event, or refused."""
    own = set(HANDSHAKES[vector["sender"]].split("+"))
    alike = {"eventgrid", "cloudevents"}
    asked = captured(vector)
    kinds = {kind for written in HANDSHAKES.values() for kind in written.split("+")} - own
    for kind in kinds - (alike if own & alike else set()) - {"adyen"}:
        with contextlib.suppress(Forbidden, NotFound):
            assert answer(handshake(kind), asked, signed=True) is None, kind


@pytest.mark.parametrize("vector", [each for each in VECTORS if each["signed"]], ids=lambda each: str(each["sender"]))
def test_what_is_signed_is_not_answered_unproven(vector: dict[str, Any]) -> None:
    """A handshake that its sender signs is not looked at before the signature is."""
    assert handshake(vector["sender"]).greet(captured(vector)) is None


# ---- Slack, Discord, Zoom


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        '"url_verification"',
        '{"type": "event_callback", "challenge": "x"}',
        '{"type": "url_verification"}',
        '{"type": "url_verification", "challenge": ""}',
        '{"type": "url_verification", "challenge": 5}',
    ],
)
def test_an_ordinary_body_holds_no_challenge(body: str) -> None:
    """Anything but a url_verification with a text is an event."""
    assert handshake("slack").reply(request(body=body), SECRET) is None


@pytest.mark.parametrize(
    ("body", "media"),
    [
        ("ssl_check=1", "application/json"),
        ("ssl_check=2", "application/x-www-form-urlencoded"),
        ("ssl_check=1&ssl_check=1", "application/x-www-form-urlencoded"),
        ("ssl_check=1&command=/deploy", "application/x-www-form-urlencoded"),
        ("text=ssl_check=1", "application/x-www-form-urlencoded"),
        ("ssl_check=1&x=" + "y" * 5000, "application/x-www-form-urlencoded"),
        ("ssl_check=1" + "&x" * 500, "application/x-www-form-urlencoded"),
    ],
)
def test_what_is_no_look_at_the_certificate_needs_a_signature(body: str, media: str) -> None:
    """Another media type, value or field, or a flood, is an event, to be proven."""
    assert handshake("slack").greet(request(body=body, content_type=media)) is None


def test_slack_may_look_by_get() -> None:
    """The certificate is looked at by GET as well; another GET is not Slack's."""
    assert handshake("slack").greet(request("GET", "/hook?ssl_check=1")) == Challenge()
    assert handshake("slack").greet(request("GET", "/hook?ssl_check=0")) is None


@pytest.mark.parametrize(
    "body",
    [
        '{"type": true}',
        '{"type": "1"}',
        '{"type": 2}',
        '{"type": false}',
        '{"type": 1, "event": {"type": "X"}}',
        "1",
        "{",
    ],
)
def test_what_discord_means_as_an_event_is_one(body: str) -> None:
    """A webhook event has type 1 and its event; commands have other types."""
    assert handshake("discord").reply(request(body=body), SECRET) is None


@pytest.mark.parametrize(
    "payload", [None, [], {}, {"plainToken": ""}, {"plainToken": 5}, {"plainToken": "x" * 513}, {"plainToken": None}]
)
def test_zoom_gets_no_hmac_of_anything_but_a_token(payload: Any) -> None:
    """A missing, empty, overlong or mistyped token is an event."""
    body = json.dumps({"event": "endpoint.url_validation", "payload": payload})
    assert handshake("zoom").reply(request(body=body), SECRET) is None


def test_zoom_gets_nothing_without_a_secret() -> None:
    """An HMAC under no secret would be a lie."""
    body = '{"event": "endpoint.url_validation", "payload": {"plainToken": "x"}}'
    assert handshake("zoom").reply(request(body=body), None) is None


# ---- Meta, WebSub


def asked(**fields: str) -> str:
    """The URL of Meta's request, with some fields changed."""
    given = {"hub.mode": "subscribe", "hub.verify_token": TOKEN, "hub.challenge": "1158201444"}
    return "/hook?" + urlencode(given | {f"hub.{name}": value for name, value in fields.items()})


@given(TEXT)
def test_another_verify_token_gets_nothing(token: str) -> None:
    """Only the configured token gets the challenge."""
    assume(token != TOKEN)
    with pytest.raises(Forbidden):
        handshake("meta").greet(request("GET", asked(verify_token=token)))


@pytest.mark.parametrize(
    "url",
    [
        "/hook",
        "/hook?hub.mode=subscribe&hub.challenge=1",
        asked(mode="unsubscribe"),
        asked(challenge=""),
        asked() + "&hub.verify_token=" + TOKEN,
        asked() + "&hub.challenge=2",
        asked() + "&hub.mode=subscribe",
        asked() + "&x" * 200,
    ],
)
def test_an_incomplete_or_doubled_challenge_gets_nothing(url: str) -> None:
    """A field that is missing, empty or doubled, or a flood of fields, is refused."""
    with pytest.raises(Forbidden):
        handshake("meta").greet(request("GET", url))


@pytest.mark.parametrize("token", ["", "None", TOKEN])
def test_without_a_configured_token_nothing_is_given_back(token: str) -> None:
    """A verify token that is not set matches nothing."""
    with pytest.raises(Forbidden):
        handshake("meta", Facts()).greet(request("GET", asked(verify_token=token)))


def hub(**fields: str) -> Request:
    """A hub's GET, with some fields changed; an empty one is left out."""
    given = {"mode": "subscribe", "topic": TOPIC, "challenge": "abc", "lease_seconds": "864000"} | fields
    return request("GET", "/hook?" + urlencode({f"hub.{name}": value for name, value in given.items() if value}))


@pytest.mark.parametrize(
    "fields",
    [
        {"topic": "https://example.com/other"},
        {"topic": ""},
        {"topic": TOPIC + "/"},
        {"mode": "unsubscribe"},
        {"mode": "publish"},
        {"mode": ""},
        {"challenge": ""},
        {"challenge": "x" * 5000},
        {"lease_seconds": "-1"},
        {"lease_seconds": "many"},
        {"mode": "denied", "topic": "https://example.com/other"},
    ],
)
def test_a_hub_is_told_no(fields: dict[str, str]) -> None:
    """Another topic, leaving one that is wanted, and half a question are 404, as WebSub has it."""
    with pytest.raises(NotFound):
        handshake("websub").greet(hub(**fields))


def test_a_hub_may_end_what_is_not_wanted() -> None:
    """A topic that the app no longer names may be left."""
    assert handshake("websub").greet(hub(mode="unsubscribe", topic="https://example.com/old")) == Challenge("abc")


def test_what_a_hub_says_is_noted_in_letters() -> None:
    """The lease, and why a subscription is denied, go to the log without anything that could change a line of it."""
    found = handshake("websub").greet(hub())
    assert isinstance(found, Challenge)
    assert "864000" in (found.note or "")
    denied = handshake("websub").greet(hub(mode="denied", challenge="", reason="no\r\n\x1b[31mway"))
    assert isinstance(denied, Challenge)
    assert (denied.status, denied.text) == (200, "")
    assert (denied.note or "").isprintable()


# ---- CloudEvents, Event Grid, SNS


def consent(facts: Facts = FACTS, **headers: str) -> Challenge | Offer | None:
    return handshake("cloudevents", facts).greet(request("OPTIONS", **headers))


@pytest.mark.parametrize("origin", ["evil.example.com", "", "*", "eventemitter.example.com.evil.example", "a\tb"])
def test_only_named_origins_get_consent(origin: str) -> None:
    """An origin that the app doesn't name, and what is none, is refused; without any named, all are."""
    with pytest.raises(Forbidden):
        consent(webhook_request_origin=origin)
    with pytest.raises(Forbidden):
        consent(Facts(), webhook_request_origin="eventemitter.example.com")


def test_an_options_without_an_origin_is_something_else() -> None:
    """A browser's preflight, say."""
    assert consent() is None
    assert consent(origin="https://example.com") is None


@pytest.mark.parametrize(
    ("most", "wanted", "granted"),
    [(None, "120", "120"), (60, "120", "60"), (200, "120", "120"), (60, None, "60"), (None, None, None), (9, "*", "9")],
)
def test_a_rate_is_granted_up_to_the_app_s(most: int | None, wanted: str | None, granted: str | None) -> None:
    """No more than the app takes, nor than was asked for; nothing is said of it where nobody does."""
    headers = {"webhook_request_origin": "EventEmitter.example.com"} | (
        {} if wanted is None else {"webhook_request_rate": wanted}
    )
    found = consent(Facts(origins=FACTS.origins, rate=most), **headers)
    assert isinstance(found, Challenge)
    assert dict(found.headers).get("webhook-allowed-rate") == granted


def test_a_callback_is_noted_and_not_followed() -> None:
    """The address of WebHook-Request-Callback would be the asker's choice of where we connect to."""
    found = consent(webhook_request_origin=FACTS.origins[0], webhook_request_callback="http://127.0.0.1/")
    assert isinstance(found, Challenge)
    assert found.follow is None
    assert "not called" in (found.note or "")


@pytest.mark.parametrize(
    "events",
    [{}, [], [{}, {}], [5], [{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {}}], None],
)
def test_half_a_validation_is_an_event(events: Any) -> None:
    """Without its code, or among others, the validation event is not answered."""
    body = json.dumps(events)
    asked = request(body=body, aeg_event_type="SubscriptionValidation")
    assert handshake("azure-event-grid").reply(asked, None) is None


def sns(**fields: Any) -> Challenge | None:
    message = {"Type": "SubscriptionConfirmation", "TopicArn": ARN, "Token": "t1", "SubscribeURL": SNS} | fields
    return handshake("aws-sns").reply(request(body=json.dumps(message)), None)


def test_a_confirmation_of_a_named_topic_is_followed() -> None:
    """Its address is called, it is kept as an event, and answered with an empty 200."""
    assert sns() == Challenge(record="handshake", follow=SNS)
    china = SNS.replace("amazonaws.com", "amazonaws.com.cn")
    assert sns(SubscribeURL=china) == Challenge(record="handshake", follow=china)


@pytest.mark.parametrize(
    "url",
    [
        SNS.replace("https", "http"),
        SNS.replace("sns.us-east-1.amazonaws.com", "127.0.0.1"),
        SNS.replace("amazonaws.com", "amazonaws.com.evil.example"),
        SNS.replace("sns.", "sns.evil.example/sns."),
        SNS.replace("https://", "https://user@"),
        SNS.replace("https://sns", "https://evil.example\\@sns"),
        SNS.replace(".com/", ".com:8443/"),
        SNS.replace(".com/", ".com/other"),
        SNS.replace("sns.us-east-1", "sqs.us-east-1"),
        SNS.replace("sns.us-east-1", "sns.us\n-east-1"),
        SNS.replace("ConfirmSubscription", "Publish"),
        SNS.replace("t1", "t2"),
        SNS.replace(ARN, ARN + "x"),
        SNS + "&Action=Publish",
        SNS + "#x",
        "",
        None,
        5,
    ],
)
def test_no_other_address_is_followed(url: Any) -> None:
    """Only Amazon SNS itself, by https, and only to confirm what the message is about."""
    with pytest.raises(Forbidden):
        sns(SubscribeURL=url)


@pytest.mark.parametrize("kind", ["SubscriptionConfirmation", "Notification", "UnsubscribeConfirmation", None])
def test_another_topic_proves_nothing(kind: Any) -> None:
    """Amazon signs for everybody, so whatever comes of a topic that the app doesn't name is refused."""
    with pytest.raises(Forbidden):
        sns(Type=kind, TopicArn=ARN.replace("builds", "evil"))


def test_topics_may_be_named_by_their_beginning() -> None:
    """A * at the end stands for all that start so, and only there."""
    found = Facts(topics=("arn:aws:sns:us-east-1:123456789012:*",))
    message = {"Type": "Notification", "TopicArn": ARN}
    assert handshake("aws-sns", found).reply(request(body=json.dumps(message)), None) is None
    other = json.dumps(message | {"TopicArn": ARN.replace("1234", "4321")})
    with pytest.raises(Forbidden):
        handshake("aws-sns", found).reply(request(body=other), None)


def test_an_unsubscription_is_kept_and_not_followed() -> None:
    """Its SubscribeURL would subscribe again."""
    found = sns(Type="UnsubscribeConfirmation")
    assert found is not None
    assert (found.record, found.follow) == ("handshake", None)
    assert sns(Type="Notification") is None


# ---- pairing


@pytest.mark.parametrize("secret", ["", "short", "x" * 256, "with space in the middle", "x" * 20 + "\t", "ä" * 20])
def test_what_can_be_no_secret_is_no_offer(secret: str) -> None:
    """16 to 255 printable characters without a space."""
    assert handshake("asana").greet(request(x_hook_secret=secret)) is None
    assert handshake("notion").greet(request(body=json.dumps({"verification_token": secret}))) is None


def test_what_is_signed_or_doubled_offers_nothing() -> None:
    """A signed request is an event; two secrets would be a guess; a body with more than the token is an event."""
    secret = "b537207f20cbfa02357cf448134da559"
    assert handshake("asana").greet(request(x_hook_secret=secret, x_hook_signature="00")) is None
    assert handshake("asana").greet(Request("POST", "/", (("x-hook-secret", secret),) * 2, b"")) is None
    assert handshake("notion").greet(request(body=json.dumps({"verification_token": secret, "type": "x"}))) is None
    assert handshake("notion").greet(request(body=json.dumps([{"verification_token": secret}]))) is None
    assert handshake("notion").greet(request(body='{"verification_token": "' + "x" * 10_000 + '"}')) is None


# ---- pings


@pytest.mark.parametrize("body", ["webhook_id=", "webhook_id=1&x=1", "webhook_id=x", "webhook_id=" + "1" * 21, ""])
def test_only_woocommerces_very_form_needs_no_signature(body: str) -> None:
    """A number, a form, and no signature."""
    form = "application/x-www-form-urlencoded"
    found = handshake("woocommerce")
    assert found.greet(request(body=body, content_type=form)) is None
    assert found.greet(request(body="webhook_id=1", content_type="application/json")) is None
    assert found.greet(request(body="webhook_id=1", content_type=form, x_wc_webhook_signature="x")) is None


def test_another_event_is_no_ping() -> None:
    """The value has to be the whole value, in its place."""
    for kind, asked in (
        ("github", request(x_github_event="push")),
        ("github", request(x_github_event="pinged")),
        ("github", request(body='{"action": "ping"}')),
        ("pagerduty", request(body='{"event": {"event_type": "incident.triggered"}}')),
        ("intercom", request(body='{"topic": ["ping"]}')),
    ):
        assert handshake(kind).reply(asked, SECRET) is None, kind


# ---- the table, and what an operator writes


def test_every_sender_s_handshake_is_there() -> None:
    """Each name in HANDSHAKES is a row, or a ping that can be read."""
    for sender in HANDSHAKES:
        assert handshake(sender).rows
    assert read_handshake("none", FACTS) is None


@pytest.mark.parametrize(
    "kind", ["slak", "", "ping:", "ping:X-Event", "ping:/x", "ping:X-Event/", "slack+", "ping:query:a/b"]
)
def test_an_unknown_handshake_is_a_mistake(kind: str) -> None:
    """It is refused with the names there are, or with how a ping is written."""
    with pytest.raises(ConfigError):
        read_handshake(kind, FACTS)


def test_methods_are_those_of_the_handshake() -> None:
    """Beside POST only what the sender asks by."""
    assert {sender: handshake(sender).methods for sender in HANDSHAKES if handshake(sender).methods} == {
        **dict.fromkeys(("meta", "whatsapp", "facebook", "websub", "slack"), ("GET",)),
        **dict.fromkeys(("cloudevents", "azure-event-grid"), ("OPTIONS",)),
        **dict.fromkeys(("trello", "intercom"), ("HEAD",)),
    }


HMAC = {"kind": "hmac", "header": "X-Signature", "secrets": [{"env": "A"}]}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"verify": HMAC | {"handshake": "zom"}}, "verify.handshake"),
        ({"verify": {"scheme": "none", "handshake": "zoom"}}, "verify.handshake"),
        ({"verify": {"scheme": "none", "handshake": "asana"}}, "verify.handshake"),
        ({"verify": HMAC | {"handshake": "websub"}}, "topics"),
        ({"verify": HMAC | {"handshake": "sns"}}, "topics"),
        ({"verify": HMAC, "topics": (TOPIC,)}, "topics"),
        ({"verify": HMAC, "webhook_origins": ("a.example",)}, "webhook_origins"),
        ({"verify": HMAC, "webhook_rate": 5}, "webhook_rate"),
        ({"verify": HMAC, "verify_token": {"env": "A"}}, "verify_token"),
        ({"verify": {"scheme": "slack"}}, "verify"),
        ({"verify": {"scheme": "asana", "secrets": [{"paired": True}]}}, "verify.secrets"),
    ],
)
def test_a_handshake_that_can_not_be_is_told_by_its_field(fields: dict[str, Any], path: str) -> None:
    """What the handshake needs and lacks, or gets and never asks for, is a mistake in the file."""
    with pytest.raises(ConfigError) as caught:
        check_app(read_app(fields))
    assert caught.value.details["path"] == path


@pytest.mark.parametrize(
    "fields",
    [
        {"verify": HMAC | {"handshake": kind}, "topics": (TOPIC,) if row.needs_topics else ()}
        for kind, row in TABLE.items()
    ]
    + [
        {"verify": {"scheme": "asana"}},
        {"verify": {"scheme": "notion"}},
        {"verify": {"scheme": "github", "secrets": [{"env": "A"}], "handshake": "none"}},
        {
            "verify": {"scheme": "none", "handshake": "cloudevents"},
            "webhook_origins": ("a.example",),
            "webhook_rate": 5,
        },
    ],
)
def test_a_scheme_that_is_written_out_may_name_any(fields: dict[str, Any]) -> None:
    """`handshake:` goes with any scheme; a sender that hands over its secret needs none written."""
    check_app(read_app(fields))


def read_app(fields: dict[str, Any]) -> App:
    return msgspec.convert({"id": 1, "name": "a"} | fields, App)
