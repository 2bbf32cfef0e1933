"""Events: one verified delivery each. What names it, what makes it the same as another, what was decided."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from gateway.apps import LiveApp
from gateway.credits import Payment
from gateway.envelopes import HEADERS, Envelope
from gateway.errors import BadRequest, Unprocessable
from gateway.expressions import Failure
from gateway.flow import Flow
from gateway.forms import File, describe_file
from gateway.kinds import SHARED
from gateway.presets import UNIQUE_BODIES
from gateway.runs import RunRequest
from gateway.signatures import Request, Scheme, signed_content, signed_times

CALLER_KEYS = ("idempotency-key", "webhook-id")
LONGEST_KEY = 255
KEPT_HEADERS = frozenset({"content-type", "user-agent"}) | HEADERS
NOTHING: Mapping[str, Any] = {}


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one trigger said to an event."""

    trigger: str
    matched: bool
    reason: str | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was checked and decided for one delivery."""

    outcome: str
    scheme: str | None = None
    secret: int | None = None
    reason: str | None = None
    dedupe: str | None = None
    hop: str | None = None
    triggers: list[Verdict] = []
    rules: str | None = None
    """The digest of the rules by which the app judged."""
    signed_at: float | None = None
    """When it says it was signed (unix seconds), where its headers say so; `age` is how long ago that was then."""
    age: float | None = None
    skipped: list[int] = []
    """The runs in whose favour it started none: they had not ended, and their workflow says `on_conflict: skip`."""


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All of an event but its bytes and the runs it started.

    `message` is what an adapter made of the bytes; `field` is the form's field that holds the body as JSON, and `hidden`
    are those that are not the event's but ours. Of the query nothing is kept that shows who asked.
    """

    app_id: int | None = None
    token_id: str | None = None
    hook_id: str | None = None
    type: str | None = None
    delivery_id: str | None = None
    headers: dict[str, str] = {}
    method: str | None = None
    query: dict[str, Any] = {}
    field: str | None = None
    hidden: tuple[str, ...] = ()
    message: dict[str, Any] | None = None
    replay_of: str | None = None
    """The event that this one replays: the first one, also where that was asked of a replay."""
    decision: Decision


class Acceptable(msgspec.Struct, frozen=True, kw_only=True):
    """A verified event with the runs it is to start: what the store takes, all of it or nothing.

    `flows` is empty, or holds for each request what controls its flow.
    """

    id: str
    body: bytes
    body_hash: str
    keys: list[str]
    head: Head
    requests: list[RunRequest]
    flows: list[Flow | None] = []
    payment: Payment | None = None
    page: str | None = None
    """Where the browser that sent a form goes on to."""


def new_event_id(now: float, noise: bytes) -> str:
    """An id that sorts by time: milliseconds, then 64 random bits."""
    return f"evt_{int(now * 1000):012x}{noise.hex()}"


def session_of(event_id: str) -> str:
    """The session of the runs that one event starts: they share it."""
    return "ses_" + event_id.removeprefix("evt_")


class Content(msgspec.Struct, frozen=True):
    """What an event's bytes hold: JSON or text, or a form's fields and files. `field` as in Head."""

    body: Any = None
    form: Mapping[str, Any] = NOTHING
    files: tuple[File, ...] = ()
    envelope: Envelope | None = None
    field: str | None = None

    def without(self, names: Collection[str]) -> Content:
        """The same without these fields of the form."""
        if not names or not self.form:
            return self
        kept = {name: value for name, value in self.form.items() if name not in names}
        return msgspec.structs.replace(self, form=kept)

    @property
    def identity(self) -> bytes:
        """What the form holds, in whatever bytes it came: each time a browser sends it they have another boundary."""
        files = [describe_file(file) for file in self.files]
        return msgspec.json.encode([self.form, files, self.body], order="sorted")


EMPTY = Envelope()


def event_values(
    event_id: str,
    kind: str | None,
    delivery: str | None,
    content: Content,
    headers: Mapping[str, str] = NOTHING,
    method: str | None = None,
    query: Mapping[str, Any] = NOTHING,
    *,
    contents: bool = False,
    replay: bool = False,
) -> dict[str, Any]:
    """The `event` that expressions see; its files with their bytes in base64 only where `contents` asks for them."""
    envelope = content.envelope or EMPTY
    return {
        "id": event_id,
        "type": kind,
        "delivery_id": delivery,
        "method": method,
        "headers": headers,
        "query": query,
        "body": content.body,
        "form": content.form,
        "files": [describe_file(file, content=contents) for file in content.files],
        "source": envelope.source,
        "subject": envelope.subject,
        "time": envelope.time,
        "data": envelope.data,
        "replay": replay,
    }


