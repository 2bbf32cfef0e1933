"""Claims, fences, leases and repairs against a real Valkey."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from gateway.runs import CALLBACK_MOVES, MOVES, CallbackState, RunRequest, State
from gateway.store.connection import Redis, connect
from gateway.store.reading import Reader, RunFilter
from gateway.store.records import Claimed, Outgoing, Records, Write
from tests.tools import KEYS, acceptor, connected, event_of, lose_lease, tell, until

REQUEST = RunRequest(workflow_id=1, workflow="w", digest="d", session_id="ses")
MESSAGE = Outgoing(id="msg_1_a", run_id=1, app_id=1, type="run.completed", url="https://x.example", body=b"{}")
LEASE = 60_000


def runs_of(redis: Redis) -> Records:
    return Records(redis, KEYS, "run")


def callbacks_of(redis: Redis) -> Records:
    return Records(redis, KEYS, "callback")


async def fill(redis: Redis, count: int) -> None:
    door = acceptor(redis)
    await asyncio.gather(*(door.store(event_of(f"evt_{number}", REQUEST)) for number in range(count)))


async def claim_one(records: Records, token: str = "worker", lease: int = LEASE) -> Claimed:
    (claimed,) = (await records.claim(token, lease, 1)).items
    return claimed


async def claim_when_due(records: Records, token: str) -> Claimed:
    async def look() -> Any:
        return (await records.claim(token, LEASE, 1)).items

    (claimed,) = await until(look)
    assert isinstance(claimed, Claimed)
    return claimed


async def everything(redis: Redis) -> dict[bytes, Any]:
    """All keys with their contents, but those that only say that somebody looked."""
    quiet = {KEYS.named("workers").encode()}
    return {key: await redis.dump(key) for key in sorted(await redis.keys("*")) if key not in quiet}


def ending(claimed: Claimed, **fields: Any) -> Write:
    given: dict[str, Any] = {"id": claimed.id, "fence": claimed.fence, "move": MOVES["complete"]}
    return Write(**(given | fields))


# ---- the moves


@pytest.mark.parametrize(("name", "state"), list(itertools.product(MOVES, State)))
def test_the_scripts_allow_exactly_the_moves_of_the_table(store: str, name: str, state: State) -> None:
    """From every state of a run every move is made or refused as the table says, and a refusal changes nothing."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 1)
            claimed = await claim_one(runs_of(redis))
            await _put_into(redis, "run", "1", state)
            before = await everything(redis)
            if name == "claim":
                claims = await runs_of(redis).claim("other", LEASE, 1, job_id=KEYS.job("run", 1))
                moved = bool(claims.items)
            else:
                answer = await runs_of(redis).write(ending(claimed, move=MOVES[name], delay_ms=None))
                # A move to where it is already is taken for the same call come again.
                repeated = state == MOVES[name].target and state not in MOVES[name].sources
                moved = answer == "ok" and not repeated
                assert moved or answer == ("ok" if repeated else state)
            assert moved == (state in MOVES[name].sources)
            after = await redis.hget(KEYS.run(1), "state")
            assert after.decode() == (MOVES[name].target if moved else state)
            assert await redis.zrange(KEYS.state("run", after.decode()), 0, -1) == [b"1"]
            assert moved or name == "claim" or await everything(redis) == before

    tell(story())


