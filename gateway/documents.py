"""What we show of apps, hooks, workflows, callbacks and tokens: one definition for the commands and the API. Silent.

Times are ISO 8601 in UTC, durations milliseconds. The documents of runs and steps stand beside runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from gateway.adapters import AdapterSettings
from gateway.app_callbacks import CallbackSettings
from gateway.apps import App, read_verify, rules_of
from gateway.callback_documents import CallbackDocument, describe_callback
from gateway.callbacks import Callback
from gateway.credits import Balance
from gateway.door_documents import describe_door, handshake_of
from gateway.hooks import Hook
from gateway.registrations import Registration
from gateway.rules import NO_USES, KeptSecret, SecretUse, use_name
from gateway.runs import Run, RunDocument, fields_of, iso
from gateway.schedules import LiveSchedule, compile_schedules
from gateway.secrets import SecretRef, StoredSecret
from gateway.tokens import Token
from gateway.versions import Change, Difference, Version
from gateway.workflows import Definition, Published, read_definition


class WholeRun(RunDocument, frozen=True, kw_only=True):
    """A run with all steps of its workflow and its callbacks."""

    callbacks: list[CallbackDocument]


class WorkflowDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A published workflow. `steps` is their number, `input` the JSON Schema of its input."""

    workflow_id: int
    name: str
    description: str
    version: int
    digest: str
    input: dict[str, Any] | None
    steps: int
    managed_by: str
    label: str | None
    published_at: str | None


class VersionDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A numbered version of a workflow; the digest names its exact text, the label is its publisher's word for it."""

    number: int
    digest: str
    label: str | None
    published_at: str | None


class WholeVersion(VersionDocument, frozen=True, kw_only=True):
    """A version with its definition."""

    definition: Any


class DifferenceDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What changed from one version of a workflow to another; `diff` is a unified diff of their canonical YAML."""

    workflow: str
    before: VersionDocument
    after: VersionDocument
    changes: list[Change]
    diff: str


class ScheduleDocument(msgspec.Struct, frozen=True, kw_only=True):
    """When a workflow starts by itself, and when it does so next."""

    cron: str
    zone: str
    missed: str
    next_at: str | None


class WholeWorkflow(WorkflowDocument, frozen=True, kw_only=True):
    """A workflow with its definition, all its versions, and its schedules."""

    definition: Any
    versions: list[VersionDocument]
    schedules: list[ScheduleDocument]


class CreditsDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A balance: credits left of `amount`, and when there are as many again."""

    left: int
    amount: int
    refill_at: str | None


class HookDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow's own URL, without its token."""

    id: str
    name: str
    workflow: str
    status: Literal["active", "disabled"]
    created_at: str | None


class NewHook(HookDocument, frozen=True, kw_only=True):
    """A hook that was just made; its token, and the URL with it, are shown this once."""

    token: str
    url: str


class SecretUseDocument(msgspec.Struct, frozen=True, kw_only=True):
    """How often a secret proved a sender, since when, and when last: a few seconds late. From `expires_at` on it does not
    count any more.
    """

    secret: str
    expires_at: str | None
    count: int
    since: str | None
    last_used_at: str | None


class AppDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A registered sender. `secrets` says where each is kept, never what it is; `secret_uses` which are in use; `door`
    what else it says of who may come and of what it takes, in the words of gateway.yaml, as far as it says any.
    `problem` says why it refuses everything, where it does.
    """

    id: int
    name: str
    token: str | None
    path: str
    token_path: str
    capabilities: tuple[str, ...]
    adapter: str | None
    scheme: str | None
    handshake: str | None
    public_url: str | None
    door: dict[str, Any]
    secrets: list[str]
    secret_uses: list[SecretUseDocument]
    triggers: list[str]
    callback_url: str | None
    callback_overlap_until: str | None
    endpoints: list[str]
    dedupe: str | None
    disabled: bool
    managed_by: str
    credits: CreditsDocument | None
    problem: str | None


class SecretDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A secret that is kept under a name, without its value, which is never shown again."""

    name: str
    created_at: str | None
    changed_at: str | None


class NewApp(AppDocument, frozen=True, kw_only=True):
    """An app with the secrets that were just made for it, shown this once."""

    secret: str | None
    callback_secret: str | msgspec.UnsetType = msgspec.UNSET


class TokenDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An API token, without its secret. `last_used_at` is true to the minute, and a few seconds late."""

    id: str
    name: str
    status: str
    scopes: list[str]
    created_at: str | None
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    credits: CreditsDocument | None


class NewToken(TokenDocument, frozen=True, kw_only=True):
    """A token that was just made; `token` is its text, shown this once."""

    token: str


def plain(document: msgspec.Struct) -> dict[str, Any]:
    """A document as plain data, ready to print."""
    data: dict[str, Any] = msgspec.to_builtins(document)
    return data


def kinds_of(definition: Definition) -> dict[str, str]:
    """The kind of each step, in the definition's order."""
    return {step.id: step.kind for step in definition.steps}


def describe_whole_run(
    run: Run, kinds: Mapping[str, str], callbacks: Sequence[Callback], *, operator: bool = False
) -> WholeRun:
    told = [describe_callback(each, operator=operator) for each in callbacks]
    return WholeRun(**fields_of(run, kinds), callbacks=told)


def describe_workflow(published: Published) -> WorkflowDocument:
    return WorkflowDocument(**_workflow_fields(published))


def describe_whole_workflow(
    published: Published, definition: Any, versions: Sequence[Version], now: float
) -> WholeWorkflow:
    """A workflow's document; `now` is unix seconds. Raises ConfigError when its definition can't be used."""
    described = [describe_version(each) for each in versions]
    schedules = [describe_schedule(each, now) for each in compile_schedules(read_definition(definition).schedule)]
    return WholeWorkflow(**_workflow_fields(published), definition=definition, versions=described, schedules=schedules)


def describe_schedule(schedule: LiveSchedule, now: float) -> ScheduleDocument:
    return ScheduleDocument(
        cron=schedule.cron, zone=schedule.zone, missed=schedule.missed, next_at=iso(schedule.next(int(now * 1000)))
    )


def describe_version(version: Version) -> VersionDocument:
    return VersionDocument(**_version_fields(version))


def describe_whole_version(version: Version, definition: Any) -> WholeVersion:
    return WholeVersion(**_version_fields(version), definition=definition)


def describe_difference(found: Difference) -> DifferenceDocument:
    return DifferenceDocument(
        workflow=found.name,
        before=describe_version(found.before),
        after=describe_version(found.after),
        changes=found.changes,
        diff=found.text,
    )


def describe_app(
    app: App, balance: Balance | None = None, uses: Mapping[str, SecretUse] = NO_USES, problem: str | None = None
) -> AppDocument:
    """An app's document; `uses` are those of its secrets, by `use_name`. Raises ConfigError for a `verify` unread."""
    return AppDocument(**_app_fields(app, balance, uses, problem))


def describe_secret(name: str, stored: StoredSecret) -> SecretDocument:
    return SecretDocument(name=name, created_at=iso(stored.created_at), changed_at=iso(stored.changed_at))


def describe_new_app(
    made: Registration, balance: Balance | None = None, uses: Mapping[str, SecretUse] = NO_USES
) -> NewApp:
    """An app with its new secrets. Raises ConfigError when its `verify` can't be read."""
    callback_secret = msgspec.UNSET if made.callback_secret is None else made.callback_secret
    return NewApp(**_app_fields(made.app, balance, uses), secret=made.secret, callback_secret=callback_secret)


def describe_hook(hook: Hook) -> HookDocument:
    return HookDocument(**_hook_fields(hook))


def describe_new_hook(hook: Hook, token: str) -> NewHook:
    return NewHook(**_hook_fields(hook), token=token, url=f"/api/v1/hooks/{token}")


def _name_scheme(app: App) -> str | None:
    if isinstance(app.adapter, AdapterSettings):
        return "adapter"
    if app.receive_config is not None:
        return "receive_config"
    return str(app.verify.get("scheme", "written out")) if isinstance(app.verify, dict) else app.verify


def describe_token(token: Token, now: float, used: int | None = None, balance: Balance | None = None) -> TokenDocument:
    """A token's document; `used` is when it last was (unix seconds)."""
    return TokenDocument(**_token_fields(token, now, used, balance))


