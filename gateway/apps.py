"""Apps: the registered senders. What an operator writes of one, and what the receiver needs of it at hand."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from gateway.adapters import AdapterSettings
from gateway.admission import Method, RateSettings, read_admission
from gateway.allowlists import read_pattern
from gateway.app_callbacks import CallbackSettings, callbacks_of, own_callback_of, own_endpoint
from gateway.browsers import FormSettings, WebForm
from gateway.cel.scopes import Scope
from gateway.credits import Allowance
from gateway.errors import ConfigError
from gateway.expressions import Expression, compile_expression
from gateway.forms import FileRules
from gateway.handshakes import Facts, Handshake, find_kind, read_handshake
from gateway.holdings import Timed, complain_of_secret, open_credentials, open_secrets
from gateway.kinds import ASKED_OF_APPS, REQUIRED_BY_APPS, SIGNS_PATH
from gateway.media import FORMS, JSON, USUAL, is_taken
from gateway.nesting import MOST_LEVELS
from gateway.reconciling import ReconcileSettings
from gateway.responses import Response, ResponseSettings
from gateway.retries import read_duration
from gateway.rules import KeptSecret, KeptTrigger, Rules, fingerprint_of, use_name, write_rules
from gateway.runs import LARGEST_ID
from gateway.secrets import HANDED_OVER, VERIFY_FIELD, WAYS, Resolve, SecretRef, field_of
from gateway.signatures import PRESETS, Scheme, check_secret, read_scheme
from gateway.templates import Template, compile_template

Capability = Literal["receive", "send"]
UNSET = msgspec.UNSET
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
JSON_FIELDS = {"jotform": "rawRequest", "mandrill": "mandrill_events"}
"""The field of a sender's forms that holds the event as JSON."""
ALGORITHMS = {"hmac-sha256": "sha256", "hmac-sha1": "sha1", "hmac-sha512": "sha512"}


class TriggerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule: when its condition holds for an event, a run of the workflow starts with this input."""

    name: str
    when: str = "true"
    workflow: str | int
    input: Any = UNSET


class ReceiveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """ORQO's spelling of `verify`: a header with `<algorithm>=<hex HMAC of the body>`, its secret named by a credential.

    Source: ORQO, "Configure Webhooks", the app's receive config.
    """

    signature_header: str = "X-Signature-256"
    signature_algorithm: str = "hmac-sha256"
    signature_secret_field: str


class App(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A registered sender, as written by its operator. Without `verify`, `receive_config` or the address of an
    adapter it refuses everything.

    An `id` of 0 means that none was written; the app gets one when it is published. `topics` are those it subscribes to
    (WebSub, Amazon SNS); `webhook_origins` and `webhook_rate` (a minute) what CloudEvents senders are granted.
    """

    id: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_ID)] = 0
    name: Annotated[str, msgspec.Meta(min_length=1)]
    token: str | None = None
    public_url: str | None = None
    capabilities: tuple[Capability, ...] = ("receive", "send")
    adapter: Literal["direct"] | AdapterSettings | None = None
    credentials: dict[str, SecretRef] = {}
    verify: dict[str, Any] | Literal["none"] | None = None
    receive_config: ReceiveConfig | None = None
    verify_token: SecretRef | None = None
    topics: tuple[str, ...] = ()
    webhook_origins: tuple[str, ...] = ()
    webhook_rate: Annotated[int, msgspec.Meta(ge=1)] | None = None
    triggers: list[TriggerSettings] = []
    callback: CallbackSettings | list[CallbackSettings] | None = None
    callback_urls: tuple[str, ...] = ()
    expect_every: Annotated[float | str, msgspec.Meta(description="A duration")] | None = None
    dedupe: str | None = None
    headers: tuple[str, ...] = ()
    content_types: tuple[str, ...] = ()
    files: FileRules = FileRules()
    json_field: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    respond: ResponseSettings | None = None
    disabled: bool = False
    max_body: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_depth: Annotated[int, msgspec.Meta(ge=1, le=MOST_LEVELS)] | None = None
    methods: tuple[Method, ...] = ("POST",)
    networks: list[str] = []
    rate: str | RateSettings | None = None
    form: FormSettings | None = None
    credits: Allowance | None = None
    reconcile: ReconcileSettings | None = None
    receipts: bool = False
    managed_by: str = "api"

    @property
    def payer(self) -> str:
        """The name of its balance."""
        return f"app:{self.id}"

    def holder(self, field: str) -> str:
        """For whom the secret in this field is sealed."""
        return field_of(f"app:{self.name}", field)

    @property
    def callbacks(self) -> list[CallbackSettings]:
        """Where it tells of its runs."""
        return callbacks_of(self)

    @property
    def own_callback(self) -> CallbackSettings | None:
        """The callback that is no endpoint's name."""
        return own_callback_of(self)

    @property
    def endpoints(self) -> list[str]:
        """The names of its endpoints."""
        return [each.endpoint for each in self.callbacks if each.endpoint is not None]


