"""Senders: each one of the table has a preset, which accepts what that sender posts and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.kinds import SHARED, TAKES
from gateway.proofs import REASONS
from gateway.signatures import PRESETS, Request, Scheme, check_secret, judge, sign_request, verify
from tests.tools_senders import ADYEN, BASE, NOW, bare_request, key_of, signed_by, with_lines

SAMPLES = Path(__file__).parent.parent / "samples" / "signatures"
VECTORS = json.loads((SAMPLES / "peculiar.json").read_text("utf-8"))
# Signed messages, and senders that serve their keys, are in test_messages.py and test_fetched.py.
ELSEWHERE = ("none", "cavage", "paypal", "rfc9421", "sns", "travis")
NAMES = sorted(name for name in PRESETS if PRESETS[name].kind not in ELSEWHERE)
IN_HEADERS = sorted(
    name for name in NAMES if PRESETS[name].kind not in ("url", "adyen") and PRESETS[name].proof is None
)
# Each row of the table of senders, and the preset that serves it.
TABLE = {
    "ORQO generic": "orqo",
    "GitHub": "github",
    "GitLab (secret token)": "gitlab",
    "GitLab (signing token)": "gitlab-signed",
    "Bitbucket Cloud": "bitbucket",
    "Bitbucket Server/DC": "bitbucket-server",
    "Gitea": "gitea",
    "Forgejo": "forgejo",
    "Gogs": "gogs",
    "Azure DevOps": "azure-devops",
    "CircleCI": "circleci",
    "Buildkite": "buildkite",
    "Jenkins": "jenkins",
    "Docker Hub": "docker-hub",
    "Harbor": "harbor",
    "Sentry": "sentry",
    "PagerDuty v3": "pagerduty",
    "Datadog": "datadog",
    "Grafana Alerting": "grafana",
    "Alertmanager": "alertmanager",
    "Stripe": "stripe",
    "Square": "square",
    "Adyen standard": "adyen",
    "Adyen platforms/management": "adyen-header",
    "Shopify": "shopify",
    "WooCommerce": "woocommerce",
    "Slack": "slack",
    "Discord": "discord",
    "Telegram": "telegram",
    "Meta / WhatsApp": "meta",
    "Twilio": "twilio",
    "SendGrid": "sendgrid",
    "Mailgun": "mailgun",
    "Postmark": "postmark",
    "Resend (Svix)": "resend",
    "Standard Webhooks v1": "standard-webhooks",
    "Standard Webhooks v1a": "standard-webhooks-v1a",
    "Zoom": "zoom",
    "Zendesk": "zendesk",
    "HubSpot v1": "hubspot-v1",
    "HubSpot v2": "hubspot-v2",
    "HubSpot v3": "hubspot-v3",
    "Intercom": "intercom",
    "Linear": "linear",
    "Jira Cloud": "jira",
    "Asana": "asana",
    "Trello": "trello",
    "Notion": "notion",
    "Airtable": "airtable",
    "Typeform": "typeform",
    "Tally": "tally",
    "Jotform": "jotform",
    "Google Forms / Apps Script": "google-apps-script",
    "Netlify": "netlify",
    "Vercel": "vercel",
    "Cloudflare Notifications": "cloudflare-notifications",
    "Cloudflare Stream": "cloudflare-stream",
    "Azure Event Grid": "azure-event-grid",
    "CloudEvents webhook": "cloudevents",
    "W3C WebSub": "websub",
    "AWS SNS": "aws-sns",
    "PayPal": "paypal",
    "Travis CI": "travis",
    "Drone": "drone",
    "RFC 9421": "rfc9421",
    "draft-cavage-12": "cavage",
}

anything = st.text(st.characters(exclude_categories=()), max_size=60)
# Text in which the words of the formats stand often enough to get past the first checks.
WORDS = (
    "t=",
    "v1=",
    "v1a,",
    "sha256=",
    "md5=",
    "1750000000",
    "0" * 64,
    "=",
    ",",
    ".",
    " ",
    "é",
    "{",
    "A" * 86 + "==",
    "\0",
)
hostile = st.one_of(anything, st.lists(st.sampled_from(WORDS), max_size=6).map("".join))
MEMBERS = (
    "signature",
    "timestamp",
    "token",
    "notificationItems",
    "NotificationRequestItem",
    "additionalData",
    "amount",
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just("1750000000")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from((*MEMBERS, "hmacSignature")), inner, max_size=4)
    ),
    max_leaves=12,
)
bodies = st.one_of(
    st.binary(max_size=80),
    values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [
            b"[" * 100_000,
            b'{"signature":' * 5000,
            b"signature=&" * 1001,
            b'{"notificationItems":[]}',
            b"%",
            b"\xff=\xfe",
        ]
    ),
)


def reason_of(name: str, secrets: tuple[str, ...], request: Request, now: float = NOW) -> str:
    """Why the request is refused; "accepted" when it isn't."""
    verdict = verify(PRESETS[name], secrets, request, now)
    return "accepted" if verdict.valid else verdict.reason


