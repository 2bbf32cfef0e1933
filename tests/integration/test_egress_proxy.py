"""The operator's proxy, a real one on loopback: asked to CONNECT to what was approved, for everything, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.egress import Policy, Proxy, read_policy, read_proxy
from gateway.settings import read_settings
from gateway.web.client import Answer, Client, Failure, new_client
from gateway.web.tunnel import LONGEST_HEAD
from tests.integration.test_client import OK, peer, run, saying, silence, strict, tls_contexts, until
from tests.tools_egress import NAMES, TEXTS, Names, witnessed

PUBLIC = "93.184.216.34"
"""Stands in for the far end: the proxy of the tests leads elsewhere."""


class ConnectProxy:
    """A proxy that answers with its words, and after a 200 joins whoever asks with a port of this machine."""

    def __init__(self, words: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n", leads_to: int = 0) -> None:
        self.words = words
        self.leads_to = leads_to
        self.heads: list[bytes] = []
        self.open = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield Proxy("127.0.0.1", self.port, "Basic YW5uOnMzY3JldA==")
            await until(lambda: self.open == 0)
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.words)
            if self.leads_to:
                await self._join(reader, writer)
            elif not self.words:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client hung up
        finally:
            self.open -= 1
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.leads_to)
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()


def test_a_proxy_is_asked_for_the_approved_address(tmp_path: Path) -> None:
    """The name is looked up here once an attempt; CONNECT holds the address, TLS and Host the name; the way is kept."""
    server, trusting = tls_contexts(tmp_path, "hooks.example")
    asked: list[str | None] = []
    server.sni_callback = lambda _object, name, _context: asked.append(name)

    async def story() -> None:
        names = Names([PUBLIC])
        async with peer(saying(OK), server) as far:
            way = ConnectProxy(leads_to=far.port)
            async with (
                way.listening() as proxy,
                Client(strict(far.port), proxy=proxy, resolve=names, ssl_context=trusting) as client,
            ):
                for _ in range(2):
                    outcome = await client.request("POST", f"https://hooks.example:{far.port}/", body=b"x")
                    assert isinstance(outcome, Answer)
        place = f"{PUBLIC}:{far.port}"
        assert way.heads == [
            f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\nProxy-Authorization: Basic YW5uOnMzY3JldA==\r\n\r\n".encode()
        ]
        assert asked == ["hooks.example"]
        assert names.asked == ["hooks.example"] * 2
        assert len(far.requests) == 2
        assert all(b"proxy-authorization" not in each.lower() for each in far.requests)

    run(story())


def test_a_proxy_can_not_pass_another_for_the_name(tmp_path: Path) -> None:
    """Wherever a proxy leads, the certificate is that of the name, or nothing is sent."""
    server, trusting = tls_contexts(tmp_path, "other.example")

    async def story() -> None:
        async with peer(saying(OK), server) as far:
            way = ConnectProxy(leads_to=far.port)
            async with (
                way.listening() as proxy,
                Client(strict(far.port), proxy=proxy, resolve=Names([PUBLIC]), ssl_context=trusting) as client,
            ):
                outcome = await client.request("POST", f"https://hooks.example:{far.port}/", body=b"x")
        assert isinstance(outcome, Failure)
        assert (outcome.reason, far.requests) == ("tls", [])

    run(story())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_plain_http_goes_by_connect_too(address: str) -> None:
    """A target in an allowed network is asked of the proxy as well, by its address, also without TLS."""

    async def story() -> None:
        async with peer(saying(OK)) as far:
            way = ConnectProxy(leads_to=far.port)
            async with (
                way.listening() as proxy,
                Client(read_policy("127.0.0.1, ::1"), proxy=proxy, resolve=Names([address])) as client,
            ):
                with witnessed() as witness:
                    outcome = await client.request("GET", f"http://inside.example:{far.port}/a")
        assert isinstance(outcome, Answer)
        place = f"[{address}]:{far.port}" if ":" in address else f"{address}:{far.port}"
        assert way.heads[0].startswith(f"CONNECT {place} HTTP/1.1\r\n".encode())
        assert far.requests[0].startswith(f"GET /a HTTP/1.1\r\nhost: inside.example:{far.port}\r\n".encode())
        assert witness.looked_up == []

    run(story())


def test_a_proxy_hears_nothing_of_hostile_addresses() -> None:
    """What the guard refuses is not asked of the proxy either, which may be able to reach it."""

    async def story() -> None:
        way = ConnectProxy()
        async with way.listening() as proxy:
            policy = Policy(ports=frozenset({way.port}))
            for name in NAMES.values():
                async with Client(policy, proxy=proxy, resolve=Names(name.answer)) as client:
                    outcome = await client.request("GET", f"https://{name.host}:{way.port}/")
                assert isinstance(outcome, Failure)
                assert outcome.public_reason == "unreachable"
            async with Client(policy, proxy=proxy) as client:
                for url in TEXTS:
                    assert isinstance(await client.request("GET", url.replace("PORT", str(way.port))), Failure)
        assert way.heads == []

    run(story())


ANSWERS = {
    "refused": b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
    "wrong password": b'HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm="x"\r\n\r\n',
    "not reached": b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
    "late": b"HTTP/1.1 504 Gateway Timeout\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\n\r\n",
    "early": b"HTTP/1.1 100 Continue\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nx: ",
    "endless head": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (2 * LONGEST_HEAD),
    "more than its answer": b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", ANSWERS)
def test_a_proxy_that_opens_no_way_is_an_unreachable_target(kind: str, scheme: str) -> None:
    """Outside, what the proxy refuses and what it can't reach look like any unreachable address; the detail tells."""

    async def story() -> None:
        way = ConnectProxy(ANSWERS[kind])
        async with (
            way.listening() as proxy,
            Client(read_policy("127.0.0.1"), proxy=proxy, resolve=Names(["127.0.0.1"])) as client,
        ):
            outcome = await client.request("GET", f"{scheme}://hooks.example:9/")
        assert isinstance(outcome, Failure)
        assert outcome.public_text == "unreachable: no connection could be made"
        assert "egress proxy" in outcome.detail
        assert "YW5u" not in outcome.detail

    run(story())


