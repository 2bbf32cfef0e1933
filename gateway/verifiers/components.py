"""What an HTTP message signature covers (RFC 9421, section 2): the values of components, and the base that is signed.

Only requests are signed here, so `@status`, `req` and `tr` are refused, and so is whatever has no single meaning:
a component twice, a query parameter that comes twice, a field that is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl, quote

import http_sf
from http_sf.retrofit import retrofit
from msgspec import Struct

from gateway.proofs import Request, Verdict, refuse
from gateway.verifiers.encodings import encode_base64

MAX_COMPONENTS: Final = 32
MAX_PARSED: Final = 8192
"""Characters of a query or a field that are taken apart: nobody has vouched for them yet."""
DEFAULT_PORTS: Final[Mapping[str, str]] = {"https": ":443", "http": ":80"}
# Beside those whose type the library knows.
FIELD_TYPES: Final[Mapping[str, str]] = {
    "content-digest": "dictionary",
    "repr-digest": "dictionary",
    "want-content-digest": "dictionary",
    "want-repr-digest": "dictionary",
    "signature": "dictionary",
    "signature-input": "dictionary",
    "accept-signature": "dictionary",
    **retrofit,
}

ORIGIN: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://[^/?#]+)")

Parameters = Mapping[str, Any]


class Component(Struct, frozen=True):
    """One covered component: its name, which starts with @ where it is derived, and its parameters."""

    name: str
    parameters: Parameters

    @property
    def identifier(self) -> str:
        """As it stands in the base."""
        return http_sf.ser((self.name, dict(self.parameters)))


class Coverage(Struct, frozen=True):
    """What one signature covers, and the parameters that it has itself."""

    components: tuple[Component, ...]
    parameters: Parameters

    @property
    def text(self) -> str:
        """The value of `@signature-params`: its own member of Signature-Input in the one canonical spelling."""
        items: Any = [(each.name, dict(each.parameters)) for each in self.components]
        return http_sf.ser([(items, dict(self.parameters))])


def read_coverage(member: object) -> Coverage | Verdict:
    """One member of Signature-Input, as the library reads it."""
    items, parameters = member if isinstance(member, tuple) else (None, {})
    if not isinstance(items, list) or len(items) > MAX_COMPONENTS:
        return refuse("malformed_header")
    if not all(isinstance(name, str) and name and name == name.lower() for name, _ in items):
        return refuse("malformed_header")
    components = tuple(Component(name, its) for name, its in items)
    identifiers = {(each.name, frozenset(each.parameters.items())) for each in components}
    if len(identifiers) < len(components):
        return refuse("malformed_header")
    return Coverage(components, parameters)


def write_base(coverage: Coverage, request: Request) -> bytes | Verdict:
    """The signature base, or why this request has none."""
    lines = []
    for component in coverage.components:
        value = read_component(component, request)
        if isinstance(value, Verdict):
            return value
        # A line end inside a value would let it pass for another component.
        if not value.isascii() or "\n" in value or "\r" in value:
            return refuse("malformed_header")
        lines.append(f"{component.identifier}: {value}")
    lines.append(f'"@signature-params": {coverage.text}')
    return "\n".join(lines).encode("ascii")


def read_component(component: Component, request: Request) -> str | Verdict:
    name, parameters = component.name, component.parameters
    if not name.startswith("@"):
        return read_field(name, parameters, request)
    read = DERIVED.get(name)
    if read is None or set(parameters) != ({"name"} if name == "@query-param" else set()):
        return refuse("malformed_header")
    value = read(request, parameters)
    return refuse("missing_context") if value is None else value


# ---- derived components


def read_method(request: Request, parameters: Parameters) -> str | Verdict | None:
    return request.method or None


def read_target_uri(request: Request, parameters: Parameters) -> str | Verdict | None:
    if not has_authority(request):
        return None
    path, query = split_target(request)
    return ORIGIN.split(request.url)[1] + path + ("?" + query if query is not None else "")


def read_authority(request: Request, parameters: Parameters) -> str | Verdict | None:
    if not has_authority(request):
        return None
    scheme, _, authority = ORIGIN.split(request.url)[1].lower().partition("://")
    return authority.removesuffix(DEFAULT_PORTS.get(scheme, ""))


def read_scheme_part(request: Request, parameters: Parameters) -> str | Verdict | None:
    return request.url.partition("://")[0].lower() if has_authority(request) else None


def read_request_target(request: Request, parameters: Parameters) -> str | Verdict | None:
    path, query = split_target(request)
    return path + ("?" + query if query is not None else "")


def read_path(request: Request, parameters: Parameters) -> str | Verdict | None:
    return split_target(request)[0]


def read_query(request: Request, parameters: Parameters) -> str | Verdict | None:
    return "?" + (split_target(request)[1] or "")


def read_query_param(request: Request, parameters: Parameters) -> str | Verdict | None:
    query = split_target(request)[1] or ""
    values = [value for name, value in parse_query(query) if name == parameters["name"]]
    return values[0] if len(values) == 1 else refuse("malformed_url")


DERIVED: Final[Mapping[str, Callable[[Request, Parameters], str | Verdict | None]]] = {
    "@method": read_method,
    "@target-uri": read_target_uri,
    "@authority": read_authority,
    "@scheme": read_scheme_part,
    "@request-target": read_request_target,
    "@path": read_path,
    "@query": read_query,
    "@query-param": read_query_param,
}


def has_authority(request: Request) -> bool:
    """Whether the public URL is known; a receiver that was not told it sees only path and query."""
    return ORIGIN.match(request.url) is not None


def split_target(request: Request) -> tuple[str, str | None]:
    """The path, at least a slash, and the query, None where there is not even a question mark."""
    target = request.url.partition("#")[0]
    if has_authority(request):
        target = ORIGIN.sub("", target)
    path, mark, query = target.partition("?")
    return path or "/", query if mark else None


# Kept, so that a signature that covers many members of one long field doesn't have it parsed as many times.
@lru_cache(maxsize=16)
def parse_query(query: str) -> tuple[tuple[str, str], ...]:
    """The parameters of a query, each encoded anew; none of one that is too long or not UTF-8."""
    if len(query) > MAX_PARSED:
        return ()
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError:
        return ()
    return tuple((encode_part(name), encode_part(value)) for name, value in pairs)


def encode_part(text: str) -> str:
    """Percent-encoded as RFC 9421 (2.2.8) wants it; Python's own leaves the tilde alone."""
    return quote(text, safe="*-._").replace("~", "%7E")


