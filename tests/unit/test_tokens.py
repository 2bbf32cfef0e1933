"""API tokens: made once, recognised by a hash, refused when mistyped, expired or revoked."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tokens import ALPHABET, FORM, Token, matches, new_token, read_id

NOW = 1_750_000_000.0
TEXT, KEPT = new_token("ci", ["runs:start"], NOW)


def test_a_new_token_is_recognised() -> None:
    """Its text carries its id, and matches what is kept of it."""
    assert read_id(TEXT) == KEPT.id
    assert matches(TEXT, KEPT, NOW)
    assert (KEPT.name, KEPT.scopes, KEPT.created_at, KEPT.expires_at) == ("ci", ["runs:start"], int(NOW), None)


def test_what_is_kept_does_not_give_the_token_away() -> None:
    """Neither the secret part nor the whole text stands in what the store keeps."""
    secret = FORM.fullmatch(TEXT)
    assert secret is not None
    kept = msgspec.json.encode(KEPT).decode()
    assert secret[3] not in kept
    assert TEXT not in kept


def test_every_single_typo_is_refused_without_a_look_up() -> None:
    """At every place of a token every other letter of the alphabet is refused by the checksum alone."""
    for place, right in enumerate(TEXT):
        for letter in ALPHABET + "_-. é":
            if letter != right:
                assert read_id(TEXT[:place] + letter + TEXT[place + 1 :]) is None


@given(st.integers(0, len(TEXT)), st.sampled_from(ALPHABET))
def test_a_letter_too_many_or_too_few_is_refused(place: int, letter: str) -> None:
    """A token has one length."""
    assert read_id(TEXT[:place] + letter + TEXT[place:]) is None
    assert read_id(TEXT[:place] + TEXT[place + 1 :]) is None or place == len(TEXT)


@pytest.mark.parametrize(
    "text",
    ["", "gw_api_", TEXT + "\n", " " + TEXT, TEXT.upper(), "gw_api_" + "0" * 52, "\ud800"],
    ids=["empty", "bare", "line", "space", "upper", "zeros", "surrogate"],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    """Text of another form has no id."""
    assert read_id(text) is None


def test_an_expired_token_is_refused_from_that_second_on() -> None:
    """A token with a lifetime is good until it ends, and not at its end."""
    text, kept = new_token("ci", [], NOW, lifetime=60)
    assert (kept.state(NOW + 59), matches(text, kept, NOW + 59)) == ("active", True)
    assert (kept.state(NOW + 60), matches(text, kept, NOW + 60)) == ("expired", False)


def test_a_revoked_token_is_refused() -> None:
    """Revoking ends a token, also one that has expired too."""
    revoked = msgspec.structs.replace(KEPT, revoked_at=int(NOW), expires_at=int(NOW) - 1)
    assert (revoked.state(NOW), matches(TEXT, revoked, NOW)) == ("revoked", False)


def test_another_token_does_not_match() -> None:
    """A token made in the same moment for the same name is another."""
    text, kept = new_token("ci", ["runs:start"], NOW)
    assert text != TEXT
    assert not matches(text, KEPT, NOW)
    assert not matches(TEXT, kept, NOW)


def test_a_kind_is_part_of_the_token() -> None:
    """The kind stands in the text, where a scanner sees it, and counts in the checksum."""
    text, _ = new_token("x", [], NOW, kind="hook")
    assert text.startswith("gw_hook_")
    assert read_id(text.replace("gw_hook_", "gw_api_")) is None


def test_no_letter_is_favoured() -> None:
    """Over many tokens every letter of the alphabet comes up about as often as every other."""
    letters = "".join(new_token("x", [], NOW)[0].removeprefix("gw_api_")[:46] for _ in range(400))
    share = len(letters) / len(ALPHABET)
    assert all(0.6 * share < letters.count(letter) < 1.5 * share for letter in ALPHABET)


def test_a_token_survives_the_store() -> None:
    """What is kept is the same after JSON and back."""
    assert msgspec.json.decode(msgspec.json.encode(KEPT), type=Token) == KEPT
