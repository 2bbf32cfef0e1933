"""`doctor`: is this installation sound; or, with a refused request, which known mistake explains its bad signature."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.util
import os
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.common import Json, Shard, fail, out, plainly, print_json, written

if TYPE_CHECKING:
    from gateway.apps import App
    from gateway.diagnosis import Diagnosis
    from gateway.diagnosis.captures import Document, Installation
    from gateway.settings import Settings
    from gateway.soundness import Endpoint, Facts, File, Folder, Remark, Sender
    from gateway.store.examination import Deliveries

MARKS = {"good": "[green]✓[/green]", "doubtful": "[yellow]![/yellow]", "bad": "[red]✗[/red]"}
PATIENCE = 5.0
MODULES = ("uvloop", "hiredis", "httptools")


def doctor(
    event: Annotated[
        str | None,
        typer.Argument(
            help="A refused delivery's id (rfs_..), or a file as `gateway verify` reads it; - reads standard input."
        ),
    ] = None,
    app: Annotated[
        str | None, typer.Option(help="The app that refused it, where the file doesn't say how it judged.")
    ] = None,
    json: Json = False,
) -> None:
    """Is this installation sound; with a refused request: which known mistake explains its bad signature."""
    from gateway.settings import read_settings

    if event is None:
        with plainly():
            facts = asyncio.run(gather(read_settings()))
        _show_remarks(facts, json)
        return
    with plainly():
        diagnosis = asyncio.run(examine(read_settings(), event, app))
    _show_diagnosis(diagnosis, json)


def _show_diagnosis(diagnosis: Diagnosis, json: bool) -> None:
    import msgspec

    if json:
        print_json(msgspec.to_builtins(diagnosis))
    else:
        colour = {"valid": "green", "explained": "yellow"}.get(diagnosis.verdict, "red")
        out().print(
            f"[{colour}]{diagnosis.verdict}[/{colour}]  the verifier says: {diagnosis.reason}; {diagnosis.tried} tried"
        )
        for finding in diagnosis.findings:
            out().print(
                f"\n[bold]{finding.mistake}[/bold]  {written(finding.explanation)}\n  {written(finding.change)}"
            )
        for line in diagnosis.next:
            out().print(f"\n{written(line)}")
    raise typer.Exit(1 if diagnosis.verdict == "unexplained" else 0)


def _show_remarks(facts: Facts, json: bool) -> None:
    import msgspec

    from gateway.soundness import is_sound, judge

    remarks = judge(facts)
    sound = is_sound(remarks)
    if json:
        print_json({"sound": sound, "checks": [msgspec.to_builtins(each) for each in remarks]})
    else:
        for each in remarks:
            _show_remark(each)
    raise typer.Exit(0 if sound else 1)


def _show_remark(remark: Remark) -> None:
    out().print(f"{MARKS[remark.level]} [bold]{written(remark.name)}[/bold]  {written(remark.text)}")
    if remark.level != "good" and remark.change:
        out().print(f"    {written(remark.change)}")


# ---- one request


async def examine(settings: Settings, event: str, app: str | None) -> Diagnosis:
    """Diagnose a refused delivery, or a file. Reads the store only where it runs already."""
    from gateway.diagnosis import diagnose
    from gateway.diagnosis.captures import read_case, read_document

    async with _running_store(settings) as shard:
        if _is_id(event):
            document = await _stored(settings, shard, event)
        else:
            document = read_document(_read_file(event))
        installation = await _installation(settings, shard)
    return diagnose(read_case(document, installation, app))


def _is_id(event: str) -> bool:
    return event.startswith(("rfs_", "evt_")) and not Path(event).exists()


async def _stored(settings: Settings, shard: Shard | None, event: str) -> Document:
    from gateway.diagnosis.captures import Document
    from gateway.store.connection import MISTAKES
    from gateway.store.examination import read_refused

    if event.startswith("evt_"):
        fail(f"{event} was accepted, its proof was right: `gateway event explain {event}` says what it started")
    if shard is None:
        fail("the store does not run, so a delivery's id can't be looked up; start `gateway up`, or give a file")
    try:
        refused, body = await read_refused(shard.redis, shard.keys, event)
    except MISTAKES as error:
        fail(f"can't reach the Valkey server: {error or type(error).__name__}. Is GATEWAY_REDIS_URL right?")
    headers: dict[str, tuple[str, ...]] = {}
    for name, value in refused.headers:
        headers[name] = (*headers.get(name, ()), value)
    return Document(
        app_id=refused.app_id,
        headers=dict(headers),
        method=refused.method,
        url=settings.address + refused.path,
        body_base64=None if body is None else base64.b64encode(body).decode(),
        now=refused.at / 1000,
    )


def _read_file(name: str) -> object:
    import msgspec

    try:
        text = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return msgspec.json.decode(text)
    except OSError as error:
        fail(f"{name} is no refused delivery's id, and can't be read as a file: {error.strerror}", code=2)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fail(f"{name} is not JSON: {error}")


@contextlib.asynccontextmanager
async def _running_store(settings: Settings) -> AsyncIterator[Shard | None]:
    """The store where it runs; None where it doesn't. Nothing is started: a doctor looks and changes nothing."""
    from gateway import embedded
    from gateway.asgi import store_url
    from gateway.store.connection import connect

    if settings.embedded and not (settings.data_dir.exists() and embedded.is_running(settings.data_dir)):
        yield None
        return
    redis = connect(store_url(settings), timeout=PATIENCE)
    try:
        yield Shard(redis, settings)
    finally:
        await redis.aclose()