@pytest.mark.parametrize(("name", "state"), list(itertools.product(CALLBACK_MOVES, CallbackState)))
def test_the_scripts_allow_exactly_the_moves_of_callbacks(store: str, name: str, state: CallbackState) -> None:
    """The same for callbacks."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 1)
            await runs_of(redis).write(ending(await claim_one(runs_of(redis)), callbacks=(MESSAGE,)))
            claimed = await claim_one(callbacks_of(redis))
            await _put_into(redis, "callback", MESSAGE.id, state)
            if name == "claim":
                await lose_lease(redis, MESSAGE.id)
                claims = await callbacks_of(redis).claim("other", LEASE, 1)
                moved = bool(claims.items)
            else:
                answer = await callbacks_of(redis).write(ending(claimed, move=CALLBACK_MOVES[name]))
                moved = answer == "ok" and state in CALLBACK_MOVES[name].sources
            assert moved == (state in CALLBACK_MOVES[name].sources)
            after = await redis.hget(KEYS.callback(MESSAGE.id), "state")
            assert after.decode() == (CALLBACK_MOVES[name].target if moved else state)

    tell(story())


async def _put_into(redis: Redis, kind: str, item: str, state: str) -> None:
    key = KEYS.run(int(item)) if kind == "run" else KEYS.callback(item)
    before = await redis.hget(key, "state")
    await redis.hset(key, "state", state)
    await redis.zrem(KEYS.state(kind, before.decode()), item)
    await redis.zadd(KEYS.state(kind, state), {item: 1})


# ---- claims


def test_no_run_is_given_to_two_workers(store: str) -> None:
    """Ten workers on connections of their own claim as fast as they can: each of 300 runs goes to exactly one."""

    async def story() -> None:
        clients = [connect(store) for _ in range(10)]
        await fill(clients[0], 300)

        async def worker(number: int, client: Redis) -> list[str]:
            found: list[str] = []
            while items := (await runs_of(client).claim(f"w{number}", LEASE, 7)).items:
                found += [item.id for item in items]
            return found

        shares = await asyncio.gather(*(worker(number, client) for number, client in enumerate(clients)))
        given = [run_id for share in shares for run_id in share]
        assert sorted(map(int, given)) == list(range(1, 301))
        assert sum(1 for share in shares if share) > 1
        for client in clients:
            await client.aclose()

    tell(story())


def test_a_claim_tells_how_much_waits_and_when_the_next_is_due(store: str) -> None:
    """The answer has the store's clock, what is still due after this claim, and the time until the next is."""

    async def story() -> None:
        async with connected(store) as redis:
            runs = runs_of(redis)
            empty = await runs.claim("w", LEASE, 5)
            assert (empty.due, empty.next_due, empty.items) == (0, None, ())
            await fill(redis, 5)
            claims = await runs.claim("w", LEASE, 2)
            assert ([item.id for item in claims.items], claims.due) == (["1", "2"], 3)
            rest = await runs.claim("w", LEASE, 9)
            assert (len(rest.items), rest.due) == (3, 0)
            assert LEASE - 5_000 < (rest.next_due or 0) <= LEASE
            clock = await redis.time()
            assert abs(clock[0] * 1000 - rest.now) < 5_000

    tell(story())


def test_a_claim_marks_the_run_as_running_under_a_lease(store: str) -> None:
    """The claimed run is running, has a start, a fence of one and a lease of its worker."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 1)
            claimed = await claim_one(runs_of(redis), "me")
            run = await Reader(redis, KEYS).run(1)
            assert (claimed.before, claimed.fence, str(run.state), run.lost) == ("pending", 1, "running", 0)
            assert run.started_at is not None
            assert await redis.get("arq:in-progress:{0}run:1") == b"me"
            assert 0 < await redis.pttl("arq:in-progress:{0}run:1") <= LEASE

    tell(story())


def test_a_job_without_a_record_is_taken_out_of_the_queue(store: str) -> None:
    """An entry that names no run is no work, and is not looked at again."""

    async def story() -> None:
        async with connected(store) as redis:
            await redis.zadd(KEYS.queue("run"), {KEYS.job("run", 99): 1})
            assert (await runs_of(redis).claim("w", LEASE, 5)).items == ()
            assert await redis.zcard(KEYS.queue("run")) == 0

    tell(story())


def test_a_lock_of_a_stock_worker_is_respected(store: str) -> None:
    """A job that a stock arq worker holds is passed over, does not hide the others, and is due when the lock is gone."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 3)
            await redis.set("arq:in-progress:{0}run:1", "stock", px=300)
            first = await runs_of(redis).claim("w", LEASE, 1)
            second = await runs_of(redis).claim("w", LEASE, 1)
            assert [item.id for item in (*first.items, *second.items)] == ["2"]
            assert await redis.get("arq:in-progress:{0}run:1") == b"stock"
            assert (await claim_when_due(runs_of(redis), "w")).id == "3"
            assert (await claim_when_due(runs_of(redis), "w")).id == "1"

    tell(story())


