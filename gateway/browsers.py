"""Forms on web pages: which pages may post, what tells a person from a robot, and what a browser is shown. Silent.

A page can keep no secret, so nothing here proves who somebody is. It bounds what a page's visitors, other people's
pages and robots can do: an `Origin` that is not listed is refused, a filled honeypot starts nothing and looks like
success, and a token from `GET ../form-token` is good once, not too soon and not for ever.

Sources: Fetch standard, "Origin header" and "CORS protocol"; RFC 6454, section 7; RFC 5869 (HKDF).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.errors import ConfigError, Forbidden, GatewayError, Unavailable, Unprocessable
from gateway.kinds import SHARED
from gateway.media import FORMS
from gateway.retries import read_duration

PURPOSE = b"event gateway: form tokens, 1"
NONCE_BYTES = 12
LONGEST_TOKEN = 400
MOST_ORIGINS = 50
MOST_PAGES = 50
_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_PAGE = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?([/?][!-~]*)?")
_FieldName = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class TokenSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A token that the page fetches when it is opened and sends back in `field`, not sooner than `min_fill` after and
    not later than `max_age`. One token is good for one event.
    """

    min_fill: str | float = "3s"
    max_age: str | float = "2h"
    field: _FieldName = "_token"


class FormSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a form on a web page may do. `honeypot` names a field that people don't see and robots fill.

    Browsers go on to `redirect` (the first one, or the listed one that the field `redirect_field` holds), and with a
    `code` in its query to `error`.
    """

    origins: list[str] = []
    honeypot: _FieldName | None = None
    token: TokenSettings | None = None
    redirect: str | list[str] | None = None
    redirect_field: _FieldName = "_redirect"
    error: str | None = None


class OriginRefused(Forbidden):
    """This form does not take what is posted from there."""

    code = "origin_refused"


class TokenMissing(Unprocessable):
    """The form's token is missing."""

    code = "form_token_missing"


class TokenInvalid(Unprocessable):
    """The form's token is not one of this form."""

    code = "form_token_invalid"


class TokenEarly(Unprocessable):
    """The form was filled in faster than people do. Send it again in a moment."""

    code = "form_token_early"


class TokenExpired(Unprocessable):
    """The form was open for too long. Load the page again."""

    code = "form_token_expired"


class RedirectRefused(Unprocessable):
    """The page to go on to is not one of those this form lists."""

    code = "form_redirect_refused"


class Spam(GatewayError):
    """A robot filled in what people don't see. It is answered as if it had succeeded: with `page`, if there is one."""

    code = "spam"
    status = 200

    def __init__(self, page: str | None) -> None:
        super().__init__()
        self.page = page


class Filled(msgspec.Struct, frozen=True):
    """A form that was filled in as it should be: the random number of its token, and where the browser goes on to."""

    number: str | None = None
    page: str | None = None


class IssuedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A new token as a page is given it: send it in `field`, at least `min_fill` seconds from now, before `expires_in`."""

    token: str
    field: str
    min_fill: float
    expires_in: float


class WebForm:
    """A form's settings, checked. Raises ConfigError with `details["path"]`."""

    def __init__(self, settings: FormSettings) -> None:
        self.origins = frozenset(_read_origins(settings.origins))
        self.honeypot = settings.honeypot
        self.token = settings.token
        self.min_fill, self.max_age = _read_times(settings.token)
        self.pages = _read_pages(settings.redirect)
        self.redirect_field = settings.redirect_field
        self.error = settings.error
        if settings.error is not None:
            _check_page(settings.error, "form.error")
        self.own_fields = _own_fields(settings)

    def check_origin(self, given: Sequence[str]) -> None:
        """Whether a page of this origin may post. Raises OriginRefused.

        A browser sends `null` when it must not tell (a sandbox, a file, a redirect, `Referrer-Policy: no-referrer`), and
        then it sends no honest Referer either: what doesn't say where it comes from is refused as well.
        """
        if not self.origins or (len(given) == 1 and given[0] in self.origins):
            return
        shown = repr(given[0][:100]) if len(given) == 1 else f"given {len(given)} times" if given else "missing"
        message = f"this form does not take what is posted from there: the Origin is {shown}"
        raise OriginRefused(message)

    def choose_page(self, fields: Mapping[str, Any]) -> str | None:
        """Where the browser goes on to. Raises RedirectRefused for a page that is not listed."""
        wanted = _text(fields.get(self.redirect_field))
        if not self.pages or not wanted:
            return self.pages[0] if self.pages else None
        if wanted not in self.pages:
            message = f"{self.redirect_field}: this page is not one of those this form lists"
            raise RedirectRefused(message, path=self.redirect_field)
        return wanted

    def is_spam(self, fields: Mapping[str, Any]) -> bool:
        """Whether the field that people don't see is filled."""
        return self.honeypot is not None and bool(_text(fields.get(self.honeypot)))

    def error_page(self, code: str) -> str | None:
        """Where a browser is sent that is refused."""
        if self.error is None:
            return None
        page, hash_mark, fragment = self.error.partition("#")
        return f"{page}{'&' if '?' in page else '?'}code={code}{hash_mark}{fragment}"


