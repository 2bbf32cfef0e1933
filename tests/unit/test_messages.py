"""Signed HTTP messages: what RFC 9421 and its forerunner sign is accepted, for what it covers and nothing more."""

from __future__ import annotations

import base64
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import http_message_signatures as oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.apps import App, read_verify
from gateway.errors import ConfigError
from gateway.proofs import Request, Verdict
from gateway.signatures import PRESETS, Scheme, check_secret, judge, read_scheme, sign, verify
from gateway.verifiers.components import Component, Coverage, read_component, write_base
from gateway.verifiers.digests import write_content_digest, write_digest
from tests.tools_keys import private_key, private_pem, public_pem

NOW = 1_750_000_000.0
URL = "https://gateway.example/hooks/app?a=1&b=2"
SECRET = base64.b64encode(bytes(range(64))).decode()
SAMPLES = Path(__file__).parent.parent / "samples" / "signatures" / "messages.json"
VECTORS = json.loads(SAMPLES.read_text("utf-8"))
KEYS = {
    "ed25519": "ed25519",
    "ecdsa-p256-sha256": "p256",
    "ecdsa-p384-sha384": "p384",
    "rsa-pss-sha512": "rsa",
    "rsa-v1_5-sha256": "rsa",
}
ALGORITHMS = sorted((*KEYS, "hmac-sha256"))
ORACLES = {
    "hmac-sha256": oracle.algorithms.HMAC_SHA256,
    "ed25519": oracle.algorithms.ED25519,
    "ecdsa-p256-sha256": oracle.algorithms.ECDSA_P256_SHA256,
    "ecdsa-p384-sha384": oracle.algorithms.ECDSA_P384_SHA384,
    "rsa-pss-sha512": oracle.algorithms.RSA_PSS_SHA512,
    "rsa-v1_5-sha256": oracle.algorithms.RSA_V1_5_SHA256,
}
COVERED = ("@method", "@authority", "content-digest")


def app_scheme(written: dict[str, Any]) -> Scheme:
    """The scheme as an app has it."""
    found, _ = read_verify(App(name="a", verify=written | {"secrets": [{"env": "A"}]}))
    assert found is not None
    return found


def scheme(alg: str = "hmac-sha256", base: str = "rfc9421", **fields: Any) -> Scheme:
    return app_scheme({"scheme": base, "alg": alg, **fields})


def secrets_of(alg: str, seed: int = 1) -> tuple[str, str]:
    """What signs, and what verifies."""
    return (SECRET, SECRET) if alg == "hmac-sha256" else (private_pem(KEYS[alg], seed), public_pem(KEYS[alg], seed))


def with_headers(request: Request, *added: tuple[str, str]) -> Request:
    lowered = tuple((name.lower(), value) for name, value in added)
    return Request(request.method, request.url, (*request.headers, *lowered), request.body)


def without(request: Request, name: str) -> Request:
    kept = tuple(line for line in request.headers if line[0] != name)
    return Request(request.method, request.url, kept, request.body)


def posted(body: bytes = b'{"n":1}', *headers: tuple[str, str], url: str = URL) -> Request:
    return Request("POST", url, (("content-type", "application/json"), *headers), body)


def signed(judged: Any, secret: str, request: Request, now: float = NOW) -> Request:
    return with_headers(request, *sign(judged, secret, request, now, "msg_1"))


def signed_over(*names: str, request: Request | None = None, **parameters: Any) -> Request:
    """A request signed over these components, by the oracle's HMAC."""
    judged = scheme(require=list(names), **parameters)
    return signed(judged, SECRET, request or posted())


def refusal(judged: Any, secret: str, request: Request, now: float = NOW) -> str:
    """Why the request is refused; "accepted" when it isn't."""
    verdict = verify(judged, (secret,), request, now)
    return "accepted" if verdict.valid else verdict.reason


# ---- published vectors


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v['id']}-{v['sender']}" for v in VECTORS])
def test_published_messages(vector: dict[str, Any]) -> None:
    """A message that a standard or a sender published is judged as they judge it."""
    key = vector.get("secret") or vector["public_key"]
    verdict = judge({**vector, "secrets": [key]})
    assert verdict.valid is vector["valid"], verdict


