"""The seven counts that say whether a fault did harm, from ledgers that were written outside Valkey.

`sent.log`    a line a request: kind (order, repeat, forged, other body), key, code (null: no answer), run
`effect.log`  a line when a step starts and when it ends: run, step, key, token, and the tokens `saw` of earlier steps
`cb.log`      a line a callback: webhook-id, whether the official library found its signature good, what was answered

Each doing of a step makes a token of its own. A step's committed result is the token that anybody saw who came later:
the steps after it, the run's final record, the callback.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.runs import TERMINAL, Run

STEPS = ("a", "b", "c")
Line = Mapping[str, Any]


class Evidence(NamedTuple):
    """All that is known when the dust has settled. `unsure` are the unanswered keys found stored before the resend."""

    sent: list[dict[str, Any]]
    effects: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    runs: list[Run]
    unsure: int = 0


class Counts(msgspec.Struct, frozen=True):
    """What a fault did; all but `redone` and `unsure` must be 0."""

    lost: int
    ghost: int
    doubled: int
    redone: int
    let_in: int
    stuck: int
    unsure: int

    @property
    def harmless(self) -> bool:
        return not (self.lost or self.ghost or self.doubled or self.let_in or self.stuck)


def count(evidence: Evidence) -> Counts:
    """The seven counts."""
    return Counts(
        lost=_lost(evidence),
        ghost=sum(key_of(run) not in sent_keys(evidence.sent) for run in evidence.runs),
        doubled=_doubled(evidence),
        redone=_redone(evidence),
        let_in=_let_in(evidence),
        stuck=sum(run.state not in TERMINAL for run in evidence.runs),
        unsure=evidence.unsure,
    )


def sent_keys(sent: Iterable[Line]) -> set[str]:
    """The keys of all good orders."""
    return {line["key"] for line in sent if line["kind"] == "order"}


def answered_keys(sent: Iterable[Line]) -> set[str]:
    """The keys of the good orders that were answered with a 2xx at least once."""
    return {line["key"] for line in sent if line["kind"] in ("order", "repeat") and is_good(line["code"])}


def is_good(code: int | None) -> bool:
    return code is not None and 200 <= code < 300


def key_of(run: Run) -> str:
    return str((run.request.metadata or {}).get("key"))


def _lost(evidence: Evidence) -> int:
    ended = {key_of(run): run.id for run in evidence.runs if run.state in TERMINAL}
    told = {line["run"] for line in evidence.messages if line["valid"] and is_good(line["answer"])}
    answered = answered_keys(evidence.sent)
    return len(answered - ended.keys()) + sum(ended[key] not in told for key in answered & ended.keys())


def _doubled(evidence: Evidence) -> int:
    return sum(
        len(found) > 1
        for table in (_runs_of_keys(evidence), committed(evidence), _messages_of_runs(evidence))
        for found in table.values()
    )


def _runs_of_keys(evidence: Evidence) -> dict[Any, set[int]]:
    runs: dict[Any, set[int]] = defaultdict(set)
    for line in [*evidence.sent, *evidence.effects, *evidence.messages]:
        if line.get("run") is not None:
            runs[line["key"]].add(line["run"])
    for run in evidence.runs:
        runs[key_of(run)].add(run.id)
    return runs


def committed(evidence: Evidence) -> dict[Any, set[str]]:
    """The results of each run's steps that somebody saw who came later."""
    tokens: dict[Any, set[str]] = defaultdict(set)
    for effect in evidence.effects:
        for step, token in effect["saw"].items():
            tokens[effect["run"], step].add(token)
    outputs = [(line["run"], line["output"]) for line in evidence.messages if line["valid"]]
    outputs += [(run.id, run.output) for run in evidence.runs]
    outputs += [(run.id, {name: step.output for name, step in run.steps.items()}) for run in evidence.runs]
    for run_id, output in outputs:
        for step in STEPS:
            if output and output.get(step):
                tokens[run_id, step].add(output[step])
    return tokens


def _messages_of_runs(evidence: Evidence) -> dict[Any, set[str]]:
    messages: dict[Any, set[str]] = defaultdict(set)
    for line in evidence.messages:
        if line["valid"]:
            messages[line["run"]].add(line["id"])
    return messages


def _redone(evidence: Evidence) -> int:
    starts = [effect for effect in evidence.effects if effect["what"] == "start"]
    return len(starts) - len(committed(evidence))


def _let_in(evidence: Evidence) -> int:
    bad = {line["key"] for line in evidence.sent if line["kind"] == "forged"}
    answered = sum(line["kind"] not in ("order", "repeat") and is_good(line["code"]) for line in evidence.sent)
    unsigned = sum(not line["valid"] for line in evidence.messages)
    return answered + unsigned + sum(key_of(run) in bad for run in evidence.runs)