# ---- fields


def read_field(name: str, parameters: Parameters, request: Request) -> str | Verdict:
    lines = [line.strip(" \t") for line in request.values(name)]
    if not lines:
        return refuse("missing_header")
    if not set(parameters) <= {"sf", "bs", "key"} or any(
        parameters.get(flag, True) is not True for flag in ("sf", "bs")
    ):
        return refuse("malformed_header")
    if "bs" in parameters:
        return read_wrapped(lines) if len(parameters) == 1 else refuse("malformed_header")
    if "key" in parameters:
        return read_member(lines, parameters["key"])
    return read_strictly(name, lines) if "sf" in parameters else ", ".join(lines)


def read_wrapped(lines: Sequence[str]) -> str:
    return ", ".join(f":{encode_base64(line.encode('latin-1'))}:" for line in lines)


def read_member(lines: Sequence[str], key: object) -> str | Verdict:
    found = parse_field(", ".join(lines), "dictionary")
    if not isinstance(found, dict) or not isinstance(key, str) or key not in found:
        return refuse("malformed_header")
    member = found[key]
    return http_sf.ser([member])


def read_strictly(name: str, lines: Sequence[str]) -> str | Verdict:
    kind = FIELD_TYPES.get(name)
    found = None if kind is None else parse_field(", ".join(lines), kind)
    return refuse("malformed_header") if found is None else http_sf.ser(found)


@lru_cache(maxsize=16)
def parse_field(text: str, kind: str) -> Any:
    """A structured field, for reading only; None when it is none, or too long."""
    if len(text) > MAX_PARSED:
        return None
    try:
        return http_sf.parse(text.encode("latin-1"), tltype=kind)
    except ValueError:
        return None
