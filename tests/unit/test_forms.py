"""Forms: what their bytes hold, the caps, and that hostile bytes are refused and nothing worse."""

from __future__ import annotations

import hashlib
import time
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import BadRequest, Refused, TooLarge, UnsupportedMedia
from gateway.forms import (
    LARGEST_FIELD,
    LONGEST_FILE_NAME,
    LONGEST_NAME,
    MOST_FIELDS,
    FileRules,
    Form,
    clean_name,
    describe_file,
    hide,
    is_secretive,
    read_multipart,
    read_query,
    read_urlencoded,
)
from gateway.media import Media, charset_of, decode_text, read_media

ANY = FileRules(max_count=100)
HEAD = b'Content-Disposition: form-data; name="a"'


def part(head: bytes, content: bytes, boundary: bytes = b"B") -> bytes:
    return b"--" + boundary + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: tuple[bytes, bytes], rules: FileRules = ANY, kind: str = "multipart/form-data; boundary=B") -> Form:
    body = b"".join(part(head, content) for head, content in parts) + b"--B--\r\n"
    return read_multipart(body, read_media(kind), rules)


def upload(name: str, content: bytes, kind: str = "text/plain", field: str = "f") -> tuple[bytes, bytes]:
    head = f'Content-Disposition: form-data; name="{field}"; filename="{name}"\r\nContent-Type: {kind}'
    return head.encode(), content


# ---- URL-encoded


def test_repeated_fields_are_lists() -> None:
    """A field that comes once is text, one that comes again a list, in the order in which they came."""
    fields = read_urlencoded(b"a=1&b=2&a=3&c&a=%C3%A4+x&=nameless&&d=x=y")
    assert fields == {"a": ["1", "3", "ä x"], "b": "2", "c": "", "": "nameless", "d": "x=y"}


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=20))
def test_what_urllib_writes_is_read(pairs: list[tuple[str, str]]) -> None:
    """Every list of pairs of text comes out as it went in."""
    expected: dict[str, list[str]] = {}
    for name, value in pairs:
        expected.setdefault(name, []).append(value)
    fields = read_urlencoded(urlencode(pairs).encode())
    assert {name: value if isinstance(value, list) else [value] for name, value in fields.items()} == expected


@pytest.mark.parametrize("body", [b"a=%ff", b"%ff=1", b"a=\xe4", b"a=%ED%A0%80"])
def test_other_bytes_than_utf_8_are_refused(body: bytes) -> None:
    """A value or a name that is not of the charset is a 400, half a character too."""
    with pytest.raises(BadRequest, match="not UTF-8"):
        read_urlencoded(body)


def test_another_charset_is_read_where_it_is_declared() -> None:
    """`charset=iso-8859-1` is how some old senders write."""
    assert read_urlencoded(b"a=%E4", charset_of(read_media("x/y; charset=ISO-8859-1"))) == {"a": "ä"}


@pytest.mark.parametrize("charset", ["rot13", "hex", "idna", "utf-7", "unicode_escape", "nonsense", "../utf-8"])
def test_only_real_charsets_are_known(charset: str) -> None:
    """What Python calls an encoding is not always a charset."""
    with pytest.raises(UnsupportedMedia, match="charset"):
        charset_of(Media("text/plain", {"charset": charset}))


def test_half_a_character_never_comes_out() -> None:
    """What could not be written down again is refused, whatever charset allowed it."""
    with pytest.raises(BadRequest):
        decode_text(b"\xd8\x00", "utf-16be", "the body")


def test_too_many_fields_and_too_long_names_are_refused() -> None:
    """At the cap all is well, beyond it nothing."""
    assert len(read_urlencoded(b"&".join(b"%d=" % each for each in range(MOST_FIELDS)))) == MOST_FIELDS
    with pytest.raises(BadRequest, match="more than 1000"):
        read_urlencoded(b"&" * MOST_FIELDS)
    with pytest.raises(BadRequest, match="longer than"):
        read_urlencoded(b"n" * (LONGEST_NAME + 1))


@given(st.binary(max_size=300))
def test_hostile_urlencoded_bytes_are_read_or_refused(body: bytes) -> None:
    """Whatever comes, there are fields of text, or a refusal of ours."""
    try:
        fields = read_urlencoded(body)
    except Refused:
        return
    assert all(isinstance(name, str) for name in fields)


# ---- multipart


