"""The one HTTP client: every request that leaves the gateway goes through `Client.request`.

An attempt reads the URL, looks its name up once, lets `egress.approve` judge every address, dials the
approved address and no other, sends, and reads the answer up to a cap. The name stays in the Host header, in
SNI and in the check of the certificate. Redirects are answers, proxy variables are never read (a proxy is given, or
there is none), nothing is decompressed. Failures of the far end are values. How many attempts run at once is the caller's business.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Self

import httpcore2
from msgspec import Struct
from msgspec.structs import replace

from gateway.egress import (
    Destination,
    Policy,
    Proxy,
    RefusedAddress,
    RefusedUrl,
    approve,
    read_policy,
    read_proxy,
    read_url,
)
from gateway.settings import Settings
from gateway.web.tunnel import PinnedNetwork

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
Headers = Mapping[str, str] | Iterable[tuple[str, str]]
Sink = Callable[[bytes], bool]
"""Takes in the next bytes of an event stream; True says that it has heard enough."""

# Shorter than the five seconds after which common servers hang up, so a kept connection is rarely a dead one.
IDLE_SECONDS = 3.0
MAX_IDLE = 32
MAX_DETAIL = 300

_METHODS_WITH_BODY = {"POST", "PUT", "PATCH"}
_OWN_HEADERS = {
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"([\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")


_SENTENCES = {
    "unreachable": "no connection could be made",
    "timeout": "there was no whole answer in time",
    "tls": "no secure connection could be made",
    "protocol": "it hung up before the end of its answer, or does not speak HTTP",
}


class Answer(Struct, frozen=True, kw_only=True):
    """What came back, whatever its status. Header names have lower case; `body` is raw and cut at the cap."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    truncated: bool
    duration_ms: int = 0


class Failure(Struct, frozen=True, kw_only=True):
    """No whole answer. `reason` is one of these words; `detail` is for the operator's log and nobody else.

    invalid_url: see `egress.check_url`; invalid_request: the method or a header can't be sent;
    refused_address: the name leads where the policy forbids; unreachable: no address or no connection;
    timeout: out of time, connecting or in all; tls: no handshake or a wrong certificate;
    protocol: the peer hung up before the end of its answer, or does not speak HTTP.
    """

    reason: str
    detail: str
    sentence: str = ""
    """For everybody, where there is more to say than the usual."""
    duration_ms: int = 0

    @property
    def text(self) -> str:
        """All that is known, for the operator."""
        return f"{self.reason}: {self.detail}"

    @property
    def public_reason(self) -> str:
        """The word for outsiders: who may choose URLs must not learn what is inside the network."""
        return "unreachable" if self.reason == "refused_address" else self.reason

    @property
    def public_text(self) -> str:
        """The word and a sentence for outsiders. What is wrong with their own text they are told, addresses never."""
        return f"{self.public_reason}: {self.sentence or _SENTENCES.get(self.public_reason, self.detail)}"


class Target(Struct, frozen=True):
    """Where a connection leads, and under which name. A kept connection serves the very same target only."""

    scheme: str
    host: str
    port: int
    address: str


