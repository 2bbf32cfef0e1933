"""Versions of a workflow: how they are kept, found and compared, and who may define what."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.configuration import read_draft, read_workflows
from gateway.errors import ConfigError, Forbidden, NotFound
from gateway.places import Mistakes
from gateway.versions import (
    LONGEST_LABEL,
    Change,
    Version,
    check_label,
    compare,
    differ,
    draw_difference,
    find_version,
    read_version,
    version_before,
    write_version,
    write_yaml,
)
from gateway.workflows import CODE_KINDS, KINDS, digest_of, read_definition, refuse_code

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab.[", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "steps", "a", "b"]), inner),
    max_leaves=8,
)
THREE = [Version(number=1, digest="a"), Version(number=2, digest="b", label="v2"), Version(number=3, digest="a")]


def step(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "transform": 1} | fields


def flow(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "w", "steps": list(steps)} | fields


# ---- kept and found


def test_a_version_is_read_as_it_was_written() -> None:
    """Number, digest, label and time come back; what was kept before there were labels is the digest alone."""
    version = Version(number=7, digest="0" * 32, label="v{1}", published_at=1_700_000_000_000)
    assert read_version(7, write_version(version)) == version
    assert read_version(2, b"f" * 32) == Version(number=2, digest="f" * 32)


@pytest.mark.parametrize(("wanted", "number"), [("1", 1), (3, 3), ("v2", 2)])
def test_a_version_is_found_by_number_or_label(wanted: str | int, number: int) -> None:
    """Both name one version."""
    assert find_version(THREE, wanted).number == number


@pytest.mark.parametrize("wanted", ["", "4", 0, "None", "V2", "01", "a"])
def test_a_version_that_is_not_there_is_told(wanted: str | int) -> None:
    """Anything else is not found, and the message says which there are."""
    with pytest.raises(NotFound, match="1, 2, 3"):
        find_version(THREE, wanted)


def test_the_first_version_has_none_before_it() -> None:
    """Each version but the first has one before it."""
    assert version_before(THREE, THREE[2]).number == 2
    with pytest.raises(NotFound, match="first"):
        version_before(THREE, THREE[0])


@pytest.mark.parametrize("label", [None, "v1.2.3", "2026-11-26", "x" * LONGEST_LABEL, "grün ✔", "1.0", "a b"])
def test_labels_that_fit(label: str | None) -> None:
    """A label is any short printable text."""
    check_label(label)


@pytest.mark.parametrize(
    "label", ["", " a", "a ", "12", "٣", "a/b", "a\nb", "\x1b[2J", "x" * (LONGEST_LABEL + 1), ".."]
)
def test_labels_that_do_not_fit(label: str) -> None:
    """What could be taken for a number, or can't stand in a path, is refused."""
    with pytest.raises(ConfigError, match="label"):
        check_label(label)


# ---- compared

DIFFERENCES: dict[str, tuple[Any, Any, list[Change]]] = {
    "nothing": (flow(step("a")), flow(step("a")), []),
    "a field": (flow(step("a")), flow(step("a", transform=2)), [Change("steps[a].transform", 1, 2)]),
    "a field added": (flow(), flow(output=1), [Change("output", after=1)]),
    "a field removed": (flow(description="x"), flow(), [Change("description", before="x")]),
    "a step put first": (flow(step("b")), flow(step("a"), step("b")), [Change("steps[a]", after=step("a"))]),
    "a step removed": (flow(step("a"), step("b")), flow(step("b")), [Change("steps[a]", before=step("a"))]),
    "another order": (
        flow(step("a"), step("b")),
        flow(step("b"), step("a")),
        [Change("steps", ["a", "b"], ["b", "a"])],
    ),
    "a list": (
        flow(step("a", needs=["x"])),
        flow(step("a", needs=["y"])),
        [Change("steps[a].needs", ["x"], ["y"])],
    ),
    "a type": ({"a": 1}, {"a": True}, [Change("a", 1, True)]),
    "a type within a list": ({"a": [1]}, {"a": [True]}, [Change("a", [1], [True])]),
    "null is not nothing": ({"a": None}, {}, [Change("a", before=None)]),
    "deep": ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, [Change("a.b.c", 1, 2)]),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_differences(case: str) -> None:
    """Each place that differs is named once, with what it was and is; steps are matched by their ids."""
    before, after, expected = DIFFERENCES[case]
    assert compare(before, after) == expected


