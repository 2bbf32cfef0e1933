"""What is shown of an app's door: its handshake, who may come, what it takes and how it answers."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.apps import App, read_sender, read_verify
from gateway.handshakes import NONE, find_kind

DOOR = (
    *("topics", "webhook_origins", "webhook_rate", "methods", "networks", "rate", "max_body", "max_depth"),
    *("content_types", "headers", "files", "json_field", "form", "respond", "reconcile", "receipts"),
)
"""The fields of an app that are about its door."""


def handshake_of(app: App) -> str | None:
    """The name of its handshake, where it has one."""
    scheme, _ = read_verify(app)
    name = find_kind(None if scheme is None else scheme.handshake, read_sender(app.verify))
    return None if name == NONE else name


def describe_door(app: App) -> dict[str, Any]:
    """What it says of its door in gateway.yaml; of a secret only where it is kept."""
    written, scheme = msgspec.to_builtins(app), read_verify(app)[0]
    written |= {"topics": scheme.topics} if scheme is not None and scheme.topics else {}
    if app.reconcile is not None:
        written["reconcile"]["token"] = app.reconcile.token.label
    return {name: written[name] for name in DOOR if name in written}
