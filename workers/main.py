"""A worker process: runs, callbacks and the sweep, side by side. And WorkerSettings, for arq's own command."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog
import uvloop
from arq.worker import Retry, func

from gateway.asgi import master_keys, new_acceptor, store_url
from gateway.credits import read_costs
from gateway.documents import kinds_of
from gateway.errors import GatewayError
from gateway.logs import configure_logs
from gateway.outbox import Outbox
from gateway.results import ResultLinks
from gateway.runs import Run
from gateway.settings import Settings, read_settings
from gateway.store.catalog import Catalog
from gateway.store.connection import check_server, connect, write_job
from gateway.store.keys import Keys
from gateway.store.marks import Marks
from gateway.store.reading import Reader
from gateway.store.records import Kind, Records
from gateway.store.registry import Registry
from gateway.store.retention import DAY_MS, Limits, Retention
from gateway.store.ticking import Ticking
from gateway.store.waiting import tell_delta
from gateway.tasks import end_tasks, insist_on_end
from gateway.verdicts import Bearing
from gateway.web.client import new_client
from gateway.web.reconciler import Reconciler
from workers.archive import Archive
from workers.chain import Chains
from workers.clock import Clock
from workers.deliver import Courier
from workers.dispatcher import Dispatcher, Ending, Hold, StoreClock
from workers.execute import Runner
from workers.executors.base import Models, rules_of
from workers.family import Family
from workers.herald import Herald
from workers.reconcile import Reconciling
from workers.retiring import Retiring
from workers.silence import Silence
from workers.sweep import Sweep
from workers.telling import Teller
from workers.watchdog import Watchdog

CALLBACK_SLOTS = 50
SPARE_SLOTS = 10
"""Of those, how many are kept for endpoints that answer."""
NO_LIMIT = 2**53
"""The queue's limit for what runs start themselves: a full queue turns away who comes from outside."""
STOCK_TIMEOUT = 3600
"""Seconds a stock arq worker lets a run take; and how long its lock outlives it when it is killed."""
LONGEST_PAUSE = 1800.0
log = structlog.get_logger()


def bearing_of(settings: Settings) -> Bearing:
    """How endpoints share the workers, and how their failures are borne."""
    return Bearing(
        share=settings.callback_share,
        failures=settings.callback_failures,
        pause=settings.callback_pause,
        longest=max(LONGEST_PAUSE, settings.callback_pause),
        patience=settings.callback_patience * DAY_MS / 1000,
    )


class Parts:
    """What works in one worker process, put together."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = Keys()
        self.redis = connect(store_url(settings), connections=256)
        self.registry = Registry(
            self.redis,
            Catalog(self.redis, self.keys),
            self.keys.named("changed"),
            master_keys(settings),
            settings.model_key,
        )
        self.client = new_client(settings)
        self.runs = Records(self.redis, self.keys, "run", patience=settings.lease)
        self.callbacks = Records(
            self.redis, self.keys, "callback", patience=settings.lease, bearing=bearing_of(settings)
        )
        self.clock = StoreClock()
        self.outbox = Outbox(ResultLinks(master_keys(settings), settings.address), settings.callback_size)
        reader = Reader(self.redis, self.keys)
        acceptor = new_acceptor(settings, self.redis, self.keys, max_queue=NO_LIMIT)
        self.runner = Runner(
            self.runs,
            self.registry,
            reader,
            self.client,
            self.clock,
            Family(self.registry, acceptor, reader, max_depth=settings.max_depth),
            max_output=settings.max_output,
            max_lost=settings.max_lost,
            costs=read_costs(settings.step_costs),
            models=Models(settings.model_url, settings.model_key, settings.model_credits),
            tell=functools.partial(tell_delta, self.redis, self.keys),
            rules=rules_of(settings),
            teller=Teller(self.outbox, self.registry),
        )
        self.courier = Courier(
            self.callbacks,
            self.registry,
            self.client,
            self.clock,
            schedule=settings.callback_schedule,
            timeout=settings.callback_timeout,
            bearing=bearing_of(settings),
        )
        self.sweep = self._new_sweep(reader)
        self.silence = Silence(self.redis, self.keys, self.registry, self.outbox)
        self.herald = Herald(self.redis, self.keys, self.registry, self.outbox)
        ticking = Ticking(self.redis, self.keys)
        self.ticker = Clock(ticking, self.registry, acceptor)
        self.chains = Chains(ticking, self.registry, reader, acceptor, max_depth=settings.max_depth)

    def _new_reconciling(self) -> Reconciling:
        marks = Marks(self.redis, self.keys)
        return Reconciling(self.registry, marks, Reconciler(self.client, marks))

    def _new_sweep(self, reader: Reader) -> Sweep:
        settings = self.settings
        retention = Retention(
            self.redis, self.keys, Limits(settings.keep_days, settings.keep_runs, int(settings.dedupe_days * DAY_MS))
        )
        return Sweep(
            self.redis,
            self.keys,
            self.runs,
            self.callbacks,
            interval=settings.lease,
            retention=retention,
            retiring=Retiring(retention, self._new_archive(reader), seconds=settings.lease / 2),
        )

    def _new_archive(self, reader: Reader) -> Archive | None:
        folder = self.settings.archive_dir
        return Archive(Path(folder), reader, self._kinds) if folder else None

    async def _kinds(self, run: Run) -> dict[str, str]:
        """The kinds of the steps of a run's workflow; none when its definition can't be used any more."""
        try:
            return kinds_of((await self.registry.definition(run.request.digest)).definition)
        except GatewayError:
            return {}

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on beside the dispatchers, for ever."""
        watches = (self.silence.go(), self.herald.go())
        return [self.sweep.go(), self.ticker.go(), self.chains.go(), self._new_reconciling().go(), *watches]

    def run_dispatcher(self) -> Dispatcher:
        return Dispatcher(
            self.redis,
            self.keys,
            self.runs,
            self.runner.perform,
            self.clock,
            slots=self.settings.concurrency,
            lease=self.settings.lease,
        )

    def callback_dispatcher(self) -> Dispatcher:
        return Dispatcher(
            self.redis,
            self.keys,
            self.callbacks,
            self.courier.perform,
            self.clock,
            slots=CALLBACK_SLOTS,
            spare=SPARE_SLOTS,
            lease=max(self.settings.lease, self.settings.callback_timeout + 5),
        )