@given(VALUES, VALUES)
def test_what_differs_is_told_and_what_does_not_is_not(before: Any, after: Any) -> None:
    """There are changes exactly when the two are another text, and comparing backwards names as many places."""
    found = compare(before, after)
    assert bool(found) == (digest_of(before) != digest_of(after))
    assert {each.path for each in found} == {each.path for each in compare(after, before)}
    assert compare(after, after) == []


def test_a_change_without_before_was_added() -> None:
    """In JSON an added place has no `before`, a removed one no `after`, and null stays null."""
    encoded = [msgspec.json.encode(each) for each in (Change("a", after=None), Change("a", before=1))]
    assert encoded == [b'{"path":"a","after":null}', b'{"path":"a","before":1}']


@given(VALUES, st.randoms())
def test_yaml_does_not_depend_on_the_order_of_fields(value: Any, random: Any) -> None:
    """The same definition in another order is the same text, and that text is the definition."""
    text = write_yaml(value)
    assert yaml.safe_load(text) == value
    assert write_yaml(shuffled(value, random)) == text


def shuffled(value: Any, random: Any) -> Any:
    if isinstance(value, dict):
        names = list(value)
        random.shuffle(names)
        return {name: shuffled(value[name], random) for name in names}
    return [shuffled(each, random) for each in value] if isinstance(value, list) else value


def test_difference_reads_like_a_patch() -> None:
    """The text is a unified diff, fields in the order in which one writes them; without a difference it is empty."""
    before, after = flow(step("a")), flow(step("a", transform=2), description="new")
    found = differ("w", THREE[0], THREE[1], before, after)
    assert found.text == (
        "--- w version 1\n+++ w version 2\n@@ -1,4 +1,5 @@\n"
        " name: w\n+description: new\n steps:\n - id: a\n-  transform: 1\n+  transform: 2\n"
    )
    assert draw_difference(before, before, "x", "y") == ""


# ---- who may define what

CODED = flow({"id": "a", "python": "os:getpid"})


@pytest.mark.parametrize(
    ("document", "admin", "trusted", "fine"),
    [
        (CODED, False, (), False),
        (CODED, True, (), True),
        (CODED, False, ("w",), True),
        (CODED, False, ("W", "w2", ""), False),
        (flow(step("a")), False, (), True),
        (flow(), False, (), True),
    ],
)
def test_who_may_define_what(document: Any, admin: bool, trusted: tuple[str, ...], fine: bool) -> None:
    """Code of this machine is for admins and trusted workflows; anything else is for whoever may write workflows."""
    definition = read_definition(document)
    if fine:
        refuse_code(definition, admin, trusted)
    else:
        with pytest.raises(Forbidden, match=r"steps\[0\]\.python: .*os:getpid.*admin.*GATEWAY_TRUSTED_WORKFLOWS"):
            refuse_code(definition, admin, trusted)


def test_every_kind_that_runs_code_is_one_of_the_kinds() -> None:
    """The kinds that take trust are kinds there are."""
    assert set(KINDS) > CODE_KINDS


# ---- read


def test_every_mistake_has_its_path() -> None:
    """Mistakes in several steps are told together."""
    with pytest.raises(Mistakes) as caught:
        read_draft(flow(step("a", timeout="soon"), step("b", wehn="x")))
    assert [each.path for each in caught.value.mistakes] == ["steps[0].timeout", "steps[1].wehn"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"name": "a", "steps": []}', ["a"]),
        ("name: a\n", ["a"]),
        ("workflows:\n  - name: a\n  - name: b\n", ["a", "b"]),
    ],
)
def test_a_file_holds_one_workflow_or_several(text: str, names: list[str]) -> None:
    """A definition alone, or a list of them, in YAML or JSON."""
    assert [draft.workflow.definition.name for draft in read_workflows(text)] == names


@pytest.mark.parametrize(
    ("text", "line", "path"),
    [
        ("", 1, "file"),
        ("[]", 1, "file"),
        ("workflows: []", 1, "file"),
        ("workflows:\n  - name: a\n  - name: a\n", 3, "workflows[1].name"),
        ("apps:\n  - name: a\nworkflows:\n  - name: a\n", 1, "apps"),
        ("name: a\nsteps:\n  - id: s\n    transfrom: 1\n", 4, "steps[0].transfrom"),
        ("name: a\nstepz: []\n", 2, "stepz"),
        ("name: a\n  b: [\n", 2, "yaml"),
        ("steps: []\n", 1, ""),
    ],
)
def test_mistakes_of_a_file_are_placed(text: str, line: int, path: str) -> None:
    """Each mistake has its line and its field."""
    with pytest.raises(Mistakes) as caught:
        read_workflows(text)
    assert (caught.value.mistakes[0].line, caught.value.mistakes[0].path) == (line, path)
