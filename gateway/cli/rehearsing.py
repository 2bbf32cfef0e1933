"""`workflow test`: run a workflow on this machine, without server or store, for people's own CI."""

from __future__ import annotations

import json as json_library
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from gateway.cli.common import Json, Shard, coloured, fail, out, print_json, table, took, with_store, written
from gateway.errors import GatewayError

REAL = ("http", "model", "python", "shell")
SHORT = 70
CHILD = (sys.executable, "-m", "workers.rehearse")
SPARE = 10.0
"""Seconds that a real step's process may take beyond the step's own timeout."""


def rehearse(
    file: Annotated[Path, typer.Argument(help="gateway.yaml, or a workflow's own file.")],
    workflow: Annotated[str | None, typer.Option(help="Which, by name, where the file has several.")] = None,
    given: Annotated[str | None, typer.Option("--input", metavar="JSON|@FILE", help="The run's input.")] = None,
    task: Annotated[str | None, typer.Option(help="The run's task.")] = None,
    metadata: Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="The run's metadata.")] = None,
    event: Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="What expressions read as `event`.")] = None,
    stubs: Annotated[Path | None, typer.Option(help="YAML: step → output, list of outputs, or {fails: ..}.")] = None,
    recorded: Annotated[
        str | None, typer.Option(metavar="RUN|@FILE", help="Stubs, and input, of a run: its id, or `run show --json`.")
    ] = None,
    expect: Annotated[Path | None, typer.Option(help="YAML: what status, output, error and steps must be.")] = None,
    allow: Annotated[str, typer.Option(help="Kinds that really run: http,model,python,shell.")] = "",
    json: Json = False,
) -> None:
    """Run a workflow here, with stubs in place of what acts on the world. Waits end at once.

    Exit 0 when it completes, or comes out as --expect says; 1 when not; 2 when something is missing, such as a stub.
    """
    from gateway.rehearsals import Rehearsal, compare, describe_played, stubs_of

    kinds = _read_kinds(allow)
    chosen, source = _choose(file, workflow, json)
    past = {} if recorded is None else _read_recorded(recorded)
    wanted = None if expect is None else _read_mapping(expect, "--expect")
    try:
        starts = _starts(chosen, past, given, task, metadata, event)
        known = stubs_of(past, chosen, kinds) | ({} if stubs is None else _read_mapping(stubs, "--stubs"))
        now = int(time.time() * 1000)
        perform = _performer(source, file.absolute().parent)
        played = Rehearsal(chosen, starts, known, now, allowed=kinds, perform=perform).play()
        document = describe_played(played, chosen)
        differences = None if wanted is None else compare(wanted, document)
    except GatewayError as error:
        fail(error.message, code=2)
    if json:
        print_json({**document, "differences": differences or []})
    else:
        _draw(document, differences)
    good = document["status"] == "completed" if differences is None else not differences
    raise typer.Exit(0 if good else 1)


def _read_kinds(allow: str) -> tuple[str, ...]:
    kinds = tuple(each.strip() for each in allow.split(",") if each.strip())
    unknown = [each for each in kinds if each not in REAL]
    if unknown:
        fail(f"--allow {unknown[0]!r}: only these can really run here: {', '.join(REAL)}", code=2)
    return kinds


def _choose(file: Path, name: str | None, json: bool) -> tuple[Any, Any]:
    """The workflow that is meant, and the document it came from."""
    from gateway.cli.configuring import show_mistakes
    from gateway.places import Mistakes

    try:
        found = _read_workflows(_read_text(file))
    except Mistakes as error:
        show_mistakes(file, error.mistakes, json)
        raise typer.Exit(1) from None
    names = [workflow.definition.name for workflow, _ in found]
    if name is None and len(found) != 1:
        fail(f"{file} has {len(found)} workflows; name one with --workflow: {', '.join(names) or 'none'}", code=2)
    chosen = [pair for pair in found if name in (None, pair[0].definition.name, str(pair[0].definition.id))]
    if not chosen:
        fail(f"there is no workflow {name!r} in {file} (workflows: {', '.join(names)})", code=2)
    return chosen[0]


def _read_workflows(text: str) -> list[tuple[Any, Any]]:
    from gateway.configuration import read_configuration, read_workflows
    from gateway.places import load_yaml

    document, _ = load_yaml(text)
    if isinstance(document, dict) and "apps" in document:
        configuration = read_configuration(text)
        return list(zip(configuration.workflows, configuration.documents, strict=True))
    return [(draft.workflow, draft.document) for draft in read_workflows(text)]


