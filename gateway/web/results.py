"""`/results/{token}`: what was too large for a message. The link is the credential: nothing else is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.errors import GatewayError, Unavailable
from gateway.results import PAGE, ResultLinks, open_link
from gateway.store.connection import MISTAKES
from gateway.store.reading import Reader
from gateway.web.openapi import Page
from gateway.web.problems import on_gateway_error

HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff", "x-robots-tag": "noindex"}
PAGES = (
    Page(
        method="GET",
        path=PAGE + "/{token}",
        tag="callbacks",
        summary="The run that a message links to, where its result was too large to be sent",
        answers={
            200: "The run, as a message would hold it",
            404: "Nothing we have signed",
            410: "The link's time is over",
        },
        refusal="application/problem+json",
    ),
)
log = structlog.get_logger()


class Results:
    """Answers for one path."""

    def __init__(self, links: ResultLinks, reader: Reader, clock: Callable[[], float] = time.time) -> None:
        self._links = links
        self._reader = reader
        self._clock = clock
        self.routes = [Route(PAGE + "/{token}", self.answer, methods=["GET"])]

    async def answer(self, request: Request) -> Response:
        """The run, or a problem."""
        try:
            link = self._links.read(request.path_params["token"], self._clock())
            document = open_link(link, await self._reader.run(link.run_id))
        except GatewayError as error:
            return await on_gateway_error(request, error)
        except MISTAKES:
            log.exception("store failed", page=PAGE)
            return await on_gateway_error(request, Unavailable())
        return Response(msgspec.json.encode(document), media_type="application/json", headers=HEADERS)
