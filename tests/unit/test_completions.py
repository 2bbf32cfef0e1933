"""Streams of completions, however they are cut; and what tokens cost."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.credits import token_cost
from workers.executors.completions import LEAST_RAW, Collector, EventReader, read_completion, read_reason

WORDS = ["Grüß ", "Gott", "\n\n", "data: x", "🙂"]


def stream(end: str) -> bytes:
    events = [{"choices": [{"index": 0, "delta": {"content": word}}], "model": "m"} for word in WORDS]
    events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    events += [{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}]
    texts = [f"data: {json.dumps(event, ensure_ascii=False)}" for event in events]
    return (": hi\n\n" + "".join(f"id: 1\n{text}\n\n" for text in [*texts, "data: [DONE]"])).replace("\n", end).encode()


@given(st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 900), max_size=30))
def test_a_stream_says_the_same_however_it_is_cut(end: str, places: list[int]) -> None:
    """Cut anywhere, also inside a letter and between CR and LF, a stream gives the same text and the same usage."""
    raw, said = stream(end), list[str]()
    marks = [0, *sorted(place for place in places if place < len(raw)), len(raw)]
    collector = Collector(1000, said.append)
    for start, stop in itertools.pairwise(marks):
        collector.take(raw[start:stop])
    collector.take(end.encode())
    found = collector.completion()
    assert (found.text, found.finish_reason, found.model, found.whole) == ("".join(WORDS), "stop", "m", True)
    assert found.usage is not None
    assert found.usage.total_tokens == 7
    assert (said, collector.problem) == (WORDS, None)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=10))
def test_any_bytes_are_cut_into_the_same_events(raw: bytes, places: list[int]) -> None:
    """Whatever comes, the events do not depend on how it came, but for a last CR that may be half a line's end."""
    whole = EventReader()
    wanted = whole.feed(raw) + whole.feed(b"x")
    cut, found = EventReader(), list[bytes]()
    marks = [0, *sorted(place for place in places if place < len(raw)), len(raw)]
    for start, stop in itertools.pairwise(marks):
        found += cut.feed(raw[start:stop])
    assert found + cut.feed(b"x") == wanted


def test_an_endless_stream_without_text_is_ended() -> None:
    """Bytes that are no text count as well: a provider can't keep a step busy for ever with comments."""
    collector = Collector(10, print)
    taken = 0
    while not collector.take(b": ping" + b"." * 100_000 + b"\n\n"):
        taken += 1
        assert taken * 100_000 < LEAST_RAW
    assert "bytes for one answer" in str(collector.problem)


def test_many_lines_of_data_are_one_event() -> None:
    """Lines of data are joined by line breaks; an event that was not ended is none."""
    assert EventReader().feed(b"data: a\ndata:b\n\ndata: c\n") == [b"a\nb"]


@given(st.binary(max_size=200))
def test_no_body_breaks_the_reader(body: bytes) -> None:
    """Whatever a provider answers is a completion or a ValueError, and its reason a text or none."""
    with contextlib.suppress(ValueError):
        read_completion(body)
    assert read_reason(body) is None or isinstance(read_reason(body), str)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"error": {"message": "no", "code": 1}}, "no"),
        ({"error": "no"}, "no"),
        ({"detail": "no"}, "no"),
        ({"message": "no"}, "no"),
        ({"error": {"message": "x" * 10_000}}, "x" * 500),
        ({"error": {"message": ["no"]}}, None),
        ([], None),
        ("no", None),
    ],
)
def test_the_words_of_a_provider_are_found(body: Any, reason: str | None) -> None:
    """OpenAI's shape and those of its kin; nothing else is shown."""
    assert read_reason(json.dumps(body).encode()) == reason


@pytest.mark.parametrize(
    ("tokens", "rate", "credits"),
    [(0, 1, 0), (1, 1, 1), (1000, 1, 1), (1001, 1, 2), (1000, 0.7, 1), (10_000, 0.7, 7), (3000, 0.1, 1), (5, 0, 0)],
)
def test_tokens_cost_whole_credits(tokens: int, rate: float, credits: int) -> None:
    """A rate counts for 1000 tokens; a part of a credit is a whole one, and rounding invents none."""
    assert token_cost(tokens, rate) == credits
