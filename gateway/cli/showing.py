"""What `gateway demo` does: a machine of its own in a temporary folder, two senders, one callback receiver."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets as randomness
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from rich.console import Console
from rich.markup import escape
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from gateway.cli.common import open_shard, out
from gateway.cli.looking import read_whole_run
from gateway.cli.pictures import draw_run
from gateway.egress import read_policy
from gateway.errors import GatewayError
from gateway.runs import TERMINAL
from gateway.settings import Settings, read_settings
from gateway.signatures import PRESETS, Request, sign, verify
from gateway.web.client import Client, Failure

PATIENCE = 30.0
FILE = """\
apps:
  - id: 42
    name: ci
    adapter: direct
    verify: {{scheme: orqo, secrets: [{{env: DEMO_CI_SECRET}}]}}
    callback: {{url: "{callback}", secret: {{env: DEMO_CALLBACK_SECRET}}}}
  - id: 43
    name: github
    verify: {{scheme: github, secrets: [{{env: DEMO_GITHUB_SECRET}}]}}
    triggers:
      - name: deploys
        when: event.type == "push" && event.body.ref == "refs/heads/main"
        workflow: review
        input: {{commit: "${{event.body.after}}", repo: "${{event.body.repository.full_name}}"}}
    callback: {{url: "{callback}", secret: {{env: DEMO_CALLBACK_SECRET}}}}
workflows:
  - id: 15
    name: research
    steps:
      - id: words
        transform: "${{task.split(' ')}}"
      - id: count
        needs: [words]
        transform: "${{size(steps.words.output)}}"
    output: {{words: "${{steps.count.output}}", longest_first: "${{steps.words.output[0]}}"}}
  - id: 16
    name: review
    input: {{type: object, required: [commit, repo]}}
    steps:
      - id: fetch
        http: {{url: "{source}/${{input.repo}}/commits/${{input.commit}}"}}
        retry: {{attempts: 3, initial: 200ms}}
        timeout: 5s
      - id: judge
        needs: [fetch]
        when: steps.fetch.output.status == 200
        transform: {{verdict: "${{steps.fetch.output.body.additions < 100 ? 'small' : 'large'}}"}}
    output: "${{steps.judge.output}}"
"""


class ShowFailed(GatewayError):
    """The demo did not come to its end."""


class Inbox:
    """The callback receiver: a real HTTP server that verifies what it is sent."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self.messages: asyncio.Queue[tuple[dict[str, str], Any, bool]] = asyncio.Queue()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        routes = [Route("/callback", self._take, methods=["POST"]), Route("/{owner}/{repo}/commits/{sha}", _commit)]
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off"))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.get_running_loop().create_task(server.serve(sockets=[self.socket]))
        try:
            yield
        finally:
            server.should_exit = True
            await task

    async def _take(self, request: HttpRequest) -> Response:
        body = await request.body()
        seen = Request.from_asgi("POST", "/callback", request.headers.raw, body)
        verdict = verify(PRESETS["standard-webhooks"], [self._secret], seen, time.time())
        await self.messages.put((dict(request.headers), msgspec.json.decode(body), verdict.valid))
        return Response(status_code=204 if verdict.valid else 401)


async def _commit(request: HttpRequest) -> Response:
    """What the review workflow's http step asks for."""
    document = {"sha": request.path_params["sha"], "additions": 42, "deletions": 7}
    return Response(msgspec.json.encode(document), media_type="application/json")


async def show(keep: bool) -> int:
    """The whole demo. Raises GatewayError, with the end of the log, when something does not work."""
    screen, began = out(), time.monotonic()
    callback_secret = "whsec_" + base64.b64encode(randomness.token_bytes(32)).decode()
    secrets = {"DEMO_CI_SECRET": randomness.token_hex(20), "DEMO_GITHUB_SECRET": randomness.token_hex(20)}
    inbox = Inbox(callback_secret)
    with tempfile.TemporaryDirectory(prefix="gateway-demo-") as folder:
        environ = _environment(Path(folder), inbox, secrets | {"DEMO_CALLBACK_SECRET": callback_secret})
        async with (
            inbox.open(),
            _machine(environ, Path(folder)) as address,
            Client(read_policy("127.0.0.0/8")) as client,
        ):
            await _until_ready(client, address, Path(folder))
            screen.print(
                f"[green]✔[/green] Valkey, receiver and worker are up at [bold]{address}[/bold]  ({_since(began)})\n"
            )
            await _show_requests(screen, client, address, secrets)
            documents = await _show_runs(screen, inbox, read_settings(environ))
            good = await _show_callbacks(screen, inbox, len(documents))
            screen.print(
                f"\n[green]✔[/green] Two signed requests, two runs, two verified callbacks in {_since(began)}."
            )
            if keep:
                await _keep(screen, address, Path(folder))
    return 0 if good and all(document["status"] == "completed" for document in documents) else 1


