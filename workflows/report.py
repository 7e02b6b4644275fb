"""What is wrong with a graph as a whole: our errors, and the same as ComfyUI's `node_errors`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workflows.errors import UnknownNodeClass, WorkflowCycle, WorkflowError
from workflows.graph import Graph

MOST_SEARCHED_HINTS = 10
"""Faults of a graph whose hint may be a search for similar names: each takes milliseconds where names are many."""
LONGEST_DEPENDENTS = 64 * 1024
"""Characters of all outputs' names in one report, which is kept with its job: 50 faults could name 2,000 outputs each,
with 256 characters."""
Edges = Mapping[str, Sequence[str]]
"""From each node to others."""


@dataclass(frozen=True, slots=True)
class Report:
    """No faults: the graph fits. `runs` are the output nodes that ComfyUI would run; without one it runs nothing.

    `node_errors` is {node id: {errors, dependent_outputs, class_type}}, as ComfyUI says it; like there, an unknown
    class or a graph without outputs is no error of a node. Outputs are named up to
    `LONGEST_DEPENDENTS`.
    """

    faults: tuple[WorkflowError, ...] = ()
    node_errors: Mapping[str, Any] = field(default_factory=dict)
    runs: frozenset[str] = frozenset()

    @property
    def is_refusal(self) -> bool:
        return bool(self.faults) and not self.runs

    def warnings(self) -> dict[str, Any]:
        """`node_errors` with our own words for each node, where some outputs run and others do not."""
        first: dict[str, WorkflowError] = {}
        for fault in self.faults:
            for node_id in _nodes_of(fault):
                first.setdefault(node_id, fault)
        return {
            node_id: {**about, "detail": first[node_id].message, "hint": shown_hint(first[node_id], position)}
            for position, (node_id, about) in enumerate(self.node_errors.items())
        }


def _nodes_of(fault: WorkflowError) -> Sequence[str]:
    """Those with an error of their own: ComfyUI 0.33 blames each node of a ring."""
    if fault.node_id is None or isinstance(fault, UnknownNodeClass):
        return ()
    return fault.ring if isinstance(fault, WorkflowCycle) else (fault.node_id,)


def shown_hint(fault: WorkflowError, position: int) -> str:
    """The hint of the fault at this position of a list; empty where too many were searched for before."""
    return "" if position >= MOST_SEARCHED_HINTS and fault.searches_hint else fault.hint


def report(
    graph: Graph, faults: Sequence[WorkflowError], runs: frozenset[str], dependents_of: Callable[[str], frozenset[str]]
) -> Report:
    """`dependents_of` gives for a node with a fault the output nodes that do not run for its sake."""
    errors: dict[str, Any] = {}
    left = LONGEST_DEPENDENTS
    blamed = [(node_id, fault) for fault in faults for node_id in _nodes_of(fault)]
    for node_id, fault in blamed:
        if node_id not in errors:
            dependents = dependents_of(node_id)
            named = []
            for output in graph.nodes:
                left -= len(output) if output in dependents else 0
                if left < 0:
                    break
                if output in dependents:
                    named.append(output)
            errors[node_id] = {
                "errors": [],
                "dependent_outputs": named,
                "class_type": graph.nodes[node_id].class_type,
            }
        errors[node_id]["errors"].append(dict(fault.engine or {}))
    return Report(tuple(faults), errors, runs)


def reachable(starts: Iterable[str], edges: Edges) -> frozenset[str]:
    """The nodes that one comes to from these, themselves included."""
    found: set[str] = set()
    waiting = list(starts)
    while waiting:
        node_id = waiting.pop()
        if node_id not in found:
            found.add(node_id)
            waiting.extend(edges.get(node_id, ()))
    return frozenset(found)


def turned(edges: Edges) -> dict[str, list[str]]:
    """The same edges, each in the other direction."""
    found: dict[str, list[str]] = {}
    for node_id, others in edges.items():
        for other in others:
            found.setdefault(other, []).append(node_id)
    return found


def rings(nodes: Iterable[str], sources: Edges) -> Iterator[list[str]]:
    """Nodes that wait for each other, one ring after another, each beginning anywhere.

    `sources` must lead to no node beside `nodes`. Each step is linear: first all that can be put in an order is taken
    away, then one walks from what is left to its sources, which are left as well, until one comes to a node again.
    """
    left = {node_id: set(sources.get(node_id, ())) for node_id in nodes}
    users = turned({node_id: tuple(others) for node_id, others in left.items()})
    ready = [node_id for node_id, others in left.items() if not others]
    while ready:
        node_id = ready.pop()
        del left[node_id]
        for user in users.get(node_id, ()):
            left[user].discard(node_id)
            if not left[user]:
                ready.append(user)
    seen: set[str] = set()
    for start in left:
        path: dict[str, int] = {}
        node_id = start
        while node_id not in seen and node_id not in path:
            path[node_id] = len(path)
            node_id = min(left[node_id])
        seen.update(path)
        if node_id in path:
            yield list(path)[path[node_id] :]
