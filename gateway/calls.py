"""What `http` and `model` steps say: the fields, and what is refused before anything runs. Silent.

Secrets stand in a definition as references only, `{env: NAME}`, `{file: PATH}` or `{secret: NAME}`, and are read by the
worker at the moment they are sent. A step that sends one must name its host itself, so that no value can lead the secret elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.egress import check_url, read_policy
from gateway.errors import ConfigError
from gateway.retries import read_duration
from gateway.schemas import compile_schema
from gateway.secrets import WAYS, SecretRef

LARGEST_BODY = 268_435_456
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
ANYWHERE = read_policy("0.0.0.0/0, ::/0")
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
ORIGIN = re.compile(r"(https?)://([^/?#@\s${}]+)(?:[/?#]|$)", re.IGNORECASE)
KEPT_FOR_SECRETS = frozenset({"authorization", "proxy-authorization", "x-api-key", "api-key"})
CONSTANT = frozenset({"bearer", "basic", "key", "schema"})
"""The fields that hold no expressions."""

Text = str | int | float | bool | None
Status = Annotated[int, Meta(ge=100, le=599)] | Annotated[str, Meta(pattern="^[1-5]xx$")]


class BasicAuth(Struct, frozen=True, forbid_unknown_fields=True):
    """A user's name and a reference to the password (RFC 7617)."""

    user: str
    password: SecretRef


class HttpCall(Struct, frozen=True, forbid_unknown_fields=True):
    """One HTTP request. `expect` lists the statuses that are a success; unset, all below 500 but 408 and 429 are.

    At most one of `json`, `form` and `body` is sent. `max_bytes` bounds the answer, below GATEWAY_MAX_OUTPUT.
    `idempotency_key` is made of run, step and item; false sends none, a text is sent instead.
    """

    url: str
    method: str = "GET"
    headers: dict[str, Text | SecretRef] = {}
    query: dict[str, Any] = {}
    json: Any = UNSET
    form: dict[str, Any] | UnsetType = UNSET
    body: str | None = None
    expect: list[Status] | None = None
    response: Literal["auto", "json", "text", "base64"] = "auto"
    max_bytes: Annotated[int, Meta(ge=1, le=LARGEST_BODY)] | None = None
    idempotency_key: bool | str = True
    bearer: SecretRef | None = None
    basic: BasicAuth | None = None


