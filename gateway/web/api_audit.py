"""Our API's audit log, for admins."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.audit import Actor, Entry
from gateway.runs import iso
from gateway.web.api_runs import Limit
from gateway.web.endpoints import Answer, Call, Endpoint

ADMIN = "admin"


class AuditDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One change: who made it, and from where. `hash` covers the entry and `before`, the hash of the one before it."""

    number: int
    at: str | None
    actor: Actor
    action: str
    subject: str
    detail: dict[str, Any]
    before: str
    hash: str


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of the log."""

    limit: Limit = 50
    cursor: (
        Annotated[str, Meta(pattern="^[1-9][0-9]{0,14}$", description="`next_cursor` of the page before.")] | None
    ) = None


class AuditPage(msgspec.Struct, frozen=True):
    """Some entries, the newest first."""

    data: list[AuditDocument]
    next_cursor: str | None


def describe_entry(entry: Entry) -> AuditDocument:
    """An entry's document."""
    return AuditDocument(
        number=entry.number,
        at=iso(entry.at),
        actor=entry.actor,
        action=entry.action,
        subject=entry.subject,
        detail=entry.detail,
        before=entry.before,
        hash=entry.hash,
    )


async def list_entries(call: Call) -> Answer:
    """The newest changes."""
    query: AuditQuery = call.query
    before = None if query.cursor is None else int(query.cursor)
    found = await call.control.catalog.audit.newest(before, query.limit)
    more = len(found) == query.limit and found[-1].number > 1
    return 200, AuditPage([describe_entry(each) for each in found], str(found[-1].number) if more else None)


AUDIT = (
    Endpoint(
        method="GET",
        path="/api/v1/audit",
        handler=list_entries,
        scope=ADMIN,
        summary="List who changed what, the newest first",
        query=AuditQuery,
        answer=AuditPage,
    ),
)
