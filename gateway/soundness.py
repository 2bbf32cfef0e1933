"""Is this installation sound? Judgements of gathered values, each a line with what to do. Silent: nothing is asked here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Final, Literal

from msgspec import Struct

from gateway.egress import Policy, check_url
from gateway.metrics import StoreFigures

Level = Literal["good", "doubtful", "bad"]

GIB: Final = 2**30
CLOCK_DOUBTFUL: Final = 2.0
CLOCK_BAD: Final = 30.0
"""Seconds between this machine's clock and Valkey's: signatures are judged by the one, what is due by the other."""
OLD_QUEUE: Final = 300.0
OLD_SWEEP: Final = 600.0
SHORT_SECRET: Final = 16
MANY_REFUSED: Final = 3
METADATA: Final = ip_address("169.254.169.254")


class Remark(Struct, frozen=True):
    """One thing that was looked at: how it is, and what to do where it is not good."""

    name: str
    level: Level
    text: str
    change: str = ""


class Folder(Struct, frozen=True, kw_only=True):
    """The data directory, as this process finds it; `key_mode` are the permission bits of the master key's file."""

    path: str
    exists: bool
    writable: bool
    free: int
    total: int
    key_mode: int | None = None
    key_given: bool = False
    key_problem: str | None = None


class Store(Struct, frozen=True, kw_only=True):
    """The server, as far as it answers. `clock` is how many seconds this machine's clock is ahead of it."""

    embedded: bool
    unreachable: str | None = None
    server: str = ""
    complaints: Sequence[str] = ()
    writable: bool = False
    clock: float = 0.0
    run_worker_age: float | None = None
    callback_worker_age: float | None = None
    figures: StoreFigures | None = None
    orphaned: Sequence[int] = ()
    """Runs that are said to be running while nobody holds them and no job will."""


class Sender(Struct, frozen=True, kw_only=True):
    """An app: why it refuses everything, what is doubtful of its secrets, and what became of its last deliveries."""

    name: str
    disabled: bool = False
    problem: str | None = None
    unproven: bool = False
    short: Sequence[str] = ()
    callback_url: str | None = None
    callback_problem: str | None = None
    refused: int = 0
    accepted: int = 0


class Endpoint(Struct, frozen=True):
    """A callback's URL: how many were given up lately, and the last mistake."""

    url: str
    failed: int
    last: str


class File(Struct, frozen=True, kw_only=True):
    """gateway.yaml: its mistakes, and what it says that is not published (None: could not be compared)."""

    path: str
    found: bool
    mistakes: Sequence[str] = ()
    differences: Sequence[str] | None = None


class Facts(Struct, frozen=True, kw_only=True):
    """All that was gathered. `receiver` is why the receiver does not answer, None when it does."""

    folder: Folder
    store: Store
    file: File
    lease: float
    address: str
    receiver: str | None
    senders: Sequence[Sender]
    endpoints: Sequence[Endpoint]
    policy: Policy
    modules: Mapping[str, bool]


def judge(facts: Facts) -> list[Remark]:
    """Every remark, in the order in which things depend on each other."""
    return [remark for look in LOOKS for remark in look(facts)]


def is_sound(remarks: Sequence[Remark]) -> bool:
    """Whether nothing is bad."""
    return not any(remark.level == "bad" for remark in remarks)


def look_at_folder(facts: Facts) -> Iterator[Remark]:
    folder = facts.folder
    if not folder.exists:
        if facts.store.embedded:
            yield Remark(
                "data", "bad", f"There is no {folder.path}.", "`gateway up` makes it; or set GATEWAY_DATA_DIR."
            )
    elif not folder.writable:
        yield Remark("data", "bad", f"{folder.path} can't be written.", "Mend its owner or permissions.")
    else:
        yield Remark("data", "good", f"{folder.path} can be written.")
    share = folder.free / folder.total if folder.total else 1.0
    text = f"{folder.free / GIB:.1f} GiB are free, {share:.0%}."
    if folder.free < 0.2 * GIB:
        yield Remark("disk", "bad", text, "Make room: a full disk stops Valkey from taking events.")
    elif folder.free < GIB or share < 0.05:
        yield Remark("disk", "doubtful", text, "Make room soon: a full disk stops Valkey from taking events.")
    else:
        yield Remark("disk", "good", text)


