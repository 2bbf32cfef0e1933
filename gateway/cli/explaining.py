"""`event`: what came in, and what happened to it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.common import Json, Shard, fail, local_time, out, print_json, table, with_store, written

events = typer.Typer(help="Events: list, show, explain, replay; refused deliveries too.", no_args_is_help=True)

OUTCOMES = ("accepted", "ignored", "parked", "skipped", "duplicate", "refused", "handshake", "ping")
UNSTORED = ("refused", "handshake")
Name = Annotated[str, typer.Argument(help="evt_… or rfs_…, or the id that the sender itself gave it.")]
Whose = Annotated[str | None, typer.Option("--app", help="Id or name of its app.")]


@events.command("list")
def list_events(
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=1000)] = 20,
    app: Whose = None,
    outcome: Annotated[str | None, typer.Option(help=f"Only those: {', '.join(OUTCOMES)}.")] = None,
    type: Annotated[str | None, typer.Option(help="Only those of this type.")] = None,
    since: Annotated[str | None, typer.Option(help="Only those since: 2h, 7d, or a time (ISO 8601).")] = None,
    json: Json = False,
) -> None:
    """What came in lately, the newest first; refused deliveries are among them."""
    if outcome is not None and outcome not in OUTCOMES:
        fail(f"there is no outcome {outcome!r}; it is one of {', '.join(OUTCOMES)}", code=2)
    begin = None if since is None else read_since(since)
    found = with_store(lambda shard: _list(shard, limit, app, outcome, type, begin))
    if json:
        print_json(found)
        return
    from gateway.cli.tales import outcome_of, widen

    rows = table("event", "received", "app", "type", "outcome", "")
    rows.columns[0].no_wrap = True  # to be copied
    for each in found:
        rows.add_row(
            each["event_id"],
            local_time(each["received_at"]),
            "–" if each["app_id"] is None else str(each["app_id"]),
            written(each["type"] or "–"),
            outcome_of(each["decision"]["outcome"]),
            written(_note(each)),
        )
    screen = out()
    widen(screen)
    screen.print(rows if found else "nothing came in yet")


@events.command("show")
def show_event(
    name: Name,
    app: Whose = None,
    capture: Annotated[
        bool, typer.Option("--capture", help="As `gateway verify` reads it: one JSON document without secrets.")
    ] = False,
    json: Json = False,
) -> None:
    """One event, or refused delivery, with its bytes."""

    async def work(shard: Shard) -> dict[str, Any]:
        from gateway.captures import write_capture
        from gateway.inquiries import app_id_of

        inquiry, apps, delivery = await _find(shard, name, app)
        if capture:
            return write_capture(await inquiry.capture(delivery, apps))
        document = _describe_whole(delivery)
        owner = app_id_of(delivery)
        return document | {"app": apps[owner].name if owner in apps else None}

    document = with_store(work)
    if capture or json:
        print_json(document)
        return
    from gateway.cli.tales import draw_event

    draw_event(out(), document)


@events.command("explain")
def explain_event(name: Name, app: Whose = None, json: Json = False) -> None:
    """What happened to a delivery: what was checked, what matched, what it started, what became of that."""
    document = with_store(lambda shard: read_explanation(shard, name, app))
    if json:
        print_json(document)
        return
    from gateway.cli.tales import draw_explanation

    draw_explanation(out(), document)


async def read_explanation(shard: Shard, name: str, app: str | None = None) -> dict[str, Any]:
    """The explanation of a delivery under any of its names. Raises NotFound, or Conflict where several fit."""
    import msgspec

    from gateway.asgi import master_keys
    from gateway.masks import Mask
    from gateway.store.lookups import Lookup, secrets_of

    inquiry, apps, delivery = await _find(shard, name, app)
    lookup = Lookup(master_keys(shard.settings), await shard.catalog.read())
    secrets = [value for each in apps.values() for value in secrets_of(each, lookup)]
    document: dict[str, Any] = msgspec.to_builtins(await inquiry.explain(delivery, apps, Mask(secrets)))
    return document


def read_since(text: str) -> int:
    """A moment in milliseconds: so long ago (`90s`, `2h`, `7d`), or ISO 8601, without a zone in local time."""
    import time
    from datetime import datetime

    from gateway.errors import ConfigError
    from gateway.retries import read_duration

    try:
        return int((time.time() - read_duration(text, "--since")) * 1000)
    except ConfigError:
        pass  # then it is a time
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        fail(f"--since takes 2h, 7d, or a time such as 2026-01-31T09:00, not {text!r}", code=2)


async def _list(
    shard: Shard, limit: int, app: str | None, outcome: str | None, kind: str | None, since: int | None
) -> list[dict[str, Any]]:
    from gateway.documents import plain
    from gateway.event_documents import describe_refusal
    from gateway.store.listing import EventFilter
    from gateway.store.refusals import Refused

    owner = None if app is None else _app_id(app, (await shard.catalog.read()).apps)
    found: list[Any] = []
    if outcome not in UNSTORED:
        wanted = EventFilter(app_id=owner, type=kind, outcome=outcome, since=since)
        found += [_describe(each) for each in await _whole_list(shard, wanted, limit)]
    if outcome is None or outcome in UNSTORED:

        def fits(refusal: Any) -> bool:
            return (
                outcome in (None, refusal.decision.outcome)
                and owner in (None, refusal.app_id)
                and kind in (None, refusal.type)
            )

        refused, _ = await Refused(shard.redis, shard.keys).page(limit, since=since, fits=fits)
        found += [describe_refusal(each) for each in refused]
    # Both kinds of ids hold the time behind their first four letters.
    found.sort(key=lambda each: (each.received_at or "", each.event_id[4:]), reverse=True)
    return [plain(each) for each in found[:limit]]


async def _whole_list(shard: Shard, wanted: Any, limit: int) -> list[Any]:
    """So many events that fit, however many pages one has to turn."""
    found: list[Any] = []
    below = None
    while len(found) < limit:
        page = await shard.listing.events(wanted, limit - len(found), below)
        found += page.events
        below = page.next
        if below is None:
            break
    return found


async def _find(shard: Shard, name: str, app: str | None) -> tuple[Any, Any, Any]:
    from gateway.errors import Conflict
    from gateway.inquiries import Inquiry, app_id_of
    from gateway.refused import Kept
    from gateway.store.refusals import Refused

    apps = (await shard.catalog.read()).apps
    inquiry = Inquiry(shard.reader, Refused(shard.redis, shard.keys))
    owner = None if app is None else _app_id(app, apps)
    ids = await inquiry.find(name, list(apps) if owner is None else [owner])
    found = [await inquiry.read(each) for each in ids]
    found = [each for each in found if owner in (None, app_id_of(each))]
    if not found:
        fail(f"there is no event {name!r} of this app")
    owners = {app_id_of(each) for each in found if not isinstance(each, Kept)}
    if len(owners) > 1:
        message = (
            f"several apps' senders call a delivery so; say which: {', '.join(f'--app {each}' for each in owners)}"
        )
        raise Conflict(message)
    return inquiry, apps, found[0]


def _app_id(wanted: str, apps: Any) -> int:
    for app in apps.values():
        if wanted in (str(app.id), app.name):
            return int(app.id)
    # What an app that is gone has sent is still there.
    return int(wanted) if wanted.isdigit() else fail(f"there is no app {wanted!r}; `gateway app list` shows them")


def _describe(event: Any) -> Any:
    from gateway.event_documents import describe_event

    again = (event.repeats, event.repeated_at)
    return describe_event(event.id, event.head, event.received_at, event.run_ids, *again)


def _describe_whole(delivery: Any) -> dict[str, Any]:
    from gateway.documents import plain
    from gateway.event_documents import describe_whole_event, describe_whole_refusal
    from gateway.refused import Kept

    if isinstance(delivery, Kept):
        return plain(describe_whole_refusal(delivery))
    fields = (delivery.id, delivery.head, delivery.received_at, delivery.run_ids, delivery.body)
    return plain(describe_whole_event(*fields, delivery.repeats, delivery.repeated_at))


def _note(event: dict[str, Any]) -> str:
    notes = []
    if event["run_ids"]:
        notes.append("run " + ", ".join(map(str, event["run_ids"])))
    if event["status"] is not None:
        notes.append(f"{event['status']} {event['decision'].get('reason', '')}")
    if event["repeats"]:
        notes.append(f"came again ×{event['repeats']}")
    return "; ".join(notes)
