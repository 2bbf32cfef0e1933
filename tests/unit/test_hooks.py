"""Hooks: their tokens are random, shown once, and found by nothing but themselves."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import string

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.errors import Conflict, NotFound
from gateway.hooks import Hook, find_hook, new_hook, open_hook

NOW = 1_700_000_000.5
ALPHABET = string.ascii_letters + string.digits + "-_"
NOISE = st.binary(min_size=32, max_size=32)


def made(noise: bytes = bytes(range(32)), name: str = "ci") -> tuple[str, Hook]:
    """A hook from known bytes."""
    return new_hook("review", name, NOW, lambda size: noise[:size])


def words_of(hooks: dict[str, Hook], token: str) -> str:
    """The refusal of a token that opens nothing."""
    with pytest.raises(NotFound) as caught:
        open_hook(hooks, token)
    return caught.value.message


@given(NOISE)
def test_a_token_is_32_bytes_in_43_url_safe_characters(noise: bytes) -> None:
    """A token is its 32 random bytes in unpadded base64url."""
    token, _ = made(noise)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert base64.urlsafe_b64decode(token + "=") == noise


def test_what_is_kept_of_a_hook_does_not_hold_its_token() -> None:
    """The store gets the token's SHA-256 and nothing the token could be read from."""
    token, hook = made()
    assert token.encode() not in msgspec.json.encode(hook)
    digest = hashlib.sha256(token.encode()).hexdigest()
    assert hook == Hook(id="hook_000102030405", name="ci", workflow="review", hash=digest, created_at=1_700_000_000)


@given(NOISE)
def test_its_token_opens_a_hook(noise: bytes) -> None:
    """A hook is found by its own token."""
    token, hook = made(noise)
    assert open_hook({hook.hash: hook}, token) == hook


@given(st.text(max_size=60) | st.text(ALPHABET, min_size=43, max_size=43))
def test_nothing_else_opens_it(text: str) -> None:
    """Whatever is not the token, of its form or not, is refused in the same words."""
    token, hook = made()
    assume(text != token)
    hooks = {hook.hash: hook}
    assert words_of(hooks, text) == words_of(hooks, "") == "there is no hook with this token"


@given(NOISE, st.integers(0, 42), st.sampled_from(ALPHABET))
def test_one_changed_letter_opens_nothing(noise: bytes, place: int, letter: str) -> None:
    """A token with one other letter is no token, also where base64 would decode to the same bytes."""
    token, hook = made(noise)
    changed = token[:place] + letter + token[place + 1 :]
    assume(changed != token)
    assert words_of({hook.hash: hook}, changed)


@given(NOISE, st.sampled_from(["{}=", " {}", "{}\n", "{}\0", "{}/"]))
def test_what_is_added_to_a_token_counts(noise: bytes, form: str) -> None:
    """A token with padding, blanks or anything else around it is no token."""
    token, hook = made(noise)
    assert words_of({hook.hash: hook}, form.format(token))


def test_the_stored_hash_is_no_token() -> None:
    """Whoever reads the store can't use what is there."""
    _, hook = made()
    assert words_of({hook.hash: hook}, hook.hash)


def test_a_lone_surrogate_is_refused_like_the_rest() -> None:
    """A path that is no text does no harm."""
    assert words_of({}, "\ud800")


def test_a_disabled_hook_says_so() -> None:
    """A disabled hook is a Conflict, for its address is right."""
    token, hook = made()
    hooks = {hook.hash: msgspec.structs.replace(hook, disabled=True)}
    with pytest.raises(Conflict, match=r"^this hook is disabled$"):
        open_hook(hooks, token)


def test_hooks_are_different() -> None:
    """Two hooks share neither token nor id."""
    (first, one), (second, other) = (new_hook("review", "ci", NOW, os.urandom) for _ in range(2))
    assert first != second
    assert one.id != other.id


def test_a_hook_is_found_by_id_or_by_its_only_name() -> None:
    """An id finds its hook; a name does when it is the only one; else the person is told what to do."""
    _, one = made(bytes(32), "ci")
    _, two = made(bytes([1] * 32), "ci")
    _, three = made(bytes([2] * 32), one.id)
    hooks = {hook.id: hook for hook in (one, two, three)}
    assert find_hook(hooks, one.id) == one
    with pytest.raises(Conflict, match="several hooks are called 'ci'; name one by its id"):
        find_hook(hooks, "ci")
    with pytest.raises(NotFound, match="there is no hook 'cd'; `gateway hook list` shows those there are"):
        find_hook(hooks, "cd")
