"""The OpenAPI 3.1 document of everything that is mounted, collected from the routes themselves.

Paths, parameters, bodies and answers come from the Endpoint rows and their types, the shapes of errors from what each
dialect makes of them, examples in three languages from the row's example. Source: OpenAPI Specification 3.1.1.
"""

from __future__ import annotations

import http
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from gateway.errors import GatewayError
from gateway.web.endpoints import KEY_FORM, LONGEST_KEY, Dialect, Endpoint
from gateway.web.samples import samples

REFERENCE = "#/components/schemas/{name}"
PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
ALWAYS = (400, 408, 413, 500, 503)
"""What any endpoint may answer: its request did not arrive as it should, or it is our fault."""
HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    405: {"Allow": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
    503: {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
}
KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same request with the same key is done once and answered alike; another request is a 409.",
    "schema": {"type": "string", "pattern": KEY_FORM, "maxLength": LONGEST_KEY},
}
JSON_TYPES = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A route that is no Endpoint, in the words OpenAPI needs of it."""

    method: str
    path: str
    tag: str
    summary: str
    answers: dict[int, str]
    media: str = "application/json"
    refusal: str | None = None
    """The media type of refusals, where it is another."""
    query: Any = None
    body: bool = False


def describe_api(dialects: Sequence[Dialect], pages: Iterable[Page]) -> dict[str, Any]:
    """The whole document, ready for JSON."""
    schemas = _collect_schemas(dialects)
    paths: dict[str, dict[str, Any]] = {}
    for dialect in dialects:
        for endpoint in dialect.endpoints:
            operations = paths.setdefault(_path(endpoint.path), {})
            operations[endpoint.method.lower()] = _operation(dialect, endpoint)
    for page in pages:
        paths.setdefault(_path(page.path), {})[page.method.lower()] = _describe_page(page)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Event gateway",
            "version": version("event-gateway"),
            "description": "Receives webhooks, proves who sent them, runs what they start, and calls back, signed.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": _security_schemes(dialects)},
        "tags": [{"name": name} for name in dict.fromkeys(_tags(paths))],
    }


def _collect_schemas(dialects: Sequence[Dialect]) -> dict[str, Any]:
    types = [
        kind
        for dialect in dialects
        for endpoint in dialect.endpoints
        for kind in (endpoint.body, endpoint.answer, *endpoint.others.values())
        if kind is not None
    ]
    _, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    return dict(components)


def _schema(kind: Any) -> dict[str, Any]:
    """A type's schema; what it refers to is among the components."""
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REFERENCE)
    return schema


def _path(path: str) -> str:
    return PARAMETER.sub(r"{\1}", path)


def _operation(dialect: Dialect, endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(dialect.name, endpoint),
        "tags": [dialect.name],
        "summary": endpoint.summary,
        "parameters": [
            *_path_parameters(endpoint),
            *_query_parameters(endpoint),
            *_header_parameters(dialect, endpoint),
        ],
        "responses": {**_answers(endpoint), **_refusals(dialect, endpoint)},
        "x-codeSamples": samples(dialect, endpoint),
    }
    if endpoint.handler.__doc__:
        operation["description"] = endpoint.handler.__doc__
    if endpoint.body is not None:
        content: dict[str, Any] = {"schema": _schema(endpoint.body)}
        if endpoint.example is not None:
            content["example"] = endpoint.example
        operation["requestBody"] = {"required": not endpoint.optional_body, "content": {"application/json": content}}
    if endpoint.scope is not None:
        operation["security"] = [{name: []} for name in _scheme_names(dialect)]
        operation["x-scope"] = endpoint.scope
    return operation


def _operation_id(name: str, endpoint: Endpoint) -> str:
    words = getattr(endpoint.handler, "__name__", "") or f"{endpoint.method.lower()}_{endpoint.path}"
    return re.sub(r"\W+", "_", f"{name}_{words}").strip("_")


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    typed = {} if endpoint.where is None else _fields(endpoint.where)
    return [
        {"name": name, "in": "path", "required": True, "schema": typed.get(name, {"type": "string", "minLength": 1})}
        for name in PARAMETER.findall(endpoint.path)
    ]


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    if endpoint.query is None:
        return []
    return [_query_parameter(name, schema) for name, schema in _fields(endpoint.query).items()]


def _query_parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    schema = dict(schema)
    text = schema.pop("description", None)
    if schema.get("type") == "object":
        # OpenAPI has no word for `metadata.color=red`: one name stands for them all.
        name, schema = f"{name}.KEY", {"type": "string"}
    return {"name": name, "in": "query", "schema": schema, **({"description": text} if text else {})}


