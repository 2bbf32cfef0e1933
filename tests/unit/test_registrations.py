"""Apps made by command or API: whatever the sender, the secret that is made for it is one it can use."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from gateway.app_callbacks import CallbackSettings
from gateway.apps import App, LiveApp
from gateway.egress import read_policy
from gateway.errors import ConfigError, Conflict, GatewayError
from gateway.registrations import (
    LONGEST_OVERLAP,
    OVERLAP,
    Registration,
    Wish,
    register,
    revoke_older,
    revoke_older_callback,
    rotate,
    rotate_callback,
)
from gateway.secrets import SecretRef, SecretUnreadable, read_master_keys, unseal
from gateway.signatures import PRESETS
from gateway.wrappings import rewrap_record
from tests.unit.test_secrets import seal_as_before

NOW = 1_800_000_000.0
KEYS = read_master_keys(["a2V5IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMgbG9uZyE="])
NEWER = read_master_keys(["YW5vdGhlciBrZXkgb2YgdGhlIHRlc3RzLCAzMiBieS4="])
POLICY = read_policy("127.0.0.0/8")
COUNT = iter(range(1_000_000))


def noise(size: int) -> bytes:
    """Bytes that never come twice."""
    return next(COUNT).to_bytes(size, "big")


def live(made: Registration) -> LiveApp:
    """The app as a receiver would have it."""

    def resolve(reference: SecretRef, owner: str) -> str | None:
        try:
            return None if reference.sealed is None else unseal(KEYS, owner, reference.sealed)
        except SecretUnreadable:
            return None

    return LiveApp(made.app, resolve)


@pytest.mark.parametrize("scheme", ["asana", "notion"])
def test_a_sender_that_makes_its_secret_gets_none(scheme: str) -> None:
    """The app waits for it, and there is nothing to rotate."""
    made = register(Wish(name="a", scheme=scheme), POLICY, KEYS, noise)
    assert (made.secret, live(made).waiting) == (None, True)
    assert live(made).problem is not None
    with pytest.raises(Conflict, match="gateway app pair"):
        rotate(made.app, KEYS, noise, NOW)


MADE_BY_US = sorted(
    name
    for name in PRESETS
    if not PRESETS[name].is_public and PRESETS[name].kind != "url" and name not in ("asana", "notion")
)


@pytest.mark.parametrize("scheme", MADE_BY_US)
def test_every_sender_gets_a_secret_that_it_can_use(scheme: str) -> None:
    """The secret made for a preset is good for it, is what the receiver finds, and so is the one of a rotation."""
    topics = ("https://g.example/feed",) if scheme == "websub" else ()
    wish = Wish(name="a", scheme=scheme, public_url="https://g.example/h", topics=topics)
    made = register(wish, POLICY, KEYS, noise)
    assert (live(made).problem, live(made).secrets) == (None, (made.secret,))
    again = rotate(made.app, KEYS, noise, NOW)
    assert (live(again).problem, live(again).secrets) == (None, (again.secret, made.secret))
    third = rotate(again.app, KEYS, noise, NOW + OVERLAP)
    assert live(third).secrets == (third.secret, again.secret)


def test_a_sender_that_signs_nothing_gets_a_url() -> None:
    """Its secret is the token at the end of its URL; what is made is long enough, and there is nothing to rotate."""
    made = register(Wish(name="a", scheme="docker-hub"), POLICY, KEYS, os.urandom)
    assert made.app.token == made.secret
    assert (live(made).problem, live(made).secrets, live(made).only_by_token) == (None, (made.secret,), True)
    with pytest.raises(Conflict, match="no secret to rotate"):
        rotate(made.app, KEYS, os.urandom, NOW)


@pytest.mark.parametrize(("scheme", "words"), [("discord", "key of its own"), ("square", "signs the URL")])
def test_what_the_sender_has_to_give(scheme: str, words: str) -> None:
    """A sender with a key of its own, or that signs its URL, can't be registered without them."""
    with pytest.raises(ConfigError, match=words):
        register(Wish(name="a", scheme=scheme), POLICY, KEYS, noise)


