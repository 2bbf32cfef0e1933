"""Three senders that nobody knows: each described in gateway.yaml alone, signed here by other code than the gateway's."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.acceptance.machine import Answer, Machine, request, until

LEDGER_SECRETS = ("ledger-secret-of-this-month", "ledger-secret-of-last-month", "ledger-secret-of-two-ago")
MILL_SECRET = bytes(range(32))
ORBIT_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"orbit").digest())
ORBIT_PUBLIC = ORBIT_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
FILE = """\
apps:
  - id: 51
    name: ledger                                  # Ledger-Proof: at=1750000000;h2=9f86..;h1=old
    verify:
      kind: hmac
      header: Ledger-Proof
      alg: sha512
      list: {item_sep: ";", kv_sep: "=", sig_key: h2}
      template: "{method}|{timestamp}|{header.Ledger-Id}|{body}"
      timestamp: {from: "field:at", tolerance: 120}
      delivery_id: "header:Ledger-Id"
      event_type: "header:Ledger-Event"
      secrets: [{env: LEDGER_NEW}, {env: LEDGER_OLD}, {env: LEDGER_OLDEST}]
    triggers:
      - {name: all, when: event.type == "entry.booked", workflow: greet, input: {name: "${event.body.who}"}}
  - id: 52
    name: orbit                                   # Ed25519, its public key in hex
    verify:
      kind: public-key
      alg: ed25519
      key: hex
      enc: base64
      header: X-Orbit-Seal
      prefix: "seal "
      template: "{timestamp}.{body}"
      timestamp: {from: "header:X-Orbit-At", unit: rfc3339}
      delivery_id: "body:nr"
      event_type: "body:kind"
      secrets: [{env: ORBIT_PUBLIC}]
    triggers:
      - {name: all, when: event.type == "docked", workflow: greet, input: {name: "${event.body.who}"}}
  - id: 53
    name: mill                                    # the signature stands in the body, over two of its fields
    verify:
      kind: hmac
      proof: "body:seal.mac"
      enc: base64
      key: base64
      template: "{json.seal.at}:{json.seal.nonce}"
      timestamp: {from: "body:seal.at", unit: ms}
      delivery_id: "body:seal.nonce"
      event_type: "body:topic"
      secrets: [{env: MILL_SECRET}]
    triggers:
      - {name: all, when: event.type == "ground", workflow: greet, input: {name: "${event.body.who}"}}
workflows:
  - {id: 16, name: greet, steps: [{id: greeting, transform: "Hello, ${input.name}!"}], output: "${steps.greeting.output}"}
"""

TYPES = {"ledger": "entry.booked", "orbit": "docked", "mill": "ground"}
Posted = tuple[bytes, dict[str, str]]


def ledger(name: str, now: float, secret: str = LEDGER_SECRETS[0]) -> Posted:
    body = json.dumps({"who": name}).encode()
    at, identity = str(int(now)), f"led-{name}"
    text = b"|".join([b"POST", at.encode(), identity.encode(), body])
    mac = hmac.new(secret.encode(), text, hashlib.sha512).hexdigest()
    proof = f"at={at};h1={'0' * 40};h2={mac}"
    return body, {"Ledger-Proof": proof, "Ledger-Id": identity, "Ledger-Event": "entry.booked"}


def orbit(name: str, now: float) -> Posted:
    body = json.dumps({"kind": "docked", "nr": f"o-{name}", "who": name}, indent=1).encode()
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    seal = base64.b64encode(ORBIT_KEY.sign(at.encode() + b"." + body)).decode()
    return body, {"X-Orbit-Seal": f"seal {seal}", "X-Orbit-At": at}


def mill(name: str, now: float) -> Posted:
    at, nonce = int(now * 1000), f"nonce-{name}"
    mac = base64.b64encode(hmac.digest(MILL_SECRET, f"{at}:{nonce}".encode(), "sha256")).decode()
    return json.dumps({"topic": "ground", "who": name, "seal": {"at": at, "nonce": nonce, "mac": mac}}).encode(), {}


SENDERS: dict[str, tuple[int, Callable[[str, float], Posted]]] = {
    "ledger": (51, ledger),
    "orbit": (52, orbit),
    "mill": (53, mill),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """`gateway up` with nothing but the file above."""
    with closing(Machine(tmp_path_factory.mktemp("unknown"))) as machine:
        machine.config.write_text(FILE)
        machine.environ |= dict(zip(("LEDGER_NEW", "LEDGER_OLD", "LEDGER_OLDEST"), LEDGER_SECRETS, strict=True))
        machine.environ |= {"ORBIT_PUBLIC": ORBIT_PUBLIC, "MILL_SECRET": base64.b64encode(MILL_SECRET).decode()}
        yield machine.start().wait_ready()


def post(machine: Machine, app: int, posted: Posted) -> Answer:
    body, headers = posted
    url = f"{machine.url}/api/v1/webhooks/{app}"
    return request(url, "POST", body, {"Content-Type": "application/json"} | headers)


@pytest.mark.parametrize("name", SENDERS)
def test_a_written_scheme_lets_its_sender_in(running: Machine, name: str) -> None:
    """A signed POST starts a run with the trigger's input; the same again starts nothing."""
    app, sign = SENDERS[name]
    posted = sign("Ada", time.time())
    answer = post(running, app, posted)
    assert answer.status == 200, answer
    run_id = answer.json()["run_id"]
    assert running.wait_run(run_id).output == "Hello, Ada!"
    assert post(running, app, posted).json()["run_id"] == run_id
    told = running.json("event", "explain", answer.json()["event_id"])
    assert (told["outcome"], told["type"]) == ("accepted", TYPES[name])


@pytest.mark.parametrize("name", SENDERS)
def test_a_written_scheme_keeps_others_out(running: Machine, name: str) -> None:
    """One signed byte changed, another sender's proof, an old time and a time ahead are each a 401; no run begins."""
    app, sign = SENDERS[name]
    before = len(running.runs())
    body, headers = sign("Eve", time.time())
    changed = body.replace(b"Eve", b"Evf"), {each: value.replace("Eve", "Evf") for each, value in headers.items()}
    forged = [changed, (body, {}) if headers else (b'{"topic": "ground", "who": "Eve"}', {})]
    forged += [sign("Eve", time.time() - 400), sign("Eve", time.time() + 400)]
    assert [post(running, app, each).status for each in forged] == [401] * 4
    assert len(running.runs()) == before


def test_three_secrets_at_once(running: Machine) -> None:
    """Whichever of three secrets a sender still uses is accepted; which one it was is told, and counted for each."""
    for place, secret in enumerate(LEDGER_SECRETS):
        name = f"Secret{place}"
        answer = post(running, 51, ledger(name, time.time(), secret))
        assert answer.status == 200, answer
        told = running.run("event", "explain", f"led-{name}").stdout
        env = ("LEDGER_NEW", "LEDGER_OLD", "LEDGER_OLDEST")[place]
        assert f"secret {place + 1} of 3 (env {env}) matched" in told, told

    def counted() -> bool:
        uses = running.json("app", "show", "ledger")["secret_uses"]
        return [use["count"] >= 1 for use in uses] == [True] * 3

    until(counted, "the uses of the three secrets")
    shown = running.run("app", "show", "ledger").stdout
    assert "env LEDGER_OLDEST: used" in shown
    assert "capabilities    receive, send" in shown
