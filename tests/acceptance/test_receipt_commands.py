"""`gateway receipt` on a gateway that runs, and offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import redis

from tests.acceptance.conftest import MakeMachine
from tests.acceptance.machine import Machine, order, orqo_headers, request


def gateway(
    machine: Machine, *argv: str, text: str | None = None, environ: dict[str, str] | None = None
) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *argv],
        env=environ or machine.environ,
        cwd=machine.folder,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def receipt_of(url: str, body: bytes) -> str:
    return request(url, "POST", body, orqo_headers(body)).headers["gateway-receipt"]


def test_receipts_are_verified_offline_and_a_changed_byte_is_found(make_machine: MakeMachine, tmp_path: Path) -> None:
    """With the public keys alone; a receipt left out is a gap; bytes changed in the store are found by the chain."""
    machine = make_machine()
    machine.config.write_text(machine.config.read_text().replace("name: ci\n", "name: ci\n    receipts: true\n"))
    machine.start().wait_ready()
    url, texts = f"{machine.url}/api/v1/webhooks/42", []
    for number in range(3):
        body = order(f"key {number}", workflow=16, name="x")
        texts.append(receipt_of(url, body))
    (tmp_path / "last").write_bytes(body)
    (tmp_path / "keys.json").write_text(gateway(machine, "receipt", "keys")[1])
    offline = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    keys = ("--keys", str(tmp_path / "keys.json"))
    assert (
        gateway(machine, "receipt", "verify", texts[2], *keys, "--body", str(tmp_path / "last"), environ=offline)[0]
        == 0
    )
    assert gateway(machine, "receipt", "verify", texts[0], *keys, "--body", str(tmp_path / "last"))[0] == 1
    assert gateway(machine, "receipt", "verify", "-", *keys, text="\n".join(texts))[0] == 0
    code, text = gateway(machine, "receipt", "verify", "-", *keys, text=f"{texts[0]}\n{texts[2]}\n")
    assert (code, "place 2 is missing" in text) == (1, True)
    code, text = gateway(machine, "receipt", "chain", "ci", "--json")
    assert (code, json.loads(text)["places"], json.loads(text)["events"]) == (0, 3, 3)
    event_id = json.loads(gateway(machine, "receipt", "verify", texts[1], *keys, "--json")[1])["receipts"][0][
        "event_id"
    ]
    with redis.Redis.from_url(machine.store_url) as store:
        key = f"gw:{{0}}:event:{event_id}"
        stored = store.hget(key, "body")
        assert isinstance(stored, bytes)
        store.hset(key, "body", stored.replace(b"x", b"y", 1))
    code, text = gateway(machine, "receipt", "chain", "42")
    assert (code, "place 2" in text) == (1, True)
