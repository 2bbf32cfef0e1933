"""gateway.yaml: read, checked as a whole, with the line of everything that is wrong. Silent: text in, values out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from gateway.app_callbacks import CallbackSettings
from gateway.app_checks import check_app
from gateway.apps import App, read_verify
from gateway.callables import complain
from gateway.editors import choices_at, fields_at
from gateway.egress import Finding, Policy, check_url
from gateway.endpoints import EndpointSettings, check_endpoint, names_in
from gateway.errors import ConfigError
from gateway.places import Marks, Mistake, Mistakes, load_yaml, make_mistake
from gateway.secrets import HANDED_OVER, WAYS, SecretRef
from gateway.versions import Draft
from gateway.workflows import Step, Workflow, prepare, read_duration_field, split_path

SECTIONS = ("apps", "workflows", "endpoints")
MADE_BY_US = ("managed_by", "sealed", "overlap_until", "public_key")
UNKNOWN_FIELD = "Object contains unknown field `"
UNKNOWN_WORD = "Invalid enum value "
NO_OBJECT = "Expected `object"
SECRET_FIELDS = ["env", "file", "secret"]
MOST_NAMED = 8
"""How many fields a hint names."""


class Destination(msgspec.Struct, frozen=True):
    """A URL that messages are sent to, and where it stands in the file."""

    line: int
    column: int
    path: str
    url: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.path}"


class Configuration(msgspec.Struct, frozen=True):
    """What a file says, checked: its apps, its workflows ready to run beside the documents they came from, its endpoints."""

    apps: list[App]
    workflows: list[Workflow]
    documents: list[dict[str, Any]]
    destinations: list[Destination] = []
    endpoints: list[EndpointSettings] = []


Read = TypeVar("Read")


def read_configuration(text: str, modules: Sequence[str] = ()) -> Configuration:
    """Read a whole gateway.yaml (YAML or JSON). Raises Mistakes with every app, workflow and step that is wrong.

    `modules` are those that its `python` steps may use; without any, all.
    """
    document, marks = load_yaml(text)
    mistakes: list[Mistake] = []
    sections = _read_sections(document, marks, mistakes)
    apps = [
        app
        for index, each in enumerate(sections["apps"])
        if (app := _read_app(each, f"apps[{index}]", marks, mistakes))
    ]
    workflows = [
        _read_workflow(each, f"workflows[{index}]", marks, mistakes) for index, each in enumerate(sections["workflows"])
    ]
    found = [workflow for workflow in workflows if workflow is not None]
    endpoints = [
        endpoint
        for index, each in enumerate(sections["endpoints"])
        if (endpoint := _read_endpoint(each, f"endpoints[{index}]", marks, mistakes))
    ]
    if not mistakes:
        mistakes += _check_together(apps, found, marks) + _check_modules(found, modules, marks)
        mistakes += _check_endpoints(apps, found, endpoints, marks)
    if mistakes:
        raise Mistakes(sorted(mistakes, key=lambda mistake: (mistake.line, mistake.column)))
    return Configuration(apps, found, sections["workflows"], _destinations(apps, endpoints, marks), endpoints)


def check_destinations(configuration: Configuration, findings: Sequence[Finding]) -> list[str]:
    """Raise Mistakes for every destination whose finding is a refusal; give a sentence for each that is a doubt.

    The findings are those of `configuration.destinations`, in their order.
    """
    pairs = list(zip(configuration.destinations, findings, strict=True))
    refused = [Mistake(each.line, each.column, each.path, found.refusal) for each, found in pairs if found.refusal]
    if refused:
        raise Mistakes(refused)
    return [f"{each}: {found.doubt}" for each, found in pairs if found.doubt]


def check_texts(configuration: Configuration, policy: Policy) -> None:
    """`check_destinations` without look-ups: what the text of each URL tells."""
    urls = [each.url for each in configuration.destinations]
    check_destinations(configuration, [Finding(refusal=check_url(policy, url)) for url in urls])


def _destinations(apps: Sequence[App], endpoints: Sequence[EndpointSettings], marks: Marks) -> list[Destination]:
    paths = [
        (f"apps[{number}].{place}.url", callback.url)
        for number, app in enumerate(apps)
        for place, callback in _placed(app)
        if callback.url is not None
    ]
    paths += [(f"endpoints[{index}].url", endpoint.url) for index, endpoint in enumerate(endpoints)]
    return [Destination(*marks.get(path, (1, 1)), path, url) for path, url in paths]


def _placed(app: App) -> list[tuple[str, CallbackSettings]]:
    """An app's callbacks, each with where it stands."""
    several = isinstance(app.callback, list)
    return [(f"callback[{index}]" if several else "callback", each) for index, each in enumerate(app.callbacks)]


