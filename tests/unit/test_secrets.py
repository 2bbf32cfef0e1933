"""Secrets at rest: what is sealed opens for its owner under its key, and not otherwise."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.secrets import (
    CALLBACK_FIELD,
    VERIFY_FIELD,
    SecretRef,
    SecretUnreadable,
    body_of,
    field_of,
    key_id_of,
    needed_key,
    new_master_key,
    read_master_keys,
    rewrap,
    seal,
    unseal,
)
from gateway.wrappings import find_needed, rewrap_record

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


@pytest.mark.parametrize("change", ["v1", "v3", ""])
def test_another_version_stays_shut(change: str) -> None:
    """A form that is not ours is not tried."""
    with pytest.raises(SecretUnreadable):
        unseal([NEW], "app:a", change + seal([NEW], "app:a", "x").removeprefix("v2"))


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


def seal_as_before(key: bytes, owner: str, value: str) -> str:
    """As the first form was sealed: the key's id and the owner in both parts, and no field."""
    key_id, data_key = key_id_of(key), b"d" * 32
    name = f"{key_id}:{owner}".encode()
    parts = [AESGCM(key).encrypt(b"1" * 12, data_key, name), AESGCM(data_key).encrypt(b"2" * 12, value.encode(), name)]
    texts = [base64.b64encode(nonce + part).decode() for nonce, part in zip((b"1" * 12, b"2" * 12), parts, strict=True)]
    return f"v1.{key_id}.{texts[0]}.{texts[1]}"


def test_another_field_of_the_same_owner_can_not_open_it() -> None:
    """A secret that was moved from an app's `verify` to its callback does not open there."""
    sealed = seal([NEW], field_of("app:a", VERIFY_FIELD), "hunter2")
    assert unseal([NEW], field_of("app:a", VERIFY_FIELD), sealed) == "hunter2"
    for owner in (field_of("app:a", CALLBACK_FIELD), "app:a", field_of("app:b", VERIFY_FIELD)):
        with pytest.raises(SecretUnreadable):
            unseal([NEW], owner, sealed)


def test_the_form_before_opens_still() -> None:
    """What was sealed before fields counted opens in each of its owner's fields, and for nobody else."""
    sealed = seal_as_before(OLD, "app:a", "hunter2")
    for owner in ("app:a", field_of("app:a", VERIFY_FIELD)):
        assert unseal([NEW, OLD], owner, sealed) == "hunter2"
    with pytest.raises(SecretUnreadable):
        unseal([NEW, OLD], field_of("app:b", VERIFY_FIELD), sealed)


@given(texts, texts)
def test_rewrapping_changes_the_key_and_not_the_value(owner: str, value: str) -> None:
    """Under the new key the value's bytes are the same, it opens without the old one, and again is once."""
    sealed = seal([OLD], owner, value)
    fresh = rewrap([NEW, OLD], owner, sealed)
    assert (body_of(fresh), needed_key(fresh)) == (body_of(sealed), key_id_of(NEW))
    assert unseal([NEW], owner, fresh) == value
    assert rewrap([NEW, OLD], owner, fresh) == fresh


def test_rewrapping_the_form_before_writes_the_one_of_now() -> None:
    """It is sealed anew for the field that it stands in, under the newest key, also where that is its own."""
    owner = field_of("app:a", CALLBACK_FIELD)
    for key in (OLD, NEW):
        fresh = rewrap([NEW, OLD], owner, seal_as_before(key, "app:a", "hunter2"))
        assert (fresh.split(".")[0], unseal([NEW], owner, fresh)) == ("v2", "hunter2")
        with pytest.raises(SecretUnreadable):
            unseal([NEW], field_of("app:a", VERIFY_FIELD), fresh)


@pytest.mark.parametrize("sealed", ["", "v2.a.b", "v3.a.b.c", "v2.00000000.AAAA.AAAA"])
def test_what_can_not_be_rewrapped_is_told(sealed: str) -> None:
    """A key that is not there, and what was never sealed, are unreadable."""
    with pytest.raises(SecretUnreadable):
        rewrap([NEW], "app:a", sealed)


def test_every_secret_of_a_record_is_rewrapped_where_it_stands() -> None:
    """In lists and deep inside, each for its own field; what no key opens, and all else, stays as it is."""
    lost = seal(read_master_keys([new_master_key()]), "app:a#other", "lost")
    record = {
        "name": "a",
        "verify": {"secrets": [{"sealed": seal([OLD], "app:a#verify.secrets", "one")}, {"env": "X"}]},
        "callback": {"secret": {"sealed": seal_as_before(OLD, "app:a", "two")}},
        "other": {"sealed": lost},
    }
    fresh = rewrap_record([NEW, OLD], "app:a", record)
    assert unseal([NEW], "app:a#verify.secrets", fresh["verify"]["secrets"][0]["sealed"]) == "one"
    assert unseal([NEW], "app:a#callback.secret", fresh["callback"]["secret"]["sealed"]) == "two"
    assert (fresh["other"]["sealed"], fresh["verify"]["secrets"][1], fresh["name"]) == (lost, {"env": "X"}, "a")
    assert set(find_needed(fresh)) == {key_id_of(NEW), needed_key(lost)}


def test_a_secret_is_the_same_however_it_is_wrapped() -> None:
    """Its identity outlives a rewrapping and a set end, and tells apart what is kept in other places."""
    sealed = seal([OLD], "app:a", "one")
    one, fresh = SecretRef(sealed=sealed), SecretRef(sealed=rewrap([NEW, OLD], "app:a", sealed), expires_at=5)
    assert one.identity == fresh.identity
    others = [SecretRef(env="A"), SecretRef(file="A"), SecretRef(secret="A"), SecretRef(paired=True), one]
    assert len({each.identity for each in others}) == len(others)


@pytest.mark.parametrize(
    ("reference", "good"),
    [
        (SecretRef(env="A"), True),
        (SecretRef(secret="A"), True),
        (SecretRef(env=""), False),
        (SecretRef(env="A", secret="A"), False),
        (SecretRef(env="A", expires_at=1), False),
        (SecretRef(sealed="v2"), False),
        (SecretRef(paired=True), False),
    ],
)
def test_what_people_may_write(reference: SecretRef, good: bool) -> None:
    """Exactly one of a variable, a file and a name; never what only we write."""
    assert reference.is_written is good
