"""CEL expressions, and templates whose strings hold them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.cel.scopes import FUNCTIONS, Scope
from gateway.cel.values import MAX_LOOP_ITEMS
from gateway.errors import ConfigError
from gateway.expressions import MAX_LENGTH, Expression, Failure, compile_expression, referenced_steps
from gateway.templates import Template, compile_template

PUSH: dict[str, Any] = {
    "event": {"type": "push", "body": {"ref": "refs/heads/main", "commits": [{"id": "a1"}, {"id": "b2"}]}},
    "input": {
        "text": "hé",
        "n": 1,
        "f": 1.5,
        "yes": True,
        "none": None,
        "list": [1, "é"],
        "map": {"k": None},
    },
}

letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(letters, max_size=8)
wild_texts = st.text(st.characters(), max_size=8)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
wild_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | wild_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(wild_texts, inner, max_size=4),
    max_leaves=12,
)
# fmt: off
snippets = st.lists(
    st.sampled_from([
        "input", "steps", "event", "item", ".a", "['a']", "[0]", ".?b", "[?'c']", ".map(x, x)",
        ".filter(y, y == 1)", ".all(z, z)", ".exists(w, w in input)", ".orValue(1)", "has(input.a)", "size(",
        "string(", "(", ")", "{", "}", "[", "]", "'a'", '"b"', "r'c'", "b'd'", "1", "1.5", "2u", "true",
        "null", "+", "-", "*", "/", "%", "==", "<", "&&", "||", "!", "?", ":", ",", " in ", ".size()",
        ".split(',')", ".join(',')", "//", "\n", "$", "${", "'", '"', "duration('1h')", "timestamp(0)",
        "optional.of(1)", "math.greatest(", "type(", "dyn(", "\\", "é", "\0", "\ud800",
    ]),
    max_size=12,
).map("".join)
# fmt: on


def evaluate(source: str, **values: object) -> object:
    """Compile in the widest scope and evaluate."""
    return compile_expression(source, Scope.FOREACH).evaluate(values)


def fail(source: str, **values: object) -> str:
    """The message of the Failure that evaluating gives."""
    result = evaluate(source, **values)
    assert isinstance(result, Failure), result
    assert result.expression == source
    return result.message


def refuse(source: str, scope: Scope = Scope.STEP) -> ConfigError:
    """The error that compiling raises."""
    with pytest.raises(ConfigError) as caught:
        compile_expression(source, scope, "when")
    return caught.value


def render(value: object, **values: object) -> object:
    """Compile a template in the widest scope and render it."""
    return compile_template(value, Scope.FOREACH, "with").render(values or PUSH)


def nest(levels: int) -> object:
    """A number inside so many lists."""
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


# ---- values


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ('event.type == "push" && event.body.ref == "refs/heads/main"', True),
        ("event.body.commits.map(c, c.id)", ["a1", "b2"]),
        ("event.body.commits[1].id", "b2"),
        ('event["body"].commits.size()', 2),
        ("has(event.body.forced)", False),
        ("has(event.body.ref)", True),
        ("event.body.?forced.orValue(false)", False),
        ("event.body[?'ref'].orValue('none')", "refs/heads/main"),
        ("input.none", None),
        ("[input.none, {'a': input.none}]", [None, {"a": None}]),
        ("double(input.n) + input.f", 2.5),
        ("input.text.upperAscii()", "Hé"),
        ("'%s is %d'.format(['n', input.n])", "n is 1"),
        ("math.greatest(3, 7)", 7),
        ("base64.encode(b'hi')", "aGk="),
        ("b'\\xff\\x00'", "/wA="),
        ("18446744073709551615u", 2**64 - 1),
        ("timestamp('2026-03-01T12:00:00+01:00')", "2026-03-01T11:00:00Z"),
        ("timestamp('2026-03-01T12:00:00.25Z')", "2026-03-01T12:00:00.250Z"),
        ("timestamp('0001-01-01T00:00:00.000001Z')", "0001-01-01T00:00:00.000001Z"),
        ("duration('1h30m')", "5400s"),
        ("[duration('-1500ms')]", ["-1.500s"]),
        ("duration('-500ms')", "-0.500s"),
        ("'a' in input.map || 'k' in input.map", True),
        ("[1].map(input, input + 1)", [2]),
        ("'\\u0000'", "\0"),
    ],
)
def test_expressions_give_plain_values(source: str, value: object) -> None:
    """Fields, macros, the four extensions and every CEL type come out as plain JSON-able Python."""
    result = evaluate(source, **PUSH)
    assert result == value
    assert type(result) is type(value)


@given(json_values)
def test_data_passes_through_the_engine_unchanged(value: object) -> None:
    """Any JSON value put into an expression comes out equal and of the same types."""
    result = evaluate("[input]", input=value)
    assert json.dumps(result, sort_keys=True) == json.dumps([value], sort_keys=True)


@given(
    st.dictionaries(st.sampled_from("abc"), json_values),
    st.lists(st.sampled_from(["a", "b", 0, 1]), max_size=3),
)
def test_a_plain_path_gives_what_the_engine_would(data: dict[str, Any], keys: list[str | int]) -> None:
    """Looking a path up directly and having the engine evaluate it agree, also on whether it fails."""
    path = "input" + "".join(f"[{key!r}]" if isinstance(key, int) else f".{key}" for key in keys)
    looked_up, evaluated = evaluate(path, input=data), evaluate(f"[{path}][0]", input=data)
    assert isinstance(looked_up, Failure) == isinstance(evaluated, Failure)
    if not isinstance(looked_up, Failure):
        assert json.dumps(looked_up, sort_keys=True) == json.dumps(evaluated, sort_keys=True)


@given(st.dictionaries(st.sampled_from("abc"), json_values, min_size=1), st.sampled_from("abc"))
def test_handing_over_only_used_paths_changes_no_result(data: dict[str, Any], key: str) -> None:
    """An expression gives the same whether the engine sees the whole data or only the paths it names."""
    narrow = f"[has(input.{key}), input.?{key}.hasValue(), [input.?{key}.a.orValue(null)]]"
    whole = f"[input].map(i, [has(i.{key}), i.?{key}.hasValue(), [i.?{key}.a.orValue(null)]])[0]"
    first, second = evaluate(narrow, input=data), evaluate(whole, input=data)
    assert isinstance(first, Failure) == isinstance(second, Failure)
    assert isinstance(first, Failure) or first == second


def test_unused_parts_of_the_data_do_no_harm() -> None:
    """A field elsewhere that CEL could not bear does not spoil an expression that does not read it."""
    hostile = {"n": 1, "big": 2**70, "nul": "\0", "half": "\ud800", "deep": nest(900)}
    assert evaluate("input.n + 1", input=hostile) == 2


def test_nulls_can_be_read_for_ever() -> None:
    """A process survives reading far more nulls than it holds references to None."""
    program = (
        "from gateway.expressions import Scope, compile_expression\n"
        "read = compile_expression('[null, input, {\"a\": input}]', Scope.STEP)\n"
        "assert all(read.evaluate({'input': None}) == [None, None, {'a': None}] for _ in range(20000))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# ---- failures


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("event.missing", 'no such key "missing" in event'),
        ("event.missing + 1", 'no such key "missing"'),
        ("event.body.commits[5].id", "there is no index 5 in event.body.commits, a list of 2"),
        ("event.type.name", 'no such key "name": event.type is text, which has no fields'),
        (
            "event.type.name + 1",
            "a field was asked of a value that has no fields (text, number, list or null)",
        ),
        ("input.f + 1", "`+` can't mix double and int: convert with double(x) or int(x)"),
        ("input.n + 'a'", "`+` can't join int and string: convert with string(x)"),
        ("input.n.startsWith('a')", "`startsWith` can't be used on int and string"),
        ("input.n && true", "`&&`, `||` and `!` work only on true and false"),
        ("input.n ? 1 : 2", "what stands before ? is not true or false"),
        ("input.n.map(x, x)", "a loop (map, filter, all, exists) needs a list or a map"),
        ("1 in input.n", "`in` needs a list or a map on its right"),
        ("1 / 0", "divide by zero"),
        ("9223372036854775807 + input.n", "integer overflow"),
        ("int('x')", "cannot convert string to int"),
        ("{'a': 1, 'a': 2}", "duplicate key in map"),
        ("{1: 2}", "the result is a map with the key 1; JSON's keys are text: use string(x)"),
        ("0.0 / 0.0", "the result is nan, which is not a finite number"),
        ("[-1.0 / 0.0]", "the result is -inf, which is not a finite number"),
        ("type(1)", "the result is a type, which JSON has no form for"),
        ("input.?n", "the result is an optional, which JSON has no form for: end it with .orValue(…)"),
        (
            "[optional.of(1)]",
            "the result is an optional, which JSON has no form for: end it with .orValue(…)",
        ),
        ("input.n[?'a'].orValue(1)", "`[? ]` can't be used on int and string"),
        ("input.n.orValue(1)", "`orValue` can't be used on this value"),
        ("conversation.id", "`conversation` is not available in this run"),
        ("size(conversation)", "`conversation` is not available in this run"),
        ("has(conversation.id)", "`conversation` is not available in this run"),
    ],
)
def test_failures_say_kindly_what_is_wrong(source: str, message: str) -> None:
    """An expression that gives no value returns a Failure with a message an operator can act on."""
    assert fail(source, **PUSH) == message


def test_an_absent_name_matters_only_where_it_is_needed() -> None:
    """A name the run lacks does no harm behind a condition that makes it irrelevant."""
    assert evaluate("true || conversation.id == 1", **PUSH) is True


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**70, "the data holds a whole number beyond 64 bits"),
        ([-(2**63) - 1], "the data holds a whole number beyond 64 bits"),
        ("a\ud800", "the data holds text that is not Unicode (half of a surrogate pair)"),
        ({"\udfff": 1}, "the data holds text that is not Unicode (half of a surrogate pair)"),
        ("1\0", "the data holds text with a NUL character, which can't be compared safely"),
        ({"a\0": 1}, "the data holds text with a NUL character, which can't be compared safely"),
        (nest(201), "the data is nested more than 200 levels deep"),
        (nest(1000), "the data is nested more than 200 levels deep"),
        (math.nan, "the result is nan, which is not a finite number"),
    ],
    ids=lambda value: None if isinstance(value, str) and "the " in value else "",
)
def test_data_the_engine_cannot_bear_is_a_failure(value: object, message: str) -> None:
    """Huge numbers, broken text, NULs and deep nesting give a Failure; none of them crashes or is misread."""
    assert fail("[input]", input=value) == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a\ud800", "the data holds text that is not Unicode (half of a surrogate pair)"),
        ([{"a": "\ud800"}], "the data holds text that is not Unicode (half of a surrogate pair)"),
        (nest(1000), "the data is nested more than 200 levels deep"),
        (math.inf, "the result is not a finite number"),
        (10**4500, "the data holds a number of thousands of digits"),
    ],
    ids=["half", "half inside", "deep", "infinite", "digits"],
)
def test_a_plain_path_refuses_what_json_cannot_hold(value: object, message: str) -> None:
    """What could not be written as JSON again does not come out of a plain path either."""
    assert fail("input", input=value) == message


def test_a_plain_path_keeps_numbers_beyond_64_bits() -> None:
    """A huge number that is only passed on stays exact."""
    assert evaluate("input.n", input={"n": 2**70}) == 2**70


def test_a_nul_cannot_make_two_texts_equal() -> None:
    """Text that differs only behind a NUL is never taken for equal."""
    assert evaluate("input.role == 'admin'", input={"role": "admin\0"}) is not True
    assert evaluate(r"input.role == 'a\\u0000'", input={"role": "a\\u0000"}) is True


@given(snippets, wild_values, wild_values)
@settings(max_examples=400)
def test_nothing_makes_evaluation_raise(source: str, first: object, second: object) -> None:
    """Whatever compiles gives a JSON-able value or a Failure for any data, broken text and all."""
    try:
        compiled = compile_expression(source, Scope.FOREACH)
    except ConfigError:
        return
    values = {"input": {"a": first, "b": [second]}, "steps": second, "event": first}
    result = compiled.evaluate(values)
    if not isinstance(result, Failure):
        json.dumps(result)


@pytest.mark.parametrize(
    "source", ["input", "input.a", "[input]", "input.a == input.b", "size(input)", "input.map(x, x)"]
)
@given(value=wild_values)
def test_no_data_makes_evaluation_raise(source: str, value: object) -> None:
    """Common expressions bear any data."""
    evaluate(source, input=value)
    evaluate(source, input={"a": value, "b": value})


# ---- limits


def test_loops_are_limited_where_their_time_grows_with_the_square() -> None:
    """map over a list of the greatest length works, over a longer one fails; exists has no such limit."""
    rows = list(range(MAX_LOOP_ITEMS))
    assert evaluate("input.map(x, x)", input=rows) == rows
    assert fail("input.map(x, x)", input=[*rows, 1]).startswith("a list of 2501 is too long for this loop")
    assert fail("input.exists(x, x in input)", input=[*rows, 1]).startswith("a list of 2501 is too long")
    assert evaluate("input.exists(x, x < 0)", input=[*rows, *rows]) is False
    assert evaluate("input.exists(x, x in [5])", input=[*rows, *rows]) is True


def test_the_engine_stops_endless_looping() -> None:
    """Loops inside loops end after ten thousand turns with a Failure."""
    message = "the loops took more than 10000 turns"
    assert fail("input.all(x, input.all(y, input.all(z, true)))", input=list(range(200))) == message


def test_a_result_has_a_greatest_size() -> None:
    """A small expression can't blow data up to any size."""
    message = "the result is too large (more than 200000 values)"
    assert fail("input.map(x, input)", input=list(range(1000))) == message
    assert fail("input.map(x, input)", input=["a" * 1000] * 400) == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("[1].map(a, [1].map(b, [1].map(c, [1].map(d, [1].map(e, 1)))))", "are nested more than 4 deep"),
        ("input.a.replace('x', input.b)", "replace on text from data with text from data needs a limit"),
        ("input.a.replace('x', input.b, 101)", "at most 100"),
        ("input.a.replace('x', input.b, -1)", "at most 100"),
        ("input.a.join(input.b)", "the separator of join must be written out"),
        ("(" * 40 + "1" + ")" * 40, "nested too deeply"),
        ("a" * (MAX_LENGTH + 1), "longer than 4000 characters"),
    ],
)
def test_costly_expressions_are_refused_at_once(source: str, message: str) -> None:
    """What could take very long or very much memory on some data is refused when configuration is read."""
    assert message in refuse(source).message


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("'Hello NAME'.replace('NAME', input.name)", "Hello a-b"),
        ("input.name.replace('-', '+')", "a+b"),
        ("input.name.replace('-', input.name, 100)", "aa-bb"),
        ("input.name.split('-').join('/')", "a/b"),
        ("[[1]].map(a, a.map(b, b)).map(c, c.map(d, d)).map(e, e)", [[1]]),
    ],
)
def test_harmless_forms_of_costly_functions_work(source: str, value: object) -> None:
    """Only the dangerous forms are refused; loops one after another are not nested."""
    assert evaluate(source, input={"name": "a-b"}) == value


