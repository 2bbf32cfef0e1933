"""Our API's kept secrets, for admins: what gateway.yaml and workflows name as `{secret: NAME}`. No answer has a value."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.documents import SecretDocument, describe_secret
from gateway.secrets import LONGEST, NAME, SHORTEST, VALUE
from gateway.web.endpoints import Answer, Call, Endpoint

ADMIN = "admin"


class SecretBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The secret's value. It is kept encrypted, and never shown again."""

    value: Annotated[str, Meta(min_length=SHORTEST, max_length=LONGEST, pattern=VALUE)]


class SecretPath(msgspec.Struct, frozen=True):
    """The name that gateway.yaml and workflows use."""

    name: Annotated[str, Meta(pattern=NAME)]


class SecretPage(msgspec.Struct, frozen=True):
    """All kept secrets, by name, without their values."""

    data: list[SecretDocument]
    next_cursor: None = None


class RemoveQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`force=true` removes a secret that something names still: that can't be used from then on."""

    force: bool = False


async def list_secrets(call: Call) -> Answer:
    """All kept secrets, without their values."""
    found = await call.management.secrets()
    return 200, SecretPage([describe_secret(name, stored) for name, stored in found.items()])


async def set_secret(call: Call) -> Answer:
    """Keep a secret under this name, in place of what was there. Whoever names it uses the new value from now on."""
    name = call.path["name"]
    stored, _ = await call.management.set_secret(name, call.body.value)
    return 200, describe_secret(name, stored)


async def remove_secret(call: Call) -> Answer:
    """Forget a secret; refused while an app or a workflow names it."""
    name = call.path["name"]
    return 200, describe_secret(name, await call.management.remove_secret(name, force=call.query.force))


SECRETS = (
    Endpoint(
        method="GET",
        path="/api/v1/secrets",
        handler=list_secrets,
        scope=ADMIN,
        summary="List kept secrets",
        answer=SecretPage,
    ),
    Endpoint(
        method="PUT",
        path="/api/v1/secrets/{name}",
        where=SecretPath,
        handler=set_secret,
        scope=ADMIN,
        summary="Keep a secret under a name",
        body=SecretBody,
        answer=SecretDocument,
        example={"value": "a long secret of somebody else's"},
    ),
    Endpoint(
        method="DELETE",
        path="/api/v1/secrets/{name}",
        where=SecretPath,
        handler=remove_secret,
        scope=ADMIN,
        summary="Remove a kept secret",
        query=RemoveQuery,
        answer=SecretDocument,
        refuses=(409,),
    ),
)
