"""HTTP signatures as draft-cavage-http-signatures-12 has them: `Signature: keyId=…,headers="date digest",signature=…`.

The algorithm is the configuration's word; the message's own has to be the same, or `hs2019`, which says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from gateway.proofs import TIME_READERS, TIME_WRITERS, Request, Verdict, read_header, refuse
from gateway.schemes import Scheme
from gateway.verifiers.claims import judge_age, unsignable
from gateway.verifiers.digests import holds_digest, write_digest
from gateway.verifiers.encodings import decode_base64, encode_base64
from gateway.verifiers.messagekeys import BY_KEY, find_key, pin_algorithm, sign_bytes
from gateway.verifiers.placing import Signed

ALGORITHMS: Final[Mapping[str, str]] = {"hmac-sha256": "hmac-sha256", "rsa-v1_5-sha256": "rsa-sha256"}
"""The algorithms, and the draft's names for them."""
SILENT: Final = "hs2019"
WORD: Final = "Signature "
MAX_HEADER: Final = 8192
MAX_NAMES: Final = 64
DIGEST: Final = "digest"
PARAMETER: Final = re.compile(r'\s*([A-Za-z]{1,20})=(?:"([^"\\]*)"|([0-9]{1,11}))\s*(?:,|$)')
NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+|\((request-target|created|expires)\)")


class Claim(Struct, frozen=True):
    """The parameters of the header, and the names it says are signed, in their order."""

    parameters: Mapping[str, str]
    names: tuple[str, ...]
    signature: bytes


def verify(scheme: Scheme, secrets: Sequence[str], request: Request, now: float) -> Verdict:
    """Judge the one signature of a request. Never raises.

    Refused are, once it holds: what `require` names and it doesn't cover (a digest only where there is a body), a
    Digest that is covered and is not the body's, a time that is not covered or outside the tolerance.
    """
    claim = read_claim(scheme, request)
    if isinstance(claim, Verdict):
        return claim
    named = claim.parameters.get("algorithm", SILENT).lower()
    algorithms = {name for name, word in ALGORITHMS.items() if named in (SILENT, word)}
    if scheme.alg != BY_KEY and scheme.alg not in algorithms:
        return refuse("mismatch")
    text = write_text(claim, request)
    if isinstance(text, Verdict):
        return text
    verdict = find_key(scheme, secrets, claim.signature, text, algorithms)
    return (judge_rest(scheme, claim, request, now) or verdict) if verdict.valid else verdict


def read_times(scheme: Scheme, request: Request) -> Sequence[str]:
    """The time that counts, where it is signed."""
    claim = read_claim(scheme, request)
    if scheme.timestamp is None or isinstance(claim, Verdict):
        return ()
    place = scheme.timestamp.place
    value = read_line("(created)" if place.kind == "field" else place.name, claim, request)
    return () if isinstance(value, Verdict) else (value,)


def read_claim(scheme: Scheme, request: Request) -> Claim | Verdict:
    value = read_header(request, scheme.plan.header)
    if isinstance(value, Verdict):
        return value
    if scheme.plan.header == "authorization":
        if not value.startswith(WORD):
            return refuse("malformed_header")
        value = value.removeprefix(WORD)
    parameters = read_parameters(value)
    if isinstance(parameters, Verdict):
        return parameters
    names = tuple(parameters.get("headers", "(created)").lower().split(" "))
    if len(names) > MAX_NAMES or len(set(names)) < len(names) or not all(NAME.fullmatch(name) for name in names):
        return refuse("malformed_header")
    signature = decode_base64(parameters.get("signature", ""))
    return Claim(parameters, names, signature) if signature else refuse("bad_encoding")


def read_parameters(value: str) -> dict[str, str] | Verdict:
    found: dict[str, str] = {}
    place = 0
    while place < len(value) <= MAX_HEADER:
        match = PARAMETER.match(value, place)
        if match is None or match[1] in found:
            return refuse("malformed_header")
        found[match[1]] = match[2] if match[2] is not None else match[3]
        place = match.end()
    return found or refuse("malformed_header")


def write_text(claim: Claim, request: Request) -> bytes | Verdict:
    """What is signed: a line for each name."""
    lines = []
    for name in claim.names:
        value = read_line(name, claim, request)
        if isinstance(value, Verdict):
            return value
        if not value.isascii() or "\n" in value or "\r" in value:
            return refuse("malformed_header")
        lines.append(f"{name}: {value}")
    return "\n".join(lines).encode("ascii")


def read_line(name: str, claim: Claim, request: Request) -> str | Verdict:
    if name == "(request-target)":
        target = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", "", request.url.partition("#")[0])
        known = bool(request.method and request.url)
        return f"{request.method.lower()} {target or '/'}" if known else refuse("missing_context")
    if name.startswith("("):
        return claim.parameters.get(name.strip("()")) or refuse("missing_timestamp")
    lines = [line.strip(" \t") for line in request.values(name)]
    return ", ".join(lines) if lines else refuse("missing_header")


def judge_rest(scheme: Scheme, claim: Claim, request: Request, now: float) -> Verdict | None:
    """A refusal of a signature that holds, or None."""
    wanted = [name for name in scheme.require or () if name != DIGEST or request.body]
    if not set(wanted) <= set(claim.names):
        return refuse("uncovered")
    if DIGEST in claim.names and not holds_digest(request):
        return refuse("wrong_digest")
    return judge_times(scheme, claim, request, now)


def judge_times(scheme: Scheme, claim: Claim, request: Request, now: float) -> Verdict | None:
    timing = scheme.timestamp
    if timing is not None:
        name = "(created)" if timing.place.kind == "field" else timing.place.name
        value = read_line(name, claim, request) if name in claim.names else refuse("missing_timestamp")
        seconds = None if isinstance(value, Verdict) else TIME_READERS[timing.unit](value)
        if seconds is None:
            return value if isinstance(value, Verdict) else refuse("malformed_timestamp")
        refusal = judge_age(seconds, timing, now)
        if refusal is not None:
            return refusal
    expires = claim.parameters.get("expires")
    if expires is None or "(expires)" not in claim.names:
        return None
    # Written so that a clock that is no number refuses.
    return None if expires.isdigit() and now <= int(expires) else refuse("stale")


def sign(scheme: Scheme, secret: str, request: Request, now: float) -> Signed:
    """The signature, and Date and Digest where the request has none of its own.

    Raises ConfigError for a key of another kind, or a request that lacks what `require` names.
    """
    scheme = pin_algorithm(scheme, secret)
    names = scheme.require or ("(request-target)", "date", DIGEST)
    own = (("Date", TIME_WRITERS["httpdate"](now)), ("Digest", write_digest(request.body)))
    added = tuple(line for line in own if line[0].lower() in names and not request.values(line[0]))
    lowered = tuple((name.lower(), value) for name, value in added)
    whole = Request(request.method, request.url, (*request.headers, *lowered), request.body)
    parameters = {"keyId": "hmac-key", "algorithm": ALGORITHMS[scheme.alg], "created": str(int(now))}
    text = write_text(Claim(parameters, tuple(names), b""), whole)
    if isinstance(text, Verdict):
        raise unsignable(text)
    entries = [f'keyId="hmac-key",algorithm="{parameters["algorithm"]}"']
    entries += [f"created={int(now)}"] if "(created)" in names else []
    entries.append(f'headers="{" ".join(names)}"')
    entries.append(f'signature="{encode_base64(sign_bytes(scheme, secret, text))}"')
    word = WORD if scheme.plan.header == "authorization" else ""
    return Signed(headers=(*added, (scheme.header or "Signature", word + ",".join(entries))))