class Trigger:
    """A trigger with its expressions compiled."""

    def __init__(self, settings: TriggerSettings, path: str) -> None:
        self.name = settings.name
        self.workflow = settings.workflow
        self.source = settings.when
        self.when = compile_expression(settings.when, Scope.TRIGGER, f"{path}.when")
        value = {} if settings.input is UNSET else settings.input
        self.input: Template = compile_template(value, Scope.TRIGGER, f"{path}.input")


class LiveApp:
    """An app ready to judge requests: scheme read, secrets at hand, expressions compiled.

    `problem` says why it refuses everything: no `verify`, a secret that is missing, empty or too short.
    `sender` is the name of its preset, `rules` the digest of how it judges, `uses` under which names the uses of its
    secrets are counted. Where there is an `adapter`, that verifies and parses, with these `credentials`.
    `waiting` is true while its sender has yet to hand over the secret.
    """

    def __init__(self, app: App, resolve: Resolve) -> None:
        self.app = app
        self.id = app.id
        self.direct = app.adapter == "direct"
        self.admission = read_admission(app)
        self.form = None if app.form is None else WebForm(app.form)
        self.adapter = app.adapter if isinstance(app.adapter, AdapterSettings) else None
        self.sender = read_sender(app.verify)
        self.scheme, references = read_verify(app)
        self.rules = write_rules(rules_of(app))[0]
        self.uses = tuple(use_name(app.id, fingerprint_of(each)) for each in references)
        self._timed, self.problem = _gather_secrets(app, self.scheme, references, resolve)
        self.secrets = tuple(value for value, _ in self._timed)
        self._first_end = min((end for _, end in self._timed if end is not None), default=None)
        self.only_by_token = self.scheme is not None and self.scheme.kind == "url"
        signs_url = self.scheme is not None and (self.scheme.uses_url or self.scheme.kind in SIGNS_PATH)
        self._signed_url = app.public_url if signs_url else None
        self.credentials: dict[str, str] = {}
        if self.adapter is not None:
            self.credentials, self.problem = open_credentials(app.credentials, app.holder, resolve)
        self.handshake = prepare_handshake(app, self.scheme, self.sender, None if self.problem else resolve)
        self.waiting = any(each.paired and not resolve(each, app.holder(VERIFY_FIELD)) for each in references)
        self.reconcile_token = (
            None if app.reconcile is None else resolve(app.reconcile.token, app.holder("reconcile.token"))
        )
        self.triggers = tuple(Trigger(settings, f"triggers[{i}]") for i, settings in enumerate(app.triggers))
        self.dedupe = compile_dedupe(app.dedupe)
        self.headers = frozenset(name.lower() for name in app.headers)
        usual = USUAL if app.form is None else FORMS
        self.content_types = app.content_types or (self.scheme.content_types if self.scheme else ()) or usual
        self.takes_json = is_taken(JSON, self.content_types)
        self.json_field = app.json_field or JSON_FIELDS.get(self.sender or "")
        self.query_secrets = frozenset(each for each in (*self.secrets, app.token) if each)
        every = app.expect_every
        self.expect_every = None if every is None else read_duration(every, "expect_every")
        self.response = None if app.respond is None else Response(app.respond)
        self.payer = app.payer
        self.endpoint = own_endpoint(app, resolve)
        self.callback_urls = tuple(read_pattern(text, "callback_urls") for text in app.callback_urls)

    def secrets_at(self, now: float) -> tuple[str, ...]:
        """The secrets that count at this time (unix seconds), the newest first: nobody has to take an old one away.

        The machine's own clock is good enough: it judges the age of signatures too, to the minute, where this is hours.
        """
        if self._first_end is None or now < self._first_end:
            return self.secrets
        return tuple(value for value, end in self._timed if end is None or now < end)

    @property
    def callback_secrets(self) -> tuple[str, ...]:
        """What its own callbacks are signed with, or were until a little ago; the newest first."""
        return () if self.endpoint is None else self.endpoint.known_secrets

    @property
    def shared_secrets(self) -> tuple[str, ...]:
        """The secrets that only the sender has as well: none where they are public keys, with which anybody could sign."""
        return () if self.scheme is not None and self.scheme.is_public else self.secrets

    @property
    def known_secrets(self) -> tuple[str, ...]:
        """Everything of this app that must not be shown."""
        asked = None if self.handshake is None else self.handshake.facts.verify_token
        token = self.app.token if self.only_by_token else None
        found = (
            *self.shared_secrets,
            *self.credentials.values(),
            asked,
            token,
            *self.callback_secrets,
            self.reconcile_token,
        )
        return tuple(each for each in found if each)

    def url_of(self, seen: str) -> str:
        """The URL that this sender signs: the `public_url` it was given, with the query that came; else the one `seen`.

        `seen` is path and query. The host that a request names proves nothing.
        """
        if self._signed_url is None:
            return seen
        base, _, own = self._signed_url.partition("?")
        query = seen.partition("?")[2] or own
        return f"{base}?{query}" if query else base


