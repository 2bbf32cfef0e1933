"""Events: what makes a delivery the same as another (promise 2), and ids that sort by time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.apps import App, LiveApp
from gateway.errors import BadRequest, Unprocessable
from gateway.events import dedupe_keys, hash_body, new_event_id
from gateway.presets import UNIQUE_BODIES
from gateway.signatures import PRESETS, Request, delivery_id
from tests.tools_senders import NOW, bare_request, key_of, signed_by

BODY = b'{"id": "evt_7", "ref": "main"}'
PARSED = {"id": "evt_7", "ref": "main"}
Headers = tuple[tuple[str, str], ...]


def keys(
    preset: str, *headers: tuple[str, str], body: bytes = BODY, dedupe: str | None = None, app: int = 7
) -> list[str]:
    """The keys of one delivery to an app that verifies with a preset."""
    scheme = PRESETS[preset]
    request = Request("POST", "/", headers, body)
    live = LiveApp(App(id=app, name="a", verify="none", dedupe=dedupe), lambda *_: None)
    values = {"event": {"body": PARSED, "type": None}}
    return dedupe_keys(live, scheme, request, delivery_id(scheme, request, PARSED), lambda: values)


# ---- first: the sender's own id


def test_a_signed_delivery_id_alone_makes_a_delivery_the_same() -> None:
    """Where the sender signs its id, other bytes under that id are the same delivery (and then a conflict)."""
    first = keys("standard-webhooks", ("webhook-id", "msg_1"))
    assert first == keys("standard-webhooks", ("webhook-id", "msg_1"), body=b"{}")
    assert first != keys("standard-webhooks", ("webhook-id", "msg_2"))
    assert len(first) == 1


def test_an_id_in_the_signed_body_counts_as_signed() -> None:
    """Stripe's id stands in the body, which is signed; it needs no second key."""
    assert len(keys("stripe")) == 1
    assert keys("stripe") == keys("stripe", ("idempotency-key", "other"))


def test_an_unsigned_delivery_id_counts_together_with_the_body() -> None:
    """GitHub does not sign its id, so the same body under a new id shares a key with the first."""
    first, replayed = (keys("github", ("x-github-delivery", name)) for name in ("d1", "d2"))
    assert len(first) == 2
    assert set(first) & set(replayed)
    other = keys("github", ("x-github-delivery", "d3"), body=b"{}")
    assert not set(first) & set(other)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("x-github-delivery", ""),),
        (("x-github-delivery", "d1"), ("x-github-delivery", "d2")),
        (("idempotency-key", "mine"),),
        (("webhook-id", "mine"),),
    ],
    ids=["no id", "an empty id", "two ids", "another key", "another id"],
)
def test_a_replay_without_its_unsigned_id_is_still_known(headers: Headers) -> None:
    """Whoever replays a GitHub delivery and leaves out or replaces its id gets the key of its body nevertheless."""
    assert set(keys("github", ("x-github-delivery", "d1"))) & set(keys("github", *headers))


# ---- then: the caller's key


@pytest.mark.parametrize("name", ["idempotency-key", "webhook-id"])
def test_a_key_of_the_caller_makes_a_delivery_the_same(name: str) -> None:
    """A sender without ids of its own may give a key; spaces around it don't count, another key is another delivery."""
    first = keys("orqo", (name, "k1"))
    assert first == keys("orqo", (name, " k1 "), body=b"{}")
    assert first != keys("orqo", (name, "k2"))


def test_the_idempotency_key_comes_before_the_webhook_id() -> None:
    """With both headers the Idempotency-Key decides."""
    both = keys("orqo", ("webhook-id", "w"), ("idempotency-key", "k"))
    assert both == keys("orqo", ("idempotency-key", "k"))


@pytest.mark.parametrize(
    "values", [("k1", "k1"), ("",), ("   ",), ("k" * 256,)], ids=["doubled", "empty", "blank", "too long"]
)
def test_a_key_that_can_not_be_used_is_refused(values: tuple[str, ...]) -> None:
    """A key given twice, empty, or longer than 255 characters is a bad request and not ignored."""
    with pytest.raises(BadRequest, match="idempotency-key"):
        keys("orqo", *(("idempotency-key", value) for value in values))


# ---- else: what the app says


def test_without_any_key_every_delivery_is_new() -> None:
    """A direct request without a key, to an app that says nothing, is a new one each time."""
    assert keys("orqo") == []


def test_an_app_may_go_by_the_body() -> None:
    """`dedupe: body` makes equal bytes the same delivery, and other bytes another."""
    assert keys("orqo", dedupe="body") == keys("orqo", dedupe="body")
    assert keys("orqo", dedupe="body") != keys("orqo", dedupe="body", body=b'{"id": "evt_7",  "ref": "main"}')


