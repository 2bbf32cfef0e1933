"""The receiver, put together: here and nowhere else its parts are made and handed to each other."""

from __future__ import annotations

import contextlib
import functools
import gc
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway import embedded
from gateway.admission import read_proxies
from gateway.approvals import Links
from gateway.browsers import FormTokens
from gateway.control import Control
from gateway.credits import read_costs
from gateway.dialects import arcee, arkai, eai, orqo
from gateway.egress import read_policy
from gateway.errors import ConfigError, GatewayError
from gateway.inquiries import Inquiry
from gateway.management import Management
from gateway.metrics import Metrics
from gateway.outbox import Outbox
from gateway.receipts import Signer
from gateway.redelivery import Redelivery
from gateway.replaying import Replayer
from gateway.results import ResultLinks
from gateway.secrets import read_master_keys
from gateway.service import Service
from gateway.settings import Settings, read_settings
from gateway.store.accepting import Acceptor
from gateway.store.answers import Answers
from gateway.store.auditing import Audit
from gateway.store.catalog import Catalog
from gateway.store.connection import Redis, check_server, connect
from gateway.store.keys import Keys
from gateway.store.listing import Listing
from gateway.store.posting import Posting
from gateway.store.rates import Rates
from gateway.store.reading import Reader
from gateway.store.receipting import Chains, Notary
from gateway.store.records import Records
from gateway.store.refusals import Refusals, Refused
from gateway.store.registry import Registry
from gateway.store.scanning import Scanner
from gateway.store.secret_uses import SecretUses
from gateway.store.standings import Standings
from gateway.store.uses import HEARD, Uses
from gateway.store.waiting import Waiters
from gateway.web import api
from gateway.web.adapter import Adapters
from gateway.web.approving import Approving
from gateway.web.callers import Gatekeeper
from gateway.web.client import new_client
from gateway.web.destinations import examine
from gateway.web.documentation import documentation_routes
from gateway.web.endpoints import Parts, mount
from gateway.web.gate import Gate
from gateway.web.health import Health
from gateway.web.keyring import Keyring
from gateway.web.pages import TokenDoor
from gateway.web.problems import on_exception, on_gateway_error, on_http_exception
from gateway.web.receipt_keys import publish_keys
from gateway.web.receiver import Limits, Receiver
from gateway.web.repeats import Repeats
from gateway.web.results import Results
from gateway.web.visiting import Visits

DAY_MS = 86_400_000
DOOR = "/api/v1/webhooks/"
DIALECTS = (api.API, orqo.API, arcee.API, eai.API, arkai.API)
"""The ways of speaking. A fifth would be one module, and its name here."""
log = structlog.get_logger()


def store_url(settings: Settings) -> str:
    """The server the settings name, or the embedded one of their data directory."""
    return settings.redis_url or embedded.redis_url(settings.data_dir)


def master_keys(settings: Settings) -> tuple[bytes, ...]:
    """The master keys of the settings, or those kept in the data directory, a line each, newest first, if there are any.

    Raises ConfigError for one of another form, and for a file that everybody on the machine may read.
    """
    kept = Path(settings.data_dir) / "master.key"
    if settings.master_keys or not kept.exists():
        return read_master_keys(settings.master_keys)
    mode = stat.S_IMODE(kept.stat().st_mode)
    if mode & 0o007:
        message = f"{kept}: everybody on this machine may read or change it (mode {mode:04o}): `chmod 600 {kept}`"
        raise ConfigError(message)
    return read_master_keys(kept.read_text().split() or ("",))


def new_redelivery(redis: Redis, keys: Keys, catalog: Catalog) -> Redelivery:
    """What sends callbacks once more."""
    return Redelivery(
        Records(redis, keys, "callback"),
        Reader(redis, keys),
        Listing(redis, keys),
        Standings(redis, keys),
        catalog.audit,
    )