def _environment(folder: Path, inbox: Inbox, secrets: dict[str, str]) -> dict[str, str]:
    config = folder / "gateway.yaml"
    config.write_text(FILE.format(callback=inbox.url + "/callback", source=inbox.url))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return (
        kept
        | secrets
        | {
            "GATEWAY_CONFIG": str(config),
            "GATEWAY_DATA_DIR": str(folder / "data"),
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "GATEWAY_EGRESS_ALLOW": "127.0.0.0/8",
            "GATEWAY_LOG_FORMAT": "json",
        }
    )


@contextlib.asynccontextmanager
async def _machine(environ: dict[str, str], folder: Path) -> AsyncIterator[str]:
    """`gateway up` as a process of its own, as a user would run it; its log goes to a file."""
    with (folder / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "up", env=environ, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield f"http://127.0.0.1:{environ['GATEWAY_PORT']}"
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()


async def _until_ready(client: Client, address: str, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        answer = await client.request("GET", address + "/readyz")
        if not isinstance(answer, Failure) and answer.status == 200:
            return
        await asyncio.sleep(0.05)
    tail = "\n".join((folder / "gateway.log").read_text().splitlines()[-15:])
    message = f"the gateway was not ready within {PATIENCE:g} seconds; the end of its log:\n{tail}"
    raise ShowFailed(message)


async def _show_requests(screen: Console, client: Client, address: str, secrets: dict[str, str]) -> None:
    order = {
        "workflow_id": 15,
        "task": "Research the latest trends in AI agent frameworks",
        "metadata": {"source": "ci-pipeline", "ref": "main"},
    }
    await _post(
        screen,
        client,
        address + "/api/v1/webhooks/42",
        "orqo",
        secrets["DEMO_CI_SECRET"],
        msgspec.json.encode(order),
        {},
    )
    push = (resources.files("gateway.cli") / "push.json").read_bytes()
    await _post(
        screen,
        client,
        address + "/api/v1/webhooks/43",
        "github",
        secrets["DEMO_GITHUB_SECRET"],
        push,
        {"x-github-event": "push"},
    )


async def _post(
    screen: Console, client: Client, url: str, scheme: str, secret: str, body: bytes, extra: dict[str, str]
) -> None:
    headers = {"content-type": "application/json"} | extra
    request = Request(method="POST", url=url, headers=tuple(headers.items()), body=body)
    headers |= dict(sign(PRESETS[scheme], secret, request, time.time(), f"demo-{randomness.token_hex(8)}"))
    screen.print(f"[cyan]→[/cyan] POST {url}  [dim]{scheme}, {len(body)} bytes[/dim]")
    for name, value in headers.items():
        if name.lower().startswith("x-"):
            screen.print(f"    [dim]{name}: {value}[/dim]")
    answer = await client.request("POST", url, headers=headers, body=body)
    if isinstance(answer, Failure):
        raise ShowFailed(f"{url}: {answer.reason}: {answer.detail}")
    screen.print(
        f"[cyan]←[/cyan] [bold]{answer.status}[/bold] {escape(answer.body.decode())}  [dim]{answer.duration_ms} ms[/dim]\n"
    )
    if answer.status != 200:
        raise ShowFailed(f"{url} answered {answer.status}, expected 200")


async def _show_runs(screen: Console, inbox: Inbox, settings: Settings) -> list[dict[str, Any]]:
    documents = []
    async with open_shard(settings) as shard:
        for run_id in (1, 2):
            document = await _ended_run(shard, run_id)
            draw_run(screen, document)
            screen.print()
            documents.append(document)
    return documents


async def _ended_run(shard: Any, run_id: int) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while True:
        document = await read_whole_run(shard, run_id)
        told = all(callback["status"] == "delivered" for callback in document["callbacks"])
        if (document["status"] in TERMINAL and told) or time.monotonic() > deadline:
            return document
        await asyncio.sleep(0.05)


async def _show_callbacks(screen: Console, inbox: Inbox, expected: int) -> bool:
    good = True
    for _ in range(expected):
        headers, message, valid = await asyncio.wait_for(inbox.messages.get(), PATIENCE)
        mark = "[green]✔ signature verified[/green]" if valid else "[red]✘ bad signature[/red]"
        data = message["data"]
        screen.print(f"[magenta]⇐[/magenta] callback {message['type']} of run {data['run_id']}  {mark}")
        output = escape(msgspec.json.encode(data["output"]).decode())
        screen.print(f"    [dim]webhook-id: {headers['webhook-id']}   output: {output}[/dim]")
        good = good and valid
    return good


async def _keep(screen: Console, address: str, folder: Path) -> None:
    screen.print(f"\nIt goes on running at [bold]{address}[/bold] until Ctrl-C. Look at it from another terminal:\n")
    screen.print(
        f"  export GATEWAY_DATA_DIR={folder / 'data'}\n  gateway run list\n  gateway run show 1\n  curl {address}/readyz\n"
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
