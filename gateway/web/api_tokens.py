"""Our API's tokens, for admins: make, list, revoke."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.credits import Allowance
from gateway.documents import NewToken, TokenDocument, describe_new_token, describe_token
from gateway.errors import Unprocessable
from gateway.tokens import SCOPES, Token, read_grant
from gateway.web.endpoints import Answer, Call, Endpoint

DAY = 86_400
GRANTS = rf"^(admin|({'|'.join(SCOPES[:-1])})(@(workflow|app):[^\n\r]+)?)$"


class Credits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many credits a token may use; with `every` (`3d`, `12h`, ..) it gets as many anew each such period."""

    amount: Annotated[float, Meta(ge=0, le=2**53 - 1, multiple_of=1)]
    every: Annotated[str, Meta(pattern="^[1-9][0-9]{0,2}(d|h|m|s)$")] | None = None


class TokenBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token to make: what it is for, what it may do, after how many days it ends (none: never).

    Without `credits` it may use any number of them.
    """

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    scopes: Annotated[
        list[Annotated[str, Meta(pattern=GRANTS, max_length=300)]], Meta(min_length=1, max_length=100)
    ] = msgspec.field(default_factory=lambda: ["runs:start", "runs:read"])
    days: Annotated[float, Meta(gt=0, le=36_500)] | None = None
    credits: Credits | None = None


class TokenPage(msgspec.Struct, frozen=True):
    """All tokens, the oldest first."""

    data: list[TokenDocument]
    next_cursor: None = None


async def list_tokens(call: Call) -> Answer:
    """All tokens, without their secrets: when each was last used, and what credits it has left."""
    tokens = await call.management.tokens()
    return 200, TokenPage(await _describe(call, tokens))


async def make_token(call: Call) -> Answer:
    """A new token. Its text is in this answer and never again."""
    wanted: TokenBody = call.body
    unknown = [each for each in wanted.scopes if read_grant(each) is None]
    if unknown:
        message = f"scopes: there is no scope {unknown[0]!r}; scopes are {', '.join(SCOPES)}"
        raise Unprocessable(message)
    seconds = None if wanted.days is None else wanted.days * DAY
    allowance = None if wanted.credits is None else Allowance(int(wanted.credits.amount), wanted.credits.every)
    text, token = await call.management.add_token(wanted.name, wanted.scopes, seconds, allowance)
    return 201, describe_new_token(token, text, time.time())


async def revoke_token(call: Call) -> Answer:
    """End a token at once; one that has ended stays so."""
    (document,) = await _describe(call, [await call.management.revoke_token(call.path["token_id"])])
    return 200, document


async def _describe(call: Call, tokens: list[Token]) -> list[TokenDocument]:
    reader, now = call.control.reader, time.time()
    used = await reader.last_uses()
    balances = await reader.balances({each.payer: each.credits for each in tokens if each.credits})
    return [describe_token(each, now, used.get(each.id), balances.get(each.payer)) for each in tokens]


TOKENS = (
    Endpoint(
        method="GET",
        path="/api/v1/tokens",
        handler=list_tokens,
        scope="admin",
        summary="List tokens",
        answer=TokenPage,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/tokens",
        handler=make_token,
        scope="admin",
        summary="Make a token",
        body=TokenBody,
        answer=NewToken,
        status=201,
        example={"name": "dashboard", "scopes": ["runs:read@workflow:review"], "days": 30},
    ),
    Endpoint(
        method="DELETE",
        path="/api/v1/tokens/{token_id}",
        handler=revoke_token,
        scope="admin",
        summary="Revoke a token",
        answer=TokenDocument,
    ),
)
