"""`plan FILE --since`: stored events through the configuration that is published and the one of a file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from gateway.cli.common import Shard, table, written

if TYPE_CHECKING:
    from gateway.comparisons import Backtest
    from gateway.configuration import Configuration

TELL = 1000
WORDS = {
    "stops": "matched, and would not",
    "starts": "would match, and did not",
    "input": "another input",
    "workflow": "another workflow",
    "error": "new error",
    "mended": "error no more",
}


async def backtest(shard: Shard, configuration: Configuration, since: int, app: str | None, limit: int) -> Backtest:
    """Compare what becomes of the newest `limit` events since then. Reads the store, a few events at a time."""
    from gateway.comparisons import Comparison, Side, foresee
    from gateway.errors import NotFound
    from gateway.store.scanning import Scanner, Span

    contents = await shard.catalog.read()
    workflows = await _definitions(shard, contents.workflows.values())
    apps = list(contents.apps.values())
    names = {each.id: each.name for each in apps if app in (None, each.name, str(each.id))}
    if not names and app is not None:
        message = f"there is no app {app!r}; `gateway app list` shows those there are"
        raise NotFound(message)
    comparison = Comparison(Side(apps, workflows), foresee(configuration, apps, workflows), names)
    scanner, span = Scanner(shard.redis, shard.keys), Span(since, await _now(shard))
    count = await scanner.count(span)
    if count > limit:
        sys.stderr.write(f"{count} events came since then; looking at the newest {limit} (--limit)\n")
    place = await scanner.place_of(span, count - limit) if count > limit else None
    looked = 0
    while found := await scanner.next(span, place):
        for _, event in found:
            if event is not None:
                comparison.look_at(event.id, event.head, event.body)
        place = found[-1][0]
        looked += len(found)
        _tell(looked, min(count, limit))
    return comparison.result()


async def _definitions(shard: Shard, published: Any) -> list[Any]:
    from gateway.errors import GatewayError
    from gateway.workflows import prepare

    found = []
    for each in published:
        try:
            found.append((each, prepare(await shard.catalog.document(each.digest))))
        except GatewayError as error:
            sys.stderr.write(f"warning: workflow {each.name!r} can't be used: {error.message}\n")
    return found


async def _now(shard: Shard) -> int:
    seconds, micros = await shard.redis.time()
    return int(seconds * 1000 + micros // 1000)


def _tell(looked: int, count: int) -> None:
    if sys.stderr.isatty() and looked // TELL != (looked - 1) // TELL:
        sys.stderr.write(f"looked at {looked} of {count} events\n")


def draw_backtest(screen: Any, found: Backtest) -> None:
    """What differs, by app and trigger, with a few events to look at."""
    screen.print(
        f"\n{found.looked_at} events looked at" + (f", and {found.others} passed over" if found.others else "")
    )
    for name, count in found.gone.items():
        screen.print(f"[red]app {written(name)} is not in the file:[/red] {count} events")
    if found.triggers:
        rows = table("app", "trigger", "matched", "would match", "differs")
        for row in found.triggers:
            differs = ", ".join(f"{count} {WORDS[kind]}" for kind, count in row.counts.items()) or "–"
            rows.add_row(
                written(row.app), written(row.trigger), str(row.matched_before), str(row.matched_after), differs
            )
        screen.print(rows)
    for row in found.triggers:
        for each in row.examples:
            screen.print(
                f"\n[bold]{written(row.app)} {written(row.trigger)}[/bold]  {each.event_id}  {WORDS[each.kind]}"
                + (f": {written(each.reason)}" if each.reason else "")
            )
            for change in each.changes:
                screen.print(f"  {written(change)}")
    if not found.differs:
        screen.print("no event would be decided otherwise")
