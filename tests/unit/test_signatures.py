"""Signatures: what each sender signs is accepted, and nothing else is, whatever it looks like."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from gateway.errors import ConfigError
from gateway.kinds import TAKES
from gateway.presets import ROWS
from gateway.proofs import PIECES, REASONS, TIME_READERS, TIME_WRITERS, read_signed
from gateway.schemes import NAMED_PIECES, PLAIN_PIECES, Algorithm, Encoding, KeyForm, Kind, Unit
from gateway.signatures import (
    PRESETS,
    Request,
    Scheme,
    Timestamp,
    Verdict,
    check_secret,
    delivery_id,
    event_type,
    judge,
    read_scheme,
    sign,
    verify,
)
from gateway.verifiers import CHECKERS, SIGNERS, VERIFIERS
from gateway.verifiers.asymmetric import FAMILIES
from gateway.verifiers.claims import MAX_CANDIDATES
from gateway.verifiers.encodings import DECODERS, ENCODERS
from gateway.verifiers.keys import DIGEST_SIZES, KEY_FORMS
from gateway.verifiers.publickeys import PRIVATE_FORMS, PRIVATE_WORDS, PUBLIC_FORMS, SIZES

NOW = 1_750_000_000.0
URL = "https://gateway.example/hooks/app?payload=%7B%7D"
WHSEC = "whsec_" + base64.b64encode(b"a key of twenty-four byte").decode()
VECTORS = json.loads((Path(__file__).parent.parent / "samples" / "signatures" / "declarative.json").read_text("utf-8"))

MAIN = ("orqo", "github", "stripe", "standard-webhooks")
# Those whose proof is one header; the others are in test_senders.py.
PROVING = sorted(
    name for name in PRESETS if PRESETS[name].kind in ("hmac", "token", "basic") and not PRESETS[name].proof
)
SIGNING = sorted(name for name in PROVING if PRESETS[name].kind == "hmac")
mains = st.sampled_from(MAIN)
bodies = st.binary(max_size=200)


def secret_of(name: str, seed: str = "one") -> str:
    """A secret of the form this preset's secrets have; another seed gives another secret."""
    key = hashlib.sha256(seed.encode())
    forms = {
        "raw": key.hexdigest(),
        "hex": key.hexdigest(),
        "base64": base64.b64encode(key.digest()).decode(),
        "whsec": "whsec_" + base64.b64encode(key.digest()).decode(),
    }
    user = "user:" if PRESETS[name].kind == "basic" else ""
    return user + forms[PRESETS[name].key]


def body_of(name: str) -> bytes:
    """A body that has what this preset signs in it."""
    if "form." in PRESETS[name].template:
        return b"other=1&payload=%7B%22a%22%3A+%22%C3%A9%22%7D"
    return json.dumps({"id": "evt_1", "webhookTimestamp": int(NOW * 1000)}).encode()


def signed(scheme: Scheme, secret: str, body: bytes, now: float = NOW) -> Request:
    """A request as a sender of this scheme posts it."""
    bare = Request("POST", URL, (("content-type", "application/json"),), body)
    return with_headers(bare, sign(scheme, secret, bare, now, "msg_1"))


def with_headers(request: Request, added: tuple[tuple[str, str], ...]) -> Request:
    lowered = tuple((name.lower(), value) for name, value in added)
    return Request(request.method, request.url, (*request.headers, *lowered), request.body)


def with_value(request: Request, name: str, *values: str) -> Request:
    """The same request with these lines, and no others, of one header."""
    others = tuple(line for line in request.headers if line[0] != name)
    return Request(request.method, request.url, (*others, *((name, value) for value in values)), request.body)


def with_body(request: Request, body: bytes) -> Request:
    return Request(request.method, request.url, request.headers, body)


def needed_headers(scheme: Scheme) -> list[str]:
    """The headers that the verdict depends on."""
    pieces = [piece.name for piece in scheme.plan.pieces if piece.kind == "header"]
    timing = scheme.timestamp
    times = [timing.place.name] if timing and timing.place.kind == "header" else []
    return [scheme.plan.header, *pieces, *times]


def refusal(scheme: Scheme, secrets: tuple[str, ...], request: Request, now: float = NOW) -> str:
    """Why the request is refused; "accepted" when it isn't."""
    verdict = verify(scheme, secrets, request, now)
    return "accepted" if verdict.valid else verdict.reason


# ---- published vectors


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v['id']}-{v['sender']}" for v in VECTORS])
def test_published_vectors(vector: dict[str, object]) -> None:
    """A request that a sender or its SDK published is judged as they judge it."""
    verdict = judge({**vector, "secrets": [vector["secret"]]})
    assert verdict.valid is vector["valid"], verdict


# ---- what a sender signs is accepted


@given(name=mains, body=bodies)
def test_signed_is_valid(name: str, body: bytes) -> None:
    """What the main schemes sign, they accept, whatever the body."""
    scheme, secret = PRESETS[name], secret_of(name)
    assert verify(scheme, (secret,), signed(scheme, secret, body), NOW) == Verdict(True, "valid", 0)


