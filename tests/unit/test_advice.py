"""Warnings: what is right in a gateway.yaml and may still not be what was meant."""

from __future__ import annotations

import pytest

from gateway.advice import warn, warn_of_children, warn_of_references
from gateway.configuration import read_configuration

CHILD = "workflows:\n  - {name: w, id: 7, steps: [{id: s, workflow: {name: %s}}]}\n  - {name: other, id: 8}\n"
STEP = "workflows: [{name: w, steps: [{id: s, %s}]}]"


@pytest.mark.parametrize("name", ["other", "8", "'8'", "'${input.which}'"])
def test_a_workflow_of_this_file_is_no_surprise(name: str) -> None:
    """A child that is named by name, by id or by an expression is no matter for a warning."""
    assert warn(read_configuration(CHILD % name)) == []


def test_a_workflow_that_is_not_in_this_file_is_a_warning() -> None:
    """It may be published by API, so it is no mistake; it may be misspelt, so it is said."""
    (warning,) = warn_of_children(read_configuration(CHILD % "othr"))
    assert "step 's' starts the workflow 'othr', which is not in this file" in warning


@pytest.mark.parametrize(
    ("step", "field"),
    [
        ("python: 'a:b', with: {key: {env: API_KEY}}", "with"),
        ("transform: [{file: /run/secrets/key}]", "transform"),
        ("http: {url: 'https://x.example', query: {k: {env: API_KEY}}}", "http.query"),
        ("http: {url: 'https://x.example', json: {a: [{env: API_KEY}]}}", "http.json"),
        ("http: {url: 'https://x.example', form: {a: {env: API_KEY}}}", "http.form"),
        ("workflow: {name: w, input: {key: {env: API_KEY}}}", "workflow.input"),
        ("model: {model: m, messages: [{role: user, content: {env: API_KEY}}]}", "model.messages"),
    ],
)
def test_a_reference_where_no_secret_is_put_in_is_a_warning(step: str, field: str) -> None:
    """`{env: NAME}` in a field that is plain data would be sent as it is written."""
    (warning,) = warn_of_references(read_configuration(STEP % step))
    assert f"in `{field}`" in warning


@pytest.mark.parametrize(
    "step",
    [
        "python: 'a:b', with: {env: production}",
        "transform: {env: API_KEY, more: 1}",
        "http: {url: 'https://x.example', bearer: {env: API_KEY}, headers: {x: {file: /run/key}}}",
        "shell: {argv: [ls], env: {KEY: {env: API_KEY}}}",
    ],
)
def test_what_is_data_or_a_secret_is_no_surprise(step: str) -> None:
    """Data that only looks alike, and references where they belong, are no matter for a warning."""
    assert warn_of_references(read_configuration(STEP % step)) == []
