"""The chains of receipts in the store: each app's is a stream, to which places are only added."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias

import msgspec
from redis.exceptions import WatchError

from gateway.errors import GatewayError, Unavailable
from gateway.receipts import Place, Signer, next_place
from gateway.store.connection import MISTAKES, Redis
from gateway.store.keys import Keys
from gateway.tasks import end_tasks

PAGE = 500
KEPT = 1_000_000
"""Places of one app that are kept, and a few more."""
MOST_TRIES = 200
FIELD = "place"
Pipeline: TypeAlias = Any
Asked: TypeAlias = tuple[str, str, "asyncio.Future[Place]"]


class PlaceUnreadable(GatewayError):
    """A place in a chain of receipts can't be read."""

    code = "receipt_chain_unreadable"


class Chains:
    """Gives events their places. Those that are asked for at once, for one app, are written together."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._waiting: dict[int, list[Asked]] = {}
        self._writers: dict[int, asyncio.Task[None]] = {}

    async def place(self, app_id: int, event_id: str, sha256: str) -> Place:
        """The place of a stored event: the one it has, or the next one of its app. Raises Unavailable."""
        given: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(app_id, []).append((event_id, sha256, given))
        if app_id not in self._writers:
            self._writers[app_id] = asyncio.get_running_loop().create_task(self._write(app_id))
        return await given

    async def places(self, app_id: int) -> AsyncIterator[list[Place]]:
        """The whole chain of an app, page by page. Raises PlaceUnreadable."""
        after = "-"
        while rows := await self._redis.xrange(self._key(app_id), after, "+", count=PAGE):
            yield [read_row(row) for row in rows]
            after = f"({rows[-1][0].decode()}"

    async def body_hash(self, event_id: str) -> str | None:
        """The SHA-256 of a stored event's bytes as they are now; None when its time is over."""
        body = await self._redis.hget(self._keys.event(event_id), "body")
        return None if body is None else hashlib.sha256(body).hexdigest()

    async def close(self) -> None:
        """Let go of the writers; whoever waits, also behind what was being written, is told that there is no place."""
        await end_tasks(*self._writers.values())
        for _, _, given in [asked for batch in self._waiting.values() for asked in batch]:
            if not given.done():
                given.set_exception(Unavailable(reason="stopping"))
        self._waiting.clear()

    def _key(self, app_id: int) -> str:
        return self._keys.named(f"receipts:{app_id}")

    async def _write(self, app_id: int) -> None:
        try:
            while batch := self._waiting.pop(app_id, []):
                await self._settle(app_id, batch)
        finally:
            del self._writers[app_id]

    async def _settle(self, app_id: int, batch: list[Asked]) -> None:
        trouble: BaseException | None = None
        places: dict[str, Place] = {}
        try:
            places = await self._append(app_id, {event_id: sha256 for event_id, sha256, _ in batch})
        except MISTAKES as error:
            trouble = Unavailable(reason=f"no place for a receipt: {error or type(error).__name__}")
        except GatewayError as error:
            trouble = error
        finally:
            for event_id, _, given in batch:
                if given.done():
                    continue
                if event_id in places:
                    given.set_result(places[event_id])
                else:
                    given.set_exception(trouble or Unavailable(reason="no place for a receipt"))

    async def _append(self, app_id: int, wanted: dict[str, str]) -> dict[str, Place]:
        key, events = self._key(app_id), [self._keys.event(event_id) for event_id in wanted]
        async with self._redis.pipeline(transaction=True) as pipe:
            for _ in range(MOST_TRIES):
                # Two receivers must not give one event two places, nor one place to two events.
                await pipe.watch(key, *events)
                rows = await pipe.xrevrange(key, count=1)
                seconds, micros = await pipe.time()
                given = [await pipe.hget(event, FIELD) for event in events]
                made = _fill(rows, app_id, wanted, given, int(seconds * 1000 + micros // 1000))
                pipe.multi()
                self._add(pipe, key, [place for place, is_new in made.values() if is_new])
                try:
                    await pipe.execute()
                except WatchError:
                    continue
                return {event_id: place for event_id, (place, _) in made.items()}
        raise Unavailable(reason="receipts_contended")

    def _add(self, pipe: Pipeline, key: str, places: Sequence[Place]) -> None:
        for place in places:
            text = msgspec.json.encode(place)
            pipe.xadd(key, {FIELD: text}, id=f"{place.number}-0", maxlen=KEPT, approximate=True)
            pipe.hset(self._keys.event(place.event_id), FIELD, text)


class Notary:
    """Certifies stored events: a place in the chain of their app, signed."""

    def __init__(self, chains: Chains, signer: Signer) -> None:
        self._chains = chains
        self._signer = signer

    async def certify(self, app_id: int, event_id: str, body: bytes) -> str:
        """The signed receipt of an event; the same one each time. Raises Unavailable where none can be given."""
        if not self._signer.can_sign:
            raise Unavailable(reason="no_master_key")
        place = await self._chains.place(app_id, event_id, hashlib.sha256(body).hexdigest())
        return self._signer.sign(place)

    async def close(self) -> None:
        await self._chains.close()


def _fill(
    rows: Sequence[Any], app_id: int, wanted: dict[str, str], given: Sequence[bytes | None], at: int
) -> dict[str, tuple[Place, bool]]:
    """Each event's place, and whether it is a new one."""
    last = read_row(rows[0]) if rows else None
    made: dict[str, tuple[Place, bool]] = {}
    for (event_id, sha256), text in zip(wanted.items(), given, strict=True):
        if text is not None:
            made[event_id] = (read_place(text), False)
            continue
        last = next_place(last, app_id, event_id, sha256, at)
        made[event_id] = (last, True)
    return made


def read_row(row: tuple[bytes, dict[bytes, bytes]]) -> Place:
    """One entry of a chain. Raises PlaceUnreadable."""
    return read_place(row[1].get(FIELD.encode(), b""))


def read_place(text: bytes) -> Place:
    """A place as it is stored. Raises PlaceUnreadable."""
    try:
        return msgspec.json.decode(text, type=Place)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        message = "a place in the chain of receipts can't be read"
        raise PlaceUnreadable(message) from None
