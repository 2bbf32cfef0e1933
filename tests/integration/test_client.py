"""The client against real sockets on loopback: whom it dials, what it sends, how bad endings are told."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.egress import MAX_ADDRESSES, Policy, read_policy
from gateway.web.client import Answer, Client, Failure, look_up

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
LOOPBACK = read_policy("127.0.0.1, ::1")
PATIENCE = 5.0


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


HAS_IPV6 = has_ipv6()
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no ::1")

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A listener on 127.0.0.1, and on ::1 where there is one, which counts what it sees."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.port = 0
        self.connections = 0
        self.open = 0
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                self.requests.append(await read_request(reader))
                await self.talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client hung up, which `open` shows
        finally:
            self.open -= 1
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.partition(b":")[2]))
    return head


@asynccontextmanager
async def peer(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    found = Peer(talk)
    servers = [await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=tls)]
    found.port = servers[0].sockets[0].getsockname()[1]
    if HAS_IPV6:
        servers.append(await asyncio.start_server(found.serve, "::1", found.port, ssl=tls))
    try:
        yield found
        await until(lambda: found.open == 0)
    finally:
        for server in servers:
            server.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 (the other side's state has no event)
            await asyncio.sleep(0.001)


def saying(answer: bytes) -> Talk:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return talk


def saying_last(answer: bytes) -> Talk:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        raise ConnectionResetError

    return talk


async def silence(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await writer.drain()


class Names:
    """Answers look-ups as written down, the last answer for ever, and notes who was asked for."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


def run(story: Coroutine[Any, Any, None]) -> None:
    async def told() -> None:
        async with asyncio.timeout(30):
            await story

    asyncio.run(told())


def strict(port: int) -> Policy:
    """A policy that allows no network, and would dial this port if the address were public."""
    return Policy(ports=frozenset({port}))


HOSTILE_ANSWERS: dict[str, Sequence[str] | OSError] = {
    "loopback": ["127.0.0.1"],
    "loopback, IPv6": ["::1"],
    "this host": ["0.0.0.0"],
    "this host, IPv6": ["::"],
    "mapped": ["::ffff:127.0.0.1"],
    "translated": ["::ffff:0:127.0.0.1"],
    "compatible": ["::127.0.0.1"],
    "NAT64": ["64:ff9b::7f00:1"],
    "local NAT64": ["64:ff9b:1::7f00:1"],
    "6to4": ["2002:7f00:1::1"],
    "Teredo": ["2001:0:7f00:1::80ff:fffe"],
    "metadata": ["169.254.169.254"],
    "metadata, ECS": ["169.254.170.2"],
    "metadata, Alibaba": ["100.100.100.200"],
    "metadata, AWS by IPv6": ["fd00:ec2::254"],
    "platform, Azure": ["168.63.129.16"],
    "private last": ["93.184.216.34", "2606:4700:4700::1111", "127.0.0.1"],
    "private first": ["127.0.0.1", "93.184.216.34"],
    "too many": ["93.184.216.34"] * (MAX_ADDRESSES + 1),
    "too many, one private": ["93.184.216.34"] * MAX_ADDRESSES + ["127.0.0.1"],
    "none": [],
    "spelling": ["127.1"],
    "a name": ["localhost"],
    "zone": ["fe80::1%lo"],
    "failure": socket.gaierror(socket.EAI_NONAME, "unknown"),
    "failure for now": socket.gaierror(socket.EAI_AGAIN, "try again"),
    "network down": OSError("the network is down"),
}


@pytest.mark.parametrize("kind", HOSTILE_ANSWERS)
def test_hostile_look_up_dials_nobody(kind: str) -> None:
    """A name that leads to a refused address, to too many or to none is asked for once and not dialled."""

    async def story() -> None:
        names = Names(HOSTILE_ANSWERS[kind])
        async with peer(saying(OK)) as inside, Client(strict(inside.port), resolve=names) as client:
            outcome = await client.request("POST", f"https://hooks.example:{inside.port}/", body=b"x")
        assert isinstance(outcome, Failure)
        assert outcome.public_reason == "unreachable"
        assert names.asked == [("hooks.example", inside.port)]
        assert inside.connections == 0

    run(story())


