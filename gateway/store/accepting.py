"""Storing events: one script for a batch, asked again until it answers cleanly or the time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.credits import Payment
from gateway.errors import Unavailable
from gateway.events import Acceptable
from gateway.flow import Flow
from gateway.runs import RunRequest
from gateway.settings import Durability
from gateway.store import scripts
from gateway.store.batches import Batches
from gateway.store.connection import MISTAKES, Redis
from gateway.store.keys import Keys

PAUSE = 0.05
REPLICA_WAIT_MS = 250
SKIPPED = b"~"
CALLS = 2
"""Batches under way at a time: while the store writes one through to the disk, the next is made."""
_encode = msgspec.json.Encoder().encode


class Stored(msgspec.Struct, frozen=True):
    """What became of an event: stored now, known from before (with its runs), in conflict, without room or credits,
    or limited.

    `skipped` holds the place, among the requests, of each that started nothing, with the run that was in its way and
    its state then. `wait_ms` is how long a rate limit refuses it.
    """

    outcome: str
    event_id: str = ""
    run_ids: tuple[int, ...] = ()
    skipped: tuple[tuple[int, int, str], ...] = ()
    wait_ms: int = 0


class Acceptor:
    """Writes events to one shard. Many requests share a call.

    A call that got no clean answer is made again with the same event ids, which the script knows; so it stores
    nothing twice. When `timeout` seconds have passed for an event, `store` raises Unavailable: it may then be stored
    or not, and its sender must be told to come again.
    """

    def __init__(
        self, redis: Redis, keys: Keys, *, timeout: float, max_queue: int, window_ms: int, durability: Durability
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._timeout = timeout
        self._head = (max_queue, window_ms)
        self._durability = durability
        self._batches: Batches[Acceptable, Stored] = Batches(self._store_batch, calls=CALLS)

    async def store(self, event: Acceptable) -> Stored:
        """Store one event with its runs, durably, or raise Unavailable."""
        try:
            return await self._batches.submit(event, self._timeout)
        except MISTAKES as error:
            reason = (
                "the store did not answer in time" if isinstance(error, TimeoutError) else f"the store refused: {error}"
            )
            raise Unavailable(reason=reason) from None

    async def _store_batch(self, events: Sequence[Acceptable]) -> list[Stored]:
        arguments = [*self._head, len(events)]
        for event in events:
            arguments += _arguments(event)
        script = "accept_flow" if any(event.flows for event in events) else "accept"
        deadline = asyncio.get_running_loop().time() + self._timeout
        while True:
            try:
                return [_read_answer(answer) for answer in await self._call(script, arguments)]
            except (RedisConnectionError, RedisTimeoutError, OSError):
                if asyncio.get_running_loop().time() + PAUSE >= deadline:
                    raise
                await asyncio.sleep(PAUSE)

    async def _call(self, script: str, arguments: list[Any]) -> list[list[bytes]]:
        if self._durability != "replica":
            answers: list[list[bytes]] = await scripts.call(self._redis, script, self._keys.prefix, *arguments)
            return answers
        return await self._call_and_wait(script, arguments)

    async def _call_and_wait(self, script: str, arguments: list[Any]) -> list[list[bytes]]:
        # WAIT counts the replicas that have what *this connection* wrote, so both must travel on the same one.
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.execute_command("SCRIPT", "LOAD", scripts.SOURCES[script])
            pipe.execute_command("EVALSHA", scripts.DIGESTS[script], 1, self._keys.prefix, *arguments)
            pipe.execute_command("WAIT", 1, REPLICA_WAIT_MS)
            _, answers, replicas = await pipe.execute()
        if not replicas:
            raise Unavailable(reason="no replica confirmed the write")
        return list(answers)


def _arguments(event: Acceptable) -> list[Any]:
    lane = _lane_of(event)
    requests = _plain_requests(event.requests) if not event.flows else _requests(event.requests, event.flows, lane)
    return [
        event.id,
        event.body_hash,
        *scripts.counted(event.keys),
        _encode(event.head),
        event.body,
        *scripts.counted(requests),
        lane,
        *_payment(event.payment),
    ]


def _plain_requests(requests: Sequence[RunRequest]) -> list[Any]:
    """The requests of nearly all events: nothing holds their runs back."""
    found: list[Any] = []
    for request in requests:
        found += (request.workflow_id, request.conversation_id or "", _encode(request), "", "")
    return found


def _requests(requests: Sequence[RunRequest], flows: Sequence[Flow | None], lane: str) -> list[Any]:
    found: list[Any] = []
    for request, flow in zip(requests, flows, strict=True):
        found += [request.workflow_id, request.conversation_id or "", *_request(request, flow, lane)]
    return found


def _request(request: RunRequest, flow: Flow | None, lane: str) -> list[Any]:
    """A request, its flow, and its item where it becomes one of a batch: then the batch's run has no other input."""
    if flow is None:
        return [_encode(request), "", ""]
    text = _encode(msgspec.structs.replace(flow, lane=lane))
    if flow.batch is None:
        return [_encode(request), text, ""]
    whole = msgspec.structs.replace(request, input=None)
    return [_encode(whole), text, _encode(request.input)]


def _lane_of(event: Acceptable) -> str:
    """Whose turn an event's runs take in the queue: each app, token and hook has its own."""
    head = event.head
    if head.replay_of is not None:
        # However many are replayed, what comes in now has its turn between them.
        return "replay"
    if head.app_id is not None:
        return f"app {head.app_id}"
    if head.token_id is not None:
        return f"token {head.token_id}"
    return "-" if head.hook_id is None else f"hook {head.hook_id}"


def _payment(payment: Payment | None) -> list[Any]:
    if payment is None:
        return ["", 0, 0, 0]
    return [payment.payer, payment.allowance.amount, payment.allowance.period_ms, payment.cost]


def _read_answer(answer: list[bytes]) -> Stored:
    outcome = answer[0].decode()
    if outcome == "limited":
        return Stored(outcome, wait_ms=int(answer[1]))
    if outcome not in ("stored", "known", "conflict", "full", "poor"):
        raise Unavailable(reason=f"the store answered {outcome!r}")
    event_id = answer[1].decode() if len(answer) > 1 else ""
    return Stored(outcome, event_id, *read_places(answer[2:]))


def read_places(places: Sequence[bytes]) -> tuple[tuple[int, ...], tuple[tuple[int, int, str], ...]]:
    """What became of each request of an event: the runs, and those that were skipped, as the accept script writes."""
    started: list[int] = []
    skipped: list[tuple[int, int, str]] = []
    for place, text in enumerate(places):
        if text.startswith(SKIPPED):
            run_id, _, state = text[1:].decode().partition(":")
            skipped.append((place, int(run_id), state))
        else:
            started.append(int(text))
    return tuple(started), tuple(skipped)
