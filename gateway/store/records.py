"""Runs and callbacks in the store: claiming them, writing down what was done, reading them back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.callbacks import Attempt, Callback, Outgoing
from gateway.flow import Flow
from gateway.hops import Hop
from gateway.runs import (
    CALLBACK_MOVES,
    MOVES,
    OPEN,
    Held,
    Move,
    Problem,
    Run,
    RunRequest,
    Signal,
    State,
    StepRecord,
    Told,
    iso,
)
from gateway.store import scripts
from gateway.store.batches import Batches
from gateway.store.connection import Redis
from gateway.store.keys import Keys
from gateway.verdicts import Bearing

Kind = Literal["run", "callback"]
CLAIM: dict[str, Move] = {"run": MOVES["claim"], "callback": CALLBACK_MOVES["claim"]}
PAUSE = 0.1
STEP = "step:"
ATTEMPT = "attempt:"
SIGNAL = "signal:"
MOST_SIGNALS = 1000
"""Words from outside that one run takes."""
ITEM = b"item:"

_request = msgspec.json.Decoder(RunRequest)
_flow = msgspec.json.Decoder(Flow)
_step = msgspec.json.Decoder(StepRecord)
_problem = msgspec.json.Decoder(Problem)
_told = msgspec.json.Decoder(Told)
_attempt = msgspec.json.Decoder(Attempt)
_signal = msgspec.json.Decoder(Signal)


class Claimed(msgspec.Struct, frozen=True):
    """A record that a worker holds now: nobody with a lower fence can write to it any more."""

    id: str
    before: str
    fence: int
    fields: dict[bytes, bytes]


class Claims(msgspec.Struct, frozen=True):
    """The answer to one claim: the store's clock (ms), how many are still due, ms until the next is, what was given."""

    now: int
    due: int
    next_due: int | None
    items: tuple[Claimed, ...]


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """What is written of one record: fields, perhaps a move, perhaps a delay after which it is due again.

    A write without a fence is a person's: it is made whoever works on the record, and they are told to let go.
    """

    id: str
    fence: int | None
    fields: dict[str, bytes | str | int] = {}
    move: Move | None = None
    drops: tuple[str, ...] = ()
    delay_ms: int | None = None
    known_pokes: int | None = None
    """With a delay: how many pokes it knows of. Were there more since, the record is due at once."""
    counts: tuple[str, ...] = ()
    callbacks: tuple[Outgoing, ...] = ()
    pokes: tuple[int | str, ...] = ()
    """Runs to poke; of an event, the runs that it started, if it did."""
    lesson: tuple[str | int, ...] = ()
    """What an attempt told of a callback's endpoint, as lua/health.lua takes it."""


