"""`python -m tests.faults.cuts --seed N --seconds S`: the way from the receiver to Valkey, cut at every packet.

A proxy between them cuts or holds back the n-th packet, n = 1 to 20, in each direction, after a part of it that the
seed chooses, while orders come in. No 2xx may be given to what is not stored, no order may be refused for good, and
what is sent again must not be stored twice. Goes round until the time is up, at least once.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import closing, suppress
from pathlib import Path

from msgspec import Struct

from tests.acceptance.machine import Answer, Machine, Valkey, order, orqo_headers, read_runs, until
from tests.faults.ledgers import is_good, key_of
from tests.faults.proxy import Deed, Harm, Proxy, Way

PACKETS = range(1, 21)
WAYS: tuple[Way, ...] = ("to server", "to client")
DEEDS: tuple[Deed, ...] = ("cut", "pause")
ACCEPT_TIMEOUT = 0.4
PAUSE = 0.7
SIDE_BY_SIDE = 4
MOST_ORDERS = 60


class Tally(Struct):
    """What came of all cases. `unstored` are 2xx without a run, `doubled` orders with several, `refused` answers
    that put the blame on the sender, `hung` requests answered late."""

    cases: int = 0
    missed: int = 0
    orders: int = 0
    unstored: int = 0
    doubled: int = 0
    refused: int = 0
    hung: int = 0
    unavailable: int = 0
    unsure: int = 0

    @property
    def harmless(self) -> bool:
        return not (self.unstored or self.doubled or self.refused or self.hung)


async def run_cuts(seed: int, seconds: float, folder: Path) -> Tally:
    """Every case once, and again until the time is up."""
    over = time.monotonic() + seconds
    with closing(Valkey(folder, "--appendonly", "yes", "--appendfsync", "always")) as valkey:
        async with Proxy(valkey.port).open() as proxy:
            url = valkey.url.replace(str(valkey.port), str(proxy.port))
            machine = Machine(folder, redis_url=url, accept_timeout=ACCEPT_TIMEOUT, egress_allow="")
            with closing(machine):
                await asyncio.to_thread(_open_receiver, machine)
                case = _Case(machine, proxy, valkey.url, random.Random(seed), Tally())
                await _go_round(case, 0)
                turn = 0
                while time.monotonic() < over:
                    turn += 1
                    await _go_round(case, turn)
                case.tally.doubled = await asyncio.to_thread(_count_doubled, case)
                return case.tally


def _open_receiver(machine: Machine) -> None:
    assert machine.run("apply").returncode == 0
    machine.start("serve")
    until(lambda: _is_live(machine), "the receiver")


def _is_live(machine: Machine) -> bool:
    with suppress(OSError):
        return machine.get("/livez").status == 200
    return False


class _Case(Struct):
    """What every case needs, and what all of them together have found out."""

    machine: Machine
    proxy: Proxy
    direct_url: str
    chance: random.Random
    tally: Tally
    judged: int = 0
    """The last run of the case before."""
    told: dict[str, set[int]] = {}
    """Each key's run ids, by the answers."""


async def _go_round(case: _Case, turn: int) -> None:
    cases = list(itertools.product(PACKETS, WAYS, DEEDS))
    case.chance.shuffle(cases)
    for number, way, deed in cases:
        harm = Harm(number, way, deed, case.chance.choice([0, 0.5, 1, case.chance.random()]), PAUSE)
        await _try(case, harm, f"{turn}/{number}/{way}/{deed}")


async def _try(case: _Case, harm: Harm, name: str) -> None:
    """Order until the harm has been done and a little longer; then see what is stored, and send all of it again."""
    case.proxy.arm(harm)
    orders: dict[str, bytes] = {}
    answers: dict[str, Answer] = {}
    while len(orders) < MOST_ORDERS and not case.proxy.done:
        more = _new_orders(case, name, len(orders))
        orders |= more
        answers |= await _send(case, more)
    last = _new_orders(case, name, len(orders))
    orders |= last
    answers |= await _send(case, last)
    case.tally.missed += not case.proxy.done
    case.proxy.arm(None)
    await _judge(case, orders, answers)


def _new_orders(case: _Case, name: str, first: int) -> dict[str, bytes]:
    padding = case.chance.choice(["", "", "x" * 40_000])
    keys = [f"{name}/{number}" for number in range(first, first + SIDE_BY_SIDE)]
    return {key: order(key, 19, padding=padding) for key in keys}


async def _send(case: _Case, orders: dict[str, bytes]) -> dict[str, Answer]:
    def post(key: str, body: bytes) -> Answer:
        began = time.monotonic()
        answer = case.machine.post(body, headers=orqo_headers(body) | {"Idempotency-Key": key})
        case.tally.hung += time.monotonic() - began > ACCEPT_TIMEOUT + 1
        return answer

    answers = await asyncio.gather(*(asyncio.to_thread(post, key, body) for key, body in orders.items()))
    return dict(zip(orders, answers, strict=True))


async def _judge(case: _Case, orders: dict[str, bytes], answers: dict[str, Answer]) -> None:
    tally = case.tally
    runs = await asyncio.to_thread(read_runs, case.direct_url, case.judged + 1)
    case.judged = max((run.id for run in runs), default=case.judged)
    found = {key_of(run) for run in runs}
    again = await _send(case, orders)
    tally.cases += 1
    tally.orders += len(orders)
    for key, answer in [*answers.items(), *again.items()]:
        unavailable = answer.status == 503 and "retry-after" in answer.headers
        tally.unavailable += unavailable
        tally.refused += not (unavailable or answer.status == 200)
        if is_good(answer.status):
            case.told.setdefault(key, set()).add(answer.json()["run_id"])
    for key, answer in answers.items():
        tally.unstored += is_good(answer.status) and key not in found
        tally.unsure += not is_good(answer.status) and key in found


def _count_doubled(case: _Case) -> int:
    """Only now: a packet that was held back may have stored what was sent again meanwhile."""
    runs: dict[str, set[int]] = defaultdict(set)
    for run in read_runs(case.direct_url):
        runs[key_of(run)].add(run.id)
    return sum(len(told | runs[key]) != 1 for key, told in case.told.items())


def show(seed: int, tally: Tally) -> str:
    names = list(tally.__struct_fields__)
    head = "  ".join(f"{name.upper():>11}" for name in names)
    row = "  ".join(f"{getattr(tally, name):>11}" for name in names)
    return f"{head}\n{row}\nseed {seed}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cuts-") as folder:
        tally = asyncio.run(run_cuts(given.seed, given.seconds, Path(folder)))
    sys.stdout.write(show(given.seed, tally) + "\n")
    return 0 if tally.harmless else 1


if __name__ == "__main__":
    sys.exit(main())