@pytest.mark.parametrize("name", PROVING)
def test_every_preset_accepts_its_own(name: str) -> None:
    """Each sender's own requests are accepted under its preset."""
    scheme, secret = PRESETS[name], secret_of(name)
    assert verify(scheme, (secret,), signed(scheme, secret, body_of(name)), NOW).valid


@pytest.mark.parametrize("name", PROVING)
def test_every_preset_refuses_forgeries(name: str) -> None:
    """Each preset refuses a request with no proof, and one made with another secret."""
    scheme, secret = PRESETS[name], secret_of(name)
    request = signed(scheme, secret, body_of(name))
    assert refusal(scheme, (secret,), with_value(request, scheme.plan.header)) == "missing_header"
    assert refusal(scheme, (secret_of(name, "two"),), request) == "mismatch"


@pytest.mark.parametrize("name", SIGNING)
def test_every_preset_signs_the_body(name: str) -> None:
    """Each preset that signs refuses the request once one byte of the signed content is another."""
    scheme, secret = PRESETS[name], secret_of(name)
    request = signed(scheme, secret, body_of(name))
    changed = with_body(request, request.body.replace(b"%A9", b"%A8").replace(b"evt", b"evs"))
    assert refusal(scheme, (secret,), changed) == "mismatch"


@given(name=mains, place=st.integers(0, 2))
def test_any_secret_may_match(name: str, place: int) -> None:
    """Of several secrets any may match, and the verdict says which, so that rotation can be watched."""
    scheme, secret = PRESETS[name], secret_of(name)
    secrets = [secret_of(name, "two"), secret_of(name, "three")]
    secrets.insert(place, secret)
    assert verify(scheme, secrets, signed(scheme, secret, b"{}"), NOW).secret == place
    assert verify(scheme, [*secrets, secret], signed(scheme, secret, b"{}"), NOW).secret == place


@given(text=st.text(max_size=200), seed=st.binary(min_size=24, max_size=64))
def test_standard_webhooks_library_agrees(text: str, seed: bytes) -> None:
    """The standard's own library makes the signature that we make."""
    secret = "whsec_" + base64.b64encode(seed).decode()
    theirs = Webhook(secret).sign("msg_1", datetime.fromtimestamp(NOW, UTC), text)
    ours = signed(PRESETS["standard-webhooks"], secret, text.encode())
    assert ours.values("webhook-signature") == [theirs]


def test_whsec_keys_may_lack_their_decoration() -> None:
    """A Standard Webhooks secret works without its prefix and without its padding."""
    scheme = PRESETS["standard-webhooks"]
    request = signed(scheme, WHSEC, b"{}")
    bare = WHSEC.removeprefix("whsec_").rstrip("=")
    assert verify(scheme, (bare,), request, NOW).valid


# ---- and nothing else


@given(name=mains, body=st.binary(min_size=1, max_size=200), bit=st.integers(0))
def test_any_flipped_bit_of_the_body(name: str, body: bytes, bit: int) -> None:
    """A body with one bit flipped is refused."""
    scheme, secret = PRESETS[name], secret_of(name)
    request = signed(scheme, secret, body)
    assert refusal(scheme, (secret,), with_body(request, flip(body, bit))) == "mismatch"


@pytest.mark.parametrize("name", MAIN)
def test_every_flipped_bit_of_the_digest(name: str) -> None:
    """Each of the 256 digests that differ in one bit is refused."""
    scheme, secret = PRESETS[name], secret_of(name)
    request = signed(scheme, secret, b"{}")
    value = request.values(scheme.plan.header)[0]
    start = len(value) - len(ENCODERS[scheme.enc](bytes(32)))
    digest = DECODERS[scheme.enc](value[start:])
    assert digest is not None
    for bit in range(256):
        forged = value[:start] + ENCODERS[scheme.enc](flip(digest, bit))
        assert refusal(scheme, (secret,), with_value(request, scheme.plan.header, forged)) == "mismatch"


@given(name=mains, bit=st.integers(0))
def test_any_flipped_bit_of_the_header(name: str, bit: int) -> None:
    """A signature header with one bit flipped is refused, unless only the case of a hex digit changed."""
    scheme, secret = PRESETS[name], secret_of(name)
    request = signed(scheme, secret, b"{}")
    value = request.values(scheme.plan.header)[0]
    changed = flip(value.encode(), bit).decode("latin-1")
    if scheme.enc == "hex" and changed.lower() == value.lower():
        return
    assert refusal(scheme, (secret,), with_value(request, scheme.plan.header, changed)) != "accepted"


@pytest.mark.parametrize("name", PROVING)
def test_every_proper_prefix(name: str) -> None:
    """No proper prefix of the proof is accepted, nor is the proof with something after it."""
    scheme, secret = PRESETS[name], secret_of(name)
    request = signed(scheme, secret, body_of(name))
    value = request.values(scheme.plan.header)[0]
    others = [value[:length] for length in range(len(value))] + [value + "0", value + "="]
    for other in others:
        assert refusal(scheme, (secret,), with_value(request, scheme.plan.header, other)) != "accepted", other


