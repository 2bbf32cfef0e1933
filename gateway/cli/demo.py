"""`demo`: the whole main job on one machine, on real parts: signed requests in, runs, signed callbacks out."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
) -> None:
    """See it work: a signed ORQO request and a signed GitHub push become runs, and call back, signed."""
    import asyncio

    from gateway.cli.common import plainly
    from gateway.cli.showing import show

    with plainly():
        raise typer.Exit(asyncio.run(show(keep)))