async def _installation(settings: Settings, shard: Shard | None) -> Installation:
    """The published apps, or where the store does not answer those of gateway.yaml, or none."""
    from gateway.asgi import master_keys
    from gateway.diagnosis.captures import Installation
    from gateway.errors import GatewayError
    from gateway.store.connection import MISTAKES
    from gateway.store.lookups import Lookup

    keys: tuple[bytes, ...] = ()
    with contextlib.suppress(GatewayError, OSError):
        keys = master_keys(settings)
    contents = None
    if shard is not None:
        with contextlib.suppress(*MISTAKES):
            contents = await shard.catalog.read()
    return Installation(_apps(settings) if contents is None else list(contents.apps.values()), Lookup(keys, contents))


def _apps(settings: Settings) -> Sequence[App]:
    from gateway.configuration import read_configuration
    from gateway.errors import GatewayError
    from gateway.machine import read_file

    with contextlib.suppress(GatewayError):
        return read_configuration(read_file(settings.config), settings.python_modules).apps
    return ()


# ---- the installation


async def gather(settings: Settings) -> Facts:
    """All that `gateway.soundness` judges."""
    from gateway.egress import read_policy
    from gateway.soundness import Facts, Store
    from gateway.store.connection import MISTAKES
    from gateway.store.examination import Deliveries, count_deliveries, examine_store, find_failing_endpoints

    store = Store(embedded=settings.embedded, unreachable="the embedded Valkey is not running")
    deliveries = Deliveries({}, {})
    endpoints: list[Endpoint] = []
    async with _running_store(settings) as shard:
        reached = None
        if shard is not None:
            store = await examine_store(shard.redis, shard.keys, settings)
            reached = shard if store.unreachable is None else None
        if reached is not None:
            with contextlib.suppress(*MISTAKES):
                deliveries = await count_deliveries(reached.redis, reached.keys)
                endpoints = await find_failing_endpoints(reached.redis, reached.keys)
        installation = await _installation(settings, reached)
        return Facts(
            folder=_look_at_folder(settings),
            store=store,
            file=await _look_at_file(settings, reached),
            lease=settings.lease,
            address=_local_address(settings),
            receiver=await _ask_receiver(_local_address(settings)),
            senders=[_look_at_app(app, installation, deliveries) for app in installation.apps],
            endpoints=endpoints,
            policy=read_policy(settings.egress_allow),
            modules={name: importlib.util.find_spec(name) is not None for name in MODULES},
        )


