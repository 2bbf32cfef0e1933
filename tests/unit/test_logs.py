"""Logs: one line each, JSON for machines, nothing of a sender's on the terminal but plain text."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.logs import clean

SCRIPT = """
import logging, sys, structlog
from gateway.logs import configure_logs
from gateway.settings import read_settings
configure_logs(read_settings({{"GATEWAY_LOG_FORMAT": {form!r}, "GATEWAY_LOG_LEVEL": {level!r}}}))
log = structlog.get_logger()
{lines}
"""


def logged(lines: str, form: str = "json", level: str = "info") -> list[str]:
    """What a process of its own writes to standard error; logging is set up once for a process."""
    script = SCRIPT.format(form=form, level=level, lines=lines)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == ""
    return done.stderr.splitlines()


def one(lines: str) -> dict[str, Any]:
    (line,) = logged(lines)
    return json.loads(line)  # type: ignore[no-any-return]


def test_a_line_is_one_json_object_with_time_and_level() -> None:
    """For machines each line is JSON: time in UTC, level, event, and the fields by their names."""
    line = one("log.warning('request', app='ci', status=401, run_ids=[1, 2])")
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "warning", "event": "request", "app": "ci", "status": 401, "run_ids": [1, 2]}


def test_without_a_terminal_auto_is_json() -> None:
    """`auto` writes for machines where nobody looks."""
    (line,) = logged("log.info('hello')", form="auto")
    assert json.loads(line)["event"] == "hello"


def test_what_json_does_not_know_is_written_all_the_same() -> None:
    """A field of an odd type, or text that is no UTF-8, never loses the line."""
    line = one("log.info('odd', kind=object, path=__import__('pathlib').Path('/x'))")
    assert line["event"] == "odd"
    assert "object" in line["kind"]


def test_an_exception_is_in_its_line() -> None:
    """The traceback travels in the same object, so that no line stands alone."""
    line = one("try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('broke')")
    assert (line["event"], line["level"]) == ("broke", "error")
    assert "ZeroDivisionError: division by zero" in line["exception"]


def test_a_level_hides_what_is_below_it() -> None:
    """With `warning` no information is written, and with `debug` all is."""
    lines = "log.debug('d'); log.info('i'); log.warning('w')"
    assert [json.loads(line)["event"] for line in logged(lines, level="warning")] == ["w"]
    assert [json.loads(line)["event"] for line in logged(lines, level="debug")] == ["d", "i", "w"]


def test_libraries_write_in_our_form_from_warnings_up() -> None:
    """What a library logs the standard way comes as a line of ours, named after the library."""
    lines = "logging.getLogger('lib').info('quiet'); logging.getLogger('lib').error('loud %s', 'x')"
    (line,) = logged(lines)
    assert (json.loads(line)["event"], json.loads(line)["logger"]) == ("loud x", "lib")


def test_a_sender_can_not_draw_on_the_terminal() -> None:
    """On a console every control character of a value is replaced, and no value begins a line of its own."""
    lines = logged("log.info('request', app='\\x1b[2J\\x07evil\\nfake line')", form="console")
    assert len(lines) == 1
    assert "\x07" not in lines[0]
    assert "\x1b[2J" not in lines[0]
    assert "evil" in lines[0]


@pytest.mark.parametrize(("text", "kept"), [("plain ü", "plain ü"), ("a\nb", "a\nb"), ("\x1b]0;x\x07", "�]0;x�")])
def test_control_characters_are_replaced(text: str, kept: str) -> None:
    """Letters of any language and new lines stay, control characters become a sign."""
    assert clean(text) == kept


@given(st.text())
def test_clean_text_is_printable_and_as_long(text: str) -> None:
    """Whatever the text, nothing but printable letters and new lines is left, one for one."""
    assert all(letter.isprintable() or letter == "\n" for letter in clean(text))
    assert len(clean(text)) == len(text)
