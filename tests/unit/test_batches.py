"""Many callers, one call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.store.batches import Batches

PATIENCE = 5.0


async def double(items: Sequence[int]) -> list[int]:
    return [item * 2 for item in items]


@pytest.mark.parametrize("calls", [1, 2])
def test_one_item_after_another_is_answered(calls: int) -> None:
    """An item that is submitted the moment the one before is answered never waits for a sender that has just ended."""

    async def story() -> list[int]:
        batches: Batches[int, int] = Batches(double, calls=calls)
        async with asyncio.timeout(PATIENCE):
            return [await batches.submit(number) for number in range(1000)]

    assert asyncio.run(story()) == [number * 2 for number in range(1000)]


@pytest.mark.parametrize("calls", [1, 2])
def test_what_waits_travels_together(calls: int) -> None:
    """A hundred submitted in one moment take one call, each with its own answer."""
    seen: list[int] = []

    async def counted(items: Sequence[int]) -> list[int]:
        seen.append(len(items))
        return await double(items)

    async def story() -> list[int]:
        batches: Batches[int, int] = Batches(counted, calls=calls)
        return await asyncio.gather(*(batches.submit(number) for number in range(100)))

    assert asyncio.run(story()) == [number * 2 for number in range(100)]
    assert seen == [100]


def test_a_failed_call_fails_its_own_batch_only() -> None:
    """What a call raises, each caller of that batch gets; the next batch is sent all the same."""

    async def moody(items: Sequence[int]) -> list[int]:
        if 0 in items:
            raise ConnectionError("gone")
        return await double(items)

    async def story() -> tuple[list[int | BaseException], int]:
        batches: Batches[int, int] = Batches(moody)
        failed = await asyncio.gather(batches.submit(0), batches.submit(1), return_exceptions=True)
        return list(failed), await batches.submit(2)

    failed, answered = asyncio.run(story())
    assert [type(each) for each in failed] == [ConnectionError, ConnectionError]
    assert answered == 4


def test_patience_ends_the_wait() -> None:
    """A caller with patience gets TimeoutError when the call does not answer, and the next caller is served."""

    async def story() -> int:
        held = asyncio.Event()

        async def slow(items: Sequence[int]) -> list[int]:
            if 0 in items:
                await held.wait()
            return await double(items)

        batches: Batches[int, int] = Batches(slow)
        with pytest.raises(TimeoutError):
            await batches.submit(0, 0.05)
        held.set()
        return await batches.submit(3, PATIENCE)

    assert asyncio.run(story()) == 6
