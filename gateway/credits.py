"""Credits: what a step costs, what a run has used, and how much its payer may use in a period. Silent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from gateway.errors import ConfigError
from gateway.retries import read_duration


class Allowance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How many credits a token or app has; with `every` (`3d`, `12h`, seconds) it gets as many anew each period."""

    amount: int
    every: str | float | None = None

    def __post_init__(self) -> None:
        if self.amount < 0:
            message = "amount can't be negative"
            raise ValueError(message)
        try:
            _ = self.period_ms
        except ConfigError as error:
            raise ValueError(error.message) from None

    @property
    def period_ms(self) -> int:
        """Milliseconds between two refills; 0 when it is never refilled."""
        return 0 if self.every is None else int(read_duration(self.every, "every") * 1000)


class Payment(msgspec.Struct, frozen=True):
    """What is set aside when a run starts: who pays, out of what, and how much. The rest comes back when it ends."""

    payer: str
    allowance: Allowance
    cost: int


class Balance(msgspec.Struct, frozen=True):
    """Credits that are left, of how many, and when there will be as many again (unix milliseconds; None: never, or a
    period after the first use).
    """

    left: int
    amount: int
    refill_at: int | None


def read_balance(allowance: Allowance, left: bytes | None, since: bytes | None, now_ms: int) -> Balance:
    """A balance from what the store keeps of it, with the refill that is due: periods follow each other without gaps."""
    if left is None or since is None:
        return Balance(allowance.amount, allowance.amount, None)
    period, begun = allowance.period_ms, int(since)
    if not period:
        return Balance(int(float(left)), allowance.amount, None)
    if now_ms >= begun + period:
        return Balance(allowance.amount, allowance.amount, now_ms - (now_ms - begun) % period + period)
    return Balance(int(float(left)), allowance.amount, begun + period)


def read_costs(text: str) -> dict[str, int]:
    """Costs by kind of step, from `http=1,python=2`. Raises ConfigError naming the piece that can't be read."""
    costs: dict[str, int] = {}
    for piece in filter(None, (part.strip() for part in text.split(","))):
        kind, _, number = piece.partition("=")
        if not number.strip().isdecimal():
            message = f"GATEWAY_STEP_COSTS: {piece!r} is not KIND=NUMBER; write http=1,python=2"
            raise ConfigError(message)
        costs[kind.strip()] = int(number)
    return costs


def token_cost(tokens: int, rate: float) -> int:
    """What a model's tokens cost at `rate` credits per 1000, rounded up."""
    # A rate such as 0.7 has no exact double: 1000 tokens of it must not cost one credit more.
    return math.ceil(round(tokens * rate / 1000, 6))


def cost_of(kinds: Iterable[str], costs: Mapping[str, int]) -> int:
    """What steps of these kinds cost when each is done once."""
    return sum(costs.get(kind, 0) for kind in kinds)