@contextlib.asynccontextmanager
async def open_parts(settings: Settings) -> AsyncIterator[Parts]:
    """The parts, with the server checked and the published things at hand. Raises StoreError."""
    # Steps may import what lies beside gateway.yaml.
    folder = str(settings.config.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    parts = Parts(settings)
    try:
        await check_server(parts.redis, settings.durability)
        await parts.registry.load()
        parts.registry.start_watching()
        async with parts.client:
            yield parts
    finally:
        await parts.registry.stop_watching()
        await parts.redis.aclose()


async def work(settings: Settings, stop: asyncio.Event) -> None:
    """Work until `stop` is set, then hand back what is not done within the grace."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(settings.concurrency, "step"))
    async with open_parts(settings) as parts:
        dispatchers = [parts.run_dispatcher(), parts.callback_dispatcher()]
        with Watchdog(settings.lease):
            async with asyncio.TaskGroup() as group:
                loops = [group.create_task(loop) for loop in parts.loops()]
                loops += [group.create_task(dispatcher.async_run()) for dispatcher in dispatchers]
                log.info("worker is ready", slots=settings.concurrency, lease=settings.lease)
                await stop.wait()
                await asyncio.gather(*(dispatcher.stop(settings.grace) for dispatcher in dispatchers))
                await end_tasks(*loops)


def run_worker(settings: Settings) -> None:
    """One worker process, until SIGTERM or SIGINT."""

    async def main() -> None:
        stop = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        await work(settings, stop)
        _leave_at_once_if_threads_linger()

    uvloop.run(main())


def _leave_at_once_if_threads_linger() -> None:
    """A step's thread can't be stopped; its run is handed back already, so the process need not wait for it."""
    busy = [thread for thread in threading.enumerate() if thread.name.startswith("step") and thread.is_alive()]
    if busy:
        sys.stderr.flush()
        os._exit(0)


async def _on_startup(ctx: dict[Any, Any]) -> None:
    settings = read_settings()
    configure_logs(settings)
    stack = contextlib.AsyncExitStack()
    parts = await stack.enter_async_context(open_parts(settings))
    callbacks = parts.callback_dispatcher()
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None
    ctx.update(
        parts=parts,
        stack=stack,
        callbacks=callbacks,
        tasks=[loop.create_task(each) for each in (*parts.loops(), callbacks.async_run(), insist_on_end(main))],
    )


async def _on_shutdown(ctx: dict[Any, Any]) -> None:
    await ctx["callbacks"].stop(ctx["parts"].settings.grace)
    await end_tasks(*ctx["tasks"])
    await ctx["stack"].aclose()


async def run(ctx: dict[Any, Any], run_id: int) -> None:
    """One run, for a stock arq worker, which holds the job's lock itself. It has no lease and no heartbeat.

    A run that waits asks for another try at the time it is due.
    """
    parts: Parts = ctx["parts"]
    ending = await _perform_claimed(parts, "run", str(run_id))
    if ending is not Ending.DONE:
        raise Retry


async def _perform_claimed(parts: Parts, kind: Kind, record_id: str) -> Ending:
    claims = await parts.runs.claim("stock", STOCK_TIMEOUT * 1000, 1, job_id=parts.keys.job(kind, record_id))
    parts.clock.set(claims.now)
    if not claims.items:
        return Ending.DONE if claims.next_due is None else Ending.PARKED
    return await parts.runner.perform(Hold(claims.items[0]))


def __getattr__(name: str) -> Any:
    """`WorkerSettings`, for `arq workers.main.WorkerSettings`: made when it is asked for, for it reads the settings.

    It runs a stock arq worker on our queue: slower than `gateway worker`, and as correct.
    """
    if name != "WorkerSettings":
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return {
        "functions": [func(run, name="run")],
        "queue_name": Keys().queue("run"),
        "redis_pool": connect(store_url(read_settings())),
        "on_startup": _on_startup,
        "on_shutdown": _on_shutdown,
        "keep_result": 0,
        "max_jobs": 100,
        "max_tries": 1_000_000,
        "job_timeout": STOCK_TIMEOUT,
        "poll_delay": 0.05,
        "job_serializer": write_job,
        "job_deserializer": json.loads,
        "log_results": False,
    }
