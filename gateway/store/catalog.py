"""Apps, workflows, tokens and hooks in the store: publishing them, in one transaction, with notice to whoever holds a copy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import msgspec
from redis.exceptions import WatchError

from gateway.apps import App, rules_of
from gateway.audit import acting
from gateway.chains import listened_by
from gateway.configuration import Configuration
from gateway.endpoints import EndpointSettings, names_in
from gateway.errors import Conflict, NotFound
from gateway.hooks import Hook, find_hook
from gateway.rules import write_rules
from gateway.secrets import Pair, StoredSecret
from gateway.store.addresses import (
    apply_endpoints,
    find_endpoint,
    insist_on_endpoints,
    number_endpoint,
    refuse_managed_endpoint,
    refuse_named,
)
from gateway.store.auditing import Audit
from gateway.store.changes import Changes, audited, note
from gateway.store.connection import Redis
from gateway.store.keys import Keys
from gateway.store.numbering import (
    FILE,
    complete_app,
    find_gone,
    next_id,
    number_all,
    number_for,
    refuse_label,
    refuse_managed,
)
from gateway.tokens import Token
from gateway.versions import Draft, Publication, Version, read_version, write_version
from gateway.workflows import Published

Pipeline: TypeAlias = Any
Held: TypeAlias = App | Hook | EndpointSettings


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """All that is published at one revision. `pairs` are found by their app's id."""

    revision: int
    last_workflow: int = 0
    apps: dict[int, App]
    workflows: dict[str, Published]
    tokens: dict[str, Token]
    hooks: dict[str, Hook]
    pairs: dict[int, Pair] = {}
    secrets: dict[str, StoredSecret] = {}
    endpoints: dict[str, EndpointSettings] = {}
    """By id."""

    @property
    def namers(self) -> list[App | Published]:
        """Whatever may name endpoints."""
        return [*self.apps.values(), *self.workflows.values()]


