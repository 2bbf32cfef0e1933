"""The secrets that an app needs, opened: which of them can be used, and what is wrong with the others. Silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gateway.errors import ConfigError
from gateway.secrets import SHORTEST, Resolve, SecretRef
from gateway.signatures import Scheme, check_secret

Timed = tuple[str, int | None]
"""A secret and when it ends (unix seconds), if that is set."""


def open_secrets(
    references: Sequence[SecretRef], owner: str, scheme: Scheme, resolve: Resolve
) -> tuple[tuple[Timed, ...], str | None]:
    """The secrets that a scheme judges by; or none, and why."""
    found: list[Timed] = []
    for reference in references:
        value = resolve(reference, owner)
        complaint = reference.absence if value is None else complain_of_secret(scheme, value)
        # One whose end is set is on its way out: that it is lost already is no reason to refuse the newer one.
        if complaint and reference.expires_at is None:
            return (), f"its secret ({reference.label}) {complaint}"
        if value and not complaint:
            found.append((value, reference.expires_at))
    return tuple(found), None


def open_credentials(
    credentials: Mapping[str, SecretRef], holder: Callable[[str], str], resolve: Resolve
) -> tuple[dict[str, str], str | None]:
    """An adapter's credentials; or none, and why."""
    found: dict[str, str] = {}
    for name, reference in credentials.items():
        value = resolve(reference, holder(f"credentials.{name}"))
        if not value:
            complaint = reference.absence if value is None else "is empty"
            return {}, f"its credential {name} ({reference.label}) {complaint}"
        found[name] = value
    return found, None


def complain_of_secret(scheme: Scheme | None, value: str | None) -> str | None:
    """Why a secret can't be used, by this scheme if one is given; None when it can."""
    if value is None:
        return "is not set"
    if not value:
        return "is empty"
    if len(value.encode()) < SHORTEST:
        return f"is shorter than {SHORTEST} bytes"
    try:
        if scheme is not None:
            check_secret(scheme, value, "secret")
    except ConfigError as error:
        return f"can't be used: {error.message.removeprefix('secret: ')}"
    return None