def test_an_app_wants_more_than_the_rfc_does() -> None:
    """An app wants the body to be covered, unless it says otherwise; most of the RFC's own examples don't do that."""
    found = {}
    for vector in VECTORS:
        if vector["sender"] == "rfc9421" and vector["valid"]:
            key = vector.get("secret") or vector["public_key"]
            written = {"scheme": "rfc9421", "alg": vector["scheme"]["alg"]}
            asked = app_scheme(written).require
            reasons = [
                judge({**vector, "scheme": each, "secrets": [key]}).reason
                for each in (written, written | {"require": asked})
            ]
            assert app_scheme(written | {"require": []}).require == ()
            found[vector["id"]] = reasons
    assert found == {
        "157": ["valid", "uncovered"],
        "159": ["valid", "valid"],
        "162": ["valid", "uncovered"],
        "164": ["valid", "uncovered"],
        "166": ["valid", "valid"],
    }


# ---- RFC 9421


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_every_algorithm_accepts_its_own(alg: str) -> None:
    """What a sender signs by an algorithm is accepted by it, with its key and with no other."""
    secret, key = secrets_of(alg)
    request = signed(scheme(alg), secret, posted())
    assert verify(scheme(alg), (key,), request, NOW) == Verdict(True, "valid", 0)
    other = base64.b64encode(b"another" * 5).decode() if alg == "hmac-sha256" else public_pem(KEYS[alg], 2)
    assert refusal(scheme(alg), other, request) == "mismatch"
    assert verify(scheme(alg), (other, key), request, NOW).secret == 1


def signed_by_oracle(alg: str, request: Request, *names: str) -> Request:
    """The request with a signature that another implementation made."""
    key = bytes(range(64)) if alg == "hmac-sha256" else private_key(KEYS[alg])
    resolver = oracle.MappingKeyResolver(private_keys={"k": key}, public_keys={})
    signer = oracle.HTTPMessageSigner(signature_algorithm=ORACLES[alg], key_resolver=resolver)
    headers = dict(request.headers)
    message = SimpleNamespace(method=request.method, url=request.url, headers=headers, body=request.body)
    created = datetime.fromtimestamp(NOW, UTC)
    signer.sign(
        message,
        key_id="k",
        created=created,
        nonce="n",
        tag="t",
        covered_component_ids=names,
        use_existing_digest=bool(request.values("content-digest")),
    )
    lines = tuple((name.lower(), value) for name, value in headers.items())
    return Request(request.method, request.url, lines, request.body)


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_an_independent_library_agrees(alg: str) -> None:
    """What another implementation signs, we accept; with a byte of the body changed we don't."""
    names = ("@method", "@authority", "@target-uri", "@path", "@query", "@scheme", "@request-target", "content-digest")
    more = ('"@query-param";name="b"', '"content-type"', '"content-digest";key="sha-256"', '"content-digest";sf')
    body = b'{"n":1}'
    request = signed_by_oracle(alg, posted(body, ("content-digest", write_content_digest(body))), *names, *more)
    assert refusal(scheme(alg), secrets_of(alg)[1], request) == "accepted"
    changed = Request("POST", URL, request.headers, b'{"n":2}')
    assert refusal(scheme(alg), secrets_of(alg)[1], changed) == "wrong_digest"


@given(
    path=st.from_regex(r"(/[A-Za-z0-9._~-]{0,5}(%20)?){0,3}", fullmatch=True),
    query=st.from_regex(r"(\?([a-z]{1,2}=[A-Za-z0-9+.~*-]{0,4}(%C3%A9|%0A)?(&|$)){0,3})?", fullmatch=True),
    host=st.sampled_from(["example.com", "EXAMPLE.com:443", "example.com:8443"]),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    picked=st.sets(st.sampled_from(["@method", "@authority", "@target-uri", "@path", "@query", "x-a", '"x-a";bs'])),
)
def test_the_library_agrees_on_any_request(path: str, query: str, host: str, value: str, picked: set[str]) -> None:
    """Whatever the URL and the header, both implementations sign the same bytes."""
    first = query[1:].partition("=")[0]
    once = first and sum(pair.startswith(first + "=") for pair in query[1:].split("&")) == 1
    names = [*sorted(picked), *([f'"@query-param";name="{first}"'] if once else [])]
    request = Request("POST", f"https://{host}{path}{query}", (("x-a", value),), b"")
    judged = scheme(require=[])
    assert refusal(judged, SECRET, signed_by_oracle("hmac-sha256", request, *names)) == "accepted"


