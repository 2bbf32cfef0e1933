"""`up`, `serve`, `worker`: the program at work."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Annotated, Any

import typer

from gateway.cli.common import fail, plainly

BACKLOG = 2048


def up() -> None:
    """Run everything for one machine: Valkey, receiver and workers. Applies gateway.yaml, and again when it changes."""
    from gateway.logs import configure_logs
    from gateway.machine import run_machine
    from gateway.settings import read_settings

    with plainly():
        settings = read_settings()
        configure_logs(settings)
        listener = listen(settings.host, settings.port)
        code = asyncio.run(run_machine(settings, listener))
    raise typer.Exit(code)


def serve(
    fd: Annotated[int | None, typer.Option(hidden=True, help="A listening socket to take over.")] = None,
) -> None:
    """Run the receiver alone; several processes with GATEWAY_RECEIVERS."""
    from gateway.logs import configure_logs
    from gateway.machine import check_store, run_receivers
    from gateway.settings import read_settings

    with plainly():
        settings = read_settings()
        configure_logs(settings)
        asyncio.run(check_store(settings))
        if fd is None and settings.receivers > 1:
            raise typer.Exit(asyncio.run(run_receivers(settings, listen(settings.host, settings.port))))
        _serve_here(settings, fd)


def worker() -> None:
    """Run one worker process alone."""
    os.execv(sys.executable, [sys.executable, "-m", "workers"])  # noqa: S606


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; held by the parent, so that no connection is refused while a receiver restarts."""
    try:
        return socket.create_server(
            (host, port), backlog=BACKLOG, family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        fail(f"can't listen on {host}:{port}: {error.strerror}. Set GATEWAY_HOST and GATEWAY_PORT.")


def _serve_here(settings: Any, fd: int | None) -> None:
    import uvicorn

    from gateway.asgi import create_app
    from gateway.supervise import watch_parent
    from gateway.web.protocol import Protocol, Server

    watch_parent(settings.grace + 5)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        fd=fd,
        loop="uvloop",
        http=Protocol,
        ws="none",
        backlog=BACKLOG,
        access_log=False,
        server_header=False,
        # uvicorn would believe whoever connects from this machine; GATEWAY_TRUSTED_PROXIES says who is believed.
        proxy_headers=False,
        log_config=None,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(settings.grace),
    )
    server = Server(config, app.stop_waiting)
    server.run()
    if not server.started:
        raise typer.Exit(1)
