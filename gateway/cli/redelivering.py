"""`callback redeliver`, `endpoint enable`, `endpoint recover`: what was not delivered is sent again."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from gateway.cli.common import Json, Shard, coloured, fail, out, print_json, with_store
from gateway.cli.replaying import read_moment

Since = Annotated[str | None, typer.Option(help="What moved there since: 2h ago, or a time in ISO 8601.")]
Most = Annotated[int, typer.Option(help="How many, at most.", min=1, max=1_000_000)]


def redeliver(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]..", help="Callbacks' ids, msg_..")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Of this endpoint, by id or name.")] = None,
    since: Since = None,
    status: Annotated[str, typer.Option(help="failed, delivered or pending.")] = "failed",
    limit: Most = 1000,
    json: Json = False,
) -> None:
    """Send callbacks again, under the same webhook-id: those named, or all that fit."""
    if bool(ids) == bool(since or endpoint):
        fail("name the callbacks, or say which: --endpoint, --since, --status", code=2)
    if status not in ("failed", "delivered", "pending"):
        fail(f"--status {status!r}: write failed, delivered or pending", code=2)
    if ids:
        _redeliver_named(ids, json)
        return
    moment = read_moment("--since", since, time.time())

    async def work(shard: Shard) -> Any:
        from gateway.store.listing import CallbackFilter

        wanted = None if endpoint is None else await _endpoint_id(shard, endpoint)
        fitting = CallbackFilter(state=status, endpoint=wanted, since=moment)
        return await shard.redelivery().send_all(fitting, limit)

    _tell(with_store(work), json)


def enable(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's id or name; `app-42` is app 42's own callback.")],
    json: Json = False,
) -> None:
    """Send to an endpoint again, whoever disabled it: what waits for it goes now. See also `recover`."""
    endpoint_id = with_store(lambda shard: shard.redelivery().enable(endpoint, shard.management()))
    if json:
        print_json({"endpoint_id": endpoint_id, "status": "active"})
        return
    out().print(f"[green]✔[/green] endpoint [bold]{endpoint}[/bold] is enabled; what waited for it goes now")


def recover(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's id or name; `app-42` is app 42's own callback.")],
    since: Annotated[str, typer.Option(help="What failed since: 2h ago, or a time in ISO 8601.")],
    limit: Most = 10_000,
    json: Json = False,
) -> None:
    """Send again what failed at an endpoint. Broken off, or at its limit, the same command goes on."""
    moment = read_moment("--since", since, time.time()) or 0
    _tell(with_store(lambda shard: shard.redelivery().recover(endpoint, shard.management(), moment, limit)), json)


def _redeliver_named(ids: list[str], json: bool) -> None:
    async def work(shard: Shard) -> list[Any]:
        return [await shard.redelivery().send(each) for each in ids]

    from gateway.callback_documents import describe_callback
    from gateway.documents import plain

    found = [plain(describe_callback(each, operator=True)) for each in with_store(work)]
    if json:
        print_json(found)
        return
    for each in found:
        held = f"; {each['held']['detail']}" if each["held"] else ""
        out().print(f"[green]✔[/green] {each['callback_id']} is sent again  {coloured(each['status'])}{held}")


def _tell(sent: Any, json: bool) -> None:
    if json:
        print_json({"callback_ids": sent.ids, "more": sent.next is not None})
        return
    more = "; there may be more, say it again for them" if sent.next is not None else ""
    out().print(f"[green]✔[/green] {len(sent.ids)} sent again{more}")


async def _endpoint_id(shard: Shard, wanted: str) -> str:
    from gateway.outbox import read_app_id

    return wanted if read_app_id(wanted) is not None else (await shard.management().endpoint(wanted)).id