def test_a_stock_worker_claims_the_very_job_it_holds(store: str) -> None:
    """A claim by name leaves arq's own lock and queue entry alone, and gives nothing once the run has ended."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 2)
            await redis.set("arq:in-progress:{0}run:2", "stock", px=LEASE)
            (claimed,) = (await runs_of(redis).claim("stock", LEASE, 1, job_id=KEYS.job("run", 2))).items
            assert (claimed.id, claimed.fence) == ("2", 1)
            assert await redis.get("arq:in-progress:{0}run:2") == b"stock"
            await runs_of(redis).write(ending(claimed))
            assert (await runs_of(redis).claim("stock", LEASE, 1, job_id=KEYS.job("run", 2))).items == ()

    tell(story())


# ---- leases


def test_a_lapsed_lease_gives_the_run_to_another_and_counts_the_loss(store: str) -> None:
    """When a worker falls silent its run is due again; each claim that finds it running counts one worker lost."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 1)
            await claim_one(runs_of(redis), "first", lease=30)
            again = await claim_when_due(runs_of(redis), "second")
            assert (again.before, again.fence, again.fields[b"lost"]) == ("running", 2, b"1")

    tell(story())


def test_a_write_forgives_lost_workers_only_if_it_says_so(store: str) -> None:
    """A worker that merely shows what it has begun may die of it next: that is no progress, and stays counted."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 1)
            await claim_one(runs_of(redis), "first", lease=30)
            again = await claim_when_due(runs_of(redis), "second")
            assert await runs_of(redis).write(Write(id="1", fence=again.fence, fields={"step:a": b"{}"})) == "ok"
            assert await redis.hget(KEYS.run(1), "lost") == b"1"
            assert await runs_of(redis).write(Write(id="1", fence=again.fence, fields={"lost": 0})) == "ok"
            assert await redis.hget(KEYS.run(1), "lost") == b"0"

    tell(story())


def test_a_heartbeat_renews_what_is_ours_and_tells_what_is_lost(store: str) -> None:
    """Our leases are whole again, in arq's lock and in the queue; another worker's run is named and left alone."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 2)
            await claim_one(runs_of(redis), "me", lease=20_000)
            await claim_one(runs_of(redis), "you", lease=20_000)
            assert await runs_of(redis).beat("me", LEASE, ["1", "2", "77"]) == ["2", "77"]
            assert await redis.pttl("arq:in-progress:{0}run:1") > 50_000
            assert await redis.pttl("arq:in-progress:{0}run:2") <= 20_000
            due = dict(await redis.zrange(KEYS.queue("run"), 0, -1, withscores=True))
            assert due[b"{0}run:1"] - due[b"{0}run:2"] > 30_000

    tell(story())


def test_a_run_that_is_handed_back_counts_no_lost_worker(store: str) -> None:
    """A worker that stops hands its runs back: they are due at once, others are left alone, nobody was lost."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 2)
            await claim_one(runs_of(redis), "me")
            await claim_one(runs_of(redis), "you")
            await redis.delete(KEYS.wake("run"))
            assert await runs_of(redis).release("me", ["1", "2"]) == 1
            assert await redis.llen(KEYS.wake("run")) == 1
            again = await claim_one(runs_of(redis), "next")
            assert (again.id, again.fence, again.fields[b"lost"]) == ("1", 2, b"0")
            assert await redis.get("arq:in-progress:{0}run:2") == b"you"

    tell(story())


# ---- the fence


@pytest.mark.parametrize("move", ["complete", "fail", "park", None])
def test_the_fence_refuses_what_an_older_claim_writes(store: str, move: str | None) -> None:
    """Once another worker has the run, nothing the first one writes changes anything, callbacks and counts included."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 1)
            old = await claim_one(runs_of(redis), "first", lease=30)
            new = await claim_when_due(runs_of(redis), "second")
            before = await everything(redis)
            late = ending(
                old,
                move=None if move is None else MOVES[move],
                fields={"step:a": b"late"},
                counts=("x",),
                callbacks=(MESSAGE,),
                delay_ms=1 if move == "park" else None,
            )
            assert await runs_of(redis).write(late) == "fenced"
            assert await everything(redis) == before
            assert await runs_of(redis).write(ending(new)) == "ok"

    tell(story())