def look_at_key(facts: Facts) -> Iterator[Remark]:
    folder = facts.folder
    if folder.key_problem is not None:
        yield Remark("master key", "bad", folder.key_problem, "Give the key that the stored secrets were sealed under.")
    elif folder.key_mode is not None and folder.key_mode & 0o077:
        text = f"master.key has mode {folder.key_mode:04o}: others on this machine can read it."
        yield Remark("master key", "bad", text, f"chmod 600 {folder.path}/master.key")
    elif folder.key_mode is not None or folder.key_given:
        yield Remark("master key", "good", "There is a master key, and only its owner reads it.")
    else:
        change = "`gateway up` makes one; with several machines, give all the same GATEWAY_MASTER_KEYS."
        yield Remark("master key", "doubtful", "There is no master key: secrets can't be kept.", change)


def look_at_store(facts: Facts) -> Iterator[Remark]:
    store = facts.store
    if store.unreachable is not None:
        change = "Start `gateway up`." if store.embedded else "See that it runs, and that GATEWAY_REDIS_URL is right."
        yield Remark("store", "bad", f"Valkey does not answer: {store.unreachable}", change)
        return
    for complaint in store.complaints:
        yield Remark("store", "bad", f"Events could be lost: {complaint}", "Change that in the server's configuration.")
    if not store.writable:
        yield Remark("store", "bad", "Valkey takes no writes.", "Look at its log: disk full, read-only replica?")
    elif not store.complaints:
        yield Remark("store", "good", f"{store.server} answers, takes writes, and is durable.")
    yield _judge_clock(store.clock)


def _judge_clock(ahead: float) -> Remark:
    words = "ahead of" if ahead > 0 else "behind"
    text = f"This machine's clock is {abs(ahead):.1f} s {words} Valkey's."
    if abs(ahead) < CLOCK_DOUBTFUL:
        return Remark("clock", "good", text)
    level: Level = "bad" if abs(ahead) >= CLOCK_BAD else "doubtful"
    return Remark("clock", level, text, "Set both clocks (NTP): senders' signatures are refused by a wrong one.")


def look_at_processes(facts: Facts) -> Iterator[Remark]:
    store = facts.store
    if facts.receiver is None:
        yield Remark("receiver", "good", f"{facts.address} answers.")
    else:
        # Without an embedded server the receivers may well be on other machines.
        level: Level = "bad" if store.embedded else "doubtful"
        text = f"No receiver that is ready answers at {facts.address}: {facts.receiver}"
        yield Remark(
            "receiver", level, text, "Start `gateway up` or `gateway serve`, or set GATEWAY_HOST and GATEWAY_PORT."
        )
    if store.unreachable is None:
        yield _judge_worker("runs", store.run_worker_age, facts.lease)
        yield _judge_worker("callbacks", store.callback_worker_age, facts.lease)


def _judge_worker(queue: str, age: float | None, lease: float) -> Remark:
    limit = lease + 2.0
    if age is not None and age <= limit:
        return Remark("workers", "good", f"A worker looked for {queue} {age:.1f} s ago.")
    text = f"No worker looks for {queue}" + ("." if age is None else f"; the last did {age:.0f} s ago.")
    return Remark("workers", "bad", text, "Start `gateway up` or `gateway worker`, and look at the worker's log.")


def look_at_queue(facts: Facts) -> Iterator[Remark]:
    figures = facts.store.figures
    if figures is None:
        return
    # What a workflow's own rules hold back (concurrency, a batch) may wait for long, and rightly.
    oldest = figures.oldest_pending.get("queue", 0.0)
    waiting = f"{figures.depths.get('runs', 0)} runs and {figures.depths.get('callbacks', 0)} callbacks are queued"
    text = f"{waiting}; the oldest run that could begin waits for {oldest:.0f} s."
    if oldest > OLD_QUEUE:
        change = "`gateway run show` of a pending run says what holds it up; more workers: GATEWAY_WORKERS."
        yield Remark("queue", "doubtful", text, change)
    else:
        yield Remark("queue", "good", text)
    if facts.store.orphaned:
        few = ", ".join(map(str, facts.store.orphaned[:5]))
        text = f"{len(facts.store.orphaned)} runs are running by their record, and no worker holds them: {few}."
        yield Remark(
            "stuck runs", "doubtful", text, "The sweep of a worker takes them up within a minute: is one running?"
        )
    if figures.sweep_age is not None and figures.sweep_age > OLD_SWEEP:
        text = f"The last sweep ended {figures.sweep_age / 60:.0f} min ago."
        yield Remark("sweep", "doubtful", text, "A running worker sweeps each minute: look at its log.")
    if figures.archive_failed:
        text = "The archive can't be written, so nothing is removed."
        yield Remark("archive", "bad", text, "Make room in GATEWAY_ARCHIVE_DIR, or mend its permissions.")


