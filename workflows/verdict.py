"""What is wrong with a graph as a whole: our errors, and the same as ComfyUI's `node_errors`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflows.errors import UnknownNodeClass, WorkflowError
from workflows.graph import Graph


@dataclass(frozen=True, slots=True)
class Verdict:
    """No faults: the graph fits. `node_errors` is {node id: {errors, dependent_outputs, class_type}}, as ComfyUI says
    it; like there, an unknown class or a graph without outputs is no error of a node."""

    faults: tuple[WorkflowError, ...]
    node_errors: Mapping[str, Any]


def verdict(
    graph: Graph, faults: Sequence[WorkflowError], outputs: Iterable[str], sources: Mapping[str, Sequence[str]]
) -> Verdict:
    """`sources` are the nodes that each node depends on directly."""
    of_nodes = [fault for fault in faults if fault.node_id is not None and not isinstance(fault, UnknownNodeClass)]
    if not of_nodes:
        return Verdict(tuple(faults), {})
    ends = frozenset(outputs)
    users = _turned(sources)
    errors: dict[str, Any] = {}
    for fault in of_nodes:
        node_id = fault.node_id or ""
        if node_id not in errors:
            dependents = reachable([node_id], users) & ends
            errors[node_id] = {
                "errors": [],
                "dependent_outputs": [output for output in graph.nodes if output in dependents],
                "class_type": graph.nodes[node_id].class_type,
            }
        errors[node_id]["errors"].append(dict(fault.engine or {}))
    return Verdict(tuple(faults), errors)


def reachable(starts: Iterable[str], edges: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The nodes that one comes to from these, themselves included."""
    found: set[str] = set()
    waiting = list(starts)
    while waiting:
        node_id = waiting.pop()
        if node_id not in found:
            found.add(node_id)
            waiting.extend(edges.get(node_id, ()))
    return frozenset(found)


def _turned(edges: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    turned: dict[str, list[str]] = {}
    for node_id, others in edges.items():
        for other in others:
            turned.setdefault(other, []).append(node_id)
    return turned
