"""Handshakes over real HTTP: the very answers, to nobody else, and nothing starts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.errors import Unavailable
from gateway.management import Management
from gateway.secrets import new_master_key, read_master_keys
from gateway.signatures import Request, read_scheme, sign
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.store.refusals import read_refusals
from gateway.web.client import Client
from gateway.web.visiting import Visits
from tests.integration.test_client import LOOPBACK, OK, Names, peer, saying, tls_contexts
from tests.tools import (
    KEYS,
    Peer,
    Valkey,
    all_events,
    connected,
    everything,
    publish,
    receiving,
    settings_for,
    signed,
    tell,
    until,
)

SAMPLES = Path(__file__).parent.parent / "samples" / "handshakes" / "published.json"
VECTORS = json.loads(SAMPLES.read_text("utf-8"))
SECRET = "zoom-secret-token"
MASTER = new_master_key()
ARN = "arn:aws:sns:us-east-1:123456789012:builds"
HOOK_SECRET = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81"
PLAIN = {"kind": "hmac", "header": "X-Signature-256", "prefix": "sha256="}
# Senders whose scheme is not what matters here are written out, each with its handshake.
SCHEMES: dict[str, dict[str, Any]] = {
    **{name: {"scheme": name} for name in ("slack", "zoom", "meta", "intercom", "woocommerce", "github", "pagerduty")},
    **{name: {"scheme": name} for name in ("buildkite", "bitbucket-server", "asana", "notion", "cloudevents")},
    "trello": PLAIN | {"handshake": "head200"},
    "discord": PLAIN | {"handshake": "discord"},
    "websub": PLAIN | {"handshake": "websub"},
    "azure-event-grid": {"scheme": "none", "handshake": "eventgrid"},
    "aws-sns": PLAIN | {"handshake": "sns"},
    "adyen": PLAIN | {"handshake": "adyen"},
    "orqo": {"scheme": "orqo"},
}
MORE: dict[str, dict[str, Any]] = {
    "meta": {"verify_token": {"env": "VERIFY_TOKEN"}},
    "websub": {"topics": ["https://example.com/feed"]},
    "aws-sns": {"topics": [ARN]},
    "cloudevents": {"webhook_origins": ["eventemitter.example.com"]},
}
IDS = {name: 100 + index for index, name in enumerate(SCHEMES)}
PAIRED = ("asana", "notion")


def write_file() -> str:
    """The file with an app for each sender; every app would start a run for whatever comes."""
    apps = [
        {
            "id": IDS[name],
            "name": name,
            "token": f"token-of-{name}-that-nobody-guesses",
            "verify": scheme
            | ({} if name in PAIRED or scheme.get("scheme") == "none" else {"secrets": [{"env": "S"}]}),
            "triggers": [{"name": "all", "workflow": "greet"}],
        }
        | MORE.get(name, {})
        for name, scheme in SCHEMES.items()
    ]
    return json.dumps({"apps": apps, "workflows": [{"id": 15, "name": "greet"}]})


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S", SECRET)
    monkeypatch.setenv("VERIFY_TOKEN", "meatyhamhock")


class Door:
    """A running receiver with an app for each sender, its store, and a client."""

    def __init__(self, port: int, redis: Redis, client: httpx2.AsyncClient) -> None:
        self.port = port
        self.redis = redis
        self._client = client

    async def ask(
        self,
        sender: str,
        method: str = "POST",
        query: str = "",
        body: str = "",
        headers: Any = None,
        by_id: bool = False,
    ) -> httpx2.Response:
        name = IDS[sender] if by_id else f"token-of-{sender}-that-nobody-guesses"
        url = f"http://127.0.0.1:{self.port}/api/v1/webhooks/{name}" + (f"?{query}" if query else "")
        return await self._client.request(method, url, content=body.encode(), headers=headers or {})

    async def send(self, sender: str, vector: dict[str, Any], proven: bool) -> httpx2.Response:
        asked = vector["request"]
        headers = {name.lower(): value for name, value in asked.get("headers", {}).items()}
        body, query = asked.get("body", ""), asked.get("url", "").partition("?")[2]
        if proven:
            headers |= proof(sender, body, headers)
        return await self.ask(sender, asked["method"], query, body, headers)

    async def runs(self) -> int:
        """How many runs there are."""
        return int(await self.redis.get(KEYS.named("runs:last")) or 0)


def proof(sender: str, body: str, headers: dict[str, str], secret: str = SECRET) -> dict[str, str]:
    """What the sender adds to a request."""
    if SCHEMES[sender].get("scheme") == "none":
        return {}
    request = Request("POST", "/", tuple(headers.items()), body.encode())
    return dict(sign(read_scheme(SCHEMES[sender], "scheme"), secret, request, time.time(), "d1"))


@contextlib.asynccontextmanager
async def serving(url: str, folder: Path, redis: Redis) -> AsyncIterator[Door]:
    """One more receiver for what is published."""
    settings = settings_for(url, folder, master_keys=MASTER)
    async with receiving(settings) as port, httpx2.AsyncClient(verify=False, timeout=20) as client:
        yield Door(port, redis, client)


@contextlib.asynccontextmanager
async def opened(url: str, folder: Path) -> AsyncIterator[Door]:
    async with connected(url) as redis:
        await publish(redis, write_file())
        async with serving(url, folder, redis) as door:
            yield door


def test_each_sender_gets_its_answer(store: str, tmp_path: Path) -> None:
    """Status, headers and body are what each sender wants; nothing starts, and only pings are kept as events."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for vector in VECTORS:
                sender, wanted = vector["sender"], vector["response"]
                if sender in ("aws-sns", "adyen"):
                    continue
                answer = await door.send(sender, vector, vector["signed"])
                where = (sender, vector["when"], answer.text)
                assert answer.status_code == wanted["status"], where
                assert answer.text == wanted.get("body", answer.text), where
                for name, value in wanted.get("headers", {}).items():
                    assert answer.headers[name] == value, where
                assert answer.headers["x-content-type-options"] == "nosniff"
            assert await door.runs() == 0
            kept = {(event.head.app_id, event.head.decision.outcome) for event in await all_events(door.redis)}
            pinging = ("github", "pagerduty", "buildkite", "bitbucket-server", "intercom")
            assert kept == {(IDS[name], "ping") for name in pinging}

    tell(story())


