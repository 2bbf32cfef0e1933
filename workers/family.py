"""Starting runs from steps: stored like any event, under an id that the same step of the same run always gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
from msgspec import structs

from gateway.errors import Conflict, NotFound, Unprocessable
from gateway.events import Acceptable, Decision, Head, hash_body
from gateway.flow import Flow, flow_values
from gateway.jobs import child_event, effects_of
from gateway.runs import Parent, Run, RunRequest, effects_root
from gateway.service import Storage, insist_on_stored
from gateway.starts import root_of, too_deep
from gateway.store.reading import Reader
from gateway.triggers import check_input
from gateway.workflows import Child, Published, Workflow


class Library(Protocol):
    """The published workflows at hand."""

    @property
    def workflows(self) -> Mapping[str, Published]: ...

    async def refresh(self) -> None: ...

    async def definition(self, digest: str) -> Workflow: ...


class Family:
    """Starts the runs that steps ask for, and reads them."""

    def __init__(self, library: Library, storage: Storage, reader: Reader, *, max_depth: int) -> None:
        self._library = library
        self._storage = storage
        self._reader = reader
        self._max_depth = max_depth

    async def start(self, parent: Run, unit_id: str, failed_child: int | None, child: Child) -> int:
        """The id of the run this step starts; asked again, the same, until that one has failed.

        Raises NotFound, Unprocessable, Conflict, or Unavailable: then it may have been started all the same.
        """
        published = await self._find(str(child.name))
        workflow = await self._library.definition(published.digest)
        check_input(workflow, child.input)
        depth = parent.request.depth + 1
        if depth > self._max_depth:
            raise Unprocessable(too_deep(depth, self._max_depth, root_of(parent.request)))
        event = _event(parent, unit_id, failed_child, child, published)
        stored = await self._storage.store(structs.replace(event, flows=_flows(workflow, child, parent)))
        insist_on_stored(stored)
        for _, rival, _ in stored.skipped:
            message = f"skipped: run {rival} of this workflow and key has not ended"
            raise Conflict(message)
        return stored.run_ids[0]

    async def read(self, run_id: int) -> Run:
        """The run. Raises NotFound."""
        return await self._reader.run(run_id)

    async def _find(self, name: str) -> Published:
        if name not in self._library.workflows:
            await self._library.refresh()
        found = self._library.workflows.get(name)
        if found is None:
            message = f"there is no workflow {name!r}"
            raise NotFound(message)
        return found


def _flows(workflow: Workflow, child: Child, parent: Run) -> list[Flow | None]:
    if workflow.flow is None:
        return []
    asked = flow_values(child.input, None, parent.request.metadata, {"id": parent.request.app_id, "name": None})
    # A run that a step waits for is its own: one that it joined would tell another step of its end.
    return [workflow.flow.decide_inside(asked, alone=child.wait)]


def _event(parent: Run, unit_id: str, failed_child: int | None, child: Child, published: Published) -> Acceptable:
    body = msgspec.json.encode(child.input)
    event_id = child_event(parent.id, parent.attempt, unit_id, failed_child)
    request = RunRequest(
        workflow_id=published.id,
        workflow=published.name,
        digest=published.digest,
        session_id=parent.request.session_id,
        app_id=parent.request.app_id,
        token_id=parent.request.token_id,
        event_id=event_id,
        trigger=f"run {parent.id} step {unit_id}",
        input=child.input,
        metadata=parent.request.metadata,
        parent=Parent(parent.id, unit_id) if child.wait else None,
        root=root_of(parent.request),
        depth=parent.request.depth + 1,
        replay_of=parent.request.replay_of,
        effects=effects_of(effects_root(parent), unit_id),
        traceparent=parent.request.traceparent,
    )
    head = Head(
        app_id=parent.request.app_id,
        token_id=parent.request.token_id,
        type="workflow.started",
        decision=Decision(outcome="accepted", scheme="step"),
    )
    return Acceptable(id=event_id, body=body, body_hash=hash_body(body), keys=[], head=head, requests=[request])