def test_an_app_may_go_by_an_expression() -> None:
    """A CEL expression over the event gives the key; what is no text counts by its JSON."""
    assert keys("orqo", dedupe="event.body.id") == keys("orqo", dedupe="'evt_' + '7'")
    assert keys("orqo", dedupe="event.body") == keys("orqo", dedupe="event.body", body=b"other bytes")
    assert keys("orqo", dedupe="1") == keys("orqo", dedupe="'1'")


@pytest.mark.parametrize("expression", ["event.body.absent", "event.type"])
def test_an_expression_that_gives_nothing_refuses_the_delivery(expression: str) -> None:
    """Without a value there is no telling deliveries apart, so nothing is started; the message names the expression."""
    with pytest.raises(Unprocessable, match=expression):
        keys("orqo", dedupe=expression)


def test_the_callers_key_comes_before_what_the_app_says() -> None:
    """An app's own rule is for deliveries without a key."""
    assert keys("orqo", ("idempotency-key", "k"), dedupe="event.body.absent") == keys("orqo", ("idempotency-key", "k"))


# ---- where the sender has no ids


@pytest.mark.parametrize(
    "preset",
    ["zoom", "buildkite", "cloudflare-stream", "grafana-timestamp", "hubspot-v3", "sendgrid", "drone", "rfc9421"],
)
def test_what_is_signed_with_its_time_is_known_again(preset: str) -> None:
    """A replay of what has no id is known by its time and content, whatever key it comes under; the same content
    signed at another time is another delivery, and to a direct app each is one."""

    first = _signed_keys(preset, NOW)
    assert first
    assert set(first) & set(_signed_keys(preset, NOW, ("idempotency-key", "new")))
    assert not set(first) & set(_signed_keys(preset, NOW + 1))
    assert _signed_keys(preset, NOW, adapter="direct") == []


def test_a_signature_beside_the_true_one_makes_no_other_delivery() -> None:
    """Of several labels in an RFC 9421 message each counts, for a replay can add some but not take the true one away."""
    first = _signed_keys("rfc9421", NOW)
    lines = (("signature-input", 'forged=("@method");created=1'), ("signature", "forged=:AAAA:"))
    assert set(first) < set(_signed_keys("rfc9421", NOW, *lines))


@pytest.mark.parametrize("preset", sorted(UNIQUE_BODIES))
def test_bodies_that_never_come_twice_are_known_again(preset: str) -> None:
    """Of senders who sign neither id nor time, each event has a body of its own, so the same body is the same event."""
    first = _signed_keys(preset, NOW)
    assert first
    assert set(first) & set(_signed_keys(preset, NOW + 1, ("idempotency-key", "new")))


def test_a_callers_key_does_not_hide_a_body_that_counts() -> None:
    """Where an app goes by the body, a replay under a new key, which nobody signs, is known by it all the same."""
    first = keys("orqo", dedupe="body")
    assert set(first) < set(keys("orqo", ("idempotency-key", "new"), dedupe="body"))


def _signed_keys(preset: str, now: float, *headers: tuple[str, str], **app: Any) -> list[str]:
    """The keys of a request that its sender signed, with more headers, to an app of that sender."""
    key = key_of(PRESETS[preset])
    made = bare_request(preset, key) if preset in UNIQUE_BODIES else signed_by(preset, key, now)
    request = Request(made.method, made.url, (*made.headers, *headers), made.body)
    written = {"scheme": preset, "secrets": [{"env": "X"}]}
    live = LiveApp(App(id=7, name="a", verify=written, **app), lambda *_: None)
    return dedupe_keys(live, PRESETS[preset], request, delivery_id(PRESETS[preset], request, None), dict)


# ---- keys


def test_apps_do_not_share_keys() -> None:
    """The same key at two apps is two deliveries."""
    assert keys("orqo", ("idempotency-key", "k"), app=7) != keys("orqo", ("idempotency-key", "k"), app=8)


def test_kinds_of_keys_do_not_mix() -> None:
    """A caller can't hit another delivery's id, body or computed key by writing its text into a header."""
    body = keys("orqo", dedupe="body")
    assert not set(body) & set(keys("orqo", ("idempotency-key", hash_body(BODY))))
    assert keys("standard-webhooks", ("webhook-id", "x")) != keys("orqo", ("webhook-id", "x"))


@given(st.text(min_size=1, max_size=255).filter(lambda key: key.strip()))
def test_any_key_fits_into_the_store(key: str) -> None:
    """Whatever stands in a key, what is kept of it is short, without spaces, and the same each time."""
    (kept,) = keys("orqo", ("idempotency-key", key))
    assert kept == keys("orqo", ("idempotency-key", key))[0]
    assert len(kept) < 60
    assert not any(letter.isspace() for letter in kept)


# ---- ids


@given(st.floats(0, 4e9), st.floats(0.001, 1e6), st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8))
def test_event_ids_sort_by_time(now: float, later: float, one: bytes, two: bytes) -> None:
    """Of two ids the one made a millisecond or more later sorts after the other, whatever the noise."""
    assert new_event_id(now, one) < new_event_id(now + later + 0.001, two)
    assert new_event_id(now, one).startswith("evt_")
