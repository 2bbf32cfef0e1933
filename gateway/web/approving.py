"""`/approve/{token}`: the page behind a signed link. It works without JavaScript and loads nothing from anywhere.

Looking decides nothing, for mail scanners and link previews look too: only the form's POST does.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from html import escape
from typing import Any
from urllib.parse import parse_qs

import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from gateway.approvals import PAGE, Link, Links
from gateway.audit import Actor, acting
from gateway.errors import BadRequest, GatewayError, Unavailable, UnsupportedMedia
from gateway.runs import Asked, Run
from gateway.steering import Choice, Steering
from gateway.store.connection import MISTAKES
from gateway.web.bodies import ClientGone, read_body
from gateway.web.openapi import Page

BY = "signed link"
LARGEST_FORM = 20_000
LONGEST_COMMENT = 2000
MOST_FIELDS = 10
FORM = "application/x-www-form-urlencoded"
CHOICES: dict[str, Choice] = {"approve": "approve", "reject": "reject"}
DONE = {"approve": "Approved", "reject": "Rejected"}
TITLES = {404: "Unknown link", 409: "Decided already", 410: "Link expired", 503: "Try again"}
STYLE = """\
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 38rem; margin: 3rem auto; padding: 0 1rem }
dt { opacity: .7 } dd { margin: 0 0 .7rem; white-space: pre-wrap; overflow-wrap: anywhere }
textarea { width: 100%; box-sizing: border-box; font: inherit }
button { font: inherit; padding: .5rem 1.5rem; margin: 1rem .7rem 0 0; cursor: pointer }
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "x-robots-tag": "noindex",
}
FRAME = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
QUESTION = """\
<form method="post">
<label for="comment">Comment (optional)</label>
<textarea id="comment" name="comment" rows="3" maxlength="2000"></textarea>
<button name="decision" value="approve">Approve</button>
<button name="decision" value="reject">Reject</button>
</form>
"""
ANSWERS = {404: "Nothing we have signed", 409: "The step was decided already", 410: "The link's time is over"}
PAGES = (
    Page(
        method="GET",
        path=PAGE + "/{token}",
        tag="approvals",
        summary="What a signed link asks, with two buttons. Looking decides nothing",
        answers={200: "The question", **ANSWERS},
        media="text/html",
    ),
    Page(
        method="POST",
        path=PAGE + "/{token}",
        tag="approvals",
        summary="Approve or reject by a signed link: a form with `decision` and `comment`",
        answers={200: "Decided", 400: "No decision", 413: "Too much", 415: "No form", **ANSWERS},
        media="text/html",
    ),
)
log = structlog.get_logger()


class Approving:
    """Answers for one path. The link is the credential: nothing else is asked for."""

    def __init__(
        self, links: Links, steering: Steering, body_timeout: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._links = links
        self._steering = steering
        self._body_timeout = body_timeout
        self._clock = clock
        self.routes = [Route(PAGE + "/{token}", self.answer, methods=["GET", "POST"])]

    async def answer(self, request: Request) -> Response:
        """The question, or that it is decided now; every refusal is a page too."""
        try:
            link = self._links.read(request.path_params["token"], self._clock())
            content = await (self._decide(link, request) if request.method == "POST" else self._ask(link))
            return HTMLResponse(content, headers=HEADERS)
        except ClientGone:
            return Response(status_code=400)
        except GatewayError as error:
            return _refuse(error)
        except MISTAKES:
            log.exception("store failed", page=PAGE)
            return _refuse(Unavailable("The gateway can't be reached at the moment. Nothing was decided."))

    async def _ask(self, link: Link) -> str:
        run, asked = await self._steering.question(link.run_id, link.step)
        return _draw(f"Approve {link.step}?", _facts(run, link, asked) + QUESTION)

    async def _decide(self, link: Link, request: Request) -> str:
        decision, comment = await self._read_form(request)
        acting.set(Actor(kind="link", name=BY, address=request.client.host if request.client else None))
        run = await self._steering.decide(link.run_id, link.step, decision, comment, BY)
        log.info("decided by a link", run_id=link.run_id, step=link.step, decision=decision)
        return _draw(DONE[decision], _facts(run, link, None) + "<p>Thank you. This page can be closed.</p>")

    async def _read_form(self, request: Request) -> tuple[Choice, str | None]:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            message = f"a decision is a form: {FORM}"
            raise UnsupportedMedia(message)
        raw = await read_body(request.scope, request.receive, LARGEST_FORM, self._body_timeout)
        try:
            fields: dict[str, list[str]] = parse_qs(raw.decode(), max_num_fields=MOST_FIELDS)
        except ValueError:
            message = "this is no form"
            raise BadRequest(message) from None
        decision = CHOICES.get("".join(fields.get("decision", [])))
        if decision is None:
            message = "decision is approve or reject"
            raise BadRequest(message)
        comment = "".join(fields.get("comment", [])).strip()
        return decision, comment[:LONGEST_COMMENT] or None


def _facts(run: Run, link: Link, asked: Asked | None) -> str:
    rows: list[tuple[str, Any]] = [("Workflow", run.request.workflow), ("Run", run.id), ("Step", link.step)]
    if asked is not None:
        rows += [("Message", asked.message)] if asked.message else []
        rows += [("For", ", ".join(asked.who))] if asked.who else []
    lines = "\n".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in rows)
    return f"<dl>\n{lines}\n</dl>\n"


def _refuse(error: GatewayError) -> Response:
    title = TITLES.get(error.status, "Not done")
    content = _draw(title, f"<p>{escape(error.message)}</p>")
    retry = {"retry-after": str(error.retry_after)} if error.retry_after else {}
    return HTMLResponse(content, error.status, {**HEADERS, **retry})


def _draw(title: str, body: str) -> str:
    return FRAME.format(title=escape(title), style=STYLE, body=body)
