"""Verifiers: what the kinds of proof beside an HMAC in a header take, and what each sender's own way leaves open."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.parts import read_part
from gateway.signatures import (
    PRESETS,
    Request,
    Scheme,
    check_secret,
    delivery_id,
    read_scheme,
    sign,
    sign_request,
    signed_content,
    verify,
)
from gateway.verifiers.publickeys import WEAK
from gateway.verifiers.twilio import spell_url
from tests.tools_senders import ADYEN, BASE, NOW, bare_request, key_of, signed_by, with_lines

FORM = (("content-type", "application/x-www-form-urlencoded"),)
JSON = (("content-type", "application/json"),)
TOKEN = hashlib.sha256(b"one").hexdigest()


def reason(scheme: Scheme, secret: str, request: Request, now: float = NOW) -> str:
    """Why the request is refused; "accepted" when it isn't."""
    verdict = verify(scheme, (secret,), request, now)
    return "accepted" if verdict.valid else verdict.reason


# ---- public keys


@pytest.mark.parametrize("alg", ["ed25519", "ecdsa-p256"])
@pytest.mark.parametrize("form", ["hex", "whpk", "spki"])
def test_public_keys_of_every_form(alg: str, form: str) -> None:
    """Both algorithms take a key of each form, and refuse the signature of another key and another message."""
    scheme = read_scheme({"kind": "public-key", "header": "X-Sig", "alg": alg, "key": form, "enc": "base64"}, "verify")
    pair = key_of(scheme) if alg == "ed25519" or form == "spki" else _p256(form)
    request = sign_request(scheme, pair[0], Request("POST", BASE, (), b"{}"), NOW, "")
    assert reason(scheme, pair[1], request) == "accepted"
    assert reason(scheme, pair[1], Request("POST", BASE, request.headers, b"{} ")) == "mismatch"
    assert reason(scheme, pair[1], Request("POST", BASE, (("x-sig", "MEUCIGHQ"),), b"{}")) in (
        "mismatch",
        "bad_encoding",
    )


def _p256(form: str) -> tuple[str, str]:
    private = ec.derive_private_key(7, ec.SECP256R1())
    point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if form == "hex":
        return "07", point.hex()
    return "whsk_Bw==", "whpk_" + base64.b64encode(point).decode()


def test_a_public_key_may_be_pem() -> None:
    """An SPKI key is taken as PEM as well as bare, with its line ends."""
    scheme, key = PRESETS["sendgrid"], key_of(PRESETS["sendgrid"])
    pem = f"-----BEGIN PUBLIC KEY-----\n{key.public[:64]}\n{key.public[64:]}\n-----END PUBLIC KEY-----\n"
    check_secret(scheme, pem, "secrets[0]")
    assert reason(scheme, pem, signed_by("sendgrid", key)) == "accepted"


@pytest.mark.parametrize("point", sorted(WEAK))
@pytest.mark.parametrize("sign_bit", [0, 0x80])
def test_weak_points_are_no_keys(point: bytes, sign_bit: int) -> None:
    """A point of small order, all zeros among them, is refused as a key: anybody can sign for it."""
    text = (point[:-1] + bytes([point[-1] | sign_bit])).hex()
    request = Request("POST", BASE, (("x-signature-ed25519", "00" * 64), ("x-signature-timestamp", "1750000000")), b"")
    assert reason(PRESETS["discord"], text, request) == "bad_secret"


