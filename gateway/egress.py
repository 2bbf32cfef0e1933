"""Where the gateway may send: which URLs may be written down, and which addresses may be dialled.

Two silent decisions. `read_url` looks at a URL, already when it is configured, to tell early what can't work.
`approve` looks at the addresses a name leads to, at the moment of each attempt. Only the second one protects:
what a name looks like says nothing about where it leads, so every address is held against REFUSED_NETWORKS.
GATEWAY_EGRESS_ALLOW lets the operator open networks; it opens those and loosens nothing elsewhere.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote

from msgspec import Struct

from gateway.errors import ConfigError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

DEFAULT_PORTS = {"https": 443, "http": 80}
MAX_ADDRESSES = 16
MAX_URL_LENGTH = 8192


class RefusedNetwork(Struct, frozen=True):
    """A network that is not dialled. A firm one stays closed even when its surroundings are allowed."""

    network: Network
    reason: str
    firm: bool = False


# The first row that holds an address gives the reason, so narrow networks stand before wide ones.
# IANA: iana.org/assignments/iana-ipv4-special-registry, …/iana-ipv6-special-registry, …/ipv6-address-space
REFUSED_NETWORKS: tuple[RefusedNetwork, ...] = tuple(
    RefusedNetwork(network=ip_network(network), reason=reason, firm=firm)
    for network, reason, firm in (
        ("0.0.0.0/8", "unspecified", False),
        ("10.0.0.0/8", "private", False),
        ("100.64.0.0/10", "shared by carriers; a cloud's metadata", False),
        ("127.0.0.0/8", "loopback", False),
        ("168.63.129.16/32", "a cloud's platform service", False),
        ("169.254.0.0/16", "link-local; clouds' metadata", False),
        ("172.16.0.0/12", "private", False),
        ("192.0.0.0/24", "protocol assignments; a cloud's metadata", False),
        ("192.0.2.0/24", "documentation", False),
        ("192.88.99.0/24", "6to4 relays", False),
        ("192.168.0.0/16", "private", False),
        ("198.18.0.0/15", "benchmarking", False),
        ("198.51.100.0/24", "documentation", False),
        ("203.0.113.0/24", "documentation", False),
        ("224.0.0.0/4", "multicast", False),
        ("240.0.0.0/4", "reserved and broadcast", False),
        ("::/128", "unspecified", False),
        ("::1/128", "loopback", False),
        ("::/96", "an IPv4 address inside (compatible)", True),
        ("::ffff:0:0/96", "an IPv4 address inside (mapped)", True),
        ("::ffff:0:0:0/96", "an IPv4 address inside (translated)", True),
        ("64:ff9b::/96", "an IPv4 address inside (NAT64)", True),
        ("64:ff9b:1::/48", "an IPv4 address inside (local NAT64)", True),
        ("2001::/32", "an IPv4 address inside (Teredo)", True),
        ("2002::/16", "an IPv4 address inside (6to4)", True),
        ("2001::/23", "protocol assignments", False),
        ("2001:db8::/32", "documentation", False),
        ("3fff::/20", "documentation", False),
        ("fc00::/7", "private", False),
        ("fe80::/10", "link-local", False),
        ("fec0::/10", "private (site-local)", False),
        ("ff00::/8", "multicast", False),
        ("::/3", "not global unicast", False),
        ("4000::/2", "not global unicast", False),
        ("8000::/1", "not global unicast", False),
    )
)

_URL = re.compile(
    r"(?P<scheme>[^:/?#]+)://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?P<fragment>#.*)?"
)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PROXY = re.compile(r"http://(?:(?P<who>[^@/?#]*)@)?(?P<authority>[^@/?#]*)/?", re.IGNORECASE)


class Policy(Struct, frozen=True):
    """Towards `allow`: http, every port, and addresses written in URLs. Elsewhere: only https on `ports`."""

    allow: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset({443, 8443})


class Destination(Struct, frozen=True):
    """A URL taken apart. `host` has lower case and no brackets; `target` is path and query as sent."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def is_literal(self) -> bool:
        """Whether the host is an address, so that there is no name to look up."""
        return _read_address(self.host) is not None

    @property
    def authority(self) -> str:
        """The value of the Host header (RFC 9110 section 7.2): no port where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


class RefusedUrl(Struct, frozen=True):
    """A URL that is not used; the reason is meant for the person who wrote it."""

    reason: str


class Approved(Struct, frozen=True):
    """The address to dial, and no other."""

    address: str


class RefusedAddress(Struct, frozen=True):
    """Nothing is dialled; the reason names addresses and is for the operator alone."""

    reason: str


Approval = Approved | RefusedAddress


class Finding(Struct, frozen=True):
    """What a first look at a configured URL gave: why it is refused, or what could not be found out. Neither: it is fine."""

    refusal: str | None = None
    doubt: str | None = None


Examine = Callable[[str], Awaitable[Finding]]
"""Judges a URL that somebody configures, with one look-up of its name."""


class Proxy(Struct, frozen=True):
    """Where every connection goes through. `authorization` is the value of Proxy-Authorization, a secret."""

    host: str
    port: int
    authorization: str | None = None

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"


def read_policy(text: str) -> Policy:
    """Read GATEWAY_EGRESS_ALLOW: networks or single addresses, separated by commas; blank allows none.

    Raises ConfigError that names the piece which is not a network, or which no policy can open.
    """
    pieces = (piece.strip() for piece in text.split(","))
    return Policy(allow=tuple(_read_network(piece) for piece in pieces if piece))


def read_proxy(text: str) -> Proxy | None:
    """Read GATEWAY_EGRESS_PROXY: `http://host:port`, with `user:password@` where the proxy asks for it; blank is none.

    Where the proxy stands is the operator's word, so any address will do. Raises ConfigError, which never repeats the text.
    """
    text = text.strip()
    if not text:
        return None
    parts = None if _refusal_of_text(text) else _PROXY.fullmatch(text)
    if parts is None:
        raise _bad_proxy(
            "it is not of the form http://host:port; a proxy is spoken to in plain HTTP, and asked to CONNECT"
        )
    place = _AUTHORITY.fullmatch(parts["authority"])
    if place is None or place["port"] is None or not 1 <= int(place["port"]) <= 65535:
        raise _bad_proxy("it names no port, such as http://proxy.internal:3128")
    host = _read_host(place["host"].lower())
    if isinstance(host, RefusedUrl):
        raise _bad_proxy(host.reason)
    return Proxy(host, int(place["port"]), None if parts["who"] is None else _read_who(parts["who"]))


def check_url(policy: Policy, url: str) -> str | None:
    """Say why a URL can't be a destination, or None when nothing speaks against it before the look-up.

    Refused: anything but http and https, user names and passwords, fragments, unescaped characters, hosts
    that are addresses outside the allowed networks, and, where no network is allowed, http and unusual ports.
    """
    found = read_url(policy, url)
    return found.reason if isinstance(found, RefusedUrl) else None


def read_url(policy: Policy, url: str) -> Destination | RefusedUrl:
    """Take a URL apart (RFC 3986, ASCII only), or refuse it as `check_url` says. Nothing else reads URLs."""
    found = _split(url)
    if isinstance(found, RefusedUrl):
        return found
    reason = _refusal_of_destination(policy, found)
    return RefusedUrl(reason) if reason else found


def approve(policy: Policy, scheme: str, port: int, addresses: Sequence[str]) -> Approval:
    """Decide on all addresses of one look-up: a single bad one refuses the name; else the first is dialled.

    Refused are also: no address, more than MAX_ADDRESSES, what is not an address, and addresses with a zone.
    """
    if not addresses:
        return RefusedAddress("the name leads to no address")
    if len(addresses) > MAX_ADDRESSES:
        return RefusedAddress(f"the name leads to {len(addresses)} addresses; {MAX_ADDRESSES} are accepted")
    for address in addresses:
        reason = _refusal_of_address(policy, scheme, port, address)
        if reason:
            return RefusedAddress(f"{address}: {reason}")
    return Approved(str(ip_address(addresses[0])))


def _bad_proxy(reason: str) -> ConfigError:
    return ConfigError(f"GATEWAY_EGRESS_PROXY: {reason}.")


def _read_who(text: str) -> str:
    """Basic credentials (RFC 7617) from a URL's user name and password, which are percent-encoded there."""
    try:
        user, _, password = (unquote(each, errors="strict") for each in text.partition(":"))
    except UnicodeDecodeError:
        user = password = ""
    if not user or ":" in user or not (user + password).isprintable():
        raise _bad_proxy("its user name and password can't be used; write user:password@ with special signs as %XX")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _read_network(piece: str) -> Network:
    try:
        network = ip_network(piece)
    except ValueError as error:
        raise ConfigError(
            f"GATEWAY_EGRESS_ALLOW: {piece!r} is not a network ({error})."
            " Write networks such as 10.1.0.0/16, separated by commas."
        ) from error
    row = next((row for row in REFUSED_NETWORKS if _is_within(network, row.network)), None)
    if row is not None and row.firm:
        raise ConfigError(
            f"GATEWAY_EGRESS_ALLOW: {piece!r} can't be allowed ({row.reason}). Write the IPv4 network itself."
        )
    return network


