"""Replays over HTTP and by command, on a real store with a worker: decided anew or as then, marked, once, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.replaying import Asker, Replayer
from gateway.replays import Which, Wish
from gateway.service import Stored
from gateway.store.catalog import Catalog
from gateway.store.reading import Reader
from gateway.store.registry import Registry
from gateway.store.scanning import Scanner, Span
from tests.tools import KEYS, SECRET, Peer, acceptor, all_events, ended, publish, signed, tell
from tests.tools_api import Api, serving

FILE = {
    "apps": [
        {
            "id": 43,
            "name": "forge",
            "verify": {"scheme": "github", "secrets": [{"env": "TESTS_SECRET"}]},
            "triggers": [
                {
                    "name": "deploys",
                    "when": 'event.body.ref == "main"',
                    "workflow": "deploy",
                    "input": {"commit": "${event.body.after}", "event": "${event.id}"},
                }
            ],
        },
        {
            "id": 42,
            "name": "ci",
            "adapter": "direct",
            "verify": {"scheme": "orqo", "secrets": [{"env": "TESTS_SECRET"}]},
        },
    ],
    "workflows": [
        {
            "id": 15,
            "name": "deploy",
            "input": {"type": "object", "required": ["commit"]},
            "steps": [
                {"id": "tell", "http": {"method": "POST", "url": "PEER/told", "json": "${input}"}},
                {"id": "sub", "needs": ["tell"], "workflow": {"name": "notify", "input": "${input.commit}"}},
            ],
            "output": {"replay": "${run.replay}", "of": "${event.replay}", "id": "${event.id}"},
        },
        {"id": 16, "name": "notify", "steps": [{"id": "post", "http": {"method": "POST", "url": "PEER/post"}}]},
        {"id": 17, "name": "echo", "steps": [{"id": "a", "transform": "${task}"}]},
    ],
}
MAIN = {"ref": "main", "after": "c1"}


def text_of(peer: Peer, change: Callable[[dict[str, Any]], None] | None = None) -> str:
    document = json.loads(json.dumps(FILE).replace("PEER", peer.url))
    if change is not None:
        change(document)
    return json.dumps(document)


def forge(body: bytes, kind: str = "push") -> dict[str, str]:
    digest = signed(body)["x-signature-256"]
    return {"content-type": "application/json", "x-hub-signature-256": digest, "x-github-event": kind}


class Place:
    """A gateway whose `deploy` tells a peer, and what tests do with it."""

    def __init__(self, api: Api, peer: Peer) -> None:
        self.api = api
        self.peer = peer

    async def send(self, body: dict[str, Any], kind: str = "push") -> str:
        """Deliver an event; gives its id."""
        raw = json.dumps(body).encode()
        answer = await self.api.client.post("/api/v1/webhooks/43", content=raw, headers=forge(raw, kind))
        assert answer.status_code in (200, 202), answer.text
        return [event.id for event in await all_events(self.api.redis) if event.head.type == kind][-1]

    async def replay(self, event_id: str, key: str | None = None, **wish: Any) -> Any:
        headers = {} if key is None else {"idempotency-key": key}
        return await self.api.post(f"/api/v1/events/{event_id}/replay", wish, headers=headers)

    async def end(self, run_id: int) -> Any:
        """The document of a run that has ended."""
        await ended(self.api.redis, run_id)
        return (await self.api.get(f"/api/v1/runs/{run_id}")).json()

    async def change(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Publish another file, and wait until the receiver follows it."""
        await publish(self.api.redis, text_of(self.peer, change))
        await self.api.settle()

    @property
    def keys(self) -> Counter[tuple[str, str]]:
        """How often the peer was called at a path under a key."""
        return Counter((call.target, call.headers["idempotency-key"]) for call in self.peer.calls)


@contextlib.asynccontextmanager
async def opened(store: str, folder: Path, **settings: Any) -> AsyncIterator[Place]:
    peer = Peer()
    async with peer.listening(), serving(store, folder, **settings) as api:
        await publish(api.redis, text_of(peer))
        await api.settle()
        yield Place(api, peer)


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTS_SECRET", SECRET)
    monkeypatch.setenv("TESTS_CALLBACK", "whsec_" + "YSBzZWNyZXQgb2YgdGhlIHRlc3RzLi4uLg==")


