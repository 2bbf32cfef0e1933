"""What an app answers in its own words, once an event is stored: a status, a text or JSON, or a page to go on to.

Whatever goes wrong with it, the event is stored; so nothing here raises then, and the plain answer is given instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec

from gateway.cel.scopes import Scope
from gateway.errors import ConfigError
from gateway.expressions import Failure
from gateway.media import KIND
from gateway.templates import compile_template

UNSET = msgspec.UNSET
BODILESS: Final = (204, 205)
SEE_OTHER: Final = 303
LARGEST: Final = 65_536
TEXT: Final = "text/plain; charset=utf-8"
# Whoever opens such an answer in a browser must not run what somebody's event made of it, on our own origin.
GUARDS: Final = {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'; sandbox"}


class ResponseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """An app's own answer: 2xx with a body whose texts may hold `${…}`, or a redirection (303) to a page."""

    status: Annotated[int, msgspec.Meta(ge=200, le=299)] | None = None
    body: Any = UNSET
    content_type: str | None = None
    redirect: str | None = None


class Reply(msgspec.Struct, frozen=True):
    """An answer, made. Without `status` it is that of the plain answer."""

    status: int | None
    body: bytes
    headers: dict[str, str]


class Response:
    """An app's answer with its expressions compiled. Raises ConfigError with `details["path"]`."""

    def __init__(self, settings: ResponseSettings, path: str = "respond") -> None:
        check_settings(settings, path)
        self._settings = settings
        body = "" if settings.body is UNSET else settings.body
        self._template = compile_template(body, Scope.ANSWER, f"{path}.body")

    def compose(self, values: Mapping[str, Any]) -> Reply | str:
        """The answer to an event; or why there is none. `values` are those of Scope.ANSWER."""
        settings = self._settings
        if settings.redirect is not None:
            return Reply(SEE_OTHER, b"", {"location": settings.redirect} | GUARDS)
        given = self._template.render(values)
        if isinstance(given, Failure):
            return f"`{given.expression}` gives nothing for this event"
        is_text = isinstance(given, str)
        body = given.encode() if isinstance(given, str) else msgspec.json.encode(given)
        if len(body) > LARGEST:
            return f"it is larger than {LARGEST} bytes"
        kind = settings.content_type or (TEXT if is_text else "application/json")
        return Reply(settings.status, body, {"content-type": kind} | GUARDS)


def check_settings(settings: ResponseSettings, path: str) -> None:
    """Refuse an answer that could not be given."""
    if settings.redirect is not None:
        check_redirect(settings.redirect, f"{path}.redirect")
        for name in ("status", "body", "content_type"):
            if getattr(settings, name) not in (None, UNSET):
                message = "a redirection is a 303 without a body; take out this field, or `redirect`"
                raise ConfigError(message, path=f"{path}.{name}")
    if settings.status in BODILESS and settings.body is not UNSET:
        message = f"an answer with status {settings.status} has no body"
        raise ConfigError(message, path=f"{path}.body")
    kind = settings.content_type
    if kind is not None and not (
        kind.isascii() and kind.isprintable() and KIND.fullmatch(kind.partition(";")[0].strip())
    ):
        message = f"{kind!r} is no content type; write it as `text/plain`"
        raise ConfigError(message, path=f"{path}.content_type")


def check_redirect(url: str, path: str) -> None:
    """Refuse what is no whole address of a page: `https://…`, or `http://…`."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.username is None
    except ValueError:
        fits = False
    if not fits or not re.fullmatch(r"[!-~]+", url) or "${" in url:
        message = "write the whole address of the page, https://…, without ${…}: it must not depend on what comes in"
        raise ConfigError(message, path=path)
