"""A thousand runs that wait: they hold no slot of the worker, and next to none of its memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import KEYS, Machine, order, until
from tests.tools import begin_many, connected

MANY = 1000
WARMING = 200
MOST_KB = 2048
FLOW = """\
  - id: 40
    name: patient
    steps:
      - {id: wait, wait: {for: 1h}}
      - {id: done, needs: [wait], transform: done}
"""


def begin(machine: Machine, workflow: str, count: int) -> None:
    async def story() -> None:
        async with connected(machine.store_url) as redis:
            await begin_many(redis, workflow, count)

    asyncio.run(story())


def until_there_are(machine: Machine, state: str, count: int) -> None:
    async def look() -> bool:
        async with connected(machine.store_url) as redis:
            return int(await redis.zcard(KEYS.state("run", state))) == count

    until(lambda: asyncio.run(look()), f"{count} {state} runs")


def resident_kb(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1])


def test_a_thousand_waiting_runs_cost_a_worker_nothing(
    make_machine: MakeMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one slot, 1 000 runs come to wait for an hour, less than 2 MB of memory is used, and another run gets through."""
    machine = make_machine(concurrency=1)
    machine.config.write_text(machine.config.read_text() + FLOW)
    machine.start().wait_ready()
    # What a worker takes for itself in its first minutes is not what the waiting runs cost.
    begin(machine, "greet", WARMING)
    until_there_are(machine, "completed", WARMING)
    begin(machine, "patient", WARMING)
    until_there_are(machine, "waiting", WARMING)
    pid = machine.children()["worker-1"]
    before = resident_kb(pid)

    begin(machine, "patient", MANY)
    until_there_are(machine, "waiting", WARMING + MANY)

    more = resident_kb(pid) - before
    with capsys.disabled():
        print(f"\n{MANY} waiting runs: {before} kB before, {more:+} kB")  # noqa: T201
    assert more < MOST_KB
    assert machine.children()["worker-1"] == pid
    assert machine.wait_run(machine.start_run(order("another", 16)), 5).state == "completed"
