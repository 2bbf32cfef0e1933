"""The search: every key with every message that the known mistakes give, one mistake at a time, then two."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from gateway.diagnosis.cases import Case, Deviation, Diagnosis, Finding, Key, Message, Meter
from gateway.diagnosis.differences import compare
from gateway.diagnosis.exhibits import Exhibit, find_exhibits
from gateway.diagnosis.keys import other_keys, own_keys, right_keys
from gateway.diagnosis.messages import merge, messages, pairs, right_message
from gateway.diagnosis.opaque import find_opaque
from gateway.diagnosis.refusals import explain_reason
from gateway.diagnosis.senders import find_preset, gather_into_preset, names_alike
from gateway.diagnosis.shared import find_in_the_clear, find_shared
from gateway.errors import ConfigError
from gateway.proofs import REASONS, Verdict
from gateway.schemes import nest_fields, read_scheme
from gateway.signatures import verify
from gateway.verifiers.keys import compute_digest

Found = tuple[Deviation, ...]
HIDDEN: Final = "•••".encode().decode("latin-1")
"""What stands in a stored capture where a header may hold a secret, as a header's bytes are shown."""
TIMELY: Final = ("stale", "future", "malformed_timestamp")


def diagnose(case: Case, meter: Meter | None = None) -> Diagnosis:
    """Which known mistake explains why this request is refused. Never raises; computes no more than `meter` allows."""
    meter = meter or Meter()
    verdict = _judge(case)
    if not case.has_body:
        return _without_body(case, verdict)
    if case.scheme.plan.header in hidden_headers(case):
        return Diagnosis(verdict="unexplained", reason=verdict.reason, next=(VALUE_NOT_KEPT,))
    if verdict.valid:
        return Diagnosis(verdict="valid", reason=verdict.reason, next=(STILL_REFUSED,))
    found = explain(case, verdict.reason, meter)
    if found:
        findings = tuple(_finding(case, found, each) for each in found)
        return Diagnosis(verdict="explained", reason=verdict.reason, findings=findings, tried=meter.tried)
    return Diagnosis(verdict="unexplained", reason=verdict.reason, tried=meter.tried, next=_advise(case, meter))


def hidden_headers(case: Case) -> list[str]:
    """The headers of which only that they came was kept."""
    return [name for name, value in case.request.headers if value == HIDDEN]


def _without_body(case: Case, verdict: Verdict) -> Diagnosis:
    by_itself = explain_reason(case, verdict.reason) if verdict.reason in FROM_HEADERS else None
    if by_itself is None:
        return Diagnosis(verdict="unexplained", reason=verdict.reason, next=(BODY_NOT_KEPT,))
    return Diagnosis(verdict="explained", reason=verdict.reason, findings=(_finding(case, (by_itself,), by_itself),))


def explain(case: Case, reason: str, meter: Meter) -> Found:
    """The mistakes that were made, the first being the cause of the refusal; none when no known one explains it."""
    found = _search(case, meter)
    if found is not None:
        changed = _changed(case, found)
        if changed is not None:
            found = gather_into_preset(case, found, changed.scheme)
        return (*found, *_late(case, changed, found, reason))
    by_itself = explain_reason(case, reason)
    return () if by_itself is None else (by_itself,)


def _judge(case: Case) -> Verdict:
    """The verifier's word. Where nobody knows when the request came, its time is not held against it."""
    verdict = verify(case.scheme, case.values, case.request, case.now or 0.0)
    return Verdict(True, "valid", verdict.secret) if case.now is None and verdict.reason in TIMELY[:2] else verdict


def _search(case: Case, meter: Meter) -> Found | None:
    preset = find_preset(case, case.secrets, meter)
    if preset is not None:
        return (preset[0],)
    if case.scheme.kind in ("token", "basic"):
        return find_shared(case, meter)
    if case.scheme.kind == "hmac":
        found = _search_codes(case, meter)
        return _search_further(case, meter) if found is None else found
    return find_opaque(case, meter)


def _search_further(case: Case, meter: Meter) -> Found | None:
    plain = find_in_the_clear(case, meter)
    if plain is not None:
        return (plain,)
    foreign = find_preset(case, case.others, meter)
    if foreign is None:
        return None
    deviation, secret, _ = foreign
    return (
        deviation,
        Deviation(
            mistake="other_secret",
            explanation=f"It was signed with another secret of this installation: {secret.label}.",
            change="Perhaps it was sent to the wrong app: compare the URL at the sender with the one of that app.",
        ),
    )


def _search_codes(case: Case, meter: Meter) -> Found | None:
    exhibits = find_exhibits(case.request)
    if not exhibits:
        return None
    search = _Codes(case, exhibits, meter)
    for keys, signed in _rounds(case):
        for message in signed:
            for key in keys:
                found = search.compare(key, message)
                if found is not None or meter.spent:
                    return found
    return None


def _rounds(case: Case) -> Iterator[tuple[Sequence[Key], Iterable[Message]]]:
    """Keys and messages to go together, by how likely that is: no mistake, one, two."""
    right, own, others = right_keys(case), list(own_keys(case)), list(other_keys(case))
    plain = right_message(case)
    first = () if plain is None else (plain,)
    yield right, first
    yield own, first
    yield right, messages(case)
    yield others, first
    likely = [message for message in itertools.islice(messages(case), 200) if message.likely]
    yield [key for key in own if key.likely], likely
    yield others[:50], likely
    yield right, itertools.islice(pairs(case), 200)


