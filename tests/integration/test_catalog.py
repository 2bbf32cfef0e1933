"""Publishing apps and workflows, and the copy of them that every process holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.apps import App, CallbackSettings
from gateway.errors import Conflict, NotFound
from gateway.secrets import SecretRef, new_master_key, read_master_keys, seal
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis
from gateway.store.lookups import Lookup
from gateway.store.registry import Registry
from gateway.tokens import new_token
from tests.tools import KEYS, connected, publish, tell, until

NO_KEYS: tuple[bytes, ...] = ()


def apps(*lines: str) -> str:
    return "apps:\n" + "".join(f"  - {{{line}, verify: none}}\n" for line in lines)


def flow(value: object, name: str = "w") -> str:
    return f"workflows:\n  - {{name: {name}, steps: [{{id: s, transform: {value}}}]}}\n"


async def ids(redis: Redis) -> dict[str, int]:
    return {app.name: number for number, app in (await Catalog(redis, KEYS).read()).apps.items()}


# ---- publishing


def test_a_file_is_published_and_again_changes_nothing(store: str) -> None:
    """The first time everything is added; the same file again changes nothing, not even the revision."""

    async def story() -> None:
        async with connected(store) as redis:
            text = apps("name: a, id: 42", "name: b") + flow(1)
            first = await publish(redis, text)
            assert (first.added, first.changed, first.removed) == (["workflow w", "app a", "app b"], [], [])
            assert not await publish(redis, text)
            contents = await Catalog(redis, KEYS).read()
            assert contents.revision == 1
            assert {app.name: app.managed_by for app in contents.apps.values()} == {"a": "file", "b": "file"}

    tell(story())


def test_what_the_file_no_longer_says_is_removed(store: str) -> None:
    """An app or workflow that is gone from the file is gone from the store, and its definition stays for its runs."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, apps("name: a", "name: b") + flow(1))
            digest = (await Catalog(redis, KEYS).read()).workflows["w"].digest
            changes = await publish(redis, apps("name: b"))
            assert sorted(changes.removed) == ["app a", "workflow w"]
            contents = await Catalog(redis, KEYS).read()
            assert ([app.name for app in contents.apps.values()], contents.workflows) == (["b"], {})
            assert (await Catalog(redis, KEYS).document(digest))["name"] == "w"

    tell(story())


def test_a_token_that_was_made_is_kept(store: str) -> None:
    """An app without a token of its own gets one, and keeps it over every change of the file."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, apps("name: a, id: 1"))
            token = (await Catalog(redis, KEYS).read()).apps[1].token
            assert token is not None
            assert len(token) == 43
            await publish(redis, apps("name: a, id: 1, disabled: true"))
            assert (await Catalog(redis, KEYS).read()).apps[1].token == token

    tell(story())


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (["name: a, id: 1", "name: b, id: 2"], ["name: a, id: 2", "name: b, id: 1"], {"a": 2, "b": 1}),
        (["name: a, id: 5"], ["name: z, id: 5"], {"z": 5}),
        (["name: a, id: 1", "name: b, id: 2"], ["name: b, id: 1"], {"b": 1}),
        (["name: a, id: 1"], ["name: a, id: 7"], {"a": 7}),
        (["name: a"], ["name: a", "name: b"], {"a": 1, "b": 2}),
        ([], ["name: a", "name: b, id: 1"], {"a": 2, "b": 1}),
        ([], ["name: a", "name: b", "name: c, id: 2"], {"a": 3, "b": 4, "c": 2}),
    ],
    ids=["swapped", "renamed", "inherited", "moved", "kept", "taken further down", "taken in between"],
)
def test_apps_have_the_ids_the_file_gives_them(
    store: str, before: list[str], after: list[str], expected: dict[str, int]
) -> None:
    """However apps are renamed, swapped and renumbered, each ends under its id, and none pushes another out."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, apps(*before))
            await publish(redis, apps(*after))
            assert await ids(redis) == expected

    tell(story())