def test_refused_and_unreachable_look_the_same_outside() -> None:
    """Outsiders get one word for refused, unknown and closed; the operator's detail tells them apart."""

    async def story() -> None:
        async with peer(saying(OK)) as gone:
            pass
        url = f"https://hooks.example:{gone.port}/"
        found = []
        for policy, answer in (
            (strict(gone.port), ["127.0.0.1"]),
            (strict(gone.port), OSError("unknown")),
            (LOOPBACK, ["127.0.0.1"]),
        ):
            async with Client(policy, resolve=Names(answer)) as client:
                found.append(await client.request("GET", url))
        failures = [outcome for outcome in found if isinstance(outcome, Failure)]
        assert {failure.public_reason for failure in failures} == {"unreachable"}
        assert [failure.reason for failure in failures] == ["refused_address", "unreachable", "unreachable"]
        assert "loopback" in failures[0].detail
        assert len({failure.detail for failure in failures}) == 3

    run(story())


HOSTILE_HOSTS = (
    "0x7f.1",
    "2130706433",
    "127.1",
    "0177.0.0.1",
    "0x7f000001",
    "①②⑦.0.0.1",
    "127。0。0。1",
    "127.0.0.1",
    "localhost",
    "[::1]",
    "[::]",
    "0.0.0.0",
    "0",
    "[::ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::1]",
    "[hooks.example]",
    "127.0.0.1%2f.hooks.example",
    "user@127.0.0.1",
    "hooks.example@127.0.0.1",
    "127.0.0.1.",
    "127.0.0.1\\",
    "127.0.0.1\t",
)


@pytest.mark.parametrize("host", HOSTILE_HOSTS)
def test_hostile_host_dials_nobody(host: str) -> None:
    """No spelling of this machine in a URL makes a connection, with the system's own resolver."""
    asked: list[str] = []

    async def counted(name: str, port: int) -> list[str]:
        asked.append(name)
        return await look_up(name, port)

    async def story() -> None:
        async with peer(saying(OK)) as inside, Client(strict(inside.port), resolve=counted) as client:
            outcome = await client.request("GET", f"https://{host}:{inside.port}/")
        assert isinstance(outcome, Failure)
        assert outcome.reason in {"invalid_url", "refused_address"}
        assert inside.connections == 0
        assert len(asked) == (outcome.reason == "refused_address")

    run(story())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", pytest.param("[::1]", marks=needs_ipv6)])
def test_allowed_network_opens_http_on_any_port(host: str) -> None:
    """With loopback allowed, http reaches any port there, by name and by address."""

    async def story() -> None:
        async with peer(saying(OK)) as inside, Client(LOOPBACK) as client:
            outcome = await client.request("GET", f"http://{host}:{inside.port}/a?b=c")
            assert isinstance(outcome, Answer)
            assert (outcome.status, outcome.body, outcome.truncated) == (200, b"hi", False)
            assert outcome.headers == (("content-length", "2"),)
        assert inside.connections == 1
        assert inside.requests[0].startswith(f"GET /a?b=c HTTP/1.1\r\nhost: {host}:{inside.port}\r\n".encode())

    run(story())


def test_allowed_network_opens_nothing_beside_it() -> None:
    """An allowed network does not switch the guard off: loopback stays closed while another one is open."""

    async def story() -> None:
        policy = Policy(allow=(ip_network("10.0.0.0/8"),))
        async with peer(saying(OK)) as inside, Client(policy) as client:
            outcome = await client.request("GET", f"http://localhost:{inside.port}/")
        assert isinstance(outcome, Failure)
        assert outcome.reason == "refused_address"
        assert inside.connections == 0

    run(story())


