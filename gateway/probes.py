"""Probes: what a webhook receiver is sent to find out whether it can be relied on, and what its answers are worth. Silent.

Each trial is a row of `TRIALS`: one thing that senders or attackers do, the deliveries that do it, and what a
receiver should make of them. A trial that a scheme has no way to do (a stale delivery where no time is signed) is left
out. Sources: Standard Webhooks 1.0, "Verifying webhooks" and "Deliverability"; the requests of the reliability tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.errors import ConfigError
from gateway.signatures import Request, Scheme, sign

DAY = 86_400.0
OVERSIZE = 32 * 1024 * 1024
DRIP = 0.5
"""Seconds between two pieces of the body that comes slowly."""
LONGEST_DRIP = 40.0
"""Seconds after which a receiver should have let go of a body that does not end."""
UNKNOWN_TYPE = "gateway.probe.unknown"
MARK = "probe"


class Shot(msgspec.Struct, frozen=True):
    """One request to send. With `pause` its body comes in small pieces, so many seconds apart, and never ends."""

    headers: tuple[tuple[str, str], ...]
    body: bytes
    pause: float = 0.0


class Outcome(msgspec.Struct, frozen=True):
    """What came of a shot: a status and the body's first bytes, or None and why there is none."""

    status: int | None
    seconds: float
    body: bytes = b""
    error: str = ""

    @property
    def is_accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_refused(self) -> bool:
        return self.status is not None and 400 <= self.status < 500

    @property
    def words(self) -> str:
        """What to say of it."""
        return self.error or f"{self.status} in {self.seconds * 1000:.0f} ms"


class Means(msgspec.Struct, frozen=True):
    """What deliveries are made of. `noise` gives new text each time; `old_secret` is one that is still valid."""

    scheme: Scheme
    secret: str
    url: str
    data: bytes
    now: float
    noise: Callable[[], str]
    old_secret: str | None = None
    patience: float = 5.0
    """Seconds a sender waits for an answer."""


class Trial(msgspec.Struct, frozen=True):
    """One row: `shots` gives None where the scheme can't do it; `complaint` gives None where the receiver did well."""

    name: str
    wanted: str
    shots: Callable[[Means], tuple[Shot, ...] | None]
    complaint: Callable[[Means, Sequence[Outcome]], str | None]


class Mark(msgspec.Struct, frozen=True):
    """How a receiver did in one trial."""

    name: str
    wanted: str
    passed: bool
    answers: tuple[str, ...]
    complaint: str | None = None


def grade(trial: Trial, means: Means, outcomes: Sequence[Outcome]) -> Mark:
    """The mark for a trial that was done."""
    complaint = trial.complaint(means, outcomes)
    return Mark(trial.name, trial.wanted, complaint is None, tuple(each.words for each in outcomes), complaint)


# ---- the deliveries


def good(means: Means) -> tuple[Shot, ...]:
    return (deliver(means),)


def unsigned(means: Means) -> tuple[Shot, ...] | None:
    if means.scheme.kind == "none":
        return None
    return (Shot(plain_headers(), marked(means)),)


def forged(means: Means) -> tuple[Shot, ...] | None:
    """Signed with a secret that nobody gave out, of the right form."""
    other = other_secret(means)
    return None if other is None else (deliver(means, secret=other),)


def tampered(means: Means) -> tuple[Shot, ...] | None:
    if not signs_body(means.scheme):
        return None
    shot = deliver(means)
    return (msgspec.structs.replace(shot, body=shot.body + b" "),)


def stale(means: Means) -> tuple[Shot, ...] | None:
    timing = means.scheme.timestamp
    return None if timing is None else (deliver(means, now=means.now - timing.tolerance - DAY),)


def early(means: Means) -> tuple[Shot, ...] | None:
    timing = means.scheme.timestamp
    return None if timing is None else (deliver(means, now=means.now + timing.future + DAY),)


def doubled(means: Means) -> tuple[Shot, ...]:
    """A sender without ids of its own says by a key what is the same."""
    shot = deliver(means)
    if not means.scheme.plan.id_sources:
        shot = msgspec.structs.replace(shot, headers=(*shot.headers, ("idempotency-key", means.noise())))
    return (shot, shot)


