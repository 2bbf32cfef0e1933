"""API tokens: `gw_<kind>_<id><secret><checksum>`. Shown once; the store keeps a hash.

The prefix lets scanners find a leaked token, the checksum refuses a typo without a look-up.
The random part has more than 200 bits, so that a plain hash is enough to keep it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import zlib

import msgspec

from gateway.credits import Allowance

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 10
SECRET_LENGTH = 36
CHECK_LENGTH = 6
FORM = re.compile(
    rf"gw_([a-z]+)_([0-9A-Za-z]{{{ID_LENGTH}}})([0-9A-Za-z]{{{SECRET_LENGTH}}})([0-9A-Za-z]{{{CHECK_LENGTH}}})"
)
SCOPES = ("runs:start", "runs:read", "runs:cancel", "workflows:read", "workflows:write", "admin")


GRANT = re.compile(r"([a-z:]+)(?:@(workflow|app):(.+))?")


class Grant(msgspec.Struct, frozen=True):
    """One scope of a token: what it may do, everywhere or only with one workflow or app (by id or name)."""

    scope: str
    kind: str | None = None
    name: str | None = None


def read_grant(text: str) -> Grant | None:
    """A scope as it is written: `runs:start`, `runs:start@workflow:review`, `runs:read@app:42`. None when it is none."""
    match = GRANT.fullmatch(text)
    if match is None or match[1] not in SCOPES or (match[1] == "admin" and match[2]):
        return None
    return Grant(match[1], match[2], match[3])


class Subject(msgspec.Struct, frozen=True):
    """What a caller wants to touch: the ids and names of its workflow and app, where it has them."""

    workflow: frozenset[str] = frozenset()
    app: frozenset[str] = frozenset()


NOTHING = Subject()


class Token(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the store keeps of a token. Times are unix seconds."""

    id: str
    name: str
    hash: str
    scopes: list[str]
    created_at: int
    credits: Allowance | None = None
    expires_at: int | None = None
    revoked_at: int | None = None

    @property
    def payer(self) -> str:
        """The name of its balance."""
        return f"token:{self.id}"

    def may(self, scope: str, subject: Subject = NOTHING) -> bool:
        """Whether it carries this scope for this subject. `admin` carries all; a narrowed scope needs its subject."""
        return any(_grants(grant, scope, subject) for text in self.scopes if (grant := read_grant(text)))

    def is_narrowed(self, scope: str) -> bool:
        """Whether it carries this scope only for some workflows or apps."""
        grants = [grant for text in self.scopes if (grant := read_grant(text))]
        return not any(each.scope == "admin" or (each.scope == scope and each.kind is None) for each in grants)

    def state(self, now: float) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


def new_token(
    name: str,
    scopes: list[str],
    now: float,
    lifetime: float | None = None,
    credits: Allowance | None = None,
    kind: str = "api",
) -> tuple[str, Token]:
    """A new token: its text, which is shown once, and what is kept of it."""
    public, secret = _random(ID_LENGTH), _random(SECRET_LENGTH)
    text = f"gw_{kind}_{public}{secret}"
    text += _checksum(text)
    expires_at = None if lifetime is None else int(now + lifetime)
    kept = Token(
        id=public,
        name=name,
        hash=_hash(text),
        scopes=scopes,
        created_at=int(now),
        credits=credits,
        expires_at=expires_at,
    )
    return text, kept


def read_id(text: str) -> str | None:
    """The id in a token's text; None when this is no token of ours or was mistyped."""
    match = FORM.fullmatch(text)
    if match is None or not hmac.compare_digest(_checksum(text[:-CHECK_LENGTH]), match[4]):
        return None
    return match[2]


def matches(text: str, token: Token, now: float) -> bool:
    """Whether this text is that token, and the token may still be used."""
    return hmac.compare_digest(_hash(text), token.hash) and token.state(now) == "active"


def _grants(grant: Grant, scope: str, subject: Subject) -> bool:
    if grant.scope == "admin":
        return True
    if grant.scope != scope:
        return False
    if grant.kind is None:
        return True
    return grant.name in (subject.workflow if grant.kind == "workflow" else subject.app)


def _random(length: int) -> str:
    # 248 is the largest multiple of 62 in a byte; what lies above would favour the first letters.
    letters: list[str] = []
    while len(letters) < length:
        letters += [ALPHABET[byte % 62] for byte in os.urandom(length) if byte < 248]
    return "".join(letters[:length])


def _checksum(text: str) -> str:
    number, letters = zlib.crc32(text.encode()), ""
    for _ in range(CHECK_LENGTH):
        number, rest = divmod(number, 62)
        letters += ALPHABET[rest]
    return letters


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
