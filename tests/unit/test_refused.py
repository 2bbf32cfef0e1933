"""What is kept of a delivery that left no event: bounded, without secrets, whatever it was."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.apps import App, LiveApp
from gateway.captures import Capture, write_capture
from gateway.errors import BadRequest, Unauthorized
from gateway.masks import HIDDEN
from gateway.refused import (
    LARGEST_CAPTURE,
    LONGEST_QUERY,
    MOST_SHOWN,
    Refusal,
    Sighting,
    headers_looked_at,
    keep,
    read_signed_time,
)
from gateway.secrets import SecretRef
from gateway.signatures import PRESETS, Request

SECRET = "a secret of the tests"
CANARY = 'a/secret "of" the tests'
NOISE = b"\x01" * 8


def live(scheme: Any) -> LiveApp:
    verify = {"scheme": scheme, "secrets": [{"env": "X"}]} if scheme else None
    if isinstance(scheme, str) and PRESETS[scheme].kind == "url":
        verify = {"scheme": scheme}
    return LiveApp(App(id=42, name="ci", verify=verify), lambda _reference, _owner: SECRET)


def seen(scheme: Any = "orqo", body: bytes | None = b"{}", **changes: Any) -> Sighting:
    app = changes.pop("app", live(scheme))
    headers = changes.pop("headers", ((b"content-type", b"application/json"),))
    request = None if body is None else Request.from_asgi("POST", "/", headers, body)
    fields: dict[str, Any] = {
        "app": app,
        "outcome": "refused",
        "status": 401,
        "reason": "mismatch",
        "error": Unauthorized(),
        "method": "POST",
        "path": "/api/v1/webhooks/secret-token-of-ci",
        "query": "",
        "peer": "192.0.2.1",
        "headers": headers,
        "request": request,
    }
    return Sighting(**fields | changes)


def test_a_refusal_has_what_came() -> None:
    """The time, the peer, names of headers, size and hash of the body, and the bytes."""
    kept = keep(seen(body=b'{"a": 1}'), 1_700_000_000.5, NOISE)
    refusal = kept.refusal
    assert refusal.id == "rfs_018bcfe569f40101010101010101"
    assert (refusal.at, refusal.app_id, refusal.peer, refusal.size) == (1_700_000_000_500, 42, "192.0.2.1", 8)
    assert refusal.sha256 == hashlib.sha256(b'{"a": 1}').hexdigest()
    assert (refusal.path, kept.body) == ("/api/v1/webhooks/42", b'{"a": 1}')


def test_bodies_are_kept_for_known_apps_and_up_to_a_size() -> None:
    """Nothing is kept of what came for nobody, nor of what is large; its size and hash are."""
    large = keep(seen(body=b"x" * (LARGEST_CAPTURE + 1)), 1.0, NOISE)
    assert (large.body, large.refusal.size) == (None, LARGEST_CAPTURE + 1)
    assert keep(seen(body=b"x" * LARGEST_CAPTURE), 1.0, NOISE).body is not None
    assert keep(seen(app=None), 1.0, NOISE).body is None
    assert keep(seen(body=None), 1.0, NOISE).refusal.size is None


def test_the_header_that_is_the_secret_itself_is_hidden() -> None:
    """A token's or Basic header is hidden whatever its name is; a signature's stays, for it can be looked into."""
    scheme = {"kind": "token", "header": "X-Plain"}
    kept = keep(seen(scheme, headers=((b"x-plain", b"canary"),)), 1.0, NOISE)
    assert kept.refusal.headers == [("x-plain", HIDDEN)]
    kept = keep(seen(headers=((b"x-signature-256", b"sha256=00"), (b"x-api-key", b"canary"))), 1.0, NOISE)
    assert kept.refusal.headers == [("x-signature-256", "sha256=00"), ("x-api-key", HIDDEN)]


def test_what_is_kept_of_headers_and_query_is_bounded() -> None:
    """Whatever is sent, a refusal takes little room; and a secret that the bound would cut in two is not shown in part."""
    many = tuple((b"x-%d" % number, b"y" * 2000) for number in range(100))
    query = "token=" + "t" * (LONGEST_QUERY - 10) + "&x=" + SECRET
    refusal = keep(seen(headers=many, query=query), 1.0, NOISE).refusal
    assert sum(len(name) + len(value) for name, value in refusal.headers) <= MOST_SHOWN
    assert refusal.headers[0] == ("x-0", "y" * 1023 + "…")
    assert refusal.path == f"/api/v1/webhooks/42?token={HIDDEN}"


@pytest.mark.parametrize(
    ("scheme", "body"),
    [
        ({"kind": "token", "proof": "body:auth"}, msgspec.json.encode({"auth": CANARY})),
        ({"kind": "token", "proof": "body:auth"}, b'{"auth": "a\\/secret \\"of\\" the te\\u0073ts", "a": 1}'),
        ({"kind": "token", "proof": "form:auth"}, b"auth=a%2Fsecret+%22of%22+the%20tests&a=1"),
        ("notion", b'{"verification_token": "secret_that_nobody_had_before"}'),
    ],
)
def test_a_body_that_holds_a_secret_is_not_kept(scheme: Any, body: bytes) -> None:
    """However it is encoded; the one that a sender hands over just now is one as well. The rest is kept as ever."""
    paired = scheme == "notion"
    verify = {"scheme": scheme} | ({} if paired else {"secrets": [{"env": "X"}]})
    app = LiveApp(App(id=42, name="ci", verify=verify), lambda _reference, _owner: None if paired else CANARY)
    kept = keep(seen(app=app, body=body), 1.0, NOISE)
    assert (kept.body, kept.refusal.size) == (None, len(body))
    assert keep(seen(app=app, body=b'{"auth": "another one", "a": 1}'), 1.0, NOISE).body is not None


def test_headers_looked_at_are_those_of_the_scheme() -> None:
    """The signature's, the time's, the id's and the type's header, each once."""
    assert headers_looked_at(PRESETS["standard-webhooks"]) == ["webhook-signature", "webhook-id", "webhook-timestamp"]
    assert headers_looked_at(PRESETS["stripe"]) == ["stripe-signature"]
    assert headers_looked_at(PRESETS["none"]) == []


def test_signed_times_are_read_wherever_they_stand() -> None:
    """In a header, in a field of the signature's header, or nowhere."""
    stripe = Request("POST", "", (("stripe-signature", "t=1700000000,v1=00"),), b"{}")
    assert read_signed_time(PRESETS["stripe"], stripe) == 1_700_000_000
    slack = Request("POST", "", (("x-slack-request-timestamp", "1700000001"),), b"{}")
    assert read_signed_time(PRESETS["slack"], slack) == 1_700_000_001
    assert read_signed_time(PRESETS["slack"], stripe) is None
    assert read_signed_time(PRESETS["orqo"], stripe) is None


