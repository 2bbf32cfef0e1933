"""A copy of all apps and workflows in memory, so that judging a request needs no look at the store.

It is fetched again when a change is announced, and every few seconds in case an announcement was lost.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib

import structlog

from gateway.apps import LiveApp
from gateway.endpoints import LiveEndpoint
from gateway.errors import ConfigError, GatewayError, NotFound
from gateway.hooks import Hook
from gateway.masks import Mask
from gateway.store.catalog import Catalog, Contents
from gateway.store.connection import MISTAKES, Redis
from gateway.store.lookups import Lookup, step_secrets_of
from gateway.tasks import end_tasks
from gateway.tokens import Token
from gateway.workflows import Published, Workflow, prepare

POLL = 2.0
MOST_DEFINITIONS = 1000
log = structlog.get_logger()


class Registry:
    """Apps by id and token, workflows by id and name, definitions by digest, hooks by the hash of their token."""

    def __init__(
        self, redis: Redis, catalog: Catalog, channel: str, master_keys: tuple[bytes, ...], *more_secrets: str
    ) -> None:
        self._redis = redis
        self._catalog = catalog
        self._channel = channel
        self.lookup = Lookup(master_keys)
        self._more_secrets = [*(base64.b64encode(key).decode() for key in master_keys), *more_secrets]
        self._mask: Mask | None = None
        self._current: dict[str, Workflow] = {}
        self._definitions: dict[str, Workflow] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()
        self.revision = -1
        self.apps: dict[str, LiveApp] = {}
        self.workflows: dict[str, Published] = {}
        self.tokens: dict[str, Token] = {}
        self.hooks: dict[str, Hook] = {}
        self.endpoints: dict[str, LiveEndpoint] = {}
        """By id and by name; not the apps' own, which `apps` have."""
        self.wanted: frozenset[str] = frozenset()
        """The kinds of messages that any endpoint wants: what is in nobody's list costs nothing."""

    async def load(self) -> None:
        """Fetch everything that is published. Raises what the store raises."""
        # One after the other, or a slow one would bring back what was before.
        async with self._loading:
            contents = await self._catalog.read()
            current = {}
            for published in contents.workflows.values():
                try:
                    current[published.digest] = await self.definition(published.digest)
                except GatewayError as error:
                    log.error("workflow can't be used", workflow=published.name, reason=error.message)
            self._current = current
            self._take(contents)

    async def refresh(self) -> None:
        """Fetch everything again if anything was published since."""
        if await self._catalog.revision() != self.revision:
            await self.load()

    def app(self, name: str) -> LiveApp:
        """The app with this id or token. Raises NotFound."""
        found = self.apps.get(name)
        if found is None:
            message = "there is no app with this id or token"
            raise NotFound(message)
        return found

    async def definition(self, digest: str) -> Workflow:
        """A version of a workflow, ready to run. Raises NotFound, or ConfigError when it can't be used."""
        workflow = self._current.get(digest) or self._definitions.get(digest)
        if workflow is None:
            workflow = prepare(await self._catalog.document(digest))
            while len(self._definitions) >= MOST_DEFINITIONS:
                self._definitions.pop(next(iter(self._definitions)))
            self._definitions[digest] = workflow
            self._mask = None
        return workflow

    async def version(self, workflow: Published, number: int) -> Workflow:
        """A numbered version of a workflow. Raises NotFound."""
        return await self.definition(await self._catalog.version(workflow.name, number))

    async def number(self, workflow: str, digest: str) -> int | None:
        """The number of the version of a workflow that has this digest."""
        return await self._catalog.number(workflow, digest)

    def definition_at_hand(self, digest: str) -> Workflow | None:
        """A published version, without a look at the store."""
        return self._current.get(digest)

    def live_workflows(self) -> list[tuple[Published, Workflow]]:
        """All published workflows that can be used, with their definitions, by id."""
        published = sorted({each.id: each for each in self.workflows.values()}.values(), key=lambda each: each.id)
        return [(each, self._current[each.digest]) for each in published if each.digest in self._current]

    def hide(self, text: str) -> str:
        """The text without any secret that is known here: of apps and steps, kept under a name, of the settings."""
        if self._mask is None:
            live = {app.id: app for app in self.apps.values()}.values()
            own = [secret for app in live for secret in app.known_secrets]
            own += [secret for endpoint in self.endpoints.values() for secret in endpoint.known_secrets]
            for workflow in (*self._current.values(), *self._definitions.values()):
                own += step_secrets_of(workflow.definition, self.lookup)
            self._mask = Mask([*own, *self.lookup.kept_values(), *self._more_secrets])
        return self._mask.text(text)

    def start_watching(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def stop_watching(self) -> None:
        await end_tasks(self._watcher)

    async def _watch(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as announcements:
                    await announcements.subscribe(self._channel)
                    await self._follow(announcements)
            except MISTAKES:
                await asyncio.sleep(POLL)  # the copy at hand stays in use meanwhile
            except Exception:
                log.exception("what is published can't be read; the copy at hand stays in use")
                await asyncio.sleep(POLL)

    async def _follow(self, announcements: object) -> None:
        while True:
            with contextlib.suppress(GatewayError):
                await self.refresh()
            await announcements.get_message(ignore_subscribe_messages=True, timeout=POLL)  # type: ignore[attr-defined]

    def _take(self, contents: Contents) -> None:
        apps: dict[str, LiveApp] = {}
        self.lookup.take(contents)
        self._mask = None
        for app in contents.apps.values():
            try:
                live = LiveApp(app, self.lookup)
            except ConfigError as error:
                log.error("app can't be used", app=app.name, reason=error.message)
                continue
            if live.problem is not None:
                log.warning("app refuses every request", app=app.name, reason=live.problem)
            if not live.only_by_token:
                apps[str(app.id)] = live
            if app.token:
                apps[app.token] = live
        self.apps = apps
        self.workflows = {str(each.id): each for each in contents.workflows.values()} | contents.workflows
        self.tokens = contents.tokens
        self.hooks = {hook.hash: hook for hook in contents.hooks.values()}
        self.endpoints = self._live_endpoints(contents)
        own = [app.endpoint for app in apps.values() if app.endpoint is not None]
        self.wanted = frozenset().union(*(each.events for each in (*self.endpoints.values(), *own)))
        self.revision = contents.revision

    def _live_endpoints(self, contents: Contents) -> dict[str, LiveEndpoint]:
        found: dict[str, LiveEndpoint] = {}
        for settings in contents.endpoints.values():
            try:
                live = LiveEndpoint(settings, self.lookup)
            except ConfigError as error:
                log.error("endpoint can't be used", endpoint=settings.name, reason=error.message)
                continue
            if live.problem is not None:
                log.warning("nothing can be sent to an endpoint", endpoint=settings.name, reason=live.problem)
            elif live.flaw is not None:
                log.warning("an endpoint is not signed for with all its keys", endpoint=settings.name, reason=live.flaw)
            found[settings.id] = found[settings.name] = live
        return found
