"""Answers that come bit by bit: the client's side of an event stream, and what a step says meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gateway.egress import read_policy
from gateway.timelines import Delta
from gateway.web.client import Answer, Client, Failure
from tests.tools import read_call, tell, until
from workers.executors import speaker
from workers.executors.base import Context
from workers.executors.speaker import Speaker

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
Talk = Callable[[asyncio.StreamWriter], Awaitable[None]]


def piece(text: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text)


class Peer:
    def __init__(self) -> None:
        self.url = ""
        self.left = asyncio.Event()


@asynccontextmanager
async def peer(talk: Talk) -> AsyncIterator[Peer]:
    """A server that says what `talk` says to each request, and notices when the client leaves."""
    found = Peer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await read_call(reader)
            await talk(writer)
            await reader.read()
        found.left.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        yield found
    finally:
        server.close()


def client(allow: str = "127.0.0.1") -> Client:
    return Client(read_policy(allow))


def test_a_stream_is_handed_over_as_it_comes() -> None:
    """The sink has the first bytes before the peer has sent the last; the answer's body is empty."""
    heard: list[bytes] = []

    def sink(chunk: bytes) -> bool:
        heard.append(chunk)
        return False

    async def talk(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + piece(b"a"))
        await until(lambda: heard == [b"a"])
        writer.write(piece(b"b") + END)

    async def story() -> None:
        async with peer(talk) as found, client() as sender:
            answer = await sender.request("POST", found.url, sink=sink, idle_timeout=10, cap=1)
            assert isinstance(answer, Answer)
            assert (answer.status, answer.body, answer.truncated, b"".join(heard)) == (200, b"", False, b"ab")

    tell(story())


def test_a_sink_that_has_heard_enough_hangs_up() -> None:
    """True from the sink ends the reading at once, and the connection with it."""

    async def talk(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + piece(b"a"))

    async def story() -> None:
        async with peer(talk) as found, client() as sender:
            answer = await sender.request("POST", found.url, sink=lambda _: True)
            assert isinstance(answer, Answer)
            assert answer.truncated
            await until(found.left.is_set)

    tell(story())


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\n",
        b"HTTP/1.1 503 No\r\ncontent-type: text/event-stream\r\ncontent-length: 4\r\n\r\n",
    ],
)
def test_what_is_no_stream_is_read_as_ever(head: bytes) -> None:
    """An answer of another type, or a failure, is kept up to the cap, and the sink hears nothing."""

    async def talk(writer: asyncio.StreamWriter) -> None:
        writer.write(head + b"nope")

    async def story() -> None:
        async with peer(talk) as found, client() as sender:
            answer = await sender.request("POST", found.url, sink=lambda _: 1 / 0 > 0, cap=3)
            assert isinstance(answer, Answer)
            assert (answer.body, answer.truncated) == (b"nop", True)

    tell(story())


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"idle_timeout": 0.1}, "nothing came for 0.1 s"), ({"total_timeout": 0.1}, "no whole answer within 0.1 s")],
)
def test_a_stream_that_falls_silent_is_ended(limits: dict[str, Any], words: str) -> None:
    """Silence has a limit, and so has the whole; the peer sees the client leave."""

    async def talk(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + piece(b"a"))

    async def story() -> None:
        async with peer(talk) as found, client() as sender:
            answer = await sender.request("POST", found.url, sink=lambda _: False, **limits)
            assert isinstance(answer, Failure)
            assert (answer.reason, words in answer.detail) == ("timeout", True)
            await until(found.left.is_set)

    tell(story())


def test_a_stream_from_inside_is_refused_like_any_answer() -> None:
    """The guards do not look at what the caller wants to do with the answer."""

    async def story() -> None:
        async with client("10.0.0.0/8") as sender:
            answer = await sender.request("POST", "http://localhost:1/", sink=lambda _: True)
            assert isinstance(answer, Failure)
            assert answer.reason == "refused_address"

    tell(story())


# ---- what a step says meanwhile


def context(tell_delta: Callable[[Delta], Awaitable[None]], sender: Client) -> Context:
    return Context(run_id=7, step_id="a", attempt=2, key="k", seconds=1, cap=1, client=sender, tell=tell_delta)


def test_words_are_gathered_and_none_is_lost() -> None:
    """A thousand pieces said at once become few, in order, each with its place; no secret is among them."""
    told: list[Delta] = []

    async def hear(delta: Delta) -> None:
        told.append(delta)

    async def story() -> None:
        async with client() as sender, Speaker(context(hear, sender), lambda text: text.replace("999", "***")) as mouth:
            for number in range(1000):
                mouth.say(f"{number} ")
        assert "".join(each.text for each in told) == "".join(f"{n} " for n in range(999)) + "*** "
        assert [each.offset for each in told] == [0]
        assert (told[0].run_id, told[0].step, told[0].attempt) == (7, "a", 2)

    tell(story())


@pytest.mark.parametrize("error", [None, ConnectionError("gone")])
def test_nobody_who_listens_is_no_trouble(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """A store that is gone, or hangs, neither fails the step nor holds it for long."""
    monkeypatch.setattr(speaker, "LAST_WORDS", 0.1)

    async def hear(_: Delta) -> None:
        if error is not None:
            raise error
        await asyncio.Event().wait()

    async def story() -> None:
        async with asyncio.timeout(5), client() as sender, Speaker(context(hear, sender), str) as mouth:
            mouth.say("hello")

    tell(story())