def test_rebinding_name_is_refused_though_a_connection_is_kept() -> None:
    """Each attempt looks up and approves anew: when a name turns, the kept connection is not used either."""

    async def story() -> None:
        names = Names(["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["127.0.0.1"])
        async with peer(saying(OK)) as inside, Client(LOOPBACK, resolve=names) as client:
            outcomes = [await client.request("GET", f"http://hooks.example:{inside.port}/") for _ in range(4)]
            assert [isinstance(outcome, Answer) for outcome in outcomes] == [True, False, False, True]
        assert len(names.asked) == 4
        assert len(inside.requests) == 2

    run(story())


@needs_ipv6
def test_connection_is_kept_for_the_same_address_only() -> None:
    """A kept connection serves the same name at the same address; another address or name gets its own."""

    async def story() -> None:
        names = Names(["127.0.0.1"], ["127.0.0.1"], ["::1"], ["127.0.0.1"])
        async with peer(saying(OK)) as inside, Client(LOOPBACK, resolve=names) as client:
            seen = []
            for name in ("a.example", "a.example", "a.example", "b.example"):
                await client.request("GET", f"http://{name}:{inside.port}/")
                seen.append(inside.connections)
        assert seen == [1, 1, 2, 3]

    run(story())


def test_idle_connections_are_few_and_closed_in_time() -> None:
    """Of many connections used at once only `max_idle` stay open, and those for `idle_seconds`."""

    async def story() -> None:
        arrived = asyncio.Semaphore(0)
        everyone = asyncio.Event()

        async def together(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.release()
            await everyone.wait()
            writer.write(OK)

        async with peer(together) as inside, Client(LOOPBACK, idle_seconds=0.3, max_idle=2) as client:
            url = f"http://127.0.0.1:{inside.port}/"
            calls = [asyncio.create_task(client.request("GET", url)) for _ in range(6)]
            for _ in calls:
                await arrived.acquire()
            everyone.set()
            assert all(isinstance(outcome, Answer) for outcome in await asyncio.gather(*calls))
            await until(lambda: inside.open == 2)
            await until(lambda: inside.open == 0)
            assert isinstance(await client.request("GET", url), Answer)
        assert inside.connections == 7

    run(story())


def test_connection_the_peer_closed_is_not_used_again() -> None:
    """A kept connection that the peer has closed in the meantime is replaced, not failed on."""

    async def story() -> None:
        kept = asyncio.Semaphore(0)

        async def answer_then_close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(OK)
            await kept.acquire()
            raise ConnectionResetError

        async with peer(answer_then_close) as inside, Client(LOOPBACK) as client:
            for _ in range(3):
                outcome = await client.request("POST", f"http://127.0.0.1:{inside.port}/", body=b"x")
                assert isinstance(outcome, Answer)
                kept.release()
                await until(lambda: inside.open == 0)
        assert inside.connections == 3

    run(story())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_an_answer(status: int) -> None:
    """A redirect is handed back as it came; neither its target inside nor a metadata service is dialled."""

    async def story() -> None:
        async with peer(saying(OK)) as inside, Client(LOOPBACK) as client:
            for place in (f"http://127.0.0.1:{inside.port}/", "http://169.254.169.254/latest/meta-data/"):
                moved = f"HTTP/1.1 {status} Moved\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n"
                async with peer(saying_last(moved.encode())) as outside:
                    outcome = await client.request("POST", f"http://127.0.0.1:{outside.port}/", body=b"x")
                    assert isinstance(outcome, Answer)
                    assert (outcome.status, dict(outcome.headers)["location"]) == (status, place)
                assert outside.connections == 1
        assert inside.connections == 0

    run(story())


def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies named in the environment see nothing."""

    async def story() -> None:
        async with peer(saying(OK)) as proxy, peer(saying(OK)) as inside, Client(LOOPBACK) as client:
            for name in ("http_proxy", "https_proxy", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
                monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{proxy.port}")
            for name in ("no_proxy", "NO_PROXY"):
                monkeypatch.delenv(name, raising=False)
            async with Client(LOOPBACK) as fresh:
                for one in (client, fresh):
                    assert isinstance(await one.request("GET", f"http://localhost:{inside.port}/"), Answer)
        assert (proxy.connections, inside.connections) == (0, 2)

    run(story())


def test_request_is_sent_as_asked() -> None:
    """Method, path, headers and body arrive as given, with a length, the host's name and identity coding."""

    async def story() -> None:
        async with peer(saying(OK)) as inside, Client(LOOPBACK, resolve=Names(["127.0.0.1"])) as client:
            url = f"http://hooks.example:{inside.port}/in?x=1"
            await client.request("POST", url, headers={"Webhook-Id": "msg_1", "x": "caf\xe9"}, body=b"{}")
            await client.request("PUT", url, headers=[("user-agent", "mine"), ("a", "1"), ("a", "2")])
        first, second = inside.requests
        assert first == (
            f"POST /in?x=1 HTTP/1.1\r\nhost: hooks.example:{inside.port}\r\naccept-encoding: identity\r\n"
            "user-agent: event-gateway\r\ncontent-length: 2\r\nWebhook-Id: msg_1\r\nx: caf\xe9\r\n\r\n{}"
        ).encode("latin-1")
        assert second.endswith(b"\r\ncontent-length: 0\r\nuser-agent: mine\r\na: 1\r\na: 2\r\n\r\n")

    run(story())


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"x": "a\r\ny: b"}),
        ("GET", {"x": "a\nb"}),
        ("GET", {"x": "a\x00"}),
        ("GET", {"x": " a"}),
        ("GET", {"x": "снег"}),
        ("GET", {"x y": "a"}),
        ("GET", {"": "a"}),
        ("GET", {"Host": "inside.example"}),
        ("GET", {"Transfer-Encoding": "chunked"}),
        ("GET", {"content-length": "3"}),
        ("GET", {"Accept-Encoding": "gzip"}),
        ("GET / HTTP/1.1\r\nx:", {}),
        ("", {}),
    ],
)
def test_request_that_can_not_be_sent_is_refused_before_it_starts(method: str, headers: dict[str, str]) -> None:
    """Methods and headers that would break the framing, or are the client's own, make no connection."""

    async def story() -> None:
        async with peer(saying(OK)) as inside, Client(LOOPBACK) as client:
            outcome = await client.request(method, f"http://127.0.0.1:{inside.port}/", headers=headers)
        assert isinstance(outcome, Failure)
        assert outcome.reason == "invalid_request"
        assert inside.connections == 0

    run(story())


