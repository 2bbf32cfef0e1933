"""`audit list` and `audit verify`: who changed what, and whether the log is as it was written."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.common import Json, Shard, fail, local_time, out, print_json, table, with_store, written

audit = typer.Typer(help="The audit log: who changed what, when, from where.", no_args_is_help=True)
PAGE = 500


@audit.command("list")
def list_entries(
    actor: Annotated[str | None, typer.Option(help="Only of this token, person or file, by name or id.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only about this app, workflow, token, hook or run.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this: app.change, run.cancel, or all that begin so.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 50,
    json: Json = False,
) -> None:
    """What was changed, the newest first."""

    def is_wanted(entry: Any) -> bool:
        by = actor in (None, entry.actor.name, entry.actor.id)
        about = subject in (None, entry.subject)
        return by and about and (action is None or entry.action.startswith(action))

    found = with_store(lambda shard: _read(shard, is_wanted, limit))
    if json:
        print_json(found)
        return
    rows = table("no", "when", "who", "from", "action", "what", "fields")
    for each in found:
        by = each["actor"]
        rows.add_row(
            str(each["number"]),
            local_time(each["at"]),
            written(f"{by['kind']} {by.get('name', '')}".strip()),
            by.get("address") or "–",
            each["action"],
            written(each["subject"]),
            written(_words(each["detail"])),
        )
    out().print(rows if found else "nothing was changed yet")


@audit.command("verify")
def verify(
    expect: Annotated[
        str | None, typer.Option(help="NUMBER:HASH of an entry noted earlier: it must still be there.")
    ] = None,
    json: Json = False,
) -> None:
    """Walk the whole chain. Exits with 1 when an entry was changed, taken out or put in between."""
    number, line = _read_expected(expect)

    async def work(shard: Shard) -> tuple[Any, Any, Any]:
        last, fault = await shard.catalog.audit.verify()
        noted = await shard.catalog.audit.page(number - 1, 1) if number and fault is None else []
        return last, fault, noted[0] if noted else None

    last, fault, noted = with_store(work)
    reason = None if fault is None else f"entry {fault.number}: {fault.reason}"
    if reason is None and number and (noted is None or (noted.number, noted.hash) != (number, line)):
        reason = f"entry {number} is not the one you noted"
    head = None if last is None else f"{last.number}:{last.hash}"
    if json:
        print_json(
            {"valid": reason is None, "entries": 0 if last is None else last.number, "head": head, "reason": reason}
        )
    elif reason is None:
        out().print(
            f"[green]✔[/green] {0 if last is None else last.number} entries, each follows from the one before it"
        )
        out().print(f"  [dim]note this elsewhere, and give it to --expect later:[/dim] {head or '–'}")
    else:
        out().print(f"[red]✘[/red] {reason}", markup=True)
    raise typer.Exit(0 if reason is None else 1)


async def _read(shard: Shard, is_wanted: Any, limit: int) -> list[dict[str, Any]]:
    import msgspec

    from gateway.web.api_audit import describe_entry

    found: list[dict[str, Any]] = []
    before: int | None = None
    while page := await shard.catalog.audit.newest(before, PAGE):
        found += [msgspec.to_builtins(describe_entry(entry)) for entry in page if is_wanted(entry)]
        before = page[-1].number
        if len(found) >= limit:
            break
    return found[:limit]


def _read_expected(text: str | None) -> tuple[int | None, str]:
    if text is None:
        return None, ""
    number, colon, line = text.partition(":")
    if not colon or not number.isdigit() or len(line) != 64:
        fail("--expect takes NUMBER:HASH, as `gateway audit verify` prints it", code=2)
    return int(number), line


def _words(detail: dict[str, Any]) -> str:
    return ", ".join(detail.get("fields", ())) or ", ".join(f"{name} {value}" for name, value in detail.items())