def _starts(
    workflow: Any, past: dict[str, Any], given: str | None, task: str | None, metadata: str | None, event: str | None
) -> Any:
    """What starts the run: as the options say, else as the recorded run was started. The input is judged first."""
    from gateway.rehearsals import Given

    value = past.get("input") if given is None else _read_json("--input", given)
    complaint = workflow.validator.complaint(value)
    if complaint is not None:
        fail(f"the workflow refuses this input: {complaint[0]}: {complaint[1]}")
    about = past.get("metadata") if metadata is None else _read_json("--metadata", metadata)
    happened = None if event is None else _read_json("--event", event)
    for option, each in (("--metadata", about), ("--event", happened)):
        if each is not None and not isinstance(each, dict):
            fail(f"{option} takes a JSON object", code=2)
    return Given(input=value, task=past.get("task") if task is None else task, metadata=about or {}, event=happened)


def _performer(definition: Any, folder: Path) -> Callable[..., Any]:
    """What does a step for real: in a process of its own, as a worker would, in the file's folder."""
    from gateway.rehearsals import Failing, read_stub

    def perform(unit: Any, step: Any, argument: Any, begun: Any) -> Any:
        order = {"definition": definition, "step": step.id, "unit": unit.id, "index": unit.index}
        text = json_library.dumps({**order, "argument": _plain(argument), "attempt": begun.attempt})
        limit = step.step.timeout + SPARE
        try:
            done = subprocess.run(CHILD, cwd=folder, input=text, stdout=subprocess.PIPE, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return Failing(type="Timeout", message=f"the step did not end within {limit:g} seconds")
        try:
            answer = json_library.loads(done.stdout)
        except ValueError:
            return Failing(type="ProcessEnded", message=f"the step's process ended with code {done.returncode}")
        return answer["output"] if "output" in answer else read_stub(unit.id, answer)

    return perform


def _plain(argument: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(argument)


def _read_recorded(text: str) -> dict[str, Any]:
    if text.startswith("@"):
        document = _read_json("--recorded", text)
    elif text.isdigit():
        document = with_store(lambda shard: _read_run(shard, int(text)))
    else:
        fail(f"--recorded {text!r}: write a run's id, or @FILE with what `gateway run show ID --json` printed", code=2)
    if not isinstance(document, dict) or not isinstance(document.get("steps"), list):
        fail("--recorded: this is no run as `gateway run show ID --json` prints it", code=2)
    return document


async def _read_run(shard: Shard, run_id: int) -> dict[str, Any]:
    from gateway.cli.looking import read_whole_run

    return await read_whole_run(shard, run_id)


def _read_json(option: str, text: str) -> Any:
    content = _read_text(Path(text[1:])) if text.startswith("@") else text
    try:
        return json_library.loads(content)
    except ValueError as error:
        fail(f"{option} is no JSON: {error}", code=2)


def _read_mapping(file: Path, option: str) -> dict[str, Any]:
    from gateway.places import Mistakes, load_yaml

    try:
        document, _ = load_yaml(_read_text(file))
    except Mistakes as error:
        _refuse_file(option, file, str(error))
    if document is None:
        return {}
    if not isinstance(document, dict):
        _refuse_file(option, file, "expected names with values")
    return document


def _refuse_file(option: str, file: Path, reason: str) -> NoReturn:
    fail(f"{option} {file}: {reason}", code=2)


def _read_text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"can't read {file}: {getattr(error, 'strerror', None) or error}", code=2)


def _draw(document: dict[str, Any], differences: list[str] | None) -> None:
    screen = out()
    rows = table("step", "kind", "status", "attempt", "output", "")
    for each in document["steps"]:
        error = each.get("error") or {}
        result = f"{error['type']}: {error['message']}" if error else _short(each.get("output"))
        attempt = str(each.get("attempt") or "–")
        rows.add_row(
            each["id"], each["kind"], coloured(each["status"]), attempt, written(result), written(each["way"] or "")
        )
    screen.print(rows)
    error = document["error"] or {}
    result = f"{error['type']}: {error['message']}" if error else _short(document["output"], 2000)
    screen.print(
        f"\n{coloured(document['status'])}  {document['workflow']}  [dim]{took(document['duration_ms'])}, simulated[/dim]"
    )
    screen.print(written(result), markup=True)
    for each in differences or ():
        screen.print(f"[red]✘[/red] {written(each)}")
    if differences == []:
        screen.print("[green]✔[/green] as expected")


def _short(value: Any, most: int = SHORT) -> str:
    text = "" if value is None else json_library.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[: most - 1]}…"