class Client:
    """Sends requests under one policy; keeps at most `max_idle` unused connections, each for `idle_seconds`.

    With a `proxy`, every connection is one through it to the approved address. `resolve` turns a host and port into
    addresses and is asked once per attempt. `ssl_context` decides whose
    certificates are trusted (default: the system's, or what SSL_CERT_FILE or SSL_CERT_DIR name).
    """

    def __init__(
        self,
        policy: Policy,
        *,
        proxy: Proxy | None = None,
        resolve: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        idle_seconds: float = IDLE_SECONDS,
        max_idle: int = MAX_IDLE,
    ) -> None:
        self._policy = policy
        self._proxy = proxy
        self._resolve = resolve or look_up
        self._ssl_context = ssl_context or httpcore2.default_ssl_context()
        self._idle = _IdleLines(idle_seconds, max_idle)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._idle.close()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers = (),
        body: bytes = b"",
        connect_timeout: float = 3.0,
        total_timeout: float = 15.0,
        cap: int = 4096,
        idle_timeout: float | None = None,
        sink: Sink | None = None,
    ) -> Answer | Failure:
        """Make one attempt. Times are in seconds and `total_timeout` covers everything, the look-up included.

        A successful answer that is an event stream goes to `sink`, if there is one, as it comes: the answer's body is
        then empty, `cap` is the sink's own business, and `idle_timeout` is the longest silence.

        Never retried, not even on a kept connection that has just died: the peer may have acted on it.
        Raises nothing but cancellation. Host, framing and Accept-Encoding are set here, and refused in
        `headers`.
        """
        started = time.monotonic()
        call = _Call(method, url, _pairs(headers), body, connect_timeout, idle_timeout, cap, sink)
        outcome: Answer | Failure
        try:
            async with asyncio.timeout(total_timeout):
                outcome = await self._attempt(call)
        except TimeoutError:
            late = f"no whole answer within {total_timeout:g} s"
            outcome = Failure(reason="timeout", detail=late, sentence=late)
        return replace(outcome, duration_ms=round((time.monotonic() - started) * 1000))

    async def _attempt(self, call: _Call) -> Answer | Failure:
        destination = read_url(self._policy, call.url)
        if isinstance(destination, RefusedUrl):
            return Failure(reason="invalid_url", detail=destination.reason)
        fault = _refusal_of_call(call)
        if fault:
            return Failure(reason="invalid_request", detail=fault)
        target = await self._find(destination)
        if isinstance(target, Failure):
            return target
        return await self._exchange(target, _http_request(call, destination), call)

    async def _find(self, destination: Destination) -> Target | Failure:
        host, port = destination.host, destination.port
        try:
            addresses = [host] if destination.is_literal else await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            return Failure(reason="unreachable", detail=f"{host} can't be looked up: {_describe(error)}")
        verdict = approve(self._policy, destination.scheme, port, addresses)
        if isinstance(verdict, RefusedAddress):
            return Failure(reason="refused_address", detail=f"{host}: {verdict.reason}"[:MAX_DETAIL])
        return Target(destination.scheme, host, port, verdict.address)

    async def _exchange(self, target: Target, request: httpcore2.Request, call: _Call) -> Answer | Failure:
        line = await self._idle.take(target) or _Line(target, self._ssl_context, self._proxy)
        try:
            async with self._returned(line):
                return await line.send(request, call)
        except httpcore2.ReadTimeout:
            silent = f"nothing came for {call.idle_timeout:g} s"
            return Failure(reason="timeout", detail=f"{target.address}: {silent}", sentence=silent)
        except (
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.TimeoutException,
            OSError,
        ) as error:
            return Failure(reason=_reason(error, line), detail=f"{target.address}: {_describe(error)}")

    @asynccontextmanager
    async def _returned(self, line: _Line) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self._idle.keep_or_close(line)


def new_client(settings: Settings) -> Client:
    """The client that the settings make. Raises ConfigError for networks or a proxy that can't be."""
    return Client(read_policy(settings.egress_allow), proxy=read_proxy(settings.egress_proxy))


async def look_up(host: str, port: int) -> list[str]:
    """Ask the system's resolver once for all addresses of a host. Raises OSError when it knows none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


class _Call(Struct, frozen=True):
    """What the caller asked for, as one value."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connect_timeout: float
    idle_timeout: float | None
    cap: int
    sink: Sink | None


class _Line:
    """One connection to one target, used by one attempt at a time."""

    def __init__(self, target: Target, ssl_context: ssl.SSLContext, proxy: Proxy | None) -> None:
        self.target = target
        self.idle_since = 0.0
        self._network = PinnedNetwork(target.address, proxy)
        self._http = httpcore2.AsyncHTTPConnection(
            httpcore2.Origin(target.scheme.encode(), target.host.encode(), target.port),
            ssl_context=ssl_context,
            network_backend=self._network,
        )

    @property
    def is_connected(self) -> bool:
        return self._network.stream is not None

    @property
    def is_reusable(self) -> bool:
        return self._http.is_available() and not self._http.has_expired()

    async def send(self, request: httpcore2.Request, call: _Call) -> Answer:
        response = await self._http.handle_async_request(request)
        headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers)
        try:
            if call.sink is not None and response.status < 300 and _is_event_stream(headers):
                body, truncated = b"", await _pour(response, call.sink)
            else:
                body, truncated = await _read(response, call.cap)
        finally:
            await response.aclose()
        return Answer(status=response.status, headers=headers, body=body, truncated=truncated)

    async def close(self) -> None:
        await self._http.aclose()
        # A handshake that was cut short leaves its socket to nobody else.
        if self._network.stream is not None:
            await self._network.stream.aclose()


