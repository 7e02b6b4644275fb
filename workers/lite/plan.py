"""Plans the order of a prompt's nodes and the signatures of their results. No node runs here."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from workers.lite.folders import Folders
from workers.lite.node import NodeClass, is_link

Graph = Mapping[str, Any]


class NodeNotFoundError(Exception):
    """An undeclared link has no target. Validation follows only declared links, execution all of them."""


class DependencyCycleError(Exception):
    """Undeclared links form a cycle."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`signatures` has by node a hash of it and its dependencies; nodes of equal signature share one result."""

    order: tuple[str, ...]
    signatures: Mapping[str, str]


def plan(graph: Graph, outputs: Sequence[str], classes: Mapping[str, NodeClass], folders: Folders) -> Plan:
    """Plan a graph. Raises `NodeNotFoundError` or `DependencyCycleError` for undeclared links."""
    order = _order(graph, outputs, classes)
    return Plan(order, _signatures(graph, order, classes, folders))


def _order(graph: Graph, outputs: Sequence[str], classes: Mapping[str, NodeClass]) -> tuple[str, ...]:
    """Order the nodes: dependencies first; of ready nodes outputs first, then their inputs, then the graph's order."""
    wanted: dict[str, set[str]] = {}
    waiting = list(outputs)
    while waiting:
        node_id = waiting.pop()
        if node_id not in wanted:
            wanted[node_id] = {value[0] for value in graph[node_id]["inputs"].values() if is_link(value)}
            if missing := wanted[node_id] - graph.keys():
                raise NodeNotFoundError(f"Node {min(missing)} not found")
            waiting += wanted[node_id]
    is_output = {node_id: classes[graph[node_id]["class_type"]].is_output for node_id in wanted}
    feeds = {source for node_id, sources in wanted.items() if is_output[node_id] for source in sources}
    positions = {node_id: position for position, node_id in enumerate(graph)}
    sorter = TopologicalSorter(wanted)
    try:
        sorter.prepare()
    except CycleError:
        raise DependencyCycleError("Dependency cycle detected") from None
    ready: list[str] = []
    order: list[str] = []
    while sorter.is_active():
        ready += sorted(sorter.get_ready(), key=positions.__getitem__)
        # The sort is stable, so nodes of one kind keep the graph's order.
        ready.sort(key=lambda node_id: 0 if is_output[node_id] else 1 if node_id in feeds else 2)
        order.append(ready.pop(0))
        sorter.done(order[-1])
    return tuple(order)


def _signatures(
    graph: Graph, order: Sequence[str], classes: Mapping[str, NodeClass], folders: Folders
) -> dict[str, str]:
    """Return the signatures by node. Undeclared inputs count, as in ComfyUI; titles and node ids do not."""
    found: dict[str, str] = {}
    for node_id in order:
        node = graph[node_id]
        inputs = {
            name: ["link", found[value[0]], value[1]] if is_link(value) else value
            for name, value in sorted(node["inputs"].items())
        }
        seen = _fingerprint(classes[node["class_type"]], folders, inputs)
        text = json.dumps([node["class_type"], inputs, seen], sort_keys=True, default=str)
        found[node_id] = hashlib.sha256(text.encode()).hexdigest()
    return found


def _fingerprint(node_class: NodeClass, folders: Folders, inputs: Mapping[str, Any]) -> str:
    """Return the class's fingerprint of the inputs; an unreadable one counts as changed."""
    if node_class.fingerprint is None:
        return ""
    try:
        return node_class.fingerprint(folders, inputs)
    except OSError:
        return str(uuid.uuid4())
