"""Who may come to a door: addresses through proxies, networks and rates as they are written, and the token bucket."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import (
    Admission,
    Bucket,
    Rate,
    RateSettings,
    find_peer,
    read_address,
    read_networks,
    read_proxies,
    read_rate,
)
from gateway.errors import ConfigError, Forbidden, MethodNotAllowed

PROXIES = read_networks(["10.0.0.0/8", "2001:db8:ffff::/48"])


@pytest.mark.parametrize(
    ("client", "forwarded", "peer"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1", "203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("2001:db8:ffff::1", ["2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", ["198.51.100.1, unknown"], None),
        ("10.0.0.1", ["198.51.100.1, "], None),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (None, ["203.0.113.7"], None),
        ("", [], None),
    ],
)
def test_who_came_is_known_through_our_own_proxies_alone(
    client: str | None, forwarded: list[str], peer: str | None
) -> None:
    """Read from the right, up to the first that is no proxy of ours; what others say is ignored; what can't be read is nobody."""
    assert find_peer(client, forwarded, PROXIES) == (None if peer is None else ip_address(peer))


@given(st.lists(st.text(max_size=30), max_size=5))
def test_without_trusted_proxies_no_header_says_who_came(forwarded: list[str]) -> None:
    """Whatever X-Forwarded-For holds, it is the connection's own address that counts."""
    assert find_peer("127.0.0.1", forwarded, ()) == ip_address("127.0.0.1")


def test_networks_hold_addresses_of_both_kinds() -> None:
    """IPv4, also mapped into IPv6, and IPv6; nobody is in none; without networks everybody may come."""
    admission = Admission(networks=read_networks(["203.0.113.0/24", "2001:db8::/32", "198.51.100.9"]))
    for text in ("203.0.113.255", "::ffff:203.0.113.1", "2001:db8:1::1", "198.51.100.9"):
        admission.check_peer(read_address(text))
    for text in ("203.0.114.0", "::203.0.113.1", "2001:db9::1", "198.51.100.8", "::1"):
        with pytest.raises(Forbidden):
            admission.check_peer(read_address(text))
    with pytest.raises(Forbidden):
        admission.check_peer(None)
    Admission().check_peer(None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("203.0.113.7/24", "203.0.113.0/24"),
        ("203.0.113", "is no network"),
        ("example.com", "is no network"),
        ("0x7f.1", "is no network"),
        ("::ffff:203.0.113.0/120", "IPv4 network itself"),
    ],
)
def test_a_network_that_is_none_is_a_mistake_with_its_place(text: str, words: str) -> None:
    """A slip is told, with what to write instead; in a setting by the setting's name."""
    with pytest.raises(ConfigError, match=words) as caught:
        read_networks(["203.0.113.0/24", text])
    assert caught.value.details["path"] == "networks[1]"
    with pytest.raises(ConfigError, match=r"^GATEWAY_TRUSTED_PROXIES: "):
        read_proxies([text])


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ("60/minute", Rate(1.0, 60)),
        ("5/s", Rate(0.2, 5)),
        ("10 / 5m", Rate(30.0, 10)),
        (RateSettings(limit=60, period="1m", burst=3), Rate(1.0, 3)),
        (RateSettings(limit=2, period=1), Rate(0.5, 2)),
        (None, None),
    ],
)
def test_rates_are_read_as_people_write_them(written: str | RateSettings | None, rate: Rate | None) -> None:
    """By text or by fields; without a burst as many may come at once as in a whole period."""
    assert read_rate(written) == rate


@pytest.mark.parametrize("written", ["60", "0/s", "-1/s", "60/", "60/fortnight", "1e3/s", "60/0s", "١/s", "60/m\n"])
def test_a_rate_that_is_none_is_a_mistake(written: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ConfigError) as caught:
        read_rate(written)
    assert caught.value.details["path"] == "rate"


def test_a_bucket_gives_a_burst_and_then_the_rate() -> None:
    """As many at once as it has room for, then one whenever a token is back; who is refused takes none."""
    bucket = Bucket(Rate(interval=10.0, burst=3))
    assert [bucket.take(1000.0) for _ in range(5)] == [0, 0, 0, 10.0, 10.0]
    assert bucket.take(1009.0) == 1.0
    assert (bucket.take(1010.0), bucket.take(1010.0)) == (0, 10.0)
    assert [bucket.take(2000.0) for _ in range(4)] == [0, 0, 0, 10.0]


@given(st.lists(st.floats(0, 3), max_size=200), st.integers(1, 5))
def test_a_bucket_never_gives_more_than_its_rate(pauses: list[float], burst: int) -> None:
    """In any stretch of time it lets in at most its burst and what was filled up meanwhile."""
    bucket, now, passed = Bucket(Rate(1.0, burst)), 0.0, []
    for pause in pauses:
        now += pause
        if bucket.take(now) == 0:
            passed.append(now)
    for first, start in enumerate(passed):
        for last, end in enumerate(passed[first:], first):
            assert last - first + 1 <= burst + (end - start) + 1e-6


def test_a_method_that_is_not_taken_names_those_that_are() -> None:
    """405 says in `allow` what the app takes."""
    Admission(methods=("POST", "PUT")).check_method("PUT")
    with pytest.raises(MethodNotAllowed) as caught:
        Admission(methods=("POST", "PUT")).check_method("post")
    assert caught.value.details["allow"] == "POST, PUT"
