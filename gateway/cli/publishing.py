"""`workflow upload`, `versions`, `diff`, `rollback`, `remove`: workflows that no gateway.yaml manages.

Whoever may run these commands owns the machine, so that here a workflow may have any kind of step.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.common import Json, Shard, fail, local_time, out, plainly, print_json, table, with_store, written

Name = Annotated[str, typer.Argument(help="Id or name.")]
Version = Annotated[str, typer.Argument(help="A version's number or label.")]
DIFF_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def upload(
    file: Annotated[Path, typer.Argument(help="YAML or JSON of one workflow, or of several under `workflows:`.")],
    label: Annotated[str | None, typer.Option(help="A name for this version, of its own.")] = None,
    json: Json = False,
) -> None:
    """Publish workflows, all of the file or none; each a new version where it differs from the last.

    With --json one workflow is an object, several are an array.
    """
    drafts = _read(file, json)
    made = with_store(lambda shard: _publishing(shard).publish(drafts, admin=True, label=label))
    if json:
        documents = [_words(each) for each in made]
        print_json(documents[0] if len(documents) == 1 else documents)
        return
    for each in made:
        _tell(each, "is published as it was: nothing changed")


def list_versions(name: Name, json: Json = False) -> None:
    """All versions of a workflow; ▸ is what new runs start with."""
    from gateway.documents import describe_version, plain

    async def work(shard: Shard) -> Any:
        published = await _publishing(shard).find(name)
        return published, await _publishing(shard).versions(published)

    published, found = with_store(work)
    documents = [plain(describe_version(each)) for each in found]
    if json:
        print_json(documents)
        return
    rows = table("", "version", "label", "published", "digest")
    for each in documents:
        mark = "[green]▸[/green]" if each["number"] == published.version else ""
        when = local_time(each["published_at"])
        rows.add_row(mark, str(each["number"]), written(each["label"] or "–"), when, f"[dim]{each['digest']}[/dim]")
    out().print(rows)


def diff(
    name: Name,
    before: Annotated[
        str | None, typer.Argument(metavar="[FROM]", help="Number or label; else the one before.")
    ] = None,
    after: Annotated[str | None, typer.Argument(metavar="[TO]", help="Number or label; else the current one.")] = None,
    json: Json = False,
) -> None:
    """What changed between two versions; without them, what the current version changed."""

    async def work(shard: Shard) -> Any:
        publishing = _publishing(shard)
        return await publishing.compare(await publishing.find(name), before, after)

    found = with_store(work)
    if json:
        from gateway.documents import describe_difference, plain

        print_json(plain(describe_difference(found)))
        return
    _draw_difference(found)


def rollback(name: Name, version: Version, json: Json = False) -> None:
    """Publish an earlier version again, under the next number; none is forgotten, and runs keep theirs."""

    async def work(shard: Shard) -> Any:
        publishing = _publishing(shard)
        return await publishing.rollback(await publishing.find(name), version, admin=True)

    made = with_store(work)
    if json:
        print_json(_words(made))
        return
    _tell(made, f"says what version {version} says already: nothing changed")
    if made.is_new:
        out().print(f"  [dim]what version [/dim]{written(version)}[dim] said; see[/dim] gateway workflow diff {name}")


def remove(name: Name, json: Json = False) -> None:
    """Take a workflow away. Its runs go on and keep their definitions; uploaded again, its versions count on."""

    async def work(shard: Shard) -> Any:
        publishing = _publishing(shard)
        return await publishing.remove(await publishing.find(name))

    removed = with_store(work)
    if json:
        from gateway.documents import describe_workflow, plain

        print_json(plain(describe_workflow(removed)))
        return
    out().print(f"[green]✔[/green] workflow [bold]{removed.name}[/bold] is removed; nothing starts with it any more")


def _publishing(shard: Shard) -> Any:
    from gateway.publishing import Publishing

    return Publishing(shard.catalog)


def _read(file: Path, json: bool) -> list[Any]:
    """The workflows of a file, or of standard input for `-`; its mistakes are shown as `gateway check` shows them."""
    from gateway.cli.configuring import show_mistakes
    from gateway.configuration import read_workflows
    from gateway.machine import read_file
    from gateway.places import Mistakes

    if not file.exists() and str(file) != "-":
        fail(f"there is no {file}")
    with plainly():
        text = sys.stdin.read() if str(file) == "-" else read_file(file)
    try:
        return read_workflows(text)
    except Mistakes as error:
        show_mistakes(file, error.mistakes, json)
        raise typer.Exit(1) from None


def _words(made: Any) -> dict[str, Any]:
    from gateway.documents import describe_workflow, plain

    return plain(describe_workflow(made.published))


def _tell(made: Any, unchanged: str) -> None:
    published, before = made.published, made.before
    name = f"[bold]{published.name}[/bold]"
    label = f" [magenta]{written(published.label)}[/magenta]" if published.label else ""
    if published == before:
        out().print(f"[dim]·[/dim] {name} version {published.version}{label} {unchanged}")
        return
    came = f"{before.version} → {published.version}" if before and made.is_new else str(published.version)
    facts = f"id {published.id}, {published.steps} step{'' if published.steps == 1 else 's'}"
    out().print(f"[green]✔[/green] {name} version {came}{label}  [dim]{facts}, digest {published.digest}[/dim]")


def _draw_difference(found: Any) -> None:
    screen = out()
    count = len(found.changes)
    places = f"{count} place{'' if count == 1 else 's'}"
    title = f"[bold]{found.name}[/bold]  {_version(found.before)} → {_version(found.after)}"
    screen.print(f"{title}  [dim]{places}[/dim]\n" if found.text else f"{title}  no difference")
    for line in found.text.splitlines()[2:]:
        colour = DIFF_COLOURS.get(line[:1])
        screen.print(f"[{colour}]{written(line)}[/{colour}]" if colour else written(line))


def _version(version: Any) -> str:
    return f"version {version.number}" + (f" [magenta]{written(version.label)}[/magenta]" if version.label else "")
