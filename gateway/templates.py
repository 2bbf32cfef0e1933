"""Templates: JSON-like values whose strings hold `${…}`. Compiled once, when configuration is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from gateway.cel.messages import Mistake, is_name, quote, shorten
from gateway.cel.scopes import Scope
from gateway.cel.values import encode
from gateway.expressions import MAX_LENGTH, Expression, Failure, refuse, try_compile

MAX_TEMPLATE_DEPTH = 100


class Template:
    """A compiled template; make one with `compile_template`. `expressions` are in order of appearance."""

    __slots__ = ("_is_constant", "_root", "expressions", "steps")

    def __init__(self, root: object, expressions: tuple[Expression, ...]) -> None:
        self.expressions = expressions
        self.steps = frozenset(step for expression in expressions for step in expression.steps)
        self._root = root
        self._is_constant = not expressions

    def render(self, values: Mapping[str, object]) -> object | Failure:
        """Fill in every `${…}`, or give the first Failure. Without any it gives the constant, uncopied."""
        return self._root if self._is_constant else _render(self._root, values)


def compile_template(value: object, scope: Scope, where: str = "") -> Template:
    """Check and compile a JSON-like value whose strings may hold `${…}`.

    `${…}` alone in a string keeps its type. Inside text it becomes text: strings as they are, null as
    nothing, all else as compact JSON. `$${` is a literal `${`; `${"$"}${x}` writes a dollar before a value.
    Keys are never computed. Raises ConfigError as `compile_expression` does; `path` leads from `where` to the
    string (`with.items[2].text`), line and column count within that string.
    """
    compiler = _TemplateCompiler(scope)
    root = compiler.compile(value, where, 0)
    return Template(root, tuple(compiler.expressions))


_OPENING = re.compile(r"\$?\$\{")
# A CEL string may hold braces, and so may a comment: both are passed over as one token. Names are tokens too,
# so that the letters before a quote are a prefix (r, b) only where CEL would see one.
_CEL_TOKEN = re.compile(
    r"""
      [bB]?[rR](?: \"{3}.*?\"{3} | '{3}.*?'{3} | "[^"\r\n]*" | '[^'\r\n]*' )
    | [bB]?(?: \"{3}(?:[^\\]|\\.)*?\"{3} | '{3}(?:[^\\]|\\.)*?'{3} )
    | [bB]?(?: "(?:[^"\\\r\n]|\\.)*" | '(?:[^'\\\r\n]|\\.)*' )
    | //[^\n]*
    | [A-Za-z_][A-Za-z0-9_]*
    | [{}]
    """,
    re.VERBOSE | re.DOTALL,
)


class _Text(Struct, frozen=True):
    pieces: tuple[str | Expression, ...]


class _Map(Struct, frozen=True):
    items: tuple[tuple[str, object], ...]


class _List(Struct, frozen=True):
    items: tuple[object, ...]


class _TemplateCompiler:
    """Turns a value into a tree of nodes; what holds no expression stays the plain value it is."""

    def __init__(self, scope: Scope) -> None:
        self.expressions: list[Expression] = []
        self._scope = scope

    def compile(self, value: object, path: str, depth: int) -> object:
        if depth > MAX_TEMPLATE_DEPTH:
            raise refuse(f"nested more than {MAX_TEMPLATE_DEPTH} levels deep", shorten(path), "", 0, "")
        if isinstance(value, str):
            return self._compile_text(value, path)
        before = len(self.expressions)
        if isinstance(value, dict):
            pairs = tuple((key, self._compile_entry(key, item, path, depth)) for key, item in value.items())
            return _Map(pairs) if len(self.expressions) > before else dict(pairs)
        if isinstance(value, list):
            items = [self.compile(item, f"{path}[{place}]", depth + 1) for place, item in enumerate(value)]
            return _List(tuple(items)) if len(self.expressions) > before else items
        return value

    def _compile_entry(self, key: object, item: object, path: str, depth: int) -> object:
        inner = _join_path(path, key)
        if isinstance(key, str) and "${" in key:
            raise refuse("a key can't be computed: put ${…} into its value", inner, key, key.index("${"), key)
        return self.compile(item, inner, depth + 1)

    def _compile_text(self, text: str, path: str) -> object:
        pieces = tuple(self._split(text, path))
        if all(isinstance(piece, str) for piece in pieces):
            return "".join(str(piece) for piece in pieces)
        return pieces[0] if len(pieces) == 1 else _Text(pieces)

    def _split(self, text: str, path: str) -> Iterator[str | Expression]:
        at = 0
        while opening := _OPENING.search(text, at):
            if opening.start() > at:
                yield text[at : opening.start()]
            if opening[0] == "$${":
                yield "${"
                at = opening.end()
            else:
                end = _find_end(text, opening.end())
                if end is None:
                    raise refuse(_UNTERMINATED, path, text, opening.start(), text[opening.start() :])
                yield self._compile_piece(text, opening.end(), end, path)
                at = end + 1
        if at < len(text):
            yield text[at:]

    def _compile_piece(self, text: str, start: int, end: int, path: str) -> Expression:
        source = text[start:end]
        made = try_compile(source, self._scope)
        if isinstance(made, Mistake):
            raise refuse(made.message, path, text, start + made.offset, source)
        self.expressions.append(made)
        return made


_UNTERMINATED = f"this ${{ has no closing }} within {MAX_LENGTH} characters; write $${{ for a literal ${{"


def _join_path(path: str, key: object) -> str:
    if not is_name(key):
        return f"{path}[{quote(str(key))}]"
    return f"{path}.{key}" if path else str(key)


def _find_end(text: str, start: int) -> int | None:
    depth = 0
    for token in _CEL_TOKEN.finditer(text, start, start + MAX_LENGTH + 1):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            if not depth:
                return token.start()
            depth -= 1
    return None


def _render(node: object, values: Mapping[str, object]) -> object | Failure:
    if isinstance(node, Expression):
        return node.evaluate(values)
    if isinstance(node, _Text):
        return _render_text(node.pieces, values)
    if isinstance(node, _Map):
        return _render_map(node.items, values)
    if isinstance(node, _List):
        return _render_list(node.items, values)
    return node


def _render_text(pieces: tuple[str | Expression, ...], values: Mapping[str, object]) -> str | Failure:
    texts: list[str] = []
    for piece in pieces:
        value = piece if isinstance(piece, str) else piece.evaluate(values)
        if isinstance(value, Failure):
            return value
        texts.append(_write_text(value))
    return "".join(texts)


def _write_text(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else encode(value).decode()


def _render_map(items: tuple[tuple[str, object], ...], values: Mapping[str, object]) -> object | Failure:
    made: dict[str, object] = {}
    for key, node in items:
        value = _render(node, values)
        if isinstance(value, Failure):
            return value
        made[key] = value
    return made


def _render_list(items: tuple[object, ...], values: Mapping[str, object]) -> object | Failure:
    made: list[object] = []
    for node in items:
        value = _render(node, values)
        if isinstance(value, Failure):
            return value
        made.append(value)
    return made
