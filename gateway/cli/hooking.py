"""`hook`: a workflow's own URL, for whoever can only be given an address."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from gateway.cli.common import Json, Shard, coloured, fail, local_time, out, print_json, table, with_store

hooks = typer.Typer(help="Hooks: add, list, disable, enable, remove.", no_args_is_help=True)

Wanted = Annotated[str, typer.Argument(metavar="ID", help="The hook's id or name.")]


@hooks.command("add")
def add_hook(
    workflow: Annotated[str, typer.Argument(help="Id or name of the workflow it starts.")],
    name: Annotated[str | None, typer.Option(help="What to call it; the workflow's name, if not given.")] = None,
    json: Json = False,
) -> None:
    """Make a URL that starts one workflow. Its token is shown once; who knows it may start the workflow."""
    from gateway.hooks import new_hook

    async def work(shard: Shard) -> tuple[str, Any] | None:
        found = _find_workflow((await shard.catalog.read()).workflows, workflow)
        if found is None:
            return None
        token, hook = new_hook(found.name, name or found.name, time.time(), os.urandom)
        await shard.catalog.add_hook(hook)
        return token, hook

    made = with_store(work)
    if made is None:
        fail(f"there is no workflow {workflow!r}; `gateway workflow list` shows those there are")
    token, hook = made
    url = f"/api/v1/hooks/{token}"
    if json:
        print_json(_hook_words(hook) | {"token": token, "url": url})
        return
    screen = out()
    screen.print(f"[green]✔[/green] hook [bold]{hook.name}[/bold], {hook.id}, starts {hook.workflow}\n")
    screen.print(f"  [dim]post to[/dim] {url}\n\n  Keep it now; it is not shown again.")


@hooks.command("list")
def list_hooks(json: Json = False) -> None:
    """All hooks, without their tokens."""

    async def work(shard: Shard) -> list[Any]:
        return sorted((await shard.catalog.read()).hooks.values(), key=lambda each: (each.created_at, each.id))

    found = [_hook_words(each) for each in with_store(work)]
    if json:
        print_json(found)
        return
    rows = table("id", "name", "workflow", "status", "created")
    for each in found:
        created = local_time(each["created_at"])
        rows.add_row(each["id"], each["name"], each["workflow"], coloured(each["status"]), created)
    out().print(rows if found else "no hooks yet; make one with `gateway hook add WORKFLOW`")


@hooks.command("disable")
def disable_hook(hook_id: Wanted, json: Json = False) -> None:
    """Answer 409 to whoever posts to it, until it is enabled again."""
    import msgspec

    _change(hook_id, lambda hook: msgspec.structs.replace(hook, disabled=True), "is disabled", json)


@hooks.command("enable")
def enable_hook(hook_id: Wanted, json: Json = False) -> None:
    """Let a disabled hook start its workflow again."""
    import msgspec

    _change(hook_id, lambda hook: msgspec.structs.replace(hook, disabled=False), "is enabled", json)


@hooks.command("remove")
def remove_hook(hook_id: Wanted, json: Json = False) -> None:
    """End a hook for good; its URL is not found any more."""
    _change(hook_id, lambda _: None, "is removed", json)


def _change(hook_id: str, change: Callable[[Any], Any], done: str, json: bool) -> None:
    hook = with_store(lambda shard: shard.catalog.change_hook(hook_id, change))
    if json:
        print_json(_hook_words(hook))
        return
    out().print(f"[green]✔[/green] hook [bold]{hook.name}[/bold] {done}")


def _find_workflow(published: dict[str, Any], wanted: str) -> Any:
    return published.get(wanted) or next((each for each in published.values() if str(each.id) == wanted), None)


def _hook_words(hook: Any) -> dict[str, Any]:
    from gateway.runs import iso

    return {
        "id": hook.id,
        "name": hook.name,
        "workflow": hook.workflow,
        "status": hook.state,
        "created_at": iso(hook.created_at * 1000),
    }