# ---- mistakes of whoever writes them


@pytest.mark.parametrize(
    ("source", "line", "column", "message"),
    [
        (
            "inptu.x == 1",
            1,
            1,
            "there is no name `inptu`, did you mean `input`? (in reach: input, task, metadata,",
        ),
        ("1 +\n  bad.x.y", 2, 3, "there is no name `bad` (in reach: "),
        ("'é😀' + bad", 1, 8, "there is no name `bad`"),
        ("item.x", 1, 1, "`item` can't be used here (in reach: "),
        ("input.startWith('a')", 1, 7, "there is no function `startWith`, did you mean `startsWith`?"),
        ("math.grtest(1, 2)", 1, 1, "there is no function `math.grtest`, did you mean `math.greatest`?"),
        ("size()", 1, 1, "`size` does not take these arguments"),
        ("1.5 + 1", 1, 5, "`+` can't mix double and int: convert with double(x) or int(x)"),
        ("'a' + 1", 1, 5, "`+` can't join string and int: convert with string(x)"),
        ("'a'.startsWith(1)", 1, 15, "`startsWith` can't be used on string and int"),
        ("input.a = 1", 1, 9, "can't read `=`; CEL compares with =="),
        ("input.a === 1", 1, 11, "can't read `=`; CEL writes == and !="),
        ("input.a and input.b", 1, 9, "did not expect `and`; CEL writes && for and"),
        ("${input.a}", 1, 1, "can't read `$`; write the bare expression here, without ${ and }"),
        ("input.a +", 1, 10, "the expression ends too early"),
        ("input.a)", 1, 8, "did not expect `)`"),
        (" \n ", 1, 1, "the expression is empty"),
        ("input.a == '\0'", 1, 13, "this character can't stand in an expression"),
        ("'\ud800'", 1, 2, "this character can't stand in an expression"),
    ],
)
def test_mistakes_are_explained_with_their_place(source: str, line: int, column: int, message: str) -> None:
    """A mistake is refused with its line and column, in plain words, and with a hint where there is one."""
    error = refuse(source)
    assert error.message.startswith(f"when: line {line}, column {column}: {message}")
    assert error.details == {"path": "when", "line": line, "column": column, "expression": source}


