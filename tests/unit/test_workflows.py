"""Workflows: what a definition may say."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import ConfigError
from gateway.workflows import Seconds, Workflow, digest_of, prepare


def step(step_id: str, *needs: str, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "needs": list(needs), "transform": step_id} | fields


def workflow(*steps: dict[str, Any], **fields: Any) -> Workflow:
    return prepare({"name": "w", "steps": list(steps)} | fields)


def mistake(*steps: dict[str, Any], **fields: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        workflow(*steps, **fields)
    return caught.value


# ---- what may be written


@pytest.mark.parametrize(
    ("steps", "circle"),
    [
        ([step("a", "a")], "a → a"),
        ([step("a", "b"), step("b", "a")], "a → b → a"),
        ([step("z"), step("a", "z", "c"), step("b", "a"), step("c", "b")], "a → c → b → a"),
    ],
)
def test_a_circle_is_refused_and_named(steps: list[dict[str, Any]], circle: str) -> None:
    """Steps that wait for each other are refused, and the message goes round the circle."""
    assert circle in mistake(*steps).message


@pytest.mark.parametrize("order", [1, -1])
def test_a_long_chain_is_no_circle(order: int) -> None:
    """A chain of a thousand steps is read in whatever order it is written."""
    steps = [step(f"s{number}", *([f"s{number - 1}"] if number else [])) for number in range(1000)]
    flow = workflow(*steps[::order])
    assert len(flow.steps) == 1000
    assert flow.last_steps == ["s999"]


@pytest.mark.parametrize(
    ("steps", "path", "words"),
    [
        ([step("a", "b")], "steps[0].needs[0]", "no step of this workflow"),
        ([step("a"), step("a")], "steps[1].id", "two steps"),
        ([{"id": "a"}], "steps[0]", "exactly one of"),
        ([step("a", python="m:f")], "steps[0]", "python and transform"),
        ([step("2a")], "steps[0].id", "can't be used"),
        ([step("a" * 65)], "steps[0].id", "at most 64"),
        ([{"id": "a", "python": "m.f"}], "steps[0].python", "module:function"),
        ([{"id": "a", "python": "os:system('x')"}], "steps[0].python", "module:function"),
        ([step("a", when="steps.b.output == 1"), step("b")], "steps[0].when", "add 'b' to `needs`"),
        ([step("a", transform="${steps.b.output}"), step("b")], "steps[0].transform", "add 'b' to `needs`"),
        ([step("a", when="input.x = 1")], "steps[0].when", "=="),
        ([step("a", transform={"x": ["${input.}"]})], "steps[0].transform.x[0]", ""),
        ([{"id": "a", "http": {"url": "https://x.example", "bdy": "x"}}], "steps[0].http", "bdy"),
        ([{"id": "a", "http": {}}], "steps[0].http", "url"),
        ([step("a", retry={"attempts": 0})], "steps[0].retry.attempts", ">= 1"),
        ([step("a", retry={"attempts": 2, "initial": "soon"})], "steps[0].retry", "soon"),
        ([step("a", needs="b")], "steps[0].needs", "array"),
        ([{"id": "a", "wait": {}}], "steps[0].wait", "exactly one of for, until, signal"),
        ([{"id": "a", "wait": {"for": "1h", "signal": "go"}}], "steps[0].wait", "for and signal"),
        ([{"id": "a", "wait": {"for": "1h", "timeout": "1h"}}], "steps[0].wait.timeout", "only a wait for a signal"),
        ([{"id": "a", "wait": {"for": "soon"}}], "steps[0].wait.for", "not a duration"),
        ([{"id": "a", "wait": {"signal": "approval:b"}}], "steps[0].wait.signal", "without : and /"),
        ([{"id": "a", "approval": {"timeout": "soon"}}], "steps[0].approval.timeout", "not a duration"),
        ([step("a", on_unknown={"verify": "b"})], "steps[0].on_unknown.verify", "no other step"),
        ([step("a", on_unknown={"verify": "b"}), step("b", "a")], "steps[0].on_unknown.verify", "it has no needs"),
    ],
)
def test_a_wrong_step_is_refused_with_its_place(steps: list[dict[str, Any]], path: str, words: str) -> None:
    """Every mistake in a step is refused with the path to it and words that say what to mend."""
    error = mistake(*steps)
    assert error.details["path"] == path
    assert words in error.message


def test_a_timeout_is_a_duration() -> None:
    """`timeout` takes durations as operators write them, and refuses what is none."""
    assert workflow(step("a", timeout="1m30s")).steps["a"].step.timeout == Seconds(90)
    assert "soon" in mistake(step("a", timeout="soon")).message


def test_the_input_schema_names_the_place_of_what_it_refuses() -> None:
    """An input is held against the workflow's JSON Schema; no input counts as an empty object."""
    items = {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}}
    flow = workflow(input={"type": "object", "required": ["rows"], "properties": {"rows": items}})
    assert flow.validator.complaint({"rows": [{"n": 1}]}) is None
    path, reason = flow.validator.complaint({"rows": [{"n": 1}, {"n": "2"}]}) or ("", "")
    assert path == "input.rows[1].n"
    assert "integer" in reason
    assert flow.validator.complaint(None) == ("input", '"rows" is a required property')


def test_without_a_schema_every_input_is_fine() -> None:
    """A workflow that asks for nothing takes anything."""
    assert workflow().validator.complaint([1, None, "x"]) is None


@pytest.mark.parametrize("schema", [{"type": "objet"}, {"$ref": "#/nowhere"}, {"pattern": "("}])
def test_a_schema_that_is_none_is_refused(schema: dict[str, Any]) -> None:
    """A broken JSON Schema is a mistake of the file, found when it is read."""
    assert "no valid JSON Schema" in mistake(input=schema).message


def test_the_digest_names_the_content_and_not_its_order() -> None:
    """Two documents that say the same have one digest, whatever the order of their fields; another has another."""
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert digest_of({"a": "ü"}) != digest_of({"a": "u"})
