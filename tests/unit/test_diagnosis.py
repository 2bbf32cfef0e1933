"""The doctor: each known mistake, really made, is named, and what it says to change makes the request right."""

from __future__ import annotations

import base64
import gzip
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote_plus

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.diagnosis import Case, Diagnosis, Secret, diagnose
from gateway.diagnosis.bodies import changed_bodies
from gateway.diagnosis.cases import MAX_HASHED, MAX_TRIES, Meter
from gateway.diagnosis.keys import KEY_MISTAKES, PUBLIC_SECRETS
from gateway.diagnosis.opaque import find_opaque
from gateway.diagnosis.search import write_flow
from gateway.diagnosis.urls import changed_urls
from gateway.schemes import PRESETS
from gateway.signatures import Request, read_scheme, sign, verify

NOW = 1_750_000_000.0
SECRET = "canary-0123456789abcdef"
WHSEC = "whsec_" + base64.b64encode(b"a key of twenty-four byte").decode()
URL = "https://gateway.example/api/v1/webhooks/43"
BODY = '{"ref": "refs/heads/main", "who": "Zoë", "path": "a/b", "id": 7}'.encode()
JSON = (("content-type", "application/json"),)
FORM = (("content-type", "application/x-www-form-urlencoded"),)


def posted(body: bytes = BODY, *headers: tuple[str, str], url: str = URL) -> Request:
    return Request("POST", url, headers or JSON, body)


def signed(scheme: object, secret: str, request: Request, now: float = NOW, sent: bytes | None = None) -> Request:
    """The request as this sender signs it, then with the body it sends."""
    added = sign(read_scheme(scheme, "scheme"), secret, request, now, "msg_1")
    headers = (*request.headers, *((name.lower(), value) for name, value in added))
    return Request(request.method, request.url, headers, request.body if sent is None else sent)


def case_of(written: object, request: Request, secret: str = SECRET, **more: Any) -> Case:
    secrets = (Secret("env CI_SECRET", secret),)
    return Case(
        scheme=read_scheme(written, "verify"), written=written, secrets=secrets, request=request, now=NOW, **more
    )


def without(request: Request, *names: str) -> Request:
    return msgspec.structs.replace(request, headers=tuple(pair for pair in request.headers if pair[0] not in names))


def renamed(request: Request, **names: str) -> Request:
    """Headers under other names, or values changed by a function."""
    table = {old.replace("_", "-"): new for old, new in names.items()}
    headers = tuple((table.get(name, name), value) for name, value in request.headers)
    return msgspec.structs.replace(request, headers=headers)


def rewritten(request: Request, name: str, change: Callable[[str], str]) -> Request:
    headers = tuple((each, change(value) if each == name else value) for each, value in request.headers)
    return msgspec.structs.replace(request, headers=headers)


def code(body: bytes, alg: str = "sha256", secret: str | bytes = SECRET) -> bytes:
    return hmac.new(secret.encode() if isinstance(secret, str) else secret, body, alg).digest()


def github(body: bytes = BODY, secret: str = SECRET, sent: bytes | None = None) -> Request:
    request = posted(body, *JSON, ("x-github-event", "push"), ("x-github-delivery", "d-1"))
    return signed("github", secret, request, sent=sent)


def raw(header: str, value: str, *more: tuple[str, str], body: bytes = BODY) -> Request:
    return posted(body, *JSON, (header, value), *more)


