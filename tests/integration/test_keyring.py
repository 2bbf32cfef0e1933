"""Keys that senders serve, over a real TLS server: fetched once, from where they may be, and judged by."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

import gateway.web.keyring as keyrings
from gateway.apps import App, LiveApp
from gateway.egress import read_policy
from gateway.errors import Unauthorized, Unavailable
from gateway.proofs import Request
from gateway.proving import Proof, Prover
from gateway.signatures import read_scheme, sign_request
from gateway.web.client import Answer, Client, Failure
from gateway.web.keyring import Keyring
from tests.tools import Peer, Reply, tell, until
from tests.tools_keys import Authority, pem, private_key, private_pem, public_pem

NOW = time.time()
NAME = "messageverificationcerts.paypal.com"
HOST = "https://api.paypal.com"
CERTIFICATE = "/v1/notifications/certs/CERT-1"
AUTHORITY = Authority()
ROOTS = [AUTHORITY.certificate.public_bytes(Encoding.DER)]
SCHEME = read_scheme({"scheme": "paypal", "webhook_id": "9XL"}, "verify")
APP = LiveApp(App(id=1, name="shop", verify={"scheme": "paypal", "webhook_id": "9XL"}), lambda *_: None)
GOOD = Reply(body=pem(AUTHORITY.give(NAME, private_key("rsa"))).encode())


def paid(address: str = HOST + CERTIFICATE, secret: str | None = None) -> Request:
    """A request as PayPal posts it."""
    headers = (
        ("paypal-transmission-id", "d938e770"),
        ("paypal-transmission-time", "2025-06-15T15:06:40Z"),
        ("paypal-cert-url", address),
    )
    return sign_request(SCHEME, secret or private_pem("rsa"), Request("POST", "/", headers, b"{}"), NOW, "")


class Detour(Client):
    """The guarded client, but the sender's host is a server of the test: same TLS, another name and port."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(read_policy("127.0.0.0/8, ::1"), ssl_context=context)
        self._port = port
        self.asked: list[str] = []

    async def request(self, method: str, url: str, **options: Any) -> Answer | Failure:
        self.asked.append(url)
        assert url.startswith("https://")
        path = url.partition("://")[2].partition("/")[2]
        return await super().request(method, f"https://localhost:{self._port}/{path}", **options)


class Sender(Peer):
    """A sender's host: TLS in front of the tests' own HTTP server."""

    @contextlib.asynccontextmanager
    async def listening_with(self, tls: ssl.SSLContext) -> AsyncIterator[Sender]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


def contexts(folder: Path, certificate: Certificate | None = None) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server called localhost, and of a client that trusts its issuer."""
    leaf = certificate or AUTHORITY.give("localhost", private_key("rsa"))
    (folder / "tls.pem").write_text(private_pem("rsa") + pem(leaf))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "tls.pem")
    return server, ssl.create_default_context(cadata=pem(AUTHORITY.certificate))


class House:
    """A prover with a keyring, the client it fetches with, and the sender's host."""

    def __init__(self, sender: Sender, client: Detour, **options: Any) -> None:
        self.sender = sender
        self.client = client
        self.keyring = Keyring(client, roots=ROOTS, **options)
        self.prover = Prover(keys=self.keyring)

    async def prove(self, request: Request) -> str:
        """What becomes of a request: accepted, 401 or 503, with the reason."""
        try:
            proof = await self.prover.prove(APP, request, NOW)
        except Unauthorized as error:
            return f"401 {error.details['reason']}"
        except Unavailable as error:
            return f"503 {error.details['reason']}" if error.retry_after else "503 for ever"
        assert isinstance(proof, Proof)
        assert (proof.kind, proof.secret) == ("paypal", None)
        return "accepted"


@contextlib.asynccontextmanager
async def house(folder: Path, *replies: Reply, **options: Any) -> AsyncIterator[House]:
    server, trusting = contexts(folder)
    async with Sender(*replies).listening_with(server) as sender, Detour(sender.port, trusting) as client:
        made = House(sender, client, **options)
        try:
            yield made
        finally:
            await made.keyring.close()


