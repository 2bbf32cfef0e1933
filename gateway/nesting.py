"""How deeply JSON may be nested, from whatever side it comes: shallow enough for all that reads or writes it later."""

from __future__ import annotations

import itertools
import re

MOST_LEVELS = 200
_NO_BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[^][{}"]+')
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def is_too_deep(text: bytes, most: int = MOST_LEVELS) -> bool:
    """Whether valid JSON has more levels than that. Brackets within text don't count."""
    if text.count(b"[") + text.count(b"{") <= most:
        return False
    steps = map(_STEPS.__getitem__, _NO_BRACKETS.sub(b"", text))
    return max(itertools.accumulate(steps)) > most
