"""One machine's processes: which children there are, in which order, and gateway.yaml applied when it changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from gateway import embedded
from gateway.advice import warn_of_loops
from gateway.asgi import store_url
from gateway.audit import Actor, acting
from gateway.configuration import Configuration, check_texts, read_configuration
from gateway.egress import read_policy, read_proxy
from gateway.errors import ConfigError, GatewayError
from gateway.metrics import SHARED_FOLDER
from gateway.secrets import new_master_key
from gateway.settings import Settings
from gateway.store.catalog import Catalog
from gateway.store.changes import Changes
from gateway.store.connection import MISTAKES, check_server, connect
from gateway.store.keys import Keys
from gateway.supervise import Child, Supervisor, watch_file
from gateway.tasks import end_tasks

RECEIVER = (sys.executable, "-m", "gateway", "serve")
WORKER = (sys.executable, "-m", "workers")
APPLY_PAUSE = 0.5
log = structlog.get_logger()


async def run_machine(settings: Settings, listener: socket.socket) -> int:
    """Everything for one machine, until it is told to stop. Raises ConfigError or StoreError when it can't begin."""
    _read(settings)
    ensure_master_key(settings)
    with contextlib.ExitStack() as stack:
        if settings.embedded:
            stack.enter_context(embedded.exclusive(settings.data_dir))
        else:
            await prepare_store(settings)
        children = [*_valkey(settings), *_receivers(settings, listener, stack), *_workers(settings)]
        async with _following(settings):
            log.info("gateway is up", url=address(listener), config=str(settings.config), data=str(settings.data_dir))
            return await Supervisor(children, on_event=_note, grace=settings.grace + 5).run()


async def run_receivers(settings: Settings, listener: socket.socket) -> int:
    """Several receivers on one socket, until told to stop."""
    with contextlib.ExitStack() as stack:
        return await Supervisor(_receivers(settings, listener, stack), on_event=_note, grace=settings.grace + 5).run()


async def check_store(settings: Settings) -> None:
    """See that the server can hold events. Raises StoreError."""
    redis = connect(store_url(settings))
    try:
        await check_server(redis, settings.durability)
    finally:
        await redis.aclose()


async def prepare_store(settings: Settings) -> None:
    """See that the server can hold events, and bring what gateway.yaml says into it."""
    redis = connect(store_url(settings))
    try:
        await check_server(redis, settings.durability)
        await apply_file(settings, Catalog(redis, Keys()))
    finally:
        await redis.aclose()


async def apply_file(settings: Settings, catalog: Catalog) -> Changes:
    """Publish what the file says. Raises ConfigError."""
    configuration = _read(settings)
    acting.set(Actor(kind="file", name=settings.config.name))
    changes = await catalog.apply(configuration, int(time.time() * 1000))
    for warning in warn_of_loops(configuration) if changes else ():
        log.warning(warning)
    if changes:
        log.info("gateway.yaml applied", added=changes.added, changed=changes.changed, removed=changes.removed)
    return changes


def _read(settings: Settings) -> Configuration:
    """The file's contents, with every destination one that may be written down. No name is looked up: what somebody's
    name server says must not keep the gateway from starting.
    """
    configuration = read_configuration(read_file(settings.config), settings.python_modules)
    read_proxy(settings.egress_proxy)
    check_texts(configuration, read_policy(settings.egress_allow))
    return configuration


def read_file(path: Path) -> str:
    """The file's text. Raises ConfigError saying how to get one."""
    try:
        return path.read_text()
    except FileNotFoundError:
        message = f"there is no {path}. Make one with `gateway init`, or set GATEWAY_CONFIG."
    except (OSError, UnicodeDecodeError) as error:
        message = f"can't read {path}: {error}"
    raise ConfigError(message)


def ensure_master_key(settings: Settings) -> None:
    """Keep a master key in the data directory (mode 0600) when the settings give none."""
    kept = settings.data_dir / "master.key"
    if settings.master_keys or kept.exists():
        return
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    # Whole and durable before it has its name: nobody reads half a key, and no secret is sealed under one that is lost.
    with tempfile.NamedTemporaryFile("w", dir=settings.data_dir, prefix="master.", suffix=".new") as file:
        file.write(new_master_key() + "\n")
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(file.name, kept)
        except FileExistsError:
            return  # another process was faster, and its key is the one
    _sync_folder(settings.data_dir)
    log.info("made a master key; keep a copy of it", file=str(kept))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def address(listener: socket.socket) -> str:
    """Where a browser or a sender finds this socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _valkey(settings: Settings) -> list[Child]:
    if not settings.embedded:
        return []

    async def ready() -> None:
        await embedded.ready(settings.data_dir)
        await prepare_store(settings)

    return [Child(name="valkey", argv=tuple(embedded.command(settings.data_dir)), ready=ready)]


def _receivers(settings: Settings, listener: socket.socket, stack: contextlib.ExitStack) -> list[Child]:
    argv, env = (*RECEIVER, "--fd", str(listener.fileno())), {}
    if settings.receivers > 1:
        env[SHARED_FOLDER] = stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-metrics-"))
    return [
        Child(name=f"receiver-{number}", argv=argv, env=env, fds=(listener.fileno(),))
        for number in range(1, settings.receivers + 1)
    ]


def _workers(settings: Settings) -> list[Child]:
    return [Child(name=f"worker-{number}", argv=WORKER) for number in range(1, settings.workers + 1)]


@contextlib.asynccontextmanager
async def _following(settings: Settings) -> AsyncIterator[None]:
    """Apply the file again whenever it changes; a file with mistakes changes nothing and says so."""

    async def again() -> None:
        while not await _apply_again(settings):  # noqa: ASYNC110 - there is nothing to be told by
            await asyncio.sleep(APPLY_PAUSE)

    watcher = asyncio.get_running_loop().create_task(watch_file(settings.config, again))
    try:
        yield
    finally:
        await end_tasks(watcher)


async def _apply_again(settings: Settings) -> bool:
    """Whether that is settled: the file was applied, or refused. While the store does not answer it is not."""
    redis = connect(store_url(settings))
    try:
        await apply_file(settings, Catalog(redis, Keys()))
    except GatewayError as error:
        log.error("gateway.yaml was not applied, what was there stays", reason=error.message)
    except MISTAKES as error:
        log.warning("gateway.yaml can't be applied yet", reason=str(error) or type(error).__name__)
        return False
    finally:
        await redis.aclose()
    return True


def _note(event: str, name: str, details: dict[str, object]) -> None:
    level = "warning" if event in ("failed", "restarting", "killed") else "info"
    getattr(log, level)(f"{name} {event}", **details)
