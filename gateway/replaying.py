"""Replaying stored events, one or many: they are read, decided by `replays` and `decisions`, and stored as new events.

Many are replayed the oldest first, a page at a time. A replay that comes again under its caller's key starts nothing, so
that whoever was interrupted sends the same again and goes on. Their runs wait in a lane of their own, and storage is
handed in with less room than what comes in has: a backlog of replays holds up nothing that comes in meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from msgspec import structs

from gateway import replays
from gateway.apps import LiveApp
from gateway.contents import stored_values
from gateway.control import app_names, run_subject
from gateway.credits import Payment, cost_of
from gateway.decisions import NO_COSTS, Decider, Start
from gateway.errors import ConfigError, Forbidden, NotFound, Refused, Unavailable, Unprocessable
from gateway.events import Head, new_event_id
from gateway.flow import Flow, flow_values
from gateway.replays import ReplayDocument, Which, Wish
from gateway.runs import Run, RunRequest
from gateway.service import Storage, Stored, insist_on_stored
from gateway.store.auditing import Audit
from gateway.store.listing import Place
from gateway.store.reading import ListedEvent, Reader, StoredEvent
from gateway.store.scanning import FEW, Scanner, Span
from gateway.tokens import Subject, Token
from gateway.workflows import Published, Workflow

SCOPE = "runs:start"
LOOKED_THROUGH = 500
"""How many events a page looks at: it may be short, or empty, and still have a next one."""


class Asker(msgspec.Struct, frozen=True):
    """Who asks for replays, under which key. Without a token it is somebody at the command line, who may all."""

    token: Token | None = None
    key: str | None = None

    @property
    def owner(self) -> str:
        return "command" if self.token is None else f"token {self.token.id}"

    def may(self, subject: Subject) -> bool:
        return self.token is None or self.token.may(SCOPE, subject)


class ReplayPage(msgspec.Struct, frozen=True):
    """What became of some events, the oldest first, and the place after which the next page begins."""

    data: list[ReplayDocument]
    next: Place | None


class Directory(Protocol):
    """Apps and workflows at hand; definitions that are not published any more by their digest."""

    apps: dict[str, LiveApp]
    workflows: dict[str, Published]

    def app(self, name: str) -> LiveApp: ...

    def definition_at_hand(self, digest: str) -> Workflow | None: ...

    async def definition(self, digest: str) -> Workflow: ...


class Replayer:
    """Replays the events of one shard."""

    def __init__(
        self,
        directory: Directory,
        storage: Storage,
        reader: Reader,
        scanner: Scanner,
        audit: Audit,
        *,
        costs: Mapping[str, int] = NO_COSTS,
        max_depth: int = 16,
        clock: Callable[[], float] = time.time,
        noise: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._directory = directory
        self._storage = storage
        self._reader = reader
        self._scanner = scanner
        self._audit = audit
        self._decider = Decider(directory, costs, max_depth)
        self._costs = costs
        self._clock = clock
        self._noise = noise

    async def replay(self, event_id: str, wish: Wish, asker: Asker) -> ReplayDocument:
        """Replay one event; a replay stands for the event that it replays.

        Raises NotFound, Forbidden, Unprocessable, Conflict, PaymentRequired or Unavailable; then nothing was started.
        """
        asked = await self._find(event_id)
        if not asker.may(await self._subject(asked)):
            message = f"this token may not replay {event_id}; it takes the scope {SCOPE} for its app or its workflows"
            raise Forbidden(message)
        replays.insist_on_replayable(event_id, asked.head)
        return await self._replay(await self._first(asked), wish, asker)

    async def page(
        self, which: Which, span: Span, wish: Wish, asker: Asker, limit: int, after: Place | None = None
    ) -> ReplayPage:
        """Replay the next events that fit, at most `limit`; one that can't be is named, and the others go on.

        Raises Unavailable when nothing could be replayed now; else the page ends where the store had no more room.
        """
        done: list[ReplayDocument] = []
        for _ in range(LOOKED_THROUGH // FEW):
            found = await self._scanner.next(span, after)
            for place, event in found:
                if event is not None and which.fits(event.head) and asker.may(await self._subject(event, asker)):
                    try:
                        done.append(await self._try(event, wish, asker))
                    except Unavailable:
                        if not done:
                            raise
                        return ReplayPage(done, after)
                after = place
                if len(done) == limit:
                    return ReplayPage(done, after)
            if not found:
                return ReplayPage(done, None)
        return ReplayPage(done, after)

    async def count(self, span: Span) -> int:
        """How many events came in that time."""
        return await self._scanner.count(span)

    async def _try(self, event: StoredEvent, wish: Wish, asker: Asker) -> ReplayDocument:
        try:
            return await self._replay(event, wish, asker)
        except (Refused, ConfigError) as error:
            return ReplayDocument(event_id=event.id, status="refused", reason=error.message)

    async def _find(self, event_id: str) -> StoredEvent:
        try:
            return await self._reader.event(event_id)
        except NotFound:
            message = (
                f"there is no event {event_id[:80]!r}: its time may be over, or it was refused; "
                "what nobody proved is not kept to be replayed, so have it sent again"
            )
            raise NotFound(message) from None

    async def _first(self, asked: StoredEvent) -> StoredEvent:
        """The event that was replayed, of a replay; where its time is over, the replay has all of it but its id."""
        if asked.head.replay_of is None:
            return asked
        try:
            return await self._reader.event(asked.head.replay_of)
        except NotFound:
            return structs.replace(asked, id=asked.head.replay_of)

    async def _subject(self, event: ListedEvent, asker: Asker | None = None) -> Subject:
        """An event belongs to its app, and to the workflows of all runs it started."""
        apps, workflows = self._directory.apps, frozenset[str]()
        if asker is None or (asker.token is not None and asker.token.is_narrowed(SCOPE)):
            for run in await self._runs(event):
                workflows |= run_subject(run.request, apps).workflow
        return Subject(workflow=workflows, app=app_names(event.head.app_id, apps))

    async def _runs(self, event: ListedEvent) -> list[Run]:
        found = []
        for run_id in event.run_ids:
            try:
                found.append(await self._reader.run(run_id))
            except NotFound:
                continue  # its time was over before that of its event
        return found

    async def _replay(self, event: StoredEvent, wish: Wish, asker: Asker) -> ReplayDocument:
        head = replays.as_replayed(event.head, event.id)
        start = await (self._start_now if wish.config == "current" else self._start_then)(event, head, asker)
        starts = [replays.describe_start(request) for request in start.requests]
        self._insist_on_starting(start.requests, asker)
        if not start.requests:
            reason = "no trigger of its app matches"
            return ReplayDocument(event_id=event.id, status="ignored", triggers=start.verdicts, reason=reason)
        if wish.dry_run:
            return ReplayDocument(event_id=event.id, status="would_start", starts=starts, triggers=start.verdicts)
        stored = await self._store(event, head, start, wish, asker)
        return _describe(event.id, stored, starts, start)

    def _insist_on_starting(self, requests: list[RunRequest], asker: Asker) -> None:
        for request in requests:
            if not asker.may(run_subject(request, self._directory.apps)):
                message = f"this token may not start workflow {request.workflow!r}"
                raise Forbidden(message)

    async def _store(self, event: StoredEvent, head: Head, start: Start, wish: Wish, asker: Asker) -> Stored:
        event_id = new_event_id(self._clock(), self._noise(8))
        requests = replays.mark(start.requests, event.id, event_id, wish)
        made = replays.compose(event_id, event.id, head, event.body, requests, start.verdicts, wish)
        keys = [] if asker.key is None else [replays.key_of(asker.owner, asker.key, event.id)]
        flows: list[Flow | None] = [
            # Whoever replays many waits for room; a rate would only refuse some of them.
            None if flow is None else structs.replace(flow, rate_limit=None)
            for flow in start.flows
        ]
        await self._audit.note("event.replay", event.id, config=wish.config, fresh_keys=wish.fresh_keys)
        stored = await self._storage.store(structs.replace(made, keys=keys, flows=flows, payment=start.payment))
        insist_on_stored(stored)
        return stored

    async def _start_now(self, event: StoredEvent, head: Head, asker: Asker) -> Start:
        """What the event starts by what is published now."""
        app = self._app_of(head)
        if app is not None:
            return self._decider.decide_anew(replays.Recall(app, event.id, head, event.body))
        runs = await self._insist_on_runs(event)
        requests = replays.start_as_now([run.request for run in runs], self._find_workflow)
        return await self._start(requests, event, head, None, asker)

    async def _start_then(self, event: StoredEvent, head: Head, asker: Asker) -> Start:
        """What the event started when it first came."""
        app = self._app_of(head)
        requests = replays.start_as_then(await self._insist_on_runs(event), event.id)
        for request in requests:
            self._find_workflow(request.workflow)
        return await self._start(requests, event, head, app, asker)

    async def _start(
        self, requests: list[RunRequest], event: StoredEvent, head: Head, app: LiveApp | None, asker: Asker
    ) -> Start:
        workflows = [await self._directory.definition(request.digest) for request in requests]
        values = {"id": head.app_id, "name": None if app is None else app.app.name}
        told = stored_values(event.id, head, event.body)
        flows: list[Flow | None] = []
        for request, workflow in zip(requests, workflows, strict=True):
            if workflow.definition.batch is not None:
                message = (
                    f"workflow {request.workflow!r} gathers batches: what this event gave to one is not kept by itself"
                )
                raise Unprocessable(message)
            asked = flow_values(request.input, request.task, request.metadata, values, told)
            flows.append(None if workflow.flow is None else workflow.flow.decide_inside(asked, alone=True))
        cost = sum(cost_of(workflow.kinds, self._costs) for workflow in workflows)
        return Start(requests, event.head.decision.triggers, flows if any(flows) else [], _payment(app, asker, cost))

    def _app_of(self, head: Head) -> LiveApp | None:
        """The app that received an event; None where a token, a hook or the clock started it. Raises Unprocessable."""
        if head.app_id is None:
            return None
        app = self._directory.apps.get(str(head.app_id))
        if app is None:
            message = f"app {head.app_id}, which received it, is not there any more"
            raise Unprocessable(message)
        if app.app.disabled:
            message = f"app {app.app.name!r} is disabled; `gateway app enable {app.app.name}` lets it start runs again"
            raise Unprocessable(message)
        return app

    async def _insist_on_runs(self, event: StoredEvent) -> list[Run]:
        runs = await self._runs(event)
        if not runs or len(runs) < len(event.run_ids):
            gone = "the time of its runs is over" if event.run_ids else "it started no run"
            way = "" if event.head.app_id is None else "; --config current decides anew"
            message = f"{gone}, so there is nothing to start as it was then{way}"
            raise Unprocessable(message)
        return runs

    def _find_workflow(self, name: str | int) -> tuple[Published, Workflow]:
        published = self._directory.workflows.get(str(name))
        workflow = None if published is None else self._directory.definition_at_hand(published.digest)
        if published is None or workflow is None:
            message = f"workflow {name!r} is not there any more"
            raise Unprocessable(message)
        return published, workflow


def _payment(app: LiveApp | None, asker: Asker, cost: int) -> Payment | None:
    """Who pays: the app that received the event; for what a token or a hook had started, the token that asks."""
    if app is not None:
        return None if app.app.credits is None else Payment(app.payer, app.app.credits, cost)
    token = asker.token
    return None if token is None or token.credits is None else Payment(token.payer, token.credits, cost)


def _describe(first: str, stored: Stored, starts: list[replays.StartDocument], start: Start) -> ReplayDocument:
    known = stored.outcome == "known"
    reason = None
    if stored.skipped:
        rivals = ", ".join(str(run_id) for _, run_id, _ in stored.skipped)
        reason = f"run {rivals} of this workflow and key has not ended"
    return ReplayDocument(
        event_id=first,
        status="known" if known else "started" if stored.run_ids else "skipped",
        replay_event_id=stored.event_id,
        run_ids=list(dict.fromkeys(stored.run_ids)),
        starts=starts,
        triggers=start.verdicts,
        reason=reason,
    )
