"""A run: load it, ask `plans` what comes next, do that, record it. Until it ends or has to wait."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from gateway import plans
from gateway.contents import stored_values
from gateway.errors import GatewayError, NotFound
from gateway.expressions import Failure
from gateway.jobs import idempotency_key
from gateway.outbox import Outbox
from gateway.plans import Facts, Plan, Unit
from gateway.runs import (
    MOVES,
    Problem,
    Run,
    State,
    StepRecord,
    StepState,
    conversation_of,
    describe,
    effects_root,
    run_values,
    step_of,
)
from gateway.store.connection import MISTAKES
from gateway.store.reading import Reader, StoredEvent
from gateway.store.records import STEP, Records, Write, final_fields, read_run
from gateway.store.registry import Registry
from gateway.timelines import Delta
from gateway.web.client import Client
from gateway.workflows import CompiledStep, Workflow
from workers import attempts
from workers.dispatcher import Ending, Hold, StoreClock
from workers.executors.base import Context, Models, Rules, StepFailed
from workers.family import Family
from workers.telling import Teller

SHORT_WAIT_MS = 250
"""A wait this short keeps its slot; a longer one is parked."""
FAR_MS = 10 * 365 * 86_400_000
"""When a run is due that only a word from outside can wake."""
LOOK_AGAIN = 1.0
STUBBORN = 10.0
"""Seconds that a step gets to end when it is cancelled; one that ignores it is left behind."""
log = structlog.get_logger()


class Runner:
    """Works on claimed runs. One for a worker process; each claim makes an Execution."""

    def __init__(
        self,
        records: Records,
        registry: Registry,
        reader: Reader,
        client: Client,
        clock: StoreClock,
        family: Family,
        *,
        max_output: int,
        max_lost: int,
        costs: Mapping[str, int],
        models: Models,
        tell: Callable[[Delta], Awaitable[None]],
        rules: Rules,
        teller: Teller | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.records = records
        self.registry = registry
        self.reader = reader
        self.client = client
        self.clock = clock
        self.family = family
        self.max_output = max_output
        self.max_lost = max_lost
        self.costs = costs
        self.models = models
        self.tell = tell
        self.rules = rules
        self.teller = teller or Teller(Outbox(), registry)
        self.chance = chance

    async def perform(self, hold: Hold) -> Ending:
        """Carry one claimed run as far as it goes."""
        run = read_run(int(hold.claimed.id), hold.claimed.fields)
        app_id = run.request.app_id
        if app_id is not None and str(app_id) not in self.registry.apps:
            # It may be newer than the copy at hand, and its callback must not be forgotten.
            await self.registry.refresh()
        try:
            workflow = await self.registry.definition(run.request.digest)
        except GatewayError as error:
            message = f"workflow {run.request.workflow!r} can't be run: {error.message}"
            return await Execution(self, hold, run, None).fail(Problem(type="BadWorkflow", message=message))
        if self.teller.lacks(run, workflow):
            await self.registry.refresh()
        execution = Execution(self, hold, run, workflow)
        if "event" in workflow.names and run.request.event_id is not None:
            execution.show_event(await self._event(run.request.event_id))
        if "conversation" in workflow.names:
            execution.show_conversation(await self._conversation(run))
        return await execution.go()

    async def _event(self, event_id: str) -> StoredEvent | None:
        try:
            return await self.reader.event(event_id)
        except NotFound:
            return None  # its time was over before that of its run

    async def _conversation(self, run: Run) -> list[Run]:
        return (
            [] if run.request.conversation_id is None else await self.reader.conversation(run.request.conversation_id)
        )


class Execution:
    """One claimed run on its way. Results are recorded under the fence before anything that follows them begins."""

    def __init__(self, runner: Runner, hold: Hold, run: Run, workflow: Workflow | None) -> None:
        self._runner = runner
        self._hold = hold
        self._run = run
        self._workflow = workflow
        self._poisoned = run.lost >= runner.max_lost
        self._records = dict(run.steps)
        self._unwritten: dict[str, StepRecord] = {}
        self._running: dict[str, asyncio.Task[StepRecord]] = {}
        self._poke: asyncio.Task[bool] | None = None
        self._ended: set[int] = set()
        self._lists: dict[str, list[Any]] = {}
        self._counts: list[str] = []
        self._credits = run.credits
        self._effects = effects_root(run)
        self._spent = {name: record.credits for name, record in run.steps.items()}
        self._written_at = 0
        # Only a step's end is progress: what ends its worker begins again and again.
        self._moved_on = self._poisoned
        self._values = _values_of(run, runner)
        self._values["steps"] = plans.step_values(self._records)

    async def go(self) -> Ending:
        """Do what is next until the run ends, waits, or is somebody else's."""
        assert self._workflow is not None
        lost = self._recall(self._workflow)
        if self._poisoned and not lost:
            message = f"{self._run.lost} workers in a row were lost while they ran this"
            return await self.fail(Problem(type="WorkerLost", message=message))
        if not await self._tell_start():
            return Ending.LOST
        try:
            await self._look_around()
            while True:
                if (wish := self._run.cancel_wish) is not None:
                    return await self._end("cancel", Problem(type="Cancelled", message=wish))
                plan = plans.plan(self._facts())
                if plan.ended:
                    return await self._end_as_planned(plan.problem)
                if (ending := await self._advance(plan)) is not None:
                    return ending
        finally:
            await self._stop_steps()

    async def _stop_steps(self) -> None:
        """Cancel what still runs, and wait until it has ended, a program say, before anybody takes the run up again."""
        left = {task for task in (*self._running.values(), self._poke) if task is not None}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=STUBBORN)

    async def fail(self, problem: Problem) -> Ending:
        """End the run as failed."""
        return await self._end("fail", problem)

    def show_event(self, event: StoredEvent | None) -> None:
        """Let expressions read the event that started this run."""
        if event is not None:
            contents = self._workflow is not None and self._workflow.asks_contents
            self._values["event"] = stored_values(event.id, event.head, event.body, contents=contents)

    def show_conversation(self, runs: list[Run]) -> None:
        """Let expressions read the turns before this one, oldest first."""
        turns = [
            {"input": run.request.input, "output": run.output, "status": str(run.state)}
            for run in runs
            if run.id < self._run.id
        ]
        self._values["conversation"] = {"id": conversation_of(self._run), "turns": turns}

    def _recall(self, workflow: Workflow) -> list[str]:
        """Mark as unknown what was begun when a worker was lost. Gives their names."""
        lost = [name for name, each in self._records.items() if each.state == StepState.RUNNING and each.items is None]
        for name in lost:
            step = workflow.steps[step_of(name)]
            asks = self._poisoned or step.on_unknown == "ask"
            self._settle(name, plans.unknown(self._records[name], self._run.lost if self._poisoned else 0, asks=asks))
            log.warning("a step is unknown", run_id=self._run.id, step=name, asks=asks, lost=self._run.lost)
        return lost

    def _facts(self) -> Facts:
        assert self._workflow is not None
        return Facts(
            workflow=self._workflow,
            records=self._records,
            values=self._values,
            now=self._now(),
            signals=self._run.signals,
            ended=self._ended,
            attempt=self._run.attempt,
            lists=self._lists,
        )

    async def _look_around(self) -> bool:
        """See which of the runs this one waits for are over, and whether the one that waits for it is. True if any is."""
        parent = self._run.request.parent
        waiting = {each.child for each in self._records.values() if each.child and each.state == StepState.WAITING}
        asked = [*(waiting - self._ended), *([parent.run_id] if parent else [])]
        if not asked:
            return False
        over = await self._runner.reader.ended(asked)
        if parent is not None and parent.run_id in over:
            reason = f"run {parent.run_id}, which had started it, has ended"
            self._run = msgspec.structs.replace(self._run, cancel_wish=self._run.cancel_wish or reason)
        self._ended |= over & waiting
        return bool(over)

    async def _heed_poke(self) -> None:
        """Something happened to this run from outside: read what."""
        self._hold.poked.clear()
        try:
            now = await self._runner.reader.run(self._run.id)
            wish = now.cancel_wish or self._run.cancel_wish
            self._run = msgspec.structs.replace(self._run, signals=now.signals, pokes=now.pokes, cancel_wish=wish)
            await self._look_around()
        except MISTAKES:
            # The steps that run need no store now; look again when it may be back.
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._hold.poked.set)

    async def _advance(self, plan: Plan) -> Ending | None:
        for unit_id, record in plan.settle.items():
            self._settle(unit_id, record)
        if plan.settle:
            return None
        begun = [self._begin(unit) for unit in plan.start]
        if self._unwritten and await self._write({}) != "ok":
            return Ending.LOST
        if len(begun) == 1 and not self._running and plan.due_at is None and not begun[0][1].has_effects:
            unit, step, record = begun[0]
            self._settle(unit.id, await self._attempt(unit, step, record))
            self._moved_on = True
            return None
        for unit, step, record in begun:
            self._running[unit.id] = asyncio.get_running_loop().create_task(self._attempt(unit, step, record))
        if self._running:
            await self._collect(plan.due_at)
            return None
        return await self._wait(plan.due_at)

    async def _wait(self, due_at: int | None) -> Ending | None:
        delay = FAR_MS if due_at is None else due_at - self._now()
        if delay <= SHORT_WAIT_MS:
            await self._collect(due_at)  # a word may come just in time
            return None
        # A run that was over before this one had written down that it waits for it has poked nobody.
        if await self._look_around():
            return None
        self._hold.settling = True
        parked = msgspec.structs.replace(self._run, steps=self._records, credits=self._credits)
        told = self._runner.teller.waiting(parked, self._workflow, self._now())
        answer = await self._write(
            told.fields, move="park", delay_ms=delay, known_pokes=self._run.pokes, callbacks=told.messages
        )
        return Ending.PARKED if answer == "ok" else Ending.LOST

    async def _collect(self, due_at: int | None) -> None:
        """Take in the steps that end first; none, when one that waits is due before, or when the run was poked."""
        left = None if due_at is None else max(due_at - self._now(), 0) / 1000
        if self._poke is None:
            self._poke = asyncio.get_running_loop().create_task(self._hold.poked.wait())
        watched = (*self._running.values(), self._poke)
        done, _ = await asyncio.wait(watched, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for unit_id in [name for name, task in self._running.items() if task in done]:
            self._settle(unit_id, self._running.pop(unit_id).result())
            self._moved_on = True
        if self._poke in done:
            self._poke = None
            await self._heed_poke()

    def _begin(self, unit: Unit) -> tuple[Unit, CompiledStep, StepRecord]:
        """The unit's record as it begins: written down first, where it acts on the world."""
        assert self._workflow is not None
        step = self._workflow.steps[unit.step]
        self._charge(unit.id, self._runner.costs.get(step.kind, 0))
        record = self._priced(unit.id, plans.begun(self._records.get(unit.id), self._now()))
        if step.has_effects:
            self._unwritten[unit.id] = record
        self._records[unit.id] = record
        return unit, step, record

    async def _attempt(self, unit: Unit, step: CompiledStep, begun: StepRecord) -> StepRecord:
        argument = step.argument.render(plans.values_for(unit, step, self._facts()))
        if isinstance(argument, Failure):
            result: Any = StepFailed("ExpressionError", f"`{argument.expression}`: {argument.message}", again=False)
        else:
            result = await attempts.attempt(step, argument, self._context(unit, step, begun))
        return attempts.record(step, unit.id, begun, result, self._now(), self._runner.chance())

    def _context(self, unit: Unit, step: CompiledStep, begun: StepRecord) -> Context:
        return Context(
            run_id=self._run.id,
            traceparent=self._run.request.traceparent,
            step_id=unit.id,
            attempt=begun.attempt,
            key=idempotency_key(self._effects, unit.step, unit.index),
            seconds=step.step.timeout,
            cap=self._runner.max_output,
            client=self._runner.client,
            child=begun.child,
            start=functools.partial(self._runner.family.start, self._run, unit.id, begun.failed_child),
            read=self._runner.family.read,
            models=self._runner.models,
            charge=functools.partial(self._charge, unit.id),
            tell=self._runner.tell,
            resolve=self._runner.registry.lookup,
            hide=self._runner.registry.hide,
            rules=self._runner.rules,
        )

    def _charge(self, unit_id: str, credits: int) -> None:
        self._credits += credits
        self._spent[unit_id] = self._spent.get(unit_id, 0) + credits

    def _priced(self, unit_id: str, record: StepRecord) -> StepRecord:
        return msgspec.structs.replace(record, credits=self._spent.get(unit_id, 0))

    def _settle(self, unit_id: str, record: StepRecord) -> None:
        record = self._priced(unit_id, record)
        self._records[unit_id] = record
        self._unwritten[unit_id] = record
        if self._workflow is not None and record.state not in (StepState.WAITING, StepState.RUNNING):
            self._counts.append(f"steps:{self._workflow.steps[step_of(unit_id)].kind}:{record.state}")
        if plans.is_step(unit_id):
            self._values["steps"][unit_id] = plans.step_value(record)

    def _now(self) -> int:
        # Never before what is written already: who follows the run must not miss what comes later.
        return max(self._runner.clock.now(), self._written_at)

    async def _end_as_planned(self, problem: Problem | None) -> Ending:
        assert self._workflow is not None
        output: Any = None
        if problem is None:
            output = plans.outcome(self._workflow, self._records, self._values)
        if isinstance(output, Failure):
            problem = Problem(type="ExpressionError", message=f"output: `{output.expression}`: {output.message}")
        if problem is not None:
            return await self.fail(problem)
        return await self._end("complete", None, output)

    async def _end(self, move: str, problem: Problem | None, output: Any = None) -> Ending:
        """End the run and put its callbacks into the outbox, in one script."""
        ended = msgspec.structs.replace(
            self._run,
            state=State(MOVES[move].target),
            output=output,
            error=problem,
            ended_at=self._now(),
            steps=self._records,
            credits=self._credits,
        )
        callbacks = self._runner.teller.tell(ended, self._workflow, f"run.{ended.state}", ended.ended_at or 0)
        self._hold.settling = True
        answer = await self._write(
            final_fields(ended),
            move=move,
            callbacks=callbacks,
            pokes=plans.relatives(ended),
            counts=(f"runs:{self._run.request.workflow}:{ended.state}",),
        )
        if answer == "ok":
            _log_end(ended)
        return Ending.DONE if answer == "ok" else Ending.LOST

    async def _tell_start(self) -> bool:
        """Tell that the run has started: who dies before that leaves it to whoever claims the run next."""
        telling = self._runner.teller.started(self._run, self._workflow, self._now())
        if not telling.messages:
            return True
        self._run = msgspec.structs.replace(self._run, told=telling.told)
        return await self._write(telling.fields, callbacks=telling.messages) == "ok"

    async def _write(
        self,
        fields: dict[str, bytes | str | int],
        *,
        move: str | None = None,
        counts: Sequence[str] = (),
        **rest: Any,
    ) -> str:
        steps: dict[str, bytes | str | int] = {"credits": self._credits}
        steps |= {STEP + name: msgspec.json.encode(record) for name, record in self._unwritten.items()}
        write = Write(
            id=self._hold.claimed.id,
            fence=self._hold.claimed.fence,
            fields=steps | fields | ({"lost": 0} if self._moved_on else {}),
            move=None if move is None else MOVES[move],
            counts=(*self._counts, *counts),
            **rest,
        )
        self._unwritten, self._counts, self._moved_on = {}, [], False
        self._written_at = self._now()
        return await self._runner.records.write(write)


def _values_of(run: Run, runner: Runner) -> dict[str, Any]:
    request = run.request
    app = runner.registry.apps.get(str(request.app_id))
    return {
        "input": {} if request.input is None else request.input,
        "task": request.task,
        "metadata": request.metadata or {},
        "run": run_values(run),
        "app": {"id": request.app_id, "name": None if app is None else app.app.name},
    }


def _log_end(run: Run) -> None:
    seen = describe(run)
    log.info(
        f"run {run.state}",
        run_id=run.id,
        workflow=run.request.workflow,
        app_id=run.request.app_id,
        event_id=run.request.event_id,
        ms=seen["duration_ms"],
        error=None if run.error is None else run.error.type,
    )
