"""Forms: fields and files out of a body's bytes, URL-encoded or multipart, under hard caps. Silent.

Every name and every value is data from outside, a file's name too: nothing here opens, writes or logs anything.
Sources: WHATWG URL, section 5.1; RFC 7578; HTML, section 4.10.21.8 (an empty file input is sent as a file without name).
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import unicodedata
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Final
from urllib.parse import unquote_to_bytes

from msgspec import Meta, Struct
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.errors import BadRequest, TooLarge, UnsupportedMedia
from gateway.media import Media, charset_of, decode_text, is_taken, read_media

MOST_FIELDS: Final = 1000
LONGEST_NAME: Final = 1024
LARGEST_FIELD: Final = 1_048_576
"""Bytes in one field of a multipart form that is no file; those of other forms are bounded by the body alone."""
LONGEST_FILE_NAME: Final = 200
MOST_HEADERS: Final = 8
LARGEST_HEADER: Final = 4096
MOST_PARAMETERS: Final = 32
"""Semicolons in a part's content-disposition: each parameter is taken apart, in every part."""
MOST_PADDING: Final = 16
OPAQUE_TYPE: Final = "application/octet-stream"
NAMELESS: Final = "file"
TRANSPARENT: Final = ("", "7bit", "8bit", "binary")
# Whatever the parser says of hostile bytes we say in our own answer; a flood of them must not fill the log.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

Fields = dict[str, Any]
"""Text for each name; a list of texts where the name came several times."""


