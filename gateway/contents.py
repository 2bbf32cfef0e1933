"""What a request holds: its bytes read as what its content type says. Nothing here is asked before they are verified.

An event is stored as it came, so what expressions see of it is made anew, by `stored_values`, for each step, repetition
and replay: out of the same bytes and headers, by the same functions, and so the same.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec

from gateway.apps import LiveApp
from gateway.duplicates import UNREAD, find_duplicate, has_duplicate
from gateway.envelopes import open_envelope
from gateway.errors import BadRequest, Refused, Unprocessable, UnsupportedMedia
from gateway.events import Content, Head, event_values, parse_body
from gateway.forms import UNLIMITED, File, FileRules, Form, check_file, clean_name, read_multipart, read_urlencoded
from gateway.media import FORM, JSON, MULTIPART, OPAQUE, Media, charset_of, decode_text, is_json, is_taken, read_media
from gateway.nesting import MOST_LEVELS, is_too_deep
from gateway.signatures import Request
from gateway.triggers import DirectRequest

Read = TypeVar("Read")
BYTE = re.compile(r"\(byte (\d+)\)")
JSON_TYPE = re.compile(r"application/(json|[\w.+-]+\+json)\s*(;.*)?", re.IGNORECASE)
PLAIN = Media(JSON)
PAYLOAD = "payload"
"""The field that forms of GitHub, Gitea, Slack and Travis have, and no other: the event as JSON."""

_direct = msgspec.json.Decoder(DirectRequest)
_decode_anything = msgspec.json.Decoder().decode


def read_content(app: LiveApp, request: Request, headers: Mapping[str, str]) -> DirectRequest | Content:
    """A DirectRequest where the app's adapter is `direct`, else what the body holds. `headers` are those that are kept.

    Raises as `read_as` does; UnsupportedMedia for a content type that the app does not take, BadRequest for bytes that
    are not what it says, TooLarge and UnsupportedMedia for files that the app does not take.
    """
    media = check_media(app, request)
    levels = app.app.max_depth or MOST_LEVELS
    if app.direct:
        return read_direct(request.body, levels)
    if media is None:
        content = Content(read_json(request.body, levels))
    else:
        content = _read_other(media, request.body, app.app.files, app.json_field, partial(read_json, levels=levels))
    return _open(media, headers, content)


def stored_values(event_id: str, head: Head, body: bytes, *, contents: bool = False) -> dict[str, Any]:
    """The `event` of a stored one; `contents` puts the bytes of its files beside them, in base64. Never raises.

    A replay has the id of the event that it replays: what is made of it must be the same.
    """
    first, is_replay = head.replay_of or event_id, head.replay_of is not None
    return event_values(
        first,
        head.type,
        head.delivery_id,
        restore_content(head, body),
        head.headers,
        head.method,
        head.query,
        contents=contents,
        replay=is_replay,
    )


def restore_content(head: Head, body: bytes) -> Content:
    """What a stored event holds, as it was read when it came; nothing where that is not to be had any more."""
    if head.message is not None:
        return Content(head.message)
    media = read_media(head.headers.get("content-type", ""))
    content = Content()
    # What was taken is read again without a fault; but a direct request is no CloudEvent, whatever it calls itself.
    with contextlib.suppress(Refused):
        if not media.kind or is_json(media.kind):
            content = Content(parse_body(body))
        else:
            content = _read_other(media, body, UNLIMITED, head.field, parse_body, lone=False)
        content = _open(media, head.headers, content)
    return content.without(head.hidden)


def check_media(app: LiveApp, request: Request) -> Media | None:
    """The content type, which is None for JSON, as most is. Raises UnsupportedMedia for what the app does not take."""
    encodings = [
        value for name, value in request.headers if name == "content-encoding" and value.strip().lower() != "identity"
    ]
    if encodings:
        message = f"content-encoding {encodings[0][:40]!r} is not accepted; send the body as it is"
        raise UnsupportedMedia(message)
    types = [value for name, value in request.headers if name == "content-type"]
    if len(types) == 1 and app.takes_json and JSON_TYPE.fullmatch(types[0].strip()):
        return None
    if not types and not request.body and not app.direct:
        return Media()
    media = read_media(types[0]) if len(types) == 1 else Media()
    if not media.kind or app.direct or not is_taken(media.kind, app.content_types):
        found = repr(types[0][:60]) if len(types) == 1 else f"given {len(types)} times"
        taken = "application/json" if app.direct else " or ".join(app.content_types)
        message = f"content-type {found} is not accepted here; send one {taken}"
        raise UnsupportedMedia(message)
    return None if is_json(media.kind) else media


def _open(media: Media | None, headers: Mapping[str, str], content: Content) -> Content:
    """The content with its envelope, where it has one."""
    if media is None:
        # Nearly all is plain JSON, and this is on the way of all.
        given = headers.get("content-type", "")
        media = read_media(given) if "cloudevents" in given.lower() else PLAIN
    envelope = open_envelope(media.kind, headers, content.body)
    return content if envelope is None else msgspec.structs.replace(content, envelope=envelope)


def _read_other(
    media: Media, body: bytes, rules: FileRules, field: str | None, read: Callable[[bytes], Any], *, lone: bool = True
) -> Content:
    """What a body holds that is no JSON; `field` is that field of a form which is JSON, to be read by `read`."""
    if not media.kind:
        return Content()
    if media.kind == FORM:
        return _read_form(Form(read_urlencoded(body, charset_of(media))), field, read, lone)
    if media.kind == MULTIPART:
        return _read_form(read_multipart(body, media, rules), field, read, lone)
    if OPAQUE.fullmatch(media.kind):
        file = File("", clean_name(""), media.kind, body)
        check_file(file, rules, 1)
        return Content(files=(file,))
    text = decode_text(body, charset_of(media, body), "the body")
    # Amazon SNS calls its JSON plain text.
    is_document = media.kind == "text/plain" and text.lstrip()[:1] in ("{", "[") and parse_body(body) is not None
    return Content(read(body) if is_document else text)


def _read_form(form: Form, field: str | None, read: Callable[[bytes], Any], lone: bool) -> Content:
    name = field if field is not None or not lone else _lone_payload(form)
    text = None if name is None else form.fields.get(name)
    if not isinstance(text, str):
        return Content(form=form.fields, files=form.files)
    try:
        body = read(text.encode())
    except BadRequest as error:
        message = error.message.replace("the body", f"the form's field {name!r}", 1)
        raise BadRequest(message, **error.details) from None
    return Content(body, form.fields, form.files, field=name)


def _lone_payload(form: Form) -> str | None:
    text = form.fields.get(PAYLOAD)
    alone = len(form.fields) == 1 and not form.files
    return PAYLOAD if alone and isinstance(text, str) and text.lstrip()[:1] in ("{", "[") else None


def read_direct(body: bytes, levels: int = MOST_LEVELS) -> DirectRequest:
    """A run request from JSON. Raises as `read_as` does."""
    return read_as(_direct.decode, body, levels)


def read_json(body: bytes, levels: int = MOST_LEVELS) -> Any:
    """Any JSON. Raises as `read_as` does."""
    return read_as(_decode_anything, body, levels)


def read_as(decode: Callable[[bytes], Read], body: bytes, levels: int = MOST_LEVELS) -> Read:
    """JSON of a shape, at most `levels` deep. Raises BadRequest with line and column, or Unprocessable with the field.

    A name that stands twice in one object is refused: which of the two counts is another matter in each parser.
    """
    try:
        found = decode(body)
        # Of what it skips the parser does not see whether it is UTF-8.
        body.decode()
    except msgspec.ValidationError as error:
        # The parser stopped there: what follows need not even be JSON, which is worse than a wrong shape.
        if decode is not _decode_anything:
            read_json(body, levels)
        raise _misshapen(error) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(body, error, levels) from None
    if is_too_deep(body, levels):
        raise _too_deep(levels)
    if has_duplicate(body, found if decode is _decode_anything else UNREAD):
        raise _doubled(body)
    return found


def _too_deep(levels: int) -> BadRequest:
    return BadRequest(f"the body is JSON nested too deeply: more than {levels} levels")


def _doubled(body: bytes) -> BadRequest:
    """Say which name stands twice, and where for the second time."""
    name, place = find_duplicate(body) or ("", 0)
    line, column = _line_and_column(body, place)
    message = f"the body has the name {name[:60]!r} twice in one object, again at line {line}, column {column}"
    return BadRequest(message, line=line, column=column)


def _misshapen(error: msgspec.ValidationError) -> Unprocessable:
    """Say which field of a JSON body is not what it should be."""
    what, _, where = str(error).partition(" - at `$")
    path = where.strip("`.") or "body"
    return Unprocessable(f"{path}: {what[:1].lower()}{what[1:]}", path=path)


def _malformed(body: bytes, error: Exception, levels: int) -> BadRequest:
    """Say where JSON stops being JSON: line and column from 1, counted in bytes."""
    if isinstance(error, RecursionError):
        return _too_deep(levels)
    found = BYTE.search(str(error))
    line, column = _line_and_column(body, int(found[1]) if found else _first_fault(body))
    reason = BYTE.sub("", str(error)).removeprefix("JSON is malformed: ").strip() or "it is not UTF-8"
    return BadRequest(f"the body is not JSON: {reason} at line {line}, column {column}", line=line, column=column)


def _line_and_column(body: bytes, place: int) -> tuple[int, int]:
    """Both from 1, counted in bytes."""
    return body.count(b"\n", 0, place) + 1, place - body.rfind(b"\n", 0, place)


def _first_fault(body: bytes) -> int:
    """Where the body stops being UTF-8: behind its end when it never does."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(body)