@pytest.mark.parametrize(
    ("component", "value"),
    [
        (Component("@method", {}), "POST"),
        (Component("@target-uri", {}), "https://www.example.com/path?param=value"),
        (Component("@authority", {}), "www.example.com"),
        (Component("@scheme", {}), "https"),
        (Component("@request-target", {}), "/path?param=value"),
        (Component("@path", {}), "/path"),
        (Component("@query", {}), "?param=value"),
        (Component("@query-param", {"name": "param"}), "value"),
        (Component("x-twice", {}), "one, two"),
        (Component("x-twice", {"bs": True}), ":b25l:, :dHdv:"),
        (Component("x-dict", {}), "a=1,    b=2;x=1;y=2,   c=(a   b   c)"),
        (Component("x-dict", {"key": "c"}), "(a b c)"),
        (Component("x-dict", {"key": "b"}), "2;x=1;y=2"),
        (Component("priority", {"sf": True}), "u=1, i"),
        (Component("x-empty", {}), ""),
    ],
)
def test_values_of_components(component: Component, value: str) -> None:
    """Each kind of component has the value that RFC 9421 (section 2) gives it."""
    headers = (
        ("x-twice", " one "),
        ("x-twice", "two"),
        ("x-dict", "  a=1,    b=2;x=1;y=2,   c=(a   b   c)"),
        ("priority", "u=1 ,i"),
        ("x-empty", ""),
    )
    assert read_component(component, Request("POST", "https://www.example.com/path?param=value", headers, b"")) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("var", "this%20is%20a%20big%0Amultiline%20value"),
        ("bar", "with%20plus%20whitespace"),
        ("fa%C3%A7ade%22%3A%20", "something"),
    ],
)
def test_query_parameters_are_encoded_anew(name: str, value: str) -> None:
    """A parameter of the query is decoded and encoded again (RFC 9421, section 2.2.8)."""
    query = "var=this%20is%20a%20big%0Amultiline%20value&bar=with+plus+whitespace&fa%C3%A7ade%22%3A%20=something"
    request = Request("GET", f"https://example.com/parameters?{query}", (), b"")
    assert read_component(Component("@query-param", {"name": name}), request) == value


@pytest.mark.parametrize(
    ("url", "authority", "path", "query"),
    [
        ("https://EXAMPLE.com:443", "example.com", "/", "?"),
        ("http://example.com:80/a?", "example.com", "/a", "?"),
        ("https://example.com:8443/a%2Fb?x#f", "example.com:8443", "/a%2Fb", "?x"),
        ("https://[::1]:443/", "[::1]", "/", "?"),
        ("/only/path?q=1", None, "/only/path", "?q=1"),
        ("//evil.example/a", None, "//evil.example/a", "?"),
    ],
)
def test_parts_of_urls(url: str, authority: str | None, path: str, query: str) -> None:
    """Host and default ports are spelt one way; the authority is unknown where only a path is seen."""
    request = Request("POST", url, (("host", "other.example"),), b"")
    found = read_component(Component("@authority", {}), request)
    assert found == (authority or Verdict(False, "missing_context"))
    assert read_component(Component("@path", {}), request) == path
    assert read_component(Component("@query", {}), request) == query


