"""Why a condition held or did not: every form of an expression, and that no secret is ever among the reasons."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.cel.fragments import hide_literals, take_apart
from gateway.cel.scopes import Scope
from gateway.explanations import MOST_FINDINGS, explain_condition
from gateway.expressions import Failure, compile_expression
from gateway.masks import HIDDEN, Mask

BODY = {
    "ref": "refs/heads/dev",
    "n": 3,
    "labels": ["a", "b"],
    "draft": False,
    "user": {"name": "x", "password": "open sesame"},
    "token": "hunter22",
    "nothing": None,
    "long": "y" * 1000,
}
EVENT = {"id": "evt_1", "type": "push", "delivery_id": None, "headers": {}, "body": BODY}
VALUES: dict[str, Any] = {"event": EVENT, "app": {"id": 1, "name": "ci"}}
NONE = Mask()

REASONS = {
    'event.type == "push" && event.body.ref == "refs/heads/main"': [
        'event.body.ref == "refs/heads/main" is false: event.body.ref is "refs/heads/dev"'
    ],
    'event.type == "tag" || event.body.n > 5': [
        'event.type == "tag" is false: event.type is "push"',
        "event.body.n > 5 is false: event.body.n is 3",
    ],
    "!(event.body.n == 3)": ["event.body.n == 3 is true: event.body.n is 3"],
    "!(event.body.draft || event.body.n == 3)": ["event.body.n == 3 is true: event.body.n is 3"],
    "event.body.draft": ["event.body.draft is false"],
    "event.body.draft ? true : event.body.n in [1, 2]": [
        "event.body.draft is false",
        "event.body.n in [1, 2] is false: event.body.n is 3",
    ],
    "event.body.n != 3": ["event.body.n != 3 is false: event.body.n is 3"],
    "event.body.n < 3 && event.body.n <= 2 && event.body.n >= 4": [
        "event.body.n < 3 is false: event.body.n is 3",
        "event.body.n <= 2 is false: event.body.n is 3",
        "event.body.n >= 4 is false: event.body.n is 3",
    ],
    "size(event.body.labels) > 3": ["size(event.body.labels) > 3 is false: size(event.body.labels) is 2"],
    'event.body.labels.exists(l, l == "c" && l != "d")': [
        'event.body.labels.exists(l, l == "c" && l != "d") is false: event.body.labels is ["a","b"]'
    ],
    'event.body.ref.startsWith("refs/tags/")': [
        'event.body.ref.startsWith("refs/tags/") is false: event.body.ref is "refs/heads/dev"'
    ],
    "has(event.body.zip)": ["has(event.body.zip) is false: event.body.zip is not there"],
    'event.body[?"zip"].orValue("a") == "b"': [
        'event.body[?"zip"].orValue("a") == "b" is false: event.body[?"zip"].orValue("a") is "a"'
    ],
    '"a || b" == event.type': ['"a || b" == event.type is false: event.type is "push"'],
    'event.type == "tag" // or || not': ['event.type == "tag" is false: event.type is "push"'],
    "event.body.nope == 1 && event.body.n == 3": ['event.body.nope == 1 can\'t be judged: no such key "nope"'],
    "event.body.n": ["event.body.n can't be judged: it is neither true nor false"],
    "event.body.n ? true : false": ["event.body.n can't be judged: it is neither true nor false"],
    "event.body.user == {}": ['event.body.user == {} is false: event.body.user is {"name":"x","password":"•••"}'],
    'event.body.token == "hunter23"': ["event.body.token == ••• is false: event.body.token is •••"],
    "event.body.long == ''": [f"event.body.long == '' is false: event.body.long is \"{'y' * 118}…"],
}


@pytest.mark.parametrize("condition", REASONS)
def test_each_form_is_explained(condition: str) -> None:
    """Every operator is taken apart, and what is blamed is what decided: with its value, or why it has none."""
    assert [finding.text for finding in explain_condition(condition, VALUES, NONE)] == REASONS[condition]


def test_a_condition_that_holds_is_explained_too() -> None:
    """Of what is true, the parts are named that made it so."""
    found = explain_condition('event.type == "push" && (event.body.draft || event.body.n == 3)', VALUES, NONE)
    assert [(each.expression, each.outcome) for each in found] == [
        ('event.type == "push"', "true"),
        ("event.body.n == 3", "true"),
    ]


def test_a_known_secret_is_taken_out_wherever_it_stands() -> None:
    """A secret that a sender puts into a field of any name, or an operator into a condition, is not shown."""
    values = {"event": EVENT | {"body": {"note": 'it is s3cr"et!', 's3cr"et!': 1}}}
    mask = Mask(['s3cr"et!'])
    shown = msgspec.json.encode(explain_condition("event.body.note == 's3cr\"et!'", values, mask)).decode()
    assert HIDDEN in shown
    assert "s3cr" not in shown
    assert "s3cr" not in mask.shown(values)


def test_short_secrets_and_numbers_are_masked() -> None:
    """A secret that came as a number is masked as well; one of a few letters is not looked for."""
    assert Mask(["123456"]).shown({"pin": 123456}) == '{"pin":•••}'
    assert Mask(["abc"]).shown("abcdef") == '"abcdef"'


def test_headers_that_may_hold_secrets_are_hidden() -> None:
    """Authorization, cookies and what is named like a secret are hidden; a signature's header is not."""
    given_headers = [("authorization", "Basic eA=="), ("x-gitlab-token", "t"), ("x-sig", "ab"), ("cookie", "a=b")]
    assert NONE.headers(given_headers, ["x-sig"]) == [
        ("authorization", HIDDEN), ("x-gitlab-token", HIDDEN), ("x-sig", "ab"), ("cookie", HIDDEN),
    ]  # fmt: skip


