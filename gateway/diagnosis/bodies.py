"""The mistakes that are made with a body: what the sender may have signed instead of what came. One mistake a function."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import quote_plus, unquote_to_bytes

import msgspec

from gateway.diagnosis.cases import Deviation
from gateway.proofs import Request, read_field

LARGEST_REWRITTEN: Final = 2 * 1024 * 1024
LARGEST_UNPACKED: Final = 8 * 1024 * 1024
DEEPEST: Final = 64
BOM: Final = b"\xef\xbb\xbf"
Bodies = Iterator[tuple[Deviation, bytes]]

SIGN_WHAT_IS_SENT: Final = (
    "Turn the data into text once, sign that text, and post exactly that text. If the sender does so, a proxy or"
    " middleware before this gateway reads JSON and writes it again: let it pass bodies through untouched."
)
LINE_ENDS: Final = (
    "Sign exactly the bytes that are posted. With curl, post files by --data-binary: --data takes line breaks out."
)


def changed_bodies(request: Request) -> Bodies:
    """Every body that the sender may have signed, each but once."""
    seen = {request.body}
    for mistake in BODY_MISTAKES:
        for deviation, body in mistake(request):
            if body not in seen:
                seen.add(body)
                yield deviation, body


def with_line_break(request: Request) -> Bodies:
    """A line break at the end was signed and not sent, or sent and not signed."""
    for end in (b"\n", b"\r\n"):
        yield _line("The sender signed a line break behind the body, which did not come with it."), request.body + end
    bare = request.body.rstrip(b"\r\n")
    yield _line("A line break came behind the body, which the sender did not sign."), bare


def with_other_line_ends(request: Request) -> Bodies:
    """Line ends changed on the way, or all of them were lost."""
    plain = request.body.replace(b"\r\n", b"\n")
    yield _line("The body was signed with LF line ends and came with CRLF."), plain
    yield _line("The body was signed with CRLF line ends and came with LF."), plain.replace(b"\n", b"\r\n")
    joined = plain.replace(b"\n", b"")
    yield _line("The body was signed without its line breaks."), joined


def _line(explanation: str) -> Deviation:
    return Deviation(mistake="line_end", explanation=explanation, change=LINE_ENDS)


def with_spaces(request: Request) -> Bodies:
    """The JSON was signed in another layout: compact, on one line with spaces, or pretty-printed."""
    if len(request.body) > LARGEST_REWRITTEN:
        return
    document = _read_json(request.body)
    if document is msgspec.UNSET:
        return
    room = LARGEST_UNPACKED // (request.body.count(b",") + request.body.count(b"{") + request.body.count(b"[") + 1)
    depth = _depth_of(document)
    for indent, words in ((-1, "compact"), (0, "on one line, with spaces"), (2, "with 2 spaces"), (4, "with 4 spaces")):
        # A small body of great depth would become a huge one.
        if depth < DEEPEST and depth * indent <= room:
            laid = msgspec.json.format(request.body, indent=indent)
            for end in (b"", b"\n") if indent > 0 else (b"",):
                yield _rewritten(f"as JSON {words}"), laid + end


def serialised_again(request: Request) -> Bodies:
    """The JSON was read and written again: other escapes, other spaces, sorted names."""
    document = _read_json(request.body) if len(request.body) <= LARGEST_REWRITTEN else msgspec.UNSET
    if document is msgspec.UNSET or _depth_of(document) >= DEEPEST:
        return
    for ordered in (False, True):
        for separators, spacing in (((",", ":"), "compact"), ((", ", ": "), "spaced")):
            for ascii_only, escapes in ((False, "plain letters"), (True, "letters escaped as \\uXXXX")):
                words = f"as {spacing} JSON with {escapes}" + (" and sorted names" if ordered else "")
                text = _write_json(document, separators, ascii_only, ordered)
                if text is not None:
                    yield _rewritten(words), text
                    yield _rewritten(f"{words} and slashes escaped, as PHP does"), text.replace(b"/", b"\\/")
    text = _write_json(document, (",", ":"), ascii_only=False, ordered=False)
    if text is not None:
        for letter in b"<>&":
            text = text.replace(bytes((letter,)), b"\\u%04x" % letter)
        yield _rewritten("as JSON with <, > and & escaped, as Go does"), text


def _rewritten(words: str) -> Deviation:
    return Deviation(
        mistake="body_reserialised",
        explanation=f"The sender signed the same data {words}; other bytes came.",
        change=SIGN_WHAT_IS_SENT,
    )


def with_json_quoted(request: Request) -> Bodies:
    """The body is a JSON string that holds the signed text, or the text of one was signed."""
    explanation = "The body was turned into a JSON string once too often: before signing, or after it."
    deviation = Deviation(mistake="body_quoted", explanation=explanation, change=SIGN_WHAT_IS_SENT)
    if len(request.body) > LARGEST_REWRITTEN:
        return
    document = _read_json(request.body)
    if isinstance(document, str):
        yield deviation, document.encode("utf-8", "surrogatepass")
    yield deviation, json.dumps(request.body.decode("utf-8", "replace")).encode()


def as_form(request: Request) -> Bodies:
    """A form was sent and its text signed, or the reverse."""
    payload = read_field(request.body, "payload")
    if payload is not None:
        deviation = Deviation(
            mistake="form_field",
            explanation="The sender signed the decoded field `payload` of its form, and not the form's bytes.",
            overrides={"template": "{form.payload}"},
        )
        yield deviation, payload
        return
    explanation = "The sender signed a form with the JSON in `payload`, and the JSON alone came."
    change = "Send the form as it was signed, or set the sender's content type to application/json."
    form = b"payload=" + quote_plus(request.body).encode() if len(request.body) <= LARGEST_REWRITTEN else b""
    yield Deviation(mistake="form_sent_as_json", explanation=explanation, change=change), form


def decoded_form(request: Request) -> Bodies:
    """The form's text was signed before it was percent-encoded."""
    explanation = "The sender signed the form's text decoded; its encoded bytes came."
    decoded = unquote_to_bytes(request.body.replace(b"+", b" "))
    yield Deviation(mistake="form_decoded", explanation=explanation, change=SIGN_WHAT_IS_SENT), decoded


