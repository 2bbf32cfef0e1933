"""What a person does to a run that is there: `run cancel`, `retry`, `resume`, `rerun`, `signal`, `approve`, .."""

from __future__ import annotations

import json as json_library
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from gateway.cli.common import Json, Shard, coloured, fail, local_time, out, print_json, who, with_store
from gateway.cli.looking import read_whole_run

RunId = Annotated[int, typer.Argument(help="The run's id.")]
StepId = Annotated[str, typer.Argument(help="The step's id; `ID[3]` is one item of a foreach step.")]
Body = Annotated[str | None, typer.Option(help="JSON that goes with it.")]
Comment = Annotated[str | None, typer.Option(help="Why.")]


def cancel(run_id: RunId, json: Json = False) -> None:
    """End a run now: running steps stop, runs it waits for end too."""
    _act(lambda control: control.cancel(run_id, f"cancelled by {who()}"), "cancelled", json, run_id)


def retry(run_id: RunId, json: Json = False) -> None:
    """Do the failed steps of an ended run again, in the same run."""
    _act(lambda control: control.steering.retry(run_id), "goes on", json, run_id)


def resume(
    run_id: RunId,
    step: Annotated[str | None, typer.Option(help="Which step, where several wait.")] = None,
    decision: Annotated[str, typer.Option(help="retry, complete, skip or fail.")] = "retry",
    output: Body = None,
    json: Json = False,
) -> None:
    """Say what became of a step of which nobody knows whether it happened."""
    if decision not in ("retry", "complete", "skip", "fail"):
        fail(f"--decision {decision!r}: write retry, complete, skip or fail", code=2)
    value = _read_json("--output", output)
    _act(lambda control: control.steering.resume(run_id, step, decision, value, who()), "goes on", json, run_id)


def rerun(
    run_id: RunId,
    from_step: Annotated[str | None, typer.Option("--from", help="Keep what came before this step.")] = None,
    json: Json = False,
) -> None:
    """Repeat a run as a new one, wholly or from one step on."""

    async def work(control: Any) -> int:
        started = await control.rerun(await control.run(run_id), from_step, None)
        return int(started.run_id)

    _act(work, f"repeats run {run_id}", json)


def signal(
    run_id: RunId,
    name: Annotated[str, typer.Argument(help="The signal's name.")],
    body: Body = None,
    json: Json = False,
) -> None:
    """Send a run a signal, for the next wait of that name."""
    value = _read_json("--body", body)
    _act(lambda control: control.steering.signal(run_id, name, value, who()), f"has the signal {name}", json, run_id)


def approve(run_id: RunId, step: StepId, comment: Comment = None, json: Json = False) -> None:
    """Approve what a step asks for."""
    _decide(run_id, step, "approve", comment, json)


def reject(run_id: RunId, step: StepId, comment: Comment = None, json: Json = False) -> None:
    """Reject what a step asks for."""
    _decide(run_id, step, "reject", comment, json)


def approve_link(
    run_id: RunId,
    step: StepId,
    hours: Annotated[float, typer.Option(help="For how long it is good.", min=0.01, max=8760)] = 48,
    json: Json = False,
) -> None:
    """Make a link by which whoever has it approves or rejects a step, once, without a token."""

    async def work(shard: Shard) -> Any:
        return await (await _open_control(shard)).make_link(run_id, step, hours)

    made = with_store(work)
    if json:
        from gateway.documents import plain

        print_json(plain(made))
        return
    out().print(f"{made.url}\n\nWhoever has it may decide, until {local_time(made.expires_at)}.", markup=False)


def _decide(run_id: int, step: str, decision: str, comment: str | None, json: bool) -> None:
    def work(control: Any) -> Awaitable[Any]:
        return control.steering.decide(run_id, step, decision, comment, who())  # type: ignore[no-any-return]

    _act(work, f"step {step}: {'approved' if decision == 'approve' else 'rejected'}", json, run_id)


def _act(move: Callable[[Any], Awaitable[Any]], done: str, json: bool, run_id: int | None = None) -> None:
    """Make a move, and show the run after it: the one given, or the one whose id the move gives."""

    async def work(shard: Shard) -> dict[str, Any]:
        made = await move(await _open_control(shard))
        return await read_whole_run(shard, made if run_id is None else run_id)

    document = with_store(work)
    if json:
        print_json(document)
        return
    out().print(f"[green]✔[/green] run [bold]{document['run_id']}[/bold] {done}  {coloured(document['status'])}")


async def _open_control(shard: Shard) -> Any:
    """What the API's doors work with, over this command's store."""
    from msgspec import structs

    from gateway.approvals import Links
    from gateway.asgi import master_keys, new_acceptor
    from gateway.control import Control
    from gateway.logs import configure_logs
    from gateway.store.records import Records
    from gateway.store.registry import Registry
    from gateway.store.waiting import Waiters

    # What the receiver says of apps at its start is not about this command, and must not stand in what it prints.
    configure_logs(structs.replace(shard.settings, log_level="error"))
    sealing = master_keys(shard.settings)
    registry = Registry(shard.redis, shard.catalog, shard.keys.named("changed"), sealing)
    await registry.load()
    return Control(
        registry,
        new_acceptor(shard.settings, shard.redis, shard.keys),
        shard.reader,
        Records(shard.redis, shard.keys, "run"),
        Waiters(shard.redis, shard.keys, limit=1),
        shard.catalog,
        links=Links(sealing, shard.settings.address),
    )


def _read_json(option: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json_library.loads(text)
    except ValueError as error:
        fail(f"{option} is no JSON: {error}", code=2)
