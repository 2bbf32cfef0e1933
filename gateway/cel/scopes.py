"""The names and functions that an expression may use."""

from __future__ import annotations

from enum import Enum

# fmt: off
FUNCTIONS = (
    "all", "base64.decode", "base64.encode", "bool", "bytes", "charAt", "contains", "double", "duration",
    "dyn", "endsWith", "exists", "exists_one", "filter", "format", "getDate", "getDayOfMonth",
    "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMilliseconds", "getMinutes", "getMonth",
    "getSeconds", "has", "hasValue", "indexOf", "int", "join", "lastIndexOf", "lowerAscii", "map",
    "matches", "math.abs", "math.ceil", "math.floor", "math.greatest", "math.isNaN", "math.least",
    "math.round", "math.sign", "math.trunc", "optFlatMap", "optMap", "optional.none", "optional.of",
    "optional.ofNonZeroValue", "or", "orValue", "replace", "reverse", "size", "split", "startsWith",
    "string", "strings.quote", "substring", "timestamp", "trim", "type", "uint", "upperAscii", "value",
)
# fmt: on
NAMESPACES = ("base64", "math", "optional", "strings")


class Scope(Enum):
    """Which names an expression may use; what a name holds is known only when it runs."""

    TRIGGER = ("event", "app")
    ANSWER = ("event", "app", "runs", "outcome")
    CHAIN = ("event", "run")
    MESSAGE = ("message",)
    REQUEST = ("input", "task", "metadata", "app", "event")
    STEP = ("input", "task", "metadata", "steps", "run", "app", "event", "conversation")
    FOREACH = (*STEP, "item", "index")