@pytest.mark.parametrize(
    "component",
    [
        Component("@status", {}),
        Component("@nonsense", {}),
        Component("@signature-params", {}),
        Component("@method", {"req": True}),
        Component("@query-param", {}),
        Component("@query-param", {"name": "twice"}),
        Component("@query-param", {"name": "absent"}),
        Component("content-type", {"tr": True}),
        Component("content-type", {"req": True}),
        Component("content-type", {"bs": True, "sf": True}),
        Component("content-type", {"bs": True, "key": "a"}),
        Component("content-type", {"key": "a"}),
        Component("content-type", {"sf": False}),
        Component("x-unknown", {"sf": True}),
        Component("x-absent", {}),
    ],
)
def test_components_without_one_meaning(component: Component) -> None:
    """What only an answer has, what stands twice or nowhere, and parameters that don't go together are refused."""
    headers = (("content-type", "application/json"), ("x-unknown", "a"))
    request = Request("POST", "https://example.com/?twice=1&twice=2", headers, b"")
    found = read_component(component, request)
    assert isinstance(found, Verdict)
    assert not found.valid


def test_long_texts_are_not_taken_apart() -> None:
    """A query or a field that is too long is not parsed for those who have proved nothing yet."""
    long = "a=1, " + "b" * 9000
    request = Request("POST", f"https://example.com/?a=1&b={'b' * 9000}", (("x-a", long),), b"")
    assert read_component(Component("x-a", {"key": "a"}), request) == Verdict(False, "malformed_header")
    assert read_component(Component("@query-param", {"name": "a"}), request) == Verdict(False, "malformed_url")
    assert read_component(Component("x-a", {}), request) == long


def test_a_line_end_is_no_part_of_a_value() -> None:
    """A value with a line end in it could pass for a component that was never covered."""
    coverage = Coverage((Component("x-a", {}),), {})
    for value in ('1\n"x-b": 2', "1\r2", "é"):
        assert write_base(coverage, Request("POST", "/", (("x-a", value),), b"")) == Verdict(False, "malformed_header")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (COVERED, "accepted"),
        (("@method", "@target-uri", "content-digest"), "accepted"),
        (("@method", "content-digest"), "uncovered"),
        (("@method", "@authority"), "uncovered"),
        (("@authority", "content-digest"), "uncovered"),
        (("content-type",), "uncovered"),
    ],
)
def test_what_has_to_be_covered(names: tuple[str, ...], reason: str) -> None:
    """The preset wants the method, the host and the body's digest to be covered, in these words or in wider ones."""
    assert refusal(scheme(), SECRET, signed_over(*names)) == reason
    assert refusal(scheme(require=[]), SECRET, signed_over(*names)) == "accepted"


def test_an_empty_body_needs_no_digest() -> None:
    """A signature without a digest is good for an empty body, and for no other."""
    request = signed_over("@method", "@authority", request=posted(b""))
    assert refusal(scheme(), SECRET, request) == "accepted"
    filled = Request("POST", URL, request.headers, b"{}")
    assert refusal(scheme(), SECRET, filled) == "uncovered"


@pytest.mark.parametrize(
    ("digest", "reason"),
    [
        ("sha-256=:{right}:", "accepted"),
        ("sha-256=:{right}:, md5=:AAAA:", "accepted"),
        ("md5=:AAAA:", "wrong_digest"),
        ("sha-256=:{right}:, sha-512=:AAAA:", "wrong_digest"),
        ("sha-256=:AAAA:", "wrong_digest"),
        ("sha-256={right}", "wrong_digest"),
        ("sha-256=(1 2)", "wrong_digest"),
        ("sha-256", "wrong_digest"),
        ("", "wrong_digest"),
    ],
)
def test_digests_that_are_covered_are_checked(digest: str, reason: str) -> None:
    """A covered digest has to be the body's, by every algorithm that counts, and by one at least."""
    right = write_content_digest(b"{}").partition(":")[2].rstrip(":")
    request = posted(b"{}", ("content-digest", digest.replace("{right}", right)))
    assert refusal(scheme(), SECRET, signed_over(*COVERED, request=request)) == reason


def test_one_member_of_the_digest_is_enough_if_it_counts() -> None:
    """Covering only the md5 of a digest covers no body, whatever else somebody adds to the header."""
    header = write_content_digest(b"{}") + ", md5=:AAAA:"
    request = posted(b"{}", ("content-digest", header))
    for key, reason in (("sha-256", "accepted"), ("md5", "uncovered")):
        coverage = Coverage(
            (Component("@method", {}), Component("@authority", {}), Component("content-digest", {"key": key})),
            {"created": int(NOW)},
        )
        assert refusal(scheme(), SECRET, labelled(request, coverage)) == reason


