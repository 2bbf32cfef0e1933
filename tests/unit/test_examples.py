"""What people copy works: the files in deploy/examples, and every piece of YAML in the README."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gateway.configuration import read_configuration
from gateway.places import load_yaml
from gateway.workflows import KINDS, UNSET

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "deploy" / "examples").glob("*.yaml"))
PIECES = [textwrap.dedent(piece) for piece in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)]
PIECES = [piece for piece in PIECES if load_yaml(piece)[0] is not None]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_has_no_mistake(path: Path) -> None:
    """`gateway check` finds nothing in it, and it has apps and workflows."""
    found = read_configuration(path.read_text())
    assert found.apps
    assert found.workflows


def test_the_examples_show_every_way_to_wait_and_to_begin() -> None:
    """Between them: approval, wait, items, another workflow, a probe, a clock, a chain and a limit."""
    workflows = [each for path in EXAMPLES for each in read_configuration(path.read_text()).workflows]
    steps = [step for each in workflows for step in each.definition.steps]
    assert {"approval", "wait", "workflow", "shell", "http", "transform"} <= {step.kind for step in steps} <= set(KINDS)
    assert any(step.foreach is not None for step in steps)
    assert any(each.probes for each in workflows)
    assert any(each.definition.schedule is not UNSET for each in workflows)
    assert any(each.definition.on for each in workflows)
    assert any(each.definition.concurrency for each in workflows)


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.strip().splitlines()[0][:40])
def test_what_the_readme_shows_has_no_mistake(piece: str) -> None:
    """Each piece, put where it belongs, is what `gateway check` takes."""
    read_configuration(json.dumps(_completed(load_yaml(piece)[0])))


def _completed(piece: Any) -> dict[str, Any]:
    """A whole file around a piece: steps and callbacks in what holds them, and the workflows that it only names."""
    if isinstance(piece, list):
        piece = {"workflows": [{"name": "of the piece", "steps": piece}]}
    if "callback" in piece:
        piece = {"apps": [{"id": 1, "name": "of the piece", "verify": "none"} | piece]}
    rules = [rule for app in piece.get("apps", []) for rule in app.get("triggers", [])]
    rules += [rule for each in piece.get("workflows", []) for rule in each.get("on", [])]
    known = {each["name"] for each in piece.get("workflows", [])}
    named = [{"name": name} for name in sorted({rule["workflow"] for rule in rules} - known)]
    return piece | {"workflows": [*piece.get("workflows", []), *named]}
