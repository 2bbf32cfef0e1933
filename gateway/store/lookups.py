"""Where the values of secrets are looked up: variables, files, and what the store keeps sealed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog
from msgspec import UNSET

from gateway import calls
from gateway.apps import App, read_verify
from gateway.errors import ConfigError, GatewayError
from gateway.secrets import CALLBACK_FIELD, VERIFY_FIELD, Pair, SecretRef, StoredSecret, body_of, field_of, unseal
from gateway.shells import call_of
from gateway.store.catalog import Contents
from gateway.workflows import Definition, Step

log = structlog.get_logger()


class Lookup:
    """Gives the value of a secret, from where its reference says it is.

    What was opened once is remembered for as long as it is published: a process goes on while its secrets are rewrapped
    under a master key that it was not given.
    """

    def __init__(self, master_keys: Sequence[bytes] = (), contents: Contents | None = None) -> None:
        self._master_keys = master_keys
        self._pairs: dict[str, Pair] = {}
        self._stored: dict[str, StoredSecret] = {}
        self._opened: dict[tuple[str, str], str] = {}
        self._before: dict[tuple[str, str], str] = {}
        if contents is not None:
            self.take(contents)

    def take(self, contents: Contents) -> None:
        """Look into what is published now; what was opened before the last time is forgotten."""
        self._before, self._opened = self._opened, {}
        self._stored = contents.secrets
        self._pairs = {
            field_of(f"app:{app.name}", VERIFY_FIELD): contents.pairs[app.id]
            for app in contents.apps.values()
            if app.id in contents.pairs
        }

    def __call__(self, reference: SecretRef, owner: str) -> str | None:
        """The value of `owner`'s secret; None when it isn't there or can't be opened."""
        if reference.secret is not None:
            stored = self._stored.get(reference.secret)
            return None if stored is None else self._open(stored.sealed, f"secret:{reference.secret}")
        if reference.paired:
            pair = self._pairs.get(owner)
            return None if pair is None else self._open(pair.sealed, owner)
        if reference.sealed is not None:
            return self._open(reference.sealed, owner)
        return read_outside(reference, owner)

    def kept_values(self) -> list[str]:
        """The values of all secrets that are kept under a name, as far as they can be opened."""
        found = (self(SecretRef(secret=name), "") for name in self._stored)
        return [value for value in found if value]

    def _open(self, sealed: str, owner: str) -> str | None:
        place = (owner, body_of(sealed))
        known = self._opened.get(place) or self._before.get(place)
        try:
            value = known or unseal(self._master_keys, owner, sealed)
        except GatewayError as error:
            log.warning("a secret can't be opened", owner=owner, reason=type(error).__name__)
            return None
        self._opened[place] = value
        return value


def secrets_of(app: App, lookup: Lookup) -> list[str]:
    """All of an app's secrets that can be opened here, so that none of them is shown."""
    references = [(reference, f"credentials.{name}") for name, reference in app.credentials.items()]
    with contextlib.suppress(ConfigError):
        references += [(reference, VERIFY_FIELD) for reference in read_verify(app)[1]]
    if app.verify_token is not None:
        references.append((app.verify_token, "verify_token"))
    if app.own_callback is not None:
        references += [(reference, CALLBACK_FIELD) for reference in app.own_callback.secrets]
    if app.reconcile is not None:
        references.append((app.reconcile.token, "reconcile.token"))
    found = (lookup(reference, app.holder(field)) for reference, field in references)
    return [value for value in found if value]


def step_secrets_of(definition: Definition, lookup: Lookup) -> list[str]:
    """All secrets that a workflow's steps name, as far as they are here."""
    references = [reference for step in definition.steps for reference in _references_of(step)]
    return [value for reference in references if (value := lookup(reference, ""))]


def _references_of(step: Step) -> list[SecretRef]:
    found = [each for call in (step.http, step.model) if call is not UNSET for _, each in calls.secrets_of(call)]
    if step.shell is not UNSET:
        env = call_of(step.shell).env
        found += [msgspec.convert(value, SecretRef) for value in env.values() if isinstance(value, dict)]
    return found


def find_unopened(app: App, lookup: Lookup) -> str | None:
    """Why an app refuses everything, as far as that is for a secret of the store: one that is gone, or can't be opened."""
    with contextlib.suppress(ConfigError):
        for reference in read_verify(app)[1]:
            stored = reference.sealed is not None or reference.secret is not None
            if stored and reference.expires_at is None and lookup(reference, app.holder(VERIFY_FIELD)) is None:
                return f"its secret ({reference.label}) {reference.absence}"
    return None


def read_outside(reference: SecretRef, owner: str = "") -> str | None:
    """The value of a secret that a variable or a file holds; None for every other."""
    if reference.env is not None:
        return os.environ.get(reference.env)
    try:
        return None if reference.file is None else Path(reference.file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        log.warning("a secret can't be read", owner=owner, secret=reference.label, reason=type(error).__name__)
        return None
