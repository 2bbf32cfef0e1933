"""Our API's workflows: list, show, upload, compare their versions, roll back, remove.

What gateway.yaml manages is looked at here and changed there: to write it is a 409.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.documents import (
    DifferenceDocument,
    VersionDocument,
    WholeVersion,
    WholeWorkflow,
    WorkflowDocument,
    describe_difference,
    describe_version,
    describe_whole_version,
    describe_whole_workflow,
    describe_workflow,
)
from gateway.errors import Unprocessable
from gateway.nesting import MOST_LEVELS, is_too_deep
from gateway.tokens import Subject
from gateway.versions import LONGEST_LABEL
from gateway.web.callers import named_subject, workflow_subject
from gateway.web.endpoints import Answer, Call, Endpoint
from gateway.workflows import Published

READ = "workflows:read"
WRITE = "workflows:write"
Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_LABEL)]
Wanted = Annotated[str, Meta(min_length=1, max_length=LONGEST_LABEL, description="A version's number or label.")]
EXAMPLE = {"name": "greet", "steps": [{"id": "greeting", "transform": "Hello, ${input.name}!"}]}


class UploadQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    label: Annotated[Name, Meta(description="A name for this version, of its own.")] | None = None


class DiffQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    from_: Wanted | None = msgspec.field(name="from", default=None)
    to: Wanted | None = None


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version to go back to: its number, or its label."""

    version: Annotated[int, Meta(ge=1, le=2**53)] | Name


class WorkflowPage(msgspec.Struct, frozen=True):
    """All published workflows, by id."""

    data: list[WorkflowDocument]
    next_cursor: None = None


class VersionPage(msgspec.Struct, frozen=True):
    """All versions of a workflow, the oldest first."""

    data: list[VersionDocument]
    next_cursor: None = None


async def list_workflows(call: Call) -> Answer:
    """The published workflows that the caller may see."""
    found = call.control.workflows()
    seen = [each for each in found if call.who.sees(READ, workflow_subject(each))]
    return 200, WorkflowPage([describe_workflow(each) for each in seen])


async def show_workflow(call: Call) -> Answer:
    """One workflow with its definition and versions."""
    published = _workflow(call, READ)
    definition = await call.control.catalog.document(published.digest)
    versions = await call.control.publishing.versions(published)
    return 200, describe_whole_workflow(published, definition, versions, time.time())


async def upload_workflow(call: Call) -> Answer:
    """Publish a workflow, written as in gateway.yaml: 201 for a new version, 200 when it is the published one already.

    A step that runs code of this machine (`python`) takes the scope admin, or a workflow that the operator trusts.
    One that starts by itself takes `runs:start`, and `runs:read` for each workflow whose end it listens to.
    A definition that can't be used is a 422 that lists every mistake under `errors`, each with its path.
    """
    name = call.body.get("name")
    subject = named_subject(name if isinstance(name, str) else "", call.control.workflows())
    call.who.require(WRITE, subject)
    _require_starting(call, subject)
    if is_too_deep(call.raw):
        message = f"it is nested too deeply: more than {MOST_LEVELS} levels"
        raise Unprocessable(message)
    made = await call.control.publishing.upload(call.body, admin=_is_admin(call), label=call.query.label)
    return 201 if made.is_new else 200, describe_workflow(made.published)


async def list_versions(call: Call) -> Answer:
    """All versions of a workflow, the oldest first."""
    versions = await call.control.publishing.versions(_workflow(call, READ))
    return 200, VersionPage([describe_version(each) for each in versions])


async def show_version(call: Call) -> Answer:
    """One version of a workflow, by number or label, with its definition."""
    published = _workflow(call, READ)
    version, definition = await call.control.publishing.version(published, call.path["number"])
    return 200, describe_whole_version(version, definition)


async def compare_versions(call: Call) -> Answer:
    """What changed between two versions: place by place, and as a unified diff of their YAML.

    Without `to` it is the published version; without `from` the version before that.
    """
    found = await call.control.publishing.compare(_workflow(call, READ), call.query.from_, call.query.to)
    return 200, describe_difference(found)


async def roll_back(call: Call) -> Answer:
    """Make an earlier version the current one. It is published again under the next number; none is forgotten.

    When it is the current one already, nothing changes.
    """
    published = _workflow(call, WRITE)
    made = await call.control.publishing.rollback(published, call.body.version, admin=_is_admin(call))
    return 200, describe_workflow(made.published)


async def remove_workflow(call: Call) -> Answer:
    """Take a workflow away: nothing starts with it any more. Its runs go on, and keep their definitions."""
    return 200, describe_workflow(await call.control.publishing.remove(_workflow(call, WRITE)))


def _workflow(call: Call, scope: str) -> Published:
    published = call.control.workflow(call.path["name"])
    call.who.require(scope, workflow_subject(published))
    return published


def _require_starting(call: Call, subject: Subject) -> None:
    """What starts by itself must not run, nor read of another's runs, what its publisher may not."""
    on = call.body.get("on")
    if on or call.body.get("schedule"):
        call.who.require("runs:start", subject)
    for each in on if isinstance(on, list) else ():
        heard = str(each.get("workflow", "")) if isinstance(each, dict) else ""
        call.who.require("runs:read", named_subject(heard, call.control.workflows()))


def _is_admin(call: Call) -> bool:
    return call.who.token.may("admin")


WORKFLOWS = (
    Endpoint(
        method="GET",
        path="/api/v1/workflows",
        handler=list_workflows,
        scope=READ,
        summary="List workflows",
        answer=WorkflowPage,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/workflows",
        handler=upload_workflow,
        scope=WRITE,
        summary="Upload a workflow, or its next version",
        body=dict[str, Any],
        query=UploadQuery,
        answer=WorkflowDocument,
        status=201,
        others={200: WorkflowDocument},
        example=EXAMPLE,
        refuses=(409,),
    ),
    Endpoint(
        method="GET",
        path="/api/v1/workflows/{name}",
        handler=show_workflow,
        scope=READ,
        summary="Show a workflow, by id or name, with its definition and versions",
        answer=WholeWorkflow,
    ),
    Endpoint(
        method="DELETE",
        path="/api/v1/workflows/{name}",
        handler=remove_workflow,
        scope=WRITE,
        summary="Remove a workflow",
        answer=WorkflowDocument,
        refuses=(409,),
    ),
    Endpoint(
        method="GET",
        path="/api/v1/workflows/{name}/versions",
        handler=list_versions,
        scope=READ,
        summary="List the versions of a workflow",
        answer=VersionPage,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/workflows/{name}/versions/{number}",
        handler=show_version,
        scope=READ,
        summary="Show a version of a workflow, by number or label",
        answer=WholeVersion,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/workflows/{name}/diff",
        handler=compare_versions,
        scope=READ,
        summary="Compare two versions of a workflow",
        query=DiffQuery,
        answer=DifferenceDocument,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/workflows/{name}/rollback",
        handler=roll_back,
        scope=WRITE,
        summary="Roll a workflow back to an earlier version",
        body=Rollback,
        answer=WorkflowDocument,
        example={"version": 1},
        refuses=(409,),
    ),
)
