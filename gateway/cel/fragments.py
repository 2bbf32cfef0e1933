"""An expression taken apart into the expressions it is made of, each as it was written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct

Kind = Literal["or", "and", "not", "choice", "relation", "leaf"]

# Literals first, for anything may stand in one; then what is longer than a sign.
_TOKEN = re.compile(
    r"""\s+|//[^\n]*
    |(?P<token>
        [bB]?[rR][bB]?(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*')
        |[bB]?(?:\"{3}(?:\\.|.)*?\"{3}|'{3}(?:\\.|.)*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
        |[A-Za-z_]\w*|&&|\|\||==|!=|<=|>=|\.\?|\[\?|\{\?|.
    )""",
    re.VERBOSE | re.DOTALL,
)
_LITERAL = re.compile(r"""[bBrR]{0,2}["']""")
_OPEN, _CLOSE = frozenset({"(", "[", "{", "[?", "{?"}), frozenset({")", "]", "}"})
_RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in"})
MOST_LEVELS = 64


class Fragment(Struct, frozen=True):
    """A part of an expression: its text, and the parts that decide its value, where there are any.

    A `choice` has the condition and both branches, a `relation` its two sides. A `leaf` is not taken apart further.
    """

    kind: Kind
    text: str
    parts: tuple[Fragment, ...] = ()


class _Token(Struct, frozen=True):
    text: str
    start: int
    end: int
    depth: int


_Groups = tuple[Kind, list[Sequence[_Token]]]


def take_apart(source: str) -> Fragment:
    """The parts of an expression that compiles. What is written in a way that is not foreseen is a leaf."""
    return _read(source, _tokens(source), 0)


def hide_literals(source: str, mask: str) -> str:
    """The expression with another text in place of each text that is written out in it."""
    pieces, at = [], 0
    for token in _tokens(source):
        if _LITERAL.match(token.text):
            pieces += [source[at : token.start], mask]
            at = token.end
    return "".join((*pieces, source[at:]))


def _tokens(source: str) -> list[_Token]:
    found, depth = [], 0
    for match in _TOKEN.finditer(source):
        text = match["token"]
        if text is None:
            continue
        depth -= text in _CLOSE
        found.append(_Token(text, match.start("token"), match.end("token"), depth))
        depth += text in _OPEN
    return found


def _read(source: str, tokens: Sequence[_Token], level: int) -> Fragment:
    tokens = _unwrap(tokens)
    if not tokens or level > MOST_LEVELS:
        return Fragment("leaf", _text(source, tokens))
    for split in (_choice, _sides("or", "||"), _sides("and", "&&"), _relation, _negation):
        kind, groups = split(tokens)
        if groups and all(groups):
            parts = tuple(_read(source, group, level + 1) for group in groups)
            return Fragment(kind, _text(source, tokens), parts)
    return Fragment("leaf", _text(source, tokens))


def _choice(tokens: Sequence[_Token]) -> _Groups:
    question = _first(tokens, "?")
    if question is None:
        return "choice", []
    nested = 0
    for place in range(question + 1, len(tokens)):
        if tokens[place].depth != tokens[0].depth:
            continue
        nested += tokens[place].text == "?"
        if tokens[place].text == ":":
            if not nested:
                return "choice", [tokens[:question], tokens[question + 1 : place], tokens[place + 1 :]]
            nested -= 1
    return "choice", []


def _sides(kind: Kind, sign: str) -> Callable[[Sequence[_Token]], _Groups]:
    def split(tokens: Sequence[_Token]) -> _Groups:
        places = [place for place, each in enumerate(tokens) if each.text == sign and each.depth == tokens[0].depth]
        if not places:
            return kind, []
        edges = [-1, *places, len(tokens)]
        return kind, [tokens[low + 1 : high] for low, high in itertools.pairwise(edges)]

    return split


def _relation(tokens: Sequence[_Token]) -> _Groups:
    # Relations stand to the left of each other: the last one is the one that is asked last.
    places = [
        place
        for place, each in enumerate(tokens)
        if each.text in _RELATIONS and each.depth == tokens[0].depth and place
    ]
    return "relation", [tokens[: places[-1]], tokens[places[-1] + 1 :]] if places else []


def _negation(tokens: Sequence[_Token]) -> _Groups:
    return "not", [tokens[1:]] if tokens[0].text == "!" else []


def _first(tokens: Sequence[_Token], sign: str) -> int | None:
    places = (place for place, each in enumerate(tokens) if each.text == sign and each.depth == tokens[0].depth)
    return next(places, None)


def _unwrap(tokens: Sequence[_Token]) -> Sequence[_Token]:
    """Without the brackets that stand round all of it."""
    while len(tokens) > 2 and tokens[0].text == "(" and _closing(tokens) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def _closing(tokens: Sequence[_Token]) -> int:
    depth = tokens[0].depth
    places = (place for place, each in enumerate(tokens) if each.text == ")" and each.depth == depth)
    return next(places, -1)


def _text(source: str, tokens: Sequence[_Token]) -> str:
    return source[tokens[0].start : tokens[-1].end] if tokens else ""