def labelled(request: Request, coverage: Coverage, label: str = "sig1", secret: bytes = bytes(range(64))) -> Request:
    """The request with a signature of this coverage, by HMAC."""
    base = write_base(coverage, request)
    assert isinstance(base, bytes)
    mac = base64.b64encode(hmac.digest(secret, base, "sha256")).decode()
    return with_headers(request, ("Signature-Input", f"{label}={coverage.text}"), ("Signature", f"{label}=:{mac}:"))


@pytest.mark.parametrize(
    ("parameters", "late", "reason"),
    [
        ({"created": NOW}, 0, "accepted"),
        ({"created": NOW}, 300, "accepted"),
        ({"created": NOW}, 301, "stale"),
        ({"created": NOW}, -301, "future"),
        ({"created": NOW, "expires": NOW + 10}, 10, "accepted"),
        ({"created": NOW, "expires": NOW + 10}, 11, "stale"),
        ({}, 0, "missing_timestamp"),
        ({"expires": NOW + 10}, 0, "missing_timestamp"),
        ({"created": NOW}, float("nan"), "stale"),
    ],
)
def test_times_of_messages(parameters: dict[str, float], late: float, reason: str) -> None:
    """A message is good for 300 seconds around `created`, which has to be there, and never after `expires`."""
    whole = {name: int(value) for name, value in parameters.items()}
    request = labelled(posted(b""), Coverage((Component("@method", {}), Component("@authority", {})), whole))
    assert refusal(scheme(), SECRET, request, NOW + late) == reason


def test_a_time_has_to_be_a_whole_number() -> None:
    """Neither true nor text is a time."""
    for value in (True, "1750000000", base64.b64decode("AAAA")):
        coverage = Coverage((Component("@method", {}), Component("@authority", {})), {"created": value})
        assert refusal(scheme(), SECRET, labelled(posted(b""), coverage)) == "malformed_timestamp"


def test_the_message_has_no_say_in_the_algorithm() -> None:
    """A message that names another algorithm than the configured one is refused, even if its signature would do."""
    coverage = Coverage(
        (Component("@method", {}), Component("@authority", {})), {"created": int(NOW), "alg": "ed25519"}
    )
    assert refusal(scheme(), SECRET, labelled(posted(b""), coverage)) == "mismatch"


def test_a_public_key_is_no_shared_secret() -> None:
    """A signature by HMAC under the text of the public key, which everybody has, is refused."""
    pem = public_pem("rsa")
    judged = scheme("hmac-sha256", key="raw")
    coverage = Coverage((Component("@method", {}), Component("@authority", {})), {"created": int(NOW)})
    request = labelled(posted(b""), coverage, secret=pem.encode())
    assert refusal(judged, pem, request) == "bad_secret"
    with pytest.raises(ConfigError, match="alg is hmac-sha256") as caught:
        check_secret(judged, pem, "verify.secrets[0]")
    assert pem[40:80] not in str(caught.value)


@pytest.mark.parametrize("alg", sorted(KEYS))
def test_secrets_of_the_wrong_kind(alg: str) -> None:
    """A configured key has to be of the algorithm's kind, in PEM."""
    check_secret(scheme(alg), public_pem(KEYS[alg]), "s")
    with pytest.raises(ConfigError, match="in PEM"):
        check_secret(scheme(alg), SECRET, "s")
    with pytest.raises(ConfigError, match="another kind"):
        check_secret(scheme(alg), public_pem("rsa" if KEYS[alg] != "rsa" else "p256"), "s")
    with pytest.raises(ConfigError, match="private key"):
        sign(scheme(alg), SECRET, posted(), NOW, "m")


