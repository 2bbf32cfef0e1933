"""What can be known to be wrong with an app before anything is sent to it. Silent."""

from __future__ import annotations

from urllib.parse import urlsplit

from gateway.adapters import AdapterSettings, check_adapter
from gateway.admission import read_admission
from gateway.app_callbacks import check_callbacks
from gateway.apps import HEADER, App, Trigger, compile_dedupe, find_handshake, find_problem, read_sender, read_verify
from gateway.browsers import check_door
from gateway.egress import check_url
from gateway.endpoints import ANYWHERE
from gateway.errors import ConfigError
from gateway.forms import is_secretive
from gateway.media import check_types
from gateway.reconciling import check_reconcile
from gateway.responses import Response
from gateway.signatures import Scheme


def check_app(app: App) -> None:
    """Raise ConfigError with `details["path"]` for what can be known to be wrong without any secret."""
    scheme, _ = read_verify(app)
    if problem := find_problem(app, scheme):
        message, path = problem
        raise ConfigError(message, path=path)
    _check_public_url(app)
    compile_dedupe(app.dedupe)
    _check_contents(app, scheme)
    names = [trigger.name for trigger in app.triggers]
    for index, settings in enumerate(app.triggers):
        Trigger(settings, f"triggers[{index}]")
        if settings.name in names[:index]:
            message = f"two triggers have the name {settings.name!r}"
            raise ConfigError(message, path=f"triggers[{index}].name")
    if app.adapter == "direct" and app.triggers:
        message = "an app with `adapter: direct` starts what the body names; it can't have triggers as well"
        raise ConfigError(message, path="triggers")
    _check_adapter(app)
    _check_handshake(app)
    read_admission(app)
    check_door(app, None if scheme is None else scheme.kind)
    if app.reconcile is not None:
        check_reconcile(app.reconcile, read_sender(app.verify))
        if (refusal := check_url(ANYWHERE, app.reconcile.api)) is not None:
            raise ConfigError(refusal, path="reconcile.api")
    check_callbacks(app)


def _check_contents(app: App, scheme: Scheme | None) -> None:
    """What it takes, and shows of it."""
    check_types(app.content_types, "content_types")
    check_types(app.files.types, "files.types")
    if app.adapter == "direct" and app.content_types:
        message = "an app with `adapter: direct` takes run requests, which are JSON; take out `content_types`"
        raise ConfigError(message, path="content_types")
    for index, name in enumerate(app.headers):
        if not HEADER.fullmatch(name):
            message = f"{name!r} is no header's name"
            raise ConfigError(message, path=f"headers[{index}]")
        if is_secretive(name) or (scheme is not None and name.lower() == scheme.plan.header):
            message = f"{name!r} shows who sends; it is never kept, and expressions can't read it"
            raise ConfigError(message, path=f"headers[{index}]")
    if app.respond is not None:
        Response(app.respond)


def _check_public_url(app: App) -> None:
    if app.public_url is None:
        return
    try:
        parts = urlsplit(app.public_url)
        good = parts.scheme in ("https", "http") and parts.hostname and not parts.fragment and not parts.username
    except ValueError:
        good = False
    if not good or not app.public_url.isascii() or not app.public_url.isprintable() or " " in app.public_url:
        message = (
            "write the whole URL as the sender was given it: https://host/path, in ASCII, without user and fragment"
        )
        raise ConfigError(message, path="public_url")


def _check_adapter(app: App) -> None:
    if not isinstance(app.adapter, AdapterSettings):
        return
    check_adapter(app.adapter)
    for name in ("verify", "receive_config"):
        if getattr(app, name) is not None:
            message = f"this app's adapter verifies what comes in; take out `{name}`, or the adapter's url"
            raise ConfigError(message, path=name)


def _check_handshake(app: App) -> None:
    """Raise ConfigError where the handshake can't be answered, or is given what it doesn't ask for."""
    scheme, _ = read_verify(app)
    handshake = find_handshake(app, scheme, read_sender(app.verify))
    kinds = set() if handshake is None else set(handshake.name.split("+"))
    rows = () if handshake is None else handshake.rows
    if app.verify_token is not None and "meta" not in kinds:
        message = "verify_token is for `scheme: meta`, whose sender asks for it, or for an app with an adapter's url"
        raise ConfigError(message, path="verify_token")
    if app.topics and not any(row.needs_topics for row in rows):
        message = "topics are for a sender that asks which ones are meant: `scheme: websub` or `aws-sns`"
        raise ConfigError(message, path="topics")
    if handshake is not None and not handshake.facts.topics and any(row.needs_topics for row in rows):
        message = "this sender's messages may be of anybody's topics; name the app's: `topics: [..]`"
        raise ConfigError(message, path="topics")
    for name in ("webhook_origins", "webhook_rate"):
        if getattr(app, name) and not kinds & {"cloudevents", "eventgrid"}:
            message = f"{name} is for senders of CloudEvents, who ask for it: `scheme: cloudevents`"
            raise ConfigError(message, path=name)
    if scheme is not None and scheme.kind == "none" and any(row.needs_proof or row.gives_secret for row in rows):
        message = f"the handshake {scheme.handshake!r} is answered to those who sign; this scheme takes anybody"
        raise ConfigError(message, path="verify.handshake")