def test_fields_and_files_of_a_form() -> None:
    """Text by its name, repeated names as lists; files with their name, type, size and digest, in order."""
    found = form(
        (HEAD, b"one"),
        upload("x.txt", b"\x00\xff\r\n--", field="f"),
        (HEAD, "zwölf".encode()),
        upload("y.png", b"", "image/png", "g"),
    )
    assert found.fields == {"a": ["one", "zwölf"]}
    content = b"\x00\xff\r\n--"
    told = {
        "field": "f",
        "name": "x.txt",
        "type": "text/plain",
        "size": 6,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert describe_file(found.files[0]) == told
    assert describe_file(found.files[0], content=True) == told | {"content": "AP8NCi0t"}
    assert (found.files[1].name, found.files[1].type, found.files[1].content) == ("y.png", "image/png", b"")


def test_an_empty_file_input_is_no_file() -> None:
    """Browsers send one for each file input that nobody has filled."""
    assert form(upload("", b"", "application/octet-stream")).files == ()


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\cv.doc", "cv.doc"),
        ("/", "file"),
        ("..", "file"),
        ("a\x1b[2J\r\nb\x00.txt", "a[2Jb.txt"),
        ("\u202efdp.exe", "fdp.exe"),
        ("$(reboot);`x`.png", "$(reboot);`x`.png"),
        ("x" * 999, "x" * LONGEST_FILE_NAME),
    ],
)
def test_a_file_s_name_has_no_folder_and_no_control_character(given_name: str, name: str) -> None:
    """A name stays a name: without folders, without what moves a terminal's cursor, and never empty."""
    assert clean_name(given_name) == name


@given(st.text())
def test_no_name_leaves_its_folder(given_name: str) -> None:
    """Whatever is sent, the name is one that stands for itself in any folder, on one line."""
    name = clean_name(given_name)
    assert name not in ("", ".", "..")
    assert not set(name) & {"/", "\\", "\0", "\n", "\r", "\x1b", "\x7f"}
    assert len(name) <= LONGEST_FILE_NAME


CAPS = FileRules(max_count=2, max_size=10, types=("image/*", "text/csv"))


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ([upload("a", b"x", "text/html")], UnsupportedMedia, "image/*, text/csv"),
        ([upload("a", b"x" * 11, "image/png")], TooLarge, "10 bytes"),
        ([upload(str(each), b"x", "image/png") for each in range(3)], TooLarge, "at most 2 files"),
        ([(HEAD, b"x" * (LARGEST_FIELD + 1))], TooLarge, "'a'"),
    ],
)
def test_files_have_caps(parts: list[tuple[bytes, bytes]], error: type[Refused], words: str) -> None:
    """More files, larger ones and those of other types than the app takes are refused, and the answer says what goes."""
    with pytest.raises(error) as refused:
        form(*parts, rules=CAPS)
    assert words in refused.value.message


def test_what_keeps_to_the_caps_is_taken() -> None:
    """Two files of ten bytes of the right types."""
    assert len(form(upload("a", b"x" * 10, "image/png"), upload("b", b"", "text/csv"), rules=CAPS).files) == 2


