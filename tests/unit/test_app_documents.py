"""What is shown of an app: how its sender proves itself, who may come to its door, and nothing secret."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.apps import App
from gateway.configuration import read_configuration
from gateway.documents import describe_app, plain

FILE = """\
apps:
  - {id: 1, name: hub, public_url: "https://h.example/in", verify: {scheme: github, secrets: [{env: A}]},
     networks: [203.0.113.0/24], rate: 60/minute, reconcile: {repository: a/b, hook: 7, token: {env: T}}}
  - {id: 2, name: page, verify: none, max_depth: 8, form: {origins: ["https://www.example.com"], token: {min_fill: 3s}}}
  - {id: 3, name: alarms, topics: ["arn:b"], verify: {scheme: aws-sns, topics: ["arn:a"]}}
  - {id: 4, name: tasks, verify: {scheme: asana}, methods: [POST, PUT], content_types: [application/json]}
  - {id: 5, name: plain, verify: {scheme: orqo, secrets: [{env: A}]}}
"""
HUB = {"networks": ["203.0.113.0/24"], "rate": "60/minute"}
HOOK = {"repository": "a/b", "hook": 7, "token": "env T"}


@pytest.mark.parametrize(
    ("name", "handshake", "door"),
    [
        (
            "hub",
            "ping:X-GitHub-Event/ping",
            HUB | {"reconcile": HOOK | {"every": "5m", "api": "https://api.github.com"}},
        ),
        ("page", None, {"max_depth": 8, "form": {"origins": ["https://www.example.com"], "token": {"min_fill": "3s"}}}),
        ("alarms", "sns", {"topics": ["arn:a", "arn:b"]}),
        ("tasks", "asana", {"methods": ["POST", "PUT"], "content_types": ["application/json"]}),
        ("plain", None, {}),
    ],
)
def test_the_door_of_an_app(name: str, handshake: str | None, door: dict[str, Any]) -> None:
    """Its handshake, and all that it says of who may come and what it takes; of secrets where they are kept."""
    apps: dict[str, App] = {each.name: each for each in read_configuration(FILE).apps}
    document = json.loads(json.dumps(plain(describe_app(apps[name]))))
    shown = {each: value for each, value in document["door"].get("reconcile", {}).items() if value is not None}
    found = document["door"] | ({"reconcile": shown} if shown else {})
    assert (document["handshake"], {each: found[each] for each in door}, set(found)) == (handshake, door, set(door))
    assert document["public_url"] == ("https://h.example/in" if name == "hub" else None)
