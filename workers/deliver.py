"""One attempt of one callback: sign, post, record what came of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec
import structlog

from gateway.callbacks import Attempt, Callback, excerpt
from gateway.outbox import Recipient, is_address, recipient_of
from gateway.runs import CALLBACK_MOVES, CallbackState
from gateway.store.records import ATTEMPT, Records, Write, read_callback
from gateway.store.registry import Registry
from gateway.styles import write_post
from gateway.verdicts import CONTROL, Bearing, Heard, Lesson, Verdict, judge
from gateway.web.client import Answer, Client, Failure
from workers.dispatcher import Ending, Hold, StoreClock

MOVE_OF = {CallbackState.DELIVERED: "deliver", CallbackState.FAILED: "fail", CallbackState.PENDING: "retry"}
ANSWER_CAP = 4096
OURS = frozenset({"no_secret", "invalid_request"})
"""Failures that say nothing of the receiver."""
log = structlog.get_logger()


class Courier:
    """Delivers claimed callbacks. The URL and the secrets used are those their endpoint has at the time of the attempt."""

    def __init__(
        self,
        records: Records,
        registry: Registry,
        client: Client,
        clock: StoreClock,
        *,
        schedule: Sequence[float],
        timeout: float,
        bearing: Bearing | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._records = records
        self._registry = registry
        self._client = client
        self._clock = clock
        self._schedule = schedule
        self._timeout = timeout
        self._bearing = bearing or Bearing()
        self._chance = chance

    async def perform(self, hold: Hold) -> Ending:
        """Make one attempt and write it down. Dying between the two means one more delivery, with the same id."""
        callback = read_callback(hold.claimed.id, hold.claimed.fields)
        recipient = await self._find(callback)
        number, began = len(callback.attempts) + 1, self._clock.now()
        answer = await self._post(callback, recipient)
        schedule = self._schedule if recipient is None else recipient.endpoint.schedule or self._schedule
        tries, now = number - callback.spent, self._clock.now() / 1000
        verdict = judge(_heard(answer), tries, schedule, now, self._chance())
        hold.settling = True
        written = await self._write(hold, callback.endpoint, self._attempt(number, began, answer), verdict)
        _log_attempt(callback, number, answer, verdict)
        return Ending.DONE if written == "ok" else Ending.LOST

    async def _post(self, callback: Callback, recipient: Recipient | None) -> Answer | Failure:
        post = None if recipient is None else write_post(recipient.endpoint, callback, self._clock.now() / 1000)
        if recipient is None or post is None:
            problem = None if recipient is None else recipient.endpoint.problem
            detail = f"{problem or 'the endpoint or its secret is not there'}; nothing is sent unsigned"
            return Failure(reason="no_secret", detail=detail)
        return await self._client.request(
            "POST",
            recipient.url,
            headers=post.headers,
            body=post.body,
            total_timeout=recipient.endpoint.timeout or self._timeout,
            cap=ANSWER_CAP,
        )

    async def _find(self, callback: Callback) -> Recipient | None:
        found = recipient_of(callback, self._registry.apps, self._registry.endpoints)
        if found is None:
            await self._registry.refresh()  # it may be newer than the copy at hand
            found = recipient_of(callback, self._registry.apps, self._registry.endpoints)
        return found

    async def _write(self, hold: Hold, endpoint: str, attempt: Attempt, verdict: Verdict) -> str:
        fields: dict[str, bytes | str | int] = {f"{ATTEMPT}{attempt.number}": msgspec.json.encode(attempt)}
        delay = None if verdict.delay is None else int(verdict.delay * 1000)
        if delay is None:
            fields["ended_at"] = self._clock.now()
        else:
            fields["due_at"] = self._clock.now() + delay
        if verdict.reason is not None:
            fields["reason"] = verdict.reason
        write = Write(
            id=hold.claimed.id,
            fence=hold.claimed.fence,
            fields=fields,
            move=CALLBACK_MOVES[MOVE_OF[verdict.state]],
            delay_ms=delay,
            counts=(f"callbacks:{'retry' if delay is not None else verdict.state}",),
            lesson=self._lesson(endpoint, verdict),
        )
        return await self._records.write(write)

    def _attempt(self, number: int, began: int, answer: Answer | Failure) -> Attempt:
        if isinstance(answer, Failure):
            return Attempt(
                number=number,
                at=began,
                duration_ms=answer.duration_ms,
                error=answer.public_text[:500],
                detail=answer.text[:500],
            )
        # A receiver may say back what it was sent, the headers that show who we are among it.
        told = self._registry.hide(answer.body.decode("utf-8", "replace"))
        return Attempt(
            number=number,
            at=began,
            duration_ms=answer.duration_ms,
            status=answer.status,
            answer=excerpt(told.encode()) or None,
        )

    def _lesson(self, endpoint: str, verdict: Verdict) -> tuple[str | int, ...]:
        # What is gone is the URL of one request; other requests have others there, and the host answers.
        if verdict.lesson is Lesson.NONE or (is_address(endpoint) and verdict.lesson in (Lesson.GONE, Lesson.ASKED)):
            return ()
        bearing = self._bearing
        times = (int(seconds * 1000) for seconds in (bearing.pause, bearing.longest, bearing.patience))
        return (verdict.lesson, int(verdict.wait * 1000), bearing.failures, *times)


def _heard(answer: Answer | Failure) -> Heard:
    if isinstance(answer, Failure):
        return Heard(ours=answer.reason in OURS)
    return Heard(status=answer.status, retry_after=_header(answer, "retry-after"), control=_header(answer, CONTROL))


def _header(answer: Answer, name: str) -> str | None:
    return next((value for header, value in answer.headers if header == name), None)


def _log_attempt(callback: Callback, number: int, answer: Answer | Failure, verdict: Verdict) -> None:
    outcome = "retry" if verdict.delay is not None else verdict.state
    log.info(
        f"callback {outcome}",
        callback_id=callback.id,
        run_id=callback.run_id,
        app_id=callback.app_id,
        attempt=number,
        status=None if isinstance(answer, Failure) else answer.status,
        error=answer.text if isinstance(answer, Failure) else None,
        next_in=None if verdict.delay is None else round(verdict.delay),
    )