def test_a_record_that_is_gone_is_told(store: str) -> None:
    """A write to what no longer exists makes nothing."""

    async def story() -> None:
        async with connected(store) as redis:
            assert await runs_of(redis).write(Write(id="5", fence=1, fields={"a": b"1"}, move=MOVES["fail"])) == "gone"
            assert await redis.exists(KEYS.run(5)) == 0

    tell(story())


# ---- the end


def test_the_end_of_a_run_and_its_callbacks_are_one_step(store: str) -> None:
    """With one write the run has ended, its job is gone, its counts are raised and its callback is due."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 1)
            claimed = await claim_one(runs_of(redis))
            fields: dict[str, bytes | str | int] = {"output": b'"done"', "ended_at": 5}
            write = ending(claimed, fields=fields, counts=("runs:w:completed",), callbacks=(MESSAGE,))
            assert await runs_of(redis).write(write) == "ok"
            run = await Reader(redis, KEYS).run(1)
            assert (str(run.state), run.output, run.ended_at) == ("completed", "done", 5)
            assert not await redis.exists("arq:job:{0}run:1", "arq:in-progress:{0}run:1", KEYS.queue("run"))
            assert await redis.hget(KEYS.named("counts"), "runs:w:completed") == b"1"
            (callback,) = await Reader(redis, KEYS).callbacks_of(1)
            assert (callback.id, callback.state, callback.body) == (MESSAGE.id, "pending", b"{}")
            assert await redis.llen(KEYS.wake("callback")) == 1
            assert (await claim_one(callbacks_of(redis))).id == MESSAGE.id

    tell(story())


def test_an_end_that_is_written_twice_ends_once(store: str) -> None:
    """The answer was lost and the worker asks again: it hears `ok`, and counts and callbacks are not doubled."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 1)
            write = ending(await claim_one(runs_of(redis)), counts=("c",), callbacks=(MESSAGE,))
            assert await runs_of(redis).write(write) == "ok"
            await callbacks_of(redis).write(
                ending(await claim_one(callbacks_of(redis)), move=CALLBACK_MOVES["deliver"], id=MESSAGE.id)
            )
            assert await runs_of(redis).write(write) == "ok"
            assert await redis.hget(KEYS.named("counts"), "c") == b"1"
            assert (await Reader(redis, KEYS).callback(MESSAGE.id)).state == "delivered"

    tell(story())


def test_a_parked_run_is_due_again_after_its_delay(store: str) -> None:
    """A waiting run holds no lease, is claimed when its time has come, and counts no worker lost."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 1)
            claimed = await claim_one(runs_of(redis))
            assert await runs_of(redis).write(ending(claimed, move=MOVES["park"], delay_ms=40)) == "ok"
            assert not await redis.exists("arq:in-progress:{0}run:1")
            assert (await runs_of(redis).claim("w", LEASE, 1)).items == ()
            again = await claim_when_due(runs_of(redis), "w")
            assert (again.before, again.fields.get(b"lost", b"0")) == ("waiting", b"0")

    tell(story())


def test_writes_of_one_moment_share_a_call_and_each_gets_its_answer(store: str) -> None:
    """A hundred ends and one stale write go out together; only the stale one is refused."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 100)
            runs = runs_of(redis)
            items = (await runs.claim("w", LEASE, 100)).items
            stale = Write(id="1", fence=0, move=MOVES["complete"])
            await redis.config_resetstat()
            answers = await asyncio.gather(runs.write(stale), *(runs.write(ending(item)) for item in items))
            assert answers == ["fenced"] + ["ok"] * 100
            assert (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] <= 3

    tell(story())


