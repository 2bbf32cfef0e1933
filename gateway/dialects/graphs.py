"""Arcee's graphs: read into a workflow of ours, drawn from one. Silent: values in, values out.

Sources: Arcee, "List Available Workflows API" (the members of a graph), "Workflow Diagram API" (the drawing). What
"Upload Workflow JSON API" says is not known to us, so that a node is written in our own steps' words.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.errors import Unprocessable
from gateway.workflows import KINDS, Definition

MOST_NODES = 1000
ENDS = ("START", "END", "__start__", "__end__")
"""Names that stand for the ends of a graph in its edges, where no node has them."""
STEP_FIELDS = ("name", "when", "with", "retry", "timeout")
NODE_FIELDS = frozenset({*STEP_FIELDS, *KINDS, "id", "type", "config", "description", "label", "position", "metadata"})
RESERVED = frozenset(
    {"start", "end", "graph", "subgraph", "style", "class", "click", "default", "linkstyle", "classdef"}
)
STYLES = ("#bbf", "1px"), ("#9f9", "2px"), ("#f99", "2px")


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """From one node to another."""

    source: str
    target: str
    condition: Any = None


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """A graph as it is uploaded. A node's `type` is a kind of step, its `config` what that kind takes.

    `input_data` is a JSON Schema, or an object whose keys are the input variables, all of them needed.
    `selectedOutput` names a node, or a field in a node's output, with dots.
    """

    nodes: dict[str, dict[str, Any]]
    edges: list[Edge] = []
    entry_point: str | list[str] | None = None
    finish_point: str | list[str] | None = None
    selected_output: str | None = msgspec.field(name="selectedOutput", default=None)
    input_data: dict[str, Any] | None = None


def read_graph(graph: Graph, name: str, description: str) -> dict[str, Any]:
    """The definition of a workflow that does what the graph says.

    Raises Unprocessable for a node whose kind can't be run here, for edges and points that name no node, for a
    circle, and for a node that the entry point doesn't lead to.
    """
    edges = [edge for edge in graph.edges if not _is_end(edge.source, graph) and not _is_end(edge.target, graph)]
    _check_edges(graph, edges)
    order = _sort(graph, edges)
    _check_points(graph, edges)
    needs = {node: [edge.source for edge in edges if edge.target == node] for node in order}
    definition: dict[str, Any] = {
        "name": name,
        "description": description,
        "steps": [_read_node(node, graph.nodes[node], list(dict.fromkeys(needs[node]))) for node in order],
        "output": _read_output(graph, edges),
    }
    schema = _read_input(graph.input_data)
    return definition if schema is None else definition | {"input": schema}


def show_graph(definition: Definition) -> dict[str, Any]:
    """A workflow as a graph, to look at: what its steps hold may be secret, and is left out."""
    sources, targets = _ends_of(definition)
    return {
        "settings": {"support_multiple_edges": True},
        "input_data": definition.input or {},
        "description": definition.description,
        "nodes": {
            step.id: {"id": step.id, "type": step.kind, "name": step.name or step.id} for step in definition.steps
        },
        "edges": [{"source": need, "target": step.id} for step in definition.steps for need in step.needs],
        "entry_point": sources[0] if len(sources) == 1 else sources,
        "finish_point": targets[0] if len(targets) == 1 else targets,
        "selectedOutput": "",
        "node_metadata": "",
    }


def draw(definition: Definition) -> str:
    """A workflow as Mermaid text, in the manner of Arcee's: a box a step, round ends, one line of style each."""
    names = _mermaid_names(definition)
    sources, targets = _ends_of(definition)
    lines = [f'{names[step.id]}["{step.id}<br/>{_plain(step.name or step.kind)}"]' for step in definition.steps]
    lines += ["START((START))", "END((END))"]
    lines += [f"{names[step_id]} --> END" for step_id in targets]
    lines += [f"START --> {names[step_id]}" for step_id in sources]
    lines += [f"{names[need]} --> {names[step.id]}" for step in definition.steps for need in step.needs]
    node, start, end = (f"fill:{colour},stroke:#333,stroke-width:{width},color:#fff" for colour, width in STYLES)
    lines += [f"style {names[step.id]} {node}" for step in definition.steps]
    lines += [f"style START {start}", f"style END {end}"]
    return "graph TD\n" + "\n".join("    " + line for line in lines)


def _is_end(name: str, graph: Graph) -> bool:
    return name in ENDS and name not in graph.nodes


