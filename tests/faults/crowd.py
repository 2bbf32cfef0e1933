"""Senders: they order, repeat themselves, and among them are forgers. Each request is written down."""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Callable

from tests.acceptance.machine import Ledger, Machine, order, orqo_headers

MOST_SECONDS = 0.08
"""The longest that a step takes."""


class Crowd:
    """Clients in threads of their own, each with chances of its own from the seed, until told to stop."""

    def __init__(self, machine: Machine, sent: Ledger, seed: int, clients: int, pause: float) -> None:
        self._machine = machine
        self._sent = sent
        self._pause = pause
        self._over = threading.Event()
        self.bodies: dict[str, bytes] = {}
        self._answered: list[str] = []
        self._threads = [
            threading.Thread(target=self._go_on, args=(number, random.Random(f"{seed}:{number}")), daemon=True)
            for number in range(clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send nothing more; what is under way gets its answer."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def resend(self, keys: set[str]) -> None:
        """Send these orders again, as a sender does that got no 2xx."""
        for key in sorted(keys):
            self._post("repeat", key, self.bodies[key])

    def _go_on(self, number: int, chance: random.Random) -> None:
        acts: list[Callable[[random.Random, str], None]] = [self._order, self._repeat, self._forge, self._differ]
        turn = 0
        while not self._over.wait(chance.uniform(0, self._pause)):
            turn += 1
            (act,) = chance.choices(acts, weights=(80, 8, 8, 4))
            act(chance, f"{number}-{turn}")

    def _order(self, chance: random.Random, key: str) -> None:
        self.bodies[key] = order(key, seconds=chance.uniform(0, MOST_SECONDS))
        if self._post("order", key, self.bodies[key]) == 200:
            self._answered.append(key)

    def _repeat(self, chance: random.Random, _: str) -> None:
        if self._answered:
            key = chance.choice(self._answered)
            self._post("repeat", key, self.bodies[key])

    def _differ(self, chance: random.Random, _: str) -> None:
        if self._answered:
            key = chance.choice(self._answered)
            self._post("other body", key, self.bodies[key] + b" ")

    def _forge(self, chance: random.Random, key: str) -> None:
        body = order(f"forged-{key}")
        right = orqo_headers(body)
        wrong = [
            {"Content-Type": "application/json"},
            orqo_headers(body, "another-secret-0123456789"),
            orqo_headers(body + b" "),
            right | {"X-Signature-256": right["X-Signature-256"].replace("sha256=", "sha1=")},
            right | {"X-Signature-256": right["X-Signature-256"][:-2]},
            right | {"X-Signature-256": "sha256="},
        ]
        self._post("forged", f"forged-{key}", body, chance.choice(wrong))

    def _post(self, kind: str, key: str, body: bytes, headers: dict[str, str] | None = None) -> int | None:
        given = (orqo_headers(body) if headers is None else headers) | {"Idempotency-Key": key}
        try:
            answer = self._machine.post(body, headers=given)
        except (OSError, http.client.HTTPException):
            self._sent.write(kind=kind, key=key, code=None, run=None)
            return None
        run = answer.json()["run_id"] if answer.status == 200 else None
        self._sent.write(kind=kind, key=key, code=answer.status, run=run)
        return answer.status
