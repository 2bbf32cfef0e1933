"""The JSON Schema of gateway.yaml, for editors: made of the types that read it, and of what types can't say. Silent.

`gateway check` is the judge: it knows what no schema does, such as CEL, cycles and names that don't exist. The schema
refuses nothing that `check` accepts, but for oddities such as a second field of a wait that is null.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.apps import App
from gateway.endpoints import MOST_TRIES, EndpointSettings
from gateway.presets import ROWS
from gateway.retries import DURATION, Seconds
from gateway.schemes import FLAT_FIELDS, Scheme
from gateway.workflows import DEFAULT_TIMEOUT, KINDS, STEP_ID, Definition

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLACE = "#/$defs/{name}"
Schema = dict[str, Any]

TEMPLATE: Schema = {"type": "string", "pattern": r"\$\{"}
TIME: Schema = {"anyOf": [{"$ref": "#/$defs/Duration"}, TEMPLATE, {"type": "null"}]}
DURATION_OR_NULL: Schema = {"anyOf": [{"$ref": "#/$defs/Duration"}, {"type": "null"}]}
ADDED: dict[str, Schema] = {
    "Duration": {
        "description": "Seconds, or text such as 250ms, 30s, 5m, 2h, 1d, 1h30m.",
        "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": DURATION}],
    },
}
DURATIONS_OR_NULL: Schema = {
    "anyOf": [
        {"type": "array", "minItems": 1, "maxItems": MOST_TRIES, "items": {"$ref": "#/$defs/Duration"}},
        {"type": "null"},
    ]
}
HIDDEN = (
    ("App", "managed_by"),
    ("EndpointSettings", "id"),
    ("EndpointSettings", "managed_by"),
    ("EndpointSettings", "overlap_until"),
    ("EndpointSettings", "public_key"),
    ("SecretRef", "sealed"),
    ("SecretRef", "paired"),
    ("SecretRef", "expires_at"),
)
"""Fields of the types that are not for files."""
SHAPES: dict[tuple[str, str], Schema] = {
    ("App", "verify"): {"anyOf": [{"$ref": "#/$defs/Verification"}, {"enum": ["none"]}, {"type": "null"}]},
    ("App", "expect_every"): DURATION_OR_NULL,
    ("EndpointSettings", "schedule"): DURATIONS_OR_NULL,
    ("EndpointSettings", "timeout"): DURATION_OR_NULL,
    ("Rate", "period"): {"$ref": "#/$defs/Duration", "default": 1},
    ("Allowance", "every"): DURATION_OR_NULL,
    ("App", "rate"): {"anyOf": [{"$ref": "#/$defs/RateSettings"}, {"type": "string"}, {"type": "null"}]},
    ("Approval", "timeout"): TIME,
    ("Definition", "name"): {"type": "string", "minLength": 1, "maxLength": 100, "pattern": r"^(?![0-9]+$)"},
    ("ModelCall", "idle"): {"$ref": "#/$defs/Duration"},
    ("RateSettings", "period"): {"$ref": "#/$defs/Duration"},
    ("RetryPolicy", "initial"): {"$ref": "#/$defs/Duration", "default": 1},
    ("RetryPolicy", "max"): {"$ref": "#/$defs/Duration", "default": 60},
    ("Step", "id"): {"type": "string", "pattern": f"^{STEP_ID.pattern}$"},
    ("Step", "python"): {"type": "string", "pattern": r"^[^:\s]+:[^:\s]+$"},
    ("Step", "timeout"): {"$ref": "#/$defs/Duration", "default": DEFAULT_TIMEOUT},
    ("TokenSettings", "max_age"): {"$ref": "#/$defs/Duration", "default": "2h"},
    ("TokenSettings", "min_fill"): {"$ref": "#/$defs/Duration", "default": "3s"},
    ("Wait", "for"): TIME,
    ("Wait", "timeout"): TIME,
}
"""What a type says too loosely."""
RULES: dict[str, Schema] = {
    "HttpCall": {
        "not": {"anyOf": [{"required": pair} for pair in (["json", "form"], ["json", "body"], ["form", "body"])]}
    },
    "ModelCall": {"oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}]},
    "SecretRef": {"oneOf": [{"required": ["env"]}, {"required": ["file"]}, {"required": ["secret"]}]},
    "Step": {"oneOf": [{"required": [kind]} for kind in KINDS]},
    "Wait": {"oneOf": [{"required": [each]} for each in ("for", "until", "signal")]},
}
"""What holds between the fields of one thing."""
CEL = "CEL, bare, without ${}: "
NOTES: dict[tuple[str, str], str] = {
    ("App", "adapter"): "`direct`: the body is an ORQO run request. Or the address of an adapter, which verifies and parses.",
    ("App", "callback"): "Where to tell of its runs: a url of its own, the name of an endpoint, or a list of these.",
    ("App", "callback_urls"): "Where single requests may have their callback sent: https://*.example.com/hooks.",
    ("App", "expect_every"): "The longest silence of this sender that is not told as source.silent.",
    ("App", "content_types"): "Which content types it takes, instead of those of its sender's preset; `image/*` is one.",
    ("App", "files"): "Which files its forms may hold.",
    ("App", "headers"): "Headers that expressions may read beside content-type, user-agent and those of CloudEvents.",
    ("App", "json_field"): "The form's field that holds the event as JSON, which becomes event.body.",
    ("App", "respond"): "Its own answer to an event that was stored.",
    ("App", "dedupe"): CEL + "what makes a delivery the same; or `body`.",
    ("App", "public_url"): "The whole URL that this sender was given, for those that sign it; the query is the request's own.",
    ("App", "form"): "A form on a web page posts here.",
    ("App", "max_depth"): "Levels that JSON may have.",
    ("App", "methods"): "By which methods events come.",
    ("App", "networks"): "Where requests may come from: 203.0.113.0/24, 2001:db8::/32, one address.",
    ("App", "rate"): "How many requests are taken, whoever sends them: 60/minute, or limit, period and burst.",
    ("App", "triggers"): "Which events start which workflows.",
    ("App", "verify"): "How this sender proves itself. Without it the app refuses everything; `none` accepts anyone.",
    ("Batch", "key"): CEL + "one batch for each value; reads input, task, metadata, app, event.",
    ("Concurrency", "key"): CEL + "one gate for each value; reads input, task, metadata, app, event.",
    ("Debounce", "key"): CEL + "one quiet time for each value; reads input, task, metadata, app, event.",
    ("Definition", "callback"): "Which endpoints are told of its runs.",
    ("EndpointSettings", "events"): "Which messages it wants.",
    ("EndpointSettings", "filter"): CEL + "whether to send; reads message.type and message.data.",
    ("EndpointSettings", "headers"): "Headers to add; what is secret in them as {env: NAME}.",
    ("EndpointSettings", "order"): CEL + "messages of one value arrive one after the other.",
    ("EndpointSettings", "payload"): "`thin`: ids, the state, and where to ask for the rest.",
    ("EndpointSettings", "schedule"): "Waits before each try, the first included.",
    ("EndpointSettings", "secrets"): "Each signs, the newest first: two while one is being replaced.",
    ("EndpointSettings", "signing_key"): "whsk_..: an ed25519 key, for v1a signatures.",
    ("EndpointSettings", "style"): "How it is signed and laid out.",
    ("Definition", "input"): "JSON Schema of the input: what it refuses is refused before a run exists.",
    ("Definition", "on"): "Other workflows whose end starts this one.",
    ("Definition", "output"): "The run's output; ${...} holds CEL. Without it, the last step's output.",
    ("Definition", "priority"): "-600 to 600, or CEL that gives it.",
    ("Definition", "schedule"): "Cron in UTC, or with a zone; or a list of them.",
    ("FormSettings", "error"): "The page that a refused browser is sent to, with ?code=.",
    ("FormSettings", "honeypot"): "A field that people don't see: who fills it is a robot.",
    ("FormSettings", "origins"): "Pages that may post: https://www.example.com. Without it, any.",
    ("FormSettings", "redirect"): "The page after the form, or those that the field `_redirect` may name.",
    ("FormSettings", "token"): "A signed token of GET ../form-token: not too soon, not too late, and once.",
    ("Listener", "when"): CEL + "whether to start; reads event and run.",
    ("Listener", "input"): "The new run's input; ${...} holds CEL over event and run.",
    ("FileRules", "max_count"): "How many files in one event.",
    ("FileRules", "max_size"): "Bytes in one file.",
    ("FileRules", "types"): "Content types of files, such as image/png or image/*; any without it.",
    ("ResponseSettings", "body"): "Text or JSON; ${...} holds CEL over event, app, runs and outcome.",
    ("ResponseSettings", "redirect"): "The page that a browser goes on to (303).",
    ("ResponseSettings", "status"): "200 to 299; without it, that of the plain answer.",
    ("RateLimit", "key"): CEL + "one rate for each value; reads input, task, metadata, app, event.",
    ("Schedule", "cron"): "minute hour day month weekday, such as 0 9 * * mon-fri.",
    ("Singleton", "key"): CEL + "one run for each value; reads input, task, metadata, app, event.",
    ("Step", "approval"): "Wait for somebody's word.",
    ("Step", "foreach"): "${...} that gives a list: the step is done for each `item`, with its `index`.",
    ("Step", "http"): "One request; the output is {status, headers, body}.",
    ("Step", "isolate"): "`process`: the python step runs in a process of its own.",
    ("Step", "needs"): "Steps that end before this one begins.",
    ("Step", "on_unknown"): "What to do when a worker died in the middle of it and nobody knows whether it happened.",
    ("Step", "parallel"): "How many items of a foreach are worked on at once.",
    ("Step", "python"): "module:function; `with` is its argument.",
    ("Step", "shell"): "A program as a list of arguments, never a shell's text.",
    ("Step", "transform"): "The output itself; ${...} holds CEL.",
    ("Step", "wait"): "Wait for a time or a signal; no worker is held.",
    ("Step", "when"): CEL + "whether to do it; else it is skipped.",
    ("Step", "with"): "The argument of a python step; ${...} holds CEL.",
    ("Step", "workflow"): "Start another workflow.",
    ("Throttle", "key"): CEL + "one rate for each value; reads input, task, metadata, app, event.",
    ("TriggerSettings", "input"): "The run's input; ${...} holds CEL over event and app.",
    ("TriggerSettings", "when"): CEL + "whether to start; reads event and app.",
    ("Wait", "until"): "ISO 8601 or unix seconds; ${...} holds CEL.",
}  # fmt: skip
"""What an editor shows of a field."""


def describe_file() -> Schema:
    """The schema of a whole gateway.yaml, as plain data (JSON Schema 2020-12)."""
    _, found = msgspec.json.schema_components(
        [App, Definition, EndpointSettings, Scheme], schema_hook=_hook, ref_template=PLACE
    )
    parts = {name: _finish(name, dict(part)) for name, part in found.items()}
    parts["Verification"] = _verification(parts.pop("Scheme"), parts.pop("ListFormat"), parts.pop("Timestamp"))
    lists = {
        "apps": ("Registered senders.", "App"),
        "workflows": ("What is run: definitions of steps.", "Definition"),
        "endpoints": ("Where messages are sent.", "EndpointSettings"),
    }
    return {
        "$schema": DIALECT,
        "title": "gateway.yaml",
        "description": "The event gateway's apps, workflows and endpoints. `gateway check` finds what a schema can't.",
        "type": ["object", "null"],
        "properties": {
            name: {"description": words, "type": ["array", "null"], "items": {"$ref": PLACE.format(name=kind)}}
            for name, (words, kind) in lists.items()
        },
        "additionalProperties": False,
        "$defs": dict(sorted((ADDED | parts).items())),
    }


def fields_at(path: str) -> list[str]:
    """The fields that may stand where this path of a file leads, such as `workflows[0].steps[2].wait`; none if unknown."""
    return sorted({name for part in _parts_at(path) for name in part.get("properties", {})})


def choices_at(path: str) -> list[str]:
    """The words that may stand there, where they are a fixed list."""
    return sorted({str(word) for part in _parts_at(path) for word in part.get("enum", ())})


@functools.cache
def _whole() -> Schema:
    return describe_file()


def _hook(kind: type) -> Schema:
    if kind is Seconds:
        return {"$ref": "#/$defs/Duration"}
    raise NotImplementedError(kind)


def _finish(name: str, part: Schema) -> Schema:
    """One type's schema as an editor is given it."""
    hidden = {field for owner, field in HIDDEN if owner == name}
    properties = {
        field: _finish_field(name, field, dict(shape))
        for field, shape in part.get("properties", {}).items()
        if field not in hidden
    }
    finished = {key: value for key, value in part.items() if key != "title"}
    finished["description"] = inspect.cleandoc(part.get("description", ""))
    return {**finished, "properties": properties, **RULES.get(name, {})}


