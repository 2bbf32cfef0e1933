"""The silent half of the guard: what may be written as a URL, and which addresses may be dialled."""

from __future__ import annotations

import ipaddress
import random
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.egress import (
    MAX_ADDRESSES,
    REFUSED_NETWORKS,
    Approved,
    Destination,
    Policy,
    Proxy,
    RefusedAddress,
    RefusedNetwork,
    approve,
    check_url,
    read_policy,
    read_proxy,
    read_url,
)
from gateway.errors import ConfigError

PUBLIC = ("93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:82a::200e")
METADATA = (
    "169.254.169.254",  # AWS, Azure, GCP, Oracle, DigitalOcean, ...
    "169.254.170.2",  # ECS
    "169.254.170.23",  # EKS
    "100.100.100.200",  # Alibaba
    "192.0.0.192",  # Oracle, older
    "168.63.129.16",  # Azure's platform service
    "fd00:ec2::254",  # AWS
    "fd20:ce::254",  # GCP
)
HIDDEN_IPV4 = (
    "::ffff:127.0.0.1",
    "::ffff:93.184.216.34",
    "::ffff:0:169.254.169.254",
    "::127.0.0.1",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::5db8:d822",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
)
LOCAL = ("0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1", "fe80::1", "fec0::1", "ff02::1", "255.255.255.255")
NOT_ADDRESSES = ("", "localhost", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "1.1.1.1 ", "2606::1%eth0")

addresses_of_refused_networks = st.sampled_from(REFUSED_NETWORKS).flatmap(
    lambda row: st.ip_addresses(network=row.network).map(str)
)
allowable_networks = st.sampled_from(
    ["10.0.0.0/8", "127.0.0.0/8", "0.0.0.0/0", "::1/128", "fd00::/8", "2000::/3", "::/0"]
)


def is_refused(address: str, policy: Policy | None = None, scheme: str = "https", port: int = 443) -> bool:
    return isinstance(approve(policy or Policy(), scheme, port, [address]), RefusedAddress)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_approved(address: str) -> None:
    """A public address is approved for https on 443."""
    assert approve(Policy(), "https", 443, [address]) == Approved(address)


@pytest.mark.parametrize("address", METADATA + HIDDEN_IPV4 + LOCAL + NOT_ADDRESSES)
def test_hostile_address_is_refused(address: str) -> None:
    """Metadata services, IPv4 hidden in IPv6, local addresses and what is no address are refused."""
    assert is_refused(address)


@given(addresses_of_refused_networks)
def test_no_address_of_a_refused_network_is_approved(address: str) -> None:
    """Any address inside any refused network is refused."""
    assert is_refused(address)


@given(st.sampled_from(REFUSED_NETWORKS))
def test_edges_of_refused_networks_are_refused(row: RefusedNetwork) -> None:
    """The first and last address of each refused network are refused."""
    network = row.network
    assert is_refused(str(network[0]))
    assert is_refused(str(network[-1]))


@given(st.ip_addresses(v=6))
def test_approved_ipv6_is_global_unicast(address: ipaddress.IPv6Address) -> None:
    """Nothing outside 2000::/3 is approved, whatever rows the table has."""
    if not is_refused(str(address)):
        assert address in ipaddress.ip_network("2000::/3")


@given(st.ip_addresses(v=4))
def test_approved_ipv4_is_nothing_the_standard_library_calls_special(address: ipaddress.IPv4Address) -> None:
    """What is approved is also global by the standard library's reading, as a second opinion."""
    if not is_refused(str(address)):
        assert address.is_global
        assert not address.is_multicast


def test_neighbours_of_refused_networks_are_approved() -> None:
    """The table refuses no more than it says: the addresses just outside are approved."""
    outside = ("9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0")
    for address in (*outside, "223.255.255.255", "2001:200::", "2003::", "3ffe:ffff::1"):
        assert not is_refused(address), address


@given(st.lists(st.sampled_from(PUBLIC), max_size=5), addresses_of_refused_networks, st.randoms())
def test_one_bad_address_refuses_all(good: list[str], bad: str, order: random.Random) -> None:
    """A look-up that mixes public and refused addresses is refused, wherever the bad one stands."""
    mixed = [*good, bad]
    order.shuffle(mixed)
    assert isinstance(approve(Policy(), "https", 443, mixed), RefusedAddress)


def test_first_address_is_the_one_to_dial() -> None:
    """Of several acceptable addresses the first is approved, in its plain spelling."""
    found = approve(Policy(), "https", 8443, ["2606:4700:4700:0:0:0:0:1111", "1.1.1.1"])
    assert found == Approved("2606:4700:4700::1111")