def changed_under_one_id(means: Means) -> tuple[Shot, ...] | None:
    """The same delivery id with another body; only where the id is signed, so that it is the sender's word."""
    if not means.scheme.plan.id_sources or not means.scheme.signed_id or not signs_body(means.scheme):
        return None
    if any(source.kind == "body" for source in means.scheme.plan.id_sources):
        return None
    identity = f"msg_{means.noise()}"
    return (deliver(means, identity=identity), deliver(means, identity=identity))


def rotated(means: Means) -> tuple[Shot, ...] | None:
    """Two signatures in one header, the right one last."""
    other = other_secret(means)
    if means.scheme.list is None or other is None:
        return None
    body, identity, header = marked(means), f"msg_{means.noise()}", (means.scheme.header or "").lower()
    wrong, right = (deliver(means, secret=secret, body=body, identity=identity) for secret in (other, means.secret))
    values = [dict(shot.headers)[header] for shot in (wrong, right)]
    both = join_signatures(means.scheme, *values)
    return (Shot(tuple((name, both if name == header else value) for name, value in right.headers), body),)


def before_rotation(means: Means) -> tuple[Shot, ...] | None:
    return None if means.old_secret is None else (deliver(means, secret=means.old_secret),)


def unknown_version(means: Means) -> tuple[Shot, ...] | None:
    """A right signature under a version that nobody knows."""
    form = means.scheme.list
    if form is None:
        return None
    shot, header = deliver(means), (means.scheme.header or "").lower()
    known, unknown = f"{form.sig_key}{form.kv_sep}", f"v0x{form.kv_sep}"
    return (
        msgspec.structs.replace(
            shot,
            headers=tuple(
                (name, value.replace(known, unknown) if name == header else value) for name, value in shot.headers
            ),
        ),
    )


def unknown_type(means: Means) -> tuple[Shot, ...] | None:
    source = means.scheme.plan.type_source
    if source is None or (source.kind == "body" and "." in source.name):
        return None
    if source.kind == "header":
        shot = deliver(means)
        others = tuple(pair for pair in shot.headers if pair[0] != source.name)
        return (msgspec.structs.replace(shot, headers=(*others, (source.name, UNKNOWN_TYPE))),)
    body = with_field(marked(means), source.name, UNKNOWN_TYPE)
    return None if body is None else (deliver(means, body=body),)


def garbage(means: Means) -> tuple[Shot, ...] | None:
    """Well signed, and not what its content type says."""
    return (deliver(means, body=b'{"half": '),) if signs_plain_body(means.scheme) else None


def oversize(means: Means) -> tuple[Shot, ...] | None:
    body = b'{"much": "' + b"x" * OVERSIZE + b'"}'
    return (deliver(means, body=body),) if signs_plain_body(means.scheme) else None


def slow(means: Means) -> tuple[Shot, ...]:
    """A body that never ends, and beside it a delivery as ever."""
    return (msgspec.structs.replace(deliver(means), pause=DRIP), deliver(means))


# ---- what the answers are worth


def accept_in_time(means: Means, outcomes: Sequence[Outcome]) -> str | None:
    for each in outcomes:
        if not each.is_accepted:
            return f"it should be a 2xx, and is {each.words}"
        if each.seconds > means.patience:
            return f"the answer took {each.seconds:.1f} s; senders wait {means.patience:g} s"
    return None


def refuse_all(means: Means, outcomes: Sequence[Outcome]) -> str | None:
    wrong = next((each for each in outcomes if not each.is_refused), None)
    return None if wrong is None else f"it should be a 4xx, and is {wrong.words}"


def answer_alike(means: Means, outcomes: Sequence[Outcome]) -> str | None:
    first, second = outcomes
    if complaint := accept_in_time(means, outcomes):
        return complaint
    same = first.body == second.body and first.status == second.status
    return None if same else "the second coming was answered otherwise: did it start something again?"


def refuse_the_second(means: Means, outcomes: Sequence[Outcome]) -> str | None:
    first, second = outcomes
    if not first.is_accepted:
        return f"the first should be a 2xx, and is {first.words}"
    same = second.is_accepted and second.body == first.body
    return None if second.is_refused or same else f"another body under the same id is taken: {second.words}"


