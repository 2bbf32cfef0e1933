"""Endpoints as they are published: found, numbered, and held on to while somebody names them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from gateway.apps import App
from gateway.endpoints import EndpointSettings
from gateway.errors import Conflict, NotFound, Unprocessable
from gateway.store.changes import Changes, note
from gateway.store.numbering import FILE, find_gone, new_endpoint_id, refuse_clash
from gateway.workflows import Published

Known = Mapping[str, EndpointSettings]
"""All endpoints, by id."""
Namers = Collection[App | Published]


def find_endpoint(wanted: str, endpoints: Known) -> EndpointSettings:
    """The endpoint with this id or name. Raises NotFound."""
    found = next((each for each in endpoints.values() if wanted in (each.id, each.name)), None)
    if found is None:
        message = f"there is no endpoint {wanted!r}; `gateway endpoint list` shows those there are"
        raise NotFound(message)
    return found


def number_endpoint(endpoint: EndpointSettings, endpoints: Known) -> EndpointSettings:
    """A new endpoint with its id. Raises Conflict when its name is taken."""
    for other in endpoints.values():
        if other.name == endpoint.name:
            whose = ", which gateway.yaml manages" if other.managed_by == FILE else ""
            message = f"there is an endpoint {other.name!r} already{whose}"
            raise Conflict(message)
    return msgspec.structs.replace(endpoint, id=new_endpoint_id())


def refuse_managed_endpoint(endpoint: EndpointSettings) -> None:
    """Raise Conflict for what a file manages."""
    if endpoint.managed_by == FILE:
        message = f"endpoint {endpoint.name!r} comes from gateway.yaml, which manages it: change it there"
        raise Conflict(message)


def refuse_named(endpoint: EndpointSettings, namers: Namers) -> None:
    """Refuse to take an endpoint away that is still named by what no file manages: the file was checked."""
    for each in namers:
        if each.managed_by != FILE and endpoint.name in each.endpoints:
            kind = "app" if isinstance(each, App) else "workflow"
            message = f"{kind} {each.name!r} tells endpoint {endpoint.name!r} of its runs; change that first"
            raise Conflict(message)


def insist_on_endpoints(names: Collection[str], endpoints: Known) -> None:
    """Raise Unprocessable where a workflow names an endpoint that is not there."""
    known = {each.name for each in endpoints.values()}
    for name in names:
        if name not in known:
            message = f"callback: there is no endpoint {name!r}; `gateway endpoint list` shows those there are"
            raise Unprocessable(message, path="callback")


def apply_endpoints(pipe: Any, key: str, known: Known, endpoints: list[EndpointSettings], namers: Namers) -> Changes:
    """Make the hash `key` say what a file says. Raises Conflict for a name that was given by command or API."""
    before = {each.name: each for each in known.values()}
    names = [each.name for each in endpoints]
    refuse_clash("endpoint", names, known.values())
    changes = Changes([], [], [])
    for name in find_gone(known.values(), names):
        refuse_named(before[name], namers)
        pipe.hdel(key, before[name].id)
        changes.removed.append(f"endpoint {name}")
    for endpoint in endpoints:
        old = before.get(endpoint.name)
        # Its messages on their way, and what is known of it, hang on its id.
        complete = msgspec.structs.replace(endpoint, id=old.id if old else new_endpoint_id())
        note(changes, f"endpoint {endpoint.name}", old, complete)
        pipe.hset(key, complete.id, msgspec.json.encode(complete))
    return changes
