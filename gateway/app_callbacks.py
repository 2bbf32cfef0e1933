"""What an app says of its callbacks: where its runs are told of, and where single requests may have them told. Silent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from gateway.allowlists import read_pattern
from gateway.egress import check_url
from gateway.endpoints import ANYWHERE, ENDINGS, EndpointSettings, LiveEndpoint
from gateway.errors import ConfigError
from gateway.retries import read_duration
from gateway.secrets import CALLBACK_FIELD, Resolve, SecretRef, field_of

CallbackEvent = Literal["run.started", "run.waiting", "run.completed", "run.failed", "run.cancelled", "source.silent"]
SHORTEST_SILENCE = 60
"""Seconds."""


class CallbackSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an app's runs are told of: at a `url` of its own, signed with this secret; or at an endpoint, by its name.

    A secret without a `url` signs what is sent to the `callback_url` of single requests. The `previous` one signs as
    well, for as long as it is written here, or until it expires.
    """

    url: str | None = None
    secret: SecretRef | None = None
    events: tuple[CallbackEvent, ...] = ENDINGS
    endpoint: str | None = None
    previous: SecretRef | None = None

    @property
    def secrets(self) -> tuple[SecretRef, ...]:
        """Those that sign, the newest first."""
        return tuple(each for each in (self.secret, self.previous) if each is not None)


class Teller(Protocol):
    """What is read here of an app."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def capabilities(self) -> Sequence[str]: ...
    @property
    def callback(self) -> CallbackSettings | list[CallbackSettings] | None: ...
    @property
    def callback_urls(self) -> Sequence[str]: ...
    @property
    def expect_every(self) -> float | str | None: ...
    @property
    def managed_by(self) -> str: ...


def callbacks_of(app: Teller) -> list[CallbackSettings]:
    """Where an app tells of its runs, one or several."""
    if app.callback is None:
        return []
    return app.callback if isinstance(app.callback, list) else [app.callback]


def own_callback_of(app: Teller) -> CallbackSettings | None:
    """The callback that is no endpoint's name."""
    return next((each for each in callbacks_of(app) if each.endpoint is None), None)


def own_endpoint_id(app_id: int) -> str:
    """The id of the endpoint that an app's own callback is."""
    return f"app-{app_id}"


def own_endpoint(app: Teller, resolve: Resolve) -> LiveEndpoint | None:
    """An app's own callback as an endpoint; None without a secret to sign with."""
    callback = own_callback_of(app)
    if callback is None or callback.secret is None:
        return None
    settings = EndpointSettings(
        id=own_endpoint_id(app.id),
        name=app.name,
        url=callback.url or "",
        events=callback.events,
        secrets=callback.secrets,
        overlap_until=None if callback.previous is None else callback.previous.expires_at,
        managed_by=app.managed_by,
    )
    return LiveEndpoint(settings, resolve, lambda _: field_of(f"app:{app.name}", CALLBACK_FIELD))


def check_callbacks(app: Teller) -> None:
    """Raise ConfigError with `details["path"]` for what can't be."""
    own = own_callback_of(app)
    if app.callback is not None and "send" not in app.capabilities:
        message = "this app has a callback but not the capability `send`"
        raise ConfigError(message, path="capabilities")
    for index, callback in enumerate(callbacks_of(app)):
        path = f"callback[{index}]" if isinstance(app.callback, list) else "callback"
        _check_callback(app, callback, path)
        if callback is not own and callback.endpoint is None:
            message = "an app has one callback of its own; let the others be endpoints, and name them"
            raise ConfigError(message, path=path)
    for index, text in enumerate(app.callback_urls):
        read_pattern(text, f"callback_urls[{index}]")
    if app.callback_urls and (own is None or own.secret is None):
        message = "what is sent to a `callback_url` is signed too: add `callback: {secret: {env: NAME}}`"
        raise ConfigError(message, path="callback_urls")
    if app.expect_every is not None and read_duration(app.expect_every, "expect_every") < SHORTEST_SILENCE:
        message = f"a silence shorter than {SHORTEST_SILENCE} s can't be told from a pause"
        raise ConfigError(message, path="expect_every")


def _check_callback(app: Teller, callback: CallbackSettings, path: str) -> None:
    if callback.endpoint is not None:
        if callback.url is not None or callback.secrets or callback.events != ENDINGS:
            message = "an endpoint has its own url, secrets and events; give its name alone"
            raise ConfigError(message, path=path)
        return
    if callback.secret is None:
        message = "nothing is sent unsigned: add `secret: {env: NAME}`, or name an `endpoint`"
        raise ConfigError(message, path=path)
    if callback.url is None and not app.callback_urls:
        message = "add the `url` to send to, or `callback_urls` that single requests may choose from"
        raise ConfigError(message, path=path)
    if callback.url is not None and (refusal := check_url(ANYWHERE, callback.url)) is not None:
        raise ConfigError(refusal, path=f"{path}.url")