def _check_edges(graph: Graph, edges: list[Edge]) -> None:
    if not 0 < len(graph.nodes) <= MOST_NODES:
        raise _refuse("nodes", f"a graph has 1 to {MOST_NODES} nodes, this one has {len(graph.nodes)}")
    for index, edge in enumerate(edges):
        for name in (edge.source, edge.target):
            if name not in graph.nodes:
                raise _refuse(f"edges[{index}]", f"there is no node {name[:80]!r}")
        if edge.condition:
            raise _refuse(f"edges[{index}]", "a condition on an edge can't be run here; give its target a `when`")


def _sort(graph: Graph, edges: list[Edge]) -> list[str]:
    """The nodes, each after all that lead to it."""
    following: dict[str, set[str]] = {node: set() for node in graph.nodes}
    for edge in edges:
        following[edge.source].add(edge.target)
    waiting = {node: len({edge.source for edge in edges if edge.target == node}) for node in graph.nodes}
    order = [node for node, count in waiting.items() if not count]
    for node in order:
        for target in sorted(following[node]):
            waiting[target] -= 1
            if not waiting[target]:
                order.append(target)
    if len(order) < len(waiting):
        circle = sorted(waiting.keys() - set(order))
        raise _refuse("edges", f"these nodes are in a circle, or after one: {', '.join(circle[:10])}")
    return order


def _check_points(graph: Graph, edges: list[Edge]) -> None:
    entries, finishes = (
        _points(graph.entry_point, "entry_point", graph),
        _points(graph.finish_point, "finish_point", graph),
    )
    leaving = {edge.source for edge in edges}
    for name in finishes:
        if name in leaving:
            raise _refuse("finish_point", f"the graph goes on after {name!r}")
    targets = {edge.target for edge in edges}
    for name in graph.nodes if entries else ():
        # There are no circles, so what has nothing before it is an entry, or is never come to.
        if (name in targets) == (name in entries):
            raise _refuse(
                "entry_point", f"node {name!r} " + ("has edges into it" if name in entries else "is not led to")
            )


def _points(given: str | list[str] | None, field: str, graph: Graph) -> list[str]:
    names = [given] if isinstance(given, str) else (given or [])
    found = [name for name in names if name and not _is_end(name, graph)]
    for name in found:
        if name not in graph.nodes:
            raise _refuse(field, f"there is no node {name[:80]!r}")
    return found


def _read_node(name: str, node: dict[str, Any], needs: list[str]) -> dict[str, Any]:
    kind = node.get("type")
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise _refuse(f"nodes.{name}", f"a node of type {str(kind)[:80]!r} can't be run here; those that can: {known}")
    unknown = sorted(node.keys() - NODE_FIELDS)
    if unknown:
        raise _refuse(f"nodes.{name}", f"there is no field {unknown[0][:80]!r} in a node")
    step = {field: node[field] for field in STEP_FIELDS if field in node}
    return step | {"id": name, "needs": needs, str(kind): node.get("config", node.get(str(kind)))}


def _read_input(given: dict[str, Any] | None) -> dict[str, Any] | None:
    if not given or given.get("type") == "object":
        return given or None
    return {"type": "object", "properties": dict.fromkeys(given, True), "required": list(given)}


def _read_output(graph: Graph, edges: list[Edge]) -> Any:
    """The selected output; without one, what each of the last nodes gave, under its name."""
    selected = graph.selected_output
    if not selected:
        leaving = {edge.source for edge in edges}
        return {node: f'${{steps["{node}"].output}}' for node in graph.nodes if node not in leaving}
    node, *fields = [selected] if selected in graph.nodes else selected.split(".")
    if node not in graph.nodes or '"' in selected or "\\" in selected:
        raise _refuse("selectedOutput", f"there is no node {node[:80]!r}")
    return f'${{steps["{node}"].output' + "".join(f'["{field}"]' for field in fields) + "}"


def _ends_of(definition: Definition) -> tuple[list[str], list[str]]:
    needed = {need for step in definition.steps for need in step.needs}
    first = [step.id for step in definition.steps if not step.needs]
    return first, [step.id for step in definition.steps if step.id not in needed]


def _mermaid_names(definition: Definition) -> dict[str, str]:
    names: dict[str, str] = {}
    for step in definition.steps:
        name = step.id
        while name.lower() in RESERVED or name in names.values():
            name += "_"
        names[step.id] = name
    return names


def _plain(text: str) -> str:
    """Text that can't leave the label it stands in."""
    marks = {'"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;"}
    return "".join(marks.get(letter, letter) for letter in " ".join(text.split()))


def _refuse(path: str, reason: str) -> Unprocessable:
    return Unprocessable(f"{path}: {reason}", path=path)
