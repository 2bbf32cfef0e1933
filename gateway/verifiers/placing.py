"""What signing adds to a request, and putting it where a scheme has it: a header, the body or the URL."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote_plus

import msgspec
from msgspec import Struct

from gateway.errors import ConfigError
from gateway.proofs import Headers, Request
from gateway.schemes import BASIC_HEADER, Source

NO_JSON: Final = "the body has to be a JSON object, for the signature stands in it"


class Signed(Struct, frozen=True):
    """What makes a request a signed one: headers to add, spelt as the sender does, and a changed body or URL."""

    headers: Headers = ()
    body: bytes | None = None
    url: str | None = None

    def over(self, request: Request) -> Request:
        """The request with this in it."""
        lowered = tuple((name.lower(), value) for name, value in self.headers)
        body = request.body if self.body is None else self.body
        url = request.url if self.url is None else self.url
        return Request(request.method, url, (*request.headers, *lowered), body)


def add_value(place: Source, text: str, request: Request, spelling: str | None = None) -> Signed:
    """`text` put where it belongs; a header is named as `spelling` has it. Raises ConfigError where there is no room."""
    if place.kind == "header":
        return Signed(((spelling or (BASIC_HEADER if place.name == "authorization" else place.name), text),))
    if place.kind == "body":
        document = read_object(request.body)
        put_into(document, place.name, text)
        return Signed(body=msgspec.json.encode(document))
    if place.kind == "form" and any(kind.lower().startswith("multipart/") for kind in request.values("content-type")):
        raise ConfigError("a multipart form is not signed here; send it as application/x-www-form-urlencoded")
    pair = f"{quote_plus(place.name)}={quote_plus(text)}"
    if place.kind == "form":
        return Signed(body=request.body + (b"&" if request.body else b"") + pair.encode("ascii"))
    return Signed(url=add_query(request.url, pair))


def add_query(url: str, pair: str) -> str:
    """The URL with one more pair at the end of its query."""
    base, hash_sign, fragment = url.partition("#")
    return base + ("&" if "?" in base else "?") + pair + hash_sign + fragment


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is. Raises ConfigError when it is none."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (ValueError, RecursionError):
        raise ConfigError(NO_JSON) from None


def put_into(document: dict[str, Any], path: str, value: str) -> None:
    """Set what stands at a dotted path, making the objects that lead there. Raises ConfigError where none can be."""
    *above, last = path.split(".")
    for step in above:
        document = document.setdefault(step, {})
        if not isinstance(document, dict):
            raise ConfigError(NO_JSON)
    document[last] = value