class Catalog:
    """The published apps, workflows, tokens and hooks of one shard."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self.audit = Audit(redis, keys)

    @property
    def keys(self) -> Keys:
        return self._keys

    async def read(self) -> Contents:
        """Everything published, read in one go."""
        async with self._redis.pipeline(transaction=True) as pipe:
            self._ask(pipe)
            return _read_contents(await pipe.execute())

    async def revision(self) -> int:
        return int(await self._redis.get(self._keys.named("revision")) or 0)

    async def document(self, digest: str) -> Any:
        """The definition with this digest, as plain data. Raises NotFound."""
        raw = await self._redis.get(self._keys.definition(digest))
        if raw is None:
            message = f"there is no definition {digest}"
            raise NotFound(message)
        return msgspec.json.decode(raw)

    async def version(self, name: str, number: int) -> str:
        """The digest of a numbered version of a workflow. Raises NotFound."""
        kept = await self._redis.hget(self._keys.versions(name), str(number))
        if kept is None:
            message = f"workflow {name!r} has no version {number}"
            raise NotFound(message)
        return read_version(number, kept).digest

    async def versions(self, name: str) -> list[Version]:
        """The versions of a workflow, the oldest first."""
        found = await self._redis.hgetall(self._keys.versions(name))
        versions = [read_version(int(number), kept) for number, kept in found.items()]
        return sorted(versions, key=lambda version: version.number)

    async def number(self, name: str, digest: str) -> int | None:
        """The number of the version of a workflow that has this digest, the newest where there are several."""
        return max((each.number for each in await self.versions(name) if each.digest == digest), default=None)

    async def apply(self, configuration: Configuration, at: int = 0) -> Changes:
        """Make the store say what the file says, at this time in milliseconds.

        What the file doesn't manage stays; a name clash is a Conflict.
        """
        return await self.change(lambda pipe, now: self._apply(pipe, now, configuration, at))

    async def preview(self, configuration: Configuration) -> Changes:
        """What `apply` would change now. Raises Conflict where that would."""
        now = await self.read()
        async with self._redis.pipeline(transaction=True) as pipe:
            # Gathered as ever, and never sent.
            changes = await self._apply(pipe, now, configuration, 0)
            await pipe.reset()
        return changes

    async def _apply(self, pipe: Pipeline, now: Contents, configuration: Configuration, at: int) -> Changes:
        workflows = await self._apply_workflows(pipe, now, configuration, at)
        apps = self._apply_apps(pipe, now, configuration.apps)
        key = self._keys.named("endpoints")
        return workflows + apps + apply_endpoints(pipe, key, now.endpoints, configuration.endpoints, now.namers)

    async def publish(self, drafts: Sequence[Draft], managed_by: str = "api", at: int = 0) -> list[Publication]:
        """Publish workflows, all or none: each a new version where it differs from the last; `at` is in milliseconds.

        Raises Conflict when gateway.yaml manages a name, an id is another's, or a label names another version.
        """
        made: list[Publication] = []

        async def write(pipe: Pipeline, now: Contents) -> Changes:
            made.clear()
            changes, current = Changes([], [], []), dict(now.workflows)
            for draft in drafts:
                name = draft.workflow.definition.name
                insist_on_endpoints(names_in(draft.workflow.definition.callback), now.endpoints)
                before = current.get(name)
                refuse_managed(before)
                number = number_for(draft, before, current.values(), now.last_workflow)
                current[name] = await self._publication(draft, number, before, managed_by, at)
                made.append(Publication(current[name], before))
                if before != current[name]:
                    note(changes, f"workflow {name}", before, current[name])
                    self._put_workflow(pipe, current[name], draft.document)
            return changes

        await self.change(write)
        return made

    async def remove_workflow(self, name: str) -> Published:
        """Take a workflow away; its versions stay, for its runs. Raises NotFound, or Conflict when a file manages it."""
        removed: list[Published] = []

        async def write(pipe: Pipeline, now: Contents) -> Changes:
            if name not in now.workflows:
                message = f"there is no workflow {name!r}"
                raise NotFound(message)
            refuse_managed(now.workflows[name])
            removed[:] = [now.workflows[name]]
            pipe.hdel(self._keys.named("workflows"), name)
            # Its id names its runs, and narrows tokens: no other workflow may get it.
            pipe.set(self._keys.named("workflows:last"), max(now.last_workflow, removed[0].id))
            return Changes([], [], [f"workflow {name}"])

        await self.change(write)
        return removed[0]

    async def add_app(self, app: App) -> App:
        """Publish one app; without an id it gets the next one. Raises Conflict when its name or id is taken."""
        added: list[App] = []

        async def write(pipe: Pipeline, now: Contents) -> Changes:
            for other in now.apps.values():
                if other.name == app.name or other.id == app.id:
                    whose = ", which gateway.yaml manages" if other.managed_by == FILE else ""
                    message = f"there is an app {other.name!r} with id {other.id} already{whose}"
                    raise Conflict(message)
            added[:] = [complete_app(app, app.id or next_id(now.apps), None)]
            self._put_app(pipe, added[0])
            return Changes([f"app {app.name}"], [], [])

        await self.change(write)
        return added[0]

    async def change_app(self, wanted: str, change: Callable[[App], App | None]) -> App:
        """Change one app, found by id or name; what gives None removes it. Gives the app as it is, or was.

        Raises NotFound, or Conflict when a file manages it.
        """
        changed: list[App] = []

        async def write(pipe: Pipeline, now: Contents) -> Changes:
            app = _find_app(wanted, now.apps)
            after = change(app)
            changed[:] = [after or app]
            return self._replace(pipe, "app", app.name, str(app.id), app, after)

        await self.change(write)
        return changed[0]

    async def pair_app(self, app_id: int, pair: Pair | None) -> Pair | None:
        """Keep what an app's sender hands over, once: whatever came first stays, and is given. None forgets it."""
        kept: list[Pair | None] = []

        async def write(pipe: Pipeline, now: Contents) -> Changes:
            before, key = now.pairs.get(app_id), self._keys.named("pairs")
            kept[:] = [pair if pair is None or before is None else before]
            if app_id not in now.apps or kept[0] == before:
                return Changes([], [], [])
            if pair is None:
                pipe.hdel(key, str(app_id))
            else:
                pipe.hset(key, str(app_id), msgspec.json.encode(pair))
            line = f"app {now.apps[app_id].name}"
            return Changes([], [line], [], {line: ["secret"]})

        await self.change(write)
        return kept[0]

    async def add_endpoint(self, endpoint: EndpointSettings) -> EndpointSettings:
        """Publish one endpoint, with a new id. Raises Conflict when its name is taken."""
        added: list[EndpointSettings] = []

        async def write(pipe: Pipeline, now: Contents) -> Changes:
            added[:] = [number_endpoint(endpoint, now.endpoints)]
            return self._replace(pipe, "endpoint", endpoint.name, added[0].id, None, added[0])

        await self.change(write)
        return added[0]

    async def change_endpoint(
        self, wanted: str, change: Callable[[EndpointSettings], EndpointSettings | None]
    ) -> EndpointSettings:
        """Change one endpoint, found by id or name; what gives None removes it. Gives the endpoint as it is, or was.

        Raises NotFound, or Conflict when a file manages it, or when it is to go and an app or workflow names it.
        """
        changed: list[EndpointSettings] = []

        async def write(pipe: Pipeline, now: Contents) -> Changes:
            endpoint = find_endpoint(wanted, now.endpoints)
            refuse_managed_endpoint(endpoint)
            after = change(endpoint)
            if after is None:
                refuse_named(endpoint, now.namers)
            changed[:] = [after or endpoint]
            return self._replace(pipe, "endpoint", endpoint.name, endpoint.id, endpoint, after)

        await self.change(write)
        return changed[0]

    async def add_hook(self, hook: Hook) -> None:
        """Publish a hook. Raises NotFound when its workflow is not there."""

        async def write(pipe: Pipeline, now: Contents) -> Changes:
            if hook.workflow not in now.workflows:
                message = f"there is no workflow {hook.workflow!r}"
                raise NotFound(message)
            return self._replace(pipe, "hook", hook.id, hook.id, None, hook)

        await self.change(write)

    async def change_hook(self, wanted: str, change: Callable[[Hook], Hook | None]) -> Hook:
        """Change one hook, found by id or name; what gives None removes it. Gives the hook as it is, or was.

        Raises NotFound, or Conflict when several have this name.
        """
        changed: list[Hook] = []

        async def write(pipe: Pipeline, now: Contents) -> Changes:
            hook = find_hook(now.hooks, wanted)
            after = change(hook)
            changed[:] = [after or hook]
            return self._replace(pipe, "hook", hook.id, hook.id, hook, after)

        await self.change(write)
        return changed[0]

    async def put_token(self, token: Token) -> None:
        async def write(pipe: Pipeline, now: Contents) -> Changes:
            changes = Changes([], [], [])
            note(changes, f"token {token.id}", now.tokens.get(token.id), token)
            pipe.hset(self._keys.named("tokens"), token.id, msgspec.json.encode(token))
            return changes

        await self.change(write)

    async def change(self, write: Callable[[Pipeline, Contents], Awaitable[Changes]]) -> Changes:
        """Write in one transaction what follows from what is published, looking again where somebody was faster."""
        async with self._redis.pipeline(transaction=True) as pipe:
            while True:
                try:
                    return await self._try_change(pipe, write)
                except WatchError:
                    continue  # somebody else published meanwhile: look again

    async def _try_change(self, pipe: Pipeline, write: Callable[[Pipeline, Contents], Awaitable[Changes]]) -> Changes:
        await pipe.watch(self._keys.named("revision"))
        last, at = await self.audit.watch(pipe)
        now = await self.read()
        pipe.multi()
        changes = await write(pipe, now)
        if changes:
            # In the same transaction: no change without its entry, and no entry without its change.
            self.audit.add(pipe, [*audited(changes), *changes.entries], acting.get(), at, last)
            pipe.incr(self._keys.named("revision"))
            pipe.publish(self._keys.named("changed"), now.revision + 1)
            await pipe.execute()
        await pipe.reset()
        return changes

    def _replace(
        self, pipe: Pipeline, kind: str, name: str, key: str, before: Held | None, after: Held | None
    ) -> Changes:
        changes = Changes([], [], [])
        if after is None:
            pipe.hdel(self._keys.named(f"{kind}s"), key)
            if kind == "app":
                pipe.hdel(self._keys.named("pairs"), key)
            changes.removed.append(f"{kind} {name}")
            return changes
        note(changes, f"{kind} {name}", before, after)
        if isinstance(after, App):
            self._put_app(pipe, after)
        else:
            pipe.hset(self._keys.named(f"{kind}s"), key, msgspec.json.encode(after))
        return changes

    def _ask(self, pipe: Pipeline) -> None:
        pipe.get(self._keys.named("revision"))
        pipe.get(self._keys.named("workflows:last"))
        for name in ("apps", "workflows", "tokens", "hooks", "pairs", "secrets", "endpoints"):
            pipe.hgetall(self._keys.named(name))

    def _apply_apps(self, pipe: Pipeline, now: Contents, apps: list[App]) -> Changes:
        before = {app.name: app for app in now.apps.values()}
        numbers = number_all("app", {app.name: app.id for app in apps}, now.apps.values())
        changes = Changes([], [], [f"app {name}" for name in find_gone(now.apps.values(), numbers)])
        left = {app.id for app in now.apps.values() if app.managed_by == FILE} - set(numbers.values())
        for number in sorted(left):
            pipe.hdel(self._keys.named("apps"), str(number))
            pipe.hdel(self._keys.named("pairs"), str(number))
        for app in apps:
            complete = complete_app(app, numbers[app.name], before.get(app.name))
            note(changes, f"app {app.name}", before.get(app.name), complete)
            self._put_app(pipe, complete)
        return changes

    async def _apply_workflows(self, pipe: Pipeline, now: Contents, configuration: Configuration, at: int) -> Changes:
        wanted = {workflow.definition.name: workflow.definition.id for workflow in configuration.workflows}
        numbers = number_all("workflow", wanted, now.workflows.values(), now.last_workflow)
        gone = find_gone(now.workflows.values(), numbers)
        changes = Changes([], [], [f"workflow {name}" for name in gone])
        for name in gone:
            pipe.hdel(self._keys.named("workflows"), name)
        for workflow, document in zip(configuration.workflows, configuration.documents, strict=True):
            before = now.workflows.get(workflow.definition.name)
            draft = Draft(workflow=workflow, document=document)
            published = await self._publication(draft, numbers[workflow.definition.name], before, at=at)
            note(changes, f"workflow {published.name}", before, published)
            if published != before:
                self._put_workflow(pipe, published, document)
        return changes

    async def _publication(
        self, draft: Draft, number: int, before: Published | None, managed_by: str = FILE, at: int = 0
    ) -> Published:
        """What a draft is published as: the version before when it is the same text, else the next one."""
        definition, digest = draft.workflow.definition, draft.workflow.digest
        same = before is not None and (before.digest, before.id) == (digest, number)
        if before is not None and same and draft.label in (None, before.label):
            return before
        versions = await self.versions(definition.name)
        # The last one has this digest when only its label changes, or when it was removed and comes again.
        known = versions[-1] if versions and versions[-1].digest == digest else None
        version = known or Version(number=len(versions) + 1, digest=digest, published_at=at)
        refuse_label(draft.label, [each for each in versions if each is not known])
        return Published(
            id=number,
            name=definition.name,
            version=version.number,
            digest=digest,
            description=definition.description,
            input=definition.input,
            steps=len(definition.steps),
            managed_by=managed_by,
            published_at=version.published_at,
            label=draft.label or version.label,
            endpoints=tuple(names_in(definition.callback)),
        )

    def _put_app(self, pipe: Pipeline, app: App) -> None:
        pipe.hset(self._keys.named("apps"), str(app.id), msgspec.json.encode(app))
        pipe.hset(self._keys.named("rules"), *write_rules(rules_of(app)))

    def _put_workflow(self, pipe: Pipeline, published: Published, document: Any) -> None:
        version = Version(
            number=published.version,
            digest=published.digest,
            label=published.label,
            published_at=published.published_at,
        )
        pipe.hset(self._keys.named("workflows"), published.name, msgspec.json.encode(published))
        pipe.set(self._keys.definition(published.digest), msgspec.json.encode(document))
        # One field a version; the number of fields is the number of the newest.
        pipe.hset(self._keys.versions(published.name), str(version.number), write_version(version))
        if listened := listened_by(document):
            # Never taken out again: a name too many costs one look at the end of a run.
            pipe.sadd(self._keys.named("listened"), *listened)


