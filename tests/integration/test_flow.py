"""Flow control against a real Valkey and real dispatchers: who waits, for what, in which order, who is refused."""

from __future__ import annotations

import asyncio
import time

from gateway.runs import MOVES
from gateway.store.reading import Reader
from gateway.store.records import Records, Write
from tests.tools import KEYS, acceptor, connected, tell, until
from tests.tools_flow import (
    CANCEL,
    GATE,
    HOUR,
    SKIP,
    Crew,
    ask,
    claim,
    end,
    left_over,
    left_over_nothing,
    reason_of,
    run_of,
    wish,
)

# ---- concurrency


def test_two_hundred_runs_behind_a_limit_of_one_keep_order_and_never_overlap(store: str) -> None:
    """Two workers with many slots do one after the other, as they were asked for; no trace of the gate is left."""

    async def story() -> None:
        async with connected(store) as redis:
            door, crew = acceptor(redis), Crew(redis)
            await asyncio.gather(*(door.store(wish(GATE)) for _ in range(200)))
            async with crew.working(), crew.working():
                await until(lambda: len(crew.begun) == 200)
                await until(lambda: left_over_nothing(redis))
            assert crew.begun == list(range(1, 201))
            assert crew.most == 1

    tell(story())


def test_a_gate_lets_through_as_many_as_its_limit_and_each_key_has_its_own(store: str) -> None:
    """Of three runs of one key two begin; another key's begins as well; who waits says for what and behind how many."""

    async def story() -> None:
        async with connected(store) as redis:
            fields = {"concurrency": {"limit": 2, "key": "input.repo"}}
            for repo in ("a", "a", "a", "b", "a"):
                await ask(redis, fields, {"repo": repo})
            assert await claim(redis) == [1, 2, 4]
            held = (await run_of(redis, 5)).held
            assert held is not None
            assert (held.reason, held.key, held.behind) == ("concurrency", "a", 3)
            assert await redis.zcard(KEYS.queue("run")) == 3
            await end(redis, 1)
            assert await reason_of(redis, 3) == "queue"
            assert await claim(redis) == [3]

    tell(story())


def test_a_parked_run_keeps_its_place(store: str) -> None:
    """A run that waits has not ended: the next stays where it is, until that one is cancelled by a person."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(2):
                await ask(redis, GATE)
            assert await claim(redis) == [1]
            await Records(redis, KEYS, "run").write(Write(id="1", fence=1, move=MOVES["park"], delay_ms=60_000))
            assert await claim(redis) == []
            await end(redis, 1, "cancel")
            assert await claim(redis) == [2]

    tell(story())


def test_one_who_waits_can_be_cancelled(store: str) -> None:
    """A run that never left its gate ends there, and the one behind it takes its turn."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(3):
                await ask(redis, GATE)
            await end(redis, 2, "cancel")
            assert await claim(redis) == [1]
            await end(redis, 1)
            assert await claim(redis) == [3]
            await end(redis, 3)
            assert await left_over(redis) == []

    tell(story())


def test_priority_goes_first_at_a_gate(store: str) -> None:
    """Whoever has the higher priority is let in first; among equals the older one."""

    async def story() -> None:
        async with connected(store) as redis:
            for value in (0, 0, 5, 9, 5):
                await ask(redis, GATE | {"priority": "input"}, value)
            order = []
            for _ in range(5):
                (run_id,) = await claim(redis)
                order.append(run_id)
                await end(redis, run_id)
            assert order == [1, 4, 3, 5, 2]

    tell(story())


# ---- skip and cancel


def test_a_skipped_event_says_which_run_was_in_the_way(store: str) -> None:
    """Nothing new is started, the event is stored with its decision, and the same delivery gets the same answer."""

    async def story() -> None:
        async with connected(store) as redis:
            await ask(redis, SKIP)
            assert await claim(redis) == [1]
            event = wish(SKIP, keys=["k"])
            first = await acceptor(redis).store(event)
            assert (first.outcome, first.run_ids, first.skipped) == ("stored", (), ((0, 1, "running"),))
            again = await acceptor(redis).store(wish(SKIP, keys=["k"]))
            assert (again.outcome, again.event_id, again.skipped) == ("known", event.id, first.skipped)
            seen = (await Reader(redis, KEYS).event(event.id)).head.decision
            assert (seen.outcome, seen.skipped) == ("skipped", [1])
            await end(redis, 1)
            assert (await ask(redis, SKIP)).run_ids == (2,)

    tell(story())


def test_the_newest_run_cancels_the_running_one(store: str) -> None:
    """The older run is told and ends first, those between never do anything, and the newest begins."""

    async def story() -> None:
        async with connected(store) as redis:
            await ask(redis, CANCEL)
            assert await claim(redis) == [1]
            for _ in range(3):
                await ask(redis, CANCEL)
            told = await redis.hmget(KEYS.run(1), "cancel_wish", "pokes")
            assert told == [b"run 2 of the same key is newer (concurrency: cancel_running)", b"1"]
            assert await reason_of(redis, 4) == "concurrency"
            await end(redis, 1, "cancel")
            crew = Crew(redis)
            async with crew.working():
                await until(lambda: len(crew.begun) == 3)
                await until(lambda: left_over_nothing(redis))
            assert sorted(crew.cancelled) == [2, 3]
            assert (await run_of(redis, 4)).state == "completed"

    tell(story())