def test_keys_of_another_kind_are_refused() -> None:
    """Another curve, another algorithm, a private key, and what is no key at all are refused when they are written."""
    other = ec.derive_private_key(7, ec.SECP384R1()).public_key()
    curve = base64.b64encode(other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    edwards = read_scheme({"scheme": "sendgrid", "alg": "ed25519"}, "verify")
    faults = [
        ("sendgrid", curve),
        ("sendgrid", key_of(edwards).public),
        ("sendgrid", key_of(PRESETS["sendgrid"]).private),
        ("sendgrid", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"),
        ("discord", "00" * 31),
        ("discord", "not hex"),
        ("svix-v1a", key_of(PRESETS["svix-v1a"]).private),
        ("svix-v1a", "whpk_"),
        ("svix-v1a", "whsec_AAAA"),
        ("svix-v1a", "é"),
    ]
    for name, text in faults:
        with pytest.raises(ConfigError, match=r"^secrets\[0\]: ") as caught:
            check_secret(PRESETS[name], text, "secrets[0]")
        assert text not in caught.value.message


def test_signing_takes_the_private_key() -> None:
    """Signing with something else than a private key says which form it wants, and doesn't repeat what it was given."""
    for name, text in (("svix-v1a", "whsk_!"), ("sendgrid", "AAAA"), ("discord", "zz"), ("sendgrid", "")):
        with pytest.raises(ConfigError, match="signing takes the") as caught:
            sign(PRESETS[name], text, Request("POST", BASE, (), b"{}"), NOW, "msg_1")
        assert not text or text not in caught.value.message.partition("key: ")[0]


def test_another_version_beside_is_passed_over() -> None:
    """Under v1a an entry of v1 neither proves anything nor disturbs; alone it is no signature."""
    key = key_of(PRESETS["standard-webhooks-v1a"])
    request = signed_by("standard-webhooks-v1a", key)
    right = request.values("webhook-signature")[0]
    assert right.startswith("v1a,")
    beside = with_lines(request, "webhook-signature", f"v1,{'A' * 43}= {right}")
    assert reason(PRESETS["standard-webhooks-v1a"], key.public, beside) == "accepted"
    alone = with_lines(request, "webhook-signature", right.replace("v1a", "v1"))
    assert reason(PRESETS["standard-webhooks-v1a"], key.public, alone) == "no_candidate"


# ---- proofs in the body and in the URL


def test_mailgun_signs_into_the_body() -> None:
    """Mailgun's signature, time and token stand in the body, as JSON or as form fields; the token is the delivery's id."""
    for name in ("mailgun", "mailgun-form"):
        request = signed_by(name, key_of(PRESETS[name]))
        assert b"msg_1" in request.body
        body = json.loads(request.body) if name == "mailgun" else None
        assert delivery_id(PRESETS[name], request, body) == "msg_1"
        assert PRESETS[name].signed_id
        with pytest.raises(ConfigError, match="not in headers"):
            sign(PRESETS[name], TOKEN, bare_request(name, key_of(PRESETS[name])), NOW, "msg_1")


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("signature", "", "missing_proof"),
        ("signature", None, "missing_proof"),
        ("signature", 7, "bad_encoding"),
        ("signature", "é" * 64, "missing_proof"),
        ("signature", "0" * 63, "bad_encoding"),
        ("token", "", "malformed_body"),
        ("token", ["a"], "malformed_body"),
        ("timestamp", "", "malformed_body"),
        ("timestamp", 1750000000.0, "malformed_body"),
        ("timestamp", "1750000001", "mismatch"),
    ],
)
def test_a_signature_in_the_body_is_read_strictly(field: str, value: object, word: str) -> None:
    """A field that is missing, empty or of another type is a refusal that says so."""
    request = signed_by("mailgun", key_of(PRESETS["mailgun"]))
    document = json.loads(request.body)
    document["signature"][field] = value
    changed = Request("POST", BASE, request.headers, json.dumps(document).encode())
    assert reason(PRESETS["mailgun"], TOKEN, changed) == word


def test_a_doubled_form_field_is_no_signature() -> None:
    """A form in which signature, time or token stand twice is refused: which one counts would be a guess."""
    request = signed_by("mailgun-form", key_of(PRESETS["mailgun-form"]))
    for name in (b"signature", b"timestamp", b"token"):
        doubled = Request("POST", BASE, request.headers, request.body + b"&" + name + b"=1")
        assert reason(PRESETS["mailgun-form"], TOKEN, doubled) in (
            "missing_proof",
            "malformed_body",
            "missing_timestamp",
        )


@pytest.mark.parametrize(
    ("query", "word"),
    [
        (f"?code={TOKEN}", "accepted"),
        (f"?a=1&code={TOKEN}#x", "accepted"),
        (f"?code={TOKEN}&code={TOKEN}", "missing_proof"),
        (f"?code={TOKEN}x", "mismatch"),
        (f"?Code={TOKEN}", "missing_proof"),
        ("?code=", "missing_proof"),
        ("?code=%ff", "missing_proof"),
        ("", "missing_proof"),
        (f"#?code={TOKEN}", "missing_proof"),
    ],
)
def test_a_secret_in_the_query(query: str, word: str) -> None:
    """Event Grid's secret is a field of the query, once and whole."""
    assert (
        reason(PRESETS["azure-event-grid"], TOKEN, Request("POST", "/api/v1/webhooks/43" + query, JSON, b"[]")) == word
    )


