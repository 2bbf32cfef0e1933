"""What to say of a gateway.yaml that is right and may still not be what was meant. Silent: values in, sentences out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.adapters import AdapterSettings
from gateway.apps import App
from gateway.calls import HttpCall, ModelCall
from gateway.chains import find_loop
from gateway.configuration import Configuration
from gateway.egress import Policy, check_url
from gateway.shells import unguarded_options
from gateway.workflows import Child, Step


def warn(configuration: Configuration) -> list[str]:
    """All that may not be meant, besides what this machine's environment lacks."""
    rows = (warn_of_options, warn_of_loops, warn_of_children, warn_of_references)
    return [warning for look in rows for warning in look(configuration)]


def warn_of_loops(configuration: Configuration) -> list[str]:
    """What to say of workflows that start each other in a circle. Conditions may end it; the limit of depth does."""
    names = {str(each.definition.id): each.definition.name for each in configuration.workflows}
    listens = {
        each.definition.name: [names.get(listener.workflow, listener.workflow) for listener in each.listeners]
        for each in configuration.workflows
    }
    loop = find_loop(listens)
    message = f"workflows start each other in a circle by `on`: {loop}; GATEWAY_MAX_DEPTH ends it if nothing else does"
    return [] if loop is None else [message]


def warn_of_options(configuration: Configuration) -> list[str]:
    """The `shell` steps where a computed argument may be taken for an option."""
    return [
        f"workflow {workflow.definition.name!r}, step {step.id!r}: a computed argument may begin with `-` and be read as"
        " an option; put `--` before it if the program knows that, or a fixed beginning such as `--name=`"
        for workflow in configuration.workflows
        for step in workflow.definition.steps
        if not isinstance(step.shell, msgspec.UnsetType) and unguarded_options(step.shell)
    ]


def warn_of_children(configuration: Configuration) -> list[str]:
    """The `workflow` steps that name no workflow of this file: it may be published by API, or misspelt."""
    known = {name for each in configuration.workflows for name in (each.definition.name, str(each.definition.id))}
    return [
        f"{_place(owner, step)} starts the workflow {step.workflow.name!r}, which is not in this file; without one of"
        " that name published otherwise, the step fails"
        for owner, step in _steps(configuration)
        if isinstance(step.workflow, Child) and "${" not in str(step.workflow.name)
        if str(step.workflow.name) not in known
    ]


def warn_of_references(configuration: Configuration) -> list[str]:
    """The steps where `{env: NAME}` stands as plain data: no secret is put in its place there."""
    return [
        f"{_place(owner, step)}: {reference} in `{field}` is passed on as it is written; a secret is put in only by an http"
        " step's bearer, basic and headers, a model's key and a shell's env. A python step reads its environment itself"
        for owner, step in _steps(configuration)
        for field, value in _data_of(step)
        for reference in _references_in(value)
    ]


def warn_of_addresses(configuration: Configuration, policy: Policy) -> list[str]:
    """The URLs, besides those of callbacks, that nothing will be sent to as this machine is set up."""
    places = [(f"app {app.name!r}, {field}", url) for app in configuration.apps for field, url in _urls_of_app(app)]
    for owner, step in _steps(configuration):
        call = step.http if isinstance(step.http, HttpCall) else step.model
        if isinstance(call, HttpCall | ModelCall) and call.url and "${" not in call.url:
            places.append((f"{_place(owner, step)}, url", call.url))
    refused = [(place, check_url(policy, url)) for place, url in places]
    return [f"{place}: nothing is sent there: {reason}" for place, reason in refused if reason]


def _urls_of_app(app: App) -> Iterator[tuple[str, str]]:
    if isinstance(app.adapter, AdapterSettings):
        yield "adapter.url", app.adapter.url
    if app.reconcile is not None:
        yield "reconcile.api", app.reconcile.api


def _steps(configuration: Configuration) -> Iterator[tuple[str, Step]]:
    for workflow in configuration.workflows:
        for step in workflow.definition.steps:
            yield workflow.definition.name, step


def _place(owner: str, step: Step) -> str:
    return f"workflow {owner!r}, step {step.id!r}"


def _data_of(step: Step) -> Iterator[tuple[str, Any]]:
    """The fields of a step that are data and nothing else."""
    yield "with", step.with_
    yield "transform", step.transform
    if isinstance(step.workflow, Child):
        yield "workflow.input", step.workflow.input
    if isinstance(step.http, HttpCall):
        for name in ("query", "json", "form"):
            yield f"http.{name}", getattr(step.http, name)
    if isinstance(step.model, ModelCall):
        yield "model.messages", step.model.messages


def _references_in(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return
    name, path = value.get("env"), value.get("file")
    if len(value) == 1 and isinstance(name, str) and name.isidentifier() and name.isupper():
        yield f"{{env: {name}}}"
    elif len(value) == 1 and isinstance(path, str) and path.startswith("/"):
        yield f"{{file: {path}}}"
    else:
        for each in value.values():
            yield from _references_in(each)
