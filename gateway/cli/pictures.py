"""A run and a callback as a terminal shows them."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.json import JSON
from rich.markup import escape

from gateway.cli.common import coloured, local_time, table, took, written


def draw_run(screen: Console, run: dict[str, Any]) -> None:
    """What `debug:run[ID]` of ORQO shows, and more: status, session, timing, steps, callbacks."""
    screen.print(
        f"[bold]run {run['run_id']}[/bold]  {coloured(run['status'])}  {escape(run['workflow'])} (workflow {run['workflow_id']})"
    )
    for name, value in _facts(run):
        screen.print(f"  [dim]{name:<10}[/dim] {escape(value)}")
    _draw_value(screen, "input", run["input"])
    _draw_value(screen, "output", run["output"])
    if run["error"]:
        screen.print(f"  [dim]error     [/dim] {_blame(run['error'])}")
    _draw_steps(screen, run)
    for callback in run["callbacks"]:
        draw_attempts(screen, callback)


def _facts(run: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("session", run["session_id"]),
        ("created", local_time(run["created_at"])),
        ("started", local_time(run["started_at"])),
        (
            "completed",
            f"{local_time(run['completed_at'])}  ({took(run['duration_ms'])})" if run["completed_at"] else "–",
        ),
        ("event", _name_event(run)),
    ]
    if run.get("held"):
        facts.append(("held", _why_held(run["held"])))
    if run["attempt"] > 1:
        facts.append(("attempt", str(run["attempt"])))
    if run["rerun_of"]:
        facts.append(("repeats", f"run {run['rerun_of']}"))
    if run.get("replay_of"):
        facts.append(("replay", f"of event {run['replay_of']}"))
    if run["trigger"]:
        facts.append(("trigger", run["trigger"]))
    if run["depth"]:
        facts.append(("chain", f"{run['depth']} deep, began with {run['root']}"))
    if run["task"] is not None:
        facts.append(("task", run["task"]))
    if run["metadata"]:
        facts.append(("metadata", ", ".join(f"{name}={value}" for name, value in run["metadata"].items())))
    return facts


def _name_event(run: dict[str, Any]) -> str:
    if not run["event_id"]:
        return "–"
    return str(run["event_id"]) if run["app_id"] is None else f"{run['event_id']} of app {run['app_id']}"


def _why_held(held: dict[str, Any]) -> str:
    words = [f"{held['reason']} since {local_time(held['since'])}"]
    if held.get("key"):
        words.append(f"key {held['key']}")
    if held.get("until"):
        words.append(f"until {local_time(held['until'])}")
    if held.get("behind") is not None:
        words.append(f"behind {held['behind']} others")
    if held.get("items"):
        words.append(f"{held['items']} items so far")
    return ", ".join(words)


def _draw_value(screen: Console, name: str, value: Any) -> None:
    if value is not None:
        text = JSON.from_data(value, indent=None).text
        screen.print(f"  [dim]{name:<10}[/dim]", text)


def _blame(error: dict[str, Any]) -> str:
    """What went wrong, and where: what failed while it waited is no attempt's fault."""
    step, attempt = error.get("step"), error.get("attempt")
    where = f" in step {escape(step)}" if step else ""
    where += f", attempt {attempt}" if attempt else ""
    return f"[red]{escape(error['type'])}[/red]{where}: {escape(error['message'])}"


def _draw_steps(screen: Console, run: dict[str, Any]) -> None:
    if not run["steps"]:
        return
    rows = table("  step", "kind", "status", "attempt", "took", "")
    for step in run["steps"]:
        attempt = str(step.get("attempt") or "–")
        rows.add_row(
            f"  {step['id']}",
            step.get("kind") or "?",
            coloured(step["status"]),
            attempt,
            took(step.get("duration_ms")),
            _note(run["run_id"], step),
        )
    screen.print()
    screen.print(rows)


def _note(run_id: int, step: dict[str, Any]) -> str:
    """What went wrong with a step, and what it waits for; where that is a person, what they may type."""
    error, waits_for, notes = step.get("error"), step.get("waits_for"), []
    if error:
        notes.append(f"[red]{escape(error['type'])}[/red]: {escape(error['message'])}")
    if waits_for == "resume":
        notes.append(f"may have happened: gateway run resume {run_id} --step {escape(step['id'])} --decision …")
    elif waits_for:
        until = f" until {local_time(step['due_at'])}" if step.get("due_at") else ""
        notes.append(f"waits for {escape(waits_for)}{until}")
    if waits_for == "approval":
        notes.append(_question(step.get("asks")) + f"gateway run approve {run_id} {escape(step['id'])}")
    return "; ".join(notes)


def _question(asks: dict[str, Any] | None) -> str:
    """An approval's question, and whom it asks."""
    if not asks:
        return ""
    who = f" (asks {', '.join(asks['who'])})" if asks["who"] else ""
    words = f"{asks['message']}{who}".strip()
    return f"{written(words)}; " if words else ""


def draw_callback(screen: Console, callback: dict[str, Any]) -> None:
    draw_attempts(screen, callback)
    screen.print(JSON.from_data(callback["body"]))


def draw_attempts(screen: Console, callback: dict[str, Any]) -> None:
    """A callback's line, and one for each attempt."""
    status, kind = coloured(callback["status"]), callback["type"]
    screen.print(f"\n  [bold]callback[/bold] {callback['callback_id']}  {status}  {kind} → {escape(callback['url'])}")
    screen.print(f"    endpoint {callback['endpoint']}, webhook-id {callback['message_id']}")
    for each in callback["attempts"]:
        result = str(each["status"]) if each["status"] is not None else f"[red]{escape(each['error'])}[/red]"
        screen.print(f"    attempt {each['number']}  {local_time(each['at'])}  {result}  {took(each['duration_ms'])}")
    if callback["reason"]:
        screen.print(f"    given up: {escape(callback['reason'])}")
    if callback["held"]:
        screen.print(f"    held: {escape(callback['held']['detail'])}")
    if callback["next_attempt_at"]:
        screen.print(f"    next attempt {local_time(callback['next_attempt_at'])}")