def spare_collector() -> None:
    """Leave all that is here for good out of every garbage collection: a full one stopped the process for 25 ms."""
    gc.collect()
    gc.freeze()


class Gateway(Starlette):
    """The application. Events go straight to the receiver, which answers for all that can go wrong with them."""

    receiver: Receiver
    stop_waiting: Callable[[], None]
    """For the server to call as it stops: whoever waits for a run is answered at once, with the run as it is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = _app_of(scope)
        if not name:
            await super().__call__(scope, receive, send)
            return
        scope["path_params"] = {"app": name}
        await self.receiver(scope, receive, send)


def _app_of(scope: Scope) -> str:
    """The app's id or token in the path of the webhook door; empty for everything else."""
    path: str = scope.get("path", "")
    if not path.startswith(DOOR) or scope["type"] != "http" or scope.get("root_path"):
        return ""
    name = path[len(DOOR) :]
    return "" if "/" in name else name


class House:
    """What the receiver's process works with, each part made once and handed to those that need it."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        keys = Keys()
        self._settings = settings
        self._redis = connect(store_url(settings))
        self._accepting = connect(store_url(settings), timeout=settings.accept_timeout)
        policy, sealing = read_policy(settings.egress_allow), master_keys(settings)
        self._client = new_client(settings)
        catalog = Catalog(self._redis, keys)
        self._registry = Registry(self._redis, catalog, keys.named("changed"), sealing)
        self._uses = Uses(self._redis, keys)
        self._secret_uses = SecretUses(self._redis, keys)
        self._heard = Uses(self._redis, keys, name=HEARD, grain=1)
        self._refusals = Refusals(self._redis, keys)
        metrics = Metrics()
        self._waiters = Waiters(self._redis, keys, limit=settings.max_waiters, tell=metrics.show_waiters)
        self.stop_waiting = self._waiters.end
        acceptor = new_acceptor(settings, self._accepting, keys)
        management = Management(
            catalog,
            sealing,
            policy,
            posting=Posting(self._redis, keys),
            examine=functools.partial(examine, policy),
            refresh=self._registry.load,
        )
        self._keyring = Keyring(self._client)
        tokens, signer = FormTokens(sealing), Signer(sealing)
        self._notary = Notary(Chains(self._accepting, keys), signer)
        self.receipt_keys = publish_keys(signer)
        service = self._make_service(acceptor, management, tokens, clock)
        self._open_doors(service, new_gate(settings, self._accepting, keys), tokens, metrics)
        self.health = Health(self._redis, keys, settings, metrics)
        links = Links(sealing, settings.address)
        reader = Reader(self._redis, keys)
        control = self._take_control(keys, acceptor, reader, catalog, links)
        self.approving = Approving(links, control.steering, settings.body_timeout)
        self.parts = Parts(
            control=control,
            management=management,
            listing=Listing(self._redis, keys),
            replayer=new_replayer(settings, self._registry, self._accepting, keys, catalog.audit),
            inquiry=Inquiry(reader, Refused(self._redis, keys)),
            redelivery=new_redelivery(self._redis, keys, catalog),
            gatekeeper=Gatekeeper(self._registry, note=self._uses.note),
            repeats=Repeats(Answers(self._redis, keys, sealing)),
            max_body=settings.max_body,
            body_timeout=settings.body_timeout,
        )

    def _make_service(
        self, acceptor: Acceptor, management: Management, tokens: FormTokens, clock: Callable[[], float]
    ) -> Service:
        return Service(
            self._registry,
            acceptor,
            Adapters(self._client),
            self._keyring,
            visitor=Visits(self._client),
            keeper=management,
            registrar=self._notary,
            costs=read_costs(self._settings.step_costs),
            max_depth=self._settings.max_depth,
            clock=clock,
            note=self._secret_uses.note,
            tokens=tokens,
            hear=self._heard.note,
        )

    def _open_doors(self, service: Service, gate: Gate, tokens: FormTokens, metrics: Metrics) -> None:
        limits = Limits(self._settings.max_body, self._settings.body_timeout)
        self.receiver = Receiver(service, orqo, metrics, limits, self._refusals, gate)
        self.token_door = TokenDoor(service, gate, tokens, orqo.refusal)

    def _take_control(self, keys: Keys, acceptor: Acceptor, reader: Reader, catalog: Catalog, links: Links) -> Control:
        result_links = ResultLinks(master_keys(self._settings), self._settings.address)
        self.results = Results(result_links, reader)
        return Control(
            self._registry,
            acceptor,
            reader,
            Records(self._redis, keys, "run", patience=self._settings.accept_timeout),
            self._waiters,
            catalog,
            trusted=self._settings.trusted_workflows,
            costs=read_costs(self._settings.step_costs),
            links=links,
            outbox=Outbox(result_links, self._settings.callback_size),
        )

    @contextlib.asynccontextmanager
    async def open(self, _: Starlette) -> AsyncIterator[None]:
        """Starlette's lifespan. Raises StoreError on a server that could lose events."""
        try:
            await check_server(self._redis, self._settings.durability)
            await self._registry.load()
            self._registry.start_watching()
            spare_collector()
            log.info("receiver is ready", apps=len({app.id for app in self._registry.apps.values()}))
            async with self._client:
                yield
        finally:
            await self._registry.stop_watching()
            await self._keyring.close()
            await self._notary.close()
            await self.parts.control.catalog.audit.close()
            await self._waiters.close()
            await self._refusals.close()
            await self._uses.close()
            await self._secret_uses.close()
            await self._heard.close()
            await self._accepting.aclose()
            await self._redis.aclose()


