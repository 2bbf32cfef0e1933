"""`init`, `check`, `apply`, `schema`: gateway.yaml."""

from __future__ import annotations

import asyncio
import json as json_library
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.common import Json, Shard, fail, out, plainly, print_json, with_store

if TYPE_CHECKING:
    from gateway.configuration import Configuration
    from gateway.egress import Policy
    from gateway.settings import Settings

Offline = Annotated[bool, typer.Option("--offline", help="Look no names up.")]
File = Annotated[Path | None, typer.Argument(help="The file, by default what GATEWAY_CONFIG names.")]

FIRST_FILE = """\
# The event gateway's apps and workflows. `gateway check` judges it, `gateway up` follows its changes.
apps:
  - id: 42
    name: ci
    adapter: direct                     # the body says which workflow to run
    verify:
      scheme: orqo                      # X-Signature-256: sha256=<hex HMAC-SHA256 of the body>
      secrets: [{env: CI_SECRET}]
    # callback:                         # where to tell that a run has ended, signed by Standard Webhooks
    #   url: https://ci.example/api/v1/callback
    #   secret: {env: CI_CALLBACK_SECRET}

  # - id: 43
  #   name: github
  #   verify: {scheme: github, secrets: [{env: GITHUB_SECRET}]}
  #   triggers:
  #     - name: deploys
  #       when: event.type == "push" && event.body.ref == "refs/heads/main"
  #       workflow: greet
  #       input: {name: "${event.body.pusher.name}"}

workflows:
  - id: 15
    name: greet
    description: Says hello to whoever is named, or to the task
    steps:
      - id: greeting
        transform: "Hello, ${has(input.name) ? input.name : (task == null ? 'world' : task)}!"
    output: {greeting: "${steps.greeting.output}"}
"""


SCHEMA_LINE = "# yaml-language-server: $schema="


def init(
    file: Annotated[Path, typer.Argument(help="The file to make.")] = Path("gateway.yaml"),
    schema: Annotated[
        Path | None, typer.Option(help="Write its JSON Schema here too, and say so in the file, for editors.")
    ] = None,
) -> None:
    """Make a first gateway.yaml."""
    line = "" if schema is None else f"{SCHEMA_LINE}{_beside(file, schema)}\n"
    try:
        with file.open("x") as new:
            new.write(line + FIRST_FILE)
    except FileExistsError:
        fail(f"{file} is there already; it was left as it is")
    except OSError as error:
        fail(f"can't write {file}: {error.strerror}")
    if schema is not None:
        _write(schema, _schema_text())
    out().print(f"Made [bold]{file}[/bold]. Now:\n\n  export CI_SECRET=$(openssl rand -hex 20)\n  gateway up\n")


def schema(
    output: Annotated[Path | None, typer.Option(help="Write it here; without, it is printed.")] = None,
) -> None:
    """The JSON Schema (2020-12) of gateway.yaml, for editors."""
    if output is None:
        sys.stdout.write(_schema_text())
        return
    _write(output, _schema_text())
    out().print(f"Made [bold]{output}[/bold]. As the first line of gateway.yaml:\n\n{SCHEMA_LINE}{output}\n")


def _schema_text() -> str:
    from gateway.editors import describe_file

    return json_library.dumps(describe_file(), indent=2, ensure_ascii=False) + "\n"


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        fail(f"can't write {file}: {error.strerror}")


def _beside(file: Path, schema: Path) -> str:
    """The schema's path as the file names it: editors look from the file's own folder."""
    path = os.path.relpath(schema, file.parent)
    return path if path.startswith(".") else f"./{path}"