def describe_new_token(token: Token, text: str, now: float) -> NewToken:
    """A token that nobody has used yet, with its text."""
    credits = token.credits
    balance = None if credits is None else Balance(credits.amount, credits.amount, None)
    return NewToken(**_token_fields(token, now, None, balance), token=text)


def _workflow_fields(published: Published) -> dict[str, Any]:
    return {
        "workflow_id": published.id,
        "name": published.name,
        "description": published.description,
        "version": published.version,
        "digest": published.digest,
        "input": published.input,
        "steps": published.steps,
        "managed_by": published.managed_by,
        "label": published.label,
        "published_at": iso(published.published_at or None),
    }


def _version_fields(version: Version) -> dict[str, Any]:
    return {
        "number": version.number,
        "digest": version.digest,
        "label": version.label,
        "published_at": iso(version.published_at or None),
    }


def uses_of(apps: Sequence[App]) -> list[str]:
    """Under which names the uses of these apps' secrets are counted."""
    return [use_name(app.id, each.fingerprint) for app in apps for each in rules_of(app).secrets]


def _describe_use(
    app: App, secret: KeptSecret, reference: SecretRef, uses: Mapping[str, SecretUse]
) -> SecretUseDocument:
    use = uses.get(use_name(app.id, secret.fingerprint))
    return SecretUseDocument(
        secret=secret.label,
        expires_at=None if reference.expires_at is None else iso(reference.expires_at * 1000),
        count=0 if use is None else use.count,
        since=None if use is None or use.since is None else iso(use.since * 1000),
        last_used_at=None if use is None or use.last is None else iso(use.last * 1000),
    )


def _app_fields(
    app: App, balance: Balance | None, uses: Mapping[str, SecretUse], problem: str | None = None
) -> dict[str, Any]:
    scheme, secrets = read_verify(app)
    by_token = scheme is not None and scheme.kind == "url"
    return {
        "id": app.id,
        "name": app.name,
        "token": app.token,
        "path": f"/api/v1/webhooks/{app.token if by_token else app.id}",
        "token_path": f"/api/v1/webhooks/{app.token}",
        "capabilities": app.capabilities,
        "adapter": app.adapter.url if isinstance(app.adapter, AdapterSettings) else app.adapter,
        "scheme": _name_scheme(app),
        "handshake": handshake_of(app),
        "public_url": app.public_url,
        "door": describe_door(app),
        "secrets": [reference.label for reference in secrets],
        "secret_uses": [
            _describe_use(app, kept, reference, uses)
            for kept, reference in zip(rules_of(app).secrets, secrets, strict=True)
        ],
        "triggers": [trigger.name for trigger in app.triggers],
        "callback_url": app.own_callback.url if app.own_callback else None,
        "callback_overlap_until": _overlap_of(app.own_callback),
        "endpoints": app.endpoints,
        "dedupe": app.dedupe,
        "disabled": app.disabled,
        "managed_by": app.managed_by,
        "credits": _describe_balance(balance),
        "problem": problem,
    }


def _overlap_of(callback: CallbackSettings | None) -> str | None:
    """Until when a callback's older secret signs as well."""
    end = None if callback is None or callback.previous is None else callback.previous.expires_at
    return None if end is None else iso(end * 1000)


def _hook_fields(hook: Hook) -> dict[str, Any]:
    return {
        "id": hook.id,
        "name": hook.name,
        "workflow": hook.workflow,
        "status": hook.state,
        "created_at": iso(hook.created_at * 1000),
    }


def _describe_balance(balance: Balance | None) -> CreditsDocument | None:
    if balance is None:
        return None
    return CreditsDocument(left=balance.left, amount=balance.amount, refill_at=iso(balance.refill_at))


def _token_fields(token: Token, now: float, used: int | None, balance: Balance | None) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "status": token.state(now),
        "scopes": token.scopes,
        "created_at": iso(token.created_at * 1000),
        "expires_at": None if token.expires_at is None else iso(token.expires_at * 1000),
        "revoked_at": None if token.revoked_at is None else iso(token.revoked_at * 1000),
        "last_used_at": None if used is None else iso(used * 1000),
        "credits": _describe_balance(balance),
    }