@pytest.mark.parametrize("name", PROVING)
def test_missing_empty_doubled(name: str) -> None:
    """Each header the verdict depends on has to come exactly once and not empty."""
    scheme, secret = PRESETS[name], secret_of(name)
    request = signed(scheme, secret, body_of(name))
    for header in needed_headers(scheme):
        value = request.values(header)[0]
        faults = {
            refusal(scheme, (secret,), with_value(request, header)),
            refusal(scheme, (secret,), with_value(request, header, "")),
        }
        assert faults <= {"missing_header", "missing_timestamp"}
        assert refusal(scheme, (secret,), with_value(request, header, value, value)) == "doubled_header"
        assert refusal(scheme, (secret,), with_value(request, header, "", value)) == "doubled_header"


@pytest.mark.parametrize("prefix", ["", "sha1=", "SHA256=", "sha256=sha256=", "sha256:", " sha256=", "sha256= "])
def test_prefix_matches_exactly(prefix: str) -> None:
    """The right digest behind another prefix is refused."""
    scheme, secret = PRESETS["github"], secret_of("github")
    request = signed(scheme, secret, b"{}")
    digest = request.values("x-hub-signature-256")[0].removeprefix("sha256=")
    forged = with_value(request, "x-hub-signature-256", prefix + digest)
    assert refusal(scheme, (secret,), forged) in ("malformed_header", "bad_encoding")


def test_hex_in_either_case() -> None:
    """Hex digits may be upper case; that is the only freedom an encoding has."""
    scheme, secret = PRESETS["github"], secret_of("github")
    request = signed(scheme, secret, b"{}")
    digest = request.values("x-hub-signature-256")[0].removeprefix("sha256=")
    assert verify(scheme, (secret,), with_value(request, scheme.plan.header, f"sha256={digest.upper()}"), NOW).valid


def test_base64_has_one_spelling() -> None:
    """URL-safe, unpadded, spaced, trailing and non-canonical base64 of the right digest are refused."""
    scheme, body = PRESETS["shopify"], b"{}"
    secret = next(s for s in map(str, range(1000)) if b"+" in _shopify_digest(s, body))
    request = signed(scheme, secret, body)
    right = request.values(scheme.plan.header)[0]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    sibling = right[:-2] + alphabet[alphabet.index(right[-2]) ^ 1] + "="
    assert base64.b64decode(sibling) == base64.b64decode(right)
    variants = [
        right.replace("+", "-"), right.rstrip("="), right + "=", " " + right, right + " ", right + "\n",
        right[:8] + "\n" + right[8:], right + "AAAA", right.lower(), sibling,
    ]  # fmt: skip
    assert verify(scheme, (secret,), request, NOW).valid
    for variant in variants:
        forged = with_value(request, scheme.plan.header, variant)
        assert refusal(scheme, (secret,), forged) == "bad_encoding" or variant == right.lower()
        assert refusal(scheme, (secret,), forged) != "accepted"


def _shopify_digest(secret: str, body: bytes) -> bytes:
    return base64.b64encode(hmac.digest(secret.encode(), body, "sha256"))


@given(text=st.text(max_size=80))
def test_accepts_only_what_an_oracle_accepts(text: str) -> None:
    """Of all texts behind the prefix, exactly the hex of the right digest is accepted."""
    scheme, secret = PRESETS["orqo"], secret_of("orqo")
    request = signed(scheme, secret, b"{}")
    right = hmac.digest(secret.encode(), b"{}", "sha256").hex()
    verdict = verify(scheme, (secret,), with_value(request, scheme.plan.header, "sha256=" + text), NOW)
    assert verdict.valid == (text.lower() == right)


# ---- lists of signatures


def test_unknown_versions_are_passed_over() -> None:
    """An entry of another version neither proves anything nor disturbs the one that does."""
    scheme, secret = PRESETS["standard-webhooks"], WHSEC
    request = signed(scheme, secret, b"{}")
    right = request.values("webhook-signature")[0]
    digest = right.removeprefix("v1,")
    beside = with_value(request, "webhook-signature", f"v1a,zzzz v2,{digest} {right}")
    assert verify(scheme, (secret,), beside, NOW).valid
    for version in ("v0", "v2", "v1a", "V1", "", "v1 "):
        alone = with_value(request, "webhook-signature", f"{version},{digest}")
        assert refusal(scheme, (secret,), alone) in ("no_candidate", "malformed_header")


@pytest.mark.parametrize(
    ("wrong", "reason"), [(4, "accepted"), (5, "too_many_candidates"), (999, "too_many_candidates")]
)
def test_number_of_candidates(wrong: int, reason: str) -> None:
    """One right signature among five is found; more than five are refused unread."""
    scheme, secret = PRESETS["stripe"], secret_of("stripe")
    request = signed(scheme, secret, b"{}")
    right = request.values("stripe-signature")[0]
    many = with_value(request, "stripe-signature", right + f",v1={'0' * 64}" * wrong)
    assert refusal(scheme, (secret,), many) == reason
    assert MAX_CANDIDATES == 5


def test_number_of_entries() -> None:
    """A list with more entries than any sender writes is refused, although it holds the right signature."""
    scheme, secret = PRESETS["stripe"], secret_of("stripe")
    request = signed(scheme, secret, b"{}")
    right = request.values("stripe-signature")[0]
    for others, reason in ((20, "accepted"), (1000, "too_many_candidates")):
        many = with_value(request, "stripe-signature", right + ",v0=00" * others)
        assert refusal(scheme, (secret,), many) == reason