def test_a_run_that_was_not_claimed_yet_is_superseded_too(store: str) -> None:
    """Of five requests in one call only the last lives."""

    async def story() -> None:
        async with connected(store) as redis:
            door, crew = acceptor(redis), Crew(redis)
            await asyncio.gather(*(door.store(wish(CANCEL)) for _ in range(5)))
            async with crew.working():
                await until(lambda: len(crew.begun) == 5)
                await until(lambda: left_over_nothing(redis))
            assert sorted(crew.cancelled) == [1, 2, 3, 4]

    tell(story())


# ---- throttle and rate limit


def test_a_throttle_spreads_the_starts_in_order(store: str) -> None:
    """Ten runs at 20 a second begin 50 ms apart, the first at once, and say until when they wait."""

    async def story() -> None:
        async with connected(store) as redis:
            door, crew = acceptor(redis), Crew(redis)
            fields = {"throttle": {"limit": 20, "period": "1s"}}
            await asyncio.gather(*(door.store(wish(fields)) for _ in range(10)))
            held = (await run_of(redis, 10)).held
            assert held is not None
            assert (held.reason, held.until is not None) == ("throttle", True)
            async with crew.working():
                await until(lambda: len(crew.begun) == 10)
            assert crew.begun == list(range(1, 11))
            first = crew.begun_at[1]
            assert all(crew.begun_at[place + 1] - first >= place * 50 - 60 for place in range(1, 10))
            assert crew.begun_at[10] - first >= 400

    tell(story())


def test_a_burst_begins_at_once(store: str) -> None:
    """With a burst of three, three are due now and the fourth later."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(4):
                await ask(redis, {"throttle": {"limit": 3, "period": HOUR, "burst": 3}})
            assert await claim(redis) == [1, 2, 3]
            assert await reason_of(redis, 4) == "throttle"

    tell(story())


def test_a_poke_does_not_carry_a_run_past_its_throttle(store: str) -> None:
    """Made due from outside, a throttled run that was not cancelled goes back to its time."""

    async def story() -> None:
        async with connected(store) as redis:
            for _ in range(2):
                await ask(redis, {"throttle": {"limit": 1, "period": HOUR}})
            clock = await redis.time()
            await redis.zadd(KEYS.queue("run"), {KEYS.job("run", 2): clock[0] * 1000})
            assert await claim(redis) == [1]
            assert await redis.zscore(KEYS.queue("run"), KEYS.job("run", 2)) > clock[0] * 1000 + 3_000_000

    tell(story())


def test_a_throttled_run_lines_up_at_its_gate_when_its_time_comes(store: str) -> None:
    """Throttle first, then the gate: the second run's time comes while the first still runs."""

    async def story() -> None:
        async with connected(store) as redis:
            fields = GATE | {"throttle": {"limit": 100, "period": "1s"}}
            for _ in range(2):
                await ask(redis, fields)
            assert await claim(redis) == [1]

            async def lined_up() -> bool:
                assert await claim(redis) == []
                return await reason_of(redis, 2) == "concurrency"

            await until(lined_up)
            await end(redis, 1)
            assert await claim(redis) == [2]

    tell(story())


def test_a_rate_limit_refuses_and_tells_the_truth_about_when_to_come_again(store: str) -> None:
    """Two at once, then none; after exactly as long as it says one more is taken. Nothing refused is stored."""

    async def story() -> None:
        async with connected(store) as redis:
            fields = {"rate_limit": {"limit": 2, "period": "1s"}}
            assert [(await ask(redis, fields)).outcome for _ in range(2)] == ["stored", "stored"]
            refused = await ask(redis, fields)
            assert (refused.outcome, 0 < refused.wait_ms <= 500) == ("limited", True)
            assert await redis.zcard(KEYS.named("events")) == 2
            began = time.monotonic()

            async def taken() -> bool:
                return (await ask(redis, fields)).outcome == "stored"

            await until(taken)
            assert refused.wait_ms - 20 <= (time.monotonic() - began) * 1000 <= refused.wait_ms + 400

    tell(story())


def test_a_repetition_does_not_count_against_a_rate_limit(store: str) -> None:
    """A delivery that is known gets its first answer, also when the rate is used up."""

    async def story() -> None:
        async with connected(store) as redis:
            fields = {"rate_limit": {"limit": 1, "period": HOUR}}
            await ask(redis, fields, keys=["k"])
            assert (await ask(redis, fields, keys=["k"])).outcome == "known"
            assert (await ask(redis, fields, keys=["other"])).outcome == "limited"

    tell(story())