def read_workflows(text: str) -> list[Draft]:
    """The workflows of a file (YAML or JSON): one definition, or a list of them under `workflows`. Raises Mistakes."""
    document, marks = load_yaml(text)
    mistakes: list[Mistake] = []
    if isinstance(document, dict) and "workflows" not in document:
        return [read_draft(document, marks)]
    sections = _read_sections(document, marks, mistakes)
    for name in ("apps", "endpoints"):
        if sections[name]:
            message = "only workflows are uploaded; `gateway apply` takes a whole gateway.yaml"
            mistakes.append(make_mistake(message, name, marks))
    read = [
        _read_workflow(each, f"workflows[{index}]", marks, mistakes) for index, each in enumerate(sections["workflows"])
    ]
    found = [workflow for workflow in read if workflow is not None]
    if not mistakes:
        mistakes += (
            _check_together([], found, marks) if found else [Mistake(1, 1, "file", "there is no workflow in it")]
        )
    if mistakes:
        raise Mistakes(sorted(mistakes, key=lambda mistake: (mistake.line, mistake.column)))
    pairs = zip(found, sections["workflows"], strict=True)
    return [Draft(workflow=workflow, document=document) for workflow, document in pairs]


def read_draft(document: Any, marks: Marks | None = None) -> Draft:
    """One workflow from plain data, with the marks of its text where there is one. Raises Mistakes, all of them."""
    mistakes: list[Mistake] = []
    workflow = _read_workflow(document, "", marks or {}, mistakes)
    if workflow is None:
        raise Mistakes(sorted(mistakes, key=lambda mistake: (mistake.line, mistake.column)))
    return Draft(workflow=workflow, document=document)


def _read_sections(document: Any, marks: Marks, mistakes: list[Mistake]) -> dict[str, list[Any]]:
    sections: dict[str, list[Any]] = {name: [] for name in SECTIONS}
    if document is None:
        return sections
    if not isinstance(document, dict):
        mistakes.append(Mistake(1, 1, "file", "expected `apps:` and `workflows:` at the top, perhaps `endpoints:`"))
        return sections
    for name, value in document.items():
        if name not in sections:
            mistakes.append(
                make_mistake(f"there is no section {name!r} (sections: {', '.join(SECTIONS)})", name, marks)
            )
        elif isinstance(value, list):
            sections[name] = value
        elif value is not None:
            mistakes.append(make_mistake("expected a list, one item a line beginning with `- `", name, marks))
    return sections


def _read_app(document: Any, path: str, marks: Marks, mistakes: list[Mistake]) -> App | None:
    def read() -> App:
        _refuse_ours(document, MADE_BY_US)
        app = msgspec.convert(document, App)
        check_app(app)
        _check_references(app)
        return msgspec.structs.replace(app, managed_by="file")

    return _collect(read, path, marks, mistakes)


def _read_endpoint(document: Any, path: str, marks: Marks, mistakes: list[Mistake]) -> EndpointSettings | None:
    def read() -> EndpointSettings:
        _refuse_ours(document, (*MADE_BY_US, "id"))
        endpoint = msgspec.structs.replace(msgspec.convert(document, EndpointSettings), managed_by="file")
        check_endpoint(endpoint)
        named = {f"secrets[{index}]": each for index, each in enumerate(endpoint.secrets)}
        named |= {f"headers.{name}": each for name, each in endpoint.headers.items() if isinstance(each, SecretRef)}
        if endpoint.signing_key is not None:
            named["signing_key"] = endpoint.signing_key
        _check_named(named)
        return endpoint

    return _collect(read, path, marks, mistakes)


