"""By which rules an app judged: what is kept of each version of them, so that an old decision can still be explained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from gateway.secrets import SecretRef


class KeptSecret(msgspec.Struct, frozen=True):
    """Which secret it is: what may be shown of it, and a fingerprint of where it is kept, never of its value."""

    label: str
    fingerprint: str


class KeptTrigger(msgspec.Struct, frozen=True):
    """A trigger's condition as it was written."""

    name: str
    when: str
    workflow: str | int


class Rules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an app judged: its scheme as written, without secrets, its triggers, what tells its deliveries apart."""

    scheme: Any = None
    secrets: list[KeptSecret] = []
    triggers: list[KeptTrigger] = []
    dedupe: str | None = None
    adapter: str | None = None


class SecretUse(msgspec.Struct, frozen=True):
    """What is known of one secret's uses: how many since when, and the last (unix seconds)."""

    count: int = 0
    since: int | None = None
    last: int | None = None


NO_USES: Mapping[str, SecretUse] = MappingProxyType({})


def write_rules(rules: Rules) -> tuple[str, bytes]:
    """The rules' digest, and their text as it is kept."""
    text = msgspec.json.encode(rules)
    return hashlib.blake2b(text, digest_size=8).hexdigest(), text


def fingerprint_of(reference: SecretRef) -> str:
    """Tells an app's secrets apart by where they are kept; says nothing of their values."""
    return hashlib.blake2b(msgspec.json.encode(reference.identity), digest_size=6).hexdigest()


def use_name(app_id: int, fingerprint: str) -> str:
    """Under which name the uses of an app's secret are counted."""
    return f"{app_id}:{fingerprint}"
