"""Which callback goes next: fair shares, pace and order of endpoints, on the real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.store.records import Records
from gateway.verdicts import Bearing
from tests.tools import KEYS, connected, lose_lease, tell
from tests.tools_outbox import BEARING, LEASE, Hall
from tests.tools_sweep import claim_all, end_runs, file_runs, grow_old, retention, sweeper


def play(store: str, story: Callable[[Hall], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        async with connected(store) as redis:
            await story(Hall(redis))

    tell(told())


def test_a_backlog_of_one_endpoint_holds_up_nobody(store: str) -> None:
    """With thousands queued for one endpoint, another's message is in the very next claim, and costs no more."""

    async def story(hall: Hall) -> None:
        for start in range(0, 3000, 500):
            await hall.put("slow", *(f"s{number}" for number in range(start, start + 500)))
        await hall.put("quick", "q")
        assert "q" in await hall.claim()
        assert sum(each.startswith("s") for each in hall.held) == BEARING.share

    play(store, story)


def test_an_endpoint_has_one_share_over_all_workers(store: str) -> None:
    """Several workers together have no more on the way to an endpoint than its share; when one arrives the next goes."""

    async def story(hall: Hall) -> None:
        await hall.put("a", *"123456")
        assert len(await hall.claim(3, token="one")) == 3
        assert len(await hall.claim(3, token="two")) == 1
        claims = await hall.claims(token="three")
        assert (claims.items, claims.due) == ((), 0)
        assert claims.next_due is not None
        assert claims.next_due > 50_000
        await hall.end(next(iter(hall.held)))
        assert len(await hall.claim(token="two")) == 1

    play(store, story)


def test_lanes_take_turns(store: str) -> None:
    """Where slots are few each endpoint gets one in turn, whoever has more waiting."""

    async def story(hall: Hall) -> None:
        await hall.put("a", "a1", "a2", "a3", "a4")
        await hall.put("b", "b1", "b2")
        await hall.put("c", "c1")
        assert sorted(each[0] for each in await hall.claim(3)) == ["a", "b", "c"]
        assert sorted(each[0] for each in await hall.claim(2)) == ["a", "b"]

    play(store, story)


def test_an_operator_gives_an_endpoint_another_share(store: str) -> None:
    """`concurrency` of an endpoint counts in place of the general share, from the next claim on."""

    async def story(hall: Hall) -> None:
        await hall.put("a", *"123456789")
        await hall.publish("a", concurrency=1)
        assert len(await hall.claim()) == 1
        await hall.publish("a", concurrency=7)
        await hall.redis.zadd(KEYS.named("callbacks:lanes"), {"a": 1})
        assert len(await hall.claim()) == 6

    play(store, story)


def test_a_rate_is_never_passed(store: str) -> None:
    """Of many messages no more go in a period than the endpoint's rate allows; the worker is told when the next may."""

    async def story(hall: Hall) -> None:
        await hall.publish("a", rate={"limit": 2, "period": 60.0}, concurrency=100)
        await hall.put("a", *"123456789")
        claims = await hall.claims()
        assert len(claims.items) == 1
        assert claims.next_due is not None
        assert 29_000 < claims.next_due <= 30_000
        await hall.publish("b", rate={"limit": 1000, "period": 1.0}, concurrency=100)
        await hall.put("b", *(f"b{number}" for number in range(60)))
        assert len(await hall.claim()) <= 20

    play(store, story)


def test_a_rate_of_a_few_milliseconds_is_one(store: str) -> None:
    """One message each 10 ms is no more at once than one, and each leaves a time that a later rate can start from."""

    async def story(hall: Hall) -> None:
        await hall.publish("a", rate={"limit": 1, "period": 0.01}, concurrency=100)
        await hall.put("a", *"123456789")
        assert len(await hall.claim()) == 1
        await hall.publish("b", rate={"limit": 20, "period": 0.019}, concurrency=100)
        await hall.put("b", *(f"b{number}" for number in range(60)))
        assert 1 <= sum(each.startswith("b") for each in await hall.claim()) <= 11
        for endpoint in "ab":
            assert float((await hall.health(endpoint))["tat"]) < 1e15

    play(store, story)


def test_a_rate_that_is_loosened_holds_up_nothing(store: str) -> None:
    """Of one message a day the second waits a day; once its operator allows a hundred a second it goes at once."""

    async def story(hall: Hall) -> None:
        await hall.publish("a", rate={"limit": 1, "period": 86_400.0})
        await hall.put("a", "1", "2")
        assert await hall.claim() == ["1"]
        await hall.publish("a", rate={"limit": 100, "period": 1.0})
        await hall.put("a", "3")
        claims = await hall.claims()
        assert claims.items or (claims.next_due is not None and claims.next_due <= 1000)

    play(store, story)


