"""Forms as people send them: a real browser, a page of another origin, a file, and a gateway of real processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.machine import Machine, until
from tests.browser.site import Site

FILE = """\
apps:
  - id: 1
    name: plain
    verify: none
    form: {{origins: ["{site}"], honeypot: website, redirect: "{site}/thanks", error: "{site}/sorry"}}
    triggers: [{{name: all, workflow: look}}]
  - id: 2
    name: scripted
    verify: none
    form: {{origins: ["{site}"], token: {{min_fill: 500ms, max_age: 1h}}}}
    triggers: [{{name: all, workflow: look}}]
workflows:
  - id: 15
    name: look
    steps:
      - id: seen
        transform:
          form: "${{event.form}}"
          files: "${{event.files.map(file, [file.field, file.name, file.type, file.sha256])}}"
    output: "${{steps.seen.output}}"
"""
PLAIN = """<!doctype html><title>Contact</title>
<form method="post" enctype="multipart/form-data" action="{door}/1">
  <input name="name"> <input type="file" name="cv"> <input type="checkbox" name="topic" value="a" checked>
  <input type="checkbox" name="topic" value="b" checked> <input name="website" hidden> <button>Send</button>
</form>
"""
SCRIPTED = """<!doctype html><title>Contact</title>
<form><input name="name"> <input type="file" name="cv"> <button>Send</button></form> <output></output>
<script>
const door = "{door}/2", form = document.querySelector("form"), output = document.querySelector("output");
const fetched = fetch(door + "/form-token").then(answer => answer.json());
async function send(token) {{
  const data = new FormData(form);
  data.append(token.field, token.token);
  const answer = await fetch(door, {{method: "POST", body: data, headers: {{"Idempotency-Key": "k-" + token.token}}}});
  const words = await answer.json();
  output.append((words.code || words.status) + "\\n");
  if (words.code === "form_token_early")
    setTimeout(() => send(token), 1000 * Number(answer.headers.get("retry-after")));
}}
form.onsubmit = event => {{
  event.preventDefault();
  fetched.then(send).catch(error => output.append(error.name + "\\n"));
}};
</script>
"""
CONTENT = b"%PDF-1.4 not really \x00\xff"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as made:
        made.pages |= {"/thanks": "<title>Thanks</title>", "/sorry": "<title>Sorry</title>"}
        yield made


@pytest.fixture(scope="module")
def gateway(site: Site, tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Iterator[Machine]:
    """A gateway that knows the site; not even started where there is no browser."""
    with closing(Machine(tmp_path_factory.mktemp("machine"))) as machine:
        machine.config.write_text(FILE.format(site=site.url))
        door = f"{machine.url}/api/v1/webhooks"
        site.pages |= {"/plain": PLAIN.format(door=door), "/scripted": SCRIPTED.format(door=door)}
        yield machine.start().wait_ready()


@pytest.fixture
def curriculum(tmp_path: Path) -> Path:
    """A file whose name is meant to go somewhere."""
    path = tmp_path / "my $(touch pwned) `cv`.pdf"
    path.write_bytes(CONTENT)
    return path


def fill_in(page: Any, name: str, file: Path) -> None:
    page.fill("input[name=name]", name)
    page.set_input_files("input[name=cv]", file)
    page.click("button")


def test_a_form_without_script_ends_on_the_thank_you_page_and_in_a_run(
    site: Site, gateway: Machine, chromium: Any, curriculum: Path
) -> None:
    """Nothing but HTML: the browser lands on the page after the form, and a step has seen each field and the file's digest."""
    with closing(chromium.new_context(java_script_enabled=False)) as context:
        page = context.new_page()
        page.goto(f"{site.url}/plain")
        before = len(gateway.runs())
        fill_in(page, "Ada Lovelace", curriculum)
        page.wait_for_url(f"{site.url}/thanks")
        assert page.title() == "Thanks"
    run = gateway.wait_run(before + 1)
    assert run.state == "completed"
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert run.output == {
        "form": {"name": "Ada Lovelace", "topic": ["a", "b"]},
        "files": [["cv", curriculum.name, "application/pdf", digest]],
    }
    assert not list(gateway.folder.rglob("pwned"))


def test_a_robot_in_a_browser_ends_on_the_same_page_and_in_no_run(
    site: Site, gateway: Machine, chromium: Any, curriculum: Path
) -> None:
    """Who fills the field that people don't see is thanked like anybody, and nothing starts."""
    with closing(chromium.new_context()) as context:
        page = context.new_page()
        page.goto(f"{site.url}/plain")
        before = len(gateway.runs())
        page.evaluate("document.querySelector('[name=website]').value = 'https://buy.example'")
        fill_in(page, "Robot", curriculum)
        page.wait_for_url(f"{site.url}/thanks")
    assert len(gateway.runs()) == before
    assert gateway.said("request", app="plain", reason="spam")


def test_a_script_fetches_a_token_and_sends_the_form(
    site: Site, gateway: Machine, chromium: Any, curriculum: Path
) -> None:
    """By CORS, with a token of another fetch and a header that asks for a preflight: too early first, then received."""
    with closing(chromium.new_context()) as context:
        page = context.new_page()
        page.goto(f"{site.url}/scripted")
        before = len(gateway.runs())
        fill_in(page, "Grace Hopper", curriculum)
        page.wait_for_function("document.querySelector('output').textContent.includes('received')")
        assert page.text_content("output").split() in (["form_token_early", "received"], ["received"])
    run = gateway.wait_run(before + 1)
    assert run.output["form"] == {"name": "Grace Hopper"}
    assert run.output["files"][0][3] == hashlib.sha256(CONTENT).hexdigest()


def test_another_site_s_pages_are_refused(gateway: Machine, site: Site, chromium: Any, curriculum: Path) -> None:
    """The same pages from an origin that is not listed: the form's answer is a refusal, the script can read nothing at
    all, and nothing starts."""
    with Site() as foreign, closing(chromium.new_context()) as context:
        foreign.pages |= site.pages
        before = len(gateway.runs())
        page = context.new_page()
        page.goto(f"{foreign.url}/plain")
        with page.expect_navigation() as navigation:
            fill_in(page, "Eve", curriculum)
        assert navigation.value.status == 403
        assert "origin_refused" in page.content()
        page.goto(f"{foreign.url}/scripted")
        fill_in(page, "Eve", curriculum)
        page.wait_for_function("document.querySelector('output').textContent.includes('TypeError')")
        until(lambda: len(gateway.said("request", reason="origin_refused")) == 1, "the refusal to be logged")
        assert len(gateway.runs()) == before
