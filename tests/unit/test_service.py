"""What every door shares: media, JSON with the place of its mistakes, and the order in which a request is judged."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.apps import App, LiveApp, TriggerSettings
from gateway.callbacks import decode_secret
from gateway.contents import check_media, read_direct, read_json
from gateway.dialects.orqo import answer as orqo_answer
from gateway.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    GatewayError,
    NotFound,
    Unauthorized,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from gateway.events import Acceptable
from gateway.hops import UNVERIFIED, Hop, write_hop
from gateway.service import Receipt, Service, Started
from gateway.signatures import PRESETS, Request, sign_request
from gateway.store.accepting import Stored
from gateway.workflows import Published, Workflow, prepare
from tests.tools_keys import private_pem, public_pem

NOW = 1_750_000_000.0
SECRET = "a secret of the tests"
GREET = prepare({"name": "greet", "input": {"type": "object", "properties": {"n": {"type": "integer"}}}})
PUBLISHED = Published(id=15, name="greet", version=1, digest=GREET.digest)


class House:
    """Apps and workflows in memory, and a store that answers what it is told to and keeps what it got."""

    def __init__(self, *apps: App, answer: Stored | None = None) -> None:
        self.apps = {str(app.id): LiveApp(app, lambda *_: SECRET) for app in apps}
        self.workflows = {"15": PUBLISHED, "greet": PUBLISHED}
        self.answer = answer
        self.stored: list[Acceptable] = []

    def app(self, name: str) -> LiveApp:
        if name not in self.apps:
            raise NotFound
        return self.apps[name]

    def definition_at_hand(self, digest: str) -> Workflow | None:
        return GREET if digest == GREET.digest else None

    async def store(self, event: Acceptable) -> Stored:
        self.stored.append(event)
        runs = tuple(range(1, len(event.requests) + 1))
        return self.answer or Stored("stored", event.id, runs)

    def accept(self, request: Request, name: str = "42") -> Receipt:
        service = Service(self, self, clock=lambda: NOW, noise=bytes)
        return asyncio.run(service.accept(service.open_door(name), request))


def direct(**fields: Any) -> App:
    verify = {"scheme": "orqo", "secrets": [{"env": "CI"}]}
    given: dict[str, Any] = {"id": 42, "name": "ci", "adapter": "direct", "verify": verify}
    return App(**(given | fields))


LIVE = LiveApp(direct(), lambda *_: SECRET)


def triggered(*triggers: TriggerSettings, **fields: Any) -> App:
    return direct(adapter=None, triggers=list(triggers), **fields)


def request(body: bytes, *headers: tuple[str, str], secret: str = SECRET) -> Request:
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return Request("POST", "/", (("content-type", "application/json"), ("x-signature-256", signature), *headers), body)


# ---- media


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/vnd.github+json",
        "application/cloudevents+json;v=1",
    ],
)
def test_json_is_taken_under_its_names(kind: str) -> None:
    """Every content type that says JSON is fine, with parameters and in any case."""
    check_media(LIVE, Request("POST", "/", (("content-type", kind),), b"{}"))


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("content-type", "text/plain"),),
        (("content-type", "application/x-www-form-urlencoded"),),
        (("content-type", "application/jsonp"),),
        (("content-type", "xapplication/json"),),
        (("content-type", "application/json"), ("content-type", "application/json")),
        (("content-type", "application/json"), ("content-encoding", "gzip")),
        (("content-type", "application/json"), ("content-encoding", "identity"), ("content-encoding", "br")),
    ],
)
def test_other_media_are_refused(headers: tuple[tuple[str, str], ...]) -> None:
    """No content type, another, two of them, or a coded body is not read."""
    with pytest.raises(UnsupportedMedia):
        check_media(LIVE, Request("POST", "/", headers, b"{}"))


def test_a_body_may_say_that_it_is_not_coded() -> None:
    """`Content-Encoding: identity` says nothing, and is taken."""
    headers = (("content-type", "application/json"), ("content-encoding", " Identity "))
    check_media(LIVE, Request("POST", "/", headers, b"{}"))


# ---- JSON


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        (b"", 1, 1),
        (b"{", 1, 2),
        (b'{"workflow_id": 15,}', 1, 20),
        (b'{\n  "workflow_id": 15,\n  "task": \'nope\'\n}', 3, 11),
        (b'{"workflow_id": 15, "task": "\xff"}', 1, 30),
        (b"\xef\xbb\xbf{}", 1, 1),
        (b"\x00", 1, 1),
        (b"{'workflow_id': 15}", 1, 2),
        (b'{"workflow_id": NaN}', 1, 17),
    ],
)
def test_what_is_no_json_is_told_with_line_and_column(body: bytes, line: int, column: int) -> None:
    """Wherever JSON stops being JSON, the answer says the line and the column, counted in bytes from 1."""
    for read in (read_direct, read_json):
        with pytest.raises(BadRequest) as caught:
            read(body)
        assert (caught.value.details["line"], caught.value.details["column"]) == (line, column)
        assert f"at line {line}, column {column}" in caught.value.message


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_a_mistake_within_them(body: bytes) -> None:
    """Whatever comes, it is read, or refused at a place that is in it or right behind it."""
    place = None
    try:
        read_json(body)
    except BadRequest as error:
        place = error.details
    lines = body.split(b"\n")
    assert place is None or 1 <= int(str(place["line"])) <= len(lines)
    assert place is None or 1 <= int(str(place["column"])) <= len(lines[int(str(place["line"])) - 1]) + 1


@pytest.mark.parametrize("levels", [200, 201, 900, 1000, 100_000])
@pytest.mark.parametrize(("start", "end"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_json_nested_too_deeply_is_a_bad_request(levels: int, start: bytes, end: bytes) -> None:
    """JSON of 200 levels is read, and deeper JSON is refused whatever stands in it; so all that follows can read it."""
    body = start * levels + b"1" + end * levels
    if levels <= 200:
        read_json(body)
        return
    with pytest.raises(BadRequest, match="nested too deeply"):
        read_json(body)
    with pytest.raises(BadRequest, match="nested too deeply"):
        read_direct(b'{"workflow_id": 15, "metadata": {"a": ' + body + b"}}")


def test_many_brackets_are_not_deep() -> None:
    """A long flat list of lists, and brackets within text, are read."""
    body = json.dumps([[[]]] * 1000 + ["[" * 1000, '"[' * 1000]).encode()
    assert read_json(body) == json.loads(body)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"[]", "body"),
        (b"{}", "body"),
        (b'{"workflow_id": null}', "workflow_id"),
        (b'{"workflow_id": 1.5}', "workflow_id"),
        (b'{"workflow_id": true}', "workflow_id"),
        (b'{"workflow_id": 15, "task": 1}', "task"),
        (b'{"workflow_id": 15, "metadata": []}', "metadata"),
    ],
)
def test_a_direct_request_of_another_shape_is_told_with_its_path(body: bytes, path: str) -> None:
    """JSON that is no run request is told by the field that is wrong."""
    with pytest.raises(Unprocessable) as caught:
        read_direct(body)
    assert caught.value.details["path"] == path
    assert caught.value.message.startswith(f"{path}: ")


def test_other_fields_are_left_alone() -> None:
    """A direct request may carry more than we know."""
    assert read_direct(b'{"workflow_id": "greet", "else": {"a": 1}}').workflow_id == "greet"


# ---- the door


@pytest.mark.parametrize(
    ("fields", "error", "reason"),
    [({"disabled": True}, Forbidden, "disabled"), ({"capabilities": ("send",)}, Forbidden, "no_receive")],
)
def test_a_door_may_be_shut(fields: dict[str, Any], error: type[GatewayError], reason: str) -> None:
    """A disabled app, and one without `receive`, may not post."""
    house = House(direct(**fields))
    with pytest.raises(error) as caught:
        house.accept(request(b'{"workflow_id": 15}'))
    assert caught.value.details["reason"] == reason
    assert house.stored == []


@pytest.mark.parametrize("verify", [None, {"scheme": "orqo", "secrets": [{"env": "CI"}, {"file": "/none"}]}])
def test_an_app_that_is_not_finished_refuses_everything(verify: dict[str, Any] | None) -> None:
    """Without `verify`, or with one of its secrets missing, nobody gets in, not even who signs rightly."""
    house = House()
    house.apps["42"] = LiveApp(direct(verify=verify), lambda reference, _: SECRET if reference.env else None)
    with pytest.raises(Unauthorized) as caught:
        house.accept(request(b'{"workflow_id": 15}'))
    assert caught.value.details["reason"] == "not_configured"


@pytest.mark.parametrize("secret", ["", "tiny"])
def test_a_forgotten_secret_is_no_open_door(secret: str) -> None:
    """An empty or a far too short secret refuses everybody, also who signs with it."""
    house = House()
    house.apps["42"] = LiveApp(direct(), lambda *_: secret)
    with pytest.raises(Unauthorized):
        house.accept(request(b'{"workflow_id": 15}', secret=secret))


@pytest.mark.parametrize("body", [b"not json", b'{"workflow_id": 99}', b"\xff" * 10])
def test_nothing_is_parsed_before_it_is_verified(body: bytes) -> None:
    """Without a valid signature even what could never run is refused as unauthorized and nothing else."""
    with pytest.raises(Unauthorized):
        House(direct()).accept(request(body, secret="another secret"))


def test_a_direct_request_is_stored_with_its_run() -> None:
    """The event carries the bytes, the decision and the run request; the receipt has the run's id."""
    house = House(direct())
    body = b'{"workflow_id": "greet", "task": "world"}'
    receipt = house.accept(request(body, ("user-agent", "curl"), ("cookie", "secret")))
    (event,) = house.stored
    assert receipt == Receipt(event.id, (Started(1, 15),), known=False, direct=True)
    assert (event.body, event.requests[0].task, event.head.app_id) == (body, "world", 42)
    assert event.head.headers == {"content-type": "application/json", "user-agent": "curl"}
    assert (event.head.decision.outcome, event.head.decision.secret) == ("accepted", 0)


