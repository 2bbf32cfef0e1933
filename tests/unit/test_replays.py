"""Replays as values: what is marked how, what can't be replayed, and under which keys its steps act."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.apps import App, LiveApp
from gateway.contents import stored_values
from gateway.errors import Unprocessable
from gateway.events import Decision, Head
from gateway.replays import Recall, Which, Wish, as_replayed, compose, insist_on_replayable, key_of, mark, start_as_then
from gateway.runs import Run, RunRequest, State, effects_root

HEAD = Head(app_id=43, type="push", delivery_id="d1", decision=Decision(outcome="accepted", scheme="hmac"))


def request(**fields: Any) -> RunRequest:
    given = {"event_id": "evt_1", "trigger": "t", "input": {"n": 1}, "effects": "e1"} | fields
    return RunRequest(workflow_id=1, workflow="w", digest="d", session_id="ses_1", **given)


def run(run_id: int, asked: RunRequest) -> Run:
    return Run(id=run_id, state=State.PENDING, request=asked, created_at=1)


def test_a_replayed_run_has_the_root_of_the_first() -> None:
    """Input, task and metadata being the same, whatever the run's id and its event's."""
    (again,) = mark([request()], "evt_1", "evt_2", Wish())
    assert effects_root(run(1, request())) == effects_root(run(9, again))
    assert (again.event_id, again.session_id, again.replay_of) == ("evt_2", "ses_2", "evt_1")


@pytest.mark.parametrize("change", [{"input": {"n": 2}}, {"task": "x"}, {"metadata": {"a": 1}}, {"effects": "e2"}])
def test_another_work_has_another_root(change: dict[str, Any]) -> None:
    """With another input it is another effect, as with another trigger or event."""
    assert effects_root(run(1, request())) != effects_root(run(1, request(**change)))


def test_fresh_keys_are_the_runs_own() -> None:
    """Without effects a run's root is its id, as it was for all runs before."""
    (again,) = mark([request()], "evt_1", "evt_2", Wish(fresh_keys=True))
    assert effects_root(run(9, again)) == "9"


def test_a_replay_takes_nothing_over_of_a_run_but_what_it_is_to_do() -> None:
    """Parent, rerun and inherited records stay with the first run."""
    (again,) = mark([request(rerun_of=3)], "evt_1", "evt_2", Wish())
    assert (again.parent, again.rerun_of, again.inherited, again.input) == (None, None, {}, {"n": 1})


def test_expressions_see_the_first_events_id_and_that_it_is_a_replay() -> None:
    """So that what is made of the id is the same, and a workflow can tell."""
    app = LiveApp(App(id=43, name="forge", verify="none"), lambda *_: None)
    values = Recall(app, "evt_1", as_replayed(HEAD, "evt_1"), b'{"a": 1}').values
    assert (values["event"]["id"], values["event"]["replay"], values["event"]["body"]) == ("evt_1", True, {"a": 1})
    later = stored_values("evt_2", as_replayed(HEAD, "evt_1"), b"{}")
    assert (later["id"], later["replay"], stored_values("evt_1", HEAD, b"{}")["replay"]) == ("evt_1", True, False)


def test_the_event_of_a_replay_says_what_it_is() -> None:
    """It names the first, and how it was decided; the same key with other wishes is another request."""
    made = compose("evt_2", "evt_1", HEAD, b"{}", [request()], [], Wish())
    assert (made.head.replay_of, made.head.decision.scheme, made.head.delivery_id) == ("evt_1", "replay", "d1")
    other = compose("evt_3", "evt_1", HEAD, b"{}", [request()], [], Wish(config="same"))
    assert made.body_hash != other.body_hash
    assert key_of("token a", "k", "evt_1") == key_of("token a", "k", "evt_1")
    assert len({key_of("token a", "k", "evt_1"), key_of("token b", "k", "evt_1"), key_of("token a", "k", "evt_2")}) == 3


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (Decision(outcome="refused", reason="bad_signature"), "nobody proved"),
        (Decision(outcome="accepted", scheme="rerun", reason="repeats run 7"), "repeats run 7"),
        (Decision(outcome="accepted", scheme="step"), "a step of a run"),
        (Decision(outcome="ping", scheme="hmac"), "starts nothing"),
        (Decision(outcome="handshake", scheme="sns"), "starts nothing"),
    ],
)
def test_what_is_no_proven_event_of_its_own_is_not_replayed(decision: Decision, words: str) -> None:
    """The refusal says why, and by a filter such an event is never chosen."""
    head = Head(app_id=43, decision=decision)
    with pytest.raises(Unprocessable, match=words):
        insist_on_replayable("evt_1", head)
    assert not Which().fits(head)


def test_a_joined_run_is_not_started_as_then() -> None:
    """A debounced run was asked for by another event: what this one asked for is not known any more."""
    with pytest.raises(Unprocessable, match="rerun 5"):
        start_as_then([run(5, request(event_id="evt_7"))], "evt_1")


@pytest.mark.parametrize(
    ("which", "fits"),
    [
        (Which(), True),
        (Which(app_id=43, type="push", outcome="accepted"), True),
        (Which(app_id=42), False),
        (Which(type="ping"), False),
        (Which(outcome="ignored"), False),
    ],
)
def test_a_filter_chooses_by_app_type_and_outcome(which: Which, fits: bool) -> None:
    """All that is given must fit."""
    assert which.fits(HEAD) is fits


@pytest.mark.parametrize(
    "head", [as_replayed(HEAD, "evt_0"), Head(decision=Decision(outcome="accepted", scheme="chain"))]
)
def test_a_filter_leaves_out_what_follows_from_others(head: Head) -> None:
    """Replays, ticks and chains: the events they come from are replayed, not they."""
    assert not Which().fits(head)
