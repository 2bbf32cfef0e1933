"""Apps made and changed by command or API: with secrets of their own, shown once and kept sealed. Silent."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Sequence

import msgspec

from gateway.app_callbacks import CallbackSettings, callbacks_of
from gateway.app_checks import check_app
from gateway.apps import App, read_verify
from gateway.egress import Policy, check_url
from gateway.errors import ConfigError, Conflict, GatewayError, Unprocessable
from gateway.handshakes import HANDSHAKES, TABLE
from gateway.runs import iso
from gateway.secrets import CALLBACK_FIELD, VERIFY_FIELD, SecretRef, field_of, rewrap, seal
from gateway.signatures import read_scheme

SECRET_BYTES = 32
OVERLAP = 86_400.0
LONGEST_OVERLAP = 30 * 86_400.0
MOST_SECRETS = 2
Noise = Callable[[int], bytes]
"""Gives that many random bytes."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """An app that somebody asks for: its name, how it signs, whether its bodies name the workflow to run."""

    name: str
    scheme: str = "orqo"
    direct: bool = True
    callback_url: str | None = None
    public_url: str | None = None
    topics: tuple[str, ...] = ()


class Registration(msgspec.Struct, frozen=True):
    """An app with the secrets that were made for it, to be shown this once; `callback_secret` where it has a callback.

    No `secret`: its sender hands that over, or only that of its callback was made.
    """

    app: App
    secret: str | None
    callback_secret: str | None = None


def register(wish: Wish, policy: Policy, master_keys: Sequence[bytes], noise: Noise) -> Registration:
    """A new app with a new secret. It gets its id when it is published.

    Raises Unprocessable for a name or a callback's URL that can't be, ConfigError for an unknown scheme or without a
    master key to seal the secrets under.
    """
    if wish.name.isdecimal():
        message = f"name: {wish.name!r} would be taken for an id; put a letter in it"
        raise Unprocessable(message)
    refusal = wish.callback_url and check_url(policy, wish.callback_url)
    if refusal:
        message = f"callback_url: {refusal}"
        raise Unprocessable(message)
    owner = f"app:{wish.name}"
    by_url = read_scheme(wish.scheme, "scheme").kind == "url"
    secret = None if _is_handed_over(wish) else make_secret(wish.scheme, noise)
    callback_secret, callback = None, None
    if wish.callback_url:
        callback_secret = _callback_secret(noise)
        sealed = SecretRef(sealed=seal(master_keys, field_of(owner, CALLBACK_FIELD), callback_secret))
        callback = CallbackSettings(url=wish.callback_url, secret=sealed)
    own = {}
    if secret is not None and not by_url:
        own = {"secrets": [{"sealed": seal(master_keys, field_of(owner, VERIFY_FIELD), secret)}]}
    app = App(
        name=wish.name,
        adapter="direct" if wish.direct else None,
        token=secret if by_url else None,
        public_url=wish.public_url,
        topics=wish.topics,
        verify={"scheme": wish.scheme, **own},
        callback=callback,
    )
    check_app(app)
    return Registration(app, secret, callback_secret)


def rotate(
    app: App,
    master_keys: Sequence[bytes],
    noise: Noise,
    now: float,
    *,
    overlap: float = OVERLAP,
    force: bool = False,
) -> Registration:
    """The app with a new secret; the one it had is taken as well for `overlap` seconds from `now` (unix seconds).

    Raises Conflict when it has none, or while two are live from the last time, unless `force` ends the older of them at
    once; Unprocessable for an overlap that is negative or longer than 30 days; ConfigError without a master key.
    """
    live = _live_secrets(app, now)
    _check_rotation(f"app {app.name!r}", live, overlap, force)
    written = {part: value for part, value in app.verify.items() if part != "secrets"}  # type: ignore[union-attr]
    secret = make_secret(written, noise)
    newest = SecretRef(sealed=seal(master_keys, app.holder(VERIFY_FIELD), secret))
    older = [msgspec.structs.replace(live[0], expires_at=int(now + overlap))] if overlap else []
    return Registration(_with_secrets(app, [newest, *older]), secret)


def revoke_older(app: App, now: float) -> App:
    """The app with its newest secret alone. Raises Conflict when no older one is live."""
    live = _live_secrets(app, now)
    if len(live) < MOST_SECRETS:
        message = f"app {app.name!r} has no older secret that is live"
        raise Conflict(message)
    return _with_secrets(app, live[:1])


def rotate_callback(
    app: App,
    master_keys: Sequence[bytes],
    noise: Noise,
    now: float,
    *,
    overlap: float = OVERLAP,
    force: bool = False,
) -> Registration:
    """The app with a new secret for its own callback; the one it had signs as well for `overlap` seconds from `now`.

    Raises as `rotate` does.
    """
    own = _callback_of(app)
    live = _live(own.secrets, now)
    _check_rotation(f"the callback of app {app.name!r}", live, overlap, force)
    secret = _callback_secret(noise)
    newest = SecretRef(sealed=seal(master_keys, app.holder(CALLBACK_FIELD), secret))
    older = _expire(live[0], app, master_keys, int(now + overlap)) if overlap else None
    return Registration(_with_callback(app, own, newest, older), None, secret)


def revoke_older_callback(app: App, now: float) -> App:
    """The app whose callback is signed with its newest secret alone. Raises Conflict when no older one is live."""
    own = _callback_of(app)
    live = _live(own.secrets, now)
    if len(live) < MOST_SECRETS:
        message = f"the callback of app {app.name!r} has no older secret that is live"
        raise Conflict(message)
    return _with_callback(app, own, live[0], None)


def _callback_of(app: App) -> CallbackSettings:
    own = app.own_callback
    if own is None or own.secret is None:
        message = f"app {app.name!r} has no callback of its own; `gateway endpoint rotate-secret` is for an endpoint's"
        raise Conflict(message)
    return own


def _expire(reference: SecretRef, app: App, master_keys: Sequence[bytes], end: int) -> SecretRef:
    # The first form of sealing knows the field it stands in by nothing but its place, which is another one now.
    sealed = reference.sealed
    if sealed is not None:
        with contextlib.suppress(GatewayError):
            sealed = rewrap(master_keys, app.holder(CALLBACK_FIELD), sealed)
    return msgspec.structs.replace(reference, sealed=sealed, expires_at=end)


def _with_callback(app: App, own: CallbackSettings, newest: SecretRef, older: SecretRef | None) -> App:
    fresh = msgspec.structs.replace(own, secret=newest, previous=older)
    several = [fresh if each is own else each for each in callbacks_of(app)]
    return msgspec.structs.replace(app, callback=several if isinstance(app.callback, list) else fresh)


def _check_rotation(whose: str, live: Sequence[SecretRef], overlap: float, force: bool) -> None:
    if not 0 <= overlap <= LONGEST_OVERLAP:
        message = f"overlap: must be between 0 and {LONGEST_OVERLAP:g} seconds"
        raise Unprocessable(message, path="overlap")
    if len(live) >= MOST_SECRETS and not force:
        message = f"{whose} has two live secrets{_until(live[1])}; revoke the older one first, or force it"
        raise Conflict(message)


def _live(references: Sequence[SecretRef], now: float) -> list[SecretRef]:
    return [each for each in references if each.expires_at is None or now < each.expires_at]


def _live_secrets(app: App, now: float) -> list[SecretRef]:
    """Those that count now, the newest first. Raises Conflict where there are none that are ours to change."""
    references = read_verify(app)[1]
    if any(reference.paired for reference in references):
        message = f"the sender of app {app.name!r} makes its secret; `gateway app pair` waits for a new one"
        raise Conflict(message)
    if not isinstance(app.verify, dict) or not references:
        message = f"app {app.name!r} has no secret to rotate"
        raise Conflict(message)
    return _live(references, now)


def _with_secrets(app: App, references: list[SecretRef]) -> App:
    assert isinstance(app.verify, dict)
    return msgspec.structs.replace(app, verify=app.verify | {"secrets": msgspec.to_builtins(references)})


def _until(reference: SecretRef) -> str:
    return "" if reference.expires_at is None else f" until {iso(reference.expires_at * 1000)}"


def _is_handed_over(wish: Wish) -> bool:
    row = TABLE.get(HANDSHAKES.get(wish.scheme, ""))
    return row is not None and row.gives_secret


def make_secret(written: object, noise: Noise) -> str:
    """A secret of the form that senders of this scheme use. Raises ConfigError when there is no such scheme, or when it
    is the sender who makes the key.
    """
    scheme, raw = read_scheme(written, "scheme"), noise(SECRET_BYTES)
    if scheme.is_public:
        message = "scheme: this sender signs with a key of its own; write the app in gateway.yaml"
        raise ConfigError(message)
    if scheme.key in ("whsec", "base64"):
        return ("whsec_" if scheme.key == "whsec" else "") + _text(raw)
    return "gateway:" + raw.hex() if scheme.kind in ("basic", "authorization") else raw.hex()


def _callback_secret(noise: Noise) -> str:
    return "whsec_" + _text(noise(SECRET_BYTES))


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