def test_a_key_is_fetched_once(tmp_path: Path) -> None:
    """The first request fetches the certificate, the others find it, and a forged one is refused by it."""

    async def story() -> None:
        async with house(tmp_path, GOOD) as it:
            assert await it.prove(paid()) == "accepted"
            assert await it.prove(paid()) == "accepted"
            assert await it.prove(paid(secret=private_pem("rsa", 2))) == "401 mismatch"
            changed = Request("POST", "/", paid().headers, b'{"n":2}')
            assert await it.prove(changed) == "401 mismatch"
            assert it.client.asked == [HOST + CERTIFICATE]
            assert [(call.method, call.target) for call in it.sender.calls] == [("GET", CERTIFICATE)]

    tell(story())


def test_many_at_once_wait_for_one_fetch(tmp_path: Path) -> None:
    """Requests that come together share a fetch, and one that gives up doesn't take it from the others."""

    async def story() -> None:
        async with house(tmp_path, GOOD) as it:
            first = asyncio.create_task(it.prove(paid()))
            await until(lambda: it.client.asked)
            others = [asyncio.create_task(it.prove(paid())) for _ in range(20)]
            await asyncio.sleep(0)
            first.cancel()
            assert await asyncio.gather(*others) == ["accepted"] * 20
            assert len(it.sender.calls) == 1

    tell(story())


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example" + CERTIFICATE,
        "http://api.paypal.com" + CERTIFICATE,
        "https://api.paypal.com.evil.example" + CERTIFICATE,
        "https://169.254.169.254" + CERTIFICATE,
        "https://localhost" + CERTIFICATE,
    ],
)
def test_nobody_else_is_asked(tmp_path: Path, address: str) -> None:
    """An address on another host is refused, and no connection is made to anybody."""

    async def story() -> None:
        async with house(tmp_path, GOOD) as it:
            assert await it.prove(paid(address)) == "401 foreign_key"
            assert it.client.asked == []
            assert it.sender.calls == []

    tell(story())


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=404, body=GOOD.body),
        Reply(status=500),
        Reply(status=302, headers={"location": "/elsewhere"}),
        Reply(body=b"no certificate"),
        Reply(body=GOOD.body + b"\n" * keyrings.CAP),
        Reply(body=pem(Authority().give(NAME, private_key("rsa"))).encode()),
        Reply(body=pem(AUTHORITY.give("evil.example", private_key("rsa"))).encode()),
    ],
)
def test_without_a_key_it_is_our_doubt(tmp_path: Path, reply: Reply) -> None:
    """An answer that brings no key that counts is a 503, remembered for a while, and never followed elsewhere."""

    async def story() -> None:
        async with house(tmp_path, reply, GOOD) as it:
            assert await it.prove(paid()) == "503 key_unavailable"
            assert await it.prove(paid()) == "503 key_unavailable"
            assert [call.target for call in it.sender.calls] == [CERTIFICATE]

    tell(story())


def test_a_failure_is_forgotten_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a failure is old enough the key is asked for again, and found."""
    monkeypatch.setattr(keyrings, "FAILED_SECONDS", 0.05)

    async def story() -> None:
        async with house(tmp_path, Reply(status=500), GOOD) as it:
            assert await it.prove(paid()) == "503 key_unavailable"
            async with asyncio.timeout(10):
                while await it.prove(paid()) != "accepted":  # noqa: ASYNC110 (time has no event)
                    await asyncio.sleep(0.01)
            assert len(it.sender.calls) == 2

    tell(story())


def test_a_key_is_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was kept for long enough is fetched anew: it may be another by now."""
    monkeypatch.setattr(keyrings, "GOOD_SECONDS", 0.05)
    other = Reply(body=pem(AUTHORITY.give(NAME, private_key("rsa", 2))).encode())

    async def story() -> None:
        async with house(tmp_path, GOOD, other) as it:
            assert await it.prove(paid()) == "accepted"
            async with asyncio.timeout(10):
                while await it.prove(paid()) != "401 mismatch":  # noqa: ASYNC110 (time has no event)
                    await asyncio.sleep(0.01)
            assert await it.prove(paid(secret=private_pem("rsa", 2))) == "accepted"

    tell(story())


