"""What the API's doors share: start a run, read it, list, wait for it, cancel it. The dialects only translate."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from gateway.approvals import LinkDocument, Links
from gateway.apps import App, LiveApp
from gateway.credits import Payment, cost_of
from gateway.decisions import NO_COSTS
from gateway.documents import kinds_of
from gateway.endpoints import LiveEndpoint, names_in
from gateway.errors import Conflict, GatewayError, NotFound, Unprocessable
from gateway.events import Acceptable, Decision, Head, caller_key, hash_body, new_event_id, session_of
from gateway.flow import flow_values
from gateway.hooks import Hook, open_hook
from gateway.jobs import effects_of
from gateway.outbox import Messages, Outbox
from gateway.plans import relatives
from gateway.publishing import Publishing
from gateway.runs import MOVES, TERMINAL, Problem, Run, RunRequest, State
from gateway.service import Storage, insist_on_stored
from gateway.steering import Steering, repeat, repetition, rerun_values
from gateway.store.catalog import Catalog
from gateway.store.connection import MISTAKES
from gateway.store.reading import Page, Reader, RunFilter, StoredEvent
from gateway.store.records import Records, Write, final_fields
from gateway.store.waiting import Hearing
from gateway.tokens import Subject, Token
from gateway.triggers import check_callback_url, check_input
from gateway.workflows import Published, Workflow

LONGEST_WAIT = 300.0
LOOK_AGAIN = 5.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A run that a caller asks for. `version` is a number of the workflow's versions; none means the published one."""

    workflow: str | int
    version: int | None = None
    input: Any = None
    task: str | None = None
    metadata: dict[str, Any] | None = None
    conversation_id: str | None = None
    hook: str | None = None
    app: str | None = None
    """The app, by id or name, in whose name the callback goes to `callback_url`."""
    callback_url: str | None = None
    traceparent: str | None = None


class Started(msgspec.Struct, frozen=True):
    """A run that was started, now or when the same key came before."""

    run_id: int
    event_id: str
    workflow_id: int
    known: bool
    skipped: bool = False
    """Nothing was started: this run was in the way."""


class Directory(Protocol):
    """Apps, workflows and hooks at hand; hooks by the hash of their token."""

    apps: dict[str, LiveApp]
    workflows: dict[str, Published]
    hooks: dict[str, Hook]
    endpoints: dict[str, LiveEndpoint]

    async def load(self) -> None: ...

    async def version(self, workflow: Published, number: int) -> Workflow: ...

    async def definition(self, digest: str) -> Workflow: ...

    async def number(self, workflow: str, digest: str) -> int | None: ...


class Waiting(Protocol):
    """Who is told when a run moves. Once it has `ended` nobody is."""

    ended: bool

    def watch(self, run_id: int) -> AbstractAsyncContextManager[asyncio.Event]: ...

    def check_room(self) -> None: ...

    def follow(self, run_id: int) -> AbstractAsyncContextManager[Hearing]: ...


