"""`python -m tests.faults.points`: a process ends right after each point of a run's way; a table of what came next.

At each point one worker (or receiver) ends, another takes over. What was done is counted in ledgers outside the store:
the lines of `effect.log`, the messages that the callback receiver got. Exits with 0 when at every point the run
completed, told so under one id, and did nothing again but what its record calls unknown.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
from msgspec import Struct

from gateway.runs import Run
from tests.acceptance.machine import KEYS, Listener, Machine, Valkey, free_port, order, orqo_headers, request, until
from tests.faults.dying import CODE, RECEIVER, WORKER

ROOT = Path(__file__).parents[2]
POINTS = (*RECEIVER, *WORKER)
STEPS = ("a", "call", "hold", "b")
FLOW = """\
  - id: 20
    name: points
    steps:
      - id: a
        python: effects:do
        with: {run: "${run.id}", step: a, key: "${metadata.key}", saw: {}, how: {}}
      - id: call
        needs: [a]
        workflow: {name: once}
      - id: hold
        needs: [call]
        wait: {for: 400ms}
      - id: b
        needs: [hold]
        python: effects:do
        with: {run: "${run.id}", step: b, key: "${metadata.key}", saw: {}, how: {}}
"""


class Outcome(Struct, frozen=True, kw_only=True):
    """What came after a point: how the run ended, and how often each thing was done."""

    point: str
    state: str
    attempts: dict[str, int]
    unknown: dict[str, int]
    """The steps, and the child's (`call`), of which nobody knew whether they had happened, and how often."""
    effects: dict[str, int]
    """How often each step, and the child's (`call`), was begun."""
    runs: int
    """How many runs the order has started, children not counted."""
    children: int
    messages: int
    ids: int

    @property
    def harmless(self) -> bool:
        once = (self.state, self.runs, self.children, self.ids) == ("completed", 1, 1, 1)
        return once and all(1 <= times <= 1 + self.unknown.get(step, 0) for step, times in self.effects.items())


class Field:
    """A store and a receiver that live on while workers come and go."""

    def __init__(self, machine: Machine, listener: Listener) -> None:
        self.machine = machine
        self.listener = listener

    def try_point(self, point: str) -> Outcome:
        """Let a process end at this point of a run's way, and another take over."""
        self._order_from_dying_receiver(point) if point in RECEIVER else self._order_for_dying_worker(point)
        with self.process("workers"):
            run_id = self.machine.start_run(order(point, 20), point)
            run = self.machine.wait_run(run_id)
            until(self.told_all, "the callback")
            return self._tell(point, run)

    def _order_for_dying_worker(self, point: str) -> None:
        self.machine.start_run(order(point, 20), point)
        with self.process("tests.faults.dying", point) as worker:
            assert until(lambda: worker.poll() is not None and worker.returncode, f"an end at {point}") == CODE

    def _order_from_dying_receiver(self, point: str) -> None:
        """The order's sender gets no answer; it will come again."""
        port, body = free_port(), order(point, 20)
        url = f"http://127.0.0.1:{port}"
        with self.process("tests.faults.dying", point, GATEWAY_PORT=str(port)) as receiver:
            until(lambda: answers(f"{url}/livez") or receiver.poll() is not None, "the receiver")
            with suppress(OSError, http.client.HTTPException):
                headers = orqo_headers(body) | {"Idempotency-Key": point}
                answer = request(f"{url}/api/v1/webhooks/42", "POST", body, headers)
                raise AssertionError(f"{answer} from a receiver that was to end")
            assert until(lambda: receiver.poll() is not None and receiver.returncode, f"an end at {point}") == CODE

    @contextmanager
    def process(self, module: str, *argv: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", module, *argv]
        given = self.machine.environ | {"PYTHONPATH": str(ROOT)} | environ
        with self.machine.log.open("ab") as log:
            process = subprocess.Popen(command, cwd=self.machine.folder, env=given, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()

    def told_all(self) -> bool:
        """Whether no callback is under way any more, in the store's own words."""
        with redis.Redis.from_url(self.machine.store_url) as store:
            return not any(store.exists(KEYS.state("callback", state)) for state in ("pending", "sending"))

    def _tell(self, point: str, run: Run) -> Outcome:
        runs = self.machine.runs()
        children = [each for each in runs if each.request.parent and each.request.parent.run_id == run.id]
        unknown = {step: run.steps[step].unknown for step in STEPS}
        unknown["call"] += sum(child.steps["a"].unknown for child in children)
        begun = {step: len(self.machine.effects(what="start", run=run.id, step=step)) for step in ("a", "b")}
        begun["call"] = sum(len(self.machine.effects(what="start", run=child.id)) for child in children)
        messages = self.listener.about(point)
        mine = [each for each in runs if not each.request.parent and (each.request.metadata or {})["key"] == point]
        return Outcome(
            point=point,
            state=run.state,
            attempts={step: run.steps[step].attempt for step in STEPS},
            unknown={step: times for step, times in unknown.items() if times},
            effects=begun,
            runs=len(mine),
            children=len(children),
            messages=len(messages),
            ids=len({line["id"] for line in messages}),
        )


def answers(url: str) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return request(url).status == 200
    return False


@contextmanager
def open_field(folder: Path, listener: Listener) -> Iterator[Field]:
    """A store of its own and a receiver; no worker yet."""
    valkey = Valkey(folder, "--appendonly", "yes", "--appendfsync", "always")
    machine = Machine(folder, listener, redis_url=valkey.url, lease=1, callback_timeout=0.5)
    machine.config.write_text(machine.config.read_text() + FLOW)
    try:
        done = machine.run("apply")
        assert done.returncode == 0, done.stderr
        machine.start("serve")
        until(lambda: answers(machine.url + "/livez"), "the receiver")
        yield Field(machine, listener)
    finally:
        machine.close()
        valkey.close()


def show(outcomes: list[Outcome]) -> str:
    """The table."""
    head = ["ended after", "run", "runs", "children", "attempts", "unknown", "effects", "messages", "ids", ""]
    rows = [head, *([*map(write, fields_of(each)), "" if each.harmless else "HARM"] for each in outcomes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def fields_of(each: Outcome) -> tuple[Any, ...]:
    first = (each.point, each.state, each.runs, each.children, each.attempts, each.unknown)
    return (*first, each.effects, each.messages, each.ids)


def write(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {times}" for name, times in value.items()) or "-"
    return str(value)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="points-") as temporary:
        folder = Path(temporary)
        listener = Listener(folder)
        try:
            with open_field(folder, listener) as field:
                outcomes = [field.try_point(point) for point in POINTS]
        finally:
            listener.close()
    sys.stdout.write(show(outcomes) + "\n")
    return 0 if all(each.harmless for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