def test_scopes_differ_in_their_names() -> None:
    """A trigger knows the event and the app, a step the run as well, and a loop its item."""
    assert "(in reach: event, app)" in refuse("steps.a", Scope.TRIGGER).message
    assert compile_expression("steps.a.output", Scope.STEP).names == {"steps"}
    assert compile_expression("item.x + index", Scope.FOREACH).names == {"item", "index"}


@given(st.text(st.characters()) | snippets)
@settings(max_examples=400)
@example("'" * 50)
@example("${" * 50)
@example("-" * 3000 + "1")
def test_any_text_compiles_or_is_a_config_error(source: str) -> None:
    """No text makes compiling raise anything but ConfigError, and its place lies within the text."""
    try:
        compile_expression(source, Scope.FOREACH)
    except ConfigError as error:
        line, column = error.details["line"], error.details["column"]
        assert isinstance(line, int)
        assert isinstance(column, int)
        assert 1 <= line <= source.count("\n") + 1
        assert 1 <= column <= len(source.split("\n")[line - 1]) + 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_suggested_function_exists(name: str) -> None:
    """The functions we suggest are functions of the engine: none is undeclared under all usual arguments."""
    calls = [f"{name}()", f"{name}(input)", f"{name}(input, 1)", f"{name}(b'a')", f"{name}('a')"]
    calls += [f"input.{name}()", f"input.{name}('a')", f"input.{name}(x, true)", f"input.{name}('a', 'b')"]
    calls += ["has(input.a)"] if name == "has" else []
    calls += [f"optional.of(1).{name}()", f"optional.of(1).{name}(x, x)", f"optional.of(1).{name}(1)"]
    calls += [f"optional.of(1).{name}(optional.of(1))", f"optional.of(1).{name}(x, optional.of(x))"]
    calls += [f"timestamp(0).{name}()", f"'a'.{name}(0)", f"'a'.{name}([1])", f"{name}(1.5)", f"{name}(1, 2)"]
    assert any(_compiles(call) for call in calls)


