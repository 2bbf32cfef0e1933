"""Work that goes on beside the dispatchers for ever, whatever the store does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

from gateway.errors import GatewayError
from gateway.store.connection import MISTAKES

log = structlog.get_logger()


async def take_turns(what: str, turn: Callable[[], Awaitable[float]], pause: float) -> NoReturn:
    """Take turns for ever; each says how many seconds to pause after it.

    One that fails is put off by `pause` seconds. What the store is to blame for is logged once until a turn is good
    again, what nobody foresaw each time.
    """
    troubled = False
    while True:
        seconds = pause
        try:
            seconds = await turn()
            troubled = False
        except (*MISTAKES, GatewayError) as error:
            if not troubled:
                log.warning(f"{what} are put off", reason=str(error) or type(error).__name__)
            troubled = True
        except Exception:
            log.exception(f"{what} are put off")
        await asyncio.sleep(seconds)