def test_no_address_and_too_many_are_refused() -> None:
    """An empty look-up is refused, and so is one with more addresses than a real name has."""
    assert isinstance(approve(Policy(), "https", 443, []), RefusedAddress)
    assert isinstance(approve(Policy(), "https", 443, ["1.1.1.1"] * MAX_ADDRESSES), Approved)
    assert isinstance(approve(Policy(), "https", 443, ["1.1.1.1"] * (MAX_ADDRESSES + 1)), RefusedAddress)


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("http", 443), ("https", 22), ("https", 6379)])
def test_public_addresses_get_https_on_known_ports_only(scheme: str, port: int) -> None:
    """Towards public addresses http and unusual ports are refused, also where a network is allowed."""
    for policy in (Policy(), read_policy("10.0.0.0/8")):
        assert is_refused("1.1.1.1", policy, scheme, port)


def test_allowed_network_opens_itself_and_nothing_else() -> None:
    """An allowed network opens http and any port there; every other refused address stays refused."""
    policy = read_policy("10.1.0.0/16, ::1")
    assert approve(policy, "http", 6379, ["10.1.2.3", "::1"]) == Approved("10.1.2.3")
    for address in ("10.2.0.1", "127.0.0.1", "169.254.169.254", "fe80::1", "::2"):
        assert is_refused(address, policy)
    assert approve(policy, "https", 443, ["1.1.1.1", "10.1.2.3"]) == Approved("1.1.1.1")
    assert is_refused("::ffff:10.1.2.3", policy)


@given(st.lists(allowable_networks), st.sampled_from([row for row in REFUSED_NETWORKS if row.firm]), st.data())
def test_hidden_ipv4_is_refused_under_every_policy(allow: list[str], row: RefusedNetwork, data: st.DataObject) -> None:
    """An IPv4 address inside an IPv6 one is refused even when the operator allows all networks around it."""
    policy = read_policy(",".join(allow))
    address = data.draw(st.ip_addresses(network=row.network))
    not_hidden = {"::", "::1"}  # lie in ::/96 and are rows of their own
    assert str(address) in not_hidden or is_refused(str(address), policy)


@given(st.lists(allowable_networks, max_size=3), st.ip_addresses(), st.sampled_from(["http", "https"]))
def test_policy_never_approves_outside_table_and_allowance(
    allow: list[str], address: ipaddress.IPv4Address | ipaddress.IPv6Address, scheme: str
) -> None:
    """What is approved lies in an allowed network, or in no refused one and is reached by https."""
    if not is_refused(str(address), read_policy(",".join(allow)), scheme):
        allowed = any(address in ipaddress.ip_network(network) for network in allow)
        refused = any(address in row.network for row in REFUSED_NETWORKS)
        assert allowed or (not refused and scheme == "https")