def read_verify(app: App) -> tuple[Scheme | None, list[SecretRef]]:
    """The scheme and the secrets that an app's `verify`, or `receive_config`, names; an adapter's app has neither.

    Raises ConfigError with `details["path"]`.
    """
    if app.receive_config is not None:
        return _read_receive_config(app, app.receive_config)
    if app.verify is None:
        return None, []
    if app.verify == "none":
        return PRESETS["none"], []
    written = dict(app.verify)
    try:
        secrets = msgspec.convert(written.pop("secrets", []), list[SecretRef])
    except msgspec.ValidationError as error:
        message = f"secrets takes a list of {WAYS}: {error}"
        raise ConfigError(message, path="verify.secrets") from None
    scheme = _read_scheme(written)
    if any(each.paired for each in secrets):
        message = "a sender that hands over its secret (asana, notion) has no `secrets`; leave them out"
        raise ConfigError(message, path="verify.secrets")
    if scheme.require is None and scheme.kind in REQUIRED_BY_APPS:
        scheme = msgspec.structs.replace(scheme, require=REQUIRED_BY_APPS[scheme.kind])
    if scheme.kind == "sns" and app.topics:
        scheme = msgspec.structs.replace(scheme, topics=(*(scheme.topics or ()), *app.topics))
    if scheme.kind == "url" and secrets:
        message = "this sender's secret is the app's `token`, at the end of its URL; take out `secrets`"
        raise ConfigError(message, path="verify.secrets")
    if scheme.kind == "url":
        return scheme, []
    if scheme.kind != "none" and not scheme.fetches_keys and not secrets:
        handshake = find_handshake(app, scheme, read_sender(app.verify))
        if handshake is not None and handshake.gives_secret:
            return scheme, [HANDED_OVER]
        message = "verify names no secret: add `secrets: [{env: NAME}]`, or write `verify: none` to accept anyone"
        raise ConfigError(message, path="verify")
    return scheme, secrets


def rules_of(app: App) -> Rules:
    """The rules by which an app judges now."""
    try:
        scheme, secrets = read_verify(app)
    except ConfigError:
        scheme, secrets = None, []
    written: Any = app.verify
    if isinstance(app.verify, dict):
        written = {name: value for name, value in app.verify.items() if name != "secrets"}
        written = written["scheme"] if set(written) == {"scheme"} else written
    elif scheme is not None and app.receive_config is not None:
        written = {name: getattr(scheme, name) for name in ("kind", "header", "alg", "prefix")}
    return Rules(
        scheme=written,
        secrets=[KeptSecret(each.label, fingerprint_of(each)) for each in secrets],
        triggers=[KeptTrigger(each.name, each.when, each.workflow) for each in app.triggers],
        dedupe=app.dedupe,
        adapter="url" if isinstance(app.adapter, AdapterSettings) else app.adapter,
    )


