"""`endpoint`: where messages are sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer

from gateway.cli.common import (
    Json,
    Shard,
    coloured,
    fail,
    in_words,
    local_time,
    out,
    plainly,
    print_json,
    table,
    with_store,
    written,
)

endpoints = typer.Typer(
    help="Endpoints: add, list, show, enable, disable, recover, remove, rotate-secret, ping.", no_args_is_help=True
)
Wanted = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint's id or name.")]


@endpoints.command("add")
def add_endpoint(
    name: Annotated[str, typer.Argument(help="What to call it: a-z, 0-9, - and _.")],
    url: Annotated[str, typer.Argument(help="Where to send: https://..")],
    event: Annotated[list[str] | None, typer.Option(help="A message it wants; again for more.")] = None,
    condition: Annotated[str | None, typer.Option("--filter", help="CEL over message.type and message.data.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="'Name: value' to add; again for more.")] = None,
    style: Annotated[str, typer.Option(help="standard-webhooks, orqo or cloudevents.")] = "standard-webhooks",
    thin: Annotated[bool, typer.Option("--thin", help="Send ids and the state, not the whole run.")] = False,
    signing_key: Annotated[bool, typer.Option("--signing-key", help="Make an ed25519 key as well (v1a).")] = False,
    timeout: Annotated[str | None, typer.Option(help="What one attempt may take: 10s, ..")] = None,
    schedule: Annotated[str | None, typer.Option(help="Waits before each try: 0,5s,5m, ..")] = None,
    json: Json = False,
) -> None:
    """Make an endpoint with a new secret, shown once and kept encrypted."""
    from gateway.enlisting import EndpointWish

    fields: dict[str, Any] = {"filter": condition, "style": style, "timeout": timeout, "signing_key": signing_key}
    wish = EndpointWish(
        name=name,
        url=url,
        headers=dict(_read_header(each) for each in header or ()),
        payload="thin" if thin else "full",
        schedule=None if schedule is None else tuple(wait.strip() for wait in schedule.split(",")),
        **fields | ({"events": tuple(event)} if event else {}),
    )
    document = _describe_new(with_store(lambda shard: shard.management(sealing=True).add_endpoint(wish)))
    if json:
        print_json(document)
        return
    screen = out()
    screen.print(f"[green]✔[/green] endpoint [bold]{document['name']}[/bold], {document['id']}")
    screen.print(f"  [dim]sends      [/dim] {', '.join(document['events'])} to {document['url']}")
    screen.print(f"  [dim]secret     [/dim] {document['secret']}")
    if document["public_key"]:
        screen.print(f"  [dim]public key [/dim] {document['public_key']}")
    screen.print("  Keep the secret now; it is not shown again.")


@endpoints.command("list")
def list_endpoints(json: Json = False) -> None:
    """All endpoints. Those that apps' own callbacks are stand with their apps."""

    async def work(shard: Shard) -> list[Any]:
        found = await shard.management().endpoints()
        standings = await shard.redelivery().standings.read([each.id for each in found])
        return [_describe(each, standings[each.id]) for each in found]

    found = with_store(work)
    if json:
        print_json(found)
        return
    rows = table("id", "name", "status", "messages", "style", "url", "from")
    for each in found:
        events, status = ", ".join(each["events"]), coloured(each["status"])
        rows.add_row(each["id"], each["name"], status, events, each["style"], each["url"], each["managed_by"])
    out().print(rows if found else "no endpoints yet; write one in gateway.yaml, or `gateway endpoint add`")


@endpoints.command("show")
def show_endpoint(name: Wanted, json: Json = False) -> None:
    """One endpoint: what is sent to it, and how."""

    async def work(shard: Shard) -> dict[str, Any]:
        found = await shard.management().endpoint(name)
        return _describe(found, (await shard.redelivery().standings.read([found.id]))[found.id])

    document = with_store(work)
    if json:
        print_json(document)
        return
    for field, value in document.items():
        out().print(f"[dim]{field:<13}[/dim] {written(in_words(value))}")


@endpoints.command("disable")
def disable_endpoint(name: Wanted, json: Json = False) -> None:
    """Send it nothing, until it is enabled again."""
    _change(lambda shard: shard.management().disable_endpoint(name), "is disabled", json)


@endpoints.command("remove")
def remove_endpoint(name: Wanted, json: Json = False) -> None:
    """Forget an endpoint. What was not delivered to it never is."""
    _change(lambda shard: shard.management().remove_endpoint(name), "is removed", json)


@endpoints.command("rotate-secret")
def rotate_secret(
    name: Wanted,
    overlap: Annotated[str, typer.Option(help="How long the older secret signs as well; 0: not at all.")] = "24h",
    force: Annotated[bool, typer.Option("--force", help="Also when two are live: the oldest ends.")] = False,
    json: Json = False,
) -> None:
    """Give an endpoint a new secret, shown once. The one it had signs as well, until its time is over."""
    from gateway.retries import read_duration

    with plainly():
        seconds = read_duration(overlap, "--overlap")

    async def work(shard: Shard) -> Any:
        return await shard.management(sealing=True).rotate_endpoint(name, seconds, force=force)

    document = _describe_new(with_store(work))
    if json:
        print_json(document)
        return
    until = document["overlap_until"]
    older = f"the one before signs as well until {local_time(until)}" if until else "the one before is over"
    screen = out()
    screen.print(f"[green]✔[/green] endpoint [bold]{document['name']}[/bold] has a new secret; {older}")
    screen.print(f"  [dim]secret[/dim] {document['secret']}\n  Keep it now; it is not shown again.")


@endpoints.command("revoke-secret")
def revoke_secret(name: Wanted, json: Json = False) -> None:
    """End an endpoint's older secret before its time."""
    _change(lambda shard: shard.management().revoke_endpoint_secret(name), "has one secret now, the newest", json)


@endpoints.command("ping")
def ping(name: Wanted, json: Json = False) -> None:
    """Send a `ping`, as any other message is sent. A worker delivers it."""
    made = with_store(lambda shard: shard.management().ping(name))
    if json:
        print_json({"callback_id": made.id, "message_id": made.message_id, "type": made.type})
        return
    out().print(f"[green]✔[/green] a ping is on its way; see `gateway callback show {made.id}`")


def _read_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        fail(f"--header: {text!r} is not of the form 'Name: value'", code=2)
    return name.strip(), value.strip()


def _change(work: Callable[[Shard], Coroutine[Any, Any, Any]], done: str, json: bool) -> None:
    document = _describe(with_store(work))
    if json:
        print_json(document)
        return
    out().print(f"[green]✔[/green] endpoint [bold]{document['name']}[/bold] {done}")


def _describe(endpoint: Any, standing: Any = None) -> dict[str, Any]:
    from gateway.documents import plain
    from gateway.endpoint_documents import WELL, describe_endpoint

    return plain(describe_endpoint(endpoint, time.time(), standing or WELL))


def _describe_new(made: Any) -> dict[str, Any]:
    from gateway.documents import plain
    from gateway.endpoint_documents import describe_new_endpoint

    return plain(describe_new_endpoint(made, time.time()))