class _IdleLines:
    """Lines between two uses, oldest first. One task closes those that are due."""

    def __init__(self, seconds: float, limit: int) -> None:
        self._seconds = seconds
        self._limit = limit
        self._lines: list[_Line] = []
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False

    async def take(self, target: Target) -> _Line | None:
        while line := next((line for line in reversed(self._lines) if line.target == target), None):
            self._lines.remove(line)
            if line.is_reusable:
                return line
            await line.close()
        return None

    async def keep_or_close(self, line: _Line) -> None:
        if self._closed or not line.is_reusable:
            await line.close()
            return
        line.idle_since = time.monotonic()
        self._lines.append(line)
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep())
        while len(self._lines) > self._limit:
            await self._lines.pop(0).close()

    async def close(self) -> None:
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        while self._lines:
            await self._lines.pop().close()

    async def _sweep(self) -> None:
        while self._lines:
            left = self._lines[0].idle_since + self._seconds - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
            else:
                await self._lines.pop(0).close()


def _pairs(headers: Headers) -> tuple[tuple[str, str], ...]:
    return tuple(headers.items() if isinstance(headers, Mapping) else headers)


def _refusal_of_call(call: _Call) -> str | None:
    if not _TOKEN.fullmatch(call.method):
        return "the method is not a word of HTTP"
    for name, value in call.headers:
        if not _TOKEN.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
            return f"the header {name[:80]!r} holds characters that can't be sent"
        if name.lower() in _OWN_HEADERS:
            return f"the header {name!r} is set by the client itself"
    return None


def _http_request(call: _Call, destination: Destination) -> httpcore2.Request:
    return httpcore2.Request(
        call.method,
        httpcore2.URL(
            scheme=destination.scheme, host=destination.host, port=destination.port, target=destination.target
        ),
        headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in _all_headers(call, destination)],
        content=call.body,
        extensions={"timeout": {"connect": call.connect_timeout, "read": call.idle_timeout}},
    )


def _all_headers(call: _Call, destination: Destination) -> list[tuple[str, str]]:
    headers = [("host", destination.authority), ("accept-encoding", "identity")]
    if all(name.lower() != "user-agent" for name, _ in call.headers):
        headers.append(("user-agent", "event-gateway"))
    if call.body or call.method in _METHODS_WITH_BODY:
        headers.append(("content-length", str(len(call.body))))
    return headers + list(call.headers)


async def _read(response: httpcore2.Response, cap: int) -> tuple[bytes, bool]:
    kept = bytearray()
    async with aclosing(response.aiter_stream()) as chunks:
        async for chunk in chunks:
            kept += chunk
            if len(kept) > cap:
                return bytes(kept[:cap]), True
    return bytes(kept), False


async def _pour(response: httpcore2.Response, sink: Sink) -> bool:
    """Hand the body over as it comes; whether the sink had enough before its end."""
    async with aclosing(response.aiter_stream()) as chunks:
        async for chunk in chunks:
            if sink(chunk):
                return True
    return False


def _is_event_stream(headers: Sequence[tuple[str, str]]) -> bool:
    kind = next((value for name, value in headers if name == "content-type"), "")
    return kind.partition(";")[0].strip().lower() == "text/event-stream"


def _reason(error: Exception, line: _Line) -> str:
    if isinstance(error, httpcore2.TimeoutException):
        return "timeout"
    if isinstance(error, ssl.SSLError):
        return "tls"
    if isinstance(error, httpcore2.ConnectError):
        return "tls" if line.is_connected else "unreachable"
    return "protocol"


def _describe(error: BaseException) -> str:
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    return f"{type(error).__name__}: {root!r}"[:MAX_DETAIL]
