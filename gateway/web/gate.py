"""Before the body: the method, where a request comes from, and whether its app has room for it just now."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Scope

from gateway.admission import FORWARDED, find_peer
from gateway.apps import LiveApp
from gateway.egress import Address, Network
from gateway.store.rates import Rates


class Gate:
    """Admits requests to the webhook doors, or says why not. `proxies` are the networks of our own proxies."""

    def __init__(self, rates: Rates, proxies: Sequence[Network] = ()) -> None:
        self._rates = rates
        self._proxies = tuple(proxies)

    async def admit(self, app: LiveApp, scope: Scope) -> None:
        """Let an event in. Raises MethodNotAllowed, Forbidden, RateLimited or Unavailable; its body is not read then."""
        app.admission.check_method(scope["method"])
        self.check_network(app, scope)
        if app.form is not None:
            app.form.check_origin(values_of(scope, b"origin"))
        if app.admission.rate is not None:
            await self.count(app)

    def check_network(self, app: LiveApp, scope: Scope) -> None:
        """Raises Forbidden for an address that the app takes nothing from."""
        if app.admission.networks:
            app.admission.check_peer(self._find(scope))

    def peer_of(self, scope: Scope) -> str:
        """The address that a request comes from, for the record; empty where nobody can tell."""
        return str(self._find(scope) or "")

    def _find(self, scope: Scope) -> Address | None:
        client = scope.get("client")
        return find_peer(client[0] if client else None, values_of(scope, FORWARDED), self._proxies)

    async def count(self, app: LiveApp) -> None:
        """Take one of the app's rate; the last thing asked, so that only those who may come use it up."""
        if app.admission.rate is not None:
            await self._rates.take(app.id, app.admission.rate)


def values_of(scope: Scope, name: bytes) -> list[str]:
    """All values of a header, in their order."""
    return [value.decode("latin-1").strip() for header, value in scope["headers"] if header == name]
