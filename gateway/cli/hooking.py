"""`hook`: a workflow's own URL, for whoever can only be given an address."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer

from gateway.cli.common import Json, Shard, coloured, local_time, out, print_json, table, with_store

hooks = typer.Typer(help="Hooks: add, list, disable, enable, remove.", no_args_is_help=True)

Wanted = Annotated[str, typer.Argument(metavar="ID", help="The hook's id or name.")]


@hooks.command("add")
def add_hook(
    workflow: Annotated[str, typer.Argument(help="Id or name of the workflow it starts.")],
    name: Annotated[str | None, typer.Option(help="What to call it; the workflow's name, if not given.")] = None,
    app: Annotated[str | None, typer.Option(help="App that says where a request's callback_url may lead.")] = None,
    json: Json = False,
) -> None:
    """Make a URL that starts one workflow. Its token is shown once; who knows it may start the workflow."""
    from gateway.documents import describe_new_hook, plain

    token, hook = with_store(lambda shard: shard.management().add_hook(workflow, name, app))
    document = plain(describe_new_hook(hook, token))
    if json:
        print_json(document)
        return
    screen = out()
    screen.print(f"[green]✔[/green] hook [bold]{hook.name}[/bold], {hook.id}, starts {hook.workflow}\n")
    screen.print(f"  [dim]post to[/dim] {document['url']}\n\n  Keep it now; it is not shown again.")


@hooks.command("list")
def list_hooks(json: Json = False) -> None:
    """All hooks, without their tokens."""
    found = [_hook_words(each) for each in with_store(lambda shard: shard.management().hooks())]
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
    _change(lambda shard: shard.management().disable_hook(hook_id), "is disabled", json)


@hooks.command("enable")
def enable_hook(hook_id: Wanted, json: Json = False) -> None:
    """Let a disabled hook start its workflow again."""
    _change(lambda shard: shard.management().disable_hook(hook_id, disabled=False), "is enabled", json)


@hooks.command("remove")
def remove_hook(hook_id: Wanted, json: Json = False) -> None:
    """End a hook for good; its URL is not found any more."""
    _change(lambda shard: shard.management().remove_hook(hook_id), "is removed", json)


def _change(work: Callable[[Shard], Coroutine[Any, Any, Any]], done: str, json: bool) -> None:
    hook = with_store(work)
    if json:
        print_json(_hook_words(hook))
        return
    out().print(f"[green]✔[/green] hook [bold]{hook.name}[/bold] {done}")


def _hook_words(hook: Any) -> dict[str, Any]:
    from gateway.documents import describe_hook, plain

    return plain(describe_hook(hook))
