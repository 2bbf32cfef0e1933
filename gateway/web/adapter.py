"""Asking an app's adapter: is it ready, does it vouch for this request, what does it make of it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import structlog

from gateway.adapters import AdapterSettings, compose_inbound, is_ready, is_valid, read_message, read_object, read_query
from gateway.apps import LiveApp
from gateway.challenges import Challenge
from gateway.errors import Unauthorized, Unavailable
from gateway.signatures import Request
from gateway.web.client import Client, Failure

BUDGET = 5.0
"""Seconds for all that is asked about one request."""
READY_SECONDS = 10.0
UNREADY_SECONDS = 1.0
HEALTH_TIMEOUT = 2.0
CAP = 1_048_576
AT_ONCE = 100
JSON = (("content-type", "application/json"), ("accept", "application/json"))
log = structlog.get_logger()


class Adapters:
    """Every adapter of this process. `budget` is in seconds and covers one request, the look at its health included."""

    def __init__(self, client: Client, *, budget: float = BUDGET) -> None:
        self._client = client
        self._budget = budget
        self._partners: dict[str, _Partner] = {}

    async def read(self, app: LiveApp, request: Request) -> Challenge | dict[str, Any]:
        """The message an app's adapter makes of a request it vouches for, or the challenge to answer.

        Raises Unauthorized when it doesn't vouch, and Unavailable when it is slow, not ready or out of its contract.
        """
        assert app.adapter is not None
        try:
            async with asyncio.timeout(self._budget):
                return await self._read(app.adapter, app.credentials, request)
        except TimeoutError:
            fault = _Fault("adapter_timeout", f"no whole answer within {self._budget:g} s")
        except _Refused as error:
            fault = error.fault
        log.warning("the adapter is of no use", app=app.app.name, reason=fault.reason, detail=fault.detail)
        message = "this event can't be verified now; send it again"
        raise Unavailable(message, reason=fault.reason)

    async def _read(
        self, adapter: AdapterSettings, credentials: dict[str, str], request: Request
    ) -> Challenge | dict[str, Any]:
        partner = self._partners.setdefault(adapter.url, _Partner())
        inbound = compose_inbound(request, credentials)
        async with partner.places:
            await self._require_ready(partner, adapter)
            if not is_valid(await self._post(adapter.route("verify-webhook"), inbound)):
                raise Unauthorized(reason="adapter_refused")
            inbound["query"] = read_query(request.url)
            return read_message(await self._post(adapter.route("parse-inbound"), inbound))

    async def _require_ready(self, partner: _Partner, adapter: AdapterSettings) -> None:
        clock = asyncio.get_running_loop().time
        if clock() >= partner.until:
            async with partner.looking:
                if clock() >= partner.until:  # nobody looked while this one waited
                    partner.fault = await self._look(adapter)
                    partner.until = clock() + (READY_SECONDS if partner.fault is None else UNREADY_SECONDS)
        if partner.fault is not None:
            raise _Refused(partner.fault)

    async def _look(self, adapter: AdapterSettings) -> _Fault | None:
        manifest, health = await asyncio.gather(
            self._ask("GET", adapter.route("manifest.json"), b"", HEALTH_TIMEOUT),
            self._ask("GET", adapter.route("health"), b"", HEALTH_TIMEOUT),
        )
        for answer in (manifest, health):
            if isinstance(answer, _Fault):
                return answer
        if isinstance(health, dict) and not is_ready(health):
            return _Fault("adapter_not_ready", f"its /health has the status {str(health.get('status'))[:40]!r}")
        return None

    async def _post(self, url: str, document: dict[str, Any]) -> dict[str, Any]:
        answer = await self._ask("POST", url, msgspec.json.encode(document), self._budget)
        if isinstance(answer, _Fault):
            raise _Refused(answer)
        return answer

    async def _ask(self, method: str, url: str, body: bytes, seconds: float) -> dict[str, Any] | _Fault:
        answer = await self._client.request(
            method, url, headers=JSON if body else JSON[1:], body=body, total_timeout=seconds, cap=CAP
        )
        if isinstance(answer, Failure):
            reason = "adapter_timeout" if answer.reason == "timeout" else "adapter_unreachable"
            return _Fault(reason, f"{url}: {answer.reason}: {answer.detail}")
        if answer.status != 200:
            return _Fault("adapter_failed", f"{url}: it answered {answer.status}")
        if answer.truncated:
            return _Fault("adapter_answer", f"{url}: its answer is larger than {CAP} bytes")
        document = read_object(answer.body)
        return _Fault("adapter_answer", f"{url}: its answer is no JSON object") if document is None else document


class _Fault(msgspec.Struct, frozen=True):
    """Why an adapter is of no use now: a word of ours for metrics, and a detail for the operator's log alone."""

    reason: str
    detail: str


class _Refused(Exception):
    """One of the questions has no usable answer."""

    def __init__(self, fault: _Fault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


class _Partner:
    """What is known of one adapter, and how many ask it at once. Never looked at before: `until` lies in the past."""

    __slots__ = ("fault", "looking", "places", "until")

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(AT_ONCE)
        self.looking = asyncio.Lock()
        self.until = float("-inf")
        self.fault: _Fault | None = None