def check(file: File = None, offline: Offline = False, json: Json = False) -> None:
    """Judge a file: every mistake with its line, column and field. Names in callbacks' URLs are looked up."""
    from gateway.advice import warn, warn_of_addresses
    from gateway.configuration import read_configuration
    from gateway.egress import read_policy
    from gateway.places import Mistakes

    path, text, settings = _read(file)
    with plainly():
        policy = read_policy(settings.egress_allow)
    try:
        configuration = read_configuration(text, settings.python_modules)
        doubts = _look_at_destinations(configuration, policy, offline)
    except Mistakes as error:
        show_mistakes(path, error.mistakes, json)
        raise typer.Exit(1) from None
    unreached = warn_of_addresses(configuration, policy)
    warnings = _missing_secrets(configuration) + warn(configuration) + unreached + doubts
    if json:
        counts = {name: len(getattr(configuration, name)) for name in ("apps", "workflows", "endpoints")}
        print_json({"valid": True, "mistakes": [], **counts, "warnings": warnings})
        return
    for warning in warnings:
        out().print(f"[yellow]warning[/yellow] {warning}")
    found = f"{len(configuration.apps)} apps, {len(configuration.workflows)} workflows"
    if configuration.endpoints:
        found += f", {len(configuration.endpoints)} endpoints"
    out().print(f"[green]✔[/green] {path}: {found}, no mistakes")


def apply(file: File = None, offline: Offline = False, json: Json = False) -> None:
    """Make the store say what the file says. Running receivers and workers follow at once.

    A callback's name that leads inside is refused; one that can't be looked up is a warning.
    """
    from gateway.advice import warn_of_loops
    from gateway.configuration import read_configuration
    from gateway.egress import read_policy

    _, text, settings = _read(file)
    with plainly():
        configuration = read_configuration(text, settings.python_modules)
        doubts = _look_at_destinations(configuration, read_policy(settings.egress_allow), offline)

    async def work(shard: Shard) -> Any:
        return await shard.catalog.apply(configuration, int(time.time() * 1000))

    _show_changes(with_store(work), doubts + warn_of_loops(configuration), json)


