"""The same write again, known by its `Idempotency-Key`: it is answered as the first time and changes nothing.

Another request under the key is a 409. So is one that comes while the first is under way, or when nobody knows how the
first ended. What was refused changed nothing and may be tried again under the same key.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway.errors import ConfigError, Conflict, Refused
from gateway.store.answers import Answers, Kept
from gateway.store.connection import MISTAKES

UNDER_WAY = 60.0
"""Seconds after which a write that has no answer yet is held to be lost: none takes that long."""
Answer = tuple[int, Any]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One keyed write: who sent it under which key, and what makes it the same."""

    token_id: str
    key: str
    method: str
    target: bytes
    body: bytes

    @property
    def name(self) -> str:
        """What it is kept under. A key belongs to its token: nobody meets another's."""
        return _hash(self.token_id.encode(), self.key.encode())

    @property
    def digest(self) -> str:
        return _hash(self.method.encode(), self.target, self.body)


class Repeats:
    """Does a keyed write once."""

    def __init__(self, answers: Answers, clock: Callable[[], float] = time.time) -> None:
        self._answers = answers
        self._clock = clock

    async def once(self, attempt: Attempt, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer of `work`, which is done unless its answer is kept. Raises Conflict, and what `work` raises."""
        now, name = self._clock(), attempt.name
        kept = await self._answers.begin(name, attempt.digest, now)
        if kept is not None:
            return self._again(attempt, kept, now)
        try:
            status, document = await work()
        except (Refused, ConfigError):
            # Nothing was changed. Where the store does not take even this, the key is lost, not the answer.
            with contextlib.suppress(*MISTAKES):
                await self._answers.forget(name)
            raise
        content = b"" if document is None else msgspec.json.encode(document)
        # What was done is done: an answer that can't be kept is still the answer.
        with contextlib.suppress(*MISTAKES):
            await self._answers.keep(name, Kept(attempt.digest, now), status, content)
        return status, msgspec.Raw(content) if content else None

    def _again(self, attempt: Attempt, kept: Kept, now: float) -> Answer:
        if kept.digest != attempt.digest:
            message = "this Idempotency-Key came before with another request; give each request a key of its own"
            raise Conflict(message)
        content = self._answers.read(attempt.name, kept)
        if kept.status is not None and content is not None:
            return kept.status, msgspec.Raw(content) if content else None
        if kept.status is None and now < kept.began + UNDER_WAY:
            message = "a request with this Idempotency-Key is under way; ask again in a moment"
            raise Conflict(message)
        message = (
            "a request with this Idempotency-Key came before and its answer is not known here; "
            "look whether it was done, then send what is left to do under another key"
        )
        raise Conflict(message)


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()
