"""The mistakes that are made with a secret: the keys that the sender may have used instead. One mistake a function."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote

from gateway.diagnosis.cases import Case, Deviation, Key, Secret
from gateway.schemes import Scheme
from gateway.verifiers.keys import KEY_FORMS

PUBLIC_SECRETS: Final = (("Zendesk's test secret", "dGhpc19zZWNyZXRfaXNfZm9yX3Rlc3Rpbmdfb25seQ=="),)
"""Published by the senders, so that anybody can sign with them. Source: developer.zendesk.com/documentation/webhooks/verifying/"""
FORM_WORDS: Final = {
    "raw": "used as text, just as it is shown",
    "base64": "decoded from base64",
    "hex": "decoded from hex",
    "whsec": "decoded from base64, after `whsec_`",
}
SPACES: Final = (("\n", "a line break"), ("\r\n", "a Windows line break"), (" ", "a space"), ("\t", "a tab"))
QUOTES: Final = ('"', "'", "`")
MOST_OTHERS: Final = 200


def right_keys(case: Case) -> list[Key]:
    """The keys as configured, without those that can't be read."""
    found = [decode(secret.value, case.scheme.key) for secret in case.secrets]
    return [Key(material) for material in found if material]


def own_keys(case: Case) -> Iterator[Key]:
    """What each mistake makes of the app's own secrets, mistake by mistake."""
    for mistake in KEY_MISTAKES:
        for secret in case.secrets:
            yield from mistake(secret, case.scheme)
    yield from made_public(case.scheme)


def other_keys(case: Case) -> Iterator[Key]:
    """The secrets that stand elsewhere in this installation."""
    for secret in case.others[:MOST_OTHERS]:
        for material in dict.fromkeys(decode(secret.value, form) for form in (case.scheme.key, "raw", "whsec")):
            if material:
                yield Key(material, (other_secret(secret),), likely=True)


def other_secret(secret: Secret) -> Deviation:
    """It was signed with a secret that stands elsewhere."""
    return Deviation(
        mistake="other_secret",
        explanation=f"It was signed with another secret of this installation: {secret.label}.",
        change=f"Decide which is right: give the sender this app's secret, or let this app's `secrets` name {secret.label}"
        " (an older one can stand behind the new one while the sender changes over).",
    )


def other_form(secret: Secret, scheme: Scheme) -> Iterator[Key]:
    """Decoded where it should be text, or the reverse."""
    for form, words in FORM_WORDS.items():
        material = decode(secret.value, form)
        if form != scheme.key and material:
            deviation = Deviation(
                mistake="secret_form",
                explanation=f"The sender's key is the secret ({secret.label}) {words}; here it is {FORM_WORDS[scheme.key]}.",
                overrides={"key": form},
            )
            yield Key(material, (deviation,), likely=True)


def without_label(secret: Secret, scheme: Scheme) -> Iterator[Key]:
    """`whsec_` is part of some senders' secrets, and only a label in others'."""
    bare = secret.value.removeprefix("whsec_")
    if bare != secret.value:
        told = "without `whsec_`, as text", f"Write the secret ({secret.label}) without `whsec_`."
        yield Key(bare.encode("utf-8", "surrogatepass"), (_labelled(secret, *told),), likely=True)
    else:
        told = "with `whsec_` before it, as text", f"Write the secret ({secret.label}) whole, with its `whsec_`."
        yield Key(f"whsec_{bare}".encode("utf-8", "surrogatepass"), (_labelled(secret, *told),), likely=True)


def _labelled(secret: Secret, words: str, change: str) -> Deviation:
    explanation = f"The sender's key is the secret ({secret.label}) {words}."
    return Deviation(mistake="secret_form", explanation=explanation, change=change)


def with_space_here(secret: Secret, scheme: Scheme) -> Iterator[Key]:
    """This side's copy has spaces or a line break around it."""
    bare = secret.value.strip()
    if bare != secret.value:
        yield from _copy(secret, scheme, bare, "spaces or a line break around it")


def with_quotes_here(secret: Secret, scheme: Scheme) -> Iterator[Key]:
    """This side's copy has quotes around it."""
    text = secret.value.strip()
    if len(text) > 2 and text[0] == text[-1] and text[0] in QUOTES:
        yield from _copy(secret, scheme, text[1:-1], f"quotes ({text[0]}) around it")


