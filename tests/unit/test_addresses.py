"""Addresses of apps: the URL that a sender signs, and the URL that is a sender's only secret."""

from __future__ import annotations

import hashlib

import pytest

from gateway.apps import App, LiveApp
from gateway.configuration import read_configuration
from gateway.editors import describe_file, fields_at
from gateway.places import Mistakes
from gateway.secrets import SecretRef

TOKEN = hashlib.sha256(b"a").hexdigest()
APP = "apps:\n  - name: a\n    %s\n"
SIGNED = "verify: {scheme: square, secrets: [{env: A}]}\n    public_url: %s"


def mistake(field: str) -> str:
    """What is said of a file whose app has these fields."""
    with pytest.raises(Mistakes) as caught:
        read_configuration(APP % field)
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["square", "trello", "twilio", "hubspot-v2", "hubspot-v3"])
def test_who_signs_its_url_needs_it(scheme: str) -> None:
    """An app whose sender signs the URL is refused by `check` while nobody says which, and refuses everything."""
    said = mistake(f"verify: {{scheme: {scheme}, secrets: [{{env: A}}]}}")
    assert "apps[0].public_url: this sender signs the URL that it posts to" in said
    app = App(id=1, name="a", verify={"scheme": scheme, "secrets": [{"env": "A"}]})
    problem = LiveApp(app, lambda *_: "a secret that is long enough").problem
    assert problem is not None
    assert "public_url" in problem


@pytest.mark.parametrize(
    "url",
    ["/h", "gateway.example/h", "ftp://gateway.example/h", "https:///h", "https://u:p@gateway.example/h",
     "https://gateway.example/h#x", "'https://gateway.example/é'", "'https://gateway.example/a b'", "'https://['"],
)  # fmt: skip
def test_a_public_url_is_whole(url: str) -> None:
    """A public URL has scheme, host and path, and nothing that no sender would post to."""
    assert "apps[0].public_url: write the whole URL" in mistake(SIGNED % url)


def live(scheme: str, public_url: str | None) -> LiveApp:
    """An app of this scheme, ready."""
    app = App(id=1, name="a", public_url=public_url, verify={"scheme": scheme, "secrets": [{"env": "A"}]})
    return LiveApp(app, lambda *_: "a secret that is long enough")


@pytest.mark.parametrize(
    ("public_url", "seen", "signed"),
    [
        ("https://g.example/h", "/api/v1/webhooks/43", "https://g.example/h"),
        ("https://g.example/h", "/api/v1/webhooks/43?a=1&b=%20", "https://g.example/h?a=1&b=%20"),
        ("https://g.example/h?a=1", "/api/v1/webhooks/43", "https://g.example/h?a=1"),
        ("https://g.example/h?a=1", "/api/v1/webhooks/43?a=1&bodySHA256=0", "https://g.example/h?a=1&bodySHA256=0"),
    ],
)
def test_the_signed_url_has_the_query_that_came(public_url: str, seen: str, signed: str) -> None:
    """The URL that is verified is the registered one with the request's own query; its host is never the request's."""
    app = live("twilio", public_url)
    assert app.problem is None
    assert app.url_of(seen) == signed


def test_other_senders_are_judged_by_path_and_query() -> None:
    """Where no URL is signed, a public URL changes nothing."""
    assert live("github", "https://g.example/h").url_of("/api/v1/webhooks/43?code=1") == "/api/v1/webhooks/43?code=1"


@pytest.mark.parametrize("token", ["short", "a" * 64, "0123456789012345", f"'{TOKEN}/x'", "''"])
def test_a_url_that_is_a_secret_is_long(token: str) -> None:
    """A token that could be guessed, or that is no part of a path, is refused by `check`."""
    assert "apps[0].token: " in mistake(f"token: {token}\n    verify: {{scheme: docker-hub}}")


def test_a_url_that_is_a_secret_takes_no_other() -> None:
    """Beside the URL's token there is no secret that would count."""
    assert "apps[0].verify.secrets: this sender's secret is" in mistake(
        "verify: {scheme: jotform, secrets: [{env: A}]}"
    )


def test_a_url_that_is_a_secret_is_taken() -> None:
    """An app of such a sender needs no secrets; without a token of its own it gets one, and until then takes nothing."""
    for written in (f"token: {TOKEN}\n    verify: {{scheme: docker-hub}}", "verify: {scheme: docker-hub}"):
        (app,) = read_configuration(APP % written).apps
        made = LiveApp(app, lambda *_: None)
        assert made.only_by_token
        assert made.secrets == ((app.token,) if app.token else ())
        assert made.problem == (None if app.token else "the app has no token")


def test_public_keys_are_secrets_of_an_app() -> None:
    """A public key stands where secrets do, and one that is none is a problem of the app."""
    app = App(id=1, name="a", verify={"scheme": "discord", "secrets": [{"env": "A"}]})
    key = "ad2d9ede29a6b6efa8d7df4829c21996f696a99290088a37e0b1e9264b9f6045"
    assert LiveApp(app, lambda *_: key).problem is None
    found = LiveApp(app, lambda reference, _: None if reference != SecretRef(env="A") else "00" * 32).problem
    assert found is not None
    assert "can't be used" in found


def test_editors_know_the_fields() -> None:
    """The schema of gateway.yaml has the URL, the proof's place in both spellings, the kinds and the presets."""
    assert "public_url" in fields_at("apps[0]")
    assert {"proof", "signature", "kind", "type"} <= set(fields_at("apps[0].verify"))
    verification = describe_file()["$defs"]["Verification"]["properties"]
    assert {"public-key", "url", "twilio"} <= set(verification["kind"]["enum"])
    assert "twilio" in verification["scheme"]["anyOf"][0]["enum"]
