"""`event replay`: deliveries that came before, decided or started once more."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.common import Json, Shard, fail, out, print_json, with_store, written

if TYPE_CHECKING:
    from gateway.replaying import Replayer
    from gateway.replays import Which

PAGE = 25
PATIENCE = 600.0
"""Seconds that a full queue may keep a replay waiting."""
COLOURS = {"started": "green", "would_start": "green", "known": "cyan", "refused": "red"}

Moment = Annotated[str | None, typer.Option(help="A time (ISO 8601), or how long ago: 2h, 7d.")]


def replay(
    event_ids: Annotated[list[str] | None, typer.Argument(help="Ids of events, evt_..; or choose by options.")] = None,
    app: Annotated[str | None, typer.Option(help="Those of this app, by id or name.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Those of this type.")] = None,
    outcome: Annotated[str | None, typer.Option(help="accepted, ignored, parked or skipped.")] = None,
    since: Moment = None,
    until: Moment = None,
    limit: Annotated[int, typer.Option(help="How many, at most, the oldest first.", min=1, max=1_000_000)] = 1000,
    config: Annotated[
        str, typer.Option(help="current: decide anew; same: start the workflows, versions and inputs of then.")
    ] = "current",
    fresh_keys: Annotated[
        bool, typer.Option("--fresh-keys", help="New idempotency keys for the steps: what acts outside acts again.")
    ] = False,
    rate: Annotated[float, typer.Option(help="Events a second, at most.", min=0.01)] = 50,
    key: Annotated[str | None, typer.Option(help="The same key again goes on, and starts nothing twice.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would start; start nothing.")] = False,
    json: Json = False,
) -> None:
    """Replay events: those named, or those that came in a time and fit. Nobody proves anything again."""
    wish, chosen = _read_wish(config, dry_run, fresh_keys), any((app, type_, outcome, since, until))
    if bool(event_ids) == chosen:
        fail("name events by id, or choose them: --since 2h, with --app, --type, --outcome", code=2)
    if chosen and since is None:
        fail("say from when on: --since 2h", code=2)
    now, key = time.time(), key or f"cli-{os.urandom(6).hex()}"
    times = read_moment("--since", since, now), read_moment("--until", until, now)
    wanted = (app, type_, _read_outcome(outcome))
    if chosen and not dry_run:
        sys.stderr.write(f"replaying; if this is broken off, the same with --key {key} goes on\n")

    async def work(shard: Shard) -> list[Any]:
        from gateway.replaying import Asker

        replayer, asker = await open_replayer(shard), Asker(key=key)
        if event_ids:
            found = _replay_named(replayer, event_ids, wish, asker)
        else:
            which = await _read_which(shard, *wanted)
            found = _replay_chosen(replayer, which, times, wish, asker, limit, rate)
        return [_show(each, json) async for each in found]

    _finish(with_store(work), json, limit if chosen else None)


async def _replay_named(replayer: Replayer, event_ids: list[str], wish: Any, asker: Any) -> AsyncIterator[Any]:
    from gateway.errors import ConfigError, Refused
    from gateway.replays import ReplayDocument

    for event_id in event_ids:
        try:
            yield await _patiently(lambda event_id=event_id: replayer.replay(event_id, wish, asker))
        except (Refused, ConfigError) as error:
            yield ReplayDocument(event_id=event_id, status="refused", reason=error.message)


async def _replay_chosen(
    replayer: Replayer, which: Which, times: tuple[Any, Any], wish: Any, asker: Any, limit: int, rate: float
) -> AsyncIterator[Any]:
    from gateway.store.scanning import Span

    span = Span(*times)
    left, after = limit, None
    while left:
        began = time.monotonic()
        size = max(1, min(PAGE, left, int(rate) or 1))
        page = await _patiently(lambda size=size, after=after: replayer.page(which, span, wish, asker, size, after))
        for each in page.data:
            yield each
        left, after = left - len(page.data), page.next
        if after is None:
            return
        if not wish.dry_run:
            await asyncio.sleep(max(0.0, len(page.data) / rate - (time.monotonic() - began)))


async def _patiently(ask: Any) -> Any:
    """Ask until the store has room: what was done under the key is not done twice."""
    from gateway.errors import Unavailable

    deadline, told = time.monotonic() + PATIENCE, False
    while True:
        try:
            return await ask()
        except Unavailable as error:
            if time.monotonic() > deadline:
                raise
            if not told:
                sys.stderr.write(f"waiting: {error.details.get('reason', error.message)}\n")
            told = True
            await asyncio.sleep(1)


async def open_replayer(shard: Shard) -> Replayer:
    """What the API's door works with, over this command's store."""
    from msgspec import structs

    from gateway.asgi import new_replayer
    from gateway.logs import configure_logs
    from gateway.store.registry import Registry

    settings = shard.settings
    # An app without its secret can't receive here, but what it received before was proven then.
    configure_logs(structs.replace(settings, log_level="error"))
    registry = Registry(shard.redis, shard.catalog, shard.keys.named("changed"), ())
    await registry.load()
    return new_replayer(settings, registry, shard.redis, shard.keys, shard.catalog.audit)


def read_moment(option: str, text: str | None, now: float) -> int | None:
    """A time as milliseconds: how long ago, or ISO 8601, without a zone in UTC."""
    if text is None:
        return None
    from gateway.errors import BadRequest, ConfigError
    from gateway.retries import read_duration
    from gateway.web.api_runs import read_time

    try:
        return int((now - read_duration(text, option)) * 1000)
    except ConfigError:
        pass
    try:
        return read_time(option, text)
    except BadRequest:
        fail(f"{option} {text!r}: write how long ago (30m, 2h, 7d) or a time (2026-01-31T08:00:00Z)", code=2)


async def _read_which(shard: Shard, app: str | None, kind: str | None, outcome: Any) -> Which:
    from gateway.errors import NotFound
    from gateway.replays import Which

    if app is None:
        return Which(type=kind, outcome=outcome)
    found = [each.id for each in (await shard.catalog.read()).apps.values() if app in (str(each.id), each.name)]
    if not found and not app.isdecimal():
        message = f"there is no app {app!r}; `gateway app list` shows those there are"
        raise NotFound(message)
    return Which(app_id=found[0] if found else int(app), type=kind, outcome=outcome)


def _read_wish(config: str, dry_run: bool, fresh_keys: bool) -> Any:
    from gateway.replays import Wish

    if config not in ("current", "same"):
        fail(f"--config {config!r}: write current or same", code=2)
    return Wish(config="same" if config == "same" else "current", dry_run=dry_run, fresh_keys=fresh_keys)


def _read_outcome(outcome: str | None) -> str | None:
    if outcome not in (None, "accepted", "ignored", "parked", "skipped"):
        fail(f"--outcome {outcome!r}: write accepted, ignored, parked or skipped", code=2)
    return outcome


def _show(done: Any, json: bool) -> Any:
    from msgspec import structs

    if not json:
        colour = COLOURS.get(done.status, "yellow")
        told = ", ".join(f"run {run_id}" for run_id in done.run_ids) or ", ".join(
            f"{each.workflow}{f' by {each.trigger}' if each.trigger else ''} with {_short(each)}"
            for each in done.starts
        )
        text = " ".join(part for part in (told, done.reason or "") if part)
        out().print(f"[{colour}]{done.status.replace('_', ' '):>11}[/{colour}] {done.event_id}  {written(text)}")
    # Of very many, what each would start is not kept.
    return done if json else structs.replace(done, starts=[], triggers=[])


def _short(start: Any) -> str:
    import msgspec

    text = msgspec.json.encode(start.task if start.input is None else start.input).decode()
    return text if len(text) <= 100 else f"{text[:99]}…"


def _finish(done: list[Any], json: bool, limit: int | None) -> None:
    """Print what is left to say, and leave with 1 where an event was refused."""
    from gateway.documents import plain

    if json:
        print_json([plain(each) for each in done])
    else:
        counts = Counter(each.status.replace("_", " ") for each in done)
        told = ", ".join(f"{count} {word}" for word, count in counts.items())
        out().print(f"{len(done)} events" + (f": {told}" if done else ""))
        if len(done) == limit:
            out().print(f"--limit {limit} is reached: there may be more")
    if any(each.status == "refused" for each in done):
        raise typer.Exit(1)