@pytest.mark.parametrize(
    ("url", "word"),
    [
        (f"/api/v1/webhooks/{TOKEN}", "accepted"),
        (f"https://gateway.example/api/v1/webhooks/{TOKEN}?a=1", "accepted"),
        ("/api/v1/webhooks/43", "mismatch"),
        (f"/api/v1/webhooks/43?x=/{TOKEN}", "mismatch"),
        (f"/api/v1/webhooks/43#/{TOKEN}", "mismatch"),
        (f"/api/v1/webhooks/{TOKEN}/", "missing_proof"),
        (f"/api/v1/webhooks/{TOKEN.upper()}", "mismatch"),
        ("", "missing_proof"),
    ],
)
def test_a_secret_in_the_path(url: str, word: str) -> None:
    """A sender that signs nothing proves itself by the token at the end of its URL, and by nothing else of it."""
    assert reason(PRESETS["docker-hub"], TOKEN, Request("POST", url, JSON, b"{}")) == word


@pytest.mark.parametrize(
    ("token", "good"),
    [
        (TOKEN, True),
        (TOKEN[:32], True),
        (TOKEN[:31], False),
        ("Zm9vYmFyQUJDMTIzNDU2Nz", True),
        ("Zm9vYmFyQUJDMTIzNDU2N", False),
        ("123456789012345678901234567890123456789", True),
        ("12345678901234567890123456789012345678", False),
        ("a" * 64, False),
        ("abababababababababababababababababababab", False),
        ("docker-hub", False),
        (TOKEN + "/x", False),
        (TOKEN + "é", False),
    ],
)
def test_a_token_in_a_url_cannot_be_guessed(token: str, good: bool) -> None:
    """A token has room for 128 bits of chance, counted by the alphabet it seems to be drawn from."""
    if good:
        check_secret(PRESETS["docker-hub"], token, "token")
        return
    with pytest.raises(ConfigError, match=r"^token: "):
        check_secret(PRESETS["docker-hub"], token, "token")


def test_a_url_is_signed_by_being_known() -> None:
    """`gateway send` adds nothing for such a sender, and says so when the URL is not the one."""
    scheme = PRESETS["jotform"]
    assert sign(scheme, TOKEN, Request("POST", BASE + TOKEN, (), b""), NOW, "") == ()
    with pytest.raises(ConfigError, match="end in the app's token"):
        sign(scheme, TOKEN, Request("POST", BASE + "43", (), b""), NOW, "")


@pytest.mark.parametrize("name", ["gitea", "forgejo", "gogs"])
def test_gitea_signs_the_payload_of_a_form(name: str) -> None:
    """One preset serves both content types: the body of JSON, and of a form its decoded field."""
    scheme, document = PRESETS[name], b'{"a": "\xc3\xa9"}'
    digest = hmac.digest(b"s", document, "sha256").hex()
    headers = (*FORM, (scheme.plan.header, digest))
    assert reason(scheme, "s", Request("POST", BASE, headers, b"payload=%7B%22a%22%3A+%22%C3%A9%22%7D")) == "accepted"
    assert reason(scheme, "s", Request("POST", BASE, headers, document)) == "malformed_body"
    assert reason(scheme, "s", Request("POST", BASE, (*JSON, *headers), document)) == "doubled_header"
    assert reason(scheme, "s", Request("POST", BASE, (*JSON, headers[1]), document)) == "accepted"


def multipart(fields: list[tuple[str, str]], more: bytes = b"") -> Request:
    """A form as Mailgun's routes post it, with these fields and whatever else."""
    parts = [f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields]
    body = "".join(parts).encode() + more + b"--x--\r\n"
    return Request("POST", BASE, (("content-type", "multipart/form-data; boundary=x"),), body)


def mailgun_fields() -> list[tuple[str, str]]:
    digest = hmac.digest(TOKEN.encode(), b"1750000000token", "sha256").hex()
    return [("timestamp", "1750000000"), ("token", "token"), ("signature", digest), ("body-plain", "a\r\n\r\nb")]


def test_mailgun_s_forms_with_files() -> None:
    """A route's multipart form is verified by its fields; a file of a field's name is none of them."""
    scheme, fields = PRESETS["mailgun-form"], mailgun_fields()
    file = b'--x\r\nContent-Disposition: form-data; name="token"; filename="f"\r\nContent-Type: a/b\r\n\r\nother\r\n'
    assert reason(scheme, TOKEN, multipart(fields)) == "accepted"
    assert reason(scheme, TOKEN, multipart(fields, file)) == "accepted"
    assert delivery_id(scheme, multipart(fields, file), None) == "token"
    assert reason(scheme, TOKEN, multipart([*fields, ("token", "token")])) == "malformed_body"
    assert reason(scheme, TOKEN, multipart([*fields[:1], ("token", "other"), *fields[2:]])) == "mismatch"
    assert reason(scheme, TOKEN, multipart(fields[:2])) == "missing_proof"
    assert reason(scheme, TOKEN, multipart([("a", "b")] * 1000 + fields)) == "missing_proof"