class FileRules(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which files an app takes: how many in one event, of how many bytes each, of which content types (any)."""

    max_count: Annotated[int, Meta(ge=0, le=100)] = 10
    max_size: Annotated[int, Meta(ge=1)] | None = None
    types: tuple[str, ...] = ()


UNLIMITED: Final = FileRules(max_count=MOST_FIELDS)


class File(Struct, frozen=True, dict=True):
    """One file of a form: the field it came in, its name and type as its sender gave them, and its bytes.

    The name has no folders and no control characters, and is never empty; it is still only what the sender says.
    """

    field: str
    name: str
    type: str
    content: bytes

    @cached_property
    def sha256(self) -> str:
        """The digest of its bytes, in hex."""
        return hashlib.sha256(self.content).hexdigest()


class Form(Struct, frozen=True):
    """What a form holds."""

    fields: Fields
    files: tuple[File, ...] = ()


def describe_file(file: File, *, content: bool = False) -> dict[str, Any]:
    """A file as expressions see it, with its bytes in base64 where they are asked for."""
    told = {
        "field": file.field,
        "name": file.name,
        "type": file.type,
        "size": len(file.content),
        "sha256": file.sha256,
    }
    return told | {"content": base64.b64encode(file.content).decode()} if content else told


def read_urlencoded(data: bytes, charset: str = "utf-8", what: str = "the form") -> Fields:
    """The fields of `a=1&b=2`, in order. Raises BadRequest for too many, a name too long, or bytes of another charset."""
    if data.count(b"&") >= MOST_FIELDS:
        message = f"{what} has more than {MOST_FIELDS} fields"
        raise BadRequest(message)
    fields: Fields = {}
    for pair in data.split(b"&"):
        if pair:
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            _add(fields, _name(unquote_to_bytes(name), charset, what), _text(unquote_to_bytes(value), charset, what))
    return fields


def read_multipart(data: bytes, media: Media, rules: FileRules) -> Form:
    """The fields and files of a multipart form.

    Raises BadRequest for bytes that are no such form, TooLarge for more or larger files than the rules allow, or a
    larger field, and UnsupportedMedia for a file of another type.
    """
    boundary = media.parameters.get("boundary", "").encode("latin-1", "replace")
    if not 0 < len(boundary) <= 70:
        message = "the content type of a multipart form must give its boundary, 1 to 70 characters"
        raise BadRequest(message)
    _check_delimiters(data, b"--" + boundary)
    reader = _Reader(rules, charset_of(media))
    parser = MultipartParser(
        boundary, reader.callbacks(), max_header_count=MOST_HEADERS, max_header_size=LARGEST_HEADER
    )
    try:
        parser.write(data)
    except FormParserError as error:
        message = f"the body is no multipart form: {str(error)[:200]}"
        raise BadRequest(message) from None
    if not reader.complete:
        message = "the multipart form ends before its last boundary"
        raise BadRequest(message)
    return Form(reader.fields, tuple(reader.files))


def clean_name(given: str) -> str:
    """A file's name without folders, control characters and the like, at most LONGEST_FILE_NAME long, never empty."""
    last = re.split(r"[/\\]", given)[-1]
    shown = "".join(char for char in last if unicodedata.category(char) not in ("Cc", "Cf", "Zl", "Zp"))
    name = shown.strip()[:LONGEST_FILE_NAME].strip()
    return NAMELESS if name in ("", ".", "..") else name


def _check_delimiters(data: bytes, delimiter: bytes) -> None:
    """Refuse what the parser would walk through byte by byte: as many boundaries, or as long ones, as fit in."""
    if data.count(delimiter) > MOST_FIELDS + 1:
        message = f"the multipart form has more than {MOST_FIELDS} parts"
        raise BadRequest(message)
    if re.search(re.escape(delimiter) + rb"[ \t]{%d}" % (MOST_PADDING + 1), data):
        message = "a boundary of the multipart form is followed by too many blanks"
        raise BadRequest(message)


def _add(fields: Fields, name: str, value: str) -> None:
    """Add a field; one that comes again makes a list."""
    if name not in fields:
        fields[name] = value
    elif isinstance(fields[name], list):
        fields[name].append(value)
    else:
        fields[name] = [fields[name], value]


def _name(data: bytes, charset: str, what: str) -> str:
    if len(data) > LONGEST_NAME:
        message = f"{what} has a field whose name is longer than {LONGEST_NAME} bytes"
        raise BadRequest(message)
    return decode_text(data, charset, f"the name of a field of {what}")


def _text(data: bytes, charset: str, what: str) -> str:
    return decode_text(data, charset, f"a field of {what}")


class _Part:
    """One part while it is read."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.name = ""
        self.file_name: str | None = None
        self.type = ""
        self.charset = ""
        self.chunks: list[bytes] = []
        self.size = 0


class _Reader:
    """Gathers what the parser finds."""

    def __init__(self, rules: FileRules, charset: str) -> None:
        self.fields: Fields = {}
        self.files: list[File] = []
        self.complete = False
        self._rules = rules
        self._charset = charset
        self._part = _Part()
        self._header = [b"", b""]

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._read_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._read_header(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": lambda data, start, end: self._take(data[start:end]),
            "on_part_end": self._close,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._part = _Part()
        self._header = [b"", b""]

    def _read_header(self, place: int, data: bytes) -> None:
        self._header[place] += data

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() in self._part.headers:
            message = "a part of the multipart form has one header twice"
            raise BadRequest(message)
        self._part.headers[name.lower()] = value
        self._header = [b"", b""]

    def _open(self) -> None:
        part = self._part
        disposition = part.headers.get(b"content-disposition", b"").decode("latin-1")
        if disposition.count(";") > MOST_PARAMETERS:
            message = (
                f"a part of the multipart form has a content-disposition with more than {MOST_PARAMETERS} semicolons"
            )
            raise BadRequest(message)
        kind, options = parse_options_header(disposition)
        if kind != b"form-data" or b"name" not in options:
            message = "a part of the multipart form has no `content-disposition: form-data` with a name"
            raise BadRequest(message)
        if part.headers.get(b"content-transfer-encoding", b"").decode("latin-1").lower() not in TRANSPARENT:
            message = "a part of the multipart form has a content-transfer-encoding; send its bytes as they are"
            raise UnsupportedMedia(message)
        media = read_media(part.headers.get(b"content-type", b"").decode("latin-1"))
        part.charset = charset_of(media) if "charset" in media.parameters else self._charset
        part.name = _name(options[b"name"], self._charset, "the form")
        if b"filename" in options:
            part.type = media.kind or OPAQUE_TYPE
            part.file_name = decode_text(options[b"filename"], self._charset, "the name of a file")

    def _take(self, data: bytes) -> None:
        part = self._part
        part.size += len(data)
        if part.file_name is None and part.size > LARGEST_FIELD:
            message = f"the field {part.name[:60]!r} is larger than {LARGEST_FIELD} bytes"
            raise TooLarge(message)
        most = self._rules.max_size
        if part.file_name is not None and most is not None and part.size > most:
            message = f"the file in {part.name[:60]!r} is larger than the {most} bytes this app accepts"
            raise TooLarge(message)
        part.chunks.append(data)

    def _close(self) -> None:
        part = self._part
        content = b"".join(part.chunks)
        if part.file_name is None:
            _add(self.fields, part.name, _text(content, part.charset, "the form"))
        elif part.file_name or content:
            self._keep(File(part.name, clean_name(part.file_name), part.type, content))

    def _keep(self, file: File) -> None:
        check_file(file, self._rules, len(self.files) + 1)
        self.files.append(file)

    def _end(self) -> None:
        self.complete = True


def check_file(file: File, rules: FileRules, number: int) -> None:
    """Refuse the file that is the `number`th of an event, or of a type that its app does not take."""
    if number > rules.max_count:
        most = f"at most {rules.max_count} files" if rules.max_count else "no files"
        message = f"this app accepts {most}"
        raise TooLarge(message)
    if rules.types and not is_taken(file.type, rules.types):
        message = f"the file in {file.field[:60]!r} is {file.type[:60]!r}; this app accepts {', '.join(rules.types)}"
        raise UnsupportedMedia(message)
    if rules.max_size is not None and len(file.content) > rules.max_size:
        message = f"the file in {file.field[:60]!r} is larger than the {rules.max_size} bytes this app accepts"
        raise TooLarge(message)


def read_query(url: str) -> Fields:
    """The fields of a URL's query, in order; raises BadRequest as `read_urlencoded` does."""
    _, mark, query = url.partition("#")[0].partition("?")
    if not mark:
        return {}
    try:
        data = query.encode("latin-1")
    except UnicodeEncodeError:
        data = query.encode("utf-8", "surrogatepass")
    return read_urlencoded(data, what="the query")


def hide(fields: Mapping[str, Any], secrets: frozenset[str]) -> Fields:
    """The fields without those that hold one of these secrets, or are named as something that shows who is asking."""
    return {
        name: value
        for name, value in fields.items()
        if not is_secretive(name) and secrets.isdisjoint(value if isinstance(value, list) else (value,))
    }


SECRETIVE: Final = re.compile(
    r"(?!.*idempotency)(.*(signature|secret|token|passw|authorization|api[-_]?key|access[-_]?key|credential|cookie|hmac)"
    r"|(sig|key|auth|code|jwt)$)"
)


def is_secretive(name: str) -> bool:
    """Whether a header or a field of a query is named as something that shows who is asking."""
    return SECRETIVE.match(name.lower()) is not None
