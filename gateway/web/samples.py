"""How a route is called, in curl, Python and JavaScript: made from its row, ready to paste."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from gateway.web.endpoints import Dialect, Endpoint

PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
EXAMPLES = {
    "run_id": "238",
    "event_id": "evt_018f3a2b4c5d",
    "callback_id": "msg_238_0f1e2d",
    "name": "review",
    "app": "42",
    "hook_id": "hook_0a1b2c3d4e5f",
}
BASE = "http://127.0.0.1:8080"
TOKEN = "$GATEWAY_TOKEN"  # noqa: S105  a shell variable's name


def samples(dialect: Dialect, endpoint: Endpoint, base: str = BASE) -> list[dict[str, str]]:
    """The row's example in three languages, as `x-codeSamples`. The token is read from the environment."""
    url = base + example_path(endpoint)
    return [
        {"lang": "Shell", "label": "curl", "source": _curl(dialect, endpoint, url)},
        {"lang": "Python", "label": "Python", "source": _python(dialect, endpoint, url)},
        {"lang": "JavaScript", "label": "JavaScript", "source": _javascript(dialect, endpoint, url)},
    ]


def _curl(dialect: Dialect, endpoint: Endpoint, url: str) -> str:
    parts = [f"curl -sS -X {endpoint.method} '{url}'"]
    if endpoint.media == "text/event-stream":
        parts[0] = parts[0].replace("curl -sS", "curl -sS -N")
    parts += [f'-H "{name}: {value}"' for name, value in _credentials(dialect, endpoint, TOKEN).items()]
    if endpoint.example is not None:
        body = _json(endpoint.example).replace("'", "'\\''")
        parts += ["-H 'Content-Type: application/json'", f"-d '{body}'"]
    return " \\\n  ".join(parts)


def example_path(endpoint: Endpoint) -> str:
    """The row's path with example values in it."""
    own = _examples_of(endpoint.where)
    return PARAMETER.sub(lambda match: own.get(match[1]) or EXAMPLES.get(match[1], match[1].upper()), endpoint.path)


def _examples_of(where: Any) -> dict[str, str]:
    """The first example of each of the path's parameters whose type has one."""
    if where is None:
        return {}
    properties = msgspec.json.schema_components([where])[1][where.__name__]["properties"]
    return {name: str(schema["examples"][0]) for name, schema in properties.items() if "examples" in schema}


def _python(dialect: Dialect, endpoint: Endpoint, url: str) -> str:
    headers = {name: _spliced(value, 'f"', '{token}"') for name, value in _credentials(dialect, endpoint, "").items()}
    if endpoint.example is not None:
        headers["Content-Type"] = '"application/json"'
    written = ", ".join(f'"{name}": {value}' for name, value in headers.items())
    body = "" if endpoint.example is None else f"body = json.dumps({_literal(endpoint.example)}).encode()\n"
    data = "" if endpoint.example is None else ", data=body"
    reads = {
        "stream": "    for line in answer:\n        print(line.decode(), end='')\n",
        "nothing": "    print(answer.status)\n",
        "document": "    print(json.load(answer))\n",
    }
    return (
        "import json\nimport os\nfrom urllib.request import Request, urlopen\n\n"
        'token = os.environ["GATEWAY_TOKEN"]\n'
        f'{body}request = Request("{url}"{data}, headers={{{written}}}, method="{endpoint.method}")\n'
        f"with urlopen(request) as answer:\n{reads[_what_comes(endpoint)]}"
    )


def _javascript(dialect: Dialect, endpoint: Endpoint, url: str) -> str:
    headers = {name: _spliced(value, "`", "${token}`") for name, value in _credentials(dialect, endpoint, "").items()}
    if endpoint.example is not None:
        headers["Content-Type"] = '"application/json"'
    written = ", ".join(f'"{name}": {value}' for name, value in headers.items())
    body = "" if endpoint.example is None else f"\n  body: JSON.stringify({_json(endpoint.example)}),"
    reads = {"stream": "await answer.text()", "nothing": "answer.status", "document": "await answer.json()"}
    return (
        "const token = process.env.GATEWAY_TOKEN;\n"
        f'const answer = await fetch("{url}", {{\n  method: "{endpoint.method}",\n  headers: {{{written}}},{body}\n}});\n'
        f"console.log({reads[_what_comes(endpoint)]});\n"
    )


def _what_comes(endpoint: Endpoint) -> str:
    if endpoint.media == "text/event-stream":
        return "stream"
    return "document" if endpoint.answer is not None else "nothing"


def _credentials(dialect: Dialect, endpoint: Endpoint, token: str) -> dict[str, str]:
    """The header that carries the token, as the dialect's first credential wants it."""
    schemes = dialect.credential.schemes
    if endpoint.scope is None or not schemes:
        return {}
    scheme = schemes[0]
    if scheme["type"] == "http":
        return {"Authorization": f"Bearer {token}"}
    return {scheme["name"]: ("Bearer " if "Bearer" in scheme.get("description", "") else "") + token}


def _spliced(value: str, before: str, after: str) -> str:
    return f"{before}{value}{after}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _literal(value: Any) -> str:
    return repr(value)
