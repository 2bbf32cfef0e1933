"""Names that stand twice in one object of JSON: found wherever they are, told by line and column, and quickly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contents import read_direct, read_json
from gateway.duplicates import find_duplicate, has_duplicate
from gateway.errors import BadRequest

NAMES = st.sampled_from(["a", "b", 'q"', "\\", "é", "{", "[", ":", "a:", ""])
VALUES = st.recursive(
    st.none() | st.integers() | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(NAMES, inner), max_size=4).map(tuple),
    max_leaves=25,
)


def write(value: Any) -> str:
    """JSON of a value in which an object is a tuple of pairs, so that a name may stand in it twice."""
    if isinstance(value, tuple):
        return "{" + ", ".join(f"{json.dumps(name)} : {write(each)}" for name, each in value) + "}"
    return "[" + ",".join(map(write, value)) + "]" if isinstance(value, list) else json.dumps(value)


def doubles(value: Any) -> bool:
    """Whether any object in it has a name twice, seen in the simplest way."""
    if isinstance(value, tuple):
        names = [name for name, _ in value]
        return len(set(names)) < len(names) or any(doubles(each) for _, each in value)
    return isinstance(value, list) and any(map(doubles, value))


@given(VALUES)
def test_a_name_that_stands_twice_is_found_wherever_it_is(value: Any) -> None:
    """Both looks agree with the plain one: at any depth, within lists, whatever characters a name has."""
    text = write(value)
    assert has_duplicate(text.encode()) == doubles(value)
    assert has_duplicate(text.encode(), json.loads(text)) == doubles(value)
    assert (find_duplicate(text.encode()) is not None) == doubles(value)


@pytest.mark.parametrize(
    ("body", "name", "line", "column"),
    [
        (b'{"workflow_id": 15, "workflow_id": 16}', "workflow_id", 1, 21),
        (b'{"workflow_id": 15,\n "else": [1, {"b": 1,\n  "b": 2}]}', "b", 3, 3),
        (b'{"workflow_id": 15, "a": 1, "\\u0061": 2}', "a", 1, 29),
        (b'{"workflow_id": 15, "a": "\\"a\\":", "b": {"a": 1}, "a" : 2}', "a", 1, 51),
        (b'{"workflow_id": 15, "a": "\\u003a", "a": 1}', "a", 1, 36),
        (b'{"workflow_id": 15, "a": 1, "a": "\\u003A"}', "a", 1, 29),
        (b'{"__proto__": 1, "workflow_id": 15, "__proto__": 2}', "__proto__", 1, 37),
    ],
)
def test_a_name_that_stands_twice_is_refused_with_its_place(body: bytes, name: str, line: int, column: int) -> None:
    """The body is refused, also where nobody would read that field, and the answer says name, line and column."""
    for read in (read_json, read_direct):
        with pytest.raises(BadRequest) as caught:
            read(body)
        assert (caught.value.details["line"], caught.value.details["column"]) == (line, column)
        assert f"{name!r} twice" in caught.value.message


@pytest.mark.parametrize("bad", [b"NaN", b"-Infinity", b'"\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b"01", b'"a\x01"'])
def test_what_parsers_differ_in_is_refused_in_fields_nobody_reads(bad: bytes) -> None:
    """No number, half a character, and bytes that are not UTF-8 are refused in any field, with line and column."""
    for body in (b'{"workflow_id": 15, "else": ' + bad + b"}", b'{"workflow_id": 15, "metadata": {"a": ' + bad + b"}}"):
        for read in (read_json, read_direct):
            with pytest.raises(BadRequest) as caught:
                read(body)
            assert caught.value.details["line"] == 1


def test_an_app_s_own_depth_is_held() -> None:
    """Where an app says how many levels it takes, one more is refused, and the answer says how many it takes."""
    assert read_json(b'{"a": [1]}', 2) == {"a": [1]}
    with pytest.raises(BadRequest, match="more than 2 levels"):
        read_json(b'{"a": [[1]]}', 2)