def test_an_event_that_starts_nothing_is_stored_all_the_same() -> None:
    """Where no trigger holds, the event is kept with what each said, and the receipt has no runs."""
    house = House(triggered(TriggerSettings(name="t", when="event.body.go", workflow=15)))
    receipt = house.accept(request(b'{"go": false}'))
    (event,) = house.stored
    assert (receipt.runs, event.requests, event.head.decision.outcome) == ((), [], "ignored")
    assert [verdict.trigger for verdict in event.head.decision.triggers] == ["t"]


def test_a_repetition_gets_the_first_answer() -> None:
    """A known delivery answers with the runs of its first coming, not with new ones."""
    house = House(direct(), answer=Stored("known", "evt_first", (7,)))
    receipt = house.accept(request(b'{"workflow_id": 15}', ("idempotency-key", "k")))
    assert receipt == Receipt("evt_first", (Started(7, 15),), known=True, direct=True)


def test_a_repetition_after_a_change_of_the_rules_says_what_it_knows() -> None:
    """When the triggers start another number of runs today, the ids stay and the workflows are not guessed."""
    app = triggered(TriggerSettings(name="t", workflow=15))
    receipt = House(app, answer=Stored("known", "evt_first", (7, 8))).accept(request(b"{}"))
    assert receipt.runs == (Started(7, None), Started(8, None))


