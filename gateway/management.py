"""What commands and API share when they change apps, hooks and tokens: the decision, the store, and the word to others."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from gateway.apps import App, LiveApp, read_verify
from gateway.callbacks import Outgoing
from gateway.credits import Allowance
from gateway.egress import Examine, Finding, Policy
from gateway.endpoints import PING, EndpointSettings, LiveEndpoint
from gateway.enlisting import EndpointWish, Enlisted, enlist, revoke_endpoint, rotate_endpoint
from gateway.errors import Conflict, GatewayError, NotFound, Unavailable, Unprocessable
from gateway.hooks import Hook, find_hook, new_hook
from gateway.outbox import Outbox, read_app_id
from gateway.registrations import (
    OVERLAP,
    Noise,
    Registration,
    Wish,
    register,
    revoke_older,
    revoke_older_callback,
    rotate,
    rotate_callback,
)
from gateway.secrets import VERIFY_FIELD, Pair, StoredSecret, seal, unseal
from gateway.store.addresses import find_endpoint
from gateway.store.catalog import Catalog, Contents
from gateway.store.connection import MISTAKES
from gateway.store.posting import Posting
from gateway.store.vault import Vault
from gateway.tokens import Token, new_token


async def nobody() -> None:
    """For those who hold no copy of what is published."""


async def trust(_: str) -> Finding:
    """For those who look no names up: what is wrong with a URL's text is told all the same."""
    return Finding()


