"""What an operator writes of an app's door and forms: read as meant, and each slip told with its line and field."""

from __future__ import annotations

import pytest

from gateway.apps import LiveApp
from gateway.configuration import read_configuration
from gateway.editors import describe_file
from gateway.places import Mistakes

GOOD = """\
apps:
  - id: 1
    name: contact
    verify: none
    methods: [POST, PUT]
    networks: [203.0.113.0/24]
    rate: 60/minute
    max_depth: 8
    form:
      origins: ["https://www.example.com"]
      honeypot: website
      token: {min_fill: 3s, max_age: 2h}
      redirect: ["https://www.example.com/thanks", "https://www.example.com/danke"]
      error: https://www.example.com/sorry
"""


def test_a_door_s_settings_are_read() -> None:
    """All of them in one app, which takes forms and nothing else; its own fields are those that are used."""
    live = LiveApp(read_configuration(GOOD).apps[0], lambda *_: None)
    assert live.form is not None
    assert live.form.own_fields == {"website", "_token", "_redirect"}
    assert (live.form.min_fill, live.form.max_age) == (3, 7200)
    assert live.content_types == ("application/x-www-form-urlencoded", "multipart/form-data")
    assert live.admission.rate is not None
    assert (live.admission.methods, live.admission.rate.burst) == (("POST", "PUT"), 60)


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("[POST, PUT]", "[]", (5, "methods"), "one method at least"),
        ("[POST, PUT]", "[POST, PUSH]", (5, "methods[1]"), "'PUSH' can't stand here"),
        ("[POST, PUT]", "[PUT]", (5, "methods"), "browsers send forms by POST"),
        ("203.0.113.0/24", "203.0.113.7/24", (6, "networks[0]"), "write 203.0.113.0/24"),
        ("60/minute", "lots", (7, "rate"), "write 60/minute"),
        ("60/minute", "{limit: 0, period: 1m}", (7, "rate.limit"), "expected `int` >= 1"),
        ("60/minute", "{limit: 1, period: soon}", (7, "rate.period"), "is not a duration"),
        ("60/minute", "{limit: 1, periode: 1m}", (7, "rate.periode"), "did you mean `period`?"),
        ("max_depth: 8", "max_depth: 201", (8, "max_depth"), "expected `int` <= 200"),
        ('www.example.com"]\n      honey', 'www.example.com/"]\n      honey', (10, "form.origins[0]"), "is no origin"),
        ("honeypot: website", "honeypot: _token", (9, "form"), "two of this form's own fields"),
        ("honeypot: website", "honeypott: website", (11, "form.honeypott"), "did you mean `honeypot`?"),
        ("3s", "3 seconds", (12, "form.token.min_fill"), "is not a duration"),
        ("2h", "2s", (12, "form.token.max_age"), "already too old"),
        ("https://www.example.com/danke", "/danke", (13, "form.redirect[1]"), "is no page's address"),
        ("https://www.example.com/sorry", "javascript:x", (14, "form.error"), "is no page's address"),
        ("verify: none", "verify: {scheme: github, secrets: [{env: A}]}", (4, "verify"), "a page can't sign"),
        ("    verify: none\n", "", (2, "verify"), "a page can't sign"),
        ("verify: none", "verify: none\n    adapter: direct", (10, "form"), "a page can't sign"),
        ("verify: none", "verify: none\n    respond: {body: x}", (5, "respond"), "take out `respond`"),
        ("verify: none", "verify: none\n    content_types: [application/json]", (5, "content_types"), "multipart"),
    ],
)
def test_each_slip_is_told_with_its_line(old: str, new: str, place: tuple[int, str], words: str) -> None:
    """One mistake each, at the line and field where it is."""
    assert old in GOOD
    with pytest.raises(Mistakes) as caught:
        read_configuration(GOOD.replace(old, new, 1))
    (mistake,) = caught.value.mistakes
    assert (mistake.line, mistake.path) == (place[0], f"apps[0].{place[1]}")
    assert words in mistake.message


def test_editors_know_a_door_s_settings() -> None:
    """Each field is in the schema that editors use, with a word on what it is for."""
    parts = describe_file()["$defs"]
    for name in ("form", "max_depth", "methods", "networks", "rate"):
        assert parts["App"]["properties"][name]["description"], name
    for name in ("origins", "honeypot", "token", "redirect", "error"):
        assert parts["FormSettings"]["properties"][name]["description"], name
