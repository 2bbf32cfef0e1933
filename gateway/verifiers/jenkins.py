"""Jenkins' Generic Webhook Trigger: HMAC-SHA256 of the body in hex or base64, alone or after `sha256=` or `HMAC `.

The plugin takes all of these in one header of a free name, so those who post to it write any of them.

Source: generic-webhook-trigger-plugin, `HMACVerifier`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.proofs import Request, Verdict, read_proof, refuse
from gateway.schemes import Scheme
from gateway.verifiers.encodings import decode_base64, decode_hex
from gateway.verifiers.keys import DIGEST_SIZES, compute_digest, find_match, judge_match, read_key, read_keys
from gateway.verifiers.placing import Signed, add_value

ALGORITHM: Final = "sha256"
SIZE: Final = DIGEST_SIZES[ALGORITHM]
PREFIXES: Final = ("sha256=", "HMAC ")


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """The digest of the body under any of the secrets, in any of the plugin's spellings."""
    keys, fault = read_keys(scheme.key, secrets)
    value = read_proof(scheme.plan.proof, request)
    if isinstance(value, Verdict):
        return fault or value
    shown = read_digest(value)
    if shown is None:
        return fault or refuse("bad_encoding")
    digests = [compute_digest(key, (request.body,), ALGORITHM) for key in keys]
    return judge_match(find_match(digests, (shown,)), fault)


def read_digest(value: str) -> bytes | None:
    """A whole digest; hex and base64 differ in length, so no text is both."""
    prefix = next((each for each in PREFIXES if value.startswith(each)), "")
    bare = value.removeprefix(prefix)
    digest = decode_hex(bare) if len(bare) == 2 * SIZE else decode_base64(bare)
    return digest if digest is not None and len(digest) == SIZE else None


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The digest in hex, after `sha256=`."""
    digest = compute_digest(read_key(scheme.key, secret), (request.body,), ALGORITHM)
    return add_value(scheme.plan.proof, PREFIXES[0] + digest.hex(), request, scheme.header)