def _finish_field(name: str, field: str, shape: Schema) -> Schema:
    shape = dict(SHAPES.get((name, field), shape))
    if shape.get("default", ...) is None:
        del shape["default"]
    note = NOTES.get((name, field))
    return shape if note is None else {"description": note, **shape}


def _verification(scheme: Schema, entries: Schema, timestamp: Schema) -> Schema:
    """`verify:`: a preset with what differs, or a scheme's own fields; nested, or flat as senders' tables have them."""
    own: Schema = dict(scheme["properties"])
    groups = {"list": entries, "timestamp": timestamp}
    for group, whole in groups.items():
        # What is left out may stand in the preset.
        own[group] = {"anyOf": [{**whole, "required": []}, {"type": "null"}]}
    for flat, place in FLAT_FIELDS.items():
        group, _, field = place.partition(".")
        own[flat] = groups[group]["properties"][field] if field else own[group]
    own["scheme"] = {
        "description": "A known sender, or a scheme of one's own.",
        "anyOf": [{"enum": sorted(ROWS)}, {"$ref": "#/$defs/Verification"}],
    }
    own["secrets"] = {
        "description": "Any of these may have signed: while one is being replaced, both.",
        "type": "array",
        "items": {"$ref": "#/$defs/SecretRef"},
    }
    return {
        "description": "How a sender signs: `scheme` names a preset, the other fields say what differs from it.",
        "type": "object",
        "properties": own,
        "additionalProperties": False,
        "anyOf": [{"required": [each]} for each in ("scheme", "kind", "type")],
    }


def _parts_at(path: str) -> list[Schema]:
    """The parts of the schema that a path may lead to."""
    whole = _whole()
    found = [whole]
    for name in path.replace("[", ".[").split("."):
        if name:
            found = [part for each in found for part in _step_into(whole, each, name)]
    return [part for each in found for part in _unfold(whole, each)]


def _step_into(whole: Schema, part: Schema, name: str) -> Iterator[Schema]:
    for each in _unfold(whole, part):
        if name.startswith("["):
            inner = each.get("items")
        else:
            inner = each.get("properties", {}).get(name, each.get("additionalProperties"))
        if isinstance(inner, dict):
            yield inner


def _unfold(whole: Schema, part: Schema) -> Iterator[Schema]:
    """A part and all that it refers to or leaves a choice of."""
    if "$ref" in part:
        yield from _unfold(whole, whole["$defs"][part["$ref"].rpartition("/")[2]])
        return
    yield part
    for choice in part.get("anyOf", ()):
        yield from _unfold(whole, choice)