def plan(
    file: File = None,
    since: Annotated[
        str | None, typer.Option(help="Push the events stored since then through both: 7d, or a time (ISO 8601).")
    ] = None,
    app: Annotated[str | None, typer.Option(help="Only events of this app, by id or name.")] = None,
    limit: Annotated[int, typer.Option(help="How many events, at most, the newest.", min=1)] = 10_000,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if anything differs; with --since, if an event does.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what `apply` would add, change and remove, and, since a time, do to the events that came. Change nothing."""
    from gateway.advice import warn_of_loops
    from gateway.cli.backtesting import backtest, draw_backtest
    from gateway.cli.replaying import read_moment
    from gateway.configuration import check_texts, read_configuration
    from gateway.documents import plain
    from gateway.egress import read_policy

    _, text, settings = _read(file)
    begin = read_moment("--since", since, time.time())
    if begin is None and app is not None:
        fail("--app goes with --since", code=2)
    with plainly():
        configuration = read_configuration(text, settings.python_modules)
        check_texts(configuration, read_policy(settings.egress_allow))

    async def work(shard: Shard) -> tuple[Any, Any]:
        changes = await shard.catalog.preview(configuration)
        return changes, None if begin is None else await backtest(shard, configuration, begin, app, limit)

    changes, found = with_store(work)
    _show_changes(changes, warn_of_loops(configuration), json, {} if found is None else {"events": plain(found)})
    if found is not None and not json:
        draw_backtest(out(), found)
    if exit_code and (changes if found is None else found.differs):
        raise typer.Exit(1)


def _look_at_destinations(configuration: Configuration, policy: Policy, offline: bool) -> list[str]:
    """What could not be found out about the callbacks' URLs. Raises Mistakes for those that will never be sent to."""
    from gateway.configuration import check_destinations, check_texts
    from gateway.web.destinations import examine_all

    # Without any look-up first: what the text tells must not wait for name servers.
    check_texts(configuration, policy)
    urls = [each.url for each in configuration.destinations]
    if offline or not urls:
        return []
    return check_destinations(configuration, asyncio.run(examine_all(policy, urls)))


def _show_changes(changes: Any, warnings: list[str], json: bool, more: dict[str, Any] | None = None) -> None:
    for warning in warnings:
        sys.stderr.write(f"warning: {warning}\n")
    if json:
        print_json(
            {"added": changes.added, "changed": changes.changed, "removed": changes.removed}
            | ({} if more is None else more)
        )
        return
    for word, colour in (("added", "green"), ("changed", "yellow"), ("removed", "red")):
        for name in getattr(changes, word):
            out().print(f"[{colour}]{word:>8}[/{colour}] {name}")
    if not changes:
        out().print("nothing to change")


def _read(file: Path | None) -> tuple[Path, str, Settings]:
    from gateway.machine import read_file
    from gateway.settings import read_settings

    with plainly():
        settings = read_settings()
        path = file or settings.config
        return path, read_file(path), settings


def show_mistakes(path: Path, mistakes: list[Any], json: bool) -> None:
    """Each mistake with its line, column and field, on standard error or as one document."""
    if json:
        rows = [
            {"line": each.line, "column": each.column, "path": each.path, "message": each.message} for each in mistakes
        ]
        print_json({"valid": False, "mistakes": rows})
        return
    for each in mistakes:
        sys.stderr.write(f"{path}:{each.line}:{each.column}: {each.path}: {each.message}\n")
    sys.stderr.write(f"gateway: {path} has {len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}\n")


def _missing_secrets(configuration: Any) -> list[str]:
    """What this machine's environment does not have; another's may."""
    found = [warning for app in configuration.apps for warning in _warnings_of(app)]
    return found + [warning for endpoint in configuration.endpoints for warning in _flaws_of(endpoint)]


def _flaws_of(endpoint: Any) -> list[str]:
    from gateway.endpoints import LiveEndpoint
    from gateway.store.lookups import read_outside

    # What is kept in the store is not to be known from a file.
    live = LiveEndpoint(endpoint, lambda reference, owner: reference.secret or read_outside(reference, owner))
    if live.problem is not None:
        return [f"endpoint {endpoint.name!r}: {live.problem}: nothing is sent to it"]
    return [] if live.flaw is None else [f"endpoint {endpoint.name!r}: {live.flaw}: nothing is signed with that"]


def _warnings_of(app: Any) -> list[str]:
    from gateway.adapters import AdapterSettings
    from gateway.apps import read_verify
    from gateway.holdings import complain_of_secret
    from gateway.store.lookups import read_outside

    scheme, references = read_verify(app)
    asked = [(scheme, reference, "it refuses every request") for reference in references]
    found = []
    if isinstance(app.adapter, AdapterSettings):
        for name, reference in app.credentials.items():
            if reference.secret is None and not read_outside(reference):
                found.append(
                    f"app {app.name!r}: its credential {name} ({reference.label}) is not set: it refuses every request"
                )
    elif scheme is None:
        found.append(f"app {app.name!r} has no `verify`: it refuses every request")
    if app.own_callback is not None and app.own_callback.secret is not None:
        asked.append((None, app.own_callback.secret, "its callbacks are not sent"))
        asked += [(None, each, "its callbacks are signed without it") for each in app.own_callback.secrets[1:]]
    if app.verify_token:
        asked.append((None, app.verify_token, "its challenges are refused"))
    if app.reconcile:
        asked.append((None, app.reconcile.token, "nothing is reconciled"))
    for judge, reference, consequence in asked:
        if reference.paired:
            found.append(
                f"app {app.name!r} takes its secret from its sender: until then, whoever knows the address with its token"
                " can hand one over"
            )
            continue
        # What is kept in the store is not to be known from a file.
        complaint = reference.secret is None and complain_of_secret(judge, read_outside(reference))
        if complaint:
            found.append(f"app {app.name!r}: its secret ({reference.label}) {complaint}: {consequence}")
    return found
