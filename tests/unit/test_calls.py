"""What `http` and `model` steps may say, and what is refused before anything runs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from gateway.calls import origin_of
from gateway.editors import fields_at
from gateway.errors import ConfigError, Forbidden
from gateway.workflows import prepare, read_definition, refuse_secrets

URL = "https://api.example/v1"
KEY = {"env": "KEY"}
MODEL = {"model": "m", "prompt": "Why?"}

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "two bodies": ({"http": {"url": URL, "json": 1, "body": "x"}}, "http.body", "at most one of json, form and body"),
    "form and json": ({"http": {"url": URL, "json": 1, "form": {}}}, "http.form", "at most one"),
    "a line break": ({"http": {"url": URL, "headers": {"x": "a\r\nb: c"}}}, "http.headers.x", "line break"),
    "a nul": ({"http": {"url": URL, "headers": {"x": "a\0"}}}, "http.headers.x", "control character"),
    "a header's name": ({"http": {"url": URL, "headers": {"a b": "c"}}}, "http.headers", "'a b' is no name"),
    "a list in a header": ({"http": {"url": URL, "headers": {"a": []}}}, "http.headers[...]", "Expected"),
    "a key in the file": (
        {"http": {"url": URL, "headers": {"Authorization": "Bearer sk-1"}}},
        "http.headers.Authorization",
        "does not stand in a definition",
    ),
    "a password in the file": ({"http": {"url": URL, "bearer": "sk-1"}}, "http.bearer", "Expected"),
    "bearer and basic": (
        {"http": {"url": URL, "bearer": KEY, "basic": {"user": "a", "password": KEY}}},
        "http",
        "bearer or basic",
    ),
    "a colon": ({"http": {"url": URL, "basic": {"user": "a:b", "password": KEY}}}, "http.basic.user", "no colon"),
    "no secret": ({"http": {"url": URL, "bearer": {}}}, "http.bearer", "{env: NAME}, {file: PATH} or {secret: NAME}"),
    "two secrets": ({"http": {"url": URL, "bearer": KEY | {"file": "x"}}}, "http.bearer", "{env: NAME}"),
    "a sealed secret": ({"http": {"url": URL, "bearer": {"sealed": "v1"}}}, "http.bearer", "{env: NAME}"),
    "a computed name": ({"http": {"url": URL, "bearer": {"env": "${input.x}"}}}, "http.bearer", "{env: NAME}"),
    "a secret to anywhere": (
        {"http": {"url": "${input.url}", "bearer": KEY}},
        "http.url",
        "names its host itself",
    ),
    "a secret to part of a host": (
        {"http": {"url": "https://api.example${input.x}/", "headers": {"x-key": KEY}}},
        "http.url",
        "names its host itself",
    ),
    "a secret behind a user": (
        {"http": {"url": "https://api.example@${input.x}/", "bearer": KEY}},
        "http.url",
        "does not stand in a URL",
    ),
    "an unknown response": ({"http": {"url": URL, "response": "xml"}}, "http.response", "xml"),
    "no status": ({"http": {"url": URL, "expect": [99]}}, "http.expect[0]", "100"),
    "no class": ({"http": {"url": URL, "expect": ["6xx"]}}, "http.expect[0]", "xx"),
    "no bytes": ({"http": {"url": URL, "max_bytes": 0}}, "http.max_bytes", "1"),
    "nothing asked": ({"model": {"model": "m"}}, "model", "`prompt` or `messages`"),
    "asked twice": ({"model": MODEL | {"messages": [{"role": "user", "content": "a"}]}}, "model", "one of them"),
    "no role": ({"model": {"model": "m", "messages": [{"content": "a"}]}}, "model.messages[0]", "`role`"),
    "messages as text": ({"model": {"model": "m", "messages": "hello"}}, "model.messages", "takes a list"),
    "no name": ({"model": MODEL | {"model": ""}}, "model.model", "name the model"),
    "no schema": ({"model": MODEL | {"schema": {"type": "nothing"}}}, "model.schema", "no valid JSON Schema"),
    "a far schema": ({"model": MODEL | {"schema": {"$ref": "file:///etc/hosts"}}}, "model.schema", "outside"),
    "no patience": ({"model": MODEL | {"idle": 0}}, "model.idle", "30s"),
    "no duration": ({"model": MODEL | {"idle": "soon"}}, "model", "not a duration"),
    "a key to anywhere": ({"model": MODEL | {"url": "${input.u}", "key": KEY}}, "model.url", "names its host"),
    "a wrong expression": ({"model": MODEL | {"system": "${nobody.x}"}}, "model.system", "nobody"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_work_is_refused_with_its_place(case: str) -> None:
    """Each mistake is told with the field it stands in, before anything runs."""
    step, path, words = REFUSED[case]
    with pytest.raises(ConfigError) as refused:
        prepare({"name": "w", "steps": [{"id": "a"} | step]})
    assert refused.value.details["path"] == f"steps[0].{path}"
    assert words in refused.value.message


@pytest.mark.parametrize(
    "step",
    [
        {"http": {"url": "https://api.example/${input.x}", "bearer": KEY}},
        {"http": {"url": "https://api.example?x=${input.x}", "headers": {"X-Api-Key": {"file": "/run/key"}}}},
        {"http": {"url": "${input.url}", "headers": {"authorization": "${input.token}", "x": 1, "y": "tab\there"}}},
        {"http": {"url": URL, "expect": [200, "4xx"], "form": {"a": "${input.x}"}, "idempotency_key": False}},
        {"model": MODEL},
        {"model": {"model": "${input.m}", "messages": "${input.turns}", "temperature": "${input.t}", "idle": "2m"}},
        {"model": MODEL | {"url": URL, "key": KEY, "schema": {"type": "object"}, "stream": True}},
    ],
)
def test_what_can_work_is_taken(step: dict[str, Any]) -> None:
    """Expressions may stand wherever they can't lead a secret away."""
    assert prepare({"name": "w", "steps": [{"id": "a"} | step]}).kinds == [next(iter(step))]


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://API.example", "https://api.example"),
        ("HTTPS://api.example:8443/x${y}", "https://api.example:8443"),
        ("https://api.example#${x}", "https://api.example"),
        ("https://${x}/", None),
        ("https://api${x}.example/", None),
        ("https://user@api.example/", None),
        ("ftp://api.example/", None),
        ("//api.example/", None),
        ("", None),
    ],
)
def test_the_origin_of_a_url_is_what_no_value_can_change(url: str, origin: str | None) -> None:
    """Scheme, host and port, where they are written out; nothing else."""
    assert origin_of(url) == origin


