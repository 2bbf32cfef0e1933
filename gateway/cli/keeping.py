"""`secret`: what is kept encrypted under a name, and the master keys that everything kept is under."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from gateway.cli.common import Json, Shard, fail, local_time, out, print_json, table, with_store

secrets = typer.Typer(
    help="Secrets that are kept encrypted: set, list, remove; status and rewrap.", no_args_is_help=True
)
Name = Annotated[str, typer.Argument(help="What gateway.yaml and workflows call it: {secret: NAME}.")]


@secrets.command("set")
def set_secret(name: Name, json: Json = False) -> None:
    """Keep a secret, read from standard input or asked for; in place of what was there. It is never shown again."""
    from gateway.documents import describe_secret, plain

    value = _read_value(name)
    stored, new = with_store(lambda shard: shard.management(sealing=True).set_secret(name, value))
    if json:
        print_json(plain(describe_secret(name, stored)))
        return
    out().print(f"[green]✔[/green] secret [bold]{name}[/bold] is {'kept' if new else 'changed'}")


@secrets.command("list")
def list_secrets(json: Json = False) -> None:
    """All kept secrets, without their values."""
    from gateway.documents import describe_secret, plain

    found = with_store(lambda shard: shard.management().secrets())
    documents = [plain(describe_secret(name, stored)) for name, stored in found.items()]
    if json:
        print_json(documents)
        return
    rows = table("name", "kept since", "changed")
    for each in documents:
        rows.add_row(each["name"], local_time(each["created_at"]), local_time(each["changed_at"]))
    out().print(rows if documents else "no secrets yet; `gateway secret set NAME` keeps one")


@secrets.command("remove")
def remove_secret(
    name: Name,
    force: Annotated[bool, typer.Option(help="Even while an app or a workflow names it.")] = False,
    json: Json = False,
) -> None:
    """Forget a secret; refused while an app or a workflow names it."""
    from gateway.documents import describe_secret, plain

    removed = with_store(lambda shard: shard.management().remove_secret(name, force=force))
    if json:
        print_json(plain(describe_secret(name, removed)))
        return
    out().print(f"[green]✔[/green] secret [bold]{name}[/bold] is removed")


@secrets.command("status")
def status(json: Json = False) -> None:
    """Which master keys there are, and how much is under each. Exit status 1 when one is missing that is needed."""
    document = with_store(_read_status)
    if json:
        print_json(document)
    else:
        _print_keys(document["keys"])
    if any(each["state"] == "missing" for each in document["keys"]):
        raise typer.Exit(1)


@secrets.command("rewrap")
def rewrap(json: Json = False) -> None:
    """Bring all that is kept under the newest master key. The values' own bytes stay as they are.

    Restart every receiver and worker with the new key first in GATEWAY_MASTER_KEYS before this, and take an old one out
    after it, when nothing needs it any more.
    """
    document = with_store(_rewrap)
    if json:
        print_json(document)
    else:
        parts = ", ".join(f"{count} {kind}" for kind, count in document["rewrapped"].items())
        out().print(f"[green]✔[/green] rewrapped {parts}" if parts else "[green]✔[/green] there was nothing to rewrap")
        _print_keys(document["keys"])
    if any(each["state"] == "missing" for each in document["keys"]):
        raise typer.Exit(1)


def _read_value(name: str) -> str:
    if sys.stdin.isatty():
        answer: str = typer.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True)
        return answer
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        fail("what came in is not text in UTF-8; encode it, as with base64")
    # One line break at the end is what `echo` and editors put there.
    return text.removesuffix("\n").removesuffix("\r")


def _rewrapping(shard: Shard) -> Any:
    from gateway.asgi import master_keys
    from gateway.store.rewrapping import Rewrapping

    return Rewrapping(shard.redis, shard.keys, shard.catalog, master_keys(shard.settings))


async def _read_status(shard: Shard) -> dict[str, Any]:
    return {"keys": _describe(await _rewrapping(shard).uses())}


async def _rewrap(shard: Shard) -> dict[str, Any]:
    from gateway.asgi import master_keys

    if not master_keys(shard.settings):
        fail("there is no master key here; set GATEWAY_MASTER_KEYS as the receivers have it")
    rewrapping = _rewrapping(shard)
    done = await rewrapping.rewrap()
    return {"rewrapped": dict(done), "keys": _describe(await rewrapping.uses())}


def _describe(uses: list[Any]) -> list[dict[str, Any]]:
    return [{"id": each.id, "state": each.state, "needed_by": each.records} for each in uses]


def _print_keys(keys: list[dict[str, Any]]) -> None:
    rows = table("master key", "state", "needed by")
    for each in keys:
        users = ", ".join(f"{count} {kind}" for kind, count in sorted(each["needed_by"].items()))
        free = "nothing that is kept: it may go" if each["state"] == "older" else "nothing yet"
        rows.add_row(each["id"], each["state"], users or free)
    screen = out()
    screen.print(rows if keys else "there is no master key yet; `gateway up` makes one")
    if any(each["state"] == "missing" for each in keys):
        screen.print("[red]✘[/red] What is under a missing key can't be opened: put that key back behind the newest.")
    if any(each["state"] == "older" for each in keys):
        screen.print(
            "Links to approve a step stop working, and receipts name a key that is not shown any more, when their key goes."
        )
