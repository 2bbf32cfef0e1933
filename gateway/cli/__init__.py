"""The `gateway` command. Each command is a few lines over the store or the service; what is heavy is imported late."""

from __future__ import annotations

import typer

from gateway.cli import (
    acting,
    addressing,
    auditing,
    configuring,
    demo,
    doctoring,
    explaining,
    hooking,
    keeping,
    looking,
    managing,
    probing,
    publishing,
    receipting,
    reconciling,
    redelivering,
    rehearsing,
    replaying,
    sending,
    serving,
)

app = typer.Typer(
    name="gateway",
    help="Receives webhooks, proves who sent them, runs what they start, and calls back, signed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

START = "Start"
SET_UP = "Set up"
LOOK = "Look and act"
TRY = "Try"

app.command("demo", rich_help_panel=START)(demo.demo)
app.command("up", rich_help_panel=START)(serving.up)
app.command("serve", rich_help_panel=START)(serving.serve)
app.command("worker", rich_help_panel=START)(serving.worker)
app.command("init", rich_help_panel=SET_UP)(configuring.init)
app.command("check", rich_help_panel=SET_UP)(configuring.check)
app.command("plan", rich_help_panel=SET_UP)(configuring.plan)
app.command("apply", rich_help_panel=SET_UP)(configuring.apply)
app.command("schema", rich_help_panel=SET_UP)(configuring.schema)
app.add_typer(managing.apps, name="app", rich_help_panel=SET_UP)
app.add_typer(addressing.endpoints, name="endpoint", rich_help_panel=SET_UP)
app.add_typer(hooking.hooks, name="hook", rich_help_panel=SET_UP)
app.add_typer(keeping.secrets, name="secret", rich_help_panel=SET_UP)
app.add_typer(managing.tokens, name="token", rich_help_panel=SET_UP)
managing.apps.command("reconcile")(reconciling.reconcile)
explaining.events.command("replay")(replaying.replay)
looking.workflows.command("upload")(publishing.upload)
looking.workflows.command("versions")(publishing.list_versions)
looking.workflows.command("diff")(publishing.diff)
looking.workflows.command("rollback")(publishing.rollback)
looking.workflows.command("remove")(publishing.remove)
looking.workflows.command("test")(rehearsing.rehearse)
app.add_typer(looking.workflows, name="workflow", rich_help_panel=LOOK)
looking.runs.command("cancel")(acting.cancel)
looking.runs.command("retry")(acting.retry)
looking.runs.command("resume")(acting.resume)
looking.runs.command("rerun")(acting.rerun)
looking.runs.command("signal")(acting.signal)
looking.runs.command("approve")(acting.approve)
looking.runs.command("reject")(acting.reject)
looking.runs.command("approve-link")(acting.approve_link)
app.add_typer(looking.runs, name="run", rich_help_panel=LOOK)
app.add_typer(explaining.events, name="event", rich_help_panel=LOOK)
looking.callbacks.command("redeliver")(redelivering.redeliver)
addressing.endpoints.command("enable")(redelivering.enable)
addressing.endpoints.command("recover")(redelivering.recover)
app.add_typer(looking.callbacks, name="callback", rich_help_panel=LOOK)
app.add_typer(auditing.audit, name="audit", rich_help_panel=LOOK)
app.add_typer(receipting.receipts, name="receipt", rich_help_panel=LOOK)
app.command("send", rich_help_panel=TRY)(sending.send)
app.command("verify", rich_help_panel=TRY)(sending.verify)
app.command("doctor", rich_help_panel=LOOK)(doctoring.doctor)
app.command("probe", rich_help_panel=TRY)(probing.probe)


def main() -> None:
    """The entry point of the installed program."""
    app()
