"""The corpus of hostile addresses at every door of egress: nobody is connected to, and a name is looked up once an attempt."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import gateway.web.client as clients
from gateway.adapters import AdapterSettings
from gateway.apps import App, CallbackSettings, LiveApp
from gateway.configuration import Configuration, read_configuration
from gateway.egress import Policy, read_policy
from gateway.errors import GatewayError
from gateway.proofs import Request
from gateway.reconciling import ReconcileSettings
from gateway.secrets import SecretRef
from gateway.store.catalog import Catalog
from gateway.store.reading import Reader
from gateway.web.adapter import Adapters
from gateway.web.client import Answer, Client, Failure
from gateway.web.github import GitHub
from gateway.web.keyring import Keyring
from gateway.web.visiting import Visits
from gateway.workflows import CompiledStep, prepare
from tests.tools import KEYS, Peer, Reply, begin, connected, settings_for, tell, until, working
from tests.tools_egress import NAMES, OUTSIDE, REDIRECTS, TEXTS, CatchAll, CountingClient, Names, has_outside, witnessed
from workers.attempts import attempt
from workers.executors.base import Context, Models, StepFailed

needs_outside = pytest.mark.skipif(not has_outside(), reason="this machine has no 127.0.0.2")
STATUSES = (300, 301, 302, 303, 305, 307, 308)
DEFINITION = {
    "name": "w",
    "steps": [
        {"id": "plain", "http": {"url": "${input.url}"}},
        {"id": "query", "http": {"url": "${input.url}", "query": {"a": "b"}}},
        {"id": "model", "model": {"model": "m", "url": "${input.url}", "prompt": "p"}},
        {"id": "base", "model": {"model": "m", "prompt": "p"}},
    ],
}
STEPS = prepare(DEFINITION).steps


# ---- the doors: each sends to a URL, as the product does


async def ask_adapter(client: Client, url: str) -> None:
    app = LiveApp(App(id=1, name="a", adapter=AdapterSettings(url)), lambda *_: None)
    with contextlib.suppress(GatewayError):
        await Adapters(client).read(app, Request("POST", "/", (), b"{}"))


async def fetch_key(client: Client, url: str) -> None:
    with contextlib.suppress(GatewayError):
        await Keyring(client, roots=[]).find("paypal", url)


async def confirm_subscription(client: Client, url: str) -> None:
    with contextlib.suppress(GatewayError):
        await Visits(client).visit(url)


async def ask_github(client: Client, url: str) -> None:
    settings = ReconcileSettings(hook=1, token=SecretRef(env="X"), repository="a/b", api=url)
    with contextlib.suppress(GatewayError):
        await GitHub(client, settings, "token").deliveries(0)


async def just_send(client: Client, url: str) -> None:
    await client.request("POST", url, body=b"{}")


def do_step(step_id: str) -> Callable[[Client, str], Awaitable[None]]:
    async def door(client: Client, url: str) -> None:
        result = await perform(STEPS[step_id], client, url)
        assert isinstance(result, StepFailed | dict)

    return door


async def perform(step: CompiledStep, client: Client, url: str) -> Any:
    argument = step.argument.render({"input": {"url": url}})
    context = Context(
        run_id=1, step_id=step.id, attempt=1, key="k", seconds=5, cap=4096, client=client, models=Models(url, "a key")
    )
    return await attempt(step, argument, context)


DOORS: dict[str, Callable[[Client, str], Awaitable[None]]] = {
    "the client": just_send,
    "an adapter": ask_adapter,
    "a sender's key": fetch_key,
    "a subscription to confirm": confirm_subscription,
    "GitHub's API": ask_github,
    "an http step": do_step("plain"),
    "an http step with a query": do_step("query"),
    "a model step": do_step("model"),
    "a model's base URL": do_step("base"),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_hostile_text_is_neither_looked_up_nor_dialled(door: str) -> None:
    """A URL that is an address, or that could be read in two ways, is refused as it stands at each door."""

    async def story() -> None:
        async with CatchAll().listening() as inside:
            for url in TEXTS:
                names = Names(["127.0.0.1"])
                async with CountingClient(Policy(ports=frozenset({inside.port})), resolve=names) as client:
                    with witnessed() as witness:
                        await DOORS[door](client, url.replace("PORT", str(inside.port)))
                assert [each for each in client.outcomes if isinstance(each, Answer)] == [], url
                assert (names.asked, witness.looked_up, witness.dialled) == ([], [], []), url
                # A model step without a URL asks nobody at all.
                assert client.outcomes or not url, url
            assert inside.connections == 0

    tell(story())


@pytest.mark.parametrize("door", DOORS)
def test_a_hostile_name_is_looked_up_once_and_not_dialled(door: str) -> None:
    """A name that leads inside, to too many addresses or to none costs each attempt one look-up, at each door."""

    async def story() -> None:
        async with CatchAll().listening() as inside:
            for kind, name in NAMES.items():
                names = Names(name.answer)
                async with CountingClient(Policy(ports=frozenset({inside.port})), resolve=names) as client:
                    with witnessed() as witness:
                        await DOORS[door](client, f"https://{name.host}:{inside.port}/")
                failures = [each for each in client.outcomes if isinstance(each, Failure)]
                assert {each.public_reason for each in failures} == {"unreachable"}, kind
                assert len(failures) == len(client.outcomes), kind
                assert names.asked == [name.host] * len(failures), kind
                assert (witness.looked_up, witness.dialled) == ([], []), kind
            assert inside.connections == 0

    tell(story())


def test_the_systems_own_names_of_this_machine_are_not_dialled() -> None:
    """The same with the system's resolver: `localhost` is asked for once, and refused by where it leads."""

    async def story() -> None:
        async with CatchAll().listening() as inside:
            for door, send in DOORS.items():
                async with CountingClient(Policy(ports=frozenset({inside.port}))) as client:
                    with witnessed() as witness:
                        await send(client, f"https://localhost:{inside.port}/")
                assert witness.looked_up == ["localhost"] * len(client.outcomes), door
                assert witness.dialled == [], door
            assert inside.connections == 0

    tell(story())