def test_a_callback_has_a_secret_of_its_own() -> None:
    """With a callback's URL there is a second secret, in the form of Standard Webhooks; without there is none."""
    made = register(Wish(name="a", callback_url="http://127.0.0.1/told"), POLICY, KEYS, noise)
    assert made.callback_secret is not None
    assert made.callback_secret.startswith("whsec_")
    assert made.callback_secret not in (made.secret, None)
    assert live(made).callback_secrets == (made.callback_secret,)
    assert register(Wish(name="a"), POLICY, KEYS, noise).callback_secret is None


def with_callback() -> Registration:
    """An app with a callback of its own."""
    return register(Wish(name="a", callback_url="http://127.0.0.1/told"), POLICY, KEYS, noise)


def signing(app: App, now: float) -> tuple[str, ...]:
    """The secrets that sign the app's own callbacks at this time."""
    endpoint = live(Registration(app, None)).endpoint
    assert endpoint is not None
    return endpoint.secrets(now)


def test_the_old_callback_secret_signs_until_its_end() -> None:
    """For the overlap both sign, the newest first; from its last second on the new one alone. What comes in is judged
    by the same secret as before.
    """
    first = with_callback()
    second = rotate_callback(first.app, KEYS, noise, NOW, overlap=60)
    assert second.secret is None
    assert signing(second.app, NOW + 59.9) == (second.callback_secret, first.callback_secret)
    assert signing(second.app, NOW + 60) == (second.callback_secret,)
    assert live(second).secrets == live(first).secrets
    at_once = rotate_callback(first.app, KEYS, noise, NOW, overlap=0)
    assert signing(at_once.app, NOW) == (at_once.callback_secret,)


def test_two_callback_secrets_are_live_at_most() -> None:
    """Another rotation is a Conflict unless it is forced or the older one is revoked; then there is nothing to revoke."""
    second = rotate_callback(with_callback().app, KEYS, noise, NOW)
    with pytest.raises(Conflict, match=r"callback of app 'a' has two live secrets until 2027-"):
        rotate_callback(second.app, KEYS, noise, NOW + 1)
    third = rotate_callback(second.app, KEYS, noise, NOW + 1, force=True)
    assert signing(third.app, NOW + 1) == (third.callback_secret, second.callback_secret)
    revoked = revoke_older_callback(third.app, NOW + 2)
    assert signing(revoked, NOW + 2) == (third.callback_secret,)
    for app, now in ((revoked, NOW + 2), (third.app, NOW + 1 + OVERLAP)):
        with pytest.raises(Conflict, match="no older secret"):
            revoke_older_callback(app, now)


def test_only_a_callback_of_its_own_has_a_secret_to_rotate() -> None:
    """An app without one, and one that names endpoints alone, is a Conflict; beside endpoints its own is changed."""
    ops = CallbackSettings(endpoint="ops")
    made = with_callback().app
    own = made.own_callback
    assert own is not None
    for callback in (None, [ops]):
        with pytest.raises(Conflict, match="no callback of its own"):
            rotate_callback(msgspec.structs.replace(made, callback=callback), KEYS, noise, NOW)
    rotated_ = rotate_callback(msgspec.structs.replace(made, callback=[ops, own]), KEYS, noise, NOW).app
    assert rotated_.callbacks[0] == ops
    assert len(signing(rotated_, NOW)) == 2


def test_an_older_callback_secret_is_rewrapped_where_it_stands() -> None:
    """It opens under a new master key, also when it was sealed in the form before fields counted."""
    made = with_callback().app
    own = made.own_callback
    assert own is not None
    old = msgspec.structs.replace(own, secret=SecretRef(sealed=seal_as_before(KEYS[0], "app:a", "whsec_b2xk")))
    for callback, word in ((own, None), (old, "whsec_b2xk")):
        app = rotate_callback(msgspec.structs.replace(made, callback=callback), KEYS, noise, NOW).app
        record = rewrap_record(NEWER + KEYS, "app:a", msgspec.to_builtins(app))
        fresh = msgspec.convert(record, App)
        opened = LiveApp(fresh, lambda reference, owner: unseal(NEWER, owner, reference.sealed or ""))
        assert len(opened.callback_secrets) == 2
        assert word in (None, opened.callback_secrets[1])