def test_workflows_do_not_share_a_number(store: str) -> None:
    """A workflow without an id gets one that no other of the file has written."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, "workflows:\n  - {name: a}\n  - {name: b, id: 1}\n  - {name: c}\n")
            contents = await Catalog(redis, KEYS).read()
            assert {name: each.id for name, each in contents.workflows.items()} == {"a": 2, "b": 1, "c": 3}

    tell(story())


def test_a_number_that_was_given_is_not_taken_away(store: str) -> None:
    """Writing the id that another app of the file was given is a conflict: its URL would lead elsewhere."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, apps("name: a") + "workflows:\n  - {name: v}\n")
            with pytest.raises(Conflict, match="app id 1 is taken by 'a'"):
                await publish(redis, apps("name: a", "name: b, id: 1") + "workflows:\n  - {name: v}\n")
            with pytest.raises(Conflict, match="workflow id 1 is taken by 'v'"):
                await publish(redis, apps("name: a") + "workflows:\n  - {name: v}\n  - {name: w, id: 1}\n")
            assert await ids(redis) == {"a": 1}

    tell(story())


def test_each_change_of_a_workflow_is_a_version(store: str) -> None:
    """Versions count up, each keeps its definition, and going back is a new version with the old digest."""

    async def story() -> None:
        async with connected(store) as redis:
            found = []
            for value in (1, 2, 1):
                await publish(redis, flow(value))
                published = (await Catalog(redis, KEYS).read()).workflows["w"]
                found.append((published.version, published.digest))
            assert [version for version, _ in found] == [1, 2, 3]
            assert found[0][1] == found[2][1] != found[1][1]
            assert (await Catalog(redis, KEYS).document(found[1][1]))["steps"][0]["transform"] == 2

    tell(story())


def test_the_file_takes_nothing_that_was_made_otherwise(store: str) -> None:
    """An app made by command keeps its name and its id against the file, and is not removed by it."""

    async def story() -> None:
        async with connected(store) as redis:
            made = await Catalog(redis, KEYS).add_app(App(name="made", verify="none"))
            for line in ("name: made", f"name: other, id: {made.id}"):
                with pytest.raises(Conflict, match="made"):
                    await publish(redis, apps(line))
            await publish(redis, apps("name: mine"))
            await publish(redis, "")
            assert await ids(redis) == {"made": made.id}

    tell(story())


def test_an_app_is_added_under_the_next_id_and_only_once(store: str) -> None:
    """A name or an id that is taken is a conflict."""

    async def story() -> None:
        async with connected(store) as redis:
            catalog = Catalog(redis, KEYS)
            await publish(redis, apps("name: a, id: 42"))
            assert (await catalog.add_app(App(name="b"))).id == 43
            with pytest.raises(Conflict):
                await catalog.add_app(App(name="b"))
            with pytest.raises(Conflict):
                await catalog.add_app(App(name="c", id=42))

    tell(story())


def test_two_who_publish_at_once_do_not_undo_each_other(store: str) -> None:
    """Ten apps added in the same moment all get an id of their own."""

    async def story() -> None:
        async with connected(store) as redis:
            catalog = Catalog(redis, KEYS)
            added = await asyncio.gather(*(catalog.add_app(App(name=f"a{number}")) for number in range(10)))
            assert sorted(app.id for app in added) == list(range(1, 11))
            assert len(await ids(redis)) == 10

    tell(story())


def test_a_token_is_published_as_its_hash(store: str) -> None:
    """The store keeps a token under its id and never its text."""

    async def story() -> None:
        async with connected(store) as redis:
            text, token = new_token("ci", ["runs:read"], 0)
            await Catalog(redis, KEYS).put_token(token)
            assert (await Catalog(redis, KEYS).read()).tokens == {token.id: token}
            assert text.encode() not in b"".join((await redis.hgetall(KEYS.named("tokens"))).values())

    tell(story())


def test_a_definition_that_is_not_there_is_told(store: str) -> None:
    """A digest nobody published names nothing."""

    async def story() -> None:
        async with connected(store) as redis:
            with pytest.raises(NotFound):
                await Catalog(redis, KEYS).document("nothing")

    tell(story())


# ---- the copy in memory


@contextlib.asynccontextmanager
async def watching(redis: Redis) -> AsyncIterator[Registry]:
    registry = Registry(redis, Catalog(redis, KEYS), KEYS.named("changed"), NO_KEYS)
    await registry.load()
    registry.start_watching()
    try:
        yield registry
    finally:
        await registry.stop_watching()


