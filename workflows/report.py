"""The validation report of a graph: our errors, the same as ComfyUI's `node_errors`, and graph traversals."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workflows.errors import UnknownNodeClass, WorkflowCycle, WorkflowError
from workflows.graph import Graph
from workflows.node_errors import MOST_NODES, bounded

MOST_SEARCHED_HINTS = 10
"""Faults of a report whose hint may search for similar names: each search takes milliseconds on a large engine."""
LONGEST_DETAILS = 64 * 1024
"""Maximum characters of our own messages in the warnings of a report: each of a cycle's nodes repeats that of the
cycle. Messages beyond it are cut."""
Edges = Mapping[str, Sequence[str]]
"""Adjacency lists by node id."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of validating a graph. `runs` are the output nodes that ComfyUI would run.

    `node_errors` has ComfyUI's form {node id: {errors, dependent_outputs, class_type}}. As in ComfyUI, an unknown class
    or a graph without outputs is not a node's error. It has the limits of `workflows.node_errors`.
    """

    faults: tuple[WorkflowError, ...] = ()
    node_errors: Mapping[str, Any] = field(default_factory=dict)
    runs: frozenset[str] = frozenset()

    @property
    def is_refusal(self) -> bool:
        return bool(self.faults) and not self.runs

    def warnings(self) -> dict[str, Any]:
        """Return `node_errors` with our own detail and hint added, for a graph of which some outputs run."""
        first: dict[str, WorkflowError] = {}
        for fault in self.faults:
            for node_id in _nodes_of(fault):
                first.setdefault(node_id, fault)
        found, left = {}, LONGEST_DETAILS
        for position, (node_id, about) in enumerate(self.node_errors.items()):
            detail = first[node_id].message[:left]
            left -= len(detail)
            found[node_id] = {**about, "detail": detail, "hint": shown_hint(first[node_id], position)}
        return found


def _nodes_of(fault: WorkflowError) -> Sequence[str]:
    """Return the nodes to which `node_errors` attributes the fault; ComfyUI 0.33 lists each node of a cycle."""
    if fault.node_id is None or isinstance(fault, UnknownNodeClass):
        return ()
    return fault.ring if isinstance(fault, WorkflowCycle) else (fault.node_id,)


def shown_hint(fault: WorkflowError, position: int) -> str:
    """Return the hint of the fault at this list position, or an empty one beyond MOST_SEARCHED_HINTS searches."""
    return "" if position >= MOST_SEARCHED_HINTS and fault.searches_hint else fault.hint


def report(
    graph: Graph, faults: Sequence[WorkflowError], runs: frozenset[str], dependents_of: Callable[[str], frozenset[str]]
) -> Report:
    """Build the report. `dependents_of` returns the output nodes that a faulty node keeps from running."""
    errors: dict[str, Any] = {}
    blamed = [(node_id, fault) for fault in faults for node_id in _nodes_of(fault)]
    for node_id, fault in blamed:
        if node_id not in errors:
            if len(errors) == MOST_NODES:
                continue
            dependents = dependents_of(node_id)
            errors[node_id] = {
                "errors": [],
                "dependent_outputs": [name for name in graph.nodes if name in dependents],
                "class_type": graph.nodes[node_id].class_type,
            }
        errors[node_id]["errors"].append(dict(fault.engine or {}))
    return Report(tuple(faults), bounded(errors), runs)


def reachable(starts: Iterable[str], edges: Edges) -> frozenset[str]:
    """Return the nodes reachable from `starts`, including `starts`."""
    found: set[str] = set()
    waiting = list(starts)
    while waiting:
        node_id = waiting.pop()
        if node_id not in found:
            found.add(node_id)
            waiting.extend(edges.get(node_id, ()))
    return frozenset(found)


def turned(edges: Edges) -> dict[str, list[str]]:
    """Return the edges in reverse direction."""
    found: dict[str, list[str]] = {}
    for node_id, others in edges.items():
        for other in others:
            found.setdefault(other, []).append(node_id)
    return found


def rings(nodes: Iterable[str], sources: Edges) -> Iterator[list[str]]:
    """Yield disjoint cycles, each starting at any of its nodes, in linear time. `sources` must stay within `nodes`."""
    # First a topological sort removes every node that can be ordered (Kahn's algorithm). Each remaining node has a
    # remaining source, so following sources from any of them ends in a cycle.
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
            # Any remaining source would do; the smallest makes the report the same in every process.
            node_id = min(left[node_id])
        seen.update(path)
        if node_id in path:
            yield list(path)[path[node_id] :]