def _read_contents(answers: list[Any]) -> Contents:
    revision, last_workflow, apps, workflows, tokens, hooks, pairs, secrets, endpoints = answers
    return Contents(
        revision=int(revision or 0),
        last_workflow=int(last_workflow or 0),
        apps={int(number): msgspec.json.decode(raw, type=App) for number, raw in apps.items()},
        workflows={name.decode(): msgspec.json.decode(raw, type=Published) for name, raw in workflows.items()},
        tokens={name.decode(): msgspec.json.decode(raw, type=Token) for name, raw in tokens.items()},
        hooks={name.decode(): msgspec.json.decode(raw, type=Hook) for name, raw in hooks.items()},
        pairs={int(number): msgspec.json.decode(raw, type=Pair) for number, raw in pairs.items()},
        secrets={name.decode(): msgspec.json.decode(raw, type=StoredSecret) for name, raw in secrets.items()},
        endpoints={name.decode(): msgspec.json.decode(raw, type=EndpointSettings) for name, raw in endpoints.items()},
    )


def _find_app(wanted: str, apps: dict[int, App]) -> App:
    app = next((each for each in apps.values() if wanted in (str(each.id), each.name)), None)
    if app is None:
        message = f"there is no app {wanted!r}; `gateway app list` shows those there are"
        raise NotFound(message)
    if app.managed_by == FILE:
        message = f"app {app.name!r} comes from gateway.yaml, which manages it: change it there"
        raise Conflict(message)
    return app
