"""URLs of callbacks when they are configured: by file, by command and by API, and what a first look-up tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import gateway.web.client as clients
from gateway.configuration import check_texts, read_configuration
from gateway.egress import Finding, Policy, read_policy
from gateway.places import Mistakes
from gateway.web.destinations import AT_ONCE, examine, examine_all
from tests.tools import tell
from tests.tools_api import serving
from tests.tools_egress import NAMES, TEXTS, Names, witnessed

FILE = """\
apps:
  - name: first
    verify: none
    callback: {url: "https://fine.example/told", secret: {env: TESTS_CALLBACK}}
  - name: second
    verify: none
    callback:
      secret: {env: TESTS_CALLBACK}
      url: URL
"""


@pytest.mark.parametrize("kind", NAMES)
def test_a_hostile_name_is_seen_when_it_is_configured(kind: str) -> None:
    """One look-up tells a name that leads inside; a name that is not there today is a doubt and no refusal."""

    async def story() -> None:
        name = NAMES[kind]
        names = Names(name.answer)
        with witnessed() as witness:
            found = await examine(Policy(), f"https://{name.host}/", resolve=names)
        assert names.asked == [name.host]
        assert (witness.looked_up, witness.dialled) == ([], [])
        told = found.doubt if name.answer == "failure" else found.refusal
        assert told is not None
        assert name.host in told
        assert (found.doubt is None) != (found.refusal is None)

    tell(story())


def test_a_hostile_text_is_refused_in_a_file_with_its_line() -> None:
    """Every URL of the corpus that is wrong as it stands is a mistake of its field, whatever the name servers say."""
    for url in TEXTS:
        written = json.dumps(url.replace("PORT", "8443"))
        try:
            check_texts(read_configuration(FILE.replace("URL", written)), Policy())
        except Mistakes as error:
            mistakes = error.mistakes
        else:
            pytest.fail(f"{written} is taken")
        assert [(each.line, each.path) for each in mistakes] == [(9, "apps[1].callback.url")], url


def test_what_is_fine_and_what_is_allowed_pass() -> None:
    """A public name passes, and an allowed network opens http, addresses and ports in it; a slow name server is a doubt."""

    async def story() -> None:
        fine = await examine(Policy(), "https://hooks.example/", resolve=Names(["93.184.216.34"]))
        policy = read_policy("10.0.0.0/8")
        inside = await examine(policy, "http://inside.example:9000/", resolve=Names(["10.1.2.3"]))
        literal = await examine(policy, "http://10.1.2.3:9000/", resolve=Names("not asked"))
        assert fine == inside == literal == Finding()

    tell(story())


def test_many_are_looked_up_together() -> None:
    """Each different URL is looked up once, and the findings come in the order of the URLs."""

    async def story() -> None:
        names = Names(["10.0.0.1"])
        urls = [f"https://h{number}.example/" for number in range(2 * AT_ONCE)]
        found = await examine_all(Policy(), [*urls, *urls], resolve=names)
        assert sorted(names.asked) == sorted(url[8:-1] for url in urls)
        assert [(each.refusal or "").split()[0] for each in found] == [url[8:-1] for url in [*urls, *urls]]

    tell(story())


def gateway(folder: Path, url: str, *arguments: str, allow: str = "") -> subprocess.CompletedProcess[str]:
    """A command over a file whose second app has a callback at this URL."""
    file = folder / "gateway.yaml"
    file.write_text(
        FILE.replace("https://fine.example/told", url if allow else "https://fine.invalid").replace("URL", url)
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environ = kept | {
        "GATEWAY_CONFIG": str(file),
        "GATEWAY_DATA_DIR": str(folder / "data"),
        "GATEWAY_EGRESS_ALLOW": allow,
    }
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://hooks.example/", "only https is allowed here"),
        ("https://ann:word@hooks.example/", "it holds a user name or password"),
        ("https://192.168.1.1/", "its host is an address; write a host name"),
        ("https://hooks.example:6379/", "port 6379 is not allowed here"),
        ("https://localhost/", "localhost can't be reached from here: 127.0.0.1: loopback"),
    ],
)
@pytest.mark.parametrize("command", ["check", "apply"])
def test_a_file_with_a_callback_to_nowhere_is_refused(tmp_path: Path, command: str, url: str, words: str) -> None:
    """`check` and `apply` name line, field and reason; nothing is applied."""
    done = gateway(tmp_path, url, command)
    assert done.returncode == 1
    assert "apps[1].callback.url: " in done.stderr
    assert words in done.stderr or "::1: loopback" in done.stderr
    assert "gateway.yaml:9:" in done.stderr or "line 9, column" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_can_not_be_looked_up_is_a_warning(tmp_path: Path) -> None:
    """A name server that does not know a name, or is down, stops neither `check` nor `apply`; both say so."""
    checked, applied = (
        gateway(tmp_path, "https://no.invalid/", "check", "--json"),
        gateway(tmp_path, "https://no.invalid/", "apply"),
    )
    assert (checked.returncode, applied.returncode) == (0, 0)
    warnings = json.loads(checked.stdout)["warnings"]
    assert any("apps[1].callback.url: no.invalid can't be looked up now" in each for each in warnings)
    assert "no.invalid can't be looked up now" in applied.stderr


def test_offline_looks_no_names_up(tmp_path: Path) -> None:
    """With `--offline` the text alone is judged: a name that leads inside passes, an address does not."""
    assert gateway(tmp_path, "https://localhost/", "check", "--offline").returncode == 0
    assert gateway(tmp_path, "https://127.0.0.1/", "check", "--offline").returncode == 1


def test_an_allowed_network_may_be_configured(tmp_path: Path) -> None:
    """With GATEWAY_EGRESS_ALLOW, http and a port of one's own are fine there."""
    assert gateway(tmp_path, "http://127.0.0.1:9000/", "check", allow="127.0.0.0/8").returncode == 0