# ---- breaker and pace


def test_failures_in_a_row_open_the_breaker(store: str) -> None:
    """Then messages wait without attempts; one probe goes after a pause, which doubles with each that fails."""

    async def story(hall: Hall) -> None:
        await hall.fail("a", 3)
        await hall.put("a", "1", "2", "3")
        claims = await hall.claims()
        assert claims.items == ()
        assert claims.next_due is not None
        assert 25_000 < claims.next_due <= 30_000
        for pause in ("60000", "120000"):
            await hall.let_pass("a")
            (probe,) = await hall.claim()
            assert await hall.claim() == []
            await hall.end(probe, "bad", "retry")
            assert (await hall.health("a"))["pause"] == pause
        await hall.let_pass("a")
        (probe,) = await hall.claim()
        await hall.end(probe)
        assert "failures" not in await hall.health("a")
        await hall.put("a", "4", "5")
        assert sorted(await hall.claim()) == ["4", "5"]

    play(store, story)


def test_a_pause_has_an_end(store: str) -> None:
    """However often a probe fails, the next comes within the longest pause."""

    async def story(hall: Hall) -> None:
        await hall.fail("a", 3)
        await hall.redis.hset(KEYS.health("a"), "pause", 1_700_000)
        await hall.put("a", "1")
        await hall.let_pass("a")
        await hall.end(*await hall.claim(), "bad", "retry")
        assert (await hall.health("a"))["pause"] == "1800000"

    play(store, story)


def test_what_was_on_its_way_does_not_lengthen_the_pause(store: str) -> None:
    """Four attempts that fail together open the breaker once."""

    async def story(hall: Hall) -> None:
        await hall.put("a", *"1234")
        for item in await hall.claim():
            await hall.end(item, "bad", "retry")
        assert (await hall.health("a"))["pause"] == "30000"

    play(store, story)


def test_a_success_between_closes_the_breaker(store: str) -> None:
    """Only failures in a row count."""

    async def story(hall: Hall) -> None:
        await hall.fail("a", 2)
        await hall.put("a", "good")
        await hall.claim()
        await hall.end("good")
        await hall.fail("a", 2)
        assert "pause" not in await hall.health("a")

    play(store, story)


def test_endpoints_that_hang_leave_slots_to_the_others(store: str) -> None:
    """Endpoints that only fail get one attempt each, and none of the slots that are kept for those that answer."""

    async def story(hall: Hall) -> None:
        bearing = Bearing(failures=100)
        hall.records = Records(hall.redis, KEYS, "callback", bearing=bearing)
        for number in range(20):
            await hall.redis.hset(KEYS.health(f"sick{number}"), "failures", 50)
            await hall.put(f"sick{number}", f"s{number}-1", f"s{number}-2")
        taken = await hall.claim(15, spare=5)
        assert (len(taken), {each[-1] for each in taken}) == (10, {"1"})
        await hall.put("well", "w")
        assert await hall.claim(5, spare=5) == ["w"]

    play(store, story)


def test_a_receiver_under_load_gets_one_at_a_time_with_gaps(store: str) -> None:
    """After 429 the endpoint rests as long as it asked, for all its messages; success brings it back by halves."""

    async def story(hall: Hall) -> None:
        await hall.put("a", *"123456")
        first = (await hall.claim())[0]
        await hall.end(first, "slow", "retry", wait=40_000)
        for item in list(hall.held)[1:]:
            await hall.end(item, "slow", "retry")
        assert (await hall.health("a"))["gap"] == "8000"
        claims = await hall.claims()
        assert claims.items == ()
        assert claims.next_due is not None
        assert 30_000 < claims.next_due <= 40_000
        for gap in ("4000", "2000", "1000", None):
            await hall.put("a", f"later{gap}", f"more{gap}")
            await hall.let_pass("a")
            (item,) = await hall.claim()
            await hall.end(item)
            assert (await hall.health("a")).get("gap") == gap
        assert len(await hall.claim()) == 4

    play(store, story)


