"""JSON Schemas that somebody wrote: compiled once, refusing to fetch anything. Silent."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

from gateway.errors import ConfigError


def compile_schema(schema: dict[str, Any], path: str) -> Any:
    """A validator for the schema that stands at `path`. Raises ConfigError with `details["path"]`."""
    try:
        return jsonschema_rs.validator_for(schema, retriever=_refuse_to_fetch)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        message = f"`{path.rpartition('.')[2]}` is no valid JSON Schema: {getattr(error, 'message', error)}"
        raise ConfigError(message, path=path) from None


def _refuse_to_fetch(uri: str) -> Any:
    # By itself the library would ask the network, or read our files, for a `$ref` that somebody uploaded.
    message = f"{uri} is outside of this schema"
    raise ValueError(message)
