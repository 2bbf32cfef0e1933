"""Callers of the API's doors, each as its own system's clients are: how they start a run, wait for it and read it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from gateway.dialects import arcee
from tests.acceptance.machine import Answer, Listener, Machine, orqo_headers, request, until

EVERYTHING = ("runs:start", "runs:read", "runs:cancel", "workflows:read", "workflows:write")
WORKFLOWS = """\
apps:
  - {id: 42, name: ci, adapter: direct, verify: {scheme: orqo, secrets: [{env: CI_SECRET}]}}
  - id: 44
    name: poor
    adapter: direct
    verify: {scheme: orqo, secrets: [{env: CI_SECRET}]}
    credits: {amount: 4}
  - {id: 45, name: bare, adapter: direct, verify: {scheme: orqo, secrets: [{env: NOT_SET_ANYWHERE}]}}
workflows:
  - id: 7
    name: analyze
    input: {type: object, properties: {name: {type: string}}}
    steps:
      - {id: fetch, name: Fetch, transform: '${has(input.name) ? input.name : task}'}
      - {id: judge, needs: [fetch], python: 'rooms:judge', with: '${steps.fetch.output}'}
    output: {judged: '${steps.judge.output}'}
  - id: 8
    name: rest
    steps:
      - {id: begin, transform: 1}
      - {id: rest, needs: [begin], python: 'rooms:rest', with: '${input}'}
  - id: 9
    name: fail
    steps: [{id: call, python: 'no_such_module:run'}]
  - id: 10
    name: talk
    input: {type: object, properties: {say: {type: string}}, required: [say]}
    steps:
      - {id: heard, transform: '${conversation.turns.map(turn, turn.input.say)}'}
      - {id: answered, transform: '${conversation.turns.map(turn, turn.output.turn)}'}
    output: {turn: '${size(conversation.turns) + 1}', heard: '${steps.heard.output}', answered: '${steps.answered.output}'}
  - id: 11
    name: dear
    steps:
      - {id: a, python: 'rooms:judge', with: a}
      - {id: b, needs: [a], when: 'input.far', python: 'rooms:judge', with: b}
"""
ROOMS = '''\
"""Steps that leave marks outside the store."""

import asyncio
import pathlib


def judge(given):
    return f"of {given}"


async def rest(given):
    """Rest for some seconds, or until a file is there; leave a tick all the while, and say how it ended."""
    ticks, gate = pathlib.Path(given["ticks"]), given.get("gate")
    seconds, end = given.get("seconds", 0), "ended"
    began = asyncio.get_running_loop().time()
    try:
        while (gate and not pathlib.Path(gate).exists()) or asyncio.get_running_loop().time() < began + seconds:
            with ticks.open("a") as file:
                file.write("tick\\n")
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        end = "stopped"
        raise
    finally:
        with ticks.open("a") as file:
            file.write(end + "\\n")
    return {"rested": given["name"]}
'''


class House:
    """A gateway with these workflows, and a token for all of them."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.admin = self.make_token("--scope", "admin")
        self.token = self.add_token(*EVERYTHING)
        self.hook = str(machine.json("hook", "add", "talk")["token"])

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None, **more: Any) -> Answer:
        """One request, with the token wherever a door looks for it."""
        text = token or self.token
        content = more.pop("raw", None) or (None if body is None else json.dumps(body).encode())
        headers = {"Authorization": f"Bearer {text}", "x-api-key": text, "Content-Type": "application/json"}
        return request(self.machine.url + path, method, content, headers | more.pop("headers", {}), **more)

    def add_token(self, *scopes: str) -> str:
        """A new token."""
        made = self.ask("POST", "/api/v1/tokens", {"name": "a caller", "scopes": list(scopes)}, self.admin)
        return str(made.json()["token"])

    def make_token(self, *options: str) -> str:
        """A new token, made by command with these options, that the receiver knows of."""
        text: str = self.machine.json("token", "create", "a caller", *options)["token"]
        until(lambda: self.ask("GET", "/api/v1/runs", token=text).status != 401, "the token to be known")
        return text

    def payer(self, *options: str) -> str:
        """A token for everything, that has so many credits."""
        return self.make_token(*(word for scope in EVERYTHING for word in ("--scope", scope)), "--credits", *options)

    def path(self, path: str) -> str:
        """A path of a table, with the hook's token in its place."""
        return path.replace("HOOK", self.hook)

    def rest(self, name: str, **how: object) -> dict[str, Any]:
        """The input of a run of `rest`; its ticks go to a file of its name."""
        return {"name": name, "ticks": str(self.machine.folder / f"{name}.ticks"), **how}

    def ticks(self, name: str) -> list[str]:
        path = self.machine.folder / f"{name}.ticks"
        return path.read_text().splitlines() if path.exists() else []

    def gate(self, name: str) -> str:
        return str(self.machine.folder / f"{name}.gate")

    def waiters(self) -> int:
        """How many requests wait, by `/metrics`."""
        lines = self.machine.get("/metrics").body.decode().splitlines()
        return int(float(next(line.split()[1] for line in lines if line.startswith("gateway_waiters "))))

    def last_run(self) -> int:
        rows = self.ask("GET", "/api/v1/runs?limit=1").json()["data"]
        return int(rows[0]["run_id"]) if rows else 0

    @contextmanager
    def starts_nothing(self) -> Iterator[None]:
        """What is done in here must leave no run behind."""
        before = self.last_run()
        yield
        assert self.last_run() == before


@contextmanager
def open_house(machine: Machine) -> Iterator[House]:
    """Start a machine with these workflows."""
    with closing(machine):
        machine.config.write_text(WORKFLOWS)
        (machine.folder / "rooms.py").write_text(ROOMS)
        yield House(machine.start().wait_ready())


