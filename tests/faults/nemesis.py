"""What goes wrong, and when: drawn from a seed. Processes are killed, stopped and frozen, each by its pid."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.acceptance.machine import Machine, is_alive, until

KILLS = ("kill receiver", "kill worker", "kill valkey")
ALL = (*KILLS, "stop worker", "freeze worker", "freeze valkey", "kill machine")


class Nemesis:
    """Does one thing after another to a machine, in a thread of its own, until told to stop. Leaves nothing frozen."""

    def __init__(self, machine: Machine, seed: int, acts: tuple[str, ...], pause: float) -> None:
        self._machine = machine
        self._chance = random.Random(f"{seed}:nemesis")
        self._acts = acts
        self._pause = pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self.done: Counter[str] = Counter()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._over.wait(self._chance.uniform(0.2, 2) * self._pause):
            act = self._chance.choice(self._acts)
            verb, target = act.split()
            if target == "machine":
                self._kill_machine()
            else:
                self._hit(verb, target)
            self.done[act] += 1

    def _hit(self, verb: str, target: str) -> None:
        names = sorted(name for name in self._machine.children() if name.startswith(target))
        pid = self._machine.children()[self._chance.choice(names)]
        seconds = self._chance.uniform(0.1, 4)
        if parent_of(pid) != (self._machine.process and self._machine.process.pid):
            return  # it has ended already, and its successor is not there yet
        verbs: dict[str, Callable[[], None]] = {
            "kill": lambda: os.kill(pid, signal.SIGKILL),
            "stop": lambda: os.kill(pid, signal.SIGTERM),
            "freeze": lambda: self._freeze(pid, seconds),
        }
        with suppress(ProcessLookupError):
            verbs[verb]()

    def _freeze(self, pid: int, seconds: float) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def _kill_machine(self) -> None:
        process, children = self._machine.process, self._machine.children().values()
        assert process is not None
        process.kill()
        process.wait()
        until(lambda: not any(map(is_alive, children)), "the children to follow the supervisor")
        self._machine.start()
        until(lambda: self._machine.children().keys() and self._machine.said("gateway is up"), "the next supervisor")


def parent_of(pid: int) -> int | None:
    """The pid of its parent; None when it is no more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1]) if is_alive(pid) else None