def test_a_capture_is_a_document_for_verify() -> None:
    """Repeated headers are lists, bytes that are no text are base64, and there is a place for the secrets."""
    capture = Capture(
        method="POST", url="/x", headers=(("a", "1"), ("b", "2"), ("a", "3")), body=b"\xff", received_at=1500
    )
    document = write_capture(capture)
    assert document["headers"] == {"a": ["1", "3"], "b": "2"}
    assert (document["body_base64"], document["now"], document["secrets"]) == ("/w==", 1.5, [])
    assert "note" in write_capture(msgspec.structs.replace(capture, body=None))


PARTS = st.tuples(
    st.sampled_from([b"content-type", b"x-signature-256", b"webhook-timestamp", b"stripe-signature", b"x-\xff"]),
    st.binary(max_size=60),
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([*sorted(PRESETS), None]),
    st.lists(PARTS, max_size=8),
    st.none() | st.binary(max_size=200) | st.just(b"[" * 5000),
    st.text(max_size=600),
    st.sampled_from([400, 401, 404, 409, 413, 503]),
)
def test_whatever_comes_can_be_kept(scheme: Any, headers: Any, body: Any, text: str, status: int) -> None:
    """No request, however malformed, keeps its own refusal from being written down and read again, within bounds."""
    found = seen(scheme, body, headers=tuple(headers), status=status, error=BadRequest(text or "no"), query=text)
    kept = keep(msgspec.structs.replace(found, method=text, path="/" + text), 1.0, NOISE)
    encoded = msgspec.json.encode(kept.refusal)
    assert len(encoded) < 20_000
    assert msgspec.json.decode(encoded, type=Refusal) == kept.refusal


def test_a_reference_says_nothing_of_its_value() -> None:
    """The name under which a secret's uses are counted follows from where it is kept alone."""
    first = live("orqo")
    other = LiveApp(first.app, lambda _reference, _owner: "quite another value")
    assert first.uses == other.uses
    assert first.rules == other.rules
    assert SecretRef(env="X").label == "env X"