def _is_within(inner: Network, outer: Network) -> bool:
    return inner[0] in outer and inner[-1] in outer


def _split(url: str) -> Destination | RefusedUrl:
    reason = _refusal_of_text(url)
    if reason:
        return RefusedUrl(reason)
    parts = _URL.fullmatch(url)
    if parts is None:
        return RefusedUrl("it is not of the form https://host/path")
    scheme = parts["scheme"].lower()
    if scheme not in DEFAULT_PORTS:
        return RefusedUrl("it is neither https nor http")
    if parts["fragment"] is not None:
        return RefusedUrl("it has a fragment (#…), which would never be sent")
    return _settle(scheme, parts["authority"], (parts["path"] or "/") + (parts["query"] or ""))


def _refusal_of_text(url: str) -> str | None:
    if len(url) > MAX_URL_LENGTH:
        return f"it is longer than {MAX_URL_LENGTH} characters"
    if not all("!" <= letter <= "~" for letter in url) or "\\" in url:
        return (
            "it holds a space, control character, backslash or a letter outside ASCII;"
            " write these percent-encoded, and an international host name in its xn-- form"
        )
    return None


def _settle(scheme: str, authority: str, target: str) -> Destination | RefusedUrl:
    if "@" in authority:
        return RefusedUrl("it holds a user name or password")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        return RefusedUrl("its host and port are not of the form host:port")
    host = _read_host(parts["host"].lower())
    if isinstance(host, RefusedUrl):
        return host
    port = int(parts["port"] or DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65535:
        return RefusedUrl("its port is not between 1 and 65535")
    return Destination(scheme, host, port, target)


def _read_host(text: str) -> str | RefusedUrl:
    if not text:
        return RefusedUrl("it names no host")
    if text.startswith("["):
        return _read_bracketed(text[1:-1])
    if isinstance(_read_address(text), IPv4Address):
        return text
    if _NAME.fullmatch(text) is None:
        return RefusedUrl("its host is not a host name")
    # The system's resolver reads 127.1, 0177.0.0.1 or 2130706433 as addresses; no real name ends in a number.
    if _NUMBER.fullmatch(text.rpartition(".")[2]):
        return RefusedUrl("its host is an address in an unusual spelling")
    return text


def _read_bracketed(text: str) -> str | RefusedUrl:
    address = _read_address(text)
    if not isinstance(address, IPv6Address) or address.scope_id is not None:
        return RefusedUrl("its brackets hold no IPv6 address")
    return str(address)


def _read_address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _refusal_of_destination(policy: Policy, destination: Destination) -> str | None:
    literal = _read_address(destination.host)
    if literal is not None:
        return None if _is_allowed(policy, literal) else "its host is an address; write a host name"
    # Which network a name leads to is known when it is looked up, so a policy with networks decides there.
    return None if policy.allow else _refusal_in_public(policy, destination.scheme, destination.port)


def _refusal_of_address(policy: Policy, scheme: str, port: int, text: str) -> str | None:
    address = _read_address(text)
    if address is None:
        return "not an address"
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "an address with a zone"
    if _is_allowed(policy, address):
        return None
    row = _row(address)
    return row.reason if row else _refusal_in_public(policy, scheme, port)


def _is_allowed(policy: Policy, address: Address) -> bool:
    row = _row(address)
    firm = row is not None and row.firm
    return not firm and any(address in network for network in policy.allow)


def _row(address: Address) -> RefusedNetwork | None:
    return next((row for row in REFUSED_NETWORKS if address in row.network), None)


def _refusal_in_public(policy: Policy, scheme: str, port: int) -> str | None:
    if scheme != "https":
        return "only https is allowed here"
    if port not in policy.ports:
        return f"port {port} is not allowed here"
    return None
