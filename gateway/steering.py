"""What people do to a run that is there: signal it, decide for it, resume, retry, repeat it. Ending it is `control`'s."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Any, Literal

import msgspec

from gateway.contents import stored_values
from gateway.errors import ConfigError, Conflict, NotFound, Unprocessable
from gateway.events import Acceptable, Decision, Head, hash_body
from gateway.flow import flow_values
from gateway.plans import unsure_children
from gateway.runs import (
    MOVES,
    SETTLED,
    TERMINAL,
    Asked,
    Run,
    Signal,
    State,
    StepRecord,
    StepState,
    asked_about,
    step_of,
)
from gateway.store.auditing import Audit
from gateway.store.reading import Reader, StoredEvent
from gateway.store.records import SIGNAL, STEP, Records, Write
from gateway.waits import APPROVAL, RESUME, ask_approval, ask_resume, check_signal
from gateway.workflows import Workflow, upstream

Choice = Literal["approve", "reject"]
Verdict = Literal["retry", "complete", "skip", "fail"]
ENDING_FIELDS = ("ended_at", "output", "error", "cancel_wish")
FRUITLESS = (State.FAILED, State.CANCELLED, None)
"""Where a run that a step waited for is, when a retry has to start another. A run that is open may end well yet."""


class Steering:
    """Moves that a person makes with a run. What the caller may do was checked before."""

    def __init__(self, reader: Reader, records: Records, audit: Audit) -> None:
        self._reader = reader
        self._records = records
        self._audit = audit

    async def signal(self, run_id: int, name: str, body: Any, by: str) -> Run:
        """Give a run a signal, for the next wait of that name, begun already or not.

        Raises NotFound, Conflict, or Unprocessable for a name that no wait can have.
        """
        try:
            check_signal(name, "name")
        except ConfigError as error:
            raise Unprocessable(error.message, path="name") from None
        return await self._say(run_id, Signal(name=name, body=body, by=by))

    async def decide(self, run_id: int, step_id: str, decision: Choice, comment: str | None, by: str) -> Run:
        """Approve or reject what a step asks. The first word counts. Raises NotFound or Conflict."""
        run, _ = await self.question(run_id, step_id)
        name = APPROVAL + step_id
        body = {"decision": decision, "comment": comment}
        await self._audit.note(f"run.{decision}", str(run_id), step=step_id, comment=comment)
        return await self._say(run_id, Signal(name=name, body=body, by=by, once=ask_approval(run.attempt, step_id)))

    async def question(self, run_id: int, step_id: str) -> tuple[Run, Asked]:
        """The run, and what a step of it asks. Raises NotFound, or Conflict when it asks nothing, now or any more."""
        run = await self._reader.run(run_id)
        record = run.steps.get(step_id)
        if record is None or record.state != StepState.WAITING or record.waits_for != "approval":
            is_decided = record is not None and record.asks is not None and record.state in SETTLED
            reason = "was decided already" if is_decided else "waits for no approval"
            message = f"step {step_id!r} of run {run_id} {reason}"
            raise Conflict(message)
        if any(each.once == ask_approval(run.attempt, step_id) for each in run.signals):
            # Said, and not yet seen by a worker.
            message = f"step {step_id!r} of run {run_id} was decided already"
            raise Conflict(message)
        if run.state in TERMINAL:
            message = f"run {run_id} has ended already, as {run.state}"
            raise Conflict(message)
        return run, record.asks or Asked()

    async def resume(self, run_id: int, step_id: str | None, verdict: Verdict, output: Any, by: str) -> Run:
        """Say what became of the step that is unknown, or of the only one. Raises NotFound, Conflict or Unprocessable."""
        run = await self._reader.run(run_id)
        asked = [name for name, each in run.steps.items() if each.state == StepState.UNKNOWN]
        if run.state in TERMINAL or not asked:
            message = f"run {run_id} is {run.state} and no step of it waits to be resumed"
            raise Conflict(message)
        if step_id is None and len(asked) > 1:
            message = f"several steps wait to be resumed: {', '.join(sorted(asked))}; name one"
            raise Unprocessable(message, path="step")
        chosen = step_id or asked[0]
        if chosen not in asked:
            message = f"step {chosen!r} of run {run_id} does not wait to be resumed; those that do: {', '.join(asked)}"
            raise Conflict(message)
        name = RESUME + chosen
        body = {"decision": verdict, "output": output}
        await self._audit.note("run.resume", str(run_id), step=chosen, decision=verdict)
        once = ask_resume(run.attempt, chosen, run.steps[chosen].unknown)
        return await self._say(run_id, Signal(name=name, body=body, by=by, once=once))

    async def retry(self, run_id: int) -> Run:
        """Do the failed steps of an ended run again, in the same run. Raises NotFound or Conflict."""
        run = await self._reader.run(run_id)
        if run.state not in MOVES["retry"].sources:
            raise _not_retried(run_id, run.state)
        await self._refuse_unsure_children(run)
        children = [each.child for each in run.steps.values() if each.state == StepState.WAITING and each.child]
        states = await self._reader.states(children)
        forgotten = forgotten_steps(run, {child for child, state in states.items() if state in FRUITLESS})
        used = (run.steps[name].answered for name in forgotten)
        await self._audit.note("run.retry", str(run_id))
        write = Write(
            id=str(run_id),
            # What has gone on since we looked must not be forgotten.
            fence=run.fence or None,
            fields={"attempt": run.attempt + 1, "lost": 0},
            drops=(
                *ENDING_FIELDS,
                *(STEP + name for name in forgotten),
                # Else they would be heard once more: a rejection would reject the next attempt too.
                *(f"{SIGNAL}{seq}" for seq in used if seq is not None),
            ),
            move=MOVES["retry"],
            delay_ms=0,
        )
        answer = await self._records.write(write)
        if answer != "ok":
            raise _not_retried(run_id, answer)
        return await self._reader.run(run_id)

    async def _refuse_unsure_children(self, run: Run) -> None:
        """Raise Conflict while a run goes on that a step started without coming to say so: the retry starts another."""
        for event_id in unsure_children(run):
            with contextlib.suppress(NotFound):
                for run_id in (await self._reader.event(event_id)).run_ids:
                    child = await self._reader.run(run_id)
                    if child.request.parent is not None and child.state not in TERMINAL:
                        message = (
                            f"run {run_id}, which run {run.id} had started, has not ended yet; try again in a moment"
                        )
                        raise Conflict(message)

    async def _say(self, run_id: int, signal: Signal) -> Run:
        """Give the run the word. The answer is the run after it, which may not have heard it yet."""
        answer, state = await self._records.signal(run_id, signal)
        if answer == "gone":
            message = f"there is no run {run_id}"
            raise NotFound(message)
        if answer == "refused":
            message = f"run {run_id} has ended already, as {state}"
            raise Conflict(message)
        if answer == "taken":
            message = f"{signal.name.partition(':')[2]!r} of run {run_id} was decided already"
            raise Conflict(message)
        if answer == "full":
            message = f"run {run_id} was sent too many signals already"
            raise Conflict(message)
        return await self._reader.run(run_id)


def _not_retried(run_id: int, state: str) -> Conflict:
    return Conflict(f"run {run_id} is {state}; only a failed or cancelled run is retried")


def forgotten_steps(run: Run, fruitless: Collection[int] = ()) -> list[str]:
    """The records that a retry forgets.

    What failed, was cancelled, or waits for one of the runs that are `fruitless`; the steps whose items did; and what
    probes had found out about any of them, for that was about another attempt.
    """
    forgotten = {
        name
        for name, each in run.steps.items()
        if each.state in (StepState.FAILED, StepState.CANCELLED)
        or (each.state == StepState.WAITING and each.child in fruitless)
    }
    forgotten |= {step_of(name) for name in forgotten if step_of(name) in run.steps and not asked_about(name)}
    return sorted(forgotten | {name for name in run.steps if asked_about(name) in forgotten})


def repeat(run: Run, workflow: Workflow, from_step: str | None) -> Mapping[str, StepRecord]:
    """The records that a repetition of a run takes over: all that is settled well and comes not after `from_step`.

    Not what probes found out: that was about the other run. Nor the numbers of that run's signals, for the repetition
    counts its own. Without a step, none. Raises NotFound when the workflow has no such step, Unprocessable
    for one that only finds out about another.
    """
    if from_step is None:
        return {}
    if from_step not in workflow.steps:
        message = f"workflow {run.request.workflow!r} has no step {from_step!r}; it has {', '.join(workflow.steps)}"
        raise NotFound(message)
    if from_step in workflow.probes:
        message = f"step {from_step!r} only finds out about another, and nothing comes after it; name that one"
        raise Unprocessable(message, path="from")
    before = upstream(workflow.definition)
    after = {from_step} | {name for name, needs in before.items() if from_step in needs}
    return {
        name: msgspec.structs.replace(record, answered=None)
        for name, record in run.steps.items()
        if step_of(name) not in after
        and not asked_about(name)
        and record.state in SETTLED - {StepState.FAILED, StepState.CANCELLED}
    }


def repetition(run: Run, inherited: Mapping[str, StepRecord], origin: StoredEvent | None, event_id: str) -> Acceptable:
    """The event that starts a repetition of a run: with the bytes and headers of the one that had started it."""
    request = msgspec.structs.replace(
        run.request, event_id=event_id, parent=None, rerun_of=run.id, inherited=dict(inherited), effects=None
    )
    decision = Decision(outcome="accepted", scheme="rerun", reason=f"repeats run {run.id}")
    head = Head(app_id=run.request.app_id, token_id=run.request.token_id, decision=decision)
    if origin is not None:
        head = msgspec.structs.replace(origin.head, decision=decision)
    body = b"" if origin is None else origin.body
    return Acceptable(id=event_id, body=body, body_hash=hash_body(body), keys=[], head=head, requests=[request])


def rerun_values(run: Run, origin: StoredEvent | None) -> dict[str, Any]:
    """What the keys of flow control read of a repetition: what they read of the run it repeats."""
    event = None if origin is None else stored_values(origin.id, origin.head, origin.body)
    request = run.request
    return flow_values(request.input, request.task, request.metadata, {"id": request.app_id, "name": None}, event)
