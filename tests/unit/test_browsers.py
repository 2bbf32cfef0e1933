"""Forms on web pages: origins, tokens, honeypots and pages to go on to, judged from values alone."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.browsers import (
    FormSettings,
    FormTokens,
    OriginRefused,
    RedirectRefused,
    Spam,
    TokenEarly,
    TokenExpired,
    TokenInvalid,
    TokenMissing,
    TokenSettings,
    WebForm,
    check_form,
    check_form_settings,
)
from gateway.errors import ConfigError, Unavailable

KEY, OLD_KEY = b"k" * 32, b"o" * 32
NOW = 1_800_000_000.0
FORM = WebForm(FormSettings(token=TokenSettings(min_fill="3s", max_age="2h")))
TOKENS = FormTokens([KEY])


def issue(tokens: FormTokens = TOKENS, app_id: int = 7, noise: bytes = b"n" * 12) -> str:
    return tokens.issue(FORM, app_id, NOW, noise).token


def check(token: Any, *, now: float = NOW + 10, tokens: FormTokens = TOKENS, app_id: int = 7) -> str:
    return tokens.check(FORM, app_id, {"_token": token}, now)


def test_a_token_is_good_from_its_first_moment_to_its_last() -> None:
    """Not sooner than `min_fill` and not later than `max_age` after it was given out; too soon says for how long to wait."""
    token = issue()
    assert check(token, now=NOW + 3) == check(token, now=NOW + 7200)
    with pytest.raises(TokenEarly) as caught:
        check(token, now=NOW + 1.2)
    assert caught.value.retry_after == 2
    with pytest.raises(TokenEarly):
        check(token, now=NOW - 60)
    with pytest.raises(TokenExpired):
        check(token, now=NOW + 7201)


def test_each_token_has_a_number_of_its_own() -> None:
    """Which is what makes it good for one event."""
    assert check(issue(noise=b"a" * 12)) != check(issue(noise=b"b" * 12))


def test_a_token_of_another_form_or_gateway_is_refused() -> None:
    """Neither another app's token, nor one of another master key, opens this form; an older key of ours still does."""
    with pytest.raises(TokenInvalid):
        check(issue(app_id=8))
    with pytest.raises(TokenInvalid):
        check(issue(FormTokens([OLD_KEY])))
    assert check(issue(FormTokens([OLD_KEY])), tokens=FormTokens([KEY, OLD_KEY]))


@given(st.integers(0, 10_000), st.integers(1, 127))
def test_no_changed_token_is_good(place: int, flip: int) -> None:
    """Not one character may differ, not even in the bits that base64 leaves unused."""
    token = issue()
    at = place % len(token)
    changed = token[:at] + chr(ord(token[at]) ^ flip) + token[at + 1 :]
    with pytest.raises(TokenInvalid):
        check(changed)


@pytest.mark.parametrize("given", ["x", ".", "a.b", "é", "x" * 5000, ["a", "b"], "..", " ", "null.null"])
def test_what_is_no_token_is_refused(given: Any) -> None:
    """Whatever stands in the field, also when it stands there twice."""
    with pytest.raises(TokenInvalid):
        check(given)
    token = issue()
    with pytest.raises(TokenInvalid):
        check([token, token])
    for other in (token + "=", token + "\n", " " + token, token.partition(".")[0] + "."):
        with pytest.raises(TokenInvalid):
            check(other)


def test_a_missing_token_is_told_apart() -> None:
    """A page's author is told which field is missing."""
    for fields in ({}, {"_token": ""}):
        with pytest.raises(TokenMissing, match="_token"):
            TOKENS.check(FORM, 7, fields, NOW)


def test_approval_links_and_form_tokens_have_keys_of_their_own() -> None:
    """What is signed for one purpose is good for no other: the master key itself never signs."""
    body = base64.urlsafe_b64encode(b'[7,1800000000000,"x"]').decode().rstrip("=")
    import hashlib
    import hmac

    signature = base64.urlsafe_b64encode(hmac.digest(KEY, b'[7,1800000000000,"x"]', hashlib.sha256)).decode()
    with pytest.raises(TokenInvalid):
        check(f"{body}.{signature.rstrip('=')}")


