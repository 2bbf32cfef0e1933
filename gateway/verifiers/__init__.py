"""The kinds of proof: a row for each in VERIFIERS, which judge, in SIGNERS, which make what is judged, and in CHECKERS,
which raise ConfigError, without the secret in it, for a secret that can't be used.

The kinds of the declarative form are `hmacs`, `publickeys` and `shared`. A sender that signs in a way of its own has
a module of its own, with two silent functions:

    verify(scheme, secrets, request, now) -> Verdict    never raises; a refusal has a reason from proofs.REASONS
    sign(scheme, secret, request, now) -> Signed        raises ConfigError when it can't

and a word for it in schemes.Kind and a row in kinds.TAKES. `keys`, `encodings` and `claims` are their tools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.proofs import Request, Verdict
from gateway.schemes import Scheme
from gateway.verifiers import (
    adyen,
    cavage,
    claims,
    hmacs,
    hubspot,
    jenkins,
    keys,
    messagekeys,
    netlify,
    paypal,
    publickeys,
    rfc9421,
    shared,
    sns,
    travis,
    twilio,
    websub,
)
from gateway.verifiers.placing import Signed

Verifier = Callable[[Scheme, Sequence[str], Request, float], Verdict]
Signer = Callable[[Scheme, str, Request, float], Signed]
Checker = Callable[[Scheme, str], None]
Content = Callable[[Scheme, Request], bytes]
Times = Callable[[Scheme, Request], Sequence[str]]

VERIFIERS: Final[Mapping[str, Verifier]] = {
    "hmac": hmacs.verify,
    "public-key": publickeys.verify,
    "token": shared.verify_token,
    "basic": shared.verify_basic,
    "authorization": shared.verify_authorization,
    "url": shared.verify_url,
    "none": shared.verify_none,
    "adyen": adyen.verify,
    "cavage": cavage.verify,
    "hubspot-v1": hubspot.verify,
    "hubspot-v2": hubspot.verify,
    "jenkins-gwt": jenkins.verify,
    "netlify": netlify.verify,
    "paypal": paypal.verify,
    "rfc9421": rfc9421.verify,
    "sns": sns.verify,
    "travis": travis.verify,
    "twilio": twilio.verify,
    "websub": websub.verify,
}
SIGNERS: Final[Mapping[str, Signer]] = {
    "hmac": hmacs.sign,
    "public-key": publickeys.sign,
    "token": shared.sign_token,
    "basic": shared.sign_basic,
    "authorization": shared.sign_authorization,
    "url": shared.sign_url,
    "none": shared.sign_none,
    "adyen": adyen.sign,
    "cavage": cavage.sign,
    "hubspot-v1": hubspot.sign,
    "hubspot-v2": hubspot.sign,
    "jenkins-gwt": jenkins.sign,
    "netlify": netlify.sign,
    "paypal": paypal.sign,
    "rfc9421": rfc9421.sign,
    "sns": sns.sign,
    "travis": travis.sign,
    "twilio": twilio.sign,
    "websub": websub.sign,
}
CHECKERS: Final[Mapping[str, Checker]] = {
    "hmac": keys.check,
    "public-key": publickeys.check,
    "token": shared.check_token,
    "basic": shared.check_basic,
    "authorization": shared.check_token,
    "url": shared.check_url,
    "none": shared.check_none,
    "adyen": keys.check,
    "cavage": messagekeys.check,
    "hubspot-v1": keys.check,
    "hubspot-v2": keys.check,
    "jenkins-gwt": keys.check,
    "netlify": keys.check,
    "paypal": paypal.check,
    "rfc9421": messagekeys.check,
    "sns": sns.check,
    "travis": travis.check,
    "twilio": keys.check,
    "websub": keys.check,
}
# Where not the body's own bytes are signed, what is: it stays the same when a replay wraps it otherwise.
CONTENTS: Final[Mapping[str, Content]] = {
    "hmac": claims.read_content,
    "public-key": claims.read_content,
    "sns": sns.read_content,
    "travis": travis.read_content,
    "twilio": twilio.read_content,
}
# Where a time is signed, by which a request without an id is told from the next with the same content.
TIMES: Final[Mapping[str, Times]] = {
    "hmac": claims.read_times,
    "public-key": claims.read_times,
    "cavage": cavage.read_times,
    "rfc9421": rfc9421.read_times,
}
