"""What `gateway doctor` asks the store: is it fit, who works, what hangs, what was refused. It writes only the pulse."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from gateway.errors import NotFound, StoreError
from gateway.runs import State
from gateway.settings import Settings
from gateway.soundness import Endpoint, Store
from gateway.store.connection import MISTAKES, Redis, complaints, inspect_server
from gateway.store.figures import feel_pulse, read_figures
from gateway.store.keys import Keys
from gateway.store.listing import CallbackFilter, EventFilter, Listing
from gateway.store.refusals import read_refusals

LOOKED_AT = 200
DAY_MS = 86_400_000


class Deliveries(msgspec.Struct, frozen=True):
    """Of the newest deliveries: how many each app accepted, and refused for want of a proof."""

    accepted: Mapping[int, int]
    refused: Mapping[int, int]


async def examine_store(redis: Redis, keys: Keys, settings: Settings, clock: Callable[[], float] = time.time) -> Store:
    """How the server is. What can't be reached is a value, not an exception."""
    try:
        server = await inspect_server(redis)
        before = clock()
        seconds, micros = await redis.time()
        ahead = (before + clock()) / 2 - (seconds + micros / 1e6)
        pulse = await feel_pulse(redis, keys)
        return Store(
            embedded=settings.embedded,
            server=f"{server.name} {'.'.join(map(str, server.version))}",
            complaints=complaints(server, settings.durability),
            writable=pulse.writable,
            clock=ahead,
            run_worker_age=pulse.run_worker_age,
            callback_worker_age=pulse.callback_worker_age,
            figures=await read_figures(redis, keys),
            orphaned=await find_orphans(redis, keys),
        )
    except StoreError as error:
        return Store(embedded=settings.embedded, unreachable=error.message)
    except MISTAKES as error:
        return Store(embedded=settings.embedded, unreachable=str(error) or type(error).__name__)


async def find_orphans(redis: Redis, keys: Keys) -> list[int]:
    """Runs that are said to be running, while no worker has their lease and no job of theirs is queued."""
    raw = await redis.zrange(keys.state("run", State.RUNNING), 0, LOOKED_AT - 1)
    ids = [int(each) for each in raw]
    async with redis.pipeline(transaction=False) as pipe:
        for run_id in ids:
            job = keys.job("run", run_id)
            pipe.exists(f"arq:in-progress:{job}")
            pipe.zscore(keys.queue("run"), job)
            # Asked last: a run that ended in between is none.
            pipe.hget(keys.run(run_id), "state")
        answers = await pipe.execute() if ids else []
    rows = zip(ids, answers[::3], answers[1::3], answers[2::3], strict=True)
    running = str(State.RUNNING).encode()
    return [run_id for run_id, leased, queued, state in rows if not leased and queued is None and state == running]


async def count_deliveries(redis: Redis, keys: Keys) -> Deliveries:
    """The newest events and refusals, by app."""
    refusals = await read_refusals(redis, keys, LOOKED_AT)
    page = await Listing(redis, keys).events(EventFilter(), LOOKED_AT)
    return Deliveries(
        accepted=Counter(each.head.app_id for each in page.events if each.head.app_id is not None),
        refused=Counter(each.app_id for each in refusals if each.app_id is not None and each.status == 401),
    )


async def find_failing_endpoints(redis: Redis, keys: Keys) -> list[Endpoint]:
    """The URLs to which callbacks were given up in the last day."""
    seconds, _ = await redis.time()
    page = await Listing(redis, keys).callbacks(CallbackFilter(state="failed"), LOOKED_AT)
    counts: Counter[str] = Counter()
    last: dict[str, str] = {}
    for each in (found.callback for found in page.found):
        if each.ended_at is None or each.ended_at < seconds * 1000 - DAY_MS:
            continue
        counts[each.url] += 1
        attempt = each.attempts[-1] if each.attempts else None
        words = "never tried" if attempt is None else attempt.detail or attempt.error or f"answered {attempt.status}"
        last.setdefault(each.url, words)
    return [Endpoint(url, count, last[url]) for url, count in counts.most_common(10)]


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a refused delivery, as far as its signature is concerned. `at` is in milliseconds."""

    app_id: int | None = None
    at: int = 0
    method: str = ""
    path: str = ""
    headers: list[tuple[str, str]] = []


async def read_refused(redis: Redis, keys: Keys, refusal_id: str) -> tuple[Refused, bytes | None]:
    """A refused delivery, and its body where that was kept. Raises NotFound."""
    record, body = await redis.hmget(keys.named(f"refusal:{refusal_id}"), "record", "body")
    if record is None:
        message = f"there is no refused delivery {refusal_id!r}: only the newest are kept, and of many a sample"
        raise NotFound(message)
    return msgspec.json.decode(record, type=Refused), body
