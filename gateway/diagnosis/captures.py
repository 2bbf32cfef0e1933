"""A captured request as a case: what stands in the document, and what the installation knows besides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from gateway.apps import App, read_verify
from gateway.diagnosis.cases import Case, Secret
from gateway.errors import ConfigError, GatewayError
from gateway.schemes import read_scheme
from gateway.secrets import CALLBACK_FIELD, VERIFY_FIELD, Resolve, SecretRef
from gateway.signatures import Capture, Request, captured_body, captured_headers


class Document(Struct, frozen=True, kw_only=True):
    """What `gateway verify` reads, of which `scheme` and `secrets` may be missing where an app is known."""

    scheme: Any = None
    secrets: tuple[str, ...] = ()
    app_id: int | None = None
    headers: dict[str, str | tuple[str, ...]]
    method: str = "POST"
    url: str = ""
    body: str | None = None
    body_base64: str | None = None
    now: float | None = None


class Installation(Struct, frozen=True):
    """The apps of an installation, and where the values of their secrets are looked up."""

    apps: Sequence[App]
    resolve: Resolve

    def find(self, wanted: str) -> App | None:
        """The app with this id or name."""
        return next((app for app in self.apps if wanted in (str(app.id), app.name)), None)


def read_document(value: object) -> Document:
    """A captured request. Raises ConfigError naming the field when it is malformed."""
    try:
        return msgspec.convert(value, Document)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the captured request can't be read: {error}") from error


def read_case(document: Document, installation: Installation, wanted: str | None = None) -> Case:
    """The case of a captured request; `wanted` is the app that refused it, where the document doesn't say how it judged.

    Raises ConfigError when nobody says which scheme and secrets it was judged by, or the body can't be read.
    """
    name = wanted or (str(document.app_id) if document.app_id is not None else None)
    app = None if name is None else installation.find(name)
    if wanted is not None and app is None:
        raise ConfigError(f"there is no app {wanted!r} here; `gateway app list` shows those there are")
    written, references = _read_app(app)
    if document.scheme is not None and wanted is None:
        written = document.scheme
    if written is None:
        raise ConfigError("scheme: is missing; say by which scheme it was judged, or by which app: --app ID")
    secrets = _own_secrets(document, app, installation)
    known = document.body is not None or document.body_base64 is not None
    return Case(
        scheme=read_scheme(written, "scheme"),
        written=written,
        secrets=secrets,
        request=_read_request(document, known),
        now=document.now,
        others=tuple(_other_secrets(installation, app, {secret.value for secret in secrets}, document.now)),
        references=references,
        has_body=known,
    )


def _read_request(document: Document, known: bool) -> Request:
    if not known:
        document = msgspec.structs.replace(document, body="")
    capture = Capture(
        scheme=None,
        secrets=(),
        headers=document.headers,
        method=document.method,
        url=document.url,
        body=document.body,
        body_base64=document.body_base64,
    )
    return Request(document.method, document.url, captured_headers(capture), captured_body(capture))


def _read_app(app: App | None) -> tuple[Any, Any]:
    """An app's scheme as it is written, without secrets, and where its secrets are kept, where that may be shown."""
    if app is None:
        return None, None
    scheme, references = read_verify(app)
    shown = [msgspec.to_builtins(each) for each in references]
    kept = None if any("sealed" in each for each in shown) else shown
    if isinstance(app.verify, dict):
        written = {name: value for name, value in app.verify.items() if name != "secrets"}
        return (written["scheme"] if list(written) == ["scheme"] else written), kept
    if scheme is None or app.verify == "none":
        return app.verify, kept
    return {"kind": scheme.kind, "header": scheme.header, "alg": scheme.alg, "prefix": scheme.prefix}, None


def _own_secrets(document: Document, app: App | None, installation: Installation) -> tuple[Secret, ...]:
    if document.secrets:
        many = len(document.secrets)
        return tuple(Secret(f"secret {n} of {many}", value) for n, value in enumerate(document.secrets, 1))
    return () if app is None else tuple(_secrets_of(app, installation.resolve, document.now))


def _other_secrets(
    installation: Installation, own: App | None, taken: Iterable[str], now: float | None
) -> list[Secret]:
    seen, found = set(taken), []
    for app in installation.apps:
        for secret in _foreign_secrets_of(app, installation.resolve, app is own, now):
            if secret.value not in seen:
                seen.add(secret.value)
                found.append(secret)
    return found


def _secrets_of(app: App, resolve: Resolve, now: float | None) -> Iterable[Secret]:
    """The secrets that an app judges by at this time, with what may be shown of each."""
    for reference in read_verify(app)[1]:
        value = resolve(reference, app.holder(VERIFY_FIELD))
        if value and not _is_over(reference, now):
            yield Secret(reference.label, value)


def _foreign_secrets_of(app: App, resolve: Resolve, own: bool, now: float | None) -> Iterable[Secret]:
    """The secrets that stand elsewhere: another app's, its callback's among them, and this one's that are over."""
    told = app.own_callback
    references = [] if own or told is None else [(each, CALLBACK_FIELD) for each in told.secrets]
    # Another app that can't be read is no reason to be silent about this one.
    with contextlib.suppress(GatewayError):
        references = [*((each, VERIFY_FIELD) for each in read_verify(app)[1]), *references]
    for reference, field in references:
        value = resolve(reference, app.holder(field))
        over = _is_over(reference, now)
        if value and (over or not own):
            yield Secret(
                f"app {app.name!r}, {reference.label}" + (", replaced and over by then" if over else ""), value
            )


def _is_over(reference: SecretRef, now: float | None) -> bool:
    return now is not None and reference.expires_at is not None and reference.expires_at <= now
