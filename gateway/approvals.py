"""Links by which somebody without a token approves or rejects one step of one run. Silent: values in, a token out.

A link's token says run, step and expiry, and is signed (HMAC-SHA256) under a key derived from a master key. It holds no
nonce and is kept nowhere: that a step is decided once is the run's own doing. Whoever has the link may decide.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

import msgspec

from gateway.errors import ConfigError, NotFound, Refused
from gateway.runs import iso

PURPOSE = b"event gateway: approval links, 1"
LONGEST_TOKEN = 1000
HOURS = 48
MOST_HOURS = 24 * 365
PAGE = "/approve"


class Expired(Refused):
    """This link's time is over."""

    code = "expired"
    status = 410


class Link(msgspec.Struct, frozen=True, array_like=True):
    """What a link is about. `expires_at` is in seconds since 1970."""

    run_id: int
    step: str
    expires_at: int


class LinkDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A link as it is handed out. Whoever has the `url` may decide, until it `expires_at`."""

    url: str
    run_id: int
    step: str
    expires_at: str | None


class Signer:
    """Writes tokens that say something and prove that we said it, for one purpose, and reads them."""

    def __init__(self, purpose: bytes, master_keys: Sequence[bytes] = ()) -> None:
        self._keys = tuple(hmac.digest(key, purpose, hashlib.sha256) for key in master_keys)

    @property
    def is_able(self) -> bool:
        """Whether there is a key to sign with."""
        return bool(self._keys)

    def write(self, body: bytes) -> str:
        """A token that says this. There must be a key."""
        return f"{_text(body)}.{_text(_sign(self._keys[0], body))}"

    def read(self, token: str) -> bytes | None:
        """What a token says; None for one that we did not sign."""
        text, _, signature = token.partition(".")
        body, given = _bytes(text), _bytes(signature)
        if len(token) > LONGEST_TOKEN or body is None or given is None:
            return None
        return body if any(hmac.compare_digest(_sign(key, body), given) for key in self._keys) else None


class Links:
    """Makes and reads the links of one gateway, which the world reaches at `address`."""

    def __init__(self, master_keys: Sequence[bytes] = (), address: str = "") -> None:
        self._signer = Signer(PURPOSE, master_keys)
        self._address = address

    def make(self, run_id: int, step: str, hours: float, now: float) -> LinkDocument:
        """A link that is good for so many hours. Raises ConfigError without a master key."""
        if not self._signer.is_able:
            message = (
                "there is no key to sign a link with; set GATEWAY_MASTER_KEYS: `openssl rand -base64 32` makes one"
            )
            raise ConfigError(message)
        link = Link(run_id, step, int(now + hours * 3600))
        url = f"{self._address}{PAGE}/{self._signer.write(msgspec.json.encode(link))}"
        return LinkDocument(url=url, run_id=run_id, step=step, expires_at=iso(link.expires_at * 1000))

    def read(self, token: str, now: float) -> Link:
        """What a token is about. Raises NotFound for one that we did not sign, Expired for one that is too old."""
        body = self._signer.read(token)
        if body is None:
            message = "this is no link of ours: see that it was copied whole"
            raise NotFound(message)
        link = msgspec.json.decode(body, type=Link)
        if link.expires_at <= now:
            message = f"this link was good until {iso(link.expires_at * 1000)}; ask for a new one"
            raise Expired(message)
        return link


def _sign(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, hashlib.sha256)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes | None:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return None
    # The decoder passes over what it doesn't know, so that many texts would be one token.
    return raw if _text(raw) == text else None