class Management:
    """Writes to what is published. What a file manages is a Conflict.

    `examine` looks at URLs that are configured. `refresh` brings the copy at hand up to date before the answer: this
    process need not wait for the word that the others get.
    """

    def __init__(
        self,
        catalog: Catalog,
        master_keys: Sequence[bytes],
        policy: Policy,
        *,
        examine: Examine = trust,
        posting: Posting | None = None,
        refresh: Callable[[], Awaitable[None]] = nobody,
        clock: Callable[[], float] = time.time,
        noise: Noise = os.urandom,
    ) -> None:
        self._catalog = catalog
        self._vault = Vault(catalog)
        self._master_keys = master_keys
        self._policy = policy
        self._examine = examine
        self._posting = posting
        self._refresh = refresh
        self._clock = clock
        self._noise = noise

    async def add_app(self, wish: Wish) -> Registration:
        """Register a sender. Raises Conflict when its name is taken, and what `register` raises."""
        made = register(wish, self._policy, self._master_keys, self._noise)
        if wish.callback_url:
            await self.check_destination("callback_url", wish.callback_url)
        app = await self._catalog.add_app(made.app)
        await self._catch_up()
        return msgspec.structs.replace(made, app=app)

    async def check_destination(self, field: str, url: str) -> None:
        """See that messages may be sent to a URL that somebody configures. Raises Unprocessable, which names the field.

        A name that can't be looked up now is let through: each attempt judges it again.
        """
        refusal = (await self._examine(url)).refusal
        if refusal:
            message = f"{field}: {refusal}"
            raise Unprocessable(message)

    async def rotate_secret(
        self, wanted: str, overlap: float = OVERLAP, *, force: bool = False, callback: bool = False
    ) -> Registration:
        """Give an app, by id or name, a new secret beside the one it has: that of its own callback with `callback`.

        Raises NotFound, and what `rotate` raises.
        """
        made: list[Registration] = []
        turn = rotate_callback if callback else rotate

        def change(app: App) -> App:
            # Again from the start where somebody else published meanwhile: the last one is what was written.
            keys, now = self._master_keys, self._clock()
            made.append(turn(app, keys, self._noise, now, overlap=overlap, force=force))
            return made[-1].app

        await self._catalog.change_app(wanted, change)
        await self._catch_up()
        return made[-1]

    async def revoke_app_secret(self, wanted: str, *, callback: bool = False) -> App:
        """End an app's older secret, or its callback's, before its time. Raises NotFound or Conflict."""
        revoke = revoke_older_callback if callback else revoke_older
        return await self._change_app(wanted, lambda app: revoke(app, self._clock()))

    async def disable_app(self, wanted: str, disabled: bool = True) -> App:
        """Answer 403 to whatever it sends, or let it send again. Raises NotFound or Conflict."""
        return await self._change_app(wanted, lambda app: msgspec.structs.replace(app, disabled=disabled))

    async def remove_app(self, wanted: str) -> App:
        """Forget an app; its runs stay. Raises NotFound or Conflict."""
        return await self._change_app(wanted, lambda _: None)

    async def pair_app(self, app: App, secret: str) -> bool:
        """Keep the secret that an app's sender hands over, sealed. False when another one came before.

        Raises Unavailable where it can't be kept.
        """
        owner = app.holder(VERIFY_FIELD)
        try:
            pair = Pair(seal(self._master_keys, owner, secret), int(self._clock() * 1000))
            kept = await self._catalog.pair_app(app.id, pair)
            known = kept is not None and unseal(self._master_keys, owner, kept.sealed)
        except (GatewayError, *MISTAKES) as error:
            raise Unavailable(reason="pairing_failed") from error
        await self._catch_up()
        return known == secret

    async def reopen_app(self, wanted: str) -> App:
        """Forget the secret that an app's sender handed over, and wait for another. Raises NotFound or Conflict."""
        apps = (await self._catalog.read()).apps.values()
        app = next((each for each in apps if wanted in (str(each.id), each.name)), None)
        if app is None:
            message = f"there is no app {wanted!r}; `gateway app list` shows those there are"
            raise NotFound(message)
        if not any(reference.paired for reference in read_verify(app)[1]):
            message = f"app {app.name!r} has its secret from here, not from its sender"
            raise Conflict(message)
        await self._catalog.pair_app(app.id, None)
        await self._catch_up()
        return app

    async def pairing(self, app: App) -> tuple[int, str] | None:
        """When an app's sender handed over its secret, in milliseconds, and which; None while it waits for it."""
        pair = (await self._catalog.read()).pairs.get(app.id)
        return None if pair is None else (pair.at, unseal(self._master_keys, app.holder(VERIFY_FIELD), pair.sealed))

    async def secrets(self) -> dict[str, StoredSecret]:
        """What is known of the secrets that are kept under a name, by name."""
        return dict(sorted((await self._catalog.read()).secrets.items()))

    async def set_secret(self, name: str, value: str) -> tuple[StoredSecret, bool]:
        """Keep a secret under a name, in place of what was there; and whether the name is new.

        Raises Unprocessable for a name or a value that can't be, ConfigError without a master key.
        """
        made = await self._vault.put(name, value, self._master_keys, int(self._clock() * 1000))
        await self._catch_up()
        return made

    async def remove_secret(self, name: str, *, force: bool = False) -> StoredSecret:
        """Forget a secret. Raises NotFound, and unless it is forced Conflict where apps or workflows name it."""
        removed = await self._vault.remove(name, force=force)
        await self._catch_up()
        return removed

    async def endpoints(self) -> list[EndpointSettings]:
        """All endpoints, by name."""
        found = (await self._catalog.read()).endpoints.values()
        return sorted(found, key=lambda each: each.name)

    async def endpoint(self, wanted: str) -> EndpointSettings:
        """One endpoint, by id or name. Raises NotFound."""
        return find_endpoint(wanted, (await self._catalog.read()).endpoints)

    async def add_endpoint(self, wish: EndpointWish) -> Enlisted:
        """Make an endpoint. Raises Conflict when its name is taken, Unprocessable when its host leads inside, and what
        `enlist` raises.
        """
        made = enlist(wish, self._policy, self._master_keys, self._noise)
        await self.check_destination("url", wish.url)
        endpoint = await self._catalog.add_endpoint(made.endpoint)
        await self._catch_up()
        return msgspec.structs.replace(made, endpoint=endpoint)

    async def rotate_endpoint(self, wanted: str, overlap: float = OVERLAP, *, force: bool = False) -> Enlisted:
        """Give an endpoint, by id or name, a new secret beside the one it has. Raises what `rotate_endpoint` raises."""
        made: list[Enlisted] = []

        def change(endpoint: EndpointSettings) -> EndpointSettings:
            keys, now = self._master_keys, self._clock()
            made.append(rotate_endpoint(endpoint, keys, self._noise, now, overlap=overlap, force=force))
            return made[-1].endpoint

        await self._change_endpoint(wanted, change)
        return made[-1]

    async def revoke_endpoint_secret(self, wanted: str) -> EndpointSettings:
        """End an endpoint's older secret before its time. Raises NotFound or Conflict."""
        return await self._change_endpoint(wanted, lambda endpoint: revoke_endpoint(endpoint, self._clock()))

    async def disable_endpoint(self, wanted: str, disabled: bool = True) -> EndpointSettings:
        """Send it nothing, or send to it again. Raises NotFound or Conflict."""
        return await self._change_endpoint(
            wanted, lambda endpoint: msgspec.structs.replace(endpoint, disabled=disabled)
        )

    async def remove_endpoint(self, wanted: str) -> EndpointSettings:
        """Forget an endpoint; what was not delivered to it never is. Raises NotFound or Conflict."""
        return await self._change_endpoint(wanted, lambda _: None)

    async def ping(self, wanted: str) -> Outgoing:
        """Put a `ping` to an endpoint, by id or name, or `app-42`, into the outbox. Raises NotFound or Conflict."""
        contents = await self._catalog.read()
        endpoint = _own_endpoint(wanted, contents) or find_endpoint(wanted, contents.endpoints)
        if endpoint.disabled:
            message = f"endpoint {endpoint.name!r} is disabled"
            raise Conflict(message)
        data = {"endpoint_id": endpoint.id, "endpoint": endpoint.name}
        live = LiveEndpoint(endpoint, lambda *_: None)
        (message_,) = Outbox().announce(PING, int(self._clock() * 1000), data, [live]).outgoing
        assert self._posting is not None
        await self._posting.post([message_])
        return message_

    async def hooks(self) -> list[Hook]:
        """All hooks, the oldest first."""
        found = (await self._catalog.read()).hooks.values()
        return sorted(found, key=lambda each: (each.created_at, each.id))

    async def hook(self, wanted: str) -> Hook:
        """One hook, by id or name. Raises NotFound, or Conflict when several have this name."""
        return find_hook((await self._catalog.read()).hooks, wanted)

    async def add_hook(self, workflow: str, name: str | None = None, app: str | None = None) -> tuple[str, Hook]:
        """Make a URL that starts a workflow, given by id or name: its token, and what is kept. Raises NotFound.

        `app`, by id or name, is whose allow-list and secret a request's `callback_url` goes by.
        """
        contents = await self._catalog.read()
        started = _name_of(contents, workflow)
        app_id = None if app is None else _app_of(contents, app)
        token, hook = new_hook(started, name or started, self._clock(), self._noise, app_id)
        await self._catalog.add_hook(hook)
        await self._catch_up()
        return token, hook

    async def disable_hook(self, wanted: str, disabled: bool = True) -> Hook:
        """Answer 409 to whoever posts to it, or let it start its workflow again. Raises NotFound or Conflict."""
        return await self._change_hook(wanted, lambda hook: msgspec.structs.replace(hook, disabled=disabled))

    async def remove_hook(self, wanted: str) -> Hook:
        """End a hook for good. Raises NotFound or Conflict."""
        return await self._change_hook(wanted, lambda _: None)

    async def tokens(self) -> list[Token]:
        """All tokens, the oldest first."""
        found = (await self._catalog.read()).tokens.values()
        return sorted(found, key=lambda each: (each.created_at, each.id))

    async def add_token(
        self, name: str, scopes: list[str], seconds: float | None, allowance: Allowance | None = None
    ) -> tuple[str, Token]:
        """Make a token that may be used at once: its text, and what is kept of it."""
        text, token = new_token(name, scopes, self._clock(), seconds, allowance)
        await self._catalog.put_token(token)
        await self._catch_up()
        return text, token

    async def revoke_token(self, token_id: str) -> Token:
        """End a token at once; one that has ended stays as it is. Raises NotFound."""
        token = (await self._catalog.read()).tokens.get(token_id)
        if token is None:
            message = f"there is no token {token_id!r}"
            raise NotFound(message)
        if token.revoked_at is None:
            token = msgspec.structs.replace(token, revoked_at=int(self._clock()))
            await self._catalog.put_token(token)
            await self._catch_up()
        return token

    async def _catch_up(self) -> None:
        # What was changed is changed. The answer, perhaps with a secret, must not be lost for want of a look at it.
        with contextlib.suppress(*MISTAKES):
            await self._refresh()

    async def _change_app(self, wanted: str, change: Callable[[App], App | None]) -> App:
        app = await self._catalog.change_app(wanted, change)
        await self._catch_up()
        return app

    async def _change_endpoint(
        self, wanted: str, change: Callable[[EndpointSettings], EndpointSettings | None]
    ) -> EndpointSettings:
        endpoint = await self._catalog.change_endpoint(wanted, change)
        await self._catch_up()
        return endpoint

    async def _change_hook(self, wanted: str, change: Callable[[Hook], Hook | None]) -> Hook:
        hook = await self._catalog.change_hook(wanted, change)
        await self._catch_up()
        return hook


def _own_endpoint(wanted: str, contents: Contents) -> EndpointSettings | None:
    """An app's own callback, called by the endpoint's id that it has."""
    app = contents.apps.get(read_app_id(wanted) or 0)
    live = None if app is None else LiveApp(app, lambda *_: None).endpoint
    return live.settings if live is not None and live.url and wanted == live.id else None


def _app_of(contents: Contents, wanted: str) -> int:
    found = next((app for app in contents.apps.values() if wanted in (str(app.id), app.name)), None)
    if found is None:
        message = f"there is no app {wanted!r}; `gateway app list` shows those there are"
        raise NotFound(message)
    return found.id


def _name_of(contents: Contents, workflow: str) -> str:
    found = contents.workflows.get(workflow)
    if found is None:
        found = next((each for each in contents.workflows.values() if str(each.id) == workflow), None)
    if found is None:
        message = f"there is no workflow {workflow!r}; `gateway workflow list` shows those there are"
        raise NotFound(message)
    return found.name
