"""Endpoints: what may be written of one, what it wants, and how its secrets come and go."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from gateway.configuration import Configuration, check_texts, read_configuration
from gateway.egress import Policy, read_policy
from gateway.endpoints import EndpointSettings, read_signing_key
from gateway.enlisting import EndpointWish, count_live, enlist, revoke_endpoint, rotate_endpoint
from gateway.errors import ConfigError, Conflict, Unprocessable
from gateway.expressions import Failure
from gateway.places import Mistakes
from gateway.secrets import unseal
from tests.tools_endpoints import WHSEC, live

KEYS = (b"0" * 32,)
PUBLIC = Policy()
NOW = 1_750_000_000.0
WHOLE = """
endpoints:
  - name: ops
    url: https://ops.example/hooks
    events: [run.started, run.waiting, run.completed, endpoint.disabled, source.silent]
    filter: message.data.workflow == "review"
    secrets: [{env: NEW}, {file: /run/secrets/old}]
    signing_key: {env: KEY}
    headers: {X-Team: ops, Authorization: {env: BEARER}}
    style: cloudevents
    payload: thin
    timeout: 10s
    schedule: [0, 5s, 5m]
    rate: {limit: 100, period: 1m}
    concurrency: 4
    order: string(message.data.workflow_id)
apps:
  - {name: a, verify: none, callback: {endpoint: ops}}
  - name: b
    verify: none
    callback: [{endpoint: ops}, {url: "https://b.example/", secret: {env: B}}]
    callback_urls: ["https://*.example.com/in"]
    expect_every: 1h
workflows:
  - {name: w, callback: {endpoint: ops}}
  - {name: v, callback: [{endpoint: ops}]}