def _compiles(source: str) -> bool:
    try:
        compile_expression(source, Scope.STEP)
    except ConfigError:
        return False
    return True


# ---- which steps are named


@pytest.mark.parametrize(
    ("source", "steps"),
    [
        ("steps.a.output.x + steps['b'].status", {"a", "b"}),
        ("has(steps.a.output) && steps.?b.?output.orValue(1) == steps[?'c'].orValue(1)", {"a", "b", "c"}),
        ("steps.list.output.map(x, steps.other.output + x)", {"list", "other"}),
        ("{'k': [steps.a.output, size(steps.b)]}", {"a", "b"}),
        ("{steps.a.id: 1}", {"a"}),
        ("[{'a': 1}].map(steps, steps.a)", set()),
        ("[{'a': 1}].map(steps, .steps.b)", {"b"}),
        ("steps[input.name].output", set()),
        ("steps.size() + steps.map(s, s).size()", set()),
        ("'steps.a' + input.steps.b", set()),
        ("input.a ? steps.b.output : !steps.c.output", {"b", "c"}),
    ],
)
def test_named_steps_are_found(source: str, steps: set[str]) -> None:
    """Steps written out are found wherever they stand, and nothing else is taken for one."""
    assert referenced_steps(source) == steps
    assert compile_template({"x": [f"a ${{{source}}}"]}, Scope.STEP).steps == steps


