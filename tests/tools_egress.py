"""What the tests of the guard share: the corpus, a listener that counts, and a witness of every connection and look-up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from gateway.web.client import Answer, Client, Failure

CORPUS = yaml.safe_load((Path(__file__).parent / "samples" / "egress" / "hostile.yaml").read_text(encoding="utf-8"))
TEXTS: list[str] = [url for urls in CORPUS["texts"].values() for url in urls]
"""URLs that are refused as they stand. PORT stands for a port."""
REDIRECTS: list[str] = CORPUS["redirects"]
OUTSIDE = "127.0.0.2"
"""Stands for the world outside: a second address of loopback, which a test may allow by itself."""


TLS = ssl.create_default_context()
"""Made once: it takes a while, and no test of these gets as far as a certificate."""


class Name(msgspec.Struct, frozen=True):
    """A host that leads where it must not."""

    host: str
    answer: list[str] | str


NAMES: dict[str, Name] = msgspec.convert(CORPUS["names"], dict[str, Name])


class Names:
    """Answers look-ups as written down, the last answer for ever, and notes who was asked for."""

    def __init__(self, *answers: Sequence[str] | str) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            raise socket.gaierror(socket.EAI_NONAME, answer)
        return answer


class CountingClient(Client):
    """The guarded client, which says how many attempts it was asked for, and what came of them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **({"ssl_context": TLS} | options))
        self.outcomes: list[Answer | Failure] = []

    async def request(self, *arguments: Any, **options: Any) -> Answer | Failure:
        outcome = await super().request(*arguments, **options)
        self.outcomes.append(outcome)
        return outcome


class CatchAll:
    """Listens on this machine's own addresses and counts whoever comes."""

    def __init__(self, *others: str) -> None:
        self._others = others
        self.port = 0
        self.connections = 0

    async def _count(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[CatchAll]:
        servers = [await asyncio.start_server(self._count, "127.0.0.1", 0)]
        self.port = servers[0].sockets[0].getsockname()[1]
        for host in self._others or (OUTSIDE, "::1"):
            with contextlib.suppress(OSError):  # not every machine has these
                servers.append(await asyncio.start_server(self._count, host, self.port))
        try:
            yield self
        finally:
            for server in servers:
                server.close()


class Witness:
    """The addresses that this process connected to over a network, and the names it had looked up, by Python's own
    audit events: also where nobody listens.
    """

    def __init__(self) -> None:
        self.dialled: list[str] = []
        self.looked_up: list[str] = []


_witnesses: list[Witness] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    for each in _witnesses:
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            each.dialled.append(str(arguments[1][0]))
        elif event == "socket.getaddrinfo":
            each.looked_up.append(str(arguments[0]))


sys.addaudithook(_note)


@contextlib.contextmanager
def witnessed() -> Iterator[Witness]:
    """Look on for a while."""
    witness = Witness()
    _witnesses.append(witness)
    try:
        yield witness
    finally:
        _witnesses.remove(witness)


def has_outside() -> bool:
    """Whether this machine has a second address of loopback."""
    try:
        socket.create_server((OUTSIDE, 0)).close()
    except OSError:
        return False
    return True