@pytest.mark.parametrize("value", ["v1", "v1,", "v1,=", ",", " ", "v1,AAAA", "v1, v1,", "t", "v1,,"])
def test_malformed_lists(value: str) -> None:
    """A list without a whole signature in it is refused."""
    scheme = PRESETS["standard-webhooks"]
    request = with_value(signed(scheme, WHSEC, b"{}"), "webhook-signature", value)
    assert refusal(scheme, (WHSEC,), request) in ("malformed_header", "bad_encoding", "no_candidate")


def test_ids_cannot_be_cut_elsewhere() -> None:
    """An id that holds the separator is refused: the same bytes could be read as another id and time."""
    scheme = PRESETS["standard-webhooks"]
    with pytest.raises(ConfigError, match="can't be signed"):
        sign(scheme, WHSEC, Request("POST", URL, (), b"{}"), NOW, "msg.1")
    first = signed(scheme, WHSEC, b"1750000000.{}")
    shifted = with_body(with_value(first, "webhook-id", "msg_1.1750000000"), b"{}")
    assert verify(scheme, (WHSEC,), first, NOW).valid
    assert refusal(scheme, (WHSEC,), shifted) == "malformed_header"


# ---- tokens and Basic credentials


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("bearer", "Bearer s:t", "accepted"),
        ("bearer", "Bearer ", "malformed_header"),
        ("bearer", "bearer s:t", "malformed_header"),
        ("bearer", "s:t", "malformed_header"),
        ("bearer", "Bearer s:t ", "mismatch"),
        ("basic", "Basic czp0", "accepted"),
        ("basic", "Basic czp1", "mismatch"),
        ("basic", "Basic s:t", "bad_encoding"),
        ("basic", "Bearer czp0", "malformed_header"),
        ("gitlab", "s:t", "missing_header"),
    ],
)
def test_shared_values(name: str, value: str, reason: str) -> None:
    """A token or Basic credentials are compared whole, behind the exact word that announces them."""
    request = Request("POST", URL, (("authorization", value),), b"{}")
    assert refusal(PRESETS[name], ("s:t",), request) == reason


# ---- secrets


@pytest.mark.parametrize("name", PROVING)
@pytest.mark.parametrize("secrets", [(), ("",), ("", "")])
def test_no_secret_is_a_refusal(name: str, secrets: tuple[str, ...]) -> None:
    """Without a secret, or with an empty one, nothing is accepted, not even what the empty key signs."""
    scheme = PRESETS[name]
    request = signed(scheme, secret_of(name), body_of(name))
    assert refusal(scheme, secrets, request) == "no_secret"


def test_the_empty_key_proves_nothing() -> None:
    """A request signed with the empty key is refused, also beside a good secret."""
    scheme = PRESETS["orqo"]
    forged = (("x-signature-256", "sha256=" + hmac.digest(b"", b"{}", "sha256").hex()),)
    request = Request("POST", URL, forged, b"{}")
    assert refusal(scheme, ("",), request) == "no_secret"
    assert refusal(scheme, ("good", ""), request) == "no_secret"


def test_the_dummy_key_proves_nothing() -> None:
    """The key that is spent where no secret is usable accepts nothing."""
    forged = (("x-signature-256", "sha256=" + hmac.digest(bytes(32), b"{}", "sha256").hex()),)
    assert refusal(PRESETS["orqo"], (), Request("POST", URL, forged, b"{}")) == "no_secret"


@pytest.mark.parametrize(
    ("name", "secret", "reason"),
    [
        ("standard-webhooks", "whsec_", "no_secret"),
        ("standard-webhooks", "whsec_!!!!", "bad_secret"),
        ("standard-webhooks", "whsec_a-_b", "bad_secret"),
        ("adyen-header", "zz", "bad_secret"),
        ("adyen-header", "abc", "bad_secret"),
        ("airtable", "é", "bad_secret"),
        ("orqo", "\ud800", "bad_secret"),
    ],
)
def test_secrets_of_the_wrong_form(name: str, secret: str, reason: str) -> None:
    """A secret that isn't what the scheme's secrets are is refused at load and at verification, unshown."""
    request = signed(PRESETS[name], secret_of(name), b"{}")
    assert refusal(PRESETS[name], (secret,), request) == reason
    with pytest.raises(ConfigError, match=r"^apps\.ci\.secrets: ") as caught:
        check_secret(PRESETS[name], secret, "apps.ci.secrets")
    assert secret not in caught.value.message.replace("whsec", "")


def test_one_text_is_one_secret() -> None:
    """A secret passed bare, not in a sequence, is one secret: none of its characters is a key."""
    scheme = PRESETS["orqo"]
    assert refusal(scheme, "ab", signed(scheme, "a", b"{}")) == "mismatch"  # type: ignore[arg-type]
    assert verify(scheme, "ab", signed(scheme, "ab", b"{}"), NOW).valid


# ---- time


