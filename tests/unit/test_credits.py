"""Balances as they are shown: what the script that takes credits would find at the same moment."""

from __future__ import annotations

import pytest

from gateway.credits import Allowance, Balance, read_balance

HOUR = 3_600_000


@pytest.mark.parametrize(
    ("allowance", "left", "since", "now", "balance"),
    [
        (Allowance(10, "1h"), None, None, 5, Balance(10, 10, None)),
        (Allowance(10, "1h"), b"4", b"1000", 1000, Balance(4, 10, 1000 + HOUR)),
        (Allowance(10, "1h"), b"4", b"1000", 999 + HOUR, Balance(4, 10, 1000 + HOUR)),
        (Allowance(10, "1h"), b"4", b"1000", 1000 + HOUR, Balance(10, 10, 1000 + 2 * HOUR)),
        (Allowance(10, "1h"), b"4", b"1000", 1500 + 7 * HOUR, Balance(10, 10, 1000 + 8 * HOUR)),
        (Allowance(10), b"4", b"1000", 10 * HOUR, Balance(4, 10, None)),
        (Allowance(10, "1h"), b"-2.5", b"0", 1, Balance(-2, 10, HOUR)),
    ],
)
def test_a_balance_has_the_refill_that_is_due(
    allowance: Allowance, left: bytes | None, since: bytes | None, now: int, balance: Balance
) -> None:
    """Before the period's end it is what is left, from then on the whole allowance; periods follow without gaps."""
    assert read_balance(allowance, left, since, now) == balance