def _refuse_ours(document: Any, ours: Sequence[str]) -> None:
    forbidden = [name for name in ours if isinstance(document, dict) and name in document]
    if forbidden:
        message = f"{forbidden[0]} can't be written in a file"
        raise ConfigError(message, path=forbidden[0])


def _check_references(app: App) -> None:
    """A file's secrets are one variable, one file or one kept secret each; what is kept encrypted was made by command or API."""
    named = {f"credentials.{name}": reference for name, reference in app.credentials.items()}
    named |= {f"verify.secrets[{index}]": each for index, each in enumerate(read_verify(app)[1])}
    named |= {f"{place}.secret": each.secret for place, each in _placed(app) if each.secret is not None}
    named |= {f"{place}.previous": each.previous for place, each in _placed(app) if each.previous is not None}
    if app.verify_token is not None:
        named["verify_token"] = app.verify_token
    if app.reconcile is not None:
        named["reconcile.token"] = app.reconcile.token
    _check_named(named)


def _check_named(named: dict[str, SecretRef]) -> None:
    """Raise ConfigError for a secret that is not written as people write one."""
    for path, reference in named.items():
        if reference == HANDED_OVER and path.startswith("verify."):
            continue
        if not reference.is_written:
            message = f"a secret in a file is one of {WAYS}"
            raise ConfigError(message, path=path)


def _read_workflow(document: Any, path: str, marks: Marks, mistakes: list[Mistake]) -> Workflow | None:
    before = len(mistakes)
    steps = document.get("steps") if isinstance(document, dict) else None
    for index, step in enumerate(steps if isinstance(steps, list) else []):
        where = _under(path, f"steps[{index}]")
        _collect(lambda step=step: _convert_step(step), where, marks, mistakes)  # type: ignore[misc]
    if len(mistakes) > before:
        return None
    return _collect(lambda: prepare(document), path, marks, mistakes)


def _convert_step(document: Any) -> Step:
    return msgspec.convert(document, Step, dec_hook=read_duration_field)


def _collect(read: Callable[[], Read], path: str, marks: Marks, mistakes: list[Mistake]) -> Read | None:
    try:
        return read()
    except msgspec.ValidationError as error:
        message, inner = split_path(str(error))
    except ConfigError as error:
        inner = str(error.details.get("path", ""))
        message = error.message.removeprefix(f"{inner}: ")
    where = path + inner if inner.startswith("[") else _under(path, inner)
    mistakes.append(make_mistake(*_sharpen(message, where), marks))
    return None


def _sharpen(message: str, path: str) -> tuple[str, str]:
    """Say what may stand there instead, and point at an unknown field rather than at what holds it."""
    if message.startswith(UNKNOWN_FIELD):
        field = message[len(UNKNOWN_FIELD) :].rstrip("`")
        return f"there is no field `{field}` here{_suggest(field, fields_at(_whole_path(path)))}", _under(path, field)
    if message.startswith(UNKNOWN_WORD):
        word = message[len(UNKNOWN_WORD) :].strip("'")
        return f"{word!r} can't stand here{_suggest(word, choices_at(_whole_path(path)))}", path
    field, colon, rest = message.partition(": ")
    if colon and field in fields_at(_whole_path(path)):
        return rest, _under(path, field)
    if message.startswith(NO_OBJECT) and fields_at(_whole_path(path)) == SECRET_FIELDS:
        return f"a secret does not stand in a file: write {WAYS}", path
    return message[:1].lower() + message[1:] + _hint(message, path), path