def parse_body(body: bytes) -> Any:
    """A stored event's bytes as JSON; None where they are none."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def hash_body(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]


def dedupe_keys(
    app: LiveApp,
    scheme: Scheme,
    request: Request,
    delivery: str | None,
    values: Callable[[], dict[str, Any]],
    *,
    signed_id: bool = True,
    content: bytes | None = None,
) -> list[str]:
    """The keys under which this delivery is remembered; one that is known already makes it a repetition.

    First the sender's own delivery id, else the caller's `Idempotency-Key` or `webhook-id`, else what the app says.
    Where the sender has ids and doesn't sign them the body counts too, whichever id came, or none; `signed_id` is false
    for an id of an envelope that is not signed. `content` stands for the body where its bytes are no measure. Of what
    is signed without any id counts what is signed, so that nobody starts it again. Raises BadRequest for a key that
    can't be used, and Unprocessable where the app's expression gives nothing.
    """
    keys = _given_keys(app, request, delivery, values, request.body if content is None else content)
    if not (scheme.signed_id and signed_id):
        keys.append(_body_key(app, signed_content(scheme, request)))
    elif delivery is None and scheme.kind not in SHARED and not app.direct:
        keys += _signed_keys(app, scheme, request)
    return list(dict.fromkeys(keys))


def handshake_keys(app: LiveApp, scheme: Scheme, request: Request, delivery: str | None) -> list[str]:
    """The keys under which a handshake is remembered, whatever the app says: sent again, it is never kept again."""
    named = [] if delivery is None else [id_key(app.id, delivery)]
    return named if named and scheme.signed_id else [*named, _body_key(app, signed_content(scheme, request))]


def _signed_keys(app: LiveApp, scheme: Scheme, request: Request) -> list[str]:
    """What a replay can't change of a request whose sender has no ids: the time with the content, or the content alone.

    The content alone only where no two events have the same, or the app says so: a caller's key is not signed.
    """
    content = signed_content(scheme, request)
    if app.dedupe == "body" or app.sender in UNIQUE_BODIES:
        return [_body_key(app, content)]
    digest = hash_body(content)
    return [_key(app.id, "sent", f"{time} {digest}") for time in signed_times(scheme, request)]


def _given_keys(
    app: LiveApp, request: Request, delivery: str | None, values: Callable[[], dict[str, Any]], content: bytes
) -> list[str]:
    if delivery is not None:
        return [id_key(app.id, delivery)]
    for name in CALLER_KEYS:
        given = [value for header, value in request.headers if header == name]
        if given:
            return [_key(app.id, "key", _single_key(name, given))]
    if app.dedupe == "body":
        return [_body_key(app, content)]
    return [] if app.dedupe is None else [_key(app.id, "cel", _computed_key(app, values()))]


def caller_key(owner: str, key: str) -> str:
    """The key under which a caller's own `Idempotency-Key` is remembered; another caller's is another."""
    return _key(owner.replace(" ", "-"), "key", key)


def id_key(app_id: int, delivery: str) -> str:
    """The key under which the sender's own id of a delivery is remembered."""
    return _key(app_id, "id", delivery)


def keys_named(app_id: int, name: str) -> list[str]:
    """The keys under which a delivery may be remembered that its sender calls so."""
    return [_key(app_id, "id", name), _key(app_id, "key", name)]


def form_key(app_id: int, number: str) -> str:
    """The key of a form's token: it is good for one event."""
    return _key(app_id, "form", number)


def _body_key(app: LiveApp, content: bytes) -> str:
    return _key(app.id, "body", hash_body(content))


def _key(app_id: int | str, kind: str, value: str) -> str:
    digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{app_id}:{kind}:{digest}"


def _single_key(name: str, given: list[str]) -> str:
    value = given[0].strip()
    if len(given) > 1 or not value or len(value) > LONGEST_KEY:
        message = f"{name} must be given once, with 1 to {LONGEST_KEY} characters"
        raise BadRequest(message)
    return value


def _computed_key(app: LiveApp, values: dict[str, Any]) -> str:
    assert app.dedupe is not None
    assert app.dedupe != "body"
    value = app.dedupe.evaluate(values)
    if isinstance(value, Failure) or value is None:
        reason = value.message if isinstance(value, Failure) else "it gives null"
        message = f"this app tells deliveries apart by `{app.dedupe.source}`, which gives nothing here: {reason}"
        raise Unprocessable(message)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
