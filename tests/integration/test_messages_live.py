"""Signed HTTP messages and pinned keys through a running receiver."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx2
import pytest

from gateway.proofs import Request
from gateway.signatures import Scheme, read_scheme, sign_request
from tests.tools import connected, publish, receiving, settings_for, tell
from tests.tools_keys import private_pem, public_pem

HOST = "https://hooks.example"
TOPIC = "arn:aws:sns:us-west-2:123456789012:deploys"
RFC = {"scheme": "rfc9421", "alg": "ed25519"}
DRONE = {"scheme": "drone"}
SNS = {"scheme": "aws-sns", "topics": [TOPIC]}
FILE = f"""
apps:
  - {{id: 1, name: rfc, public_url: "{HOST}/in/1", verify: {{scheme: rfc9421, alg: ed25519, secrets: [{{env: ED}}]}}}}
  - {{id: 2, name: drone, verify: {{scheme: drone, secrets: [{{env: SHARED}}]}}}}
  - {{id: 3, name: sns, verify: {{scheme: aws-sns, topics: ["{TOPIC}"], secrets: [{{env: RSA}}]}}}}
  - {{id: 4, name: unpinned, verify: {{scheme: aws-sns, topics: ["{TOPIC}"]}}}}
  - {{id: 5, name: travis, verify: {{scheme: travis, secrets: [{{env: RSA}}]}}}}
"""


def signed(written: dict[str, object], secret: str, body: bytes, url: str) -> Request:
    scheme: Scheme = read_scheme(written, "verify")
    kinds = {"sns": "text/plain; charset=UTF-8", "travis": "application/x-www-form-urlencoded"}
    bare = Request("POST", url, (("content-type", kinds.get(scheme.kind, "application/json")),), body)
    return sign_request(scheme, secret, bare, time.time(), "msg_1")


def message(address: str) -> bytes:
    """A message of SNS, not signed yet."""
    fields = {
        "Type": "Notification",
        "MessageId": "17dea24b",
        "TopicArn": TOPIC,
        "Message": "built",
        "Timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        "SignatureVersion": "2",
        "SigningCertURL": address,
    }
    return json.dumps(fields).encode()


def test_messages_over_http(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sender signs is taken; another body, another URL, or a key that nobody can fetch are not."""
    for name, value in (("ED", public_pem("ed25519")), ("RSA", public_pem("rsa")), ("SHARED", "a shared secret")):
        monkeypatch.setenv(name, value)
    good = "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-0f.pem"

    async def story() -> None:
        async with connected(store) as redis:
            await publish(redis, FILE)
        async with receiving(settings_for(store, tmp_path)) as port, httpx2.AsyncClient() as client:

            async def post(app: int, request: Request, body: bytes | None = None) -> int:
                query = request.url.partition("?")[2]
                url = f"http://127.0.0.1:{port}/api/v1/webhooks/{app}" + (f"?{query}" if query else "")
                headers = list(request.headers)
                answer = await client.post(url, content=request.body if body is None else body, headers=headers)
                return answer.status_code

            rfc = signed(RFC, private_pem("ed25519"), b'{"n":1}', f"{HOST}/in/1?a=1")
            assert await post(1, rfc) == 202
            assert await post(1, rfc, b'{"n":2}') == 401
            assert await post(1, signed(RFC, private_pem("ed25519"), b"{}", "https://other.example/in/1")) == 401
            drone = signed(DRONE, "a shared secret", b'{"n":1}', "")
            assert await post(2, drone) == 202
            assert await post(2, drone, b'{"n":2}') == 401
            pinned = signed(SNS, private_pem("rsa"), message(good), "")
            assert await post(3, pinned) == 202
            assert await post(3, signed(SNS, private_pem("rsa", 2), message(good), "")) == 401
            built = signed({"scheme": "travis"}, private_pem("rsa"), b"payload=%7B%22state%22%3A%22passed%22%7D", "")
            assert await post(5, built) == 202
            assert await post(5, built, b"payload=%7B%22state%22%3A%22failed%22%7D") == 401
            foreign = signed({"kind": "sns"}, private_pem("rsa"), message(good), "")
            evil = foreign.body.replace(b"amazonaws.com", b"amazonaws.com.evil.example")
            assert await post(4, foreign, evil) == 401

    tell(story())
