"""Flow control: what a definition may say, and what a request makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError, Unprocessable
from gateway.flow import HIGHEST, MOST_BYTES, Flow, Rule, flow_values
from gateway.workflows import prepare

APP = {"id": 42, "name": "ci"}


def decide(values: dict[str, Any] | None = None, name: str = "w", **fields: Any) -> Flow:
    control = prepare({"name": name} | fields).flow
    assert control is not None
    return control.decide(
        flow_values((values or {}).get("input"), "t", {"team": "web"}, APP, (values or {}).get("event"))
    )


def key_of(expression: str, **values: Any) -> Rule:
    rule = decide(values, concurrency={"limit": 1, "key": expression}).concurrency
    assert rule is not None
    return rule


# ---- what a definition may say


def test_a_workflow_without_rules_controls_nothing() -> None:
    """No field, no flow: such a workflow's runs take the short way."""
    assert prepare({"name": "w"}).flow is None


def test_every_rule_is_read_with_its_times_in_milliseconds() -> None:
    """Durations are written as everywhere, and a rule without a key has one place for all its runs."""
    flow = decide(
        concurrency={"limit": 3, "on_conflict": "queue"},
        throttle={"limit": 10, "period": "1m", "burst": 2},
        rate_limit={"limit": 5, "period": 0.5},
        debounce={"period": "250ms", "max_wait": "1s"},
        priority=7,
    )
    assert flow.concurrency == Rule(name="w:-", limit=3, on_conflict="queue")
    assert flow.throttle == Rule(name="w:-", limit=10, period=60_000, burst=2)
    assert flow.rate_limit == Rule(name="w:-", limit=5, period=500)
    assert flow.debounce == Rule(name="w:-", period=250, max_wait=1000)
    assert flow.priority == 7


def test_a_batch_is_bounded_in_bytes_too() -> None:
    """A thousand large items would be more than a run can hold."""
    assert decide(batch={"max_size": 10, "timeout": "2s"}).batch == Rule(
        name="w:-", max_size=10, max_bytes=MOST_BYTES, timeout=2000
    )


@pytest.mark.parametrize(("mode", "on_conflict"), [({}, "skip"), ({"mode": "cancel"}, "cancel_running")])
def test_singleton_is_short_for_a_limit_of_one(mode: dict[str, str], on_conflict: str) -> None:
    """`singleton` skips the newer run unless it says `cancel`."""
    assert decide(singleton=mode).concurrency == Rule(name="w:-", limit=1, on_conflict=on_conflict)


@pytest.mark.parametrize(
    ("fields", "path", "word"),
    [
        ({"concurrency": {"limit": 0}}, "concurrency.limit", ">= 1"),
        ({"concurrency": {"limit": 1001}}, "concurrency.limit", "<= 1000"),
        ({"concurrency": {"limit": 1, "on_conflict": "wait"}}, "concurrency.on_conflict", "wait"),
        ({"concurrency": {"limit": 1, "keys": "task"}}, "concurrency", "keys"),
        ({"concurrency": {"limit": 1, "key": "steps.a.output"}}, "concurrency.key", "steps"),
        ({"concurrency": {"limit": 1, "key": "input."}}, "concurrency.key", "column"),
        ({"concurrency": {"limit": 1, "scope": "gateway"}}, "concurrency.scope", "key"),
        ({"concurrency": {"limit": 1}, "singleton": {}}, "singleton", "one of the two"),
        ({"singleton": {"key": "nothing"}}, "concurrency.key", "nothing"),
        ({"singleton": {}, "throttle": {"limit": 1, "period": 1}}, "throttle", "nothing queues"),
        ({"singleton": {}, "debounce": {"period": 1}}, "singleton", "debounce"),
        ({"throttle": {"limit": 1, "period": "soon"}}, "throttle.period", "not a duration"),
        ({"throttle": {"limit": 1, "period": 0}}, "throttle.period", "1ms"),
        ({"throttle": {"limit": 1, "period": 1, "burst": 2}}, "throttle.burst", "limit"),
        ({"debounce": {"period": "10s", "max_wait": "5s"}}, "debounce.max_wait", "period"),
        ({"debounce": {"period": 1}, "batch": {"max_size": 2, "timeout": 1}}, "batch", "one of the two"),
        ({"batch": {"max_size": 1001, "timeout": 1}}, "batch.max_size", "<= 1000"),
        ({"priority": 601}, "priority", "600"),
        ({"priority": "input.("}, "priority", "column"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_at_its_place(fields: dict[str, Any], path: str, word: str) -> None:
    """Each mistake names the field and what to do."""
    with pytest.raises(ConfigError) as caught:
        prepare({"name": "w"} | fields)
    assert (caught.value.details["path"], word in caught.value.message) == (path, True), caught.value.message


# ---- what a request makes of it


def test_a_key_reads_what_asks_for_the_run() -> None:
    """Input, task, metadata, app and event are in reach, and the words are kept for those who look."""
    given_values = {"input": {"repo": "a"}, "event": {"type": "push"}}
    for expression, text in [
        ("input.repo", "a"),
        ("task", "t"),
        ("metadata.team", "web"),
        ("string(app.id)", "42"),
        ("event.type", "push"),
        ("[input.repo, app.name]", '["a","ci"]'),
    ]:
        assert key_of(expression, **given_values).key == text


@given(st.text(), st.text())
def test_two_keys_share_a_gate_only_when_they_are_the_same(one: str, other: str) -> None:
    """The place of a gate is its key's hash: no key can be made to look like another."""
    same = key_of("input.k", input={"k": one}).name == key_of("input.k", input={"k": other}).name
    assert same == (one == other)


def test_a_number_and_its_text_are_two_keys() -> None:
    """1 and "1" are told apart."""
    assert key_of("input.k", input={"k": 1}).name != key_of("input.k", input={"k": "1"}).name


def test_workflows_share_a_gate_only_when_both_say_so() -> None:
    """`scope: gateway` is one gate for all workflows with the key; without it each workflow has its own."""
    rule: dict[str, Any] = {"limit": 1, "key": "task"}
    assert decide(name="a", concurrency=rule).concurrency != decide(name="b", concurrency=rule).concurrency
    rule["scope"] = "gateway"
    assert decide(name="a", concurrency=rule).concurrency == decide(name="b", concurrency=rule).concurrency


@pytest.mark.parametrize("expression", ["input.repo", "event.type", "input.none"])
def test_a_key_that_gives_nothing_is_a_refusal(expression: str) -> None:
    """What a key reads is missing, or null: 422 with the field, and no run is started on a wrong key."""
    with pytest.raises(Unprocessable) as caught:
        key_of(expression, input={"none": None})
    assert (caught.value.details["path"], expression in caught.value.message) == ("concurrency.key", True)


@pytest.mark.parametrize(("value", "priority"), [(5, 5), (-5.7, -5), (10**9, HIGHEST), (-(10**9), -HIGHEST)])
def test_a_priority_is_kept_within_its_range(value: float, priority: int) -> None:
    """A priority out of data goes as far as it may."""
    assert decide({"input": {"p": value}}, priority="input.p").priority == priority


@pytest.mark.parametrize("value", ["high", True, None, [1]])
def test_a_priority_that_is_no_number_is_a_refusal(value: object) -> None:
    """Text, truth, nothing and lists are no priority."""
    with pytest.raises(Unprocessable, match="priority"):
        decide({"input": {"p": value}}, priority="input.p")