def test_what_is_signed_needs_its_signature(store: str, tmp_path: Path) -> None:
    """Every handshake that its sender signs is 401 without the signature, or with another secret's."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for vector in VECTORS:
                if not vector["signed"]:
                    continue
                sender, body = vector["sender"], vector["request"].get("body", "")
                headers = {name.lower(): value for name, value in vector["request"].get("headers", {}).items()}
                assert (await door.send(sender, vector, False)).status_code == 401, sender
                forged = headers | proof(sender, body, headers, "another secret")
                assert (await door.ask(sender, body=body, headers=forged)).status_code == 401, sender
            assert (await door.runs(), await all_events(door.redis)) == (0, [])

    tell(story())


def test_no_other_app_answers(store: str, tmp_path: Path) -> None:
    """An app of an ordinary sender takes no other method, and the same POST without proof is 401."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for vector in VECTORS:
                answer = await door.send("orqo", vector, False)
                method = vector["request"]["method"]
                assert answer.status_code == (401 if method == "POST" else 405), vector["when"]
                assert method == "POST" or answer.headers["allow"] == "POST"
            assert (await door.runs(), await all_events(door.redis)) == (0, [])

    tell(story())


def test_the_rest_are_ordinary_events(store: str, tmp_path: Path) -> None:
    """What a sender posts beside its handshake starts what it is to start; Adyen hears its own word."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            kind = {"content-type": "application/json"}
            for count, sender in enumerate(("slack", "discord", "zoom", "github", "websub", "trello"), 1):
                answer = await door.ask(sender, body='{"n": 1}', headers=kind | proof(sender, '{"n": 1}', kind))
                assert (answer.status_code, answer.json()["run_id"]) == (200, count), sender
            adyen = await door.ask("adyen", body="{}", headers=kind | proof("adyen", "{}", kind))
            assert (adyen.status_code, adyen.text, adyen.headers["content-type"]) == (202, "[accepted]", "text/plain")
            assert await door.runs() == 7

    tell(story())


def test_a_ping_again_is_not_kept_again(store: str, tmp_path: Path) -> None:
    """GitHub doesn't sign the id: whoever repeats a ping under new ones, or none, fills no store."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            given = {"content-type": "application/json", "x-github-event": "ping"}
            headers = given | proof("github", '{"zen":"n"}', given)
            for number in range(5):
                again = headers | {"X-GitHub-Delivery": f"d{number}"}
                assert (await door.ask("github", body='{"zen":"n"}', headers=again)).status_code == 200
            stripped = {name: value for name, value in headers.items() if name.lower() != "x-github-delivery"}
            assert (await door.ask("github", body='{"zen":"n"}', headers=stripped)).status_code == 200
            assert len(await all_events(door.redis)) == 1

    tell(story())


