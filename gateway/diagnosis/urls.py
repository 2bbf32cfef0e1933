"""The mistakes that are made with a URL, where the sender signs it: the others that it may have been given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final
from urllib.parse import SplitResult, urlsplit

from gateway.diagnosis.cases import Deviation
from gateway.proofs import Request

MOST_URLS: Final = 120


def changed_urls(request: Request) -> Iterator[tuple[Deviation, str]]:
    """Every URL that the sender may have signed, each but once, MOST_URLS at most."""
    for url in islice(dict.fromkeys(_urls(request)), MOST_URLS):
        if url and url != request.url:
            yield _deviation(url), url


def _deviation(url: str) -> Deviation:
    # Taken apart by hand: a host from a header may be none, which the library refuses.
    scheme, sign, rest = url.partition("://")
    setting = f": GATEWAY_PUBLIC_URL={scheme}://{rest.partition('/')[0]}" if sign else ""
    return Deviation(
        mistake="other_url",
        explanation=f"The sender signed another URL than this gateway took it to be: {url}",
        change=f"Give the sender the very URL that this gateway knows itself by, or say here what that is{setting}.",
    )


def _urls(request: Request) -> Iterator[str]:
    try:
        parts = urlsplit(request.url)
        hosts = _hosts(parts, request)
    except ValueError:
        return
    schemes = tuple(dict.fromkeys((parts.scheme, "https", "http")))
    paths = tuple(dict.fromkeys((parts.path, parts.path.rstrip("/"), parts.path + "/")))
    query = f"?{parts.query}" if parts.query else ""
    # One change at a time first.
    yield from (f"{scheme}://{parts.netloc}{parts.path}{query}" for scheme in schemes)
    yield from (f"{parts.scheme}://{host}{parts.path}{query}" for host in hosts)
    yield from (f"{parts.scheme}://{parts.netloc}{path}{query}" for path in paths)
    yield f"{parts.scheme}://{parts.netloc}{parts.path}"
    yield parts.path + query
    for scheme in schemes:
        for host in hosts:
            yield from (f"{scheme}://{host}{path}{end}" for path in paths for end in (query, ""))


def _hosts(parts: SplitResult, request: Request) -> Sequence[str]:
    """The names under which this gateway may be known: with and without a port, before the proxy and behind it."""
    name, port = parts.hostname or "", parts.port
    forwarded = [value.split(",")[0].strip() for value in request.values("x-forwarded-host")[:1]]
    hosts = (parts.netloc, name, f"{name}:{port or 443}", f"{name}:80", *forwarded, *request.values("host")[:1])
    return tuple(dict.fromkeys(host for host in hosts if host))
