"""API routes as data. One adapter reads, judges and answers for all of them, in the words of their dialect."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from gateway.audit import Actor, acting
from gateway.contents import read_as
from gateway.control import Control, Order, Started
from gateway.errors import BadRequest, GatewayError, MethodNotAllowed, NotFound, Timeout, TooLarge, Unavailable
from gateway.hooks import is_hook_id
from gateway.inquiries import Inquiry
from gateway.management import Management
from gateway.redelivery import Redelivery
from gateway.replaying import Replayer
from gateway.runs import Run
from gateway.store.connection import MISTAKES
from gateway.store.listing import Listing
from gateway.store.waiting import TooManyWaiters
from gateway.traces import HEADER, read_traceparent
from gateway.web.bodies import ClientGone, read_body, send_and_close, while_connected
from gateway.web.callers import Caller, Credential, Gatekeeper, Headers, run_subject, workflow_subject
from gateway.web.repeats import Attempt, Repeats
from gateway.workflows import Published

Answer = tuple[int, Any]
"""A status, and what msgspec can write as JSON; None is an empty body."""
TRACE = HEADER.encode()
SAFE = ("GET", "HEAD", "OPTIONS")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
LONGEST_KEY = 255
KEY_FORM = "^[!-~]+$"
Result = TypeVar("Result")
log = structlog.get_logger()
_encoder = msgspec.json.Encoder()


class Patience(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`wait`: seconds for which the answer is held until the run has ended."""

    wait: Annotated[float, msgspec.Meta(ge=0, le=300)] = 0


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request to an endpoint, read and judged: `body` and `query` are of the endpoint's types."""

    caller: Caller | None
    path: dict[str, str]
    query: Any
    body: Any
    raw: bytes
    key: str | None
    control: Control
    management: Management
    listing: Listing
    replayer: Replayer
    inquiry: Inquiry
    redelivery: Redelivery
    headers: Headers = ()
    receive: Receive | None = None

    @property
    def who(self) -> Caller:
        """The caller of an endpoint that takes a token."""
        assert self.caller is not None
        return self.caller

    def workflow(self, name: str | int, scope: str) -> Published:
        """The workflow with this id or name. Raises NotFound, or Forbidden when the token is not good for it."""
        published = self.control.workflow(name)
        self.who.require(scope, workflow_subject(published))
        return published

    async def run(self, run_id: int, scope: str) -> Run:
        """One run. Raises NotFound, or Forbidden when the token is not good for it."""
        run = await self.control.run(run_id)
        self.who.require(scope, run_subject(run.request, self.control.live_apps))
        return run

    async def cancel(self, run_id: int) -> Run:
        """End a run now. Raises NotFound, Forbidden, or Conflict when it has ended already."""
        await self.run(run_id, "runs:cancel")
        return await self.control.cancel(run_id, f"cancelled with the API token {self.who.token.name!r}")

    async def start(self, order: Order) -> Started:
        """Start a run on the caller's behalf. Raises what `Control.start` raises; then nothing was started."""
        token = None if self.caller is None else self.caller.token
        trace = read_traceparent([value.decode("latin-1") for name, value in self.headers if name == TRACE])
        if trace is not None:
            order = msgspec.structs.replace(order, traceparent=trace)
        return await self.control.start(order, token, self.raw, self.key)

    async def start_and_wait(self, order: Order, seconds: float) -> Run:
        """Start a run: as it is when it has ended, or after so many seconds, or at once without any.

        Raises what `start` raises, and TooManyWaiters; then nothing was started.
        """
        if seconds > 0:
            self.control.check_room()
        started = await self.start(order)
        try:
            return await self.wait(started.run_id, seconds)
        except TooManyWaiters:
            # Others came first meanwhile. It was started: a refusal would be an invitation to start it again.
            return await self.control.run(started.run_id)

    async def wait(self, run_id: int, seconds: float) -> Run:
        """The run when it has ended, or as it is after `seconds`. Lets go of everything when the client leaves."""
        return await self.unless_gone(self.control.wait(run_id, seconds))

    async def unless_gone(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do what may take long, and stop when the client leaves."""
        return await work if self.receive is None else await while_connected(self.receive, work)


Handler = Callable[[Call], Awaitable[Answer]]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One route. `scope` None means that no token is asked for; everything here is what OpenAPI shows.

    `keys` are the headers that may hold a caller's key; the first that is there counts.

    `others` are the answers of other good statuses than `status`.

    `where` is the type of the path's parameters: what is not of it is not found. `media` is the answer's media type.

    `many`: it starts any number of runs, and the answer is a list of them.

    `shared`: another dialect has the same path and answers for all other methods.
    """

    method: str
    path: str
    handler: Handler
    scope: str | None
    summary: str
    answer: Any = None
    status: int = 200
    others: dict[int, Any] = {}
    body: Any = None
    query: Any = None
    optional_body: bool = False
    keys: tuple[str, ...] = ("idempotency-key",)
    where: Any = None
    example: Any = None
    refuses: tuple[int, ...] = ()
    media: str = "application/json"
    shared: bool = False
    many: bool = False

    @property
    def starts(self) -> bool:
        """Whether it starts a run: then the script that stores the run judges the caller's key."""
        return self.scope in (None, "runs:start") and (self.status == 201 or self.many)


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """A way of speaking: its routes, where it looks for a token, and its words for an error.

    `keyed`: every write takes an `Idempotency-Key`, not only the starts of runs.
    """

    name: str
    prefix: str
    endpoints: tuple[Endpoint, ...]
    credential: Credential
    refuse: Callable[[GatewayError], Answer]
    media_type: str = "application/json"
    keyed: bool = False

    def repeats(self, endpoint: Endpoint) -> bool:
        """Whether the answers of this endpoint are kept, and given again to the same request under the same key."""
        return self.keyed and endpoint.method not in SAFE and not endpoint.starts


class Parts(msgspec.Struct, frozen=True):
    """What every endpoint works with."""

    control: Control
    management: Management
    listing: Listing
    replayer: Replayer
    inquiry: Inquiry
    redelivery: Redelivery
    gatekeeper: Gatekeeper
    repeats: Repeats
    max_body: int
    body_timeout: float


def mount(dialect: Dialect, parts: Parts) -> list[BaseRoute]:
    """A dialect's routes: one per path, which also answers for wrong methods; unknown paths below its prefix are its own."""
    paths: dict[str, list[Endpoint]] = {}
    for endpoint in dialect.endpoints:
        paths.setdefault(endpoint.path, []).append(endpoint)
    routes: list[BaseRoute] = [
        Route(path, Desk(dialect, found, parts), methods=[each.method for each in found if each.shared] or None)
        for path, found in paths.items()
    ]
    if dialect.prefix:
        routes.append(Route(dialect.prefix + "/{rest:path}", Desk(dialect, [], parts)))
    return routes


class Desk:
    """Answers for one path of one dialect. Plain ASGI."""

    def __init__(self, dialect: Dialect, endpoints: Sequence[Endpoint], parts: Parts) -> None:
        self._dialect = dialect
        self._endpoints = {endpoint.method: endpoint for endpoint in endpoints}
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        problem: GatewayError | None = None
        try:
            status, document = await self._answer(scope, receive)
        except ClientGone:
            return
        except GatewayError as error:
            problem = error
        except MISTAKES:
            log.exception("store failed", dialect=self._dialect.name)
            problem = Unavailable()
        except asyncio.CancelledError:
            # This process stops and can't wait any longer: stored or not, the caller must come again.
            problem = Unavailable()
        except Exception:
            log.exception("request failed", dialect=self._dialect.name)
            problem = GatewayError("something went wrong here; it is in the log")
        if problem is not None:
            status, document = self._dialect.refuse(problem)
        answer = document if isinstance(document, Response) else self._write(status, document, problem)
        if isinstance(problem, TooLarge | Timeout):
            await send_and_close(receive, send, status, answer.raw_headers, bytes(answer.body))
        else:
            await answer(scope, receive, send)
        milliseconds = round((time.perf_counter() - began) * 1000, 1)
        log.info(
            "api",
            dialect=self._dialect.name,
            method=scope["method"],
            path=_shown_path(scope),
            status=status,
            ms=milliseconds,
        )

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        endpoint = self._endpoint(scope["method"])
        caller = self._caller(endpoint, scope)
        if caller is not None and endpoint.method not in SAFE:
            acting.set(_actor(caller, scope))
        raw = await read_body(scope, receive, self._parts.max_body, self._parts.body_timeout)
        call = Call(
            caller=caller,
            path=read_path(endpoint, scope),
            query=read_query(endpoint, scope),
            body=read_typed(endpoint, raw),
            raw=raw,
            key=self._key(endpoint, scope),
            control=self._parts.control,
            management=self._parts.management,
            listing=self._parts.listing,
            replayer=self._parts.replayer,
            inquiry=self._parts.inquiry,
            redelivery=self._parts.redelivery,
            headers=scope["headers"],
            receive=receive,
        )
        if call.key is None or not self._dialect.repeats(endpoint):
            return await endpoint.handler(call)
        return await self._parts.repeats.once(_attempt(call, call.key, scope), lambda: endpoint.handler(call))

    def _endpoint(self, method: str) -> Endpoint:
        endpoint = self._endpoints.get(method)
        if endpoint is not None:
            return endpoint
        if not self._endpoints:
            message = "there is nothing at this path"
            raise NotFound(message)
        allowed = ", ".join(self._endpoints)
        message = f"this path takes {allowed}"
        raise MethodNotAllowed(message, allow=allowed)

    def _caller(self, endpoint: Endpoint, scope: Scope) -> Caller | None:
        if endpoint.scope is None:
            return None
        caller = self._parts.gatekeeper.identify(self._dialect.credential(scope["headers"]))
        # A narrowed token gets past here, and is held to its workflows and apps where they are known.
        if not any(grant.partition("@")[0] in (endpoint.scope, "admin") for grant in caller.token.scopes):
            caller.require(endpoint.scope)
        return caller

    def _key(self, endpoint: Endpoint, scope: Scope) -> str | None:
        key = read_key(endpoint, scope)
        if key is not None and (self._dialect.repeats(endpoint) or endpoint.many) and not re.fullmatch(KEY_FORM, key):
            message = "idempotency-key takes printable ASCII without spaces"
            raise BadRequest(message)
        return key

    def _headers_of(self, error: GatewayError, status: int) -> dict[str, str]:
        headers = {"retry-after": str(error.retry_after)} if error.retry_after else {}
        if "allow" in error.details:
            headers["allow"] = str(error.details["allow"])
        if status == 401 and self._dialect.credential.challenge:
            headers["www-authenticate"] = self._dialect.credential.challenge
        return headers

    def _write(self, status: int, document: Any, problem: GatewayError | None) -> Response:
        headers = {} if problem is None else self._headers_of(problem, status)
        media = self._dialect.media_type if status >= 400 else "application/json"
        content = b"" if document is None else _encoder.encode(document)
        return Response(content, status, headers, media if content else None)


def _actor(caller: Caller, scope: Scope) -> Actor:
    """Who asks, for the audit log. The context is this request's own."""
    client = scope.get("client")
    return Actor(kind="token", name=caller.token.name, id=caller.token.id, address=client[0] if client else None)


def _attempt(call: Call, key: str, scope: Scope) -> Attempt:
    target = scope["path"].encode("utf-8", "surrogatepass") + b"?" + scope["query_string"]
    return Attempt(token_id=call.who.token.id, key=key, method=scope["method"], target=target, body=call.raw)


def read_typed(endpoint: Endpoint, raw: bytes) -> Any:
    """The body as the endpoint's type. Raises BadRequest for no JSON, Unprocessable for JSON of another shape."""
    if endpoint.body is None or (endpoint.optional_body and not raw):
        return None
    return read_as(partial(msgspec.json.decode, type=endpoint.body), raw)


def read_path(endpoint: Endpoint, scope: Scope) -> dict[str, str]:
    """The path's parameters. Raises NotFound when one is not of its type."""
    found: dict[str, str] = dict(scope["path_params"])
    try:
        if endpoint.where is not None:
            msgspec.convert(found, endpoint.where, strict=False)
    except msgspec.ValidationError:
        message = "there is nothing at this path"
        raise NotFound(message) from None
    return found


def read_query(endpoint: Endpoint, scope: Scope) -> Any:
    """The query as the endpoint's type; `metadata.color` is a field of `metadata`. Raises BadRequest naming the parameter."""
    if endpoint.query is None:
        return None
    given = Request(scope).query_params
    doubled = [name for name in given if len(given.getlist(name)) > 1]
    if doubled:
        message = f"{doubled[0]} is given twice"
        raise BadRequest(message)
    try:
        return msgspec.convert(_nest(dict(given)), endpoint.query, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        message = f"{where.rstrip('`') or 'query'}: {what[:1].lower()}{what[1:]}"
        raise BadRequest(message) from None


def _nest(given: dict[str, str]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in given.items():
        outer, dot, inner = name.partition(".")
        if not dot:
            nested[name] = value
        elif isinstance(nested.setdefault(outer, {}), dict):
            nested[outer][inner] = value
    return nested


def read_key(endpoint: Endpoint, scope: Scope) -> str | None:
    """The `Idempotency-Key`, or what else the endpoint takes. Raises BadRequest when it is doubled, empty or too long."""
    for key in endpoint.keys:
        given: list[str] = [value.decode("latin-1").strip() for name, value in scope["headers"] if name == key.encode()]
        if given:
            return _single_key(key, given)
    return None


def _single_key(name: str, given: list[str]) -> str:
    if len(given) > 1 or not 0 < len(given[0]) <= LONGEST_KEY:
        message = f"{name} must be given once, with 1 to {LONGEST_KEY} characters"
        raise BadRequest(message)
    return given[0]


def _shown_path(scope: Scope) -> str:
    # A token in a path is a secret, and the log is not its place.
    path, token = str(scope["path"]), scope["path_params"].get("token")
    return path.replace(token, "…") if token and not is_hook_id(token) else path