class Control:
    """The work behind every API door. What a caller may do was checked before."""

    def __init__(
        self,
        directory: Directory,
        storage: Storage,
        reader: Reader,
        records: Records,
        waiting: Waiting,
        catalog: Catalog,
        *,
        trusted: Collection[str] = (),
        costs: Mapping[str, int] = NO_COSTS,
        links: Links | None = None,
        outbox: Outbox | None = None,
        clock: Callable[[], float] = time.time,
        noise: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._directory = directory
        self._storage = storage
        self._records = records
        self.reader = reader
        self.steering = Steering(reader, records, catalog.audit)
        self.catalog = catalog
        self.publishing = Publishing(catalog, trusted=trusted, told=directory.load, clock=clock)
        self._waiting = waiting
        self._costs = costs
        self._links = links or Links()
        self._outbox = outbox or Outbox()
        self._clock = clock
        self._noise = noise

    def workflow(self, name: str | int) -> Published:
        """The published workflow with this id or name. Raises NotFound."""
        found = self._directory.workflows.get(str(name))
        if found is None:
            message = f"there is no workflow {repr(name)[:80]}"
            raise NotFound(message)
        return found

    def workflows(self) -> list[Published]:
        """All published workflows, by id."""
        return sorted({each.id: each for each in self._directory.workflows.values()}.values(), key=lambda each: each.id)

    def hook(self, token: str) -> Hook:
        """The hook with this token. Raises NotFound, or Conflict when it is disabled."""
        return open_hook(self._directory.hooks, token)

    async def definition(self, published: Published, version: int | None = None) -> Workflow:
        """A version of a workflow, ready to run. Raises NotFound."""
        if version is None or version == published.version:
            return await self._directory.definition(published.digest)
        return await self._directory.version(published, version)

    async def definition_of(self, run: Run) -> Workflow:
        """The very version that a run runs. Raises NotFound."""
        return await self._directory.definition(run.request.digest)

    async def version_of(self, run: Run) -> int | None:
        """The number of the version that a run runs."""
        return await self._directory.number(run.request.workflow, run.request.digest)

    def new_conversation(self) -> str:
        """An id for a conversation that begins."""
        return f"conv_{self._noise(12).hex()}"

    async def start(self, order: Order, token: Token | None, body: bytes, key: str | None = None) -> Started:
        """Store a run, durably. Raises NotFound, Unprocessable, Conflict or Unavailable; then nothing was started.

        The same `key` from the same caller gives the same run again.
        """
        published = self.workflow(order.workflow)
        workflow = await self.definition(published, order.version)
        check_input(workflow, order.input)
        self._check_callback_url(order)
        event = self._event(order, published, workflow, token, body, key)
        stored = await self._storage.store(event)
        insist_on_stored(stored)
        known = stored.outcome == "known"
        if not stored.skipped:
            return Started(stored.run_ids[0], stored.event_id, published.id, known)
        ((_, rival, _),) = stored.skipped
        await self._insist_on_reading(rival, token)
        return Started(rival, stored.event_id, published.id, known, skipped=True)

    async def _insist_on_reading(self, run_id: int, token: Token | None) -> None:
        """Raise Conflict when a run that was in the way is none that the caller may see."""
        if token is None:
            return  # a hook is told an id, and no more
        run = await self.reader.run(run_id)
        if not token.may("runs:read", run_subject(run.request, self._directory.apps)):
            message = "skipped: a run of this workflow and key has not ended"
            raise Conflict(message)

    async def rerun(self, run: Run, from_step: str | None, token: Token | None, key: str | None = None) -> Started:
        """Store a run that repeats another, as the same version with the same input: wholly, or from one step on.

        What ended well and comes not after that step is taken over. Raises NotFound, Unprocessable, Conflict or
        Unavailable.
        """
        workflow = await self.definition_of(run)
        origin = await self._origin(run)
        event = repetition(run, repeat(run, workflow, from_step), origin, self._new_event_id())
        owner = f"token {token.id if token else None}"
        await self.catalog.audit.note("run.rerun", str(run.id), from_step=from_step)
        stored = await self._storage.store(
            msgspec.structs.replace(
                event,
                keys=[caller_key(owner, key)] if key else [],
                body_hash=hash_body(b"rerun %d %s" % (run.id, (from_step or "").encode())),
                flows=[]
                if workflow.flow is None
                else [workflow.flow.decide_inside(rerun_values(run, origin), alone=True)],
                payment=self._payment(token, workflow),
            )
        )
        insist_on_stored(stored)
        for _, rival, _ in stored.skipped:
            message = f"skipped: run {rival} of this workflow and key has not ended"
            raise Conflict(message)
        return Started(stored.run_ids[0], stored.event_id, run.request.workflow_id, stored.outcome == "known")

    async def _origin(self, run: Run) -> StoredEvent | None:
        try:
            return None if run.request.event_id is None else await self.reader.event(run.request.event_id)
        except NotFound:
            return None  # its time was over before that of its run

    async def run(self, run_id: int) -> Run:
        """One run. Raises NotFound."""
        return await self.reader.run(run_id)

    async def kinds(self, run: Run) -> dict[str, str]:
        """The kinds of all steps of a run's workflow; none when its definition can't be used any more."""
        try:
            return kinds_of((await self._directory.definition(run.request.digest)).definition)
        except GatewayError:
            return {}

    async def page(
        self,
        wanted: RunFilter,
        limit: int,
        before: int | None = None,
        offset: int = 0,
        allowed: Callable[[Run], bool] | None = None,
    ) -> Page:
        """The newest runs that fit and are `allowed`, below the cursor `before`."""
        return await self.reader.page(wanted, limit, before, offset, allowed)

    async def conversation(self, conversation_id: str) -> list[Run]:
        """The runs of a conversation, oldest first. Raises NotFound when there are none."""
        return await self.reader.conversation(conversation_id)

    async def wait(self, run_id: int, seconds: float) -> Run:
        """The run when it has ended, or as it is after `seconds` (at most 300). Holds no worker and no connection."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + min(seconds, LONGEST_WAIT)
        run = await self.reader.run(run_id)
        if run.state in TERMINAL or seconds <= 0:
            return run
        async with self.watch(run_id) as moved:
            while run.state not in TERMINAL and not self.stopping and (left := deadline - clock()) > 0:
                await until_moved(moved, min(left, LOOK_AGAIN))
                with contextlib.suppress(*MISTAKES):
                    run = await self.reader.run(run_id)
        return run

    def watch(self, run_id: int) -> AbstractAsyncContextManager[asyncio.Event]:
        """An event that is set when the run may have moved. Raises TooManyWaiters."""
        return self._waiting.watch(run_id)

    def follow(self, run_id: int) -> AbstractAsyncContextManager[Hearing]:
        """As `watch`, and what the run's steps are saying besides. Raises TooManyWaiters."""
        return self._waiting.follow(run_id)

    @property
    def stopping(self) -> bool:
        """Whether this process stops, so that nobody should wait any longer."""
        return self._waiting.ended

    def check_room(self) -> None:
        """Raise TooManyWaiters where nobody more may wait."""
        self._waiting.check_room()

    async def make_link(self, run_id: int, step_id: str, hours: float) -> LinkDocument:
        """A link that decides about a step which asks for approval. Raises what `question` and `Links.make` raise."""
        await self.steering.question(run_id, step_id)
        return self._links.make(run_id, step_id, hours, self._clock())

    async def cancel(self, run_id: int, reason: str) -> Run:
        """End a run now, whoever works on it. Raises NotFound, or Conflict when it has ended already."""
        run = await self.reader.run(run_id)
        if run.state in TERMINAL:
            raise _ended_already(run_id, run.state)
        problem = Problem(type="Cancelled", message=reason)
        now = int(self._clock() * 1000)
        ended = msgspec.structs.replace(run, state=State.CANCELLED, error=problem, ended_at=now)
        told = await self._tell(ended, "run.cancelled", now)
        write = Write(
            id=str(run_id),
            fence=None,
            # What it has cost the worker knows, and may have written meanwhile.
            fields={name: value for name, value in final_fields(ended).items() if name != "credits"},
            move=MOVES["cancel"],
            counts=(f"runs:{run.request.workflow}:{State.CANCELLED}",),
            callbacks=told.outgoing,
            pokes=relatives(run),
        )
        await self.catalog.audit.note("run.cancel", str(run_id))
        answer = await self._records.write(write)
        if answer != "ok":
            raise _ended_already(run_id, answer)
        return ended

    async def _tell(self, run: Run, kind: str, at: int) -> Messages:
        try:
            named = names_in((await self.definition_of(run)).definition.callback)
        except GatewayError:
            # A version that can't be used any more: those that the workflow tells now.
            published = self._directory.workflows.get(run.request.workflow)
            named = [] if published is None else list(published.endpoints)
        if any(name not in self._directory.endpoints for name in named):
            await self._directory.load()
        return self._outbox.tell(run, kind, at, named, self._directory.apps, self._directory.endpoints)

    @property
    def live_apps(self) -> dict[str, LiveApp]:
        """The apps at hand, each by its id and by its token."""
        return self._directory.apps

    def apps(self) -> list[App]:
        """All apps, by id."""
        return sorted({each.id: each.app for each in self._directory.apps.values()}.values(), key=lambda app: app.id)

    def app(self, name: str) -> App:
        """The app with this id or name. Raises NotFound."""
        found = [app for app in self.apps() if name in (str(app.id), app.name)]
        if not found:
            message = f"there is no app {name!r}"
            raise NotFound(message)
        return found[0]

    def _check_callback_url(self, order: Order) -> None:
        """Raise NotFound for an unknown app, Unprocessable for a URL that it does not allow, or that no app allows."""
        if order.callback_url is None:
            return
        if order.app is None:
            message = "callback_url: no app says where callbacks may go, and signs them"
            raise Unprocessable(message, path="callback_url")
        check_callback_url(self._directory.apps[str(self.app(order.app).id)], order.callback_url)

    def _event(
        self, order: Order, published: Published, workflow: Workflow, token: Token | None, body: bytes, key: str | None
    ) -> Acceptable:
        event_id = self._new_event_id()
        owner = f"token {token.id}" if token else f"hook {order.hook}"
        request = RunRequest(
            workflow_id=published.id,
            workflow=published.name,
            digest=workflow.digest,
            session_id=session_of(event_id),
            token_id=token.id if token else None,
            event_id=event_id,
            conversation_id=order.conversation_id,
            task=order.task,
            input=order.input,
            metadata=order.metadata,
            effects=effects_of(event_id, ""),
            app_id=None if order.callback_url is None or order.app is None else self.app(order.app).id,
            callback_url=order.callback_url,
            traceparent=order.traceparent,
        )
        decision = Decision(outcome="accepted", scheme="token" if token else "hook")
        head = Head(token_id=token.id if token else None, hook_id=order.hook, decision=decision)
        keys = [caller_key(owner, key)] if key else []
        # Some doors name the workflow in the path: with another workflow, the same body is another request.
        body_hash = hash_body(b"%d %s" % (published.id, body))
        return Acceptable(
            id=event_id,
            body=body,
            body_hash=body_hash,
            keys=keys,
            head=head,
            requests=[request],
            flows=[] if workflow.flow is None else [workflow.flow.decide(_flow_values(order))],
            payment=self._payment(token, workflow),
        )

    def _new_event_id(self) -> str:
        return new_event_id(self._clock(), self._noise(8))

    def _payment(self, token: Token | None, workflow: Workflow) -> Payment | None:
        if token is None or token.credits is None:
            return None
        return Payment(token.payer, token.credits, cost_of(workflow.kinds, self._costs))


def run_subject(request: RunRequest, apps: Mapping[str, LiveApp]) -> Subject:
    """What a token must be good for to touch this run: its workflow, or the app that started it."""
    workflow = frozenset({str(request.workflow_id), request.workflow})
    return Subject(workflow=workflow, app=app_names(request.app_id, apps))


def app_names(app_id: int | None, apps: Mapping[str, LiveApp]) -> frozenset[str]:
    """What a token may call an app by: its id, and its name while there is such an app."""
    if app_id is None:
        return frozenset()
    live = apps.get(str(app_id))
    return frozenset({str(app_id)} if live is None else {str(app_id), live.app.name})


def _flow_values(order: Order) -> dict[str, Any]:
    return flow_values(order.input, order.task, order.metadata, {"id": None, "name": None})


async def until_moved(moved: asyncio.Event, seconds: float) -> None:
    """Wait until the run has moved, or for so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await moved.wait()
    moved.clear()


def _ended_already(run_id: int, state: str) -> Conflict:
    return Conflict(f"run {run_id} has ended already, as {state}")
