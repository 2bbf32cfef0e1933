"""What the handshakes share: their shape, what an app says to them, and reading what comes without proof."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec

from gateway.challenges import Challenge, Offer
from gateway.proofs import Request

MOST_FIELDS = 100
LONGEST_UNPROVEN = 4096
"""Bytes of the largest body that is read as a handshake before anything is proven."""
FORM = "application/x-www-form-urlencoded"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What an app says to its handshake. `topics` are WebSub's addresses or SNS's ARNs, `origins` CloudEvents' senders."""

    verify_token: str | None = None
    topics: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    rate: int | None = None


Early = Callable[[Facts, Request], Challenge | Offer | None]
"""Asked before proof, of what is not signed. None: this is no handshake. Raises Forbidden or NotFound."""
Late = Callable[[Facts, Request, str | None], Challenge | None]
"""Asked once the request is verified, and told the secret that matched. None: an ordinary event. Raises Forbidden."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of handshake. `methods` are those it takes besides POST; `thanks` is the answer to every event.

    `gives_secret`: its sender hands over the secret. `needs_proof`: nothing of it may be done for who proves nothing.
    `needs_topics`: without the app's `topics` it can't be answered.
    """

    early: Early | None = None
    late: Late | None = None
    methods: tuple[str, ...] = ()
    thanks: Challenge | None = None
    gives_secret: bool = False
    needs_proof: bool = False
    needs_topics: bool = False


def are_same(one: str, other: str) -> bool:
    """Compare two secrets; hashed first, so that the time tells not even the length."""
    return hmac.compare_digest(_digest(one), _digest(other))


def read_fields(request: Request) -> dict[str, list[str]]:
    """The fields of the URL's query; none where there is a flood of them."""
    _, _, query = request.url.partition("?")
    try:
        return parse_qs(query, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return {}


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object; empty for anything else."""
    found = read_json(body)
    return found if isinstance(found, dict) else {}


def read_json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def find_header(request: Request, name: str) -> str | None:
    """A header's value when it came exactly once."""
    values = request.values(name)
    return values[0] if len(values) == 1 else None


def is_form(request: Request) -> bool:
    media = find_header(request, "content-type") or ""
    return media.partition(";")[0].strip().lower() == FORM


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
