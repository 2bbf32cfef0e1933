"""Our API's callbacks sent once more: one, all that fit, and what failed at an endpoint."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.callback_documents import CallbackDocument, describe_callback
from gateway.redelivery import Sent
from gateway.store.listing import CallbackFilter
from gateway.web.api_callbacks import PLACE, App, read_place, sees_callback, subject_of_run, write_place
from gateway.web.api_runs import Time, read_time
from gateway.web.endpoints import Answer, Call
from gateway.web.endpoints import Endpoint as Row

START = "runs:start"
MOST = 1000
Count = Annotated[int, Meta(ge=1, le=MOST, description="How many, at most.")]
Cursor = Annotated[str, Meta(pattern=PLACE, description="`next_cursor` of the answer before.")]


class RedeliverBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which callbacks: in this state, moved there since then, of this endpoint (by its id), app, run."""

    status: Literal["failed", "delivered", "pending"] = "failed"
    since: Time
    endpoint: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    app: App | None = None
    run_id: Annotated[int, Meta(ge=1, le=999_999_999_999_999)] | None = None
    limit: Count = 100
    cursor: Cursor | None = None


class RecoverBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What failed since then."""

    since: Time
    limit: Count = 100
    cursor: Cursor | None = None


class Redelivered(msgspec.Struct, frozen=True):
    """The ids of those that were put into the outbox again. With a `next_cursor` there may be more."""

    data: list[str]
    next_cursor: str | None


async def redeliver_one(call: Call) -> Answer:
    """Send a callback again, under the same `webhook-id`: what ended once more, what waits for its next attempt now."""
    callback_id = call.path["callback_id"]
    callback = await call.control.reader.callback(callback_id)
    call.who.require(START, await subject_of_run(call, callback.run_id))
    again = await call.redelivery.send(callback_id)
    return 202, describe_callback(again, operator=call.who.token.may("admin"))


async def redeliver_many(call: Call) -> Answer:
    """Send again the callbacks that fit and that the caller may start runs for, those that moved last first."""
    body: RedeliverBody = call.body
    wanted = CallbackFilter(
        state=body.status,
        run_id=body.run_id,
        app_id=body.app,
        endpoint=body.endpoint,
        since=read_time("since", body.since),
    )
    after = None if body.cursor is None else read_place(body.cursor)
    sent = await call.redelivery.send_all(wanted, body.limit, after, lambda found: sees_callback(call, found, START))
    return 200, _answer(sent)


async def recover_endpoint(call: Call) -> Answer:
    """Send again what failed at an endpoint, by its id or name. It must be enabled for them to go."""
    body: RecoverBody = call.body
    after = None if body.cursor is None else read_place(body.cursor)
    since, wanted = read_time("since", body.since), call.path["endpoint"]
    return 200, _answer(await call.redelivery.recover(wanted, call.management, since, body.limit, after))


def _answer(sent: Sent) -> Redelivered:
    return Redelivered(sent.ids, None if sent.next is None else write_place(sent.next))


REDELIVERIES = (
    Row(
        method="POST",
        path="/api/v1/callbacks/redeliver",
        handler=redeliver_many,
        scope=START,
        summary="Send callbacks again, a page at a time",
        body=RedeliverBody,
        answer=Redelivered,
        refuses=(400, 422),
        example={"endpoint": "ep_1", "since": "2026-01-31T08:00:00Z", "status": "failed"},
    ),
    Row(
        method="POST",
        path="/api/v1/callbacks/{callback_id}/redeliver",
        handler=redeliver_one,
        scope=START,
        summary="Send a callback again",
        answer=CallbackDocument,
        status=202,
        refuses=(409,),
    ),
    Row(
        method="POST",
        path="/api/v1/endpoints/{endpoint}/recover",
        handler=recover_endpoint,
        scope="admin",
        summary="Send again what failed at an endpoint",
        body=RecoverBody,
        answer=Redelivered,
        refuses=(400, 422),
        example={"since": "2026-01-31T08:00:00Z"},
    ),
)
