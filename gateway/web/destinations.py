"""Looking at URLs when they are configured: as the client will read them, and where their names lead today.

Tomorrow they may lead elsewhere, so this protects nobody: it tells early. The guard is in the client, at each attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.egress import Finding, Policy, RefusedAddress, RefusedUrl, approve, read_url
from gateway.web.client import Resolver, look_up

PATIENCE = 3.0
AT_ONCE = 16


async def examine(policy: Policy, url: str, *, resolve: Resolver | None = None, seconds: float = PATIENCE) -> Finding:
    """Judge one URL, with one look-up at the most. That a name can't be looked up now is a doubt and no refusal.

    The refusal names addresses: it is for those who may configure, not for whoever sends a request.
    """
    destination = read_url(policy, url)
    if isinstance(destination, RefusedUrl):
        return Finding(refusal=destination.reason)
    if destination.is_literal:
        return Finding()
    try:
        async with asyncio.timeout(seconds):
            addresses = await (resolve or look_up)(destination.host, destination.port)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        return Finding(doubt=f"{destination.host} can't be looked up now ({why}); each attempt looks again")
    verdict = approve(policy, destination.scheme, destination.port, addresses)
    if isinstance(verdict, RefusedAddress):
        return Finding(refusal=f"{destination.host} can't be reached from here: {verdict.reason}")
    return Finding()


async def examine_all(policy: Policy, urls: Sequence[str], *, resolve: Resolver | None = None) -> list[Finding]:
    """Judge many, each different one once and some at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def judge(url: str) -> Finding:
        async with places:
            return await examine(policy, url, resolve=resolve)

    different = list(dict.fromkeys(urls))
    found = dict(zip(different, await asyncio.gather(*map(judge, different)), strict=True))
    return [found[url] for url in urls]
