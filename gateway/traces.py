"""Traces: the `traceparent` of a request, passed on as it came. The gateway makes no spans of its own. Silent."""

from __future__ import annotations

import re
from collections.abc import Sequence

HEADER = "traceparent"
SHAPE = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def read_traceparent(lines: Sequence[str]) -> str | None:
    """The header's value where it is there once and whole; anything else is as if it were not there.

    Source: W3C Trace Context, 3.2. Only version 00 is passed on: of later ones we don't know what they mean.
    """
    found = [line.strip(" \t") for line in lines]
    return found[0] if len(found) == 1 and SHAPE.fullmatch(found[0]) else None
