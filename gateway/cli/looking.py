"""`workflow`, `run`, `callback`: what there is, and what happened."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.common import (
    Json,
    Shard,
    coloured,
    fail,
    local_time,
    out,
    print_json,
    table,
    took,
    with_store,
    written,
)

workflows = typer.Typer(help="Workflows: list, show, upload, compare, roll back, test.", no_args_is_help=True)
runs = typer.Typer(
    help="Runs: list, show, tail; cancel, retry, resume, rerun, signal, approve, reject.", no_args_is_help=True
)
callbacks = typer.Typer(help="Callbacks: list, show, redeliver.", no_args_is_help=True)

Limit = Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=1000)]
Status = Annotated[str | None, typer.Option(help="Only those with this status.")]


@workflows.command("list")
def list_workflows(json: Json = False) -> None:
    """All published workflows."""

    async def work(shard: Shard) -> list[Any]:
        return sorted((await shard.catalog.read()).workflows.values(), key=lambda each: each.id)

    found = with_store(work)
    if json:
        from gateway.documents import describe_workflow, plain

        print_json([plain(describe_workflow(each)) for each in found])
        return
    rows = table("id", "name", "version", "steps", "from", "description")
    for each in found:
        rows.add_row(
            str(each.id), each.name, str(each.version), str(each.steps), each.managed_by, written(each.description)
        )
    out().print(rows if found else "no workflows yet; write one in gateway.yaml, or `gateway workflow upload`")


@workflows.command("show")
def show_workflow(
    name: Annotated[str, typer.Argument(help="Id or name.")],
    version: Annotated[str | None, typer.Option(help="Another version than the current one: number or label.")] = None,
    json: Json = False,
) -> None:
    """One workflow with its definition, and when it starts by itself next."""
    found = with_store(lambda shard: _read_workflow(shard, name, version))
    if json:
        from gateway.documents import plain

        print_json(plain(found))
        return
    import yaml

    screen = out()
    if version is None:
        source = f"version {found.version}, digest {found.digest}, from {found.managed_by}"
        screen.print(f"[bold]{found.name}[/bold]  id {found.workflow_id}, {source}\n")
        for each in found.schedules:
            screen.print(f"next tick {each.next_at}  ({each.cron}, {each.zone}; missed: {each.missed})\n")
    else:
        screen.print(f"[bold]{written(name)}[/bold]  version {found.number}, digest {found.digest}\n")
    screen.print(yaml.safe_dump(found.definition, sort_keys=False), markup=False)


async def _read_workflow(shard: Shard, name: str, version: str | None) -> Any:
    """The document of a workflow, or of one of its versions."""
    import time

    from gateway.documents import describe_whole_version, describe_whole_workflow
    from gateway.publishing import Publishing

    publishing = Publishing(shard.catalog)
    found = await publishing.find(name)
    if version is not None:
        return describe_whole_version(*await publishing.version(found, version))
    definition = await shard.catalog.document(found.digest)
    return describe_whole_workflow(found, definition, await publishing.versions(found), time.time())


@runs.command("list")
def list_runs(limit: Limit = 20, status: Status = None, json: Json = False) -> None:
    """The newest runs."""
    from gateway.runs import State, describe
    from gateway.store.reading import RunFilter

    _check_word(status, [str(state) for state in State])

    async def work(shard: Shard) -> list[Any]:
        page = await shard.reader.page(RunFilter(state=status), limit)
        return [describe(run) for run in page.runs]

    found = with_store(work)
    if json:
        print_json(found)
        return
    rows = table("run", "status", "workflow", "started", "took", "error")
    for each in found:
        error = each["error"] or {}
        when, span = local_time(each["started_at"]), took(each["duration_ms"])
        rows.add_row(str(each["run_id"]), coloured(each["status"]), each["workflow"], when, span, error.get("type", ""))
    out().print(rows if found else "no runs yet")


@runs.command("show")
def show_run(run_id: Annotated[int, typer.Argument(help="The run's id.")], json: Json = False) -> None:
    """One run: status, session, timing, each step, its callbacks with their attempts."""
    document = with_store(lambda shard: read_whole_run(shard, run_id))
    if json:
        print_json(document)
        return
    from gateway.cli.pictures import draw_run

    draw_run(out(), document)


@runs.command("tail")
def tail_run(run_id: Annotated[int, typer.Argument(help="The run's id.")], json: Json = False) -> None:
    """Follow one run until it has ended: a line for each change."""
    from gateway.cli.tailing import follow_run

    document = with_store(lambda shard: follow_run(shard, run_id, json))
    raise typer.Exit(0 if document["status"] == "completed" else 1)


async def read_whole_run(shard: Shard, run_id: int) -> dict[str, Any]:
    """A run's document with all its workflow's steps, and its callbacks."""
    from gateway.documents import describe_whole_run, kinds_of, plain
    from gateway.errors import GatewayError
    from gateway.workflows import read_definition

    run = await shard.reader.locate(await shard.reader.run(run_id))
    try:
        kinds = kinds_of(read_definition(await shard.catalog.document(run.request.digest)))
    except GatewayError:
        kinds = {}
    return plain(describe_whole_run(run, kinds, await shard.reader.callbacks_of(run_id), operator=True))


@callbacks.command("list")
def list_callbacks(
    limit: Limit = 20,
    status: Status = None,
    endpoint: Annotated[str | None, typer.Option(help="Only this endpoint's, by its id.")] = None,
    json: Json = False,
) -> None:
    """The callbacks that moved last, and what those wait for that could go."""
    from gateway.callback_documents import describe_callback
    from gateway.documents import plain
    from gateway.runs import CallbackState
    from gateway.store.listing import CallbackFilter

    _check_word(status, [str(state) for state in CallbackState])
    page = with_store(lambda shard: shard.listing.callbacks(CallbackFilter(state=status, endpoint=endpoint), limit))
    found = [plain(describe_callback(each.callback, operator=True)) for each in page.found]
    if json:
        print_json(found)
        return
    rows = table("callback", "status", "type", "run", "endpoint", "attempts", "url", "why")
    for each in found:
        run, attempts = str(each["run_id"] or "–"), str(len(each["attempts"]))
        status, url = coloured(each["status"]), written(each["url"])
        why = written(each["held"]["detail"] if each["held"] else each["reason"] or "")
        rows.add_row(each["callback_id"], status, each["type"], run, each["endpoint"], attempts, url, why)
    out().print(rows if found else "no callbacks yet")


@callbacks.command("show")
def show_callback(
    callback_id: Annotated[str, typer.Argument(help="The callback's id, msg_..")], json: Json = False
) -> None:
    """One callback: its message, and each attempt to deliver it."""
    from gateway.callback_documents import describe_whole_callback
    from gateway.documents import plain

    found = with_store(lambda shard: shard.reader.callback(callback_id))
    document = plain(describe_whole_callback(found, operator=True))
    if json:
        print_json(document)
        return
    from gateway.cli.pictures import draw_callback

    draw_callback(out(), document)


def _check_word(word: str | None, words: list[str]) -> None:
    if word is not None and word not in words:
        fail(f"there is no status {word!r}; it is one of {', '.join(words)}", code=2)