SENDS = {
    "name": "w",
    "steps": [{"id": "a", "http": {"url": URL}}, {"id": "b", "model": MODEL | {"key": KEY, "url": URL}}],
}


@pytest.mark.parametrize(("admin", "trusted", "fine"), [(False, (), False), (True, (), True), (False, ("w",), True)])
def test_who_may_send_secrets(admin: bool, trusted: tuple[str, ...], fine: bool) -> None:
    """Secrets of the machine are for admins and trusted workflows; the provider of the settings is for everybody."""
    refuse_secrets(read_definition({"name": "w", "steps": [{"id": "a", "model": MODEL}]}), admin, trusted)
    with nullcontext() if fine else pytest.raises(Forbidden, match=r"steps\[1\]\.model\.key: .*env KEY.*admin"):
        refuse_secrets(read_definition(SENDS), admin, trusted)


def test_their_fields_are_known_to_the_file() -> None:
    """A slip of the pen in one of them is answered with what was meant."""
    step = "workflows[0].steps[0]"
    assert {"bearer", "max_bytes"} <= set(fields_at(f"{step}.http"))
    assert {"schema", "max_tokens"} <= set(fields_at(f"{step}.model"))
    assert fields_at(f"{step}.http.basic.password") == ["env", "file", "secret"]
