"""Only one module connects to the world: whatever else could is named here, with what it is for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import gateway

ROOT = Path(gateway.__file__).parent.parent
MODULES = (
    "aiohttp", "anyio", "asyncore", "ftplib", "grpc", "h11", "h2", "http.client", "httpcore", "httpcore2", "httpx", "httpx2",
    "imaplib", "nntplib", "paramiko", "poplib", "pycurl", "requests", "smtplib", "socket", "socketserver",
    "telnetlib", "urllib.request", "urllib3", "websockets", "xmlrpc",
)  # fmt: skip
CALLS = {
    "connect", "connect_ex", "create_connection", "create_datagram_endpoint", "create_unix_connection", "getaddrinfo",
    "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getfqdn", "open_connection", "open_unix_connection",
    "sock_connect", "urlopen", "urlretrieve",
}  # fmt: skip

ALLOWED = {
    # The one client, and how it connects.
    "gateway/web/client.py": {"httpcore2", "socket", "getaddrinfo"},
    "gateway/web/tunnel.py": {"httpcore2"},
    # An operator's tool, which plays the impolite sender against the address on its command line.
    "gateway/cli/probing.py": {"http.client"},
    # The embedded store's unix socket.
    "gateway/embedded.py": {"socket", "connect"},
    # A subscription, over the store's own connection.
    "gateway/store/waiting.py": {"connect"},
    # Listening, and pairs of sockets with one's own children.
    "gateway/cli/serving.py": {"socket"},
    "gateway/cli/showing.py": {"socket"},
    "gateway/machine.py": {"socket"},
    "gateway/web/protocol.py": {"socket"},
    "workers/children.py": {"socket"},
    # Its host's name.
    "workers/dispatcher.py": {"socket"},
}


def names_in(tree: ast.AST) -> Iterator[str]:
    """Every module of MODULES that is imported, and every function of CALLS that is called or handed on."""
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
            "import_module",
            "__import__",
        ):
            found = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        for name in found:
            yield from (each for each in MODULES if name == each or name.startswith(f"{each}."))
        if isinstance(node, ast.Attribute) and node.attr in CALLS:
            yield node.attr
        # A plain `connect` is the store's own function; its contract with the linter of imports is about that.
        if isinstance(node, ast.Name) and node.id in CALLS - {"connect"}:
            yield node.id


def ways_out() -> dict[str, set[str]]:
    files = [path for folder in ("gateway", "workers") for path in sorted((ROOT / folder).rglob("*.py"))]
    found = {path.relative_to(ROOT).as_posix(): set(names_in(ast.parse(path.read_text("utf-8")))) for path in files}
    return {path: names for path, names in found.items() if names}


def test_nothing_but_the_client_connects_to_the_world() -> None:
    """No module imports what opens connections, or calls it, but those of the table; and the table names no more."""
    assert ways_out() == ALLOWED


def test_a_way_out_is_found() -> None:
    """The look at a module's text finds imports in functions, parts of modules, and connections by the loop."""
    for text, name in (
        ("def f():\n    import httpx", "httpx"),
        ("from urllib import request", "urllib.request"),
        ("from http import client", "http.client"),
        ("import importlib; importlib.import_module('requests')", "requests"),
        ("import asyncio\nasync def f(): await asyncio.open_connection('a', 1)", "open_connection"),
        ("async def f(loop): await loop.sock_connect(1, 2)", "sock_connect"),
    ):
        assert name in set(names_in(ast.parse(text))), text
    assert set(names_in(ast.parse("from urllib.parse import urlsplit\nfrom http import HTTPStatus"))) == set()