def test_several_labels() -> None:
    """Of several signatures any may do, unless the configuration names one; too many are refused."""
    coverage = Coverage((Component("@method", {}), Component("@authority", {})), {"created": int(NOW)})
    theirs = labelled(posted(b""), coverage, "proxy", b"somebody else's")
    both = labelled(theirs, coverage, "sender")
    assert refusal(scheme(), SECRET, both) == "accepted"
    assert refusal(scheme(label="sender"), SECRET, both) == "accepted"
    assert refusal(scheme(label="proxy"), SECRET, both) == "mismatch"
    assert refusal(scheme(label="nobody"), SECRET, both) == "no_candidate"
    many = posted(b"")
    for number in range(6):
        many = labelled(many, coverage, f"s{number}")
    assert refusal(scheme(), SECRET, many) == "too_many_candidates"


@pytest.mark.parametrize(
    ("inputs", "signature", "reason"),
    [
        (None, "sig1=:AAAA:", "missing_header"),
        ("sig1=();created=1", None, "missing_header"),
        ("", "", "missing_header"),
        ("sig1=();created=1", "sig2=:AAAA:", "no_candidate"),
        ("sig1=();created=1, sig1=()", "sig1=:AAAA:", "malformed_header"),
        ("sig1=();created=1;created=2", "sig1=:AAAA:", "malformed_header"),
        ("sig1=();created=1", "sig1=:AAAA:, sig1=:AAAB:", "malformed_header"),
        ('sig1=("@method" "@method");created=1', "sig1=:AAAA:", "malformed_header"),
        ('sig1=("Content-Type");created=1', "sig1=:AAAA:", "malformed_header"),
        ("sig1=(1 2);created=1", "sig1=:AAAA:", "malformed_header"),
        ("sig1=1", "sig1=:AAAA:", "malformed_header"),
        ("sig1=();created=1", "sig1=AAAA", "bad_encoding"),
        ("sig1=();created=1", "sig1=::", "bad_encoding"),
        ("sig1=();created=1", "sig1=(1)", "bad_encoding"),
        ("sig1=(", "sig1=:AAAA:", "malformed_header"),
        ("sig1=()" + " " * 20_000, "sig1=:AAAA:", "malformed_header"),
        ("sig1=(" + " ".join(f'"x-{n}"' for n in range(65)) + ")", "sig1=:AAAA:", "malformed_header"),
        ('sig1=("x-absent")', "sig1=:AAAA:", "missing_header"),
    ],
)
def test_malformed_messages(inputs: str | None, signature: str | None, reason: str) -> None:
    """Signature headers that are missing, malformed or ambiguous are refused."""
    lines = [
        (name, value) for name, value in (("signature-input", inputs), ("signature", signature)) if value is not None
    ]
    assert refusal(scheme(), SECRET, posted(b"", *lines)) == reason


names = st.sampled_from(["signature-input", "signature", "content-digest", "date", "digest", "authorization", "host"])
texts = st.one_of(
    st.text(max_size=80),
    st.from_regex(r'sig1=\("[@a-z-]{0,12}"(;[a-z]{1,4}(="[a-z]*")?)?\);created=[0-9]{1,12}', fullmatch=True),
    st.from_regex(r"sig1=:[A-Za-z0-9+/=]{0,12}:", fullmatch=True),
    st.from_regex(r'keyId="[a-z]*",headers="[a-z() -]{0,20}",signature="[A-Za-z0-9=]{0,12}"', fullmatch=True),
)


@given(
    lines=st.lists(st.tuples(names, texts), max_size=6),
    body=st.binary(max_size=30),
    url=st.one_of(st.just(URL), st.text(max_size=30)),
    alg=st.sampled_from(ALGORITHMS),
    now=st.floats(),
)
def test_judging_messages_never_raises(
    lines: list[tuple[str, str]], body: bytes, url: str, alg: str, now: float
) -> None:
    """Whatever comes, it is refused and not an error."""
    # A server decodes what it reads as Latin-1.
    wire = tuple((name, value.encode("utf-8", "surrogatepass").decode("latin-1")) for name, value in lines)
    request = Request("POST", url, wire, body)
    for judged in (scheme(alg), PRESETS["drone"], PRESETS["cavage"]):
        assert not verify(judged, (secrets_of(alg)[1],), request, now).valid


