"""One round of reconciling: list, compare, ask for what is missing, remember how far it got."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog

from gateway.apps import LiveApp
from gateway.errors import GatewayError, Unprocessable
from gateway.reconciling import (
    Delivery,
    Gap,
    Mark,
    ReconcileSettings,
    advance,
    describe_round,
    find_gap,
    guids_of,
    window_start,
)
from gateway.store.marks import Marks
from gateway.web.client import Client
from gateway.web.github import GitHub, GitHubRefused

log = structlog.get_logger()
NAMED = 10
"""So many of the missing ones are named in the log."""


class Reconciler:
    """Does rounds. One that dies half-way is done again: what was asked for twice comes twice, and counts once."""

    def __init__(self, client: Client, marks: Marks) -> None:
        self._client = client
        self._marks = marks

    async def reconcile(self, app: LiveApp, since: int | None = None, *, ask: bool = True) -> dict[str, Any]:
        """One round for an app; from `since` (ms) where it is given, else from its mark.

        An app that has no mark gets one, now: what it was sent before is not ours to bring in. With `ask` False
        nothing is asked for and nothing remembered. Raises Unprocessable without settings or token.
        """
        settings, token = self._means(app)
        now = await self._marks.now()
        mark = Mark(at=since) if since is not None else await self._find_mark(app, now, ask=ask)
        try:
            return await self._round(app, GitHub(self._client, settings, token), mark, now, ask=ask)
        except GitHubRefused as error:
            # The mark stays, so that the next round looks at the same again.
            if ask:
                await self._marks.write(app.id, msgspec.structs.replace(mark, checked_at=now, problem=error.message))
            log.error("deliveries can't be reconciled", app=app.app.name, reason=error.message, **error.details)
            raise

    def _means(self, app: LiveApp) -> tuple[ReconcileSettings, str]:
        settings = app.app.reconcile
        if settings is None:
            message = f"app {app.app.name!r} has no `reconcile:`"
            raise Unprocessable(message)
        if not app.reconcile_token:
            message = f"the token of app {app.app.name!r} for GitHub's API ({settings.token.label}) is not set"
            raise Unprocessable(message)
        return settings, app.reconcile_token

    async def _find_mark(self, app: LiveApp, now: int, *, ask: bool) -> Mark:
        mark = await self._marks.read(app.id)
        if mark is None:
            mark = Mark(at=now)
            if ask:
                # At once: a first round that dies must not move the beginning.
                await self._marks.write(app.id, mark)
        return mark

    async def _round(self, app: LiveApp, github: GitHub, mark: Mark, now: int, *, ask: bool) -> dict[str, Any]:
        listed = [each for each in await github.deliveries(window_start(mark)) if each.at >= window_start(mark)]
        known = await self._marks.known(app.id, guids_of(listed))
        gap = find_gap(listed, known, mark, now)
        asked, complaint = await _ask(github, gap) if ask else ([], None)
        after = msgspec.structs.replace(advance(mark, gap, asked, listed, now), problem=complaint)
        if ask:
            await self._marks.write(app.id, after, len(asked))
        _log_gap(app, gap, asked)
        words = {"app": app.app.name, "missing_ids": [each.guid for each in gap.missing]}
        return describe_round(after, len(asked), words)


async def _ask(github: GitHub, gap: Gap) -> tuple[list[str], str | None]:
    """Ask for each again, up to the first that GitHub refuses; that one and the rest have their turn next time."""
    asked: list[str] = []
    for delivery in gap.ask:
        try:
            await github.send_again(delivery)
        except GatewayError as error:
            return asked, error.message
        asked.append(delivery.guid)
    return asked, None


def _log_gap(app: LiveApp, gap: Gap, asked: list[str]) -> None:
    if not gap.missing:
        return
    log.warning(
        "deliveries are missing and asked for again",
        app=app.app.name,
        listed=gap.listed,
        missing=len(gap.missing),
        asked_again=len(asked),
        given_up=len(gap.given_up),
        first=_words(gap.missing[0]),
        delivery_ids=[each.guid for each in gap.missing[:NAMED]],
    )


def _words(delivery: Delivery) -> str:
    return f"{delivery.event} of {delivery.delivered_at}, answered {delivery.status_code or 'with nothing'}"