@pytest.mark.parametrize(
    "name", ["0x7f.1", "2130706433", "127.1", "0177.0.0.1", "①②⑦.0.0.1", "127。0。0。1", "localhost"]
)
def test_system_resolver_is_not_fooled_by_spelling(name: str) -> None:
    """Odd spellings of loopback are refused by the address they lead to, without regard to the text."""
    try:
        found = [str(place[0]) for *_, place in socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)]
    except OSError:
        found = []
    assert isinstance(approve(Policy(), "https", 443, found), RefusedAddress)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/a?b=c",
        "HTTPS://Hooks.Example",
        "https://hooks.example:8443/",
        "https://xn--bcher-kva.example/",
        "https://my_service.example/",
        "https://metadata.google.internal/",  # decided by its addresses
        "https://hooks.example/%0d%0a?x=%00",
    ],
)
def test_ordinary_url_is_fine_so_far(url: str) -> None:
    """A https URL with a host name passes the first look."""
    assert check_url(Policy(), url) is None


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "form"),
        ("hooks.example", "form"),
        ("https:hooks.example", "form"),
        ("https:/hooks.example", "form"),
        ("//hooks.example/", "form"),
        ("ftp://hooks.example/", "neither"),
        ("file:///etc/passwd", "neither"),
        ("gopher://hooks.example/", "neither"),
        ("unix:///run/docker.sock", "neither"),
        ("http+unix://%2Frun%2Fdocker.sock/info", "neither"),
        ("https:///path", "no host"),
        ("https://:443/", "no host"),
        ("https://user@hooks.example/", "user name"),
        ("https://user:word@hooks.example/", "user name"),
        ("https://hooks.example@169.254.169.254/", "user name"),
        ("https://@hooks.example/", "user name"),
        ("https://hooks.example/#top", "fragment"),
        ("https://hooks.example#@169.254.169.254/", "fragment"),
        ("https://hooks.example/#", "fragment"),
        ("https://hooks.example\\@169.254.169.254/", "backslash"),
        ("https://hooks.example/a b", "space"),
        (" https://hooks.example/", "space"),
        ("https://hooks.example/\r\nx: y", "control"),
        ("https://hooks.example/\x00", "control"),
        ("https://hooks.example/\x7f", "control"),
        ("https://ho\toks.example/", "control"),
        ("https://①②⑦.0.0.1/", "ASCII"),
        ("https://127。0。0。1/", "ASCII"),
        ("https://bücher.example/", "xn--"),
        ("https://hooks.example/ü", "ASCII"),
        ("https://hooks.example:0/", "65535"),
        ("https://hooks.example:65536/", "65535"),
        ("https://hooks.example:/", "form"),
        ("https://hooks.example:44a/", "form"),
        ("https://hooks.example:+443/", "form"),
        ("https://hooks.example:443:443/", "form"),
        ("https://hooks.example./", "not a host name"),
        ("https://.example/", "not a host name"),
        ("https://a..example/", "not a host name"),
        ("https://-a.example/", "not a host name"),
        ("https://%31%32%37.0.0.1/", "not a host name"),
        ("https://hooks,example/", "not a host name"),
        (f"https://{'a' * 64}.example/", "not a host name"),
        (f"https://{'a.' * 127}example/", "not a host name"),
        ("https://[hooks.example]/", "IPv6"),
        ("https://[]/", "IPv6"),
        ("https://[127.0.0.1]/", "IPv6"),
        ("https://[fe80::1%25eth0]/", "IPv6"),
        ("https://[v1.x]/", "IPv6"),
        ("https://[::1/", "form"),
        ("https://::1/", "form"),
        ("https://127.0.0.1/", "is an address"),
        ("https://1.1.1.1/", "is an address"),
        ("https://[::]/", "is an address"),
        ("https://[::ffff:127.0.0.1]/", "is an address"),
        ("https://[64:ff9b::a9fe:a9fe]/", "is an address"),
        ("https://[2002:a9fe:a9fe::1]/", "is an address"),
        ("https://169.254.169.254/latest/meta-data/", "is an address"),
        ("https://0x7f.1/", "spelling"),
        ("https://127.1/", "spelling"),
        ("https://2130706433/", "spelling"),
        ("https://0177.0.0.1/", "spelling"),
        ("https://0x7f000001/", "spelling"),
        ("https://1.2.3.4.5/", "spelling"),
        ("http://hooks.example/", "https"),
        ("https://hooks.example:22/", "port 22"),
        (f"https://hooks.example/{'a' * 8192}", "longer"),
    ],
)
def test_refused_url_has_its_reason(url: str, word: str) -> None:
    """Each kind of URL that can't be a destination is refused with a reason that says why."""
    reason = check_url(Policy(), url)
    assert reason is not None
    assert word in reason


def test_allowed_networks_open_literals_and_leave_names_to_the_look_up() -> None:
    """With an allowed network its addresses may be written, and names with http or odd ports wait."""
    policy = read_policy("127.0.0.0/8,::1")
    for url in (
        "http://127.0.0.1:9000/x",
        "https://[::1]:1/",
        "http://localhost:8080/",
        "https://a.example:22/",
    ):
        assert check_url(policy, url) is None, url
    for url in ("http://10.0.0.1/", "https://1.1.1.1/", "http://[::ffff:127.0.0.1]/", "http://127.1/"):
        assert check_url(policy, url) is not None, url


def test_url_is_taken_apart_as_it_is_sent() -> None:
    """Host and scheme have lower case, path and query stay as written, the port is the scheme's if none."""
    assert read_url(Policy(), "HTTPS://Hooks.Example?A=b%2f") == Destination(
        scheme="https", host="hooks.example", port=443, target="/?A=b%2f"
    )


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://a.example/", "a.example"),
        ("https://a.example:443/", "a.example"),
        ("https://a.example:8443/", "a.example:8443"),
        ("http://[0:0::1]:80/", "[::1]"),
        ("http://[::1]:81/", "[::1]:81"),
    ],
)
def test_authority_is_the_host_header(url: str, authority: str) -> None:
    """The Host header has brackets around IPv6 and leaves the scheme's own port out."""
    found = read_url(read_policy("::1"), url)
    assert isinstance(found, Destination)
    assert found.authority == authority


