"""gateway.yaml: every class of mistake is found at its place, and YAML's surprises surprise nobody."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.configuration import Configuration, read_configuration
from gateway.places import Mistake, Mistakes, load_yaml
from gateway.workflows import Seconds

WHOLE = """\
apps:
  - id: 42
    name: ci
    capabilities: [receive, send]
    adapter: direct
    verify: {scheme: orqo, secrets: [{env: CI_SECRET}]}
    callback: {url: "https://ci.example/api/v1/callback", secret: {env: CI_CALLBACK_SECRET}, events: [run.failed]}
  - id: 43
    name: github
    verify: {scheme: github, secrets: [{env: GITHUB_SECRET}]}
    triggers:
      - name: deploys
        when: event.type == "push" && event.body.ref == "refs/heads/main"
        workflow: review
        input: {commit: "${event.body.after}", repo: "${event.body.repository.full_name}"}
workflows:
  - id: 15
    name: review
    description: Review a push
    input: {type: object, required: [commit]}
    steps:
      - id: diff
        http: {url: "https://git.example/api/${input.repo}/commits/${input.commit}"}
        retry: {attempts: 4, initial: 1s, factor: 2, max: 30s, jitter: 0.2}
        timeout: 10s
      - id: judge
        needs: [diff]
        when: steps.diff.output.status == 200
        python: reviews.judge:run
        with: {text: "${steps.diff.output.body}"}
    output: "${steps.judge.output}"