@pytest.mark.parametrize("name", ["stripe", "standard-webhooks", "slack", "hubspot-v3", "zendesk"])
@pytest.mark.parametrize(
    ("late", "reason"),
    [
        (0, "accepted"),
        (300, "accepted"),
        (-300, "accepted"),
        (301, "stale"),
        (-301, "future"),
        (math.nan, "stale"),
    ],
)
def test_freshness(name: str, late: float, reason: str) -> None:
    """A signed time is good for 300 seconds both ways, and no longer."""
    scheme, secret = PRESETS[name], secret_of(name)
    assert refusal(scheme, (secret,), signed(scheme, secret, b"{}"), NOW + late) == reason


@pytest.mark.parametrize(("late", "reason"), [(60, "accepted"), (61, "stale"), (-300, "accepted"), (-301, "future")])
def test_freshness_from_the_body(late: float, reason: str) -> None:
    """A time in the signed body counts as well, in milliseconds and with the sender's own tolerance."""
    scheme = PRESETS["linear"]
    assert refusal(scheme, ("s",), signed(scheme, "s", body_of("linear")), NOW + late) == reason


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"{", b'{"webhookTimestamp":true}', b"[" * 100_000])
def test_no_time_in_the_body(body: bytes) -> None:
    """A body without the time that the sender puts there is refused."""
    scheme = PRESETS["linear"]
    assert refusal(scheme, ("s",), signed(scheme, "s", body)) == "missing_timestamp"


def test_freshness_comes_last() -> None:
    """A stale request with a wrong signature is a mismatch: its time proves nothing."""
    scheme = PRESETS["stripe"]
    assert refusal(scheme, ("other",), signed(scheme, "s", b"{}"), NOW + 9999) == "mismatch"


@pytest.mark.parametrize(
    "text",
    ["-1750000000", "+1750000000", "1e300", "1750000000.0", "0x684ee180", "1_750_000_000", " 1750000000",
     "1750000000 ", "175000000000", "１７５０００００００", "١٧٥٠", "²", "NaN", "", "0" * 5000],
)  # fmt: skip
def test_times_of_the_wrong_form(text: str) -> None:
    """A time that isn't plain ASCII digits is refused, even when the sender signed it."""
    wire = text.encode().decode("latin-1")
    digest = hmac.digest(b"s", b"v0:" + text.encode() + b":{}", "sha256").hex()
    headers = (("x-slack-request-timestamp", wire), ("x-slack-signature", f"v0={digest}"))
    reason = refusal(PRESETS["slack"], ("s",), Request("POST", URL, headers, b"{}"))
    assert reason == ("malformed_timestamp" if text else "missing_timestamp")


def test_leading_zeros_enter_as_received() -> None:
    """The time enters the signed text as it was received, not as it would be written again."""
    digest = hmac.digest(b"s", b"v0:01750000000:{}", "sha256").hex()
    headers = (("x-slack-request-timestamp", "01750000000"), ("x-slack-signature", f"v0={digest}"))
    assert verify(PRESETS["slack"], ("s",), Request("POST", URL, headers, b"{}"), NOW).valid


@pytest.mark.parametrize("fields", ["t=1750000000,t=1750000000", "t=1,t=1750000000"])
def test_a_doubled_time_is_refused(fields: str) -> None:
    """Two times in one list are refused: one could be signed and the other judged."""
    digest = hmac.digest(b"s", b"1750000000.{}", "sha256").hex()
    headers = (("stripe-signature", f"{fields},v1={digest}"),)
    assert refusal(PRESETS["stripe"], ("s",), Request("POST", URL, headers, b"{}")) == "malformed_timestamp"


@pytest.mark.parametrize("unit", get_args(Unit))
def test_every_unit_of_time(unit: str) -> None:
    """A time that is written in a unit reads back as the same second."""
    assert TIME_READERS[unit](TIME_WRITERS[unit](NOW)) == NOW


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("rfc3339", "2025-06-15T15:06:40"),
        ("rfc3339", "2025-06-15"),
        ("rfc3339", "20250615T150640Z"),
        ("rfc3339", "2025-13-15T15:06:40Z"),
        ("rfc3339", "0001-01-01T00:00:00+23:59x"),
        ("httpdate", "Sun, 15 Jun 2025 15:06:40 +0000"),
        ("httpdate", "sun, 15 jun 2025 15:06:40 gmt"),
        ("httpdate", "Sun, 99 Jun 2025 15:06:40 GMT"),
        ("ms", "123456789012345"),
        ("ms", "１７５０"),
        ("s", "١٧٥٠"),
    ],
)
def test_times_that_are_none(unit: str, text: str) -> None:
    """A text that only resembles the unit's form is no time."""
    assert TIME_READERS[unit](text) is None


@given(unit=st.sampled_from(get_args(Unit)), text=st.text())
def test_reading_a_time_never_raises(unit: str, text: str) -> None:
    """Any text is a time or is none."""
    assert TIME_READERS[unit](text) is None or text.isascii()


# ---- never an exception

anything = st.text(st.characters(exclude_categories=()), max_size=60)


@given(name=st.sampled_from(PROVING), value=anything, secret=anything, body=bodies)
def test_any_header_text(name: str, value: str, secret: str, body: bytes) -> None:
    """Whatever the headers hold, the answer is a refusal with a known reason."""
    scheme = PRESETS[name]
    headers = tuple((header, value) for header in needed_headers(scheme))
    verdict = verify(scheme, (secret,), Request("POST", URL, headers, body), NOW)
    assert verdict.reason in REASONS
    assert not verdict.valid or scheme.kind == "token"