@pytest.mark.parametrize(
    ("answer", "error"), [(Stored("full"), Unavailable), (Stored("conflict", "evt_first"), Conflict)]
)
def test_what_the_store_refuses_is_refused(answer: Stored, error: type[GatewayError]) -> None:
    """A full queue is our trouble and a 503; the same key with other bytes is the sender's and a 409."""
    with pytest.raises(error):
        House(direct(), answer=answer).accept(request(b'{"workflow_id": 15}'))


# ---- chains across gateways


def hop(depth: int, secret: str = SECRET) -> tuple[tuple[str, str], ...]:
    """The headers by which another gateway's callback says how deep its chain is."""
    header = write_hop(decode_secret(secret), Hop("ses_far", depth), "msg_1", "5")
    return ("webhook-id", "msg_1"), ("webhook-timestamp", "5"), ("gateway-hop", header)


@pytest.mark.parametrize(("depth", "runs"), [(0, 1), (15, 1), (16, 0), (999_999, 0)])
def test_a_run_stands_one_deeper_than_the_one_that_called_back(depth: int, runs: int) -> None:
    """Root and depth are taken over from a hop that the app's secret vouches for; beyond the limit nothing starts."""
    house = House(direct())
    receipt = house.accept(request(b'{"workflow_id": 15}', *hop(depth)))
    (event,) = house.stored
    assert [(each.root, each.depth) for each in event.requests] == [("ses_far", depth + 1)] * runs
    assert event.head.decision.hop == f"depth {depth}, began with ses_far"
    assert (receipt.parked, event.head.decision.outcome) == (not runs, "accepted" if runs else "parked")
    assert orqo_answer(receipt)[0] == (200 if runs else 202)


