"""Secrets at rest: what is sealed opens for its owner under its key, and not otherwise."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.secrets import SecretRef, SecretUnreadable, new_master_key, read_master_keys, seal, unseal

OLD, NEW = read_master_keys([new_master_key(), new_master_key()])
texts = st.text(max_size=50).filter(lambda text: text.isprintable())


@given(texts, texts)
def test_what_is_sealed_opens_for_its_owner(owner: str, value: str) -> None:
    """Any value of any owner comes back as it was."""
    assert unseal([NEW], owner, seal([NEW], owner, value)) == value


def test_sealing_twice_gives_other_bytes() -> None:
    """Each sealing has a key and nonces of its own, and the value is not to be seen in it."""
    one, two = seal([NEW], "app:a", "hunter2"), seal([NEW], "app:a", "hunter2")
    assert one != two
    assert "hunter2" not in one


def test_another_owner_can_not_open_it() -> None:
    """A sealed value that was moved to another app does not open there."""
    sealed = seal([NEW], "app:a", "hunter2")
    with pytest.raises(SecretUnreadable):
        unseal([NEW], "app:b", sealed)


def test_the_newest_key_seals_and_the_old_one_still_opens() -> None:
    """After a new key was put in front, old values open, and new ones open without the old key."""
    before = seal([OLD], "app:a", "one")
    assert unseal([NEW, OLD], "app:a", before) == "one"
    after = seal([NEW, OLD], "app:a", "two")
    assert unseal([NEW], "app:a", after) == "two"


@pytest.mark.parametrize("keys", [[], [NEW]], ids=["no key", "another key"])
def test_without_its_key_it_stays_shut(keys: list[bytes]) -> None:
    """A lost master key is a secret that can't be read, told as such."""
    with pytest.raises(SecretUnreadable):
        unseal(keys, "app:a", seal([OLD], "app:a", "hunter2"))


def test_without_any_key_nothing_can_be_sealed() -> None:
    """Sealing without a master key is a mistake of the settings, told with the variable to set."""
    with pytest.raises(ConfigError, match="GATEWAY_MASTER_KEYS"):
        seal([], "app:a", "hunter2")


@given(st.data())
def test_one_flipped_bit_shuts_it(data: st.DataObject) -> None:
    """Whichever bit of the wrapped key or of the value is flipped, it does not open."""
    version, key_id, *parts = seal([NEW], "app:a", "hunter2").split(".")
    raw = [bytearray(base64.b64decode(part)) for part in parts]
    which = data.draw(st.integers(0, 1))
    raw[which][data.draw(st.integers(0, len(raw[which]) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SecretUnreadable):
        unseal([NEW], "app:a", ".".join([version, key_id, *(base64.b64encode(part).decode() for part in raw)]))


@pytest.mark.parametrize("change", ["v2", ""])
def test_another_version_stays_shut(change: str) -> None:
    """A form that is not ours is not tried."""
    with pytest.raises(SecretUnreadable):
        unseal([NEW], "app:a", change + seal([NEW], "app:a", "x").removeprefix("v1"))


@given(st.text(max_size=60))
def test_any_other_text_stays_shut(text: str) -> None:
    """What was never sealed is unreadable and breaks nothing."""
    with pytest.raises(SecretUnreadable):
        unseal([NEW], "app:a", text)


@pytest.mark.parametrize("text", ["", "short", base64.b64encode(b"x" * 31).decode(), "ü" * 44, "*" * 44])
def test_a_master_key_of_another_form_is_refused_by_its_place(text: str) -> None:
    """A key that isn't 32 bytes of base64 is told by its number and never by its text."""
    with pytest.raises(ConfigError, match=r"GATEWAY_MASTER_KEYS: key 2 ") as caught:
        read_master_keys([new_master_key(), text])
    assert not text or text not in caught.value.message


def test_the_label_shows_where_a_secret_is_and_nothing_of_it() -> None:
    """What may be shown of a reference is its kind and its place."""
    assert SecretRef(env="CI_SECRET").label == "env CI_SECRET"
    assert SecretRef(file="/run/secrets/ci").label == "file /run/secrets/ci"
    assert SecretRef(sealed=seal([NEW], "app:a", "hunter2")).label == "kept encrypted"
