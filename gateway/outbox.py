"""What is told of a run, and to which endpoints; and which endpoint a callback that was written down goes to.

Silent, but for the chance in a message's id. The id names the message: by Standard Webhooks it is the same wherever the
message goes, so that a receiver which hears of it twice takes it once. Each endpoint has a callback of its own, with a
state of its own: the first has the message's id, the others a number behind it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from gateway.app_callbacks import own_endpoint_id
from gateway.apps import LiveApp
from gateway.callbacks import Callback, Outgoing, compose, new_callback_id, new_message_id
from gateway.egress import Destination, read_url
from gateway.endpoints import ANYWHERE, LiveEndpoint
from gateway.expressions import Failure
from gateway.hops import Hop
from gateway.results import ResultLinks, tell_run
from gateway.runs import Run

OWN = re.compile(r"app-([0-9]{1,15})(\.[0-9a-f]+)?")
THIN = ("run_id", "workflow_run_id", "workflow_id", "workflow", "status", "session_id", "app_id", "event_id", "attempt")
"""What a thin payload says of a run, beside the `url` to ask for more."""


NO_MORE: Mapping[str, Any] = MappingProxyType({})
LARGE = ("output", "input", "metadata", "task", "error")
"""What is left out of a message that is too large, in this order, until it is not."""
CAP = 20_000
"""Bytes of a message, by the advice of Standard Webhooks, "Payload size"."""


class Recipient(msgspec.Struct, frozen=True):
    """An endpoint that a message may go to, and under which id and URL its callback is written down."""

    endpoint: LiveEndpoint
    id: str
    url: str


class Messages(msgspec.Struct, frozen=True):
    """What goes into the outbox; and why an endpoint that might have wanted it gets nothing, `NAME: reason`."""

    outgoing: tuple[Outgoing, ...] = ()
    troubles: tuple[str, ...] = ()


NOTHING = Messages()


class Outbox:
    """Makes messages for the endpoints at hand. What is larger than `cap` bytes goes by a link, where there can be one."""

    def __init__(self, links: ResultLinks | None = None, cap: int = CAP) -> None:
        self._links = links or ResultLinks()
        self._cap = cap

    def tell(
        self,
        run: Run,
        kind: str,
        at: int,
        named: Iterable[str],
        apps: Mapping[str, LiveApp],
        endpoints: Mapping[str, LiveEndpoint],
        more: Mapping[str, Any] = NO_MORE,
    ) -> Messages:
        """The messages of this kind about a run, at this time (ms): none where nobody wants any.

        `named` are the endpoints of its workflow; `more` is said beside the run's document. A run that a step of another
        started is told of nowhere.
        """
        recipients = [each for each in recipients_of(run, named, apps, endpoints) if kind in each.endpoint.events]
        if not recipients:
            return NOTHING
        data = tell_run(run) | dict(more)
        message_id = new_callback_id(run.id, os.urandom(12))
        found, troubles = [], []
        for each in recipients:
            wanted = each.endpoint.wants(kind, data)
            if isinstance(wanted, Failure):
                troubles.append(f"{each.endpoint.name}: its filter can't be judged: {wanted.message}")
            elif wanted:
                found.append((each, each.endpoint.order_key(kind, data)))
        if not found:
            return Messages(troubles=tuple(troubles))
        full, thin = self._fit(kind, at, data), compose(kind, at, self._thin(data))
        return Messages(
            tuple(
                Outgoing(
                    id=_callback_id(message_id, number),
                    message_id=message_id,
                    endpoint=each.id,
                    run_id=run.id,
                    app_id=run.request.app_id,
                    type=kind,
                    url=each.url,
                    body=thin if each.endpoint.is_thin else full,
                    hop=Hop(run.request.root or run.request.session_id, run.request.depth),
                    order=order,
                    traceparent=run.request.traceparent,
                )
                for number, (each, order) in enumerate(found, 1)
            ),
            tuple(troubles),
        )

    def announce(self, kind: str, at: int, data: dict[str, Any], recipients: Iterable[LiveEndpoint]) -> Messages:
        """The messages of this kind, about no run, to those of these endpoints that want it."""
        message_id, body = new_message_id(os.urandom(16)), compose(kind, at, data)
        found, troubles = [], []
        for endpoint in {each.id: each for each in recipients if each.url}.values():
            wanted = endpoint.wants(kind, data)
            if isinstance(wanted, Failure):
                troubles.append(f"{endpoint.name}: its filter can't be judged: {wanted.message}")
            elif wanted:
                found.append(endpoint)
        outgoing = (
            Outgoing(
                id=_callback_id(message_id, number),
                message_id=message_id,
                endpoint=each.id,
                run_id=0,
                app_id=read_app_id(each.id),
                type=kind,
                url=each.url,
                body=body,
                order=each.order_key(kind, data),
            )
            for number, each in enumerate(found, 1)
        )
        return Messages(tuple(outgoing), tuple(troubles))

    def _fit(self, kind: str, at: int, data: dict[str, Any]) -> bytes:
        """The whole message; or, where that is too large, without what makes it so, and with a link to it."""
        body = compose(kind, at, data)
        link = self._links.make(data, at / 1000) if len(body) > self._cap else None
        omitted: list[str] = []
        for name in LARGE:
            if link is None or len(body) <= self._cap:
                break
            omitted.append(name)
            rest = data | dict.fromkeys(omitted)
            body = compose(kind, at, rest | {"omitted": omitted, "result_url": link})
        return body

    def _thin(self, data: dict[str, Any]) -> dict[str, Any]:
        return {name: data[name] for name in THIN} | {"url": f"{self._links.address}/api/v1/runs/{data['run_id']}"}


def operators_of(endpoints: Mapping[str, LiveEndpoint], *apps: LiveApp) -> list[LiveEndpoint]:
    """Who may hear what is about no run: every endpoint that is named, and the own callbacks of the apps it is about."""
    own = [app.endpoint for app in apps if app.endpoint is not None and "send" in app.app.capabilities]
    return [*endpoints.values(), *own]


def recipients_of(
    run: Run, named: Iterable[str], apps: Mapping[str, LiveApp], endpoints: Mapping[str, LiveEndpoint]
) -> list[Recipient]:
    """The endpoints that a run's app, workflow and request name, each once: whatever they want to hear."""
    if run.request.parent is not None:
        return []
    app = apps.get(str(run.request.app_id))
    if app is None or "send" not in app.app.capabilities:
        app = None
    names = [*(app.app.endpoints if app else ()), *named]
    found = [Recipient(each, each.id, each.url) for name in names if (each := endpoints.get(name)) is not None]
    own = None if app is None else app.endpoint
    if app is not None and own is not None and (url := run.request.callback_url or own.url):
        found.insert(0, Recipient(own, address_id(app.id, run.request.callback_url), url))
    return list({each.id: each for each in found}.values())


