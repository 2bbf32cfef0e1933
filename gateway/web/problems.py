"""Errors outside the dialects: RFC 9457 `application/problem+json` with a stable `code`."""

from __future__ import annotations

import http

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.errors import GatewayError


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """One problem as an answer."""
    document = describe_problem(status, code, detail)
    return JSONResponse(document, status, headers, media_type="application/problem+json")


async def on_gateway_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GatewayError)
    headers = {"retry-after": str(error.retry_after)} if error.retry_after else None
    return problem(error.status, error.code, error.message, headers)


async def on_http_exception(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = http.HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return problem(error.status_code, code, error.detail, dict(error.headers or {}))


async def on_exception(_: Request, __: Exception) -> JSONResponse:
    return problem(500, "internal", "something went wrong here; it is in the log")


def refuse(error: GatewayError) -> tuple[int, dict[str, object]]:
    """A problem's status and document, for our own API. Several mistakes in one body are listed under `errors`."""
    document = describe_problem(error.status, error.code, error.message)
    mistakes = error.details.get("mistakes")
    return error.status, document | {"errors": mistakes} if mistakes else document


def describe_problem(status: int, code: str, detail: str) -> dict[str, object]:
    """One problem document. Source: RFC 9457, section 3."""
    return {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