def with_escapes_here(secret: Secret, scheme: Scheme) -> Iterator[Key]:
    """This side's copy is percent-encoded, as it stands in a URL."""
    plain = unquote(secret.value, errors="replace")
    if plain != secret.value:
        yield from _copy(secret, scheme, plain, "percent-encoding in it (%..)")


def _copy(secret: Secret, scheme: Scheme, value: str, flaw: str) -> Iterator[Key]:
    material = decode(value, scheme.key)
    if material:
        yield Key(material, (own_copy(secret, flaw),), likely=True)


def own_copy(secret: Secret, flaw: str) -> Deviation:
    """The secret is wrong here."""
    return Deviation(
        mistake="secret_copy",
        explanation=f"The secret as it is configured here ({secret.label}) has {flaw}; the sender's has not.",
        change=f"Take that out of {secret.label} and start the receiver again.",
    )


def with_space_there(secret: Secret, scheme: Scheme) -> Iterator[Key]:
    """The sender's copy ends with a line break, as `echo` and text files make them, or has a space."""
    for space, words in SPACES:
        for value in (secret.value + space, space + secret.value):
            yield from _their_copy(secret, scheme, value, f"{words} too many", likely=space == "\n")


def with_quotes_there(secret: Secret, scheme: Scheme) -> Iterator[Key]:
    """The sender's copy has quotes around it."""
    for quote in QUOTES:
        yield from _their_copy(secret, scheme, f"{quote}{secret.value}{quote}", f"quotes ({quote}) around it")


def with_other_case(secret: Secret, scheme: Scheme) -> Iterator[Key]:
    """The sender's copy is in capitals, or in small letters."""
    for value in (secret.value.lower(), secret.value.upper()):
        if value != secret.value:
            yield from _their_copy(secret, scheme, value, "other letter case")


def _their_copy(secret: Secret, scheme: Scheme, value: str, flaw: str, *, likely: bool = False) -> Iterator[Key]:
    # A base64 or hex secret with a line break is decoded by some and taken as text by others.
    for material in dict.fromkeys((decode(value, scheme.key), value.encode("utf-8", "surrogatepass"))):
        if material:
            yield Key(material, (sender_copy(secret, flaw),), likely=likely)


def sender_copy(secret: Secret, flaw: str) -> Deviation:
    """The secret is wrong there."""
    return Deviation(
        mistake="sender_secret",
        explanation=f"The sender's copy of the secret ({secret.label}) has {flaw}.",
        change="Set the sender's secret again, exactly as it is here; `printf %s` writes no line break, `echo` does.",
    )


def empty(secret: Secret, scheme: Scheme) -> Iterator[Key]:
    """The sender has no secret at all."""
    deviation = Deviation(
        mistake="empty_secret",
        explanation="The sender signed with an empty secret: anybody can make this signature, so it proves nothing.",
        change=f"Set the secret at the sender, the one that stands here in {secret.label}. Never accept an empty one.",
    )
    yield Key(b"", (deviation,), likely=True)


def made_public(scheme: Scheme) -> Iterator[Key]:
    """A secret that the sender publishes for tests."""
    for label, value in PUBLIC_SECRETS:
        deviation = Deviation(
            mistake="test_secret",
            explanation=f"It was signed with {label}, which is published: anybody can make this signature.",
            change="That is the sender's test button, most likely: create the webhook and use the secret it then shows."
            " Don't configure the published one.",
        )
        yield Key(decode(value, scheme.key) or value.encode(), (deviation,))


KEY_MISTAKES: Final[tuple[Callable[[Secret, Scheme], Iterator[Key]], ...]] = (
    other_form,
    without_label,
    with_space_here,
    with_quotes_here,
    with_space_there,
    with_quotes_there,
    with_escapes_here,
    with_other_case,
    empty,
)


def decode(value: str, form: str) -> bytes | None:
    """The bytes of a secret in this form; None when it is not of it."""
    try:
        return KEY_FORMS[form](value)
    except (ValueError, binascii.Error):
        return None
