"""Finding the callable that a `python` step names. As light as can be: each isolated step's process imports it anew."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from gateway.callables import complain, is_allowed


class CannotLoad(Exception):
    """There is no such callable, or it may not be used. Its text says which and why."""


def load(reference: str, allowed: Sequence[str]) -> Callable[[Any], Any]:
    """The callable that `module:function` names. What may not be used is never imported. Raises CannotLoad."""
    refusal = complain(reference, allowed)
    if refusal is not None:
        raise CannotLoad(refusal)
    module_name, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        message = f"{reference}: can't import {module_name}: {error}. Is it beside gateway.yaml, or installed?"
        raise CannotLoad(message) from None
    for name in path.split("."):
        found = _step_into(found, name, reference, allowed)
    if not callable(found):
        message = f"{reference} is a {type(found).__name__}, not something that can be called"
        raise CannotLoad(message)
    return found  # type: ignore[no-any-return]


def _step_into(found: Any, name: str, reference: str, allowed: Sequence[str]) -> Any:
    if not hasattr(found, name):
        module_name, _, path = reference.partition(":")
        message = f"{reference}: the module {module_name} has no {path}"
        raise CannotLoad(message)
    inner = getattr(found, name)
    # What an allowed module has imported (`reviews:os.system`) is not allowed by that.
    if isinstance(inner, ModuleType) and not is_allowed(inner.__name__, allowed):
        message = f"{reference} leads into the module {inner.__name__!r}, which steps may not use"
        raise CannotLoad(message)
    return inner