def _local_address(settings: Settings) -> str:
    import msgspec

    return msgspec.structs.replace(settings, public_url="").address


def _look_at_folder(settings: Settings) -> Folder:
    from gateway.asgi import master_keys
    from gateway.errors import GatewayError
    from gateway.soundness import Folder

    path, problem, mode = settings.data_dir, None, None
    try:
        master_keys(settings)
    except GatewayError as error:
        problem = error.message
    except OSError as error:
        problem = f"{path / 'master.key'} can't be read: {error.strerror}"
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE((path / "master.key").stat().st_mode)
    room = shutil.disk_usage(next(each for each in (path.absolute(), *path.absolute().parents) if each.exists()))
    return Folder(
        path=str(path),
        exists=path.is_dir(),
        writable=os.access(path, os.W_OK | os.X_OK),
        free=room.free,
        total=room.total,
        key_mode=mode,
        key_given=bool(settings.master_keys),
        key_problem=problem,
    )


async def _ask_receiver(address: str) -> str | None:
    from gateway.egress import read_policy
    from gateway.web.client import Client, Failure

    # The operator's own address, so any network is allowed.
    async with Client(read_policy("0.0.0.0/0, ::/0")) as client:
        url = f"{address}/readyz?only=store"
        answer = await client.request("GET", url, headers=[], body=b"", total_timeout=PATIENCE, cap=65_536)
    if isinstance(answer, Failure):
        return f"{answer.reason}: {answer.detail}"
    return None if answer.status == 200 else f"/readyz answered {answer.status}"


async def _look_at_file(settings: Settings, shard: Shard | None) -> File:
    from gateway.configuration import read_configuration
    from gateway.errors import GatewayError
    from gateway.machine import read_file
    from gateway.places import Mistakes
    from gateway.soundness import File

    path = str(settings.config)
    if not settings.config.exists():
        return File(path=path, found=False)
    try:
        configuration = read_configuration(read_file(settings.config), settings.python_modules)
        changes = None if shard is None else await shard.catalog.preview(configuration)
    except Mistakes as error:
        return File(path=path, found=True, mistakes=[str(each) for each in error.mistakes])
    except GatewayError as error:
        return File(path=path, found=True, mistakes=[error.message])
    rows = () if changes is None else (("new", changes.added), ("changed", changes.changed), ("gone", changes.removed))
    differences = [f"{word} {name}" for word, names in rows for name in names]
    return File(path=path, found=True, differences=None if changes is None else differences)


def _look_at_app(app: App, installation: Installation, deliveries: Deliveries) -> Sender:
    from gateway.apps import LiveApp, read_verify
    from gateway.errors import GatewayError
    from gateway.holdings import complain_of_secret
    from gateway.secrets import CALLBACK_FIELD, VERIFY_FIELD
    from gateway.soundness import SHORT_SECRET, Sender

    short, unproven, callback_problem = list[str](), False, None
    try:
        live = LiveApp(app, installation.resolve)
        problem = live.problem
        unproven = live.scheme is not None and live.scheme.kind == "none"
        for reference in read_verify(app)[1]:
            value = installation.resolve(reference, app.holder(VERIFY_FIELD))
            if value and problem is None and len(value.encode()) < SHORT_SECRET:
                short.append(reference.label)
    except GatewayError as error:
        problem = error.message
    own = app.own_callback
    if own is not None and own.secret is not None:
        value = installation.resolve(own.secret, app.holder(CALLBACK_FIELD))
        complaint = own.secret.absence if value is None else complain_of_secret(None, value)
        callback_problem = complaint and f"its secret ({own.secret.label}) {complaint}"
    return Sender(
        name=app.name,
        disabled=app.disabled,
        problem=problem,
        unproven=unproven,
        short=short,
        callback_url=None if own is None else own.url,
        callback_problem=callback_problem,
        refused=deliveries.refused.get(app.id, 0),
        accepted=deliveries.accepted.get(app.id, 0),
    )
