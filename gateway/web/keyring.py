"""The keys of senders that serve them: fetched over the guarded client, kept for a while, and never asked for in a flood.

Anyone can post a request that names an address of the sender's hosts, and no proof can be asked before there is a key.
So the number of fetches is bounded, whatever comes in: a bucket for each kind of sender, few fetches at a
time, one for each address, and none for one that has just failed. Who finds no key here can't be judged, which is our
doubt and not their fault.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog
from msgspec import Struct

from gateway.errors import Unavailable
from gateway.verifiers.fetched import Roots, read_key
from gateway.web.client import Client, Failure

GOOD_SECONDS = 86_400.0
FAILED_SECONDS = 30.0
MOST_GOOD = 64
MOST_FAILED = 256
AT_ONCE = 4
MOST_WAITING = 256
TIMEOUT = 5.0
CAP = 65_536
BURST = 20.0
REFILL = 1 / 6
"""Fetches a second for one kind of sender, once the burst is spent."""
MESSAGE = "the key that judges this event can't be had now; send it again"
log = structlog.get_logger()


class _Kept(Struct, frozen=True):
    """What a fetch brought: a key in PEM, or None; and until when that counts, by the monotonic clock."""

    key: str | None
    until: float


class Keyring:
    """The fetched keys of this process. `wall` gives Unix seconds, by which certificates are good or not.

    `roots` are the authorities trusted to vouch for certificates; the system's, where none are given.
    """

    def __init__(
        self,
        client: Client,
        *,
        roots: Roots | None = None,
        timeout: float = TIMEOUT,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._roots = roots
        self._timeout = timeout
        self._wall = wall
        self._good: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._failed: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._fetching: dict[tuple[str, str], asyncio.Task[str | None]] = {}
        self._waiting = 0
        self._buckets: dict[str, _Bucket] = {}

    async def find(self, kind: str, address: str) -> str:
        """The key of a sender of this kind at this address, in PEM. Raises Unavailable when it can't be had now."""
        place = (kind, address)
        kept = self._recall(place)
        key = await self._wait(place) if kept is None else kept.key
        if key is None:
            raise Unavailable(MESSAGE, reason="key_unavailable")
        return key

    def _recall(self, place: tuple[str, str]) -> _Kept | None:
        now = time.monotonic()
        for kept in (self._good, self._failed):
            found = kept.get(place)
            if found is not None and now < found.until:
                kept.move_to_end(place)
                return found
        return None

    async def _wait(self, place: tuple[str, str]) -> str | None:
        task = self._fetching.get(place) or self._begin(place)
        if task is None or self._waiting >= MOST_WAITING:
            raise Unavailable(MESSAGE, reason="key_flood")
        self._waiting += 1
        try:
            # One sender that hangs up must not take the key away from the others.
            return await asyncio.shield(task)
        finally:
            self._waiting -= 1

    def _begin(self, place: tuple[str, str]) -> asyncio.Task[str | None] | None:
        kind = place[0]
        # Each kind of sender has its own, so that a flood in one's name leaves the others alone.
        bucket = self._buckets.setdefault(kind, _Bucket(BURST, REFILL))
        if sum(each == kind for each, _ in self._fetching) >= AT_ONCE or not bucket.take():
            return None
        task = asyncio.create_task(self._fetch(place))
        self._fetching[place] = task
        task.add_done_callback(lambda _: self._fetching.pop(place, None))
        return task

    async def _fetch(self, place: tuple[str, str]) -> str | None:
        kind, address = place
        answer = await self._client.request("GET", address, total_timeout=self._timeout, cap=CAP)
        key, fault = None, "what stands there is no key that counts"
        if isinstance(answer, Failure):
            fault = f"{answer.reason}: {answer.detail}"
        elif answer.status != 200 or answer.truncated:
            fault = f"it answered {answer.status}" if answer.status != 200 else f"its answer is larger than {CAP} bytes"
        else:
            key = read_key(kind, answer.body, await self._find_roots(), self._wall())
        self._keep(place, key)
        if key is None:
            log.warning("a sender's key can't be had", kind=kind, address=address, detail=fault)
        return key

    def _keep(self, place: tuple[str, str], key: str | None) -> None:
        kept, most, seconds = (
            (self._failed, MOST_FAILED, FAILED_SECONDS) if key is None else (self._good, MOST_GOOD, GOOD_SECONDS)
        )
        kept[place] = _Kept(key, time.monotonic() + seconds)
        kept.move_to_end(place)
        while len(kept) > most:
            kept.popitem(last=False)

    async def _find_roots(self) -> Roots:
        if self._roots is None:
            self._roots = await asyncio.to_thread(load_roots)
        return self._roots

    async def close(self) -> None:
        """End the fetches that are under way."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Bucket:
    """Lets through a burst, and then so many a second."""

    def __init__(self, burst: float, refill: float) -> None:
        self._burst = burst
        self._refill = refill
        self._left = burst
        self._since = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._since) * self._refill)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def load_roots() -> Roots:
    """The system's authorities, or those that SSL_CERT_FILE names."""
    return ssl.create_default_context().get_ca_certs(binary_form=True)