@given(
    template=st.sampled_from(["{url}{body}", "{method}{body}", "{form.a}", "{query.a}", "{json.a.0}.{body}"]),
    method=anything,
    url=anything,
    body=st.one_of(bodies, st.builds(b"a=%b".__mod__, bodies), st.builds(b'{"a":[%b]}'.__mod__, bodies)),
)
def test_any_method_url_and_body(template: str, method: str, url: str, body: bytes) -> None:
    """Whatever the scheme signs, and whatever stands there, nothing raises."""
    scheme = Scheme(kind="hmac", header="x-sig", template=template)
    request = Request(method, url, (("x-sig", "0" * 64),), body)
    assert not verify(scheme, ("s",), request, NOW).valid


# ---- what is signed


def test_the_body_is_never_copied() -> None:
    """The signed bytes are the body itself, also between other pieces."""
    body = bytes(1024)
    for name in ("orqo", "stripe", "square"):
        request = Request("POST", URL, (), body)
        parts = read_signed(PRESETS[name].plan.pieces, request, "1")
        assert not isinstance(parts, Verdict)
        assert any(part is body for part in parts)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"payload=",
        b"payload",
        b"payload=1&payload=2",
        b"payload=1&%70ayload=1",
        b"&" * 1000 + b"payload=1",
    ],
)
def test_the_signed_form_field_stands_once(body: bytes) -> None:
    """A form without exactly one such field is refused."""
    request = Request("POST", URL, (("x-gitea-signature", "0" * 64),), body)
    assert refusal(PRESETS["gitea-form"], ("s",), request) == "malformed_body"


def test_pieces_of_every_kind() -> None:
    """Each piece of a template is what its name says, as the sender's bytes."""
    template = "{method} {url} {header.X-A} {query.q} {json.a.1.b} {body}"
    scheme = Scheme(kind="hmac", header="x-sig", template=template, alg="sha512", enc="base64")
    body = b'{"a": [0, {"b": "\xc3\xa9"}]}'
    request = Request("PUT", "https://a.example/?q=1%2B+1", (("x-a", "A"),), body)
    text = b"PUT https://a.example/?q=1%2B+1 A 1+ 1 \xc3\xa9 " + body
    added = sign(scheme, "s", request, NOW, "")
    assert added == (("x-sig", base64.b64encode(hmac.digest(b"s", text, "sha512")).decode()),)
    assert verify(scheme, ("s",), with_headers(request, added), NOW).valid


@pytest.mark.parametrize("template", ["{url}{body}", "{method}{body}"])
def test_unknown_context_is_a_refusal(template: str) -> None:
    """A scheme that signs the URL or the method refuses while it isn't told them."""
    scheme = Scheme(kind="hmac", header="x-sig", template=template)
    request = Request("", "", (("x-sig", "0" * 64),), b"{}")
    assert refusal(scheme, ("s",), request) == "missing_context"
    assert scheme.uses_url == ("url" in template)


# ---- ids and types


@pytest.mark.parametrize(
    ("name", "identity", "kind", "id_is_signed"),
    [
        ("github", "d-1", "push", False),
        ("stripe", "evt_1", "charge", True),
        ("standard-webhooks", "m-1", "charge", True),
        ("cloudevents", "/src 7", "made", True),
        ("azure-devops", "3 4", None, True),
        ("telegram", "12", None, True),
        ("pagerduty", "e-1", "fired", True),
        ("linear", "l-1", "charge", False),
        ("orqo", None, None, True),
    ],
)
def test_ids_and_types(name: str, identity: str | None, kind: str | None, id_is_signed: bool) -> None:
    """Each sender's id and event name are read where it puts them, and known to be signed or not."""
    headers = {"x-github-delivery": "d-1", "x-github-event": "push", "webhook-id": "m-1", "ce-id": "7",
               "ce-source": "/src", "ce-type": "made", "linear-delivery": "l-1"}  # fmt: skip
    body = {"id": "evt_1", "type": "charge", "update_id": 12, "subscriptionId": 3, "notificationId": 4,
            "event": {"id": "e-1", "event_type": "fired"}}  # fmt: skip
    request = Request("POST", URL, tuple(headers.items()), b"")
    assert delivery_id(PRESETS[name], request, body) == identity
    assert event_type(PRESETS[name], request, body) == kind
    assert PRESETS[name].signed_id is id_is_signed


@pytest.mark.parametrize("body", [None, [], "text", 3, {}, {"id": None}, {"id": {}}, {"id": ""}, {"id": 10**5000}])
def test_ids_that_cannot_be_read(body: object) -> None:
    """A delivery without a readable id has none."""
    assert delivery_id(PRESETS["stripe"], Request("POST", URL, (), b""), body) is None


def test_a_doubled_id_is_none() -> None:
    """Two id headers give no id: which one counts would be a guess."""
    request = Request("POST", URL, (("x-github-delivery", "1"), ("x-github-delivery", "2")), b"")
    assert delivery_id(PRESETS["github"], request, None) is None


# ---- requests


