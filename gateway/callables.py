"""Callables of `python` steps: how they are named, and which modules the operator lets them come from. Silent.

Imports nothing but the standard library's quick parts: a child process that runs one step imports it too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_allowed(module: str, allowed: Sequence[str]) -> bool:
    """Whether a module is one of these or lies within one; without any, all are."""
    return not allowed or any(module == each or module.startswith(f"{each}.") for each in allowed)


def complain(reference: str, allowed: Sequence[str]) -> str | None:
    """Why `module:function` may not be used; None when it may."""
    module = reference.partition(":")[0]
    if is_allowed(module, allowed):
        return None
    return f"module {module!r} is not among those that steps may use: {', '.join(allowed)} (GATEWAY_PYTHON_MODULES)"
