"""Endpoints: where messages are sent, which of them each wants, and how it is spoken to. Silent.

An endpoint is named by apps and workflows; an app's own `callback` is one too, called `app-42`. What a route of our API
is stands in `web.endpoints`, and has nothing to do with this.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta

from gateway.cel.scopes import Scope
from gateway.egress import Policy, check_url, read_policy
from gateway.errors import ConfigError
from gateway.expressions import Expression, Failure, compile_expression
from gateway.forms import is_secretive
from gateway.retries import read_duration
from gateway.secrets import Resolve, SecretRef, field_of

RunEvent = Literal["run.started", "run.waiting", "run.completed", "run.failed", "run.cancelled"]
Event = Literal[
    "run.started",
    "run.waiting",
    "run.completed",
    "run.failed",
    "run.cancelled",
    "endpoint.disabled",
    "source.silent",
]
Style = Literal["standard-webhooks", "orqo", "cloudevents"]
Holder = Callable[[str], str]
"""For whom the secret in a field is sealed."""
ENDINGS: tuple[RunEvent, ...] = ("run.completed", "run.failed", "run.cancelled")
PING = "ping"
"""Sent when somebody asks for it, whatever the endpoint wants to hear."""
ANYWHERE = read_policy("0.0.0.0/0, ::/0")
MOST_SECRETS = 2
MOST_HEADERS = 20
LONGEST_HEADER = 4096
LONGEST_TIMEOUT = 300.0
MOST_TRIES = 100
NAME = r"^(?!app-)[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$"
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
OURS = re.compile(
    r"(webhook|svix|ce|gateway|proxy|sec|x-signature|x-hub-signature)-.*"
    r"|host|content-.*|transfer-encoding|connection|keep-alive|te|trailer|upgrade|expect|user-agent|accept-encoding"
    r"|trace(parent|state)|date|via|forwarded|x-forwarded-.*"
)
"""Headers that we write ourselves, or that say how the message travels."""
PRIVATE, PUBLIC = "whsk_", "whpk_"
SEED_BYTES = 32

_Duration = Annotated[float | str, Meta(description='Seconds, or text such as "250ms", "30s", "1h30m"')]


class EndpointName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An endpoint that a workflow's runs are told to, by its name."""

    endpoint: Annotated[str, Meta(min_length=1)]


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At most `limit` messages in a `period`. The others wait."""

    limit: Annotated[int, Meta(ge=1, le=1_000_000)]
    period: _Duration = 1.0

    def __post_init__(self) -> None:
        _keep_seconds(self, "period")
        if not 0 < float(self.period) <= 86_400:
            message = "`period` must be more than 0 s and at most a day"
            raise ValueError(message)


class EndpointSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Where messages are sent, as its operator wrote it: which, how signed, how often, how patiently.

    `id` never changes and is given when the endpoint is published. Of `secrets` the newest comes first, and each signs;
    an older one that a rotation left behind signs until `overlap_until` (unix seconds). Times always hold seconds.
    """

    id: str = ""
    name: Annotated[str, Meta(pattern=NAME)]
    url: str
    events: Annotated[tuple[Event, ...], Meta(min_length=1)] = ENDINGS
    filter: str | None = None
    secrets: tuple[SecretRef, ...] = ()
    signing_key: SecretRef | None = None
    headers: dict[str, str | SecretRef] = {}
    style: Style = "standard-webhooks"
    payload: Literal["full", "thin"] = "full"
    timeout: _Duration | None = None
    schedule: tuple[_Duration, ...] | None = None
    rate: Rate | None = None
    concurrency: Annotated[int, Meta(ge=1, le=1000)] | None = None
    order: str | None = None
    disabled: bool = False
    managed_by: str = "api"
    overlap_until: int | None = None
    public_key: str | None = None
    """Of the signing key, where that was made here."""

    def __post_init__(self) -> None:
        if self.timeout is not None:
            _keep_seconds(self, "timeout")
        if self.schedule is not None:
            waits = tuple(_seconds(wait, "schedule") for wait in self.schedule)
            msgspec.structs.force_setattr(self, "schedule", waits)

    @property
    def owner(self) -> str:
        """Whose its secrets are."""
        return f"endpoint:{self.name}"

    def holder(self, field: str) -> str:
        """For whom the secret in this field is sealed."""
        return field_of(self.owner, field)


