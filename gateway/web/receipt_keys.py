"""Where the public keys of signed receipts are read."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.receipts import Signer

PATH = "/.well-known/gateway-receipts.json"


def publish_keys(signer: Signer) -> Route:
    """The route with the keys as a JWK set; nothing secret, for everybody. Source: RFC 8615 for the place."""
    content = msgspec.json.encode(signer.published())

    async def show(_: Request) -> Response:
        return Response(content, media_type="application/jwk-set+json", headers={"cache-control": "max-age=3600"})

    return Route(PATH, show, methods=["GET"])
