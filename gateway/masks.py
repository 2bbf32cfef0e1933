"""What may be shown of data from outside: secrets taken out, and long values cut."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec

HIDDEN = "•••"
SHORTEST = 4
"""Characters of the shortest secret that is looked for: shorter ones would be found everywhere."""
LONGEST_VALUE = 120
MOST_LEVELS = 40
_SENSITIVE = re.compile(
    r"passw|secret|token|authori[sz]ation|api[-_]?key|access[-_]?key|private[-_]?key|credential|cookie|session",
    re.IGNORECASE,
)


def is_sensitive(name: str) -> bool:
    """Whether a field or header of this name may well hold a secret."""
    return _SENSITIVE.search(name) is not None


class Mask:
    """Takes known secrets, and whatever stands in a field that is named like one, out of what is shown."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        forms = {form for secret in secrets if len(secret) >= SHORTEST for form in forms_of(secret)}
        # The longest first: one may be the beginning of another.
        known = sorted(forms, key=lambda form: (-len(form), form))
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """The text without the known secrets."""
        return text if self._known is None else self._known.sub(HIDDEN, text)

    def value(self, value: object, level: int = 0) -> object:
        """Plain JSON without secrets, wherever in it they stand."""
        if isinstance(value, str):
            return self.text(value)
        if level > MOST_LEVELS:
            return "…" if isinstance(value, dict | list) else value
        if isinstance(value, dict):
            return {self.text(str(key)): self._field(str(key), inner, level) for key, inner in value.items()}
        return [self.value(inner, level + 1) for inner in value] if isinstance(value, list) else value

    def shown(self, value: object, limit: int = LONGEST_VALUE) -> str:
        """A value as JSON without secrets, cut."""
        # Numbers are looked at as text: a secret may be one.
        return cut(self.text(_encoded(self.value(value))), limit)

    def headers(self, headers: Iterable[tuple[str, str]], proofs: Collection[str] = ()) -> list[tuple[str, str]]:
        """Headers with the values of those hidden that may hold a secret, but not of `proofs`: a signature is none."""
        return [
            (name, self.text(value) if name in proofs or not is_sensitive(name) else HIDDEN) for name, value in headers
        ]

    def _field(self, name: str, value: object, level: int) -> Any:
        return HIDDEN if is_sensitive(name) and value not in (None, "") else self.value(value, level + 1)


def forms_of(secret: str) -> set[str]:
    """A secret as it is, and as it looks inside JSON, Python's own text, a URL, base64 and hex."""
    raw = secret.encode(errors="surrogatepass")
    forms = {secret, _escaped(secret), repr(secret)[1:-1], raw.hex(), raw.hex().upper()}
    forms |= {quote(raw), quote(raw, safe=""), quote_plus(raw)}
    for whole in (base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
        forms |= {whole.decode(), whole.decode().rstrip("=")}
    return {form for form in forms if len(form) >= SHORTEST}


def cut(text: str, limit: int = LONGEST_VALUE) -> str:
    """The text, or its beginning."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _escaped(secret: str) -> str:
    """As the secret stands within JSON."""
    return _encoded(secret)[1:-1]


def _encoded(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError, OverflowError):
        return "something that can't be shown"
