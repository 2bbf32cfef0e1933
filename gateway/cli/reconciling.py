"""`app reconcile`: hold what GitHub says it delivered against what came in, now."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.common import Json, Shard, fail, out, print_json, with_store


def reconcile(
    name: Annotated[str, typer.Argument(help="Id or name of an app with `reconcile:`.")],
    since: Annotated[
        str | None, typer.Option(help="How far back to look: 2h, 3d. Without it, to where it is done.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is missing.")] = False,
    json: Json = False,
) -> None:
    """Ask GitHub to send again what it delivered and nobody here has. Exit status 1 when something is missing."""
    document = with_store(lambda shard: _round(shard, name, since, dry_run))
    if json:
        print_json(document)
    else:
        _print(document, dry_run)
    if document["missing"]:
        raise typer.Exit(1)


async def _round(shard: Shard, name: str, since: str | None, dry_run: bool) -> dict[str, Any]:
    from gateway.apps import LiveApp
    from gateway.asgi import master_keys
    from gateway.retries import read_duration
    from gateway.store.lookups import Lookup
    from gateway.store.marks import Marks
    from gateway.web.client import new_client
    from gateway.web.reconciler import Reconciler

    contents = await shard.catalog.read()
    apps = contents.apps.values()
    app = next((each for each in apps if name in (str(each.id), each.name)), None)
    if app is None:
        fail(f"there is no app {name!r}; `gateway app list` shows those there are")
    keys, marks = master_keys(shard.settings), Marks(shard.redis, shard.keys)
    live = LiveApp(app, Lookup(keys, contents))
    start = None if since is None else await marks.now() - int(read_duration(since, "--since") * 1000)
    async with new_client(shard.settings) as client:
        return await Reconciler(client, marks).reconcile(live, start, ask=not dry_run)


def _print(document: dict[str, Any], dry_run: bool) -> None:
    screen = out()
    if not document["missing"]:
        screen.print(f"[green]✔[/green] {document['listed']} deliveries listed, none is missing")
        return
    screen.print(f"[yellow]![/yellow] {document['missing']} of {document['listed']} deliveries are missing")
    for each in document["missing_ids"]:
        screen.print(f"  {each}")
    if not dry_run:
        screen.print(f"  asked GitHub for {document['asked_again']} again; given up on {document['given_up']}")
    if document["problem"]:
        screen.print(f"  [red]{document['problem']}[/red]")