COMPACT = json.dumps(json.loads(BODY), separators=(",", ":"), ensure_ascii=False).encode()
PRETTY = json.dumps(json.loads(BODY), indent=2, ensure_ascii=False).encode()
PHP = json.dumps(json.loads(BODY), separators=(",", ":")).replace("/", "\\/").encode()
SORTED = json.dumps(json.loads(BODY), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
AS_FORM = b"payload=" + quote_plus(BODY).encode()
PLAIN = {"kind": "hmac", "header": "X-Gitea-Signature"}
STRIPE_DECODED = {"scheme": "stripe", "key": "whsec"}
STRIPE = signed("stripe", SECRET, posted())
SLACK = signed("slack", SECRET, posted())
MILLIS = str(int(NOW * 1000))
OWN = {"kind": "hmac", "header": "X-Sum", "template": "{timestamp}.{body}", "timestamp": {"from": "header:X-Time"}}

# name of the mistake, what the app is configured as, the secret here, and the request that came
MADE: list[tuple[str, object, str, Request]] = [
    ("other_header", "orqo", SECRET, renamed(signed("orqo", SECRET, posted()), x_signature_256="x-ci-signature")),
    ("legacy_header", "github", SECRET, raw("x-hub-signature", "sha1=" + code(BODY, "sha1").hex(), ("x-github-event", "push"))),
    ("missing_prefix", "orqo", SECRET, raw("x-signature-256", code(BODY).hex())),
    ("other_prefix", "orqo", SECRET, raw("x-signature-256", "SHA256=" + code(BODY).hex())),
    ("other_prefix", "sentry", SECRET, raw("sentry-hook-signature", "sha256=" + code(BODY).hex())),
    ("other_encoding", "shopify", SECRET, raw("x-shopify-hmac-sha256", code(BODY).hex())),
    ("other_encoding", "orqo", SECRET, raw("x-signature-256", "sha256=" + base64.b64encode(code(BODY)).decode())),
    ("other_encoding", "shopify", SECRET, raw("x-shopify-hmac-sha256", base64.urlsafe_b64encode(code(BODY)).decode())),
    ("other_encoding", "shopify", SECRET, raw("x-shopify-hmac-sha256", base64.b64encode(code(BODY).hex().encode()).decode())),
    ("other_algorithm", "orqo", SECRET, raw("x-signature-256", "sha256=" + code(BODY, "sha512").hex())),
    ("other_algorithm", "vercel", SECRET, raw("x-vercel-signature", code(BODY).hex())),
    ("quoted_signature", "orqo", SECRET, rewritten(signed("orqo", SECRET, posted()), "x-signature-256", '"{}"'.format)),
    ("doubled_header", "orqo", SECRET, raw("x-signature-256", "sha256=" + code(BODY).hex(), ("x-signature-256", "sha256=00"))),
    ("secret_form", "stripe", WHSEC, signed({"scheme": "stripe", "key": "whsec"}, WHSEC, posted())),
    ("secret_form", "standard-webhooks", WHSEC, signed({"scheme": "standard-webhooks", "key": "raw"}, WHSEC, posted())),
    ("secret_form", "stripe", WHSEC[6:], signed("stripe", WHSEC, posted())),
    ("secret_copy", "github", f" {SECRET}\n", github()),
    ("secret_copy", "github", f'"{SECRET}"', github()),
    ("sender_secret", "github", SECRET, github(secret=f"{SECRET}\n")),
    ("sender_secret", "github", SECRET, github(secret=f'"{SECRET}"')),
    ("empty_secret", "orqo", SECRET, raw("x-signature-256", "sha256=" + code(BODY, secret="").hex())),
    ("test_secret", "zendesk", SECRET, signed("zendesk", PUBLIC_SECRETS[0][1], posted())),
    ("line_end", "github", SECRET, github(BODY + b"\n", sent=BODY)),
    ("line_end", "github", SECRET, github(BODY, sent=BODY + b"\r\n")),
    ("body_reserialised", "github", SECRET, github(COMPACT, sent=BODY)),
    ("body_reserialised", "github", SECRET, github(PRETTY, sent=BODY)),
    ("body_reserialised", "github", SECRET, github(PHP, sent=BODY)),
    ("body_reserialised", "github", SECRET, github(SORTED, sent=BODY)),
    ("body_reserialised", "stripe", SECRET, signed("stripe", SECRET, posted(COMPACT), sent=PRETTY)),
    ("body_reserialised", "slack", SECRET, signed("slack", SECRET, posted(BODY), sent=COMPACT)),
    ("body_quoted", "github", SECRET, github(BODY, sent=json.dumps(BODY.decode()).encode())),
    ("body_compressed", "github", SECRET, github(BODY, sent=gzip.compress(BODY, mtime=0))),
    ("body_base64", "github", SECRET, github(BODY, sent=base64.b64encode(BODY))),
    ("empty_body", "github", SECRET, github(b"", sent=BODY)),
    ("charset", "github", SECRET, github("Zoë".encode(), sent="Zoë".encode("latin-1"))),
    ("form_field", "github", SECRET, github(BODY, sent=AS_FORM)),
    ("form_field", PLAIN, SECRET, signed(PLAIN, SECRET, posted(BODY), sent=AS_FORM)),
    ("form_bytes", "gitea-form", SECRET, raw("x-gitea-signature", code(AS_FORM).hex(), body=AS_FORM)),
    ("form_sent_as_json", "github", SECRET, github(AS_FORM, sent=BODY)),
    ("timestamp_unit", OWN, SECRET, signed({**OWN, "timestamp": {"from": "header:X-Time", "unit": "ms"}}, SECRET, posted())),
    ("timestamp_unit", {**OWN, "ts_unit": "ms"}, SECRET, signed(OWN, SECRET, posted())),
    ("signed_time_unit", OWN, SECRET, raw("x-sum", code(MILLIS.encode() + b"." + BODY).hex(), ("x-time", MILLIS[:-3]))),
    ("timestamp_elsewhere", OWN, SECRET, renamed(signed(OWN, SECRET, posted()), x_time="x-sent-at")),
    ("stale", "stripe", SECRET, signed("stripe", SECRET, posted(), now=NOW - 7200)),
    ("clock_ahead", "slack", SECRET, signed("slack", SECRET, posted(), now=NOW + 1000)),
    ("other_template", OWN, SECRET, raw("x-sum", code(BODY).hex(), ("x-time", MILLIS[:-3]))),
    ("other_template", OWN, SECRET, raw("x-sum", code(f"{MILLIS[:-3]}:".encode() + BODY).hex(), ("x-time", MILLIS[:-3]))),
    ("other_template", "grafana", SECRET, signed("grafana-timestamp", SECRET, posted())),
    ("other_version", "stripe", SECRET, rewritten(STRIPE, "stripe-signature", lambda value: value.replace("v1=", "v0="))),
    ("other_preset", "github", SECRET, STRIPE),
    ("other_preset", "stripe", SECRET, SLACK),
    ("other_preset", "orqo", SECRET, github()),
    ("other_preset", "github", WHSEC, signed("svix", WHSEC, posted())),
    ("other_preset", "github", SECRET, signed("gitlab", SECRET, posted())),
    ("other_preset", "gitlab", SECRET, github()),
    ("other_url", "square", SECRET, msgspec.structs.replace(signed("square", SECRET, posted()), url=URL.replace("s://", "://"))),
    ("other_url", "trello", SECRET, msgspec.structs.replace(signed("trello", SECRET, posted()), url=URL + "/")),
    ("missing_header", "github", SECRET, without(github(), "x-hub-signature-256")),
    ("empty_header", "gitea", SECRET, raw("x-gitea-signature", "")),
    ("no_secret", "github", "", github()),
    ("bad_secret", "standard-webhooks", "not base64!", signed("standard-webhooks", WHSEC, posted())),
    ("secret_in_the_clear", "orqo", SECRET, raw("x-signature-256", SECRET)),
    ("other_header", "gitlab", SECRET, raw("x-token", SECRET)),
    ("missing_prefix", "bearer", SECRET, raw("authorization", SECRET)),
    ("quoted_signature", "gitlab", SECRET, raw("x-gitlab-token", f'"{SECRET}"')),
    ("sender_secret", "gitlab", SECRET, raw("x-gitlab-token", SECRET.upper())),
    ("token_in_url", "gitlab", SECRET, posted(url=f"{URL}?token={SECRET}")),
]  # fmt: skip
IDS = [
    f"{index}-{mistake}-{written if isinstance(written, str) else 'own'}"
    for index, (mistake, written, _, _) in enumerate(MADE)
]


def names(diagnosis: Diagnosis) -> list[str]:
    return [finding.mistake for finding in diagnosis.findings]


@pytest.mark.parametrize(("mistake", "written", "secret", "request_"), MADE, ids=IDS)
def test_mistake_is_named(mistake: str, written: object, secret: str, request_: Request) -> None:
    """A mistake that was really made is named, alone, with what to change."""
    case = case_of(written, request_, secret)
    assert not verify(case.scheme, case.values, request_, NOW).valid
    diagnosis = diagnose(case)
    assert diagnosis.verdict == "explained"
    assert names(diagnosis) == [mistake]
    assert all(finding.explanation and finding.change for finding in diagnosis.findings)


@pytest.mark.parametrize(("mistake", "written", "secret", "request_"), MADE, ids=IDS)
def test_line_for_the_file_makes_it_right(mistake: str, written: object, secret: str, request_: Request) -> None:
    """Where the change is a line of gateway.yaml, the request verifies by that line."""
    case = case_of(written, request_, secret)
    changes = [finding.change for finding in diagnose(case).findings]
    lines = [change.partition("In gateway.yaml: ")[2] for change in changes if change.startswith("In gateway.yaml: ")]
    for line in lines:
        proposed = yaml.safe_load(line)["verify"]
        assert proposed.pop("secrets") == [{"env": "NAME"}]
        assert verify(read_scheme(proposed, "verify"), (secret,), request_, NOW).valid
    assert lines or mistake not in {"other_header", "missing_prefix", "secret_form_", "other_template", "other_preset"}


@pytest.mark.parametrize(("mistake", "written", "secret", "request_"), MADE, ids=IDS)
def test_nothing_secret_is_shown(mistake: str, written: object, secret: str, request_: Request) -> None:
    """No finding holds a secret, nor a signature that would verify."""
    case = case_of(written, request_, secret, others=(Secret("app 'b', env B", "another-secret-value"),))
    text = msgspec.json.encode(diagnose(case)).decode()
    # A sender may put the token into its URL, which is the sender's to know.
    assert not secret.strip() or secret.strip('" \n') not in text
    assert "another-secret-value" not in text
    assert code(BODY).hex() not in text
    assert base64.b64encode(code(BODY)).decode() not in text


@pytest.mark.parametrize("mistake", KEY_MISTAKES, ids=lambda mistake: mistake.__name__)
@pytest.mark.parametrize(
    "secret", [SECRET, f" {SECRET}\n", f'"{SECRET}"', "percent%2Dencoded%20secret", WHSEC, "AB" * 20]
)
def test_each_mistake_with_a_secret_is_found(mistake: Callable[..., Any], secret: str) -> None:
    """Whatever key a row of the table makes: what is signed with it is explained by that row's mistake."""
    for key in mistake(Secret("env CI_SECRET", secret), PRESETS["github"]):
        request = raw("x-hub-signature-256", "sha256=" + code(BODY, secret=key.material).hex())
        assert names(diagnose(case_of("github", request, secret))) == [each.mistake for each in key.deviations]


@pytest.mark.parametrize(
    "body",
    [BODY, AS_FORM, PRETTY, gzip.compress(BODY, mtime=0), b'"a \\"text\\""', "Zoë\r\n".encode("latin-1"), b"YWI="],
)
def test_each_mistake_with_a_body_is_found(body: bytes) -> None:
    """Whatever body a row of the table makes: what was signed so is explained by that row's mistake."""
    made = list(changed_bodies(posted(body)))
    assert len(made) > 5
    for deviation, other in made:
        request = raw("x-hub-signature-256", "sha256=" + code(other).hex(), body=body)
        assert names(diagnose(case_of("github", request))) == [deviation.mistake]


@pytest.mark.parametrize("url", [URL, "http://gateway.example:8080/hook/?a=1", "https://10.0.0.7/x"])
def test_each_mistake_with_a_url_is_found(url: str) -> None:
    """Whatever URL the sender may have been given: what was signed so is explained by it."""
    request = posted(BODY, *JSON, ("x-forwarded-host", "public.example"), ("host", "inner:8000"), url=url)
    for _, other in changed_urls(request):
        sent = msgspec.structs.replace(signed("square", SECRET, msgspec.structs.replace(request, url=other)), url=url)
        found = diagnose(case_of("square", sent)).findings
        assert [finding.mistake for finding in found] == ["other_url"]
        assert other in found[0].explanation


@pytest.mark.parametrize("name", ["github", "stripe", "standard-webhooks", "slack", "gitlab", "square", "adyen-header"])
def test_secret_of_another_app(name: str) -> None:
    """A request signed with a secret of another app names that app by its label."""
    other = {"standard-webhooks": WHSEC, "adyen-header": "ab" * 20}.get(name, "the-secret-of-billing")
    mine = {"standard-webhooks": "whsec_" + "QUJD" * 8, "adyen-header": "cd" * 20}.get(name, SECRET)
    request = signed(name, other, posted())
    diagnosis = diagnose(case_of(name, request, mine, others=(Secret("app 'billing', env BILLING", other),)))
    assert names(diagnosis) == ["other_secret"]
    assert "app 'billing', env BILLING" in diagnosis.findings[0].explanation


TWO: list[tuple[list[str], object, str, Request]] = [
    (["sender_secret", "body_reserialised"], "github", SECRET, github(COMPACT, f"{SECRET}\n", sent=BODY)),
    (["secret_form", "line_end"], "stripe", WHSEC, signed(STRIPE_DECODED, WHSEC, posted(BODY + b"\n"), sent=BODY)),
    (["body_reserialised", "other_header"], "orqo", SECRET, raw("x-other", "sha256=" + code(COMPACT).hex())),
    (["other_header", "missing_prefix"], "orqo", SECRET, raw("x-other", code(BODY).hex())),
    (["other_template", "body_reserialised"], OWN, SECRET, raw("x-sum", code(COMPACT).hex(), ("x-time", MILLIS[:-3]))),
    (["secret_form", "stale"], "stripe", WHSEC, signed(STRIPE_DECODED, WHSEC, posted(), now=NOW - 9000)),
]  # fmt: skip


@pytest.mark.parametrize(("mistakes", "written", "secret", "request_"), TWO)
def test_two_mistakes_at_once(mistakes: list[str], written: object, secret: str, request_: Request) -> None:
    """Two of the common mistakes at once are both named."""
    assert names(diagnose(case_of(written, request_, secret))) == mistakes


OPAQUE: list[tuple[str | None, str, str, Request]] = [
    ("other_secret", "github", SECRET, github(secret="the-secret-of-billing")),
    ("sender_secret", "github", SECRET, github(secret=f"{SECRET}\n")),
    ("secret_copy", "github", f" {SECRET}", github()),
    ("other_header", "orqo", SECRET, renamed(signed("orqo", SECRET, posted()), x_signature_256="x-ci-signature")),
    ("body_reserialised", "github", SECRET, github(COMPACT, sent=BODY)),
    ("other_url", "square", SECRET, msgspec.structs.replace(signed("square", SECRET, posted()), url=URL + "/")),
    (None, "github", SECRET, github(secret="nobody-knows-this-one")),
]


@pytest.mark.parametrize(("mistake", "written", "secret", "request_"), OPAQUE)
def test_scheme_whose_codes_are_not_computed(mistake: str | None, written: str, secret: str, request_: Request) -> None:
    """Where only a verifier can be asked it is asked once for each mistake, within the same bound."""
    case = case_of(written, request_, secret, others=(Secret("app 'billing'", "the-secret-of-billing"),))
    meter = Meter()
    found = find_opaque(case, meter)
    assert (None if found is None else found[0].mistake) == mistake
    assert 0 < meter.tried < MAX_TRIES
    assert find_opaque(case, Meter(tries=0)) is None


def test_form_field_becomes_the_preset_for_forms() -> None:
    """A scheme that with the change is a known sender's is written by that name."""
    case = case_of(PLAIN, signed(PLAIN, SECRET, posted(BODY), sent=AS_FORM))
    assert diagnose(case).findings[0].change == "In gateway.yaml: verify: {scheme: gitea-form, secrets: [{env: NAME}]}"


def test_staleness_says_by_how_much_and_which_clock() -> None:
    """A stale request says its age; whole hours point at a time zone, a Date header at a late delivery."""
    local = diagnose(case_of("stripe", signed("stripe", SECRET, posted(), now=NOW - 7200))).findings[0].explanation
    assert "2 h 0 min before" in local
    assert "local time as UTC" in local
    dated = posted(BODY, *JSON, ("date", "Sun, 15 Jun 2025 14:26:40 GMT"))
    late = diagnose(case_of("stripe", signed("stripe", SECRET, dated, now=NOW - 2400))).findings[0].explanation
    assert "delivered late" in late


def test_missing_header_lists_what_came() -> None:
    """Without the signature's header the finding names the headers that did come."""
    explanation = diagnose(case_of("github", without(github(), "x-hub-signature-256"))).findings[0].explanation
    assert "x-github-event, x-github-delivery" in explanation


def test_nothing_wrong_is_said() -> None:
    """A request that verifies is called valid, and says where to look next."""
    diagnosis = diagnose(case_of("github", github()))
    assert (diagnosis.verdict, diagnosis.findings) == ("valid", ())
    assert diagnosis.next


def test_unknown_secret_is_not_explained() -> None:
    """A request signed with a secret that is nowhere to be found stays unexplained: what was tried, what to do next."""
    diagnosis = diagnose(case_of("github", github(secret="nobody-knows-this-one")))
    assert (diagnosis.verdict, diagnosis.reason, diagnosis.findings) == ("unexplained", "mismatch", ())
    assert 100 < diagnosis.tried < MAX_TRIES
    assert "env CI_SECRET" in diagnosis.next[1]


def test_insecure_change_says_so() -> None:
    """What weakens the app is never proposed without saying so."""
    template = diagnose(case_of(OWN, raw("x-sum", code(BODY).hex(), ("x-time", MILLIS[:-3])))).findings[0]
    weak = diagnose(case_of("orqo", raw("x-signature-256", "sha256=" + code(BODY, "sha1").hex()))).findings[0]
    plain = diagnose(case_of("github", signed("gitlab", SECRET, posted()))).findings[0]
    version = diagnose(
        case_of("stripe", rewritten(STRIPE, "stripe-signature", lambda value: value.replace("v1=", "v0=")))
    )
    moved = rewritten(signed(OWN, SECRET, posted()), "x-time", lambda value: "1750000100")
    moved = msgspec.structs.replace(moved, headers=(*moved.headers, ("x-old-time", MILLIS[:-3])))
    assert "proves less" in plain.explanation
    assert "Don't configure 'v0'" in version.findings[0].change
    assert "somebody changed it" in diagnose(case_of(OWN, moved)).findings[0].explanation
    assert "sent again" in template.explanation
    assert "weaker" in weak.explanation


LARGE = [b"x" * 2**20, json.dumps([{"n": number, "t": "é/<"} for number in range(32_000)]).encode()]
HOSTILE = [
    b"[" * 100_000,
    b"[" * 60 + b"0," * 300_000 + b"0" + b"]" * 60,
    b'{"a":' * 900 + b"1" + b"}" * 900,
    b"&" * 2**20,
    gzip.compress(bytes(50_000_000), mtime=0),
    b"\x1f\x8b" + b"\x00" * 100,
    b'"\\ud800"',
    b"1" * 5000,
    b"x" * 25_000_000,
]


@pytest.mark.parametrize("body", LARGE, ids=["text", "json"])
@pytest.mark.parametrize("written", ["github", "standard-webhooks"])
def test_large_body_takes_less_than_two_seconds(body: bytes, written: str) -> None:
    """A body of a MB for which nothing fits is given up in less than 2 seconds."""
    secret = WHSEC if written == "standard-webhooks" else "nobody-knows-this-one"
    request = signed(written, secret, posted(body[:-1]), sent=body)
    others = tuple(Secret(f"app {n}", f"secret-number-{n}") for n in range(200))
    before = time.process_time()
    diagnosis = diagnose(case_of(written, request, "whsec_" + "QUJD" * 8, others=others))
    assert time.process_time() - before < 2
    assert diagnosis.verdict == "unexplained"
    assert diagnosis.tried * len(body) <= MAX_HASHED + 200 * len(body)


@pytest.mark.parametrize("body", HOSTILE)
def test_hostile_bodies_end_soon(body: bytes) -> None:
    """Bodies that blow up when laid out, unpacked or read are passed over."""
    before = time.process_time()
    diagnosis = diagnose(case_of("gitea", raw("x-gitea-signature", "ab" * 32, body=body)))
    assert time.process_time() - before < 2
    assert diagnosis.tried <= MAX_TRIES


@pytest.mark.parametrize(("name", "value"), [("host", "["), ("x-forwarded-host", "[::"), ("host", "a]b\x00")])
def test_hostile_hosts_are_only_text(name: str, value: str) -> None:
    """A host that is none is tried as it is written, and breaks nothing."""
    request = signed("square", "nobody-knows-this-one", posted(BODY, *JSON, (name, value)))
    assert diagnose(case_of("square", request)).verdict == "unexplained"


texts = st.text(st.characters(max_codepoint=255, exclude_characters="\n\r"), max_size=80)
hexes = st.binary(min_size=20, max_size=64).map(bytes.hex)
values = (
    texts
    | hexes
    | st.sampled_from(["t=1750000000,v1=", "v1,", "sha256=", "Bearer x", "1750000000", "=" * 70, "A" * 44])
)
header_names = st.sampled_from(
    sorted({row.plan.header for row in PRESETS.values()} | {"date", "host", "x-time", "cookie"})
)
requests = st.builds(
    Request,
    st.sampled_from(["POST", "GET", ""]),
    texts | st.sampled_from([URL, "", "http://[", "http://a:99999999/x", "//", "https://a/b?token=1&a=%ff"]),
    st.lists(st.tuples(header_names, values), max_size=8).map(tuple),
    st.binary(max_size=60) | st.sampled_from([BODY, AS_FORM, b"[]", b'"x"', b"payload=", b"{"]),
)
schemes: st.SearchStrategy[str | Mapping[str, Any]] = st.sampled_from([*sorted(PRESETS), OWN])
secrets = st.text(max_size=40) | st.sampled_from([WHSEC, SECRET, "", "\ud800", "user:password"])


@given(schemes, secrets, st.lists(secrets, max_size=3), requests, st.floats(allow_nan=True) | st.none())
@settings(max_examples=300, deadline=None)
def test_never_raises_and_is_bounded(
    written: Any, secret: str, others: list[str], request_: Request, now: float | None
) -> None:
    """Whatever was captured, the search ends within its bound, in words, with one of three verdicts."""
    others_ = tuple(Secret(f"other {index}", value) for index, value in enumerate(others))
    case = msgspec.structs.replace(case_of(written, request_, secret, others=others_), now=now)
    diagnosis = diagnose(case)
    assert diagnosis.verdict in {"valid", "explained", "unexplained"}
    assert diagnosis.tried <= MAX_TRIES
    assert (diagnosis.verdict == "explained") == bool(diagnosis.findings)
    assert diagnosis.findings or diagnosis.next


def test_every_code_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many codes are computed as are reported, and a small allowance is kept to."""
    case = case_of("github", github(secret="nobody-knows-this-one"))
    computed: list[int] = []
    real = hmac.new
    monkeypatch.setattr(hmac, "new", lambda *given, **more: computed.append(1) or real(*given, **more))  # type: ignore[func-returns-value]
    diagnosis = diagnose(case, Meter(tries=50))
    assert diagnosis.tried == 50
    assert "ended at its bound" in diagnosis.next[0]
    assert 40 <= len(computed) <= 51  # one more is the verifier's own; comparisons of plain values count, too


@given(
    st.dictionaries(
        st.sampled_from("abcd"), st.text(max_size=12) | st.integers(0, 9) | st.none() | st.lists(st.text(max_size=4))
    )
)
def test_one_line_of_yaml_reads_back(value: dict[str, Any]) -> None:
    """What is written on one line for gateway.yaml is read as what was meant."""
    assert yaml.safe_load(write_flow(value)) == value
