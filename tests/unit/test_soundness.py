"""The installation's state of health: each fault by itself is seen, named and answered; a healthy one has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.egress import read_policy
from gateway.metrics import StoreFigures
from gateway.soundness import Endpoint, Facts, File, Folder, Remark, Sender, Store, is_sound, judge

FIGURES = StoreFigures(
    counts={}, depths={"runs": 3, "callbacks": 1}, open_runs={}, oldest_pending={"queue": 2.0}, worker_age=0.1
)
FOLDER = Folder(path="data", exists=True, writable=True, free=2**36, total=2**38, key_mode=0o600)
STORE = Store(
    embedded=True,
    server="valkey 9.1.0",
    writable=True,
    clock=0.01,
    run_worker_age=0.5,
    callback_worker_age=0.5,
    figures=FIGURES,
)
CI = Sender(name="ci", callback_url="https://ci.example/callback")
SOUND = Facts(
    folder=FOLDER,
    store=STORE,
    file=File(path="gateway.yaml", found=True, differences=[]),
    lease=15,
    address="http://127.0.0.1:8080",
    receiver=None,
    senders=[CI],
    endpoints=[],
    policy=read_policy(""),
    modules={"uvloop": True},
)


def with_folder(**changes: Any) -> Facts:
    return replace(SOUND, folder=replace(FOLDER, **changes))


def with_store(**changes: Any) -> Facts:
    return replace(SOUND, store=replace(STORE, **changes))


def with_file(**changes: Any) -> Facts:
    return replace(SOUND, file=replace(SOUND.file, **changes))


def with_sender(**changes: Any) -> Facts:
    return replace(SOUND, senders=[replace(CI, **changes), CI])


FAULTS: list[tuple[str, str, Facts]] = [
    ("bad", "data", with_folder(exists=False)),
    ("bad", "data", with_folder(writable=False)),
    ("bad", "disk", with_folder(free=10**8)),
    ("doubtful", "disk", with_folder(free=10**9)),
    ("bad", "master key", with_folder(key_mode=0o644)),
    ("bad", "master key", with_folder(key_problem="no key")),
    ("doubtful", "master key", with_folder(key_mode=None)),
    ("bad", "store", with_store(unreachable="refused")),
    ("bad", "store", with_store(complaints=["appendfsync is no"])),
    ("bad", "store", with_store(writable=False)),
    ("doubtful", "clock", with_store(clock=-3.0)),
    ("bad", "clock", with_store(clock=60.0)),
    ("bad", "workers", with_store(run_worker_age=None)),
    ("bad", "workers", with_store(callback_worker_age=18.0)),
    ("doubtful", "queue", with_store(figures=replace(FIGURES, oldest_pending={"queue": 400.0}))),
    ("doubtful", "stuck runs", with_store(orphaned=[7])),
    ("doubtful", "sweep", with_store(figures=replace(FIGURES, sweep_age=4000.0))),
    ("bad", "archive", with_store(figures=replace(FIGURES, archive_failed=True))),
    ("bad", "receiver", replace(SOUND, receiver="nobody listens")),
    ("doubtful", "file", with_file(found=False)),
    ("bad", "file", with_file(mistakes=["3:5: apps: wrong"])),
    ("doubtful", "file", with_file(differences=["changed app ci"])),
    ("bad", "app ci", with_sender(problem="its secret (env CI) is not set")),
    ("bad", "app ci", with_sender(callback_problem="its secret (env CB) is not set")),
    ("bad", "app ci", with_sender(callback_url="http://10.0.0.1/callback")),
    ("doubtful", "app ci", with_sender(short=["env CI"])),
    ("doubtful", "app ci", with_sender(unproven=True)),
    ("doubtful", "app ci", with_sender(refused=5)),
    ("doubtful", "callbacks", replace(SOUND, endpoints=[Endpoint("https://x.example/", 4, "answered 500")])),
    ("doubtful", "egress", replace(SOUND, policy=read_policy("0.0.0.0/0"))),
    ("doubtful", "egress", replace(SOUND, policy=read_policy("169.254.0.0/16"))),
    ("doubtful", "modules", replace(SOUND, modules={"uvloop": False})),
]


def troubles(facts: Facts) -> list[Remark]:
    return [remark for remark in judge(facts) if remark.level != "good"]


@pytest.mark.parametrize(("level", "name", "facts"), FAULTS)
def test_fault_is_seen_alone(level: str, name: str, facts: Facts) -> None:
    """One fault gives one remark of its weight, with what to do; only a bad one makes the installation unsound."""
    (remark,) = troubles(facts)
    assert (remark.level, remark.name) == (level, name)
    assert remark.change
    assert is_sound(judge(facts)) == (level != "bad")


def test_sound_installation_has_no_trouble() -> None:
    """A healthy installation is called sound, and each part of it is mentioned."""
    remarks = judge(SOUND)
    assert troubles(SOUND) == []
    assert is_sound(remarks)
    assert {remark.name for remark in remarks} >= {
        "data",
        "master key",
        "store",
        "clock",
        "receiver",
        "workers",
        "queue",
        "apps",
    }


@pytest.mark.parametrize("change", [lambda facts: replace(facts, senders=[replace(CI, disabled=True, problem="x")])])
def test_disabled_app_is_no_trouble(change: Callable[[Facts], Facts]) -> None:
    """An app that is disabled on purpose may lack anything."""
    assert troubles(change(SOUND)) == []


def test_receiver_elsewhere_is_only_doubtful() -> None:
    """With a server of its own, the receivers may be on other machines: not to reach one here is no proof of a fault."""
    facts = replace(with_store(embedded=False), receiver="nobody listens")
    assert [remark.level for remark in troubles(facts)] == ["doubtful"]
    assert is_sound(judge(facts))