def test_a_slow_sender_is_not_waited_for(tmp_path: Path) -> None:
    """An answer that doesn't come in time is a 503."""

    class Slow(Sender):
        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                await reader.read()
            writer.close()

    async def story() -> None:
        server, trusting = contexts(tmp_path)
        async with Slow().listening_with(server) as sender, Detour(sender.port, trusting) as client:
            it = House(sender, client, timeout=0.2)
            assert await it.prove(paid()) == "503 key_unavailable"

    tell(story())


def test_a_wrong_certificate_of_the_host(tmp_path: Path) -> None:
    """A server that can't prove its name serves no keys."""

    async def story() -> None:
        server, trusting = contexts(tmp_path, AUTHORITY.give("another.example", private_key("rsa")))
        async with Sender(GOOD).listening_with(server) as sender, Detour(sender.port, trusting) as client:
            assert await House(sender, client).prove(paid()) == "503 key_unavailable"
            assert sender.calls == []

    tell(story())


def test_a_flood_of_addresses_fetches_little(tmp_path: Path) -> None:
    """Forged requests, each with an address of its own, make few fetches; a key that is known stays and judges."""

    async def story() -> None:
        async with house(tmp_path, GOOD, Reply(status=404)) as it:
            assert await it.prove(paid()) == "accepted"
            forged = [paid(f"{HOST}/v1/notifications/certs/CERT-{n}x", private_pem("rsa", 2)) for n in range(100)]
            together = await asyncio.gather(*(it.prove(request) for request in forged))
            assert set(together) == {"503 key_unavailable", "503 key_flood"}
            assert together.count("503 key_unavailable") == keyrings.AT_ONCE
            for request in forged:
                assert (await it.prove(request)).startswith("503 ")
            assert len(it.client.asked) <= keyrings.BURST + 1
            assert await it.prove(paid()) == "accepted"

    tell(story())


def test_a_crowd_does_not_wait_for_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many requests wait for keys at a time; the others are told to come again."""
    monkeypatch.setattr(keyrings, "MOST_WAITING", 3)

    async def story() -> None:
        async with house(tmp_path, GOOD) as it:
            found = await asyncio.gather(*(it.prove(paid()) for _ in range(10)))
            assert (found.count("accepted"), found.count("503 key_flood")) == (3, 7)

    tell(story())


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many addresses only the last ones are remembered, good or bad."""
    monkeypatch.setattr(keyrings, "MOST_GOOD", 3)
    monkeypatch.setattr(keyrings, "MOST_FAILED", 2)
    bad = Reply(status=404)

    async def story() -> None:
        async with house(tmp_path, GOOD, GOOD, GOOD, GOOD, bad) as it:
            seen = [await it.prove(paid(f"{HOST}/v1/notifications/certs/C{n}")) for n in range(8)]
            assert seen == ["accepted"] * 4 + ["503 key_unavailable"] * 4
            for number, again in ((3, 0), (2, 0), (1, 0), (7, 0), (6, 0), (0, 1), (5, 1)):
                asked = len(it.client.asked)
                await it.prove(paid(f"{HOST}/v1/notifications/certs/C{number}"))
                assert len(it.client.asked) - asked == again, number

    tell(story())


def test_pinned_keys_are_not_fetched(tmp_path: Path) -> None:
    """An app with a key of its own fetches none, and tells which of them matched."""
    verify = {"scheme": "paypal", "webhook_id": "9XL", "secrets": [{"env": "KEY"}]}
    pinned = LiveApp(App(id=1, name="shop", verify=verify), lambda *_: public_pem("rsa"))

    async def story() -> None:
        async with house(tmp_path, GOOD) as it:
            proof = await it.prover.prove(pinned, paid(), NOW)
            assert isinstance(proof, Proof)
            assert proof.secret == 0
            assert it.client.asked == []

    tell(story())


def test_the_systems_authorities_are_at_hand() -> None:
    """Without roots of its own a keyring trusts what this machine trusts, given as DER."""
    for root in keyrings.load_roots():
        assert ssl.DER_cert_to_PEM_cert(root).startswith("-----BEGIN CERTIFICATE-----")