def create_app(settings: Settings | None = None, clock: Callable[[], float] = time.time) -> Gateway:
    """The receiver as an ASGI application. Refuses to start on a server that could lose events.

    `clock` gives Unix seconds: the time at which proofs are judged.
    """
    house = House(settings or read_settings(), clock)
    app = Gateway(
        routes=[
            Route(DOOR + "{app}", house.receiver),
            Route(DOOR + "{app}/form-token", house.token_door),
            *(route for dialect in DIALECTS for route in mount(dialect, house.parts)),
            *house.health.routes,
            *house.approving.routes,
            house.receipt_keys,
            *house.results.routes,
            *documentation_routes(DIALECTS),
        ],
        exception_handlers={GatewayError: on_gateway_error, HTTPException: on_http_exception, Exception: on_exception},
        lifespan=house.open,
    )
    # A slash too many is another path; a redirect would repeat the Host header's word for where we are.
    app.router.redirect_slashes = False
    app.receiver = house.receiver
    app.stop_waiting = house.stop_waiting
    return app


def new_gate(settings: Settings, redis: Redis, keys: Keys) -> Gate:
    """What admits requests to the webhook doors. Raises ConfigError for proxies that can't be read."""
    rates = Rates(redis, keys, time.monotonic, settings.accept_timeout)
    return Gate(rates, read_proxies(settings.trusted_proxies))


def new_acceptor(settings: Settings, redis: Redis, keys: Keys, max_queue: int | None = None) -> Acceptor:
    """What stores events by these settings."""
    return Acceptor(
        redis,
        keys,
        timeout=settings.accept_timeout,
        max_queue=settings.max_queue if max_queue is None else max_queue,
        window_ms=int(settings.dedupe_days * DAY_MS),
        durability=settings.durability,
    )


def new_replayer(settings: Settings, registry: Registry, redis: Redis, keys: Keys, audit: Audit) -> Replayer:
    """What replays events by these settings."""
    return Replayer(
        registry,
        # What comes in now must find room, however much is replayed.
        new_acceptor(settings, redis, keys, max(1, settings.max_queue // 2)),
        Reader(redis, keys),
        Scanner(redis, keys),
        audit,
        costs=read_costs(settings.step_costs),
        max_depth=settings.max_depth,
    )