class ModelCall(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One chat completion of an OpenAI-compatible provider.

    `url` is the provider's base (`https://api.example/v1`). Without `url` and `key` they are those of the settings;
    the key of the settings goes to the URL of the settings only. `idle` is the longest silence of a stream.
    """

    model: str
    url: str | None = None
    key: SecretRef | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | str | None = None
    system: str | None = None
    schema: dict[str, Any] | None = None
    temperature: float | str | None = None
    max_tokens: int | str | None = None
    stream: bool = False
    idle: float | str = 60.0

    def __post_init__(self) -> None:
        try:
            msgspec.structs.force_setattr(self, "idle", read_duration(self.idle, "idle"))
        except ConfigError as error:
            raise ValueError(error.message) from None


def argument_of(call: HttpCall | ModelCall) -> dict[str, Any]:
    """The fields of a call that may hold expressions, as plain data."""
    fields = msgspec.structs.asdict(call).items()
    return {name: value for name, value in fields if value is not UNSET and name not in CONSTANT}


def check_call(call: HttpCall | ModelCall, path: str) -> None:
    """Raise ConfigError with `details["path"]` for a call that can't work, or that would give a secret away."""
    if isinstance(call, HttpCall):
        _check_http(call, path)
    else:
        _check_model(call, path)
    for field, reference in secrets_of(call):
        _check_reference(reference, f"{path}.{field}")
        if call.url is not None and origin_of(call.url) is None:
            _refuse(
                f"{path}.url",
                "a step that sends a secret names its host itself: write https://host/ before any ${…}",
            )


def secrets_of(call: HttpCall | ModelCall) -> Iterator[tuple[str, SecretRef]]:
    """Each secret that a call sends, with its field."""
    if isinstance(call, ModelCall):
        if call.key is not None:
            yield "key", call.key
        return
    if call.bearer is not None:
        yield "bearer", call.bearer
    if call.basic is not None:
        yield "basic.password", call.basic.password
    for name, value in call.headers.items():
        if isinstance(value, SecretRef):
            yield f"headers.{name}", value


def origin_of(url: str) -> str | None:
    """Scheme, host and port of a URL, where they are written out and hold no expression; else None."""
    found = ORIGIN.match(url)
    return None if found is None else f"{found[1]}://{found[2]}".lower()


def _check_url(url: str, path: str) -> None:
    """What can be known to be wrong under any policy; where it leads is judged at each request."""
    if re.match(r"https?://[^/?#]*@", url, re.IGNORECASE):
        _refuse(path, "who asks does not stand in a URL: use `basic: {user: .., password: {env: NAME}}`, or `bearer`")
    refusal = check_url(ANYWHERE, url) if "${" not in url else None
    if refusal is not None:
        _refuse(path, f"{refusal}; write https://host/..")


def _check_http(call: HttpCall, path: str) -> None:
    _check_url(call.url, f"{path}.url")
    given = [name for name in ("json", "form") if getattr(call, name) is not UNSET]
    given += ["body"] if call.body is not None else []
    if len(given) > 1:
        _refuse(f"{path}.{given[1]}", f"at most one of json, form and body; this has {' and '.join(given)}")
    _check_headers(call.headers, f"{path}.headers")
    own = [name for name in call.headers if name.lower() == "authorization"]
    ways = [*own, *(name for name in ("bearer", "basic") if getattr(call, name) is not None)]
    if len(ways) > 1:
        _refuse(path, f"only one can be the Authorization header: {' or '.join(ways)}")
    if call.basic is not None and (":" in call.basic.user or CONTROL.search(call.basic.user)):
        _refuse(f"{path}.basic.user", "the name of a user holds no colon and no control character (RFC 7617)")
    if isinstance(call.idempotency_key, str) and CONTROL.search(call.idempotency_key):
        _refuse(f"{path}.idempotency_key", "it holds a line break or another control character")


def _check_headers(headers: Mapping[str, Text | SecretRef], path: str) -> None:
    for name, value in headers.items():
        where = f"{path}.{name}"
        if not TOKEN.fullmatch(name):
            _refuse(path, f"{name[:80]!r} is no name of a header")
        if isinstance(value, str) and CONTROL.search(value):
            _refuse(where, "the value holds a line break or another control character")
        if name.lower() in KEPT_FOR_SECRETS and isinstance(value, str) and "${" not in value:
            _refuse(
                where, "a secret does not stand in a definition: write {env: NAME} or {file: PATH}, or use `bearer`"
            )


def _check_model(call: ModelCall, path: str) -> None:
    if (call.prompt is None) == (call.messages is None):
        _refuse(path, "give `prompt` or `messages`, one of them")
    if isinstance(call.messages, str) and "${" not in call.messages:
        _refuse(f"{path}.messages", "takes a list of messages, or an expression that gives one")
    for index, message in enumerate(call.messages if isinstance(call.messages, list) else []):
        if not isinstance(message.get("role"), str) or "content" not in message:
            _refuse(f"{path}.messages[{index}]", "a message has a `role` and a `content`")
    if not call.model:
        _refuse(f"{path}.model", "name the model")
    if not float(call.idle) > 0:
        _refuse(f"{path}.idle", "takes more than no time, such as 30s")
    if call.schema is not None:
        compile_schema(call.schema, f"{path}.schema")


def _check_reference(reference: SecretRef, path: str) -> None:
    if not reference.is_written or "${" in reference.label:
        _refuse(path, f"a step's secret is {WAYS}")


def _refuse(path: str, message: str) -> None:
    raise ConfigError(message, path=path)