def test_methods_beside_the_handshake_are_405(store: str, tmp_path: Path) -> None:
    """The answer names what the app takes."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            for sender, method, allow in (
                ("slack", "GET", "POST, GET"),
                ("meta", "HEAD", "POST, GET"),
                ("cloudevents", "OPTIONS", "POST, OPTIONS"),
                ("trello", "GET", "POST, HEAD"),
                ("github", "HEAD", "POST"),
                ("trello", "PUT", "POST"),
            ):
                answer = await door.ask(sender, method)
                assert (answer.status_code, answer.headers["allow"]) == (405, allow), sender

    tell(story())


# ---- pairing


def hooked(body: str, secret: str) -> dict[str, str]:
    kind = {"content-type": "application/json"}
    return kind | proof("asana", body, kind, secret)


def test_asana_pairs_once(store: str, tmp_path: Path) -> None:
    """The first secret is given back and is the app's from then on, sealed; another is refused, the same again is not;
    after a restart it is still there, and a command waits for a new one.
    """

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            body = '{"events": []}'
            assert (await door.ask("asana", body=body, headers=hooked(body, HOOK_SECRET))).status_code == 401
            answer = await door.ask("asana", headers={"x-hook-secret": HOOK_SECRET})
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["x-hook-secret"] == HOOK_SECRET
            assert (await door.ask("asana", body=body, headers=hooked(body, HOOK_SECRET))).status_code == 200
            other = {"x-hook-secret": "another-secret-of-somebody-else"}
            assert (await door.ask("asana", headers=other)).status_code == 401
            assert (await door.ask("asana", headers={"x-hook-secret": HOOK_SECRET})).status_code == 200
            assert HOOK_SECRET not in await everything(door.redis)
            # The file says the same as before: what was handed over stays.
            await publish(door.redis, write_file())
        async with connected(store) as redis, serving(store, tmp_path, redis) as door:
            assert (await door.ask("asana", headers=other)).status_code == 401
            assert (await door.ask("asana", body=body, headers=hooked(body, HOOK_SECRET))).status_code == 200
            management = Management(Catalog(redis, KEYS), read_master_keys([MASTER]), LOOPBACK)
            await management.reopen_app("asana")

            async def is_forgotten() -> bool:
                return (await door.ask("asana", body=body, headers=hooked(body, HOOK_SECRET))).status_code == 401

            await until(is_forgotten)
            assert (await door.ask("asana", headers=other)).status_code == 200
            found = await management.pairing((await Catalog(redis, KEYS).read()).apps[IDS["asana"]])
            assert found is not None
            assert found[1] == other["x-hook-secret"]

    tell(story())


def test_of_two_receivers_one_pairs(store: str, tmp_path: Path) -> None:
    """However many secrets come at once at however many receivers, one is kept, and all answer for that one."""

    async def story() -> None:
        async with opened(store, tmp_path) as first, serving(store, tmp_path, first.redis) as second:
            offers = [f"secret-number-{number}-of-many" for number in range(8)]
            answers = await asyncio.gather(
                *(
                    door.ask("asana", headers={"x-hook-secret": offer})
                    for door, offer in zip((first, second) * 4, offers, strict=True)
                )
            )
            taken = [offer for offer, answer in zip(offers, answers, strict=True) if answer.status_code == 200]
            assert len(taken) == 1
            assert {answer.status_code for answer in answers} == {200, 401}
            for door in (first, second):

                async def is_known(door: Door = door) -> bool:
                    return (await door.ask("asana", body="{}", headers=hooked("{}", taken[0]))).status_code == 200

                await until(is_known)

    tell(story())


def test_the_same_secret_at_two_receivers_is_one(store: str, tmp_path: Path) -> None:
    """A sender that asks twice, since no answer came, gets it both times, wherever it asks."""

    async def story() -> None:
        async with opened(store, tmp_path) as first, serving(store, tmp_path, first.redis) as second:
            offer = {"x-hook-secret": HOOK_SECRET}
            answers = await asyncio.gather(*(door.ask("asana", headers=offer) for door in (first, second)))
            assert [answer.status_code for answer in answers] == [200, 200]

    tell(story())


def test_only_who_knows_the_token_pairs(store: str, tmp_path: Path) -> None:
    """An id can be guessed, so at that address nobody pairs; nor does a secret that contradicts its own signature."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            offer = {"x-hook-secret": HOOK_SECRET}
            assert (await door.ask("asana", headers=offer, by_id=True)).status_code == 401
            token = json.dumps({"verification_token": HOOK_SECRET})
            wrong = {"content-type": "application/json"} | proof("notion", token, {}, "another secret")
            assert (await door.ask("notion", body=token, headers=wrong)).status_code == 401
            right = {"content-type": "application/json"} | proof("notion", token, {}, HOOK_SECRET)
            assert (await door.ask("notion", body=token, headers=right)).status_code == 200
            assert (await Catalog(door.redis, KEYS).read()).pairs.keys() == {IDS["notion"]}

    tell(story())