def cut_off(means: Means, outcomes: Sequence[Outcome]) -> str | None:
    """A refusal, or a hang-up."""
    (outcome,) = outcomes
    fine = outcome.is_refused or (outcome.status is None and outcome.seconds < LONGEST_DRIP)
    return None if fine else f"it should be cut off with a 4xx, and is {outcome.words}"


def let_go(means: Means, outcomes: Sequence[Outcome]) -> str | None:
    dripping, other = outcomes
    if complaint := accept_in_time(means, (other,)):
        return f"a delivery beside it suffers: {complaint}"
    if dripping.is_accepted:
        return "half a body is accepted"
    late = dripping.seconds >= LONGEST_DRIP
    return f"it holds on to it for more than {LONGEST_DRIP:g} s" if late else None


TRIALS: Final[tuple[Trial, ...]] = (
    Trial("good", "2xx, in time", good, accept_in_time),
    Trial("unsigned", "4xx", unsigned, refuse_all),
    Trial("wrong secret", "4xx", forged, refuse_all),
    Trial("changed body", "4xx", tampered, refuse_all),
    Trial("stale", "4xx", stale, refuse_all),
    Trial("from the future", "4xx", early, refuse_all),
    Trial("unknown version", "4xx", unknown_version, refuse_all),
    Trial("delivered twice", "the same 2xx", doubled, answer_alike),
    Trial("one id, two bodies", "2xx, then 4xx", changed_under_one_id, refuse_the_second),
    Trial("two signatures", "2xx", rotated, accept_in_time),
    Trial("the old secret", "2xx", before_rotation, accept_in_time),
    Trial("unknown type", "2xx", unknown_type, accept_in_time),
    Trial("not JSON", "4xx", garbage, refuse_all),
    Trial("oversize", "4xx", oversize, cut_off),
    Trial("slow", "cut off; others unharmed", slow, let_go),
)


# ---- pieces


def deliver(
    means: Means,
    *,
    secret: str | None = None,
    now: float | None = None,
    body: bytes | None = None,
    identity: str | None = None,
) -> Shot:
    """A delivery as the sender makes it, but for what is given. Raises ConfigError where it can't be signed."""
    content = marked(means) if body is None else body
    request = Request("POST", means.url, plain_headers(), content)
    moment = means.now if now is None else now
    added = sign(means.scheme, secret or means.secret, request, moment, identity or f"msg_{means.noise()}")
    return Shot((*plain_headers(), *((name.lower(), value) for name, value in added)), content)


def plain_headers() -> tuple[tuple[str, str], ...]:
    return (("content-type", "application/json"), ("user-agent", "gateway-probe"))


def marked(means: Means) -> bytes:
    """The data with a mark that makes it another body each time."""
    return with_field(means.data, MARK, means.noise()) or means.data


def with_field(body: bytes, name: str, value: str) -> bytes | None:
    """A JSON object with one more field, or None where it is no object."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return msgspec.json.encode({**document, name: value}) if isinstance(document, dict) else None


def other_secret(means: Means) -> str | None:
    """A secret of the same form that is not the receiver's; None where this form knows no other."""
    for made in (means.secret[::-1], swap(means.secret), "A" * len(means.secret)):
        try:
            deliver(means, secret=made)
        except ConfigError:
            continue
        if made != means.secret:
            return made
    return None


def swap(secret: str) -> str:
    """The secret with the letters behind its prefix turned around."""
    prefix, line, rest = secret.rpartition("_")
    return prefix + line + rest[::-1]


def join_signatures(scheme: Scheme, wrong: str, right: str) -> str:
    """One header's value with the signatures of both."""
    form = scheme.list
    if form is None:
        return right
    key = form.sig_key + form.kv_sep
    ours = [item for item in right.split(form.item_sep) if item.startswith(key)]
    return form.item_sep.join([wrong, *ours])


def signs_body(scheme: Scheme) -> bool:
    return any(piece.kind == "body" for piece in scheme.plan.pieces)


def signs_plain_body(scheme: Scheme) -> bool:
    """Whether any bytes at all can be signed, or none need be."""
    return signs_body(scheme) or scheme.kind in ("token", "basic")