def test_dripping_body_ends_at_the_deadline() -> None:
    """A peer that sends a byte now and then is cut off when the total time is over."""

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def story() -> None:
        async with peer(drip) as inside, Client(LOOPBACK) as client:
            outcome = await client.request("GET", f"http://127.0.0.1:{inside.port}/", total_timeout=0.3)
            await until(lambda: inside.open == 0)
        assert isinstance(outcome, Failure)
        assert outcome.reason == "timeout"
        assert 290 <= outcome.duration_ms < 2000

    run(story())


def test_silent_peer_and_silent_resolver_end_at_the_deadline() -> None:
    """The total time covers the wait for a look-up, for a TLS handshake and for an answer."""

    async def never(_host: str, _port: int) -> Sequence[str]:
        await asyncio.get_running_loop().create_future()
        return []

    async def story() -> None:
        async with peer(silence) as inside:
            for url, resolve in (
                (f"http://hooks.example:{inside.port}/", never),
                (f"http://hooks.example:{inside.port}/", Names(["127.0.0.1"])),
                (f"https://hooks.example:{inside.port}/", Names(["127.0.0.1"])),
            ):
                async with Client(LOOPBACK, resolve=resolve) as client:
                    outcome = await client.request("GET", url, total_timeout=0.2)
                    await until(lambda: inside.open == 0)
                assert isinstance(outcome, Failure)
                assert outcome.reason == "timeout"

    run(story())


def test_handshake_has_a_limit_of_its_own() -> None:
    """A peer that accepts and then is silent in the handshake fails after the time for connecting."""

    async def story() -> None:
        async with peer(silence) as inside, Client(LOOPBACK, resolve=Names(["127.0.0.1"])) as client:
            url = f"https://hooks.example:{inside.port}/"
            outcome = await client.request("GET", url, connect_timeout=0.1)
            await until(lambda: inside.open == 0)
        assert isinstance(outcome, Failure)
        assert outcome.reason == "timeout"
        assert outcome.duration_ms < 2000

    run(story())


