"""Hooks: one workflow's own URL each, `/api/v1/hooks/TOKEN`. The token is shown once; the store keeps a hash. Silent.

Source: ORQO, "Integrations: API", for the token's form: 43 characters that may stand in a URL.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping

import msgspec

from gateway.errors import Conflict, NotFound

TOKEN_BYTES = 32
ID_BYTES = 6
ID_FORM = "hook_[0-9a-f]{12}"
"""17 characters: no token, of 43, is an id, so that both may stand in the same place of a path."""


class Hook(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the store keeps of a hook. It names its workflow by name, for a number may come to mean another one.

    `created_at` is in unix seconds.
    """

    id: str
    name: str
    workflow: str
    hash: str
    created_at: int
    disabled: bool = False
    app_id: int | None = None
    """The app whose allow-list and secret a request's `callback_url` goes by."""

    @property
    def state(self) -> str:
        """`active` or `disabled`."""
        return "disabled" if self.disabled else "active"


def new_hook(
    workflow: str, name: str, now: float, noise: Callable[[int], bytes], app_id: int | None = None
) -> tuple[str, Hook]:
    """A new hook: its token, which is shown once, and what is kept of it. `noise` gives that many random bytes."""
    token = base64.urlsafe_b64encode(noise(TOKEN_BYTES)).decode().rstrip("=")
    hook_id = "hook_" + noise(ID_BYTES).hex()
    made = Hook(id=hook_id, name=name, workflow=workflow, hash=hash_token(token), created_at=int(now), app_id=app_id)
    return token, made


def is_hook_id(text: str) -> bool:
    """Whether this is an id, which may be shown, and no token, which may not."""
    return re.fullmatch(ID_FORM, text, re.ASCII) is not None


def hash_token(token: str) -> str:
    """What a token is looked up by. It has 256 random bits, so that a plain hash is enough to keep it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def open_hook(hooks: Mapping[str, Hook], token: str) -> Hook:
    """The hook of this token, among hooks by hash. Raises NotFound, in the same words for whatever is no token,
    or Conflict when the hook is disabled.
    """
    hook = hooks.get(hash_token(token))
    if hook is None:
        message = "there is no hook with this token"
        raise NotFound(message)
    if hook.disabled:
        message = "this hook is disabled"
        raise Conflict(message)
    return hook


def find_hook(hooks: Mapping[str, Hook], wanted: str) -> Hook:
    """The hook with this id, or the only one with this name. Raises NotFound, or Conflict when there are several."""
    found = [hook for hook in hooks.values() if hook.id == wanted] or [
        hook for hook in hooks.values() if hook.name == wanted
    ]
    if not found:
        message = f"there is no hook {wanted!r}; `gateway hook list` shows those there are"
        raise NotFound(message)
    if len(found) > 1:
        message = f"several hooks are called {wanted!r}; name one by its id"
        raise Conflict(message)
    return found[0]
