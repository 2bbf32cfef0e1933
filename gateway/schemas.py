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


class InputSchema:
    """A workflow's JSON Schema for its input."""

    def __init__(self, schema: dict[str, Any] | None) -> None:
        self._validator = None if schema is None else compile_schema(schema, "input")

    def complaint(self, value: Any) -> tuple[str, str] | None:
        """The path and the reason of the first thing the schema refuses in `value`; None when it is fine."""
        if self._validator is None:
            return None
        try:
            self._validator.validate({} if value is None else value)
        except jsonschema_rs.ValidationError as error:
            return _join_path(error.instance_path), error.message
        except ValueError as error:
            return "input", str(error)
        return None


def _refuse_to_fetch(uri: str) -> Any:
    # By itself the library would ask the network, or read our files, for a `$ref` that somebody uploaded.
    message = f"{uri} is outside of this schema"
    raise ValueError(message)


def _join_path(parts: list[str | int]) -> str:
    return "input" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