@given(lines=st.lists(st.tuples(names, st.text(max_size=40)), max_size=4), secret=st.text(max_size=60))
def test_raw_text_and_bad_secrets_never_raise(lines: list[tuple[str, str]], secret: str) -> None:
    """Not even a header that no server would hand on, nor a secret that is none, is an error."""
    for judged in (scheme(), scheme("ed25519"), PRESETS["drone"]):
        assert not verify(judged, (secret,), Request("POST", "", tuple(lines), b"x"), NOW).valid


# ---- draft-cavage, and Drone


@pytest.mark.parametrize("alg", ["hmac-sha256", "rsa-v1_5-sha256"])
@pytest.mark.parametrize("base", ["cavage", "drone"])
def test_the_draft_accepts_its_own(base: str, alg: str) -> None:
    """What a sender signs by the draft is accepted, with its key and no other."""
    secret, key = secrets_of(alg)
    request = signed(scheme(alg, base), secret, posted())
    assert verify(scheme(alg, base), (key,), request, NOW) == Verdict(True, "valid", 0)
    assert refusal(scheme(alg, base), "other" if alg == "hmac-sha256" else public_pem("rsa", 2), request) == "mismatch"


def drone(
    body: bytes = b'{"n":1}',
    names: str = "date digest",
    digest: str | None = None,
    date: float = NOW,
    changes: dict[str, str] | None = None,
) -> Request:
    """A request as Drone posts it."""
    judged = PRESETS["drone"]
    written = sign(read_scheme({"scheme": "drone", "require": names.split(" ")}, "v"), "secret", posted(body), date, "")
    request = with_headers(posted(body), *written)
    if digest is not None:
        return redigested(request, digest, date)
    assert judged.kind == "cavage"
    header = request.values("signature")[0]
    for old, new in (changes or {}).items():
        header = header.replace(old, new)
    return with_headers(without(request, "signature"), ("Signature", header))


def redigested(request: Request, digest: str, date: float) -> Request:
    """The same, but rightly signed over another digest."""
    bare = with_headers(posted(request.body), ("Digest", digest))
    return with_headers(bare, *sign(PRESETS["drone"], "secret", bare, date, ""))


def test_drone_as_its_own_code_signs() -> None:
    """A request made by the words of Drone's source, without our own signer, is accepted."""
    body, date = b'{"event":"build"}', "Sun, 15 Jun 2025 15:06:40 GMT"
    text = f"date: {date}\ndigest: {write_digest(body)}".encode()
    mac = base64.b64encode(hmac.digest(b"secret", text, "sha256")).decode()
    header = f'keyId="hmac-key",algorithm="hmac-sha256",signature="{mac}",headers="date digest"'
    request = posted(body, ("date", date), ("digest", write_digest(body)), ("signature", header))
    assert refusal(PRESETS["drone"], "secret", request) == "accepted"
    assert refusal(PRESETS["drone"], "secret", Request("POST", URL, request.headers, b"{}")) == "wrong_digest"


@pytest.mark.parametrize(
    ("request_", "now", "reason"),
    [
        (drone(), NOW, "accepted"),
        (drone(), NOW + 301, "stale"),
        (drone(), NOW - 301, "future"),
        (drone(names="date"), NOW, "uncovered"),
        (drone(names="digest"), NOW, "uncovered"),
        (drone(b"", names="date"), NOW, "accepted"),
        (drone(digest="SHA-256=AAAA"), NOW, "wrong_digest"),
        (drone(digest="md5=AAAA"), NOW, "wrong_digest"),
        (drone(digest="SHA-256"), NOW, "wrong_digest"),
        (drone(changes={"hmac-sha256": "rsa-sha256"}), NOW, "mismatch"),
        (drone(changes={"hmac-sha256": "hs2019"}), NOW, "accepted"),
        (drone(changes={"date digest": "digest date"}), NOW, "mismatch"),
        (drone(changes={"date digest": "date date"}), NOW, "malformed_header"),
        (drone(changes={"date digest": ""}), NOW, "malformed_header"),
        (drone(changes={"date digest": "date x-absent"}), NOW, "missing_header"),
        (drone(changes={"date digest": "(created)"}), NOW, "missing_timestamp"),
        (drone(changes={"keyId": "signature"}), NOW, "malformed_header"),
        (drone(changes={"signature=": "other="}), NOW, "bad_encoding"),
        (without(drone(), "signature"), NOW, "missing_header"),
        (with_headers(drone(), ("Signature", "a")), NOW, "doubled_header"),
        (without(drone(), "date"), NOW, "missing_header"),
    ],
)
def test_drone(request_: Request, now: float, reason: str) -> None:
    """Drone's date and digest have to be signed, the digest be the body's, and the date near."""
    assert refusal(PRESETS["drone"], "secret", request_, now) == reason


