"""Words from outside stay words: no header, path, field or file name becomes a path, a command, a variable, or a line or
a colour of the log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.machine import Machine, until
from tests.tools_raw import speak, write

FILE = """\
apps:
  - id: 1
    name: open
    verify: none
    headers: [x-named, shell, path, ld_preload]
    triggers:
      - name: all
        workflow: tell
        input: {name: "${event.files.map(file, file.name)}", form: "${event.form}", headers: "${event.headers}"}
workflows:
  - id: 15
    name: tell
    steps:
      - {id: variables, shell: {argv: [env], output: lines}}
      - {id: word, shell: {argv: [printf, "%s|", "${input.name[0]}", "${input.form.word}"], output: text}}
    output: {variables: "${steps.variables.output.stdout}", word: "${steps.word.output.stdout}", name: "${input.name[0]}"}
"""
WORD = "$(touch pwned); `touch pwned` | touch pwned & ; ../../pwned -rf %n\x1b[41m\x00\u202e"
NAME = "../../../etc/pwned\\$(touch pwned)\x1b]0;x\x07.txt"
HOSTILE = [
    ("x-named", "() { :;}; touch pwned"),
    ("shell", "/tmp/pwned"),
    ("path", "/tmp/pwned"),
    ("ld_preload", "/tmp/pwned.so"),
    ("x-forwarded-for", "1.2.3.4\t\x9b41m"),
    ("user-agent", "\x9b41mred \xff\x85 %0a%0d {jndi:x}"),
    ("idempotency-key", "../../pwned"),
    ("cookie", "GATEWAY_DATA_DIR=/tmp/pwned"),
    ("content-type", "multipart/form-data; boundary=b"),
]
PATHS = (
    "/api/v1/webhooks/..%2f..%2f..%2fetc%2fpasswd",
    "/api/v1/webhooks/%1b%5b41mred%0d%0a%7b%22event%22:%22forged%22%7d",
    "/api/v1/webhooks/1?a=%1b%5b41m&b=%0d%0aforged",
    "/api/v1/hooks/%1b%5b41m%0aforged",
    "/%1b%5b41m%0aforged",
    "/api/v1/runs/%1b%5b41m%0aforged",
    "/docs/..%2f..%2fpyproject.toml",
)


def part(disposition: str, content: str) -> bytes:
    return b"--b\r\n" + f"content-disposition: form-data; {disposition}\r\n\r\n{content}\r\n".encode()


BODY = part(f'name="f"; filename="{NAME}"', "x") + part('name="word"', WORD.replace("\x00", "")) + b"--b--\r\n"


@pytest.fixture(params=["json", "console"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    with closing(Machine(tmp_path, log_format=request.param)) as made:
        made.config.write_text(FILE)
        yield made.start().wait_ready()


def test_words_from_outside_stay_words(machine: Machine, tmp_path: Path) -> None:
    """A step gets them as they are, as one argument; its variables are our own; no file appears, and the log stays a log."""
    before = {path for path in tmp_path.rglob("*") if "data" not in path.parts}
    answer = speak(machine.port, write("POST", "/api/v1/webhooks/1", HOSTILE, BODY))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    for path in PATHS:
        for method in ("POST", "GET"):
            speak(machine.port, write(method, path, HOSTILE, BODY))
    run = machine.wait_run(1)
    assert run.state == "completed", run
    name = run.output["name"]
    assert "/" not in name
    assert "\\" not in name
    assert run.output["word"] == f"{name}|{WORD.replace(chr(0), '')}|"
    variables = {line.partition("=")[0] for line in run.output["variables"]}
    assert "PATH" in variables
    assert not {variable.lower() for variable in variables} & {"shell", "ld_preload", "x_named", "http_path", "cookie"}
    assert not [line for line in run.output["variables"] if "pwned" in line]
    until(lambda: machine.log.read_bytes().count(b"/api/v1/hooks") > 0, "the log to be written")
    assert {path for path in tmp_path.rglob("*") if "data" not in path.parts} - before <= set(
        tmp_path.rglob("__pycache__*")
    )
    assert not list(tmp_path.rglob("*pwned*"))
    # On a terminal the log has colours of its own; theirs is a background.
    log = re.sub(r"\x1b\[([012]|3[0-9])m", "", machine.log.read_bytes().decode())
    assert not re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", log)
    assert not [line for line in log.splitlines() if line.startswith(("forged", '{"event":"forged'))]