"""
ENDPOINT = "endpoints:\n  - name: ops\n    url: https://ops.example/\n    secrets: [{env: S}]\n    %s\n"
APP = "apps:\n  - name: a\n    verify: none\n    %s\n"


def noise(count: int) -> bytes:
    return bytes(count)


def read(text: str, policy: Policy = PUBLIC) -> Configuration:
    """A file as `plan` reads it: its URLs judged by their text."""
    found = read_configuration(text)
    check_texts(found, policy)
    return found


def test_a_file_says_all_of_it() -> None:
    """Each field is read, durations as seconds; apps and workflows name it, one or in a list."""
    found = read(WHOLE)
    (endpoint,) = found.endpoints
    assert (endpoint.timeout, endpoint.schedule, endpoint.managed_by) == (10.0, (0.0, 5.0, 300.0), "file")
    assert endpoint.rate is not None
    assert (endpoint.rate.limit, endpoint.rate.period) == (100, 60.0)
    assert [app.endpoints for app in found.apps] == [["ops"], ["ops"]]
    assert found.apps[1].own_callback is not None
    kept = msgspec.json.decode(msgspec.json.encode(endpoint), type=EndpointSettings)
    assert kept == endpoint


MISTAKES: dict[str, tuple[str, int, str, str]] = {
    "no https": (ENDPOINT.replace("https://ops", "http://ops") % "", 3, "endpoints[0].url", "https"),
    "user": (ENDPOINT.replace("ops.example", "u:p@ops.example") % "", 3, "endpoints[0].url", "user name"),
    "address": (ENDPOINT.replace("ops.example", "10.0.0.1") % "", 3, "endpoints[0].url", "address"),
    "odd address": (ENDPOINT.replace("ops.example", "0x7f.1") % "", 3, "endpoints[0].url", "unusual"),
    "port": (ENDPOINT.replace("ops.example", "ops.example:22") % "", 3, "endpoints[0].url", "port 22"),
    "fragment": (ENDPOINT.replace("ops.example/", "ops.example/#a") % "", 3, "endpoints[0].url", "fragment"),
    "name": (ENDPOINT.replace("name: ops", "name: Ops!") % "", 2, "endpoints[0].name", "match"),
    "an app's name": (ENDPOINT.replace("name: ops", "name: app-1") % "", 2, "endpoints[0].name", "match"),
    "event": (ENDPOINT % "events: [run.ended]", 5, "endpoints[0].events[0]", "'run.ended'"),
    "no event": (ENDPOINT % "events: []", 5, "endpoints[0].events", "1"),
    "filter": (ENDPOINT % "filter: message.kind ==", 5, "endpoints[0].filter", "column"),
    "filter's names": (ENDPOINT % "filter: event.type == 'a'", 5, "endpoints[0].filter", "event"),
    "order": (ENDPOINT % "order: nobody.id", 5, "endpoints[0].order", "nobody"),
    "no secret": (ENDPOINT.replace("secrets: [{env: S}]", "style: orqo") % "", 2, "endpoints[0].secrets", "unsigned"),
    "a secret": (ENDPOINT.replace("{env: S}", "plain") % "", 4, "endpoints[0].secrets[0]", "{env: NAME}"),
    "orqo's key": (
        ENDPOINT.replace("secrets: [{env: S}]", "signing_key: {env: K}") % "style: orqo", 2, "endpoints[0].secrets",
        "orqo",
    ),
    "our header": (ENDPOINT % "headers: {Webhook-Id: a}", 5, "endpoints[0].headers.Webhook-Id", "gateway"),
    "length": (ENDPOINT % "headers: {content-length: '1'}", 5, "endpoints[0].headers.content-length", "travels"),
    "host": (ENDPOINT % "headers: {Host: inside}", 5, "endpoints[0].headers.Host", "travels"),
    "plain bearer": (ENDPOINT % "headers: {Authorization: Bearer x}", 5, "endpoints[0].headers.Authorization", "env"),
    "two lines": (ENDPOINT % 'headers: {X-A: "a\\r\\nb: c"}', 5, "endpoints[0].headers.X-A", "visible ASCII"),
    "no header": (ENDPOINT % 'headers: {"X A": a}', 5, "endpoints[0].headers.X A", "header's name"),
    "timeout": (ENDPOINT % "timeout: 10m", 5, "endpoints[0].timeout", "300"),
    "no time": (ENDPOINT % "timeout: soon", 5, "endpoints[0].timeout", "duration"),
    "schedule": (ENDPOINT % "schedule: []", 5, "endpoints[0].schedule", "1 to 100"),
    "rate": (ENDPOINT % "rate: {limit: 0}", 5, "endpoints[0].rate.limit", "1"),
    "period": (ENDPOINT % "rate: {limit: 1, period: 2d}", 5, "endpoints[0].rate", "day"),
    "concurrency": (ENDPOINT % "concurrency: 0", 5, "endpoints[0].concurrency", "1"),
    "ours": (ENDPOINT % "overlap_until: 1", 5, "endpoints[0].overlap_until", "can't be written"),
    "an id": (ENDPOINT % "id: ep_1", 5, "endpoints[0].id", "can't be written"),
    "unknown field": (ENDPOINT % "event: [ping]", 5, "endpoints[0].event", "did you mean `events`"),
    "twice": (ENDPOINT % "" + (ENDPOINT % "").partition("\n")[2], 6, "endpoints[1].name", "twice"),
    "unknown endpoint": (APP % "callback: {endpoint: ops}", 4, "apps[0].callback.endpoint", "no endpoint 'ops'"),
    "in a list": (APP % "callback: [{endpoint: ops}]", 4, "apps[0].callback[0].endpoint", "no endpoint 'ops'"),
    "of a workflow": ("workflows: [{name: w, callback: {endpoint: o}}]", 1, "workflows[0].callback", "no endpoint 'o'"),
    "two of its own": (
        APP % "callback: [{url: 'https://a.example/', secret: {env: A}}, {url: 'https://b.example/', secret: {env: A}}]",
        4, "apps[0].callback[1]", "one callback of its own",
    ),
    "both": (APP % "callback: {endpoint: o, secret: {env: A}}", 4, "apps[0].callback", "name alone"),
    "no callback secret": (APP % "callback: {url: 'https://a.example/'}", 4, "apps[0].callback", "unsigned"),
    "neither": (APP % "callback: {secret: {env: A}}", 4, "apps[0].callback", "callback_urls"),
    "allow-list": (APP % "callback_urls: ['https://a.example/']", 4, "apps[0].callback_urls", "signed too"),
    "too wide": (
        APP % "callback: {secret: {env: A}}\n    callback_urls: ['https://*.com']", 5, "apps[0].callback_urls[0]", "two",
    ),
    "silence": (APP % "expect_every: 5s", 4, "apps[0].expect_every", "60 s"),
    "no silence": (APP % "expect_every: daily", 4, "apps[0].expect_every", "duration"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line", "path", "words"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_told_with_its_line_and_field(text: str, line: int, path: str, words: str) -> None:
    """What can't be is refused when it is written: at its line, by its field's path, with the reason."""
    with pytest.raises(Mistakes) as caught:
        read(text)
    (found,) = caught.value.mistakes
    assert (found.line, found.path) == (line, path), found
    assert words in found.message, found


def test_an_allowed_network_opens_http_and_addresses() -> None:
    """What GATEWAY_EGRESS_ALLOW opens may be written down."""
    text = ENDPOINT.replace("https://ops.example/", "http://127.0.0.1:9/x") % ""
    assert read(text, read_policy("127.0.0.0/8")).endpoints[0].url == "http://127.0.0.1:9/x"


@pytest.mark.parametrize(
    ("fields", "kind", "data", "wanted"),
    [
        ({}, "run.completed", {}, True),
        ({}, "run.started", {}, False),
        ({"events": ["run.started"]}, "run.started", {}, True),
        ({"events": ["run.started"]}, "ping", {}, True),
        ({"filter": "message.data.n > 1"}, "run.failed", {"n": 2}, True),
        ({"filter": "message.data.n > 1"}, "run.failed", {"n": 1}, False),
        ({"filter": "message.type == 'run.failed'"}, "run.completed", {}, False),
    ],
)
def test_what_it_wants(fields: dict[str, Any], kind: str, data: dict[str, Any], wanted: bool) -> None:
    """The kinds it names, those of them that its filter lets through, and every ping."""
    assert live(WHSEC, **fields).wants(kind, data) is wanted


@pytest.mark.parametrize("source", ["message.data.gone > 1", "message.data.n", "1 + 1"])
def test_a_filter_that_gives_no_verdict_is_a_failure(source: str) -> None:
    """What reads something that is not there, or gives no truth, sends nothing and says why."""
    assert isinstance(live(WHSEC, filter=source).wants("run.failed", {"n": 1}), Failure)


def test_an_order_key_is_text() -> None:
    """Text stays, all else becomes its JSON; what can't be computed is one key of its own; without an order, none."""
    ordered = live(WHSEC, order="message.data.key")
    assert [ordered.order_key("run.failed", {"key": key}) for key in ("a", 7, [1])] == ["a", "7", "[1]"]
    assert ordered.order_key("run.failed", {}) == ""
    assert live(WHSEC).order_key("run.failed", {}) is None