def test_requests_from_asgi() -> None:
    """A scope's headers keep their order and repetitions, with names in lower case and bytes as Latin-1."""
    raw = [(b"X-A", b"1"), (b"b", b"\xe9"), (b"x-a", b"2")]
    request = Request.from_asgi("POST", URL, raw, b"{}")
    assert request.headers == (("x-a", "1"), ("b", "é"), ("x-a", "2"))
    assert request.values("X-A") == ["1", "2"]


def test_signing_keeps_what_the_request_has() -> None:
    """A time or id that the request already carries is signed as it is and not added again."""
    request = Request("POST", URL, (("webhook-timestamp", "1"), ("webhook-id", "own")), b"{}")
    added = sign(PRESETS["standard-webhooks"], WHSEC, request, NOW, "other")
    assert [name for name, _ in added] == ["webhook-signature"]
    assert refusal(PRESETS["standard-webhooks"], (WHSEC,), with_headers(request, added)) == "stale"


@pytest.mark.parametrize(
    ("name", "secret", "body", "problem"),
    [
        ("orqo", "", b"", "no secret"),
        ("basic", "password", b"", "user:password"),
        ("bearer", "två", b"", "printable ASCII"),
        ("bearer", "a\r\nb", b"", "printable ASCII"),
        ("gitea-form", "s", b"{}", "can't be signed"),
        ("square", "s", b"", "accepted"),
    ],
)
def test_what_cannot_be_signed(name: str, secret: str, body: bytes, problem: str) -> None:
    """Signing says why it can't: an unusable secret, or a request without what the scheme signs."""
    request = Request("POST", "" if problem == "accepted" else URL, (), body)
    with pytest.raises(ConfigError, match="can't be signed" if problem == "accepted" else problem):
        sign(PRESETS[name], secret, request, NOW, "msg_1")


# ---- schemes as operators write them


def test_overrides_of_a_preset() -> None:
    """A preset may be changed field by field, in nested and in flat spelling."""
    own = read_scheme({"scheme": "orqo", "header": "X-Own"}, "verify")
    assert (own.header, own.prefix) == ("X-Own", "sha256=")
    for change in ({"timestamp": {"tolerance": 60}}, {"tolerance": 60}):
        stripe = read_scheme({"scheme": "stripe", **change}, "verify")
        assert stripe.timestamp == Timestamp(source="field:t", tolerance=60)
        assert stripe.list == PRESETS["stripe"].list


def test_flat_spelling() -> None:
    """The flat spelling of a written-out scheme means the nested one."""
    flat = {"type": "hmac", "header": "Stripe-Signature", "template": "{timestamp}.{body}", "ts": "field:t",
            "ts_unit": "s", "tolerance": 300, "item_sep": ",", "kv_sep": "=", "sig_key": "v1"}  # fmt: skip
    added = {key: ROWS["stripe"][key] for key in ("delivery_id", "event_type", "content_types")}
    assert read_scheme({**flat, **added}, "verify") == PRESETS["stripe"]


def test_none_has_to_be_written() -> None:
    """Only a written `none` accepts unsigned requests, and the verdict says so."""
    assert verify(read_scheme("none", "verify"), (), Request("", "", (), b""), NOW) == Verdict(True, "unsigned")
    with pytest.raises(ConfigError, match=r"^verify: expected a preset's name"):
        read_scheme(None, "verify")


