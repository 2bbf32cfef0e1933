"""A captured request becomes a case: with what stands in it, and what the installation knows besides."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.apps import App
from gateway.diagnosis import diagnose
from gateway.diagnosis.captures import Installation, read_case, read_document
from gateway.errors import ConfigError
from gateway.secrets import SecretRef
from gateway.signatures import Request, read_scheme, sign

VALUES = {"CI": "secret-of-ci-0123456789", "OLD": "old-secret-of-ci-01234567", "BILLING": "secret-of-billing-012345"}
APPS = (
    App(id=42, name="ci", verify={"scheme": "github", "secrets": [{"env": "CI"}]}),
    App(id=43, name="billing", verify={"scheme": "stripe", "tolerance": 60, "secrets": [{"env": "BILLING"}]}),
    App(id=44, name="broken", verify={"scheme": "no-such-scheme", "secrets": [{"env": "CI"}]}),
)
HERE = Installation(APPS, lambda reference, owner: VALUES.get(reference.env or ""))
NOWHERE = Installation((), lambda reference, owner: None)
BODY = '{"a": 1}'


def captured(secret: str, **changes: Any) -> dict[str, Any]:
    headers = sign(read_scheme("github", "scheme"), secret, Request("POST", "", (), BODY.encode()), 0.0, "d-1")
    return {"headers": dict(headers), "body": BODY, "app_id": 42} | changes


def test_app_gives_scheme_and_secrets() -> None:
    """A capture without scheme and secrets is judged by its app's; another app's secret is named by its label alone."""
    case = read_case(read_document(captured(VALUES["BILLING"])), HERE)
    (finding,) = diagnose(case).findings
    assert finding.mistake == "other_secret"
    assert "app 'billing', env BILLING" in finding.explanation
    assert VALUES["BILLING"] not in finding.explanation + finding.change


def test_line_names_the_apps_own_secrets() -> None:
    """The line for gateway.yaml names the secrets as they stand there."""
    document = captured(VALUES["CI"])
    document["headers"] = {"X-Other": document["headers"]["X-Hub-Signature-256"]}
    (finding,) = diagnose(read_case(read_document(document), HERE)).findings
    assert finding.change == "In gateway.yaml: verify: {scheme: github, header: x-other, secrets: [{env: CI}]}"


def test_file_judges_for_itself() -> None:
    """With scheme and secrets in it a capture needs no installation."""
    document = captured("a-secret-of-its-own\n", scheme="github", secrets=["a-secret-of-its-own"], app_id=None)
    assert [each.mistake for each in diagnose(read_case(read_document(document), NOWHERE)).findings] == [
        "sender_secret"
    ]


def test_body_that_was_not_kept_is_said() -> None:
    """Without the body nothing is made up: only what the headers tell is explained."""
    document = captured(VALUES["CI"])
    del document["body"]
    unexplained = diagnose(read_case(read_document(document), HERE))
    assert (unexplained.verdict, unexplained.tried) == ("unexplained", 0)
    assert "body was not kept" in unexplained.next[0]
    document["headers"] = {"X-GitHub-Event": "push"}
    assert [each.mistake for each in diagnose(read_case(read_document(document), HERE)).findings] == ["missing_header"]


def test_hidden_value_is_said() -> None:
    """A header whose value was not kept is not taken for the sender's mistake."""
    document = captured(VALUES["CI"], scheme="gitlab", headers={"x-gitlab-token": "•••"})
    diagnosis = diagnose(read_case(read_document(document), HERE))
    assert (diagnosis.verdict, diagnosis.findings) == ("unexplained", ())
    assert "not kept" in diagnosis.next[0]


@pytest.mark.parametrize(
    ("document", "wanted", "words"),
    [
        ([], None, "can't be read"),
        ({"headers": {"x": 3}}, None, "headers"),
        ({"headers": {}, "body": ""}, None, "--app"),
        ({"headers": {}, "body": ""}, "nobody", "there is no app 'nobody'"),
        ({"headers": {}, "body": "", "body_base64": ""}, "ci", "exactly one"),
        ({"headers": {}, "body_base64": "?"}, "ci", "not base64"),
        ({"headers": {}, "body": "", "scheme": "githup"}, None, "did you mean"),
    ],
)
def test_malformed_capture_is_explained(document: object, wanted: str | None, words: str) -> None:
    """What is wrong with a document is said by field, and what to do."""
    with pytest.raises(ConfigError, match=words):
        read_case(read_document(document), HERE, wanted)


def test_sealed_secrets_are_not_printed() -> None:
    """An app whose secrets are kept sealed gets a line without their ciphertexts."""
    sealed = msgspec.to_builtins(SecretRef(sealed="v1.a.b.c"))
    app = App(id=42, name="ci", verify={"scheme": "github", "secrets": [sealed]})
    case = read_case(read_document(captured("x" * 20)), Installation((app,), lambda reference, owner: VALUES["CI"]))
    assert case.references is None
