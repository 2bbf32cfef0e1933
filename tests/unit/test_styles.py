"""What is sent: judged by the official libraries in Python and in Node, and byte by byte for each style."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.callbacks import compose, decode_secret
from gateway.endpoints import LiveEndpoint, write_public_key
from gateway.hops import HEADER, Hop, read_hop
from gateway.presets import ROWS
from gateway.proofs import Request
from gateway.signatures import PRESETS, verify
from gateway.styles import Post, write_post
from tests.tools_endpoints import OLDER, WHSEC, live, message, post

NOW = 1_750_000_000.0
BODY = compose("run.completed", 1_750_000_000_123, {"run_id": 7, "output": "grüß dich"})
SEED = bytes(range(32))
KEY = (
    "whsk_"
    + base64.b64encode(SEED + Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()).decode()
)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FOREIGN = "whsec_" + base64.b64encode(b"a key of somebody else..").decode()
PACKAGES = ("standardwebhooks", "svix")
JUDGE = """
import {{ createRequire }} from "node:module";
import {{ createPublicKey, verify }} from "node:crypto";
import {{ readFileSync }} from "node:fs";
const require = createRequire({folder!r} + "/");
const {{ secrets, foreign, key, headers, body }} = JSON.parse(readFileSync({sent!r}));
const judged = {{}};
for (const name of {packages}) {{
  const {{ Webhook }} = require(name);
  for (const [label, secret] of [...Object.entries(secrets), ["foreign", foreign]]) {{
    try {{
      new Webhook(secret).verify(body, headers);
      judged[name + " " + label] = true;
    }} catch (error) {{
      judged[name + " " + label] = String(error.message).includes("ignature") ? false : String(error);
    }}
  }}
}}
const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), Buffer.from(key.slice(5), "base64")]);
const given = headers["webhook-signature"].split(" ").find((each) => each.startsWith("v1a,")).slice(4);
const content = Buffer.from(headers["webhook-id"] + "." + headers["webhook-timestamp"] + "." + body);
judged.v1a = verify(null, content, createPublicKey({{ key: der, format: "der", type: "spki" }}), Buffer.from(given, "base64"));
console.log(JSON.stringify(judged));
"""


def signatures(sent: Post) -> list[str]:
    return sent.headers["webhook-signature"].split(" ")


def rotating(**fields: Any) -> LiveEndpoint:
    """An endpoint with two live secrets and a signing key."""
    return live(WHSEC, OLDER, signing_key=KEY, **fields)


@pytest.mark.parametrize("package", ["standardwebhooks", "svix.webhooks"])
@pytest.mark.parametrize("secret", [WHSEC, OLDER], ids=["newest", "older"])
def test_official_python_takes_both_secrets_during_a_rotation(package: str, secret: str) -> None:
    """Whichever of the two live secrets a receiver has, its official library verifies what is sent; with another, not."""
    library = pytest.importorskip(package, reason="the package is not installed")
    sent = post(rotating(), message(BODY), time.time())
    library.Webhook(secret).verify(sent.body, sent.headers)
    with pytest.raises(WebhookVerificationError):
        library.Webhook(FOREIGN).verify(sent.body, sent.headers)


@pytest.fixture
def node_folder() -> Path:
    """A folder in which Node finds the official packages; skips where there is none."""
    folder = os.environ.get("NODE_PACKAGES")
    if shutil.which("node") is None or folder is None:
        pytest.skip(f"needs node, and NODE_PACKAGES: a folder after `npm install --prefix FOLDER {' '.join(PACKAGES)}`")
    return Path(folder)


def test_official_node_takes_both_secrets_and_node_the_v1a(node_folder: Path, tmp_path: Path) -> None:
    """The official packages verify what is sent with either secret and refuse a third; Node's own crypto verifies v1a."""
    sent = post(rotating(), message(BODY), time.time())
    given = tmp_path / "sent.json"
    secrets = {"newest": WHSEC, "older": OLDER}
    public = write_public_key(Ed25519PrivateKey.from_private_bytes(SEED))
    given.write_text(
        json.dumps(
            {"secrets": secrets, "foreign": FOREIGN, "key": public, "headers": sent.headers, "body": sent.body.decode()}
        )
    )
    script = tmp_path / "judge.mjs"
    script.write_text(JUDGE.format(folder=str(node_folder), sent=str(given), packages=json.dumps(PACKAGES)))
    done = subprocess.run(["node", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    wanted = {f"{name} {label}": label != "foreign" for name in PACKAGES for label in (*secrets, "foreign")}
    assert json.loads(done.stdout) == {**wanted, "v1a": True}


def test_one_signature_for_each_live_secret_the_newest_first() -> None:
    """v1 of each secret in their order, then v1a; from the end of the overlap on, the newest alone."""
    endpoint = rotating()
    one, two, three = signatures(post(endpoint, message(BODY), NOW))
    assert [one.split(",")[0], two.split(",")[0], three.split(",")[0]] == ["v1", "v1", "v1a"]
    assert one == signatures(post(live(WHSEC), message(BODY), NOW))[0]
    assert two == signatures(post(live(OLDER), message(BODY), NOW))[0]
    over = live(WHSEC, OLDER, overlap_until=int(NOW))
    assert len(signatures(post(over, message(BODY), NOW - 1))) == 2
    assert signatures(post(over, message(BODY), NOW)) == [one]


@pytest.mark.parametrize("text", [KEY, "whsk_" + base64.b64encode(SEED).decode()], ids=["64 bytes", "32 bytes"])
def test_v1a_is_ed25519_over_id_time_and_body(text: str) -> None:
    """Verified with the public key alone; one other byte is refused."""
    sent = post(live(signing_key=text), message(BODY), NOW)
    (signature,) = signatures(sent)
    kind, _, given = signature.partition(",")
    raw = base64.b64decode(write_public_key(Ed25519PrivateKey.from_private_bytes(SEED)).removeprefix("whpk_"))
    key, content = Ed25519PublicKey.from_public_bytes(raw), f"msg_7_ab.{int(NOW)}.".encode() + BODY
    assert kind == "v1a"
    key.verify(base64.b64decode(given), content)
    with pytest.raises(InvalidSignature):
        key.verify(base64.b64decode(given), content[:-1] + b"]")


def test_a_message_at_a_second_endpoint_has_the_message_s_id() -> None:
    """`webhook-id` is the message's and what is signed, not the id of the one callback."""
    sent = post(live(WHSEC), message(BODY, id="msg_7_ab-2"), time.time())
    assert sent.headers["webhook-id"] == "msg_7_ab"
    Webhook(WHSEC).verify(sent.body, sent.headers)


def test_standard_webhooks_has_these_headers_and_bytes() -> None:
    """The body is the envelope as it is stored; nothing is in the headers that is not said here."""
    callback = message(BODY, attempts=2, hop=Hop("ses_a", 3), traceparent=TRACE)
    sent = post(live(WHSEC, headers={"X-Team": "ops"}), callback, NOW)
    assert sent.body == BODY
    assert set(sent.headers) == {
        *("content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-attempt", "webhook-signature"),
        *("gateway-hop", "traceparent", "x-team"),
    }
    told = {name: sent.headers[name] for name in ("content-type", "webhook-attempt", "traceparent", "x-team")}
    assert told == {
        "content-type": "application/json",
        "webhook-attempt": "3",
        "traceparent": TRACE,
        "x-team": "ops",
    }


def test_orqo_s_style_signs_the_body_alone() -> None:
    """`X-Signature-256` with the newest secret's own text, as our own preset `orqo` verifies it; no other signature."""
    sent = post(live("a secret of orqo's", "another", style="orqo"), message(BODY), NOW)
    digest = hmac.new(b"a secret of orqo's", BODY, hashlib.sha256).hexdigest()
    assert (sent.headers["x-signature-256"], sent.body) == (f"sha256={digest}", BODY)
    assert "webhook-signature" not in sent.headers
    assert sent.headers["webhook-id"] == "msg_7_ab"
    request = Request("POST", "/", tuple(sent.headers.items()), sent.body)
    assert "orqo" in ROWS
    assert verify(PRESETS["orqo"], ["a secret of orqo's"], request, NOW).valid


def test_cloudevents_is_binary_mode() -> None:
    """The envelope's parts are `ce-` headers, the body is the data, byte for byte, and that is what is signed."""
    sent = post(live(WHSEC, style="cloudevents"), message(BODY, traceparent=TRACE), time.time())
    assert sent.body == '{"run_id":7,"output":"grüß dich"}'.encode()
    assert {name: value for name, value in sent.headers.items() if name.startswith("ce-")} == {
        "ce-specversion": "1.0",
        "ce-id": "msg_7_ab",
        "ce-source": "/event-gateway",
        "ce-type": "run.completed",
        "ce-time": "2025-06-15T15:06:40.123Z",
        "ce-subject": "runs/7",
        "ce-traceparent": TRACE,
    }
    assert sent.headers["content-type"] == "application/json"
    Webhook(WHSEC).verify(sent.body, sent.headers)


def test_a_hop_is_vouched_for_with_every_live_secret() -> None:
    """A receiver that has only the older secret yet still counts the chain; one that has neither does not."""
    sent = post(rotating(), message(BODY, hop=Hop("ses_a", 3)), NOW)
    for secret, wanted in ((WHSEC, Hop("ses_a", 3)), (OLDER, Hop("ses_a", 3)), (FOREIGN, None)):
        assert read_hop(sent.headers[HEADER], [decode_secret(secret)], "msg_7_ab", str(int(NOW))) == wanted


@pytest.mark.parametrize(
    "endpoint",
    [
        live("whsec_"),
        live(signing_key="whsk_none"),
        live(WHSEC, headers={"X-Team": {"env": "UNSET"}}),
    ],
    ids=["an empty key", "no key", "a header without value"],
)
def test_nothing_is_sent_that_can_t_be_signed(endpoint: LiveEndpoint) -> None:
    """Without anything to sign with, or with a header that is missing, there is no message."""
    assert write_post(endpoint, message(BODY), NOW) is None


def test_a_secret_that_is_missing_leaves_the_other() -> None:
    """Where one of two secrets is not set the other signs, and the endpoint says which is missing."""
    endpoint = live(WHSEC, "")
    assert len(signatures(post(endpoint, message(BODY), NOW))) == 1
    assert endpoint.flaw == "its secret (env S1) is not set"
