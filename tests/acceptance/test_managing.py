"""The commands that change apps and tokens, and the API beside them: the same objects, the same refusals."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from tests.acceptance.machine import Listener, Machine, order, orqo_headers, request, until


def knock(machine: Machine, app: int, secret: str) -> int:
    """Send a signed order as this app, and give the answer's status."""
    body = order("knock", 16)
    return machine.post(body, app=app, headers=orqo_headers(body, secret)).status


def test_an_app_is_changed_by_command(calm: Machine) -> None:
    """Disabled, enabled, rotated and removed, an app answers as the command said, within the time of one notice."""
    added = calm.json("app", "add", "changed")
    number, secret = added["id"], added["secret"]
    assert calm.json("app", "disable", "changed")["disabled"] is True
    until(lambda: knock(calm, number, secret) == 403, "the app to be disabled")
    assert calm.json("app", "enable", str(number))["disabled"] is False
    until(lambda: knock(calm, number, secret) == 200, "the app to be enabled")
    rotated = calm.json("app", "rotate-secret", "changed")
    assert rotated.keys() == added.keys()
    until(lambda: knock(calm, number, rotated["secret"]) == 200, "the new secret to be known")
    assert knock(calm, number, secret) == 200
    assert calm.json("app", "remove", "changed")["id"] == number
    until(lambda: knock(calm, number, secret) == 404, "the app to be gone")


def test_an_app_takes_its_senders_secret_and_forgets_it(calm: Machine) -> None:
    """An app of Notion's is made without a secret; what Notion hands over is shown to be pasted back, until a command
    waits for another.
    """
    added = calm.json("app", "add", "pages", "--scheme", "notion", "--no-direct")
    assert added["secret"] is None
    assert calm.json("app", "show", "pages")["paired_at"] is None

    def offer(token: str) -> int:
        body = json.dumps({"verification_token": token}).encode()
        kind = {"content-type": "application/json"}
        return request(calm.url + added["token_path"], "POST", body, kind).status

    until(lambda: offer("secret_of_notion_itself") == 200, "the token to be taken")
    assert offer("secret_of_somebody_else") == 401
    shown = calm.json("app", "show", "pages")
    assert (shown["verification_token"], shown["paired_at"] is None) == ("secret_of_notion_itself", False)
    refused = calm.run("app", "rotate-secret", "pages")
    assert (refused.returncode, "gateway app pair" in refused.stderr) == (1, True)
    calm.json("app", "pair", "pages")
    until(lambda: offer("secret_of_notion_again") == 200, "the app to wait again")
    assert calm.json("app", "show", "pages")["verification_token"] == "secret_of_notion_again"
    for name in ("ci", "nobody"):
        assert calm.run("app", "pair", name).returncode == 1
    calm.json("app", "remove", "pages")


def test_secrets_are_kept_by_command(calm: Machine) -> None:
    """Set from standard input, listed without its value, removed; the keys' status names one, which nothing lacks."""
    done = calm.run("secret", "set", "far", given="a value of ours\n")
    assert (done.returncode, "a value" in done.stdout + done.stderr) == (0, False), done
    assert [each["name"] for each in calm.json("secret", "list")] == ["far"]
    for given in ("", "four", "\n"):
        done = calm.run("secret", "set", "near", given=given)
        assert (done.returncode, "value:" in done.stderr) == (1, True), done
    assert calm.run("secret", "set", "a b", given="a value of ours").returncode == 1
    (key,) = calm.json("secret", "status")["keys"]
    assert (key["state"], key["needed_by"]["secrets"]) == ("newest", 1)
    assert calm.json("secret", "rewrap") == {"rewrapped": {}, "keys": [key]}
    assert calm.json("secret", "remove", "far")["name"] == "far"
    assert calm.run("secret", "remove", "far").returncode == 1


def test_an_overlap_ends_when_it_is_told_to(calm: Machine) -> None:
    """A rotation says until when the older secret counts; another is refused, until the older one is revoked."""
    first = calm.json("app", "add", "overlapping")
    second = calm.json("app", "rotate-secret", "overlapping", "--overlap", "2h")
    assert [each["expires_at"] is None for each in second["secret_uses"]] == [True, False]
    until(lambda: knock(calm, first["id"], second["secret"]) == 200, "the new secret to be known")
    assert knock(calm, first["id"], first["secret"]) == 200
    refused = calm.run("app", "rotate-secret", "overlapping")
    assert (refused.returncode, "revoke the older one" in refused.stderr) == (1, True)
    calm.json("app", "revoke-secret", "overlapping")
    until(lambda: knock(calm, first["id"], first["secret"]) == 401, "the older secret to end")
    for overlap in ("soon", "31d"):
        assert calm.run("app", "rotate-secret", "overlapping", "--overlap", overlap).returncode == 1
    calm.json("app", "remove", "overlapping")


