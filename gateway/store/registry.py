"""A copy of all apps and workflows in memory, so that judging a request needs no look at the store.

It is fetched again when a change is announced, and every few seconds in case an announcement was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import structlog

from gateway.apps import App, LiveApp, read_verify
from gateway.errors import ConfigError, GatewayError, NotFound
from gateway.hooks import Hook
from gateway.secrets import Pair, SecretRef, unseal
from gateway.store.catalog import Catalog, Contents
from gateway.store.connection import MISTAKES, Redis
from gateway.tasks import end_tasks
from gateway.tokens import Token
from gateway.workflows import Published, Workflow, prepare

POLL = 2.0
MOST_DEFINITIONS = 1000
log = structlog.get_logger()


class Registry:
    """Apps by id and token, workflows by id and name, definitions by digest, hooks by the hash of their token."""

    def __init__(self, redis: Redis, catalog: Catalog, channel: str, master_keys: tuple[bytes, ...]) -> None:
        self._redis = redis
        self._catalog = catalog
        self._channel = channel
        self._master_keys = master_keys
        self._current: dict[str, Workflow] = {}
        self._definitions: dict[str, Workflow] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()
        self._pairs: dict[str, Pair] = {}
        self.revision = -1
        self.apps: dict[str, LiveApp] = {}
        self.workflows: dict[str, Published] = {}
        self.tokens: dict[str, Token] = {}
        self.hooks: dict[str, Hook] = {}

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
        self._pairs = {
            f"app:{app.name}": contents.pairs[app.id] for app in contents.apps.values() if app.id in contents.pairs
        }
        for app in contents.apps.values():
            try:
                live = LiveApp(app, self._resolve)
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
        self.revision = contents.revision

    def _resolve(self, reference: SecretRef, owner: str) -> str | None:
        if reference.paired:
            pair = self._pairs.get(owner)
            reference = SecretRef(sealed=None if pair is None else pair.sealed)
        return resolve_secret(reference, owner, self._master_keys)


def resolve_secret(reference: SecretRef, owner: str, master_keys: tuple[bytes, ...]) -> str | None:
    """The value of a secret, from where it says it is; None when it isn't there or can't be opened."""
    try:
        return _open_secret(reference, owner, master_keys)
    except (OSError, UnicodeDecodeError, GatewayError) as error:
        log.warning("a secret can't be read", owner=owner, secret=reference.label, reason=type(error).__name__)
        return None


def secrets_of(app: App, master_keys: tuple[bytes, ...]) -> list[str]:
    """All of an app's secrets that can be opened here, so that none of them is shown."""
    references = [*app.credentials.values(), app.verify_token, None if app.callback is None else app.callback.secret]
    with contextlib.suppress(ConfigError):
        references += read_verify(app)[1]
    references.append(None if app.reconcile is None else app.reconcile.token)
    found = []
    for reference in references:
        with contextlib.suppress(OSError, UnicodeDecodeError, GatewayError):
            value = None if reference is None else _open_secret(reference, f"app:{app.name}", master_keys)
            found += [value] if value else []
    return found


def _open_secret(reference: SecretRef, owner: str, master_keys: tuple[bytes, ...]) -> str | None:
    if reference.env is not None:
        return os.environ.get(reference.env)
    if reference.file is not None:
        return Path(reference.file).read_text().strip()
    return None if reference.sealed is None else unseal(master_keys, owner, reference.sealed)
