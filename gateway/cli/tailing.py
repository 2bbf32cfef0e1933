"""Following one run: told of each move by the store, looking again now and then in case a word was lost."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from gateway.cli.common import Shard, coloured, local_time, out, took
from gateway.cli.looking import read_whole_run
from gateway.runs import TERMINAL

LOOK_AGAIN = 1.0


async def follow_run(shard: Shard, run_id: int, json: bool) -> dict[str, Any]:
    """Print every change of a run until it has ended; its last document."""
    screen, seen = out(), {"run": None}
    document: dict[str, Any] = {}
    async for document in versions(shard, run_id):
        for change in _changes(document, seen):
            if json:
                sys.stdout.write(msgspec.json.encode(change).decode() + "\n")
                sys.stdout.flush()
            else:
                screen.print(_line(change))
    return document


async def versions(shard: Shard, run_id: int) -> AsyncIterator[dict[str, Any]]:
    """The run now, and again whenever it moves, until it has ended."""
    async with shard.redis.pubsub() as moves:
        await moves.subscribe(shard.keys.moved("run", run_id))
        while True:
            document = await read_whole_run(shard, run_id)
            yield document
            if document["status"] in TERMINAL:
                return
            await moves.get_message(ignore_subscribe_messages=True, timeout=LOOK_AGAIN)


def _changes(document: dict[str, Any], seen: dict[str, Any]) -> list[dict[str, Any]]:
    changes = []
    for step in document["steps"]:
        state = (step["status"], step.get("attempt"))
        if step["status"] != "pending" and seen.get(step["id"]) != state:
            seen[step["id"]] = state
            changes.append(
                {"step": step["id"], **{name: step.get(name) for name in ("status", "attempt", "duration_ms", "error")}}
            )
    if seen["run"] != document["status"]:
        seen["run"] = document["status"]
        change = {
            name: document[name]
            for name in ("run_id", "status", "replay_of", "started_at", "completed_at", "duration_ms", "error")
        }
        changes.insert(0 if document["status"] not in TERMINAL else len(changes), change)
    return changes


def _line(change: dict[str, Any]) -> str:
    error = change["error"]
    note = f"  [red]{error['type']}[/red]: {error['message']}" if error else ""
    if "step" in change:
        attempt = f"attempt {change['attempt']}" if change["attempt"] else ""
        return f"  {coloured(change['status'])}  {change['step']}  {attempt}  {took(change['duration_ms'])}{note}"
    when = local_time(change["completed_at"] or change["started_at"])
    if change["replay_of"]:
        note = f"  replays event {change['replay_of']}{note}"
    return f"[bold]run {change['run_id']}[/bold]  {coloured(change['status'])}  {when}  {took(change['duration_ms'])}{note}"