def _hint(message: str, path: str) -> str:
    """What to write where something of another shape is wanted."""
    if not message.startswith("Expected `") or "got `" not in message:
        return ""
    wanted = message.partition("`")[2].partition("`")[0]
    fields = fields_at(_whole_path(path))
    if "object" in wanted and fields:
        return f"; write its fields: {{{', '.join(f'{name}: ..' for name in fields[:MOST_NAMED])}}}"
    if "array" in wanted:
        return "; write a list: [..]"
    is_text = wanted == "str" and message.endswith(("got `bool`", "got `int`", "got `float`"))
    return "; put it in quotes (without, YAML takes yes, no, on and off for true and false)" if is_text else ""


def _suggest(word: str, words: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    if close:
        return f", did you mean `{close[0]}`?"
    return f" (there are: {', '.join(words)})" if words else ""


def _whole_path(path: str) -> str:
    """A path as it would be in a whole file, for one within a definition that stands alone."""
    return path if path.startswith(SECTIONS) else f"workflows[0].{path}"


def _under(path: str, inner: str) -> str:
    """A path within a path; either may be empty."""
    return f"{path}.{inner}" if path and inner else path + inner


def _check_together(apps: list[App], workflows: list[Workflow], marks: Marks) -> list[Mistake]:
    mistakes = _doubles("apps", [app.id or None for app in apps], "id", marks)
    mistakes += _doubles("apps", [app.name for app in apps], "name", marks)
    mistakes += _doubles("apps", [app.token for app in apps], "token", marks)
    mistakes += _doubles("workflows", [workflow.definition.id for workflow in workflows], "id", marks)
    mistakes += _doubles("workflows", [workflow.definition.name for workflow in workflows], "name", marks)
    known = {name for workflow in workflows for name in (workflow.definition.name, workflow.definition.id)}
    for number, app in enumerate(apps):
        for index, trigger in enumerate(app.triggers):
            if trigger.workflow not in known:
                path = f"apps[{number}].triggers[{index}].workflow"
                mistakes.append(make_mistake(_unknown_workflow(trigger.workflow, workflows), path, marks))
    return mistakes + _check_listeners(workflows, known, marks)


def _check_listeners(workflows: list[Workflow], known: set[str | int | None], marks: Marks) -> list[Mistake]:
    listened = [
        (f"workflows[{number}].on[{index}].workflow", listener.workflow)
        for number, workflow in enumerate(workflows)
        for index, listener in enumerate(workflow.definition.on)
    ]
    return [
        make_mistake(_unknown_workflow(name, workflows), path, marks) for path, name in listened if name not in known
    ]


def _check_endpoints(
    apps: list[App], workflows: list[Workflow], endpoints: list[EndpointSettings], marks: Marks
) -> list[Mistake]:
    mistakes = _doubles("endpoints", names := [endpoint.name for endpoint in endpoints], "name", marks)
    named = [
        (f"apps[{number}].{place}.endpoint", callback.endpoint)
        for number, app in enumerate(apps)
        for place, callback in _placed(app)
    ]
    named += [
        (f"workflows[{number}].callback", name)
        for number, workflow in enumerate(workflows)
        for name in names_in(workflow.definition.callback)
    ]
    for path, name in named:
        if name is not None and name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"endpoints here: {', '.join(names) or 'none'}"
            mistakes.append(make_mistake(f"there is no endpoint {name!r} in this file; {hint}", path, marks))
    return mistakes


def _check_modules(workflows: list[Workflow], modules: Sequence[str], marks: Marks) -> list[Mistake]:
    return [
        make_mistake(complaint, f"workflows[{number}].steps[{index}].python", marks)
        for number, workflow in enumerate(workflows)
        for index, step in enumerate(workflow.definition.steps)
        if isinstance(step.python, str) and (complaint := complain(step.python, modules))
    ]


def _unknown_workflow(name: str | int, workflows: list[Workflow]) -> str:
    names = [workflow.definition.name for workflow in workflows]
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"workflows here: {', '.join(names) or 'none'}"
    return f"there is no workflow {name!r} in this file; {hint}"


def _doubles(section: str, values: list[Any], field: str, marks: Marks) -> list[Mistake]:
    return [
        make_mistake(f"{field} {value!r} is used twice", f"{section}[{index}].{field}", marks)
        for index, value in enumerate(values)
        if value is not None and value in values[:index]
    ]