def test_a_replay_sends_the_keys_of_the_first_time(store: str, tmp_path: Path) -> None:
    """Replayed twice, anew and as then, each step sends one key, those of child runs too; fresh keys are others."""

    async def story() -> None:
        async with opened(store, tmp_path) as place:
            event = await place.send(MAIN)
            await place.end(1)
            assert len(place.keys) == 2
            for wish in ({}, {"config": "same"}):
                answer = await place.replay(event, **wish)
                assert (answer.status_code, answer.json()["status"]) == (201, "started")
                assert (await place.end(answer.json()["run_ids"][0]))["status"] == "completed"
            assert set(place.keys.values()) == {3}
            fresh = (await place.replay(event, fresh_keys=True)).json()
            await place.end(fresh["run_ids"][0])
            assert sorted(place.keys.values()) == [1, 1, 3, 3]

    tell(story())


def test_another_input_is_another_effect(store: str, tmp_path: Path) -> None:
    """Where the trigger gives another input now, the replay's steps send keys of their own."""

    async def story() -> None:
        async with opened(store, tmp_path) as place:
            event = await place.send(MAIN)
            await place.end(1)
            await place.change(lambda file: file["apps"][0]["triggers"][0]["input"].update(commit="fixed"))
            run = await place.end((await place.replay(event)).json()["run_ids"][0])
            assert run["input"] == {"commit": "fixed", "event": event}
            assert set(place.keys.values()) == {1}

    tell(story())


def test_a_replay_is_marked_as_one(store: str, tmp_path: Path) -> None:
    """Event and run name the first event; expressions see `replay` true and the first event's id, also of a replay's
    replay; the first time they see false.
    """

    async def story() -> None:
        async with opened(store, tmp_path) as place:
            event = await place.send(MAIN)
            assert (await place.end(1))["output"] == {"replay": False, "of": False, "id": event}
            again = (await place.replay(event)).json()
            run = await place.end(again["run_ids"][0])
            assert (run["replay_of"], run["event_id"]) == (event, again["replay_event_id"])
            assert run["output"] == {"replay": True, "of": True, "id": event}
            stored = (await place.api.get(f"/api/v1/events/{again['replay_event_id']}")).json()
            assert (stored["replay_of"], stored["decision"]["scheme"]) == (event, "replay")
            third = (await place.replay(again["replay_event_id"])).json()
            assert third["event_id"] == event
            assert (await place.end(third["run_ids"][0]))["replay_of"] == event
            told = (await place.api.get(f"/api/v1/runs/{run['run_id']}/timeline")).text
            assert f'"replay_of":"{event}"' in told

    tell(story())


def test_same_starts_what_was_started_then(store: str, tmp_path: Path) -> None:
    """After a change of trigger and workflow, `same` starts the old version with the old input; `current` says ignored,
    stores nothing, and starts nothing.
    """

    async def story() -> None:
        async with opened(store, tmp_path) as place:
            event = await place.send(MAIN)
            first = await place.end(1)

            def change(file: dict[str, Any]) -> None:
                file["apps"][0]["triggers"][0]["when"] = "false"
                file["workflows"][0]["output"] = "new"

            await place.change(change)
            answer = await place.replay(event)
            count = len(await all_events(place.api.redis))
            assert (answer.status_code, answer.json()["status"], answer.json()["run_ids"]) == (200, "ignored", [])
            assert answer.json()["triggers"] == [
                {"trigger": "deploys", "matched": False, "reason": "the condition is false"}
            ]
            assert len(await all_events(place.api.redis)) == count
            run = await place.end((await place.replay(event, config="same")).json()["run_ids"][0])
            assert (run["input"], run["output"]["id"]) == (first["input"], event)

    tell(story())


def test_an_ignored_event_starts_by_the_trigger_of_now(store: str, tmp_path: Path) -> None:
    """What matched nothing then is started by the mended trigger; there is nothing to start as it was then."""

    async def story() -> None:
        async with opened(store, tmp_path) as place:
            event = await place.send({"ref": "other", "after": "c2"})
            refused = await place.replay(event, config="same")
            assert (refused.status_code, "started no run" in refused.json()["detail"]) == (422, True)
            await place.change(lambda file: file["apps"][0]["triggers"][0].update(when="true"))
            dry = await place.replay(event, dry_run=True)
            assert (dry.status_code, dry.json()["status"]) == (200, "would_start")
            assert dry.json()["starts"][0]["input"] == {"commit": "c2", "event": event}
            for _ in range(2):
                await place.end((await place.replay(event)).json()["run_ids"][0])
            assert set(place.keys.values()) == {2}

    tell(story())


