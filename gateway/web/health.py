"""`/livez`: the process answers. `/readyz`: events can be stored, and somebody runs them. `/metrics`: Prometheus."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.errors import StoreError
from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.store.connection import MISTAKES, Redis, check_server
from gateway.store.figures import Pulse, feel_pulse, read_figures
from gateway.store.keys import Keys

DEADLINE = 2.0
LOOKS = 2.0
"""Seconds in which even an idle worker looks at the queue, with time to spare; it does each second."""


class Health:
    """The three pages that machines look at."""

    def __init__(self, redis: Redis, keys: Keys, settings: Settings, metrics: Metrics) -> None:
        self._redis = redis
        self._keys = keys
        self._settings = settings
        self._metrics = metrics

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/livez", self.live),
            Route("/readyz", self.ready),
            Route("/metrics", self.metrics),
        ]

    async def live(self, _: Request) -> Response:
        """200 as long as the event loop turns."""
        return JSONResponse({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """200 when events can be stored durably and workers look at the queues; else 503 with the check that fails.

        `?only=store` leaves the workers out: for a load balancer, which should keep sending while events can be stored.
        """
        store, pulse = await self._check_store()
        checks = {"store": store}
        if request.query_params.get("only") != "store":
            checks |= self._check_workers(pulse)
        good = all(check["ok"] for check in checks.values())
        document = {
            "status": "ready" if good else "not ready",
            "durability": self._settings.durability,
            "checks": checks,
        }
        return JSONResponse(document, 200 if good else 503)

    async def metrics(self, _: Request) -> Response:
        try:
            async with asyncio.timeout(DEADLINE):
                figures = await read_figures(self._redis, self._keys)
        except MISTAKES:
            figures = None  # our own counters are worth showing without the store's
        return Response(self._metrics.render(figures), media_type=CONTENT_TYPE_LATEST)

    async def _check_store(self) -> tuple[dict[str, Any], Pulse | None]:
        try:
            async with asyncio.timeout(DEADLINE):
                server = await check_server(self._redis, self._settings.durability)
                pulse = await feel_pulse(self._redis, self._keys)
        except StoreError as error:
            return {"ok": False, "reason": error.message}, None
        except MISTAKES as error:
            return {"ok": False, "reason": str(error) or "no answer in time"}, None
        version = ".".join(map(str, server.version))
        return {"ok": pulse.writable, "server": f"{server.name} {version}", "appendfsync": server.append_fsync}, pulse

    def _check_workers(self, pulse: Pulse | None) -> dict[str, dict[str, Any]]:
        if pulse is None:
            return {}
        ages = {"run_workers": pulse.run_worker_age, "callback_workers": pulse.callback_worker_age}
        return {name: _judge_age(age, self._settings.lease + LOOKS) for name, age in ages.items()}


def _judge_age(age: float | None, limit: float) -> dict[str, Any]:
    if age is None:
        return {"ok": False, "reason": "no worker has looked at the queue"}
    check: dict[str, Any] = {"ok": age <= limit, "heartbeat_age": round(age, 1)}
    if age > limit:
        check["reason"] = f"no worker has looked at the queue for {age:.0f} seconds"
    return check