def look_at_file(facts: Facts) -> Iterator[Remark]:
    file = facts.file
    if not file.found:
        yield Remark(
            "file", "doubtful", f"There is no {file.path}.", "`gateway init` makes one; or set GATEWAY_CONFIG."
        )
        return
    for mistake in file.mistakes[:10]:
        yield Remark("file", "bad", f"{file.path}: {mistake}", "Until it is mended, what was published before stays.")
    if file.mistakes:
        return
    if file.differences:
        text = f"{file.path} says something else than is published: {', '.join(file.differences[:10])}."
        yield Remark("file", "doubtful", text, "`gateway plan` shows it, `gateway apply` publishes it.")
    else:
        same = "" if file.differences is None else ", and is what is published"
        yield Remark("file", "good", f"{file.path} has no mistakes{same}.")


def look_at_senders(facts: Facts) -> Iterator[Remark]:
    usable = 0
    for sender in facts.senders:
        found = list(_judge_sender(sender, facts.policy))
        usable += not found and not sender.disabled
        yield from found
    if facts.senders and usable:
        yield Remark("apps", "good", f"{usable} of {len(facts.senders)} apps have all they need.")


def _judge_sender(sender: Sender, policy: Policy) -> Iterator[Remark]:
    name = f"app {sender.name}"
    if sender.disabled:
        return
    if sender.problem is not None:
        change = "Set it where the receiver runs (this is how it looks from here), and start the receiver again."
        yield Remark(name, "bad", f"It refuses every request: {sender.problem}.", change)
    elif sender.refused >= MANY_REFUSED and not sender.accepted:
        text = f"It refused its last {sender.refused} deliveries and accepted none."
        yield Remark(name, "doubtful", text, "`gateway doctor EVENT` with one of them says why.")
    if sender.unproven:
        text = "It accepts anybody: `verify: none`."
        yield Remark(name, "doubtful", text, "Give it a scheme and a secret, unless its sender can do neither.")
    for label in sender.short:
        text = f"Its secret ({label}) is shorter than {SHORT_SECRET} bytes, so that it can be guessed."
        yield Remark(name, "doubtful", text, "Make a longer one: `openssl rand -hex 32`.")
    if sender.callback_problem is not None:
        yield Remark(
            name, "bad", f"Its callbacks are not sent: {sender.callback_problem}.", "Set it where the workers run."
        )
    refusal = sender.callback_url and check_url(policy, sender.callback_url)
    if refusal:
        change = "Use an https URL, or let GATEWAY_EGRESS_ALLOW name the network."
        yield Remark(name, "bad", f"Its callbacks can't be sent: {refusal}", change)


def look_at_endpoints(facts: Facts) -> Iterator[Remark]:
    for endpoint in facts.endpoints:
        text = f"{endpoint.failed} callbacks to {endpoint.url} were given up in the last day; the last: {endpoint.last}"
        yield Remark("callbacks", "doubtful", text, "Mend the receiver, then `gateway callback redeliver`.")


def look_at_egress(facts: Facts) -> Iterator[Remark]:
    for network in facts.policy.allow:
        if network.prefixlen == 0:
            text = f"GATEWAY_EGRESS_ALLOW opens everything ({network}): workflows can reach all inside."
            yield Remark("egress", "doubtful", text, "Name only the networks that are needed.")
            continue
        if METADATA in network:
            text = f"GATEWAY_EGRESS_ALLOW ({network}) opens the cloud's metadata service, which gives out credentials."
            yield Remark("egress", "doubtful", text, f"Leave {METADATA} out.")


def look_at_modules(facts: Facts) -> Iterator[Remark]:
    missing = [name for name, present in facts.modules.items() if not present]
    if missing:
        change = f"pip install {' '.join(missing)}"
        yield Remark("modules", "doubtful", f"{', '.join(missing)} not there: the gateway is slower.", change)
    else:
        yield Remark("modules", "good", f"{', '.join(facts.modules)} are there.")


LOOKS: Final[tuple[Callable[[Facts], Iterator[Remark]], ...]] = (
    look_at_folder,
    look_at_key,
    look_at_store,
    look_at_processes,
    look_at_queue,
    look_at_file,
    look_at_senders,
    look_at_endpoints,
    look_at_egress,
    look_at_modules,
)