def test_the_same_key_starts_nothing_twice(store: str, tmp_path: Path) -> None:
    """Under one key the answer names the same runs; asked otherwise under it is a 409."""

    async def story() -> None:
        async with opened(store, tmp_path) as place:
            event = await place.send(MAIN)
            answers = [(await place.replay(event, "k")).json() for _ in range(2)]
            assert [answer["status"] for answer in answers] == ["started", "known"]
            assert answers[0]["run_ids"] == answers[1]["run_ids"]
            assert (await place.replay(event, "k", fresh_keys=True)).status_code == 409
            log = (await place.api.get("/api/v1/audit")).json()["data"]
            assert {"event.replay"} == {entry["action"] for entry in log if entry["subject"] == event}
            assert (await place.replay(event, "other")).json()["run_ids"] != answers[0]["run_ids"]

    tell(story())


def test_what_cannot_be_replayed_says_why(store: str, tmp_path: Path) -> None:
    """An unknown event, a disabled app, an app or workflow that is gone, and a refused input: each its own words."""

    async def story() -> None:
        async with opened(store, tmp_path) as place:
            event = await place.send(MAIN)
            run = await place.end(1)
            unknown = await place.replay("evt_00")
            assert (unknown.status_code, "nobody proved" in unknown.json()["detail"]) == (404, True)
            again = await place.api.post(f"/api/v1/runs/{run['run_id']}/rerun", {})
            await place.end(again.json()["run_id"])
            assert "repeats run 1" in (await place.replay(again.json()["event_id"])).json()["detail"]
            cases: list[tuple[Callable[[Any], Any], str]] = [
                (lambda file: file["apps"][0].update(disabled=True), "is disabled"),
                (lambda file: file["apps"].pop(0), "not there any more"),
                (lambda file: file["workflows"][0].update(input={"required": ["zip"]}), "zip"),
                (move_to_echo, "not there any more"),
            ]
            for change, words in cases:
                await place.change(change)
                config = "same" if change is move_to_echo else "current"
                answer = await place.replay(event, config=config)
                assert (answer.status_code, words in answer.json()["detail"]) == (422, True), answer.text

    def move_to_echo(file: dict[str, Any]) -> None:
        file["apps"][0]["triggers"][0]["workflow"] = "echo"
        file["workflows"].pop(0)

    tell(story())


def test_many_are_replayed_by_filter_the_oldest_first(store: str, tmp_path: Path) -> None:
    """By app, type and outcome, page by page; replays are not replayed, and what is refused doesn't stop the others."""

    async def story() -> None:
        async with opened(store, tmp_path, worker=False) as place:
            sent = [await place.send({"ref": "main", "after": f"c{number}"}) for number in range(3)]
            await place.send({"ref": "main", "after": "x"}, "ping")
            ignored = await place.send({"ref": "other"})
            wanted = {"since": "0", "app": 43, "type": "push", "outcome": "accepted", "limit": 2}
            pages = await page_through(place, wanted)
            assert [[each["event_id"] for each in page] for page in pages] == [sent[:2], sent[2:]]
            assert {each["status"] for page in pages for each in page} == {"started"}
            (again,) = await page_through(place, wanted | {"limit": 50})
            assert [each["event_id"] for each in again] == sent

            await place.change(lambda file: file["apps"][0]["triggers"][0].update(when="true"))
            (rest,) = await page_through(place, {"since": "0", "type": "push"})
            assert [each["status"] for each in rest] == ["started"] * 3 + ["refused"]
            assert (rest[-1]["event_id"], "event.body.after" in rest[-1]["reason"]) == (ignored, True)

    tell(story())


