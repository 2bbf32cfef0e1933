"""Callbacks: signed as the official library wants it, and what is kept of an answer."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.callbacks import (
    EXCERPT,
    compose,
    decode_secret,
    excerpt,
    new_callback_id,
    sign,
)
from tests.tools_endpoints import WHSEC, headers_for, message

NOW = 1_750_000_000.0

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
messages = st.dictionaries(st.text(max_size=10), values, max_size=4)
secrets = st.binary(min_size=24, max_size=64).map(lambda key: "whsec_" + base64.b64encode(key).decode())


# ---- signing


@given(messages, secrets, st.integers(0, 2**40))
def test_the_official_library_accepts_what_we_sign(data: dict[str, Any], secret: str, timestamp: int) -> None:
    """Any message under any secret is verified by `standardwebhooks`, and comes out as it went in."""
    body = compose("run.completed", timestamp, data)
    headers = headers_for(secret, message(body), time.time())
    seen = Webhook(secret).verify(body, headers)
    assert (seen["type"], seen["data"]) == ("run.completed", data)


@given(messages, secrets, st.data())
def test_the_official_library_refuses_what_was_changed(data: dict[str, Any], secret: str, draw: st.DataObject) -> None:
    """One other byte in the body, another id, another time or another secret is refused."""
    body = compose("run.completed", 0, data)
    headers = headers_for(secret, message(body), time.time())
    place = draw.draw(st.integers(0, len(body) - 1))
    changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
    foreign = "whsec_" + base64.b64encode(b"0" * 24).decode()
    forgeries: list[tuple[str, bytes, dict[str, str]]] = [
        (secret, changed, headers),
        (secret, body, headers | {"webhook-id": "msg_8_ab"}),
        (secret, body, headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)}),
        (foreign, body, headers),
    ]
    for key, bytes_, fields in forgeries:
        with pytest.raises((WebhookVerificationError, UnicodeDecodeError)):
            Webhook(key).verify(bytes_, fields)


@pytest.mark.parametrize("secret", [WHSEC, WHSEC.removeprefix("whsec_"), WHSEC.rstrip("=")])
def test_a_secret_is_read_as_the_official_library_reads_it(secret: str) -> None:
    """With or without `whsec_`, with or without padding, the key is the same bytes."""
    assert decode_secret(secret) == b"twenty-four bytes of key"


def test_a_secret_that_is_no_base64_is_used_as_it_stands() -> None:
    """A secret somebody chose by hand signs with its own bytes."""
    assert decode_secret("not base64!") == b"not base64!"


def test_every_attempt_has_the_same_id_and_its_own_time() -> None:
    """The id is stable over attempts, the timestamp and the signature are of the attempt, which has its number."""
    one, two = headers_for(WHSEC, message(b"{}"), NOW), headers_for(WHSEC, message(b"{}", attempts=1), NOW + 5)
    assert one["webhook-id"] == two["webhook-id"] == "msg_7_ab"
    assert (one["webhook-attempt"], two["webhook-attempt"]) == ("1", "2")
    assert int(two["webhook-timestamp"]) - int(one["webhook-timestamp"]) == 5
    assert one["webhook-signature"] != two["webhook-signature"]
    assert two["webhook-signature"] == sign(WHSEC, "msg_7_ab", int(NOW) + 5, b"{}")


def test_the_message_is_the_envelope_of_the_standard() -> None:
    """Type, time in ISO 8601 and data: nothing else stands at the top."""
    assert json.loads(compose("run.failed", 1_000, {"run_id": 1})) == {
        "type": "run.failed",
        "timestamp": "1970-01-01T00:00:01.000Z",
        "data": {"run_id": 1},
    }


def test_a_callback_id_has_the_run_and_noise() -> None:
    """Two callbacks of one run differ, and an id has no character that a header or a URL could not hold."""
    assert new_callback_id(238, b"\x00\xff") == "msg_238_00ff"


# ---- what is kept of an answer


def test_an_excerpt_is_short_and_safe_to_print() -> None:
    """Of an answer the first bytes are kept; what could draw on a terminal or is no text becomes a sign for it."""
    assert excerpt(b"ok\nyes") == "ok\nyes"
    assert excerpt(b"\x1b[2J\x00\xff\r") == "�[2J���"
    assert len(excerpt(b"x" * 10_000)) == EXCERPT


@given(st.binary(max_size=700))
def test_no_answer_breaks_the_excerpt(body: bytes) -> None:
    """Whatever bytes come back, the excerpt is printable text."""
    assert all(letter.isprintable() or letter == "\n" for letter in excerpt(body))