def test_what_the_file_manages_is_refused_by_command(calm: Machine) -> None:
    """A command that would change an app of gateway.yaml exits with 1 and names the file."""
    before = calm.json("app", "list")
    for word in ("disable", "enable", "rotate-secret", "remove"):
        done = calm.run("app", word, "ci")
        assert (done.returncode, "gateway.yaml" in done.stderr) == (1, True), done
    assert calm.json("app", "list") == before


def test_an_app_that_cannot_be_is_refused_by_command(calm: Machine) -> None:
    """A name that reads as an id, an unknown scheme and a callback's URL that leads inside exit with 1, saying which."""
    for argv, word in (
        (["77"], "name"),
        (["strange", "--scheme", "orko"], "scheme"),
        (["inside", "--callback-url", "http://10.0.0.1/"], "callback_url"),
    ):
        done = calm.run("app", "add", *argv)
        assert (done.returncode, done.stdout, word in done.stderr) == (1, "", True), done
    assert {"77", "strange", "inside"}.isdisjoint(each["name"] for each in calm.json("app", "list"))


def test_command_and_api_show_the_same(calm: Machine) -> None:
    """Apps, hooks and tokens made over the API, or by command, are the same documents in both."""
    admin = calm.json("token", "create", "both", "--scope", "admin")["token"]
    headers = {"Authorization": f"Bearer {admin}", "Content-Type": "application/json"}

    def ask(path: str, body: object = None) -> tuple[int, object]:
        method = "GET" if body is None else "POST"
        content = b"" if body is None else json.dumps(body).encode()
        answer = request(calm.url + path, method, content or None, headers)
        return answer.status, answer.json()

    def same(kind: str) -> bool:
        return ask(f"/api/v1/{kind}s") == (200, {"data": calm.json(kind, "list"), "next_cursor": None})

    until(lambda: ask("/api/v1/apps")[0] == 200, "the token to be known")
    assert ask("/api/v1/apps", {"name": "sister"})[0] == 201
    assert ask("/api/v1/hooks", {"workflow": "three"})[0] == 201
    calm.json("hook", "add", "greet")
    until(lambda: any(each["last_used_at"] for each in calm.json("token", "list")), "the use to be written down")
    for kind in ("app", "hook", "token"):
        # To ask is a use, which is written down a moment later.
        until(partial(same, kind), f"the same {kind}s")


def test_token_list_tells_uses_and_credits(calm: Machine) -> None:
    """`token list` shows a token's balance, and that nobody has used it yet, as a document and as a table."""
    calm.json("token", "create", "payer", "--credits", "20", "--refill", "3d")
    listed = {each["name"]: each for each in calm.json("token", "list")}
    assert listed["payer"]["last_used_at"] is None
    assert listed["payer"]["credits"] == {"left": 20, "amount": 20, "refill_at": None}
    lines = calm.run("token", "list").stdout.splitlines()
    (row,) = [line for line in lines if " payer " in line]
    assert "never" in row
    assert "20 of 20" in row