def test_without_a_master_key_no_token_is_made_or_judged() -> None:
    """That is our fault, not the page's: it may come again."""
    with pytest.raises(Unavailable):
        issue(FormTokens([]))
    with pytest.raises(Unavailable):
        check(issue(), tokens=FormTokens([]))


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["null"],
        ["https://evil.example"],
        ["http://www.example.com"],
        ["https://www.example.com.evil.example"],
        ["https://www.example.com:444"],
        ["https://www.example.com/"],
        ["HTTPS://www.example.com"],
        ["https://www.example.com", "https://www.example.com"],
        ["https://www.example.com, https://evil.example"],
    ],
)
def test_only_the_listed_origins_may_post(given: list[str]) -> None:
    """To the letter, as browsers write it, and once: `null`, nothing, and all that is like it are refused."""
    form = WebForm(FormSettings(origins=["https://www.example.com"]))
    form.check_origin(["https://www.example.com"])
    with pytest.raises(OriginRefused):
        form.check_origin(given)
    WebForm(FormSettings()).check_origin(given)


def test_a_filled_honeypot_is_spam_and_keeps_the_page() -> None:
    """However it is filled; blanks and an empty field are a person's. It looks as it would have looked for a person."""
    form = WebForm(FormSettings(honeypot="website", redirect="https://www.example.com/thanks"))
    for value in ("x", ["", "x"], " x "):
        with pytest.raises(Spam) as caught:
            check_form(form, TOKENS, 7, {"website": value}, NOW)
        assert caught.value.page == "https://www.example.com/thanks"
    for fields in ({}, {"website": ""}, {"website": "  "}, {"website": ["", ""]}):
        assert check_form(form, TOKENS, 7, fields, NOW).page == "https://www.example.com/thanks"


def test_a_page_may_be_chosen_among_those_listed() -> None:
    """The first by itself, another one by its very address; any other address is refused, never gone to."""
    form = WebForm(FormSettings(redirect=["https://a.example/1", "https://a.example/2"]))
    assert form.choose_page({}) == "https://a.example/1"
    assert form.choose_page({"_redirect": "https://a.example/2"}) == "https://a.example/2"
    for wanted in ("https://evil.example/", "//evil.example", "https://a.example/2#", "javascript:alert(1)"):
        with pytest.raises(RedirectRefused):
            form.choose_page({"_redirect": wanted})


def test_the_error_page_is_told_the_code() -> None:
    """In its query, beside what stands there already, before a fragment."""
    for page, shown in (
        ("https://a.example/sorry", "https://a.example/sorry?code=spam"),
        ("https://a.example/sorry?lang=en#top", "https://a.example/sorry?lang=en&code=spam#top"),
    ):
        assert WebForm(FormSettings(error=page)).error_page("spam") == shown
    assert WebForm(FormSettings()).error_page("spam") is None


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        (FormSettings(origins=["https://a.example", "*"]), "form.origins[1]"),
        (FormSettings(origins=["null"]), "form.origins[0]"),
        (FormSettings(origins=["https://a.example/"]), "form.origins[0]"),
        (FormSettings(origins=["https://A.example"]), "form.origins[0]"),
        (FormSettings(origins=["https://a.example:443"]), "form.origins[0]"),
        (FormSettings(redirect="/thanks"), "form.redirect"),
        (FormSettings(redirect=[]), "form.redirect"),
        (FormSettings(redirect=["https://a.example/", "javascript:alert(1)"]), "form.redirect[1]"),
        (FormSettings(redirect="https://a.example/\r\nx: y"), "form.redirect"),
        (FormSettings(error="https://user@a.example/"), "form.error"),
        (FormSettings(token=TokenSettings(min_fill="soon")), "form.token.min_fill"),
        (FormSettings(token=TokenSettings(min_fill="3h", max_age="2h")), "form.token.max_age"),
        (FormSettings(token=TokenSettings(field="website"), honeypot="website"), "form"),
    ],
)
def test_a_form_that_can_not_work_is_a_mistake_with_its_place(settings: FormSettings, path: str) -> None:
    """Each slip is told at its field before any page relies on it."""
    with pytest.raises(ConfigError) as caught:
        check_form_settings(settings)
    assert caught.value.details["path"] == path