async def page_through(place: Place, wanted: dict[str, Any]) -> list[list[Any]]:
    pages, cursor = [], None
    while True:
        answer = await place.api.post("/api/v1/events/replay", wanted | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        pages.append(answer.json()["data"])
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return [page for page in pages if page]


class Dying:
    """Storage whose process ends at one write: before it, or after it was done and before anybody heard."""

    def __init__(self, storage: Any, last: int, *, after: bool) -> None:
        self._storage = storage
        self._last = last
        self._after = after
        self.count = 0

    async def store(self, event: Any) -> Stored:
        self.count += 1
        if self.count == self._last:
            if self._after:
                await self._storage.store(event)
            raise asyncio.CancelledError
        stored: Stored = await self._storage.store(event)
        return stored


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
def test_a_bulk_that_was_broken_off_goes_on(store: str, tmp_path: Path, after: bool) -> None:
    """Ended at any write, the same under the same key replays the rest, and nothing twice."""

    async def story() -> None:
        async with opened(store, tmp_path, worker=False) as place:
            sent = [await place.send({"ref": "main", "after": f"c{number}"}) for number in range(4)]
            redis = place.api.redis
            catalog = Catalog(redis, KEYS)
            registry = Registry(redis, catalog, KEYS.named("changed"), ())
            await registry.load()
            storage = Dying(acceptor(redis), 3, after=after)
            replayer = Replayer(registry, storage, Reader(redis, KEYS), Scanner(redis, KEYS), catalog.audit)
            asker = Asker(key="bulk")
            with pytest.raises(asyncio.CancelledError):
                await replayer.page(Which(), Span(0), Wish(), asker, 50)
            page = await replayer.page(Which(), Span(0), Wish(), asker, 50)
            known = 3 if after else 2
            assert [each.status for each in page.data] == ["known"] * known + ["started"] * (4 - known)
            copies = [each.head.replay_of for each in await all_events(redis) if each.head.replay_of]
            assert sorted(copies) == sorted(sent)

    tell(story())


def test_large_events_are_not_read_all_at_once(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going through events takes no more memory than a few of them have, and one of any size; none is left out."""
    monkeypatch.setattr("gateway.store.scanning.MOST_BYTES", 300)

    async def story() -> None:
        async with opened(store, tmp_path, worker=False) as place:
            sizes = (10, 10, 1000, 200, 10)
            sent = [await place.send({"after": str(n), "more": "x" * size}) for n, size in enumerate(sizes)]
            scanner, after, pages = Scanner(place.api.redis, KEYS), None, []
            while found := await scanner.next(Span(0), after):
                pages.append([event.id for _, event in found if event is not None])
                after = found[-1][0]
            assert [len(page) for page in pages] == [2, 1, 2]
            assert [each for page in pages for each in page] == sent

    tell(story())


def test_replays_leave_room_and_turns_for_what_comes_in(store: str, tmp_path: Path) -> None:
    """When half the queue is full of replays, more of them are a 503, and a delivery is taken and begins before them."""

    async def story() -> None:
        async with opened(store, tmp_path, worker=False, max_queue=10) as place:
            event = await place.send(MAIN)
            answers = [await place.replay(event) for _ in range(5)]
            assert [answer.status_code for answer in answers] == [201] * 4 + [503]
            live = await place.send({"ref": "main", "after": "live"})
            queued = await place.api.redis.zrange(KEYS.queue("run"), 0, -1)
            (run_id,) = (await Reader(place.api.redis, KEYS).event(live)).run_ids
            ids = [int(job.decode().rpartition(":")[2]) for job in queued]
            # Behind one replay at most, of the four.
            # It is the second of its app: two replays have had their turn by then, the other two come after it.
            assert ids.index(run_id) == 3

    tell(story())


def test_a_start_by_token_is_replayed_too(store: str, tmp_path: Path) -> None:
    """What belongs to no app starts its workflow again: as it is published now, or as it was."""

    async def story() -> None:
        async with opened(store, tmp_path) as place:
            run_id = await place.api.start("echo", task="t")
            event = (await place.end(run_id))["event_id"]
            await place.change(lambda file: file["workflows"][2].update(output="new"))
            outputs = []
            for config in ("current", "same"):
                run = await place.end((await place.replay(event, config=config)).json()["run_ids"][0])
                outputs.append((run["task"], run["output"]))
            assert outputs == [("t", "new"), ("t", "t")]

    tell(story())


def test_a_direct_request_is_replayed(store: str, tmp_path: Path) -> None:
    """The body of a direct app's event names the workflow again."""

    async def story() -> None:
        async with opened(store, tmp_path) as place:
            body = b'{"workflow_id": 17, "task": "t"}'
            sent = await place.api.client.post("/api/v1/webhooks/42", content=body, headers=signed(body))
            first = await place.end(sent.json()["run_id"])
            again = await place.end((await place.replay(first["event_id"])).json()["run_ids"][0])
            assert (again["task"], again["output"], again["replay_of"]) == ("t", "t", first["event_id"])

    tell(story())