def test_the_draft_by_authorization() -> None:
    """The same parameters may stand in the Authorization header, behind their word."""
    judged = scheme(base="cavage", header="Authorization")
    request = signed(judged, "secret", posted())
    assert request.values("authorization")[0].startswith("Signature keyId=")
    assert refusal(judged, "secret", request) == "accepted"
    bare = request.values("authorization")[0].removeprefix("Signature ")
    assert refusal(judged, "secret", posted(b"", ("authorization", bare))) == "malformed_header"


@pytest.mark.parametrize("base", ["rfc9421", "cavage"])
def test_the_key_says_how(base: str) -> None:
    """Without `alg` each secret's kind decides: several kinds at once are each taken for what they are."""
    judged = app_scheme({"scheme": base})
    kinds = ["hmac-sha256", *(("rsa-v1_5-sha256",) if base == "cavage" else KEYS)]
    pairs = [secrets_of(alg) for alg in kinds]
    public = [shown for _, shown in pairs]
    for place, (private, _) in enumerate(pairs):
        request = signed(judged, private, posted())
        verdict = verify(judged, public, request, NOW)
        assert (verdict.valid, public[verdict.secret or 0]) == (True, public[place])
        assert (
            refusal(judged, secrets_of("hmac-sha256", 2)[1] if place else public_pem("rsa", 2), request) == "mismatch"
        )


def test_a_public_key_is_never_a_shared_secret() -> None:
    """Where the key decides, what is signed with a public key's text by HMAC is refused: everybody has that text."""
    text = public_pem("ed25519")
    judged = app_scheme({"scheme": "rfc9421"})
    forged = signed(scheme(), base64.b64encode(text.encode()).decode(), posted())
    assert refusal(judged, text, forged) == "mismatch"
    with pytest.raises(ConfigError, match="public key"):
        check_secret(judged, private_pem("ed25519"), "secret")
    check_secret(judged, text, "secret")


def test_the_draft_by_created() -> None:
    """The time may be a parameter of the signature, where the configuration says so."""
    fields = {
        "timestamp": {"from": "field:created", "unit": "s"},
        "require": ["(request-target)", "(created)", "digest"],
    }
    judged = scheme(base="cavage", **fields)
    request = signed(judged, "secret", posted())
    assert refusal(judged, "secret", request) == "accepted"
    assert refusal(judged, "secret", request, NOW + 301) == "stale"


# ---- configuration


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"scheme": "rfc9421", "alg": "sha256"}, "alg: kind rfc9421 takes one of"),
        ({"scheme": "rfc9421", "key": "whsec"}, "key: kind rfc9421 takes one of"),
        ({"scheme": "rfc9421", "header": "Signature"}, "header: means nothing for kind rfc9421"),
        ({"scheme": "rfc9421", "topics": ["a"]}, "topics: means nothing for kind rfc9421"),
        ({"scheme": "rfc9421", "timestamp": {"from": "header:Date"}}, "timestamp.from: the time that kind rfc9421"),
        ({"scheme": "drone", "alg": "ed25519"}, "alg: kind cavage takes one of"),
        ({"scheme": "github", "require": ["date"]}, "require: means nothing for kind hmac"),
        ({"scheme": "rfc9421", "require": [""]}, "require"),
    ],
)
def test_mistakes_in_schemes_of_messages(written: dict[str, Any], words: str) -> None:
    """What doesn't fit is named, with what would."""
    with pytest.raises(ConfigError) as caught:
        read_scheme(written, "verify")
    assert words in caught.value.message