class LiveEndpoint:
    """An endpoint ready to be sent to: its secrets at hand, its expressions compiled.

    `problem` says why nothing can be sent to it: no secret and no key that could sign, or a header without its value.
    `flaw` says which secret is missing where others sign.
    """

    def __init__(self, settings: EndpointSettings, resolve: Resolve, holder: Holder | None = None) -> None:
        self.settings = settings
        self.id = settings.id
        self.name = settings.name
        self.url = settings.url
        self.events: frozenset[str] = frozenset(settings.events)
        self.style: Style = settings.style
        self.is_thin = settings.payload == "thin"
        self.timeout = None if settings.timeout is None else float(settings.timeout)
        self.schedule = None if settings.schedule is None else tuple(map(float, settings.schedule))
        self.filter = _compile(settings.filter, "filter")
        self.order = _compile(settings.order, "order")
        holder = holder or settings.holder
        self._secrets = [resolve(each, holder("secrets")) for each in settings.secrets]
        missing = [each.label for each, value in zip(settings.secrets, self._secrets, strict=True) if not value]
        key = settings.signing_key
        self._signing_text = None if key is None else resolve(key, holder("signing_key"))
        self.signing_key, trouble = _read_signing_key(settings, self._signing_text)
        self.headers, problem = _find_headers(settings, resolve, holder)
        self.flaw = f"its secret ({missing[0]}) is not set" if missing else trouble
        if not any(self._secrets) and self.signing_key is None:
            problem = self.flaw or "it has no secret"
        self.problem = problem

    @property
    def newest_secret(self) -> str | None:
        """What it signs with from now on."""
        return self._secrets[0] if self._secrets else None

    @property
    def known_secrets(self) -> tuple[str, ...]:
        """Everything of this endpoint that must not be shown."""
        named = (
            self.headers.get(name.lower()) for name, each in self.settings.headers.items() if not isinstance(each, str)
        )
        return tuple(each for each in (*self._secrets, self._signing_text, *named) if each)

    def secrets(self, now: float) -> tuple[str, ...]:
        """The secrets that sign at this time (unix seconds), the newest first."""
        until = self.settings.overlap_until
        live = self._secrets if until is None or now < until else self._secrets[:1]
        return tuple(each for each in live if each)

    def wants(self, kind: str, data: Mapping[str, Any]) -> bool | Failure:
        """Whether it wants this message. A filter that can't be judged is a Failure, and nothing is sent."""
        if kind == PING:
            return True
        if kind not in self.events:
            return False
        if self.filter is None:
            return True
        answer = self.filter.evaluate({"message": {"type": kind, "data": data}})
        if isinstance(answer, bool | Failure):
            return answer
        return Failure(self.filter.source, "it gives neither true nor false")

    def order_key(self, kind: str, data: Mapping[str, Any]) -> str | None:
        """What must arrive one after the other: messages with the same key. None: in any order."""
        if self.order is None:
            return None
        key = self.order.evaluate({"message": {"type": kind, "data": data}})
        if isinstance(key, Failure):
            return ""
        return key if isinstance(key, str) else msgspec.json.encode(key).decode()


def names_in(callback: EndpointName | list[EndpointName] | None) -> list[str]:
    """The names of the endpoints in a workflow's `callback`."""
    told = callback if isinstance(callback, list) else [callback]
    return [each.endpoint for each in told if each is not None]


def check_endpoint(settings: EndpointSettings, policy: Policy = ANYWHERE) -> None:
    """Raise ConfigError with `details["path"]` for what can be known to be wrong without secrets and look-ups."""
    if (refusal := check_url(policy, settings.url)) is not None:
        raise ConfigError(refusal, path="url")
    if not settings.secrets and settings.signing_key is None:
        message = "nothing is sent unsigned: add `secrets: [{env: NAME}]`, or a `signing_key`"
        raise ConfigError(message, path="secrets")
    if settings.style == "orqo" and not settings.secrets:
        message = "the style `orqo` is signed with a secret: add `secrets: [{env: NAME}]`"
        raise ConfigError(message, path="secrets")
    if settings.managed_by != "file" and len(settings.secrets) > MOST_SECRETS:
        message = f"at most {MOST_SECRETS} secrets are live at once"
        raise ConfigError(message, path="secrets")
    _check_headers(settings)
    _check_times(settings)
    _compile(settings.filter, "filter")
    _compile(settings.order, "order")


