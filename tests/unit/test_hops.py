"""Hops: a callback says how deep its chain is, and only who has the secret can say so."""

from __future__ import annotations

import pytest

from gateway.callbacks import decode_secret
from gateway.hops import HEADER, UNVERIFIED, Hop, read_hop, take_over, write_hop
from gateway.proofs import Request
from tests.tools_endpoints import headers_for, message

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = decode_secret(SECRET)
HOP = Hop("ses_0199aa", 3)
CALLBACK = message(b"{}", id="msg_1", message_id="msg_1", hop=HOP)


def request(**changes: str) -> Request:
    """A callback's request, with some headers changed; an empty one is left out."""
    headers = headers_for(SECRET, CALLBACK, 1_750_000_000.7) | {
        name.replace("_", "-"): value for name, value in changes.items()
    }
    return Request("POST", "/", tuple((name, value) for name, value in headers.items() if value), b"{}")


def test_who_has_the_secret_takes_the_hop_over() -> None:
    """Root and depth come out as they went in, whichever of several secrets it is, and the decision can say so."""
    assert take_over(request(), [b"another", KEY]) == (HOP, "depth 3, began with ses_0199aa")


def test_each_attempt_says_it_anew() -> None:
    """The header holds for one attempt: another time makes another one, and the key is not the callback's own."""
    headers = [headers_for(SECRET, CALLBACK, now)[HEADER] for now in (1.0, 2.0)]
    assert headers[0] != headers[1]
    assert read_hop(headers[0], [KEY], "msg_1", "1") == HOP


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook_id": "msg_2"},
        {"webhook_id": ""},
        {"webhook_timestamp": "1750000001"},
        {"webhook_timestamp": ""},
        {"gateway_hop": "v1,0,ses_0199aa," + "0" * 64},
        {"gateway_hop": write_hop(KEY, HOP, "msg_1", "1750000000").replace(",3,", ",2,")},
        {"gateway_hop": write_hop(KEY, HOP, "msg_1", "1750000000").replace("ses_", "sec_")},
        {"gateway_hop": write_hop(b"", HOP, "msg_1", "1750000000")},
        {"gateway_hop": "v2," + write_hop(KEY, HOP, "msg_1", "1750000000")[3:]},
        {"gateway_hop": "3"},
        {"gateway_hop": "v1,٣,ses_0199aa," + "0" * 64},
    ],
)
def test_a_hop_that_nobody_vouches_for_is_ignored(changes: dict[str, str]) -> None:
    """A changed depth, root, id or time, a foreign or empty secret, another form: the hop counts for nothing."""
    assert take_over(request(**changes), [KEY, b""]) == (None, UNVERIFIED)


def test_a_doubled_hop_is_ignored() -> None:
    """Two headers could say two things, so neither is believed."""
    once = request()
    twice = Request("POST", "/", (*once.headers, (HEADER, once.values(HEADER)[0])), b"{}")
    assert take_over(twice, [KEY]) == (None, UNVERIFIED)


def test_without_the_header_nothing_is_noted() -> None:
    """Most senders are no gateways."""
    assert take_over(request(gateway_hop=""), [KEY]) == (None, None)
