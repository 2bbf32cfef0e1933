"""Mistakes that people make with signatures, really made at a running gateway: found, explained, named, mended, accepted.

Where the doctor gives a line for gateway.yaml that very line is written there; else the sender does what it is told.
"""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import quote_plus

import pytest
import yaml

from tests.acceptance.machine import Answer, Machine, request, until

SECRET = "canary-0123456789abcdef"
WHSEC = "whsec_" + base64.b64encode(b"a key of twenty-four byte").decode()
OTHER = "other-canary-0123456789"
TEXT = json.dumps({"ref": "refs/heads/main", "who": "Zoë"}, ensure_ascii=False).encode()
FORM = b"payload=" + quote_plus(TEXT).encode()
FORM_TYPE = "application/x-www-form-urlencoded"
OWN = {"kind": "hmac", "header": "X-Sum", "template": "{timestamp}.{body}", "timestamp": {"from": "header:X-Time"}}
LINE = "In gateway.yaml: verify: "

Posted = tuple[bytes, dict[str, str]]
Send = Callable[[float], Posted]


def code(signed: bytes, secret: str | bytes = SECRET) -> bytes:
    return hmac.digest(secret.encode() if isinstance(secret, str) else secret, signed, "sha256")


def orqo(signed: bytes, secret: str = SECRET, sent: bytes = TEXT, header: str = "X-Signature-256") -> Posted:
    return sent, {header: f"sha256={code(signed, secret).hex()}"}


def stripe(now: float, key: str | bytes) -> Posted:
    at = str(int(now))
    return TEXT, {"Stripe-Signature": f"t={at},v1={code(at.encode() + b'.' + TEXT, key).hex()}"}


def own(at: str) -> Posted:
    return TEXT, {"X-Sum": code(at.encode() + b"." + TEXT).hex(), "X-Time": at}


class Mistake(NamedTuple):
    """One way of doing it wrong: how the app is written, what is posted, the words of `explain`, the mistake's name, and
    how the sender posts once it has heard; None where gateway.yaml is what was wrong.
    """

    verify: dict[str, Any]
    wrong: Send
    why: str
    name: str
    right: Send | None = None
    env: str = "SECRET"


MISTAKES: dict[str, Mistake] = {
    "another-header": Mistake(
        {"scheme": "orqo"},
        lambda now: orqo(TEXT, header="X-CI-Signature"),
        "a header the scheme needs is missing or empty",
        "other_header",
    ),
    "no-prefix": Mistake(
        {"scheme": "orqo"},
        lambda now: (TEXT, {"X-Signature-256": code(TEXT).hex()}),
        "a header is not of this scheme's form",
        "missing_prefix",
    ),
    "hex-for-base64": Mistake(
        {"scheme": "shopify"},
        lambda now: (TEXT, {"X-Shopify-Hmac-Sha256": code(TEXT).hex()}),
        "the signature is not the hex or base64 of a whole digest",
        "other_encoding",
    ),
    "another-apps-secret": Mistake(
        {"scheme": "orqo"},
        lambda now: orqo(TEXT, OTHER),
        "no secret gives this signature for these bytes",
        "other_secret",
        lambda now: orqo(TEXT),
    ),
    "decoded-secret": Mistake(
        {"scheme": "stripe"},
        lambda now: stripe(now, base64.b64decode(WHSEC.removeprefix("whsec_"))),
        "no secret gives this signature for these bytes",
        "secret_form",
        env="WHSEC",
    ),
    "line-break": Mistake(
        {"scheme": "orqo"},
        lambda now: orqo(TEXT, SECRET + "\n"),
        "no secret gives this signature for these bytes",
        "sender_secret",
        lambda now: orqo(TEXT),
    ),
    "pretty-printed": Mistake(
        {"scheme": "orqo"},
        lambda now: orqo(json.dumps(json.loads(TEXT), indent=2, ensure_ascii=False).encode()),
        "no secret gives this signature for these bytes",
        "body_reserialised",
        lambda now: orqo(TEXT),
    ),
    "field-of-a-form": Mistake(
        {"scheme": "github"},
        lambda now: (FORM, orqo(TEXT, header="X-Hub-Signature-256")[1] | {"Content-Type": FORM_TYPE}),
        "no secret gives this signature for these bytes",
        "form_field",
    ),
    "milliseconds": Mistake(
        OWN,
        lambda now: own(str(int(now * 1000))),
        "the time is not of the form this scheme's times have",
        "timestamp_unit",
    ),
    "slow-clock": Mistake(
        OWN,
        lambda now: own(str(int(now - 3600))),
        "the signature is right, but older than the scheme allows",
        "stale",
        lambda now: own(str(int(now))),
    ),
    "another-sender": Mistake(
        {"scheme": "gitea"},
        lambda now: orqo(TEXT, header="X-Hub-Signature-256"),
        "a header the scheme needs is missing or empty",
        "other_preset",
    ),
    "no-secret-there": Mistake(
        {"scheme": "orqo"},
        lambda now: (TEXT, {}),
        "a header the scheme needs is missing or empty",
        "missing_header",
        lambda now: orqo(TEXT),
    ),
}
IDS = {name: 60 + place for place, name in enumerate(MISTAKES)}
NAMES = {number: name for name, number in IDS.items()}


