"""The OpenAPI document: collected from rows, whole, and true to them."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import jsonschema_rs
import msgspec
import pytest

from gateway.asgi import DIALECTS
from gateway.errors import GatewayError
from gateway.web.callers import bearer, plain
from gateway.web.documentation import PAGE, PAGES, POLICY, START, _folder
from gateway.web.endpoints import Answer, Call, Dialect, Endpoint
from gateway.web.openapi import describe_api
from gateway.web.samples import samples

ENDPOINTS = [(dialect, endpoint) for dialect in DIALECTS for endpoint in dialect.endpoints]
DOCUMENT = msgspec.json.decode(msgspec.json.encode(describe_api(DIALECTS, PAGES)))


class Colour(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(max_length=9)]


class Paint(msgspec.Struct, frozen=True):
    colour: str | None = None
    coats: Annotated[int, msgspec.Meta(ge=1)] = 2
    metadata: dict[str, str] = {}


async def paint(call: Call) -> Answer:
    """Paint a wall."""
    return 200, None


def refuse(error: GatewayError) -> Answer:
    return error.status, {"oops": error.message, "n": 1}


def dialect(credential: Any) -> Dialect:
    row = Endpoint(
        method="PUT",
        path="/walls/{wall}",
        handler=paint,
        scope="runs:start",
        summary="Paint",
        body=Colour,
        query=Paint,
        answer=Colour,
        status=202,
        example={"name": "it's red"},
        refuses=(409,),
    )
    return Dialect(name="painter", prefix="", endpoints=(row,), credential=credential, refuse=refuse)


def operation(credential: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    document = describe_api([dialect(credential or bearer(b"authorization"))], ())
    return document, document["paths"]["/walls/{wall}"]["put"]


def test_row_becomes_an_operation() -> None:
    """A row's method, path, parameters, types, example and words are those of its operation."""
    document, found = operation()
    assert (found["operationId"], found["tags"], found["summary"]) == ("painter_paint", ["painter"], "Paint")
    parameters = {each["name"]: each for each in found["parameters"]}
    assert parameters["wall"]["in"] == "path"
    assert parameters["coats"]["schema"] == {"type": "integer", "minimum": 1, "default": 2}
    assert parameters["colour"]["schema"] == {"type": "string"}
    assert "metadata.KEY" in parameters
    body = found["requestBody"]["content"]["application/json"]
    assert body == {"schema": {"$ref": "#/components/schemas/Colour"}, "example": {"name": "it's red"}}
    assert found["responses"]["202"]["content"]["application/json"]["schema"] == body["schema"]
    assert document["components"]["schemas"]["Colour"]["properties"]["name"] == {"type": "string", "maxLength": 9}


def test_errors_have_the_shape_of_their_dialect() -> None:
    """Each refusal is described by what the dialect makes of it, with every status a route may answer."""
    _, found = operation()
    assert {"400", "401", "403", "404", "408", "409", "413", "422", "500", "503"} <= set(found["responses"])
    schema = found["responses"]["409"]["content"]["application/json"]["schema"]
    assert schema["properties"] == {"oops": {"type": "string"}, "n": {"type": "integer"}}
    assert schema["required"] == ["oops", "n"]


@pytest.mark.parametrize(
    ("credential", "schemes"),
    [
        (bearer(b"authorization"), [{"type": "http", "scheme": "bearer"}]),
        (plain(b"x-api-key"), [{"type": "apiKey", "in": "header", "name": "x-api-key"}]),
        (bearer(b"authorization", b"apikey"), [{"type": "http", "scheme": "bearer"}, {"type": "apiKey"}]),
    ],
)
def test_credentials_become_security_schemes(credential: Any, schemes: list[dict[str, str]]) -> None:
    """Each place where a dialect looks for a token is a scheme, and any one of them will do."""
    document, found = operation(credential)
    given = [document["components"]["securitySchemes"][name] for each in found["security"] for name in each]
    assert len(given) == len(schemes)
    assert all(scheme.items() <= one.items() for scheme, one in zip(schemes, given, strict=True))


def test_curl_survives_quotes() -> None:
    """The curl sample's body is the example, whatever quotes are in it, as a shell reads it."""
    made = dialect(bearer(b"authorization"))
    words = shlex.split(samples(made, made.endpoints[0], "http://h")[0]["source"].replace("\\\n", ""))
    assert words[words.index("-d") + 1] == '{"name": "it\'s red"}'
    assert "Authorization: Bearer $GATEWAY_TOKEN" in words
    assert "http://h/walls/WALL" in words


@pytest.mark.parametrize(("owner", "row"), ENDPOINTS, ids=lambda each: getattr(each, "path", ""))
def test_every_row_has_samples_that_can_be_read(owner: Dialect, row: Endpoint) -> None:
    """Each route has an example in three languages; the Python one compiles, the curl one is one command."""
    shell, python, _ = samples(owner, row)
    assert shlex.split(shell["source"].replace("\\\n", ""))[0] == "curl"
    compile(python["source"], "sample", "exec")


def test_operation_ids_are_unique() -> None:
    """No two operations share an id, so that generated clients lose none."""
    ids = [each["operationId"] for path in DOCUMENT["paths"].values() for each in path.values()]
    assert len(ids) == len(set(ids))


def test_references_lead_somewhere() -> None:
    """Every $ref in the document names a component that is there."""
    text = msgspec.json.encode(DOCUMENT).decode()
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in DOCUMENT["components"]["schemas"], name


def test_schemas_are_valid() -> None:
    """Each component is a JSON Schema of the 2020-12 kind, as OpenAPI 3.1 has it."""
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_examples_are_of_their_types() -> None:
    """Each row's example is a body that the row takes."""
    for _, row in ENDPOINTS:
        assert (row.example is None) == (row.body is None), row.path
        if row.body is not None:
            msgspec.convert(row.example, row.body)


def test_reader_names_no_other_host() -> None:
    """The page, its script and its policy hold no address; the policy lets nothing in but our own files."""
    for text in (PAGE, START, POLICY):
        assert "http:" not in text
        assert "https:" not in text
        assert "//" not in text
    assert "unsafe-eval" not in POLICY
    script = next(part for part in POLICY.split(";") if "script-src" in part)
    assert script.split() == ["script-src", "'self'"]
    assert (_folder() / "swagger-ui-bundle.js").is_file()