# ---- debounce and batch


def test_a_thousand_events_make_one_debounced_run(store: str) -> None:
    """Every event is stored and points to that run, which has the newest request; it begins when they stop."""

    async def story() -> None:
        async with connected(store) as redis:
            door = acceptor(redis)
            fields = {"debounce": {"period": "300ms"}}
            found = await asyncio.gather(*(door.store(wish(fields, number)) for number in range(1000)))
            assert {each.run_ids for each in found} == {(1,)}
            assert await redis.zcard(KEYS.named("events")) == 1000
            assert await reason_of(redis, 1) == "debounce"
            crew = Crew(redis)
            async with crew.working():
                await until(lambda: crew.begun == [1])
            assert (await run_of(redis, 1)).request.input == 999
            assert await left_over(redis) == []
            assert (await ask(redis, fields)).run_ids == (2,)

    tell(story())


def test_a_debounce_waits_no_longer_than_it_may(store: str) -> None:
    """Each event moves the run away, but never beyond `max_wait` after the first."""

    async def story() -> None:
        async with connected(store) as redis:
            fields = {"debounce": {"period": "40s", "max_wait": "60s"}}
            await ask(redis, fields)
            first = await redis.zscore(KEYS.queue("run"), KEYS.job("run", 1))
            latest = float(await redis.hget(f"{KEYS.prefix}debounce:w:-", "latest"))
            assert latest == first + 20_000
            await redis.hset(f"{KEYS.prefix}debounce:w:-", "latest", int(first) - 1000)
            await ask(redis, fields)
            assert await redis.zscore(KEYS.queue("run"), KEYS.job("run", 1)) == first - 1000

    tell(story())


def test_a_claimed_run_is_never_replaced(store: str) -> None:
    """An event that comes when a worker has the run already makes the next one; keys are apart."""

    async def story() -> None:
        async with connected(store) as redis:
            fields = {"debounce": {"period": "1ms", "key": "input.pr"}}
            await ask(redis, fields, {"pr": 1, "n": 1})

            async def claimed() -> bool:
                return await claim(redis) == [1]

            await until(claimed)
            assert (await ask(redis, fields, {"pr": 1, "n": 2})).run_ids == (2,)
            assert (await ask(redis, fields, {"pr": 2, "n": 1})).run_ids == (3,)
            assert (await run_of(redis, 1)).request.input == {"pr": 1, "n": 1}

    tell(story())


def test_a_cancelled_debounce_is_not_joined(store: str) -> None:
    """After a person has cancelled the waiting run, the next event makes a new one."""

    async def story() -> None:
        async with connected(store) as redis:
            fields = {"debounce": {"period": HOUR}}
            await ask(redis, fields)
            await end(redis, 1, "cancel")
            assert await left_over(redis) == []
            assert (await ask(redis, fields)).run_ids == (2,)

    tell(story())


def test_a_batch_begins_when_it_is_whole(store: str) -> None:
    """Three inputs make one run with all of them in order; the fourth begins the next batch."""

    async def story() -> None:
        async with connected(store) as redis:
            fields = {"batch": {"max_size": 3, "timeout": HOUR}}
            found = [(await ask(redis, fields, {"n": number})).run_ids for number in range(4)]
            assert found == [(1,), (1,), (1,), (2,)]
            assert await claim(redis) == [1]
            assert (await run_of(redis, 1)).request.input == {"items": [{"n": 0}, {"n": 1}, {"n": 2}]}
            held = (await run_of(redis, 2)).held
            assert held is not None
            assert (held.reason, held.items) == ("batch", 1)

    tell(story())


def test_a_batch_begins_when_its_time_is_over_or_its_bytes_are_many(store: str) -> None:
    """A batch that is not whole begins at its timeout, and one of large items before they are too many."""

    async def story() -> None:
        async with connected(store) as redis:
            crew = Crew(redis)
            await ask(redis, {"batch": {"max_size": 100, "timeout": "100ms"}}, "a")
            async with crew.working():
                await until(lambda: crew.begun == [1])
            large = "x" * 1_500_000
            found = [(await ask(redis, {"batch": {"max_size": 100, "timeout": HOUR}}, large)).run_ids for _ in range(4)]
            assert found == [(2,), (2,), (2,), (3,)]
            assert await claim(redis) == [2]

    tell(story())


def test_a_debounced_run_takes_its_place_at_the_gate_when_it_is_due(store: str) -> None:
    """While it can still be joined it holds up nobody; due, it waits behind what runs."""

    async def story() -> None:
        async with connected(store) as redis:
            await ask(redis, GATE | {"debounce": {"period": "50ms"}})
            await ask(redis, GATE)
            assert await claim(redis) == [2]

            async def lined_up() -> bool:
                assert await claim(redis) == []
                return await reason_of(redis, 1) == "concurrency"

            await until(lined_up)
            await end(redis, 2)
            assert await claim(redis) == [1]

    tell(story())