def test_notions_token_is_the_key(store: str, tmp_path: Path) -> None:
    """Kept for the operator to paste, it verifies all that follows; another token changes nothing. What is kept of both
    handshakes holds neither."""

    async def story() -> None:
        async with opened(store, tmp_path) as door:
            kind = {"content-type": "application/json"}
            answer = await door.ask("notion", body=json.dumps({"verification_token": HOOK_SECRET}), headers=kind)
            assert (answer.status_code, answer.content) == (200, b"")
            later = json.dumps({"verification_token": "another-token-of-somebody-else"})
            assert (await door.ask("notion", body=later, headers=kind)).status_code == 401
            await until(lambda: _are_kept(door.redis, 2))
            text = await everything(door.redis)
            assert not [secret for secret in (HOOK_SECRET, "another-token-of-somebody-else") if secret in text]
            event = '{"type": "page.created", "id": "1"}'
            assert (
                await door.ask("notion", body=event, headers=kind | proof("notion", event, kind, HOOK_SECRET))
            ).status_code == 200
            assert await door.runs() == 1

    tell(story())


async def _are_kept(redis: Redis, count: int) -> bool:
    return len(await read_refusals(redis, KEYS)) == count


def test_without_a_store_nothing_pairs(own_valkey: Valkey, tmp_path: Path) -> None:
    """A secret that can't be kept is not given back: the sender has to come again."""

    async def story() -> None:
        async with opened(own_valkey.url, tmp_path) as door:
            own_valkey.stop()
            answer = await door.ask("asana", headers={"x-hook-secret": HOOK_SECRET})
            assert (answer.status_code, "x-hook-secret" in answer.headers) == (503, False)
            own_valkey.start()

            async def pairs() -> bool:
                return (await door.ask("asana", headers={"x-hook-secret": HOOK_SECRET})).status_code == 200

            await until(pairs)

    tell(story())


# ---- Amazon SNS


def message(**fields: Any) -> str:
    url = f"https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={ARN}&Token=t1"
    given = {"Type": "SubscriptionConfirmation", "TopicArn": ARN, "Token": "t1", "SubscribeURL": url}
    return json.dumps(given | fields)


def test_no_address_but_amazons_is_called(store: str, tmp_path: Path) -> None:
    """A signed confirmation that names another host, or another topic, is refused, and nobody is called; an
    unsubscription is kept as an event.
    """

    async def story() -> None:
        inside = Peer()
        async with opened(store, tmp_path) as door, inside.listening():
            url = f"{inside.url}/?Action=ConfirmSubscription&TopicArn={ARN}&Token=t1"
            for body in (message(SubscribeURL=url), message(TopicArn=ARN + "x")):
                answer = await door.ask("aws-sns", body=body, headers=signed(body.encode(), SECRET))
                assert answer.status_code == 403
            last = message(Type="UnsubscribeConfirmation", SubscribeURL=url)
            answer = await door.ask("aws-sns", body=last, headers=signed(last.encode(), SECRET))
            assert (answer.status_code, answer.content) == (200, b"")
            assert inside.calls == []
            assert [event.head.decision.outcome for event in await all_events(door.redis)] == ["handshake"]
            assert await door.runs() == 0

    tell(story())


def test_an_address_is_called_once(tmp_path: Path) -> None:
    """The confirmation is a GET over TLS under the very name; what comes again is not called again."""
    server, trusting = tls_contexts(tmp_path, "sns.us-east-1.amazonaws.com")

    async def story() -> None:
        async with (
            peer(saying(OK), server) as inside,
            Client(LOOPBACK, resolve=Names(["127.0.0.1"]), ssl_context=trusting) as client,
        ):
            visits = Visits(client)
            url = f"https://sns.us-east-1.amazonaws.com:{inside.port}/?Action=ConfirmSubscription&Token=t1"
            await asyncio.gather(*(visits.visit(url) for _ in range(5)))
            assert len(inside.requests) == 1
            assert inside.requests[0].startswith(b"GET /?Action=ConfirmSubscription&Token=t1 HTTP/1.1\r\n")

    tell(story())


@pytest.mark.parametrize("fault", ["status", "redirect", "certificate"])
def test_what_is_not_confirmed_is_asked_again(tmp_path: Path, fault: str) -> None:
    """Anything but a 2xx from the right peer is our trouble: the sender comes again, and then it is called again."""
    server, trusting = tls_contexts(tmp_path, "sns.us-east-1.amazonaws.com")
    lines = {"status": b"500 Word", "redirect": b"302 Word\r\nlocation: https://127.0.0.1/"}
    answer = OK.replace(b"200 OK", lines.get(fault, b"200 OK"))

    async def story() -> None:
        context = ssl.create_default_context() if fault == "certificate" else trusting
        async with (
            peer(saying(answer), server) as inside,
            Client(LOOPBACK, resolve=Names(["127.0.0.1"]), ssl_context=context) as client,
        ):
            visits = Visits(client)
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await visits.visit(f"https://sns.us-east-1.amazonaws.com:{inside.port}/")
            assert len(inside.requests) == (0 if fault == "certificate" else 2)

    tell(story())
