"""Sending callbacks once more: one, or all that fit; and an endpoint's, when it is well again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gateway.callbacks import Callback
from gateway.endpoints import EndpointSettings
from gateway.errors import Conflict
from gateway.outbox import read_app_id
from gateway.runs import CALLBACK_MOVES, CallbackState
from gateway.store.listing import CallbackFilter, Found, Listing, Place
from gateway.store.reading import Reader
from gateway.store.records import Records, Write
from gateway.store.standings import Standings

PAGE = 100
AGAIN = CALLBACK_MOVES["redeliver"]


class Notes(Protocol):
    """Where it is written down who did what."""

    async def note(self, action: str, subject: str, **detail: Any) -> None: ...


class Directory(Protocol):
    """The endpoints that are published, by id or name. Raises NotFound, and Conflict for what a file manages."""

    async def endpoint(self, wanted: str) -> EndpointSettings: ...

    async def disable_endpoint(self, wanted: str, disabled: bool = True) -> EndpointSettings: ...


class Sent(msgspec.Struct, frozen=True):
    """Which were put into the outbox again, and where to go on; no place when these were all."""

    ids: list[str]
    next: Place | None = None


class Redelivery:
    """Puts callbacks into the outbox again: the same message under the same `webhook-id`, its schedule from the start."""

    def __init__(self, records: Records, reader: Reader, listing: Listing, standings: Standings, notes: Notes) -> None:
        self._records = records
        self._reader = reader
        self._listing = listing
        self.standings = standings
        self._notes = notes

    async def send(self, callback_id: str) -> Callback:
        """Send one again: at once if it waits for its next attempt. Raises NotFound, and Conflict while it is on its way."""
        callback = await self._reader.callback(callback_id)
        await self._notes.note("callback.redeliver", callback_id, endpoint=callback.endpoint)
        if await self._send(callback) != "ok":
            message = f"callback {callback_id} is on its way at this moment; look at it again"
            raise Conflict(message)
        return await self._reader.callback(callback_id)

    async def send_all(
        self,
        wanted: CallbackFilter,
        limit: int,
        after: Place | None = None,
        allowed: Callable[[Found], bool] | None = None,
    ) -> Sent:
        """Send again up to `limit` of those that fit, the ones that moved last first. What is on its way is left alone.

        Should this break off, the same call again goes on: what was sent again does not fit any more, where a state is
        wanted, or is pending already.
        """
        about = {"state": wanted.state, "app": wanted.app_id, "run": wanted.run_id, "since": wanted.since}
        await self._notes.note("callback.redeliver", wanted.endpoint or "*", **about, limit=limit)
        ids: list[str] = []
        while True:
            page = await self._listing.callbacks(wanted, min(PAGE, limit - len(ids)), after, allowed)
            ids += [each.callback.id for each in page.found if await self._send(each.callback) == "ok"]
            after = page.next
            if after is None or len(ids) >= limit:
                return Sent(ids, after)

    async def enable(self, wanted: str, directory: Directory) -> str:
        """Send to an endpoint again, by id or name, whoever disabled it: what waits for it goes now. Gives its id.

        Its failures are forgotten. Raises NotFound; Conflict where gateway.yaml says that it is disabled.
        """
        endpoint_id = wanted
        if read_app_id(wanted) is None:
            endpoint = await directory.endpoint(wanted)
            endpoint_id = endpoint.id
            if endpoint.disabled:
                await directory.disable_endpoint(wanted, disabled=False)
        await self._notes.note("endpoint.revive", endpoint_id)
        await self.standings.revive(endpoint_id)
        return endpoint_id

    async def recover(
        self, wanted: str, directory: Directory, since: int, limit: int, after: Place | None = None
    ) -> Sent:
        """Send again what failed at an endpoint, by id or name, since then (ms). Raises NotFound."""
        endpoint_id = wanted if read_app_id(wanted) is not None else (await directory.endpoint(wanted)).id
        return await self.send_all(
            CallbackFilter(endpoint=endpoint_id, state=CallbackState.FAILED, since=since), limit, after
        )

    async def _send(self, callback: Callback) -> str:
        return await self._records.write(
            Write(
                id=callback.id,
                fence=None,
                move=AGAIN,
                fields={"spent": len(callback.attempts)},
                drops=("ended_at", "due_at", "reason"),
                delay_ms=0,
            )
        )
