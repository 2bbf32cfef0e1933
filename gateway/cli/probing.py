"""`probe`: find out whether a webhook receiver can be relied on."""

from __future__ import annotations

import contextlib
import http.client
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from gateway.cli.common import Json, fail, out, plainly, print_json

if TYPE_CHECKING:
    from gateway.probes import Mark, Means, Outcome, Shot, Trial

SLACK = 20.0
KEPT = 4096


def probe(
    url: Annotated[str, typer.Argument(help="A receiver of your own; the good deliveries are real ones to it.")],
    secret: Annotated[str, typer.Option(help="The secret it verifies by.", envvar="GATEWAY_SEND_SECRET")],
    scheme: Annotated[str, typer.Option(help="How to sign: standard-webhooks, github, orqo, ..")] = "standard-webhooks",
    data: Annotated[str, typer.Option(help="A body that it takes; @FILE reads a file.")] = '{"type": "probe"}',
    old_secret: Annotated[str | None, typer.Option(help="One that is still valid, during a rotation.")] = None,
    patience: Annotated[float, typer.Option(help="Seconds in which it should answer.")] = 5.0,
    json: Json = False,
) -> None:
    """Send a receiver good, forged, stale, doubled, slow and oversize deliveries, and grade it. Exits with 0 for full marks."""
    from gateway.cli.sending import read_data
    from gateway.probes import TRIALS, Means
    from gateway.signatures import read_scheme

    with plainly():
        means = Means(
            scheme=read_scheme(scheme, "--scheme"),
            secret=secret,
            url=url,
            data=read_data(data),
            now=time.time(),
            noise=lambda: os.urandom(12).hex(),
            old_secret=old_secret,
            patience=patience,
        )
        marks = [mark for trial in TRIALS if (mark := _try(trial, means, quiet=json)) is not None]
    passed = sum(mark.passed for mark in marks)
    if json:
        print_json({"url": url, "passed": passed, "of": len(marks), "trials": [_document(mark) for mark in marks]})
    else:
        colour = "green" if passed == len(marks) else "red"
        out().print(
            f"\n[{colour}]{passed} of {len(marks)}[/{colour}]" + ("  full marks" if passed == len(marks) else "")
        )
    raise typer.Exit(0 if passed == len(marks) else 1)


def _try(trial: Trial, means: Means, *, quiet: bool) -> Mark | None:
    from gateway.probes import grade

    shots = trial.shots(means)
    if shots is None:
        return None
    mark = grade(trial, means, _fire(means.url, shots))
    if not quiet:
        sign = "[green]✔[/green]" if mark.passed else "[red]✘[/red]"
        out().print(f"{sign} {mark.name:<20} [dim]{'; '.join(mark.answers)}[/dim]")
        if mark.complaint:
            out().print(f"  {mark.complaint}", markup=False)
    return mark


def _document(mark: Mark) -> dict[str, Any]:
    return {
        "trial": mark.name,
        "wanted": mark.wanted,
        "passed": mark.passed,
        "answers": list(mark.answers),
        "complaint": mark.complaint,
    }


def _fire(url: str, shots: tuple[Shot, ...]) -> list[Outcome]:
    """One after the other; beside one that is slow, all at once."""
    if not any(shot.pause for shot in shots):
        return [_send(url, shot) for shot in shots]
    with ThreadPoolExecutor(len(shots)) as pool:
        return list(pool.map(lambda shot: _send(url, shot), shots))


def _send(url: str, shot: Shot) -> Outcome:
    """Send as impolite senders do: the gateway's own client would not, it always sends whole bodies."""
    from gateway.probes import LONGEST_DRIP, Outcome

    began = time.monotonic()
    connection = _connect(url, LONGEST_DRIP + SLACK)
    error = ""
    try:
        # A receiver may answer, and hang up, before it has heard everything.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            _write(connection, url, shot)
        answer = connection.getresponse()
        return Outcome(answer.status, time.monotonic() - began, answer.read(KEPT))
    except TimeoutError:
        error = "no answer"
    except (OSError, http.client.HTTPException) as trouble:
        if not isinstance(trouble, ConnectionResetError | http.client.RemoteDisconnected):
            fail(f"{url}: {trouble or type(trouble).__name__}")
        error = "it hung up"
    finally:
        connection.close()
    return Outcome(None, time.monotonic() - began, error=error)


def _connect(url: str, seconds: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        fail(f"{url!r} is not of the form https://host/path", code=2)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname, parts.port, timeout=seconds)


def _write(connection: http.client.HTTPConnection, url: str, shot: Shot) -> None:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = dict(shot.headers)
    if shot.pause:
        headers["content-length"] = str(len(shot.body) + 1_000)
    connection.request("POST", target, _pieces(shot) if shot.pause else shot.body, headers)


def _pieces(shot: Shot) -> Iterator[bytes]:
    from gateway.probes import LONGEST_DRIP

    end = time.monotonic() + LONGEST_DRIP
    yield shot.body
    while time.monotonic() < end:
        time.sleep(shot.pause)
        yield b" "