def write_file(verify: dict[str, dict[str, Any]]) -> str:
    rows = [
        {
            "id": IDS[name],
            "name": name,
            "verify": verify[name],
            "triggers": [{"name": "all", "workflow": "greet", "input": {"who": "${event.body.who}"}}],
        }
        for name in MISTAKES
    ]
    rows.append({"id": 42, "name": "other", "verify": {"scheme": "orqo", "secrets": [{"env": "OTHER"}]}})
    greet = {
        "id": 16,
        "name": "greet",
        "steps": [{"id": "a", "transform": "${input.who}"}],
        "output": "${steps.a.output}",
    }
    return yaml.safe_dump({"apps": rows, "workflows": [greet]}, allow_unicode=True)


def as_written(mistake: Mistake) -> dict[str, Any]:
    return mistake.verify | {"secrets": [{"env": mistake.env}]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with closing(Machine(tmp_path_factory.mktemp("mistakes"))) as machine:
        machine.config.write_text(write_file({name: as_written(each) for name, each in MISTAKES.items()}))
        machine.environ |= {"SECRET": SECRET, "WHSEC": WHSEC, "OTHER": OTHER}
        yield machine.start().wait_ready()


def post(machine: Machine, name: str, send: Send) -> Answer:
    body, headers = send(time.time())
    given = {"Content-Type": "application/json"} | headers
    return request(f"{machine.url}/api/v1/webhooks/{IDS[name]}", "POST", body, given)


def find_refused(machine: Machine) -> dict[str, str]:
    """The refused deliveries that the list shows, by app."""
    return {NAMES[each["app_id"]]: each["event_id"] for each in machine.json("event", "list", "--outcome", "refused")}


def mend(machine: Machine, name: str, refusal: str) -> dict[str, Any]:
    """What `explain` and `doctor` say of a refused delivery is right; the app's `verify` as the doctor would have it."""
    mistake = MISTAKES[name]
    assert mistake.why in machine.run("event", "explain", refusal).stdout, name
    told = machine.json("doctor", refusal)
    finding = told["findings"][0]
    assert (told["verdict"], finding["mistake"]) == ("explained", mistake.name), (name, told)
    assert SECRET not in json.dumps(told), name
    assert finding["change"].startswith(LINE) == (mistake.right is None), (name, finding)
    return as_written(mistake) if mistake.right else dict(yaml.safe_load(finding["change"].removeprefix(LINE)))


def test_each_mistake_is_named_and_mended(running: Machine) -> None:
    """Refused with 401, listed, explained, diagnosed; with what the doctor says done, the sender is let in."""
    assert {name: post(running, name, each.wrong).status for name, each in MISTAKES.items()} == dict.fromkeys(
        MISTAKES, 401
    )
    refused = until(lambda: found if len(found := find_refused(running)) == len(MISTAKES) else None, "the refusals")
    with ThreadPoolExecutor(4) as pool:
        mended = pool.map(lambda name: mend(running, name, refused[name]), MISTAKES)
        running.config.write_text(write_file(dict(zip(MISTAKES, mended, strict=True))))
    until(lambda: post(running, "another-header", MISTAKES["another-header"].wrong).status == 200, "the new file")
    answers = {name: post(running, name, each.right or each.wrong) for name, each in MISTAKES.items()}
    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(MISTAKES, 200)
    run = running.wait_run(answers["field-of-a-form"].json()["run_id"])
    assert run.output == "Zoë"
