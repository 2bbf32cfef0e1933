"""Approval links: only what we signed is read, for as long as it is good, and for nothing but what it names."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.approvals import Expired, Link, Links
from gateway.errors import ConfigError, NotFound

OLD, NEW = b"o" * 32, b"n" * 32
NOW = 1_800_000_000.0


def token_of(links: Links, step: str = "ask[3]", hours: float = 48) -> str:
    made = links.make(238, step, hours, NOW)
    assert made.url.startswith("https://gateway.example/approve/")
    return made.url.rpartition("/")[2]


def test_a_link_says_run_step_and_expiry() -> None:
    """What was made is read again, until its time is over."""
    links = Links([NEW], "https://gateway.example")
    token = token_of(links, hours=1)
    assert links.read(token, NOW + 3599) == Link(238, "ask[3]", int(NOW) + 3600)
    assert links.make(238, "a", 1, NOW).expires_at == "2027-01-15T09:00:00.000Z"
    with pytest.raises(Expired) as caught:
        links.read(token, NOW + 3600)
    assert caught.value.status == 410


def test_a_link_outlives_the_rotation_of_its_key() -> None:
    """A key that is still among the master keys reads what it signed; one that is gone does not."""
    token = token_of(Links([OLD], "https://gateway.example"))
    assert Links([NEW, OLD]).read(token, NOW).run_id == 238
    with pytest.raises(NotFound):
        Links([NEW]).read(token, NOW)
    with pytest.raises(NotFound):
        Links().read(token, NOW)


def test_without_a_key_there_are_no_links() -> None:
    """No master key, no link: it would be signed by nothing."""
    with pytest.raises(ConfigError, match="GATEWAY_MASTER_KEYS"):
        Links().make(1, "a", 1, NOW)


def test_every_changed_letter_is_noticed() -> None:
    """A token with any letter changed, left out or added is none of ours."""
    links = Links([NEW], "https://gateway.example")
    token = token_of(links)
    changed = [
        token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :] for place in range(len(token))
    ]
    for text in [*changed, *(token[:place] for place in range(len(token))), token + "A", token + "=", f" {token}"]:
        with pytest.raises(NotFound):
            links.read(text, NOW)


def test_a_master_key_itself_signs_nothing() -> None:
    """The key of links is derived: a signature under the master key, made for something else, is no link."""
    body = base64.urlsafe_b64encode(b'[1,"a",9999999999]').rstrip(b"=")
    signature = base64.urlsafe_b64encode(hmac.digest(NEW, b'[1,"a",9999999999]', hashlib.sha256)).rstrip(b"=")
    with pytest.raises(NotFound):
        Links([NEW]).read(f"{body.decode()}.{signature.decode()}", NOW)


@given(st.text(max_size=60))
def test_any_text_is_refused_as_unknown(text: str) -> None:
    """Whatever stands in the path, the answer is that we did not sign it."""
    with pytest.raises(NotFound):
        Links([NEW]).read(text, NOW)
