"""How a signature is written: hex in either case, base64 in its one canonical spelling."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Final


def decode_hex(text: str) -> bytes | None:
    """Bytes of hex in either case; None for anything else, spaces included."""
    try:
        return binascii.unhexlify(text)
    except ValueError:
        return None


def decode_base64(text: str) -> bytes | None:
    """Bytes of padded standard base64 in its one canonical spelling; None for anything else."""
    try:
        decoded = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None
    # The strict mode lets the last character's unused bits differ: a second spelling of the same bytes.
    return decoded if binascii.b2a_base64(decoded, newline=False) == text.encode("ascii") else None


def encode_base64(value: bytes) -> str:
    """Padded standard base64, in one line."""
    return base64.b64encode(value).decode("ascii")


DECODERS: Final[Mapping[str, Callable[[str], bytes | None]]] = {"hex": decode_hex, "base64": decode_base64}
ENCODERS: Final[Mapping[str, Callable[[bytes], str]]] = {"hex": bytes.hex, "base64": encode_base64}
