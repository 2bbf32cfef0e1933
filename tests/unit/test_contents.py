"""What an event holds, by its content type; envelopes; and that a stored event is read as it was when it came."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app_checks import check_app
from gateway.apps import App, LiveApp
from gateway.configuration import read_configuration
from gateway.contents import stored_values
from gateway.decisions import Arrival, Decider
from gateway.errors import BadRequest, ConfigError, NotFound, Refused, UnsupportedMedia
from gateway.events import Acceptable, Content
from gateway.places import Mistakes
from gateway.proving import Proof
from gateway.service import Receipt, Started, compose_reply
from gateway.signatures import PRESETS, Request
from gateway.workflows import Published, Workflow, prepare

SECRET = "a secret of the tests"
MULTIPART = "multipart/form-data; boundary=B"
FILLED = b'--B\r\nContent-Disposition: form-data; name="f"; filename="a.txt"\r\n\r\nhello\r\n--B--\r\n'
CLOUD = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "order.made", "subject": "o/1", "data": {"n": 1}}
OLD_XML = "<?xml version='1.0' encoding='ISO-8859-1'?><a>ü</a>"
BINARY = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/shop", "ce-type": "order.made", "ce-subject": "o%2F1"}


class House:
    """No workflows at all."""

    def __init__(self) -> None:
        self.workflows: dict[str, Published] = {}

    def app(self, name: str) -> LiveApp:
        raise NotFound

    def definition_at_hand(self, digest: str) -> Workflow | None:
        return None


def live(**fields: Any) -> LiveApp:
    given: dict[str, Any] = {"id": 7, "name": "a", "verify": "none"}
    return LiveApp(App(**(given | fields)), lambda *_: SECRET)


def signed_by(scheme: str, **fields: Any) -> LiveApp:
    return live(verify={"scheme": scheme, "secrets": [{"env": "A"}]}, **fields)


def request(body: bytes, kind: str | None, url: str = "/x", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = ([] if kind is None else [("content-type", kind)]) + list(named.items())
    return Request("POST", url, tuple(lines), body)


def arrive(app: LiveApp, given: Request) -> Arrival:
    assert app.scheme is not None
    return Arrival(app, Proof(app.scheme, app.scheme.kind), given, "evt_1")


def read(app: LiveApp, given: Request) -> Content:
    return arrive(app, given).content


def decide(app: LiveApp, given: Request) -> Acceptable:
    assert app.scheme is not None
    return Decider(House()).decide(app, Proof(app.scheme, app.scheme.kind), given, "evt_1", 0)


# ---- which types


@pytest.mark.parametrize(
    ("app", "kind", "taken"),
    [
        (live(), "application/json", True),
        (live(), "application/vnd.x+json; charset=utf-8", True),
        (live(), "application/x-www-form-urlencoded", True),
        (live(), MULTIPART, True),
        (live(), "text/plain", False),
        (live(), "application/xml", False),
        (live(content_types=("text/plain",)), "text/plain; charset=utf-8", True),
        (live(content_types=("text/plain",)), "application/json", False),
        (live(content_types=("image/*",)), "image/png", True),
        (live(content_types=("*/*",)), "whatever/else", True),
        (live(adapter="direct"), "application/x-www-form-urlencoded", False),
        (signed_by("github"), "application/x-www-form-urlencoded", True),
        (signed_by("github"), MULTIPART, False),
        (signed_by("stripe"), "application/x-www-form-urlencoded", False),
        (signed_by("shopify"), "text/xml", True),
        (signed_by("stripe", content_types=("application/x-www-form-urlencoded",)), "application/json", False),
    ],
)
def test_an_app_takes_what_it_says_else_what_its_sender_sends(app: LiveApp, kind: str, taken: bool) -> None:
    """Its own list, else that of the preset, else JSON and forms. Anything else is a 415 that says what would do."""
    body = FILLED if kind == MULTIPART else b'{"workflow_id": 1}'
    if taken:
        arrive(app, request(body, kind))
    else:
        with pytest.raises(UnsupportedMedia, match="is not accepted here; send one"):
            arrive(app, request(body, kind))


def test_nothing_may_be_sent_without_a_type() -> None:
    """An empty body needs no content type, and holds nothing; any other does."""
    assert read(live(), request(b"", None)) == Content()
    with pytest.raises(UnsupportedMedia):
        read(live(), request(b"x", None))


# ---- what they hold


def test_github_s_form_mode_holds_the_json_of_its_payload() -> None:
    """The lone field `payload` is the event's body; the form has it as text as well."""
    content = read(signed_by("github"), request(urlencode({"payload": '{"ref": "main"}'}).encode(), FORM))
    assert (content.body, content.form, content.field) == ({"ref": "main"}, {"payload": '{"ref": "main"}'}, "payload")


