"""The loop that reconciles: each app with `reconcile:` in its own rhythm, by one worker at a time."""

from __future__ import annotations

from gateway.errors import GatewayError
from gateway.store.marks import Marks
from gateway.store.registry import Registry
from gateway.web.reconciler import Reconciler
from workers.loops import take_turns

LOOK = 5.0
"""Seconds between two looks at whose turn it is."""


class Reconciling:
    """Rounds for ever. A round is claimed for most of the time until the next one."""

    def __init__(self, registry: Registry, marks: Marks, reconciler: Reconciler) -> None:
        self._registry = registry
        self._marks = marks
        self._reconciler = reconciler

    async def go(self) -> None:
        """Reconcile for ever."""
        await take_turns("reconciling", self.turn, LOOK)

    async def turn(self) -> float:
        """Do the rounds that are due. The answer: seconds until it is worth looking again."""
        for app in {app.id: app for app in self._registry.apps.values()}.values():
            settings = app.app.reconcile
            if settings is None or app.app.disabled or not await self._marks.claim(app.id, settings.seconds * 0.95):
                continue
            try:
                await self._reconciler.reconcile(app)
            except GatewayError:
                continue  # it is logged, and kept with the mark; other apps have their turn
        return LOOK
