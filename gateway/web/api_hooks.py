"""Our API's hooks: make, list, disable, remove. `POST /api/v1/hooks/{token}`, which starts a run, is ORQO's.

The scope is `admin`, not `workflows:write`: a hook's URL starts runs for whoever knows it, and goes on doing so when
the token that made it has expired or was revoked. To make one is to hand out a credential, as to make a token is.

Ids and tokens stand in the same place of a path: GET and DELETE of an id are ours, all else is ORQO's to answer.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.convertors import Convertor, register_url_convertor

from gateway.documents import HookDocument, NewHook, describe_hook, describe_new_hook
from gateway.hooks import ID_FORM
from gateway.web.endpoints import Answer, Call, Endpoint

ADMIN = "admin"
Id = Annotated[
    str,
    Meta(
        pattern=f"^{ID_FORM}$",
        description="The hook's id; its token is for ORQO's POST.",
        examples=["hook_0a1b2c3d4e5f"],
    ),
]


class IdConvertor(Convertor[str]):
    """What has the form of a hook's id, in the path of a route."""

    regex = ID_FORM

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("hook", IdConvertor())


class HookPath(msgspec.Struct, frozen=True):
    """One hook's. OpenAPI knows one parameter for ids and tokens, for it takes them to be of one path."""

    token: Id


class HookActionPath(msgspec.Struct, frozen=True):
    hook_id: Id


class HookBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hook to make: the id or name of the workflow it starts, and what to call it (else as the workflow).

    `app`, by id or name: whose `callback_urls` say where a request may have its callback sent, and whose secret signs.
    """

    workflow: int | str
    name: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    app: int | str | None = None


class HookPage(msgspec.Struct, frozen=True):
    """All hooks, the oldest first."""

    data: list[HookDocument]
    next_cursor: None = None


async def list_hooks(call: Call) -> Answer:
    """All hooks, without their tokens."""
    return 200, HookPage([describe_hook(each) for each in await call.management.hooks()])


async def make_hook(call: Call) -> Answer:
    """A URL of its own for one workflow. Its token is in this answer and never again; who knows it may start runs."""
    wanted: HookBody = call.body
    token, hook = await call.management.add_hook(
        str(wanted.workflow), wanted.name, None if wanted.app is None else str(wanted.app)
    )
    return 201, describe_new_hook(hook, token)


async def show_hook(call: Call) -> Answer:
    """One hook, without its token."""
    return 200, describe_hook(await call.management.hook(call.path["token"]))


async def remove_hook(call: Call) -> Answer:
    """End a hook for good; its URL is not found any more."""
    return 200, describe_hook(await call.management.remove_hook(call.path["token"]))


async def disable_hook(call: Call) -> Answer:
    """Answer 409 to whoever posts to it, until it is enabled again."""
    return 200, describe_hook(await call.management.disable_hook(call.path["hook_id"]))


async def enable_hook(call: Call) -> Answer:
    """Let a disabled hook start its workflow again."""
    return 200, describe_hook(await call.management.disable_hook(call.path["hook_id"], disabled=False))


HOOKS = (
    Endpoint(
        method="GET", path="/api/v1/hooks", handler=list_hooks, scope=ADMIN, summary="List hooks", answer=HookPage
    ),
    Endpoint(
        method="POST",
        path="/api/v1/hooks",
        handler=make_hook,
        scope=ADMIN,
        summary="Make a hook",
        body=HookBody,
        answer=NewHook,
        status=201,
        example={"workflow": "review", "name": "forms"},
        refuses=(404,),
    ),
    Endpoint(
        method="GET",
        path="/api/v1/hooks/{token:hook}",
        handler=show_hook,
        scope=ADMIN,
        summary="Show a hook",
        where=HookPath,
        answer=HookDocument,
        refuses=(405,),
        shared=True,
    ),
    Endpoint(
        method="DELETE",
        path="/api/v1/hooks/{token:hook}",
        handler=remove_hook,
        scope=ADMIN,
        summary="Remove a hook",
        where=HookPath,
        answer=HookDocument,
        refuses=(405,),
        shared=True,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/hooks/{hook_id}/disable",
        handler=disable_hook,
        scope=ADMIN,
        summary="Disable a hook",
        where=HookActionPath,
        answer=HookDocument,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/hooks/{hook_id}/enable",
        handler=enable_hook,
        scope=ADMIN,
        summary="Enable a hook",
        where=HookActionPath,
        answer=HookDocument,
    ),
)
