"""`python -m tests.faults.every_kind --seed N`: a workflow of twelve steps, of every kind, while everything is killed.

Twelve steps, each kind among them, two waits and an approval. Receiver, worker and Valkey are killed at random moments
while an operator, over the API, gives the words that the runs wait for. Each effect is counted outside the store. A step
may have been done more than once only where its record says `unknown`, and no oftener than it says.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import redis
from msgspec import Struct

from gateway.runs import TERMINAL, Run, StepState
from tests.acceptance.machine import Ledger, Listener, Machine, order, request, until
from tests.faults.ledgers import is_good
from tests.faults.nemesis import KILLS, Nemesis
from tests.model_server import KEY
from tests.tools import RoomyServer

ROOT = Path(__file__).parents[2]
ITEMS = 4
SLOWLY = 0.4
"""Seconds that the far end of an `http` step takes: so that it is met by what kills."""
EFFECTS = ("fetch", "plan", "apart", "script", "judge", "call", *(f"each[{index}]" for index in range(ITEMS)), "last")
"""What acts on the world, once a run; `call` is the step of the run that it starts."""
DO = 'python: effects:do\n        with: {run: "${run.id}", step: STEP, key: "${metadata.key}", saw: {}, how: {seconds: 0.4}}'
FLOW = """\
  - id: 30
    name: every
    steps:
      - id: fetch
        http: {url: "SERVER/fetch/${run.id}", method: POST, json: {run: "${run.id}"}}
      - id: plan
        needs: [fetch]
        DO_plan
      - id: apart
        needs: [fetch]
        isolate: process
        DO_apart
      - id: script
        needs: [plan, apart]
        shell:
          argv: [tee, -a, EFFECT_LOG]
          stdin: "{\\"what\\": \\"start\\", \\"run\\": ${run.id}, \\"step\\": \\"script\\", \\"saw\\": {}}\\n"
      - id: judge
        needs: [script]
        model: {model: plain, prompt: "run ${run.id}."}
      - id: shape
        needs: [judge]
        transform: {text: "${steps.judge.output.text}", code: "${steps.script.output.code}"}
      - id: pause
        needs: [shape]
        wait: {for: 1s}
      - id: word
        needs: [pause]
        wait: {signal: go}
      - id: allowed
        needs: [word]
        approval: {message: "may it go on?"}
      - id: call
        needs: [allowed]
        workflow: {name: once}
        retry: {attempts: 20, initial: 200ms}
      - id: each
        needs: [call]
        foreach: RANGE
        parallel: 2
        DO_each[${index}]
      - id: last
        needs: [each]
        http: {url: "SERVER/last/${run.id}", method: POST, json: {run: "${run.id}"}}
    output: {word: "${steps.word.output.body}", by: "${steps.allowed.output.by}", items: "${size(steps.each.output)}"}
