"""`send`: sign and post one request as any sender would. `verify`: judge one captured request offline."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.common import Json, fail, out, plainly, print_json

TIMEOUT = 15.0
CAP = 1_048_576


def send(
    url: Annotated[str, typer.Argument(help="Where to post it.")],
    secret: Annotated[
        str, typer.Option(help="The secret, or private key, to sign with.", envvar="GATEWAY_SEND_SECRET")
    ],
    scheme: Annotated[str, typer.Option(help="How to sign: orqo, github, stripe, ..")] = "orqo",
    data: Annotated[str, typer.Option(help="The body; @FILE reads a file, @- standard input.")] = "{}",
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="Another header, `Name: value`.")] = None,
    method: Annotated[str, typer.Option(help="The method.")] = "POST",
    json: Json = False,
) -> None:
    """Sign and post one request, as any sender would. Exits with 0 when the answer is a 2xx."""
    from gateway.signatures import Request, read_scheme, sign_request

    with plainly():
        body = read_data(data)
        extra = [_read_header(line) for line in header or []]
        given = {name for name, _ in extra}
        headers = [
            pair
            for pair in (("content-type", "application/json"), ("user-agent", "gateway-send"))
            if pair[0] not in given
        ]
        headers += extra
        request = Request(method=method.upper(), url=url, headers=tuple(headers), body=body)
        identity = f"msg_{os.urandom(12).hex()}"
        signed = sign_request(read_scheme(scheme, "--scheme"), secret, request, time.time(), identity)
        answer = asyncio.run(_post(signed.method, signed.url, list(signed.headers), signed.body))
    if json:
        print_json({"status": answer.status, "body": _read_body(answer.body), "duration_ms": answer.duration_ms})
    else:
        colour = "green" if 200 <= answer.status < 300 else "red"
        out().print(f"[{colour}]{answer.status}[/{colour}]  {answer.duration_ms} ms")
        out().print(answer.body.decode("utf-8", "replace"), markup=False)
    raise typer.Exit(0 if 200 <= answer.status < 300 else 1)


def verify(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSON: scheme, secrets, method, url, headers, body or body_base64, now. - reads standard input."
        ),
    ],
) -> None:
    """Judge one captured request offline. Prints {"valid", "reason"}; exits with 0 or 1."""
    import msgspec

    from gateway.signatures import judge

    with plainly():
        try:
            text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
            document = msgspec.json.decode(text)
        except OSError as error:
            fail(f"can't read {file}: {error.strerror}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            fail(f"{file} is not JSON: {error}")
        verdict = judge(document)
    print_json({"valid": verdict.valid, "reason": verdict.reason})
    raise typer.Exit(0 if verdict.valid else 1)


async def _post(method: str, url: str, headers: list[tuple[str, str]], body: bytes) -> Any:
    from gateway.egress import read_policy
    from gateway.web.client import Client, Failure

    # The operator names the address on the command line, so any network is allowed.
    async with Client(read_policy("0.0.0.0/0, ::/0")) as client:
        answer = await client.request(method, url, headers=headers, body=body, total_timeout=TIMEOUT, cap=CAP)
    if isinstance(answer, Failure):
        fail(f"{url}: {answer.reason}: {answer.detail}")
    return answer


def read_data(data: str) -> bytes:
    if data == "@-":
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        try:
            return Path(data[1:]).read_bytes()
        except OSError as error:
            fail(f"can't read {data[1:]}: {error.strerror}")
    return data.encode()


def _read_header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        fail(f"--header takes `Name: value`, not {line!r}", code=2)
    return name.strip().lower(), value.strip()


def _read_body(body: bytes) -> Any:
    import msgspec

    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode("utf-8", "replace")
