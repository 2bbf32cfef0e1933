"""Who may come to an app's door at all: from which networks, by which methods, how often. Silent.

All of it is judged before a byte of the body is read, so it says nothing about who somebody is: an address is where
a connection comes from, and a rate counts the unsigned as well as the signed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Annotated, Literal, Protocol

import msgspec

from gateway.egress import Address, Network
from gateway.errors import ConfigError, Forbidden, MethodNotAllowed
from gateway.retries import read_duration

Method = Literal["POST", "PUT", "PATCH", "DELETE"]
FORWARDED = b"x-forwarded-for"
MOST_HOPS = 20
LARGEST_RATE = 1_000_000
_RATE = re.compile(r"(?P<limit>[1-9][0-9]{0,6}) */ *(?P<period>[0-9a-z]+)")
_PERIODS = {
    "second": 1.0,
    "s": 1.0,
    "minute": 60.0,
    "m": 60.0,
    "hour": 3600.0,
    "h": 3600.0,
    "day": 86400.0,
    "d": 86400.0,
}
_RATE_FORMS = "write 60/minute, 5/s, or {limit: 60, period: 1m, burst: 10}"


class RateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """At most `limit` requests in a `period`, and `burst` of them at once (without it, `limit`)."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_RATE)]
    period: str | float
    burst: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_RATE)] | None = None


class Rate(msgspec.Struct, frozen=True):
    """A token bucket: one token every `interval` seconds, room for `burst` of them."""

    interval: float
    burst: int


class Bucket:
    """One token bucket in memory, kept as the time at which it is full again (GCRA). `now` is any clock's seconds."""

    __slots__ = ("_full_at", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._full_at = 0.0

    def take(self, now: float) -> float:
        """Take one token: 0 when there was one, else the seconds until there is, and none is taken."""
        full_at = max(self._full_at, now)
        wait = full_at - (self.rate.burst - 1) * self.rate.interval - now
        if wait > 0:
            return wait
        self._full_at = full_at + self.rate.interval
        return 0.0


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What an app asks of a request before it is read."""

    methods: tuple[str, ...] = ("POST",)
    networks: tuple[Network, ...] = ()
    rate: Rate | None = None

    def check_method(self, method: str) -> None:
        """Raises MethodNotAllowed, which names those that are."""
        if method not in self.methods:
            message = f"events are sent here by {' or '.join(self.methods)}"
            raise MethodNotAllowed(message, allow=", ".join(self.methods))

    def check_peer(self, peer: Address | None) -> None:
        """Raises Forbidden unless the address is in one of the networks."""
        if self.networks and not is_within(peer, self.networks):
            message = "this app takes nothing from this address"
            raise Forbidden(message, reason="network")


class Guarded(Protocol):
    """What an app says of who may come."""

    @property
    def methods(self) -> tuple[Method, ...]: ...
    @property
    def networks(self) -> list[str]: ...
    @property
    def rate(self) -> str | RateSettings | None: ...


def read_admission(app: Guarded) -> Admission:
    """Who may come to this app's door. Raises ConfigError with `details["path"]`."""
    if not app.methods:
        message = "an app takes one method at least; without `methods` it is POST"
        raise ConfigError(message, path="methods")
    return Admission(methods=app.methods, networks=read_networks(app.networks), rate=read_rate(app.rate))


def is_within(address: Address | None, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks; no address is in none."""
    return address is not None and any(address in network for network in networks)


def read_address(text: str) -> Address | None:
    """An address as the outside writes it; an IPv4 address mapped into IPv6 is the IPv4 address. None when it is none."""
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def find_peer(client: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """Who is at the other end: the connection's address, or, through trusted proxies, the first that is none of them.

    `forwarded` are the values of X-Forwarded-For in their order: each proxy adds whom it got the request from, so they
    are read from the right, and whatever stands left of the first address that is no proxy of ours is hearsay.
    What can't be read is nobody (None).
    """
    peer = None if client is None else read_address(client)
    if not trusted or not is_within(peer, trusted):
        return peer
    hops = ",".join(forwarded).split(",") if forwarded else []
    for hop in reversed(hops[-MOST_HOPS:]):
        peer = read_address(hop)
        if not is_within(peer, trusted):
            return peer
    return peer


def read_networks(texts: Sequence[str], path: str = "networks") -> tuple[Network, ...]:
    """Networks as operators write them: 203.0.113.0/24, 2001:db8::/32, or one address. Raises ConfigError."""
    return tuple(_read_network(text, f"{path}[{index}]") for index, text in enumerate(texts))


def read_proxies(texts: Sequence[str]) -> tuple[Network, ...]:
    """The networks of our own proxies, as GATEWAY_TRUSTED_PROXIES names them. Raises ConfigError."""
    try:
        return read_networks(texts)
    except ConfigError as error:
        message = f"GATEWAY_TRUSTED_PROXIES: {error.message}"
        raise ConfigError(message) from None


def _read_network(text: str, path: str) -> Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        message = f"{text!r} is no network; write 203.0.113.0/24, 2001:db8::/32, or one address"
        raise ConfigError(message, path=path) from None
    written = text.partition("/")[0]
    if ip_address(written) != network.network_address:
        message = f"{text!r} has bits beyond its mask; write {network}, or {written} for this one address"
        raise ConfigError(message, path=path)
    if isinstance(network.network_address, IPv6Address) and network.network_address.ipv4_mapped is not None:
        message = f"{text!r} is an IPv4 address within IPv6; write the IPv4 network itself"
        raise ConfigError(message, path=path)
    return network


def read_rate(written: str | RateSettings | None) -> Rate | None:
    """A rate as it is written, by text or by fields. Raises ConfigError with `details["path"]`."""
    if written is None:
        return None
    if isinstance(written, RateSettings):
        period = read_duration(written.period, "rate.period")
        return _make_rate(written.limit, period, written.burst or written.limit, "rate.period")
    found = _RATE.fullmatch(written)
    if found is None:
        message = f"{written!r} is no rate; {_RATE_FORMS}"
        raise ConfigError(message, path="rate")
    period = _PERIODS.get(found["period"]) or read_duration(found["period"], "rate")
    limit = int(found["limit"])
    return _make_rate(limit, period, limit, "rate")


def _make_rate(limit: int, period: float, burst: int, path: str) -> Rate:
    if period <= 0 or limit > LARGEST_RATE:
        message = f"a rate is 1 to {LARGEST_RATE} in a period of more than nothing; {_RATE_FORMS}"
        raise ConfigError(message, path=path)
    return Rate(period / limit, burst)