@needs_outside
@pytest.mark.parametrize("door", DOORS)
def test_a_name_that_turns_is_judged_at_each_attempt(door: str) -> None:
    """Rebinding: what led outside at one attempt leads inside at the next. What is dialled is what was approved."""

    async def story() -> None:
        peer = Peer(Reply(200, b"{}"))
        # With a time to live of nothing, each look-up may give another answer.
        answers = [[OUTSIDE], ["127.0.0.1"], [OUTSIDE, "127.0.0.1"], [OUTSIDE], ["127.0.0.1"]]
        async with CatchAll("::1").listening() as inside, peer.listening(OUTSIDE, inside.port):
            names = Names(*answers)
            async with CountingClient(read_policy(OUTSIDE), resolve=names) as client:
                with witnessed() as witness:
                    for _ in range(3):
                        await DOORS[door](client, f"http://hooks.example:{inside.port}/")
            assert len(names.asked) == len(client.outcomes) >= 3
            assert set(witness.dialled) <= {OUTSIDE}
            assert len(peer.calls) == sum(isinstance(each, Answer) for each in client.outcomes) >= 1
            assert inside.connections == 0

    tell(story())


@needs_outside
@pytest.mark.parametrize("door", DOORS)
def test_a_redirect_is_not_followed(door: str) -> None:
    """Whatever its status and wherever it points, a redirect is an answer: one request, one look-up, no other connection."""

    async def story() -> None:
        policy = read_policy(OUTSIDE)
        async with CatchAll("::1").listening() as inside:
            for status in STATUSES:
                replies = [Reply(status, headers={"location": each}) for each in REDIRECTS]
                peer = Peer(*replies)
                names = Names([OUTSIDE])
                async with peer.listening(OUTSIDE, inside.port), CountingClient(policy, resolve=names) as client:
                    with witnessed() as witness:
                        for _ in replies:
                            await DOORS[door](client, f"http://hooks.example:{inside.port}/")
                assert {each.status for each in client.outcomes if isinstance(each, Answer)} == {status}
                assert len(peer.calls) == len(client.outcomes) == len(names.asked) >= len(replies)
                assert set(witness.dialled) == {OUTSIDE}
            assert inside.connections == 0

    tell(story())