class Records:
    """The runs, or the callbacks, of one shard."""

    def __init__(
        self, redis: Redis, keys: Keys, kind: Kind, *, patience: float = 10.0, bearing: Bearing | None = None
    ) -> None:
        self.kind = kind
        self._bearing = bearing or Bearing()
        self._redis = redis
        self._keys = keys
        self._patience = patience
        self._staying = ("running",) if kind == "run" else ("sending",)
        self._batches: Batches[Write, str] = Batches(self._write_batch, limit=128)

    async def claim(self, token: str, lease_ms: int, count: int, *, job_id: str = "", spare: int = 0) -> Claims:
        """Take up to `count` due records on a lease; or the very one whose job a stock arq worker holds.

        Of callbacks, as many from each endpoint as its share is; `spare` slots are left to endpoints that answer.
        """
        move = CLAIM[self.kind]
        states = (*scripts.counted(move.sources), move.target)
        if self.kind == "callback":
            arguments = (token, lease_ms, count, spare, self._bearing.share, self._bearing.failures, *states)
            found = await scripts.call(self._redis, "deal", self._keys.prefix, *arguments)
        else:
            arguments = (token, lease_ms, count, *states, job_id)
            found = await scripts.call(self._redis, "claim", self._keys.prefix, *arguments)
        now, due, later, *items = found
        return Claims(
            int(now), int(due), None if int(later) < 0 else int(later), tuple(_read_claimed(item) for item in items)
        )

    async def write(self, write: Write) -> str:
        """Write under the fence. The answer is `ok`, `fenced`, `gone`, or the state that refused the move.

        A store that does not answer is asked again for `patience` seconds; the script takes the same write twice.
        """
        return await self._batches.submit(write)

    async def signal(self, run_id: int, signal: Signal) -> tuple[str, str]:
        """Give an open run a word, only one for each question (`once`).

        The answer: `ok`, `gone`, `taken`, `full`, or `refused` and the state that refused it.
        """
        word = msgspec.json.encode({"name": signal.name, "body": signal.body, "by": signal.by, "once": signal.once})
        arguments = (run_id, word, signal.once, MOST_SIGNALS, *scripts.counted(OPEN))
        answer, *rest = await scripts.call(self._redis, "signal", self._keys.prefix, *arguments)
        return answer.decode(), rest[0].decode() if answer == b"refused" else ""

    async def beat(self, token: str, lease_ms: int, ids: Sequence[str]) -> list[str]:
        """Renew the leases on these records. The answer names those that are lost."""
        arguments = (self.kind, token, lease_ms, *scripts.counted(list(ids)))
        return [lost.decode() for lost in await scripts.call(self._redis, "beat", self._keys.prefix, *arguments)]

    async def release(self, token: str, ids: Sequence[str]) -> int:
        """Hand records back: they are due at once for any other worker."""
        arguments = (self.kind, token, *scripts.counted(list(ids)))
        return int(await scripts.call(self._redis, "release", self._keys.prefix, *arguments))

    async def repair(self, state: str, offset: int, size: int = 500) -> tuple[int, int]:
        """Give the open records of one page their jobs again. The answer: the page's size, how many were mended."""
        arguments = (self.kind, state, offset, size)
        seen, mended = await scripts.call(self._redis, "repair", self._keys.prefix, *arguments)
        return int(seen), int(mended)

    async def _write_batch(self, writes: Sequence[Write]) -> list[str]:
        arguments: list[Any] = [self.kind, len(writes)]
        for write in writes:
            arguments += self._arguments(write)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while True:
            try:
                answers = await scripts.call(self._redis, "record", self._keys.prefix, *arguments)
                return [answer.decode() for answer in answers]
            except (RedisConnectionError, RedisTimeoutError, OSError):
                if loop.time() + PAUSE >= deadline:
                    raise
                await asyncio.sleep(PAUSE)

    def _arguments(self, write: Write) -> list[Any]:
        move = write.move
        arguments: list[Any] = [
            write.id,
            "" if write.fence is None else write.fence,
            *_flat(write.fields),
            "" if move is None else move.target,
            *scripts.counted(self._staying if move is None else move.sources),
            *scripts.counted(write.drops),
            _or_nothing(write.delay_ms),
            _or_nothing(write.known_pokes),
            *scripts.counted(write.counts),
            len(write.callbacks),
        ]
        for callback in write.callbacks:
            arguments += outgoing_arguments(callback)
        return arguments + scripts.counted(write.pokes) + scripts.counted(write.lesson)


def _or_nothing(number: int | None) -> int | str:
    return "" if number is None else number


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    flat: list[Any] = [len(fields) * 2]
    for pair in fields.items():
        flat += pair
    return flat


def outgoing_arguments(callback: Outgoing) -> list[Any]:
    """A message as the scripts read it: its id, then its fields."""
    return [callback.id, *_flat(_callback_fields(callback))]


def _callback_fields(callback: Outgoing) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "run_id": callback.run_id,
        "type": callback.type,
        "url": callback.url,
        "body": callback.body,
        "endpoint": callback.endpoint,
    }
    if callback.hop is not None:
        fields |= {"root": callback.hop.root, "depth": callback.hop.depth}
    if callback.message_id not in ("", callback.id):
        fields["message_id"] = callback.message_id
    told = {"app_id": callback.app_id, "order": callback.order, "traceparent": callback.traceparent}
    return fields | {name: value for name, value in told.items() if value is not None}


def _read_claimed(item: list[Any]) -> Claimed:
    record_id, before, fence, *flat = item
    return Claimed(record_id.decode(), before.decode(), int(fence), dict(zip(flat[::2], flat[1::2], strict=True)))