def _fields(kind: Any) -> dict[str, dict[str, Any]]:
    """A Struct's fields as they are written in a URL: none is null, what has a default may be left out."""
    _, components = msgspec.json.schema_components([kind], ref_template=REFERENCE)
    properties = components[kind.__name__]["properties"]
    return {name: _inline(_without_null(schema), components) for name, schema in properties.items()}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    kept = schema if len(choices) != 1 else choices[0]
    return {name: value for name, value in kept.items() if not (name == "default" and value is None)}


def _inline(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """An enumeration's members in place of a reference to it."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return {"enum": components[name]["enum"], "type": "string"} if name else schema


def _header_parameters(dialect: Dialect, endpoint: Endpoint) -> list[dict[str, Any]]:
    if endpoint.media == "text/event-stream":
        schema = {"type": "string", "pattern": "^[0-9]{1,20}$"}
        return [{"name": "Last-Event-ID", "in": "header", "description": "Where to go on.", "schema": schema}]
    starts = endpoint.method == "POST" and endpoint.scope == "runs:start"
    return [KEY] if starts or dialect.repeats(endpoint) else []


def _answers(endpoint: Endpoint) -> dict[str, Any]:
    kinds = {endpoint.status: endpoint.answer, **endpoint.others}
    return {str(status): _answer(endpoint, kind) for status, kind in kinds.items()}


def _answer(endpoint: Endpoint, kind: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": endpoint.summary}
    if kind is not None:
        answer["content"] = {endpoint.media: {"schema": _schema(kind)}}
    return answer


def _refusals(dialect: Dialect, endpoint: Endpoint) -> dict[str, Any]:
    statuses = {*ALWAYS, *endpoint.refuses}
    statuses |= {401, 403} if endpoint.scope is not None else set()
    statuses |= {402, 409, 429} if endpoint.scope == "runs:start" else set()
    statuses |= {404} if PARAMETER.search(endpoint.path) or endpoint.query is not None else set()
    statuses |= {422} if endpoint.body is not None else set()
    statuses |= {409, 422} if dialect.repeats(endpoint) else set()
    found: dict[str, Any] = {}
    for status in sorted(statuses):
        said, document = dialect.refuse(_error_with(status))
        found.setdefault(str(said), _refusal(dialect, said, document))
    found.pop(str(endpoint.status), None)
    return found


def _refusal(dialect: Dialect, status: int, document: Any) -> dict[str, Any]:
    refusal: dict[str, Any] = {"description": http.HTTPStatus(status).phrase}
    if document is not None:
        refusal["content"] = {dialect.media_type: {"schema": _shape_of(document), "example": document}}
    if status in HEADERS and (status != 401 or dialect.credential.challenge):
        refusal["headers"] = HEADERS[status]
    return refusal


def _error_with(status: int) -> GatewayError:
    """An error as an endpoint would raise it for this status."""
    waiting = [GatewayError]
    while waiting:
        kind = waiting.pop(0)
        if kind.status == status:
            return kind()
        waiting += kind.__subclasses__()
    return GatewayError()


def _shape_of(document: Any) -> dict[str, Any]:
    """The schema of documents like this one: the same fields with the same types."""
    if document is None:
        return {}
    if isinstance(document, dict):
        properties = {name: _shape_of(value) for name, value in document.items()}
        return {"type": "object", "required": list(document), "properties": properties}
    if isinstance(document, msgspec.Struct):
        return _shape_of(msgspec.to_builtins(document))
    return {"type": next((name for kind, name in JSON_TYPES if isinstance(document, kind)), "string")}


def _scheme_names(dialect: Dialect) -> list[str]:
    schemes = dialect.credential.schemes
    return [dialect.name if not index else f"{dialect.name}{index + 1}" for index in range(len(schemes))]


def _security_schemes(dialects: Sequence[Dialect]) -> dict[str, Any]:
    return {
        name: scheme
        for dialect in dialects
        for name, scheme in zip(_scheme_names(dialect), dialect.credential.schemes, strict=True)
    }


def _describe_page(page: Page) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in PARAMETER.findall(page.path)
    ]
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{page.tag}_{page.method.lower()}{PARAMETER.sub('', page.path)}").strip(
            "_"
        ),
        "tags": [page.tag],
        "summary": page.summary,
        "parameters": [*parameters, *(page.query or [])],
        "responses": {
            str(status): {
                "description": text,
                "content": {page.refusal if page.refusal and status >= 400 else page.media: {"schema": {}}},
            }
            for status, text in page.answers.items()
        },
    }
    if page.body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": {}}}}
    return operation


def _tags(paths: dict[str, dict[str, Any]]) -> list[str]:
    return [tag for operations in paths.values() for operation in operations.values() for tag in operation["tags"]]