def test_a_change_reaches_the_copy_at_once(store: str) -> None:
    """An announced change is in the copy long before the poll would bring it: apps by id and token, workflows by both."""

    async def story() -> None:
        async with connected(store) as redis, watching(redis) as registry:
            await until(lambda: _subscribed(redis))
            await publish(redis, apps("name: a, id: 42, token: tok") + flow(1))
            await until(lambda: "42" in registry.apps, patience=1.5)
            assert registry.app("42") is registry.app("tok")
            assert registry.workflows["w"] == registry.workflows["1"]
            assert registry.definition_at_hand(registry.workflows["w"].digest) is not None
            await publish(redis, "")
            await until(lambda: not registry.apps, patience=1.5)
            with pytest.raises(NotFound):
                registry.app("42")

    tell(story())


async def _subscribed(redis: Redis) -> bool:
    return bool((await redis.pubsub_numsub(KEYS.named("changed")))[0][1])


def test_a_change_whose_announcement_was_lost_is_found(store: str) -> None:
    """Should nobody announce it, the slow poll finds a new revision."""

    async def story() -> None:
        async with connected(store) as redis, watching(redis) as registry:
            await publish(redis, apps("name: a, id: 1"))
            await until(lambda: "1" in registry.apps)
            app = msgspec.json.decode(await redis.hget(KEYS.named("apps"), "1"), type=App)
            await redis.hset(KEYS.named("apps"), "2", msgspec.json.encode(msgspec.structs.replace(app, id=2, name="b")))
            await redis.incr(KEYS.named("revision"))
            await until(lambda: "2" in registry.apps)

    tell(story())


def test_an_app_that_can_not_be_used_spoils_no_other(store: str) -> None:
    """One broken record in the store leaves the rest of the copy whole."""

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, apps("name: a, id: 1"))
            broken = App(id=2, name="b", verify={"scheme": "no such scheme"})
            await redis.hset(KEYS.named("apps"), "2", msgspec.json.encode(broken))
            registry = Registry(redis, Catalog(redis, KEYS), "c", NO_KEYS)
            await registry.load()
            assert [app.app.name for app in {id(app): app for app in registry.apps.values()}.values()] == ["a"]

    tell(story())


# ---- secrets where they say they are


def test_a_secret_comes_from_where_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable, a file (without its last new line) and a sealed value all resolve."""
    keys = read_master_keys([new_master_key()])
    monkeypatch.setenv("A_SECRET_OF_TESTS", "from env")
    (tmp_path / "secret").write_text("from file\n")
    assert Lookup(NO_KEYS)(SecretRef(env="A_SECRET_OF_TESTS"), "app:a") == "from env"
    assert Lookup(NO_KEYS)(SecretRef(file=str(tmp_path / "secret")), "app:a") == "from file"
    assert Lookup(keys)(SecretRef(sealed=seal(keys, "app:a", "sealed")), "app:a") == "sealed"


@pytest.mark.parametrize(
    "reference",
    [
        SecretRef(env="NO_SUCH_VARIABLE_OF_TESTS"),
        SecretRef(file="/no/such/file"),
        SecretRef(file="/"),
        SecretRef(sealed="v1.x.y.z"),
        SecretRef(),
    ],
)
def test_a_secret_that_is_not_there_is_none(reference: SecretRef) -> None:
    """What can't be found or opened resolves to nothing, which makes its app refuse everybody."""
    assert Lookup(NO_KEYS)(reference, "app:a") is None


def test_a_callback_secret_is_resolved_too(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy has the secret that callbacks are signed with."""

    async def story() -> None:
        async with connected(store) as redis:
            monkeypatch.setenv("A_CALLBACK_SECRET", "whsec_aaaaaaaaaaaaaaaa")
            callback = CallbackSettings(url="https://x.example", secret=SecretRef(env="A_CALLBACK_SECRET"))
            await Catalog(redis, KEYS).add_app(App(name="a", verify="none", callback=callback))
            registry = Registry(redis, Catalog(redis, KEYS), "c", NO_KEYS)
            await registry.load()
            assert registry.app("1").callback_secrets == ("whsec_aaaaaaaaaaaaaaaa",)

    tell(story())