WRONG = {
    "no boundary": (b"", "multipart/form-data"),
    "an empty boundary": (b"", 'multipart/form-data; boundary=""'),
    "an endless boundary": (b"", "multipart/form-data; boundary=" + "x" * 71),
    "nothing": (b"", "multipart/form-data; boundary=B"),
    "no end": (part(HEAD, b"x"), "multipart/form-data; boundary=B"),
    "cut short": (part(HEAD, b"x") + b"--B-", "multipart/form-data; boundary=B"),
    "no disposition": (part(b"X: y", b"x") + b"--B--", "multipart/form-data; boundary=B"),
    "no name": (part(b"Content-Disposition: form-data", b"x") + b"--B--", "multipart/form-data; boundary=B"),
    "a header twice": (part(HEAD + b"\r\n" + HEAD, b"x") + b"--B--", "multipart/form-data; boundary=B"),
    "a header without end": (part(b"X: " + b"y" * 9999, b"x") + b"--B--", "multipart/form-data; boundary=B"),
    "many parameters": (part(HEAD + b"; x=y" * 800, b"x") + b"--B--", "multipart/form-data; boundary=B"),
    "many headers": (part(b"X: y\r\n" * 99 + HEAD, b"x") + b"--B--", "multipart/form-data; boundary=B"),
    "other bytes": (part(HEAD, b"\xff") + b"--B--", "multipart/form-data; boundary=B"),
    "many parts": (part(HEAD, b"") * 1100 + b"--B--", "multipart/form-data; boundary=B"),
    "many blanks": (part(HEAD, b"") + b"--B" + b" " * 1000 + b"\r\n", "multipart/form-data; boundary=B"),
    "coded": (
        part(HEAD + b"\r\nContent-Transfer-Encoding: base64", b"eA==") + b"--B--",
        "multipart/form-data; boundary=B",
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_what_is_no_form_is_refused(wrong: tuple[bytes, str]) -> None:
    """Each is a refusal that says so in one line."""
    with pytest.raises(Refused) as refused:
        read_multipart(wrong[0], read_media(wrong[1]), ANY)
    assert refused.value.status in (400, 413, 415)
    assert refused.value.message.isprintable()


LINES = st.sampled_from(
    [
        *(
            b"--B",
            b"--B--",
            b"\r\n",
            b"\r",
            b"\n",
            b"-",
            HEAD,
            b'Content-Disposition: form-data; name="f"; filename="x"',
        ),
        *(b"Content-Type: text/plain; charset=utf-16", b":", b"\x00", b"\xff", b'"', b";", b"=", b" ", b"\\"),
    ]
)


@given(st.lists(st.one_of(LINES, st.binary(max_size=8)), max_size=30).map(b"".join), st.text(max_size=30))
@example(b'--B\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\r\n--B--', "")
def test_hostile_multipart_bytes_are_read_or_refused(body: bytes, more: str) -> None:
    """Whatever stands between the boundaries and in the content type: a form, or a refusal of ours, never a fault."""
    for kind in ("multipart/form-data; boundary=B", "multipart/form-data; boundary=B;" + more):
        try:
            found = read_multipart(body, read_media(kind), ANY)
        except Refused:
            continue
        assert all(isinstance(name, str) for name in found.fields)


@pytest.mark.parametrize(
    "body",
    [
        b"--B\r\n" + HEAD + b"\r\n\r\n" + b"\r\n--" * 300_000,
        b"--B\r\n" + b"X" * 1_000_000,
        b"\r\n" * 500_000,
        b"--B\r\n" + HEAD + b"\r\n\r\n" + b"\r\n--BX" * 170_000,
    ],
    ids=["half boundaries", "an endless header", "blank lines", "almost boundaries"],
)
def test_a_megabyte_of_traps_takes_no_time(body: bytes) -> None:
    """What the parser could only walk through byte by byte is refused before."""
    began = time.process_time()
    with pytest.raises(Refused):
        read_multipart(body, read_media("multipart/form-data; boundary=B"), ANY)
    assert time.process_time() - began < 0.5


# ---- query


def test_a_query_is_read_as_a_form_is() -> None:
    """Repeated fields are lists; a URL without query has none; what follows a # does not count."""
    assert read_query("/x?a=1&a=2&b=%C3%A4#c=3") == {"a": ["1", "2"], "b": "ä"}
    assert read_query("/x") == {}
    assert read_query("/x?a=\xc3\xa4") == {"a": "ä"}


def test_what_shows_who_asks_is_hidden() -> None:
    """By the field's name, or because its value is one of the app's secrets."""
    fields = {
        "team": "a",
        "access_token": "x",
        "sig": "y",
        "hub.verify_token": "z",
        "door": "hunter2",
        "many": ["hunter2"],
    }
    assert hide(fields, frozenset({"hunter2"})) == {"team": "a"}


@pytest.mark.parametrize(
    "name", ["Authorization", "Cookie", "X-Hub-Signature-256", "X-Gitlab-Token", "X-API-Key", "code"]
)
def test_secretive_names(name: str) -> None:
    """Headers and fields whose values are nobody's to read."""
    assert is_secretive(name)


@pytest.mark.parametrize("name", ["Idempotency-Key", "X-Event-Key", "X-GitHub-Event", "X-Request-Id", "country_code"])
def test_names_that_tell_nothing(name: str) -> None:
    """And those that may well be read."""
    assert not is_secretive(name)


@given(st.text(max_size=60))
def test_any_content_type_is_read(text: str) -> None:
    """A malformed one has no kind; nothing raises."""
    media = read_media(text)
    assert media.kind == media.kind.lower()
