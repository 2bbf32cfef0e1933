"""A run: load it, ask `workflows` what comes next, do that, record it. Until it ends or has to wait."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from gateway import workflows
from gateway.callbacks import Outgoing
from gateway.errors import GatewayError
from gateway.events import body_of, event_values
from gateway.expressions import Failure
from gateway.jobs import idempotency_key
from gateway.nesting import MOST_LEVELS, is_too_deep
from gateway.outbox import callbacks_for
from gateway.runs import MOVES, Problem, Run, State, StepRecord, StepState, describe
from gateway.store.reading import Reader, StoredEvent
from gateway.store.records import STEP, Records, Write, final_fields, read_run
from gateway.store.registry import Registry
from gateway.web.client import Client
from gateway.workflows import CompiledStep, Plan, Workflow
from workers.dispatcher import Ending, Hold, StoreClock
from workers.executors import EXECUTORS
from workers.executors.base import Context, StepFailed

SHORT_WAIT_MS = 250
"""A wait this short keeps its slot; a longer one is parked."""
VISIBLE_AFTER = 0.2
"""Seconds after which a step that still runs is recorded as running, for those who look."""
LONGEST_MESSAGE = 2000
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
        *,
        max_output: int,
        max_lost: int,
        costs: Mapping[str, int],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.records = records
        self.registry = registry
        self.reader = reader
        self.client = client
        self.clock = clock
        self.max_output = max_output
        self.max_lost = max_lost
        self.costs = costs
        self.chance = chance

    async def perform(self, hold: Hold) -> Ending:
        """Carry one claimed run as far as it goes."""
        run = read_run(int(hold.claimed.id), hold.claimed.fields)
        if run.lost >= self.max_lost:
            message = (
                f"{run.lost} workers in a row were lost while they ran this; the last step begun is the likely cause"
            )
            return await Execution(self, hold, run, None).finish(Problem(type="WorkerLost", message=message))
        app_id = run.request.app_id
        if app_id is not None and str(app_id) not in self.registry.apps:
            # It may be newer than the copy at hand, and its callback must not be forgotten.
            await self.registry.refresh()
        try:
            workflow = await self.registry.definition(run.request.digest)
        except GatewayError as error:
            problem = Problem(
                type="BadWorkflow", message=f"workflow {run.request.workflow!r} can't be run: {error.message}"
            )
            return await Execution(self, hold, run, None).finish(problem)
        execution = Execution(self, hold, run, workflow)
        if "event" in workflow.names and run.request.event_id is not None:
            execution.show_event(await self.reader.event(run.request.event_id))
        if "conversation" in workflow.names:
            execution.show_conversation(await self._conversation(run))
        return await execution.go()

    async def _conversation(self, run: Run) -> list[Run]:
        name = run.request.conversation_id
        return [] if name is None else await self.reader.conversation(name)


class Execution:
    """One claimed run on its way. Results are recorded under the fence before anything that follows them begins."""

    def __init__(self, runner: Runner, hold: Hold, run: Run, workflow: Workflow | None) -> None:
        self._runner = runner
        self._hold = hold
        self._run = run
        self._workflow = workflow
        # What was only begun when a worker was lost is done again.
        self._records = {name: record for name, record in run.steps.items() if record.state != StepState.RUNNING}
        self._running: dict[str, asyncio.Task[StepRecord]] = {}
        self._trying: set[str] = set()
        self._unwritten: dict[str, StepRecord] = {}
        self._counts: list[str] = []
        self._credits = run.credits
        self._values = _values_of(run, runner)
        self._show_steps()

    async def go(self) -> Ending:
        """Do what is next until the run ends, waits, or is somebody else's."""
        assert self._workflow is not None
        try:
            while True:
                plan = workflows.plan(self._workflow, self._known(), self._values, self._runner.clock.now())
                if plan.ended:
                    return await self.finish(plan.problem)
                ending = await self._advance(self._workflow, plan)
                if ending is not None:
                    return ending
        finally:
            for task in self._running.values():
                task.cancel()

    def show_event(self, event: StoredEvent) -> None:
        """Let expressions read the event that started this run."""
        head, body = event.head, body_of(event.head, event.body)
        self._values["event"] = event_values(event.id, head.type, head.delivery_id, head.headers, body)

    def show_conversation(self, runs: list[Run]) -> None:
        """Let expressions read the turns before this one, oldest first."""
        turns = [
            {"input": run.request.input, "output": run.output, "status": str(run.state)}
            for run in runs
            if run.id < self._run.id
        ]
        self._values["conversation"] = {"id": self._run.request.conversation_id, "turns": turns}

    async def finish(self, problem: Problem | None) -> Ending:
        """End the run and put its callbacks into the outbox, in one script."""
        output: Any = None
        if problem is None and self._workflow is not None:
            output, problem = self._outcome(self._workflow)
        state = State.COMPLETED if problem is None else State.FAILED
        ended = msgspec.structs.replace(
            self._run,
            state=state,
            output=output,
            error=problem,
            ended_at=self._runner.clock.now(),
            steps=self._records,
            credits=self._credits,
        )
        callbacks = callbacks_for(ended, self._runner.registry.apps)
        self._hold.settling = True
        answer = await self._write(
            final_fields(ended, callbacks), move="complete" if problem is None else "fail", callbacks=callbacks
        )
        if answer == "ok":
            _log_end(ended)
        return Ending.DONE if answer == "ok" else Ending.LOST

    async def _advance(self, workflow: Workflow, plan: Plan) -> Ending | None:
        for step_id in plan.skip:
            now = self._runner.clock.now()
            self._settle(step_id, StepRecord(state=StepState.SKIPPED, started_at=now, ended_at=now))
        if plan.skip:
            return None
        if self._unwritten and await self._write({}) != "ok":
            return Ending.LOST
        steps = [workflow.steps[step_id] for step_id in plan.start]
        if len(steps) == 1 and not self._running and plan.due_at is None:
            self._settle(steps[0].id, await self._attempt(steps[0]))
            return None
        for step in steps:
            self._running[step.id] = asyncio.get_running_loop().create_task(self._attempt(step))
        if self._running:
            await self._collect(plan.due_at)
            return None
        return await self._wait(plan.due_at or 0)

    async def _wait(self, due_at: int) -> Ending | None:
        delay = due_at - self._runner.clock.now()
        if delay <= SHORT_WAIT_MS:
            await asyncio.sleep(max(delay, 0) / 1000)
            return None
        self._hold.settling = True
        answer = await self._write({}, move="park", delay_ms=delay)
        return Ending.PARKED if answer == "ok" else Ending.LOST

    async def _collect(self, due_at: int | None) -> None:
        """Take in the steps that end first; none, when one that waits is due before."""
        left = None if due_at is None else max(due_at - self._runner.clock.now(), 0) / 1000
        done, _ = await asyncio.wait(self._running.values(), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for step_id in [name for name, task in self._running.items() if task in done]:
            self._settle(step_id, self._running.pop(step_id).result())

    async def _attempt(self, step: CompiledStep) -> StepRecord:
        before = self._records.get(step.id)
        attempt = 1 if before is None else before.attempt + 1
        started = self._runner.clock.now()
        self._credits += self._runner.costs.get(step.kind, 0)
        visible = asyncio.get_running_loop().call_later(VISIBLE_AFTER, self._show_running, step.id, attempt, started)
        self._trying.add(step.id)
        try:
            output, failure = await self._try(step, attempt)
        finally:
            self._trying.remove(step.id)
            visible.cancel()
        return self._record(step, attempt, started, output, failure)

    async def _try(self, step: CompiledStep, attempt: int) -> tuple[Any, StepFailed | None]:
        argument = step.argument.render(self._values)
        if isinstance(argument, Failure):
            return None, StepFailed("ExpressionError", f"`{argument.expression}`: {argument.message}", again=False)
        limit = asyncio.timeout(step.step.timeout)
        try:
            async with limit:
                output = await EXECUTORS[step.kind](step, argument, self._context(step, attempt))
            return check_output(output, self._runner.max_output), None
        except StepFailed as failure:
            return None, failure
        except TimeoutError as error:
            if limit.expired():
                return None, StepFailed("Timeout", f"the step took longer than its {step.step.timeout:g} seconds")
            return None, _failure_of(error)
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            return None, _failure_of(error)  # the step's own: it awaited what it had cancelled
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            return None, _failure_of(error)

    def _context(self, step: CompiledStep, attempt: int) -> Context:
        return Context(
            run_id=self._run.id,
            step_id=step.id,
            attempt=attempt,
            key=idempotency_key(self._run.id, step.id),
            seconds=step.step.timeout,
            cap=self._runner.max_output,
            client=self._runner.client,
        )

    def _record(
        self, step: CompiledStep, attempt: int, started: int, output: Any, failure: StepFailed | None
    ) -> StepRecord:
        now = self._runner.clock.now()
        if failure is None:
            return StepRecord(
                state=StepState.COMPLETED, attempt=attempt, started_at=started, ended_at=now, output=output
            )
        problem = Problem(type=failure.kind, message=_readable(failure.message), step=step.id, attempt=attempt)
        delay = step.retry.after(attempt, self._runner.chance()) if failure.again else None
        if delay is None:
            return StepRecord(state=StepState.FAILED, attempt=attempt, started_at=started, ended_at=now, error=problem)
        due = now + int(delay * 1000)
        return StepRecord(
            state=StepState.WAITING, attempt=attempt, started_at=started, ended_at=now, due_at=due, error=problem
        )

    def _settle(self, step_id: str, record: StepRecord) -> None:
        self._records[step_id] = record
        self._unwritten[step_id] = record
        if record.state != StepState.WAITING and self._workflow is not None:
            self._counts.append(f"steps:{self._workflow.steps[step_id].kind}:{record.state}")
        self._show_steps()

    def _known(self) -> dict[str, StepRecord]:
        """What is recorded, and what runs now."""
        running = StepRecord(state=StepState.RUNNING)
        return self._records | dict.fromkeys(self._running, running) if self._running else self._records

    def _show_steps(self) -> None:
        self._values["steps"] = workflows.step_values(self._records)

    def _show_running(self, step_id: str, attempt: int, started: int) -> None:
        mark = StepRecord(state=StepState.RUNNING, attempt=attempt, started_at=started)
        task = asyncio.get_running_loop().create_task(self._write_mark(step_id, mark))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _write_mark(self, step_id: str, mark: StepRecord) -> None:
        if step_id not in self._trying:
            return  # it has ended meanwhile, and the mark would hide its result
        write = Write(
            id=self._hold.claimed.id, fence=self._hold.claimed.fence, fields={STEP + step_id: msgspec.json.encode(mark)}
        )
        await self._runner.records.write(write)

    def _outcome(self, workflow: Workflow) -> tuple[Any, Problem | None]:
        output = workflows.outcome(workflow, self._records, self._values)
        if isinstance(output, Failure):
            return None, Problem(type="ExpressionError", message=f"output: `{output.expression}`: {output.message}")
        return output, None

    async def _write(
        self,
        fields: dict[str, bytes | str | int],
        *,
        move: str | None = None,
        delay_ms: int | None = None,
        callbacks: tuple[Outgoing, ...] = (),
    ) -> str:
        steps: dict[str, bytes | str | int] = {"credits": self._credits}
        steps |= {STEP + name: msgspec.json.encode(record) for name, record in self._unwritten.items()}
        write = Write(
            id=self._hold.claimed.id,
            fence=self._hold.claimed.fence,
            fields=steps | fields | {"lost": 0},
            move=None if move is None else MOVES[move],
            delay_ms=delay_ms,
            counts=(*self._counts, *self._end_count(move)),
            callbacks=callbacks,
        )
        self._unwritten, self._counts = {}, []
        return await self._runner.records.write(write)

    def _end_count(self, move: str | None) -> tuple[str, ...]:
        if move is None or move == "park":
            return ()
        return (f"runs:{self._run.request.workflow}:{MOVES[move].target}",)


def check_output(output: Any, cap: int) -> Any:
    """What a step gave, as plain JSON data. Raises StepFailed when it is none, or too large."""
    try:
        text = json.dumps(output, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        # UnicodeEncodeError, for lone surrogates, is a ValueError.
        message = f"the step returned what is no JSON: {error}"
        raise StepFailed("NotJson", message, again=False) from None
    if is_too_deep(text):
        message = f"the step returned JSON nested too deeply: more than {MOST_LEVELS} levels"
        raise StepFailed("NotJson", message, again=False)
    if len(text) > cap:
        message = f"the step returned {len(text)} bytes, more than the {cap} allowed (GATEWAY_MAX_OUTPUT)"
        raise StepFailed("TooLarge", message, again=False)
    return output if type(output) in (str, int, bool, type(None)) else json.loads(text)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _failure_of(error: BaseException) -> StepFailed:
    try:
        message = str(error)
    except Exception:
        message = ""  # an exception of somebody's own that can't even say what it is
    return StepFailed(type(error).__name__, message or "no message")


def _readable(message: str) -> str:
    """The beginning of a message as text that can be stored, which lone surrogates can't."""
    return message[:LONGEST_MESSAGE].encode(errors="backslashreplace").decode()


def _values_of(run: Run, runner: Runner) -> dict[str, Any]:
    request = run.request
    app = runner.registry.apps.get(str(request.app_id))
    return {
        "input": {} if request.input is None else request.input,
        "task": request.task,
        "metadata": request.metadata or {},
        "run": {
            "id": run.id,
            "workflow": request.workflow,
            "workflow_id": request.workflow_id,
            "attempt": run.attempt,
            "session_id": request.session_id,
            "event_id": request.event_id,
        },
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
