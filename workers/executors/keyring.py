"""The secrets that one attempt sends: read at the moment of use, and taken out of whatever comes back."""

from __future__ import annotations

import base64

from gateway.masks import forms_of
from gateway.secrets import SHORTEST, Resolve, SecretRef
from workers.executors.base import StepFailed

HIDDEN = "[secret]"


class Keyring:
    """What must not be seen of an attempt. Shorter texts than SHORTEST are no secrets, and stand anywhere."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._hidden: list[str] = []

    def open(self, reference: SecretRef) -> str:
        """The secret's value. Raises StepFailed, naming where it should be, when it isn't there or can't be sent."""
        value = self._resolve(reference, "")
        if not value:
            message = f"the secret ({reference.label}) is not set, or can't be read, where this worker runs"
            raise StepFailed("NoSecret", message, again=False)
        if not value.isascii() or not value.isprintable():
            message = f"the secret ({reference.label}) holds a line break or another character that no header may hold"
            raise StepFailed("BadSecret", message, again=False)
        self.remember(value)
        return value

    def read(self, reference: SecretRef) -> str | None:
        """The secret's value as it is, hidden from now on; None when it isn't there."""
        value = self._resolve(reference, "")
        if value:
            self.remember(value)
        return value

    def remember(self, value: str) -> None:
        """Hide this text from now on, as it is and as it looks inside JSON, a URL, hex or base64."""
        self._hidden += [form for form in forms_of(value) if len(form) >= SHORTEST]
        self._hidden.sort(key=len, reverse=True)

    def basic(self, user: str, password: SecretRef) -> str:
        """The value of an Authorization header (RFC 7617)."""
        token = base64.b64encode(f"{user}:{self.open(password)}".encode()).decode()
        self.remember(token)
        return f"Basic {token}"

    def hide(self, text: str) -> str:
        """The text without any secret."""
        for secret in self._hidden:
            text = text.replace(secret, HIDDEN)
        return text

    def hide_bytes(self, raw: bytes) -> bytes:
        """The bytes without any secret."""
        for secret in self._hidden:
            raw = raw.replace(secret.encode(), HIDDEN.encode())
        return raw