@pytest.mark.parametrize(
    ("wish", "keys", "word"),
    [
        ({"name": "42"}, KEYS, "name"),
        ({"name": "a", "scheme": "orko"}, KEYS, "scheme"),
        ({"name": "a", "callback_url": "http://10.0.0.1/"}, KEYS, "callback_url"),
        ({"name": "a", "callback_url": "nowhere"}, KEYS, "callback_url"),
        ({"name": "a"}, (), "GATEWAY_MASTER_KEYS"),
    ],
)
def test_what_could_not_work_is_refused(wish: dict[str, Any], keys: tuple[bytes, ...], word: str) -> None:
    """A name that reads as an id, an unknown scheme, a URL that leads inside, and no key to seal under are refused."""
    with pytest.raises(GatewayError, match=word):
        register(Wish(**wish), POLICY, keys, noise)


def test_an_app_without_a_secret_has_none_to_rotate() -> None:
    """Rotating what accepts anyone is a Conflict; rotating without a master key leaves the app as it was."""
    made = register(Wish(name="a"), POLICY, KEYS, noise)
    with pytest.raises(ConfigError):
        rotate(made.app, (), noise, NOW)
    open_app = type(made.app)(name="open", verify="none")
    with pytest.raises(Conflict, match="no secret to rotate"):
        rotate(open_app, KEYS, noise, NOW)


def rotated(times: int) -> Registration:
    """An app whose secret was made anew so often, a day apart."""
    made = register(Wish(name="a"), POLICY, KEYS, noise)
    for day in range(times):
        made = rotate(made.app, KEYS, noise, NOW + day * OVERLAP)
    return made


def test_the_old_secret_ends_by_the_clock() -> None:
    """For the overlap both count; from its last second on only the new one does, and nobody did anything."""
    first = register(Wish(name="a"), POLICY, KEYS, noise)
    second = rotate(first.app, KEYS, noise, NOW, overlap=60)
    app = live(second)
    assert app.secrets_at(NOW) == app.secrets_at(NOW + 59.9) == (second.secret, first.secret)
    assert app.secrets_at(NOW + 60) == app.secrets_at(NOW + 10**9) == (second.secret,)
    assert live(first).secrets_at(NOW) == (first.secret,)


def test_a_second_rotation_inside_the_overlap_has_to_be_forced() -> None:
    """Two are live at most: another rotation is a Conflict that says until when, unless it ends the older one now."""
    second = rotated(1)
    with pytest.raises(Conflict, match=r"two live secrets until 2027-"):
        rotate(second.app, KEYS, noise, NOW + OVERLAP - 1)
    third = rotate(second.app, KEYS, noise, NOW + 1, force=True)
    assert live(third).secrets_at(NOW + 1) == (third.secret, second.secret)
    assert rotate(second.app, KEYS, noise, NOW + OVERLAP).secret is not None


def test_without_overlap_the_old_secret_is_gone() -> None:
    """An overlap of nothing leaves the new secret alone, at once."""
    made = register(Wish(name="a"), POLICY, KEYS, noise)
    after = rotate(made.app, KEYS, noise, NOW, overlap=0)
    assert live(after).secrets == (after.secret,)
    for overlap in (-1, LONGEST_OVERLAP + 1, float("nan")):
        with pytest.raises(GatewayError, match="overlap"):
            rotate(made.app, KEYS, noise, NOW, overlap=overlap)


def test_the_older_secret_is_revoked_early() -> None:
    """What is left is the newest; where no older one is live, there is nothing to revoke."""
    made = rotated(1)
    app = revoke_older(made.app, NOW + 1)
    assert live(Registration(app, None)).secrets == (made.secret,)
    for each, now in ((app, NOW + 1), (made.app, NOW + OVERLAP)):
        with pytest.raises(Conflict, match="no older secret"):
            revoke_older(each, now)


def test_an_older_secret_that_no_key_opens_does_not_shut_the_app() -> None:
    """Its end is set, so the newer one counts; the newest being lost is a reason to refuse everybody."""
    made = rotated(1)
    newest, older = made.app.verify["secrets"]  # type: ignore[index]

    def with_secrets(*secrets: object) -> LiveApp:
        return live(
            Registration(msgspec.structs.replace(made.app, verify={"scheme": "orqo", "secrets": secrets}), None)
        )

    lost = {"sealed": "v2.00000000.AAAA.AAAA"}
    app = with_secrets(newest, lost | {"expires_at": older["expires_at"]})
    assert (app.secrets, app.problem) == ((made.secret,), None)
    problem = with_secrets(lost).problem
    assert problem is not None
    assert "can't be opened" in problem