HMAC = {"kind": "hmac", "header": "X-Sig"}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("gihub", "verify: there is no preset 'gihub'; did you mean 'github'?"),
        ("", "verify: there is no preset ''; there are: "),
        ({"scheme": "strip"}, "verify.scheme: there is no preset 'strip'; did you mean 'stripe'?"),
        ([], "verify: expected a preset's name or a scheme's fields, got list"),
        ({1: 2}, "verify: expected a preset's name or a scheme's fields, got dict"),
        ({}, "verify.kind: is missing"),
        ({"kind": "hmac"}, "verify.header: is missing"),
        ({"kind": "token"}, "verify.header: is missing"),
        ({"kind": "magic"}, "verify.kind: invalid enum value 'magic'"),
        ({**HMAC, "alg": "md5"}, "verify.alg: invalid enum value 'md5'"),
        ({**HMAC, "heder": "a"}, "verify.heder: is no field here; did you mean 'header'?"),
        ({**HMAC, "template": "{body}{bdy}"}, "verify.template: there is no piece {bdy}"),
        ({**HMAC, "template": "{header.}{body}"}, "verify.template: there is no piece {header.}"),
        ({**HMAC, "template": "{body.a}"}, "verify.template: there is no piece {body.a}"),
        ({**HMAC, "template": "{body"}, "verify.template: has a brace without its pair"),
        ({**HMAC, "template": "{url}"}, "verify.template: signs nothing of the message"),
        ({**HMAC, "template": "{timestamp}{body}"}, "verify.timestamp: is missing"),
        ({**HMAC, "timestamp": {"from": "header:X-T"}}, "verify.timestamp.from: this time is not signed"),
        ({**HMAC, "ts": "header:X-T"}, "verify.ts: this time is not signed"),
        ({**HMAC, "timestamp": {"from": "cookie:t"}}, "verify.timestamp.from: 'cookie:t' says not where"),
        ({**HMAC, "timestamp": {"unit": "s"}}, "verify.timestamp.from: is missing"),
        ({**HMAC, "ts": "body:t", "ts_unit": "h"}, "verify.ts_unit: invalid enum value 'h'"),
        ({**HMAC, "ts": "body:t", "tolerance": -1}, "verify.tolerance: expected `int` >= 0"),
        ({**HMAC, "ts": "field:t", "template": "{timestamp}{body}"}, "verify.ts: a field needs a `list`"),
        ({**HMAC, "item_sep": ","}, "verify.list.kv_sep: is missing"),
        ({"scheme": "stripe", "prefix": "v1="}, "verify.prefix: is for a header with one signature"),
        ({**HMAC, "delivery_id": "X-Id"}, "verify.delivery_id: 'X-Id' says not where the value stands"),
        ({**HMAC, "event_type": "body:"}, "verify.event_type: 'body:' says not where the value stands"),
        (
            {"kind": "token", "header": "X", "key": "hex"},
            "verify.key: means nothing for kind token, which takes header",
        ),
        ({"kind": "basic", "prefix": "B"}, "verify.prefix: means nothing for kind basic, which takes header"),
    ],
)
def test_schemes_that_cannot_be_used(written: object, message: str) -> None:
    """A scheme that can't be used names the field that the operator wrote and what is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        read_scheme(written, "verify")
    assert caught.value.message.startswith(message)


def test_tables_are_whole() -> None:
    """Each word that the declarative form knows has its row in the table that handles it."""
    assert set(VERIFIERS) == set(SIGNERS) == set(CHECKERS) == set(TAKES) == set(get_args(Kind))
    made = {*DIGEST_SIZES, *SIZES, *FAMILIES, "hmac-sha256", "by-key"} - {"rsa-v1_5-sha1"}
    assert made == set(get_args(Algorithm))
    assert set(DECODERS) == set(ENCODERS) == set(get_args(Encoding))
    assert {*KEY_FORMS, *PUBLIC_FORMS} == set(get_args(KeyForm))
    assert set(PUBLIC_FORMS) == set(PRIVATE_FORMS) == set(PRIVATE_WORDS)
    assert set(TIME_READERS) == set(TIME_WRITERS) == set(get_args(Unit))
    assert set(PIECES) == {"text", *PLAIN_PIECES, *NAMED_PIECES}


# ---- captured requests

CAPTURE = {
    "scheme": "github", "secrets": ["s"], "method": "POST", "url": URL, "now": None, "body": "é",
    "headers": {"X-Hub-Signature-256": "sha256=" + hmac.digest(b"s", "é".encode(), "sha256").hex()},
}  # fmt: skip


def test_captured_requests() -> None:
    """A captured request is judged offline, with its body as text or base64; other fields are left alone."""
    assert judge({**CAPTURE, "note": "seen at night"}) == Verdict(True, "valid", 0)
    in_bytes = {**CAPTURE, "body": None, "body_base64": base64.b64encode("é".encode()).decode()}
    assert judge(in_bytes) == Verdict(True, "valid", 0)


def test_captured_lines_stay_repeated() -> None:
    """A header whose value is a list is so many lines; names that differ only in case are one header."""
    value = "sha256=" + hmac.digest(b"s", "é".encode(), "sha256").hex()
    for headers in (
        {"X-Hub-Signature-256": [value, value]},
        {"X-Hub-Signature-256": value, "x-hub-signature-256": value},
    ):
        assert judge({**CAPTURE, "headers": headers}).reason == "doubled_header"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"secrets": "s"}, "secrets: expected `array`, got `str`"),
        ({"secrets": [1]}, "secrets[0]: expected `str`, got `int`"),
        ({"headers": []}, "headers: expected `object`, got `array`"),
        ({"headers": {"a": 1}}, "headers[...]: expected `str | array`, got `int`"),
        ({"scheme": "nobody"}, "scheme: there is no preset 'nobody'"),
        ({"scheme": "stripe"}, "now: is missing"),
        ({"now": "today"}, "now: expected `float | null`, got `str`"),
        ({"body": None}, "body: give exactly one"),
        ({"body_base64": ""}, "body: give exactly one"),
        ({"body": "\ud800"}, "body: holds text that has no UTF-8 form"),
        ({"body": None, "body_base64": "é"}, "body_base64: is not base64"),
    ],
)
def test_captures_that_are_malformed(change: dict[str, object], message: str) -> None:
    """A capture that can't be judged names its field."""
    with pytest.raises(ConfigError) as caught:
        judge({**CAPTURE, **change})
    assert caught.value.message.startswith(message)


def test_a_capture_needs_its_parts() -> None:
    """A capture without a scheme, secrets or headers says which is missing."""
    for field in ("scheme", "secrets", "headers"):
        with pytest.raises(ConfigError, match=f"^{field}: is missing"):
            judge({key: value for key, value in CAPTURE.items() if key != field})


def flip(data: bytes, bit: int) -> bytes:
    """`data` with one bit flipped, counted round and round."""
    place, shift = divmod(bit % (8 * len(data)), 8)
    return data[:place] + bytes([data[place] ^ (1 << shift)]) + data[place + 1 :]