FORM = "application/x-www-form-urlencoded"


def test_a_payload_that_is_no_json_is_refused() -> None:
    """The answer says which field, and where it goes wrong."""
    with pytest.raises(BadRequest, match=r"the form's field 'payload' is not JSON.*line 1, column"):
        read(live(), request(urlencode({"payload": '{"ref": }'}).encode(), FORM))


@pytest.mark.parametrize("fields", [{"payload": "all of it"}, {"payload": "{}", "more": "1"}, {"text": "{}"}])
def test_other_forms_have_no_body(fields: dict[str, str]) -> None:
    """A field of that name that is no JSON, or not alone, is a field as others are."""
    content = read(live(), request(urlencode(fields).encode(), FORM))
    assert (content.body, content.form) == (None, fields)


def test_an_app_names_the_field_that_is_json() -> None:
    """As Jotform's `rawRequest`, among other fields."""
    body = urlencode({"formID": "9", "rawRequest": '{"q1": "yes"}'}).encode()
    assert read(live(json_field="rawRequest"), request(body, FORM)).body == {"q1": "yes"}
    assert read(live(json_field="rawRequest"), request(b"formID=9", FORM)).body is None


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("text/plain", b'{"Type": "Notification"}', {"Type": "Notification"}),
        ("text/plain", b"{not json", "{not json"),
        ("text/plain; charset=iso-8859-1", b"gr\xfc\xdfe", "grüße"),
        ("application/xml", "<a>ü</a>".encode(), "<a>ü</a>"),
        ("text/xml", OLD_XML.encode("latin-1"), OLD_XML),
        ("application/yaml", b"a: 1", "a: 1"),
    ],
)  # fmt: skip
def test_text_is_the_body(kind: str, body: bytes, expected: Any) -> None:
    """XML and other text as they are; plain text that is JSON, as Amazon's, is read."""
    assert read(live(content_types=("*/*",)), request(body, kind)).body == expected


@pytest.mark.parametrize("body", [b'{"a": 1, "\\u0061": 2}', b"[" * 900 + b"]" * 900])
def test_json_that_is_called_text_is_read_as_strictly(body: bytes) -> None:
    """A name that stands twice, or too many levels, are refused there as well."""
    app = live(content_types=("text/plain",))
    with pytest.raises(BadRequest, match=r"twice|deeply"):
        Arrival(app, Proof(PRESETS["none"], "none"), request(body, "text/plain"), "evt_1")


def test_what_is_no_text_is_a_file() -> None:
    """A picture that is posted by itself has a type, a size and a digest, and no body."""
    content = read(live(content_types=("image/*",)), request(b"\x89PNG", "image/png"))
    assert content.body is None
    assert [(file.type, file.content) for file in content.files] == [("image/png", b"\x89PNG")]


# ---- what expressions see


def test_headers_are_those_chosen() -> None:
    """Some of all senders, and those the app names, whose lines are joined; never a signature."""
    app = signed_by("github", headers=["X-Team"])
    given = request(b"{}", "application/json", x_team="a", cookie="c", x_hub_signature_256="s", authorization="b")
    given = Request("POST", "/x", (*given.headers, ("x-team", "b")), b"{}")
    assert arrive(app, given).headers == {"content-type": "application/json", "x-team": "a, b"}


def test_the_query_is_seen_without_what_shows_who_asks() -> None:
    """Fields as sent; a token, or a value that is the app's secret, is neither seen nor stored."""
    app = signed_by("github", token="door-token")
    event = decide(
        app, request(b"{}", "application/json", f"/x?team=a&team=b&token=1&x={SECRET.replace(' ', '+')}&d=door-token")
    )
    assert event.head.query == {"team": ["a", "b"]}


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "X-Hub-Signature-256", "X-Gitlab-Token", "a b", ""])
def test_some_headers_can_t_be_chosen(name: str) -> None:
    """`check` refuses a header that shows who sends, and what is no header."""
    with pytest.raises(ConfigError) as refused:
        check_app(App(id=1, name="a", verify={"scheme": "github", "secrets": [{"env": "A"}]}, headers=["x-ok", name]))
    assert refused.value.details["path"] == "headers[1]"