@pytest.mark.parametrize(
    "kind",
    ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=y", "multipart/mixed; boundary=x",
     "multipart/form-data; boundary=x; boundary=y", "multipart/form-data; boundary=é", "multipart/"],
)  # fmt: skip
def test_multipart_without_its_boundary(kind: str) -> None:
    """A form whose parts can't be told is refused."""
    request = with_lines(multipart(mailgun_fields()), "content-type", kind)
    assert reason(PRESETS["mailgun-form"], TOKEN, request) == "missing_proof"


@given(
    body=st.binary(max_size=300),
    head=st.sampled_from([b"", b"--x\r\n", b'--x\r\nContent-Disposition: form-data; name="a"']),
)
def test_reading_parts_never_raises(body: bytes, head: bytes) -> None:
    """Any bytes have a field or none."""
    found = read_part("multipart/form-data; boundary=x", head + body + b"\r\n--x--", "a")
    assert found is None or found in body


# ---- Twilio

TWILIO = PRESETS["twilio"]


def twilio(url: str, text: str, body: bytes = b"", headers: tuple[tuple[str, str], ...] = FORM) -> Request:
    """A request whose signature is that of `text`."""
    digest = base64.b64encode(hmac.digest(b"12345", text.encode(), "sha1")).decode()
    return Request("POST", url, (*headers, ("x-twilio-signature", digest)), body)


@pytest.mark.parametrize(
    ("body", "signed"),
    [
        (b"b=2&a=1", "a1b2"),
        (b"a=2&a=1&a=2", "a1a2"),
        (b"a=&b", "ab"),
        (b"a=%2B+1", "a+ 1"),
        (b"%C3%A9=1&z=1", "z1é1"),
        (b"a=1&&b=2&", "a1b2"),
        (b"B=1&a=1", "B1a1"),
        (b"", ""),
    ],
)
def test_twilio_sorts_fields(body: bytes, signed: str) -> None:
    """Fields are joined in the order of their names; of a repeated one each value counts once."""
    url = "https://example.com/hook?foo=1"
    assert reason(TWILIO, "12345", twilio(url, url + signed, body)) == "accepted"
    assert reason(TWILIO, "12345", twilio(url, url + signed + "x", body)) == "mismatch"


@pytest.mark.parametrize(
    ("seen", "signed"),
    [
        ("https://example.com/h", "https://example.com:443/h"),
        ("https://example.com:443/h", "https://example.com/h"),
        ("http://example.com/h?a=1", "http://example.com:80/h?a=1"),
        ("https://example.com:8443/h", "https://example.com/h"),
        ("https://example.com:8443/h", "https://example.com:8443/h"),
        ("https://[2001:db8::1]/h", "https://[2001:db8::1]:443/h"),
    ],
)
def test_twilio_may_sign_a_port(seen: str, signed: str) -> None:
    """The URL counts with and without its port, whichever Twilio took."""
    assert reason(TWILIO, "12345", twilio(seen, signed)) == "accepted"


@pytest.mark.parametrize("url", ["", "/h", "ftp://example.com/h", "https://example.com:x/h", "https://[/h"])
def test_twilio_needs_a_url(url: str) -> None:
    """Without a whole URL there is nothing that could be signed."""
    assert spell_url(url) == ()
    assert reason(TWILIO, "12345", twilio(url, url)) == "missing_context"


def test_twilio_hashes_other_bodies_into_the_url() -> None:
    """A body that is no form is bound by its hash in the URL: another body, no hash, and two hashes are refused."""
    body = b'{"a":1}'
    url = f"https://example.com/h?bodySHA256={hashlib.sha256(body).hexdigest()}"
    assert reason(TWILIO, "12345", twilio(url, url, body, JSON)) == "accepted"
    assert reason(TWILIO, "12345", twilio(url, url, body + b" ", JSON)) == "mismatch"
    assert reason(TWILIO, "12345", twilio(url, url, b"", JSON)) == "mismatch"
    bare = "https://example.com/h"
    assert reason(TWILIO, "12345", twilio(bare, bare, body, JSON)) == "malformed_url"
    twice = url + url.partition("?")[2]
    assert reason(TWILIO, "12345", twilio(twice, twice, body, JSON)) == "mismatch"