@given(st.text(max_size=60) | st.text(alphabet="htps:/@[]#?.%\\0x1a-_ ", max_size=60).map("https://".__add__))
def test_any_text_is_judged_without_error(url: str) -> None:
    """Every text is either refused or taken apart into pieces that can be sent as they are."""
    found = read_url(read_policy("0.0.0.0/0"), url)
    if isinstance(found, Destination):
        assert found.target.startswith("/")
        assert (found.host + found.target).isascii()
        assert not set(found.host) & set("@/?#%\\ ")


def test_policy_is_read_from_text() -> None:
    """Networks and single addresses are separated by commas; blanks count for nothing."""
    networks = ("127.0.0.0/8", "10.1.0.0/16", "::1/128")
    assert read_policy("") == read_policy(" , ") == Policy()
    assert read_policy("127.0.0.0/8, 10.1.0.0/16,::1,") == Policy(
        allow=tuple(ipaddress.ip_network(network) for network in networks)
    )


@pytest.mark.parametrize("piece", ["localhost", "10.0.0.0/33", "10.1.2.3/16", "10.0.0.0-10.0.0.9", "10.0.0/8"])
def test_bad_piece_of_a_policy_is_named(piece: str) -> None:
    """A piece that is no network raises ConfigError, which quotes that piece and the setting."""
    with pytest.raises(ConfigError, match=r"GATEWAY_EGRESS_ALLOW") as caught:
        read_policy(f"127.0.0.0/8, {piece}, ::1")
    assert repr(piece) in caught.value.message


@pytest.mark.parametrize("piece", ["::ffff:10.0.0.0/104", "64:ff9b::/96", "2002:a00::/24", "::2"])
def test_network_that_hides_ipv4_can_not_be_allowed(piece: str) -> None:
    """Allowing IPv4 networks in IPv6 dress is an error instead of a line without effect."""
    with pytest.raises(ConfigError, match="Write the IPv4 network itself"):
        read_policy(piece)


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("", None),
        ("http://proxy.internal:3128", Proxy("proxy.internal", 3128)),
        (" HTTP://Proxy.Internal:3128/ ", Proxy("proxy.internal", 3128)),
        ("http://127.0.0.1:1", Proxy("127.0.0.1", 1)),
        ("http://[::1]:3128", Proxy("::1", 3128)),
        ("http://ann:s3cret@p:8080", Proxy("p", 8080, "Basic YW5uOnMzY3JldA==")),
        ("http://ann:a%40b%3Ac@p:8080", Proxy("p", 8080, "Basic YW5uOmFAYjpj")),
        ("http://ann@p:8080", Proxy("p", 8080, "Basic YW5uOg==")),
    ],
)
def test_proxy_is_read_from_text(text: str, proxy: Proxy | None) -> None:
    """Host and port, and Basic credentials where the URL has some; inside the network it may be, as any proxy is."""
    assert read_proxy(text) == proxy


@pytest.mark.parametrize(
    "text",
    [
        "proxy.internal:3128",
        "https://ann:s3cret@proxy.internal:3128",
        "socks5://ann:s3cret@proxy.internal:1080",
        "http://ann:s3cret@proxy.internal",
        "http://ann:s3cret@proxy.internal:0",
        "http://ann:s3cret@proxy.internal:65536",
        "http://ann:s3cret@proxy.internal:3128/path",
        "http://ann:s3cret@proxy.internal:3128?a=b",
        "http://ann:s3cret@@proxy.internal:3128",
        "http://:s3cret@proxy.internal:3128",
        "http://a%3An:s3cret@proxy.internal:3128",
        "http://ann:s3cret%0d%0a@proxy.internal:3128",
        "http://ann:s3cret@proxy internal:3128",
        "http://ann:s3cret@:3128",
        "http://ann:s3cret@127.1:3128",
        "http://ann:s3cret%FF@proxy.internal:3128",
    ],
)
def test_bad_proxy_is_told_without_its_password(text: str) -> None:
    """What is no proxy's URL raises ConfigError that names the setting and repeats nothing of it."""
    with pytest.raises(ConfigError, match="GATEWAY_EGRESS_PROXY: ") as caught:
        read_proxy(text)
    assert "s3cret" not in caught.value.message
    assert "s3cret" not in repr(read_proxy("http://ann:s3cret@p:1"))