@pytest.mark.parametrize("framing", ["content-length: 1073741824\r\n", "transfer-encoding: chunked\r\n", ""])
def test_huge_body_is_cut_at_the_cap(framing: str) -> None:
    """Of a gigabyte only the cap is kept, and the peer is cut off after what fits into socket buffers."""
    piece = bytes(65536)
    sent = [0]

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n".encode())
        while sent[0] < 2**30:
            writer.write(b"10000\r\n" + piece + b"\r\n" if "chunked" in framing else piece)
            await writer.drain()
            sent[0] += len(piece)

    async def story() -> None:
        async with peer(flood) as inside, Client(LOOPBACK) as client:
            outcome = await client.request("GET", f"http://127.0.0.1:{inside.port}/")
            assert isinstance(outcome, Answer)
            assert (len(outcome.body), outcome.truncated) == (4096, True)
            await until(lambda: inside.open == 0)
        assert sent[0] < 64 * 2**20

    run(story())


def test_body_is_cut_exactly_at_the_cap() -> None:
    """A body as long as the cap is whole; one byte more is cut and said to be."""

    async def story() -> None:
        async with peer(saying(OK)) as inside, Client(LOOPBACK) as client:
            for cap, body, truncated in (
                (0, b"", True),
                (1, b"h", True),
                (2, b"hi", False),
                (3, b"hi", False),
            ):
                outcome = await client.request("GET", f"http://127.0.0.1:{inside.port}/", cap=cap)
                assert isinstance(outcome, Answer)
                assert (outcome.body, outcome.truncated) == (body, truncated)

    run(story())


def test_compressed_body_is_not_expanded() -> None:
    """A gzip bomb is kept as the bytes that came, though the request asked for no coding at all."""
    bomb = gzip.compress(bytes(20 * 2**20))
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(bomb)}\r\n\r\n"

    async def story() -> None:
        async with peer(saying(head.encode() + bomb)) as inside, Client(LOOPBACK) as client:
            cut = await client.request("GET", f"http://127.0.0.1:{inside.port}/")
            whole = await client.request("GET", f"http://127.0.0.1:{inside.port}/", cap=2**20)
        assert isinstance(cut, Answer)
        assert isinstance(whole, Answer)
        assert (cut.body, cut.truncated) == (bomb[:4096], True)
        assert (whole.body, whole.truncated) == (bomb, False)

    run(story())


BROKEN_ANSWERS = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncont",
    "half a body": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
    "half a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\nhalf",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nhi",
    "unknown coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhi",
    "endless head": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000,
}


@pytest.mark.parametrize("kind", BROKEN_ANSWERS)
def test_broken_answer_is_a_failure(kind: str) -> None:
    """A peer that hangs up early or does not speak HTTP gives a failure, and is asked once."""

    async def story() -> None:
        async with peer(saying_last(BROKEN_ANSWERS[kind])) as inside, Client(LOOPBACK) as client:
            outcome = await client.request("POST", f"http://127.0.0.1:{inside.port}/", body=b"x")
        assert isinstance(outcome, Failure)
        assert outcome.reason == "protocol"
        assert len(inside.requests) == 1

    run(story())


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"])
def test_reset_is_a_failure(before: bytes) -> None:
    """A connection that is reset, before the answer or in the middle of a 200, gives a failure."""

    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        await writer.drain()
        plug = writer.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        raise ConnectionResetError

    async def story() -> None:
        async with peer(reset) as inside, Client(LOOPBACK) as client:
            outcome = await client.request("POST", f"http://127.0.0.1:{inside.port}/", body=b"x" * 100)
        assert isinstance(outcome, Failure)
        assert outcome.reason == "protocol"
        assert inside.connections == 1

    run(story())


def test_server_error_is_an_answer() -> None:
    """Statuses of failure are answers for the caller to judge, headers and all."""
    gone = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\ncontent-length: 0\r\n\r\n"

    async def story() -> None:
        async with peer(saying(gone)) as inside, Client(LOOPBACK) as client:
            outcome = await client.request("POST", f"http://127.0.0.1:{inside.port}/")
        assert isinstance(outcome, Answer)
        assert outcome.status == 503
        assert ("retry-after", "7") in outcome.headers

    run(story())