@pytest.mark.parametrize(("lesson", "reason"), [("gone", "gone"), ("asked", "asked")])
def test_a_receiver_that_wants_no_more_is_disabled(store: str, lesson: str, reason: str) -> None:
    """Its messages wait, visible; nothing is sent. It is written down to be told of, and counted, once."""

    async def story(hall: Hall) -> None:
        await hall.put("a", *"123456")
        for item in await hall.claim():
            await hall.end(item, lesson, "fail")
        assert (await hall.health("a"))["disabled"] == reason
        assert await hall.redis.ttl(KEYS.health("a")) == -1
        assert await hall.redis.smembers(KEYS.named("endpoints:news")) == {b"a"}
        assert await hall.redis.hget(KEYS.named("counts"), f"endpoints:disabled:{reason}") == b"1"
        await hall.put("a", "later")
        claims = await hall.claims()
        assert (claims.items, claims.due, claims.next_due) == ((), 0, None)
        assert await hall.redis.zcard(KEYS.state("callback", "pending")) == 3

    play(store, story)


def test_nothing_but_failure_for_days_disables(store: str) -> None:
    """Not a day before its time is over, and not without failures in a row; a success in between begins anew."""

    async def story(hall: Hall) -> None:
        now = int((await hall.redis.time())[0]) * 1000
        await hall.fail("a", 3)
        for days, disabled in ((4.9, None), (5.1, "failing")):
            await hall.redis.hset(KEYS.health("a"), "failing_since", int(now - days * 86_400_000))
            await hall.let_pass("a")
            await hall.fail("a", 1)
            assert (await hall.health("a")).get("disabled") == disabled
        await hall.redis.hset(KEYS.health("b"), "failing_since", 1)
        await hall.fail("b", 1)
        assert "disabled" not in await hall.health("b")

    play(store, story)


def test_an_operator_s_disabled_endpoint_gets_nothing(store: str) -> None:
    """`disabled` in what is published holds its messages like a disabling of ours."""

    async def story(hall: Hall) -> None:
        await hall.publish("a", disabled=True)
        await hall.put("a", "1")
        assert await hall.claim() == []
        await hall.publish("a")
        await hall.put("a", "2")
        assert sorted(await hall.claim()) == ["1", "2"]

    play(store, story)


# ---- order


def test_an_order_outlives_the_queue(store: str) -> None:
    """What waits in a line and has lost its job is next all the same: nothing that came later goes before it."""

    async def story(hall: Hall) -> None:
        await hall.put("a", "1", "2", order="k")
        assert await hall.claim() == ["1"]
        await hall.redis.delete(KEYS.queue("callback"))
        await hall.put("a", "3", order="k")
        await hall.end("1")
        assert await hall.claim() == ["2"]
        await sweeper(hall.redis).sweep()
        assert await hall.claim() == []
        await hall.end("2")
        assert await hall.claim() == ["3"]

    play(store, story)


def test_messages_with_the_same_key_go_one_after_the_other(store: str) -> None:
    """A failing one holds those behind it with its key and nobody else; when it is given up the next goes."""

    async def story(hall: Hall) -> None:
        await hall.put("a", "x1", "x2", "x3", order="x")
        await hall.put("a", "y1", "y2", order="y")
        await hall.put("a", "free")
        assert sorted(await hall.claim()) == ["free", "x1", "y1"]
        await hall.end("x1", "bad", "retry")
        await hall.end("y1")
        assert await hall.claim() == ["y2"]
        await hall.redis.zadd(KEYS.lane("a"), {"x1": 1})
        await hall.redis.zadd(KEYS.named("callbacks:lanes"), {"a": 1})
        assert await hall.claim() == ["x1"]
        await hall.end("x1", "bad", "fail")
        assert await hall.claim() == ["x2"]
        await hall.end("x2")
        assert await hall.claim() == ["x3"]
        for item in ("x3", "y2", "free"):
            await hall.end(item)
        await hall.insist_on_empty()

    play(store, story)


def test_the_same_key_of_two_endpoints_is_two_lines(store: str) -> None:
    """A line is an endpoint's own."""

    async def story(hall: Hall) -> None:
        await hall.put("a", "a1", "a2", order="x")
        await hall.put("b", "b1", order="x")
        assert sorted(await hall.claim()) == ["a1", "b1"]

    play(store, story)


# ---- what is lost comes back


def test_a_lease_that_ran_out_frees_its_place(store: str) -> None:
    """Workers that died hold no place of an endpoint's share when their leases are over; what they had goes again."""

    async def story(hall: Hall) -> None:
        await hall.put("a", *"123456")
        lost = await hall.claim(token="dead")
        assert await hall.claim() == []
        for item in lost:
            await lose_lease(hall.redis, item, "a")
        again = await hall.claim()
        assert sorted(again) == sorted(lost)
        assert {each.fence for each in hall.held.values()} == {2}

    play(store, story)


