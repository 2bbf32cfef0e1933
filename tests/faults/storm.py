"""`python -m tests.faults.storm --seed N --seconds S`: a gateway under load while things go wrong; the seven counts.

Exits with 0 when nothing was lost, doubled, let in, stuck or came from nowhere.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import msgspec

from gateway.runs import TERMINAL
from tests.acceptance.machine import CALLBACK_SECRET, CI_SECRET, Ledger, Listener, Machine, until
from tests.faults.crowd import Crowd
from tests.faults.ledgers import Counts, Evidence, answered_keys, count, is_good, key_of, sent_keys
from tests.faults.nemesis import ALL, Nemesis

SETTLING = 60.0


class Storm(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, and how hard. `pause` is how long, on average, the nemesis rests; `haste` what a client waits at most."""

    seed: int
    seconds: float = 10.0
    clients: int = 4
    receivers: int = 1
    workers: int = 2
    lease: float = 2.0
    acts: tuple[str, ...] = ALL
    pause: float = 1.0
    haste: float = 0.1


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    counts: Counts
    acts: dict[str, int]
    codes: dict[str, int]
    runs: int
    settled_in: float
    leaks: int


def run_storm(storm: Storm, folder: Path) -> Report:
    """Load and faults for a while, then peace: everything settles, what got no 2xx is sent again, and it is counted."""
    settings = {"receivers": storm.receivers, "workers": storm.workers, "lease": storm.lease, "max_lost": 1000}
    settings["callback_timeout"] = 1
    with (
        closing(Ledger(folder / "sent.log")) as sent,
        closing(Listener(folder)) as listener,
        closing(Machine(folder, listener, grace=2, **settings)) as machine,
    ):
        machine.start().wait_ready()
        crowd = Crowd(machine, sent, storm.seed, storm.clients, storm.haste)
        nemesis = Nemesis(machine, storm.seed, storm.acts, storm.pause)
        _rage(crowd, nemesis, storm.seconds)
        began = time.monotonic()
        machine.wait_ready()
        _settle(machine, listener)
        unsure = _resend(machine, crowd, sent)
        _settle(machine, listener)
        evidence = Evidence(sent.read(), machine.effects(), listener.messages(), machine.runs(), unsure)
        return Report(
            counts=count(evidence),
            acts=dict(nemesis.done),
            codes=_codes(sent),
            runs=len(evidence.runs),
            settled_in=time.monotonic() - began,
            leaks=_leaks(machine),
        )


def _rage(crowd: Crowd, nemesis: Nemesis, seconds: float) -> None:
    crowd.start()
    nemesis.start()
    time.sleep(seconds)
    nemesis.stop()
    crowd.stop()


def _settle(machine: Machine, listener: Listener) -> None:
    """Until every run has ended and told so, or a minute is over: the counts will tell what is left."""

    def is_quiet() -> bool:
        runs = machine.runs()
        told = {line["run"] for line in listener.messages() if line["valid"] and is_good(line["answer"])}
        return all(run.state in TERMINAL and run.id in told for run in runs)

    try:
        until(is_quiet, "peace", SETTLING)
    except AssertionError as error:
        sys.stderr.write(f"{error}\n")


def _resend(machine: Machine, crowd: Crowd, sent: Ledger) -> int:
    unanswered = sent_keys(sent.read()) - answered_keys(sent.read())
    unsure = unanswered & {key_of(run) for run in machine.runs()}
    crowd.resend(unanswered)
    return len(unsure)


def _codes(sent: Ledger) -> dict[str, int]:
    return dict(Counter(f"{line['kind']} {line['code'] or 'no answer'}" for line in sent.read()))


def _leaks(machine: Machine) -> int:
    """Lines of the log that hold a secret or a body's words."""
    canaries = (CI_SECRET, CALLBACK_SECRET, CALLBACK_SECRET.removeprefix("whsec_"), "a task", "sha256=")
    return sum(any(canary in line for canary in canaries) for line in machine.log.read_text().splitlines())


def show(storm: Storm, report: Report) -> str:
    """The report as a table."""
    counts = msgspec.structs.asdict(report.counts)
    head = "  ".join(f"{name.upper().replace('_', ' '):>7}" for name in counts)
    row = "  ".join(f"{value:>7}" for value in counts.values())
    rest = [
        f"seed {storm.seed}, {storm.seconds:g} s, {report.runs} runs, settled in {report.settled_in:.1f} s",
        "faults: " + ", ".join(f"{name} {times}" for name, times in sorted(report.acts.items())),
        "answers: " + ", ".join(f"{name} {times}" for name, times in sorted(report.codes.items())),
        f"log lines with a secret or a body: {report.leaks}",
    ]
    return "\n".join([head, row, *rest])


def _read_arguments() -> tuple[Storm, Path | None]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    for name, kind in (("seconds", float), ("clients", int), ("receivers", int), ("workers", int), ("pause", float)):
        parser.add_argument(f"--{name}", type=kind, default=getattr(Storm(seed=0), name))
    parser.add_argument("--acts", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--folder", type=Path, help="keep the ledgers and logs here")
    given = vars(parser.parse_args())
    folder = given.pop("folder")
    return Storm(**given | {"acts": tuple(given["acts"])}), folder


def main() -> int:
    storm, folder = _read_arguments()
    with tempfile.TemporaryDirectory(prefix="storm-") as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        report = run_storm(storm, place)
    sys.stdout.write(show(storm, report) + "\n")
    return 0 if report.counts.harmless and not report.leaks else 1


if __name__ == "__main__":
    sys.exit(main())
