"""Apps made and changed by command or API: with secrets of their own, shown once and kept sealed. Silent."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import msgspec

from gateway.apps import App, CallbackSettings, check_app, read_verify
from gateway.egress import Policy, check_url
from gateway.errors import ConfigError, Conflict, Unprocessable
from gateway.handshakes import HANDSHAKES, TABLE
from gateway.secrets import SecretRef, seal
from gateway.signatures import read_scheme

SECRET_BYTES = 32
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

    No `secret`: its sender hands that over.
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
        callback_secret = "whsec_" + _text(noise(SECRET_BYTES))
        sealed = SecretRef(sealed=seal(master_keys, owner, callback_secret))
        callback = CallbackSettings(url=wish.callback_url, secret=sealed)
    own = {} if secret is None or by_url else {"secrets": [{"sealed": seal(master_keys, owner, secret)}]}
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


def rotate(app: App, master_keys: Sequence[bytes], noise: Noise) -> Registration:
    """The app with a new secret; the one it had is taken as well, until the next rotation.

    Raises Conflict when it has none, ConfigError without a master key.
    """
    references = read_verify(app)[1]
    if any(reference.paired for reference in references):
        message = f"the sender of app {app.name!r} makes its secret; `gateway app pair` waits for a new one"
        raise Conflict(message)
    if not isinstance(app.verify, dict) or not references:
        message = f"app {app.name!r} has no secret to rotate"
        raise Conflict(message)
    secret = make_secret({part: value for part, value in app.verify.items() if part != "secrets"}, noise)
    sealed = {"sealed": seal(master_keys, f"app:{app.name}", secret)}
    secrets = [sealed, msgspec.to_builtins(references[0])]
    return Registration(msgspec.structs.replace(app, verify=app.verify | {"secrets": secrets}), secret)


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
    return "gateway:" + raw.hex() if scheme.kind == "basic" else raw.hex()


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