def test_cancellation_goes_through_and_closes() -> None:
    """A cancelled request raises CancelledError in its caller and leaves no connection behind."""

    async def story() -> None:
        async with peer(silence) as inside, Client(LOOPBACK) as client:
            call = asyncio.create_task(client.request("GET", f"http://127.0.0.1:{inside.port}/"))
            await until(lambda: len(inside.requests) == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: inside.open == 0)

    run(story())


def test_name_is_used_for_host_sni_and_certificate(tmp_path: Path) -> None:
    """Over TLS the approved address is dialled while Host, SNI and certificate go by the name."""
    server, trusting = tls_contexts(tmp_path, "hooks.example")
    asked: list[str | None] = []
    server.sni_callback = lambda _object, name, _context: asked.append(name)

    async def story() -> None:
        names = Names(["127.0.0.1"])
        async with (
            peer(saying(OK), server) as inside,
            Client(LOOPBACK, resolve=names, ssl_context=trusting) as client,
        ):
            for _ in range(2):
                outcome = await client.request("POST", f"https://hooks.example:{inside.port}/", body=b"x")
                assert isinstance(outcome, Answer)
        assert f"host: hooks.example:{inside.port}\r\n".encode() in inside.requests[0]
        assert asked == ["hooks.example"]
        assert (inside.connections, len(inside.requests), len(names.asked)) == (1, 2, 2)

    run(story())


def test_certificate_of_another_name_is_refused(tmp_path: Path) -> None:
    """A name that leads to a peer with another name's certificate gets no request through."""
    server, trusting = tls_contexts(tmp_path, "hooks.example")

    async def story() -> None:
        for host, context in (("other.example", trusting), ("127.0.0.1", trusting), ("hooks.example", None)):
            async with (
                peer(saying(OK), server) as inside,
                Client(LOOPBACK, resolve=Names(["127.0.0.1"]), ssl_context=context) as client,
            ):
                outcome = await client.request("POST", f"https://{host}:{inside.port}/", body=b"x")
            assert isinstance(outcome, Failure)
            assert outcome.reason == "tls"
            assert inside.requests == []

    run(story())


def test_demand_for_our_certificate_is_a_tls_failure(tmp_path: Path) -> None:
    """A peer that wants a certificate of the client ends TLS 1.3 after the handshake: a failure of TLS."""
    server, trusting = tls_contexts(tmp_path, "hooks.example")
    server.verify_mode = ssl.CERT_REQUIRED

    def refuse(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        with plain.dup() as spare:  # keeps the connection open, so that no reset overtakes the alert
            with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
                server.wrap_socket(plain, server_side=True)
            with suppress(ConnectionError):
                while spare.recv(65536):
                    pass

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            refusing = asyncio.create_task(asyncio.to_thread(refuse, listener))
            url = f"https://hooks.example:{listener.getsockname()[1]}/"
            async with Client(LOOPBACK, resolve=Names(["127.0.0.1"]), ssl_context=trusting) as client:
                outcome = await client.request("GET", url)
            await refusing
        assert isinstance(outcome, Failure)
        assert outcome.reason == "tls"

    run(story())


def test_peer_without_tls_is_a_tls_failure() -> None:
    """A peer that answers a handshake with something else, or hangs up on it, is a failure of TLS."""

    async def rude(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def story() -> None:
        for talk in (rude, deaf):
            server = await asyncio.start_server(talk, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            async with server, Client(LOOPBACK, resolve=Names(["127.0.0.1"])) as client:
                outcome = await client.request("GET", f"https://hooks.example:{port}/")
            assert isinstance(outcome, Failure)
            assert outcome.reason == "tls"

    run(story())


def tls_contexts(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server with a certificate for one name, and of a client that trusts its issuer."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = certificate("test authority", ca_key, "test authority", ca_key, is_ca=True)
    leaf = certificate(name, key, "test authority", ca_key, is_ca=False)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "leaf.pem").write_bytes(secret + leaf.public_bytes(pem))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "leaf.pem")
    return server, ssl.create_default_context(cadata=ca.public_bytes(pem).decode())


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if is_ca:
        # Python 3.13 asks for it (VERIFY_X509_STRICT).
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False
        ) | dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False)
        builder = builder.add_extension(x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
