"""The callbacks that a finished run puts into the outbox. Silent, but for the chance in a message's id."""

from __future__ import annotations

import os
from collections.abc import Mapping

from gateway.apps import LiveApp
from gateway.callbacks import Outgoing, compose, new_callback_id
from gateway.hops import Hop
from gateway.runs import Run, describe


def callbacks_for(run: Run, apps: Mapping[str, LiveApp]) -> tuple[Outgoing, ...]:
    """One message to the app's endpoint, if it has one and wants to hear of this ending. A step's run is told of nowhere."""
    if run.request.parent is not None:
        return ()
    app = apps.get(str(run.request.app_id))
    if app is None or app.app.callback is None or "send" not in app.app.capabilities:
        return ()
    kind = f"run.{run.state}"
    if kind not in app.app.callback.events:
        return ()
    data = {name: value for name, value in describe(run).items() if name != "steps"}
    message = Outgoing(
        id=new_callback_id(run.id, os.urandom(12)),
        run_id=run.id,
        app_id=app.id,
        type=kind,
        url=app.app.callback.url,
        body=compose(kind, run.ended_at or 0, data),
        hop=Hop(run.request.root or run.request.session_id, run.request.depth),
    )
    return (message,)