def test_twilio_content_types_cannot_be_exchanged() -> None:
    """A form's request can't be sent again as JSON, nor a JSON request as an empty form: its type is not signed."""
    form = twilio("https://example.com/h", "https://example.com/ha1", b"a=1")
    assert reason(TWILIO, "12345", form) == "accepted"
    assert reason(TWILIO, "12345", with_lines(form, "content-type", "application/json")) == "malformed_url"
    assert reason(TWILIO, "12345", with_lines(form, "content-type")) == "malformed_url"
    body = b'{"a":1}'
    url = f"https://example.com/h?bodySHA256={hashlib.sha256(body).hexdigest()}"
    assert reason(TWILIO, "12345", twilio(url, url, b"", FORM)) == "mismatch"


def test_twilio_signs_by_the_configured_hash() -> None:
    """With a shared key for webhooks Twilio signs by SHA-256: taken where the scheme says so, and nowhere else."""
    shared = read_scheme({"scheme": "twilio", "alg": "sha256"}, "verify")
    newer = sign_request(shared, "12345", Request("POST", "https://example.com/h", FORM, b"a=1"), NOW, "")
    older = twilio("https://example.com/h", "https://example.com/ha1", b"a=1")
    assert (reason(shared, "12345", newer), reason(TWILIO, "12345", older)) == ("accepted", "accepted")
    assert (reason(shared, "12345", older), reason(TWILIO, "12345", newer)) == ("bad_encoding", "bad_encoding")


def test_twilio_signs_json_into_the_url() -> None:
    """Signing a body that is no form changes the URL that is posted to."""
    request = sign_request(TWILIO, "12345", Request("POST", "https://example.com/h", JSON, b"{}"), NOW, "token")
    assert request.url.startswith("https://example.com/h?bodySHA256=")
    assert reason(TWILIO, "12345", request) == "accepted"


# ---- Adyen

ADYEN_KEY = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
OTHER_KEY = "00" * 31 + "01"


def adyen_items(*keys: str, **changes: object) -> list[dict[str, Any]]:
    """As many items as keys, each signed by its own; with `changes` in the last, made after it was signed."""
    items = []
    for key in keys:
        body = json.dumps({"notificationItems": [{"NotificationRequestItem": ADYEN}]}).encode()
        request = sign_request(PRESETS["adyen"], key, Request("POST", BASE, JSON, body), NOW, "")
        items.append(json.loads(request.body)["notificationItems"][0])
    items[-1]["NotificationRequestItem"] |= changes
    return items


def adyen_reason(document: object, secrets: tuple[str, ...] = (ADYEN_KEY,)) -> str:
    verdict = verify(PRESETS["adyen"], secrets, Request("POST", BASE, JSON, json.dumps(document).encode()), NOW)
    return "accepted" if verdict.valid else verdict.reason


def test_every_adyen_item_has_to_hold() -> None:
    """A good first item proves nothing of a second that is changed, unsigned, or signed by somebody else."""
    assert adyen_reason({"notificationItems": adyen_items(ADYEN_KEY, ADYEN_KEY)}) == "accepted"
    assert adyen_reason({"notificationItems": adyen_items(ADYEN_KEY, ADYEN_KEY, success="false")}) == "mismatch"
    assert adyen_reason({"notificationItems": adyen_items(ADYEN_KEY, ADYEN_KEY, additionalData={})}) == "missing_proof"
    mixed = {"notificationItems": adyen_items(ADYEN_KEY, OTHER_KEY)}
    assert adyen_reason(mixed) == "mismatch"
    assert adyen_reason(mixed, (OTHER_KEY,)) == "mismatch"


def test_adyen_items_share_one_secret() -> None:
    """While a secret is being replaced either may have signed, but one and the same for the whole notification."""
    assert adyen_reason({"notificationItems": adyen_items(OTHER_KEY, OTHER_KEY)}, (ADYEN_KEY, OTHER_KEY)) == "accepted"
    assert adyen_reason({"notificationItems": adyen_items(ADYEN_KEY, OTHER_KEY)}, (ADYEN_KEY, OTHER_KEY)) == "mismatch"


@pytest.mark.parametrize(
    "document",
    [[], {}, None, 1, {"notificationItems": []}, {"notificationItems": {}}, {"notificationItems": [{}]},
     {"notificationItems": [1]}, {"notificationItems": [{"NotificationRequestItem": {}}]}],
)  # fmt: skip
def test_adyen_without_items(document: object) -> None:
    """A notification without an item that is signed is refused, however empty it is."""
    assert adyen_reason(document) in ("malformed_body", "missing_proof")