# ---- templates


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("${input.n}", 1),
        ("${input.none}", None),
        ("${input.map}", {"k": None}),
        (" ${input.n}", " 1"),
        ("${input.n}${input.f}${input.yes}<${input.none}>", "11.5true<>"),
        ("${input.text} ${input.list}${input.map}", 'hé [1,"é"]{"k":null}'),
        ("https://git/${event.body.commits[0].id}/x", "https://git/a1/x"),
        ("$${input.n}", "${input.n}"),
        ("$$${input.n}", "$${input.n}"),
        ('${"$"}${input.n}', "$1"),
        ("$ {} $}{", "$ {} $}{"),
        ("${input.n}}", "1}"),
        ("{${input.n}}", "{1}"),
        ('${ {"a": 1}.a }', 1),
        ("${{}}", {}),
        ('${{"a": {"b": "}"}}.a}', {"b": "}"}),
        ('${"}"}', "}"),
        ("${'}'}", "}"),
        (r'${"\"}"}', '"}'),
        (r"${'\'}' + '\\'}", "'}\\"),
        (r'${r"\}"}', "\\}"),
        ('${"""a"}"b"""}', 'a"}"b'),
        ("${'''a'}\n'''}", "a'}\n"),
        (r"${r'''}'\x'''}", "}'\\x"),
        ("${string(b'}')}", "}"),
        ("${string(bR'}')}", "}"),
        ("${'\"}' + \"'}\"}", "\"}'}"),
        ("${input.n // }\n}", 1),
        (["${input.n}", {"a": "${input.f}", "b": 2}], [1, {"a": 1.5, "b": 2}]),
        ({"t": "x${input.n}", "k": ["y"]}, {"t": "x1", "k": ["y"]}),
    ],
)
def test_templates_render(template: object, value: object) -> None:
    """Alone an expression keeps its type, within text it becomes text; its end is found past any brace."""
    result = render(template)
    assert result == value
    assert type(result) is type(value)