def test_a_proxy_that_is_not_there_or_says_nothing() -> None:
    """No proxy is unreachable and a silent one a timeout, within the time for connecting; no connection is left open."""

    async def story() -> None:
        way = ConnectProxy(b"")
        async with way.listening() as proxy, Client(read_policy("127.0.0.1"), proxy=proxy) as client:
            silent = await client.request("GET", "http://127.0.0.1:9/", connect_timeout=0.1)
        async with Client(read_policy("127.0.0.1"), proxy=proxy) as client:
            gone = await client.request("GET", "http://127.0.0.1:9/")
        for outcome, reason in ((silent, "timeout"), (gone, "unreachable")):
            assert isinstance(outcome, Failure)
            assert outcome.reason == reason
            assert "egress proxy" in outcome.detail
            assert outcome.duration_ms < 2000

    run(story())


def test_giving_up_closes_the_way() -> None:
    """The total deadline also ends a request that waits for the proxy or, behind it, for the far end."""

    async def story() -> None:
        async with peer(silence) as far:
            for way in (ConnectProxy(b""), ConnectProxy(leads_to=far.port)):
                async with way.listening() as proxy, Client(read_policy("127.0.0.1"), proxy=proxy) as client:
                    outcome = await client.request("GET", f"http://127.0.0.1:{far.port}/", total_timeout=0.2)
                assert isinstance(outcome, Failure)
                assert outcome.reason == "timeout"

    run(story())


def test_the_setting_makes_the_client() -> None:
    """GATEWAY_EGRESS_PROXY is what the product's client goes through, whatever the proxy variables say."""

    async def story() -> None:
        async with peer(saying(OK)) as far:
            way = ConnectProxy(leads_to=far.port)
            async with way.listening():
                environ = {
                    "GATEWAY_EGRESS_PROXY": f"http://ann:s3cret@localhost:{way.port}",
                    "GATEWAY_EGRESS_ALLOW": "127.0.0.1",
                    "HTTP_PROXY": "http://127.0.0.1:1",
                }
                async with new_client(read_settings(environ)) as client:
                    assert isinstance(await client.request("GET", f"http://127.0.0.1:{far.port}/"), Answer)
        assert b"Proxy-Authorization: Basic YW5uOnMzY3JldA==\r\n" in way.heads[0]
        assert read_proxy("") is None

    run(story())