# ---- callbacks, by a worker


async def publish_callbacks(redis: Any, urls: list[str]) -> None:
    """One app for each URL, as if none had been looked at when it was configured."""
    secret = SecretRef(env="A_CALLBACK_SECRET")
    apps = [
        App(id=number, name=f"app{number}", verify="none", callback=CallbackSettings(url=url, secret=secret))
        for number, url in enumerate(urls, 1)
    ]
    file = read_configuration(json.dumps({"workflows": [{"name": "w", "steps": [{"id": "a", "transform": 1}]}]}))
    await Catalog(redis, KEYS).apply(Configuration(apps, file.workflows, file.documents))


async def callbacks_of(redis: Any, run_ids: list[int]) -> list[Any]:
    """The callbacks of these runs, once all have ended."""

    async def look() -> list[Any]:
        found = [each for run_id in run_ids for each in await Reader(redis, KEYS).callbacks_of(run_id)]
        return found if len(found) == len(run_ids) and all(each.state == "failed" for each in found) else []

    found: list[Any] = await until(look)
    return found


def test_no_callback_is_sent_to_a_hostile_address(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where configuring did not stop them: each attempt is judged, recorded in one word, and nobody is dialled.

    What leads inside and what does not exist look the same to whoever may see the callback.
    """
    monkeypatch.setenv("A_CALLBACK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    answers = {f"n{number}.example": name.answer for number, name in enumerate(NAMES.values())}
    asked: list[str] = []

    async def look_up(host: str, port: int) -> list[str]:
        asked.append(host)
        answer = answers[host]
        if isinstance(answer, str):
            raise OSError(answer)
        return answer

    monkeypatch.setattr(clients, "look_up", look_up)

    async def story() -> None:
        async with connected(store) as redis, CatchAll().listening() as inside:
            # An app whose callback has no URL tells nobody.
            texts = [url.replace("PORT", str(inside.port)) for url in TEXTS if url]
            await publish_callbacks(redis, texts + [f"https://{host}/" for host in answers])
            with witnessed() as witness:
                async with working(settings_for(store, tmp_path, lease=5, egress_allow="", callback_schedule="0")):
                    count = len(texts) + len(answers)
                    run_ids = [await begin(redis, "w", app_id=number) for number in range(1, count + 1)]
                    found = await callbacks_of(redis, run_ids)
            assert sorted(asked) == sorted(answers)
            assert (witness.looked_up, witness.dialled, inside.connections) == ([], [], 0)
        attempts = [each.attempts for each in found]
        assert {len(each) for each in attempts} == {1}
        assert {each[0].error.partition(":")[0] for each in attempts[: len(texts)]} == {"invalid_url"}
        assert {each[0].error for each in attempts[len(texts) :]} == {"unreachable: no connection could be made"}
        assert any("10.0.0.5" in each[0].detail for each in attempts)

    tell(story())


# ---- proxy variables


def test_proxy_variables_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY and its like would lead past the guard; they change nothing, in either spelling."""

    async def story() -> None:
        peer = Peer(Reply(200, b"{}"))
        async with CatchAll().listening() as inside, peer.listening():
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                for each in (name, name.lower()):
                    monkeypatch.setenv(each, f"http://127.0.0.1:{inside.port}")
            async with CountingClient(read_policy("127.0.0.1")) as client:
                for send in DOORS.values():
                    await send(client, peer.url)
                await client.request("GET", "https://127.0.0.1:1/")
            assert inside.connections == 0
            assert len(peer.calls) == len(client.outcomes) - 1 >= len(DOORS)

    tell(story())