# ---- envelopes


def test_a_cloudevent_names_itself_in_both_modes() -> None:
    """Binary and structured give the same type, id, source, subject and data; the body is what was sent."""
    structured = arrive(live(), request(json.dumps(CLOUD).encode(), "application/cloudevents+json"))
    binary = arrive(live(), request(b'{"n": 1}', "application/json", **BINARY))
    for found in (structured, binary):
        assert (found.type, found.delivery_id) == ("order.made", "/shop 7")
        event = found.values["event"]
        assert (event["source"], event["subject"], event["data"]) == ("/shop", "o/1", {"n": 1})
    assert (structured.content.body, binary.content.body) == (CLOUD, {"n": 1})


def test_a_batch_is_one_delivery() -> None:
    """Its body is the list; its id is made of those of its events, its type is theirs when they have one."""
    events = [CLOUD, CLOUD | {"id": "8"}]
    found = arrive(live(), request(json.dumps(events).encode(), "application/cloudevents-batch+json"))
    again = arrive(live(), request(json.dumps(events, indent=1).encode(), "application/cloudevents-batch+json"))
    other = arrive(live(), request(json.dumps(events[:1]).encode(), "application/cloudevents-batch+json"))
    assert (found.type, found.content.body, found.values["event"]["data"]) == ("order.made", events, [{"n": 1}] * 2)
    assert found.delivery_id == again.delivery_id != other.delivery_id


@pytest.mark.parametrize("missing", ["id", "source", "type"])
def test_half_a_cloudevent_is_refused(missing: str) -> None:
    """In either mode, and the answer says what it lacks."""
    body = {name: value for name, value in CLOUD.items() if name != missing}
    with pytest.raises(BadRequest, match=missing):
        arrive(live(), request(json.dumps(body).encode(), "application/cloudevents+json"))
    with pytest.raises(BadRequest, match=missing):
        arrive(live(), request(b"{}", "application/json", **{k: v for k, v in BINARY.items() if k != f"ce-{missing}"}))


def test_an_id_beside_the_signature_lets_the_body_count() -> None:
    """A signed body with a CloudEvent's id in unsigned headers can't be replayed under another id."""
    once = decide(signed_by("orqo"), request(b"{}", "application/json", **BINARY))
    again = decide(signed_by("orqo"), request(b"{}", "application/json", **BINARY | {"ce-id": "8"}))
    within = decide(signed_by("orqo"), request(json.dumps(CLOUD).encode(), "application/cloudevents+json"))
    assert len(set(once.keys) & set(again.keys)) == 1
    assert len(within.keys) == 1


def test_the_envelope_of_standard_webhooks() -> None:
    """`type`, `timestamp` and `data` name the event where the preset doesn't."""
    body = {"type": "user.made", "timestamp": "2024-01-01T00:00:00Z", "data": {"id": 1}}
    found = arrive(live(), request(json.dumps(body).encode(), "application/json"))
    assert (found.type, found.values["event"]["data"], found.values["event"]["body"]) == ("user.made", {"id": 1}, body)
    github = arrive(signed_by("github"), request(json.dumps(body).encode(), "application/json", x_github_event="push"))
    assert github.type == "push"


# ---- the same again


KINDS = st.sampled_from(
    [FORM, MULTIPART, "application/json", "text/plain", "text/xml", "image/png", "application/cloudevents+json", "x/y"]
)
BODIES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([FILLED, json.dumps(CLOUD).encode(), b"payload=%7B%22a%22%3A1%7D", b"a=1&a=2", b'{"a": [1]}', b""]),
)


@given(KINDS, BODIES, st.sampled_from([{}, BINARY]), st.sampled_from([None, "a"]))
def test_a_stored_event_is_read_as_when_it_came(
    kind: str, body: bytes, headers: dict[str, str], field: str | None
) -> None:
    """Values at the decision are the values made again of what is stored, also once the app's rules have changed."""
    app = live(content_types=("*/*",), json_field=field)
    given_request = request(body, kind, "/x?a=1&token=t", **headers)
    try:
        arrival = arrive(app, given_request)
    except Refused:
        return
    stored = decide(app, given_request)
    head = msgspec.json.decode(msgspec.json.encode(stored.head), type=type(stored.head))
    assert stored_values("evt_1", head, stored.body) == arrival.values["event"]


