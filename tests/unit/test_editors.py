"""The schema that editors are given: it takes every good file there is, and refuses what it can see to be wrong."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from gateway.cli.configuring import FIRST_FILE
from gateway.configuration import read_configuration
from gateway.editors import choices_at, describe_file, fields_at
from gateway.places import Mistakes, load_yaml
from gateway.presets import ROWS
from gateway.workflows import KINDS
from tests import tools_api

ROOT = Path(__file__).parents[2]
SCHEMA = describe_file()
JUDGE = jsonschema_rs.validator_for(SCHEMA)
EXAMPLES = sorted((ROOT / "deploy" / "examples").glob("*.yaml"))
SNIPPETS = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
STEP = "workflows: [{name: w, steps: [{id: s, %s}]}]"
WORKFLOW = "workflows: [{name: w, %s}]"
APP = "apps: [{name: a, %s}]"


def complaints(text: str) -> list[str]:
    return [error.message for error in JUDGE.iter_errors(load_yaml(text)[0])]


def as_file(snippet: str) -> Any:
    """A snippet of the README as the whole file that it would stand in."""
    part = load_yaml(textwrap.dedent(snippet))[0]
    if part is None:
        return {}
    if isinstance(part, list):
        return {"workflows": [{"name": "w", "steps": part}]}
    if {"apps", "workflows"} & part.keys():
        return part
    return {"apps": [{"name": "a", **part}]}


def test_it_is_a_schema() -> None:
    """It is valid by the dialect it names, and needs nothing from outside."""
    jsonschema_rs.meta.validate(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    references = re.findall(r"'\$ref': '([^']*)'", str(SCHEMA))
    assert references
    assert all(each.startswith("#/$defs/") and each.rpartition("/")[2] in SCHEMA["$defs"] for each in references)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_examples_are_taken(file: Path) -> None:
    """Each example is good by the schema, and by `gateway check`."""
    assert complaints(file.read_text()) == []
    assert read_configuration(file.read_text()).workflows


@pytest.mark.parametrize("text", [FIRST_FILE, tools_api.FILE], ids=["init", "tests"])
def test_our_own_files_are_taken(text: str) -> None:
    """What `gateway init` writes is good by the schema."""
    assert complaints(text) == []


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_what_the_readme_shows_is_taken(snippet: str) -> None:
    """Every YAML of the README is good where it belongs."""
    assert [error.message for error in JUDGE.iter_errors(as_file(snippet))] == []


GOOD = {
    "nothing": "",
    "only a remark": "# nothing yet\n",
    "empty sections": "apps:\nworkflows:\n",
    "a declarative scheme": APP % "verify: {kind: hmac, header: X-Sig, enc: base64, secrets: [{file: /run/secret}]}",
    "a flat scheme": APP % "verify: {type: hmac, header: S, template: '{timestamp}.{body}', ts: 'field:t', ts_unit: s, "
    "item_sep: ',', kv_sep: '=', sig_key: v1, tolerance: 60, secrets: [{env: A}]}",
    "a preset that differs": APP % "verify: {scheme: stripe, timestamp: {from: 'field:t', tolerance: 60}, secrets: [{env: A}]}",
    "anyone": APP % "verify: none",
    "nulls": APP % "callback: null, verify: null, dedupe: null, triggers: []",
    "a number of seconds": STEP % "transform: 1, timeout: 2.5",
    "a transform to nothing": STEP % "transform: null",
    "a computed wait": STEP % "wait: {for: '${input.pause}'}",
    "a short shell": STEP % "shell: [ls, -l, 3]",
    "a secret header": STEP % "http: {url: 'https://x.example', headers: {X-Api-Key: {env: K}, N: 1}}",
    "a probe": "workflows: [{name: w, steps: [{id: s, http: {url: 'https://x.example'}, on_unknown: {verify: p}}, "
    "{id: p, transform: true}]}]",
    "schedules": WORKFLOW % "schedule: ['0 9 * * *', {cron: '0 9 * * *', zone: Europe/Berlin}]",
    "a priority": WORKFLOW % "priority: 'input.urgent ? 100 : 0'",
    "letters of other scripts": "workflows: [{name: größe}]",
}  # fmt: skip


@pytest.mark.parametrize("text", GOOD.values(), ids=list(GOOD))
def test_what_check_accepts_is_taken(text: str) -> None:
    """The schema refuses nothing that `gateway check` accepts."""
    read_configuration(text)
    assert complaints(text) == []


WRONG = {
    "no mapping": "- a\n",
    "unknown section": "app: []\n",
    "no list": "apps: {name: a}\n",
    "no name": APP.replace("name: a, %s", "id: 1"),
    "a field that isn't": APP % "capabilites: [send]",
    "made by us": APP % "managed_by: file",
    "another word": APP % "capabilities: [recieve]",
    "an unknown preset": APP % "verify: {scheme: githib, secrets: [{env: A}]}",
    "an unknown field of a scheme": APP % "verify: {scheme: github, secret: A}",
    "a secret in the file": APP % "verify: {scheme: github, secrets: [hunter2]}",
    "a sealed secret": APP % "callback: {url: 'https://x.example', secret: {sealed: abc}}",
    "a secret of two kinds": APP % "callback: {url: 'https://x.example', secret: {env: A, file: /a}}",
    "a scheme of nothing": APP % "verify: {secrets: [{env: A}]}",
    "digits as a name": "workflows: [{name: '15'}]",
    "no kind": STEP % "needs: []",
    "two kinds": STEP % "transform: 1, python: 'a:b'",
    "a wrong id": STEP.replace("id: s", "id: 'a b'") % "transform: 1",
    "no duration": STEP % "transform: 1, timeout: soon",
    "a duration backwards": STEP % "transform: 1, timeout: 30m1h",
    "an empty duration": STEP % "transform: 1, timeout: ''",
    "no attempts": STEP % "transform: 1, retry: {attempts: 0}",
    "a wait for nothing": STEP % "wait: {}",
    "a wait for two things": STEP % "wait: {for: 1s, signal: x}",
    "a wait for soon": STEP % "wait: {for: soon}",
    "two bodies": STEP % "http: {url: 'https://x.example', json: 1, body: x}",
    "a status that isn't": STEP % "http: {url: 'https://x.example', expect: [99]}",
    "no model": STEP % "model: {prompt: hi}",
    "prompt and messages": STEP % "model: {model: m, prompt: a, messages: []}",
    "no function": STEP % "python: reviews.judge",
    "a shell's text": STEP % "shell: ls -l",
    "too many at once": STEP % "transform: 1, foreach: [1], parallel: 5000",
    "another conflict": WORKFLOW % "concurrency: {limit: 1, on_conflict: wait}",
    "a gate without limit": WORKFLOW % "concurrency: {key: input.x}",
    "another ending": WORKFLOW % "on: [{workflow: w, status: [done]}]",
    "a schedule without cron": WORKFLOW % "schedule: {zone: UTC}",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=list(WRONG))
def test_what_is_wrong_is_refused(text: str) -> None:
    """Each of these is refused by the schema, and by `gateway check`."""
    assert complaints(text)
    with pytest.raises(Mistakes):
        read_configuration(text)


def test_an_editor_is_told_what_fits() -> None:
    """Presets are a list to choose from, kinds and fields have their words, defaults their values."""
    parts = SCHEMA["$defs"]
    assert {"enum": sorted(ROWS)} in parts["Verification"]["properties"]["scheme"]["anyOf"]
    step = parts["Step"]["properties"]
    assert all("description" in step[kind] or "$ref" in step[kind] for kind in KINDS)
    assert "CEL" in step["when"]["description"]
    assert step["timeout"]["default"] == 300
    assert all(part.get("description") for part in parts.values())


def test_a_path_leads_to_its_fields_and_words() -> None:
    """The fields and words that may stand somewhere are found by the path of a mistake."""
    assert fields_at("workflows[0].steps[3].wait") == ["for", "on_timeout", "signal", "timeout", "until"]
    assert choices_at("workflows[0].steps[3].wait.on_timeout") == ["continue", "fail"]
    assert "github" in choices_at("apps[1].verify.scheme")
    assert fields_at("apps[0].nowhere.at.all") == fields_at("workflows[0].steps[0].with.a") == []