"""


class Plan(Struct, frozen=True, kw_only=True):
    """What to do: runs begin one after the other while things are killed, `pause` seconds apart on average."""

    seed: int
    seconds: float = 20.0
    runs: int = 12
    pause: float = 1.2
    settling: float = 60.0


class Account(Struct, frozen=True, kw_only=True):
    """What came of it. `redone` counts what was done again, `unsaid` what was of that without its record saying so."""

    runs: int
    completed: int
    lost: int
    redone: int
    unknown: int
    unsaid: list[str]
    unfinished: list[str]
    acts: dict[str, int]
    settled_in: float

    @property
    def harmless(self) -> bool:
        return self.completed == self.runs and not (self.lost or self.unsaid or self.unfinished)


class Door:
    """An HTTP server that `http` steps call: one line of its ledger a call, in no order, from any worker."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "http.log")
        self._server = RoomyServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.ledger.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        ledger = self.ledger

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                _, step, run = self.path.split("/")
                ledger.write(what="start", run=int(run), step=step, key=self.headers["idempotency-key"])
                time.sleep(SLOWLY)
                with suppress(OSError):
                    self._answer()

            def _answer(self) -> None:
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing on the terminal."""

        return Handler


class Operator:
    """Gives every run the words that it waits for, over the API, again until they are taken."""

    def __init__(self, machine: Machine, token: str) -> None:
        self._machine = machine
        self._token = token
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._over.wait(0.2):
            with suppress(redis.RedisError, OSError, http.client.HTTPException):
                for run in self._machine.runs():
                    if run.state == "waiting":
                        self._answer(run)

    def _answer(self, run: Run) -> None:
        for name, record in run.steps.items():
            if record.state not in (StepState.WAITING, StepState.UNKNOWN):
                continue
            if record.waits_for == "signal go":
                self._say(run, "signals/go", {"from": "operator"})
            elif record.waits_for == "approval":
                self._say(run, f"approvals/{name}", {"decision": "approve"})
            elif record.waits_for == "resume":
                self._say(run, "resume", {"decision": "retry", "step": name})

    def _say(self, run: Run, path: str, body: Any) -> None:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        url = f"{self._machine.url}/api/v1/runs/{run.id}/{path}"
        answer = request(url, "POST", json.dumps(body).encode(), headers, within=5)
        if answer.status not in (200, 409, 503):
            sys.stderr.write(f"{url}: {answer}\n")


def run_plan(plan: Plan, folder: Path) -> Account:
    """Runs and faults for a while, then peace until every run has ended and told so; and the account."""
    with ExitStack() as stack:
        listener = stack.enter_context(closing(Listener(folder)))
        door = stack.enter_context(closing(Door(folder)))
        models = stack.enter_context(open_models())
        settings = {"lease": 2, "max_lost": 1000, "grace": 2, "callback_timeout": 1, "model_key": KEY}
        machine = stack.enter_context(closing(Machine(folder, listener, **settings, model_url=f"{models}/v1")))
        machine.config.write_text(machine.config.read_text() + flow_of(machine, door))
        machine.start().wait_ready()
        token = machine.json("token", "create", "operator", "--scope", "admin")["token"]
        stack.enter_context(closing(Operator(machine, token)))
        nemesis = Nemesis(machine, plan.seed, KILLS, plan.pause)
        keys = _rage(machine, nemesis, plan)
        began = time.monotonic()
        _settle(machine, listener, keys, plan.settling)
        calls = json.loads(request(f"{models}/calls").body)["calls"]
        begun = count_effects(machine, door, calls)
        told = {line["key"] for line in listener.messages() if line["valid"] and is_good(line["answer"])}
        return account(machine.runs(), begun, set(keys) - told, dict(nemesis.done), time.monotonic() - began)


def flow_of(machine: Machine, door: Door) -> str:
    """The workflow in the words of gateway.yaml."""
    flow = FLOW.replace("SERVER", door.url).replace("EFFECT_LOG", str(machine.effects_file.path))
    flow = flow.replace("RANGE", str(list(range(ITEMS))))
    for step in ("plan", "apart", "each[${index}]"):
        flow = flow.replace(f"DO_{step}", DO.replace("STEP", f'"{step}"'))
    return flow


@contextmanager
def open_models() -> Iterator[str]:
    """An OpenAI-compatible provider, a process of its own; its address."""
    command = [sys.executable, "-m", "tests.model_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def _rage(machine: Machine, nemesis: Nemesis, plan: Plan) -> list[str]:
    """Orders, each sent again until it is answered, while the nemesis goes about."""
    keys = [f"every-{number}" for number in range(plan.runs)]
    nemesis.start()
    peace = threading.Timer(plan.seconds, nemesis.stop)
    peace.start()
    for key in keys:
        until(lambda key=key: _order(machine, key), "an answer")
        time.sleep(plan.seconds * 0.6 / plan.runs)
    peace.join()
    return keys


def _order(machine: Machine, key: str) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return machine.post(order(key, 30), key=key).status == 200
    return False


def _settle(machine: Machine, listener: Listener, keys: list[str], seconds: float) -> None:
    def is_quiet() -> bool:
        told = {line["key"] for line in listener.messages() if line["valid"] and is_good(line["answer"])}
        with suppress(redis.RedisError):
            return told >= set(keys) and all(run.state in TERMINAL for run in machine.runs())
        return False

    try:
        until(is_quiet, "peace", seconds)
    except AssertionError as error:
        sys.stderr.write(f"{error}\n")


def count_effects(machine: Machine, door: Door, calls: list[dict[str, Any]]) -> Counter[tuple[int, str]]:
    """How often each run's steps were begun, by all who saw it."""
    lines = [line for line in [*machine.effects(), *door.ledger.read()] if line["what"] == "start"]
    begun = Counter((line["run"], line["step"]) for line in lines)
    for call in calls:
        text = call["body"]["messages"][-1]["content"]
        begun[int(text.removeprefix("run ").removesuffix(".")), "judge"] += 1
    return begun


def account(
    runs: list[Run], begun: Counter[tuple[int, str]], untold: set[str], acts: dict[str, int], seconds: float
) -> Account:
    """Compare what was done with what the records say."""
    parents = [run for run in runs if run.request.workflow == "every"]
    children = {run.request.parent.run_id: run for run in runs if run.request.parent}
    redone, unknown, unsaid, unfinished = 0, 0, [], []
    for run in parents:
        for step in EFFECTS:
            child = children.get(run.id)
            owner, name = (child, "a") if step == "call" else (run, step)
            said = owner.steps[name].unknown if owner and name in owner.steps else 0
            times = begun[owner.id if owner else 0, name]
            redone, unknown = redone + max(times - 1, 0), unknown + said
            if times > 1 + said:
                unsaid.append(f"run {run.id} {step}: done {times} times, unknown {said}")
            if times < 1 or run.state != "completed":
                unfinished.append(f"run {run.id} {step}: done {times} times, the run is {run.state}: {run.error}")
    return Account(
        runs=len(parents),
        completed=sum(run.state == "completed" for run in parents),
        lost=len(untold) + len(parents) - len(children),
        redone=redone,
        unknown=unknown,
        unsaid=unsaid,
        unfinished=unfinished,
        acts=acts,
        settled_in=seconds,
    )


def show(plan: Plan, found: Account) -> str:
    """The account in words."""
    lines = [
        f"seed {plan.seed}, {found.runs} runs of 12 steps, {found.completed} completed, settled in {found.settled_in:.1f} s",
        "faults: " + ", ".join(f"{name} {times}" for name, times in sorted(found.acts.items())),
        f"LOST {found.lost}  REDONE {found.redone}  said to be unknown {found.unknown}  redone unsaid {len(found.unsaid)}",
    ]
    return "\n".join([*lines, *found.unsaid, *found.unfinished[:20]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    for name, kind in (("seconds", float), ("runs", int), ("pause", float)):
        parser.add_argument(f"--{name}", type=kind, default=getattr(Plan(seed=0), name))
    parser.add_argument("--folder", type=Path, help="keep the ledgers and logs here")
    given = vars(parser.parse_args())
    folder = given.pop("folder")
    plan = Plan(**given)
    with tempfile.TemporaryDirectory(prefix="every-kind-") as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        found = run_plan(plan, place)
    sys.stdout.write(show(plan, found) + "\n")
    return 0 if found.harmless else 1


if __name__ == "__main__":
    sys.exit(main())
