"""How an endpoint stands: well, slowed down, failing, or disabled; and why one of its callbacks waits. Silent."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.callbacks import Callback, Hindrance
from gateway.runs import CallbackState, iso
from gateway.verdicts import ENDS


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the attempts at an endpoint have told. Times are milliseconds, of the store's clock where they are moments.

    `pause` is the breaker's last, which is open while there is one; `gap` what lies between two attempts while the
    endpoint is slowed down. Nothing is sent before `not_before`, nor while it is `disabled`.
    """

    failures: int = 0
    failing_since: int | None = None
    pause: int | None = None
    gap: int | None = None
    not_before: int | None = None
    disabled: str | None = None
    disabled_at: int | None = None
    by_operator: bool = False
    """Whoever published it disabled it."""

    @property
    def status(self) -> str:
        """One word for it."""
        if self.disabled or self.by_operator:
            return "disabled"
        if self.pause is not None:
            return "failing"
        return "active" if self.gap is None else "slowed"

    @property
    def why(self) -> str | None:
        """Why it is not active, in words."""
        if self.status == "disabled":
            return self.why_disabled
        if self.status == "failing":
            return f"it failed {self.failures} times in a row; one message tries it now and then"
        return "it asked to be sent less" if self.status == "slowed" else None

    @property
    def why_disabled(self) -> str:
        """Why it is disabled, in words."""
        return "its operator disabled it" if self.disabled is None else ENDS.get(self.disabled, self.disabled)


def read_standing(fields: Mapping[str, str], *, by_operator: bool = False) -> Standing:
    """A standing from what the store keeps of it."""
    known = {name: fields[name] for name in Standing.__struct_fields__ if name in fields}
    return msgspec.structs.replace(msgspec.convert(known, Standing, strict=False), by_operator=by_operator)


def find_hindrance(
    callback: Callback, standing: Standing, now: int, first: str | None = None, lane_at: int | None = None
) -> Hindrance | None:
    """Why a pending callback waits for something else than its next attempt's time.

    `first` is the callback at the head of its order key's line, `lane_at` when its endpoint is looked at next (ms).
    """
    if callback.state != CallbackState.PENDING:
        return None
    if standing.status == "disabled":
        return Hindrance(reason="disabled", detail=f"its endpoint is disabled: {standing.why_disabled}")
    if first is not None and first != callback.id:
        return Hindrance(reason="order", detail="the one before it with the same order key is not done", behind=first)
    later = max(now, callback.due_at or 0)
    if standing.not_before is not None and standing.not_before > later:
        return _rest(standing, standing.not_before)
    if later == now and lane_at is not None and lane_at > now:
        detail = "its endpoint's share is on its way, or its rate is used up"
        return Hindrance(reason="share", detail=detail, until=iso(lane_at))
    return None


def _rest(standing: Standing, until: int) -> Hindrance:
    if standing.pause is not None:
        detail = f"its endpoint failed {standing.failures} times in a row; one message tries it then"
        return Hindrance(reason="breaker", detail=detail, until=iso(until))
    return Hindrance(reason="slowed", detail="its endpoint asked to be sent less", until=iso(until))