@given(wild_values)
def test_a_template_without_expressions_is_itself(value: object) -> None:
    """What holds no `${` comes out as it went in, and the same object every time."""
    template = compile_template(_without_openings(value), Scope.STEP)
    first = template.render({})
    assert repr(first) == repr(_without_openings(value))
    assert template.render(PUSH) is first
    assert template.expressions == ()


def _without_openings(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("${", "")
    if isinstance(value, list):
        return [_without_openings(item) for item in value]
    if isinstance(value, dict):
        return {_without_openings(key): _without_openings(item) for key, item in value.items()}
    return value


@given(json_values, texts.filter(lambda text: "$" not in text))
def test_text_substitution_follows_json(value: object, around: str) -> None:
    """Within text a string stands as it is, null as nothing, and all else as JSON that reads back equal."""
    result = render(f"{around}${{input}}{around}.", input=value)
    assert isinstance(result, str)
    middle = result[len(around) : len(result) - len(around) - 1]
    if isinstance(value, str):
        assert middle == value
    elif value is None:
        assert middle == ""
    else:
        assert json.loads(middle) == value


@given(texts)
def test_any_text_can_be_written_literally(text: str) -> None:
    """Doubling the dollar of every `${` makes a template that renders as the text."""
    assert render(text.replace("${", "$${")) == text


@given(texts)
def test_a_quoted_string_ends_where_it_ends(text: str) -> None:
    """Any text as a CEL string literal inside `${…}` comes out again, whatever braces and quotes it holds."""
    assert render("${" + json.dumps(text, ensure_ascii=False) + "}") == text


def test_the_first_failure_ends_rendering() -> None:
    """A template with a failing expression, however deep, gives that Failure."""
    for template in ("${input.x}", "a ${input.x}", ["a", "${input.x}"], {"a": {"b": ["x${input.x}"]}}):
        assert render(template) == Failure("input.x", 'no such key "x" in input')


def test_expressions_are_listed_in_order() -> None:
    """A template knows its expressions, in the order they are written."""
    template = compile_template({"a": "${input.a} ${input.b}", "c": ["${input.c}"]}, Scope.STEP)
    assert isinstance(template, Template)
    assert [expression.source for expression in template.expressions] == ["input.a", "input.b", "input.c"]
    assert all(isinstance(expression, Expression) for expression in template.expressions)


@pytest.mark.parametrize(
    ("template", "path", "line", "column", "message"),
    [
        ({"text": "a\n ${inptu.x}"}, "with.text", 2, 4, "there is no name `inptu`, did you mean `input`?"),
        ({"items": [0, {"a b": "${1 +}"}]}, 'with.items[1]["a b"]', 1, 6, "the expression ends too early"),
        ("${input.a", "with", 1, 1, "this ${ has no closing }"),
        ("ab ${'}", "with", 1, 6, "can't read `'`"),
        ("${input.a // }", "with", 1, 1, "this ${ has no closing }"),
        ("${" + "a" * 5000 + "}", "with", 1, 1, "this ${ has no closing } within 4000 characters"),
        ("a ${ }", "with", 1, 5, "the expression is empty"),
        ({"${input.a}": 1}, 'with["${input.a}"]', 1, 1, "a key can't be computed"),
    ],
)
def test_mistakes_in_templates_name_their_place(
    template: object, path: str, line: int, column: int, message: str
) -> None:
    """A mistake is refused with the path to its string, and its line and column there."""
    with pytest.raises(ConfigError) as caught:
        compile_template(template, Scope.STEP, "with")
    details = caught.value.details
    assert (details["path"], details["line"], details["column"]) == (path, line, column)
    assert caught.value.message.startswith(f"{path}: line {line}, column {column}: {message}")


def test_a_template_too_deep_is_refused() -> None:
    """A template nested more than a hundred levels is refused, not a stack overflow."""
    with pytest.raises(ConfigError, match="nested more than 100 levels deep"):
        compile_template(nest(5000), Scope.STEP)


@given(st.text(st.characters()) | snippets.map(lambda text: "${" + text) | snippets.map(lambda text: f"${{{text}}}"))
@settings(max_examples=400)
def test_any_text_is_a_template_or_a_config_error(text: str) -> None:
    """No text makes compiling a template raise anything but ConfigError, nor rendering raise at all."""
    try:
        template = compile_template({"a": [text]}, Scope.FOREACH)
    except ConfigError:
        return
    template.render({"input": {"a": 1}})