"""
APP = "apps:\n  - name: a\n    verify: none\n"
FLOW = "workflows:\n  - name: w\n    steps:\n      - id: s\n"


def mistakes(text: str) -> list[Mistake]:
    with pytest.raises(Mistakes) as caught:
        read_configuration(text)
    return caught.value.mistakes


def only_mistake(text: str) -> Mistake:
    (found,) = mistakes(text)
    return found


def test_a_whole_file_is_read() -> None:
    """Everything the design page shows can be written, and comes out typed, managed by the file."""
    found = read_configuration(WHOLE)
    assert [(app.id, app.name, app.managed_by) for app in found.apps] == [(42, "ci", "file"), (43, "github", "file")]
    (review,) = found.workflows
    assert (review.definition.id, list(review.steps)) == (15, ["diff", "judge"])
    assert (review.steps["diff"].step.timeout, review.steps["diff"].retry.attempts) == (Seconds(10), 4)
    assert [document["name"] for document in found.documents] == ["review"]


def test_json_is_read_too() -> None:
    """The same file as JSON says the same."""
    assert read_configuration('{"apps": [{"name": "a", "verify": "none"}]}').apps[0].name == "a"


@pytest.mark.parametrize("text", ["", "# only a remark\n", "---\n", "apps:\nworkflows:\n", "\ufeffapps: []\n"])
def test_an_empty_file_says_nothing(text: str) -> None:
    """No text, no sections, and empty sections are all an empty configuration."""
    assert read_configuration(text) == Configuration([], [], [])


# ---- each class of mistake

MISTAKES = {
    "no mapping": ("- a\n", 1, 1, "file", "`apps:` and `workflows:` at the top"),
    "one word": ("hello\n", 1, 1, "file", "`apps:` and `workflows:` at the top"),
    "unknown section": ("app: []\n", 1, 1, "app", "no section 'app'"),
    "section is no list": ("apps:\n  name: a\n", 1, 1, "apps", "expected a list"),
    "app is no mapping": ("apps:\n  - ci\n", 2, 5, "apps[0]", "expected `object`"),
    "missing name": ("apps:\n  - id: 1\n", 2, 5, "apps[0]", "missing required field `name`"),
    "unknown field": (APP + "    capabilites: [send]\n", 4, 5, "apps[0].capabilites", "did you mean `capabilities`?"),
    "wrong type": ("apps:\n  - name: a\n    id: one\n", 3, 5, "apps[0].id", "expected `int`"),
    "wrong choice": (APP + "    capabilities: [receive, sned]\n", 4, 29, "apps[0].capabilities[1]", "sned"),
    "made by us": (APP + "    managed_by: api\n", 4, 5, "apps[0].managed_by", "can't be written in a file"),
    "unknown scheme": ("apps:\n  - name: a\n    verify: {scheme: githib, secrets: [{env: A}]}\n", 3, 0, "", "github"),
    "no secret": ("apps:\n  - name: a\n    verify: {scheme: github}\n", 3, 5, "apps[0].verify", "names no secret"),
    "secret in the file": (
        "apps:\n  - name: a\n    verify: {scheme: github, secrets: [hunter2]}\n",
        3,
        30,
        "apps[0].verify.secrets",
        "{env: NAME}",
    ),
    "wrong condition": (
        APP + "    triggers:\n      - {name: t, when: event.type = 'push', workflow: w}\n",
        5,
        19,
        "apps[0].triggers[0].when",
        "CEL compares with ==",
    ),
    "wrong template": (
        APP + "    triggers:\n      - name: t\n        workflow: w\n        input: {a: '${evnt.body}'}\n",
        7,
        17,
        "apps[0].triggers[0].input.a",
        "event",
    ),
    "wrong dedupe": (APP + "    dedupe: event.body.(id)\n", 4, 5, "apps[0].dedupe", ""),
    "doubled trigger": (
        APP + "    triggers:\n      - {name: t, workflow: w}\n      - {name: t, workflow: w}\n",
        6,
        10,
        "apps[0].triggers[1].name",
        "two triggers",
    ),
    "direct and triggers": (
        APP + "    adapter: direct\n    triggers: [{name: t, workflow: w}]\n",
        5,
        5,
        "apps[0].triggers",
        "can't have triggers",
    ),
    "callback without send": (
        APP + "    capabilities: [receive]\n    callback: {url: 'https://x.example', secret: {env: A}}\n",
        4,
        5,
        "apps[0].capabilities",
        "`send`",
    ),
    "unknown ending": (
        APP + "    callback: {url: 'https://x.example', secret: {env: A}, events: [run.done]}\n",
        4,
        69,
        "apps[0].callback.events[0]",
        "run.done",
    ),
    "unknown step field": (FLOW + "        tranform: 1\n", 5, 9, "workflows[0].steps[0].tranform", "`transform`?"),
    "no kind": (FLOW, 4, 9, "workflows[0].steps[0]", "exactly one of"),
    "unknown need": (
        FLOW + "        transform: 1\n        needs: [t]\n",
        6,
        17,
        "workflows[0].steps[0].needs[0]",
        "no step of this workflow",
    ),
    "circle": (FLOW + "        transform: 1\n        needs: [s]\n", 3, 5, "workflows[0].steps", "s → s"),
    "wrong schema": ("workflows:\n  - name: w\n    input: {type: objet}\n", 3, 5, "workflows[0].input", "JSON Schema"),
    "unknown workflow": (
        APP + "    triggers: [{name: t, workflow: revew}]\nworkflows:\n  - name: review\n",
        4,
        26,
        "apps[0].triggers[0].workflow",
        "did you mean 'review'?",
    ),
    "doubled app": (APP + "  - name: a\n    verify: none\n", 4, 5, "apps[1].name", "'a' is used twice"),
    "doubled app id": ("apps:\n  - {name: a, id: 1}\n  - {name: b, id: 1}\n", 3, 15, "apps[1].id", "1 is used twice"),
    "doubled workflow": ("workflows:\n  - name: w\n  - name: w\n", 3, 5, "workflows[1].name", "'w' is used twice"),
    "doubled token": ("apps:\n  - {name: a, token: t}\n  - {name: b, token: t}\n", 3, 15, "apps[1].token", "twice"),
    "id below one": ("apps:\n  - {name: a, id: -4}\n", 2, 15, "apps[0].id", ">= 0"),
    "id beyond a number": ("workflows:\n  - {name: w, id: 9999999999999999999}\n", 2, 15, "workflows[0].id", "<="),
    "empty name": ("apps:\n  - name: ''\n", 2, 5, "apps[0].name", "length >= 1"),
    "empty workflow name": ("workflows:\n  - name: ''\n", 2, 5, "workflows[0].name", "length >= 1"),
    "no room for a body": (APP + "    max_body: 0\n", 4, 5, "apps[0].max_body", ">= 1"),
}


@pytest.mark.parametrize(("text", "line", "column", "path", "words"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_found_at_its_line_and_column(text: str, line: int, column: int, path: str, words: str) -> None:
    """Each class of mistake is told with its line, its column, the field, and what to do."""
    found = only_mistake(text)
    assert words in found.message
    assert found.line == line
    assert column in (0, found.column)
    assert path in ("", found.path)


def test_all_mistakes_are_told_at_once_in_order() -> None:
    """One reading finds what is wrong with every app, workflow and step, from the top down."""
    text = "apps:\n  - {name: a, id: x}\n  - {name: b, tokn: y}\nworkflows:\n  - name: w\n    steps:\n"
    text += "      - {id: s, timeout: soon, transform: 1}\n      - {id: t, ned: [s], transform: 1}\n"
    assert [mistake.line for mistake in mistakes(text)] == [2, 3, 7, 8]


def test_a_mistake_prints_as_one_line() -> None:
    """An operator reads line, column, field and message; nothing else stands there."""
    assert (
        str(only_mistake("app: []\n"))
        == "line 1, column 1: app: there is no section 'app' (sections: apps, workflows, endpoints)"
    )


# ---- YAML's own surprises


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("apps:\n\t- name: a\n", 2, "token"),
        ("apps: [\n", 2, ""),
        ("apps: *nothing\n", 1, "undefined alias"),
        ("apps: []\n---\napps: []\n", 2, "another document"),
        ("apps:\n  - name: 'a\n", 3, ""),
        ("apps:\n  - name: a\0\n", 1, "control characters"),
        ("apps:\n  - name: '\ud800'\n", 1, ""),
        ("apps:\n  - {name: a, id: !!int x}\n", 2, "can't be read"),
    ],
)
def test_what_is_no_yaml_is_a_mistake(text: str, line: int, words: str) -> None:
    """Text that YAML can't read, a tab or a second document among it, is one mistake at its line."""
    found = only_mistake(text)
    assert found.line == line
    assert words in found.message


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("apps:\n  - name: a\n    verify: none\n    name: b\n", 4, 5),
        ("apps: []\napps: []\n", 2, 1),
        ("workflows:\n  - name: w\n    steps: [{id: s, transform: {1: x, '1': y}}]\n", 3, 39),
    ],
)
def test_a_key_written_twice_is_a_mistake(text: str, line: int, column: int) -> None:
    """YAML would silently take the last of two equal keys; here the second is a mistake, also as number and text."""
    found = only_mistake(text)
    assert (found.line, found.column) == (line, column)
    assert "written twice" in found.message


