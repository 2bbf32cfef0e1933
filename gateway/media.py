"""Content types: what a body says that it is, which of them an app takes, and text in the charset it declares. Silent."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from gateway.errors import BadRequest, ConfigError, UnsupportedMedia

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"
FORMS: Final = (FORM, MULTIPART)
XML: Final = "application/xml"
USUAL: Final = (JSON, FORM, MULTIPART)
"""What an app takes that says nothing about it, nor its sender's preset."""
CHARSETS: Final = frozenset(
    (
        *("utf-8", "utf8", "us-ascii", "ascii", "utf-16", "utf-16le", "utf-16be", "koi8-r", "koi8-u"),
        *(f"iso-8859-{part}" for part in (*range(1, 12), 13, 14, 15, 16)),
        *(f"windows-{page}" for page in range(1250, 1259)),
        *("shift_jis", "euc-jp", "iso-2022-jp", "gb2312", "gbk", "gb18030", "big5", "euc-kr"),
    )
)
"""Not all that Python knows: some of those are no charsets, and some take the square of the text's length."""
OPAQUE: Final = re.compile(
    r"(image|audio|video|font|model)/.*|application/(octet-stream|pdf|zip|gzip|x-gzip|x-tar|zstd|wasm|protobuf|x-protobuf)"
    r"|application/(vnd|x)\..*(?<!\+xml)(?<!\+json)"
)
WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
KIND: Final = re.compile(rf"{WORD}/{WORD}")
PARAMETER: Final = re.compile(rf'[ \t]*;[ \t]*({WORD})=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))')
PROLOG: Final = re.compile(rb"""<\?xml[^>]{0,100}?encoding=["']([A-Za-z0-9._-]{1,40})["']""")


class Media(Struct, frozen=True):
    """A content type, `kind` in lower case, with its parameters; both empty where none was given."""

    kind: str = ""
    parameters: Mapping[str, str] = {}


def read_media(text: str) -> Media:
    """A content type as a header gives it. Of a malformed one nothing is left; of a parameter given twice the first."""
    found = KIND.match(text.strip())
    if found is None:
        return Media()
    parameters: dict[str, str] = {}
    rest, at = text.strip(), found.end()
    while given := PARAMETER.match(rest, at):
        name, quoted, plain = given.groups()
        value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        parameters.setdefault(name.lower(), value)
        at = given.end()
    return Media(found[0].lower(), parameters)


def is_json(kind: str) -> bool:
    """Whether it is JSON, or something more special that is written in JSON."""
    return kind == JSON or (kind.startswith("application/") and kind.endswith("+json"))


def is_xml(kind: str) -> bool:
    return kind in (XML, "text/xml") or kind.endswith("+xml")


def is_taken(kind: str, listed: Sequence[str]) -> bool:
    """Whether a list of types, `image/*` and `*/*` among them, has this one. JSON and XML stand for what is made of them."""
    return any(
        each in (kind, "*/*")
        or (each.endswith("/*") and kind.startswith(each[:-1]))
        or (each == JSON and is_json(kind))
        or (each == XML and is_xml(kind))
        for each in listed
    )


def check_types(types: Sequence[str], path: str) -> None:
    """Raise ConfigError, naming the place, for what is no content type in lower case, nor `image/*` or `*/*`."""
    for index, each in enumerate(types):
        if not KIND.fullmatch(each) or each != each.lower() or ("*" in each and not each.endswith("/*")):
            message = f"{each!r} is no content type: write it as `image/png`, in lower case, or `image/*`"
            raise ConfigError(message, path=f"{path}[{index}]")


def charset_of(media: Media, body: bytes = b"") -> str:
    """The charset that a type declares, or the first line of XML; else UTF-8. Raises UnsupportedMedia if it is unknown."""
    given = media.parameters.get("charset")
    if given is None and is_xml(media.kind) and (found := PROLOG.match(body)):
        given = found[1].decode("ascii")
    charset = (given or "utf-8").lower()
    if charset not in CHARSETS:
        message = f"the charset {charset[:40]!r} is not known here; send UTF-8"
        raise UnsupportedMedia(message)
    return charset


def decode_text(data: bytes, charset: str, what: str) -> str:
    """Text, every byte of it. Raises BadRequest, naming `what`, where the bytes are not of that charset."""
    try:
        text = data.decode(charset)
    except UnicodeDecodeError as error:
        message = f"{what} is not {charset.upper()}, which it was said to be: byte {error.start + 1}"
        raise BadRequest(message) from None
    # Some old charsets give halves of characters, which nothing could write down again.
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        message = f"{what} holds half a character"
        raise BadRequest(message)
    return text