def _callback_id(message_id: str, number: int) -> str:
    return message_id if number == 1 else f"{message_id}-{number}"


def read_app_id(endpoint_id: str) -> int | None:
    """The app whose own callback has this endpoint id; None where it is no app's."""
    found = OWN.fullmatch(endpoint_id)
    return None if found is None else int(found[1])


def is_address(endpoint_id: str) -> bool:
    """Whether it is a host that requests of an app named, for which nobody can speak but for one URL at a time."""
    found = OWN.fullmatch(endpoint_id)
    return found is not None and found[2] is not None


def address_id(app_id: int, url: str | None) -> str:
    """The id of an app's own callback; or of the host that one of its requests named, which may be slow or down alone."""
    if url is None:
        return own_endpoint_id(app_id)
    found = read_url(ANYWHERE, url)
    host = found.authority if isinstance(found, Destination) else url
    return f"{own_endpoint_id(app_id)}.{hashlib.sha256(host.encode()).hexdigest()[:12]}"


def recipient_of(
    callback: Callback, apps: Mapping[str, LiveApp], endpoints: Mapping[str, LiveEndpoint]
) -> Recipient | None:
    """Where a callback goes now: to the URL that its endpoint has by now, but for one that a request gave itself.

    None when the endpoint is not there any more.
    """
    found = endpoints.get(callback.endpoint)
    if found is not None:
        return Recipient(found, found.id, found.url)
    app = None if callback.app_id is None else apps.get(str(callback.app_id))
    if app is None or app.endpoint is None or not callback.endpoint.startswith(own_endpoint_id(app.id)):
        return None
    is_own = callback.endpoint == app.endpoint.id
    return Recipient(app.endpoint, callback.endpoint, (app.endpoint.url if is_own else "") or callback.url)