class FormTokens:
    """Makes and reads the tokens of one gateway's forms; nothing of them is stored until one is used.

    A token holds app, time and a random number, under HMAC-SHA256 with a key made of a master key by HKDF.
    """

    def __init__(self, master_keys: Sequence[bytes] = ()) -> None:
        self._keys = tuple(_derive(key) for key in master_keys)

    def issue(self, form: WebForm, app_id: int, now: float, noise: bytes) -> IssuedToken:
        """A token for a page that is opened `now`. Raises Unavailable without a master key."""
        assert form.token is not None
        self._insist_on_key()
        body = msgspec.json.encode((app_id, int(now * 1000), _base64(noise)))
        token = f"{_base64(body)}.{_base64(_sign(self._keys[0], body))}"
        return IssuedToken(token=token, field=form.token.field, min_fill=form.min_fill, expires_in=form.max_age)

    def check(self, form: WebForm, app_id: int, fields: Mapping[str, Any], now: float) -> str:
        """The random number of the token that was sent. Raises TokenMissing, -Invalid, -Early or -Expired, and
        Unavailable without a master key.
        """
        assert form.token is not None
        self._insist_on_key()
        path = form.token.field
        given = fields.get(path)
        if not given:
            message = f"{path}: the form's token is missing"
            raise TokenMissing(message, path=path)
        found = self._read(given)
        if found is None or found[0] != app_id:
            message = f"{path}: this is no token of this form; load the page again"
            raise TokenInvalid(message, path=path)
        _check_age(form, now - found[1] / 1000, path)
        return found[2]

    def _insist_on_key(self) -> None:
        if not self._keys:
            message = "there is no key to sign a form's token with; set GATEWAY_MASTER_KEYS"
            raise Unavailable(message, reason="no_master_key")

    def _read(self, given: Any) -> tuple[int, int, str] | None:
        if not isinstance(given, str) or len(given) > LONGEST_TOKEN:
            return None
        head, _, tail = given.partition(".")
        try:
            body, signature = _unbase64(head), _unbase64(tail)
            if not any(hmac.compare_digest(_sign(key, body), signature) for key in self._keys):
                return None
            return msgspec.json.decode(body, type=tuple[int, int, str])
        except ValueError:
            return None


def check_form(form: WebForm, tokens: FormTokens, app_id: int, fields: Mapping[str, Any], now: float) -> Filled:
    """See that what was filled in, our own fields among it, may become an event.

    Raises Spam, and what `FormTokens.check` and `WebForm.choose_page` raise.
    """
    page = form.choose_page(fields)
    if form.is_spam(fields):
        raise Spam(page)
    return Filled(None if form.token is None else tokens.check(form, app_id, fields, now), page)


class Door(Protocol):
    """What an app says that has to do with its form."""

    @property
    def form(self) -> FormSettings | None: ...
    @property
    def adapter(self) -> object: ...
    @property
    def methods(self) -> Sequence[str]: ...
    @property
    def content_types(self) -> Sequence[str]: ...
    @property
    def respond(self) -> object: ...


