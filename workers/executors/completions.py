"""What an OpenAI-compatible provider answers, whole or as a stream of events. Silent: bytes in, values out.

Sources: OpenAI, "Create chat completion" and "Streaming"; HTML Living Standard, section 9.2 (the format of events).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

DONE = b"[DONE]"
RAW_BYTES = 64
LEAST_RAW = 8_388_608
"""A stream may have so many bytes for each byte of its text, or at least so many in all.

Each piece is wrapped in a few hundred bytes, and some models think aloud in fields that are no text.
"""
LONGEST_REASON = 500
_Count = Annotated[int, Meta(ge=0, le=2**40)]


class Usage(Struct, frozen=True):
    """The tokens that one completion took."""

    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    total_tokens: _Count = 0


class Completion(Struct, frozen=True, kw_only=True):
    """What a model said. `whole` is false for a stream that broke off; `usage` is none where none was told."""

    text: str | None
    refusal: str | None
    finish_reason: str | None
    model: str | None
    usage: Usage | None
    whole: bool = True


class _Message(Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(Struct):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None


class _Document(Struct):
    """A whole answer, or one event of a stream."""

    choices: list[_Choice] = []
    model: str | None = None
    usage: Usage | None = None
    error: Any = None


class ProviderError(Exception):
    """The provider said inside its answer that it failed; the message is the provider's own."""


def read_completion(body: bytes) -> Completion:
    """A whole answer. Raises ValueError for what is no completion, ProviderError for an error in its place."""
    document = _decode(body)
    choice = next((each for each in document.choices if each.index == 0), None)
    if choice is None or choice.message is None:
        message = "the answer holds no choice"
        raise ValueError(message)
    return Completion(
        text=choice.message.content,
        refusal=choice.message.refusal,
        finish_reason=choice.finish_reason,
        model=document.model,
        usage=_sum_up(document.usage),
    )


def read_reason(body: bytes) -> str | None:
    """The provider's own words in the body of an error, if there are any."""
    try:
        document = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    return _words_of(document.get("error")) or _words_of(document)


class Collector:
    """Takes in a stream of events and puts the completion together; `say` is given each piece of text as it comes.

    At most `cap` bytes of text are taken; `problem` then says that there was more, or what else ended it.
    """

    def __init__(self, cap: int, say: Callable[[str], None]) -> None:
        self._events = EventReader()
        self._cap = cap
        self._raw_cap = max(cap * RAW_BYTES, LEAST_RAW)
        self._say = say
        self._raw = 0
        self._size = 0
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._finish_reason: str | None = None
        self._model: str | None = None
        self._done = False
        self.usage: Usage | None = None
        self.problem: Exception | None = None

    def take(self, chunk: bytes) -> bool:
        """Take in what came next; true when nothing more is wanted."""
        self._raw += len(chunk)
        try:
            if self._raw > self._raw_cap:
                message = f"the provider sent more than {self._raw_cap} bytes for one answer"
                raise OverflowError(message)
            for data in self._events.feed(chunk):
                self._take_event(data)
                if self._done:
                    return True
        except (ValueError, ProviderError, OverflowError) as error:
            self.problem = error
            return True
        return False

    def completion(self) -> Completion:
        """All that was said."""
        return Completion(
            text="".join(self._texts) if self._texts or not self._refusals else None,
            refusal="".join(self._refusals) or None,
            finish_reason=self._finish_reason,
            model=self._model,
            usage=self.usage,
            whole=self._done or self._finish_reason is not None,
        )

    def _take_event(self, data: bytes) -> None:
        if data.strip() == DONE:
            self._done = True
            return
        document = _decode(data)
        self._model = self._model or document.model
        self.usage = _sum_up(document.usage) or self.usage
        for choice in document.choices:
            if choice.index == 0:
                self._take_choice(choice)

    def _take_choice(self, choice: _Choice) -> None:
        self._finish_reason = choice.finish_reason or self._finish_reason
        piece = choice.delta
        if piece is not None and piece.refusal:
            self._grow(piece.refusal)
            self._refusals.append(piece.refusal)
        if piece is not None and piece.content:
            self._grow(piece.content)
            self._texts.append(piece.content)
            self._say(piece.content)

    def _grow(self, text: str) -> None:
        self._size += len(text.encode(errors="replace"))
        if self._size > self._cap:
            message = f"the model said more than the {self._cap} bytes allowed (GATEWAY_MAX_OUTPUT)"
            raise OverflowError(message)


class EventReader:
    """Cuts a stream of server-sent events into the data of each, however its bytes are cut."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that these bytes complete. An event without its empty line is never given."""
        text = self._rest + chunk
        # A line may end in CR LF, and this chunk between the two.
        held = b"\r" if text.endswith(b"\r") else b""
        text = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._rest = rest + held
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events


def _decode(body: bytes) -> _Document:
    try:
        document = msgspec.json.decode(body, type=_Document)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        message = f"it is no chat completion: {error}"
        raise ValueError(message) from None
    if document.error is not None:
        raise ProviderError(_words_of(document.error) or "no reason given")
    return document


def _words_of(error: Any) -> str | None:
    found = error
    if isinstance(error, dict):
        found = error.get("message") or error.get("detail")
    return found[:LONGEST_REASON] if isinstance(found, str) and found else None


def _sum_up(usage: Usage | None) -> Usage | None:
    if usage is None or usage.total_tokens:
        return usage
    total = usage.prompt_tokens + usage.completion_tokens
    return Usage(usage.prompt_tokens, usage.completion_tokens, total)
