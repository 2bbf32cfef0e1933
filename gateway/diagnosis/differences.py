"""How a signature that is right differs from where and how the scheme looks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from gateway.diagnosis.cases import Case, Deviation
from gateway.diagnosis.exhibits import Exhibit
from gateway.schemes import ListFormat, Scheme

LEGACY: Final = {
    "x-hub-signature-256": ("x-hub-signature",),
    "x-gitea-signature": ("x-gogs-signature", "x-hub-signature-256", "x-hub-signature"),
    "x-forgejo-signature": ("x-gitea-signature", "x-gogs-signature", "x-hub-signature-256", "x-hub-signature"),
}
"""The headers that a sender adds for the sake of old receivers, by the one that counts."""
QUOTES: Final = "\"'` \t"
BY_HAND: Final = "Let the sender write the signature as {form}."


def is_legacy(case: Case, header: str, algorithm: str) -> bool:
    """Whether the sender that is expected added this header for old receivers: others use the same names in earnest."""
    plan = case.scheme.plan
    own = {source.name for source in (*plan.id_sources, plan.type_source) if source and source.kind == "header"}
    ours = not own or any(name in own for name, _ in case.request.headers)
    return ours and header in LEGACY.get(plan.header, ()) and (header != "x-hub-signature" or algorithm == "sha1")


def compare(case: Case, exhibit: Exhibit) -> tuple[Deviation, ...]:
    """What is different: header, algorithm, encoding, prefix. Empty where the verifier finds it just there."""
    scheme = case.scheme
    if is_legacy(case, exhibit.header, exhibit.algorithm):
        return tuple(_header(case, exhibit))
    return (*_header(case, exhibit), *_algorithm(scheme, exhibit), *_encoding(scheme, exhibit), *_form(scheme, exhibit))


def _header(case: Case, exhibit: Exhibit) -> Iterator[Deviation]:
    wanted = case.scheme.plan.header
    if exhibit.header == wanted:
        return
    lines = case.request.values(wanted)
    came = f"{wanted} came as well, with another value" if any(lines) else f"{wanted} did not come, or is empty"
    explanation = f"The right signature stands in the header {exhibit.header}; this scheme looks in {wanted} ({came})."
    if is_legacy(case, exhibit.header, exhibit.algorithm):
        change = (
            f"That is the sender's header for old receivers. Let {wanted} through whatever stands before this gateway"
            " (proxy, load balancer, forwarder), rather than configure the old one: it may be weaker (SHA-1)."
        )
        yield Deviation(mistake="legacy_header", explanation=explanation, change=change)
    else:
        yield Deviation(mistake="other_header", explanation=explanation, overrides={"header": exhibit.header})


def _algorithm(scheme: Scheme, exhibit: Exhibit) -> Iterator[Deviation]:
    if exhibit.algorithm != scheme.alg:
        weak = " SHA-1 is weaker: better let the sender use sha256." if exhibit.algorithm == "sha1" else ""
        yield Deviation(
            mistake="other_algorithm",
            explanation=f"The sender uses HMAC-{exhibit.algorithm}, and this scheme expects {scheme.alg}.{weak}",
            overrides={"alg": exhibit.algorithm},
        )


def _encoding(scheme: Scheme, exhibit: Exhibit) -> Iterator[Deviation]:
    if exhibit.encoding == scheme.enc:
        return
    explanation = f"The signature is written in {exhibit.encoding}, and this scheme expects {scheme.enc}."
    if exhibit.encoding in ("hex", "base64"):
        yield Deviation(mistake="other_encoding", explanation=explanation, overrides={"enc": exhibit.encoding})
    else:
        change = BY_HAND.format(form=f"plain {scheme.enc}" + (" with padding" if scheme.enc == "base64" else ""))
        yield Deviation(mistake="other_encoding", explanation=explanation, change=change)


def _form(scheme: Scheme, exhibit: Exhibit) -> Iterator[Deviation]:
    before, after = exhibit.value[: exhibit.start], exhibit.value[exhibit.end :]
    if scheme.list is not None:
        yield from _other_entry(scheme.list, exhibit, before, after)
    elif (before, after) != (scheme.prefix, ""):
        yield from _other_single(scheme, exhibit, before, after)


def _other_entry(form: ListFormat, exhibit: Exhibit, before: str, after: str) -> Iterator[Deviation]:
    """The scheme expects a list: whether this is one of its form, and whether the entry is one that counts."""
    items = exhibit.value.split(form.item_sep)
    key, sign, rest = before.rpartition(form.item_sep)[2].partition(form.kv_sep)
    same = (
        sign
        and not rest
        and (not after or after.startswith(form.item_sep))
        and all(form.kv_sep in each for each in items)
    )
    if not same:
        yield from _other_list(exhibit, f"`{form.sig_key}{form.kv_sep}…` in a list")
    elif key != form.sig_key:
        yield _other_version(form.sig_key, key)


def _other_version(wanted: str, came: str) -> Deviation:
    return Deviation(
        mistake="other_version",
        explanation=f"The right signature is there as version {came!r}; this scheme takes {wanted!r} only.",
        change=f"Let the sender send {wanted!r}. Don't configure {came!r} unless the sender's documentation says so: whoever"
        " takes the better one out of a request would then get in by the weaker.",
    )


def _other_single(scheme: Scheme, exhibit: Exhibit, before: str, after: str) -> Iterator[Deviation]:
    bare = before.lstrip(QUOTES), after.rstrip(QUOTES)
    if bare == (scheme.prefix, "") or (after and not after.strip(QUOTES) and bare[0] == before.strip(QUOTES)):
        explanation = "Quotes or spaces stand around the signature in its header."
        yield Deviation(mistake="quoted_signature", explanation=explanation, change="Take them out at the sender.")
    elif after or any(sign in before for sign in ",; "):
        yield from _other_list(exhibit, f"`{scheme.prefix}…` alone")
    else:
        is_none = "no prefix" if not before else f"the prefix `{before}`"
        yield Deviation(
            mistake="other_prefix" if before else "missing_prefix",
            explanation=f"The signature comes with {is_none}, and this scheme expects {_worded(scheme.prefix)}.",
            overrides={"prefix": before},
        )


def _worded(prefix: str) -> str:
    return f"`{prefix}`" if prefix else "none"


def _other_list(exhibit: Exhibit, expected: str) -> Iterator[Deviation]:
    overrides = _list_of(exhibit)
    explanation = f"The signature's header is written in another way than this scheme expects, which is {expected}."
    if overrides is None:
        change = BY_HAND.format(form=expected)
        yield Deviation(mistake="other_form", explanation=explanation, change=change)
    else:
        yield Deviation(mistake="other_form", explanation=explanation, overrides=overrides)


def _list_of(exhibit: Exhibit) -> dict[str, Any] | None:
    """The fields that describe a header such as this one; None when it has no such form."""
    before, after = exhibit.value[: exhibit.start], exhibit.value[exhibit.end :]
    if not after and not any(sign in before for sign in ",; "):
        return {"list": None, "prefix": before}
    for items, pair in ((",", "="), (" ", ","), (";", "=")):
        item = before.rpartition(items)[2]
        entries = exhibit.value.split(items)
        if item.endswith(pair) and len(item) > 1 and all(pair in each for each in entries):
            return {"list": {"item_sep": items, "kv_sep": pair, "sig_key": item[:-1]}, "prefix": ""}
    return None