def test_a_direct_request_is_seen_as_json() -> None:
    """Flow keys and `dedupe` of a direct app read the body, then as later."""
    app = live(adapter="direct")
    arrival = arrive(app, request(b'{"workflow_id": 15, "type": "x"}', "application/json"))
    assert arrival.values["event"]["body"] == {"workflow_id": 15, "type": "x"}


def test_only_who_asks_gets_the_bytes_of_files() -> None:
    """A file's content is in base64, and there only when it is asked for."""
    stored = decide(live(), request(FILLED, MULTIPART))
    plain = stored_values("evt_1", stored.head, stored.body)["files"][0]
    asked = stored_values("evt_1", stored.head, stored.body, contents=True)["files"][0]
    assert "content" not in plain
    assert asked == plain | {"content": "aGVsbG8="}


# ---- answers


STORED = Receipt("evt_1", (Started(9, 15),), known=False, direct=False)


def reply(respond: dict[str, Any], body: bytes = b'{"who": "Ada"}', receipt: Receipt = STORED) -> Any:
    app = msgspec.convert({"id": 7, "name": "a", "verify": "none", "respond": respond}, App)
    check_app(app)
    made = LiveApp(app, lambda *_: None)
    assert made.response is not None
    return compose_reply(made.response, made, decide(made, request(body, "application/json")), receipt)


def test_an_app_answers_in_its_own_words() -> None:
    """Text or JSON over the event and its runs, with a status of its own; never as a page of ours."""
    text = reply({"status": 200, "body": "Thanks ${event.body.who}: run ${runs[0].run_id} (${outcome})"})
    assert (text.status, text.body) == (200, b"Thanks Ada: run 9 (accepted)")
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert "sandbox" in text.headers["content-security-policy"]
    document = reply({"body": {"id": "${event.id}", "runs": "${runs}"}})
    assert (document.status, json.loads(document.body)["runs"][0]["workflow_id"]) == (None, 15)


def test_an_answer_that_can_t_be_made_is_no_failure() -> None:
    """Then there is the reason, for the log, and the plain answer is given."""
    assert reply({"body": "${event.body.missing}"}) == "`event.body.missing` gives nothing for this event"
    assert reply({"body": "${event.body.who}"}, json.dumps({"who": "x" * 70_000}).encode()).startswith("it is larger")


def test_a_form_ends_on_a_page() -> None:
    """A redirection is a 303 to the page that the configuration names."""
    found = reply({"redirect": "https://www.example.com/thanks"})
    assert (found.status, found.body, found.headers["location"]) == (303, b"", "https://www.example.com/thanks")


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("{status: 404}", "respond.status"),
        ("{status: 204, body: x}", "respond.body"),
        ("{body: '${event.'}", "respond.body"),
        ("{body: {a: ['${steps.x}']}}", "respond.body.a[0]"),
        ("{redirect: 'javascript:alert(1)'}", "respond.redirect"),
        ("{redirect: 'https://${event.body.host}/'}", "respond.redirect"),
        ("{redirect: '//evil.example'}", "respond.redirect"),
        ("{redirect: 'https://x.example', body: hi}", "respond.body"),
        ('{content_type: "text/plain\\r\\nx: y"}', "respond.content_type"),
    ],
)
def test_check_finds_a_wrong_answer(line: str, path: str) -> None:
    """With the line it stands on, and its field."""
    with pytest.raises(Mistakes) as found:
        read_configuration(f"apps:\n  - name: a\n    verify: none\n    respond: {line}\n")
    (mistake,) = found.value.mistakes
    assert (mistake.line, mistake.path) == (4, f"apps[0].{path}")


@pytest.mark.parametrize(
    ("expression", "asks"),
    [
        ("event.files[0].content", True),
        ("event.files", True),
        ("event", True),
        ("event.files.map(f, f.content)", True),
        ("event['files'][0]", True),
        ("event.files[0].name", False),
        ("event.body.files", False),
        ("input.files[0].content", False),
    ],
)
def test_a_workflow_knows_whether_it_asks_for_bytes(expression: str, asks: bool) -> None:
    """Only then are the files of its event put into base64."""
    workflow = prepare({"name": "w", "steps": [{"id": "s", "transform": f"${{{expression}}}"}]})
    assert workflow.asks_contents is asks