def test_a_heartbeat_keeps_lease_and_place(store: str) -> None:
    """What is renewed stays where it is, in queue, lane and share; what is handed back is due at once."""

    async def story(hall: Hall) -> None:
        await hall.put("a", "1")
        await hall.claim()
        assert await hall.records.beat("worker", LEASE * 2, ["1"]) == []
        scores = [await hall.redis.zscore(key, "1") for key in (KEYS.lane("a"), KEYS.busy("a"))]
        now = int((await hall.redis.time())[0]) * 1000
        assert all(score > now + LEASE * 1.5 for score in scores)
        assert await hall.records.release("worker", ["1"]) == 1
        assert await hall.redis.zcard(KEYS.busy("a")) == 0
        assert await hall.claim() == ["1"]

    play(store, story)


@pytest.mark.parametrize("lost", ["lanes", "lane", "lanes and lane", "lines", "busy", "queue", "all"])
def test_lost_lanes_and_lines_are_rebuilt(store: str, lost: str) -> None:
    """Whichever index is gone, the sweep puts every open callback back, each line in its order."""

    async def story(hall: Hall) -> None:
        await hall.put("a", "x1", "x2", "x3", order="x")
        await hall.put("a", "1", "2")
        (first,) = await hall.claim(1)
        gone = {
            "lanes": ["callbacks:lanes"],
            "lane": ["callbacks:lane:a"],
            "lanes and lane": ["callbacks:lanes", "callbacks:lane:a"],
            "lines": [key.decode().removeprefix(KEYS.prefix) for key in await hall.redis.keys("*callbacks:line:*")],
            "busy": ["callbacks:busy:a"],
            "queue": ["callbacks:queue"],
        }
        names = gone[lost] if lost in gone else [name for each in gone.values() for name in each]
        await hall.redis.delete(*(KEYS.named(name) for name in names))
        for _ in range(2):
            await sweeper(hall.redis).sweep()
        order, left = [], {"x1", "x2", "x3", "1", "2"} - {first}
        await hall.end(first)
        while left:
            found = await hall.claim()
            assert found
            for item in found:
                order.append(item)
                await hall.end(item)
            left -= set(found)
        assert [each for each in [first, *order] if each.startswith("x")] == ["x1", "x2", "x3"]
        await hall.insist_on_empty()

    play(store, story)


def test_callbacks_of_the_version_before_are_delivered(store: str) -> None:
    """Records without an endpoint, queued without lanes, go at the first claims; what another held at its lease's end."""

    async def story(hall: Hall) -> None:
        redis, now = hall.redis, int((await hall.redis.time())[0]) * 1000
        for number in range(30):
            item, state = f"msg_{number}_old", "sending" if number == 0 else "pending"
            fields = {"app_id": 7, "run_id": 1, "type": "run.completed", "url": "https://x.example", "body": "{}"}
            await redis.hset(KEYS.callback(item), mapping=fields | {"state": state, "created_at": now, "fence": 1})
            await redis.zadd(KEYS.state("callback", state), {item: now})
            job = KEYS.job("callback", item)
            await redis.set(f"arq:job:{job}", json.dumps({"t": None, "f": "callback", "a": [item], "k": {}, "et": now}))
            await redis.zadd(KEYS.queue("callback"), {job: now - 1000 + number})
        held = KEYS.job("callback", "msg_0_old")
        await redis.set(f"arq:in-progress:{held}", "an older worker", px=300)
        await redis.zadd(KEYS.queue("callback"), {held: now + 300})
        seen: set[str] = set()
        while len(seen) < 30:
            found = await hall.claim()
            seen |= set(found)
            for item in found:
                await hall.end(item)
            await asyncio.sleep(0.01)
        assert (await redis.hget(KEYS.callback("msg_0_old"), "fence")) == b"2"
        await hall.insist_on_empty()

    play(store, story)


def test_a_disabled_endpoint_keeps_no_run_for_ever(store: str) -> None:
    """What waits for an endpoint that nobody enables goes with its run when that is past its time."""

    async def story(hall: Hall) -> None:
        ids = await file_runs(hall.redis, 2)
        await end_runs(hall.redis, await claim_all(hall.redis), callback=True)
        await grow_old(hall.redis, ids)
        kept, index = retention(hall.redis, days=1), KEYS.state("run", "completed")
        assert (await kept.look("run", index, 0, 10)).old == []
        await hall.redis.hset(KEYS.health("app-1"), "disabled", "gone")
        old = (await kept.look("run", index, 0, 10)).old
        assert (await kept.remove("run", index, old)).callbacks == 2
        await hall.insist_on_empty()

    play(store, story)