def _read_receive_config(app: App, config: ReceiveConfig) -> tuple[Scheme, list[SecretRef]]:
    if app.verify is not None:
        message = "this app has `verify` as well, which says the same in other words; keep one of them"
        raise ConfigError(message, path="receive_config")
    algorithm = ALGORITHMS.get(config.signature_algorithm)
    if algorithm is None:
        message = f"there is no algorithm {config.signature_algorithm!r}; there are: {', '.join(ALGORITHMS)}"
        raise ConfigError(message, path="receive_config.signature_algorithm")
    secret = app.credentials.get(config.signature_secret_field)
    if secret is None:
        name = config.signature_secret_field
        message = f"there is no credential {name!r}; add `credentials: {{{name}: {{env: NAME}}}}` to this app"
        raise ConfigError(message, path="receive_config.signature_secret_field")
    written = {"kind": "hmac", "header": config.signature_header, "alg": algorithm, "prefix": f"{algorithm}="}
    return _read_scheme(written, "receive_config"), [secret]


def read_sender(verify: object) -> str | None:
    """The name of the preset that a `verify` starts from, if any."""
    while isinstance(verify, dict):
        verify = verify.get("scheme")
    return verify if isinstance(verify, str) else None


def _read_scheme(written: object, where: str = "verify") -> Scheme:
    try:
        return read_scheme(written, where)
    except ConfigError as error:
        path, _, reason = error.message.partition(": ")
        raise ConfigError(reason, path=path) from None


def compile_dedupe(text: str | None) -> Expression | Literal["body"] | None:
    """What makes a delivery the same where the sender gives no id: `body`, or a CEL expression over `event`."""
    if text is None:
        return None
    if text == "body":
        return "body"
    return compile_expression(text, Scope.TRIGGER, "dedupe")


def find_problem(app: App, scheme: Scheme | None) -> tuple[str, str] | None:
    """What an app lacks that its scheme needs beside secrets, and the field that it would stand in."""
    if scheme is None:
        return None
    field, advice = ASKED_OF_APPS.get(scheme.kind, ("kind", ""))
    if not getattr(scheme, field):
        return advice, f"verify.{field}"
    if scheme.uses_url and app.public_url is None:
        return (
            "this sender signs the URL that it posts to; write the one it was given, `public_url: https://..`",
            "public_url",
        )
    # Without a token the app is given one when it is published.
    if scheme.kind != "url" or app.token is None:
        return None
    try:
        check_secret(scheme, app.token, "token")
    except ConfigError as error:
        return error.message.removeprefix("token: "), "token"
    return None


def prepare_handshake(app: App, scheme: Scheme | None, sender: str | None, resolve: Resolve | None) -> Handshake | None:
    """An app's handshake with the verify token; without a way to find that there is none."""
    value = None
    if app.verify_token is not None and resolve is not None:
        value = resolve(app.verify_token, app.holder("verify_token"))
    return find_handshake(app, scheme, sender, None if complain_of_secret(None, value) else value)


def find_handshake(
    app: App, scheme: Scheme | None, sender: str | None, verify_token: str | None = None
) -> Handshake | None:
    """An app's handshake, if it has one. Raises ConfigError."""
    kind = find_kind(None if scheme is None else scheme.handshake, sender)
    if isinstance(app.adapter, AdapterSettings) and app.verify_token is not None:
        kind = "meta"
    topics = (*app.topics, *((scheme.topics if scheme is not None else None) or ()))
    facts = Facts(verify_token=verify_token, topics=topics, origins=app.webhook_origins, rate=app.webhook_rate)
    try:
        return read_handshake(kind, facts)
    except ConfigError as error:
        raise ConfigError(error.message, path="verify.handshake") from None


def _gather_secrets(
    app: App, scheme: Scheme | None, references: list[SecretRef], resolve: Resolve
) -> tuple[tuple[Timed, ...], str | None]:
    if scheme is None:
        return (), "the app has no `verify`"
    if problem := find_problem(app, scheme):
        return (), problem[0]
    if scheme.kind == "url":
        return (((app.token, None),), None) if app.token else ((), "the app has no token")
    return open_secrets(references, app.holder(VERIFY_FIELD), scheme, resolve)