def test_adyen_fields_are_text_as_adyen_writes_it() -> None:
    """Numbers and truth values count as their text; anything else in a signed field is refused."""
    (item,) = adyen_items(ADYEN_KEY)
    item["NotificationRequestItem"] |= {"success": True}
    assert adyen_reason({"notificationItems": [item]}) == "accepted"
    for odd in (1.5, [], {}, 10**30):
        item["NotificationRequestItem"] |= {"success": odd}
        assert adyen_reason({"notificationItems": [item]}) == "malformed_body"


# ---- Netlify


def jws(claims: object, header: object = {"alg": "HS256", "typ": "JWT"}, key: bytes = b"s", alg: str = "sha256") -> str:
    """A token, signed with any digest."""
    parts = [_base64url(json.dumps(each).encode()) for each in (header, claims)]
    return ".".join((*parts, _base64url(hmac.digest(key, ".".join(parts).encode(), alg))))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


RIGHT = {"iss": "netlify", "sha256": hashlib.sha256(b"{}").hexdigest()}


@pytest.mark.parametrize(
    ("token", "word"),
    [
        (jws(RIGHT), "accepted"),
        (jws(RIGHT | {"more": 1}), "accepted"),
        (jws(RIGHT, {"alg": "none"}), "malformed_header"),
        (jws(RIGHT, {"alg": "HS384"}), "malformed_header"),
        (jws(RIGHT, {"alg": "RS256"}), "malformed_header"),
        (jws(RIGHT, {"alg": "hs256"}), "malformed_header"),
        (jws(RIGHT, {"alg": "HS256", "crit": ["b64"]}), "malformed_header"),
        (jws(RIGHT, []), "malformed_header"),
        (jws(RIGHT, {"alg": "HS512"}, alg="sha512"), "bad_encoding"),
        (jws(RIGHT, {"alg": "none"}).rpartition(".")[0] + ".", "bad_encoding"),
        (jws(RIGHT, key=b"other"), "mismatch"),
        (jws(RIGHT | {"iss": "other"}), "malformed_header"),
        (jws({"sha256": RIGHT["sha256"]}), "malformed_header"),
        (jws({"iss": "netlify"}), "malformed_header"),
        (jws(RIGHT | {"sha256": 1}), "malformed_header"),
        (jws(RIGHT | {"sha256": "é"}), "malformed_header"),
        (jws(RIGHT | {"sha256": "0" * 64}), "mismatch"),
        (jws([]), "malformed_header"),
        (jws(RIGHT) + "=", "bad_encoding"),
        (jws(RIGHT) + ".", "malformed_header"),
        ("a.b", "malformed_header"),
        ("." * 5000, "malformed_header"),
    ],
)
def test_netlify_tokens(token: str, word: str) -> None:
    """Only a token by HS256, from Netlify, of this body is taken; what it says of its algorithm is never followed."""
    request = Request("POST", BASE, (*JSON, ("x-webhook-signature", token)), b"{}")
    assert reason(PRESETS["netlify"], "s", request) == word


# ---- HubSpot


def test_hubspot_counts_only_the_configured_version() -> None:
    """Of HubSpot's versions only the app's own is taken, whatever the header announces."""
    for own, other in (("v1", "v2"), ("v2", "v1")):
        request = signed_by(f"hubspot-{own}", key_of(PRESETS[f"hubspot-{own}"]))
        assert reason(PRESETS[f"hubspot-{other}"], TOKEN, request) == "no_candidate"
        renamed = with_lines(request, "x-hubspot-signature-version", other)
        assert reason(PRESETS[f"hubspot-{own}"], TOKEN, renamed) == "no_candidate"
        assert (
            reason(PRESETS[f"hubspot-{own}"], TOKEN, with_lines(request, "x-hubspot-signature-version"))
            == "missing_header"
        )


def test_hubspot_digests_cannot_be_continued() -> None:
    """A body with a NUL is refused, even with the right digest: continuing a plain hash can't do without one."""
    body = b'{"a":1}\x80\0\0{}'
    digest = hashlib.sha256(b"s" + body).hexdigest()
    headers = (*JSON, ("x-hubspot-signature", digest), ("x-hubspot-signature-version", "v1"))
    assert reason(PRESETS["hubspot-v1"], "s", Request("POST", BASE, headers, body)) == "malformed_body"


def test_hubspot_signs_a_url_with_some_of_it_decoded() -> None:
    """The third version signs the URL with twelve of its escapes decoded; others stay as they are."""
    url = "https://g.example/h?a=%40%3a%2F%20%3D%C3%A9&b=%27"
    signed = "https://g.example/h?a=@:/%20%3D%C3%A9&b='"
    digest = base64.b64encode(hmac.digest(b"s", f"POST{signed}{{}}1750000000000".encode(), "sha256")).decode()
    headers = (("x-hubspot-signature-v3", digest), ("x-hubspot-request-timestamp", "1750000000000"))
    assert reason(PRESETS["hubspot-v3"], "s", Request("POST", url, headers, b"{}")) == "accepted"