# ---- the table


@pytest.mark.parametrize("sender", sorted(TABLE))
def test_each_sender_of_the_table_has_a_preset(sender: str) -> None:
    """A sender is used by its name: it has a row, of a kind that is known."""
    assert PRESETS[TABLE[sender]].kind in TAKES


def test_the_readme_names_every_preset() -> None:
    """Whoever looks for a sender finds its name in the README."""
    text = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    assert [name for name in PRESETS if f"`{name}`" not in text] == []


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v['id']}-{v['sender']}" for v in VECTORS])
def test_published_vectors_of_peculiar_senders(vector: dict[str, object]) -> None:
    """A request that a sender or its SDK published is judged as they judge it, offline and as values."""
    verdict = judge({**vector, "secrets": [vector["secret"]]})
    assert verdict.valid is vector["valid"], verdict
    headers = tuple((name.lower(), value) for name, value in vector["headers"].items())  # type: ignore[attr-defined]
    request = Request(str(vector["method"]), str(vector["url"]), headers, str(vector["body"]).encode())
    assert verify(PRESETS[str(vector["sender"])], (str(vector["secret"]),), request, vector["now"] or 0.0) == verdict  # type: ignore[arg-type]


# ---- what a sender posts is accepted, and nothing else


@pytest.mark.parametrize("name", NAMES)
def test_what_a_sender_posts_is_accepted(name: str) -> None:
    """Each preset accepts what its sender signs, whichever of the app's secrets it is signed with, and says which."""
    key, other = key_of(PRESETS[name]), key_of(PRESETS[name], "two")
    request = signed_by(name, key)
    check_secret(PRESETS[name], key.public, "secret")
    for secrets, place in (((key.public,), 0), ((other.public, key.public), 1), ((key.public, other.public), 0)):
        verdict = verify(PRESETS[name], secrets, request, NOW)
        assert (verdict.valid, verdict.reason, verdict.secret) == (True, "valid", place)


@pytest.mark.parametrize("name", NAMES)
def test_other_secrets_open_nothing(name: str) -> None:
    """Each preset refuses the secret of somebody else, no secret, an empty one, and one that is no secret of its form."""
    key, other = key_of(PRESETS[name]), key_of(PRESETS[name], "two")
    request = signed_by(name, key)
    assert reason_of(name, (other.public,), request) == "mismatch"
    for nothing in ((), ("",), ("", "")):
        assert reason_of(name, nothing, request) == "no_secret"
    assert reason_of(name, ("\ud800",), request) == "bad_secret"


@pytest.mark.parametrize("name", NAMES)
def test_an_unsigned_request_is_refused(name: str) -> None:
    """Each preset refuses what its sender has not signed."""
    key = key_of(PRESETS[name])
    bare = bare_request(name, key)
    if PRESETS[name].kind == "url":
        bare = Request("POST", BASE + "43", bare.headers, bare.body)
    assert reason_of(name, (key.public,), bare) in ("missing_header", "missing_proof", "mismatch")


@pytest.mark.parametrize("name", sorted(name for name in NAMES if PRESETS[name].kind not in SHARED))
def test_a_changed_request_is_refused(name: str) -> None:
    """Each preset whose sender signs refuses a body in which one signed byte is another."""
    key = key_of(PRESETS[name])
    request = signed_by(name, key)
    body = request.body
    for old, new in ((b"%A9", b"%A8"), (b"evt", b"evs"), (b"1130", b"1131"), (b"msg_1", b"msg_2")):
        body = body.replace(old, new)
    assert body != request.body
    changed = Request(request.method, request.url, request.headers, body)
    if name.startswith("mailgun"):
        # Mailgun signs its token, not what the message says.
        changed = Request(request.method, request.url, request.headers, request.body.replace(b"msg_1", b"msg_2"))
    assert reason_of(name, (key.public,), changed) == "mismatch"