def test_an_endpoint_is_made_changed_and_pinged_by_command(calm: Machine, listener: Listener) -> None:
    """Made, rotated, pinged, disabled and removed; the secret is shown when it is made, and never again."""
    made = calm.json("endpoint", "add", "ops", listener.url, "--event", "run.failed", "--thin", "--header", "X-Team: a")
    assert (made["events"], made["payload"], made["headers"]) == (["run.failed"], "thin", {"X-Team": "a"})
    rotated = calm.json("endpoint", "rotate-secret", "ops", "--overlap", "1h")
    assert (rotated["secret"] != made["secret"], len(rotated["secrets"])) == (True, 2)
    assert calm.run("endpoint", "rotate-secret", "ops").returncode == 1
    assert len(calm.json("endpoint", "revoke-secret", "ops")["secrets"]) == 1
    pinged = calm.json("endpoint", "ping", "ops")["callback_id"]
    tried = until(lambda: calm.json("callback", "show", pinged)["attempts"], "the ping to be tried")
    assert (tried[0]["status"], listener.messages()[-1]["valid"]) == (401, False)  # the listener has another secret
    assert calm.json("endpoint", "disable", "ops")["status"] == "disabled"
    assert calm.run("endpoint", "ping", "ops").returncode == 1
    assert calm.json("endpoint", "enable", made["id"])["status"] == "active"
    shown = calm.run("endpoint", "show", "ops").stdout + calm.run("endpoint", "list").stdout
    assert "X-Team" in shown
    assert made["secret"] not in shown + json.dumps(calm.json("endpoint", "list"))
    assert calm.json("endpoint", "remove", "ops")["name"] == "ops"
    assert calm.run("endpoint", "show", "ops").returncode == 1


def test_an_endpoint_that_cannot_be_is_refused_by_command(calm: Machine) -> None:
    """A URL that can't be, an event that is none and a header that is not one leave nothing behind."""
    for argv, status, word in (
        (["http://10.0.0.1/"], 1, "url"),
        (["https://u@ops.example/"], 1, "user name"),
        (["https://ops.example/", "--event", "run.ended"], 1, "run.ended"),
        (["https://ops.example/", "--filter", "nobody.x"], 1, "filter"),
        (["https://ops.example/", "--header", "nothing"], 2, "--header"),
    ):
        done = calm.run("endpoint", "add", "strange", *argv)
        assert (done.returncode, done.stdout, word in done.stderr) == (status, "", True), done
    assert "strange" not in [each["name"] for each in calm.json("endpoint", "list")]


def test_check_says_where_an_endpoint_leads_inside(calm: Machine, tmp_path: Path) -> None:
    """`check` looks names up, and tells line and field; what can't be looked up is no mistake."""
    file = tmp_path / "gateway.yaml"
    text = "endpoints:\n  - name: ops\n    url: https://HOST/\n    secrets: [{env: CI_SECRET}]\n"
    file.write_text(text.replace("HOST", "localhost"))
    # Loopback is opened for the callbacks of this gateway; another network is not.
    done = calm.run("check", str(file), GATEWAY_EGRESS_ALLOW="10.0.0.0/8")
    assert (done.returncode, f"{file}:3:5: endpoints[0].url: localhost can't be reached" in done.stderr) == (1, True), (
        done
    )
    file.write_text(text.replace("HOST", "nobody.invalid"))
    assert calm.run("check", str(file)).returncode == 0


def test_callbacks_and_endpoints_come_back_by_command(calm: Machine, listener: Listener) -> None:
    """Redelivered, one by its id or all that fit, a message comes again under its id; enable and recover take `app-42`."""
    calm.start_run(order("again", 16), "again")
    (first,) = until(lambda: listener.about("again"), "the callback")
    (found,) = until(
        lambda: [
            each for each in calm.json("callback", "list", "--status", "delivered") if each["run_id"] == first["run"]
        ],
        "its record",
    )
    (again,) = calm.json("callback", "redeliver", found["callback_id"])
    assert (again["callback_id"], again["endpoint"]) == (first["id"], "app-42")
    until(lambda: len(listener.about("again")) == 2, "the second delivery")
    until(lambda: calm.json("callback", "show", first["id"])["status"] == "delivered", "its record")
    some = calm.json("callback", "redeliver", "--endpoint", "app-42", "--since", "1h", "--status", "delivered")
    assert first["id"] in some["callback_ids"]
    until(lambda: len(listener.about("again")) == 3, "the third delivery")
    assert {line["id"] for line in listener.about("again")} == {first["id"]}
    assert calm.json("endpoint", "enable", "app-42")["endpoint_id"] == "app-42"
    assert calm.json("endpoint", "recover", "app-42", "--since", "1h") == {"callback_ids": [], "more": False}
    for argv, code, word in (
        (["callback", "redeliver"], 2, "--since"),
        (["callback", "redeliver", "msg_0_no"], 1, "no callback"),
        (["callback", "redeliver", "--since", "soon"], 2, "--since"),
        (["endpoint", "recover", "nobody", "--since", "2h"], 1, "nobody"),
    ):
        done = calm.run(*argv)
        assert (done.returncode, word in done.stderr) == (code, True), done
