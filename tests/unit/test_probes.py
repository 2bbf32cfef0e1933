"""Trials: what a probe sends, judged by the verifier itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.probes import TRIALS, Means, deliver
from gateway.signatures import PRESETS, Request, verify


def means(scheme: str, secret: str) -> Means:
    counter = iter(range(1_000))
    return Means(
        scheme=PRESETS[scheme],
        secret=secret,
        url="https://x.example/",
        data=b'{"a": 1}',
        now=1.7e9,
        noise=lambda: f"{next(counter):024x}",
    )


@pytest.mark.parametrize(
    ("scheme", "secret"),
    [("github", "0123456789abcdef"), ("stripe", "whsec_test"), ("slack", "0123456789abcdef"), ("gitlab", "a-token")],
)
def test_what_is_forged_does_not_verify_and_what_is_good_does(scheme: str, secret: str) -> None:
    """Judged by the verifier itself, for each trial that the scheme can do: a probe must not blame the innocent."""
    made = means(scheme, secret)
    wanted = {"good": True, "unsigned": False, "wrong secret": False, "changed body": False, "two signatures": True}
    wanted |= {"stale": False, "from the future": False, "unknown version": False, "unknown type": True}
    for trial in TRIALS:
        for shot in (trial.shots(made) or ()) if trial.name in wanted else ():
            request = Request("POST", made.url, shot.headers, shot.body)
            assert verify(made.scheme, (secret,), request, made.now).valid is wanted[trial.name], trial.name


def test_each_good_delivery_is_another_one() -> None:
    """Else a receiver that goes by the body would take them for one."""
    made = means("github", "0123456789abcdef")
    assert deliver(made).body != deliver(made).body


def no_trial(name: str) -> Callable[[Means], object]:
    return next(trial.shots for trial in TRIALS if trial.name == name)


def test_a_trial_that_a_scheme_can_not_do_is_left_out() -> None:
    """GitHub signs no time and one signature only, so a receiver is not blamed for what it can't tell."""
    made = means("github", "0123456789abcdef")
    for name in ("stale", "from the future", "two signatures", "unknown version", "one id, two bodies"):
        assert no_trial(name)(made) is None