@pytest.mark.parametrize("name", IN_HEADERS)
def test_each_line_of_a_proof_stands_once(name: str) -> None:
    """Of the headers that carry a proof none may be missing, empty or doubled."""
    key = key_of(PRESETS[name])
    request, proof = signed_by(name, key), PRESETS[name].plan.header
    value = request.values(proof)[0]
    assert reason_of(name, (key.public,), with_lines(request, proof)) == "missing_header"
    assert reason_of(name, (key.public,), with_lines(request, proof, "")) == "missing_header"
    assert reason_of(name, (key.public,), with_lines(request, proof, value, value)) == "doubled_header"
    assert reason_of(name, (key.public,), with_lines(request, proof, "", value)) == "doubled_header"


@pytest.mark.parametrize("name", IN_HEADERS)
def test_no_part_of_a_proof_is_enough(name: str) -> None:
    """No beginning of a proof is accepted, nor a proof with something behind it."""
    key = key_of(PRESETS[name])
    request, proof = signed_by(name, key), PRESETS[name].plan.header
    value = request.values(proof)[0]
    for other in [value[:length] for length in range(len(value))] + [value + "0", value + "=", value + "\0"]:
        assert reason_of(name, (key.public,), with_lines(request, proof, other)) != "accepted", other


@pytest.mark.parametrize("name", sorted(name for name in NAMES if PRESETS[name].timestamp))
def test_a_signed_time_is_good_for_a_while(name: str) -> None:
    """A request that was signed too long ago is refused, and so is one from too far ahead."""
    key, timing = key_of(PRESETS[name]), PRESETS[name].timestamp
    assert timing is not None
    request = signed_by(name, key)
    late = {0: "accepted", timing.tolerance: "accepted", timing.tolerance + 1: "stale", -timing.future - 1: "future"}
    for seconds, reason in late.items():
        assert reason_of(name, (key.public,), request, NOW + seconds) == reason


# ---- never an exception


def hostile_request(scheme: Scheme, name: str, draw: st.DrawFn) -> Request:
    """A request with anything at all in the places that this scheme reads."""
    key = key_of(scheme)
    right = dict(signed_by(name, key).headers)
    headers = [(header, draw(st.one_of(st.just(value), hostile))) for header, value in right.items()]
    query = draw(
        st.sampled_from(["", "?", "?code=", "?code=a&code=b", "?access_token=%ff", "?bodySHA256=0", "?bodySHA256"])
    )
    url = draw(
        st.one_of(anything, st.just(BASE + "43" + query), st.sampled_from(["https://h:99999/", "https://[", "//", ""]))
    )
    return Request(draw(st.sampled_from(["POST", "GET", "", "\ud800"])), url, tuple(headers), draw(bodies))


@given(name=st.sampled_from(NAMES), data=st.data())
def test_hostile_requests_are_refused_with_a_reason(name: str, data: st.DataObject) -> None:
    """Whatever stands in headers, URL and body of a request, the answer is a verdict with a known reason."""
    scheme = PRESETS[name]
    request = hostile_request(scheme, name, data.draw)
    for secret in (key_of(scheme, "another").public, data.draw(hostile)):
        verdict = verify(scheme, (secret,), request, NOW)
        assert verdict.reason in REASONS
        assert not verdict.valid or scheme.kind in ("token", "url")


@given(name=st.sampled_from(NAMES), secret=hostile, data=st.data())
def test_signing_says_why_it_cannot(name: str, secret: str, data: st.DataObject) -> None:
    """Signing whatever it is given makes a request, or raises a ConfigError that doesn't hold the secret."""
    request = hostile_request(PRESETS[name], name, data.draw)
    for text in (key_of(PRESETS[name]).private, secret):
        complaint = complaint_of(PRESETS[name], text, request)
        assert len(text) < 20 or text not in complaint


def complaint_of(scheme: Scheme, secret: str, request: Request) -> str:
    """Why this can't be signed; empty when it can."""
    try:
        sign_request(scheme, secret, request, NOW, "msg_1")
    except ConfigError as error:
        return error.message
    return ""


def test_adyen_items_are_many() -> None:
    """The request that the tests sign for Adyen has two items, so that more than the first is looked at."""
    request = signed_by("adyen", key_of(PRESETS["adyen"]))
    assert len(re.findall(b"hmacSignature", request.body)) == 2
    assert ADYEN["eventCode"] in request.body.decode()