# ---- WebSub


@pytest.mark.parametrize("method", ["sha1", "sha256", "sha384", "sha512"])
def test_websub_takes_the_methods_of_the_standard(method: str) -> None:
    """The header may name any of the standard's four methods, with the digest of that method and no other."""
    digest = hmac.digest(b"s", b"<feed/>", method).hex()
    for value, word in (
        (f"{method}={digest}", "accepted"),
        (f"{method}={digest[:-2]}", "bad_encoding"),
        (f"{method.upper()}={digest}", "no_candidate"),
        (f"{method}:{digest}", "malformed_header"),
        (f"{method}={digest[:-1]}{'0' if digest[-1] != '0' else '1'}", "mismatch"),
    ):
        assert reason(PRESETS["websub"], "s", Request("POST", BASE, (("x-hub-signature", value),), b"<feed/>")) == word


@pytest.mark.parametrize("method", ["md5", "sha224", "sha3_256", "none", ""])
def test_websub_takes_no_other_method(method: str) -> None:
    """A method outside the standard's list is refused, although its digest would be right."""
    digest = hmac.digest(b"s", b"<feed/>", method).hex() if method in ("md5", "sha224", "sha3_256") else ""
    request = Request("POST", BASE, (("x-hub-signature", f"{method}={digest}"),), b"<feed/>")
    assert reason(PRESETS["websub"], "s", request) == "no_candidate"


# ---- what was signed, for telling replays


@pytest.mark.parametrize(
    ("name", "kind", "body", "content"),
    [
        ("github", "application/x-www-form-urlencoded", b"payload=%7B%7D", b"payload=%7B%7D"),
        ("gitea", "application/x-www-form-urlencoded", b"payload=%7B%7D", b"{}"),
        ("gitea", "application/x-www-form-urlencoded", b"x=1&payload=%7b%7D", b"{}"),
        ("gitea", "application/json", b"{}", b"{}"),
        ("gitea-form", "application/x-www-form-urlencoded", b"payload=%7B%7D", b"{}"),
        ("gitea-form", "application/x-www-form-urlencoded", b"", b""),
        ("twilio", "application/x-www-form-urlencoded", b"b=%32&a=1", b"x=1\0a1b2"),
        ("twilio", "application/json", b"{}", b"x=1\0{}"),
        ("websub", "text/plain", b"a", b"a"),
    ],
)
def test_what_is_signed_of_the_content(name: str, kind: str, body: bytes, content: bytes) -> None:
    """A replay is told by what the signature covers, not by the bytes it is wrapped in."""
    request = Request("POST", "https://g.example/h?x=1", (("content-type", kind),), body)
    assert signed_content(PRESETS[name], request) == content


# ---- schemes as operators write them


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"kind": "public-key", "header": "X", "key": "hex"}, "verify.alg: kind public-key takes one of ed25519, "),
        ({"kind": "public-key", "header": "X", "alg": "ed25519"}, "verify.key: kind public-key takes one of hex, "),
        ({"kind": "public-key", "alg": "ed25519", "key": "hex"}, "verify.header: is missing; kind public-key"),
        ({"kind": "hmac", "header": "X", "alg": "ed25519"}, "verify.alg: kind hmac takes one of sha1, "),
        ({"kind": "hmac", "header": "X", "key": "whpk"}, "verify.key: kind hmac takes one of raw, "),
        ({"kind": "hmac", "header": "X", "proof": "body:a"}, "verify.proof: says that the proof stands elsewhere"),
        ({"kind": "hmac", "header": "X", "signature": "body:a"}, "verify.signature: says that the proof stands"),
        (
            {"kind": "hmac", "proof": "header:X"},
            "verify.proof: 'header:X' says not where the value stands; write body:",
        ),
        ({"kind": "token"}, "verify.header: is missing; kind token needs"),
        ({"scheme": "twilio", "tolerance": 5}, "verify."),
        ({"scheme": "twilio", "alg": "sha256x"}, "verify.alg: invalid enum value"),
        ({"scheme": "twilio", "alg": "sha512"}, "verify.alg: kind twilio takes one of sha1, sha256"),
        ({"scheme": "twilio", "key": "hex"}, "verify.key: means nothing for kind twilio, which takes header"),
        ({"scheme": "docker-hub", "header": "X"}, "verify.header: means nothing for kind url, which takes nothing"),
        ({"scheme": "websub", "template": "{url}"}, "verify.template: means nothing for kind websub"),
        ({"kind": "hmac", "proof": "body:s"}, "verify.template: the proof stands in the body"),
        ({"kind": "hmac", "proof": "form:s", "ts": "form:t", "template": "{form.u}"}, "verify.ts: this time is not"),
    ],
)
def test_fields_that_do_not_fit_a_kind(written: object, message: str) -> None:
    """A field that a kind would pass over in silence is refused, and named as it was written."""
    with pytest.raises(ConfigError) as caught:
        read_scheme(written, "verify")
    assert caught.value.message.startswith(message)