def test_keys_are_text_whatever_yaml_makes_of_them() -> None:
    """`on`, `yes`, `no`, `null` and numbers as keys stay what is written, and are no truth values."""
    text = FLOW + "        transform: {on: 1, yes: 2, no: 3, null: 4, 5: 6, 1.50: 7, 2020-01-01: 8}\n"
    (flow,) = read_configuration(text).workflows
    assert flow.steps["s"].argument.render({}) == {
        "on": 1,
        "yes": 2,
        "no": 3,
        "null": 4,
        "5": 6,
        "1.50": 7,
        "2020-01-01": 8,
    }


@pytest.mark.parametrize(
    ("text", "column"),
    [("apps:\n  - {[a]: b, name: a}\n", 6), ("apps:\n  - {{a: b}: c, name: a}\n", 6), ("? [a]\n: b\n", 3)],
)
def test_a_key_that_is_no_text_is_a_mistake(text: str, column: int) -> None:
    """A list or a mapping as a key is told as such, at its place."""
    found = only_mistake(text)
    assert "a key must be plain text" in found.message
    assert found.column == column


def test_dates_stay_text() -> None:
    """A value that looks like a date is the text that is written, which JSON can hold."""
    (flow,) = read_configuration(FLOW + "        transform: [2020-01-01, 2020-01-01T10:00:00Z]\n").workflows
    assert flow.steps["s"].argument.render({}) == ["2020-01-01", "2020-01-01T10:00:00Z"]


def test_a_tag_makes_no_object() -> None:
    """A tag that asks for a Python object gives plain data, and runs nothing."""
    assert load_yaml("a: !!python/object/apply:os.getpid []")[0] == {"a": []}
    assert load_yaml("a: !!python/name:os.system ''")[0] == {"a": ""}


def test_an_anchor_may_be_used_again() -> None:
    """What is written once with an anchor stands wherever its alias stands."""
    text = (
        "workflows:\n  - name: w\n    steps:\n      - {id: s, transform: &x {a: 1}}\n      - {id: t, transform: *x}\n"
    )
    (flow,) = read_configuration(text).workflows
    assert flow.steps["t"].argument.render({}) == {"a": 1}


def test_an_anchor_bomb_is_refused() -> None:
    """Aliases of aliases that would fill the memory are refused after a bounded number of values."""
    letters = "abcdefghij"
    lines = [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in itertools.pairwise(letters)]
    assert "more than 200000 values" in only_mistake("a: &a [x, x, x]\n" + "\n".join(lines)).message


@pytest.mark.parametrize(
    "text",
    [
        "apps: &x [*x]\n",
        "apps: &x {a: *x}\n",
        "apps: " + "[" * 200_000 + "]" * 200_000,
        "apps: " + "{a: " * 200_000 + "}" * 200_000,
    ],
    ids=["a list in itself", "a mapping in itself", "deep lists", "deep mappings"],
)
def test_what_is_nested_without_end_is_refused(text: str) -> None:
    """A value that holds itself, or is nested deeper than anyone writes, is a mistake and no crash."""
    assert "nested too deeply" in only_mistake(text).message


@given(st.text(alphabet="apswork:flows- []{}&*!|>'\"#%@\n\t0123456789", max_size=80))
def test_any_text_is_read_or_refused_with_places(text: str) -> None:
    """Whatever stands in the file, the answer is a configuration or mistakes with a line and a column."""
    found: list[Mistake] = []
    try:
        read_configuration(text)
    except Mistakes as error:
        found = error.mistakes
    assert all(mistake.line >= 1 and mistake.column >= 1 for mistake in found)