def read_run(run_id: int, fields: Mapping[bytes, bytes]) -> Run:
    """A run from the fields of its hash."""
    steps = {
        name[len(STEP) :].decode(): _step.decode(value)
        for name, value in fields.items()
        if name.startswith(STEP.encode())
    }
    request = _request.decode(fields[b"request"])
    if ITEM + b"1" in fields:
        request = msgspec.structs.replace(request, input={"items": _items(fields)})
    return Run(
        id=run_id,
        state=State(fields[b"state"].decode()),
        request=request,
        created_at=int(fields[b"created_at"]),
        started_at=_number(fields, b"started_at"),
        ended_at=_number(fields, b"ended_at"),
        output=msgspec.json.decode(fields.get(b"output", b"null")),
        error=_problem.decode(fields[b"error"]) if b"error" in fields else None,
        steps=request.inherited | steps if request.inherited else steps,
        fence=int(fields.get(b"fence", 0)),
        attempt=int(fields.get(b"attempt", 1)),
        credits=int(fields.get(b"credits", 0)),
        lost=int(fields.get(b"lost", 0)),
        signals=_read_signals(fields) if b"words" in fields else (),
        pokes=int(fields.get(b"pokes", 0)),
        cancel_wish=fields[b"cancel_wish"].decode() if b"cancel_wish" in fields else None,
        held=_read_held(fields),
        told=_told.decode(fields[b"told"]) if b"told" in fields else Told(),
    )


def _items(fields: Mapping[bytes, bytes]) -> list[Any]:
    """What a batch gathered, in order: item:1, item:2, ..."""
    return [msgspec.json.decode(fields[ITEM + b"%d" % number]) for number in range(1, _count_items(fields) + 1)]


def _count_items(fields: Mapping[bytes, bytes]) -> int:
    return sum(name.startswith(ITEM) for name in fields)


def _read_held(fields: Mapping[bytes, bytes]) -> Held | None:
    reason = fields.get(b"held", b"").decode()
    if not reason:
        waits = fields[b"state"] == b"pending"
        return Held(reason="queue", since=iso(int(fields[b"created_at"]))) if waits else None
    rule = getattr(_flow.decode(fields[b"flow"]), reason)
    return Held(
        reason=reason,
        since=iso(_number(fields, b"held_since")),
        key=None if rule is None else rule.key,
        until=iso(_number(fields, b"starts_at")),
        items=_count_items(fields) if reason == "batch" else None,
    )


def _read_signals(fields: Mapping[bytes, bytes]) -> tuple[Signal, ...]:
    found = (_signal.decode(value) for name, value in fields.items() if name.startswith(SIGNAL.encode()))
    return tuple(sorted(found, key=lambda signal: signal.seq))


def read_callback(callback_id: str, fields: Mapping[bytes, bytes]) -> Callback:
    """A callback from the fields of its hash."""
    attempts = [_attempt.decode(value) for name, value in fields.items() if name.startswith(ATTEMPT.encode())]
    app_id = _number(fields, b"app_id")
    return Callback(
        id=callback_id,
        message_id=fields.get(b"message_id", callback_id.encode()).decode(),
        # What was written before there were endpoints was for the app's own.
        endpoint=fields[b"endpoint"].decode() if fields.get(b"endpoint") else f"app-{app_id}",
        run_id=int(fields[b"run_id"]),
        app_id=app_id,
        type=fields[b"type"].decode(),
        url=fields[b"url"].decode(),
        body=fields[b"body"],
        state=fields[b"state"].decode(),
        created_at=int(fields[b"created_at"]),
        ended_at=_number(fields, b"ended_at"),
        fence=int(fields.get(b"fence", 0)),
        due_at=_number(fields, b"due_at"),
        attempts=sorted(attempts, key=lambda attempt: attempt.number),
        hop=Hop(fields[b"root"].decode(), int(fields[b"depth"])) if b"root" in fields else None,
        order=_text(fields, b"order"),
        traceparent=_text(fields, b"traceparent"),
        spent=int(fields.get(b"spent", 0)),
        reason=_text(fields, b"reason"),
    )


def final_fields(run: Run) -> dict[str, bytes | str | int]:
    """The fields that end a run."""
    fields: dict[str, bytes | str | int] = {"ended_at": run.ended_at or 0, "credits": run.credits}
    if run.output is not None:
        fields["output"] = msgspec.json.encode(run.output)
    if run.error is not None:
        fields["error"] = msgspec.json.encode(run.error)
    return fields


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str | None:
    return fields[name].decode() if name in fields else None


def _number(fields: Mapping[bytes, bytes], name: bytes) -> int | None:
    return int(fields[name]) if name in fields else None
