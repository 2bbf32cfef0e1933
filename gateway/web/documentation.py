"""`/openapi.json`, and Swagger UI at `/docs` from the files of an installed package: no other host is asked for anything."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from gateway.web import approving, results
from gateway.web.endpoints import Dialect
from gateway.web.openapi import Page, describe_api

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Event gateway: API</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = """\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: false,
  validatorUrl: null,
});
"""
ONLY = {
    "name": "only",
    "in": "query",
    "schema": {"type": "string"},
    "example": "store",
    "description": "`store` leaves the workers out.",
}
PAGES = (
    Page(
        method="POST",
        path="/api/v1/webhooks/{app}",
        tag="webhooks",
        summary="Receive an event, signed as its app's scheme says. A 2xx means stored",
        answers={
            200: "The runs it started, now or when it came first",
            202: "Stored; no trigger matched",
            303: "A form's browser goes on to a page",
            400: "The body is not what it claims to be",
            401: "No valid signature",
            403: "The app may not receive",
            404: "There is no such app",
            405: "Events are posted here",
            408: "The body did not arrive in time",
            409: "The same key came with another body",
            413: "The body is too large",
            415: "No plain JSON",
            422: "It names or holds what can't be run",
            429: "More than the rate of its app or workflow",
            503: "Not stored; send it again",
        },
        body=True,
    ),
    Page(
        method="GET",
        path="/api/v1/webhooks/{app}/form-token",
        tag="webhooks",
        summary="A token that a page with a form fetches when it is opened, and sends with it",
        answers={
            200: "The token, and the field to send it in",
            403: "Not a page of this form, or the app may not receive",
            404: "There is no such app, or its forms need no token",
            405: "A token is fetched by GET",
            429: "More than the app's rate",
            503: "No token can be made now",
        },
    ),
    Page(
        method="GET",
        path="/.well-known/gateway-receipts.json",
        tag="webhooks",
        summary="The public keys by which signed receipts are verified, as a JWK set",
        answers={200: "RFC 7517"},
        media="application/jwk-set+json",
    ),
    Page(
        method="GET", path="/livez", tag="operations", summary="Whether this process answers", answers={200: "It does"}
    ),
    Page(
        method="GET",
        path="/readyz",
        tag="operations",
        summary="Whether events can be stored, and somebody runs them",
        answers={200: "Ready", 503: "Not ready; the check that fails says why"},
        query=[ONLY],
    ),
    Page(
        method="GET",
        path="/metrics",
        tag="operations",
        summary="Figures for Prometheus",
        answers={200: "Text exposition format"},
        media="text/plain",
    ),
    Page(
        method="GET",
        path="/openapi.json",
        tag="operations",
        summary="This document",
        answers={200: "OpenAPI 3.1"},
    ),
    Page(
        method="GET",
        path="/docs",
        tag="operations",
        summary="This document, to read and try",
        answers={200: "Swagger UI"},
        media="text/html",
    ),
    *approving.PAGES,
    *results.PAGES,
)


def documentation_routes(dialects: Sequence[Dialect]) -> list[Route]:
    """The document and its reader."""

    @cache
    def written() -> bytes:
        return msgspec.json.encode(describe_api(dialects, PAGES))

    async def show_document(_: Request) -> Response:
        return Response(written(), headers=HEADERS, media_type="application/json")

    return [
        Route("/openapi.json", show_document),
        Route("/docs", show_page),
        Route("/docs/{file}", show_file),
    ]


async def show_page(_: Request) -> Response:
    return Response(PAGE, headers=HEADERS, media_type="text/html")


async def show_file(request: Request) -> Response:
    """One of Swagger UI's files, by its name on a fixed list."""
    name = request.path_params["file"]
    if name == "start.js":
        return Response(START, headers=HEADERS, media_type="text/javascript")
    if name not in FILES:
        return Response(status_code=404, headers=HEADERS)
    return FileResponse(_folder() / name, headers=HEADERS, media_type=FILES[name])


@cache
def _folder() -> Path:
    import swagger_ui_bundle

    folder: Any = swagger_ui_bundle.swagger_ui_path
    return Path(str(folder))