def read_signing_key(text: str) -> Ed25519PrivateKey:
    """The private key of v1a signatures: `whsk_` and base64 of 32 or 64 bytes. Raises ConfigError.

    Source: Standard Webhooks 1.0, "Asymmetric signatures"; of 64 bytes the first half is the seed.
    """
    try:
        raw = base64.b64decode(text.strip().removeprefix(PRIVATE), validate=True)
    except ValueError:
        raw = b""
    if not text.strip().startswith(PRIVATE) or len(raw) not in (SEED_BYTES, 2 * SEED_BYTES):
        message = f"a signing key is `{PRIVATE}` and base64 of {SEED_BYTES} or {2 * SEED_BYTES} bytes"
        raise ConfigError(message, path="signing_key")
    key = Ed25519PrivateKey.from_private_bytes(raw[:SEED_BYTES])
    if len(raw) > SEED_BYTES and key.public_key().public_bytes_raw() != raw[SEED_BYTES:]:
        message = "the second half of the signing key is not the public key of its first half"
        raise ConfigError(message, path="signing_key")
    return key


def write_public_key(key: Ed25519PrivateKey) -> str:
    """What receivers verify v1a signatures with."""
    return PUBLIC + base64.b64encode(key.public_key().public_bytes_raw()).decode()


def _check_headers(settings: EndpointSettings) -> None:
    if len(settings.headers) > MOST_HEADERS:
        message = f"at most {MOST_HEADERS} headers can be added"
        raise ConfigError(message, path="headers")
    for name, value in settings.headers.items():
        path = f"headers.{name}"
        if not HEADER_NAME.fullmatch(name):
            message = f"{name!r} is no header's name"
            raise ConfigError(message, path=path)
        if OURS.fullmatch(name.lower()):
            message = f"{name!r} is written by the gateway, or says how the message travels; it can't be added"
            raise ConfigError(message, path=path)
        if isinstance(value, str) and is_secretive(name):
            message = f"{name!r} shows who sends: write its value as {{env: NAME}} or {{file: PATH}}"
            raise ConfigError(message, path=path)
        if isinstance(value, str):
            check_header_value(name, value)


def check_header_value(name: str, value: str) -> None:
    """Raise ConfigError, which does not repeat it, for what can be no header's value."""
    if not _is_value(value):
        message = f"its value is no header's: 1 to {LONGEST_HEADER} visible ASCII characters"
        raise ConfigError(message, path=f"headers.{name}")


def _check_times(settings: EndpointSettings) -> None:
    if settings.timeout is not None and not 0.1 <= float(settings.timeout) <= LONGEST_TIMEOUT:
        message = f"must be between 0.1 and {LONGEST_TIMEOUT:g} seconds"
        raise ConfigError(message, path="timeout")
    if settings.schedule is not None and not 1 <= len(settings.schedule) <= MOST_TRIES:
        message = f"holds the wait before each try, the first included: 1 to {MOST_TRIES} of them"
        raise ConfigError(message, path="schedule")


def _compile(source: str | None, path: str) -> Expression | None:
    return None if source is None else compile_expression(source, Scope.MESSAGE, path)


def _read_signing_key(settings: EndpointSettings, text: str | None) -> tuple[Ed25519PrivateKey | None, str | None]:
    if settings.signing_key is None:
        return None, None
    if not text:
        return None, f"its signing key ({settings.signing_key.label}) is not set"
    try:
        return read_signing_key(text), None
    except ConfigError as error:
        return None, f"its signing key ({settings.signing_key.label}) can't be used: {error.message}"


def _find_headers(settings: EndpointSettings, resolve: Resolve, holder: Holder) -> tuple[dict[str, str], str | None]:
    found: dict[str, str] = {}
    for name, value in settings.headers.items():
        text = resolve(value, holder(f"headers.{name}")) if isinstance(value, SecretRef) else value
        if text is None or not _is_value(text):
            return {}, f"its header {name} is {'not set' if not text else 'no header value'}"
        found[name.lower()] = text
    return found, None


def _is_value(text: str) -> bool:
    return len(text) <= LONGEST_HEADER and HEADER_VALUE.fullmatch(text) is not None


def _keep_seconds(struct: msgspec.Struct, field: str) -> None:
    msgspec.structs.force_setattr(struct, field, _seconds(getattr(struct, field), field))


def _seconds(value: object, field: str) -> float:
    try:
        return read_duration(value, field)
    except ConfigError as error:
        # msgspec adds the place in the document to a ValueError, and to nothing else.
        raise ValueError(error.message) from None
