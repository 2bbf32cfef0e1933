"""What endpoints are told of a run while it goes on and when it ends. The messages go with the run's own next write.

So no worker that dies loses one: either the write was made, with its messages, or whoever claims the run next makes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from gateway.callbacks import Outgoing
from gateway.endpoints import names_in
from gateway.outbox import NO_MORE, Outbox
from gateway.runs import Run, State, StepState, Told, iso
from gateway.store.registry import Registry
from gateway.workflows import Workflow

STARTED, WAITING = "run.started", "run.waiting"
log = structlog.get_logger()


class Telling(msgspec.Struct, frozen=True):
    """Messages, and what the run's record says of them from then on: to be written together."""

    told: Told = Told()
    messages: tuple[Outgoing, ...] = ()

    @property
    def fields(self) -> dict[str, bytes | str | int]:
        """The fields of the run's record."""
        return {"told": msgspec.json.encode(self.told)} if self.messages else {}


NOBODY = Telling()


class Teller:
    """Makes the messages of one worker's runs. Where no endpoint wants a kind, that costs one look at a set."""

    def __init__(self, outbox: Outbox, registry: Registry) -> None:
        self._outbox = outbox
        self._registry = registry

    def lacks(self, run: Run, workflow: Workflow) -> bool:
        """Whether an endpoint of this run is not at hand: it may be newer than the copy there is."""
        app = self._registry.apps.get(str(run.request.app_id))
        names = [*names_in(workflow.definition.callback), *(app.app.endpoints if app else ())]
        return any(name not in self._registry.endpoints for name in names)

    def started(self, run: Run, workflow: Workflow | None, now: int) -> Telling:
        """That a run has started: once for each attempt of the run."""
        if STARTED not in self._registry.wanted or run.told.started >= run.attempt:
            return NOBODY
        begun = msgspec.structs.replace(run, state=State.RUNNING)
        messages = self.tell(begun, workflow, STARTED, run.started_at or now)
        return Telling(msgspec.structs.replace(run.told, started=run.attempt), messages)

    def waiting(self, run: Run, workflow: Workflow | None, now: int) -> Telling:
        """That a run, with these steps, is parked: not again while it waits for the same."""
        if WAITING not in self._registry.wanted:
            return NOBODY
        waits = [
            {"step": name, "waits_for": each.waits_for, "attempt": each.attempt, "due_at": iso(each.due_at)}
            for name, each in sorted(run.steps.items())
            if each.state in (StepState.WAITING, StepState.UNKNOWN)
        ]
        mark = hashlib.sha256(msgspec.json.encode(waits)).hexdigest()[:16]
        if mark == run.told.waiting:
            return NOBODY
        parked = msgspec.structs.replace(run, state=State.WAITING)
        messages = self.tell(parked, workflow, WAITING, now, {"waits_for": waits})
        return Telling(msgspec.structs.replace(run.told, waiting=mark), messages)

    def tell(
        self, run: Run, workflow: Workflow | None, kind: str, at: int, more: Mapping[str, Any] = NO_MORE
    ) -> tuple[Outgoing, ...]:
        """The messages of this kind about a run, of which the workflow may be one that can't be used any more."""
        registry = self._registry
        if workflow is not None:
            named = names_in(workflow.definition.callback)
        else:
            published = registry.workflows.get(run.request.workflow)
            named = [] if published is None else list(published.endpoints)
        messages = self._outbox.tell(run, kind, at, named, registry.apps, registry.endpoints, more)
        for trouble in messages.troubles:
            log.warning("a message is not sent", run_id=run.id, type=kind, reason=trouble)
        return messages.outgoing
