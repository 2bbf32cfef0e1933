"""Our API's endpoints, where messages are sent, for admins: the same as the commands do. A file's are a 409.

A row of routes is called Endpoint too (`web.endpoints`): here it is imported as Row.
"""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.endpoint_documents import (
    WELL,
    EndpointDocument,
    NewEndpoint,
    Queued,
    describe_endpoint,
    describe_new_endpoint,
)
from gateway.endpoints import NAME, EndpointSettings, Event, Rate, Style
from gateway.enlisting import EndpointWish
from gateway.registrations import LONGEST_OVERLAP, OVERLAP
from gateway.standings import Standing
from gateway.web.endpoints import Answer, Call
from gateway.web.endpoints import Endpoint as Row

ADMIN = "admin"
Duration = Annotated[float | str, Meta(description='Seconds, or text such as "30s"')]


class EndpointBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint to make. `filter` and `order` are CEL over `message.type` and `message.data`; `signing_key` asks for
    an ed25519 key beside the secret; headers that are named as secrets are kept encrypted.
    """

    name: Annotated[str, Meta(pattern=NAME)]
    url: Annotated[str, Meta(min_length=1, max_length=8192)]
    events: Annotated[tuple[Event, ...], Meta(min_length=1)] | msgspec.UnsetType = msgspec.UNSET
    filter: Annotated[str, Meta(max_length=4000)] | None = None
    headers: dict[str, str] = {}
    style: Style | msgspec.UnsetType = msgspec.UNSET
    payload: Annotated[str, Meta(pattern="^(full|thin)$")] | msgspec.UnsetType = msgspec.UNSET
    timeout: Duration | None = None
    schedule: tuple[Duration, ...] | None = None
    rate: Rate | None = None
    concurrency: Annotated[int, Meta(ge=1, le=1000)] | None = None
    order: Annotated[str, Meta(max_length=4000)] | None = None
    signing_key: bool = False


class RotationBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how many seconds the older secret signs as well; `force`: also when two are live already."""

    overlap: Annotated[float, Meta(ge=0, le=LONGEST_OVERLAP)] = OVERLAP
    force: bool = False


class EndpointPage(msgspec.Struct, frozen=True):
    """All endpoints, by name. Those that apps' own callbacks are stand with their apps."""

    data: list[EndpointDocument]
    next_cursor: None = None


async def list_endpoints(call: Call) -> Answer:
    """All endpoints."""
    found = await call.management.endpoints()
    standings = await call.redelivery.standings.read([each.id for each in found])
    return 200, EndpointPage([_describe(each, standings[each.id]) for each in found])


async def show_endpoint(call: Call) -> Answer:
    """One endpoint, by id or name, and how it fares."""
    return 200, await _show(call)


async def add_endpoint(call: Call) -> Answer:
    """Make an endpoint with a new secret, which is in this answer and never again."""
    wish = EndpointWish(**msgspec.structs.asdict(call.body))
    return 201, describe_new_endpoint(await call.management.add_endpoint(wish), time.time())


async def remove_endpoint(call: Call) -> Answer:
    """Forget an endpoint. What was not delivered to it never is."""
    return 200, _describe(await call.management.remove_endpoint(call.path["endpoint"]))


async def disable_endpoint(call: Call) -> Answer:
    """Send it nothing, until it is enabled again."""
    return 200, _describe(await call.management.disable_endpoint(call.path["endpoint"]))


async def enable_endpoint(call: Call) -> Answer:
    """Send to a disabled endpoint again."""
    await call.redelivery.enable(call.path["endpoint"], call.management)
    return 200, await _show(call)


async def rotate_endpoint_secret(call: Call) -> Answer:
    """Give an endpoint a new secret, shown in this answer only. The one it had signs as well for a while."""
    wanted: RotationBody = call.body or RotationBody()
    made = await call.management.rotate_endpoint(call.path["endpoint"], wanted.overlap, force=wanted.force)
    return 200, describe_new_endpoint(made, time.time())


async def revoke_endpoint_secret(call: Call) -> Answer:
    """End an endpoint's older secret before its time."""
    return 200, _describe(await call.management.revoke_endpoint_secret(call.path["endpoint"]))


async def ping_endpoint(call: Call) -> Answer:
    """Send a `ping`, as any other message is sent: its callback shows what came of it."""
    made = await call.management.ping(call.path["endpoint"])
    return 202, Queued(callback_id=made.id, message_id=made.message_id, type=made.type)


async def _show(call: Call) -> EndpointDocument:
    endpoint = await call.management.endpoint(call.path["endpoint"])
    return _describe(endpoint, (await call.redelivery.standings.read([endpoint.id]))[endpoint.id])


def _describe(endpoint: EndpointSettings, standing: Standing = WELL) -> EndpointDocument:
    return describe_endpoint(endpoint, time.time(), standing)


ROOT = "/api/v1/endpoints"
ENDPOINTS = (
    Row(method="GET", path=ROOT, handler=list_endpoints, scope=ADMIN, summary="List endpoints", answer=EndpointPage),
    Row(
        method="POST",
        path=ROOT,
        handler=add_endpoint,
        scope=ADMIN,
        summary="Make an endpoint",
        body=EndpointBody,
        answer=NewEndpoint,
        status=201,
        example={"name": "ops", "url": "https://ops.example/hooks", "events": ["run.failed"]},
        refuses=(409,),
    ),
    Row(
        method="GET",
        path=ROOT + "/{endpoint}",
        handler=show_endpoint,
        scope=ADMIN,
        summary="Show an endpoint, by id or name",
        answer=EndpointDocument,
    ),
    Row(
        method="DELETE",
        path=ROOT + "/{endpoint}",
        handler=remove_endpoint,
        scope=ADMIN,
        summary="Remove an endpoint",
        answer=EndpointDocument,
        refuses=(409,),
    ),
    Row(
        method="POST",
        path=ROOT + "/{endpoint}/disable",
        handler=disable_endpoint,
        scope=ADMIN,
        summary="Disable an endpoint",
        answer=EndpointDocument,
        refuses=(409,),
    ),
    Row(
        method="POST",
        path=ROOT + "/{endpoint}/enable",
        handler=enable_endpoint,
        scope=ADMIN,
        summary="Enable an endpoint",
        answer=EndpointDocument,
        refuses=(409,),
    ),
    Row(
        method="POST",
        path=ROOT + "/{endpoint}/rotate-secret",
        handler=rotate_endpoint_secret,
        scope=ADMIN,
        summary="Give an endpoint a new secret",
        body=RotationBody,
        optional_body=True,
        answer=NewEndpoint,
        example={"overlap": 3600},
        refuses=(409,),
    ),
    Row(
        method="POST",
        path=ROOT + "/{endpoint}/revoke-secret",
        handler=revoke_endpoint_secret,
        scope=ADMIN,
        summary="End an endpoint's older secret",
        answer=EndpointDocument,
        refuses=(409,),
    ),
    Row(
        method="POST",
        path=ROOT + "/{endpoint}/ping",
        handler=ping_endpoint,
        scope=ADMIN,
        summary="Send a ping to an endpoint",
        answer=Queued,
        status=202,
        refuses=(409,),
    ),
)