def test_a_write_may_have_thousands_of_fields(store: str) -> None:
    """Many steps that end in one moment are written together, however many they are."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 1)
            claimed = await claim_one(runs_of(redis))
            fields: dict[str, bytes | str | int] = {f"step:s{number}": b"{}" for number in range(10_000)}
            assert await runs_of(redis).write(ending(claimed, fields=fields)) == "ok"
            assert await redis.hget(KEYS.run(1), "step:s9999") == b"{}"

    tell(story())


# ---- repair


@pytest.mark.parametrize("lost", ["job", "queue", "both"])
def test_repair_gives_an_open_run_its_job_again(store: str, lost: str) -> None:
    """Whichever of arq's entries is lost, it is put back, and the run is claimed."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 2)
            if lost in ("job", "both"):
                await redis.delete("arq:job:{0}run:1")
            if lost in ("queue", "both"):
                await redis.zrem(KEYS.queue("run"), "{0}run:1")
            assert await runs_of(redis).repair("pending", 0) == (2, 1)
            assert await runs_of(redis).repair("pending", 0) == (2, 0)
            assert await redis.exists("arq:job:{0}run:1") == 1
            assert {item.id for item in (await runs_of(redis).claim("w", LEASE, 9)).items} == {"1", "2"}

    tell(story())


def test_repair_takes_no_run_from_its_worker(store: str) -> None:
    """A running run whose queue entry was lost is queued again, and stays its worker's while the lease lasts."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 1)
            claimed = await claim_one(runs_of(redis))
            await redis.zrem(KEYS.queue("run"), "{0}run:1")
            assert await runs_of(redis).repair("running", 0) == (1, 1)
            assert (await runs_of(redis).claim("other", LEASE, 5)).items == ()
            assert await runs_of(redis).write(ending(claimed)) == "ok"

    tell(story())


def test_repair_keeps_the_time_of_what_waits(store: str) -> None:
    """A waiting run that lost only its job entry keeps the time it is due at."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 1)
            await runs_of(redis).write(ending(await claim_one(runs_of(redis)), move=MOVES["park"], delay_ms=50_000))
            due = await redis.zscore(KEYS.queue("run"), "{0}run:1")
            await redis.delete("arq:job:{0}run:1")
            assert await runs_of(redis).repair("waiting", 0) == (1, 1)
            assert await redis.zscore(KEYS.queue("run"), "{0}run:1") == due

    tell(story())


def test_repair_goes_page_by_page(store: str) -> None:
    """A page is as long as asked for, and the last one is shorter."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 5)
            await redis.delete(KEYS.queue("run"))
            pages = [await runs_of(redis).repair("pending", offset, 2) for offset in (0, 2, 4)]
            assert pages == [(2, 2), (2, 2), (1, 1)]

    tell(story())


# ---- reading


def test_runs_are_listed_newest_first_and_by_state(store: str) -> None:
    """A page has the newest runs below a number, of all states or of one."""

    async def story() -> None:
        async with connected(store) as redis:
            await fill(redis, 5)
            await runs_of(redis).write(ending(await claim_one(runs_of(redis))))
            reader = Reader(redis, KEYS)
            assert [run.id for run in (await reader.page(RunFilter(), 3)).runs] == [5, 4, 3]
            assert [run.id for run in (await reader.page(RunFilter(), 20, 3)).runs] == [2, 1]
            assert [run.id for run in (await reader.page(RunFilter(state="completed"), 20)).runs] == [1]
            assert [run.id for run in (await reader.page(RunFilter(state="pending"), 2, 4)).runs] == [3, 2]
            assert (await reader.page(RunFilter(state="failed"), 20)).runs == []

    tell(story())
