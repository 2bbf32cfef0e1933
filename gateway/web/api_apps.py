"""Our API's apps, for admins: the same as the commands do. What gateway.yaml manages is a 409."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.apps import App
from gateway.documents import AppDocument, NewApp, describe_app, describe_new_app, uses_of
from gateway.errors import ConfigError, Unprocessable
from gateway.registrations import LONGEST_OVERLAP, OVERLAP, Registration, Wish
from gateway.retries import read_duration
from gateway.signatures import PRESETS
from gateway.web.endpoints import Answer, Call, Endpoint

ADMIN = "admin"
DURATION = r"^([0-9]{1,6}(ms|s|m|h|d)){1,4}$"
SCHEMES = rf"^({'|'.join(PRESETS)})$"
NAME = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f0-9][^\x00-\x1f\x7f-\x9f]*$"
"""With no control characters, and something in it that is no digit: else it would be taken for an id."""


class AppBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An app to register: how it signs; whether its bodies name the workflow to run (`direct`); where to tell that a
    run has ended; for senders that sign the URL, the one they were given (`public_url`); for those that have
    many, which `topics` are meant.
    """

    name: Annotated[str, Meta(pattern=NAME, max_length=200)]
    scheme: Annotated[str, Meta(pattern=SCHEMES, description="A preset: how it signs.")] = "orqo"
    direct: bool = True
    callback_url: Annotated[str, Meta(min_length=1, max_length=8192)] | None = None
    public_url: Annotated[str, Meta(min_length=1, max_length=8192)] | None = None
    topics: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=2048)], ...], Meta(max_length=50)] = ()


class RotateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the secret before is taken as well (seconds, or `24h`), at most 30 days; `force`: even while two are
    taken already, of which the older one then ends. `callback`: not the secret that the app signs with, but the one
    that its own callback is signed with.
    """

    overlap: Annotated[float, Meta(ge=0, le=LONGEST_OVERLAP)] | Annotated[str, Meta(pattern=DURATION)] = OVERLAP
    force: bool = False
    callback: bool = False


class RevokeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`callback`: not the older secret that the app signs with ends, but that of its own callback."""

    callback: bool = False


class AppPage(msgspec.Struct, frozen=True):
    """All registered senders, by id."""

    data: list[AppDocument]
    next_cursor: None = None


async def list_apps(call: Call) -> Answer:
    """All apps."""
    apps = call.control.apps()
    balances = await call.control.reader.balances({each.payer: each.credits for each in apps if each.credits})
    uses = await call.control.reader.secret_uses(uses_of(apps))
    return 200, AppPage([describe_app(each, balances.get(each.payer), uses, _problem_of(call, each)) for each in apps])


async def show_app(call: Call) -> Answer:
    """One app, by id or name."""
    return 200, await _describe(call, call.control.app(call.path["app"]))


async def add_app(call: Call) -> Answer:
    """Register a sender with a new secret, which is in this answer and never again."""
    wanted: AppBody = call.body
    wish = Wish(
        name=wanted.name,
        scheme=wanted.scheme,
        direct=wanted.direct,
        callback_url=wanted.callback_url,
        public_url=wanted.public_url,
        topics=wanted.topics,
    )
    return 201, await _describe_new(call, await call.management.add_app(wish))


async def disable_app(call: Call) -> Answer:
    """Answer 403 to whatever it sends, until it is enabled again."""
    return 200, await _describe(call, await call.management.disable_app(call.path["app"]))


async def enable_app(call: Call) -> Answer:
    """Let a disabled app send again."""
    return 200, await _describe(call, await call.management.disable_app(call.path["app"], disabled=False))


async def rotate_secret(call: Call) -> Answer:
    """Give an app a new secret, shown in this answer only. The one it had is taken as well for the overlap: a day."""
    body = call.body or RotateBody()
    overlap = _seconds(body.overlap)
    made = await call.management.rotate_secret(call.path["app"], overlap, force=body.force, callback=body.callback)
    return 200, await _describe_new(call, made)


async def revoke_secret(call: Call) -> Answer:
    """End an app's older secret, or that of its callback, at once, before its time."""
    body = call.body or RevokeBody()
    return 200, await _describe(call, await call.management.revoke_app_secret(call.path["app"], callback=body.callback))


async def remove_app(call: Call) -> Answer:
    """Forget an app; its address is not found any more. Its runs stay."""
    return 200, await _describe(call, await call.management.remove_app(call.path["app"]))


async def _describe(call: Call, app: App) -> AppDocument:
    balances = {} if app.credits is None else await call.control.reader.balances({app.payer: app.credits})
    uses = await call.control.reader.secret_uses(uses_of([app]))
    return describe_app(app, balances.get(app.payer), uses, _problem_of(call, app))


def _problem_of(call: Call, app: App) -> str | None:
    live = call.control.live_apps.get(app.token or str(app.id))
    return None if live is None else live.problem


def _seconds(overlap: float | str) -> float:
    try:
        return read_duration(overlap, "overlap")
    except ConfigError as error:
        raise Unprocessable(error.message, path="overlap") from None


async def _describe_new(call: Call, made: Registration) -> NewApp:
    balances = (
        {} if made.app.credits is None else await call.control.reader.balances({made.app.payer: made.app.credits})
    )
    uses = await call.control.reader.secret_uses(uses_of([made.app]))
    return describe_new_app(made, balances.get(made.app.payer), uses)


APPS = (
    Endpoint(method="GET", path="/api/v1/apps", handler=list_apps, scope=ADMIN, summary="List apps", answer=AppPage),
    Endpoint(
        method="POST",
        path="/api/v1/apps",
        handler=add_app,
        scope=ADMIN,
        summary="Register an app",
        body=AppBody,
        answer=NewApp,
        status=201,
        example={"name": "ci", "scheme": "orqo", "callback_url": "https://ci.example/api/v1/callback"},
        refuses=(409,),
    ),
    Endpoint(
        method="GET",
        path="/api/v1/apps/{app}",
        handler=show_app,
        scope=ADMIN,
        summary="Show an app, by id or name",
        answer=AppDocument,
    ),
    Endpoint(
        method="DELETE",
        path="/api/v1/apps/{app}",
        handler=remove_app,
        scope=ADMIN,
        summary="Remove an app",
        answer=AppDocument,
        refuses=(409,),
    ),
    Endpoint(
        method="POST",
        path="/api/v1/apps/{app}/disable",
        handler=disable_app,
        scope=ADMIN,
        summary="Disable an app",
        answer=AppDocument,
        refuses=(409,),
    ),
    Endpoint(
        method="POST",
        path="/api/v1/apps/{app}/enable",
        handler=enable_app,
        scope=ADMIN,
        summary="Enable an app",
        answer=AppDocument,
        refuses=(409,),
    ),
    Endpoint(
        method="POST",
        path="/api/v1/apps/{app}/rotate-secret",
        handler=rotate_secret,
        scope=ADMIN,
        summary="Give an app a new secret",
        body=RotateBody,
        optional_body=True,
        answer=NewApp,
        example={"overlap": "24h"},
        refuses=(409,),
    ),
    Endpoint(
        method="POST",
        path="/api/v1/apps/{app}/revoke-secret",
        handler=revoke_secret,
        scope=ADMIN,
        summary="End an app's older secret",
        body=RevokeBody,
        optional_body=True,
        example={"callback": True},
        answer=AppDocument,
        refuses=(409,),
    ),
)