def test_written_out_schemes_of_the_extensions() -> None:
    """Mailgun and Discord may be written out in full, in nested or flat spelling, and are the presets then."""
    mailgun = {"type": "hmac", "signature": "body:signature.signature", "ts": "body:signature.timestamp", "tolerance": 900,
               "template": "{json.signature.timestamp}{json.signature.token}", "delivery_id": "body:signature.token",
               "event_type": "body:event-data.event", "content_types": ["application/json"]}  # fmt: skip
    assert read_scheme(mailgun, "verify") == PRESETS["mailgun"]
    discord = {"type": "public-key", "alg": "ed25519", "key": "hex", "header": "X-Signature-Ed25519",
               "template": "{timestamp}{body}", "ts": "header:X-Signature-Timestamp", "delivery_id": "body:id",
               "event_type": "body:type", "content_types": ["application/json"]}  # fmt: skip
    assert read_scheme(discord, "verify") == PRESETS["discord"]


@pytest.mark.parametrize("name", ["adyen", "hubspot-v1", "jenkins-gwt", "netlify", "travis", "twilio", "websub"])
def test_a_kind_of_one_sender_is_complete(name: str) -> None:
    """Written out by its kind alone it is the sender's preset."""
    assert read_scheme({"kind": name}, "verify") == PRESETS[name]


@pytest.mark.parametrize(
    "written", ["sha256={hex}", "{hex}", "HMAC {hex}", "{base64}", "sha256={base64}", "HMAC {base64}"]
)
def test_jenkins_takes_any_spelling(written: str) -> None:
    """Its trigger plugin reads hex and base64, alone or after either prefix; and neither half of a digest nor both."""
    digest = hmac.new(b"a secret", b"{}", "sha256").digest()
    texts = {"hex": digest.hex(), "base64": base64.b64encode(digest).decode()}

    def judged(text: str, body: bytes = b"{}") -> str:
        request = Request("POST", "", (("x-hub-signature", text),), body)
        return verify(PRESETS["jenkins-gwt"], ("old one", "a secret"), request, 0.0).reason

    text = written.format(**texts)
    assert judged(text) == "valid"
    assert judged(text, b"{ }") == "mismatch"
    assert {judged(text[:-2]), judged(text + "00"), judged("sha256=")} == {"bad_encoding"}


def test_alertmanager_either_way() -> None:
    """Basic credentials or a bearer token, whichever the secret is; another word, or another value, is refused."""
    cases = [
        ("am:secret", "Basic YW06c2VjcmV0", "valid"),
        ("am-token", "Bearer am-token", "valid"),
        ("am-token", "Bearer am-tokem", "mismatch"),
        ("am-token", "Bearer ", "malformed_header"),
        ("am-token", "am-token", "malformed_header"),
        ("am:secret", "Basic YW06c2VjcmV0eA==", "mismatch"),
    ]
    for secret, value, reason in cases:
        request = Request("POST", "", (("authorization", value),), b"{}")
        assert verify(PRESETS["alertmanager"], (secret,), request, 0.0).reason == reason


def test_a_sender_without_a_signature_may_get_another_proof() -> None:
    """A preset that signs nothing takes Basic credentials or a header's token as an override."""
    basic = read_scheme({"scheme": "docker-hub", "kind": "basic"}, "verify")
    token = read_scheme({"scheme": "jotform", "kind": "token", "header": "X-Token"}, "verify")
    grafana = read_scheme({"scheme": "grafana", "header": "X-Own"}, "verify")
    assert (basic.kind, token.kind, token.header, grafana.plan.header) == ("basic", "token", "X-Token", "x-own")


@pytest.mark.parametrize(
    ("name", "known"),
    [("discord", True), ("mailgun", True), ("twilio", False), ("adyen", True), ("cloudevents-query", True)],
)
def test_whether_an_id_is_signed(name: str, known: bool) -> None:
    """A sender's delivery id is trusted where it is signed, or where nothing is."""
    assert PRESETS[name].signed_id is known