def test_texts_are_not_taken_for_signs() -> None:
    """Quotes of every kind, raw ones too, hold signs that are none."""
    for text in ('"a && b"', "'a || b'", '"""a ? "b" : c"""', "b'!x'", r'"\" && "'):
        assert take_apart(f"event.type == {text}").kind == "relation", text
    assert hide_literals("a == 'x' && b == \"y\"", "#") == "a == # && b == #"


def test_many_reasons_are_cut() -> None:
    """A long condition gives so many reasons and no more."""
    condition = " && ".join(f"event.body.n == {number}" for number in range(100, 130))
    assert len(explain_condition(condition, VALUES, NONE)) == MOST_FINDINGS


# ---- whatever comes

NAMES = st.sampled_from(["ref", "n", "labels", "draft", "user", "nothing", "zip"])
ATOMS = st.one_of(
    NAMES.map(lambda name: f"event.body.{name}"),
    NAMES.map(lambda name: f"has(event.body.{name})"),
    st.sampled_from(["true", "false", "1", "'a || b'", "[1, 2]", "event.type", "size(event.body.labels)"]),
)


def _joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = st.sampled_from(["&&", "||", "==", "!=", "<", ">=", "in"])
    return st.one_of(
        st.tuples(parts, signs, parts).map(lambda three: f"({three[0]} {three[1]} {three[2]})"),
        parts.map(lambda part: f"!({part})"),
        st.tuples(parts, parts, parts).map(lambda three: f"({three[0]} ? {three[1]} : {three[2]})"),
    )


CONDITIONS = st.recursive(ATOMS, _joined, max_leaves=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
DATA = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CONDITIONS, st.fixed_dictionaries({}, optional=dict.fromkeys(["ref", "n", "labels", "user"], DATA)))
def test_explaining_never_raises_and_agrees_with_the_engine(condition: str, body: dict[str, Any]) -> None:
    """Whatever the condition and the event, there is an explanation; and what it is taken into is what it was."""
    values = {"event": EVENT | {"body": body}, "app": {}}
    try:
        expression = compile_expression(condition, Scope.TRIGGER)
    except Exception:  # what does not compile never became a trigger
        return
    found = explain_condition(condition, values, NONE)
    assert found
    assert all(each.text and len(each.expression) <= 300 for each in found)
    if isinstance(expression.evaluate(values), Failure):
        assert any(each.outcome == "error" for each in found)


def test_what_fails_only_as_a_whole_says_so() -> None:
    """Each part can be judged alone, and the engine still refuses the whole for a number in the branch not taken."""
    body = {"n": True, "ref": -(2**63) - 1}
    found = explain_condition("event.body.n ? event.body.n : event.body.ref", {"event": EVENT | {"body": body}}, NONE)
    assert found[0].outcome == "error"
    assert "beyond 64 bits" in found[0].text


# Letters that stand in none of our words, and what JSON and CEL write in other ways.
SECRETS = st.text("ABCXYZ0189\"\\'\n\té•{}", min_size=5, max_size=30).map(lambda text: f"Q{text}")


@settings(max_examples=150, deadline=None)
@given(SECRETS, DATA, NAMES)
def test_no_explanation_shows_a_secret(secret: str, other: Any, name: str) -> None:
    """However a known secret stands in the event, alone, within text, as a key, or cut: no explanation shows it."""
    body = {"ref": secret, "n": f"a{secret}b", "labels": [secret, other], "user": {"x": {secret: secret}}, "zip": other}
    written = msgspec.json.encode(secret).decode()[1:-1]
    for condition in (f"event.body.{name} == 'x'", f"size(event.body.{name}) == 77", f"event.body.{name}"):
        found = explain_condition(condition, {"event": EVENT | {"body": body}}, Mask([secret]))
        shown = [each.text for each in found] + [read.value for each in found for read in each.reads]
        assert not [text for text in shown if secret in text or written in text]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_taken_apart(text: str) -> None:
    """Text that is no expression at all is taken apart without a complaint, and hidden literals leave the rest."""
    assert take_apart(text).text in text
    assert isinstance(hide_literals(text, HIDDEN), str)
