"""What is said to adapters, and heard: values in, values out."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters import (
    AdapterSettings,
    check_adapter,
    compose_inbound,
    is_ready,
    is_valid,
    read_message,
    read_object,
    read_query,
)
from gateway.challenges import Challenge
from gateway.errors import ConfigError
from gateway.signatures import Request


@given(st.binary())
def test_an_adapter_gets_the_body_byte_for_byte(body: bytes) -> None:
    """Whatever came can be had back from what the adapter is sent, and it says how."""
    sent = compose_inbound(Request("POST", "/", (), body), {})
    kind, text = sent["body_encoding"], sent["body"]
    assert (text.encode() if kind == "utf-8" else base64.b64decode(text)) == body
    assert kind in ("utf-8", "base64")


def test_an_adapter_gets_headers_and_credentials() -> None:
    """A repeated header's lines come joined by commas, as RFC 9110 section 5.3 has it."""
    headers = (("x-a", "1"), ("x-b", "2"), ("x-a", "3"))
    sent = compose_inbound(Request("POST", "/", headers, b""), {"TOKEN": "t"})
    assert sent == {
        "headers": {"x-a": "1, 3", "x-b": "2"},
        "body": "",
        "body_encoding": "utf-8",
        "credentials": {"TOKEN": "t"},
    }


def test_an_adapter_gets_the_query() -> None:
    """Names and values come decoded, of a repeated name the last value; a flood of them is left out."""
    assert read_query("/api/v1/webhooks/1?a=1&b=%C3%A4&a=2&c=") == {"a": "2", "b": "ä", "c": ""}
    assert read_query("/api/v1/webhooks/1?" + "a=1&" * 2000) == {}


@pytest.mark.parametrize("raw", [b"", b"[]", b"true", b'"x"', b"{", b"\xff", b'{"a":' * 100_000, b"null"])
def test_what_is_no_json_object_is_no_answer(raw: bytes) -> None:
    """An adapter answers with a JSON object; nothing else is read."""
    assert read_object(raw) is None


@pytest.mark.parametrize("verdict", [{}, {"valid": 1}, {"valid": "true"}, {"valid": [True]}, {"Valid": True}])
def test_nothing_but_true_vouches_for_a_request(verdict: dict[str, object]) -> None:
    """What looks like yes is not enough."""
    assert not is_valid(verdict)
    assert is_valid({"valid": True})


@pytest.mark.parametrize("health", [{}, {"status": "Ready"}, {"status": "ok"}, {"status": True}, {"status": ["ready"]}])
def test_nothing_but_ready_is_ready(health: dict[str, object]) -> None:
    """The contract has one word for it."""
    assert not is_ready(health)
    assert is_ready({"status": "ready", "version": "abc123"})


def test_a_parsed_request_is_a_message_or_a_challenge() -> None:
    """A challenge_response is given back as text; null is none."""
    assert read_message({"challenge_response": "abc", "text": "x"}) == Challenge("abc")
    assert read_message({"challenge_response": 17}) == Challenge("17")
    assert read_message({"challenge_response": None, "text": "x"}) == {"challenge_response": None, "text": "x"}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://adapters.example/slack", "it is neither https nor http"),
        ("https://adapters.example/slack?key=1", "an adapter's address has no query"),
        ("https://user:pass@adapters.example/slack", None),
        ("https://adapters.example/slack#top", None),
        ("", None),
    ],
)
def test_an_adapters_address_is_judged_when_it_is_written(url: str, reason: str | None) -> None:
    """A URL that no policy would allow is a mistake in the file, at `adapter.url`."""
    with pytest.raises(ConfigError) as caught:
        check_adapter(AdapterSettings(url))
    assert caught.value.details["path"] == "adapter.url"
    assert reason in (None, caught.value.message)


def test_an_adapters_routes_follow_its_path() -> None:
    """A final slash makes no difference."""
    assert AdapterSettings("https://a.example/slack/").route("health") == "https://a.example/slack/health"
    assert AdapterSettings("https://a.example/slack").route("health") == "https://a.example/slack/health"