class _Codes:
    """Computes codes and looks for them among the exhibits. The comparison need not take constant time: nobody who
    could measure it gets an answer from here.
    """

    def __init__(self, case: Case, exhibits: list[Exhibit], meter: Meter) -> None:
        self._case = case
        self._meter = meter
        self._by_digest: dict[bytes, list[Exhibit]] = {}
        for exhibit in exhibits:
            self._by_digest.setdefault(exhibit.digest, []).append(exhibit)
        sizes = dict.fromkeys(exhibit.algorithm for exhibit in exhibits)
        self._algorithms = sorted(sizes, key=lambda name: name != case.scheme.alg)

    def compare(self, key: Key, message: Message) -> Found | None:
        """The mistakes of key, message and form together when this is what the sender computed."""
        size = sum(len(part) for part in message.parts)
        for algorithm in self._algorithms:
            if not self._meter.spend(size):
                return None
            digest = compute_digest(key.material, message.parts, algorithm)
            fits = [each for each in self._by_digest.get(digest, ()) if each.algorithm == algorithm]
            if fits:
                forms = [compare(self._case, each) for each in fits]
                return (*key.deviations, *message.deviations, *min(forms, key=len))
        return None


# ---- what to say


def _changed(case: Case, found: Found) -> Case | None:
    """The case as it would be judged with the changes; None where they can't be written as a scheme."""
    try:
        return msgspec.structs.replace(case, scheme=read_scheme(_written(case, _overrides(found)), "verify"))
    except ConfigError:
        return None


def _late(case: Case, changed: Case | None, found: Found, reason: str) -> Found:
    """What is wrong with the time besides; or with the form, where the signature is right and stands in its place."""
    if not found:
        by_itself = explain_reason(case, reason)
        return () if by_itself is None else (by_itself,)
    if changed is None or changed.scheme.timestamp is None or case.now is None:
        return ()
    verdict = verify(changed.scheme, case.values, case.request, case.now)
    by_time = explain_reason(changed, verdict.reason) if verdict.reason in TIMELY else None
    return () if by_time is None else (by_time,)


def _finding(case: Case, found: Found, deviation: Deviation) -> Finding:
    change = deviation.change or _line(case, _overrides(found))
    return Finding(deviation.mistake, deviation.explanation, change)


def _overrides(found: Found) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for deviation in found:
        merged = merge(merged, deviation.overrides)
    return merged


def _written(case: Case, overrides: dict[str, Any]) -> Any:
    if "scheme" in overrides:
        return overrides
    base = nest_fields(case.written) if isinstance(case.written, dict) else {"scheme": case.written}
    return {"scheme": base, **overrides}


def _line(case: Case, overrides: dict[str, Any]) -> str:
    """The line for gateway.yaml that takes the request as the sender signs it."""
    written = _written(case, overrides)
    try:
        names = names_alike(read_scheme(written, "verify"))
    except ConfigError as error:
        return f"The sender's way can't be written as a scheme ({error.message}): let it sign as this app expects."
    if names and _is_bare(case.written):
        written = {"scheme": written["scheme"] if written["scheme"] in names else names[0]}
    elif isinstance(written["scheme"], dict):
        written = merge(written.pop("scheme"), written)
    secrets = case.references or [{"env": "NAME"}]
    return f"In gateway.yaml: verify: {write_flow({**written, 'secrets': secrets})}"


def _is_bare(written: Any) -> bool:
    """Whether nothing is lost when a preset's name takes its place."""
    own = set(nest_fields(written)) if isinstance(written, dict) else set()
    return not own & {"delivery_id", "event_type", "content_types"}


def write_flow(value: Any) -> str:
    """YAML on one line: names bare, texts quoted where they must be."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {write_flow(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(write_flow(each) for each in value) + "]"
    if isinstance(value, str) and value.replace("-", "").replace("_", "").isalnum() and not value[0].isdigit():
        return f'"{value}"' if value.lower() in ("true", "false", "null", "yes", "no", "on", "off", "y", "n") else value
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in quoted)


FROM_HEADERS: Final = ("no_secret", "bad_secret", "missing_header", "doubled_header", "too_many_candidates")
BODY_NOT_KEPT: Final = (
    "The body was not kept (large ones, those of a flood, and those that hold a secret are not), so no signature can be"
    " computed. Capture one such request, with its headers, in the form that `gateway verify` reads, and give it here as a file."
)
VALUE_NOT_KEPT: Final = (
    "The value of the header that proves the sender was not kept, for it may hold the secret itself. Compare it at the"
    " sender, or capture one such request and give it here as a file."
)
STILL_REFUSED: Final = (
    "The proof is right by what is configured now. If it was refused, the configuration or the secret was another then, or"
    " something else refused it: `gateway event explain` says what."
)


def _advise(case: Case, meter: Meter) -> tuple[str, ...]:
    preset = read_sender_words(case)
    bound = ("The search ended at its bound before all was tried: capture a request with a smaller body.",)
    return (
        *(bound if meter.spent else ()),
        f"None of the known mistakes explains it ({REASONS['mismatch']}). Tried were: other headers, prefixes, encodings and"
        " algorithms, all presets, this app's secrets in other forms and copies, the installation's other secrets, the body"
        " in other layouts, charsets and forms, other times, templates and URLs, and the likely ones two at a time.",
        f"Most likely the sender has another secret: make a new one, and set it at the sender and here ({preset}).",
        "Else the body was changed on the way beyond recognition: capture it before and behind each proxy and compare.",
    )


def read_sender_words(case: Case) -> str:
    """Which secrets this app has, by their labels."""
    return ", ".join(secret.label for secret in case.secrets) or "none is configured"
