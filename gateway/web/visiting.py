"""Calling the addresses by which a handshake is confirmed. Which ones may be called was decided before."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import structlog

from gateway.errors import Unavailable
from gateway.web.client import Client, Failure

SECONDS = 5.0
REMEMBERED = 1000
log = structlog.get_logger()


class Visits:
    """Calls each address by GET, one after the other; one that was called already is not called again.

    A sender repeats what was not answered in time, and anyone can repeat what a sender once signed.
    """

    def __init__(self, client: Client, *, seconds: float = SECONDS) -> None:
        self._client = client
        self._seconds = seconds
        self._done: dict[bytes, None] = {}
        self._calling = asyncio.Lock()

    async def visit(self, url: str) -> None:
        """Call it. Raises Unavailable when the answer is no 2xx; then the sender has to come again."""
        digest = sha256(url.encode("utf-8", "surrogatepass")).digest()
        async with self._calling:
            if digest in self._done:
                return
            answer = await self._client.request("GET", url, total_timeout=self._seconds)
            if isinstance(answer, Failure) or not 200 <= answer.status < 300:
                what = answer.reason if isinstance(answer, Failure) else f"status {answer.status}"
                detail = answer.detail if isinstance(answer, Failure) else ""
                log.warning("a handshake could not be confirmed", reason=what, detail=detail)
                message = "this subscription could not be confirmed now; send it again"
                raise Unavailable(message, reason="confirmation_failed")
            self._done[digest] = None
            while len(self._done) > REMEMBERED:
                self._done.pop(next(iter(self._done)))
