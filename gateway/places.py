"""YAML with the place of everything in it, so that each mistake is shown where it stands. Silent."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

from gateway.errors import ConfigError

Marks = dict[str, tuple[int, int]]
"""Where each value stands, by its path: line and column from 1."""
MOST_NODES = 200_000
MOST_LEVELS = 100
TOO_DEEP = f"it is nested too deeply: more than {MOST_LEVELS} levels"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Mistake(msgspec.Struct, frozen=True):
    """Something wrong in the file: where (line and column from 1, the field), and what to do about it."""

    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.path}: {self.message}"


class Mistakes(ConfigError):
    """The file can't be used."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


def load_yaml(text: str) -> tuple[Any, Marks]:
    """Plain data, and where each path of it stands. Keys are text; a key written twice is a mistake."""
    try:
        _check_levels(text)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise Mistakes([Mistake(line, column, "yaml", _reason_of(error))]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise Mistakes([Mistake(1, 1, "yaml", str(error).splitlines()[0])]) from None
    marks: Marks = {"": (1, 1)}
    return (None if node is None else _Builder(marks).build(node, "", 1)), marks


def _check_levels(text: str) -> None:
    # Composing calls itself for each level and would overflow the stack; parsing does not.
    level = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            level += 1
            if level > MOST_LEVELS:
                raise _too_deep(event, "yaml")
        elif isinstance(event, yaml.CollectionEndEvent):
            level -= 1


def _reason_of(error: yaml.MarkedYAMLError) -> str:
    # Newer scanners count levels themselves, and read ahead of what we count.
    return TOO_DEEP if "nesting depth" in (error.problem or "") else error.problem or "can't be read"


def _too_deep(place: yaml.Event | yaml.Node, path: str) -> Mistakes:
    return Mistakes([Mistake(*_place(place), path, TOO_DEEP)])


class _Builder:
    """Turns YAML's nodes into plain data and notes where each stands."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._scalars = yaml.SafeLoader("")

    def build(self, node: yaml.Node, path: str, level: int) -> Any:
        self._marks.setdefault(path, _place(node))
        if len(self._marks) > MOST_NODES:
            raise Mistakes([Mistake(*_place(node), path, f"the file has more than {MOST_NODES} values")])
        if level > MOST_LEVELS:
            raise _too_deep(node, path)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, level)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(each, f"{path}[{index}]", level + 1) for index, each in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: str, level: int) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise Mistakes([Mistake(*_place(key_node), path or "file", "a key must be plain text")])
            key = str(key_node.value)
            where = f"{path}.{key}" if path else key
            if key in built:
                raise Mistakes([Mistake(*_place(key_node), where, f"{key!r} is written twice")])
            self._marks[where] = _place(key_node)
            built[key] = self.build(value_node, where, level + 1)
        return built

    def _scalar(self, node: yaml.Node, path: str) -> Any:
        if node.tag not in (
            "tag:yaml.org,2002:null",
            "tag:yaml.org,2002:bool",
            "tag:yaml.org,2002:int",
            "tag:yaml.org,2002:float",
        ):
            return str(node.value)
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError):
            raise Mistakes([Mistake(*_place(node), path, f"{node.value!r} can't be read")]) from None


def _place(part: yaml.Node | yaml.Event) -> tuple[int, int]:
    assert part.start_mark is not None
    return part.start_mark.line + 1, part.start_mark.column + 1


def make_mistake(message: str, path: str, marks: Marks) -> Mistake:
    place = path
    while place and place not in marks:
        place = place[: max(place.rfind("."), place.rfind("["), 0)]
    return Mistake(*marks.get(place, (1, 1)), path, message)
