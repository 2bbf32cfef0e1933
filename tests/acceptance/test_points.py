"""A process that ends right after a point of a run's way: what the next one does there, from ledgers outside the store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.machine import Listener
from tests.faults.points import POINTS, Field, open_field

UNKNOWN = {"intent": {"a": 1}, "effect": {"a": 1}, "record": {"call": 1}, "child": {"call": 1}}
"""What nobody can know: whether a step happened of which the last that was written is its beginning."""
TWICE = {"effect": "a"}
"""The one point at which a step is done again: it had been done, and that was not written down yet."""


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Iterator[Field]:
    with open_field(tmp_path_factory.mktemp("points"), listener) as made:
        yield made


@pytest.mark.parametrize("point", POINTS)
def test_what_ends_at_any_point_is_taken_up_where_it_was(field: Field, point: str) -> None:
    """One run, one child, one message id; a step is done again only where its record says that it was unknown."""
    outcome = field.try_point(point)
    assert outcome.harmless, outcome
    assert set(outcome.attempts.values()) == {1}
    if point != "park":  # there the child, which runs beside its parent, may be anywhere
        assert outcome.unknown == UNKNOWN.get(point, {})
        assert {step for step, times in outcome.effects.items() if times > 1} == set(TWICE.get(point, ""))
    assert outcome.messages == (2 if point in ("answered", "sent") else 1)