def new_machine(folder: Any, listener: Listener, **settings: object) -> Machine:
    return Machine(folder, listener, step_costs="python=3,transform=1", concurrency=300, **settings)


def by_webhook(house: House, workflow: int, given: Any, app: int = 42) -> Answer:
    body = json.dumps({"workflow_id": workflow, "input": given, "metadata": {"by": "webhook"}}).encode()
    return house.machine.post(body, app=app, headers=orqo_headers(body))


def by_trigger(house: House, workflow: int, given: Any, token: str | None = None, wait: str = "") -> Answer:
    return house.ask("POST", f"/api/v1/trigger{wait}", {"workflow_id": workflow, "input": given}, token)


def by_arcee(house: House, workflow: int, given: Any, token: str | None = None) -> Answer:
    return house.ask("POST", f"/api/v1/workflow/workflows/{workflow}/execute", given, token)


def by_eai(house: House, workflow: int, given: Any, token: str | None = None, **more: Any) -> Answer:
    path = f"/api/eai/v3/orchestrate/workflows/{workflow}/execute"
    return house.ask("POST", path, {"input": given} | more, token, within=60)


def by_arkai(house: House, workflow: int, given: Any, token: str | None = None, **more: Any) -> Answer:
    body = {"workflowId": str(workflow), "version": 1, "input": given} | more
    return house.ask("POST", "/api/executeWorkflow", body, token, within=60)


def by_ours(house: House, workflow: int, given: Any, token: str | None = None, wait: str = "") -> Answer:
    return house.ask("POST", f"/api/v1/runs{wait}", {"workflow": workflow, "input": given}, token, within=60)


def run_of(answer: Answer) -> int:
    """The run that any door's answer names; Arkai's names its conversation instead."""
    document = answer.json()
    assert answer.status in (200, 201), answer
    found = document.get("run_id", document.get("workflow_run_id", document.get("id")))
    if isinstance(found, str) and "-" in found:
        return int(arcee.from_uuid(arcee.RUN, found) or 0)
    return int(str(found).removeprefix("exec_"))


class Seen(NamedTuple):
    """A run as some door shows it. `word` is that door's for its state; times are kept to the millisecond."""

    word: str
    input: Any
    output: Any
    steps: list[tuple[str, str]]
    error: str | None
    ended: str | None


def read_ours(house: House, run_id: int, _: int) -> Seen:
    run = house.ask("GET", f"/api/v1/runs/{run_id}").json()
    given = {"task": run["task"]} if run["input"] is None else run["input"]
    error = None if run["error"] is None else run["error"]["message"]
    steps = [(step["id"], step["status"]) for step in run["steps"]]
    return Seen(run["status"], given, run["output"], steps, error, run["completed_at"])


def read_orqo(house: House, run_id: int, _: int) -> Seen:
    """What ORQO's users have instead of a route: the command in the place of `debug:run`."""
    run = house.machine.json("run", "show", str(run_id))
    given = {"task": run["task"]} if run["input"] is None else run["input"]
    error = None if run["error"] is None else run["error"]["message"]
    steps = [(step["id"], step["status"]) for step in run["steps"]]
    return Seen(run["status"], given, run["output"], steps, error, run["completed_at"])


def read_arcee(house: House, run_id: int, workflow: int) -> Seen:
    base = f"/api/v1/workflow/workflows/{workflow}/runs/{arcee.to_uuid(arcee.RUN, run_id)}"
    (run,) = house.ask("GET", base).json()
    steps = [(step["node_id"], step["status"]) for step in house.ask("GET", base + "/steps").json()]
    # Arcee has microseconds, of which we know the first three.
    ended = run["end_time"] and run["end_time"].replace("000Z", "Z")
    return Seen(run["status"], run["inputs"], run["outputs"], steps, run["error"], ended)


def read_eai(house: House, run_id: int, _: int) -> Seen:
    run = house.ask("GET", f"/api/eai/v3/orchestrate/executions/exec_{run_id}").json()
    steps = [(step["stepId"], step["state"]) for step in run["steps"]]
    return Seen(run["state"], run["input"], run.get("output"), steps, run.get("error"), run.get("completedAt"))


def read_arkai(house: House, run_id: int, workflow: int) -> Seen:
    conversation = house.ask("GET", f"/api/v1/runs/{run_id}").json()["conversation_id"]
    wanted = {"workflowId": str(workflow), "conversationId": conversation}
    run = house.ask("POST", "/api/getConversationById", wanted).json()["executions"][-1]
    steps = [(step["component"], step["status"]) for step in run["executionPath"]]
    return Seen(run["status"], run["input"], run["output"] or None, steps, run["error"], run["updatedAt"])


READERS: dict[str, Callable[[House, int, int], Seen]] = {
    "ours": read_ours,
    "orqo": read_orqo,
    "arcee": read_arcee,
    "eai": read_eai,
    "arkai": read_arkai,
}


class Stream:
    """A timeline as a client of server-sent events reads it."""

    def __init__(self, house: House, run_id: int, last_id: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", house.machine.port, timeout=20)
        headers = {"Authorization": f"Bearer {house.token}"} | ({"Last-Event-ID": last_id} if last_id else {})
        self._connection.request("GET", f"/api/v1/runs/{run_id}/timeline", headers=headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        self.last_id = last_id

    def events(self) -> Iterator[str]:
        """The events' names, until the stream ends or is cut off."""
        name = ""
        for line in self._answer:
            field, _, value = line.decode().strip().partition(": ")
            if field == "id":
                self.last_id = value
            elif field == "event":
                name = value
            elif field == "data":
                json.loads(value)
                yield name

    def close(self) -> None:
        self._connection.close()