def check_door(app: Door, kind: str | None) -> None:
    """Raise ConfigError with `details["path"]` for a form that its app can't have; `kind` is how the app verifies."""
    if app.form is None:
        return
    check_form_settings(app.form)
    # The kinds of proof that a page can give: none, or a value that all its visitors may know.
    if app.adapter is not None or kind not in SHARED:
        message = "a page can't sign what it posts: an app with `form` has `verify: none`, and no adapter"
        raise ConfigError(message, path="form" if app.adapter is not None else "verify")
    if not set(app.content_types) <= set(FORMS):
        message = f"an app with `form` takes {' and '.join(FORMS)}"
        raise ConfigError(message, path="content_types")
    if app.respond is not None:
        message = "an app with `form` answers browsers by `form.redirect`; take out `respond`"
        raise ConfigError(message, path="respond")
    if "POST" not in app.methods:
        message = "browsers send forms by POST; add it to `methods`, or take out `form`"
        raise ConfigError(message, path="methods")


def check_form_settings(settings: FormSettings) -> None:
    """Raise ConfigError with `details["path"]` for what can't be used."""
    WebForm(settings)
    own = [name for name in _all_own_fields(settings) if name is not None]
    doubled = {name for name in own if own.count(name) > 1}
    if doubled:
        message = f"{sorted(doubled)[0]!r} is the name of two of this form's own fields"
        raise ConfigError(message, path="form")


def _check_age(form: WebForm, age: float, path: str) -> None:
    if age < form.min_fill:
        error = TokenEarly(f"{path}: the form was sent sooner than {form.min_fill:g} s after it was opened", path=path)
        error.retry_after = max(1, math.ceil(form.min_fill - age))
        raise error
    if age > form.max_age:
        message = f"{path}: the form was open for more than {form.max_age:g} s; load the page again"
        raise TokenExpired(message, path=path)


def _read_origins(texts: Sequence[str]) -> Sequence[str]:
    for index, text in enumerate(texts):
        usual = ":443" if text.startswith("https:") else ":80"
        if not _ORIGIN.fullmatch(text) or text.endswith(usual):
            message = f"{text!r} is no origin as browsers send it: https://www.example.com, small letters, no path, no usual port"
            raise ConfigError(message, path=f"form.origins[{index}]")
    if len(texts) > MOST_ORIGINS:
        message = f"a form has at most {MOST_ORIGINS} origins"
        raise ConfigError(message, path="form.origins")
    return texts


def _read_times(settings: TokenSettings | None) -> tuple[float, float]:
    if settings is None:
        return 0.0, 0.0
    least = read_duration(settings.min_fill, "form.token.min_fill")
    most = read_duration(settings.max_age, "form.token.max_age")
    if least >= most:
        message = f"a form that is sent after {least:g} s at the earliest is already too old after {most:g} s"
        raise ConfigError(message, path="form.token.max_age")
    return least, most


def _read_pages(written: str | list[str] | None) -> tuple[str, ...]:
    if written is None:
        return ()
    if isinstance(written, str):
        _check_page(written, "form.redirect")
        return (written,)
    for index, text in enumerate(written):
        _check_page(text, f"form.redirect[{index}]")
    if not 0 < len(written) <= MOST_PAGES:
        message = f"a form redirects to one of 1 to {MOST_PAGES} pages"
        raise ConfigError(message, path="form.redirect")
    return tuple(written)


def _check_page(text: str, path: str) -> None:
    if not _PAGE.fullmatch(text) or len(text) > 2000:
        message = f"{text[:100]!r} is no page's address: https://www.example.com/thanks"
        raise ConfigError(message, path=path)


def _all_own_fields(settings: FormSettings) -> list[str | None]:
    choice = settings.redirect_field if isinstance(settings.redirect, list) else None
    return [settings.honeypot, choice, None if settings.token is None else settings.token.field]


def _own_fields(settings: FormSettings) -> frozenset[str]:
    return frozenset(name for name in _all_own_fields(settings) if name is not None)


def _text(value: Any) -> str:
    """A field's text; of one that came several times, all that is in them."""
    return "".join(map(_text, value)) if isinstance(value, list) else str(value or "").strip()


def _derive(master_key: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(master_key)


def _sign(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, hashlib.sha256)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _base64(raw) != text:
        message = "another spelling of the same bytes"
        raise ValueError(message)
    return raw