def test_a_public_key_vouches_for_no_hop() -> None:
    """Anybody can make a hop with the text of a public key, so for an app that has one it is ignored."""
    pem = public_pem("rsa")
    verify = {"scheme": "travis", "secrets": [{"env": "KEY"}]}
    house = House(direct(adapter=None, verify=verify))
    house.apps["42"] = LiveApp(house.apps["42"].app, lambda *_: pem)
    bare = Request("POST", "/", (("content-type", "application/x-www-form-urlencoded"),), b"payload=%7B%7D")
    signed = sign_request(PRESETS["travis"], private_pem("rsa"), bare, NOW, "")
    house.accept(Request("POST", "/", (*signed.headers, *hop(16, pem)), signed.body))
    (event,) = house.stored
    assert event.head.decision.hop == UNVERIFIED


def test_a_hop_that_the_apps_secret_does_not_vouch_for_is_noted_and_ignored() -> None:
    """A sender can't make its runs look deep, or shallow; the run starts as if nothing had been said."""
    house = House(direct())
    house.accept(request(b'{"workflow_id": 15}', *hop(16, "the secret of another")))
    (event,) = house.stored
    assert (event.head.decision.hop, event.head.decision.outcome) == (UNVERIFIED, "accepted")
    assert [(each.root, each.depth) for each in event.requests] == [(None, 0)]


def test_what_was_parked_stays_parked() -> None:
    """A parked delivery that comes again, with a higher limit by then, gets the first answer and starts nothing."""
    house = House(direct(), answer=Stored("known", "evt_1", ()))
    receipt = house.accept(request(b'{"workflow_id": 15}', *hop(1)))
    assert orqo_answer(receipt) == (202, {"event_id": "evt_1", "status": "parked", "runs": []})


# ---- handshakes


class Calls:
    """Keeps what is called, or can't call it."""

    def __init__(self, failing: bool = False) -> None:
        self.urls: list[str] = []
        self._failing = failing

    async def visit(self, url: str) -> None:
        self.urls.append(url)
        if self._failing:
            raise Unavailable


ARN = "arn:aws:sns:us-east-1:123456789012:builds"
CONFIRM = f"https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={ARN}&Token=t1"


@pytest.mark.parametrize("failing", [False, True])
def test_a_verified_confirmation_is_followed_and_then_kept(failing: bool) -> None:
    """Its address is called before anything is stored or answered; without that call the sender has to come again."""
    verify = {"kind": "hmac", "header": "X-Signature-256", "prefix": "sha256=", "handshake": "sns"}
    app = direct(adapter=None, verify=verify | {"secrets": [{"env": "CI"}]}, topics=(ARN,))
    house, calls = House(app), Calls(failing)
    service = Service(house, house, visitor=calls, clock=lambda: NOW, noise=bytes)
    message = {"Type": "SubscriptionConfirmation", "TopicArn": ARN, "Token": "t1", "SubscribeURL": CONFIRM}
    body = json.dumps(message).encode()
    with pytest.raises(Unauthorized):
        asyncio.run(service.accept(house.app("42"), request(body, secret="another secret")))
    assert calls.urls == []
    with pytest.raises(Unavailable) if failing else contextlib.nullcontext():
        asyncio.run(service.accept(house.app("42"), request(body)))
    assert calls.urls == [CONFIRM]
    assert [event.head.decision.outcome for event in house.stored] == ([] if failing else ["handshake"])


def test_a_ping_needs_no_run_request() -> None:
    """An app whose bodies name workflows takes a ping all the same, and a ping again is the same event."""
    verify = {"scheme": "orqo", "secrets": [{"env": "CI"}], "handshake": "ping:X-GitHub-Event/ping"}
    house = House(direct(verify=verify))
    receipt = house.accept(request(b"{}", ("x-github-event", "ping")))
    assert receipt.runs == ()
    assert [(event.head.decision.outcome, event.requests) for event in house.stored] == [("ping", [])]