@pytest.mark.parametrize(
    "text",
    ["", "whsk_", "whsec_" + base64.b64encode(bytes(32)).decode(), "whsk_" + base64.b64encode(bytes(31)).decode(),
     "whsk_" + base64.b64encode(bytes(64)).decode(), "whsk_!"],
)  # fmt: skip
def test_a_signing_key_that_is_none_is_refused(text: str) -> None:
    """Another prefix, another length, no base64, or halves that don't belong together."""
    with pytest.raises(ConfigError, match="signing key"):
        read_signing_key(text)


# ---- made by command or API


def wish(**fields: Any) -> EndpointWish:
    return EndpointWish(**({"name": "ops", "url": "https://ops.example/"} | fields))


def test_what_is_made_is_sealed() -> None:
    """Neither the secret nor the signing key nor a secret header stands in what is kept; each opens for its owner."""
    made = enlist(wish(signing_key=True, headers={"Authorization": "Bearer abc", "X-A": "b"}), PUBLIC, KEYS, noise)
    kept = json.dumps(msgspec.to_builtins(made.endpoint))
    assert made.secret not in kept
    assert "whsk_" not in kept
    assert "Bearer abc" not in kept
    assert unseal(KEYS, "endpoint:ops#secrets", made.endpoint.secrets[0].sealed or "") == made.secret
    assert made.endpoint.headers["X-A"] == "b"
    key = unseal(KEYS, "endpoint:ops#signing_key", getattr(made.endpoint.signing_key, "sealed", None) or "")
    assert (
        made.endpoint.public_key
        == "whpk_" + base64.b64encode(read_signing_key(key).public_key().public_bytes_raw()).decode()
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"url": "http://ops.example/"}, "url: "),
        ({"name": "app-1"}, "name"),
        ({"events": ("run.ended",)}, "run.ended"),
        ({"filter": "nobody"}, "filter: "),
        ({"style": "loud"}, "loud"),
        ({"headers": {"Host": "a"}}, "headers.Host: "),
        ({"timeout": "soon"}, "timeout"),
        ({"schedule": ("0", "-1")}, "schedule"),
    ],
)
def test_a_wish_that_can_t_be_is_refused(fields: dict[str, Any], words: str) -> None:
    """As in a file, with the field."""
    with pytest.raises(Unprocessable) as caught:
        enlist(wish(**fields), PUBLIC, KEYS, noise)
    assert words in caught.value.message


def test_a_rotation_overlaps_and_ends() -> None:
    """Two are live for a day, then the newest alone; a second rotation meanwhile is refused, or forced."""
    made = enlist(wish(), PUBLIC, KEYS, noise).endpoint
    rotated = rotate_endpoint(made, KEYS, noise, NOW).endpoint
    assert rotated.secrets[1:] == made.secrets
    assert [count_live(rotated, NOW + after) for after in (0, 86_399, 86_400)] == [2, 2, 1]
    with pytest.raises(Conflict, match="two live secrets"):
        rotate_endpoint(rotated, KEYS, noise, NOW + 1)
    forced = rotate_endpoint(rotated, KEYS, noise, NOW + 1, force=True).endpoint
    assert forced.secrets[1:] == rotated.secrets[:1]
    assert rotate_endpoint(rotated, KEYS, noise, NOW + 86_400).endpoint.secrets[1:] == rotated.secrets[:1]


def test_a_rotation_at_once_and_an_early_end() -> None:
    """With no overlap the old secret is over at once; revoking ends it before its time, and once."""
    made = enlist(wish(), PUBLIC, KEYS, noise).endpoint
    assert count_live(rotate_endpoint(made, KEYS, noise, NOW, overlap=0).endpoint, NOW) == 1
    rotated = rotate_endpoint(made, KEYS, noise, NOW).endpoint
    revoked = revoke_endpoint(rotated, NOW + 1)
    assert (revoked.secrets, count_live(revoked, NOW + 1)) == (rotated.secrets[:1], 1)
    for again in (revoked, made):
        with pytest.raises(Conflict, match="no older secret"):
            revoke_endpoint(again, NOW + 1)
    with pytest.raises(Unprocessable, match="overlap"):
        rotate_endpoint(made, KEYS, noise, NOW, overlap=-1)
