"""Receipts: what is signed stands, what is changed is found, and a chain has no gap."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from gateway.receipts import Place, ReceiptInvalid, Signer, find_fault, next_place, read_keys, read_receipt

MASTER, OTHER = bytes(range(32)), bytes(range(1, 33))


def places(count: int) -> list[Place]:
    found: list[Place] = []
    for number in range(count):
        found.append(next_place(found[-1] if found else None, 42, f"evt_{number}", "ab" * 32, 1_700_000_000_000))
    return found


def test_a_receipt_proves_its_place_and_is_the_same_each_time() -> None:
    """A sender that comes again gets the same text, whichever receiver answers."""
    place = places(3)[-1]
    signer = Signer((MASTER,))
    assert read_receipt(signer.sign(place), signer.keys) == place
    assert signer.sign(place) == Signer((MASTER,)).sign(place)


def test_it_is_a_jws_that_anybody_can_verify() -> None:
    """By RFC 7515 and RFC 8037: checked here with nothing but the public key, as another program would."""
    signer = Signer((MASTER,))
    text = signer.sign(places(1)[0])
    head, body, signature = (base64.urlsafe_b64decode(part + "==") for part in text.split("."))
    assert json.loads(head)["alg"] == "EdDSA"
    (row,) = signer.published()["keys"]
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(row["x"] + "=="))
    public.verify(signature, text.rpartition(".")[0].encode())
    assert json.loads(body)["event_id"] == "evt_0"


def test_old_keys_verify_what_they_signed() -> None:
    """After a new master key: the published set has both, and only the new one signs."""
    old = Signer((MASTER,)).sign(places(1)[0])
    both = Signer((OTHER, MASTER))
    assert read_receipt(old, both.keys).event_id == "evt_0"
    assert read_receipt(old, read_keys(msgspec.json.encode(both.published()))).event_id == "evt_0"
    with pytest.raises(ReceiptInvalid, match="not at hand"):
        read_receipt(both.sign(places(1)[0]), Signer((MASTER,)).keys)


@given(st.data())
def test_a_changed_receipt_is_never_taken(data: st.DataObject) -> None:
    """Whichever character is changed, added or taken out."""
    signer = Signer((MASTER,))
    text = signer.sign(places(1)[0])
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("ABCabc019-_.=é "))
    changed = data.draw(st.sampled_from([text[:at] + letter + text[at + 1 :], text[:at] + text[at + 1 :]]))
    if changed == text:
        return
    try:
        place = read_receipt(changed, signer.keys)
    except ReceiptInvalid:
        return
    # The last character of base64 has bits that stand for nothing: the very same receipt, spelt otherwise.
    assert place == read_receipt(text, signer.keys)


@pytest.mark.parametrize("text", ["", ".", "..", "a.b", "a.b.c", "e30.e30.e30", "é.é.é", "." * 5000, "eyJ9.x.y"])
def test_what_is_no_receipt_is_refused_with_a_reason(text: str) -> None:
    """Never with an exception of another kind."""
    with pytest.raises(ReceiptInvalid):
        read_receipt(text, Signer((MASTER,)).keys)


@pytest.mark.parametrize("change", [{"alg": "none"}, {"alg": "HS256"}, {"typ": "JWT"}, {"kid": "x"}, {"kid": None}])
def test_the_header_decides_nothing(change: dict[str, Any]) -> None:
    """Another algorithm or type in the header is refused, not followed."""
    signer = Signer((MASTER,))
    head, body, signature = signer.sign(places(1)[0]).split(".")
    written = json.loads(base64.urlsafe_b64decode(head + "==")) | change
    forged = base64.urlsafe_b64encode(json.dumps(written).encode()).rstrip(b"=").decode()
    with pytest.raises(ReceiptInvalid):
        read_receipt(f"{forged}.{body}.{signature}", signer.keys)


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys": [{"crv": "Ed25519", "x": "AAAA"}]}', b'{"keys": 1}']
)
def test_what_are_no_keys_is_refused(document: bytes) -> None:
    """Or gives no key at all; then no receipt can be read."""
    with contextlib.suppress(ReceiptInvalid):
        assert read_keys(document) == {}


def test_a_gap_and_a_change_in_the_chain_are_found() -> None:
    """Wherever they are; a chain whose beginning is forgotten is good from there on."""
    chain = places(6)
    assert find_fault(chain) is None
    assert find_fault(chain[3:]) is None
    fault = find_fault(chain[:2] + chain[3:])
    assert fault is not None
    assert fault.number == 3
    changed = [*chain]
    changed[4] = msgspec.structs.replace(changed[4], sha256="cd" * 32)
    fault = find_fault(changed)
    assert fault is not None
    assert fault.number == 5
