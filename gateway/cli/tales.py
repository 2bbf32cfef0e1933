"""An event, and what happened to it, as a terminal shows them."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.tree import Tree

from gateway.cli.common import COLOURS, MARKS, coloured, local_time, written

LONGEST_BODY = 20_000
PIPE = 10_000
GOOD, BAD, SO = "[green]✔[/green]", "[red]✘[/red]", "[dim]·[/dim]"
OUTCOMES = {
    "accepted": "[green]✔ accepted[/green]",
    "ignored": "[bright_black]– ignored[/bright_black]",
    "skipped": "[bright_black]– skipped[/bright_black]",
    "parked": "[yellow]… parked[/yellow]",
    "refused": "[red]✘ refused[/red]",
    "handshake": "[cyan]⇄ handshake[/cyan]",
}


def outcome_of(word: str) -> str:
    return OUTCOMES.get(word, written(word))


def draw_event(screen: Console, event: dict[str, Any]) -> None:
    """One event or refused delivery with its bytes."""
    decision = event["decision"]
    screen.print(f"[bold]{event['event_id']}[/bold]  {outcome_of(decision['outcome'])}")
    app = "–" if event["app_id"] is None else f"{event['app_id']} ({event['app'] or 'removed'})"
    facts = [
        ("received", local_time(event["received_at"])),
        ("app", app),
        ("type", event["type"] or "–"),
        ("delivery", event["delivery_id"] or "–"),
        ("runs", ", ".join(map(str, event["run_ids"])) or "–"),
    ]
    if event["status"] is not None:
        facts.append(("answer", f"{event['status']} {decision.get('reason', '')}"))
    if event["repeats"]:
        facts.append(("came again", f"{event['repeats']} times, last {local_time(event['last_repeated_at'])}"))
    facts += [("header", f"{name}: {value}") for name, value in event["headers"].items()]
    for name, value in facts:
        screen.print(f"  [dim]{name:<10}[/dim] {written(value)}")
    screen.print()
    screen.print(_body(event), markup=False)


def _body(event: dict[str, Any]) -> str:
    if event["body"] is None:
        return event["body_base64"] or "(its body was not kept)"
    text = "".join(each if each.isprintable() or each == "\n" else " " for each in event["body"])
    return text if len(text) <= LONGEST_BODY else text[:LONGEST_BODY] + "… (--json has all of it)"


def draw_explanation(screen: Console, told: dict[str, Any]) -> None:
    """What happened to a delivery, as a tree: each branch a question that was asked, in the order they are asked."""
    rest = told["text"].removeprefix(told["outcome"])
    tree = Tree(f"[bold]{told['event_id']}[/bold]  {outcome_of(told['outcome'])}{written(rest)}")
    _add_arrival(tree, told)
    _add_proof(tree, told)
    _add_sameness(tree, told["dedupe"])
    _add_triggers(tree, told["triggers"])
    for limit in told["limits"]:
        tree.add(f"{BAD} limits  {written(limit)}")
    if told["chain"]:
        tree.add(f"{SO} chain  {written(told['chain'])}")
    _add_runs(tree, told["runs"])
    widen(screen)
    screen.print(tree, soft_wrap=False)


def widen(screen: Console) -> None:
    """In a pipe there is no edge to wrap at."""
    if not screen.is_terminal:
        screen.width = PIPE


def _add_arrival(tree: Tree, told: dict[str, Any]) -> None:
    request = told["request"]
    whose = "no app" if told["app_id"] is None else f"app {told['app_id']} ({told['app'] or 'removed'})"
    words = [f"received {local_time(told['received_at'])}", f"for {whose}"]
    words += [f"type {told['type']}"] if told["type"] else []
    words += [f"from {request['peer']}"] if request["peer"] else []
    words += [f"{request['size']} bytes"] if request["size"] is not None else []
    branch = tree.add(f"{SO} {written(', '.join(words))}")
    if request["path"]:
        branch.add(written(f"{request['method']} {request['path']}"))
    if told["delivery_id"]:
        branch.add(f"its sender calls it {written(told['delivery_id'])}")
    for name, value in request["headers"]:
        branch.add(f"[dim]{written(name)}: {written(value)}[/dim]")


def _add_proof(tree: Tree, told: dict[str, Any]) -> None:
    proof = told["proof"]
    mark = {True: GOOD, False: BAD, None: SO}[proof["valid"]]
    branch = tree.add(f"{mark} proof  {written(proof['text'])}")
    if proof["scheme"] is not None:
        scheme = proof["scheme"] if isinstance(proof["scheme"], str) else json.dumps(proof["scheme"])
        branch.add(f"scheme {written(scheme)}, looks at {written(', '.join(proof['headers']) or 'no header')}")
    for place, label in enumerate(proof["secrets"]):
        matched = place == proof["secret"]
        branch.add(f"{GOOD if matched else SO} secret {place + 1}: {written(label)}" + (" matched" if matched else ""))
    if proof["signed_at"]:
        late = proof["age_seconds"]
        side = "after" if late >= 0 else "before"
        branch.add(f"signed {local_time(proof['signed_at'])}; it came {abs(late):g} s {side} that, by our clock")


def _add_sameness(tree: Tree, dedupe: dict[str, Any]) -> None:
    if dedupe["first_event_id"]:
        tree.add(f"{BAD} same key as  {dedupe['first_event_id']}, which had another body")
    if dedupe["known_by"]:
        branch = tree.add(f"{SO} known by  {written(', '.join(dedupe['known_by']))}")
        if dedupe["repeats"]:
            branch.add(
                f"came again ×{dedupe['repeats']}, last {local_time(dedupe['last_repeated_at'])}; nothing started"
            )


def _add_triggers(tree: Tree, triggers: list[dict[str, Any]]) -> None:
    for each in triggers:
        word = "matched" if each["matched"] else "did not match"
        branch = tree.add(f"{GOOD if each['matched'] else BAD} trigger [bold]{written(each['trigger'])}[/bold]  {word}")
        if each["when"]:
            branch.add(f"[dim]when {written(each['when'])}[/dim]")
        for finding in each["because"]:
            branch.add(written(finding["text"]))
        if not each["matched"] and not each["because"] and each["reason"]:
            branch.add(written(each["reason"]))


def _add_runs(tree: Tree, runs: list[dict[str, Any]]) -> None:
    for each in runs:
        status = coloured(each["status"]) if each["status"] else "[dim]gone[/dim]"
        words = "was in its way" if each["skipped"] else written(each["workflow"] or "")
        held = f", held by {each['held']}" if each["held"] else ""
        branch = tree.add(f"{SO} run [bold]{each['run_id']}[/bold]  {status}  {words}{held}")
        if each["error"]:
            branch.add(f"[red]{written(each['error'])}[/red]")
        for sent in each["callbacks"]:
            colour = COLOURS.get(sent["status"], "white")
            mark = MARKS.get(sent["status"], "·")
            tries = f"{sent['attempts']} attempt" + ("" if sent["attempts"] == 1 else "s")
            branch.add(
                f"callback {sent['callback_id']}  [{colour}]{mark} {sent['status']}[/{colour}]"
                f"  {written(sent['type'])} → {written(sent['url'])}, {tries}"
            )