def packed(request: Request) -> Bodies:
    """The body came compressed, or in base64, and what is in it was signed; or the reverse."""
    unpacked = _unpack(request.body)
    if unpacked is not None:
        explanation = "The body came compressed (gzip), and the sender signed it uncompressed."
        change = "Let the sender compress first and sign then, or not compress at all."
        yield Deviation(mistake="body_compressed", explanation=explanation, change=change), unpacked
    explanation = (
        "The sender signed the text of the body, and it came in base64, or the reverse: a gateway before this did it."
    )
    change = "Let what stands before this gateway pass bodies on as bytes (AWS API Gateway: binary media types)."
    deviation = Deviation(mistake="body_base64", explanation=explanation, change=change)
    with contextlib.suppress(ValueError, binascii.Error):
        yield deviation, base64.b64decode(request.body, validate=True)
    yield deviation, base64.b64encode(request.body)


def in_other_charset(request: Request) -> Bodies:
    """The text was written in another charset than it was signed in."""
    pairs = (("utf-8", "latin-1"), ("latin-1", "utf-8"), ("utf-8", "cp1252"), ("cp1252", "utf-8"), ("utf-8", "utf-16"))
    for came, signed in pairs:
        explanation = f"The body was signed in {signed} and came in {came}."
        try:
            body = request.body.decode(came).encode(signed)
        except UnicodeError:
            continue
        yield (
            Deviation(mistake="charset", explanation=explanation, change="Sign the bytes that are posted: UTF-8."),
            body,
        )
    bare = request.body.removeprefix(BOM)
    explanation = "A byte order mark (BOM) stands before what was signed, or was signed and not sent."
    deviation = Deviation(mistake="charset", explanation=explanation, change="Write UTF-8 without a byte order mark.")
    yield deviation, bare
    yield deviation, BOM + request.body


def nothing(request: Request) -> Bodies:
    """The sender signed an empty body, as code does that signs before it has written one, or after it was read."""
    explanation = (
        "The sender signed an empty body: its code signs before the body is written, or after it was read away."
    )
    yield Deviation(mistake="empty_body", explanation=explanation, change="Sign the bytes that are posted."), b""


BODY_MISTAKES: Final[tuple[Callable[[Request], Bodies], ...]] = (
    with_line_break,
    as_form,
    with_spaces,
    serialised_again,
    packed,
    decoded_form,
    with_json_quoted,
    nothing,
    with_other_line_ends,
    in_other_charset,
)


def _read_json(body: bytes) -> Any:
    """The document; UNSET when it is none."""
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return msgspec.UNSET


def _write_json(document: Any, separators: tuple[str, str], ascii_only: bool, ordered: bool) -> bytes | None:
    try:
        return json.dumps(document, separators=separators, ensure_ascii=ascii_only, sort_keys=ordered).encode()
    except (ValueError, RecursionError):
        return None


def _depth_of(document: Any) -> int:
    """How deep it is nested, DEEPEST at most."""
    level, depth = [document], 0
    while level and depth < DEEPEST:
        depth += 1
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    return depth


def _unpack(body: bytes) -> bytes | None:
    if not body.startswith(b"\x1f\x8b"):
        return None
    try:
        return zlib.decompressobj(wbits=31).decompress(body, LARGEST_UNPACKED)
    except zlib.error:
        return None