def test_up_goes_by_the_text_alone(tmp_path: Path) -> None:
    """`gateway up` does not start with an address inside, and says why; what it would do with names is not asked."""
    done = gateway(tmp_path, "https://10.0.0.1/", "up")
    assert done.returncode == 1
    assert "line 9, column 7: apps[1].callback.url: its host is an address" in done.stderr


def test_other_addresses_that_lead_nowhere_are_warnings(tmp_path: Path) -> None:
    """`check` also tells of adapters and steps that nothing will be sent to."""
    file = {
        "apps": [{"name": "a", "adapter": {"url": "http://10.0.0.1/a"}}],
        "workflows": [{"name": "w", "steps": [{"id": "s", "http": {"url": "http://plain.example/"}}]}],
    }
    text = json.dumps(file)
    done = gateway(tmp_path, "https://x.invalid/", "check", "--json")
    (tmp_path / "other.yaml").write_text(text)
    done = gateway(tmp_path, "https://x.invalid/", "check", str(tmp_path / "other.yaml"), "--json")
    warnings = json.loads(done.stdout)["warnings"]
    assert "app 'a', adapter.url: nothing is sent there: its host is an address; write a host name" in warnings
    assert "workflow 'w', step 's', url: nothing is sent there: only https is allowed here" in warnings


def test_the_api_refuses_a_callback_that_leads_inside(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registering an app looks its callback's name up once: 422 with the field and the reason, and no app is made."""
    answers: dict[str, Sequence[str]] = {"inside.example": ["10.0.0.5"], "fine.example": ["93.184.216.34"]}

    async def look_up(host: str, _: int) -> Any:
        if host not in answers:
            raise OSError("no such name")
        return answers[host]

    async def story() -> None:
        async with serving(store, tmp_path, worker=False) as api:
            # Only now: the receiver itself was reached by a name, too.
            monkeypatch.setattr(clients, "look_up", look_up)
            monkeypatch.setattr("gateway.web.destinations.look_up", look_up)
            wanted = {"name": "partner", "callback_url": "https://inside.example/"}
            refused = await api.post("/api/v1/apps", wanted)
            assert refused.status_code == 422
            told = refused.json()["detail"]
            assert told == "callback_url: inside.example can't be reached from here: 10.0.0.5: private"
            for host in ("fine.example", "unknown.example"):
                made = await api.post("/api/v1/apps", {"name": host, "callback_url": f"https://{host}/"})
                assert made.status_code == 201
            assert "partner" not in (await api.get("/api/v1/apps")).text

    tell(story())
